"""A guard that sees all units itself, and counts their visits in its own memory: one process, no store."""

from tenantry.core.rollout.guard import Guard
from tenantry.core.rollout.signals import Observation, Pair
from tenantry.core.rollout.verdicts import Verdict
from tenantry.core.rollout.visits import Visits


class LoneGuard:
    """Observes as the processes of a fleet do, without asking a store for the visits of its units."""

    def __init__(self, guard: Guard, *, max_units: int = 50_000) -> None:
        self.guard = guard
        self._max_units = max_units
        self._chapter = 0
        self._split = self._pairs = Visits(max_units)

    def observe(self, seen: Observation | Pair, now_s: float) -> tuple[Verdict, ...]:
        """Take in a request of the split, or a mirrored pair, that ended."""
        self.guard.turn_if_due(now_s)
        if self.guard.chapter != self._chapter:
            self._chapter = self.guard.chapter
            self._split, self._pairs = Visits(self._max_units), Visits(self._max_units)
        if isinstance(seen, Pair):
            return self.guard.observe_pair(seen, self._pairs.arrive(self.guard.arrival(seen)), now_s)
        return self.guard.observe(seen, self._split.arrive(self.guard.arrival(seen)), now_s)
