"""Which requests reach an upstream at all: an exact allow-list, and errors in the shape that clients parse."""

import gzip
from pathlib import Path

import pytest

from dataplane.conftest import MAX_BODY_BYTES
from dataplane.harness import KEYS, Stack, rules, stack
from dataplane.wire import CHAT, Connection, Headers, Response, chat, chat_body, request
from dataplane.wire_h2 import ask_h2

KEY = KEYS["acme"]
JSON = ("Content-Type", "application/json")
CHUNKED = ("Transfer-Encoding", "chunked")
GRPC = ("content-type", "application/grpc")


async def refused(shared: Stack, data: bytes) -> Response:
    """The answer to a request of which nothing may reach the upstream."""
    seen, connections = len(shared.upstream.seen), shared.upstream.connections
    response = await shared.ask(data)
    assert (len(shared.upstream.seen), shared.upstream.connections) == (seen, connections)
    return response


# What engines serve beside OpenAI's API, to whoever asks.
ENGINE_ROUTES = [
    "POST /abort_requests", "POST /sleep", "POST /wake_up", "GET /is_sleeping", "POST /update_weights", "POST /pause",
    "POST /reset_prefix_cache", "POST /v1/load_lora_adapter", "POST /v1/unload_lora_adapter", "POST /collective_rpc",
    "GET /v1/responses/resp_1", "DELETE /v1/responses/resp_1", "POST /v1/responses/resp_1/cancel",
    "GET /v1/models/chat-8b", "GET /metrics", "GET /health", "GET /version", "GET /docs", "GET /openapi.json",
    "GET /server_info", "POST /tokenize", "POST /invocations", "POST /v1/audio/transcriptions", "POST /v1/files",
    "POST /start_profile", "POST /",
]  # fmt: skip


@pytest.mark.parametrize("route", ENGINE_ROUTES)
async def test_what_an_engine_serves_beside_the_api_is_404(shared: Stack, route: str) -> None:
    method, _, path = route.partition(" ")
    body = chat_body() if method == "POST" else None
    response = await refused(shared, request(path, method=method, headers=[JSON], body=body, key=KEY))
    assert (response.status, response.error_code) == (404, "unknown_route")


SPELLINGS = {
    "/v1/chat/completions/": (404, "unknown_route"),
    "//v1/chat/completions": (404, "unknown_route"),
    "/v1//chat/completions": (404, "unknown_route"),
    "/V1/chat/completions": (404, "unknown_route"),
    "/v1/chat/completions;a=b": (404, "unknown_route"),
    "/v1/chat/completions%20": (404, "unknown_route"),
    "/v1/chat/completions%3Fa=b": (404, "unknown_route"),
    "/v1/chat/completions/..": (404, "unknown_route"),
    "/v1/chat/completions/../../load_lora_adapter": (404, "unknown_route"),
    "http://tenantry.test/sleep": (404, "unknown_route"),
    "/v1/chat/completions?a=b": (400, "query_not_allowed"),
    "/v1/chat/completions?": (400, "query_not_allowed"),
    "/v1/chat%2fcompletions": (400, "bad_request"),
    "/v1/chat%2Fcompletions": (400, "bad_request"),
    "/v1/chat%5ccompletions": (400, "bad_request"),
    "/v1/x%2f..%2fchat/completions": (400, "bad_request"),
    "/v1/chat/completions%00": (400, "bad_request"),
    "/v1/chat/completions#sleep": (400, "bad_request"),
    "\\v1\\chat\\completions": (400, "bad_request"),
    "v1/chat/completions": (400, "bad_request"),
    "*": (400, "bad_request"),
    # The listener has no TLS: whoever says https there is confused, or confuses.
    "https://tenantry.test/v1/chat/completions": (403, "not_admitted"),
}


@pytest.mark.parametrize("target", SPELLINGS)
async def test_another_spelling_of_a_path_is_refused(shared: Stack, target: str) -> None:
    response = await refused(shared, chat(KEY, target=target))
    assert (response.status, response.error_code) == SPELLINGS[target]


@pytest.mark.parametrize(
    "target",
    ["/v1/./chat/completions", "/v1/x/../chat/completions", "/../v1/chat/completions", "/v1/chat/%2e/completions",
     "/v1/%2E%2e/v1/chat/completions", "/v1/%63hat/completions", "/v1/chat\\completions", "http://x.test/v1/chat/completions"],
)  # fmt: skip
async def test_or_it_is_normalised_before_anything_looks_at_it(shared: Stack, target: str) -> None:
    """So the allow-list, the route table, the log and the engine all see the same path."""
    response = await shared.ask(chat(KEY, target=target, mark=target))
    (seen,) = shared.upstream.marked(target)
    assert (response.status, seen.line) == (200, b"POST /v1/chat/completions HTTP/1.1")


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"])
async def test_another_method_is_405(shared: Stack, method: str) -> None:
    response = await refused(shared, request(method=method, headers=[JSON], body=chat_body(), key=KEY))
    assert response.status == 405
    assert method == "HEAD" or response.error_code == "method_not_allowed"


