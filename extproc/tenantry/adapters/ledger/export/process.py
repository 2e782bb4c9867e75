"""`tenantry ledger export run`: the exporter as a process of its own, with /healthz and /metrics beside it."""

import asyncio
import contextlib
import os
import random
import socket
import time
from collections.abc import AsyncIterator

from aiohttp import web
from msgspec import Struct
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from tenantry.adapters import logs
from tenantry.adapters.bind import Address, BindError, require_safe
from tenantry.adapters.ledger import open_ledger
from tenantry.adapters.ledger.export import open_tables
from tenantry.adapters.ledger.export.exporter import Exporter
from tenantry.adapters.ledger.export.http import Http
from tenantry.adapters.ledger.export.metrics import ExportMetrics
from tenantry.adapters.process import stop_signal
from tenantry.core.billing.export_settings import ExportSettings


class ExportOptions(Struct, frozen=True, kw_only=True):
    """The arguments of `tenantry ledger export run`."""

    settings: ExportSettings
    db: str
    listen: Address


async def run(options: ExportOptions) -> None:
    """Export until SIGTERM or SIGINT; then what is on its way is answered for first."""
    require_safe(options.listen, None, "the export")
    registry = CollectorRegistry()
    ledger, tables = open_ledger(options.db), open_tables(options.db)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(ledger.close)
        stack.push_async_callback(tables.close)
        sender = await stack.enter_async_context(Http(time.time))
        exporter = Exporter(
            ledger, tables, options.settings, sender, holder=_holder(), now=time.time,
            chance=random.SystemRandom().random, metrics=ExportMetrics(registry),
        )  # fmt: skip
        await stack.enter_async_context(_watched(options.listen, registry))
        logs.get().info("export ready", address=str(options.listen))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(exporter.run())
            await stop_signal()
            exporter.stop()


def _holder() -> str:
    """Return a name that no other process has, nor this one after a restart."""
    return f"{socket.gethostname()}/{os.getpid()}/{random.SystemRandom().getrandbits(64):016x}"


@contextlib.asynccontextmanager
async def _watched(listen: Address, registry: CollectorRegistry) -> AsyncIterator[None]:
    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return web.Response(body=encode(registry), headers={"content-type": content_type})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.UnixSite(runner, listen.path) if listen.path else web.TCPSite(runner, listen.host, listen.port)
        try:
            await site.start()
        except OSError as failure:
            raise BindError(f"the export cannot listen on {listen}: {failure}") from None
        yield
    finally:
        await runner.cleanup()
