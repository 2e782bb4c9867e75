"""The export on ledgers in SQLite and in a real PostgreSQL: what is booked is told once, whoever dies or takes over."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tenantry.adapters.ledger import open_ledger
from tenantry.adapters.ledger.export import open_tables
from tenantry.adapters.ledger.export.outbox import LeaseLostError
from tenantry.adapters.ledger.store import LedgerUnavailableError
from tenantry.core.billing.answers import Answer
from tenantry.core.billing.export_settings import DESTINATIONS
from tenantry_testing.billing_standins import BillingStandIn
from tenantry_testing.exports import NOW, Clock, Direct, Rig, settings_for
from tenantry_testing.ledger_world import request
from tenantry_testing.postgres_server import PostgresServer


class Bench:
    """A ledger, its export, and the stand-ins that it is exported to."""

    def __init__(self, folder: Path, db: str) -> None:
        self.clock = Clock(NOW)
        self.standin = BillingStandIn(now=self.clock)
        self.ledger = open_ledger(db)
        self.db = db
        self.rig = Rig(
            folder, settings_for(folder, *DESTINATIONS), Direct(self.standin), self.clock, ledger=self.ledger,
            tables=open_tables(db),
        )  # fmt: skip

    async def book(self, *names: str, **changes: Any) -> None:
        records = [request(name, ended_s=self.clock() - 7_200, **changes) for name in names]
        await self.ledger.book(records, [1_500_000] * len(records), self.clock())

    async def step(self) -> None:
        for name in DESTINATIONS:
            await self.rig.step(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty ledger's place, in each kind of database."""
    if request.param == "sqlite":
        return f"sqlite:{tmp_path / 'own' / 'ledger.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()


@pytest_asyncio.fixture(loop_scope="session")
async def bench(place: str, tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path, place)
    await made.book("r0")
    yield made
    await made.rig.tables.close()
    await made.ledger.close()


async def test_what_is_booked_is_told_once(bench: Bench) -> None:
    await bench.book(*(f"a{number}" for number in range(700)))
    await bench.step()
    await bench.book("late", "a3")  # one of them was there already
    bench.clock.now_s += 400
    await bench.step()
    assert Counter(at for at, _ in bench.standin.counted_at) == {"openmeter": 702, "lago": 702, "stripe": 1}
    assert set(bench.standin.counted_at.values()) == {1}
    assert bench.standin.total["cus_acme"] == 702 * 1_500
    assert bench.standin.faults == []


async def test_what_another_attempt_made_useless_is_taken_back(bench: Bench) -> None:
    await bench.book("r1", finish_reason="abort")
    await bench.step()
    await bench.book("r1", attempt=2, engine="e2")
    bench.clock.now_s += 400
    await bench.step()
    assert bench.standin.total["acme"] == 2 * 3  # r0 and the second attempt of r1, at two places
    assert bench.standin.total["cus_acme"] == 2 * 1_500
    assert ("lago", "r1/e1/1/0/1~2") in bench.standin.counted_at


async def test_parts_are_told_when_their_request_has_ended(bench: Bench) -> None:
    await bench.book("r1", part=1, finish_reason=None)
    await bench.step()
    assert set(bench.standin.counted) == {"r0/e1/1/0/1"}
    await bench.book("r1", part=2)
    await bench.step()
    assert bench.standin.total["acme"] == 2 * 3 * 1.5


async def test_a_correction_of_a_closed_period_is_told_at_its_booking(bench: Bench) -> None:
    bench.clock.now_s += 40 * 86_400
    await bench.ledger.close_period("2026-11", bench.clock(), not_before_s=0)
    await bench.ledger.book([request("late", ended_s=NOW)], [1_000_000], bench.clock())
    await bench.rig.step("stripe")
    bench.clock.now_s += 3_600 + 400
    await bench.rig.step("stripe")
    # Told at its own time it would be older than Stripe takes, as what was booked in November now is.
    assert bench.standin.total == {"cus_acme": 1_000}
    assert await bench.rig.states() == {"done": 1, "parked": 1}


async def test_two_exporters_take_turns(bench: Bench) -> None:
    await bench.book(*(f"a{number}" for number in range(50)))
    others = open_tables(bench.db)
    second = Rig(Path(), bench.rig.settings, Direct(bench.standin), bench.clock, ledger=bench.ledger, tables=others)
    second.exporter.outbox.holder = "another"
    first = bench.rig.exporter
    held = await asyncio.gather(first.outbox.lease(bench.clock()), second.exporter.outbox.lease(bench.clock()))
    assert sorted(held) == [False, True]
    slow = first if held[0] else second.exporter
    fast = second.exporter if held[0] else first
    await slow.collect("lago")
    bench.clock.now_s += 61
    assert await fast.outbox.lease(bench.clock())
    await bench.book("more")
    for step in (slow.collect, slow.deliver):
        with pytest.raises(LeaseLostError):
            await step("lago")
    while await fast.collect("lago") or await fast.deliver("lago"):
        pass
    assert len(bench.standin.counted_at) == 52
    assert set(bench.standin.counted_at.values()) == {1}
    await others.close()


async def test_a_person_decides_while_it_runs(bench: Bench) -> None:
    bench.standin.refused = {"evil"}
    await bench.book("bad", tenant="evil")
    await bench.step()
    outbox = bench.rig.exporter.outbox
    assert [each.id for each in await outbox.parked("lago")] == ["bad/e1/1/0/1"]
    assert {each.destination: each.parked for each in await outbox.standing()} == {"lago": 1, "openmeter": 1}
    await outbox.decide("lago", ["bad/e1/1/0/1"], "discarded", who="ada", why="a test's", now_s=bench.clock())
    assert await bench.rig.states() == {"discarded": 1, "done": 2, "parked": 1}


async def test_a_postgres_that_is_killed_in_mid_send(own_postgres: PostgresServer, tmp_path: Path) -> None:
    bench = Bench(tmp_path, own_postgres.url)
    await bench.book(*(f"a{number}" for number in range(250)))
    send, sent = bench.rig.sender.send, 0

    async def killing(*arguments: Any) -> Answer:
        nonlocal sent
        sent += 1
        if sent == 2:
            await own_postgres.kill()
        return await send(*arguments)

    bench.rig.sender.send = killing  # type: ignore[method-assign,assignment]
    with pytest.raises(LedgerUnavailableError):
        await bench.rig.step("openmeter")
    with pytest.raises(LedgerUnavailableError):
        await bench.rig.step("openmeter")
    await own_postgres.start()
    bench.clock.now_s += 61
    await bench.rig.step("openmeter")
    assert len(bench.standin.counted_at) == 250
    assert set(bench.standin.counted_at.values()) == {1}
    assert await bench.rig.states() == {"done": 250}
    await bench.rig.tables.close()
    await bench.ledger.close()
