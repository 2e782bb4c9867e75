"""Takes usage records of all kinds, as a sidecar does, and remembers when each came."""

import asyncio
import time
from collections.abc import Callable

from aiohttp import web
from tenantry.adapters.ports import free_port
from tenantry.core.usage import ColdStart, EngineSpan, Record, UsageRecord, read_batch

TOKEN = "usage-token-of-the-tests"


class UsageSink:
    """`records` as they came, `arrived_s` (Unix time) of each."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.arrived_s: list[float] = []
        self.port = free_port()
        self._ids: set[str] = set()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def requests(self) -> list[UsageRecord]:
        return [record for record in self.records if isinstance(record, UsageRecord)]

    @property
    def spans(self) -> list[EngineSpan]:
        return [record for record in self.records if isinstance(record, EngineSpan)]

    @property
    def cold_starts(self) -> list[ColdStart]:
        return [record for record in self.records if isinstance(record, ColdStart)]

    def delays_s(self) -> list[float]:
        """From a request's end to its last record's arrival."""
        pairs = zip(self.records, self.arrived_s, strict=True)
        return [at - record.ended_s for record, at in pairs if isinstance(record, UsageRecord) and record.final]

    def of(self, request_id: str) -> list[UsageRecord]:
        """All records of one request, in order of sequence and part."""
        found = [record for record in self.requests if record.request_id == request_id]
        return sorted(found, key=lambda record: (record.attempt, record.sequence, record.part))

    async def ended(self, request_id: str, sequences: int = 1, within_s: float = 10.0) -> list[UsageRecord]:
        """Wait until so many sequences of a request have a last record; return all its records."""
        await self.until(lambda: sum(record.final for record in self.of(request_id)) >= sequences, within_s)
        return self.of(request_id)

    async def until(self, what: Callable[[], bool], within_s: float = 10.0) -> None:
        async with asyncio.timeout(within_s):
            while not what():
                await asyncio.sleep(0.02)

    async def start(self) -> None:
        app = web.Application(client_max_size=2 << 20)
        app.add_routes([web.post("/usage", self._usage)])
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _usage(self, request: web.Request) -> web.Response:
        if request.headers["authorization"] != f"Bearer {TOKEN}":
            return web.Response(status=401)
        for record in read_batch(await request.read()):
            if record.id not in self._ids:  # a batch may come twice
                self._ids.add(record.id)
                self.records.append(record)
                self.arrived_s.append(time.time())
        return web.Response()
