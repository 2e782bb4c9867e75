"""The webhook against a real receiver on this machine."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest
import structlog
from aiohttp import web
from msgspec import structs
from tenantry.adapters import logs, webhook
from tenantry.adapters.webhook import Webhook
from tenantry.core.rollout.conduct import Entry
from tenantry.core.rollout.standing import State
from tenantry_testing.documents import NOW
from tenantry_testing.rollouts import until

PATH = "/hook/T0K3N"
ENTRY = Entry(
    id="abc/reverted/fleet/1.0", at_s=NOW, rollout="abc", model="chat-8b", candidate="1.5.0", stable="1.4.0",
    scope="fleet", kind="reverted", before=State.SPLITTING, after=State.REVERTED, who="guard", why="it smokes",
)  # fmt: skip


class Receiver:
    """Answers by `statuses`, then 200; 0 hangs. `heard` is what was posted."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.heard: list[dict[str, object]] = []
        self.paths: list[str] = []
        self.url = ""

    async def hear(self, request: web.Request) -> web.Response:
        self.paths.append(request.path)
        if request.path == PATH:
            assert request.headers["content-type"] == "application/json"
            self.heard.append(await request.json())
        status = self.statuses.pop(0) if self.statuses else 200
        if status == 0:
            await asyncio.sleep(60)
        return web.Response(status=status, headers={"location": "/elsewhere"} if 300 <= status < 400 else {})


@pytest.fixture(autouse=True)
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    logs.configure(stream)
    yield stream
    assert "T0K3N" not in stream.getvalue()
    structlog.reset_defaults()


@asynccontextmanager
async def telling(receiver: Receiver, url: str | None = None) -> AsyncIterator[Webhook]:
    app = web.Application()
    app.add_routes([web.route("*", "/{path:.*}", receiver.hear)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = url or f"http://127.0.0.1:{runner.addresses[0][1]}{PATH}"
    hook = Webhook(lambda: receiver.url or None, pause_seconds=0.005)
    task = asyncio.create_task(hook.run())
    try:
        yield hook
        assert not task.done()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await runner.cleanup()


def logged(log: io.StringIO) -> list[tuple[str, object]]:
    return [(line["event"], line.get("status")) for line in map(json.loads, log.getvalue().splitlines())]


async def test_what_is_told_is_the_entry_and_a_sentence(log: io.StringIO) -> None:
    receiver = Receiver()
    async with telling(receiver) as hook:
        hook.tell(ENTRY)
        hook.tell(structs.replace(ENTRY, id="second", kind="alarm"))
        await hook.settle(5)
    first, second = receiver.heard
    assert first["text"] == "tenantry: chat-8b 1.5.0 reverted for fleet (guard): it smokes"
    assert first["id"] == ENTRY.id
    assert (first["before"], first["after"]) == ("splitting", "reverted")
    assert str(second["text"]).startswith("tenantry: chat-8b 1.5.0 needs a look for fleet")
    assert logged(log) == []


@pytest.mark.parametrize("status", [500, 503, 408, 429])
async def test_a_receiver_in_trouble_is_told_again_under_the_same_id(log: io.StringIO, status: int) -> None:
    receiver = Receiver(status, status)
    async with telling(receiver) as hook:
        hook.tell(ENTRY)
        await hook.settle(5)
    assert [heard["id"] for heard in receiver.heard] == [ENTRY.id] * 3
    assert logged(log) == []


async def test_a_receiver_that_hangs_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "TIMEOUT", aiohttp.ClientTimeout(total=0.05))
    receiver = Receiver(0)
    async with telling(receiver) as hook:
        hook.tell(ENTRY)
        await hook.settle(5)
    assert len(receiver.heard) == 2


@pytest.mark.parametrize("status", [400, 401, 404, 410])
async def test_what_a_receiver_does_not_like_is_not_repeated(log: io.StringIO, status: int) -> None:
    receiver = Receiver(status)
    async with telling(receiver) as hook:
        hook.tell(ENTRY)
        hook.tell(structs.replace(ENTRY, id="second"))
        await hook.settle(5)
    assert [heard["id"] for heard in receiver.heard] == [ENTRY.id, "second"]
    assert logged(log) == [("webhook not told", status)]


@pytest.mark.parametrize("status", [302, 307])
async def test_a_redirect_is_not_followed(log: io.StringIO, status: int) -> None:
    """The body once went wherever it led, and the 200 of a login page was taken for a delivery."""
    receiver = Receiver(status)
    async with telling(receiver) as hook:
        hook.tell(ENTRY)
        await hook.settle(5)
    assert receiver.paths == [PATH]
    assert logged(log) == [("webhook not told", status)]


@pytest.mark.parametrize("url", [f"http://127.0.0.1:1{PATH}", f"http://[{PATH}", f"http://nowhere.invalid{PATH}"])
async def test_a_receiver_that_is_not_there_is_given_up_after_a_while(log: io.StringIO, url: str) -> None:
    async with telling(Receiver(), url) as hook:
        hook.tell(ENTRY)
        await hook.settle(10)
    assert logged(log) == [("webhook not told", None)]


async def test_the_url_is_that_of_the_moment() -> None:
    receiver = Receiver(500)
    async with telling(receiver) as hook:
        right, receiver.url = receiver.url, f"http://127.0.0.1:1{PATH}"
        hook.tell(ENTRY)
        await asyncio.sleep(0.01)
        receiver.url = right
        await until(lambda: len(receiver.heard) == 2)
        await hook.settle(5)


async def test_without_a_url_nothing_is_told(log: io.StringIO) -> None:
    receiver = Receiver(500)
    async with telling(receiver) as hook:
        receiver.url = ""
        hook.tell(ENTRY)
        await hook.settle(0.1)
        assert hook._waiting.empty()
    assert (receiver.heard, logged(log)) == ([], [])


async def test_those_that_wait_are_bounded(log: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "MAX_WAITING", 3)
    hook = Webhook(lambda: f"http://127.0.0.1:1{PATH}")
    for _ in range(5):
        hook.tell(ENTRY)
    assert logged(log) == [("webhook not told: too many wait", None)] * 2
    begin = asyncio.get_running_loop().time()
    await hook.settle(0.05)  # nobody delivers, and nobody waits for ever
    assert asyncio.get_running_loop().time() - begin < 1.0


async def test_a_bug_ends_nothing(log: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver, right = Receiver(), webhook.body

    def body(entry: Entry) -> bytes:
        if entry.id == "bad":
            raise KeyError("T0K3N")
        return right(entry)

    monkeypatch.setattr(webhook, "body", body)
    async with telling(receiver) as hook:
        hook.tell(structs.replace(ENTRY, id="bad"))
        hook.tell(ENTRY)
        await hook.settle(5)
    assert [heard["id"] for heard in receiver.heard] == [ENTRY.id]
    assert logged(log) == [("webhook not told", None)]
