"""The outbox's tables, beside the ledger's in one database, so that both are read and written in one transaction.

SQL here is what SQLite and PostgreSQL share; a parameter is `?`.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

SCHEMA = """
CREATE TABLE IF NOT EXISTS export_lease (
  name TEXT PRIMARY KEY, holder TEXT NOT NULL, until_s DOUBLE PRECISION NOT NULL
);

CREATE TABLE IF NOT EXISTS export_cursors (
  destination TEXT PRIMARY KEY, seq BIGINT NOT NULL
);

CREATE TABLE IF NOT EXISTS export_sums (
  destination TEXT NOT NULL, tenant TEXT NOT NULL, hour BIGINT NOT NULL, micro BIGINT NOT NULL,
  due_s DOUBLE PRECISION NOT NULL, PRIMARY KEY (destination, tenant, hour)
);

CREATE TABLE IF NOT EXISTS export_carries (
  destination TEXT NOT NULL, tenant TEXT NOT NULL, micro BIGINT NOT NULL, sums BIGINT NOT NULL,
  PRIMARY KEY (destination, tenant)
);

CREATE TABLE IF NOT EXISTS export_events (
  destination TEXT NOT NULL, id TEXT NOT NULL, tenant TEXT NOT NULL, at_s DOUBLE PRECISION NOT NULL,
  item TEXT NOT NULL, added_s DOUBLE PRECISION NOT NULL, state TEXT NOT NULL, tries BIGINT NOT NULL DEFAULT 0,
  answers BIGINT NOT NULL DEFAULT 0, doubtful_since_s DOUBLE PRECISION, body TEXT, changed_s DOUBLE PRECISION NOT NULL,
  reason TEXT NOT NULL DEFAULT '', who TEXT NOT NULL DEFAULT '', why TEXT NOT NULL DEFAULT '',
  PRIMARY KEY (destination, id)
);

CREATE INDEX IF NOT EXISTS export_events_by_turn ON export_events (destination, state, tries, at_s, id);

CREATE INDEX IF NOT EXISTS export_events_by_age ON export_events (destination, state, changed_s);

CREATE INDEX IF NOT EXISTS export_events_in_doubt ON export_events (destination, state, doubtful_since_s)
  WHERE doubtful_since_s IS NOT NULL;
"""


class Transaction(Protocol):
    """Statements that happen together or not at all."""

    async def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""

    async def many(self, sql: str, values: Iterable[Sequence[Any]]) -> None:
        """Run a statement for each row of values."""


class Tables(Protocol):
    """One database. Every call may raise LedgerUnavailableError; then nothing was changed, unless it was the commit."""

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """Begin a transaction that writes; it is committed at the end of the block, rolled back if the block raises.

        Transactions of this object take turns; so do those of several processes that write the same rows.
        """

    async def close(self) -> None:
        """Let go of files and connections."""
