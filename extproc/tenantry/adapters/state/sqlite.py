"""Shared state in one SQLite file, for the processes of one machine.

What was acknowledged is on the disk: write-ahead log with synchronous=FULL, so a commit ends with an fsync and neither
`kill -9` nor a power cut takes a revert back. One connection, used by one thread of its own; the event loop
never waits for the disk. Processes take turns by BEGIN IMMEDIATE, which waits up to BUSY_SECONDS for another's turn.

A file that is not ours is never written to: `application_id` marks ours, `user_version` counts the schema, and both are
looked at again in every transaction, for a newer release may have come to the file since it was opened. A file that was
moved away while it was open (its inode tells) is let go of: what is written to it nobody would find again.
"""

import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from tenantry.adapters.sqlite_file import FileKind, SqliteFile
from tenantry.adapters.state.store import MAX_ENTRIES, MAX_UNITS, Merge, StateUnavailableError, checked
from tenantry.core.quota.account import Account, Change, Limits, Standing, apply
from tenantry.core.rollout.visits import Arrival, Visit, next_visit

Result = TypeVar("Result")

_accounts = msgspec.json.Decoder(Account)

BUSY_SECONDS = 5.0
APPLICATION_ID = 0x746E7279
"""`tnry`, in the header of each of our files."""
SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE documents (key TEXT PRIMARY KEY, document BLOB NOT NULL) WITHOUT ROWID;

CREATE TABLE log (
  place INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, id TEXT NOT NULL, entry BLOB NOT NULL, UNIQUE (key, id)
);
CREATE INDEX log_by_key ON log (key, place);

CREATE TABLE counts (
  key TEXT PRIMARY KEY, generation INTEGER NOT NULL, young INTEGER NOT NULL, expires_s REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE units (
  key TEXT NOT NULL, unit TEXT NOT NULL, generation INTEGER NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (key, unit)
) WITHOUT ROWID;
CREATE INDEX units_by_generation ON units (key, generation);
"""

_KIND = FileKind(
    what="state file",
    error=StateUnavailableError,
    application_id=APPLICATION_ID,
    schema_version=SCHEMA_VERSION,
    statements=tuple(SCHEMA.split(";")),
    damaged=(
        "is damaged or not a SQLite file; stop what uses it, move it and its -wal and -shm aside, start again, and "
        "look whether a rollout that was reverted has to be reverted anew"
    ),
    newer="run the release that wrote it, or name another file",
    busy_seconds=BUSY_SECONDS,
    checks_whole=True,
    may_move=True,
)


class SqliteState:
    """A StateStore in the file `path`, made with mode 0600 (and its folder with 0700) when it is missing.

    `now` is the clock that all processes on the file share, in seconds. Not `durable`: a power cut may take the last
    changes back, which then cost no fsync each; what a process wrote survives its own death all the same.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_units: int = MAX_UNITS,
        max_entries: int = MAX_ENTRIES,
        now: Callable[[], float] = time.time,
        durable: bool = True,
    ) -> None:
        self._file = SqliteFile(path, _KIND, durable=durable)
        self._max_units = max_units
        self._max_entries = max_entries
        self._now = now

    async def update(self, key: str, merge: Merge) -> bytes:
        """See StateStore."""
        checked(key)

        def work(connection: sqlite3.Connection) -> bytes:
            row = connection.execute("SELECT document FROM documents WHERE key = ?", (key,)).fetchone()
            before = None if row is None else bytes(row[0])
            after = merge(before)
            if after != before:
                connection.execute("INSERT OR REPLACE INTO documents VALUES (?, ?)", (key, after))
            return after

        return await self._file.do(work)

    async def visits(self, key: str, arrivals: Sequence[Arrival], *, ttl_s: float) -> list[Visit]:
        """See StateStore."""
        checked(key)
        if not arrivals:
            return []

        def work(connection: sqlite3.Connection) -> list[Visit]:
            now_s = self._now()
            _forget_expired(connection, now_s)
            counts = _Counts(connection, key, self._max_units)
            visits = [counts.arrive(arrival) for arrival in arrivals]
            counts.save(now_s + ttl_s)
            return visits

        return await self._file.do(work)

    async def forget(self, key: str) -> None:
        """See StateStore."""
        checked(key)
        await self._file.do(lambda connection: _forget(connection, key))

    async def account(self, key: str, limits: Limits, change: Change) -> Standing:
        """See StateStore."""
        checked(key)
        name = f"account/{key}"

        def work(connection: sqlite3.Connection) -> Standing:
            row = connection.execute("SELECT document FROM documents WHERE key = ?", (name,)).fetchone()
            before = Account() if row is None else _accounts.decode(row[0])
            after, standing = apply(before, limits, change, round(self._now() * 1e3))
            connection.execute("INSERT OR REPLACE INTO documents VALUES (?, ?)", (name, msgspec.json.encode(after)))
            return standing

        return await self._file.do(work)

    async def forget_account(self, key: str) -> None:
        """See AccountStore."""
        name = f"account/{checked(key)}"

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM documents WHERE key = ?", (name,))

        await self._file.do(work)

    async def append(self, key: str, entry_id: str, entry: bytes) -> bool:
        """See StateStore."""
        row = (checked(key), checked(entry_id), entry)

        def work(connection: sqlite3.Connection) -> bool:
            done = connection.execute("INSERT OR IGNORE INTO log (key, id, entry) VALUES (?, ?, ?)", row)
            if done.rowcount:
                connection.execute(
                    "DELETE FROM log WHERE key = ?1 AND place <= (SELECT place FROM log WHERE key = ?1 "
                    "ORDER BY place DESC LIMIT 1 OFFSET ?2)",
                    (key, self._max_entries),
                )
            return bool(done.rowcount)

        return await self._file.do(work)

    async def entries(self, key: str, limit: int) -> list[bytes]:
        """See StateStore."""
        row = (checked(key), max(limit, 0))

        def work(connection: sqlite3.Connection) -> list[bytes]:
            rows = connection.execute("SELECT entry FROM log WHERE key = ? ORDER BY place DESC LIMIT ?", row)
            return [bytes(entry) for (entry,) in rows][::-1]

        return await self._file.do(work)

    async def close(self) -> None:
        """See StateStore."""
        await self._file.close()


