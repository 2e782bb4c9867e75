"""The rollouts of a sidecar: outcomes and usage records flow in, routing sees what follows, stores keep it.

    access log, usage records -> Joiner -> queue -> count of visits (store) -> Conduct -> view of routing
                                                     other replicas' state <-> store <-> Conduct

All decisions are in `core.rollout`. Here is one task that every tenth of a second takes what is whole, has its visits
counted, and shows it to the guards; twice a second, and at once after a change, it exchanges state with the stores.

Two stores. The local file is always there; what a fleet shares is in Redis besides. A process reads all of them once
before anybody gets a candidate (`Live.rollouts` lacks the model until then). After that it goes by its memory: a store
that is lost or forgets takes nothing back, since what is written is always the sum of what is stored and what is known.
A shared store that forgot has also forgotten which units were counted, so evidence then begins a new chapter.

The queue is bounded. While visits cannot be counted it fills, and what comes then is dropped and counted: evidence is
lost, nobody's request is.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
from msgspec import Struct, structs

from tenantry.adapters import logs
from tenantry.adapters.rollout_metrics import RolloutMetrics, Shown
from tenantry.adapters.state import StateStore, StateUnavailableError
from tenantry.core.errors import Problem, RulesError
from tenantry.core.outcome import Outcome
from tenantry.core.rollout import shared as shared_state
from tenantry.core.rollout.conduct import Conduct, Entry, Point, identity
from tenantry.core.rollout.guard import Progress, Row
from tenantry.core.rollout.join import Joiner, Mismatch, Patience, Told
from tenantry.core.rollout.shared import BetaFlag, DamagedStateError, Shared
from tenantry.core.rollout.signals import Observation, Pair
from tenantry.core.rollout.standing import FLEET, Event, State
from tenantry.core.rollout.visits import Arrival, Visit
from tenantry.core.routing import Live
from tenantry.core.rulebook import RuleBook
from tenantry.core.schema import nearest
from tenantry.core.tenant import Tenant
from tenantry.core.usage import UsageRecord

FLUSH_SECONDS = 0.1
SYNC_SECONDS = 0.5
MAX_QUEUE = 20_000
MAX_BATCH = 500
MAX_PENDING_ENTRIES = 1_000
MAX_KNOWN = 1_000
"""Rollouts whose state is remembered after the rules have dropped them."""

VISITS_TTL_S = 8 * 24 * 3600.0
"""A chapter lasts a week at most."""

KEEP_RECORDS_S = 30.0
HISTORY = "history"
BETA_KEY = "beta"
_UNCOUNTED = Visit(number=0, was_put_off=False)
STORE_ERRORS = (StateUnavailableError, DamagedStateError)


class Status(Struct, frozen=True, kw_only=True):
    """What an operator is shown of a rollout.

    `scopes` are those that are not splitting; `percents` the percent by `all`, `tier:NAME`, `tenant:NAME`. `problems`
    are sentences: rules whose stable version disagrees with a promotion, pins to a reverted version, a store that
    cannot be read.
    """

    model: str
    rollout: str
    candidate: str
    image: str
    stable: str
    state: State
    readable: bool
    scopes: dict[str, State]
    percents: dict[str, float]
    mirror_percent: float
    beta: tuple[str, ...]
    pinned: tuple[str, ...]
    chapter: int
    progress: Progress
    next_step: str
    problems: tuple[str, ...]
    evidence: tuple[Row, ...]
    course: tuple[Point, ...]


class Rollouts:
    """All rollouts of the live rules. Not thread-safe: one event loop."""

    def __init__(
        self,
        *,
        local: StateStore,
        shared: StateStore | None,
        metrics: RolloutMetrics,
        writer: str,
        notify: Callable[[Entry], None] = lambda _entry: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._local, self._fleet = local, shared
        self._metrics, self._writer, self._notify, self._clock = metrics, writer, notify, clock
        self._book: RuleBook | None = None
        self._conducts: dict[str, Conduct] = {}
        self._by_id: dict[str, Conduct] = {}
        self._known: dict[str, Shared] = {}
        self._readable: set[str] = set()
        self._fleet_knew: set[str] = set()
        self._flags: dict[str, BetaFlag] = {}
        self._flags_readable = False
        self._joiner = Joiner()
        self._queue: deque[tuple[str, Observation | Pair]] = deque()
        self._pending: deque[Entry] = deque(maxlen=MAX_PENDING_ENTRIES)
        self._wake = asyncio.Event()
        self._lock = asyncio.Lock()
        self._store_down: set[str] = set()
        self.live = Live()

    def rules_live(self, book: RuleBook) -> None:
        """Take over the rules that went live. A rollout that is new has no view before its state was read."""
        now_s = self._clock()
        self._book = book
        conducts: dict[str, Conduct] = {}
        for name, model in book.rules.models.items():
            if model.rollout is None:
                continue
            rollout = identity(name, model)
            conduct = self._by_id.get(rollout)
            if conduct is None:
                known = self._known.get(rollout)
                conduct = Conduct(name, model, writer=self._writer, now_s=now_s, known=known)
            else:
                conduct.configure(model, now_s)
            conducts[name] = conduct
        for gone in self._conducts.values():
            self._remember(gone, now_s)
        self._conducts = conducts
        self._by_id = {conduct.id: conduct for conduct in conducts.values()}
        self._publish()
        self._wake.set()

    def outcome(self, outcome: Outcome) -> None:
        """Take in the end of an exchange."""
        if outcome.trial is None:
            return
        conduct = self._by_id.get(outcome.trial.rollout)
        if conduct is None:
            return
        records = conduct.rollout.records
        patience = Patience(record_s=records.seconds, mirror_s=records.mirror_seconds)
        self._metrics.request(outcome)
        self._take(self._joiner.outcome(outcome, patience, self._clock()))

    def record(self, record: UsageRecord) -> None:
        """Take in a usage record, of whichever request."""
        now_s = self._clock()
        self._metrics.record(record, now_s)
        self._take(self._joiner.record(record, now_s))

    async def start(self) -> None:
        """Read the stores once; a store that cannot be read is logged, and asked again while running."""
        await self._sync()

    async def run(self) -> None:
        """Work until cancelled."""
        synced_s = 0.0
        while True:
            woken = False
            try:
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self._wake.wait()
                woken = True
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                changed = await self._flush()
                if woken or changed or time.monotonic() - synced_s >= SYNC_SECONDS:
                    synced_s = time.monotonic()
                    await self._sync()
            except Exception as error:  # noqa: BLE001  # the guard's own bug must not end the guard
                logs.get().error("rollout state not advanced", exc_info=error)

    async def command(self, model: str, scope: str, event: Event, *, who: str, why: str) -> list[Entry]:
        """Do an operator's bidding; return what was entered into the history, nothing if it was so already.

        Raises RulesError for a model or scope that is not known, TransitionError for what has no place in the state,
        StateUnavailableError when a store cannot be read or written: an operator must not believe what did not happen.
        A revert is done here even then.
        """
        conduct = self._find(model)
        self._check_scope(scope)
        async with self._lock:
            if event is not Event.OPERATOR_REVERT:
                await self._exchange(conduct)
            entries = conduct.command(scope, event, who=who, why=why, now_s=self._clock())
            self._enter(entries)
            self._publish()
            await self._exchange(conduct)
            await self._write_entries()
        return entries

    async def set_beta(self, tenant: Tenant, *, beta: bool) -> None:
        """Let a verified tenant set its own flag; whether it may is the caller's question."""
        async with self._lock:
            self._flags = shared_state.flagged(self._flags, tenant.profile.name, beta=beta, now_s=self._clock())
            self._publish()
            await self._exchange_flags()

    async def history(self, model: str, limit: int) -> list[Entry]:
        """Return the last transitions of a model's rollout, oldest first.

        From all stores together: a shared store that lost its data does not take along what this machine has seen.
        """
        key = f"{HISTORY}/{self._find(model).id}"
        found: dict[str, Entry] = {}
        for store in (self._fleet, self._local):
            if store is not None:
                for raw in await store.entries(key, limit):
                    entry = msgspec.json.decode(raw, type=Entry)
                    found.setdefault(entry.id, entry)
        return sorted(found.values(), key=lambda entry: entry.at_s)[-limit:]

    def status(self) -> list[Status]:
        """Return every rollout of the live rules."""
        return [self._status(conduct) for conduct in self._conducts.values()]

    def show(self) -> None:
        """Set the gauges, for somebody who scrapes."""
        self._metrics.show(_shown(status) for status in self.status())

    def status_of(self, model: str) -> Status:
        """Return one; raise RulesError that names the nearest."""
        return self._status(self._find(model))

    # --- outcomes in ---------------------------------------------------------------------------------------------

    def _take(self, told: Iterable[Told]) -> None:
        for each in told:
            if isinstance(each, Mismatch):
                self._metrics.mismatch(each)
                logs.get().error(
                    "an engine runs another version than its endpoints are listed under", model=each.model,
                    version=each.assigned, reason=f"it runs {each.engine_runs}",
                )  # fmt: skip
                continue
            conduct = self._by_id.get(each.rollout)
            if conduct is None:
                continue  # the rules dropped it meanwhile
            self._metrics.observed(conduct.name, each)
            if len(self._queue) >= MAX_QUEUE:
                self._metrics.dropped()
            else:
                self._queue.append((each.rollout, each.seen))

    async def _flush(self) -> bool:
        """Show the guards what is whole; return whether anything moved."""
        self._take(self._joiner.due(self._clock(), KEEP_RECORDS_S))
        before = {conduct.id: conduct.version for conduct in self._by_id.values()}
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(MAX_BATCH, len(self._queue)))]
            try:
                await self._observe(batch)
            except StateUnavailableError as error:
                self._queue.extendleft(reversed(batch))
                self._store_failed("visits", error)
                break
        return any(conduct.version != before.get(conduct.id) for conduct in self._by_id.values())

    async def _observe(self, batch: Sequence[tuple[str, Observation | Pair]]) -> None:
        by_rollout: dict[str, list[Observation | Pair]] = {}
        for rollout, seen in batch:
            by_rollout.setdefault(rollout, []).append(seen)
        counted: list[tuple[Conduct, list[Observation | Pair], list[Visit]]] = []
        for rollout, requests in by_rollout.items():
            conduct = self._by_id.get(rollout)
            if conduct is not None:
                counted.append((conduct, requests, await self._visits(conduct, requests)))
        for conduct, requests, visits in counted:
            entries = conduct.observe(requests, visits, self._clock())
            if entries:
                self._enter(entries)
                self._publish()

    async def _visits(self, conduct: Conduct, batch: Sequence[Observation | Pair]) -> list[Visit]:
        arrivals = conduct.arrivals(batch, self._clock())
        visits = [_UNCOUNTED] * len(batch)
        store = self._fleet or self._local
        for kind, places in _to_count(batch).items():
            if places:
                wanted: list[Arrival] = [arrivals[place] for place in places]
                counted = await store.visits(f"{conduct.visits_key}/{kind}", wanted, ttl_s=VISITS_TTL_S)
                for place, visit in zip(places, counted, strict=True):
                    visits[place] = visit
        return visits

    # --- state in and out ----------------------------------------------------------------------------------------

    async def _sync(self) -> None:
        async with self._lock:
            for conduct in tuple(self._conducts.values()):
                try:
                    await self._exchange(conduct)
                    self._store_well("state")
                except STORE_ERRORS as error:
                    self._store_failed("state", error)
                self._enter(conduct.tick(self._clock(), readable=conduct.id in self._readable))
            try:
                await self._exchange_flags()
                await self._write_entries()
            except STORE_ERRORS as error:
                self._store_failed("state", error)
            self._publish()

    async def _exchange(self, conduct: Conduct) -> None:
        """Read, merge and write a rollout's state in every store; what other replicas know comes to count here."""
        if self._fleet is not None:
            found = await self._merge_into(self._fleet, conduct)
            if not found and conduct.id in self._fleet_knew:
                logs.get().error("the shared store forgot; evidence begins anew", model=conduct.name)
                conduct.turn(self._clock())
            self._fleet_knew.add(conduct.id)
        await self._merge_into(self._local, conduct)
        self._readable.add(conduct.id)

    async def _merge_into(self, store: StateStore, conduct: Conduct) -> bool:
        """Exchange with one store; return whether it knew of the rollout."""
        found, mine = False, conduct.shared(self._clock())

        def merge(raw: bytes | None) -> bytes:
            nonlocal found
            found = raw is not None
            return shared_state.encode(shared_state.merge(shared_state.decode(raw), mine))

        told = shared_state.decode(await store.update(f"rollout/{conduct.id}", merge))
        version = conduct.version
        self._enter(conduct.merge(told, self._clock()))
        if conduct.version != version:
            self._publish_one(conduct)
        return found

    async def _exchange_flags(self) -> None:
        def merge(raw: bytes | None) -> bytes:
            return shared_state.encode_flags(shared_state.merge_flags(shared_state.decode_flags(raw), self._flags))

        for store in (self._fleet, self._local):
            if store is not None:
                self._flags = shared_state.decode_flags(await store.update(BETA_KEY, merge))
        self._flags_readable = True

    def _enter(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self._pending.append(entry)
            self._metrics.transition(entry)
            log = logs.get()
            (log.error if entry.kind in ("reverted", "alarm") else log.info)(
                f"rollout {entry.kind}", model=entry.model, version=entry.candidate, state=entry.after.value,
                reason=f"{entry.scope}, {entry.who}: {entry.why}",
            )  # fmt: skip
            pinned = self._pinned(self._conducts[entry.model]) if entry.model in self._conducts else ()
            if entry.kind == "reverted" and pinned:
                log.error(
                    "tenants stay pinned to the reverted version", model=entry.model, version=entry.candidate,
                    tenants=list(pinned), count=len(pinned),
                )  # fmt: skip

    async def _write_entries(self) -> None:
        """Append what happened to the history; whoever appends an entry first tells the webhook."""
        while self._pending:
            entry = self._pending[0]
            key, raw = f"{HISTORY}/{entry.rollout}", msgspec.json.encode(entry)
            first = await self._local.append(key, entry.id, raw)
            if self._fleet is not None:
                first = await self._fleet.append(key, entry.id, raw)
            self._pending.popleft()
            if first and entry.kind in ("reverted", "alarm"):
                self._notify(entry)

    def _publish(self) -> None:
        """Let routing see the state as it is now."""
        self.live = Live(
            rollouts={name: conduct.view() for name, conduct in self._conducts.items() if conduct.id in self._readable},
            beta={tenant: not flag.off for tenant, flag in self._flags.items()},
        )

    def _publish_one(self, conduct: Conduct) -> None:
        """Let routing see one that moved: another replica's revert does not wait for the other rollouts' stores."""
        if conduct.id in self._readable and self._conducts.get(conduct.name) is conduct:
            self.live = structs.replace(self.live, rollouts={**self.live.rollouts, conduct.name: conduct.view()})

    def _remember(self, conduct: Conduct, now_s: float) -> None:
        if len(self._known) >= MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[conduct.id] = conduct.shared(now_s)

    def _store_failed(self, what: str, error: Exception) -> None:
        self._metrics.store(up=False)
        if what not in self._store_down:
            self._store_down.add(what)
            logs.get().error("a state store failed; the last known state counts", kind=what, problems=[str(error)])

    def _store_well(self, what: str) -> None:
        self._metrics.store(up=True)
        if what in self._store_down:
            self._store_down.clear()
            logs.get().info("the state stores answer again")

    # --- what operators are told ---------------------------------------------------------------------------------

    def _find(self, model: str) -> Conduct:
        conduct = self._conducts.get(model)
        if conduct is None:
            hint = nearest(model, self._conducts)
            raise RulesError([Problem(path=f"models.{model}", message="no rollout of this model", hint=hint)])
        return conduct

    def _check_scope(self, scope: str) -> None:
        kind, _, name = scope.partition(":")
        if kind == "tier" and self._book is not None and name not in self._book.rules.tiers:
            hint = nearest(name, self._book.rules.tiers)
            raise RulesError([Problem(path=f"tiers.{name}", message="no such tier", hint=hint)])

    def _status(self, conduct: Conduct) -> Status:
        rollout, candidate = conduct.rollout, conduct.rollout.candidate
        scopes = {scope: standing.state for scope, standing in sorted(conduct.standings.items())}
        return Status(
            model=conduct.name,
            rollout=conduct.id,
            candidate=candidate,
            image=conduct.model.versions[candidate].image,
            stable=conduct.model.stable,
            state=conduct.state(FLEET),
            readable=conduct.id in self._readable,
            scopes={scope: state for scope, state in scopes.items() if state is not State.SPLITTING},
            percents={
                "all": conduct.percent,
                **{f"tier:{name}": percent for name, percent in rollout.percent_by_tier.items()},
                **{f"tenant:{name}": percent for name, percent in rollout.percent_by_tenant.items()},
            },
            mirror_percent=rollout.mirror_percent,
            beta=self._beta_tenants(),
            pinned=self._pinned(conduct),
            chapter=conduct.guard.chapter,
            progress=conduct.guard.progress(),
            next_step=conduct.step_why,
            problems=tuple(self._problems(conduct)),
            evidence=tuple(conduct.rows()),
            course=tuple(conduct.points),
        )

    def _problems(self, conduct: Conduct) -> Iterable[str]:
        candidate = conduct.rollout.candidate
        if conduct.id not in self._readable:
            yield "the state store was not read since this process started: nobody gets the candidate"
        if conduct.state(FLEET) is State.PROMOTED:
            yield (
                f"{candidate} is promoted to all, and the rules still say stable {conduct.model.stable}: "
                f'set models.{conduct.name}.stable to "{candidate}" and remove the rollout'
            )
        if conduct.state(FLEET) is State.REVERTED and (pinned := self._pinned(conduct)):
            yield f"pinned to the reverted {candidate} all the same: {', '.join(pinned[:8])}"
        alarms = conduct.guard.progress().alarms
        if alarms:
            yield f"{alarms} verdicts are held back, as the stable version {conduct.model.stable} fails too"

    def _pinned(self, conduct: Conduct) -> tuple[str, ...]:
        tenants: Mapping = {} if self._book is None else self._book.rules.tenants  # type: ignore[type-arg]
        return tuple(
            name for name, tenant in tenants.items() if tenant.pins.get(conduct.name) == conduct.rollout.candidate
        )

    def _beta_tenants(self) -> tuple[str, ...]:
        flagged = {tenant: not flag.off for tenant, flag in self._flags.items()}
        in_rules = {} if self._book is None else {name: rule.beta for name, rule in self._book.rules.tenants.items()}
        return tuple(sorted(tenant for tenant, beta in {**in_rules, **flagged}.items() if beta))


def _shown(status: Status) -> Shown:
    progress = status.progress
    return Shown(
        model=status.model,
        candidate=status.candidate,
        state=status.state,
        scopes=tuple(state for scope, state in status.scopes.items() if scope != FLEET),
        percent=status.percents["all"],
        realised_share=progress.units / progress.all_units if progress.all_units else 0.0,
        suspicion=progress.suspicion,
        held=progress.alarms,
        pinned=len(status.pinned),
    )


def _to_count(batch: Sequence[Observation | Pair]) -> dict[str, list[int]]:
    """Return the places of the requests whose visits count: pairs, and those of a split that had a chance."""
    places: dict[str, list[int]] = {"split": [], "pairs": []}
    for place, seen in enumerate(batch):
        if isinstance(seen, Pair):
            places["pairs"].append(place)
        elif 0.0 < seen.share < 1.0:
            places["split"].append(place)
    return places
