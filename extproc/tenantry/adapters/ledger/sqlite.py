"""A ledger in one SQLite file, for one machine.

What was acknowledged is on the disk: write-ahead log with synchronous=FULL. One connection, used by one thread of its
own; the event loop never waits for the disk. Processes take turns by BEGIN IMMEDIATE, which waits up to BUSY_SECONDS
for another's turn. A file that is not ours, or of a newer release, is never written to. One that was moved away while
it was in use is asked for until it is back: a new one in its place would count what comes again a second time.
"""

import json
import sqlite3
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TypeVar

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
from tenantry.adapters.sqlite_file import FileKind, SqliteFile
from tenantry.core.billing.booking import Entry, contested, plan
from tenantry.core.billing.periods import checked_period
from tenantry.core.billing.tallies import EngineTally, Tally
from tenantry.core.usage import ColdStart, EngineSpan, Record

Result = TypeVar("Result")

BUSY_SECONDS = 10.0
APPLICATION_ID = 0x746E6C67
"""`tnlg`, in the header of each of our files."""

_IN = "IN (SELECT value FROM json_each(?))"
_KNOWN_ENTRIES = schema.KNOWN_ENTRIES.format(_IN)
_KNOWN_REPORTS = schema.KNOWN_REPORTS.format(_IN)
_HELD = schema.HELD.format(_IN)

_KIND = FileKind(
    what="ledger",
    error=LedgerUnavailableError,
    application_id=APPLICATION_ID,
    schema_version=schema.SCHEMA_VERSION,
    statements=tuple(schema.tables(serial="INTEGER PRIMARY KEY AUTOINCREMENT")),
    damaged="is damaged or not a SQLite file; stop what uses it, move it and its -wal and -shm aside, restore a backup",
    newer="run the release that wrote it",
    busy_seconds=BUSY_SECONDS,
)


class SqliteLedger:
    """A Ledger in the file `path`, made with mode 0600 (and its folder with 0700) when it is missing."""

    def __init__(self, path: Path) -> None:
        self._file = SqliteFile(path, _KIND)

    async def book(self, records: Sequence[Record], units_micro: Sequence[int], now_s: float) -> Booked:
        """See Ledger."""
        units = checked_units(records, units_micro)
        checked_records(records, units)

        def work(connection: sqlite3.Connection) -> Booked:
            planned = plan(
                records, units, known=_known(connection, records), held=_held(connection, contested(records)),
                closed=_last_closed(connection), now_s=now_s,
            )  # fmt: skip
            connection.executemany(schema.ADD_ENTRY, map(schema.entry_row, planned.entries))
            connection.executemany(schema.ADD_REPORT, schema.report_rows(planned))
            connection.executemany(schema.GROW_SUM, schema.sum_rows(planned))
            connection.executemany(schema.GROW_ENGINE_SUM, schema.engine_sum_rows(planned))
            return Booked(new=planned.new, known=planned.known)

        return await self._file.do(work)

    async def tallies(self, query: Query) -> list[Tally]:
        """See Ledger."""
        statement, values = schema.tallies_statement(query)
        return await self._file.do(lambda connection: schema.tallies_of(query, connection.execute(statement, values)))

    async def engine_tallies(self, period: str) -> list[EngineTally]:
        """See Ledger."""
        return await self._file.do(
            lambda connection: schema.engine_tallies_of(period, connection.execute(schema.ENGINE_TALLIES, (period,)))
        )

    async def entries(self, after: int, limit: int) -> list[Entry]:
        """See Ledger."""
        values = (after, limit)
        return await self._file.do(
            lambda connection: list(map(schema.entry_of, connection.execute(schema.ENTRIES_AFTER, values)))
        )

    async def close_period(self, period: str, now_s: float, *, not_before_s: float, terms: str = "") -> ClosedPeriod:
        """See Ledger."""
        checked_period(period)

        def work(connection: sqlite3.Connection) -> ClosedPeriod:
            (first,) = connection.execute(schema.FIRST_USED).fetchone()
            closable(period, first=first, closed=_last_closed(connection), now_s=now_s, not_before_s=not_before_s)
            records = schema.whole(*connection.execute(schema.RECORDS_OF, (period,)).fetchone())
            connection.execute(schema.ADD_PERIOD, (period, now_s, records, terms))
            return ClosedPeriod(period=period, closed_s=now_s, records=records)

        return await self._file.do(work)

    async def periods(self) -> list[ClosedPeriod]:
        """See Ledger."""
        return await self._file.do(
            lambda connection: [
                ClosedPeriod(period=period, closed_s=closed_s, records=records)
                for period, closed_s, records in connection.execute(schema.PERIODS)
            ]
        )

    async def terms(self) -> dict[str, str]:
        """See Ledger."""
        return await self._file.do(lambda connection: dict(connection.execute(schema.TERMS)))

    async def close(self) -> None:
        """See Ledger."""
        await self._file.close()


def _known(connection: sqlite3.Connection, records: Sequence[Record]) -> set[str]:
    reports = [record.id for record in records if isinstance(record, ColdStart | EngineSpan)]
    entries = [record.id for record in records if not isinstance(record, ColdStart | EngineSpan)]
    return {
        found
        for statement, ids in ((_KNOWN_ENTRIES, entries), (_KNOWN_REPORTS, reports))
        for (found,) in connection.execute(statement, (json.dumps(ids),))
    }


def _held(connection: sqlite3.Connection, requests: Collection[str]) -> list[Entry]:
    return list(map(schema.entry_of, connection.execute(_HELD, (json.dumps(list(requests)),))))


def _last_closed(connection: sqlite3.Connection) -> str | None:
    (period,) = connection.execute(schema.LAST_CLOSED).fetchone()
    return None if period is None else str(period)
