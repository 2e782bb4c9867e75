"""What the routes of the ledger's service share: its parts, its three doors, and errors as answers.

| door | credential |
|---|---|
| `engine` | the usage token: may add records, and read nothing |
| `admin` | the admin token: reads everything, closes periods |
| `reader` | the admin token, or a tenant's own API key, which opens what is that tenant's and nothing else |
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web

from tenantry.adapters import logs
from tenantry.adapters.ledger.live import Live, LiveRules
from tenantry.adapters.ledger.metrics import LedgerMetrics
from tenantry.adapters.ledger.store import Ledger, LedgerUnavailableError, PeriodError
from tenantry.adapters.rollout_routes import bears, error
from tenantry.core.errors import RateLimitedError, RequestRefusedError, UnauthenticatedError
from tenantry.core.identity import Presented, authenticate
from tenantry.core.usage import MAX_BATCH_BYTES

Handler = Callable[[web.Request], Awaitable[web.Response]]

RETRY_AFTER_SECONDS = "2"

MAX_TENANTS_READING = 2
"""Questions of tenants that the database has at once; bookings stand in the same queue, and must not wait for long."""

MAX_QUESTIONS = 8
"""Of one tenant, answered one after another; more are refused."""


class LedgerService:
    """The parts that routes work with. `now` is Unix time in seconds."""

    def __init__(
        self, ledger: Ledger, rules: LiveRules, metrics: LedgerMetrics, now: Callable[[], float] = time.time
    ) -> None:
        self.ledger = ledger
        self.metrics = metrics
        self.now = now
        self._rules = rules
        self._reading = asyncio.Semaphore(MAX_TENANTS_READING)
        self._questions: Counter[str] = Counter()
        self._turns: dict[str, asyncio.Lock] = {}

    @property
    def live(self) -> Live:
        """The rules and tokens of this moment."""
        return self._rules.live

    def engine(self, handler: Handler) -> Handler:
        """Let the usage token in."""

        async def handle(request: web.Request) -> web.Response:
            if not bears(request, self.live.usage_token):
                raise UnauthenticatedError("invalid_usage_token", "send the usage token as Bearer")
            return await handler(request)

        return self._answered(handle)

    def admin(self, handler: Handler) -> Handler:
        """Let the admin token in."""

        async def handle(request: web.Request) -> web.Response:
            if not bears(request, self.live.admin_token):
                raise UnauthenticatedError("invalid_admin_token", "send the admin token as Bearer")
            return await handler(request)

        return self._answered(handle)

    def reader(self, handler: Callable[[web.Request, str | None], Awaitable[web.Response]]) -> Handler:
        """Let the admin token in (the handler gets None), or a tenant's API key (it gets the tenant's name)."""

        async def handle(request: web.Request) -> web.Response:
            if bears(request, self.live.admin_token):
                return await handler(request, None)
            presented = Presented(authorization=_sent(request, "authorization"), api_key=_sent(request, "api-key"))
            name = authenticate(self.live.book, presented, self.now()).profile.name
            async with self._turn(name):
                return await handler(request, name)

        return self._answered(handle)

    @asynccontextmanager
    async def _turn(self, tenant: str) -> AsyncIterator[None]:
        """Wait until a tenant may read: an invoice sums up everybody's month, and nothing limits how often one asks."""
        if self._questions[tenant] >= MAX_QUESTIONS:
            raise RateLimitedError("too_many_questions", f"{MAX_QUESTIONS} of your questions wait; ask one at a time.")
        self._questions[tenant] += 1
        try:
            async with self._turns.setdefault(tenant, asyncio.Lock()), self._reading:
                yield
        finally:
            self._questions[tenant] -= 1
            if not self._questions[tenant]:
                del self._questions[tenant], self._turns[tenant]

    def _answered(self, handler: Handler) -> Handler:
        """Turn errors made on purpose into answers."""

        async def handle(request: web.Request) -> web.Response:
            try:
                return await handler(request)
            except LedgerUnavailableError as away:
                self.metrics.unavailable()
                logs.get().error("the ledger's database is away", problems=(str(away),))
                return unavailable("the ledger's database cannot be used for the moment; keep this and send it again")
            except web.HTTPRequestEntityTooLarge:
                return error(413, f"the body is larger than {MAX_BATCH_BYTES} bytes")
            except web.HTTPException:
                raise
            except _ON_PURPOSE as known:
                return error(_status(known), str(known))
            except Exception as bug:  # noqa: BLE001  # aiohttp would log its text, which may quote the request
                logs.get().error("a ledger request failed", exc_info=bug)
                return error(500, "internal error; see the log")

        return handle


_ON_PURPOSE = (RequestRefusedError, PeriodError, ValueError)
"""msgspec's errors and undecodable bytes are ValueErrors."""


def _status(known: Exception) -> int:
    if isinstance(known, RequestRefusedError):
        return known.http_status
    return 409 if isinstance(known, PeriodError) else 400


def answer(value: Any, status: int = 200) -> web.Response:
    """Return a value as JSON."""
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


def unavailable(message: str) -> web.Response:
    """Return 503, with when to try again."""
    refusal = error(503, message)
    refusal.headers["retry-after"] = RETRY_AFTER_SECONDS
    return refusal


def _sent(request: web.Request, name: str) -> tuple[bytes, ...]:
    return tuple(value.encode("utf-8", "surrogateescape") for value in request.headers.getall(name, ()))
