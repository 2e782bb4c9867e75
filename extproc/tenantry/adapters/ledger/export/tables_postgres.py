"""The outbox's tables in the ledger's PostgreSQL database, on a connection of their own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from tenantry.adapters.ledger.export.tables import SCHEMA, Transaction
from tenantry.adapters.ledger.store import LedgerUnavailableError

TIMEOUT_S = 10
TRANSACTION_S = 20.0
_LAYING_OUT = 0x746E6578
"""`tnex`: the advisory lock under which tables are made; two that make them at once would collide."""


class PostgresTables:
    """Tables in the ledger's database at `url`, in the first schema of its path."""

    def __init__(self, url: str) -> None:
        try:
            parts = conninfo_to_dict(url)
        except psycopg.Error:
            raise LedgerUnavailableError("--db: is no postgresql:// URL") from None
        self._url = url
        self._named = f"ledger in PostgreSQL {parts.get('dbname', '')!r} at {parts.get('host', 'this machine')}"
        self._turn = asyncio.Lock()
        self._connection: psycopg.AsyncConnection[tuple[Any, ...]] | None = None
        self._closed = False

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """See Tables."""
        async with self._turn:
            try:
                # The server's own limit does not help against a server that is cut off.
                async with asyncio.timeout(TRANSACTION_S):
                    connection = await self._opened()
                    async with connection.transaction():
                        yield _Transaction(connection)
            except (psycopg.Error, OSError) as error:  # TimeoutError is an OSError
                await self._let_go()
                raise LedgerUnavailableError(f"{self._named}: {' '.join(str(error).split())[:300]}") from error
            except asyncio.CancelledError:
                await self._let_go()
                raise

    async def close(self) -> None:
        """See Tables."""
        async with self._turn:
            self._closed = True
            await self._let_go()

    async def _opened(self) -> psycopg.AsyncConnection[tuple[Any, ...]]:
        if self._closed:
            raise LedgerUnavailableError(f"{self._named}: was closed")
        if self._connection is not None and not self._connection.closed:
            return self._connection
        connection = await psycopg.AsyncConnection.connect(self._url, connect_timeout=TIMEOUT_S, autocommit=True)
        try:
            await connection.execute(f"SET statement_timeout = '{TIMEOUT_S}s'")
            async with connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LAYING_OUT,))
                for statement in filter(str.strip, SCHEMA.split(";")):
                    await connection.execute(statement.encode())
        except BaseException:
            await connection.close()
            raise
        self._connection = connection
        return connection

    async def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error, OSError):
                await connection.close()


class _Transaction:
    def __init__(self, connection: psycopg.AsyncConnection[tuple[Any, ...]]) -> None:
        self._connection = connection

    async def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        cursor = await self._connection.execute(_theirs(sql), values)
        return await cursor.fetchall() if cursor.description is not None else []

    async def many(self, sql: str, values: Iterable[Sequence[Any]]) -> None:
        given = list(values)
        if given:
            async with self._connection.cursor() as cursor:
                await cursor.executemany(_theirs(sql), given)


def _theirs(sql: str) -> bytes:
    return sql.replace("?", "%s").encode()
