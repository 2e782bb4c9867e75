"""The guard: takes a bad candidate back by itself, and leaves one alone that is a little worse.

Theory of operation
===================

*A bet instead of a p-value.* For each signal the guard owns one unit of play money and bets, unit after unit, that the
candidate is worse than its margin allows. Every bet is fair or unfavourable while the candidate is within its margin
(`betting.py`), so the money is a non-negative supermartingale, an *e-process*, and by Ville's inequality (1939)

    P(the money ever reaches 1/a, at whatever moment one looks) <= a.

So the guard looks after every request, needs no sample size fixed beforehand and no cooling-off, and a rollout of a
year has the same false-alarm probability as one of an hour. (Ramdas, Gruenwald, Vovk, Shafer, "Game-theoretic
statistics and safe anytime-valid inference", Statistical Science 2023; Waudby-Smith and Ramdas, "Estimating means of
bounded random variables by betting", JRSS-B 2024; Howard et al., "Time-uniform Chernoff bounds via nonnegative
supermartingales", Probability Surveys 2020. What looking at a fixed-size test does instead: Johari et al., "Always
valid inference", Operations Research 2022; `make bench-guard` shows it.) How strongly to bet depends on how bad the
candidate is; the money is divided among three or four strengths beforehand and never moved (a mixture, Robbins 1970).

*Against a margin.* The hypothesis is "error odds at most 2 x, TTFT at most 1.25 x, answers at most 10 % shorter", not
equality. With enough traffic any two versions differ.

*Betting on the assignment.* The split decides by a keyed hash, with a probability that we know, which version a sticky
unit gets. Take a candidate's reading back by the margin: if the candidate is at its margin, readings say nothing about
the assignment. The guard bets that high readings are the candidate's. Nothing is assumed of latencies: daily cycles,
bursts, heavy tails and noisy tenants hit both arms, since the dice do not know of them. It compares with what is
*concurrent* because the yardstick (`betting.Reference`) follows the last few dozen units of the same tenant. Tenants
with other percents need no correction, as each bet uses its own; where there was no chance (pin, beta flag) a bet is
void by itself.

*Per unit.* The hash is thrown once per unit, so a unit counts once: requests of one conversation resemble one another
(random effects), and a test that takes them for independent draws reverted 17-38 % of healthy rollouts on Zipf users.
To see what only long conversations do, a unit's 4th and 16th visit count too, each class in a test of its own.

*Chapters.* After 2,000 candidate units, or a day with 500, or a week (`Plan`), all bets begin anew, with a share of
alpha of their own. Units count again, and a candidate that was healthy for a day and breaks then is not protected by
the money that the guard lost on it. A chapter ends by counts and clock, never by outcomes.

*Latency and cold caches.* The first `warmup_requests` of the candidate, and the first visit of a conversation that came
with a past (its prefix is cached on one version only), are not judged on latency; the second visit is. Both arms alike.

*Tenants and fleet.* A tenant's bets are kept apart, and the fleet's are their sums; so a tenant can influence only its
own term. The fleet's verdict needs, besides its threshold, an e-value of 20 from what remains *without* the tenant
that contributes most. Hence no tenant alone can trip it: whatever one tenant does, while the candidate is healthy for
all others a signal reverts the fleet with a probability of at most 1/20. A tenant's verdict binds that tenant.

*The share is measured.* A client chooses its unit and can find out which version answers it. A group whose realised
share of candidate units differs from the split's (a two-sided bet of the same kind, at SHARE_LOG_E) has no dice any
more: it does not count while that is so, and an alarm is raised. It has only itself to lose: its own protection, and
only by its own doing. Where one version answers later than the other the share looks wrong for a while and comes right.

*Readings may be missing, alike.* The bet needs that whether a reading exists says nothing about the assignment. Where
one version's engines post no records, or late ones, it does (a stable version's readings by themselves make money for
every strength). So for each signal of that kind the guard also bets that its *readings* come from the candidate as
often as its units do. While that looks wrong (COVERAGE_LOG_E) a group's readings do not count; at SHARE_LOG_E an alarm
is raised. What is missing without looking wrong is a second-order effect.

*Replicas.* Each process bets on the units that it sees, and log-wealth adds (`evidence.py`). Visits are counted in
common (`visits.py`), so that a unit which two processes see is no two units.

*No way back onto a sick version.* While the stable version itself fails, a verdict is held back and raised as an
alarm; it becomes a revert when the stable version is well again. A tenant's verdict waits for what the stable version
does to that tenant, the fleet's for what it does to others than the one who fails most: nobody holds back others'.

What it does not see: a fault both versions share; a fault only of units already counted in this chapter at visits 1,
4, 16; beta tenants (they have no stable half); a shift within the margin; trouble that hits one version's machines and
not the other's for a while is a fault of that version here, whatever its cause.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import takewhile
from math import inf
from typing import Literal

from msgspec import Struct, structs

from tenantry.core.rollout.betting import Reference, discordant_bets, odds_bets, shift_bets, sign_bets
from tenantry.core.rollout.books import Account, Books
from tenantry.core.rollout.budget import VISIT_SHARES
from tenantry.core.rollout.evidence import LAYOUT, SHARE, SHARE_PRIORS, SHARE_RATIOS, Evidence, coverage, log_mix
from tenantry.core.rollout.health import StableHealth
from tenantry.core.rollout.signals import SIGNALS, Observation, Pair, Signal
from tenantry.core.rollout.verdicts import Plan, Progress, Row, Verdict
from tenantry.core.rollout.visits import Arrival, Visit

CORROBORATION_LOG_E = 3.0
"""log 20: what the fleet must show without its largest contributor."""

COVERAGE_LOG_E = 3.0
"""log 20: when a signal's readings are taken to be missing more often of one version than of the other."""

