"""Admits requests by their tenants' quotas and settles them: between the sidecar's exchanges and the accounts.

    exchange --admit--> accounts (store)         record, access log, response --> settling --> accounts, in their time
       its end -------> settling

Only tenants that have a quota come here, and only `admit` keeps a request waiting: for one round trip to the store.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable

from tenantry.adapters import logs
from tenantry.adapters.quotas.accounts import Accounts, Last
from tenantry.adapters.quotas.metrics import QuotaMetrics
from tenantry.core.quota.account import Limits, Standing, month_name, month_of
from tenantry.core.quota.alerts import Alert
from tenantry.core.quota.answer import figures, refusal
from tenantry.core.quota.claim import Claim
from tenantry.core.quota.settling import Result, Settlement, Settling
from tenantry.core.usage import UsageRecord

TICK_SECONDS = 0.25
STOP_SECONDS = 2.0


class Quotas:
    """The quotas of one sidecar process."""

    def __init__(
        self,
        accounts: Accounts,
        metrics: QuotaMetrics,
        *,
        notify: Callable[[Alert], None] = lambda _alert: None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.accounts = accounts
        self._metrics, self._notify = metrics, notify
        self._clock, self._monotonic = clock, monotonic
        self._settling = Settling()
        self._limits: dict[str, Limits] = {}

    async def admit(self, claim: Claim, request_id: str) -> dict[str, str]:
        """Reserve what a request may cost; return the figures that its client is told. Raises RequestRefusedError."""
        try:
            standing = await self.accounts.reserve(claim.tenant, claim.limits, request_id, claim.amount)
        except asyncio.CancelledError:
            # The client left meanwhile, and the store may have done it.
            self.accounts.owe(claim.tenant, claim.limits, request_id, None)
            raise
        if not standing.granted:
            window, refused = refusal(claim, standing)
            self._metrics.refused(claim.tenant, window)
            raise refused
        self._limits[claim.tenant] = claim.limits
        self._do(self._settling.admitted(request_id, claim))
        return figures(claim.limits, standing)

    def ended(self, request_id: str) -> None:
        """Note the end of an exchange."""
        self._do(self._settling.ended(request_id, self._monotonic()))

    def record(self, record: UsageRecord) -> None:
        """Take in a usage record, of whichever request."""
        self._do(self._settling.record(record))

    def told(self, request_id: str, tenant: str, limits: Limits | None, actual: int, result: Result) -> None:
        """Settle by what the access log or the response told, of a request that may be another process's."""
        if request_id in self._settling:
            self._do(self._settling.told(request_id, actual, result))
        elif limits is not None:
            self.accounts.settle_elsewhere(tenant, limits, request_id, actual)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.accounts.run(self._heard, self._holders))
            group.create_task(self._tick())

    async def stop(self) -> None:
        """Let the store have what is known, once `run` has ended; for STOP_SECONDS at most.

        Reservations of exchanges that go on are left to their lease.
        """
        with contextlib.suppress(Exception):
            async with asyncio.timeout(STOP_SECONDS):
                await self.accounts.settle(self._heard)
        if self.accounts.owed:
            logs.get().error("the quota store did not take the last settlements", count=self.accounts.owed)

    def show(self) -> None:
        """Set the gauges, for somebody who scrapes."""
        month = month_of(round(self._clock() * 1e3))
        self._metrics.show(
            self._settling.held(), ((tenant, ratio(last, month)) for tenant, last in self.accounts.last.items())
        )

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._do(self._settling.due(self._monotonic()))

    def _do(self, settlements: Iterable[Settlement]) -> None:
        for each in settlements:
            self._metrics.settled(each.result)
            self.accounts.owe(each.claim.tenant, each.claim.limits, each.request_id, each.actual)

    def _holders(self) -> dict[str, Limits]:
        held = self._settling.held()
        self._limits = {tenant: limits for tenant, limits in self._limits.items() if tenant in held}
        return dict(self._limits)

    def _heard(self, tenant: str, limits: Limits, standing: Standing) -> None:
        for share in standing.crossed:
            alert = Alert(
                tenant=tenant, period=month_name(standing.month), share=share, used=standing.used,
                limit=limits.period or 0, at_s=standing.now_ms / 1e3,
            )  # fmt: skip
            logs.get().warning("a tenant has spent a share of its quota", tenant=tenant, reason=alert.text)
            self._notify(alert)


def ratio(last: Last, month: int) -> float:
    """Return the share of a period's quota that is spent; 0 of a period that is over, or without a limit."""
    limit = last.limits.period
    return last.standing.used / limit if limit and last.standing.month == month else 0.0
