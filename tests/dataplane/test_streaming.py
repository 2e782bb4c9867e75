"""Answers stream past the sidecar: every byte as it was sent, at the moment it was sent, at no message."""

import asyncio
import time

import pytest

from dataplane.harness import KEYS, Stack, until
from dataplane.upstream import CLOSE, CUT, LAST_CHUNK, OK, SSE_HEAD, Script, Step, chunk, fixed, sse
from dataplane.wire import Connection, Response, chat, chat_body
from dataplane.wire_h2 import ask_h2

KEY = KEYS["acme"]

EVENTS = {
    "LF": b'data: {"a": 1}\n\ndata: {"b": 2}\n\ndata: [DONE]\n\n',
    "CRLF": b'data: {"a": 1}\r\n\r\ndata: {"b": 2}\r\n\r\ndata: [DONE]\r\n\r\n',
    "CR": b"data: 1\r\rdata: [DONE]\r\r",
    "comments": b": keep-alive\n\n: another\ndata: 1\n\n:\n\ndata: [DONE]\n\n",
    "fields": b"event: delta\nid: 7\nretry: 10\ndata: 1\ndata: 2\n\n",
    "multi-byte": "data: ключ 鍵 🔑\n\n".encode(),
    "not UTF-8": b"data: \xff\xfe\x00\n\n",
    "no end": b"data: 1\n\ndata: unfinished",
    "chunk-like": b"data: 5\r\n\r\n0\r\n\r\n",
    "empty": b"",
}


def bytewise(data: bytes) -> list[Step]:
    """Each byte of a response in a write of its own, so that packets split everywhere, within framing too."""
    return [step for byte in data for step in (bytes([byte]), 0.0)]


def playing(steps: list[Step]) -> Script:
    return lambda _seen: steps


def in_halves(body: bytes) -> list[list[bytes]]:
    return [[body[:cut], body[cut:]] for cut in range(1, len(body))]


@pytest.mark.parametrize("what", EVENTS)
async def test_the_bytes_of_a_stream_are_those_that_the_upstream_sent(shared: Stack, what: str) -> None:
    """Whole, each byte a chunk, each byte a packet, cut in two at every place, and ended by closing."""
    body = EVENTS[what]
    pieces = {"whole": [body] if body else [], "bytes": [bytes([byte]) for byte in body]}
    scripts: dict[str, list[Step]] = {name: sse(parts) for name, parts in pieces.items()}
    whole = b"".join(step for step in scripts["whole"] if isinstance(step, bytes))
    scripts["packets"] = bytewise(whole)
    scripts["by length"] = bytewise(fixed(body, content_type="text/event-stream"))
    scripts["by closing"] = [
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n",
        body,
        CLOSE,
    ]
    for index, halves in enumerate(in_halves(body)):
        scripts[f"cut at {index + 1}"] = sse(halves)
    for name, steps in scripts.items():
        shared.upstream.scripts[f"{what} {name}"] = playing(steps)
    answers = await asyncio.gather(*(shared.ask(chat(KEY, script=f"{what} {name}")) for name in scripts))
    for name, answer in zip(scripts, answers, strict=True):
        assert (name, answer.status, answer.complete, answer.body) == (name, 200, True, body)


async def test_an_event_arrives_while_the_next_is_not_there_yet(shared: Stack) -> None:
    gates = [asyncio.Event() for _ in range(3)]
    steps: list[Step] = [SSE_HEAD]
    for number, gate in enumerate(gates):
        steps += [chunk(b"data: %d\n\n" % number), gate]
    shared.upstream.scripts["gated"] = lambda _seen: [*steps, LAST_CHUNK]
    async with await Connection.open(shared.address) as connection:
        await connection.send(chat(KEY, script="gated"))
        status, _headers = await connection.head()
        assert status == 200
        for number, gate in enumerate(gates):
            assert await asyncio.wait_for(connection.chunk(), 5) == b"data: %d\n\n" % number
            gate.set()
        assert await asyncio.wait_for(connection.chunk(), 5) is None


async def test_response_headers_come_before_the_first_token(shared: Stack) -> None:
    """As the engine sends them: time to first byte is not time to first token."""
    gate = asyncio.Event()
    shared.upstream.scripts["headers first"] = lambda _seen: [SSE_HEAD, gate, LAST_CHUNK]
    async with await Connection.open(shared.address) as connection:
        await connection.send(chat(KEY, script="headers first"))
        status, headers = await asyncio.wait_for(connection.head(), 5)
        assert (status, dict(headers)["content-type"]) == (200, "text/event-stream")
        assert not any(name.startswith("x-envoy") for name, _ in headers)
        gate.set()
        assert await connection.chunk() is None


@pytest.mark.parametrize("chunks", [0, 1, 500])
async def test_a_post_costs_two_messages_however_long_its_stream(shared: Stack, chunks: int) -> None:
    labels = {"tenant": "initech", "state": "passed on"}  # nobody else's
    before = await shared.total("tenantry_ext_proc_messages_total", **labels)
    ended = await shared.total("tenantry_ext_proc_exchanges_total", **labels)
    shared.upstream.scripts["counted"] = lambda _seen: sse([b"data: x\n\n"] * chunks) if chunks else [OK]
    answer = await shared.ask(chat(KEYS["initech"], script="counted"))
    assert (answer.complete, answer.body.count(b"data")) == (True, chunks)
    async with asyncio.timeout(5):
        while await shared.total("tenantry_ext_proc_exchanges_total", **labels) != ended + 1:
            await asyncio.sleep(0.01)
    assert await shared.total("tenantry_ext_proc_messages_total", **labels) == before + 2


