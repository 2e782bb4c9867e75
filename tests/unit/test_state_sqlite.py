"""State in a SQLite file: what the file is like, and files that are not ours, too new, damaged, full or gone.

What it has in common with Redis is in tests/state/test_contract.py.
"""

import os
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from tenantry.adapters.state import StateUnavailableError, sqlite
from tenantry.adapters.state.sqlite import SqliteState
from tenantry.core.rollout.visits import Arrival


def one_more(document: bytes | None) -> bytes:
    return b"%d" % (int(document or 0) + 1)


def unchanged(document: bytes | None) -> bytes:
    return document or b"nothing"


def arrival(unit: str) -> Arrival:
    return Arrival(unit=unit, warming=False, has_past=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "here" / "state.db"


@pytest_asyncio.fixture
async def store(path: Path) -> AsyncIterator[SqliteState]:
    opened = SqliteState(path)
    yield opened
    await opened.close()


async def written(path: Path) -> None:
    """A file with a document, closed."""
    store = SqliteState(path)
    await store.update("key", one_more)
    await store.close()


def ask(path: Path, statement: str) -> object:
    connection = sqlite3.connect(path, isolation_level=None)
    row = connection.execute(statement).fetchone()
    connection.close()
    return None if row is None else row[0]


async def test_nothing_is_made_before_the_first_call(store: SqliteState, path: Path) -> None:
    assert not path.parent.exists()
    assert await store.entries("log", 1) == []
    assert path.exists()


async def test_only_the_owner_may_read(store: SqliteState, path: Path) -> None:
    previous = os.umask(0)
    try:
        await store.update("key", one_more)
    finally:
        os.umask(previous)
    files = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert files == {"state.db": 0o600, "state.db-wal": 0o600, "state.db-shm": 0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_commits_are_on_the_disk(store: SqliteState, path: Path) -> None:
    await store.update("key", one_more)
    assert ask(path, "PRAGMA journal_mode") == "wal"
    # What holds for a connection alone is read from the store's own.
    connection = store._file.connection
    assert connection is not None
    full = store._file._thread.submit(lambda: connection.execute("PRAGMA synchronous").fetchone()[0]).result()
    assert full == 2


async def test_a_file_is_found_again(path: Path) -> None:
    await written(path)
    store = SqliteState(path)
    assert await store.update("key", one_more) == b"2"
    await store.close()


async def test_an_unchanged_document_is_not_written(store: SqliteState, path: Path) -> None:
    await store.update("key", one_more)
    size = (path.parent / "state.db-wal").stat().st_size
    assert await store.update("key", unchanged) == b"1"
    assert (path.parent / "state.db-wal").stat().st_size == size
    await store.update("key", one_more)
    assert (path.parent / "state.db-wal").stat().st_size > size


async def test_work_is_done_in_a_thread_of_its_own(store: SqliteState) -> None:
    threads = set()

    def merge(document: bytes | None) -> bytes:
        threads.add(threading.current_thread().name)
        return one_more(document)

    for _ in range(3):
        await store.update("key", merge)
    assert threads == {"tenantry-state_0"}


def _text(path: Path) -> None:
    path.write_text("rules: these are no database\n" * 100)


def _other_program(path: Path) -> None:
    ask(path, "CREATE TABLE cookies (host TEXT)")


def _folder(path: Path) -> None:
    path.mkdir()


def _dangling(path: Path) -> None:
    path.symlink_to(path.parent / "gone" / "state.db")


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (_text, r"damaged or not a SQLite file.*aside"),
        (_other_program, r"of another program; name another file"),
        (_folder, r"cannot be opened"),
        (_dangling, r"cannot be opened"),
    ],
)
async def test_what_is_not_ours_is_left_as_it_is(
    store: SqliteState, path: Path, make: Callable[[Path], None], what: str
) -> None:
    path.parent.mkdir(parents=True)
    make(path)
    before = path.read_bytes() if path.is_file() else None
    for call in (store.update("key", one_more), store.append("log", "id", b""), store.entries("log", 1)):
        with pytest.raises(StateUnavailableError, match=rf"state file {path}: .*{what}"):
            await call
    assert (path.read_bytes() if path.is_file() else None) == before


