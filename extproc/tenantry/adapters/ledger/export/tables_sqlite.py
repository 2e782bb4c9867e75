"""The outbox's tables in the ledger's SQLite file, on a connection of their own with one thread."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from tenantry.adapters.ledger.export.tables import SCHEMA, Transaction
from tenantry.adapters.ledger.sqlite import APPLICATION_ID
from tenantry.adapters.ledger.store import LedgerUnavailableError

Result = TypeVar("Result")

BUSY_SECONDS = 5.0


class SqliteTables:
    """Tables in `path`, which the ledger has made: an export never begins a ledger.

    Without `durable`, for tests of other things, a commit does not wait for the disk.
    """

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        self._path = path
        self._durable = durable
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tenantry-export")
        self._turn = asyncio.Lock()
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._closed = False

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """See Tables."""
        async with self._turn:
            connection = await self._do(self._opened)
            transaction = _Transaction(connection, self._do)
            try:
                await transaction.rows("BEGIN IMMEDIATE")
                yield transaction
                await transaction.rows("COMMIT")
            except BaseException as error:
                await self._do(lambda: _roll_back(connection))
                if isinstance(error, LedgerUnavailableError):
                    await self._do(self._let_go)
                raise

    async def close(self) -> None:
        """See Tables."""
        if not self._closed:
            async with self._turn:
                await self._do(self._let_go)
                self._closed = True
            self._thread.shutdown(wait=False)

    async def _do(self, work: Callable[[], Result]) -> Result:
        if self._closed:
            raise LedgerUnavailableError(f"ledger {self._path}: was closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as error:
            raise LedgerUnavailableError(f"ledger {self._path}: {error}") from error

    def _opened(self) -> sqlite3.Connection:
        if self._connection is not None and self._inode == _inode(self._path):
            return self._connection
        self._let_go()  # a file that was moved away while it was open: nobody would find again what is written to it
        if not self._path.is_file():
            raise LedgerUnavailableError(f"ledger {self._path}: there is none; start `tenantry ledger serve` first")
        self._inode = _inode(self._path)
        connection = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            self._check_ours(connection)
            connection.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'OFF'}")
            for statement in SCHEMA.split(";"):
                connection.execute(statement)
        except (sqlite3.Error, LedgerUnavailableError):
            connection.close()
            raise
        self._connection = connection
        return connection

    def _check_ours(self, connection: sqlite3.Connection) -> None:
        if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise LedgerUnavailableError(f"ledger {self._path}: is no ledger; name the file of `tenantry ledger serve`")

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()


class _Transaction:
    def __init__(self, connection: sqlite3.Connection, do: Callable[[Callable[[], Any]], Any]) -> None:
        self._connection = connection
        self._do = do

    async def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = await self._do(lambda: self._connection.execute(sql, values).fetchall())
        return found

    async def many(self, sql: str, values: Iterable[Sequence[Any]]) -> None:
        given = list(values)
        await self._do(lambda: self._connection.executemany(sql, given))


def _roll_back(connection: sqlite3.Connection) -> None:
    # A failure that SQLite itself rolled back (disk full) leaves nothing to roll back.
    with contextlib.suppress(sqlite3.Error):
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
