"""From a request to the ledger through real processes of which each is killed: nothing is lost, nothing counts twice.

    clients --> stand-in engine --spool--> tenantry ledger serve --> SQLite or PostgreSQL
                  kill -9                    kill -9                    kill -9

What the ledger must have is read from the engine's spool, apart from it: each record once, and the sums that they come
to when they are added up without a database. What clients saw answered, and was on disk, is among them.

`DEEP=1` goes on for as many rounds more.
"""

import asyncio
import contextlib
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from msgspec.structs import replace
from tenantry.adapters.ledger import open_ledger
from tenantry.core.billing.booking import Entry
from tenantry.core.billing.periods import period_of
from tenantry.core.billing.tallies import EngineTally, Tally
from tenantry.core.usage import ColdStart, EngineSpan, Record, UsageRecord
from tenantry_testing.engine_process import MODEL, VERSION, EngineProcess
from tenantry_testing.ledger_process import LedgerProcess, ledger_process
from tenantry_testing.ledger_world import expected, gaps, in_detail, in_order
from tenantry_testing.postgres_server import PostgresServer
from tenantry_vllm.spool_folder import CURSOR

ROUNDS = 6 if os.environ.get("DEEP") == "1" else 1
CLIENTS = 6
MANY_TOKENS = 100_000
"""Of a request that no engine here ends: it writes parts until somebody is killed or leaves."""

Kill = Callable[[], Awaitable[None]]
Attempt = tuple[str, int, bool]
"""The request's id, the attempt's number, and whether it is a mirrored copy."""


@dataclass
class Load:
    """Clients that never give up: a request that got no answer is tried again, as Envoy does, as its next attempt.

    `answered` has the attempts that the engine which runs now has answered whole; `begin_anew` is for the next engine.
    """

    url: str
    answered: set[Attempt] = field(default_factory=set)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _ended: bool = False

    def start(self, http: aiohttp.ClientSession) -> None:
        self._tasks = [asyncio.create_task(self._client(http, number)) for number in range(CLIENTS)]
        self._tasks.append(asyncio.create_task(self._patient_client(http)))

    def begin_anew(self) -> None:
        # A client that reads the last of what a dead engine sent adds to the old set, not to this one.
        self.answered = set()

    async def end(self) -> None:
        """Let each client's request end."""
        self._ended = True
        for task in self._tasks:
            await task

    async def _client(self, http: aiohttp.ClientSession, number: int) -> None:
        """One request after the other: whole or streamed, some unstamped, some mirrored copies, some given up."""
        rng, count = random.Random(number), 0
        while not self._ended:
            count += 1
            request_id, tenant = f"{number:016x}{count:016x}", rng.choice(["acme", "globex", "initech", ""])
            body: dict[str, Any] = {"stream": rng.random() < 0.5, "max_tokens": rng.randint(1, 60)}
            mirror, leaves = rng.random() < 0.1, rng.random() < 0.1
            attempt = 1
            while not await self._ask(http, request_id, attempt, body, tenant=tenant, mirror=mirror, leaves=leaves):
                attempt += 1
                await asyncio.sleep(rng.uniform(0.05, 0.1))

    async def _patient_client(self, http: aiohttp.ClientSession) -> None:
        """A stream that outlives its engine; when the load ends its client leaves."""
        attempt = 1
        while not self._ended:
            with contextlib.suppress(aiohttp.ClientError):
                headers = stamped("f" * 32, attempt, tenant="acme")
                async with http.post(self.url, json=asks(stream=True, max_tokens=MANY_TOKENS), headers=headers) as told:
                    while not self._ended and await told.content.readany():
                        pass
            attempt += 1
            await asyncio.sleep(0.1)

    async def _ask(
        self, http: aiohttp.ClientSession, request_id: str, attempt: int, body: dict[str, Any], *,
        tenant: str, mirror: bool, leaves: bool,
    ) -> bool:  # fmt: skip
        """Return whether the client has what it wanted."""
        headers, answered = stamped(request_id, attempt, tenant=tenant, mirror=mirror), self.answered
        try:
            async with http.post(self.url, json=asks(**body), headers=headers) as told:
                if leaves:
                    await told.content.readany()
                    return True
                await told.read()
                assert told.status == 200, await told.text()
        except aiohttp.ClientError:
            return False
        answered.add((request_id, attempt, mirror))
        return True


