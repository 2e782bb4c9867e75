"""Tells a URL of reverts, alarms and spent quotas: one JSON object a POST, tried again with growing pauses.

It is in nobody's way. `id` is the same on every replica and on every try, so a receiver can tell a repetition. What
cannot be delivered is logged; the history has it all the same.
"""

import asyncio
import contextlib
from collections.abc import Callable

import aiohttp
import msgspec

from tenantry.adapters import logs
from tenantry.core.quota.account import MILLI
from tenantry.core.quota.alerts import Alert
from tenantry.core.rollout.conduct import Entry

Told = Entry | Alert

MAX_WAITING = 100
TRIES = 6
FIRST_PAUSE_SECONDS = 0.5
TIMEOUT = aiohttp.ClientTimeout(total=5)


class Webhook:
    """Posts entries in order. `url` returns the URL of the moment (a secret may rotate), None for none."""

    def __init__(self, url: Callable[[], str | None], *, pause_seconds: float = FIRST_PAUSE_SECONDS) -> None:
        self._url = url
        self._pause_seconds = pause_seconds
        self._waiting: asyncio.Queue[Told] = asyncio.Queue(MAX_WAITING)

    def tell(self, entry: Told) -> None:
        """Queue an entry; when too many wait, this one is only logged."""
        if self._url() is None:
            return
        try:
            self._waiting.put_nowait(entry)
        except asyncio.QueueFull:
            logs.get().error(
                "webhook not told: too many wait", kind=entry.kind, model=_model(entry), tenant=_tenant(entry)
            )

    async def run(self) -> None:
        """Deliver until cancelled."""
        async with aiohttp.ClientSession(timeout=TIMEOUT) as http:
            while True:
                entry = await self._waiting.get()
                try:
                    await self._deliver(http, entry)
                except Exception as error:  # noqa: BLE001  # the next one may go well
                    logs.get().error(
                        "webhook not told", kind=entry.kind, model=_model(entry), tenant=_tenant(entry), exc_info=error
                    )
                finally:
                    self._waiting.task_done()

    async def settle(self, seconds: float) -> None:
        """Wait until all are told, for `seconds` at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._waiting.join()

    async def _deliver(self, http: aiohttp.ClientSession, entry: Told) -> None:
        pause = self._pause_seconds
        status: int | None = None
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(pause)
                pause *= 2
            url = self._url()
            if url is None:
                return
            try:
                # A redirect would take what is told to a place that nobody named.
                async with http.post(
                    url, data=body(entry), headers={"content-type": "application/json"}, allow_redirects=False
                ) as response:
                    status = response.status
            except (aiohttp.ClientError, TimeoutError, ValueError):
                status = None
                continue
            if status < 300:
                return
            if status not in (408, 429) and status < 500:
                break  # it will not like it better a second time
        logs.get().error("webhook not told", kind=entry.kind, model=_model(entry), tenant=_tenant(entry), status=status)


def body(entry: Told) -> bytes:
    """Return what is posted: the history entry or the alert, and a sentence for a chat room."""
    if isinstance(entry, Alert):
        return msgspec.json.encode(
            {
                "text": f"tenantry: {entry.text}", "id": entry.id, "kind": "quota", "tenant": entry.tenant,
                "period": entry.period, "share": entry.share, "used_compute_units": entry.used / MILLI,
                "limit_compute_units": entry.limit / MILLI, "at_s": entry.at_s,
            }
        )  # fmt: skip
    verb = "reverted" if entry.kind == "reverted" else "needs a look"
    text = f"tenantry: {entry.model} {entry.candidate} {verb} for {entry.scope} ({entry.who}): {entry.why}"
    return msgspec.json.encode({"text": text, **msgspec.to_builtins(entry)})


def _model(entry: Told) -> str | None:
    return entry.model if isinstance(entry, Entry) else None


def _tenant(entry: Told) -> str | None:
    return entry.tenant if isinstance(entry, Alert) else None
