"""A ledger in PostgreSQL: turns, lost connections, and servers that could lose what they acknowledged."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from tenantry.adapters.ledger import LedgerUnavailableError, postgres
from tenantry.adapters.ledger.postgres import PostgresLedger
from tenantry.adapters.ledger.store import Query
from tenantry.core.billing.booking import plan
from tenantry_testing.ledger_world import book, request
from tenantry_testing.postgres_server import PostgresServer


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.new_database()


@pytest_asyncio.fixture(loop_scope="session")
async def ledger(url: str) -> AsyncIterator[PostgresLedger]:
    opened = PostgresLedger(url)
    yield opened
    await opened.close()


async def ask(url: str, statement: str) -> list[tuple[Any, ...]]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        cursor = await connection.execute(statement.encode())
        return await cursor.fetchall() if cursor.description else []


async def records(ledger: PostgresLedger) -> int:
    return sum(tally.records for tally in await ledger.tallies(Query()))


async def test_services_that_begin_at_once_make_one_ledger(url: str) -> None:
    ledgers = [PostgresLedger(url) for _ in range(4)]
    await asyncio.gather(*(book(ledger, [request("r1"), request(f"s{n}")]) for n, ledger in enumerate(ledgers)))
    assert await records(ledgers[0]) == 5
    for ledger in ledgers:
        await ledger.close()


async def test_seq_grows_in_the_order_of_commits(url: str) -> None:
    # A booking that has drawn its numbers, and is slow to commit, holds up those behind it.
    first, second = PostgresLedger(url), PostgresLedger(url)
    await book(first, [request("r0")])
    await second.periods()
    seen: list[int] = []

    async def follow() -> None:
        while len(seen) < 41:
            seen.extend([entry.seq for entry in await second.entries(seen[-1] if seen else 0, 100)])
            await asyncio.sleep(0)

    async def load(ledger: PostgresLedger, name: str) -> None:
        for number in range(20):
            await book(ledger, [request(f"{name}{number}")])

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(follow())
        group.create_task(load(first, "a"))
        group.create_task(load(second, "b"))
    assert seen == sorted(set(seen))
    await first.close()
    await second.close()


async def test_one_service_at_a_time_decides_about_a_request(url: str) -> None:
    one, other = PostgresLedger(url), PostgresLedger(url)
    await book(one, [request("r")])
    await book(other, [])
    for number in range(10):
        aborted = request(f"r{number}", attempt=1, finish_reason="abort")
        served = request(f"r{number}", attempt=2, engine="e2")
        await asyncio.gather(book(one, [aborted]), book(other, [served]))
    owners = {tally.owner: tally.records for tally in await one.tallies(Query())}
    assert owners == {"tenant": 11, "failed": 10}
    await one.close()
    await other.close()


async def test_a_lost_connection_is_made_anew(ledger: PostgresLedger, url: str) -> None:
    await book(ledger, [request("r1")])
    await ledger.periods()
    await ask(url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tenantry-ledger'")
    assert await book(ledger, [request("r1"), request("r2")]) == (request("r2").id,)
    assert await records(ledger) == 2


async def test_a_connection_lost_in_a_transaction_books_all_or_none(
    ledger: PostgresLedger, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await book(ledger, [request("r0")])
    cut = 1

    def lose(*arguments: Any, **named: Any) -> Any:
        nonlocal cut
        if cut:
            cut -= 1
            assert ledger._booking._connection is not None
            pid = ledger._booking._connection.info.backend_pid
            with psycopg.connect(url, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        return plan(*arguments, **named)

    monkeypatch.setattr("tenantry.adapters.ledger.postgres.plan", lose)
    assert len(await book(ledger, [request("r1"), request("r2")])) == 2
    # Lost again on the new connection, it surfaces; what was sent is sent again, and counts once.
    cut = 2
    with pytest.raises(LedgerUnavailableError, match="ledger in PostgreSQL 'test_"):
        await book(ledger, [request("r2"), request("r3")])
    assert await records(ledger) == 3
    assert len(await book(ledger, [request("r2"), request("r3")])) == 1
    assert await records(ledger) == 4


async def test_a_server_that_hangs_is_given_up(
    ledger: PostgresLedger, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await book(ledger, [request("r1")])
    monkeypatch.setattr(postgres, "TRANSACTION_SECONDS", 0.5)
    async with await psycopg.AsyncConnection.connect(url) as holder:
        await holder.execute("SELECT pg_advisory_xact_lock(%s)", (postgres.LOCK,))
        with pytest.raises(LedgerUnavailableError, match=r"did not answer within 0\.5 s"):
            await book(ledger, [request("r2")])
        assert await records(ledger) == 1  # reading waits for nobody
    assert len(await book(ledger, [request("r2")])) == 1


async def test_a_commit_is_on_the_disk_whatever_the_default(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = url.rpartition("/")[2]
    await ask(url, f"ALTER DATABASE {name} SET synchronous_commit = off")
    ledger, seen = PostgresLedger(url), []
    await ledger.periods()
    last_closed = postgres._last_closed

    async def look(connection: postgres.Connection) -> str | None:
        seen.append((await (await connection.execute("SHOW synchronous_commit")).fetchone() or ("",))[0])
        return await last_closed(connection)

    monkeypatch.setattr(postgres, "_last_closed", look)
    await book(ledger, [request()])
    assert seen == ["on"]
    await ledger.close()


async def test_a_newer_schema_is_refused(ledger: PostgresLedger, url: str) -> None:
    await book(ledger, [request()])
    await ask(url, "UPDATE ledger_schema SET version = 2")
    newer = PostgresLedger(url)
    with pytest.raises(LedgerUnavailableError, match="has schema 2, this release knows 1; run the release that wrote"):
        await newer.periods()
    await newer.close()


async def test_a_server_without_fsync_is_refused(own_postgres: PostgresServer) -> None:
    with (own_postgres.data / "postgresql.auto.conf").open("a") as settings:
        settings.write("fsync = off\n")
    await own_postgres.stop()
    await own_postgres.start()
    ledger = PostgresLedger(own_postgres.url)
    with pytest.raises(LedgerUnavailableError, match="runs with fsync = off and could lose records; set it on"):
        await ledger.periods()
    await ledger.close()


async def test_a_server_that_is_away_is_told_without_the_password(postgres: PostgresServer) -> None:
    ledger = PostgresLedger(f"postgresql://user:s3cret@127.0.0.1:{postgres.port}/gone")
    with pytest.raises(LedgerUnavailableError, match=r"ledger in PostgreSQL 'gone' at 127.0.0.1: ") as caught:
        await ledger.periods()
    assert "s3cret" not in str(caught.value)
    await ledger.close()


async def test_a_closed_ledger_says_so(url: str) -> None:
    ledger = PostgresLedger(url)
    await ledger.close()
    with contextlib.closing(ledger.periods()) as asked, pytest.raises(LedgerUnavailableError, match="was closed"):
        await asked