async def test_2000_streams_at_once(shared: Stack) -> None:
    """Each open exchange holds an ext_proc stream; with Envoy's default breakers the 1,025th got 500."""
    count, gate = 2000, asyncio.Event()
    seen = len(shared.upstream.seen)
    shared.upstream.scripts["held"] = lambda _seen: [
        SSE_HEAD,
        chunk(b"data: 1\n\n"),
        gate,
        chunk(b"data: 2\n\n"),
        LAST_CHUNK,
    ]
    at_once = asyncio.Semaphore(200)  # connecting; a backlog is finite
    connections: list[Connection] = []
    try:

        async def begin() -> None:
            async with at_once:
                connection = await Connection.open(shared.address)
                connections.append(connection)
                await connection.send(chat(KEY, script="held"))
                assert (await connection.head())[0] == 200
                assert await connection.chunk() == b"data: 1\n\n"

        await asyncio.gather(*(begin() for _ in range(count)))
        assert len(shared.upstream.seen) - seen == count
        assert await shared.total("tenantry_ext_proc_open_exchanges") >= count
        gate.set()
        for connection in connections:
            assert await asyncio.wait_for(connection.chunk(), 30) == b"data: 2\n\n"
            assert await connection.chunk() is None
    finally:
        for connection in connections:
            connection.abort()
        await asyncio.sleep(0)
    # All that stay are the stream of 20 s.
    async with asyncio.timeout(10):
        while await shared.open_exchanges() > 1:
            await asyncio.sleep(0.01)


async def ended(shared: Stack, mark: str) -> tuple[str, int, list[str]]:
    """How the outcome log says that an exchange ended: word, code, flags."""
    (seen,) = shared.upstream.marked(mark)
    outcome = await shared.outcome(seen.header("x-tenantry-request-id")[0].decode())
    return outcome["ended"], outcome["code"], outcome["flags"]


@pytest.mark.parametrize("what", ["while it streams", "before it begins"])
async def test_a_client_that_leaves_is_an_abort_and_the_engine_is_told(shared: Stack, what: str) -> None:
    """So the engine stops generating, and the sidecar knows that a slot is free."""
    never, open_before = asyncio.Event(), await shared.open_exchanges()
    head: list[Step] = [SSE_HEAD, chunk(b"data: 1\n\n")] if what == "while it streams" else []
    shared.upstream.scripts[what] = lambda _seen: [*head, never]
    async with await Connection.open(shared.address) as connection:
        await connection.send(chat(KEY, script=what, mark=what))
        await until(lambda: shared.upstream.marked(what))
        if head:
            await connection.head()
            await connection.chunk()
        assert await shared.open_exchanges() == open_before + 1
    begin = time.monotonic()
    await asyncio.wait_for(shared.upstream.marked(what)[0].left.wait(), 5)
    while await shared.open_exchanges() != open_before:
        await asyncio.sleep(0.01)
    assert time.monotonic() - begin < 1
    assert await ended(shared, what) == ("aborted", 200 if head else 0, ["downstream_connection_termination"])


async def test_a_reset_http2_stream_is_an_abort_too(shared: Stack) -> None:
    shared.upstream.scripts["h2 left"] = lambda _seen: [SSE_HEAD, chunk(b"data: 1\n\n"), asyncio.Event()]
    headers, body = [("content-type", "application/json")], chat_body(script="h2 left", mark="h2 left")
    with pytest.raises(TimeoutError):
        await ask_h2(shared.address, headers=headers, body=body, key=KEY, timeout=0.3)
    word, code, _flags = await ended(shared, "h2 left")
    assert (word, code) == ("aborted", 200)


async def test_what_is_delivered_whole_is_completed_whatever_its_status(shared: Stack) -> None:
    shared.upstream.scripts["500"] = lambda _seen: [fixed(b"{}", status="500 Internal Server Error")]
    assert (await shared.ask(chat(KEY, mark="whole"))).status == 200
    assert await ended(shared, "whole") == ("completed", 200, [])
    assert (await shared.ask(chat(KEY, mark="engine error", script="500"))).status == 500
    assert await ended(shared, "engine error") == ("completed", 500, [])


async def test_an_upstream_that_dies_is_a_failure(shared: Stack) -> None:
    shared.upstream.scripts["dies in it"] = lambda _seen: [SSE_HEAD, chunk(b"data: 1\n\n"), 0.05, CUT]
    shared.upstream.scripts["dies first"] = lambda _seen: [CUT]
    shared.upstream.scripts["ends early"] = lambda _seen: [
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345",
        0.05,
        CUT,
    ]
    in_it = await shared.ask(chat(KEY, mark="dies in it", script="dies in it"))
    assert (in_it.status, in_it.body, in_it.complete) == (200, b"data: 1\n\n", False)
    word, code, flags = await ended(shared, "dies in it")
    assert (word, code) == ("failed", 200)
    assert flags

    first = await shared.ask(chat(KEY, mark="dies first", script="dies first"))
    assert (first.status, first.error_code) == (503, "service_unavailable")
    assert (await ended(shared, "dies first"))[:2] == ("failed", 503)

    early = await shared.ask(chat(KEY, mark="ends early", script="ends early"))
    assert (early.body, early.complete) == (b"12345", False)
    assert (await ended(shared, "ends early"))[:2] == ("failed", 200)


async def test_a_stream_of_20_seconds_arrives_whole(long_stream: asyncio.Task[Response]) -> None:
    """Envoy's default route timeout cut it at 15.0 s."""
    answer = await long_stream
    assert (answer.status, answer.complete) == (200, True)
    assert answer.body == b"".join(b"data: %d\n\n" % number for number in range(20))
