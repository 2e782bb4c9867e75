"""What kubelet and Prometheus ask a process, on a port of its own: alive, ready, and what is counted. Nothing else.

The admin listener asks other hosts for a client certificate, which a kubelet cannot present. This one has nothing
secret but the names of tenants; who may reach it is for a NetworkPolicy to say. It answers until the process has
drained, so that a drain is seen.

Whoever reaches it can use up little: a connection has one request, few bytes and little time; of too many the one that
has waited longest is cut, so that a probe, which takes milliseconds, gets through beside clients that send nothing.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import cast

from aiohttp import web

from tenantry.adapters.bind import Address, BindError

Exposition = Callable[[str], Awaitable[tuple[bytes, str]]]
"""Takes the Accept header; returns the text and its content type."""

MAX_REQUEST_BYTES = 8 * 1024
"""What a client may send on a connection, headers and all."""
CONNECTION_SECONDS = 15.0
"""How long a connection lasts at most; Prometheus waits 10 s for an answer unless told otherwise."""
MAX_CONNECTIONS = 64
FRESH_SECONDS = 1.0
"""How old what is counted may be: to render a full registry takes a second of CPU, however often somebody asks."""
SHUTDOWN_SECONDS = 1.0
OPENMETRICS = "application/openmetrics-text"


@contextlib.asynccontextmanager
async def telemetry(
    address: Address, ready: Callable[[], Awaitable[str | None]], exposition: Exposition
) -> AsyncIterator[Address]:
    """Serve inside the `async with` block; `ready` returns why the process is not ready, None when it is.

    Raises BindError.
    """
    runner = web.AppRunner(
        _application(ready, _Rendered(exposition)), access_log=None, shutdown_timeout=SHUTDOWN_SECONDS
    )
    await runner.setup()
    try:
        server = await _listening(_Door(cast(web.Server, runner.server)), address)
        try:
            yield _bound(server, address)
        finally:
            server.close()
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


class _Rendered:
    """What is counted, rendered once for all who ask within FRESH_SECONDS, in one of two formats."""

    def __init__(self, exposition: Exposition) -> None:
        self._exposition = exposition
        self._one_at_a_time = asyncio.Lock()
        self._kept: dict[str, tuple[float, tuple[bytes, str]]] = {}

    async def __call__(self, accept: str) -> tuple[bytes, str]:
        # Two words and no others, so that no choice of Accept gets around what is kept.
        wanted = f"{OPENMETRICS}; version=1.0.0" if OPENMETRICS in accept else ""
        async with self._one_at_a_time:
            kept = self._kept.get(wanted)
            if kept is not None and time.monotonic() - kept[0] < FRESH_SECONDS:
                return kept[1]
            rendered = await self._exposition(wanted)
            self._kept[wanted] = time.monotonic(), rendered
            return rendered


class _Connection(asyncio.Protocol):
    """A connection of aiohttp's, with bounds that aiohttp does not have: it waits for headers for ever."""

    def __init__(self, http: asyncio.Protocol, others: "dict[_Connection, None]") -> None:
        self._http, self._others = http, others
        self._left_bytes = MAX_REQUEST_BYTES

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # of a TCP or unix socket, as all servers' are
        if len(self._others) >= MAX_CONNECTIONS:
            next(iter(self._others)).cut()
        self._others[self] = None
        self._end = asyncio.get_running_loop().call_later(CONNECTION_SECONDS, self.cut)
        self._http.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            self.cut()
        else:
            self._http.data_received(data)

    def cut(self) -> None:
        """End it now, whatever is under way."""
        self._others.pop(self, None)
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end.cancel()
        self._others.pop(self, None)
        self._http.connection_lost(exc)

    def eof_received(self) -> bool | None:
        return self._http.eof_received()

    def pause_writing(self) -> None:
        self._http.pause_writing()

    def resume_writing(self) -> None:
        self._http.resume_writing()


class _Door:
    """Makes the connections of a listener."""

    def __init__(self, server: Callable[[], asyncio.Protocol]) -> None:
        self._server = server
        self._open: dict[_Connection, None] = {}

    def __call__(self) -> _Connection:
        return _Connection(self._server(), self._open)


def _application(ready: Callable[[], Awaitable[str | None]], exposition: Exposition) -> web.Application:
    async def end_after_one(_request: web.Request, response: web.StreamResponse) -> None:
        response.force_close()

    app = web.Application()
    app.on_response_prepare.append(end_after_one)
    app.add_routes(routes(ready, exposition))
    return app


async def _listening(door: _Door, address: Address) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    try:
        if address.path:
            return await loop.create_unix_server(door, address.path)
        return await loop.create_server(door, address.host, address.port)
    except OSError as error:
        raise BindError(f"the telemetry listener cannot listen on {address}: {error}") from None


def _bound(server: asyncio.Server, address: Address) -> Address:
    return address if address.path else Address(host=address.host, port=server.sockets[0].getsockname()[1])
