"""One Milvus store, watched: closed until it is proven safe, looked at again every minute, closed when it changed."""

import asyncio
import time
from collections.abc import Callable
from enum import Enum

from msgspec import Struct

from tenantry.adapters import logs
from tenantry.adapters.store_metrics import StoreMetrics
from tenantry.adapters.store_proofs import Admin, Found, find, prove
from tenantry.adapters.store_verdicts import VerdictFile
from tenantry.core.rules_stores import Store
from tenantry.core.vector.operator import StoreCallError

RECHECK_SECONDS = 60.0
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 0.25, 10.0
MAX_MISSES = 3
"""So many looks may fail in a row before an open store closes: a busy engine is not another one."""

Connect = Callable[[Store, str | None], Admin]


class Standing(Enum):
    """What is known of a store."""

    UNPROVEN = "unproven"
    SAFE = "safe"
    UNSAFE = "unsafe"


class _Judged(Struct, frozen=True, kw_only=True):
    key: str
    standing: Standing
    reasons: tuple[str, ...]


class StoreWatch:
    """`standing` and `reasons` are of this moment; `changed` is called when what is in the store may be gone."""

    def __init__(
        self,
        name: str,
        store: Store,
        secret: str | None,
        *,
        connect: Connect,
        verdicts: VerdictFile | None,
        metrics: StoreMetrics,
        changed: Callable[[], None],
        recheck_seconds: float = RECHECK_SECONDS,
    ) -> None:
        self.name, self.store, self.secret = name, store, secret
        self.standing = Standing.UNPROVEN
        self.reasons: tuple[str, ...] = ("not looked at yet",)
        self.version = ""
        self.admin: Admin | None = None
        self._connect, self._verdicts, self._metrics, self._changed = connect, verdicts, metrics, changed
        self._recheck_seconds = recheck_seconds
        self._judged: _Judged | None = None
        self._misses = 0
        metrics.safe(name, safe=False)

    async def run(self) -> None:
        """Watch until cancelled."""
        try:
            while True:
                await self._pause(await self._look())
        finally:
            self._stand(Standing.UNPROVEN, ("not watched any more",))
            if self.admin is not None:
                await self.admin.aclose()

    async def _look(self) -> float:
        """Look once; return the seconds until the next look."""
        try:
            if self.admin is None:
                self.admin = self._connect(self.store, self.secret)
            await self._judge(self.admin, await find(self.admin, self.name, self.store))
        except StoreCallError as error:
            self._missed(str(error))
        except Exception as error:  # noqa: BLE001
            # Whatever it is, nothing is known of the store: it must not stay open because its watch ended.
            logs.get().error("the watch over a store failed", store=self.name, exc_info=error)
            self._misses = MAX_MISSES
            self._missed(f"the proof failed with {type(error).__name__}")
        else:
            self._misses = 0
            return self._recheck_seconds
        return float(min(FIRST_RETRY_SECONDS * 2**self._misses, LAST_RETRY_SECONDS))

    async def _pause(self, seconds: float) -> None:
        """Wait so long, or until a connection ends: what answers then may be another engine."""
        if self.admin is None or self._misses:
            await asyncio.sleep(seconds)
            return
        try:
            async with asyncio.timeout(seconds):
                await self.admin.disturbed()
        except TimeoutError:
            return
        # If the next look fails the store closes at once; if it finds the same engine, nobody notices.
        self._misses = MAX_MISSES
        if not self.version:
            self._judged = None

    async def _judge(self, admin: Admin, found: Found) -> None:
        judged = self._judged
        if judged is not None and judged.key == found.key:
            # As it was when it was judged; it may have been out of reach in between.
            if self.standing is not judged.standing:
                self._changed()
                self._stand(judged.standing, judged.reasons)
            return
        self._changed()
        self._stand(Standing.UNPROVEN, (f"{found.engine} is being looked at",))
        self.version = found.version
        kept = self._verdicts if found.version else None  # without a version tomorrow's engine may be another one
        self._judged = None
        if kept is not None and kept.holds(found.key):
            self._judge_as(found, ())
            return
        begin = time.monotonic()
        verdicts = await prove(admin, self.name, self.store, found)
        reasons = tuple(dict.fromkeys(verdict.reason for verdict in verdicts if not verdict.safe))
        self._metrics.proof(self.name, "unsafe" if reasons else "safe")
        seconds = round(time.monotonic() - begin, 2)
        if reasons:
            logs.get().error("a store does not keep tenants apart: nobody gets it",
                             store=self.name, version=found.version, problems=reasons, seconds=seconds)  # fmt: skip
        else:
            logs.get().info("a store keeps tenants apart", store=self.name, version=found.version, seconds=seconds)
            if kept is not None:
                kept.keep(found.key, time.time())
        self._judge_as(found, reasons)

    def _missed(self, reason: str) -> None:
        self._misses += 1
        self._metrics.proof(self.name, "failed")
        if self.standing is Standing.SAFE and self._misses <= MAX_MISSES:
            return
        if self.standing is not Standing.UNPROVEN or self._misses == 1:
            logs.get().warning("a store is closed: it cannot be looked at", store=self.name, reason=reason)
        if not self.version:
            self._judged = None
        self._stand(Standing.UNPROVEN, (reason,))

    def _judge_as(self, found: Found, reasons: tuple[str, ...]) -> None:
        standing = Standing.UNSAFE if reasons else Standing.SAFE
        self._judged = _Judged(key=found.key, standing=standing, reasons=reasons)
        self._stand(standing, reasons)

    def _stand(self, standing: Standing, reasons: tuple[str, ...]) -> None:
        self.standing, self.reasons = standing, reasons
        self._metrics.safe(self.name, safe=standing is Standing.SAFE)
