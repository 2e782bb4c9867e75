"""Usage records that a sidecar itself makes (estimates, usage read from responses), on their way to the ledger.

    add --memory--> outbox.db (fsync) --POST /records--> 200 {"new", "known"}: forgotten
                                                         400 {"error", "bad"}: set aside in the file, and counted
                                                         anything else: again later, with growing pauses

What is in the file is delivered, whatever dies: the ledger knows records by their ids, so one that is sent twice
counts once. Honestly: a record is in memory alone for WRITE_SECONDS, which `kill -9` takes with it, and such records
have no partial ones; they are estimates. The file holds MAX_RECORDS; what comes beyond, while the ledger is away for so
long, is dropped, counted and alarmed. Processes of one machine may share the file.
"""

import asyncio
import sqlite3
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec

from tenantry.adapters import logs
from tenantry.adapters.bind import Tls
from tenantry.adapters.sqlite_file import make, transaction
from tenantry.adapters.usage_metrics import UsageMetrics
from tenantry.core.errors import TenantryError
from tenantry.core.usage import MAX_BATCH, MAX_BATCH_BYTES, Refused, Taken, UsageRecord

Result = TypeVar("Result")

WRITE_SECONDS = 0.1
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 30.0
STOP_SECONDS = 2.0
BUSY_SECONDS = 5.0
MAX_PENDING = 20_000
MAX_RECORDS = 1_000_000
TIMEOUT = aiohttp.ClientTimeout(total=10)

_SCHEMA = "CREATE TABLE IF NOT EXISTS records (id TEXT PRIMARY KEY, record BLOB NOT NULL, refused TEXT)"


