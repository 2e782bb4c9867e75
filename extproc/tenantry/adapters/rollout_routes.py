"""The admin routes of rollouts: an operator's word, engines' usage records, a tenant's own beta flag.

Three credentials that open three doors and no other: the admin token, the usage token, a tenant's API key.
"""

import asyncio
import hmac
import re
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Literal

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from tenantry.adapters import logs
from tenantry.adapters.rollout_stores import STORE_ERRORS
from tenantry.adapters.rollouts import Rollouts
from tenantry.adapters.sidecar import Sidecar
from tenantry.core.errors import RequestRefusedError, RulesError
from tenantry.core.identity import Presented, authenticate
from tenantry.core.rollout.standing import FLEET, Event, TransitionError, tenant_scope, tier_scope
from tenantry.core.routing import has_beta
from tenantry.core.rules_base import TENANT_PATTERN, TIER_PATTERN
from tenantry.core.usage import MAX_BATCH_BYTES, UsageRecord, read_batch

MAX_HISTORY = 1_000
MAX_TEXT = 500

_EVENTS = {
    "revert": Event.OPERATOR_REVERT,
    "resume": Event.OPERATOR_RESUME,
    "pause": Event.OPERATOR_PAUSE,
    "promote": Event.OPERATOR_PROMOTE,
}
_Text = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)]


