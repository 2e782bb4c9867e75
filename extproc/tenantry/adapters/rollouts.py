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

A store may hang, each call for seconds. Nothing that is decided here waits for that: an operator's revert counts before
a store is asked, a round of exchange asks a store that failed no more, and whoever wants an answer gets one, or
StateUnavailableError, within ANSWER_SECONDS.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

import msgspec
from msgspec import structs

from tenantry.adapters import logs
from tenantry.adapters.rollout_metrics import RolloutMetrics
from tenantry.adapters.rollout_queue import Count, Seen, Waiting
from tenantry.adapters.rollout_status import Status, pinned_to, shown, told
from tenantry.adapters.state import StateStore, StateUnavailableError
from tenantry.adapters.state.store import Merge
from tenantry.core.errors import Problem, RulesError
from tenantry.core.outcome import Outcome
from tenantry.core.rollout import shared as shared_state
from tenantry.core.rollout.conduct import Conduct, Entry, identity
from tenantry.core.rollout.join import Joiner, Mismatch, Patience, Told
from tenantry.core.rollout.shared import BetaFlag, DamagedStateError, Shared
from tenantry.core.rollout.standing import Event, State, TransitionError
from tenantry.core.rollout.visits import Visit
from tenantry.core.routing import Live
from tenantry.core.rulebook import RuleBook
from tenantry.core.rules import Rules
from tenantry.core.schema import nearest
from tenantry.core.tenant import Tenant
from tenantry.core.usage import UsageRecord

