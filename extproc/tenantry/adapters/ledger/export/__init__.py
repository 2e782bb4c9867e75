"""The export of usage to others' billing: an outbox beside the ledger, and what empties it.

`tables` is the outbox's place (SQLite, PostgreSQL), `collector` fills it from the ledger's entries, `outbox` hands out
what may be sent and books what became of it, `http` sends, `exporter` is the task that does all of it, `process` the
process that runs it.
"""

from pathlib import Path

from tenantry.adapters.ledger import opened_at
from tenantry.adapters.ledger.export.tables import Tables

__all__ = ["Tables", "open_tables"]


def open_tables(where: str) -> Tables:
    """Return the outbox's tables in a ledger's database, named as for `open_ledger`; nothing is opened yet.

    Raises LedgerUnavailableError for what is no such name.
    """

    def sqlite(path: Path) -> Tables:
        from tenantry.adapters.ledger.export.tables_sqlite import SqliteTables  # noqa: PLC0415  # see open_ledger

        return SqliteTables(path)

    def postgres(url: str) -> Tables:
        from tenantry.adapters.ledger.export.tables_postgres import PostgresTables  # noqa: PLC0415

        return PostgresTables(url)

    return opened_at(where, sqlite=sqlite, postgres=postgres)