class Word(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator says: do this to the rollout of `model`, for all or for one tier or tenant."""

    model: _Text
    action: Literal["revert", "resume", "pause", "promote"]
    all: bool = False
    tier: _Text | None = None
    tenant: _Text | None = None
    who: _Text
    why: _Text

    def __post_init__(self) -> None:
        # By fullmatch: msgspec searches, and `$` lets a line's end pass.
        for what, name, pattern in (("tier", self.tier, TIER_PATTERN), ("tenant", self.tenant, TENANT_PATTERN)):
            if name is not None and not re.fullmatch(pattern, name):
                raise ValueError(f"{what} is {name!r}, which no {what} can be called")

    @property
    def scope(self) -> str:
        """The scope; raises ValueError unless exactly one is named."""
        named = [name for name, given in (("all", self.all), ("tier", self.tier), ("tenant", self.tenant)) if given]
        if len(named) != 1:
            raise ValueError("name exactly one of all, tier and tenant: no global change happens by itself")
        if self.tier is not None:
            return tier_scope(self.tier)
        return FLEET if self.tenant is None else tenant_scope(self.tenant)


class _Flag(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    beta: bool


Handler = Callable[[web.Request, Rollouts], Awaitable[web.Response]]


class RolloutRoutes:
    """Handlers over a sidecar's rollouts."""

    def __init__(self, sidecar: Sidecar) -> None:
        self._sidecar = sidecar

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/rollouts", self._guarded(self._status, self._admin)),
            web.post("/rollouts", self._guarded(self._command, self._admin)),
            web.get("/rollouts/history", self._guarded(self._history, self._admin)),
            web.post("/usage", self._guarded(self._usage, self._engine)),
            web.get("/beta", self._guarded(self._beta, lambda _request: None)),
            web.put("/beta", self._guarded(self._beta, lambda _request: None)),
        ]

    def _guarded(
        self, handler: Handler, door: Callable[[web.Request], web.Response | None]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        """Ask for the credential first; turn errors made on purpose into answers."""

        async def handle(request: web.Request) -> web.Response:
            rollouts, closed = self._sidecar.rollouts, door(request)
            if closed is not None:
                return closed
            if rollouts is None:
                return error(404, "this process has no rollouts")
            try:
                return await handler(request, rollouts)
            except _ON_PURPOSE as known:
                return _refusal(known)
            except web.HTTPRequestEntityTooLarge:
                return error(413, f"the body is larger than {MAX_BATCH_BYTES} bytes")
            except web.HTTPException:
                raise
            except Exception as bug:  # noqa: BLE001  # aiohttp would log its text, which may quote the request
                logs.get().error("an admin request failed", exc_info=bug)
                return error(500, "internal error; see the log")

        return handle

    def _admin(self, request: web.Request) -> web.Response | None:
        if bears(request, self._sidecar.snapshot.keyring.admin_token):
            return None
        return error(401, "send the admin token as Bearer")

    def _engine(self, request: web.Request) -> web.Response | None:
        if bears(request, self._sidecar.snapshot.keyring.usage_token):
            return None
        self._sidecar.metrics.rollouts.records_refused()
        return error(401, "send the usage token as Bearer")

    async def _status(self, request: web.Request, rollouts: Rollouts) -> web.Response:
        model = request.query.get("model")
        return _json(rollouts.status() if model is None else [rollouts.status_of(model)])

    async def _history(self, request: web.Request, rollouts: Rollouts) -> web.Response:
        limit, model = request.query.get("limit", "50"), request.query.get("model")
        if not (limit.isascii() and limit.isdigit() and len(limit) <= 9 and 1 <= int(limit) <= MAX_HISTORY):
            raise ValueError(f"limit is {limit[:20]!r}: 1 to {MAX_HISTORY}")
        if model is None:
            raise ValueError("name a model: ?model=NAME")
        return _json(await rollouts.history(model, int(limit)))

    async def _command(self, request: web.Request, rollouts: Rollouts) -> web.Response:
        word = msgspec.json.decode(await request.read(), type=Word)
        # A client that goes away must not leave a word half done.
        done = asyncio.ensure_future(
            rollouts.command(word.model, word.scope, _EVENTS[word.action], who=word.who, why=word.why)
        )
        entries = await asyncio.shield(done)
        return _json({"entries": entries, "status": rollouts.status_of(word.model)})

    async def _usage(self, request: web.Request, rollouts: Rollouts) -> web.Response:
        try:
            records = read_batch(await request.read())
        except (msgspec.MsgspecError, UnicodeDecodeError, web.HTTPRequestEntityTooLarge):
            self._sidecar.metrics.rollouts.records_refused()
            raise
        for record in records:
            if isinstance(record, UsageRecord) and record.final:
                rollouts.record(record)
                self._sidecar.quotas.record(record)
        return _json({"accepted": len(records)})

    async def _beta(self, request: web.Request, rollouts: Rollouts) -> web.Response:
        book = self._sidecar.snapshot.book
        sent = tuple(value.encode("utf-8", "surrogateescape") for value in request.headers.getall("authorization", ()))
        tenant = authenticate(book, Presented(authorization=sent), time.time())
        profile = tenant.profile
        if request.method == "PUT":
            if not profile.beta_self_service:
                return error(403, "the rules do not let this tenant set its beta flag (betaSelfService)")
            flag = msgspec.json.decode(await request.read(), type=_Flag)
            try:
                await asyncio.shield(asyncio.ensure_future(rollouts.set_beta(tenant, beta=flag.beta)))
            except STORE_ERRORS:
                # The store's words are the operator's, not a tenant's.
                return error(503, "the flag is set here, but the state store failed: it may not last; set it again")
        return _json(
            {
                "tenant": profile.name,
                "beta": has_beta(profile, rollouts.live),
                "may_change": profile.beta_self_service,
            }
        )


_ON_PURPOSE = (RequestRefusedError, RulesError, TransitionError, *STORE_ERRORS, ValueError)
"""msgspec's errors and undecodable bytes are ValueErrors."""


def _refusal(known: Exception) -> web.Response:
    if isinstance(known, RequestRefusedError):
        return error(known.http_status, known.message)
    if isinstance(known, STORE_ERRORS):
        return error(503, str(known))
    return error({RulesError: 404, TransitionError: 409}.get(type(known), 400), str(known))


def bears(request: web.Request, token: bytes) -> bool:
    """Tell whether a request bears the token, in one header; the comparison is constant-time."""
    sent = request.headers.getall("authorization", ())
    scheme, _, given = sent[0].partition(" ") if len(sent) == 1 else ("", "", "")
    right = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), token)
    return right and scheme.lower() == "bearer"


def error(status: int, message: str) -> web.Response:
    """Return an error as JSON."""
    return web.json_response({"error": message}, status=status)


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
