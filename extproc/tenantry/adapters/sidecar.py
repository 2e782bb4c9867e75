"""The sidecar without a transport: what happens to an ext_proc message and to an access-log message.

This is the seam behind which transports stand. A transport opens an `Exchange` per ext_proc
stream, hands it serialised messages one by one and sends back what it returns; when `answer`
raises, the transport ends the stream with an error status, never cleanly (invariant 4).
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from google.protobuf.message import DecodeError

from tenantry.adapters import access_log, codec, logs
from tenantry.adapters.bind import Address, Tls
from tenantry.adapters.metrics import Metrics
from tenantry.adapters.refusals import Refusals
from tenantry.adapters.rollouts import Rollouts
from tenantry.core.errors import ConversationError, RequestRefusedError, UnavailableError
from tenantry.core.events import Event, Forward, Reply
from tenantry.core.outcome import Outcome
from tenantry.core.quota.claim import Claim
from tenantry.core.response_usage import ResponseUsage
from tenantry.core.routing import Live
from tenantry.core.session import Session, Snapshot, State, closed
from tenantry.core.usage import UsageRecord
from tenantry.core.vector.calls import Need, StoreOf
from tenantry.core.vector.stores import open_call

OutcomeSink = Callable[[Outcome], None]


class StoreGate(Protocol):
    """What the sidecar asks about vector stores; `adapters.stores` has the answers."""

    def check(self, store_of: StoreOf) -> None:
        """Raise RequestRefusedError unless the store, by these rules, was shown to keep tenants apart."""

    def provided(self, store_of: StoreOf, need: Need) -> bool:
        """Return whether what a request needs is known to be there."""

    async def provide(self, store_of: StoreOf, need: Need) -> None:
        """Make what a request needs; raise RequestRefusedError when that is not possible."""

    def forget(self, store_of: StoreOf, need: Need) -> None:
        """Forget that something is there: the store did not do what was asked of it."""

    def rules_live(self, snapshot: Snapshot) -> None:
        """Begin to look after the stores of a document that goes live."""


class QuotaDesk(Protocol):
    """What the sidecar asks about quotas; `adapters.quotas` has the answers."""

    async def admit(self, claim: Claim, request_id: str) -> Mapping[str, str]:
        """Reserve what a request may cost; return the figures for its client. Raises RequestRefusedError."""

    def ended(self, request_id: str) -> None:
        """Note the end of an exchange that was admitted."""

    def record(self, record: UsageRecord) -> None:
        """Take in a usage record, of whichever request."""


class Trace(Protocol):
    """What follows one exchange to tell of it afterwards; `adapters.traces` makes spans of it."""

    def saw(self, event: Event, reply: Reply) -> None:
        """Note an event and what it was answered with."""

    def ended(self, session: Session, own_seconds: float) -> None:
        """Tell of an exchange that ended; never raise."""


class Tracer(Protocol):
    """What begins to follow exchanges."""

    def begin(self) -> Trace:
        """Follow one."""


class Exchange:
    """One ext_proc stream."""

    __slots__ = ("_own_seconds", "_session", "_sidecar", "_trace", "_waiting", "closed")

    def __init__(self, sidecar: "Sidecar", session: Session) -> None:
        self._sidecar = sidecar
        self._session = session
        self._own_seconds = 0.0
        self._waiting: tuple[Event, Forward] | None = None
        self._trace = None if sidecar.traces is None else sidecar.traces.begin()
        self.closed = False

    def answer(self, message: bytes) -> bytes:
        """Return the serialised ProcessingResponse for a serialised ProcessingRequest.

        It is sent at once, unless the exchange `waits` afterwards: then it is empty, and what `provide` returns is
        sent instead.

        Raises ConversationError for what Envoy should not have sent; any other exception is a bug.
        Either way the stream must end with an error status.
        """
        begin = time.perf_counter()
        event = codec.decode(message)
        reply = self._session.on_event(event, time.time())
        if self._trace is not None:
            self._trace.saw(event, reply)
        if isinstance(reply, Forward) and self._needs():
            self._waiting = event, reply
            encoded = b""
        else:
            encoded = codec.encode(event, reply)
        self._look_again()
        self._own_seconds += time.perf_counter() - begin
        return encoded

    @property
    def waits(self) -> bool:
        """Whether the request that was just decided needs something that has to be asked for first."""
        return self._waiting is not None

    def _needs(self) -> bool:
        session, store = self._session, self._session.store
        if session.claim is not None:
            return True
        if store is None or store.need is None:
            return False
        return not self._sidecar.stores.provided(store.store_of, store.need)

    def _look_again(self) -> None:
        store = self._session.store
        if self._session.state is State.VERIFIED and store is not None and store.failed and store.need is not None:
            # Perhaps since an operator dropped what was there; a wrong guess costs the next request a question.
            self._sidecar.stores.forget(store.store_of, store.need)

    async def provide(self) -> bytes:
        """Ask for what the request needs, of its store and of its tenant's quota; return the reply, or a refusal."""
        if self._waiting is None:
            raise ConversationError("nothing waits")
        (event, forward), session = self._waiting, self._session
        reply: Reply = forward
        try:
            if session.store is not None and session.store.need is not None:
                await self._sidecar.stores.provide(session.store.store_of, session.store.need)
            if session.claim is not None:
                figures = await self._sidecar.quotas.admit(session.claim, session.request_id)
                reply = session.granted(forward, figures)
        except RequestRefusedError as refusal:
            reply = session.refuse(refusal)
        finally:
            self._waiting = None
        begin = time.perf_counter()
        encoded = codec.encode(event, reply)
        self._own_seconds += time.perf_counter() - begin
        return encoded

    @property
    def decided(self) -> bool:
        """Whether nothing is left to decide or to verify, so that a clean end lets nothing slip and cuts nothing."""
        return not self.waits and self._session.state in (State.PASSED, State.ANSWERED, State.VERIFIED)

    def failed(self, error: BaseException) -> None:
        """Note that the stream ends with an error status because of `error`."""
        kind = "conversation" if isinstance(error, ConversationError) else "bug"
        self._sidecar.metrics.stream_failed(kind)
        logs.get().error("ext_proc stream ended with an error", kind=kind, exc_info=error)

    def close(self) -> None:
        """Note the end of the stream: the HTTP exchange is over, or its client went away."""
        if not self.closed:
            self.closed = True
            if self._trace is not None:
                self._trace.ended(self._session, self._own_seconds)
            self._sidecar.exchange_closed(self, self._session, self._own_seconds)


