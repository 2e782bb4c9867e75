"""`tenantry ledger export run` as a process that is killed in mid-send, and stopped."""

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from tenantry.adapters.ledger.export.tables_sqlite import SqliteTables
from tenantry.adapters.ledger.sqlite import SqliteLedger
from tenantry.adapters.ports import free_port
from tenantry_testing.billing_standins import TOKEN, BillingStandIn, served
from tenantry_testing.ledger_world import request

ROOT = Path(__file__).parents[2]
RECORDS = 800


class Process:
    """The exporter on a ledger in `folder`."""

    def __init__(self, folder: Path, url: str) -> None:
        self.db = f"sqlite:{folder / 'ledger.db'}"
        self.port = free_port()
        (folder / "token").write_text(TOKEN)
        common = {"url": url, "tokenFile": str(folder / "token"), "timeoutSeconds": 0.3}
        self.settings = folder / "export.yaml"
        self.settings.write_text(json.dumps({
            "version": 1, "source": "test-ledger", "since": "2026-01-01T00:00:00Z",
            "openmeter": common, "lago": common | {"code": "usage"},
        }))  # fmt: skip
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "from tenantry.cli import main; main()", "ledger", "export", "run",
            str(self.settings), "--db", self.db, "--listen", f"127.0.0.1:{self.port}", stderr=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT / "extproc")},
        )  # fmt: skip

    async def end(self, number: int) -> str:
        assert self._process is not None
        self._process.send_signal(number)
        async with asyncio.timeout(10):
            _, said = await self._process.communicate()
        return said.decode()

    async def metric(self, result: str) -> float:
        async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{self.port}/metrics") as response:
            lines = (await response.text()).splitlines()
        named = f'tenantry_export_events_total{{destination="lago",result="{result}"}} '
        return sum(float(line.removeprefix(named)) for line in lines if line.startswith(named))


async def _book(folder: Path) -> SqliteLedger:
    ledger = SqliteLedger(folder / "ledger.db")
    records = [request(f"r{number}", tenant=("acme", "evil")[number == 77]) for number in range(RECORDS)]
    await ledger.book(records, [1_500_000] * RECORDS, time.time())
    return ledger


async def _until(process: Process, standin: BillingStandIn, events: int, seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while len(standin.counted_at) < events:
            await asyncio.sleep(0.05)


@pytest.fixture
async def standin() -> AsyncIterator[tuple[BillingStandIn, str]]:
    made = BillingStandIn(now=time.time, refused={"evil"})
    async with served(made) as url:
        yield made, url


async def test_killed_in_mid_send_again_and_again(tmp_path: Path, standin: tuple[BillingStandIn, str]) -> None:
    bills, url = standin
    chance = random.Random(7)
    bills.weather = lambda _path: chance.choice(["", "", "", "hang+", "hang", "500+", "garbage+"])
    ledger = await _book(tmp_path)
    tables = SqliteTables(tmp_path / "ledger.db")
    process = Process(tmp_path, url)
    in_doubt = 0
    for _ in range(8 if os.environ.get("DEEP") == "1" else 2):
        await process.start()
        seen = len(bills.requests)
        async with asyncio.timeout(30):
            while len(bills.requests) < seen + 3:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1 * chance.random())
        await process.end(signal.SIGKILL)
        async with tables.transaction() as tx:
            in_doubt += (await tx.rows("SELECT COUNT(*) FROM export_events WHERE state = 'sending'"))[0][0]
            await tx.rows("DELETE FROM export_lease")  # it runs out in a minute, which nobody waits for here
    assert in_doubt > 0
    bills.weather = lambda _path: ""
    await process.start()
    await _until(process, bills, 2 * (RECORDS - 1))
    async with asyncio.timeout(20):
        while await process.metric("taken") < 1 or await process.metric("refused") < 1:
            await asyncio.sleep(0.1)
    said = await process.end(signal.SIGTERM)
    assert TOKEN not in said
    assert "Traceback" not in said
    async with tables.transaction() as tx:
        assert await tx.rows("SELECT holder FROM export_lease") == []  # given back: the next need not wait
    assert set(bills.counted_at.values()) == {1}
    assert len(bills.counted_at) == 2 * (RECORDS - 1)
    assert bills.total["acme"] == 2 * 3 * (RECORDS - 1) / 2
    assert bills.faults == []
    await tables.close()
    await ledger.close()
