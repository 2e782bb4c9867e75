"""The export over HTTP: what it sends, what it makes of connections that fail, and where the token goes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from tenantry.adapters.ledger.export.http import Http, renderer
from tenantry.adapters.ledger.export.outbox import Claimed, Unmapped
from tenantry.adapters.ports import free_port
from tenantry.core.billing.answers import MAX_ANSWER_BYTES, Answer
from tenantry.core.billing.export import HourSum
from tenantry.core.billing.export_settings import DESTINATIONS, DestinationName
from tenantry_testing.billing_standins import TOKEN, BillingStandIn, served
from tenantry_testing.exports import NOW, Clock, Rig, settings_for

EVENTS = (Claimed(id="r1", body='{"id":"r1"}', attempt=2, doubtful_before_s=None),)


async def test_all_three_over_a_real_connection(tmp_path: Path) -> None:
    clock = Clock()
    standin = BillingStandIn(now=clock, refused={"evil"})
    async with served(standin) as url, Http(clock) as http:
        rig = Rig(tmp_path, settings_for(tmp_path, *DESTINATIONS, url=f"{url}/"), http, clock)
        for number in range(150):
            rig.ledger.add(tenant="evil" if number == 9 else "acme", at_s=NOW - 7200)
        for name in DESTINATIONS:
            await rig.step(name)
        clock.now_s += 400
        await rig.step("stripe")
        await rig.tables.close()
    assert standin.faults == []
    assert set(standin.counted_at.values()) == {1}
    assert standin.total["acme"] == 2 * 149 * 3 / 2
    assert standin.total["cus_acme"] == 149 * 1_500


@asynccontextmanager
async def answering(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    app = web.Application()
    app.add_routes([web.route("*", "/{path:.*}", handler)])
    runner = web.AppRunner(app, shutdown_timeout=0, handler_cancellation=True)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


async def ask(folder: Path, url: str, name: DestinationName = "lago", **changes: object) -> Answer:
    settings = settings_for(folder, name, url=url, **({"timeoutSeconds": 10} | changes))
    async with Http(Clock()) as http:
        return await http.send(name, getattr(settings, name), EVENTS)


async def test_what_is_sent(tmp_path: Path) -> None:
    seen = []

    async def note(request: web.Request) -> web.Response:
        seen.append((request.path, request.headers, await request.text()))
        return web.Response(status=204)

    async with answering(note) as url:
        for name in DESTINATIONS:
            await ask(tmp_path, f"{url}/base/", name)
    assert [path for path, _, _ in seen] == [
        "/base/api/v1/events", "/base/api/v1/events/batch", "/base/v1/billing/meter_events",
    ]  # fmt: skip
    assert [body for _, _, body in seen] == ['[{"id":"r1"}]', '{"events":[{"id":"r1"}]}', '{"id":"r1"}']
    assert [headers["Content-Type"] for _, headers, _ in seen] == [
        "application/cloudevents-batch+json", "application/json", "application/x-www-form-urlencoded",
    ]  # fmt: skip
    assert {headers["Authorization"] for _, headers, _ in seen} == {f"Bearer {TOKEN}"}
    # After two answers the third key: Stripe would repeat the answer to a key that it knows, a 500 too.
    assert [headers.get("Idempotency-Key") for _, headers, _ in seen] == [None, None, "r1-2"]


async def test_nothing_left_without_a_connection(tmp_path: Path) -> None:
    answer = await ask(tmp_path, f"http://127.0.0.1:{free_port()}")
    assert (answer.status, answer.left) == (None, False)
    answer = await ask(tmp_path, "http://no-such-host.invalid", tokenFile=None)
    assert (answer.status, answer.left) == (None, False)


async def test_an_answer_that_does_not_come_or_breaks_off_leaves_doubt(tmp_path: Path) -> None:
    async def hang(_request: web.Request) -> web.Response:
        await asyncio.sleep(30)
        raise AssertionError

    async def cut(request: web.Request) -> web.Response:
        await request.read()
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(100):
            await response.write(b"x")
            await asyncio.sleep(0.1)
        return response

    for handler in (hang, cut, drip):
        async with answering(handler) as url:
            async with asyncio.timeout(5):
                answer = await ask(tmp_path, url, timeoutSeconds=0.5)
            assert (answer.status, answer.left) == (None, True), handler.__name__


async def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    paths = []

    async def elsewhere(request: web.Request) -> web.Response:
        paths.append(request.path)
        return web.Response(status=307, headers={"location": "/elsewhere"})

    async with answering(elsewhere) as url:
        assert (await ask(tmp_path, url)).status == 307
    assert paths == ["/api/v1/events/batch"]


async def test_an_answer_is_bounded_and_without_our_token(tmp_path: Path) -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.Response(status=400, text=f"you said {request.headers['authorization']}")

    async def flood(_request: web.Request) -> web.Response:
        return web.Response(body=b"x" * (MAX_ANSWER_BYTES + 1))

    async with answering(echo) as url:
        assert (await ask(tmp_path, url)).body == b"you said Bearer ***"
    async with answering(flood) as url:
        assert (await ask(tmp_path, url)).body == b""


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("7", 7.0), ("Wed, 18 Nov 2026 11:07:40 GMT", 60.0), ("Wed, 18 Nov 2026 11:05:40 GMT", 0.0), ("soon", None),
     ("9" * 400, None), ("", None), ("-1", None)],
)  # fmt: skip
async def test_retry_after_is_seconds_or_a_date(tmp_path: Path, said: str, seconds: float | None) -> None:
    async def busy(_request: web.Request) -> web.Response:
        return web.Response(status=429, headers={"retry-after": said})

    async with answering(busy) as url:
        answer = await ask(tmp_path, url)
    assert (answer.status, answer.retry_after_s) == (429, seconds)


@pytest.mark.parametrize("content", [None, b"", b"two words", b"two\nlines", b"\xff\xfe", b"x" * 70_000])
async def test_a_bad_token_is_told_of_without_repeating_it(tmp_path: Path, content: bytes | None) -> None:
    async def never(_request: web.Request) -> web.Response:
        raise AssertionError

    async with answering(never) as url, Http(Clock()) as http:
        settings = settings_for(tmp_path, "lago", url=url)
        path = tmp_path / "token"
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        assert settings.lago is not None
        answer = await http.send("lago", settings.lago, EVENTS)
    assert (answer.status, answer.left) == (None, False)
    assert str(path) in answer.said
    assert "two" not in answer.said


def test_an_item_of_another_kind_is_not_rendered(tmp_path: Path) -> None:
    total = HourSum(tenant="acme", hour=0, number=1, value=1)
    assert isinstance(renderer("lago", settings_for(tmp_path, "lago"))(total), Unmapped)
