"""Tenants' own beta flags: set here at once, then exchanged with the stores, under a lock of their own.

A tenant's word waits for no operator's and no guard's business with the stores, nor these for it. Of several words of
one tenant that wait, only the last is exchanged, however many it sends.
"""

import asyncio
from collections.abc import Callable, Mapping

from tenantry.adapters.rollout_stores import Silent, turn, update
from tenantry.adapters.state import StateStore
from tenantry.core.rollout import shared as shared_state
from tenantry.core.rollout.shared import BetaFlag

BETA_KEY = "beta"


class BetaFlags:
    """`changed` is called when a flag may have changed. `readable`: every store was read once."""

    def __init__(
        self, local: StateStore, fleet: StateStore | None, clock: Callable[[], float], changed: Callable[[], None]
    ) -> None:
        self._local, self._fleet, self._clock, self._changed = local, fleet, clock, changed
        self._flags: dict[str, BetaFlag] = {}
        self._words: dict[str, object] = {}
        self._lock = asyncio.Lock()
        self.readable = False

    @property
    def flags(self) -> Mapping[str, bool]:
        """Each tenant's own word, as far as it is known."""
        return {tenant: not flag.off for tenant, flag in self._flags.items()}

    async def set(self, tenant: str, *, beta: bool) -> None:
        """Set a tenant's flag; raises as `exchange` does, and StateUnavailableError when that takes too long.

        The flag is set here even then.
        """
        word = self._words[tenant] = object()
        self._say(tenant, beta=beta)
        try:
            async with turn(self._lock):
                if self._words.get(tenant) is word:  # else a later word is there, and goes to the stores by itself
                    await self._exchange(set())
                # Another replica may have heard the tenant before, and more often: the last word counts.
                if self._words.get(tenant) is word and self._flags[tenant].off is beta:
                    self._say(tenant, beta=beta)
                    await self._exchange(set())
        finally:
            if self._words.get(tenant) is word:
                del self._words[tenant]

    async def exchange(self, silent: Silent) -> None:
        """Exchange all flags with every store, unless that is just being done; raises STORE_ERRORS."""
        if not self._lock.locked():
            async with self._lock:
                await self._exchange(silent)

    def _say(self, tenant: str, *, beta: bool) -> None:
        self._flags = shared_state.flagged(self._flags, tenant, beta=beta, now_s=self._clock())
        self._changed()

    async def _exchange(self, silent: Silent) -> None:
        try:
            if self._fleet is not None:
                await self._exchange_with(self._fleet, silent)
        finally:
            # Also while the shared store is lost: a tenant's no must outlive this process.
            await self._exchange_with(self._local, silent)
        self.readable = True
        self._changed()

    async def _exchange_with(self, store: StateStore, silent: Silent) -> None:
        mine = self._flags

        def merge(raw: bytes | None) -> bytes:
            return shared_state.encode_flags(shared_state.merge_flags(shared_state.decode_flags(raw), mine))

        told = shared_state.decode_flags(await update(store, BETA_KEY, merge, silent))
        self._flags = shared_state.merge_flags(self._flags, told)  # a tenant may have said something since
