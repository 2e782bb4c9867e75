"""Has visits of units counted where all replicas count them, and lets go of the counts that nobody needs any more."""

import contextlib
from collections.abc import Sequence

from tenantry.adapters.rollout_queue import Count, Seen
from tenantry.adapters.state import StateStore, StateUnavailableError
from tenantry.core.rollout.conduct import Conduct
from tenantry.core.rollout.visits import Visit

VISITS_TTL_S = 8 * 24 * 3600.0
"""A chapter lasts a week at most."""

_UNCOUNTED = Visit(number=0, was_put_off=False)


class VisitCounts:
    """The counts of every rollout in one store."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._keys: dict[str, str] = {}

    async def count(self, conduct: Conduct, count: Count, batch: Sequence[Seen], now_s: float) -> list[Visit]:
        """Return each request's visit; raises StateUnavailableError."""
        arrivals = conduct.arrivals(batch, now_s)
        if count == "none":
            return [_UNCOUNTED] * len(batch)
        return await self._store.visits(f"{conduct.visits_key}/{count}", arrivals, ttl_s=VISITS_TTL_S)

    async def let_go(self, conduct: Conduct) -> None:
        """Forget the counts of the chapter before, if one began; what a lost store keeps expires by itself.

        The counts of another plan stay until then: an operator may go back to it, and its evidence is kept too.
        """
        key = conduct.visits_key
        before = self._keys.get(conduct.id, key)
        self._keys[conduct.id] = key
        if before != key and _plan(before) == _plan(key):
            with contextlib.suppress(StateUnavailableError):
                await self._store.forget(f"{before}/split")
                await self._store.forget(f"{before}/pairs")

    def leave(self, rollout: str) -> None:
        """Forget what is remembered here of a rollout."""
        self._keys.pop(rollout, None)


def _plan(key: str) -> str:
    return key.rpartition("/")[0]
