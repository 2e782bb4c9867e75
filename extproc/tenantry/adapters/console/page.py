"""The console's routes on the admin listener. All of them read; login and logout change a session and nothing else.

| route | credential | what |
|---|---|---|
| `GET /console`, `/console/console.js`, `/console/console.css` | none | the page: nothing of the platform is in it |
| `POST /console/login` | the admin token, in a JSON body from our own page | a session's cookie |
| `POST /console/logout` | a session | ends it |
| `GET /console/data` | a session, or the admin token as Bearer | what is shown, as JSON, with an ETag |
"""

import hashlib
from collections.abc import Awaitable, Callable
from importlib.resources import files

import msgspec
from aiohttp import web
from msgspec import Struct

from tenantry.adapters import logs
from tenantry.adapters.console import doors, tenants, usage
from tenantry.adapters.console.document import Assembler, Sources
from tenantry.adapters.console.tables import ask_of
from tenantry.adapters.rollout_routes import bears, error

MAX_LOGIN_BYTES = 4_096
PARTS = {
    "/console": ("index.html", "text/html"),
    "/console/console.css": ("console.css", "text/css"),
    "/console/console.js": ("console.js", "text/javascript"),
}
PARAMETERS = frozenset(
    f"{table}_{what}" for table in ("tenants", "usage") for what in ("word", "sort", "order", "page")
)


class _Login(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    token: str


_Handler = Callable[[web.Request], Awaitable[web.Response]]


class Console:
    """Handlers over what a sidecar knows."""

    def __init__(self, sources: Sources) -> None:
        self._from = sources
        self._assembler = Assembler(sources)
        self._sessions = doors.Sessions(sources.monotonic)
        self._attempts = doors.Attempts(sources.monotonic)
        folder = files("tenantry.adapters.console") / "static"
        self._parts = {path: ((folder / name).read_bytes(), kind) for path, (name, kind) in PARTS.items()}

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            *(web.get(path, self._guarded(self._part)) for path in self._parts),
            web.get("/console/data", self._guarded(self._data)),
            web.post("/console/login", self._guarded(self._login)),
            web.post("/console/logout", self._guarded(self._logout)),
        ]

    async def stop(self) -> None:
        """End what is under way."""
        await self._assembler.stop()

    @property
    def _token(self) -> bytes:
        return self._from.sidecar.snapshot.keyring.admin_token

    def _guarded(self, handler: _Handler) -> _Handler:
        """Refuse what comes by a name that is not ours; send the headers with every answer."""

        async def handle(request: web.Request) -> web.Response:
            problem = doors.host_problem(request)
            try:
                response = error(421, problem) if problem else await handler(request)
            except ValueError as known:  # msgspec's errors and undecodable bytes are some
                response = error(400, str(known))
            except web.HTTPException:
                raise
            except Exception as bug:  # noqa: BLE001  # aiohttp would log its text, which may quote the request
                logs.get().error("a request of the console failed", exc_info=bug)
                response = error(500, "internal error; see the log")
            response.headers.update(doors.HEADERS)
            return response

        return handle

    async def _part(self, request: web.Request) -> web.Response:
        body, kind = self._parts[request.path]
        return web.Response(body=body, content_type=kind, charset="utf-8")

    async def _login(self, request: web.Request) -> web.Response:
        if problem := doors.origin_problem(request):
            return error(403, problem)
        if (wait_s := self._attempts.wait_s) > 0:
            response = error(429, f"too many wrong tokens: try again in {wait_s:.0f} s")
            response.headers["retry-after"] = f"{wait_s + 1:.0f}"
            return response
        body = await request.content.read(MAX_LOGIN_BYTES + 1)
        if len(body) > MAX_LOGIN_BYTES:
            return error(413, f"the body is larger than {MAX_LOGIN_BYTES} bytes")
        if not doors.is_right(msgspec.json.decode(body, type=_Login).token, self._token):
            self._attempts.wrong()
            logs.get().warning("a wrong admin token at the console's login")
            return error(401, "this is not the admin token")
        response = web.Response(status=204)
        doors.set_cookie(response, self._sessions.begin(self._token), secure=request.secure)
        return response

    async def _logout(self, request: web.Request) -> web.Response:
        if problem := doors.origin_problem(request):
            return error(403, problem)
        self._sessions.end(request.cookies.get(doors.COOKIE, ""))
        response = web.Response(status=204)
        doors.del_cookie(response, secure=request.secure)
        return response

    async def _data(self, request: web.Request) -> web.Response:
        if not (bears(request, self._token) or self._has_session(request)):
            return error(401, "log in, or send the admin token as Bearer")
        if unknown := sorted(set(request.query) - PARAMETERS):
            raise ValueError(f"no parameter is called {unknown[0][:50]!r}: {', '.join(sorted(PARAMETERS))}")
        of_tenants = ask_of(request.query, "tenants", tenants.COLUMNS)
        of_usage = ask_of(request.query, "usage", usage.COLUMNS)
        body = msgspec.json.encode(await self._assembler.document(of_tenants, of_usage))
        tag = f'"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'
        if request.headers.get("if-none-match") == tag:
            return web.Response(status=304, headers={"etag": tag})
        return web.Response(body=body, content_type="application/json", headers={"etag": tag})

    def _has_session(self, request: web.Request) -> bool:
        if doors.comes_from_elsewhere(request):
            return False
        return self._sessions.holds(request.cookies.get(doors.COOKIE, ""), self._token)
