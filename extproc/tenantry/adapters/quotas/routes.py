"""`GET /quota`: a tenant's key shows that tenant's own; the admin token shows any (`?tenant=NAME`), or all."""

import time

import msgspec
from aiohttp import web
from msgspec import Struct

from tenantry.adapters.quotas.desk import Quotas
from tenantry.adapters.rollout_routes import bears, error
from tenantry.adapters.sidecar import Sidecar
from tenantry.adapters.state import StateUnavailableError
from tenantry.core.errors import ForbiddenError, NotFoundError, RequestRefusedError
from tenantry.core.identity import Presented, authenticate
from tenantry.core.quota.account import MILLI, MINUTE_MS, Limits, Standing, month_begin_ms, month_name
from tenantry.core.quota.answer import minute_reset_s
from tenantry.core.schema import nearest
from tenantry.core.tenant import Profile

MAX_TENANTS = 1_000


class Window(Struct, frozen=True, kw_only=True):
    """A limit in compute units, what of it is left, and in how many seconds it will be whole again."""

    limit: int
    remaining: float
    reset_s: float


class View(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tenant's quota: None without that limit. `used` counts in the period, `reserved` is under way."""

    tenant: str
    tier: str
    period: str
    used: float
    reserved: float
    minute: Window | None = None
    month: Window | None = None


class QuotaRoutes:
    """Handlers over a sidecar's quotas."""

    def __init__(self, sidecar: Sidecar, quotas: Quotas | None) -> None:
        self._sidecar, self._quotas = sidecar, quotas

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [web.get("/quota", self._show)]

    async def _show(self, request: web.Request) -> web.Response:
        if self._quotas is None:
            return error(404, "this process keeps no quotas")
        is_admin = bears(request, self._sidecar.snapshot.keyring.admin_token)
        try:
            value = await (self._any if is_admin else self._own)(request, self._quotas)
        except RequestRefusedError as refusal:
            return error(refusal.http_status, refusal.message)
        except StateUnavailableError as lost:
            # The store's words are the operator's, not a tenant's.
            return error(503, str(lost) if is_admin else "the store of quotas does not answer")
        return web.Response(body=msgspec.json.encode(value), content_type="application/json")

    async def _own(self, request: web.Request, quotas: Quotas) -> object:
        sent = tuple(value.encode("utf-8", "surrogateescape") for value in request.headers.getall("authorization", ()))
        profile = authenticate(self._sidecar.snapshot.book, Presented(authorization=sent), time.time()).profile
        if request.query.get("tenant", profile.name) != profile.name:
            raise ForbiddenError("another_tenant", "A tenant's key shows that tenant's quota alone.")
        return await _view(quotas, profile)

    async def _any(self, request: web.Request, quotas: Quotas) -> object:
        book, name = self._sidecar.snapshot.book, request.query.get("tenant")
        if name is None:
            profiles = [book.profile(each, None) for each in list(book.rules.tenants)[:MAX_TENANTS]]
            return [await _view(quotas, profile) for profile in profiles if profile and profile.limits]
        profile = book.profile(name, request.query.get("tier"))
        if profile is None or (name not in book.rules.tenants and not book.names_strangers):
            raise NotFoundError("no_such_tenant", f"no such tenant; {nearest(name, book.rules.tenants)}")
        return await _view(quotas, profile)


async def _view(quotas: Quotas, profile: Profile) -> View | dict[str, str]:
    limits = profile.limits
    if limits is None:
        return {"tenant": profile.name, "tier": profile.tier, "quota": "none"}
    return view(profile, limits, await quotas.accounts.read(profile.name, limits))


def view(profile: Profile, limits: Limits, standing: Standing) -> View:
    """Return what is shown of an account."""
    minute = month = None
    if limits.minute is not None:
        room = max(0, limits.minute * MINUTE_MS - standing.content) // MINUTE_MS
        minute = Window(limit=limits.minute // MILLI, remaining=room / MILLI, reset_s=minute_reset_s(limits, standing))
    if limits.period is not None:
        room = max(0, limits.period - standing.used - standing.reserved)
        until_s = (month_begin_ms(standing.month + 1) - standing.now_ms) / 1e3
        month = Window(limit=limits.period // MILLI, remaining=room / MILLI, reset_s=until_s)
    return View(
        tenant=profile.name, tier=profile.tier, period=month_name(standing.month), used=standing.used / MILLI,
        reserved=standing.reserved / MILLI, minute=minute, month=month,
    )  # fmt: skip
