"""The ledger: what every tenant used, written once and never lost. SQLite on one machine, PostgreSQL for a fleet.

`store` says what a ledger can do, `schema` has the tables and statements of both, `service` is its HTTP face
(`tenantry ledger serve`) with a module for each group of routes, `export` sends entries on to others' billing. What a
batch of records comes to is decided by `core.billing.booking`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tenantry.adapters.ledger.store import Ledger, LedgerUnavailableError
from tenantry.core.errors import TenantryError

__all__ = ["Ledger", "LedgerUnavailableError", "open_ledger", "opened_at", "place_of"]


Opened = TypeVar("Opened")


def place_of(db: str) -> str:
    """Return a database's place, which may hold a password and then stands in a file of its own (`@FILE`)."""
    if not db.startswith("@"):
        return db
    try:
        return Path(db[1:]).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise TenantryError(f"--db {db}: {error}") from None


def opened_at(where: str, *, sqlite: Callable[[Path], Opened], postgres: Callable[[str], Opened]) -> Opened:
    """Return what one of the two makes of `sqlite:PATH` or a `postgresql://` URL; either may import what it needs.

    Raises LedgerUnavailableError for what can be neither, or without psycopg.
    """
    if where.startswith("sqlite:") and where != "sqlite:":
        return sqlite(Path(where.removeprefix("sqlite:")))
    if not where.startswith(("postgresql://", "postgres://")):
        raise LedgerUnavailableError("--db: expected sqlite:PATH, postgresql://HOST/NAME, or @FILE with such a URL")
    try:
        return postgres(where)
    except ModuleNotFoundError as error:
        raise LedgerUnavailableError(
            "a ledger in PostgreSQL needs psycopg: pip install 'tenantry[postgres]'"
        ) from error


def open_ledger(where: str) -> Ledger:
    """Return the ledger in a file (`sqlite:PATH`) or at a URL (`postgresql://`); nothing is opened yet.

    Raises LedgerUnavailableError for what can be neither.
    """

    def sqlite(path: Path) -> Ledger:
        from tenantry.adapters.ledger.sqlite import SqliteLedger  # noqa: PLC0415  # each loads what it needs alone

        return SqliteLedger(path)

    def postgres(url: str) -> Ledger:
        from tenantry.adapters.ledger.postgres import PostgresLedger  # noqa: PLC0415  # psycopg is an extra

        return PostgresLedger(url)

    return opened_at(where, sqlite=sqlite, postgres=postgres)
