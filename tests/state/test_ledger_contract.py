"""What every ledger does, on SQLite and on a real PostgreSQL."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from tenantry.adapters.ledger import open_ledger
from tenantry.adapters.ledger.store import Booked, ClosedPeriod, Ledger, PeriodError, Query, UnbookableError
from tenantry.core.billing.periods import hour_of, period_of
from tenantry.core.usage import Charge, ColdStart, Training, read_record
from tenantry_testing import ledger_checks
from tenantry_testing.ledger_world import (
    LATER,
    NOVEMBER,
    OCTOBER,
    Delivery,
    book,
    deliveries,
    in_detail,
    request,
    span,
)
from tenantry_testing.postgres_server import PostgresServer

EXAMPLES = 100 if os.environ.get("DEEP") == "1" else 8


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty ledger's place, in each kind of database."""
    if request.param == "sqlite":
        return f"sqlite:{tmp_path / 'ledger.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()


@pytest_asyncio.fixture(loop_scope="session")
async def ledger(place: str) -> AsyncIterator[Ledger]:
    opened = open_ledger(place)
    yield opened
    await opened.close()


async def test_a_record_is_booked_once(ledger: Ledger) -> None:
    first, second = request("r1"), request("r2")
    assert await ledger.book([first, second, first], [1, 2, 1], LATER) == Booked(new=(first.id, second.id), known=1)
    assert await ledger.book([second], [2], LATER) == Booked(known=1)
    (tally,) = await ledger.tallies(Query())
    assert (tally.records, tally.compute_units_micro, tally.gpu_ns) == (2, 3, 600)


async def test_a_batch_may_be_empty(ledger: Ledger) -> None:
    assert await ledger.book([], [], LATER) == Booked()
    assert await ledger.tallies(Query()) == []
    assert await ledger.entries(0, 10) == []


async def test_units_must_be_as_many_as_records(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="1 compute units for 2 records"):
        await ledger.book([request("r1"), request("r2")], [1], LATER)


async def test_each_kind_has_its_place(ledger: Ledger) -> None:
    cold = ColdStart(
        engine="e1", model="chat-8b", version="1.4.0", gpus=2, ended_s=OCTOBER, download_ns=1, load_ns=2, warm_up_ns=3,
        capture_ns=4, other_ns=5,
    )  # fmt: skip
    job = Training(job="tune", tenant="acme", model="chat-8b", tier="gold", ended_s=OCTOBER, gpu_ns=7)
    await book(ledger, [cold, job, span(gpus=2), request()])
    training, served = sorted(await ledger.tallies(Query(group_by=("tier",))), key=lambda tally: tally.gpu_ns)
    assert (training.kind, training.owner, training.tier, training.gpu_ns) == ("training", "tenant", "gold", 7)
    assert (served.kind, served.requests, served.gpu_ns) == ("request", 1, 300)
    (engine,) = await ledger.engine_tallies("2026-10")
    assert (engine.model, engine.version, engine.engines, engine.cold_starts) == ("chat-8b", "1.4.0", 1, 1)
    assert (engine.wall_gpu_ns, engine.busy_gpu_ns, engine.cold_start_gpu_ns) == (20_030, 3_000, 30)
    assert (engine.idle_gpu_ns, engine.attributed_gpu_ns) == (17_000, 300)


async def test_sums_beyond_64_bits_are_exact(ledger: Ledger) -> None:
    # Ten GPU-days of a full cache are more byte-milliseconds than 64 bits hold.
    charge = Charge(prefill_gpu_ns=2**62, kv_byte_ms=2**62 - 1)
    await book(ledger, [request(f"r{number}", charge=charge) for number in range(10)])
    await book(ledger, [request("late", charge=charge)])
    (tally,) = await ledger.tallies(Query())
    assert (tally.kv_byte_ms, tally.prefill_gpu_ns) == (11 * (2**62 - 1), 11 * 2**62)
    (engine,) = await ledger.engine_tallies("2026-10")
    assert engine.attributed_gpu_ns == 11 * 2**62


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (request("a\0b"), "NUL"),
        (
            request(tenant="\U0001f600" * 128, model="\U0001f600" * 128, version="\U0001f600" * 128, tier="t" * 500),
            "2000",
        ),
        (span(wall_ns=2**62, gpus=65_536), "beyond 2"),
    ],
)
async def test_what_no_database_can_keep_is_named(ledger: Ledger, bad: object, reason: str) -> None:
    with pytest.raises(UnbookableError, match=rf"records\[1\]: .*{reason}"):
        await ledger.book([request(), bad], [0, 0], LATER)  # type: ignore[list-item]
    assert await ledger.tallies(Query()) == []


