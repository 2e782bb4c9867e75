"""What a client writes into headers and trailers reaches neither the upstream nor the evidence (invariant 2)."""

import asyncio

import pytest
from tenantry.core.errors import ConversationError
from tenantry.core.session import Session

from dataplane.harness import ENGINE_SECRET, KEYS, Stack, until
from dataplane.wire import CHAT, Headers, chat, chat_body, request
from dataplane.wire_h2 import ask_h2

CANARY = "mallory"

OF_OURS = ("tier", "model", "version", "request-id", "cluster", "mirror", "mirror-cluster", "anything-else", "")
OF_ENVOYS = (
    "retry-on", "retry-grpc-on", "max-retries", "upstream-rq-timeout-ms", "upstream-rq-per-try-timeout-ms",
    "original-path", "original-dst-host", "decorator-operation", "force-trace", "upstream-alt-stat-name",
    "hedge-on-per-try-timeout", "external-address", "internal", "attempt-count", "is-timeout-retry",
)  # fmt: skip
OF_VLLMS = ("x-vllm-priority", "x-session-id", "x-data-parallel-rank", "x-request-id")
OF_PROXIES = (
    "x-forwarded-client-cert", "x-forwarded-host", "x-forwarded-for", "x-forwarded-proto", "x-real-ip", "forwarded",
    "via", "x-original-url", "x-rewrite-url", "x-http-method-override",
)  # fmt: skip
TENANT = "x-tenantry-tenant"

FORGED: dict[str, Headers] = {
    "lower case": [(TENANT, CANARY)],
    "mixed case": [("X-Tenantry-Tenant", CANARY), ("X-TENANTRY-TENANT", CANARY)],
    "duplicates": [(TENANT, "acme"), (TENANT, CANARY), (TENANT, CANARY)],
    "empty beside forged": [(TENANT, ""), (TENANT, CANARY)],
    "obs-text": [(TENANT, CANARY.encode() + b"\xff\x80")],
    "underscores": [("x_tenantry_tenant", CANARY), ("X_Tenantry-Tenant", CANARY), ("x-tenantry_tenant", CANARY)],
    "comma list": [(TENANT, f"acme, {CANARY}")],
    "spaces around": [(TENANT, f"  \t {CANARY} \t ")],
    "all of ours": [(f"x-tenantry-{name}", CANARY) for name in OF_OURS],
    "nominated by connection": [("connection", f"close, {TENANT}, x-tenantry-tier"), (TENANT, CANARY)],
    "Envoy's own": [(f"x-envoy-{name}", CANARY) for name in OF_ENVOYS],
    "vLLM's": [(name, CANARY) for name in OF_VLLMS],
    "of a proxy": [(name, CANARY) for name in OF_PROXIES],
    "credentials and cookies": [("cookie", CANARY), ("proxy-authorization", CANARY), ("x-api-key", CANARY)],
    "baggage": [("baggage", f"tenant={CANARY}"), ("x-b3-traceid", CANARY), ("openai-organization", CANARY)],
}


