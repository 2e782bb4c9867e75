"""The sidecar's own records on their way: a ledger that is away, refuses, or is none; and a process that dies."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from prometheus_client import CollectorRegistry
from tenantry.adapters import ledger_outbox
from tenantry.adapters.ledger_outbox import LedgerOutbox
from tenantry.adapters.ports import free_port
from tenantry.adapters.usage_metrics import UsageMetrics
from tenantry.core.errors import TenantryError
from tenantry.core.usage import UsageRecord


class Ledger:
    """Takes records as the ledger does; `bad` names request ids that it refuses, `away` makes it answer 503."""

    def __init__(self) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self.records: list[str] = []
        self.bad: set[str] = set()
        self.away = self.mute = self.no_ledger = self.miscounts = False
        self.tokens: set[str] = set()

    async def take(self, request: web.Request) -> web.Response:
        self.tokens.add(request.headers["authorization"])
        ids = [record["request_id"] for record in json.loads(await request.read())["records"]]
        if self.away:
            return web.Response(status=503)
        if self.no_ledger:
            return web.Response(text="welcome")
        bad = [place for place, name in enumerate(ids) if name in self.bad]
        if bad:
            return web.json_response({"error": "who is that?", **({} if self.mute else {"bad": bad})}, status=400)
        if self.miscounts:
            return web.json_response({"new": 0, "known": len(ids) - 1})
        new = [name for name in ids if name not in self.records]
        self.records += new
        return web.json_response({"new": len(new), "known": len(ids) - len(new)})


@pytest_asyncio.fixture
async def ledger() -> AsyncIterator[Ledger]:
    made = Ledger()
    app = web.Application()
    app.router.add_post("/records", made.take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(made.url.rpartition(":")[2])).start()
    yield made
    await runner.cleanup()


class House:
    def __init__(self, folder: Path, url: str) -> None:
        self.registry = CollectorRegistry()
        self.outbox = LedgerOutbox(folder / "outbox.db", url, lambda: b"token", UsageMetrics(self.registry))
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self.outbox.run())

    def add(self, *names: str) -> None:
        for name in names:
            self.outbox.add(record(name))

    async def die(self) -> None:
        """End without a word."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def stop(self) -> None:
        await self.die()
        await self.outbox.stop()

    def count(self, result: str) -> float:
        return self.registry.get_sample_value("tenantry_ledger_outbox_records_total", {"result": result}) or 0.0

    @property
    def waiting(self) -> float:
        return self.registry.get_sample_value("tenantry_ledger_outbox_waiting") or 0.0


def record(name: str) -> UsageRecord:
    return UsageRecord(
        request_id=name, engine="access-log", tenant="acme", model="m", version="1", ended_s=1.0, finish_reason="stop",
        measured="estimate",
    )  # fmt: skip


async def until(condition: Any, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def test_records_reach_the_ledger(ledger: Ledger, tmp_path: Path) -> None:
    house = House(tmp_path, ledger.url)
    house.start()
    house.add("r1", "r2")
    await until(lambda: ledger.records == ["r1", "r2"])
    await until(lambda: house.count("sent") == 2)
    assert (house.waiting, ledger.tokens) == (0, {"Bearer token"})
    house.add("r3")
    await house.stop()
    assert ledger.records == ["r1", "r2", "r3"]


@pytest.mark.parametrize("trouble", ["away", "no_ledger", "miscounts"])
async def test_a_ledger_that_is_away_or_none_loses_nothing(ledger: Ledger, tmp_path: Path, trouble: str) -> None:
    setattr(ledger, trouble, True)
    house = House(tmp_path, ledger.url)
    house.start()
    house.add("r1", "r2")
    await until(lambda: house.waiting == 2)
    await house.die()  # and nothing is left but the file
    setattr(ledger, trouble, False)
    again = House(tmp_path, ledger.url)
    again.start()
    await until(lambda: ledger.records == ["r1", "r2"])
    await again.stop()
    await house.stop()


@pytest.mark.parametrize("mute", [False, True], ids=["says which", "does not say which"])
async def test_bad_records_are_set_aside_and_the_others_go_on(ledger: Ledger, tmp_path: Path, *, mute: bool) -> None:
    ledger.bad, ledger.mute = {"r1", "r6"}, mute
    house = House(tmp_path, ledger.url)
    house.add(*(f"r{number}" for number in range(8)))
    house.start()
    await until(lambda: house.count("refused") == 2)
    await until(lambda: ledger.records == ["r0", "r2", "r3", "r4", "r5", "r7"])
    await house.stop()
    assert house.waiting == 0


async def test_what_is_too_much_is_dropped_and_counted(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_outbox, "MAX_RECORDS", 3)
    monkeypatch.setattr(ledger_outbox, "MAX_PENDING", 5)
    ledger.away = True
    house = House(tmp_path, ledger.url)
    house.add(*(f"r{number}" for number in range(7)))
    assert house.count("dropped") == 2
    await house.outbox.write()
    assert (house.count("dropped"), house.waiting) == (4, 3)
    await house.stop()


@pytest.mark.parametrize("url", ["http://ledger:9400", "ftp://127.0.0.1", "ledger:9400", ""])
def test_a_token_does_not_go_out_in_the_clear(tmp_path: Path, url: str) -> None:
    with pytest.raises(TenantryError, match="--ledger"):
        House(tmp_path, url)


async def test_the_file_is_its_owners_alone(ledger: Ledger, tmp_path: Path) -> None:
    house = House(tmp_path, ledger.url)
    house.add("r1")
    await house.outbox.write()
    assert (tmp_path / "outbox.db").stat().st_mode & 0o077 == 0
    await house.stop()
