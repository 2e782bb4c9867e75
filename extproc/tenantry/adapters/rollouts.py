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
from collections.abc import Awaitable, Callable, Iterable

from tenantry.adapters import logs
from tenantry.adapters.rollout_flags import BetaFlags
from tenantry.adapters.rollout_history import History
from tenantry.adapters.rollout_metrics import RolloutMetrics
from tenantry.adapters.rollout_queue import Line, Waiting
from tenantry.adapters.rollout_status import Status, pinned_to, shown, status_of
from tenantry.adapters.rollout_stores import STORE_ERRORS, Silent, turn, update
from tenantry.adapters.rollout_visits import VisitCounts
from tenantry.adapters.state import StateStore, StateUnavailableError
from tenantry.core.errors import Problem, RulesError
from tenantry.core.outcome import Outcome
from tenantry.core.rollout import shared as shared_state
from tenantry.core.rollout.conduct import Conduct, Entry, identity
from tenantry.core.rollout.join import Joiner, Mismatch, Patience, Told
from tenantry.core.rollout.shared import Shared
from tenantry.core.rollout.standing import Event, State, TransitionError
from tenantry.core.routing import Live
from tenantry.core.rulebook import RuleBook
from tenantry.core.schema import nearest
from tenantry.core.tenant import Tenant
from tenantry.core.usage import UsageRecord

FLUSH_SECONDS = 0.1
MAX_FLUSH_SECONDS = 0.5
"""After so long the exchange of state has its turn, however slowly visits are counted."""
SYNC_SECONDS = 0.5
STOP_SECONDS = 2.0
MAX_QUEUE = 20_000
MAX_BATCH = 500
MAX_KNOWN = 1_000
"""Rollouts whose state is remembered after the rules have dropped them."""

KEEP_RECORDS_S = 30.0


