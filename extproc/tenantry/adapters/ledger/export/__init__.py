"""The export of usage to others' billing: an outbox beside the ledger, and what empties it.

`tables` is the outbox's place (SQLite, PostgreSQL), `collector` fills it from the ledger's entries, `outbox` hands out
what may be sent and books what became of it, `http` sends, `exporter` is the task that does all of it, `process` the
process that runs it.
"""

from pathlib import Path

from tenantry.adapters.ledger.export.tables import Tables
from tenantry.adapters.ledger.store import LedgerUnavailableError

__all__ = ["Tables", "open_tables"]


def open_tables(where: str) -> Tables:
    """Return the outbox's tables in a ledger's database, named as for `open_ledger`; nothing is opened yet.

    Raises LedgerUnavailableError for what is no such name.
    """
    if where.startswith("sqlite:") and where != "sqlite:":
        from tenantry.adapters.ledger.export.tables_sqlite import SqliteTables  # noqa: PLC0415  # see open_ledger

        return SqliteTables(Path(where.removeprefix("sqlite:")))
    if not where.startswith(("postgresql://", "postgres://")):
        raise LedgerUnavailableError("--db: expected sqlite:PATH, postgresql://HOST/NAME, or @FILE with such a URL")
    try:
        from tenantry.adapters.ledger.export.tables_postgres import PostgresTables  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise LedgerUnavailableError(
            "a ledger in PostgreSQL needs psycopg: pip install 'tenantry[postgres]'"
        ) from error
    return PostgresTables(where)