FLUSH_SECONDS = 0.1
SYNC_SECONDS = 0.5
ANSWER_SECONDS = 5.0
"""How long an operator or a tenant waits for stores that hang."""
STOP_SECONDS = 2.0
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
        self._rules: Rules | None = None
        self._conducts: dict[str, Conduct] = {}
        self._by_id: dict[str, Conduct] = {}
        self._known: dict[str, Shared] = {}
        self._readable: set[str] = set()
        self._fleet_knew: set[str] = set()
        self._flags: dict[str, BetaFlag] = {}
        self._flags_readable = False
        self._joiner = Joiner()
        self._queue = Waiting(MAX_QUEUE)
        self._pending: deque[Entry] = deque(maxlen=MAX_PENDING_ENTRIES)
        self._wake = asyncio.Event()
        self._lock = asyncio.Lock()
        self._down: set[str] = set()
        self._words: dict[str, object] = {}
        self._unshared: dict[str, dict[str, Entry]] = {}
        self.live = Live()

    def rules_live(self, book: RuleBook) -> None:
        """Take over the rules that went live. A rollout that is new has no view before its state was read."""
        now_s = self._clock()
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
        self._rules = book.rules
        before, self._conducts = self._by_id, conducts
        self._by_id = {conduct.id: conduct for conduct in conducts.values()}
        for rollout, gone in before.items():
            if rollout not in self._by_id:
                self._remember(gone, now_s)
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
            changed = woken
            # Each apart: the guard's own bug must end neither the guard nor the exchange of reverts.
            try:
                changed |= await self._flush()
            except Exception as error:  # noqa: BLE001
                logs.get().error("outcomes not shown to the guard", exc_info=error)
            if changed or time.monotonic() - synced_s >= SYNC_SECONDS:
                synced_s = time.monotonic()
                try:
                    await self._sync()
                except Exception as error:  # noqa: BLE001
                    logs.get().error("rollout state not exchanged", exc_info=error)

    async def stop(self) -> None:
        """Let the stores have what is known, once `run` has ended; for STOP_SECONDS at most."""
        for work in (self._flush, self._sync):
            try:
                async with asyncio.timeout(STOP_SECONDS / 2):
                    await work()
            except TimeoutError:
                logs.get().error("the state stores did not take the last of the evidence", seconds=STOP_SECONDS)
            except Exception as error:  # noqa: BLE001  # as in run
                logs.get().error("the last of the evidence not written", exc_info=error)

    async def command(self, model: str, scope: str, event: Event, *, who: str, why: str) -> list[Entry]:
        """Do an operator's bidding; return what was entered into the history, nothing if it was so already.

        Raises RulesError for a model or scope that is not known, TransitionError for what has no place in the state,
        StateUnavailableError when a store cannot be read or written: an operator must not believe what did not happen.
        A revert is done here even then, and before any store is asked.
        """
        conduct = self._find(model)
        self._check_scope(conduct, scope)
        entries: list[Entry] = []
        done = event is Event.OPERATOR_REVERT
        if done:
            entries = self._move(conduct, scope, event, who=who, why=why)
        try:
            async with self._turn_at_stores():
                if not done:
                    await self._exchange(conduct)
                    if self._by_id.get(conduct.id) is not conduct:
                        raise TransitionError(f"the rules of {model} changed meanwhile; look, and say it again")
                    entries = self._move(conduct, scope, event, who=who, why=why)
                    done = True
                await self._exchange(conduct)
                await self._write_entries()
        except STORE_ERRORS as error:
            what = "it is done here, but other replicas may not know of it" if done else "nothing was done"
            raise StateUnavailableError(f"{what}: {error}") from error
        return entries

    def _move(self, conduct: Conduct, scope: str, event: Event, *, who: str, why: str) -> list[Entry]:
        chapter = conduct.guard.chapter
        entries = conduct.command(scope, event, who=who, why=why, now_s=self._clock())
        if conduct.guard.chapter != chapter:
            self._queue.forget(conduct.id)  # what came before is no evidence of what the operator set going again
        self._enter(entries)
        self._publish()
        return entries

    async def set_beta(self, tenant: Tenant, *, beta: bool) -> None:
        """Let a verified tenant set its own flag; whether it may is the caller's question.

        Raises StateUnavailableError when a store cannot be read or written; the flag is set here even then.
        """
        name, word = tenant.profile.name, object()
        self._words[name] = word

        def say() -> None:
            if self._words.get(name) == word:  # else the tenant has said something else meanwhile
                self._flags = shared_state.flagged(self._flags, name, beta=beta, now_s=self._clock())
                self._publish()

        say()
        try:
            async with self._turn_at_stores():
                await self._exchange_flags()
                # Another replica may have heard the tenant before, and more often: the last word counts.
                if self._flags[name].off is beta:
                    say()
                    await self._exchange_flags()
        finally:
            if self._words.get(name) == word:
                del self._words[name]

    @contextlib.asynccontextmanager
    async def _turn_at_stores(self) -> AsyncIterator[None]:
        """Have the stores to oneself; raise StateUnavailableError after ANSWER_SECONDS."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS), self._lock:
                yield
        except TimeoutError:
            raise StateUnavailableError(f"the state stores did not answer within {ANSWER_SECONDS:g} s") from None

    async def history(self, model: str, limit: int) -> list[Entry]:
        """Return the last transitions of a model's rollout, oldest first; what a shared store forgot is in the file."""
        conduct = self._find(model)
        found: dict[str, Entry] = {}
        for store in (self._local, self._fleet):
            for raw in () if store is None else await store.entries(f"{HISTORY}/{conduct.id}", limit):
                with contextlib.suppress(msgspec.MsgspecError):  # another release's
                    entry = msgspec.json.decode(raw, type=Entry)
                    found[entry.id] = entry
        return sorted(found.values(), key=lambda entry: entry.at_s)[-limit:]

    def status(self) -> list[Status]:
        """Return every rollout of the live rules."""
        return [self._status(conduct) for conduct in self._conducts.values()]

    def show(self) -> None:
        """Set the gauges, for somebody who scrapes."""
        self._metrics.show(shown(status) for status in self.status())

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
            if not self._queue.add(each.rollout, each.seen):
                self._metrics.dropped()

    async def _flush(self) -> bool:
        """Show the guards what is whole; return whether anything moved."""
        self._take(self._joiner.due(self._clock(), KEEP_RECORDS_S))
        before = {conduct.id: conduct.version for conduct in self._by_id.values()}
        try:
            # What needs no store first: one that fails ends the round.
            for rollout, count in sorted(self._queue.lines(), key=lambda line: line[1] != "none"):
                await self._observe(rollout, count)
            self._store_well("visits")
        except StateUnavailableError as error:
            self._store_failed("visits", error)
        return any(conduct.version != before.get(conduct.id) for conduct in self._by_id.values())

    async def _observe(self, rollout: str, count: Count) -> None:
        """Show a guard what waits in one line, of which it hears nothing before its visits are counted."""
        for batch in self._queue.batches((rollout, count), MAX_BATCH):
            conduct = self._by_id.get(rollout)
            if conduct is None:
                self._queue.forget(rollout)
                return
            try:
                visits = await self._visits(conduct, count, batch)
                entries = conduct.observe(batch, visits, self._clock())
            except StateUnavailableError:
                raise
            except Exception:
                # It would go wrong every time.
                self._queue.drop((rollout, count), batch)
                self._metrics.dropped(len(batch))
                raise
            if entries:
                self._enter(entries)
                self._publish()

    async def _visits(self, conduct: Conduct, count: Count, batch: Sequence[Seen]) -> list[Visit]:
        arrivals = conduct.arrivals(batch, self._clock())
        if count == "none":
            return [_UNCOUNTED] * len(batch)
        store = self._fleet or self._local
        return await store.visits(f"{conduct.visits_key}/{count}", arrivals, ttl_s=VISITS_TTL_S)

    # --- state in and out ----------------------------------------------------------------------------------------

    async def _sync(self) -> None:
        """Exchange everything; whatever goes wrong with a part is logged, and the other parts go on."""
        async with self._lock:
            failed: list[Exception] = []
            silent: set[StateStore] = set()
            for conduct in tuple(self._conducts.values()):
                read = False
                try:
                    await self._exchange(conduct, silent)
                    read = True
                except STORE_ERRORS as error:
                    failed.append(error)
                except Exception as error:  # noqa: BLE001  # one rollout's bug is not another's
                    logs.get().error("rollout state not exchanged", model=conduct.name, exc_info=error)
                self._tick(conduct, readable=read)
            try:
                await self._exchange_flags(silent)
                await self._write_entries(silent)
            except STORE_ERRORS as error:
                failed.append(error)
            except Exception as error:  # noqa: BLE001
                logs.get().error("rollout history not written", exc_info=error)
            self._publish()
            if failed:
                self._store_failed("state", failed[0])
            else:
                self._store_well("state")

    def _tick(self, conduct: Conduct, *, readable: bool) -> None:
        try:
            self._enter(conduct.tick(self._clock(), readable=readable))
        except Exception as error:  # noqa: BLE001
            logs.get().error("rollout state not advanced", model=conduct.name, exc_info=error)

    async def _exchange(self, conduct: Conduct, silent: set[StateStore] | None = None) -> None:
        """Read, merge and write a rollout's state in every store; what other replicas know comes to count here.

        Stores in `silent` failed a moment ago and are asked no more; one that fails now joins them.
        """
        silent = set() if silent is None else silent
        try:
            if self._fleet is not None:
                found = await self._merge_into(self._fleet, conduct, silent)
                if not found and conduct.id in self._fleet_knew:
                    logs.get().error("the shared store forgot; evidence begins anew", model=conduct.name)
                    conduct.turn(self._clock())
                    self._wake.set()
                self._fleet_knew.add(conduct.id)
                self._insist(conduct)
        finally:
            # Also while the shared store is lost: a revert of this time must outlive this process.
            await self._merge_into(self._local, conduct, silent)
        if self._by_id.get(conduct.id) is conduct:
            self._readable.add(conduct.id)
        if self._fleet is None:
            self._insist(conduct)
        self._publish()

    def _insist(self, conduct: Conduct) -> None:
        """Revert again what a resume of elsewhere has cleared without knowing of the revert.

        A resume clears reverts by their number, and while a store could not be reached ours had the number of another.
        """
        for entry in self._unshared.pop(conduct.id, {}).values():
            if conduct.state(entry.scope) is not State.REVERTED:
                why = f"{entry.why} (reverted again: resumed elsewhere by somebody who did not know of it)"
                self._enter(
                    conduct.command(entry.scope, Event.OPERATOR_REVERT, who=entry.who, why=why, now_s=self._clock())
                )
                self._wake.set()

    async def _merge_into(self, store: StateStore, conduct: Conduct, silent: set[StateStore]) -> bool:
        """Exchange with one store; return whether it knew of the rollout."""
        found, mine = False, conduct.shared(self._clock())

        def merge(raw: bytes | None) -> bytes:
            nonlocal found
            found = raw is not None
            return shared_state.encode(shared_state.merge(shared_state.decode(raw), mine))

        told = shared_state.decode(await self._update(store, f"rollout/{conduct.id}", merge, silent))
        version = conduct.version
        self._enter(conduct.merge(told, self._clock()))
        if conduct.version != version:
            self._publish_one(conduct)
        return found

    async def _update(self, store: StateStore, key: str, merge: Merge, silent: set[StateStore]) -> bytes:
        if store in silent:
            raise StateUnavailableError("a state store failed a moment ago")
        try:
            return await store.update(key, merge)
        except StateUnavailableError:
            silent.add(store)
            raise

    async def _exchange_flags(self, silent: set[StateStore] | None = None) -> None:
        silent = set() if silent is None else silent
        mine = self._flags

        def merge(raw: bytes | None) -> bytes:
            return shared_state.encode_flags(shared_state.merge_flags(shared_state.decode_flags(raw), mine))

        try:
            if self._fleet is not None:
                self._know_flags(await self._update(self._fleet, BETA_KEY, merge, silent))
        finally:
            mine = self._flags
            self._know_flags(await self._update(self._local, BETA_KEY, merge, silent))
        self._flags_readable = True

    def _know_flags(self, raw: bytes) -> None:
        """Take in what a store knows; a tenant may have said something since it was asked."""
        self._flags = shared_state.merge_flags(self._flags, shared_state.decode_flags(raw))

    def _enter(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self._pending.append(entry)
            if entry.kind == "reverted":
                self._unshared.setdefault(entry.rollout, {})[entry.scope] = entry
            self._metrics.transition(entry)
            log = logs.get()
            (log.error if entry.kind in ("reverted", "alarm") else log.info)(
                f"rollout {entry.kind}", model=entry.model, version=entry.candidate, state=entry.after.value,
                reason=f"{entry.scope}, {entry.who}: {entry.why}",
            )  # fmt: skip
            pinned = pinned_to(self._conducts[entry.model], self._rules) if entry.model in self._conducts else ()
            if entry.kind == "reverted" and pinned:
                log.error(
                    "tenants stay pinned to the reverted version", model=entry.model, version=entry.candidate,
                    tenants=list(pinned), count=len(pinned),
                )  # fmt: skip

    async def _write_entries(self, silent: Iterable[StateStore] = ()) -> None:
        """Append what happened to the history; whoever appends an entry first tells the webhook."""
        if self._local in silent or (self._fleet is not None and self._fleet in silent):
            return
        while self._pending:
            entry = self._pending[0]
            key, raw = f"{HISTORY}/{entry.rollout}", msgspec.json.encode(entry)
            first = await self._local.append(key, entry.id, raw)
            if self._fleet is not None:
                first = await self._fleet.append(key, entry.id, raw)
            if self._pending and self._pending[0] is entry:  # else it fell out, being the oldest of too many
                self._pending.popleft()
            if first and entry.kind in ("reverted", "alarm"):
                self._notify(entry)

    def _publish(self) -> None:
        """Let routing see the state as it is now. Without the tenants' own flags nobody's no to candidates is known."""
        self.live = Live(
            rollouts={name: conduct.view() for name, conduct in self._conducts.items() if self._is_readable(conduct)},
            beta={tenant: not flag.off for tenant, flag in self._flags.items()},
        )

    def _publish_one(self, conduct: Conduct) -> None:
        """Let routing see one that moved: another replica's revert does not wait for the other rollouts' stores."""
        if self._is_readable(conduct) and self._conducts.get(conduct.name) is conduct:
            self.live = structs.replace(self.live, rollouts={**self.live.rollouts, conduct.name: conduct.view()})

    def _remember(self, conduct: Conduct, now_s: float) -> None:
        """Keep what is known of a rollout that the rules dropped. If it comes back, its state has to be read again."""
        self._readable.discard(conduct.id)
        self._queue.forget(conduct.id)
        self._known.pop(conduct.id, None)
        self._known[conduct.id] = conduct.shared(now_s)
        while len(self._known) > MAX_KNOWN:
            forgotten = next(iter(self._known))
            del self._known[forgotten]
            self._fleet_knew.discard(forgotten)
            self._unshared.pop(forgotten, None)

    def _store_failed(self, what: str, error: Exception) -> None:
        self._metrics.store(up=False)
        if what not in self._down:
            self._down.add(what)
            logs.get().error("a state store failed; the last known state counts", kind=what, problems=[str(error)])

    def _store_well(self, what: str) -> None:
        if what in self._down:
            self._down.discard(what)
            logs.get().info("the state stores answer again", kind=what)
        self._metrics.store(up=not self._down)

    # --- what operators are told ---------------------------------------------------------------------------------

    def _find(self, model: str) -> Conduct:
        conduct = self._conducts.get(model)
        if conduct is None:
            hint = nearest(model, self._conducts)
            raise RulesError([Problem(path=f"models.{model}", message="no rollout of this model", hint=hint)])
        return conduct

    def _check_scope(self, conduct: Conduct, scope: str) -> None:
        """Refuse the name of nobody; tenants whom a token or certificate names stand nowhere."""
        kind, _, name = scope.partition(":")
        rules = self._rules
        if rules is None:
            return
        known = scope in conduct.standings or name in rules.tenants
        if kind == "tenant" and not known and rules.identity.jwt is None and rules.identity.mtls is None:
            hint = nearest(name, rules.tenants)
            raise RulesError([Problem(path=f"tenants.{name}", message="no such tenant", hint=hint)])
        if kind == "tier" and name not in rules.tiers:
            hint = nearest(name, rules.tiers)
            raise RulesError([Problem(path=f"tiers.{name}", message="no such tier", hint=hint)])

    def _status(self, conduct: Conduct) -> Status:
        return told(conduct, self._rules, self._flags, readable=self._is_readable(conduct))

    def _is_readable(self, conduct: Conduct) -> bool:
        return self._flags_readable and conduct.id in self._readable