def asks(**body: object) -> dict[str, object]:
    return {"model": MODEL, "messages": [{"role": "user", "content": "What do I owe you?"}], **body}


def stamped(request_id: str, attempt: int, *, tenant: str, mirror: bool = False) -> dict[str, str]:
    """What the sidecar and Envoy add; without a tenant, what somebody sends who goes around them."""
    headers = {"x-tenantry-request-id": request_id, "x-envoy-attempt-count": str(attempt)}
    if tenant:
        headers |= {"x-tenantry-tenant": tenant, "x-tenantry-tier": "gold", "x-tenantry-model": MODEL}
    return headers | ({"x-tenantry-mirror": "1"} if mirror else {})


@asynccontextmanager
async def loaded(engine: EngineProcess) -> AsyncIterator[Load]:
    """An engine that runs, under load."""
    await engine.start()
    load = Load(f"{engine.url}/v1/chat/completions")
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            load.start(http)
            yield load
    finally:
        await engine.kill()


async def until(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.05)


async def more_acknowledged(engine: EngineProcess, records: int) -> None:
    """Wait until the ledger has taken so many records more from this engine."""
    wanted = (await engine.counts())["ledger_acknowledged"] + records
    async with asyncio.timeout(60):
        while (await engine.counts())["ledger_acknowledged"] < wanted:
            await asyncio.sleep(0.05)


async def chaos(server: LedgerProcess, engine: EngineProcess, load: Load, kill_others: list[tuple[Kill, Kill]]) -> None:
    """Kill everything once: the ledger's processes while the engine ships, the engine while it cannot."""
    for kill, again in kill_others:
        await more_acknowledged(engine, 20)
        await kill()
        await asyncio.sleep(0.1)
        await again()

    def is_well_underway() -> bool:
        """So that a span is known of this engine, and a part of a request that the kill will cut."""
        found = engine.spooled(of_the_last=True)
        return any(isinstance(one, EngineSpan) for one in found) and any(map(is_part, found))

    await until(is_well_underway)
    await more_acknowledged(engine, 1)
    await server.kill()
    await asyncio.sleep(0.3)  # the spool fills
    answered = set(load.answered)
    fsynced = await engine.fsynced()
    await engine.kill()
    load.begin_anew()
    found = engine.spooled(of_the_last=True)
    assert len(found) >= fsynced, "what was on disk is not there any more"
    assert_has(found, answered)
    (left,) = (path for path in engine.spool.iterdir() if (path / CURSOR).exists())
    (left / CURSOR).unlink()  # how far the ledger was, which a disk may lose: all of it comes again
    await engine.start()
    assert left.exists(), "nobody could have shipped it yet"
    await server.start()
    await until(lambda: not left.exists())
    assert await server.known() > 0


def assert_has(records: Iterable[Record], answered: set[Attempt]) -> None:
    served = {
        (one.request_id, one.attempt, one.mirror) for one in records if isinstance(one, UsageRecord) and one.final
    }  # fmt: skip
    assert answered <= served, f"{len(answered - served)} of {len(answered)} answered requests have no record"


def is_part(record: Record) -> bool:
    return isinstance(record, UsageRecord) and not record.final


async def in_the_end(server: LedgerProcess, engine: EngineProcess, load: Load) -> None:
    """End in order; the ledger has what was spooled, and nothing else."""
    await load.end()
    assert await engine.stop() == 0
    assert list(engine.spool.iterdir()) == [], "all was shipped, nothing was refused or damaged"
    spooled = engine.spooled()
    assert_has(spooled, load.answered)
    assert await server.stop() == 0
    ledger = open_ledger(server.db)
    try:
        entries = await ledger.entries(0, 10**9)
        tallies = await in_detail(ledger)
        engines = [each for period in periods(spooled) for each in await ledger.engine_tallies(period)]
    finally:
        await ledger.close()
    has_each_once(entries, spooled)
    assert [without_units(one) for one in tallies] == in_order(map(without_units, expected(spooled)))
    adds_up(tallies, engines, spooled)
    assert {"tenant", "mirror", "unstamped"} < {tally.owner for tally in tallies}


