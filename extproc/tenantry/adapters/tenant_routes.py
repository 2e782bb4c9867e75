"""`DELETE /tenants/NAME`: what a sidecar keeps of a tenant that is closed is forgotten. For the admin token."""

from aiohttp import web

from tenantry.adapters.quotas.desk import Quotas
from tenantry.adapters.rollout_routes import bears, error
from tenantry.adapters.rollout_stores import STORE_ERRORS
from tenantry.adapters.sidecar import Sidecar


class TenantRoutes:
    """Handlers over a sidecar's state."""

    def __init__(self, sidecar: Sidecar, quotas: Quotas | None) -> None:
        self._sidecar, self._quotas = sidecar, quotas

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [web.delete("/tenants/{name}", self._forget)]

    async def _forget(self, request: web.Request) -> web.Response:
        if not bears(request, self._sidecar.snapshot.keyring.admin_token):
            return error(401, "send the admin token as Bearer")
        name = request.match_info["name"]
        if not self._sidecar.snapshot.book.closed(name):
            return error(409, f"the live rules do not close this tenant (tenants.{name[:63]}.closed: true)")
        try:
            if self._sidecar.rollouts is not None:
                await self._sidecar.rollouts.end_beta(name)
            if self._quotas is not None:
                await self._quotas.accounts.forget(name)
        except STORE_ERRORS as lost:
            return error(503, str(lost))
        return web.json_response({"tenant": name, "beta": False, "quota": "forgotten"})
