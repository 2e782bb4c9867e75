"""What the page shows, put together from snapshots that are there already: one answer, of bounded size."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version

from msgspec import Struct

from tenantry.adapters.console import tenants
from tenantry.adapters.console.tables import Ask, Page
from tenantry.adapters.console.traffic import Traffic
from tenantry.adapters.console.usage import LedgerUsage, UsageView, usage_view
from tenantry.adapters.console.verdicts import Verdicts
from tenantry.adapters.console.versions import Versions, versions_of
from tenantry.adapters.quotas.desk import Quotas
from tenantry.adapters.refusals import Refused
from tenantry.adapters.reload import Reloader
from tenantry.adapters.rollouts import Rollouts
from tenantry.adapters.sidecar import Sidecar
from tenantry.adapters.stores import StoreStatus
from tenantry.core.quota.account import month_name, month_of
from tenantry.core.rulebook import RuleBook

MAX_REFUSALS = 50
MAX_PROBLEMS = 50
MAX_STORES = 100
FRESH_SECONDS = 0.5
"""Models and rollouts are put together at most so often, however many look."""


class Health(Struct, frozen=True, kw_only=True):
    """The sidecar itself. `problems` is why the newest document was refused; `problem_count` counts all of them."""

    version: str
    pid: int
    started_s: float
    period: str
    rules_state: str
    rules_digest: str
    generation: int
    problems: tuple[str, ...]
    problem_count: int
    tenants: int
    models: int
    open_exchanges: int
    requests: int
    state_store_up: bool
    history_up: bool
    quota_store_up: bool
    stores: tuple[StoreStatus, ...]
    store_count: int


class RefusalsView(Struct, frozen=True, kw_only=True):
    """The newest rows, and how many refusals there were since the start."""

    rows: tuple[Refused, ...]
    total: int


class Document(Struct, frozen=True, kw_only=True):
    """All of it."""

    health: Health
    versions: Versions
    tenants: Page
    usage: UsageView
    refusals: RefusalsView


class Sources(Struct, kw_only=True):
    """Where it comes from. `stores` returns how each vector store stands; `usage` None: there is no ledger."""

    sidecar: Sidecar
    reloader: Reloader
    rollouts: Rollouts
    quotas: Quotas
    traffic: Traffic
    stores: Callable[[], Sequence[StoreStatus]]
    usage: LedgerUsage | None
    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic


class Assembler:
    """Puts documents together, and keeps for a moment what is dear."""

    def __init__(self, sources: Sources) -> None:
        self._from = sources
        self._verdicts = Verdicts(sources.rollouts, sources.monotonic)
        self._orders = tenants.Orders(sources.monotonic)
        self._index: tenants.Index | None = None
        self._versions: tuple[float, Versions] | None = None
        self._version = own_version()
        self._started_s = sources.clock()

    async def document(self, of_tenants: Ask, of_usage: Ask) -> Document:
        """Return what somebody who asks this sees now."""
        index = await self._index_of(self._from.sidecar.snapshot.book)
        if self._from.usage is not None:
            self._from.usage.look()
        world = self._world()
        names = self._orders.order(index, world, of_tenants)
        return Document(
            health=self._health(world.month),
            versions=self._fresh_versions(index),
            tenants=tenants.page_of(names, index, world, of_tenants),
            usage=usage_view(self._from.usage, of_usage),
            refusals=RefusalsView(
                rows=tuple(self._from.sidecar.refusals.newest(MAX_REFUSALS)), total=self._from.sidecar.refusals.total
            ),
        )

    async def stop(self) -> None:
        """End what is under way."""
        await self._verdicts.stop()
        if self._from.usage is not None:
            await self._from.usage.stop()

    async def _index_of(self, book: RuleBook) -> tenants.Index:
        if self._index is None or self._index.book is not book:
            # Of 10,000 tenants it takes longer than a request may wait for its decision.
            self._index = await asyncio.to_thread(tenants.index_of, book)
        return self._index

    def _world(self) -> tenants.World:
        now_s = self._from.clock()
        return tenants.World(
            traffic=self._from.traffic.tenants, accounts=self._from.quotas.accounts.last,
            live=self._from.rollouts.live, month=month_of(round(now_s * 1e3)), now_s=now_s,
        )  # fmt: skip

    def _fresh_versions(self, index: tenants.Index) -> Versions:
        now_s = self._from.monotonic()
        if self._versions is None or now_s - self._versions[0] >= FRESH_SECONDS:
            statuses = self._from.rollouts.status()
            history = self._verdicts.look([status.model for status in statuses])
            made = versions_of(index.book.rules, statuses, index.pinned, self._from.traffic.versions, history)
            self._versions = (now_s, made)
        return self._versions[1]

    def _health(self, month: int) -> Health:
        sidecar, status = self._from.sidecar, self._from.reloader.status
        stores, rules = self._from.stores(), sidecar.snapshot.book.rules
        return Health(
            version=self._version, pid=os.getpid(), started_s=self._started_s, period=month_name(month),
            rules_state=status.state, rules_digest=status.digest, generation=sidecar.generation,
            problems=status.problems[:MAX_PROBLEMS], problem_count=len(status.problems),
            tenants=len(rules.tenants), models=len(rules.models), open_exchanges=sidecar.open_exchanges,
            requests=self._from.traffic.requests, state_store_up=self._from.rollouts.stores_up,
            history_up=self._verdicts.up, quota_store_up=self._from.quotas.accounts.up,
            stores=tuple(stores[:MAX_STORES]), store_count=len(stores),
        )  # fmt: skip


def own_version() -> str:
    """Return this release's version; of a tree that nobody installed it is not known."""
    try:
        return version("tenantry")
    except PackageNotFoundError:
        return "(not installed)"
