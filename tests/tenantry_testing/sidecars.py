"""A stub of a sidecar that takes usage records: it obeys, refuses, hangs, stops, and starts again where it was."""

import asyncio
import ssl
import time
from contextlib import suppress

from aiohttp import web
from tenantry.core.usage import UsageRecord, read_batch

TOKEN = "right-token"


class StubSidecar:
    """`records` and `delays_s` (from a record's end to its arrival) of what was taken; `status` 0 hangs.

    With a context `tls` it speaks TLS; another one counts from the next `start` on.
    """

    def __init__(self, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.tls = tls
        self.host = host
        self.status = 200
        self.token = TOKEN
        self.records: list[UsageRecord] = []
        self.delays_s: list[float] = []
        self.posts = 0
        self.statuses: list[int] = []
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"

    async def start(self) -> None:
        app = web.Application(client_max_size=2 << 20)
        app.add_routes([web.post("/usage", self._usage)])
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, self.port, reuse_address=True, ssl_context=self.tls).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        self._runner = None

    async def until(self, count: int, within_s: float = 10.0) -> None:
        """Wait until so many records have come."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while len(self.records) < count:
                    await asyncio.sleep(0.005)
        assert len(self.records) >= count, f"{len(self.records)} of {count} records came"

    async def until_posts(self, count: int) -> None:
        """Wait until so many requests have come, whatever became of them."""
        async with asyncio.timeout(10):
            while self.posts < count:
                await asyncio.sleep(0.005)

    async def _usage(self, request: web.Request) -> web.Response:
        self.posts += 1
        body = await request.read()
        if self.status == 0:
            await asyncio.Event().wait()
        status = 401 if request.headers["authorization"] != f"Bearer {self.token}" else self.status
        self.statuses.append(status)
        if status == 200:
            records = [record for record in read_batch(body) if isinstance(record, UsageRecord)]
            now_s = time.time()
            self.records += records
            self.delays_s += [now_s - record.ended_s for record in records]
        return web.Response(status=status, text="" if status == 200 else "because I say so")
