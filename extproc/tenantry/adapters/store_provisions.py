"""Tenants' databases and partitions in one store: made on first use, once for all who wait, remembered.

What is remembered is only that a need was met; whoever drops a tenant's partition behind our back gets the engine's
error once, after which it is forgotten and made again.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

from tenantry.adapters import logs
from tenantry.adapters.store_metrics import StoreMetrics
from tenantry.adapters.store_proofs import Admin
from tenantry.core.errors import BadRequestError, ForbiddenError, RequestRefusedError, UnavailableError
from tenantry.core.vector.calls import Need
from tenantry.core.vector.operator import StoreCallError
from tenantry.core.vector.provision import StoreFullError, check_columns, provide

MAX_REMEMBERED = 100_000
MAX_AT_ONCE = 8
WAIT_SECONDS = 3.0
REFUSAL_SECONDS = 5.0
"""How long a refusal is repeated without asking the engine again."""


class Provisions:
    """What one store holds for tenants."""

    def __init__(
        self,
        name: str,
        metrics: StoreMetrics,
        admin: Callable[[], Admin | None],
        *,
        remembered: int = MAX_REMEMBERED,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        self._name, self._metrics, self._admin = name, metrics, admin
        self._remembered, self._wait_seconds = remembered, wait_seconds
        self._met: OrderedDict[Need, None] = OrderedDict()
        self._refused: OrderedDict[Need, tuple[float, RequestRefusedError]] = OrderedDict()
        self._doing: dict[Need, asyncio.Task[RequestRefusedError | None]] = {}
        self._few = asyncio.Semaphore(MAX_AT_ONCE)
        self._era = 0

    def met(self, need: Need) -> bool:
        """Return whether a need is known to be met; of columns that is never known beforehand."""
        place = need.place
        if need.columns or place is None or place not in self._met:
            return False
        self._met.move_to_end(place)
        return True

    def forget(self, need: Need | None = None) -> None:
        """Forget that a need is met; without one, everything."""
        if need is not None:
            if need.place is not None:
                self._met.pop(need.place, None)
            return
        self._era += 1
        self._met.clear()
        self._refused.clear()

    async def meet(self, need: Need) -> None:
        """Make what is needed, look at a write's columns; raise RequestRefusedError unless both are well in time."""
        place = need.place
        if place is not None and place not in self._met:
            await self._meet(place)
        if need.columns:
            await self._look(need)

    async def _look(self, need: Need) -> None:
        admin = self._admin()
        if admin is None:
            raise self._unavailable()
        try:
            async with asyncio.timeout(self._wait_seconds):
                problem = await admin.perform(check_columns(need))
        except (TimeoutError, StoreCallError):
            raise self._unavailable() from None
        if problem:
            raise BadRequestError("invalid_column", f"The rows do not fit the collection: {problem}.")

    async def _meet(self, need: Need) -> None:
        until, refusal = self._refused.get(need, (0.0, None))
        if refusal is not None and time.monotonic() < until:
            raise refusal
        task = self._doing.get(need)
        if task is None:
            task = self._doing[need] = asyncio.get_running_loop().create_task(self._make(need))
            task.add_done_callback(lambda _: self._doing.pop(need, None))
        try:
            async with asyncio.timeout(self._wait_seconds):
                refused = await asyncio.shield(task)
        except TimeoutError:
            raise self._unavailable() from None
        if refused is not None:
            raise refused

    async def stop(self) -> None:
        """End what is under way."""
        tasks = list(self._doing.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _make(self, need: Need) -> RequestRefusedError | None:
        era = self._era
        try:
            async with self._few:
                admin = self._admin()
                if admin is None:
                    return self._unavailable()
                made = await admin.perform(provide(need))
        except StoreFullError as error:
            logs.get().error("a store is full", store=self._name, reason=str(error))
            text = f'The store "{self._name}" has no room for another tenant: ask its operator.'
            return self._refuse(need, ForbiddenError("store_full", text))
        except StoreCallError as error:
            logs.get().warning("a tenant's place in a store was not made", store=self._name, reason=str(error))
            return self._refuse(need, self._unavailable())
        if made:
            self._metrics.provisioned(self._name, made)
        if era == self._era:
            self._met[need] = None
            while len(self._met) > self._remembered:
                self._met.popitem(last=False)
        return None

    def _refuse(self, need: Need, refusal: RequestRefusedError) -> RequestRefusedError:
        self._refused.pop(need, None)
        self._refused[need] = (time.monotonic() + REFUSAL_SECONDS, refusal)
        while len(self._refused) > self._remembered:
            self._refused.popitem(last=False)
        return refusal

    def _unavailable(self) -> RequestRefusedError:
        return UnavailableError("store_not_ready", f'The store "{self._name}" is not ready for you yet: try again.')
