"""Spans as a collector gets them: joined to the client's trace, telling the decision, and never in the way.

The collector is a stand-in: an HTTP server that reads OTLP with OpenTelemetry's own messages.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from tenantry.adapters._pb import wire_pb2 as wire
from tenantry.adapters.metrics import Metrics
from tenantry.adapters.sidecar import Sidecar
from tenantry.adapters.traces import MAX_SPANS_PER_SECOND, Traces
from tenantry.core.trace_context import TraceContext
from tenantry_testing.documents import KEYS, snapshot

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = ("traceparent", f"00-{TRACE}-{SPAN}-01")
UNSAMPLED = ("traceparent", f"00-{TRACE}-{SPAN}-00")


class Collector:
    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        message = ExportTraceServiceRequest.FromString(await request.read())
        self.spans += [span for of in message.resource_spans for scope in of.scope_spans for span in scope.spans]
        return web.Response()


@asynccontextmanager
async def collector() -> AsyncIterator[Collector]:
    made = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", made.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/traces"
    try:
        yield made
    finally:
        await runner.cleanup()


def request_headers(*headers: tuple[str, str], key: str | None) -> bytes:
    pairs = [(":method", "POST"), (":path", "/v1/chat/completions"), ("content-type", "application/json"), *headers]
    pairs += [("authorization", f"Bearer {key}")] if key is not None else []
    values = [wire.HeaderValue(key=name, raw_value=value.encode()) for name, value in pairs]
    return wire.ProcessingRequest(
        request_headers=wire.HttpHeaders(headers=wire.HeaderMap(headers=values))
    ).SerializeToString()


def request_body() -> bytes:
    sent = b'{"model": "chat-8b", "messages": [{"role": "user", "content": "Hello"}]}'
    return wire.ProcessingRequest(request_body=wire.HttpBody(body=sent, end_of_stream=True)).SerializeToString()


def exchange(sidecar: Sidecar, *headers: tuple[str, str], key: str | None = KEYS["acme"]) -> None:
    """One chat request through the sidecar, from its headers to the end of its stream."""
    opened = sidecar.open_exchange()
    opened.answer(request_headers(*headers, key=key))
    if key is not None:
        opened.answer(request_body())
    opened.close()


def attributes(span: Span) -> dict[str, str | float | int]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value") or "string_value") for each in span.attributes}


async def told(*requests: tuple[str, str], key: str | None = KEYS["acme"]) -> list[Span]:
    """Return the spans of one request for each traceparent."""
    async with collector() as seen:
        traces = Traces(seen.url, chance=lambda: 0.999)
        sidecar = Sidecar(snapshot(), Metrics(), traces=traces)
        for header in requests:
            exchange(sidecar, header, key=key)
        await traces.stop()
        return seen.spans


async def test_a_span_joins_the_clients_trace_and_tells_the_decision() -> None:
    (span,) = await told(SAMPLED)
    assert span.trace_id.hex() == TRACE
    assert span.parent_span_id.hex() == SPAN
    assert span.end_time_unix_nano >= span.start_time_unix_nano > 0
    found = attributes(span)
    assert (found["tenantry.tenant"], found["tenantry.model"], found["tenantry.version"]) == (
        "acme",
        "chat-8b",
        "1.4.0",
    )
    assert found["tenantry.state"] == "passed on"
    assert 0 < float(found["tenantry.decision_seconds"]) < 1


async def test_a_refusal_is_an_error_that_names_no_tenant() -> None:
    (span,) = await told(SAMPLED, key=None)
    found = attributes(span)
    assert found["http.response.status_code"] == 401
    assert span.status.message == found["error.type"]
    assert "tenantry.tenant" not in found


async def test_no_span_for_what_the_client_does_not_sample() -> None:
    assert await told(UNSAMPLED) == []


async def test_no_credential_and_no_text_of_the_client_is_in_a_span() -> None:
    (span,) = await told(SAMPLED)
    assert KEYS["acme"].encode() not in span.SerializeToString()
    assert b"Hello" not in span.SerializeToString()


def test_a_client_that_samples_everything_is_held_to_a_rate() -> None:
    second = [1_000_000_000]
    traces = Traces("http://127.0.0.1:1/v1/traces", now_ns=lambda: second[0], chance=lambda: 0.999)
    parent = TraceContext(trace_id=1, span_id=1, sampled=True)
    assert sum(traces.wants(parent) for _ in range(1_000)) == MAX_SPANS_PER_SECOND
    second[0] += 1_000_000_000
    assert traces.wants(parent)


async def test_a_collector_that_is_away_costs_spans_and_nothing_else() -> None:
    traces = Traces("http://127.0.0.1:1/v1/traces")
    sidecar = Sidecar(snapshot(), Metrics(), traces=traces)
    for _ in range(50):
        exchange(sidecar, SAMPLED)
    async with asyncio.timeout(10):
        await traces.stop()
    assert sidecar.open_exchanges == 0


def test_without_traces_nothing_follows_an_exchange() -> None:
    sidecar = Sidecar(snapshot(), Metrics())
    assert sidecar.open_exchange()._trace is None
