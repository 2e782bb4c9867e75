"""The task that exports: it follows the ledger, and delivers to each destination at the destination's own pace.

One process exports at a time, by a lease in the database. One that stalls in mid-send and one that took over may both
send an event; both send the same bytes under the same id, and every destination counts that once. Traffic never waits
for any of it, and what cannot be exported now waits in the ledger.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from tenantry.adapters import logs
from tenantry.adapters.ledger.export.collector import Collector, Entries
from tenantry.adapters.ledger.export.http import Sender, renderer
from tenantry.adapters.ledger.export.metrics import ExportMetrics
from tenantry.adapters.ledger.export.outbox import LEASE_SECONDS, Claimed, Fate, LeaseLostError, Outbox
from tenantry.adapters.ledger.export.tables import Tables
from tenantry.adapters.ledger.store import LedgerUnavailableError
from tenantry.core.billing.answers import Reading, read_answer
from tenantry.core.billing.export_settings import DestinationName, ExportSettings, Lago, OpenMeter, Stripe
from tenantry.core.billing.outbox import Pace

LEASE_EVERY_SECONDS = 15.0
IDLE_SECONDS = 2.0
STRIPE_REMEMBERS_HOURS = 24.0
STRIPE_TAKES_SECONDS = 34 * 86_400
"""Stripe refuses what is older than 35 days; the last of them is left to a person."""


class Exporter:
    """Exports one ledger to the destinations of `settings`. `now` is Unix time, `chance` a draw from 0 to 1."""

    def __init__(
        self,
        ledger: Entries,
        tables: Tables,
        settings: ExportSettings,
        sender: Sender,
        *,
        holder: str,
        now: Callable[[], float],
        chance: Callable[[], float],
        metrics: ExportMetrics,
    ) -> None:
        self.outbox = Outbox(tables, holder=holder)
        self._collector = Collector(ledger, tables, self.outbox, settings)
        self._settings = settings
        self._now = now
        self._chance = chance
        self._metrics = metrics
        self._sender = sender
        self._paces = {name: _pace(_of(settings, name)) for name in settings.names()}
        self._troubles: dict[str, str] = {}
        self._leased = False
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Export until `stop`. It tries a failing database again, and waits for another exporter."""
        await self._guarded(self._keep)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._repeat(self._keep, LEASE_EVERY_SECONDS))
            for name in self._settings.names():
                tasks.create_task(self._repeat(lambda name=name: self._serve(name), IDLE_SECONDS))  # type: ignore[misc]

        # Nobody has to wait for the next process to find out.
        with contextlib.suppress(LedgerUnavailableError):
            await self.outbox.release()

    def stop(self) -> None:
        """End `run` once the batches that are on their way have been answered for."""
        self._stopping.set()

    async def _repeat(self, step: Callable[[], Awaitable[None]], seconds: float) -> None:
        while not self._stopping.is_set():
            await self._guarded(step)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _guarded(self, step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
            self._note("ledger", "")
        except LedgerUnavailableError as error:
            self._metrics.ledger_failed()
            self._note("ledger", str(error))
        except LeaseLostError:
            self._leased = False

    async def _keep(self) -> None:
        self._leased = await self.outbox.lease(self._now())
        self._metrics.standing(self._settings.names(), await self.outbox.standing(whole=False), self._now())
        if self._leased:
            await self.outbox.forget(self._now())

    async def _serve(self, name: DestinationName) -> None:
        more = self._leased
        while more and not self._stopping.is_set():
            more = await self.collect(name)
            more = await self.deliver(name) or more

    async def collect(self, name: DestinationName) -> bool:
        """Put a page of entries into the outbox; return whether there may be more."""
        return await self._collector.collect(name, self._now())

    async def deliver(self, name: DestinationName) -> bool:
        """Send one batch, if the destination may be tried; return whether there was one and it went well."""
        pace = self._paces[name]
        now_s = self._now()
        if not pace.due(now_s):
            return False
        claim = await self.outbox.claim(
            name, renderer(name, self._settings), size=pace.size, fresh=pace.fresh, now_s=now_s,
            remembers_hours=self._remembers(name),
            oldest_s=now_s - STRIPE_TAKES_SECONDS if name == "stripe" else None,
        )  # fmt: skip
        self._metrics.events(name, "parked", claim.parked)
        if claim.parked:
            logs.get().error("export: events are left for a person", kind=name, count=claim.parked)
        if not claim.events:
            return claim.parked > 0
        fates, trouble, retry_after_s = await self._send(name, claim.events, now_s)
        await self.outbox.finish(name, fates, now_s)
        for fate in fates:
            self._metrics.events(name, fate.verdict)
        self._note(name, trouble)
        self._metrics.trouble(name, now=bool(trouble))
        if trouble:
            self._paces[name] = pace.failed(self._now(), retry_after_s=retry_after_s, chance=self._chance())
        else:
            self._paces[name] = pace.succeeded()
        return not trouble

    async def _send(
        self, name: DestinationName, events: Sequence[Claimed], claimed_s: float
    ) -> tuple[list[Fate], str, float | None]:
        """Send a batch, in halves where it has to be; return each event's fate, and what ended it, if anything."""
        fates: list[Fate] = []
        waiting = [tuple(events)]
        while waiting:
            batch = waiting.pop()
            if abs(self._now() - claimed_s) > LEASE_SECONDS:  # stalled, or halving for long: somebody else may be at it
                return [*fates, *_not_sent([batch, *waiting])], "the batch took too long", None
            answer = await self._sender.send(name, _of(self._settings, name), batch)
            reading = read_answer(name, tuple(event.id for event in batch), answer)
            if "split" in reading.verdicts:
                middle = len(batch) // 2
                waiting += [batch[middle:], batch[:middle]]
                continue
            fates += _fates(batch, reading, answered=answer.status is not None)
            if reading.trouble:
                return [*fates, *_not_sent(waiting)], reading.trouble, answer.retry_after_s
        return fates, "", None

    def _remembers(self, name: DestinationName) -> float | None:
        if name == "stripe":
            return STRIPE_REMEMBERS_HOURS
        return self._settings.openmeter.remembers_hours if name == "openmeter" and self._settings.openmeter else None

    def _note(self, name: str, trouble: str) -> None:
        """Log a trouble when it begins, changes or ends."""
        if trouble != self._troubles.get(name, ""):
            self._troubles[name] = trouble
            if trouble:
                logs.get().error("export: in trouble", kind=name, reason=trouble)
            else:
                logs.get().info("export: goes on", kind=name)


def _of(settings: ExportSettings, name: DestinationName) -> OpenMeter | Lago | Stripe:
    found: OpenMeter | Lago | Stripe | None = getattr(settings, name)
    if found is None:
        raise ValueError(f"{name} is not configured")
    return found


def _pace(settings: OpenMeter | Lago | Stripe) -> Pace:
    # Stripe takes one event a request, and one request at a time for a customer.
    most = 1 if isinstance(settings, Stripe) else settings.batch
    return Pace(size=most, most=most)


def _fates(batch: Sequence[Claimed], reading: Reading, *, answered: bool) -> list[Fate]:
    return [
        Fate(event=event, verdict=verdict, words=words, answered=answered)
        for event, verdict, words in zip(batch, reading.verdicts, reading.words, strict=True)
    ]


def _not_sent(batches: Sequence[Sequence[Claimed]]) -> list[Fate]:
    return [Fate(event=event, verdict="not_taken", answered=False) for batch in batches for event in batch]