class LedgerOutbox:
    """Records for the ledger at `url`; `token` returns the usage token of the moment."""

    def __init__(
        self, path: Path, url: str, token: Callable[[], bytes], metrics: UsageMetrics, *, tls: Tls | None = None
    ) -> None:
        self._path, self._url, self._token, self._metrics = path, checked_url(url), token, metrics
        self._ssl = client_context(tls) if tls is not None and self._url.startswith("https:") else None
        self._pending: list[UsageRecord] = []
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tenantry-outbox")
        self._connection: sqlite3.Connection | None = None
        self._batch = MAX_BATCH
        self._failures = 0

    def add(self, record: UsageRecord) -> None:
        """Take a record in; it is on the disk WRITE_SECONDS later."""
        if len(self._pending) >= MAX_PENDING:
            self._dropped(1)
        else:
            self._pending.append(record)

    async def run(self) -> None:
        """Write and deliver until cancelled."""
        async with self._client() as http:
            pause_until = 0.0
            now = asyncio.get_running_loop().time
            while True:
                await asyncio.sleep(WRITE_SECONDS)
                try:
                    await self.write()
                    if now() >= pause_until:
                        while await self.deliver(http):
                            pass
                        self._failures = 0
                except Exception as error:  # noqa: BLE001  # the disk or the ledger: neither may end the sending
                    if not self._failures:
                        logs.get().error("usage records not delivered to the ledger", exc_info=error)
                    pause_until = now() + min(FIRST_PAUSE_SECONDS * 2 ** min(self._failures, 10), LONGEST_PAUSE_SECONDS)
                    self._failures += 1

    async def stop(self) -> None:
        """Bring what is in memory to the disk, and what is on the disk to the ledger if that is quick."""
        try:
            await self.write()
            async with asyncio.timeout(STOP_SECONDS), self._client() as http:
                while await self.deliver(http):
                    pass
        except Exception as error:  # noqa: BLE001  # what is on the disk goes out after the next start
            logs.get().error("usage records not delivered to the ledger", exc_info=error)
        finally:
            await self._do(self._let_go)
            self._thread.shutdown(wait=False)

    async def write(self) -> None:
        """Put what is in memory on the disk; it stays in memory when the disk refuses."""
        if not self._pending:
            return
        rows = [(record.id, msgspec.json.encode(record)) for record in self._pending]
        kept = await self._do(lambda: self._insert(rows))
        del self._pending[: len(rows)]
        if kept < len(rows):
            self._dropped(len(rows) - kept)

    async def deliver(self, http: aiohttp.ClientSession) -> bool:
        """Send one batch; return whether there may be more. Raises when the ledger does not take it."""
        rows = await self._do(self._next)
        if not rows:
            return False
        body = b'{"records":[' + b",".join(record for _, record in rows) + b"]}"
        headers = {"authorization": f"Bearer {self._token().decode()}", "content-type": "application/json"}
        # A redirect would take the token to a place that nobody named.
        async with http.post(f"{self._url}/records", data=body, headers=headers, allow_redirects=False) as response:
            status, said = response.status, await response.content.read(65_536)
        if status == 200:
            taken = msgspec.json.decode(said, type=Taken)
            if taken.new + taken.known != len(rows):
                raise TenantryError(f"the ledger counted {taken.new + taken.known} of {len(rows)} records")
            await self._do(lambda: self._forget([name for name, _ in rows]))
            self._metrics.records.labels("sent").inc(len(rows))
            self._batch = MAX_BATCH
        elif status in (400, 413, 422):
            await self._refused(rows, msgspec.json.decode(said, type=Refused))
        else:
            raise TenantryError(f"the ledger answered {status}")
        return True

    async def _refused(self, rows: list[tuple[str, bytes]], refusal: Refused) -> None:
        """Set the bad records aside; where the ledger does not say which, send fewer at once until it is clear."""
        bad = [rows[place][0] for place in refusal.bad if 0 <= place < len(rows)]
        if not bad and len(rows) == 1:
            bad = [rows[0][0]]
        if not bad:
            self._batch = max(1, len(rows) // 2)
            return
        await self._do(lambda: self._set_aside(bad, refusal.error[:500]))
        self._metrics.records.labels("refused").inc(len(bad))
        logs.get().error("the ledger refused usage records", count=len(bad))

    def _dropped(self, count: int) -> None:
        self._metrics.records.labels("dropped").inc(count)
        logs.get().error("usage records dropped: too many wait for the ledger", count=count)

    def _client(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(ssl=self._ssl) if self._ssl is not None else None
        return aiohttp.ClientSession(timeout=TIMEOUT, connector=connector)

    # --- in the file's thread ------------------------------------------------------------------------------------

    async def _do(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            make(self._path)
            self._connection = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute(_SCHEMA)
        return self._connection

    def _insert(self, rows: list[tuple[str, bytes]]) -> int:
        connection = self._opened()
        with transaction(connection):
            (have,) = connection.execute("SELECT count(*) FROM records").fetchone()
            fitting = rows[: max(0, MAX_RECORDS - have)]
            connection.executemany("INSERT OR IGNORE INTO records (id, record) VALUES (?, ?)", fitting)
        self._count()
        return len(fitting)

    def _next(self) -> list[tuple[str, bytes]]:
        found = self._opened().execute(
            "SELECT id, record FROM records WHERE refused IS NULL ORDER BY rowid LIMIT ?", (self._batch,)
        )
        rows: list[tuple[str, bytes]] = []
        left = MAX_BATCH_BYTES - 1_024
        for name, record in found:
            left -= len(record) + 1
            if left < 0 and rows:
                break
            rows.append((name, record))
        return rows

    def _forget(self, names: list[str]) -> None:
        with transaction(connection := self._opened()):
            connection.executemany("DELETE FROM records WHERE id = ?", [(name,) for name in names])
        self._count()

    def _set_aside(self, names: list[str], error: str) -> None:
        with transaction(connection := self._opened()):
            connection.executemany("UPDATE records SET refused = ? WHERE id = ?", [(error, name) for name in names])
        self._count()

    def _count(self) -> None:
        (waiting,) = self._opened().execute("SELECT count(*) FROM records WHERE refused IS NULL").fetchone()
        self._metrics.waiting.set(waiting)

    def _let_go(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def checked_url(url: str) -> str:
    """Return a ledger's URL; raise TenantryError for one to which a token must not go."""
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return url.rstrip("/")
    if parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost"):
        return url.rstrip("/")
    raise TenantryError(f"--ledger {parts.scheme}://{parts.hostname}: https://HOST:PORT, or http of this machine alone")


def client_context(tls: Tls) -> ssl.SSLContext:
    """Return what a client shows and checks that has our own listener's certificate and CA."""
    context = ssl.create_default_context(cafile=str(tls.client_ca))
    context.load_cert_chain(tls.certificate, tls.key)
    return context