async def test_connect_is_404_and_no_error_of_ours(shared: Stack) -> None:
    """CONNECT has no path. A client must not be able to raise our alarm for broken conversations with it."""
    errors = await shared.total("tenantry_internal_errors_total")
    over_1 = await refused(shared, request("tenantry.test:443", method="CONNECT", key=KEY))
    pseudo = [(":method", "CONNECT"), (":authority", "tenantry.test:443")]
    over_2 = await ask_h2(shared.address, pseudo=pseudo, key=KEY)
    assert [(r.status, r.error_code) for r in (over_1, over_2)] == [(404, "unknown_route")] * 2
    assert await shared.total("tenantry_internal_errors_total") == errors


WEBSOCKET = [
    ("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
]  # fmt: skip


async def test_a_websocket_upgrade_is_refused(shared: Stack) -> None:
    over_1 = await refused(shared, chat(KEY, headers=WEBSOCKET))
    assert (over_1.status, over_1.error_code) == (403, "not_admitted")
    extended = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":path", CHAT),
        (":authority", "x"),
    ]
    seen = len(shared.upstream.seen)
    over_2 = await ask_h2(shared.address, pseudo=extended, key=KEY)
    assert (over_2.status, len(shared.upstream.seen)) == (0, seen)


async def test_an_h2c_upgrade_is_ignored_and_not_passed_on(shared: Stack) -> None:
    upgrade = [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQAAP__")]
    response = await shared.ask(chat(KEY, headers=upgrade, mark="h2c"))
    (seen,) = shared.upstream.marked("h2c")
    assert response.status == 200
    assert not any(seen.header(name) for name in ("upgrade", "http2-settings", "connection"))


BODY = chat_body()
FRAMINGS: dict[str, tuple[Headers, bool]] = {
    "length and chunked": ([JSON, CHUNKED], True),
    "two lengths": ([JSON, ("Content-Length", "5")], True),
    "a list of lengths": ([JSON, ("Content-Length", f"{len(BODY)}, {len(BODY)}")], False),
    "a signed length": ([JSON, ("Content-Length", f"+{len(BODY)}")], False),
    "an unknown coding": ([JSON, ("Transfer-Encoding", "xchunked")], False),
    "two codings": ([JSON, ("Transfer-Encoding", "gzip, chunked")], False),
}


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_ambiguous_framing_is_refused(shared: Stack, framing: str) -> None:
    """Request smuggling begins where two servers measure one body differently."""
    headers, length = FRAMINGS[framing]
    response = await refused(shared, request(headers=headers, body=BODY, key=KEY, length=length))
    assert response.status in (400, 501)
    assert response.error_code


async def test_a_second_request_in_the_same_bytes_is_a_request_of_its_own(shared: Stack) -> None:
    """What follows a body is parsed, and refused, by itself."""
    seen = len(shared.upstream.seen)
    async with await Connection.open(shared.address) as connection:
        first = await connection.ask(chat(KEY) + request("/sleep", body=b"{}", headers=[JSON], key=KEY))
        second = await connection.response()
    assert (first.status, second.status, second.error_code) == (200, 404, "unknown_route")
    assert [entry.line for entry in shared.upstream.seen[seen:]] == [b"POST /v1/chat/completions HTTP/1.1"]


REFUSED_BODIES = {
    "not JSON": (b"{", 400, "invalid_json"),
    "not UTF-8": (b'{"model":"\xff"}', 400, "invalid_json"),
    "an array": (b"[]", 400, "invalid_json"),
    "two documents": (b'{"model":"chat-8b"}{"model":"chat-8b"}', 400, "invalid_json"),
    "empty": (b"", 400, "missing_body"),
    "no model": (b'{"messages":[]}', 400, "missing_model"),
    "a model that is no string": (b'{"model":["chat-8b"]}', 400, "invalid_model"),
    "a duplicate key": (b'{"model":"chat-8b","model":"private-8b"}', 400, "ambiguous_keys"),
    "an escaped key": (b'{"\\u006dodel":"chat-8b"}', 400, "ambiguous_keys"),
    "a stored response": (chat_body(previous_response_id="resp_1"), 400, "unsupported_parameter"),
    "KV transfer": (chat_body(kv_transfer_params={"do_remote_decode": True}), 400, "unsupported_parameter"),
    "an unknown model": (chat_body("nope"), 404, "model_not_found"),
}


@pytest.mark.parametrize("what", REFUSED_BODIES)
async def test_a_body_that_is_not_understood_whole_is_refused(shared: Stack, what: str) -> None:
    body, status, code = REFUSED_BODIES[what]
    response = await refused(shared, request(headers=[JSON], body=body, key=KEY))
    assert (response.status, response.error_code) == (status, code)


async def test_another_tenants_model_is_as_unknown_as_one_that_does_not_exist(shared: Stack) -> None:
    """globex may use chat-8b only; the two answers are the same bytes."""
    others = await refused(shared, chat(KEYS["globex"], model="private-8b"))
    nobodys = await refused(shared, chat(KEYS["globex"], model="no-such-8b"))
    assert (others.status, others.body) == (nobodys.status, nobodys.body) == (404, nobodys.body)
    models = await refused(shared, request("/v1/models", method="GET", key=KEYS["globex"]))
    assert [model["id"] for model in models.json["data"]] == ["chat-8b"]


@pytest.mark.parametrize(
    ("headers", "code"),
    [([JSON, ("Content-Encoding", "gzip")], "unsupported_encoding"),
     ([JSON, ("content-encoding", "identity"), ("content-encoding", "gzip")], "unsupported_encoding"),
     ([("Content-Type", "text/plain")], "unsupported_media_type"),
     ([("Content-Type", "multipart/form-data; boundary=x")], "unsupported_media_type")],
    ids=["compressed", "compressed, second header", "text", "a form"],
)  # fmt: skip
async def test_a_body_that_cannot_be_read_is_415(shared: Stack, headers: Headers, code: str) -> None:
    response = await refused(shared, request(headers=headers, body=gzip.compress(chat_body()), key=KEY))
    assert (response.status, response.error_code) == (415, code)


def body_of(size: int, mark: str) -> bytes:
    return chat_body(mark=mark, pad="x" * (size - len(chat_body(mark=mark, pad=""))))


async def send(address: Stack, way: str, body: bytes) -> Response:
    if way == "content-length":
        return await address.ask(request(headers=[JSON], body=body, key=KEY))
    if way == "chunked":
        chunks = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
        return await address.ask(request(headers=[JSON, CHUNKED], key=KEY) + chunks)
    lengths = [("content-length", str(len(body)))] if way == "HTTP/2, content-length" else []
    return await ask_h2(address.address, headers=[("content-type", "application/json"), *lengths], body=body, key=KEY)


@pytest.mark.parametrize("way", ["content-length", "chunked", "HTTP/2, content-length", "HTTP/2"])
async def test_a_body_of_exactly_the_limit_passes_and_one_byte_more_is_413(shared: Stack, way: str) -> None:
    exact = await send(shared, way, body_of(MAX_BODY_BYTES, f"exact {way}"))
    assert exact.status == 200
    assert len(shared.upstream.marked(f"exact {way}")[0].body) > MAX_BODY_BYTES  # stamped, hence longer
    seen = len(shared.upstream.seen)
    for size in (MAX_BODY_BYTES + 1, 2 * MAX_BODY_BYTES, 16 * MAX_BODY_BYTES):
        beyond = await send(shared, way, body_of(size, "beyond"))
        assert (beyond.status, beyond.error_code) == (413, "body_too_large")
    assert len(shared.upstream.seen) == seen


async def test_the_default_limit_is_10_mebibytes(tmp_path: Path) -> None:
    async with stack(tmp_path, rules) as here:
        for way in ("chunked", "HTTP/2"):
            assert (await send(here, way, body_of(10 * 2**20, way))).status == 200
            beyond = await send(here, way, body_of(10 * 2**20 + 1, "beyond"))
            assert (beyond.status, beyond.error_code) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("key", "target", "status"),
    [(None, "/milvus.proto.milvus.MilvusService/Search", 16), ("tk_unknown", "/v1/chat/completions", 16),
     (KEY, "/milvus.proto.milvus.MilvusService/Search", 7), (KEY, "/v1/chat/completions", 3)],
    ids=["UNAUTHENTICATED without a key", "UNAUTHENTICATED", "PERMISSION_DENIED", "INVALID_ARGUMENT"],
)  # fmt: skip
async def test_a_grpc_client_gets_a_status_that_it_does_not_retry(
    shared: Stack, key: str | None, target: str, status: int
) -> None:
    """pymilvus retries most codes up to 75 times, but not these three."""
    seen = len(shared.upstream.seen)
    message = b"\x00\x00\x00\x00\x02{}"
    headers = [GRPC, ("te", "trailers")]
    response = await ask_h2(shared.address, headers=headers, body=message, key=key, target=target)
    assert (response.status, response.header("content-type")) == (200, "application/grpc")
    assert response.header("grpc-status") == str(status)
    assert response.header("grpc-message")
    assert len(shared.upstream.seen) == seen
