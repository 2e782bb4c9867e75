"""`tenantry ledger serve`: the ledger as an HTTP service, and as a part of another process.

| route | credential | what |
|---|---|---|
| `POST /records` | usage token | `record_routes` |
| `GET /usage`, `/engines`, `/periods`, `POST /periods/close` | admin token or tenant's key | `usage_routes` |
| `GET /invoice` | admin token or tenant's key | `invoice_routes` |
| `GET /healthz`, `/readyz` | none | alive, the database answers |
| `GET /metrics` | none on this machine, the admin token from others | what is counted, with tenants' names |

A listener of its own (`telemetry`) has the last three for kubelet and Prometheus.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

from aiohttp import web
from msgspec import Struct

from tenantry.adapters import logs
from tenantry.adapters.admin import only_allowed_clients
from tenantry.adapters.bind import Address, BindError, Tls, require_safe
from tenantry.adapters.ledger import invoice_routes, open_ledger, record_routes, usage_routes
from tenantry.adapters.ledger.http import LedgerService
from tenantry.adapters.ledger.live import LiveRules
from tenantry.adapters.ledger.metrics import LedgerMetrics
from tenantry.adapters.ledger.store import LedgerUnavailableError
from tenantry.adapters.process import stop_signal
from tenantry.adapters.telemetry import probes, shown, telemetry
from tenantry.core.billing.periods import period_of
from tenantry.core.usage import MAX_BATCH_BYTES

SHUTDOWN_SECONDS = 10.0
"""How long batches that are being booked may take at the end."""
READY_SECONDS = 2.0
ENGINES_SECONDS = 60.0
"""How old what /metrics shows of the ledger's sums may be."""

ROUTES: tuple[Callable[[LedgerService], Iterable[web.RouteDef]], ...] = (
    record_routes.routes,
    usage_routes.routes,
    invoice_routes.routes,
)
"""A module that adds routes stands here."""


class LedgerOptions(Struct, frozen=True, kw_only=True):
    """The arguments of `tenantry ledger serve`. `db` is `sqlite:PATH` or a `postgresql://` URL."""

    rules: Path
    secrets: Path
    db: str
    listen: Address = Address(host="127.0.0.1", port=9400)
    tls: Tls | None = None
    telemetry: Address | None = None


class LedgerRunning(Struct, frozen=True, kw_only=True):
    """Where a ledger listens, and its parts."""

    listen: Address
    service: LedgerService
    telemetry: Address | None = None


@contextlib.asynccontextmanager
async def ledger_serving(options: LedgerOptions) -> AsyncIterator[LedgerRunning]:
    """Run the service inside the `async with` block; a database that is away is waited for, not an error.

    Raises RulesError, SecretsError, BindError or, for a malformed `db`, LedgerUnavailableError.
    """
    require_safe(options.listen, options.tls, "the ledger")
    async with contextlib.AsyncExitStack() as stack:
        metrics = LedgerMetrics()
        rules = LiveRules(options.rules, options.secrets, lambda live: metrics.rules_live(live.book if live else None))
        ledger = open_ledger(options.db)
        stack.push_async_callback(ledger.close)
        service = LedgerService(ledger, rules, metrics)
        try:
            await ledger.periods()
        except LedgerUnavailableError as away:
            logs.get().error("the ledger's database is away; it is tried again", problems=(str(away),))
        health = Health(service)
        told = None
        if options.telemetry is not None:
            told = await stack.enter_async_context(telemetry(options.telemetry, health.unready, health.exposition))
        app = application(service, options.tls, health)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        listen = await _listening(runner, options)
        watch = asyncio.create_task(rules.run())
        stack.push_async_callback(_cancelled, watch)
        logs.get().info("ledger ready", address=str(listen), tenants=len(rules.live.book.rules.tenants))
        try:
            yield LedgerRunning(listen=listen, service=service, telemetry=told)
        finally:
            health.draining = True


async def serve(options: LedgerOptions) -> None:
    """Run the service until SIGTERM or SIGINT."""
    async with ledger_serving(options):
        await stop_signal()


def application(service: LedgerService, tls: Tls | None = None, health: "Health | None" = None) -> web.Application:
    """Return the service as an aiohttp application; `health` is shared with the telemetry listener."""
    app = web.Application(middlewares=[only_allowed_clients(tls)] if tls else [], client_max_size=MAX_BATCH_BYTES)
    health = health or Health(service)

    async def metrics(request: web.Request) -> web.Response:
        return await shown(request, health.exposition)

    app.add_routes([*probes(health.unready), web.get("/metrics", metrics if tls is None else service.admin(metrics))])
    app.add_routes(route for module in ROUTES for route in module(service))
    return app


class Health:
    """Whether the ledger can be used, and what it counts. A database that is away makes it unready, not dead."""

    def __init__(self, service: LedgerService) -> None:
        self._service = service
        self._shown_at_s = float("-inf")
        self._one_at_a_time = asyncio.Lock()
        self.draining = False

    async def unready(self) -> str | None:
        """Return why records are not taken, None when they are."""
        if self.draining:
            return "draining"
        try:
            async with asyncio.timeout(READY_SECONDS):
                await self._service.ledger.periods()
        except (LedgerUnavailableError, TimeoutError):
            return "the database does not answer"
        return None

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return what is counted, in the format that a scraper accepts, and its content type."""
        service, now_s = self._service, self._service.now()
        async with self._one_at_a_time:
            if now_s - self._shown_at_s >= ENGINES_SECONDS:
                self._shown_at_s = now_s
                # Metrics fail open.
                with contextlib.suppress(LedgerUnavailableError, TimeoutError):
                    async with asyncio.timeout(READY_SECONDS):
                        service.metrics.engines(await service.ledger.engine_tallies(period_of(now_s)))
            service.metrics.standing.show(now_s)
            # Off the loop: records must not wait for tens of thousands of lines.
            return await asyncio.to_thread(service.metrics.exposition, accept)


async def _listening(runner: web.AppRunner, options: LedgerOptions) -> Address:
    address, context = options.listen, options.tls.ssl_context() if options.tls else None
    try:
        if address.path:
            await web.UnixSite(runner, address.path, ssl_context=context).start()
            return address
        await web.TCPSite(runner, address.host, address.port, ssl_context=context).start()
    except OSError as failure:
        raise BindError(f"the ledger cannot listen on {address}: {failure}") from None
    return Address(host=address.host, port=runner.addresses[0][1])


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
