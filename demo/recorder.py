"""Stands before an engine that keeps no record of its own: notes what arrives, passes everything on.

The record has the shape and the bounds of the stand-in engine's (`/stand-in/seen`), so both are
read alike. Bodies and answers pass as they are, chunk by chunk.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import msgspec
from aiohttp import web
from tenantry_standin.seen import SeenLog

RECORD_PATH = "/demo/recorded"
MAX_BODY_BYTES = 8 << 20

_OF_ONE_CONNECTION = frozenset(
    {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "content-length", "host"}
)


@asynccontextmanager
async def recording(upstream: str) -> AsyncIterator[str]:
    """Yield the URL (loopback, a free port) that stands for `upstream`."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
    async with aiohttp.ClientSession(auto_decompress=False, timeout=timeout) as http:
        recorder = _Recorder(upstream, http)
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.add_routes([web.get(RECORD_PATH, recorder.show), web.route("*", "/{path:.*}", recorder.forward)])
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


class _Recorder:
    """The two routes."""

    def __init__(self, upstream: str, http: aiohttp.ClientSession) -> None:
        self._upstream = upstream
        self._http = http
        self._seen = SeenLog()

    async def show(self, request: web.Request) -> web.Response:
        requests = self._seen.after(int(request.query.get("after", "0")))
        body = msgspec.json.encode({"last": self._seen.last, "requests": requests})
        return web.Response(body=body, content_type="application/json")

    async def forward(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self._seen.add(request.method, request.raw_path, request.raw_headers, body, time_s=time.time())
        # In lower case: aiohttp's client takes names that differ in case for one, and keeps the last.
        named = [(name.lower(), value) for name, value in request.headers.items()]
        headers = [(name, value) for name, value in named if name not in _OF_ONE_CONNECTION]
        async with self._http.request(
            request.method, f"{self._upstream}{request.raw_path}", headers=headers, data=body
        ) as answer:
            response = web.StreamResponse(status=answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in _OF_ONE_CONNECTION:
                    response.headers.add(name, value)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            return response
