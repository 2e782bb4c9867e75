"""SIGTERM: what is on its way arrives, what comes then is refused or decided elsewhere, nothing slips (1, 5)."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from dataplane.harness import KEYS, Stack, until
from dataplane.processes import Process, beside
from dataplane.upstream import LAST_CHUNK, SSE_HEAD, Step, chunk
from dataplane.wire import Connection, Response, chat, load, request

EVENTS = [b"data: %d\n\n" % number for number in range(3)]
WHOLE = b"".join(EVENTS)
GOOD = chat(KEYS["acme"])


@pytest_asyncio.fixture(loop_scope="session")
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Stack, Process]]:
    async with beside(tmp_path, arguments=("--grace-seconds", "2")) as (here, (sidecar,)):
        yield here, sidecar


async def streaming(here: Stack, gate: asyncio.Event, count: int) -> list[asyncio.Task[Response]]:
    """Streams in flight that hold at `gate` after their first event."""
    first, *rest = EVENTS
    last: list[Step] = [*map(chunk, rest), LAST_CHUNK]
    here.upstream.scripts["gated"] = lambda _seen: [SSE_HEAD, chunk(first), gate, *last]
    tasks = [asyncio.create_task(here.ask(chat(KEYS["acme"], script="gated", mark="gated"))) for _ in range(count)]
    await until(lambda: len(here.upstream.marked("gated")) == count)
    return tasks


async def half_sent(here: Stack) -> Connection:
    """A request of which the sidecar has the headers, and Envoy awaits the last ten bytes."""
    connection = await Connection.open(here.address)
    await connection.send(GOOD[:-10])
    async with asyncio.timeout(10):
        while await here.total("tenantry_ext_proc_open_exchanges") == 0:
            await asyncio.sleep(0.01)
    return connection


def all_stamped(here: Stack) -> bool:
    """Whether each request at the upstream carries the sidecar's decision."""
    return all(seen.header("x-tenantry-tenant") and "cache_salt" in seen.json for seen in here.upstream.seen)


async def test_streams_outlive_the_sidecar_that_decided_them(pair: tuple[Stack, Process]) -> None:
    """The sidecar need not stay for them: it ends in moments, and they go on.

    Many, since a drain that closed their connection before Envoy had read the end of each cut some.
    """
    here, sidecar = pair
    assert (await here.ask(GOOD)).status == 200  # so that Envoy holds an access-log stream, which never ends
    here.upstream.seen.clear()
    streams = await streaming(here, gate := asyncio.Event(), 300)
    sidecar.signal(signal.SIGTERM)
    assert await sidecar.exit(1.9) == 0  # before the grace is over
    after = await asyncio.gather(*(here.ask(data) for data in (GOOD, GOOD, request("/sleep"), chat("tk_unknown"))))
    assert [response.status for response in after] == [503] * 4
    assert not any(stream.done() for stream in streams)
    gate.set()
    for response in await asyncio.gather(*streams):
        assert (response.status, response.body, response.complete) == (200, WHOLE, True)
    assert len(here.upstream.seen) == 300
    assert [line["open_exchanges"] for line in sidecar.lines() if line["event"] == "draining"] == [300]


async def test_a_request_that_is_being_sent_is_still_decided(pair: tuple[Stack, Process]) -> None:
    here, sidecar = pair
    async with await half_sent(here) as connection:
        sidecar.signal(signal.SIGTERM)
        await asyncio.sleep(0.8)
        response = await connection.ask(GOOD[-10:])
    assert (response.status, len(here.upstream.seen), all_stamped(here)) == (200, 1, True)
    assert await sidecar.exit(5) == 0


async def test_one_that_takes_longer_than_the_grace_is_refused(pair: tuple[Stack, Process]) -> None:
    """The end of the grace must not be a clean end of its ext_proc stream, which Envoy takes for consent."""
    here, sidecar = pair
    async with await half_sent(here) as connection:
        sidecar.signal(signal.SIGTERM)
        assert await sidecar.exit(10) == 0
        response = await connection.ask(GOOD[-10:])
    assert (response.status, response.error_code, here.upstream.seen) == (503, "service_unavailable", [])


async def test_of_two_sidecars_one_is_drained_under_load_and_no_request_fails(tmp_path: Path) -> None:
    async with beside(tmp_path, count=2) as (here, (first, _second)):
        streams = await streaming(here, gate := asyncio.Event(), 300)
        async with load(here.address, 200, lambda _number: GOOD) as responses:
            await until(lambda: len(responses) > 50)
            first.signal(signal.SIGTERM)
            assert await first.exit(10) == 0
            after = len(responses)
            await until(lambda: len(responses) > after + 200)
        gate.set()
        for response in await asyncio.gather(*streams):
            assert (response.body, response.complete) == (WHOLE, True)
        assert {response.status for response in responses} == {200}
        assert len(here.upstream.seen) == len(responses) + len(streams)
        assert all_stamped(here)