@pytest.fixture
def access_log(shared: Stack, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The access-log messages as Envoy sends them, so that not even an unread field may hold a forgery."""
    assert shared.sidecar is not None
    messages: list[bytes] = []
    take = shared.sidecar.access_log_message

    def tap(message: bytes) -> None:
        messages.append(message)
        take(message)

    monkeypatch.setattr(shared.sidecar, "access_log_message", tap)
    return messages


async def proves_acme(shared: Stack, mark: str, request_id: str, access_log: list[bytes]) -> None:
    """The request arrived as acme's, and the forged value is nowhere."""
    (seen,) = shared.upstream.marked(mark)
    assert CANARY.encode() not in seen.raw
    assert seen.header("x-tenantry-tenant") == [b"acme"]
    assert seen.header("x-tenantry-tier") == [b"gold"]
    assert seen.header("x-request-id") == [f"acme:{request_id}".encode()]
    assert seen.header("authorization") == [f"Bearer {ENGINE_SECRET}".encode()]
    assert not [name for name, _ in seen.headers if b"_" in name]
    outcome = await shared.outcome(request_id)
    assert (outcome["tenant"], outcome["cluster"], outcome["ended"]) == ("acme", "chat-8b@1.4.0", "completed")
    assert CANARY not in str(shared.outcomes())
    assert access_log
    assert CANARY.encode() not in b"".join(access_log)


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
async def test_a_forged_header_reaches_neither_upstream_nor_log(
    shared: Stack, access_log: list[bytes], forged: Headers, request: pytest.FixtureRequest
) -> None:
    mark = request.node.name
    response = await shared.ask(chat(KEYS["acme"], headers=forged, mark=mark))
    assert response.status == 200
    await proves_acme(shared, mark, response.request_id, access_log)


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
async def test_nor_over_http2(
    shared: Stack, access_log: list[bytes], forged: Headers, request: pytest.FixtureRequest
) -> None:
    mark = request.node.name
    headers = [(_text(name).lower(), _text(value).strip()) for name, value in forged if _text(name) != "connection"]
    response = await ask_h2(
        shared.address,
        headers=[("content-type", "application/json"), *headers],
        body=chat_body(mark=mark),
        key=KEYS["acme"],
    )
    assert response.status == 200
    await proves_acme(shared, mark, response.request_id, access_log)


async def test_nor_in_trailers_of_a_chunked_body(shared: Stack, access_log: list[bytes]) -> None:
    body = chat_body(mark="chunked trailers")
    chunked = f"{len(body):x}\r\n".encode() + body + f"\r\n0\r\nX-Tenantry-Tenant: {CANARY}\r\n\r\n".encode()
    headers = [("Transfer-Encoding", "chunked"), ("TE", "trailers"), ("Trailer", "X-Tenantry-Tenant")]
    head = request(CHAT, key=KEYS["acme"], headers=[("Content-Type", "application/json"), *headers])
    response = await shared.ask(head + chunked)
    assert response.status == 200
    await proves_acme(shared, "chunked trailers", response.request_id, access_log)


async def test_nor_in_trailers_over_http2(shared: Stack, access_log: list[bytes]) -> None:
    response = await ask_h2(
        shared.address,
        headers=[("content-type", "application/json")],
        body=chat_body(mark="h2 trailers"),
        trailers=[("x-tenantry-tenant", CANARY), ("authorization", f"Bearer {KEYS['globex']}")],
        key=KEYS["acme"],
    )
    assert response.status == 200
    await proves_acme(shared, "h2 trailers", response.request_id, access_log)


MALFORMED = {
    "space before colon": b"x-tenantry-tenant : mallory",
    "folded": b"x-tenantry-tenant:\r\n mallory",
    "NUL in name": b"x-tenantry-tenant\x00: mallory",
    "obs-text in name": b"x-tenantry-tenant\xff: mallory",
    "no name": b": mallory",
    "bare CR": b"x-tenantry-tenant\rx: mallory",
    "NUL in value": b"x-tenantry-tenant: mal\x00lory",
}


@pytest.mark.parametrize("mark", MALFORMED)
async def test_a_malformed_header_line_is_no_way_in(shared: Stack, access_log: list[bytes], mark: str) -> None:
    """Either the whole request is refused, or it arrives as acme's without the forgery."""
    seen = len(shared.upstream.seen)
    good = chat(KEYS["acme"], mark=mark)
    response = await shared.ask(good.replace(b"Host:", MALFORMED[mark] + b"\r\nHost:", 1))
    if response.status == 200:
        await proves_acme(shared, mark, response.request_id, access_log)
    else:
        assert response.status == 400
        assert len(shared.upstream.seen) == seen


async def test_a_forged_cluster_or_timeout_or_retry_changes_nothing(shared: Stack) -> None:
    """Values that would do something, were they obeyed."""
    gate = asyncio.Event()
    shared.upstream.scripts["slow 503"] = lambda _seen: [
        gate, b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"
    ]  # fmt: skip
    headers = [
        ("x-tenantry-cluster", "private-8b@1"), ("x-envoy-upstream-rq-timeout-ms", "1"), ("x-envoy-max-retries", "5"),
        ("x-envoy-retry-on", "5xx"), ("x-tenantry-mirror-cluster", "private-8b@1"), ("x-tenantry-version", "1.5.0"),
    ]  # fmt: skip
    asking = asyncio.create_task(shared.ask(chat(KEYS["initech"], headers=headers, mark="knobs", script="slow 503")))
    await until(lambda: shared.upstream.marked("knobs"))
    await asyncio.sleep(0.1)
    gate.set()
    response = await asking
    outcome = await shared.outcome(response.request_id)
    assert (response.status, outcome["code"], outcome["attempts"]) == (503, 503, 1)
    assert (outcome["version"], outcome["cluster"]) == ("1.4.0", "chat-8b@1.4.0")
    assert len(shared.upstream.marked("knobs")) == 1


@pytest.mark.parametrize("error", [RuntimeError("bug"), ConversationError("order")], ids=["bug", "conversation"])
@pytest.mark.parametrize("event", [1, 2], ids=["at headers", "at body"])
async def test_when_ext_proc_fails_the_log_still_names_nobody(
    shared: Stack, access_log: list[bytes], monkeypatch: pytest.MonkeyPatch, error: Exception, event: int
) -> None:
    """Envoy logs what the client sent then (facts/envoy.md); stripped before, it has nothing to log (invariant 2)."""
    on_event = Session.on_event

    def fails(self: Session, *arguments: object) -> object:
        if self.events + 1 == event:
            raise error
        return on_event(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Session, "on_event", fails)
    seen, outcomes = len(shared.upstream.seen), len(shared.outcomes())
    unattributed = await shared.total("tenantry_access_log_unattributed_total")
    forged = [pair for variant in FORGED.values() for pair in variant if pair[0] != "connection"]
    response = await shared.ask(chat(KEYS["acme"], headers=forged))
    assert (response.status, response.error_code) == (503, "service_unavailable")
    await until(lambda: access_log)
    assert await shared.total("tenantry_access_log_unattributed_total") == unattributed + 1
    assert CANARY.encode() not in b"".join(access_log)
    assert CANARY not in str(await shared.metrics())
    assert (len(shared.upstream.seen), len(shared.outcomes())) == (seen, outcomes)


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
