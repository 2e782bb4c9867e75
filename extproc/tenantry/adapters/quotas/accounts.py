"""The tenants' accounts where all replicas share them, and what to do while that place is lost.

**A store that is lost** must neither hang requests nor let all of them pass. A request waits ADMISSION_SECONDS for it
at most; after a failure nobody waits for PAUSE_SECONDS. Meanwhile this process keeps accounts of its own, each with the
whole limit, beginning at what it last read. So replicas together may admit up to their number times the limit, which is
counted (`tenantry_quota_unshared_admissions_total`) and alarmed. A limit divided by the number of replicas would need
to know that number, and would refuse a tenant whose requests all come to one of them.

What requests come to is told to the store when it answers again; until then it waits in order, MAX_OWED at most. A
settlement that may have arrived, as only its answer was lost, is repeated as one that counts only what is still open.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine

from msgspec import Struct
from msgspec.structs import replace

from tenantry.adapters import logs
from tenantry.adapters.quotas.metrics import QuotaMetrics
from tenantry.adapters.state import AccountStore, StateUnavailableError
from tenantry.core.quota.account import (
    Account,
    Change,
    GiveBack,
    Limits,
    Renew,
    Reserve,
    Seen,
    Settle,
    Standing,
    apply,
)

ADMISSION_SECONDS = 0.25
MAX_WAITS = 8
PAUSE_SECONDS = 1.0
LEASE_MS = 30_000
RENEW_SECONDS = 10.0
START_SECONDS = 2.0
WARM_CONNECTIONS = 8
MAX_OWED = 100_000
MAX_ACCOUNTS = 20_000
"""Accounts that are remembered here: what was last read of them, and those of a time without the store."""

FOREVER_MS = 10**12
"""The lease of what is reserved in this process's own accounts, which end with it."""


class Last(Struct, frozen=True, kw_only=True):
    """How an account stood when it was last heard of, by which limits, and when (Unix seconds)."""

    limits: Limits
    standing: Standing
    at_s: float


