"""A SQLite file of ours: made, opened, checked and used by one thread, in transactions; its errors say what to do.

One connection, used by one thread of its own, so that the event loop never waits for the disk. Processes take turns by
BEGIN IMMEDIATE. A file that is not ours, or of a newer release, is never written to.
"""

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from tenantry.core.errors import TenantryError

Result = TypeVar("Result")

_ADVICE = {
    sqlite3.SQLITE_FULL: "has no room left on its disk; make some",
    sqlite3.SQLITE_IOERR: "could not be read or written; see whether its disk is full or failing",
    sqlite3.SQLITE_READONLY: "may not be written; check the owner and mode of it and its folder",
    sqlite3.SQLITE_PERM: "may not be opened; check the owner and mode of it and its folder",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened; check the owner and mode of it and its folder",
}


class FileKind(Struct, frozen=True, kw_only=True):
    """What a kind of file is: `what` begins its errors, `statements` lay out an empty one.

    `application_id` is in the header of each, `schema_version` is what this release writes. `damaged` and `newer` end
    the sentences about a file that is. `busy_seconds`: how long another process's turn is waited for. `checks_whole`:
    it is looked through when it is opened. `may_move`: one that was moved away while in use is begun anew.
    """

    what: str
    error: type[TenantryError]
    application_id: int
    schema_version: int
    statements: tuple[str, ...]
    damaged: str
    newer: str
    busy_seconds: float
    checks_whole: bool = False
    may_move: bool = False


class SqliteFile:
    """The file `path`, made with mode 0600 (and its folder with 0700) when it is missing. Raises `kind.error`.

    Not `durable`: a power cut may take the last changes back, which then cost no fsync each; what a process wrote
    survives its own death all the same.
    """

    def __init__(self, path: Path, kind: FileKind, *, durable: bool = True) -> None:
        self.connection: sqlite3.Connection | None = None
        self._path = path
        self._kind = kind
        self._durable = durable
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"tenantry-{kind.what.split()[0]}")
        self._inode: tuple[int, int] | None = None
        self._closed = False

    async def do(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Run a transaction in the file's thread; all of it is done, or nothing."""
        if self._closed:
            raise self._error("was closed")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._in_thread, work)

    async def close(self) -> None:
        """Let go of the file, after the transactions that are under way."""
        if self._closed:
            return
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(self._thread, self._let_go)
        self._thread.shutdown(wait=False)

    def _error(self, text: str) -> TenantryError:
        return self._kind.error(f"{self._kind.what} {self._path}: {text}")

    def _in_thread(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        try:
            connection = self._opened()
            with transaction(connection):
                self._check_version(connection)
                return work(connection)
        except self._kind.error:
            self._let_go()
            raise
        except sqlite3.Error as error:
            self._let_go()
            raise self._error(_explain(error, self._kind)) from error
        except OSError as error:
            raise self._error(error.strerror or str(error)) from error

    def _opened(self) -> sqlite3.Connection:
        if self.connection is not None and self._inode == inode(self._path):
            return self.connection
        self._let_go()
        if self._inode is None or self._kind.may_move:
            make(self._path)
        elif self._inode != inode(self._path):
            raise self._error(
                "was moved away or replaced while in use; put it back, or restart to use what is there now"
            )
        # The transactions are ours: without isolation_level=None the module begins its own, and not IMMEDIATE.
        self.connection = connection = sqlite3.connect(
            self._path, timeout=self._kind.busy_seconds, isolation_level=None
        )
        self._check_ours(connection)
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise self._error(
                f"its file system cannot have a write-ahead log (journal mode {mode}); keep the file on a local disk"
            )
        connection.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'NORMAL'}")
        with transaction(connection):
            if is_empty(connection):
                self._lay_out(connection)
        self._inode = inode(self._path)
        return connection

    def _check_ours(self, connection: sqlite3.Connection) -> None:
        """Refuse another program's file, a newer schema's and a damaged one, before anything is written."""
        if not is_empty(connection):
            if pragma(connection, "application_id") != self._kind.application_id:
                raise self._error("is a SQLite database of another program; name another file")
            self._check_version(connection)
        if self._kind.checks_whole:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise self._error(f"{self._kind.damaged} ({found})")

    def _check_version(self, connection: sqlite3.Connection) -> None:
        if (version := pragma(connection, "user_version")) != self._kind.schema_version:
            raise self._error(
                f"has schema {version}, this release knows {self._kind.schema_version}; {self._kind.newer}"
            )

    def _lay_out(self, connection: sqlite3.Connection) -> None:
        for statement in self._kind.statements:  # not executescript, which would commit first
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {self._kind.application_id}")
        connection.execute(f"PRAGMA user_version = {self._kind.schema_version}")

    def _let_go(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Do what is in the `with` block whole or not at all; the connection has isolation_level None.

    IMMEDIATE, so that a reader which goes on to write never finds that somebody else wrote in between.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # A failure that SQLite itself rolled back (disk full) leaves nothing to roll back.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def make(path: Path) -> None:
    """Make the file with mode 0600, and its folder with 0700, unless they are there."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        # SQLite gives its -wal and -shm the mode of the file.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the name of the file, too, must survive a power cut
        finally:
            os.close(folder)


def inode(path: Path) -> tuple[int, int] | None:
    """Return which file a path leads to, None for none: a file that was replaced has another."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def is_empty(connection: sqlite3.Connection) -> bool:
    """Return whether a database has no tables yet."""
    return not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]


def pragma(connection: sqlite3.Connection, name: str) -> int:
    """Return a whole number that a database has in its header."""
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _explain(error: sqlite3.Error, kind: FileKind) -> str:
    """Return the end of a sentence about a file: what is wrong and what to do."""
    busy = f"has been locked by another process for {kind.busy_seconds:g} s; see who holds it (lsof)"
    damaged = dict.fromkeys((sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT), kind.damaged)
    code: int = getattr(error, "sqlite_errorcode", 0)
    # The upper bytes of a code say more exactly what the lowest one says.
    found = (_ADVICE | damaged | {sqlite3.SQLITE_BUSY: busy}).get(code & 0xFF)
    return f"{found} ({error})" if found else str(error)