class Rollouts:
    """All rollouts of the live rules. Not thread-safe: one event loop.

    `clock` is Unix time, for what is stored or shared; what waits is timed by `monotonic`, which nobody sets.
    """

    def __init__(
        self,
        *,
        local: StateStore,
        shared: StateStore | None,
        metrics: RolloutMetrics,
        writer: str,
        notify: Callable[[Entry], None] = lambda _entry: None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._local, self._fleet = local, shared
        self._metrics, self._writer, self._clock, self._monotonic = metrics, writer, clock, monotonic
        self._book: RuleBook | None = None
        self._conducts: dict[str, Conduct] = {}
        self._by_id: dict[str, Conduct] = {}
        self._known: dict[str, Shared] = {}
        self._readable: set[str] = set()
        self._fleet_knew: set[str] = set()
        self._flags = BetaFlags(local, shared, clock, self._publish)
        self._history = History(local, shared, notify)
        self._visits = VisitCounts(shared or local)
        self._joiner = Joiner()
        self._unjoined = 0
        self._queue = Waiting(MAX_QUEUE)
        self._wake = asyncio.Event()
        self._lock = asyncio.Lock()
        self._down: set[str] = set()
        self._unshared: dict[str, dict[str, Entry]] = {}
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
                known = self._known.pop(rollout, None)
                conduct = Conduct(name, model, writer=self._writer, now_s=now_s, known=known)
            else:
                conduct.configure(model, now_s)
            conducts[name] = conduct
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
        self._take(self._joiner.outcome(outcome, patience, self._monotonic()))

    def record(self, record: UsageRecord) -> None:
        """Take in a usage record, of whichever request."""
        self._metrics.record(record, self._clock())
        self._take(self._joiner.record(record, self._monotonic()))

    async def start(self) -> None:
        """Read the stores once; a store that cannot be read is logged, and asked again while running."""
        await self._sync()

    async def run(self) -> None:
        """Work until cancelled."""
        synced_s = -SYNC_SECONDS
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
            if changed or self._monotonic() - synced_s >= SYNC_SECONDS:
                synced_s = self._monotonic()
                await self._sync()

    async def stop(self) -> None:
        """Let the stores have what is known, once `run` has ended; for STOP_SECONDS at most."""
        for work in (self._flush(STOP_SECONDS / 2), self._sync()):
            try:
                async with asyncio.timeout(STOP_SECONDS / 2):
                    await work
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
        done = reverts = event is Event.OPERATOR_REVERT
        if reverts:
            entries = self._move(conduct, scope, event, who=who, why=why)
        silent: Silent = set()
        try:
            async with turn(self._lock):
                try:
                    if not done:
                        await self._exchange(conduct, silent)
                        if self._by_id.get(conduct.id) is not conduct:
                            raise TransitionError(f"the rules of {model} changed meanwhile; look, and say it again")
                        entries = self._move(conduct, scope, event, who=who, why=why)
                        done = True
                    await self._exchange(conduct, silent)
                    if reverts and (conduct.state(scope) is not State.REVERTED or conduct.id in self._unshared):
                        # Somebody elsewhere resumed it without knowing of this revert.
                        entries += self._move(conduct, scope, event, who=who, why=why)
                        await self._exchange(conduct, silent)
                except STORE_ERRORS:
                    with contextlib.suppress(*STORE_ERRORS):  # the other store may take it, and the webhook is told
                        await self._history.write(silent)
                    raise
                await self._history.write(silent)
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
        await self._flags.set(tenant.profile.name, beta=beta)

    async def end_beta(self, name: str) -> None:
        """Take back the flag that a tenant without a credential had set; raises as `set_beta` does."""
        if self._flags.flags.get(name):
            await self._flags.set(name, beta=False)

    async def history(self, model: str, limit: int) -> list[Entry]:
        """Return the last transitions of a model's rollout, oldest first; what a shared store forgot is in the file."""
        conduct = self._find(model)
        return await self._history.read(conduct.id, limit)

    def status(self) -> list[Status]:
        """Return every rollout of the live rules."""
        return [self._status(conduct) for conduct in self._conducts.values()]

    @property
    def stores_up(self) -> bool:
        """Whether every state store answered when it was last asked."""
        return not self._down

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

    async def _flush(self, seconds: float = MAX_FLUSH_SECONDS) -> bool:
        """Show the guards what is whole, for `seconds` and a batch at most; return whether anything moved."""
        end_s = self._monotonic() + seconds
        self._take(self._joiner.due(self._monotonic(), KEEP_RECORDS_S))
        self._metrics.unjoined(self._joiner.dropped - self._unjoined)
        self._unjoined = self._joiner.dropped
        before = {conduct.id: conduct.version for conduct in self._by_id.values()}
        failed: StateUnavailableError | None = None
        for line in self._queue.lines():
            try:
                await self._observe(line, end_s)
            except StateUnavailableError as error:
                failed = error
                self._queue.postpone(line)
        if failed is None:
            self._store_well("visits")
        else:
            self._store_failed("visits", failed)
        return any(conduct.version != before.get(conduct.id) for conduct in self._by_id.values())

    async def _observe(self, line: Line, end_s: float) -> None:
        """Show a guard what waits in one line, of which it hears nothing before its visits are counted."""
        rollout, count = line
        for batch in self._queue.batches(line, MAX_BATCH):
            if self._monotonic() >= end_s:
                return
            conduct = self._by_id.get(rollout)
            if conduct is None:
                self._queue.forget(rollout)
                return
            try:
                visits = await self._visits.count(conduct, count, batch, self._clock())
                entries = conduct.observe(batch, visits, self._clock())
            except StateUnavailableError:
                raise
            except Exception:
                # It would go wrong every time.
                self._queue.drop(line, batch)
                self._metrics.dropped(len(batch))
                raise
            if entries:
                self._enter(entries)
                self._publish()

    # --- state in and out ----------------------------------------------------------------------------------------

    async def _sync(self) -> None:
        """Exchange everything; whatever goes wrong with a part is logged, and the other parts go on."""
        async with self._lock:
            silent: Silent = set()
            failed: list[Exception | None] = []
            try:
                for conduct in tuple(self._conducts.values()):
                    failed.append(await self._part(conduct.name, self._exchange(conduct, silent)))
                    self._tick(conduct, readable=failed[-1] is None)
                    if self._by_id.get(conduct.id) is conduct:
                        await self._part(conduct.name, self._visits.let_go(conduct))
                failed.append(await self._part(None, self._flags.exchange(silent)))
                failed.append(await self._part(None, self._history.write(silent)))
            finally:
                self._publish()
        lost = next((error for error in failed if isinstance(error, STORE_ERRORS)), None)
        if lost is not None:
            self._store_failed("state", lost)
        else:
            self._store_well("state")

    async def _part(self, model: str | None, work: Awaitable[None]) -> Exception | None:
        """Do one part of an exchange; return how it failed. Surprises are logged by type and place alone."""
        try:
            await work
        except STORE_ERRORS as error:
            return error
        except Exception as error:  # noqa: BLE001  # one rollout's bug, or damage, is not another's
            logs.get().error("rollout state not exchanged", model=model, exc_info=error)
            return error
        return None

    def _tick(self, conduct: Conduct, *, readable: bool) -> None:
        try:
            self._enter(conduct.tick(self._clock(), readable=readable))
        except Exception as error:  # noqa: BLE001
            logs.get().error("rollout state not advanced", model=conduct.name, exc_info=error)

    async def _exchange(self, conduct: Conduct, silent: Silent) -> None:
        """Read, merge and write a rollout's state in every store; what other replicas know comes to count here."""
        try:
            if self._fleet is not None:
                found = await self._merge_into(self._fleet, conduct, silent)
                # Evidence also came from the local file, or from a time when the rules had the rollout before.
                if not found and (conduct.id in self._fleet_knew or conduct.guard.evidence().ledgers):
                    logs.get().error("the shared store forgot; evidence begins anew", model=conduct.name)
                    conduct.turn(self._clock())
                    self._wake.set()
                if self._by_id.get(conduct.id) is conduct:
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

    async def _merge_into(self, store: StateStore, conduct: Conduct, silent: Silent) -> bool:
        """Exchange with one store; return whether it knew of the rollout."""
        found, mine = False, conduct.shared(self._clock())

        def merge(raw: bytes | None) -> bytes:
            nonlocal found
            found = raw is not None
            return shared_state.encode(shared_state.merge(shared_state.decode(raw), mine))

        told = shared_state.decode(await update(store, f"rollout/{conduct.id}", merge, silent))
        self._enter(conduct.merge(told, self._clock()))
        return found

    def _enter(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self._history.add(entry)
            if entry.kind == "reverted":
                self._unshared.setdefault(entry.rollout, {})[entry.scope] = entry
            self._metrics.transition(entry)
            log = logs.get()
            (log.error if entry.kind in ("reverted", "alarm") else log.info)(
                f"rollout {entry.kind}", model=entry.model, version=entry.candidate, state=entry.after.value,
                reason=f"{entry.scope}, {entry.who}: {entry.why}",
            )  # fmt: skip
            pinned = pinned_to(self._conducts[entry.model], self._book) if entry.model in self._conducts else ()
            if entry.kind == "reverted" and pinned:
                log.error(
                    "tenants stay pinned to the reverted version", model=entry.model, version=entry.candidate,
                    tenants=list(pinned), count=len(pinned),
                )  # fmt: skip

    def _publish(self) -> None:
        """Let routing see the state as it is now. Without the tenants' own flags nobody's no to candidates is known."""
        self.live = Live(
            rollouts={name: conduct.view() for name, conduct in self._conducts.items() if self._is_readable(conduct)},
            beta=self._flags.flags,
        )

    def _remember(self, conduct: Conduct, now_s: float) -> None:
        """Keep what is known of a rollout that the rules dropped. If it comes back, its state has to be read again."""
        self._readable.discard(conduct.id)
        self._fleet_knew.discard(conduct.id)
        self._queue.forget(conduct.id)
        self._visits.leave(conduct.id)
        if conduct.id not in self._known and len(self._known) >= MAX_KNOWN:
            forgotten = next(iter(self._known))
            del self._known[forgotten]
            self._unshared.pop(forgotten, None)
        self._known[conduct.id] = conduct.shared(now_s)

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
        if kind == "tenant" and self._book is not None and scope not in conduct.standings:
            rules = self._book.rules
            if name not in rules.tenants and rules.identity.jwt is None and rules.identity.mtls is None:
                raise RulesError(
                    [Problem(path=f"tenants.{name}", message="no such tenant", hint=nearest(name, rules.tenants))]
                )
        if kind == "tier" and self._book is not None and name not in self._book.rules.tiers:
            hint = nearest(name, self._book.rules.tiers)
            raise RulesError([Problem(path=f"tiers.{name}", message="no such tier", hint=hint)])

    def _status(self, conduct: Conduct) -> Status:
        return status_of(conduct, self._book, self.live, readable=self._is_readable(conduct))

    def _is_readable(self, conduct: Conduct) -> bool:
        return self._flags.readable and conduct.id in self._readable
