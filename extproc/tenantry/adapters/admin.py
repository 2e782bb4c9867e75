"""The admin listener, on a port of its own. Each route asks for what it gives.

| route | credential | what |
|---|---|---|
| `GET /healthz`, `/readyz`, `/metrics` | none | nothing secret: alive, ready, what is counted |
| `GET /rules` | admin token | what the newest document came to |
| `GET /rules/document` | admin token | the live document, whole |
| `DELETE /tenants/NAME` | admin token | forgets beta flag and quota of a tenant that the rules close |
| `GET /rollouts`, `POST /rollouts`, `GET /rollouts/history` | admin token | the rollouts, and an operator's word |
| `POST /usage` | usage token | engines' usage records |
| `GET /quota` | a tenant's API key, or the admin token | what that tenant has spent; any tenant's, or all |
| `GET /console`, `/console/data` | the admin token, or a session that began with it | the page of `adapters.console` |
| `GET /beta`, `PUT /beta` | a tenant's API key | that tenant's own beta flag, if the rules let it have one |
"""

import asyncio
import os

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from tenantry.adapters import telemetry
from tenantry.adapters.bind import Address, BindError, Tls, require_safe, sans_of
from tenantry.adapters.console.page import Console
from tenantry.adapters.quotas.desk import Quotas
from tenantry.adapters.quotas.routes import QuotaRoutes
from tenantry.adapters.reload import Reloader
from tenantry.adapters.rollout_routes import RolloutRoutes, bears, error
from tenantry.adapters.sidecar import Sidecar
from tenantry.adapters.tenant_routes import TenantRoutes
from tenantry.core.usage import MAX_BATCH_BYTES

SHUTDOWN_SECONDS = 2.0
"""How long requests that are under way may take at the end; aiohttp would give a hung client a minute."""


class Admin:
    """The admin HTTP server. `ready` is set by whoever starts and drains the transport."""

    def __init__(
        self, sidecar: Sidecar, reloader: Reloader, quotas: Quotas | None = None, console: Console | None = None
    ) -> None:
        self._sidecar = sidecar
        self._console = console
        self._reloader = reloader
        self._rollout_routes = RolloutRoutes(sidecar)
        self._quotas = quotas
        self.ready = False
        self._shown_one_at_a_time = asyncio.Lock()
        self._runners: list[web.AppRunner] = []

    async def start(self, address: Address, tls: Tls | None) -> Address:
        """Listen, at each call on one more address; return it with the port that was bound."""
        require_safe(address, tls, "the admin listener")
        app = web.Application(middlewares=[only_allowed_clients(tls)] if tls else [], client_max_size=MAX_BATCH_BYTES)
        app.add_routes(
            [
                *telemetry.routes(self.unready, self.exposition),
                web.get("/rules", self._rules),
                web.get("/rules/document", self._document),
                *self._rollout_routes.routes(),
                *QuotaRoutes(self._sidecar, self._quotas).routes(),
                *TenantRoutes(self._sidecar, self._quotas).routes(),
                *(self._console.routes() if self._console is not None else ()),
            ]
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
        self._runners.append(runner)
        await runner.setup()
        try:
            context = tls.ssl_context() if tls else None
            if address.path:
                await web.UnixSite(runner, address.path, ssl_context=context).start()
                return address
            await web.TCPSite(runner, address.host, address.port, ssl_context=context).start()
        except OSError as error:
            raise BindError(f"the admin listener cannot listen on {address}: {error}") from None
        return Address(host=address.host, port=runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening."""
        for runner in self._runners:
            await runner.cleanup()

    async def unready(self) -> str | None:
        """Return why the sidecar is not ready, None when it is."""
        return None if self.ready else "not ready"

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return what is counted, in the format that a scraper accepts, and its content type."""
        # Gauges are set anew for each: nobody may clear them while they are read.
        async with self._shown_one_at_a_time:
            if self._sidecar.rollouts is not None:
                self._sidecar.rollouts.show()
            if self._quotas is not None:
                self._quotas.show()
            # 42,000 series take a second and more; requests must not wait for that.
            return await asyncio.to_thread(self._sidecar.metrics.exposition, accept)

    async def _rules(self, request: web.Request) -> web.Response:
        if not bears(request, self._sidecar.snapshot.keyring.admin_token):
            return error(401, "send the admin token as Bearer")
        status = self._reloader.status
        rules = self._sidecar.snapshot.book.rules
        return web.json_response(
            {
                "state": status.state,
                "digest": status.digest,
                "problems": list(status.problems),
                "generation": self._sidecar.generation,
                "tenants": len(rules.tenants),
                "models": {name: sorted(model.versions) for name, model in rules.models.items()},
                "pid": os.getpid(),
            }
        )

    async def _document(self, request: web.Request) -> web.Response:
        if not bears(request, self._sidecar.snapshot.keyring.admin_token):
            return error(401, "send the admin token as Bearer")
        body = msgspec.json.encode(self._sidecar.snapshot.book.rules)
        return web.Response(body=body, content_type="application/json")


def only_allowed_clients(tls: Tls) -> Middleware:
    """Return what refuses clients whose certificate has none of the allowed names."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        certificate = request.get_extra_info("peercert")
        if not tls.admits(sans_of(certificate)):
            return error(403, "this client certificate may not connect")
        return await handler(request)

    return check