async def test_the_longest_names_are_booked(ledger: Ledger) -> None:
    long = request("r" * 128, engine="\U0001f600" * 64, tenant="\U0001f600" * 64, model="m" * 128, version="v" * 128)
    await book(ledger, [long, span(engine=long.engine, model=long.model, version=long.version)])
    (tally,) = await in_detail(ledger)
    assert (tally.tenant, tally.model, tally.version) == (long.tenant, long.model, long.version)


async def test_queries_choose_and_group(ledger: Ledger) -> None:
    await book(
        ledger,
        [
            request("r1"), request("r2", tenant="globex"), request("r3", model="code-1b", adapter="acme-lora"),
            request("r4", ended_s=NOVEMBER), request("r5", measured="estimate"),
        ],
    )  # fmt: skip

    async def sums(query: Query, *columns: str) -> list[tuple[object, ...]]:
        found = await ledger.tallies(query)
        return [(*(getattr(tally, column) for column in columns), tally.records) for tally in found]

    assert await sums(Query(), "period", "tenant", "model") == [
        ("2026-10", "acme", "chat-8b", 2), ("2026-10", "acme", "code-1b", 1), ("2026-10", "globex", "chat-8b", 1),
        ("2026-11", "acme", "chat-8b", 1),
    ]  # fmt: skip
    assert await sums(Query(period="2026-11", group_by=()), "tenant") == [("", 1)]
    assert await sums(Query(tenant="globex", group_by=()), "period") == [("2026-10", 1)]
    assert await sums(Query(model="code-1b", group_by=("adapter",)), "adapter", "model") == [("acme-lora", "", 1)]
    assert await sums(Query(group_by=("measured",), period="2026-10"), "measured") == [("engine", 3), ("estimate", 1)]
    hour = int(NOVEMBER) // 3_600 * 3_600
    assert await sums(Query(from_s=hour, group_by=("hour", "tenant")), "hour", "tenant") == [(hour, "acme", 1)]
    assert await sums(Query(from_s=hour - 3_600, to_s=hour, group_by=()), "period") == [("2026-10", 4)]
    assert await sums(Query(tenant="nobody"), "tenant") == []
    with pytest.raises(ValueError, match="no whole hour"):
        await ledger.tallies(Query(from_s=1.5))


async def test_periods_close_once_and_in_order(ledger: Ledger) -> None:
    await book(ledger, [request("r1"), request("r2", ended_s=NOVEMBER)])
    with pytest.raises(PeriodError, match="2026-10 is still open; close it first"):
        await ledger.close_period("2026-11", LATER, not_before_s=0)
    with pytest.raises(PeriodError, match="may be closed from 2027-06-01 00:00Z on"):
        await ledger.close_period("2026-10", LATER - 1, not_before_s=LATER)
    with pytest.raises(ValueError, match="is no period"):
        await ledger.close_period("2026-1", LATER, not_before_s=0)
    october = ClosedPeriod(period="2026-10", closed_s=LATER, records=1)
    assert await ledger.close_period("2026-10", LATER, not_before_s=LATER) == october
    with pytest.raises(PeriodError, match="2026-10 is closed already; what comes late is booked in 2026-11"):
        await ledger.close_period("2026-10", LATER, not_before_s=0)
    with pytest.raises(PeriodError, match="2026-11 is still open"):
        await ledger.close_period("2026-12", LATER, not_before_s=0)
    await ledger.close_period("2026-11", LATER, not_before_s=0)
    assert [closed.period for closed in await ledger.periods()] == ["2026-10", "2026-11"]


