"""Tells a URL of reverts and alarms: one JSON object a POST, tried again with growing pauses, never in anybody's way.

`id` is the same on every replica and on every try, so a receiver can tell a repetition. What cannot be delivered is
logged; the history has it all the same.
"""

import asyncio
import contextlib
from collections.abc import Callable

import aiohttp
import msgspec

from tenantry.adapters import logs
from tenantry.core.rollout.conduct import Entry

MAX_WAITING = 100
TRIES = 6
FIRST_PAUSE_SECONDS = 0.5
TIMEOUT = aiohttp.ClientTimeout(total=5)


class Webhook:
    """Posts entries in order. `url` returns the URL of the moment (a secret may rotate), None for none."""

    def __init__(self, url: Callable[[], str | None], *, pause_seconds: float = FIRST_PAUSE_SECONDS) -> None:
        self._url = url
        self._pause_seconds = pause_seconds
        self._waiting: asyncio.Queue[Entry] = asyncio.Queue(MAX_WAITING)

    def tell(self, entry: Entry) -> None:
        """Queue an entry; when too many wait, this one is only logged."""
        if self._url() is None:
            return
        try:
            self._waiting.put_nowait(entry)
        except asyncio.QueueFull:
            logs.get().error("webhook not told: too many wait", kind=entry.kind, model=entry.model)

    async def run(self) -> None:
        """Deliver until cancelled."""
        async with aiohttp.ClientSession(timeout=TIMEOUT) as http:
            while True:
                entry = await self._waiting.get()
                try:
                    await self._deliver(http, entry)
                except Exception as error:  # noqa: BLE001  # the next one may go well
                    logs.get().error("webhook not told", kind=entry.kind, model=entry.model, exc_info=error)
                finally:
                    self._waiting.task_done()

    async def settle(self, seconds: float) -> None:
        """Wait until all are told, for `seconds` at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._waiting.join()

    async def _deliver(self, http: aiohttp.ClientSession, entry: Entry) -> None:
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
        logs.get().error("webhook not told", kind=entry.kind, model=entry.model, status=status)


def body(entry: Entry) -> bytes:
    """Return what is posted: the history entry, and a sentence for a chat room."""
    verb = "reverted" if entry.kind == "reverted" else "needs a look"
    text = f"tenantry: {entry.model} {entry.candidate} {verb} for {entry.scope} ({entry.who}): {entry.why}"
    return msgspec.json.encode({"text": text, **msgspec.to_builtins(entry)})
