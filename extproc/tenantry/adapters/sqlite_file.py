"""What our SQLite files have in common: how they are made, their transactions, what their errors come to."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

_ADVICE = {
    sqlite3.SQLITE_FULL: "has no room left on its disk; make some",
    sqlite3.SQLITE_IOERR: "could not be read or written; see whether its disk is full or failing",
    sqlite3.SQLITE_READONLY: "may not be written; check the owner and mode of it and its folder",
    sqlite3.SQLITE_PERM: "may not be opened; check the owner and mode of it and its folder",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened; check the owner and mode of it and its folder",
}


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


def explain(error: sqlite3.Error, *, damaged: str, busy_seconds: float) -> str:
    """Return the end of a sentence about a file: what is wrong and what to do; `damaged` is said of one that is."""
    advice = _ADVICE | {
        sqlite3.SQLITE_NOTADB: damaged,
        sqlite3.SQLITE_CORRUPT: damaged,
        sqlite3.SQLITE_BUSY: f"has been locked by another process for {busy_seconds:g} s; see who holds it (lsof)",
    }
    code: int = getattr(error, "sqlite_errorcode", 0)
    found = advice.get(code & 0xFF)  # the upper bytes say more exactly what the lowest one says
    return f"{found} ({error})" if found else str(error)
