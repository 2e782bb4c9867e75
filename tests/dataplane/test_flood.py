"""One client's many requests end at once; nobody else's answer may.

Envoy holds one ext_proc stream per open exchange on a few connections that all tenants share. When a
client connection closes, Envoy resets each of its streams to the sidecar at once; with Envoy's default
bound of 1,000 such frames it took its own connection for a flood, closed it, and cut every answer in
flight. No credential was needed.
"""

import asyncio

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection

from dataplane.harness import KEYS, Stack
from dataplane.upstream import LAST_CHUNK, SSE_HEAD, Step, chunk
from dataplane.wire import chat

CONNECTIONS, STREAMS = 3, 1000


@pytest.mark.parametrize("key", [None, KEYS["acme"]])
async def test_a_client_that_leaves_with_a_thousand_requests_cuts_no_answer(shared: Stack, key: str | None) -> None:
    gate = asyncio.Event()
    steps: list[Step] = [SSE_HEAD, chunk(b"data: 1\n\n"), gate, chunk(b"data: 2\n\n"), LAST_CHUNK]
    shared.upstream.scripts["bystander"] = lambda _seen: steps
    seen = len(shared.upstream.seen)
    bystanders = [
        asyncio.create_task(shared.ask(chat(KEYS["globex"], script="bystander", mark=f"bystander {key} {number}")))
        for number in range(10)
    ]
    async with asyncio.timeout(20):
        while len(shared.upstream.seen) < seen + len(bystanders):
            await asyncio.sleep(0.02)
    for _ in range(CONNECTIONS):
        await leave_with_open_requests(shared.address, key)
    await asyncio.sleep(1)  # for Envoy to reset them all
    assert not any(bystander.done() for bystander in bystanders)
    gate.set()
    for answer in await asyncio.gather(*bystanders):
        assert (answer.status, answer.body, answer.complete) == (200, b"data: 1\n\ndata: 2\n\n", True)


async def leave_with_open_requests(address: str, key: str | None) -> None:
    """Begin a thousand requests whose bodies never come, and close the connection."""
    reader, writer = await asyncio.open_connection(*address.split(":"))
    http2 = H2Connection(H2Configuration(client_side=True))
    http2.initiate_connection()
    writer.write(http2.data_to_send())
    http2.receive_data(await reader.read(65536))  # Envoy's settings
    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", address),
        (":path", "/v1/chat/completions"),
        ("content-type", "application/json"),
    ]
    if key is not None:
        headers.append(("authorization", f"Bearer {key}"))
    for _ in range(STREAMS):
        http2.send_headers(http2.get_next_available_stream_id(), headers)
    writer.write(http2.data_to_send())
    await writer.drain()
    await asyncio.sleep(0.3 if key is None else 2)  # a keyed request waits for its body; let each get that far
    writer.transport.abort()