async def test_an_empty_file_is_taken_for_a_new_one(store: SqliteState, path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.touch()
    assert await store.update("key", one_more) == b"1"


async def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = SqliteState(tmp_path / "file" / "state.db")
    with pytest.raises(StateUnavailableError, match=r"state file .*/file/state.db: .*(exists|directory)"):
        await store.update("key", one_more)
    await store.close()


async def test_a_newer_schema_is_refused(path: Path) -> None:
    await written(path)
    ask(path, "PRAGMA user_version = 2")
    before = path.read_bytes()
    store = SqliteState(path)
    with pytest.raises(StateUnavailableError, match=r"schema 2, this release knows 1; run the release that wrote it"):
        await store.update("key", one_more)
    await store.close()
    assert path.read_bytes() == before


async def test_a_newer_release_that_comes_to_an_open_file_is_noticed(store: SqliteState, path: Path) -> None:
    await store.update("key", one_more)
    ask(path, "PRAGMA user_version = 2")
    with pytest.raises(StateUnavailableError, match="schema 2"):
        await store.update("key", one_more)
    ask(path, "PRAGMA user_version = 1")
    assert await store.update("key", one_more) == b"2"


async def test_damage_is_found_when_the_file_is_opened(path: Path) -> None:
    await written(path)
    raw = bytearray(path.read_bytes())
    raw[-4096:] = b"\xa5" * 4096  # an index of the visits: no other call would meet with it
    path.write_bytes(raw)
    store = SqliteState(path)
    with pytest.raises(StateUnavailableError, match=r"damaged.*look whether a rollout that was reverted"):
        await store.entries("log", 1)
    # It is mended by doing what the message says; no restart is needed.
    path.rename(path.with_suffix(".aside"))
    assert await store.update("key", one_more) == b"1"
    await store.close()


async def test_a_file_that_was_moved_away_is_not_written_to_any_more(store: SqliteState, path: Path) -> None:
    await store.update("key", one_more)
    path.parent.rename(path.parent.with_name("aside"))
    assert await store.update("key", one_more) == b"1"
    again = SqliteState(path)
    assert await again.update("key", one_more) == b"2"
    await again.close()


async def test_a_full_disk_changes_nothing(store: SqliteState) -> None:
    await store.update("key", one_more)
    connection = store._file.connection
    assert connection is not None
    store._file._thread.submit(lambda: connection.execute("PRAGMA max_page_count = 20").fetchone()).result()
    with pytest.raises(StateUnavailableError, match="no room left on its disk; make some"):
        await store.update("key", lambda _: b"x" * 200_000)
    assert await store.update("key", one_more) == b"2"


async def test_a_lock_that_is_never_given_back(store: SqliteState, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)
    await store.update("key", one_more)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StateUnavailableError, match="locked by another process"):
        await store.update("key", one_more)
    holder.execute("ROLLBACK")
    holder.close()
    assert await store.update("key", one_more) == b"2"


async def test_counts_expire_by_the_shared_clock_and_leave_nothing(path: Path) -> None:
    now_s = 1_000.0
    store = SqliteState(path, now=lambda: now_s)

    async def number(key: str) -> int:
        (visit,) = await store.visits(key, [arrival("s1")], ttl_s=60)
        return visit.number

    assert [await number("a"), await number("a"), await number("b")] == [1, 2, 1]
    now_s += 59
    assert await number("a") == 3
    now_s += 59
    assert await number("a") == 4
    assert ask(path, "SELECT group_concat(key) FROM units") == "a", "b's expired, though nobody asked for them"
    now_s += 60
    assert await number("a") == 1
    await store.close()


async def test_memory_for_units_is_bounded(path: Path) -> None:
    store = SqliteState(path, max_units=10)
    await store.visits("key", [arrival(f"s{number}") for number in range(1_000)], ttl_s=60)
    assert ask(path, "SELECT count(*) FROM units") in range(10, 21)
    await store.close()
