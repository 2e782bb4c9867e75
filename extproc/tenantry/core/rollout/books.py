"""The books of one process: its own bets, the other writers' totals, and their sums per group and for the fleet.

Log-wealth is summed per tilt before tilts are mixed: the fleet's e-value is that of one gambler with one strategy who
bets on every tenant, not the best of many gamblers.

Of each group's money the fleet's gambler puts a part aside at the outset and never bets it (a constant plus a
supermartingale is one). So a group's bets can cost the fleet no more than RESERVE_LOG: a tenant whose requests fail on
purpose, on either version, cannot bet away what the others have won.
"""

from collections.abc import Callable, Iterable, Iterator
from math import exp, inf, log, log1p
from typing import NamedTuple
from zlib import crc32

from tenantry.core.rollout.evidence import COMPONENTS, LAYOUT, Evidence, Ledger, Tally, log_mix, merge
from tenantry.core.rollout.signals import SIGNALS

REST = "~"
"""Begins the name of a group of the rest; no tenant's name does (rules.TENANT_PATTERN)."""

RESERVE_LOG = -5.0
"""What a group's bets can cost the fleet at most. For others' money it costs 0.7 % of what each group wins."""

_RESERVE = exp(RESERVE_LOG)

REST_GROUPS = 8
"""Groups that tenants beyond the places fall into, by hash, so that none of those alone makes up the rest."""


class Account:
    """One group in one visit class. `own` is this writer's log-wealth, `total` all writers'."""

    __slots__ = (
        "all_units",
        "counted",
        "group",
        "other_all_units",
        "other_counted",
        "other_pairs",
        "other_units",
        "own",
        "pairs",
        "since_s",
        "total",
        "units",
        "visit",
    )

    def __init__(self, group: str, visit: int, since_s: float) -> None:
        self.group = group
        self.visit = visit
        self.since_s = since_s
        self.units = self.all_units = 0
        self.other_units = self.other_all_units = 0
        self.pairs = self.other_pairs = 0
        self.counted = [0] * len(SIGNALS)
        self.other_counted = [0] * len(SIGNALS)
        self.own = [0.0] * COMPONENTS
        self.total = [0.0] * COMPONENTS


class Fleet(NamedTuple):
    """Log-wealth of one test, `components` numbers for each group that counts."""

    parts: tuple[tuple[float, ...], ...]
    components: int

    def log_wealth(self) -> list[float]:
        """Return the sum over the groups."""
        return [sum(part[place] for part in self.parts) for place in range(self.components)]

    def weakest_without_one(self, priors: tuple[float, ...]) -> float:
        """Return the log e-value without the group that contributes most to it.

        At most what any single tenant could do is thereby taken out, whoever it is.
        """
        whole = self.log_wealth()
        without = (
            log_mix((total - own for total, own in zip(whole, part, strict=True)), priors) for part in self.parts
        )
        return min(without, default=0.0)


