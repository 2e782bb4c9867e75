"""A sidecar's process from its first step to its last: nothing is left behind, and nothing that was known is lost."""

import asyncio
import io
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest
import structlog
import yaml
from aiohttp import web
from msgspec.structs import replace
from tenantry.adapters import logs
from tenantry.adapters.bind import Address, BindError
from tenantry.adapters.grpcio_transport import GrpcioTransport
from tenantry.adapters.process import Running, ServeOptions, serving
from tenantry.adapters.state import StateUnavailableError, open_state
from tenantry_testing.documents import document, secret_files
from tenantry_testing.rollouts import MODEL, SPLIT, House, outcome, record

ADMIN = {"authorization": f"Bearer {secret_files()['admin-token'].decode()}"}


@pytest.fixture(autouse=True)
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    logs.configure(stream)
    yield stream
    structlog.reset_defaults()


@pytest.fixture
def options(tmp_path: Path) -> ServeOptions:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for name, content in secret_files().items():
        (secrets / name).write_bytes(content)
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(document(SPLIT)))
    return ServeOptions(
        rules=tmp_path / "rules.yaml", secrets=secrets, listen=Address(path=str(tmp_path / "s.sock")),
        admin=Address(host="127.0.0.1", port=0), state=tmp_path / "state.db", grace_seconds=2.0,
    )  # fmt: skip


def send(running: Running, units: int) -> None:
    rollouts = running.sidecar.rollouts
    assert rollouts is not None
    for number in range(units):
        arm = "candidate" if number % 2 else "stable"
        rollouts.outcome(outcome(f"u{number}", "acme", arm, failed=False))  # type: ignore[arg-type]
        rollouts.record(record(f"u{number}", "acme", arm))  # type: ignore[arg-type]


async def test_what_came_last_is_in_the_store_and_nothing_runs_on(options: ServeOptions) -> None:
    before = asyncio.all_tasks()
    async with serving(options, lambda *_: {}) as running:
        assert running.sidecar.rollouts is not None
        assert running.sidecar.rollouts.live.rollouts
        send(running, 12)
        local = running.sidecar.rollouts._local
    assert asyncio.all_tasks() == before
    with pytest.raises(StateUnavailableError, match="closed"):
        await local.entries("history", 1)
    store = open_state(str(options.state))
    after = House(local=store, writer="after")
    after.rules()
    await after.rollouts.start()
    assert after.rollouts.status_of(MODEL).progress.all_units == 12
    await store.close()


async def test_the_last_word_is_told_to_the_webhook(options: ServeOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []

    async def hear(request: web.Request) -> web.Response:
        await asyncio.sleep(0.1)
        heard.append((await request.json())["why"])
        return web.Response()

    app = web.Application()
    app.add_routes([web.post("/", hear)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    (options.secrets / "revert-webhook").write_text(f"http://127.0.0.1:{runner.addresses[0][1]}/")
    async with serving(options, lambda *_: {}) as running, aiohttp.ClientSession(headers=ADMIN) as http:
        word = {"model": MODEL, "action": "revert", "all": True, "who": "ops", "why": "it smokes"}
        async with http.post(f"http://{running.admin}/rollouts", json=word) as answer:
            assert answer.status == 200
    assert heard == ["it smokes"]
    await runner.cleanup()


async def test_records_are_taken_while_the_transport_drains(
    options: ServeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the last requests come when their streams end."""
    seen: list[tuple[int, int]] = []
    usage = {"authorization": f"Bearer {secret_files()['usage-token'].decode()}"}

    async def drain(*_: object) -> None:
        async with (
            aiohttp.ClientSession() as http,
            http.post(f"{url}/usage", json={"records": []}, headers=usage) as posted,
            http.get(f"{url}/readyz") as ready,
        ):
            seen.append((posted.status, ready.status))

    monkeypatch.setattr(GrpcioTransport, "drain", drain)
    async with serving(options, lambda *_: {}) as running:
        url = f"http://{running.admin}"
        async with aiohttp.ClientSession() as http, http.get(f"{url}/readyz") as ready:
            assert ready.status == 200
    assert seen == [(200, 503)]


async def test_the_kubelet_sees_a_drain(options: ServeOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the telemetry listener, which lives until the last exchange has ended."""
    seen: list[tuple[str, int]] = []

    async def look() -> None:
        async with aiohttp.ClientSession() as http:
            for path in ("healthz", "readyz", "metrics"):
                async with http.get(f"{url}/{path}") as page:
                    seen.append((path, page.status))

    monkeypatch.setattr(GrpcioTransport, "drain", lambda *_: look())
    telemetry = Address(host="127.0.0.1", port=0)
    async with serving(replace(options, telemetry=telemetry), lambda *_: {}) as running:
        url = f"http://{running.telemetry}"
        await look()
    assert seen[:3] == [("healthz", 200), ("readyz", 200), ("metrics", 200)]
    assert seen[3:] == [("healthz", 200), ("readyz", 503), ("metrics", 200)]


async def test_a_shared_store_that_hangs_keeps_no_process_from_starting_and_ending(
    options: ServeOptions, log: io.StringIO
) -> None:
    """Nobody gets the candidate then, and everybody is served."""
    writers = []

    async def silence(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)

    silent = await asyncio.start_server(silence, "127.0.0.1", 0)
    url = f"redis://127.0.0.1:{silent.sockets[0].getsockname()[1]}/0"
    begin = time.monotonic()
    async with serving(replace(options, redis=url), lambda *_: {}) as running:
        assert running.sidecar.rollouts is not None
        assert running.sidecar.rollouts.live.rollouts == {}
        started = time.monotonic() - begin
        send(running, 12)
        begin = time.monotonic()
    assert started < 4.0
    assert time.monotonic() - begin < 6.0
    for writer in writers:
        writer.close()
    silent.close()
    events = [json.loads(line)["event"] for line in log.getvalue().splitlines()]
    assert "a state store failed; the last known state counts" in events


async def test_an_address_that_is_taken_leaves_nothing_behind(options: ServeOptions) -> None:
    before = asyncio.all_tasks()
    async with serving(options, lambda *_: {}) as running:
        taken = replace(options, admin=running.admin, listen=Address(path=f"{options.listen.path}2"))
        among = asyncio.all_tasks()
        with pytest.raises(BindError, match="the admin listener cannot listen"):
            async with serving(taken, lambda *_: {}):
                pass
        assert asyncio.all_tasks() == among
    assert asyncio.all_tasks() == before


async def test_operators_on_this_machine_have_a_door_of_their_own(options: ServeOptions, tmp_path: Path) -> None:
    """As --admin may ask for certificates that kubectl cannot bring. The admin token is asked for all the same."""
    door = str(tmp_path / "operators.sock")
    async with (
        serving(replace(options, local_admin=Address(path=door)), lambda *_: {}) as running,
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(door)) as local,
        aiohttp.ClientSession() as remote,
    ):
        for client, base in ((local, "http://sidecar"), (remote, f"http://{running.admin}")):
            async with client.get(f"{base}/rules", headers=ADMIN) as answer:
                assert (await answer.json())["state"] == "live"
            async with client.get(f"{base}/rules") as answer:
                assert answer.status == 401


async def test_that_door_is_not_for_other_hosts(options: ServeOptions) -> None:
    with pytest.raises(
        BindError, match=r"the admin listener would listen on 0\.0\.0\.0:0, which other hosts can reach"
    ):
        async with serving(replace(options, local_admin=Address(host="0.0.0.0", port=0)), lambda *_: {}):
            pass
