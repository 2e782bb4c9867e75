"""The sidecar killed, hung, never started: nothing passes, and it heals by itself (invariants 1, 5)."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest_asyncio

from dataplane.harness import KEYS, Files, Stack, envoy, rules, until
from dataplane.processes import Process, beside, tenantry
from dataplane.upstream import LAST_CHUNK, SSE_HEAD, Step, Upstream, chunk
from dataplane.wire import Response, ask, chat, load, request

FORGED = [("x-tenantry-tenant", "mallory"), ("x-tenantry-cluster", "chat-8b@1.4.0")]
REQUESTS = {
    "good": chat(KEYS["acme"]),
    "forged": chat(KEYS["acme"], headers=FORGED),
    "unknown key": chat("tk_unknown", headers=FORGED),
    "no key": chat(None),
    "models": request("/v1/models", method="GET", key=KEYS["acme"]),
    "another route": request("/sleep", key=KEYS["acme"]),
}


async def statuses(address: str, times: int = 1) -> dict[str, set[int]]:
    """What each kind of request gets, `times` at once."""

    async def one(data: bytes) -> set[int]:
        responses: Iterable[Response] = await asyncio.gather(*(ask(address, data) for _ in range(times)))
        for response in responses:
            assert response.error_code
        return {response.status for response in responses}

    return dict(zip(REQUESTS, await asyncio.gather(*map(one, REQUESTS.values())), strict=True))


ALL_503 = {name: {503} for name in REQUESTS}


@pytest_asyncio.fixture(loop_scope="session")
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Stack, Process]]:
    """A sidecar process beside an Envoy, seen to work."""
    async with beside(tmp_path, message_timeout_seconds=1.0) as (here, (sidecar,)):
        assert (await here.ask(chat(KEYS["acme"]))).status == 200
        here.upstream.seen.clear()
        yield here, sidecar


async def test_never_started(tmp_path: Path) -> None:
    files = Files(folder=tmp_path)
    async with Upstream().running() as upstream:
        files.save(rules(upstream))
        async with envoy(files, (str(tmp_path / "nobody"),)) as (address, _admin):
            assert await statuses(address, times=3) == ALL_503
        assert upstream.connections == 0


async def test_killed_and_started_again(pair: tuple[Stack, Process]) -> None:
    here, sidecar = pair
    sidecar.signal(signal.SIGKILL)
    await sidecar.exit()
    assert await statuses(here.address, times=3) == ALL_503
    assert here.upstream.seen == []

    async with tenantry(here.files.folder, *sidecar.arguments, name="again") as again:
        await again.line("sidecar ready")
        async with asyncio.timeout(10):
            while (await here.ask(chat(KEYS["acme"], mark="again"))).status != 200:
                await asyncio.sleep(0.05)
    assert len(here.upstream.marked("again")) == 1


async def test_of_two_sidecars_one_is_killed_under_load(tmp_path: Path) -> None:
    """The other takes over. A request whose decision died with it is decided anew, and reaches the upstream once."""
    async with beside(tmp_path, count=2) as (here, (first, _second)):
        async with load(here.address, 200, lambda _number: REQUESTS["forged"]) as responses:
            await until(lambda: len(responses) > 50)
            first.signal(signal.SIGKILL)
            after = len(responses)
            await until(lambda: len(responses) > after + 200)
        failed = [response.status for response in responses if response.status != 200]
        ejections = await ask(here.envoy_admin, request("/stats?filter=ejections_active", method="GET"))
        assert ejections.body == b"cluster.tenantry_sidecar.outlier_detection.ejections_active: 1\n"
        assert len(failed) <= 2, failed  # cut between the headers' answer and the body's
        assert len(here.upstream.seen) == len(responses) - len(failed)
        assert {seen.header("x-tenantry-tenant")[0] for seen in here.upstream.seen} == {b"acme"}


async def test_hung_and_awake_again(pair: tuple[Stack, Process]) -> None:
    """What Envoy logged meanwhile reaches the sidecar when it wakes, and names nobody."""
    here, sidecar = pair
    sidecar.signal(signal.SIGSTOP)
    try:
        assert await statuses(here.address, times=3) == ALL_503
    finally:
        sidecar.signal(signal.SIGCONT)
    refused = 3 * len(REQUESTS)

    async with asyncio.timeout(10):
        while await here.total("tenantry_access_log_unattributed_total") < refused:
            await asyncio.sleep(0.05)
    assert here.upstream.seen == []
    assert "mallory" not in str(await here.metrics()) + here.files.outcomes.read_text() + sidecar.log.read_text()
    # The requests that it finds waiting were answered long ago.
    assert {outcome["code"] for outcome in here.outcomes()} == {200}
    response = await here.ask(chat(KEYS["acme"], mark="awake"))
    assert (response.status, len(here.upstream.marked("awake"))) == (200, 1)


async def test_killed_while_a_request_waits_for_its_body(pair: tuple[Stack, Process]) -> None:
    """Decided half: the sidecar answered the headers, and dies before the body is there."""
    here, sidecar = pair
    good = chat(KEYS["acme"])
    reader, writer = await asyncio.open_connection(*here.address.split(":"))
    writer.write(good[:-10])
    await until_open(here)
    sidecar.signal(signal.SIGKILL)
    await sidecar.exit()
    writer.write(good[-10:])
    head = await asyncio.wait_for(reader.readuntil(b"\r\n"), 10)
    writer.transport.abort()
    await asyncio.sleep(0)
    assert (head, here.upstream.seen) == (b"HTTP/1.1 503 Service Unavailable\r\n", [])


EVENTS = [b"data: %d\n\n" % number for number in range(3)]


async def streaming(here: Stack, gate: asyncio.Event) -> asyncio.Task[Response]:
    """A stream in flight that holds at `gate` after its first event."""
    first, *rest = EVENTS
    last: list[Step] = [*map(chunk, rest), LAST_CHUNK]
    here.upstream.scripts["gated"] = lambda _seen: [SSE_HEAD, chunk(first), gate, *last]
    task = asyncio.create_task(here.ask(chat(KEYS["acme"], script="gated", mark="gated")))
    await until(lambda: here.upstream.marked("gated"))
    await asyncio.sleep(0.1)
    return task


async def test_killed_cuts_the_streams_in_flight_and_the_upstreams_see_it(pair: tuple[Stack, Process]) -> None:
    """Envoy ends an exchange whose ext_proc stream breaks. The client sees a cut, not an end, and does not hang."""
    here, sidecar = pair
    stream = await streaming(here, asyncio.Event())
    sidecar.signal(signal.SIGKILL)
    response = await asyncio.wait_for(stream, 5)
    assert (response.status, response.body, response.complete) == (200, EVENTS[0], False)
    await asyncio.wait_for(here.upstream.marked("gated")[0].left.wait(), 5)


async def test_hung_lets_the_streams_in_flight_arrive_whole(pair: tuple[Stack, Process]) -> None:
    here, sidecar = pair
    stream = await streaming(here, gate := asyncio.Event())
    sidecar.signal(signal.SIGSTOP)
    await asyncio.sleep(1.5)  # beyond the time after which a new request is given up
    gate.set()
    response = await asyncio.wait_for(stream, 5)
    sidecar.signal(signal.SIGCONT)
    assert (response.body, response.complete) == (b"".join(EVENTS), True)
    assert (await here.outcome(response.request_id))["ended"] == "completed"


async def until_open(here: Stack) -> None:
    """Wait until the sidecar has the headers of one exchange."""
    async with asyncio.timeout(10):
        while await here.total("tenantry_ext_proc_open_exchanges") != 1:
            await asyncio.sleep(0.01)