class Accounts:
    """Changes to accounts, by tenant. Not thread-safe: one event loop."""

    def __init__(
        self,
        store: AccountStore,
        *,
        owner: str,
        metrics: QuotaMetrics,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._owner, self._metrics = store, owner, metrics
        self._clock, self._monotonic = clock, monotonic
        self._own: dict[str, Account] = {}
        self._owed: deque[tuple[str, Limits, Settle | GiveBack]] = deque()
        self._wake = asyncio.Event()
        self._quiet_until_s = 0.0
        self._heard_s = 0.0
        self._lost = False
        self.last: dict[str, Last] = {}

    @property
    def owed(self) -> int:
        """How many settlements wait for the store."""
        return len(self._owed)

    @property
    def up(self) -> bool:
        """Whether the store answered when it was last asked."""
        return not self._lost

    async def reserve(self, tenant: str, limits: Limits, request_id: str, amount: int) -> Standing:
        """Reserve, in the store or, while it is lost, here."""
        change = Reserve(owner=self._owner, lease_ms=LEASE_MS, seen=self._seen(tenant), id=request_id, amount=amount)
        if self._monotonic() >= self._quiet_until_s:
            try:
                return self._heard(
                    tenant, limits, await self._patiently(self._store.account(_key(tenant), limits, change))
                )
            except StateUnavailableError as error:
                self._failed(error)
        standing = self._here(tenant, limits, replace(change, lease_ms=FOREVER_MS))
        self._metrics.unshared(granted=standing.granted)
        return standing

    async def _patiently(self, asked: Coroutine[object, object, Standing]) -> Standing:
        """Wait for an answer while the store gives any; raise StateUnavailableError when it has gone silent.

        A burst of requests keeps this process, too, from listening: a wait that took much longer than it should have
        says nothing of the store. (On two busy cores 40 requests at once had taken a plain timeout for its loss.)
        """
        task = asyncio.ensure_future(asked)
        try:
            for _ in range(MAX_WAITS):
                begin_s = self._monotonic()
                if (await asyncio.wait((task,), timeout=ADMISSION_SECONDS))[0]:
                    return task.result()
                now_s = self._monotonic()
                if (
                    now_s - max(begin_s, self._heard_s) >= ADMISSION_SECONDS
                    and now_s - begin_s < 1.5 * ADMISSION_SECONDS
                ):
                    break
            raise StateUnavailableError(f"no answer within {ADMISSION_SECONDS:g} s")
        finally:
            task.cancel()

    def owe(self, tenant: str, limits: Limits, request_id: str, actual: int | None) -> None:
        """Settle a reservation, or give it back (None), as soon as the store takes it."""
        change: Settle | GiveBack = GiveBack(owner=self._owner, lease_ms=LEASE_MS, id=request_id)
        if actual is not None:
            change = Settle(owner=self._owner, lease_ms=LEASE_MS, id=request_id, actual=actual)
        if tenant in self._own:
            own = replace(change, only_open=True) if isinstance(change, Settle) else change
            self._here(tenant, limits, own)
        if len(self._owed) >= MAX_OWED:
            self._owed.popleft()
            self._metrics.dropped()
        self._owed.append((tenant, limits, change))
        self._wake.set()

    def settle_elsewhere(self, tenant: str, limits: Limits, request_id: str, actual: int) -> None:
        """Settle a reservation that another process made, if it is open still."""
        change = Settle(owner=self._owner, lease_ms=LEASE_MS, id=request_id, actual=actual, only_open=True)
        if len(self._owed) < MAX_OWED:
            self._owed.append((tenant, limits, change))
            self._wake.set()

    async def start(self) -> None:
        """Open what connections there may be, so that the first burst of requests need not."""
        try:
            async with asyncio.timeout(START_SECONDS):
                await asyncio.gather(*(self._store.entries("quota", 1) for _ in range(WARM_CONNECTIONS)))
        except (StateUnavailableError, TimeoutError) as error:
            self._failed(error)

    async def run(
        self, told: Callable[[str, Limits, Standing], None], holders: Callable[[], dict[str, Limits]]
    ) -> None:
        """Bring the store what is owed, and renew leases of the tenants that `holders` names, until cancelled."""
        renewed_s = self._monotonic()
        while True:
            try:
                async with asyncio.timeout(RENEW_SECONDS / 10):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                await self.settle(told)
                if self._monotonic() - renewed_s >= RENEW_SECONDS:
                    renewed_s = self._monotonic()
                    await self._renew(holders())
            except StateUnavailableError as error:
                self._failed(error)
                await asyncio.sleep(PAUSE_SECONDS)
                self._wake.set()
            except Exception as error:  # noqa: BLE001  # one surprise must not end the settling of all
                logs.get().error("quotas not settled", exc_info=error)
                await asyncio.sleep(PAUSE_SECONDS)

    async def settle(self, told: Callable[[str, Limits, Standing], None]) -> None:
        """Bring the store what is owed; raises StateUnavailableError when it does not take it."""
        if self._owed and self._lost:
            tenant, limits, _ = self._owed[0]
            await self._renew({tenant: limits})  # what changes nothing tells whether it is there
        while self._owed:
            tenant, limits, change = self._owed.popleft()
            change = replace(change, seen=self._seen(tenant))
            try:
                standing = await self._store.account(_key(tenant), limits, change)
            except BaseException:
                again = replace(change, only_open=True) if isinstance(change, Settle) else change
                self._owed.appendleft((tenant, limits, again))
                raise
            told(tenant, limits, self._heard(tenant, limits, standing))

    async def read(self, tenant: str, limits: Limits) -> Standing:
        """Return how an account stands; raises StateUnavailableError."""
        change = Renew(owner=self._owner, lease_ms=LEASE_MS, seen=self._seen(tenant))
        return self._heard(tenant, limits, await self._store.account(_key(tenant), limits, change))

    async def forget(self, tenant: str) -> None:
        """Forget a tenant's account, here and in the store; raises StateUnavailableError."""
        self._own.pop(tenant, None)
        self.last.pop(tenant, None)
        await self._store.forget_account(_key(tenant))

    async def _renew(self, holders: dict[str, Limits]) -> None:
        for tenant, limits in holders.items():
            await self.read(tenant, limits)

    def _here(self, tenant: str, limits: Limits, change: Change) -> Standing:
        now_ms = round(self._clock() * 1e3)
        account = self._own.pop(tenant, None) or Account()
        self._own[tenant], standing = apply(account, limits, change, now_ms)
        if len(self._own) > MAX_ACCOUNTS:
            del self._own[next(iter(self._own))]
        return standing

    def _seen(self, tenant: str) -> Seen | None:
        last = self.last.get(tenant)
        return None if last is None else last.standing.seen

    def _heard(self, tenant: str, limits: Limits, standing: Standing) -> Standing:
        self._heard_s = self._monotonic()
        if self._lost:
            self._lost = False
            self._metrics.store(up=True)
            logs.get().info("the quota store answers again", count=len(self._owed))
        self.last.pop(tenant, None)
        self.last[tenant] = Last(limits=limits, standing=standing, at_s=self._clock())
        if len(self.last) > MAX_ACCOUNTS:
            del self.last[next(iter(self.last))]
        return standing

    def _failed(self, error: Exception) -> None:
        self._quiet_until_s = self._monotonic() + PAUSE_SECONDS
        if not self._lost:
            self._lost = True
            self._metrics.store(up=False)
            logs.get().error(
                "the quota store failed; each replica keeps quotas by itself", problems=[str(error) or "no answer"]
            )


def _key(tenant: str) -> str:
    return f"quota/{tenant}"
