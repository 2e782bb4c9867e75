"""The ledger: what every tenant used, written once and never lost. SQLite on one machine, PostgreSQL for a fleet.

`store` says what a ledger can do, `schema` has the tables and statements of both, `service` is its HTTP face
(`tenantry ledger serve`) with a module for each group of routes, `export` sends entries on to others' billing. What a
batch of records comes to is decided by `core.billing.booking`.
"""

from pathlib import Path

from tenantry.adapters.ledger.store import Ledger, LedgerUnavailableError

__all__ = ["Ledger", "LedgerUnavailableError", "open_ledger"]


def open_ledger(where: str) -> Ledger:
    """Return the ledger in a file (`sqlite:PATH`) or at a URL (`postgresql://`); nothing is opened yet.

    Raises LedgerUnavailableError for what can be neither.
    """
    if where.startswith("sqlite:") and where != "sqlite:":
        from tenantry.adapters.ledger.sqlite import SqliteLedger  # noqa: PLC0415  # each loads what it needs alone

        return SqliteLedger(Path(where.removeprefix("sqlite:")))
    if not where.startswith(("postgresql://", "postgres://")):
        raise LedgerUnavailableError("--db: expected sqlite:PATH, postgresql://HOST/NAME, or @FILE with such a URL")
    try:
        from tenantry.adapters.ledger.postgres import PostgresLedger  # noqa: PLC0415  # psycopg is an extra
    except ModuleNotFoundError as error:
        raise LedgerUnavailableError(
            "a ledger in PostgreSQL needs psycopg: pip install 'tenantry[postgres]'"
        ) from error
    return PostgresLedger(where)
