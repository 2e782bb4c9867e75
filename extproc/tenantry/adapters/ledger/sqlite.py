"""A ledger in one SQLite file, for one machine.

What was acknowledged is on the disk: write-ahead log with synchronous=FULL. One connection, used by one thread of its
own; the event loop never waits for the disk. Processes take turns by BEGIN IMMEDIATE, which waits up to BUSY_SECONDS
for another's turn. A file that is not ours, or of a newer release, is never written to. One that was moved away while
it was in use is asked for until it is back: a new one in its place would count what comes again a second time.
"""

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from tenantry.adapters.sqlite_file import explain, inode, is_empty, make, pragma, transaction
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

_DAMAGED = "is damaged or not a SQLite file; stop what uses it, move it and its -wal and -shm aside, restore a backup"


class SqliteLedger:
    """A Ledger in the file `path`, made with mode 0600 (and its folder with 0700) when it is missing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tenantry-ledger")
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._closed = False

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

        return await self._do(work)

    async def tallies(self, query: Query) -> list[Tally]:
        """See Ledger."""
        statement, values = schema.tallies_statement(query)
        return await self._do(lambda connection: schema.tallies_of(query, connection.execute(statement, values)))

    async def engine_tallies(self, period: str) -> list[EngineTally]:
        """See Ledger."""
        return await self._do(
            lambda connection: schema.engine_tallies_of(period, connection.execute(schema.ENGINE_TALLIES, (period,)))
        )

    async def entries(self, after: int, limit: int) -> list[Entry]:
        """See Ledger."""
        values = (after, limit)
        return await self._do(
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

        return await self._do(work)

    async def periods(self) -> list[ClosedPeriod]:
        """See Ledger."""
        return await self._do(
            lambda connection: [
                ClosedPeriod(period=period, closed_s=closed_s, records=records)
                for period, closed_s, records in connection.execute(schema.PERIODS)
            ]
        )

    async def terms(self) -> dict[str, str]:
        """See Ledger."""
        return await self._do(lambda connection: dict(connection.execute(schema.TERMS)))

    async def close(self) -> None:
        """See Ledger."""
        if self._closed:
            return
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(self._thread, self._let_go)
        self._thread.shutdown(wait=False)

    async def _do(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        if self._closed:
            raise LedgerUnavailableError(f"ledger {self._path}: was closed")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._in_thread, work)

    def _in_thread(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        try:
            connection = self._opened()
            with transaction(connection):
                if (version := pragma(connection, "user_version")) != schema.SCHEMA_VERSION:
                    raise self._newer(version)
                return work(connection)
        except LedgerUnavailableError:
            self._let_go()
            raise
        except sqlite3.Error as error:
            self._let_go()
            raise LedgerUnavailableError(
                f"ledger {self._path}: {explain(error, damaged=_DAMAGED, busy_seconds=BUSY_SECONDS)}"
            ) from error
        except OSError as error:
            raise LedgerUnavailableError(f"ledger {self._path}: {error.strerror or error}") from error

    def _opened(self) -> sqlite3.Connection:
        if self._connection is not None and self._inode == inode(self._path):
            return self._connection
        self._let_go()
        if self._inode is None:
            make(self._path)
        elif self._inode != inode(self._path):
            raise LedgerUnavailableError(
                f"ledger {self._path}: was moved away or replaced while in use; put it back, or restart to use what is "
                "there now"
            )
        # The transactions are ours: without isolation_level=None the module begins its own, and not IMMEDIATE.
        self._connection = connection = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None)
        self._check_ours(connection)
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise LedgerUnavailableError(
                f"ledger {self._path}: its file system cannot have a write-ahead log (journal mode {mode}); "
                "keep the file on a local disk"
            )
        connection.execute("PRAGMA synchronous = FULL")
        with transaction(connection):
            if is_empty(connection):
                _lay_out(connection)
        self._inode = inode(self._path)
        return connection

    def _check_ours(self, connection: sqlite3.Connection) -> None:
        """Refuse another program's file and a newer schema's, before anything is written."""
        if is_empty(connection):
            return
        if pragma(connection, "application_id") != APPLICATION_ID:
            raise LedgerUnavailableError(
                f"ledger {self._path}: is a SQLite database of another program; name another file"
            )
        if (version := pragma(connection, "user_version")) != schema.SCHEMA_VERSION:
            raise self._newer(version)

    def _newer(self, version: int) -> LedgerUnavailableError:
        return LedgerUnavailableError(
            f"ledger {self._path}: has schema {version}, this release knows {schema.SCHEMA_VERSION}; run the release "
            "that wrote it"
        )

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()


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


def _lay_out(connection: sqlite3.Connection) -> None:
    for statement in schema.tables(serial="INTEGER PRIMARY KEY AUTOINCREMENT"):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION}")
