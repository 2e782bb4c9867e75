"""What kubelet and Prometheus ask a process, on a port of its own: alive, ready, and what is counted. Nothing else.

The admin listener asks other hosts for a client certificate, which a kubelet cannot present. This one has nothing
secret but the names of tenants; who may reach it is for a NetworkPolicy to say. It answers until the process has
drained, so that a drain is seen.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web

from tenantry.adapters.bind import Address, BindError

Exposition = Callable[[str], Awaitable[tuple[bytes, str]]]
"""Takes the Accept header; returns the text and its content type."""

MAX_REQUEST_BYTES = 1024
SHUTDOWN_SECONDS = 1.0


@contextlib.asynccontextmanager
async def telemetry(
    address: Address, ready: Callable[[], Awaitable[str | None]], exposition: Exposition
) -> AsyncIterator[Address]:
    """Serve inside the `async with` block; `ready` returns why the process is not ready, None when it is.

    Raises BindError.
    """
    runner = web.AppRunner(_application(ready, exposition), access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        yield await _listening(runner, address)
    finally:
        await runner.cleanup()


def routes(ready: Callable[[], Awaitable[str | None]], exposition: Exposition) -> list[web.RouteDef]:
    """Return `GET /healthz`, `/readyz` and `/metrics`, also for a listener that has others."""

    async def metrics(request: web.Request) -> web.Response:
        return await shown(request, exposition)

    return [*probes(ready), web.get("/metrics", metrics)]


def probes(ready: Callable[[], Awaitable[str | None]]) -> list[web.RouteDef]:
    """Return `GET /healthz` and `/readyz`."""

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_request: web.Request) -> web.Response:
        reason = await ready()
        return web.Response(text="ready\n") if reason is None else web.Response(status=503, text=f"{reason}\n")

    return [web.get("/healthz", healthz), web.get("/readyz", readyz)]


async def shown(request: web.Request, exposition: Exposition) -> web.Response:
    """Return what is counted, in a format that the scraper accepts."""
    body, content_type = await exposition(request.headers.get("accept", ""))
    return web.Response(body=body, headers={"content-type": content_type})


def _application(ready: Callable[[], Awaitable[str | None]], exposition: Exposition) -> web.Application:
    app = web.Application(client_max_size=MAX_REQUEST_BYTES)
    app.add_routes(routes(ready, exposition))
    return app


async def _listening(runner: web.AppRunner, address: Address) -> Address:
    try:
        if address.path:
            await web.UnixSite(runner, address.path).start()
            return address
        await web.TCPSite(runner, address.host, address.port).start()
    except OSError as error:
        raise BindError(f"the telemetry listener cannot listen on {address}: {error}") from None
    return Address(host=address.host, port=runner.addresses[0][1])