IN_VAIN_S = 1.0
"""After a look in vain at a fleet of which some do not count, the next one has time: it would be at every bet else."""

SHARE_LOG_E = 11.5
"""log 100,000: when a group's realised share is taken to be other than the split's."""


class _Tests(Struct, frozen=True, kw_only=True):
    """The tests of one kind of observation: those that count at once, and those that wait for warm caches."""

    all: tuple[Signal, ...]
    cold: tuple[Signal, ...]
    put_off: tuple[Signal, ...]


def _tests(*, paired: bool) -> _Tests:
    every = tuple(signal for signal in SIGNALS if signal.kind.startswith("paired") == paired)
    return _Tests(
        all=every,
        cold=tuple(signal for signal in every if not signal.warm),
        put_off=tuple(signal for signal in every if signal.warm),
    )


_SPLIT = _tests(paired=False)
_PAIRED = _tests(paired=True)
_ERRORS = next(signal for signal in SIGNALS if signal.name == "errors")
_PLACES = {signal.name: place for place, signal in enumerate(SIGNALS)}


class Guard:
    """Judges one rollout. Feed it outcomes in order of arrival; it returns verdicts, each once a chapter.

    `writer` is unique to this start of this process. `now_s` is any clock that the replicas share. All state is bounded
    by the plan. Not thread-safe. Raises ValueError for evidence that this release or this writer cannot have written.
    """

    def __init__(self, plan: Plan, *, writer: str, evidence: Evidence) -> None:
        self._plan = plan
        self._books = Books(writer=writer, max_tenants=plan.budget.max_tenants, evidence=evidence)
        self._margins = {signal.name: signal.margin(plan.margins) for signal in SIGNALS}
        self._stable = StableHealth()
        self._held: dict[str | None, Verdict] = {}
        self._latest: dict[str, Reference] = {}
        self._candidate_requests = 0
        self._warming = plan.warmup_requests > 0
        self._last_candidate_s: float | None = None
        self._last_stable_s: float | None = None
        self._references: dict[tuple[str, str], Reference] = {}
        self._tripped: set[str | None] = set()
        self._alarmed: set[tuple[str, str]] = set()
        self._in_vain_s: dict[tuple[str, int], float] = {}
        self._chapter_units = 0
        self._thresholds: dict[tuple[str, int], tuple[float, float]] = {}
        self._begin_chapter()

    @property
    def chapter(self) -> int:
        """The chapter that is being counted, from 1."""
        return self._books.chapter

    def turn_if_due(self, now_s: float) -> None:
        """Begin the next chapter if this one has lasted; to be asked before visits are counted.

        Until it is asked again the candidate also stays as warm as it is now: were a request taken for cold when its
        visit is counted and for warm when it is observed, its unit's latency would be read now and at its next visit.
        """
        self._warming = self._candidate_requests < self._plan.warmup_requests
        plan, age_s = self._plan, now_s - self._books.started_s
        units = self._chapter_units
        if units >= plan.chapter_units:
            # Half of a chapter at most is one tenant's: whoever sprays units cannot cut short what others have to show.
            units = self._books.towards_chapter(plan.chapter_units // 2)
        if (
            units >= plan.chapter_units
            or (age_s >= plan.chapter_s and units >= plan.chapter_min_units)
            or age_s >= plan.chapter_max_s
        ):
            self._books.turn(now_s)
            self._begin_chapter()

    def arrival(self, seen: Observation | Pair) -> Arrival:
        """Return what the count of visits must know of a request before it is observed."""
        return Arrival(unit=f"{seen.tenant}/{seen.unit}", warming=self._warming, has_past=seen.earlier_turns > 0)

    def observe(self, seen: Observation, visit: Visit, now_s: float) -> tuple[Verdict, ...]:
        """Take in a request of the split that ended; return what follows from it, mostly nothing.

        `visit` is what the count of visits made of its `arrival`, one count for all replicas and for this chapter.
        """
        candidate = seen.arm == "candidate"
        if candidate:
            self._candidate_requests += 1
            self._last_candidate_s = now_s
        else:
            self._last_stable_s = now_s
            self._stable.see(self._books.group_of(seen.tenant), seen.sample.failed, now_s)
        verdicts = self._released(now_s) if self._held else ()
        share = seen.share
        if not 0.0 < share < 1.0:
            return verdicts
        counted_as, tests = self._due(visit, seen, _SPLIT)
        if not counted_as:
            return verdicts
        account = self._books.account(self._books.group_of(seen.tenant), counted_as, now_s)
        if tests is not _SPLIT.put_off:
            verdicts += self._count(account, share, candidate=candidate, now_s=now_s)
        for signal in tests:
            reading = signal.read(seen.sample)
            if reading is None:
                continue
            if candidate:
                account.counted[_PLACES[signal.name]] += 1
            if signal.kind == "odds" and not reading:
                continue
            margin = self._margins[signal.name]
            logs: Iterable[float]
            if signal.kind == "odds":
                logs = odds_bets(share, candidate=candidate, margin=margin, tilts=signal.tilts)
            else:
                reference = self._reference(account.group, signal.name)
                z = reference.standardise(reading - margin if candidate else reading)
                logs = shift_bets(z, share, candidate=candidate, tilts=signal.tilts)
                verdicts += self._cover(account, signal, share, candidate=candidate, now_s=now_s)
            verdicts += self._bet(account, signal, logs, now_s)
        return verdicts

    def observe_pair(self, seen: Pair, visit: Visit, now_s: float) -> tuple[Verdict, ...]:
        """Take in a mirrored request and its copy, both ended. The original also goes to `observe` if it was split.

        `visit` is from a count of its own, apart from that of `observe`.
        """
        self._candidate_requests += 1
        self._last_candidate_s = now_s
        counted_as, tests = self._due(visit, seen, _PAIRED)
        if not counted_as:
            return ()
        account = self._books.account(self._books.group_of(seen.tenant), counted_as, now_s)
        if tests is not _PAIRED.put_off:
            account.pairs += 1
            self._chapter_units += account.visit == 1
        verdicts: tuple[Verdict, ...] = ()
        for signal in tests:
            stable, copy = signal.read(seen.stable), signal.read(seen.candidate)
            if stable is None or copy is None:
                continue
            account.counted[_PLACES[signal.name]] += 1
            if signal.kind == "paired_odds" and stable == copy:
                continue
            margin = self._margins[signal.name]
            logs: Iterable[float]
            if signal.kind == "paired_odds":
                logs = discordant_bets(candidate=bool(copy), margin=margin, tilts=signal.tilts)
            else:
                z = self._reference("", signal.name).scale_difference(copy - stable - margin)
                logs = sign_bets(z, signal.tilts)
            verdicts += self._bet(account, signal, logs, now_s)
        return verdicts

    def evidence(self) -> Evidence:
        """Return all that is known here, with a new batch of this writer's: what to publish."""
        return self._books.evidence()

    def merge(self, evidence: Evidence, now_s: float) -> tuple[Verdict, ...]:
        """Take in what the store or another replica knows; return what follows from the sum."""
        if self._books.merge(evidence):
            self._begin_chapter()
        self._chapter_units = self._books.units(visit=1) + self._books.pairs(visit=1)
        verdicts: tuple[Verdict, ...] = ()
        for account in tuple(self._books.accounts()):
            verdicts += self._check_share(account, now_s)
            for signal in (*_SPLIT.all, *_PAIRED.all):
                if signal.kind == "shift":
                    verdicts += self._check_coverage(account, signal, now_s)
                verdicts += self._judge(account, signal, now_s)
        return verdicts

    def resume(self, now_s: float) -> None:
        """Begin a new chapter because an operator set the candidate going again; verdicts held back are dropped."""
        self._held.clear()
        self._books.turn(now_s)
        self._begin_chapter()

    def drop_held(self, tenant: str | None) -> None:
        """Forget a verdict held back (None: the fleet's): an operator resumed that scope, here or elsewhere."""
        self._held.pop(tenant, None)

    def progress(self) -> Progress:
        """Return what automatic steps look at."""
        fleet = takewhile(lambda row: row.group is None, self.rows())
        return Progress(
            units=self._books.units(visit=1),
            all_units=self._books.all_units(visit=1),
            pairs=self._books.pairs(visit=1),
            last_candidate_s=self._last_candidate_s,
            last_stable_s=self._last_stable_s,
            suspicion=max((row.log_e / row.log_threshold for row in fleet if row.covered), default=0.0),
            alarms=len(self._held),
            spread_units=self._books.spread_counted(_PLACES["length"], visit=1),
        )

    def rows(self) -> Iterator[Row]:
        """Return the evidence as a table: the fleet first, then every group."""
        accounts = tuple(self._books.accounts())
        for visit in sorted({account.visit for account in accounts}):
            yield from self._rows_of_fleet(visit)
        for account in accounts:
            yield from self._rows_of(account)

    def _rows_of(self, account: Account) -> Iterator[Row]:
        for place, signal in enumerate(SIGNALS):
            yield Row(
                group=account.group,
                signal=signal.name,
                visit=account.visit,
                units=self._books.counted(place, account.visit, account.group),
                log_e=_log_e(signal, account.total),
                log_threshold=self._thresholds[signal.name, account.visit][1],
                covered=self._counts(signal, account),
            )

    def _rows_of_fleet(self, visit: int) -> Iterator[Row]:
        for place, signal in enumerate(SIGNALS):
            counting = self._books.of_fleet(signal.name, visit, partial(self._counts, signal))
            everybody = self._books.of_fleet(signal.name, visit, lambda _account: True)
            yield Row(
                group=None,
                signal=signal.name,
                visit=visit,
                units=self._books.counted(place, visit),
                log_e=log_mix((counting if counting.parts else everybody).log_wealth(), signal.priors),
                log_threshold=self._thresholds[signal.name, visit][0],
                covered=bool(counting.parts),
            )

    def _due(self, visit: Visit, seen: Observation | Pair, tests: _Tests) -> tuple[int, tuple[Signal, ...]]:
        """Return the visit class that a visit counts in, 0 for none, and the tests that it feeds."""
        number = visit.number
        if number not in VISIT_SHARES and not visit.was_put_off:
            return 0, ()
        cold = self._warming or (number == 1 and seen.earlier_turns > 0)
        if number in VISIT_SHARES:
            return number, tests.cold if cold else tests.all
        return (0, ()) if cold else (1, tests.put_off)

    def _add_unit(self, account: Account) -> None:
        account.units += 1
        account.all_units += 1
        if account.visit == 1:
            self._chapter_units += 1

    def _count(self, account: Account, share: float, *, candidate: bool, now_s: float) -> tuple[Verdict, ...]:
        if candidate:
            self._add_unit(account)
        else:
            account.all_units += 1
        if account.visit != 1:
            return ()
        logs = odds_bets(share, candidate=candidate, margin=1.0, tilts=SHARE_RATIOS)
        top, _ = self._books.credit(account, LAYOUT[SHARE][0], logs)
        return self._check_share(account, now_s) if top >= SHARE_LOG_E else ()

    def _check_share(self, account: Account, now_s: float) -> tuple[Verdict, ...]:
        log_e = _share_log_e(SHARE, account.total)
        if log_e < SHARE_LOG_E or (account.group, SHARE) in self._alarmed:
            return ()
        self._alarmed.add((account.group, SHARE))
        why = (
            f"of {account.all_units + account.other_all_units} units of {account.group} "
            f"{account.units + account.other_units} went to the candidate, which is not the share of the split; "
            "its evidence does not count while that is so"
        )
        return (self._verdict("alarm", account, SHARE, (log_e, SHARE_LOG_E), why=why, now_s=now_s, fleet=False),)

    def _cover(
        self, account: Account, signal: Signal, share: float, *, candidate: bool, now_s: float
    ) -> tuple[Verdict, ...]:
        """Bet that readings of a signal come from one version more often than its units do."""
        logs = odds_bets(share, candidate=candidate, margin=1.0, tilts=SHARE_RATIOS)
        top, _ = self._books.credit(account, LAYOUT[coverage(signal)][0], logs)
        return self._check_coverage(account, signal, now_s) if top >= SHARE_LOG_E else ()

    def _check_coverage(self, account: Account, signal: Signal, now_s: float) -> tuple[Verdict, ...]:
        name, group = coverage(signal), account.group
        log_e = _share_log_e(name, account.total)
        if log_e < SHARE_LOG_E or not self._alarmed.isdisjoint({(group, name), (group, SHARE)}):
            return ()
        self._alarmed.add((group, name))
        if _log_e(_ERRORS, account.total) >= COVERAGE_LOG_E:
            return ()  # answers that failed have no readings, and are judged as failures
        why = (
            f"readings of {signal.name} do not come from the candidate as often as its units of {group} do: the "
            "engines of one version post no usage records, or late ones; they do not count while that is so"
        )
        return (self._verdict("alarm", account, name, (log_e, SHARE_LOG_E), why=why, now_s=now_s, fleet=False),)

    def _reference(self, group: str, signal: str) -> Reference:
        reference = self._references.get((group, signal))
        if reference is None:
            reference = self._references[group, signal] = Reference(self._latest.get(signal))
        self._latest[signal] = reference
        return reference

    def _bet(self, account: Account, signal: Signal, logs: Iterable[float], now_s: float) -> tuple[Verdict, ...]:
        top, top_fleet = self._books.credit(account, LAYOUT[signal.name][0], logs)
        fleet, tenant = self._thresholds[signal.name, account.visit]
        if top < tenant and top_fleet < fleet:
            return ()
        return self._judge(account, signal, now_s)

    def _judge(self, account: Account, signal: Signal, now_s: float) -> tuple[Verdict, ...]:
        """Compare a signal of the fleet, and of this group, with their thresholds."""
        found: list[Verdict] = []
        visit, group = account.visit, account.group
        fleet, tenant = self._thresholds[signal.name, visit]
        if None not in self._tripped and now_s - self._in_vain_s.get((signal.name, visit), -inf) >= IN_VAIN_S:
            log_e, stands, whole = self._of_fleet(signal, visit)
            if log_e >= fleet and stands:
                found += self._trip(account, signal.name, (log_e, fleet), now_s, fleet=True)
            elif not whole:
                self._in_vain_s[signal.name, visit] = now_s
        log_e = _log_e(signal, account.total)
        if (
            log_e >= tenant
            and group not in self._tripped
            and self._counts(signal, account)
            and self._books.judged_alone(group)
        ):
            found += self._trip(account, signal.name, (log_e, tenant), now_s, fleet=False)
        return tuple(found)

    def _of_fleet(self, signal: Signal, visit: int) -> tuple[float, bool, bool]:
        """Return a signal's log e-value over the groups that count, whether it may be a verdict, and if all count.

        For a verdict it has to stand without any one tenant, and readings must not be missing over all of them.
        """
        fleet = self._books.of_fleet(signal.name, visit, partial(self._counts, signal))
        log_e = log_mix(fleet.log_wealth(), signal.priors)
        stands = fleet.weakest_without_one(signal.priors) >= CORROBORATION_LOG_E
        if stands and signal.kind == "shift":
            read = self._books.of_fleet(coverage(signal), visit, partial(self._counts, signal))
            stands = log_mix(read.log_wealth(), SHARE_PRIORS) < COVERAGE_LOG_E
        return log_e, stands, len(fleet.parts) == self._books.groups(visit)

    def _counts(self, signal: Signal, account: Account) -> bool:
        """Tell whether a group's bets on a signal count now: its units and readings came as the dice fell.

        That may look otherwise for a while, when one version answers later than the other.
        """
        first = self._books.first_visits(account.group)
        off = 0.0 if first is None else _share_log_e(SHARE, first.total)
        if signal.kind != "shift":
            return off < SHARE_LOG_E
        return off < COVERAGE_LOG_E and _share_log_e(coverage(signal), account.total) < COVERAGE_LOG_E

    def _trip(
        self, account: Account, signal: str, measured: tuple[float, float], now_s: float, *, fleet: bool
    ) -> Iterator[Verdict]:
        scope = None if fleet else account.group
        self._tripped.add(scope)
        log_e, threshold = measured
        worse = f"the candidate's {signal} is beyond its margin: log e-value {log_e:.1f}, threshold {threshold:.1f}"
        if self._stable.is_sick(scope, now_s):
            why = f"{worse}; not reverted, as the stable version fails too"
            verdict = self._verdict("alarm", account, signal, measured, why=why, now_s=now_s, fleet=fleet)
            self._held[scope] = verdict
        else:
            self._held.pop(scope, None)
            verdict = self._verdict("revert", account, signal, measured, why=worse, now_s=now_s, fleet=fleet)
        yield verdict

    def _verdict(
        self,
        action: Literal["revert", "alarm"],
        account: Account,
        signal: str,
        measured: tuple[float, float],
        *,
        why: str,
        now_s: float,
        fleet: bool,
    ) -> Verdict:
        scope = None if fleet else account.group
        place = _PLACES.get(signal)
        units = account.units + account.other_units
        if place is not None:
            units = self._books.counted(place, account.visit, scope)
        return Verdict(
            action=action,
            tenant=scope,
            signal=signal,
            visit=account.visit,
            chapter=self._books.chapter,
            log_e=measured[0],
            log_threshold=measured[1],
            units=units,
            at_s=now_s,
            why=why,
        )

    def _released(self, now_s: float) -> tuple[Verdict, ...]:
        """Return the verdicts held back, as reverts, for whom the stable version is well again."""
        well = [scope for scope in self._held if not self._stable.is_sick(scope, now_s)]
        held = [self._held.pop(scope) for scope in well]
        return tuple(
            structs.replace(
                verdict,
                action="revert",
                at_s=now_s,
                why=f"{verdict.why}; the stable version is well again: reverted now",
            )
            for verdict in held
        )

    def _begin_chapter(self) -> None:
        self._references = {}
        self._stable.keep(self._plan.budget.max_tenants)
        self._tripped = set()
        self._alarmed = set()
        self._in_vain_s = {}
        self._chapter_units = self._books.units(visit=1) + self._books.pairs(visit=1)
        budget, chapter = self._plan.budget, self._books.chapter
        self._thresholds = {
            (signal.name, visit): (
                budget.fleet_threshold(signal.weight, visit, chapter),
                budget.tenant_threshold(signal.weight, visit, chapter),
            )
            for signal in SIGNALS
            for visit in VISIT_SHARES
        }


def _log_e(signal: Signal, log_wealth: list[float]) -> float:
    begin, end = LAYOUT[signal.name]
    return log_mix(log_wealth[begin:end], signal.priors)


def _share_log_e(name: str, log_wealth: list[float]) -> float:
    begin, end = LAYOUT[name]
    return log_mix(log_wealth[begin:end], SHARE_PRIORS)
