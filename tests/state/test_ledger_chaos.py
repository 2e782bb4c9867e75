"""The ledger's service and PostgreSQL are killed in the middle of load; a disk is full. Nothing is lost, nothing twice.

`DEEP=1` kills twenty times as often.
"""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
from tenantry.core.usage import Charge, Record
from tenantry_testing.ledger_process import LedgerProcess, Progress, ledger_process, send_all
from tenantry_testing.ledger_world import gaps, request, span
from tenantry_testing.postgres_server import PostgresServer

DEEP = os.environ.get("DEEP") == "1"
KILLS = 60 if DEEP else 3
SENDERS, BATCHES, SIZE = 3, 4 * KILLS, 100


def load(sender: int) -> list[list[Record]]:
    """Batches of one engine: requests in two parts that come apart, and the spans that they were busy in."""
    engine = f"e{sender}"
    parts: list[Record] = []
    for number in range(BATCHES * SIZE // 4):
        name, tenant = f"r{sender}-{number}", f"t{number % 7}"
        first, last = Charge(prefill_gpu_ns=number), Charge(decode_gpu_ns=3, output_tokens=1)
        parts += [
            request(name, tenant=tenant, engine=engine, part=1, finish_reason=None, charge=first),
            request(name, tenant=tenant, engine=engine, part=2, charge=last),
            span(2 * number + 1, engine=engine, wall_ns=number + 10, busy_gpu_ns=number),
            span(2 * number + 2, engine=engine, wall_ns=10, busy_gpu_ns=3),
        ]
    random.Random(sender).shuffle(parts)
    return [parts[start : start + SIZE] for start in range(0, len(parts), SIZE)]


async def survives(
    server: LedgerProcess, kill: Callable[[], Awaitable[None]], again: Callable[[], Awaitable[None]], seed: int
) -> None:
    """Kill while three engines send; once all was acknowledged, the ledger has exactly what they sent."""
    rng = random.Random(seed)
    loads = [load(sender) for sender in range(SENDERS)]
    progress = Progress()
    async with asyncio.TaskGroup() as group:
        for number, batches in enumerate(loads):
            group.create_task(send_all(server, batches, random.Random(number), progress))
        for number in range(1, KILLS + 1):
            await progress.until(number * SENDERS * BATCHES // (KILLS + 1))
            await asyncio.sleep(rng.uniform(0, 0.03))
            await kill()
            await again()
    sent = [record for batches in loads for batch in batches for record in batch]
    requests = len({record.id for record in sent if record.id.startswith("r")})
    (tally,) = await server.tallies()
    each = BATCHES * SIZE // 4
    assert (tally.owner, tally.records, tally.requests) == ("tenant", requests, SENDERS * each)
    assert tally.gpu_ns == SENDERS * (each * (each - 1) // 2 + 3 * each)
    assert tally.output_tokens == SENDERS * each
    (engine,) = await server.engines("2026-10")
    assert (engine.engines, engine.busy_gpu_ns, engine.attributed_gpu_ns) == (SENDERS, tally.gpu_ns, tally.gpu_ns)
    assert engine.wall_gpu_ns == SENDERS * (each * (each - 1) // 2 + 20 * each)
    assert not any(gaps(await server.tallies("group_by=model,version"), [engine]))


async def test_the_service_is_killed_in_the_middle_of_batches(tmp_path: Path) -> None:
    async with ledger_process(tmp_path, f"sqlite:{tmp_path / 'ledger.db'}") as server:
        await survives(server, server.kill, server.start, seed=1)


async def test_the_service_is_killed_on_postgresql(tmp_path: Path, own_postgres: PostgresServer) -> None:
    async with ledger_process(tmp_path, own_postgres.url) as server:
        await survives(server, server.kill, server.start, seed=2)


async def test_postgresql_is_killed_in_the_middle_of_load(tmp_path: Path, own_postgres: PostgresServer) -> None:
    async with ledger_process(tmp_path, own_postgres.url) as server:
        await survives(server, own_postgres.kill, own_postgres.start, seed=3)


async def test_a_full_disk_is_told_and_nothing_of_a_batch_is_counted(tmp_path: Path) -> None:
    async with (
        ledger_process(tmp_path, f"sqlite:{tmp_path / 'ledger.db'}") as server,
        aiohttp.ClientSession() as http,
    ):
        batches = [[request(f"r{batch}-{number}") for number in range(200)] for batch in range(20)]
        assert await server.post(http, batches[0]) == 200
        server.limit_files(700_000)
        answers = [await server.post(http, batch) for batch in batches]
        taken = answers.count(200)
        assert set(answers) == {200, 503}
        server.limit_files(None)
        (tally,) = await server.tallies()
        assert tally.records == 200 * taken
        assert [await server.post(http, batch) for batch in batches] == [200] * 20
        (tally,) = await server.tallies()
        assert (tally.records, tally.gpu_ns) == (200 * 20, 300 * 200 * 20)
        assert "see whether its disk is full" in (tmp_path / "ledger.log").read_text()


async def test_sigterm_lets_batches_end(tmp_path: Path) -> None:
    async with ledger_process(tmp_path, f"sqlite:{tmp_path / 'ledger.db'}") as server, aiohttp.ClientSession() as http:
        posting = asyncio.create_task(server.post(http, [request(f"r{number}") for number in range(1_000)]))
        await asyncio.sleep(0.02)
        assert await server.stop() == 0
        # Acknowledged or never begun: there is nothing in between.
        status = await posting
        assert status in {0, 200}
        await server.start()
        assert sum(tally.records for tally in await server.tallies()) == (1_000 if status == 200 else 0)
