"""A ledger in PostgreSQL, for a fleet: any number of services on one database.

Bookings take turns by an advisory lock that ends with the transaction. So `seq` grows in the order of commits, which
those who follow it rely on (a sequence alone is drawn before the commit, in any order), and no two decide about one
request at once. A turn of a thousand records takes a fraction of a second.

A commit returns when it is on the server's disk, whatever `synchronous_commit` is by default there; a server that runs
with fsync off is refused. One connection books, one reads. When an open connection turns out to be lost, the
transaction is tried once more on a new one (a batch that was committed after all is known by its ids); what fails then
is LedgerUnavailableError.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict

from tenantry.adapters.ledger import schema
from tenantry.adapters.ledger.store import (
    Booked,
    ClosedPeriod,
    LedgerUnavailableError,
    Query,
    checked_records,
    checked_units,
    closable,
)
from tenantry.core.billing.booking import Entry, contested, plan
from tenantry.core.billing.periods import checked_period
from tenantry.core.billing.tallies import EngineTally, Tally
from tenantry.core.usage import ColdStart, EngineSpan, Record

Connection = psycopg.AsyncConnection[tuple[Any, ...]]
Result = TypeVar("Result")

CONNECT_SECONDS = 5
TRANSACTION_SECONDS = 20.0
LOCK = 0x746E6C67
"""`tnlg`: the number of the advisory lock by which bookings take turns."""

_BEGIN_TURN = (
    "SELECT pg_advisory_xact_lock(?), set_config('idle_in_transaction_session_timeout', '30s', true), "
    "set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' "
    "ELSE current_setting('synchronous_commit') END, true)"
)
_IN = "= ANY(?)"


class PostgresLedger:
    """A Ledger in the database at `url` (`postgresql://USER:PASSWORD@HOST/NAME`), in the first schema of its path."""

    def __init__(self, url: str) -> None:
        self._booking = _Link(url)
        self._reading = _Link(url)

    async def book(self, records: Sequence[Record], units_micro: Sequence[int], now_s: float) -> Booked:
        """See Ledger."""
        units = checked_units(records, units_micro)
        checked_records(records, units)

        async def work(connection: Connection) -> Booked:
            await _execute(connection, _BEGIN_TURN, LOCK)
            planned = plan(
                records, units, known=await _known(connection, records), held=await _held(connection, records),
                closed=await _last_closed(connection), now_s=now_s,
            )  # fmt: skip
            async with connection.cursor() as cursor:
                for statement, rows in (
                    (schema.ADD_ENTRY, [schema.entry_row(entry) for entry in planned.entries]),
                    (schema.ADD_REPORT, schema.report_rows(planned)),
                    (schema.GROW_SUM, schema.sum_rows(planned)),
                    (schema.GROW_ENGINE_SUM, schema.engine_sum_rows(planned)),
                ):
                    if rows:
                        await cursor.executemany(_text(statement), rows)
            return Booked(new=planned.new, known=planned.known)

        return await self._booking.do(work)

    async def tallies(self, query: Query) -> list[Tally]:
        """See Ledger."""
        statement, values = schema.tallies_statement(query)
        return schema.tallies_of(query, await self._read(statement, *values))

    async def engine_tallies(self, period: str) -> list[EngineTally]:
        """See Ledger."""
        return schema.engine_tallies_of(period, await self._read(schema.ENGINE_TALLIES, period))

    async def entries(self, after: int, limit: int) -> list[Entry]:
        """See Ledger."""
        return list(map(schema.entry_of, await self._read(schema.ENTRIES_AFTER, after, limit)))

    async def close_period(self, period: str, now_s: float, *, not_before_s: float, terms: str = "") -> ClosedPeriod:
        """See Ledger."""
        checked_period(period)

        async def work(connection: Connection) -> ClosedPeriod:
            await _execute(connection, _BEGIN_TURN, LOCK)
            ((first,),) = await _execute(connection, schema.FIRST_USED)
            closed = await _last_closed(connection)
            closable(period, first=first, closed=closed, now_s=now_s, not_before_s=not_before_s)
            (halves,) = await _execute(connection, schema.RECORDS_OF, period)
            records = schema.whole(*halves)
            await _execute(connection, schema.ADD_PERIOD, period, now_s, records, terms)
            return ClosedPeriod(period=period, closed_s=now_s, records=records)

        return await self._booking.do(work)

    async def periods(self) -> list[ClosedPeriod]:
        """See Ledger."""
        rows = await self._read(schema.PERIODS)
        return [ClosedPeriod(period=period, closed_s=closed_s, records=records) for period, closed_s, records in rows]

    async def terms(self) -> dict[str, str]:
        """See Ledger."""
        return dict(await self._read(schema.TERMS))

    async def close(self) -> None:
        """See Ledger."""
        for link in (self._booking, self._reading):
            await link.close()

    async def _read(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        return await self._reading.do(lambda connection: _execute(connection, statement, *values))


class _Link:
    """One connection, made when it is needed, for one transaction at a time."""

    def __init__(self, url: str) -> None:
        try:
            parts = conninfo_to_dict(url)
        except psycopg.Error:
            raise LedgerUnavailableError("--db: is no postgresql:// URL") from None
        self._url = url
        self._named = f"ledger in PostgreSQL {parts.get('dbname', '')!r} at {parts.get('host', 'this machine')}"
        self._turn = asyncio.Lock()
        self._connection: Connection | None = None
        self._closed = False

    async def do(self, work: Callable[[Connection], Awaitable[Result]]) -> Result:
        """Run a transaction; once more if the connection that stood was lost."""
        async with self._turn:
            try:
                async with asyncio.timeout(TRANSACTION_SECONDS):
                    if self._connection is not None:
                        with contextlib.suppress(psycopg.OperationalError, psycopg.InterfaceError):
                            return await self._once(work)
                    return await self._once(work)
            except (psycopg.Error, OSError, TimeoutError) as error:
                raise LedgerUnavailableError(f"{self._named}: {_explain(error)}") from error

    async def close(self) -> None:
        """End the connection, after the transaction that is under way."""
        async with self._turn:
            self._closed = True
            await self._let_go()

    async def _once(self, work: Callable[[Connection], Awaitable[Result]]) -> Result:
        connection = await self._opened()
        try:
            async with connection.transaction():
                return await work(connection)
        except (psycopg.Error, OSError, asyncio.CancelledError):
            await self._let_go()
            raise

    async def _opened(self) -> Connection:
        if self._closed:
            raise LedgerUnavailableError(f"{self._named}: was closed")
        if self._connection is None:
            connection = await psycopg.AsyncConnection.connect(
                self._url, autocommit=True, connect_timeout=CONNECT_SECONDS, application_name="tenantry-ledger"
            )
            try:
                await self._prepare(connection)
            except BaseException:
                await connection.close()
                raise
            self._connection = connection
        return self._connection

    async def _prepare(self, connection: Connection) -> None:
        """Lay out an empty database; refuse one that may lose what it acknowledged, or of a newer release."""
        ((fsync,),) = await _execute(connection, "SHOW fsync")
        if fsync != "on":
            raise LedgerUnavailableError(f"{self._named}: runs with fsync = off and could lose records; set it on")
        if not await _exists(connection):
            async with connection.transaction():
                await _execute(connection, "SELECT pg_advisory_xact_lock(?)", LOCK)
                for statement in () if await _exists(connection) else schema.tables(serial=_SERIAL):
                    await connection.execute(_text(statement))
        ((version,),) = await _execute(connection, "SELECT max(version) FROM ledger_schema")
        if version != schema.SCHEMA_VERSION:
            raise LedgerUnavailableError(
                f"{self._named}: has schema {version}, this release knows {schema.SCHEMA_VERSION}; run the release "
                "that wrote it"
            )

    async def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error, OSError):
                await connection.close()


_SERIAL = "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"


async def _exists(connection: Connection) -> bool:
    """Return whether the tables are there. Not by `to_regclass`, which remembers that a table was missing."""
    ((exists,),) = await _execute(
        connection, "SELECT EXISTS (SELECT FROM pg_class WHERE relname = 'ledger_schema' AND pg_table_is_visible(oid))"
    )
    return bool(exists)


async def _known(connection: Connection, records: Sequence[Record]) -> set[str]:
    reports = [record.id for record in records if isinstance(record, ColdStart | EngineSpan)]
    entries = [record.id for record in records if not isinstance(record, ColdStart | EngineSpan)]
    known = set[str]()
    for statement, ids in ((schema.KNOWN_ENTRIES, entries), (schema.KNOWN_REPORTS, reports)):
        if ids:
            known.update(found for (found,) in await _execute(connection, statement.format(_IN), ids))
    return known


async def _held(connection: Connection, records: Sequence[Record]) -> list[Entry]:
    requests = sorted(contested(records))
    if not requests:
        return []
    return list(map(schema.entry_of, await _execute(connection, schema.HELD.format(_IN), requests)))


async def _last_closed(connection: Connection) -> str | None:
    ((period,),) = await _execute(connection, schema.LAST_CLOSED)
    return None if period is None else str(period)


async def _execute(connection: Connection, statement: str, *values: object) -> list[tuple[Any, ...]]:
    cursor = await connection.execute(_text(statement), values)
    return await cursor.fetchall() if cursor.description else []


def _text(statement: str) -> bytes:
    return statement.replace("?", "%s").encode()


def _explain(error: Exception) -> str:
    """Return the server's words without its details, which may quote a row."""
    if isinstance(error, TimeoutError):
        return f"did not answer within {TRANSACTION_SECONDS:g} s"
    if isinstance(error, psycopg.Error):
        return error.diag.message_primary or str(error).partition("\n")[0] or type(error).__name__
    return str(error)