class Sidecar:
    """State shared by all streams of a process: the live snapshot, metrics, and where outcomes go.

    `rollouts` follows what goes live and sees the outcomes; without it nobody gets a candidate. Without `stores` no
    vector store is used, and without `quotas` nobody who has one is served. `responses` gets the usage that was read
    from a response when its exchange has ended. `traces` follows each exchange; without it none is.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        metrics: Metrics,
        sinks: Iterable[OutcomeSink] = (),
        *,
        rollouts: Rollouts | None = None,
        stores: StoreGate | None = None,
        quotas: QuotaDesk | None = None,
        responses: Callable[[ResponseUsage], None] = lambda _usage: None,
        traces: Tracer | None = None,
    ) -> None:
        self.snapshot = snapshot
        self.quotas = ClosedQuotas() if quotas is None else quotas
        self.stores = ClosedStores() if stores is None else stores
        self.rollouts = rollouts
        self.traces = traces
        self.generation = 1
        self.metrics = metrics
        self.refusals = Refusals()
        self._responses = responses
        self._sinks = tuple(sinks) if rollouts is None else (*sinks, rollouts.outcome)
        self._open: set[Exchange] = set()
        self._made_live(self.generation)

    def activate(self, snapshot: Snapshot) -> None:
        """Serve the next exchange by this snapshot; exchanges that are open keep theirs."""
        before, self.snapshot = self.snapshot, snapshot
        try:
            self._made_live(self.generation + 1)
        except Exception:
            self.snapshot = before
            raise
        self.generation += 1

    def _made_live(self, generation: int) -> None:
        if self.rollouts is not None:
            self.rollouts.rules_live(self.snapshot.book)
        self.stores.rules_live(self.snapshot)
        self.metrics.rules_live(self.snapshot.book, generation)

    def _live(self) -> Live:
        return Live() if self.rollouts is None else self.rollouts.live

    @property
    def open_exchanges(self) -> int:
        """How many ext_proc streams are open."""
        return len(self._open)

    @property
    def undecided_exchanges(self) -> int:
        """How many of them still wait for a decision."""
        return sum(not exchange.decided for exchange in self._open)

    def open_exchange(self) -> Exchange:
        """Begin an exchange."""
        exchange = Exchange(self, Session(self.snapshot, new_request_id, self._live, self.stores.check, open_call))
        self._open.add(exchange)
        self.metrics.exchange_opened()
        return exchange

    def exchange_closed(self, exchange: Exchange, session: Session, own_seconds: float) -> None:
        """Forget an exchange and count it."""
        self._open.discard(exchange)
        if session.response_usage is not None and session.state is State.PASSED:
            self._responses(session.response_usage)
        if session.claim is not None:
            self.quotas.ended(session.request_id)
        if session.state is State.ANSWERED:
            self.refusals.note(session, time.time())
        self.metrics.exchange_closed(session, own_seconds)

    def access_log_message(self, message: bytes) -> None:
        """Take a serialised StreamAccessLogsMessage. Losing metrics never blocks traffic (invariant 5)."""
        try:
            for outcome in access_log.outcomes(message):
                self.metrics.access_log_entry(outcome)
                if outcome is not None:
                    for sink in self._sinks:
                        sink(outcome)
        except (DecodeError, OSError) as error:
            self.metrics.stream_failed("access_log")
            logs.get().warning("access log message lost", exc_info=error)


class ClosedStores:
    """No store is used."""

    def check(self, store_of: StoreOf) -> None:
        """Refuse."""
        closed(store_of)

    def provided(self, _store_of: StoreOf, _need: Need) -> bool:
        """Return that nothing is."""
        return False

    async def provide(self, store_of: StoreOf, _need: Need) -> None:
        """Refuse."""
        closed(store_of)

    def forget(self, store_of: StoreOf, need: Need) -> None:
        """Know nothing to forget."""

    def rules_live(self, snapshot: Snapshot) -> None:
        """Take note of nothing."""


class ClosedQuotas:
    """Nobody keeps accounts."""

    async def admit(self, _claim: Claim, _request_id: str) -> Mapping[str, str]:
        """Refuse."""
        raise UnavailableError("quota_not_kept", "Quotas are not kept here yet.")

    def ended(self, request_id: str) -> None:
        """Take note of nothing."""

    def record(self, record: UsageRecord) -> None:
        """Take note of nothing."""


class Transport(Protocol):
    """A server for ext_proc and ALS. grpcio is one; a leaner one can take its place."""

    async def start(self, address: Address, tls: Tls | None) -> Address:
        """Listen; return the address with the port that was bound."""

    async def drain(self, grace_seconds: float) -> None:
        """Accept no more, let undecided exchanges be decided, then end the streams cleanly."""


def new_request_id() -> str:
    """Return 128 random bits as 32 hexadecimal digits."""
    return os.urandom(16).hex()
