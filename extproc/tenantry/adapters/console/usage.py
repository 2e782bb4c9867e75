"""Usage of this period, asked of the ledger: one question at a time, an answer kept for a while, and never waited for.

A reader gets what was last heard, with its age; the ledger may be slow or away, and the rest of the page works on. The
sums are the ledger's own rows (`GET /usage`, grouped by tenant and model).
"""

import asyncio
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Literal

import aiohttp
import msgspec
from msgspec import Struct

from tenantry.adapters.bind import Tls
from tenantry.adapters.console.tables import Ask, Page, cut
from tenantry.adapters.ledger_outbox import checked_url, client_context
from tenantry.adapters.unreachable import why
from tenantry.core.billing.periods import period_of
from tenantry.core.billing.tallies import Tally
from tenantry.core.errors import TenantryError

KEEP_SECONDS = 2.0
REST = 5
"""A question that takes long is asked again only after so many times its duration: the ledger has bookings to do."""

ANSWER_SECONDS = 10.0
MAX_BYTES = 16 * 1024 * 1024
COLUMNS = ("gpu_seconds", "tenant", "model", "requests", "tokens", "compute_units", "peak_memory_bytes")

State = Literal["none", "waiting", "ok", "away"]


class UsageRow(Struct, frozen=True, kw_only=True):
    """One row of the ledger's. `owner` tenant, or why the operator pays; `corrects` names a closed period, or none."""

    tenant: str
    model: str
    owner: str
    kind: str
    corrects: str
    requests: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    compute_units: float
    gpu_seconds: float
    peak_memory_bytes: int


class UsageTotal(Struct, frozen=True, kw_only=True):
    """Sums over all rows that were found."""

    requests: int
    input_tokens: int
    output_tokens: int
    compute_units: float
    gpu_seconds: float
    peak_memory_bytes: int


class UsageView(Struct, frozen=True, kw_only=True):
    """State `none`: no ledger is configured; `waiting`: nothing was heard yet; `away`: `reason`, and what is old.

    `as_of_s` (Unix time) is when the rows were heard, None without any.
    """

    state: State
    reason: str
    period: str
    as_of_s: float | None
    table: Page | None
    total: UsageTotal | None


class _Answer(Struct, frozen=True, kw_only=True):
    tallies: tuple[Tally, ...]


class LedgerUsage:
    """The ledger at `url`; `token` returns the admin token of the moment. Raises TenantryError for an unsafe URL."""

    def __init__(
        self,
        url: str,
        token: Callable[[], bytes],
        *,
        tls: Tls | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url, self._token, self._clock, self._monotonic = checked_url(url), token, clock, monotonic
        self._ssl: ssl.SSLContext | None = client_context(tls) if tls is not None and url.startswith("https:") else None
        self._task: asyncio.Task[None] | None = None
        self._next_s = 0.0
        self.period = ""
        self.tallies: Sequence[Tally] | None = None
        self.as_of_s: float | None = None
        self.reason = ""

    def look(self) -> None:
        """See to it that what is known is soon heard anew."""
        if (self._task is None or self._task.done()) and self._monotonic() >= self._next_s:
            self._task = asyncio.create_task(self._ask())

    async def settled(self) -> None:
        """Wait for the question that is under way."""
        if self._task is not None:
            await asyncio.wait((self._task,))

    async def stop(self) -> None:
        """End the question that is under way."""
        if self._task is not None:
            self._task.cancel()
            await self.settled()

    async def _ask(self) -> None:
        begin_s, period = self._monotonic(), period_of(self._clock())
        try:
            tallies = await self._tallies(period)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.reason = f"the ledger does not answer: {why(error)}"
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.reason = "what answers is no ledger of this release"
        except TenantryError as error:
            self.reason = str(error)
        else:
            self.tallies, self.period, self.as_of_s, self.reason = tallies, period, self._clock(), ""
        now_s = self._monotonic()
        self._next_s = now_s + max(KEEP_SECONDS, REST * (now_s - begin_s))

    async def _tallies(self, period: str) -> Sequence[Tally]:
        connector = aiohttp.TCPConnector(ssl=self._ssl) if self._ssl is not None else None
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        headers = {"authorization": f"Bearer {self._token().decode()}"}
        params = {"period": period, "group_by": "tenant,model"}
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=connector) as http,
            # A redirect would take the token to a place that nobody named.
            http.get(f"{self._url}/usage", params=params, headers=headers, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise TenantryError(f"the ledger answered {response.status}")
            body = bytearray()
            async for chunk in response.content.iter_chunked(65_536):
                body += chunk
                if len(body) > MAX_BYTES:
                    raise TenantryError(f"the ledger's answer is larger than {MAX_BYTES >> 20} MiB")
        return (await asyncio.to_thread(msgspec.json.decode, bytes(body), type=_Answer)).tallies


def usage_view(ledger: LedgerUsage | None, ask: Ask) -> UsageView:
    """Return a page of what is known."""
    if ledger is None:
        reason = "no ledger is configured: start the sidecar with --ledger URL"
        return UsageView(state="none", reason=reason, period="", as_of_s=None, table=None, total=None)
    state: State = "away" if ledger.reason else "waiting" if ledger.tallies is None else "ok"
    if ledger.tallies is None:
        return UsageView(
            state=state, reason=ledger.reason, period=ledger.period, as_of_s=None, table=None, total=None
        )  # fmt: skip
    found = [tally for tally in ledger.tallies if ask.word in f"{tally.tenant} {tally.model}".casefold()]
    found.sort(key=lambda tally: (tally.tenant.casefold(), tally.model, tally.owner))
    found.sort(key=_KEYS[ask.sort], reverse=ask.descending)
    return UsageView(
        state=state,
        reason=ledger.reason,
        period=ledger.period,
        as_of_s=ledger.as_of_s,
        table=cut(found, ask, len(ledger.tallies), _row),
        total=_total(found),
    )


_KEYS: dict[str, Callable[[Tally], tuple[float, str]]] = {
    "gpu_seconds": lambda tally: (tally.gpu_ns, ""),
    "tenant": lambda tally: (0, tally.tenant.casefold()),
    "model": lambda tally: (0, tally.model),
    "requests": lambda tally: (tally.requests, ""),
    "tokens": lambda tally: (tally.input_tokens + tally.output_tokens, ""),
    "compute_units": lambda tally: (tally.compute_units_micro, ""),
    "peak_memory_bytes": lambda tally: (tally.peak_kv_bytes, ""),
}


def _row(tally: Tally) -> UsageRow:
    return UsageRow(
        tenant=tally.tenant, model=tally.model, owner=tally.owner, kind=tally.kind, corrects=tally.corrects,
        requests=tally.requests, input_tokens=tally.input_tokens, cached_tokens=tally.cached_tokens,
        output_tokens=tally.output_tokens, compute_units=tally.compute_units_micro / 1e6,
        gpu_seconds=tally.gpu_ns / 1e9, peak_memory_bytes=tally.peak_kv_bytes,
    )  # fmt: skip


def _total(tallies: Sequence[Tally]) -> UsageTotal:
    return UsageTotal(
        requests=sum(tally.requests for tally in tallies),
        input_tokens=sum(tally.input_tokens for tally in tallies),
        output_tokens=sum(tally.output_tokens for tally in tallies),
        compute_units=sum(tally.compute_units_micro for tally in tallies) / 1e6,
        gpu_seconds=sum(tally.gpu_ns for tally in tallies) / 1e9,
        peak_memory_bytes=max((tally.peak_kv_bytes for tally in tallies), default=0),
    )