class Books:
    """Adds up bets. Bounded: `max_tenants` + REST_GROUPS groups of its own, and as many per other writer."""

    def __init__(self, *, writer: str, max_tenants: int, evidence: Evidence) -> None:
        self.writer = writer
        self.max_tenants = max_tenants
        self._places: set[str] = set()
        self._sequence = 0
        self._evidence = evidence
        self._published: tuple[Tally, ...] = ()
        self._accounts: dict[tuple[str, int], Account] = {}
        self._fleet: dict[int, list[float]] = {}
        self._add_up()

    @property
    def chapter(self) -> int:
        """The chapter whose bets these are."""
        return self._evidence.chapter

    @property
    def started_s(self) -> float:
        """When the chapter began, seconds on the caller's clock."""
        return self._evidence.started_s

    def group_of(self, tenant: str) -> str:
        """Return the tenant's own group while there are places, else its group of the rest."""
        if tenant not in self._places:
            if len(self._places) >= self.max_tenants:
                return f"{REST}{crc32(tenant.encode()) % REST_GROUPS}"
            self._places.add(tenant)
        return tenant

    def groups(self, visit: int) -> int:
        """Return how many groups have an account."""
        return sum(account.visit == visit for account in self._accounts.values())

    def first_visits(self, group: str) -> Account | None:
        """Return the group's account of first visits, where its share is measured."""
        return self._accounts.get((group, 1))

    def account(self, group: str, visit: int, now_s: float) -> Account:
        """Return the group's account, opened if need be."""
        account = self._accounts.get((group, visit))
        if account is None:
            account = self._accounts[group, visit] = Account(group, visit, now_s)
        return account

    def credit(self, account: Account, at: int, logs: Iterable[float]) -> tuple[float, float]:
        """Add the log payoffs of one unit, from component `at` on.

        Returns the largest log-wealth that the group and the fleet now have among them: an upper bound of what any
        mixture of them is worth, which spares computing most mixtures.
        """
        own, total, fleet = account.own, account.total, self.fleet(account.visit)
        top = top_fleet = -inf
        for place, value in enumerate(logs, at):
            own[place] += value
            before = total[place]
            total[place] = now = before + value
            top = max(top, now)
            fleet[place] = summed = fleet[place] + with_reserve(now) - with_reserve(before)
            top_fleet = max(top_fleet, summed)
        return top, top_fleet

    def fleet(self, visit: int) -> list[float]:
        """Return the log-wealth of all groups together, COMPONENTS numbers; of_fleet has those that count."""
        fleet = self._fleet.get(visit)
        if fleet is None:
            fleet = self._fleet[visit] = [0.0] * COMPONENTS
        return fleet

    def of_fleet(self, name: str, visit: int, counts: Callable[[Account], bool]) -> Fleet:
        """Return the log-wealth of the bets of a name (of LAYOUT) over the accounts that count."""
        begin, end = LAYOUT[name]
        parts = tuple(
            tuple(map(with_reserve, account.total[begin:end]))
            for account in self._accounts.values()
            if account.visit == visit and counts(account)
        )
        return Fleet(parts=parts, components=end - begin)

    def judged_alone(self, group: str) -> bool:
        """Tell whether the group is a tenant with a place. Of more tenants than places the earliest have one."""
        if group.startswith(REST):
            return False
        opened = sorted((account.since_s, account.group) for account in self._accounts.values())
        earliest = dict.fromkeys(name for _, name in opened if not name.startswith(REST))
        return group in list(earliest)[: self.max_tenants]

    def units(self, visit: int) -> int:
        """Return how many units of the split went to the candidate, to all writers."""
        return sum(account.units + account.other_units for account in self._accounts.values() if account.visit == visit)

    def pairs(self, visit: int) -> int:
        """Return how many mirrored units came, to all writers."""
        return sum(account.pairs + account.other_pairs for account in self._accounts.values() if account.visit == visit)

    def all_units(self, visit: int) -> int:
        """Return how many units of the split came, to all writers."""
        return sum(
            account.all_units + account.other_all_units for account in self._accounts.values() if account.visit == visit
        )

    def towards_chapter(self, at_most: int) -> int:
        """Return how many units and pairs came, of each group no more than so many unless it is the only one."""
        came: dict[str, int] = {}
        for account in self._accounts.values():
            if account.visit == 1:
                units = account.units + account.other_units + account.pairs + account.other_pairs
                came[account.group] = came.get(account.group, 0) + units
        return sum(min(units, at_most) if len(came) > 1 else units for units in came.values())

    def spread_counted(self, signal: int, visit: int) -> int:
        """Return the candidate units of which a signal had a reading, at most half of them one group's."""
        counts = [
            account.counted[signal] + account.other_counted[signal]
            for account in self._accounts.values()
            if account.visit == visit
        ]
        most = max(counts, default=0)
        others = sum(counts) - most
        return others + min(most, others)

    def counted(self, signal: int, visit: int, group: str | None = None) -> int:
        """Return of how many candidate units the signal (its place in SIGNALS) had a reading."""
        return sum(
            account.counted[signal] + account.other_counted[signal]
            for account in self._accounts.values()
            if account.visit == visit and group in {None, account.group}
        )

    def accounts(self) -> Iterator[Account]:
        """Return every account, in order of opening."""
        return iter(self._accounts.values())

    def evidence(self) -> Evidence:
        """Return what this process knows; a new batch of its own if it bet since the last one."""
        tallies = tuple(
            Tally(
                group=account.group,
                visit=account.visit,
                units=account.units,
                all_units=account.all_units,
                pairs=account.pairs,
                counted=tuple(account.counted),
                since_s=account.since_s,
                log_wealth=tuple(account.own),
            )
            for _, account in sorted(self._accounts.items())
            if account.all_units or account.pairs
        )
        if tallies and tallies != self._published:
            self._sequence += 1
            self._published = tallies
            batch = Ledger(sequence=self._sequence, writer=self.writer, tallies=tallies)
            self._evidence = merge(
                self._evidence, Evidence(chapter=self.chapter, started_s=self.started_s, ledgers=(batch,))
            )
        return self._evidence

    def merge(self, evidence: Evidence) -> bool:
        """Take in what others know. Returns True when that began a newer chapter, and all bets here are void."""
        mine = self.evidence()
        merged = merge(mine, evidence)
        if merged.chapter != mine.chapter:
            self._load(merged)
            return True
        self._evidence = merged
        self._add_up()
        return False

    def turn(self, now_s: float) -> None:
        """Begin the next chapter: every bet anew."""
        self._load(Evidence(chapter=self.chapter + 1, started_s=now_s))

    def _load(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._published = ()
        self._accounts = {}
        self._places = set()
        self._add_up()

    def _add_up(self) -> None:
        for account in self._accounts.values():
            account.total = list(account.own)
            account.other_units = account.other_all_units = account.other_pairs = 0
            account.other_counted = [0] * len(SIGNALS)
        for ledger in self._evidence.ledgers:
            if ledger.writer == self.writer:
                self._refuse_stranger(ledger)
            else:
                for tally in ledger.tallies:
                    self._add(tally)
        self._fleet = {}
        for account in self._accounts.values():
            fleet = self.fleet(account.visit)
            for place, value in enumerate(account.total):
                fleet[place] += with_reserve(value)

    def _refuse_stranger(self, ledger: Ledger) -> None:
        if ledger.sequence > self._sequence:
            raise ValueError(
                f"batch {ledger.sequence} of writer {self.writer!r} is not from this process, which wrote "
                f"{self._sequence}: every start of a process needs a writer id of its own"
            )

    def _add(self, tally: Tally) -> None:
        if not tally.group.startswith(REST) and len(self._places) < self.max_tenants:
            self._places.add(tally.group)
        account = self.account(tally.group, tally.visit, tally.since_s)
        account.since_s = min(account.since_s, tally.since_s)
        account.other_units += tally.units
        account.other_all_units += tally.all_units
        account.other_pairs += tally.pairs
        for place, units in enumerate(tally.counted):
            account.other_counted[place] += units
        for place, value in enumerate(tally.log_wealth):
            account.total[place] += value


def with_reserve(log_wealth: float) -> float:
    """Return a group's log-wealth as it counts for the fleet, whose gambler never bets all of it."""
    if log_wealth > 0.0:
        return log_wealth + log1p(_RESERVE * (exp(-log_wealth) - 1.0))
    return log(_RESERVE + (1.0 - _RESERVE) * exp(log_wealth))