class _Counts:
    """`core.rollout.visits.Visits` in two tables: a unit's generation is young, old (the one before), or forgotten."""

    def __init__(self, connection: sqlite3.Connection, key: str, max_units: int) -> None:
        self._connection = connection
        self._key = key
        self._max_units = max_units
        row = connection.execute("SELECT generation, young FROM counts WHERE key = ?", (key,)).fetchone()
        self._generation: int
        self._young: int
        self._generation, self._young = row or (1, 0)

    def arrive(self, arrival: Arrival) -> Visit:
        row = self._connection.execute(
            "SELECT number, generation FROM units WHERE key = ? AND unit = ?", (self._key, arrival.unit)
        ).fetchone()
        before, generation = row or (0, None)
        if generation != self._generation:
            if self._young >= self._max_units:
                self._turn()
            self._young += 1
        after, visit = next_visit(before, arrival)
        self._connection.execute(
            "INSERT OR REPLACE INTO units VALUES (?, ?, ?, ?)", (self._key, arrival.unit, self._generation, after)
        )
        return visit

    def _turn(self) -> None:
        """Let the young generation be the old one, and forget the old one."""
        self._connection.execute("DELETE FROM units WHERE key = ? AND generation < ?", (self._key, self._generation))
        self._generation, self._young = self._generation + 1, 0

    def save(self, expires_s: float) -> None:
        self._connection.execute(
            "INSERT OR REPLACE INTO counts VALUES (?, ?, ?, ?)", (self._key, self._generation, self._young, expires_s)
        )


def _forget_expired(connection: sqlite3.Connection, now_s: float) -> None:
    for (key,) in connection.execute("SELECT key FROM counts WHERE expires_s <= ?", (now_s,)).fetchall():
        _forget(connection, key)


def _forget(connection: sqlite3.Connection, key: str) -> None:
    connection.execute("DELETE FROM units WHERE key = ?", (key,))
    connection.execute("DELETE FROM counts WHERE key = ?", (key,))
