"""One OpenTelemetry span for each exchange, joined to the client's trace, with tenant and decision as attributes.

Off unless `--traces URL` names an OTLP/HTTP endpoint; then answers are as before, and a span is made when an exchange
has ended. Spans fail open: a collector that is away or slow costs spans, never requests. Which exchanges: those of
traces that the client samples, and a share of the others. A client that samples everything is held to
MAX_SPANS_PER_SECOND together with all others.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping

from tenantry.adapters import logs
from tenantry.core.errors import TenantryError
from tenantry.core.events import Event, Forward, Reply, RequestHeaders
from tenantry.core.session import Session
from tenantry.core.trace_context import TraceContext, trace_context

try:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import (
        NonRecordingSpan,
        SpanContext,
        SpanKind,
        Status,
        StatusCode,
        TraceFlags,
        set_span_in_context,
    )
except ImportError as missing:
    raise TenantryError(f"--traces needs OpenTelemetry ({missing.name}): pip install 'tenantry[traces]'") from None

MAX_SPANS_PER_SECOND = 200
SHARE = 0.01
"""Of the exchanges whose client samples nothing."""

QUEUE_SPANS = 2048
EXPORT_SECONDS = 5.0
STOP_SECONDS = 3.0

_TOLD = ("tenant", "tier", "model", "version", "reason", "request_id", "store", "operation")
"""Of the sidecar's own metadata; never what the client wrote."""


class Traces:
    """Makes spans. `now_ns` is Unix time, `chance` a number in [0, 1)."""

    def __init__(
        self,
        endpoint: str,
        *,
        now_ns: Callable[[], int] = time.time_ns,
        chance: Callable[[], float] = random.random,
    ) -> None:
        resource = Resource.create({"service.name": "tenantry-sidecar"})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=QUEUE_SPANS))
        self._tracer = self._provider.get_tracer("tenantry")
        self._now_ns, self._chance = now_ns, chance
        self._second, self._made = 0, 0

    def begin(self) -> "ExchangeTrace":
        """Begin to watch an exchange."""
        return ExchangeTrace(self, self._now_ns())

    def wants(self, parent: TraceContext | None) -> bool:
        """Return whether an exchange becomes a span: sampled by its client or by chance, while there is room."""
        if not (parent is not None and parent.sampled) and self._chance() >= SHARE:
            return False
        second = self._now_ns() // 1_000_000_000
        if second != self._second:
            self._second, self._made = second, 0
        self._made += 1
        return self._made <= MAX_SPANS_PER_SECOND

    def ended(
        self, parent: TraceContext | None, began_ns: int, session: Session, told: Mapping[str, str], own_seconds: float
    ) -> None:
        """Make the span of an exchange that ended."""
        around = None
        if parent is not None:
            flags = TraceFlags(TraceFlags.SAMPLED)
            context = SpanContext(parent.trace_id, parent.span_id, is_remote=True, trace_flags=flags)
            around = set_span_in_context(NonRecordingSpan(context))
        span = self._tracer.start_span(
            "tenantry decide", context=around, kind=SpanKind.SERVER, start_time=began_ns,
            attributes=_attributes(session, told, own_seconds),
        )  # fmt: skip
        if session.refusal is not None:
            span.set_status(Status(StatusCode.ERROR, session.refusal.code))
        span.end(self._now_ns())

    async def stop(self) -> None:
        """Send what waits, for a while at most."""
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await asyncio.to_thread(self._provider.shutdown)
        except TimeoutError:
            logs.get().warning("spans were lost at the end: the collector does not answer")


class ExchangeTrace:
    """What of an exchange its span tells. Costs nothing but memory while the exchange goes on."""

    __slots__ = ("_began_ns", "_parent", "_told", "_traces", "_wanted")

    def __init__(self, traces: Traces, began_ns: int) -> None:
        self._traces, self._began_ns = traces, began_ns
        self._parent: TraceContext | None = None
        self._told: Mapping[str, str] = {}
        self._wanted = False

    def saw(self, event: Event, reply: Reply) -> None:
        """Note an event and what it was answered with."""
        if isinstance(event, RequestHeaders):
            self._parent = trace_context(event.headers)
            self._wanted = self._traces.wants(self._parent)
        if isinstance(reply, Forward):
            self._told = reply.metadata

    def ended(self, session: Session, own_seconds: float) -> None:
        """Make the span, if one is wanted. Never raises: metrics, logs and traces fail open."""
        if not self._wanted:
            return
        try:
            self._traces.ended(self._parent, self._began_ns, session, self._told, own_seconds)
        except Exception as error:  # noqa: BLE001  # whatever a library raises, the exchange is over and well
            logs.get().warning("a span was lost", exc_info=error)


def _attributes(session: Session, told: Mapping[str, str], own_seconds: float) -> dict[str, str | int | float]:
    attributes: dict[str, str | int | float] = {
        f"tenantry.{name}": value for name in _TOLD if (value := told.get(name))
    }
    if session.tenant is not None:
        attributes["tenantry.tenant"] = session.tenant.profile.name
    attributes["tenantry.request_id"] = session.request_id
    attributes["tenantry.state"] = session.state.value
    attributes["tenantry.decision_seconds"] = own_seconds
    if session.refusal is not None:
        attributes["error.type"] = session.refusal.code
        attributes["http.response.status_code"] = session.refusal.http_status
    return attributes
