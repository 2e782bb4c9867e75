"""Parts of an export for tests: a clock, entries, settings, and a sender without a network."""

import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from tenantry.adapters.ledger.export.exporter import Exporter
from tenantry.adapters.ledger.export.http import Sender, _body, _headers, _url
from tenantry.adapters.ledger.export.metrics import ExportMetrics
from tenantry.adapters.ledger.export.outbox import LEASE_SECONDS, Claimed
from tenantry.adapters.ledger.export.tables import Tables
from tenantry.adapters.ledger.export.tables_sqlite import SqliteTables
from tenantry.adapters.ledger.sqlite import APPLICATION_ID
from tenantry.core.billing.answers import Answer
from tenantry.core.billing.booking import Entry
from tenantry.core.billing.export_settings import (
    DestinationName,
    ExportSettings,
    Lago,
    OpenMeter,
    Stripe,
    parse_settings,
)
from tenantry.core.billing.periods import hour_of, period_of

from tenantry_testing.billing_standins import TOKEN, BillingStandIn

NOW = 1_795_000_000.0
"""2026-11-18."""
SINCE = "2026-11-01T00:00:00Z"


class Clock:
    """Unix time that stands until it is moved."""

    def __init__(self, now_s: float = NOW) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


class EntryList:
    """A ledger's entries in memory."""

    def __init__(self) -> None:
        self.held: list[Entry] = []

    async def entries(self, after: int, limit: int) -> list[Entry]:
        return self.held[after : after + limit]

    def add(self, *, micro: int = 1_500_000, tenant: str = "acme", at_s: float = NOW, **fields: Any) -> Entry:
        number = len(self.held) + 1
        given: dict[str, Any] = {
            "seq": number, "id": f"r{number}", "record_id": f"r{number}", "booked_s": at_s, "kind": "request",
            "period": period_of(at_s), "owner": "tenant", "tenant": tenant, "model": "chat-8b", "version": "1.4.0",
            "hour": hour_of(at_s), "ended_s": at_s, "requests": 1, "prefill_gpu_ns": 250_000_000, "input_tokens": 12,
            "decode_gpu_ns": 1_000_000_001, "output_tokens": 34, "compute_units_micro": micro, "tier": "gold",
            "measured": "engine",
        }  # fmt: skip
        entry = Entry(**(given | fields))
        self.held.append(entry)
        return entry

    def take_back(self, entry: Entry, **fields: Any) -> Entry:
        """Add what takes an entry back, as a ledger does when another attempt turns out to have served."""
        names = ("requests", "prefill_gpu_ns", "decode_gpu_ns", "input_tokens", "output_tokens")
        negative = {name: -getattr(entry, name) for name in names}
        return self.add(
            micro=-entry.compute_units_micro, tenant=entry.tenant, at_s=entry.ended_s, id=f"{entry.record_id}~2",
            record_id=entry.record_id, **negative, **fields,
        )  # fmt: skip


class Direct:
    """A Sender that speaks to a stand-in without a network."""

    def __init__(self, standin: BillingStandIn) -> None:
        self._standin = standin

    async def send(
        self, name: DestinationName, settings: OpenMeter | Lago | Stripe, events: Sequence[Claimed]
    ) -> Answer:
        path = _url(name, settings).removeprefix(settings.url)
        status, body = self._standin.take(path, _headers(name, settings, events), _body(name, events))
        return Answer(status=status, body=body) if status else Answer(said="no answer")


def settings_for(folder: Path, *names: str, url: str = "http://127.0.0.1:1", **changes: Any) -> ExportSettings:
    """Return settings for the named destinations, all at one URL; `changes` go to each."""
    token = folder / "token"
    token.write_text(f"{TOKEN}\n")
    common = {"url": url, "tokenFile": str(token), "timeoutSeconds": 5}
    own: dict[str, dict[str, Any]] = {
        "openmeter": {},
        "lago": {"code": "tenantry_usage"},
        "stripe": {"eventName": "compute_units", "customers": {"acme": "cus_acme", "globex": "cus_globex"}},
    }
    document = {name: common | own[name] | changes for name in names}
    return parse_settings({"version": 1, "source": "test-ledger", "since": SINCE, **document})


def empty_ledger(folder: Path) -> Path:
    """Return a SQLite file for an outbox whose entries come from elsewhere."""
    path = folder / "ledger.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("PRAGMA journal_mode = WAL")
    return path


class Rig:
    """An exporter that can be killed and started again on the same outbox."""

    def __init__(
        self, folder: Path, settings: ExportSettings, sender: Sender, clock: Clock, *,
        ledger: Any = None, tables: Tables | None = None, chance: Callable[[], float] = lambda: 0.5,
    ) -> None:  # fmt: skip
        self.ledger = EntryList() if ledger is None else ledger
        self.settings = settings
        self.sender = sender
        self.clock = clock
        self.chance = chance
        self.registry = CollectorRegistry()
        self._metrics = ExportMetrics(self.registry)
        self.tables = tables or SqliteTables(empty_ledger(folder), durable=False)
        self.starts = 0
        self.exporter = self._new()

    def _new(self) -> Exporter:
        self.starts += 1
        return Exporter(
            self.ledger, self.tables, self.settings, self.sender, holder=f"process-{self.starts}", now=self.clock,
            chance=self.chance, metrics=self._metrics,
        )  # fmt: skip

    async def start_again(self) -> None:
        """Start another process after one that died; its lease runs out first."""
        self.clock.now_s += LEASE_SECONDS + 1
        self.exporter = self._new()
        assert await self.exporter.outbox.lease(self.clock())

    async def step(self, name: DestinationName) -> None:
        """Let the exporter do all that it can do at this moment."""
        assert await self.exporter.outbox.lease(self.clock())
        while await self.exporter.collect(name):
            pass
        while await self.exporter.deliver(name):
            pass

    async def pass_time(self, seconds: float, *names: DestinationName) -> None:
        """Let time pass, with a step whenever a destination may be tried again, at most every ten minutes."""
        end_s = self.clock.now_s + seconds
        while self.clock.now_s < end_s:
            for name in names:
                if self.exporter._paces[name].due(self.clock()):
                    await self.step(name)
            tries = [self.exporter._paces[name].not_before_s for name in names]
            ahead = [due_s for due_s in tries if due_s > self.clock.now_s]
            self.clock.now_s = min([*ahead, self.clock.now_s + 600, end_s])
        for name in names:
            await self.step(name)

    async def states(self) -> dict[str, int]:
        """Return how many events are in each state, over all destinations."""
        async with self.tables.transaction() as tx:
            rows = await tx.rows("SELECT state, COUNT(*) FROM export_events GROUP BY state ORDER BY state")
        return {state: int(events) for state, events in rows}

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"tenantry_export_{name}", labels) or 0.0