def has_each_once(entries: Iterable[Entry], spooled: Iterable[Record]) -> None:
    """Each request's record has one first entry, which holds it whole."""
    entries = list(entries)
    first = {entry.record_id: entry.record for entry in entries if entry.record}
    assert Counter(entry.id for entry in entries).most_common(1)[0][1] == 1
    assert sum(entry.records for entry in entries) == len(first)
    assert first == {one.id: msgspec.json.encode(one).decode() for one in spooled if isinstance(one, UsageRecord)}


def adds_up(tallies: list[Tally], engines: list[EngineTally], spooled: list[Record]) -> None:
    """Wall time is what was spooled, and each nanosecond of it has one owner (invariant 6)."""
    charges = [one.charge for one in spooled if isinstance(one, UsageRecord)]
    spans = [one for one in spooled if isinstance(one, EngineSpan)]
    cold = [one for one in spooled if isinstance(one, ColdStart)]
    assert sum(tally.gpu_ns for tally in tallies) == sum(charge.gpu_ns for charge in charges) > 0
    assert sum(tally.output_tokens for tally in tallies) == sum(charge.output_tokens for charge in charges)
    assert {(each.model, each.version) for each in engines} == {(MODEL, VERSION)}
    assert sum(each.cold_starts for each in engines) == len(cold) == 1 + ROUNDS
    assert sum(each.cold_start_gpu_ns for each in engines) == sum(one.gpu_ns for one in cold)
    assert sum(each.busy_gpu_ns for each in engines) == sum(one.busy_gpu_ns for one in spans)
    wall_ns = sum(one.wall_ns for one in spans) + sum(one.gpu_ns for one in cold)
    assert sum(each.wall_gpu_ns for each in engines) == wall_ns
    last = max(cold, key=lambda one: one.ended_s).engine
    in_requests = sum(one.charge.gpu_ns for one in spooled if isinstance(one, UsageRecord) and one.engine == last)
    assert in_requests == sum(one.busy_gpu_ns for one in spans if one.engine == last) > 0, "it ended in order"
    by_period = [each for period in periods(spooled) for each in gaps(of(period, tallies), of(period, engines))]
    assert by_period == [0] * len(engines)


def of(period: str, found: Iterable[Any]) -> list[Any]:
    return [one for one in found if one.period == period]


def periods(records: Iterable[Record]) -> list[str]:
    """One, unless the test runs at the end of a month."""
    return sorted({period_of(record.ended_s) for record in records})


def without_units(tally: Tally) -> Tally:
    """Compute units depend on the service's rules, not on records alone."""
    return replace(tally, compute_units_micro=0)


async def survives(folder: Path, db: str, *stores: tuple[Kill, Kill]) -> None:
    """Kill the engine, the ledger's service and its database under load, again and again."""
    async with ledger_process(folder, db) as server:
        engine = EngineProcess(
            folder=folder, ledger_url=server.url, token_file=folder / "secrets" / "usage-token", speed=4.0
        )
        async with loaded(engine) as load:
            for _ in range(ROUNDS):
                await chaos(server, engine, load, [(server.kill, server.start), *stores])
            await in_the_end(server, engine, load)


@pytest.mark.timeout(600)
async def test_all_is_killed_on_the_way_to_a_ledger_in_sqlite(tmp_path: Path) -> None:
    await survives(tmp_path, f"sqlite:{tmp_path / 'ledger.db'}")


@pytest.mark.timeout(600)
async def test_all_is_killed_on_the_way_to_a_ledger_in_postgresql(tmp_path: Path, own_postgres: PostgresServer) -> None:
    await survives(tmp_path, own_postgres.url, (own_postgres.kill, own_postgres.start))
