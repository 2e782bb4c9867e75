"""A ledger's SQLite file: what it is like, and files that are not ours, too new, damaged, full, locked or gone.

What it has in common with PostgreSQL is in tests/state/test_ledger_contract.py.
"""

import os
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from tenantry.adapters.ledger import LedgerUnavailableError, open_ledger, sqlite
from tenantry.adapters.ledger.sqlite import SqliteLedger
from tenantry.adapters.ledger.store import Query
from tenantry_testing.ledger_world import book, request, span


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "here" / "ledger.db"


@pytest_asyncio.fixture
async def ledger(path: Path) -> AsyncIterator[SqliteLedger]:
    opened = SqliteLedger(path)
    yield opened
    await opened.close()


async def written(path: Path) -> None:
    """A file with a record, closed."""
    ledger = SqliteLedger(path)
    await book(ledger, [request()])
    await ledger.close()


async def records(ledger: SqliteLedger) -> int:
    return sum(tally.records for tally in await ledger.tallies(Query()))


def ask(path: Path, statement: str) -> object:
    connection = sqlite3.connect(path, isolation_level=None)
    row = connection.execute(statement).fetchone()
    connection.close()
    return None if row is None else row[0]


async def test_only_the_owner_may_read(ledger: SqliteLedger, path: Path) -> None:
    previous = os.umask(0)
    try:
        await book(ledger, [request()])
    finally:
        os.umask(previous)
    files = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert files == {"ledger.db": 0o600, "ledger.db-wal": 0o600, "ledger.db-shm": 0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_commits_are_on_the_disk(ledger: SqliteLedger, path: Path) -> None:
    await book(ledger, [request()])
    assert ask(path, "PRAGMA journal_mode") == "wal"
    # What holds for a connection alone is read from the ledger's own.
    connection = ledger._file.connection
    assert connection is not None
    full = ledger._file._thread.submit(lambda: connection.execute("PRAGMA synchronous").fetchone()[0]).result()
    assert full == 2


async def test_a_file_is_found_again(path: Path) -> None:
    await written(path)
    ledger = SqliteLedger(path)
    assert await book(ledger, [request()]) == ()
    assert await records(ledger) == 1
    await ledger.close()


async def test_two_services_on_one_file_take_turns(ledger: SqliteLedger, path: Path) -> None:
    other = SqliteLedger(path)
    await book(ledger, [request("r1")])
    assert len(await book(other, [request("r1"), request("r2")])) == 1
    assert await records(ledger) == 2
    await other.close()


def _text(path: Path) -> None:
    path.write_text("rules: these are no database\n" * 100)


def _other_program(path: Path) -> None:
    ask(path, "CREATE TABLE cookies (host TEXT)")


def _folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (_text, r"damaged or not a SQLite file.*restore a backup"),
        (_other_program, r"of another program; name another file"),
        (_folder, r"cannot be opened"),
    ],
)
async def test_what_is_not_ours_is_left_as_it_is(
    ledger: SqliteLedger, path: Path, make: Callable[[Path], None], what: str
) -> None:
    path.parent.mkdir(parents=True)
    make(path)
    before = path.read_bytes() if path.is_file() else None
    for call in (book(ledger, [request()]), ledger.tallies(Query()), ledger.periods()):
        with pytest.raises(LedgerUnavailableError, match=rf"ledger {path}: .*{what}"):
            await call
    assert (path.read_bytes() if path.is_file() else None) == before


async def test_a_newer_schema_is_refused(path: Path) -> None:
    await written(path)
    ask(path, "PRAGMA user_version = 2")
    ledger = SqliteLedger(path)
    with pytest.raises(LedgerUnavailableError, match="schema 2, this release knows 1; run the release that wrote it"):
        await book(ledger, [request("r2")])
    await ledger.close()


async def test_a_newer_release_that_comes_to_an_open_file_is_noticed(ledger: SqliteLedger, path: Path) -> None:
    await book(ledger, [request()])
    ask(path, "PRAGMA user_version = 2")
    with pytest.raises(LedgerUnavailableError, match="schema 2"):
        await book(ledger, [request("r2")])
    ask(path, "PRAGMA user_version = 1")
    assert len(await book(ledger, [request("r2")])) == 1


async def test_a_file_that_was_moved_away_is_not_begun_anew(ledger: SqliteLedger, path: Path) -> None:
    await book(ledger, [request("r1")])
    path.parent.rename(path.parent.with_name("aside"))
    with pytest.raises(LedgerUnavailableError, match="was moved away or replaced while in use; put it back"):
        await book(ledger, [request("r1"), request("r2")])
    assert not path.exists()
    path.parent.with_name("aside").rename(path.parent)
    assert len(await book(ledger, [request("r1"), request("r2")])) == 1


async def test_a_full_disk_books_nothing_of_a_batch(ledger: SqliteLedger) -> None:
    await book(ledger, [request("r1"), span()])
    connection = ledger._file.connection
    assert connection is not None
    pages = "PRAGMA max_page_count = 30"
    ledger._file._thread.submit(lambda: connection.execute(pages).fetchone()).result()
    batch = [request(f"b{number}") for number in range(500)]
    with pytest.raises(LedgerUnavailableError, match="no room left on its disk; make some"):
        await book(ledger, batch)
    assert await records(ledger) == 1
    # The next connection has room, as after an operator made some: nothing was counted, so all is new.
    assert len(await book(ledger, batch)) == 500
    assert await records(ledger) == 501


async def test_a_lock_that_is_never_given_back(
    ledger: SqliteLedger, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)
    await book(ledger, [request()])
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerUnavailableError, match="locked by another process"):
        await book(ledger, [request("r2")])
    holder.execute("ROLLBACK")
    holder.close()
    assert len(await book(ledger, [request("r2")])) == 1


async def test_a_closed_ledger_says_so(path: Path) -> None:
    ledger = SqliteLedger(path)
    await ledger.close()
    await ledger.close()
    with pytest.raises(LedgerUnavailableError, match="was closed"):
        await book(ledger, [request()])


@pytest.mark.parametrize("where", ["", "ledger.db", "sqlite:", "mysql://host/name", "SQLITE:x"])
def test_what_is_no_place_for_a_ledger(where: str) -> None:
    with pytest.raises(LedgerUnavailableError, match="--db: expected sqlite:PATH, postgresql://HOST/NAME"):
        open_ledger(where)


def test_a_malformed_url_is_not_repeated() -> None:
    with pytest.raises(LedgerUnavailableError) as caught:
        open_ledger("postgresql://user:s3cret@host:port:/x?nope=1")
    assert "s3cret" not in str(caught.value)
    assert "no postgresql:// URL" in str(caught.value)