@pytest.mark.parametrize("ended_s", [0.0, LATER - 401 * 86_400, LATER + 2 * 86_400, 1e11])
async def test_a_clock_that_is_far_off_opens_no_period_of_its_own(ledger: Ledger, ended_s: float) -> None:
    await book(ledger, [request("r1", ended_s=ended_s), span(ended_s=ended_s)])
    (found,) = await ledger.tallies(Query(group_by=("hour",)))
    now = period_of(LATER)
    assert (found.period, found.hour) == (now, hour_of(LATER))
    assert [engine.wall_gpu_ns > 0 for engine in await ledger.engine_tallies(now)] == [True]
    assert read_record((await ledger.entries(0, 1))[0].record.encode()).ended_s == ended_s  # as it came
    await ledger.close_period(now, LATER, not_before_s=0)


async def test_a_late_record_is_booked_in_the_earliest_open_period(ledger: Ledger) -> None:
    await book(ledger, [request("r1")])
    await ledger.close_period("2026-10", LATER, not_before_s=0)
    await book(ledger, [request("r2"), span()])
    (late,) = await ledger.tallies(Query(period="2026-11"))
    assert (late.corrects, late.records, late.gpu_ns) == ("2026-10", 1, 300)
    assert [engine.wall_gpu_ns for engine in await ledger.engine_tallies("2026-10")] == [0]
    assert [engine.wall_gpu_ns for engine in await ledger.engine_tallies("2026-11")] == [10_000]
    # Who closes November then finds it there.
    assert (await ledger.close_period("2026-11", LATER, not_before_s=0)).records == 1


async def test_a_late_end_gives_a_closed_request_to_its_tenant_as_a_correction(ledger: Ledger) -> None:
    part = request(part=1, finish_reason=None)
    end = request(part=2, ended_s=NOVEMBER, charge=Charge(decode_gpu_ns=50))
    await book(ledger, [part])
    await ledger.close_period("2026-10", LATER, not_before_s=0)
    await book(ledger, [end])
    found = [
        (tally.period, tally.corrects, tally.owner, tally.records, tally.gpu_ns)
        for tally in await ledger.tallies(Query())
    ]
    assert found == [
        ("2026-10", "", "unfinished", 1, 300),
        ("2026-11", "", "tenant", 1, 50),
        ("2026-11", "2026-10", "tenant", 1, 300),
        ("2026-11", "2026-10", "unfinished", -1, -300),
    ]
    assert [(entry.owner, entry.records) for entry in await ledger.entries(0, 10)] == [
        ("unfinished", 1), ("unfinished", -1), ("tenant", 1), ("tenant", 1)
    ]  # fmt: skip


async def test_an_entry_has_the_whole_record(ledger: Ledger) -> None:
    record = request(queue_ms=1.5, peak_kv_bytes=9)
    await book(ledger, [record], now_s=LATER)
    (entry,) = await ledger.entries(0, 10)
    assert read_record(entry.record.encode()) == record
    assert (entry.id, entry.record_id, entry.booked_s, entry.hour) == (record.id, record.id, LATER, 1793487600)


@given(world=deliveries())
@settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_any_order_and_repetition_gives_the_same(fresh: str, world: Delivery) -> None:
    await _played(fresh, world, ledger_checks.same_as_at_once)


@given(world=deliveries(closing=True))
@settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_closing_corrections_conservation_and_entries(fresh: str, world: Delivery) -> None:
    for check in (ledger_checks.closed_for_good, ledger_checks.conserves, ledger_checks.entries_add_up):
        await _played(fresh, world, check)


@pytest.fixture(scope="module")
def fresh(postgres: PostgresServer) -> str:
    """A database that `_played` empties."""
    return postgres.new_database()


async def _played(url: str, world: Delivery, check: ledger_checks.Check) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("DROP SCHEMA public CASCADE")
        await connection.execute("CREATE SCHEMA public")
    ledger = open_ledger(url)
    try:
        await check(ledger, world)
    finally:
        await ledger.close()
