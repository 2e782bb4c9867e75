"""How the false-alarm probability of a rollout is divided, so that all tests together stay within it.

    alpha = fleet 1/2                           + tenants 1/2, equally among `max_tenants` places
          x signal        (signals.SIGNALS, weights adding up to 1)
          x visit class   (VISIT_SHARES: a unit's 1st, 4th, 16th visit)
          x chapter       (0.9 for the first, 0.1 / (k (k-1)) for the k-th, adding up to 1 for ever)

Every leaf is one e-process with its own threshold 1/(its alpha), so by the union bound nothing needs to be known about
how leaves depend on one another. Averaging e-values would be cheaper, but the average of e-processes that live in
different filtrations is not one (Choe and Ramdas, "Combining evidence across filtrations", 2024), and a unit's first
and fourth visit share the unit's temperament.

Places are equal because an order of appearance (weights 1/(k(k+1))) is not the same on two replicas that have not met,
and because it would cost the tenant in place 20 a factor of 420 where this costs every tenant 50.
"""

from math import log

from msgspec import Struct

VISIT_SHARES = {1: 0.92, 4: 0.05, 16: 0.03}
"""Visits of a unit that count, within a chapter, and their shares of alpha."""

FIRST_CHAPTER_SHARE = 0.9

FLEET_SHARE = 0.5


class Budget(Struct, frozen=True, kw_only=True):
    """`alpha` over the whole rollout, and the number of tenants that are judged by themselves."""

    alpha: float = 0.01
    max_tenants: int = 50

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha < 1.0:
            raise ValueError(f"alpha is {self.alpha}: it is a probability between 0 and 1, 0.01 by default")
        if not 1 <= self.max_tenants <= 10_000:
            raise ValueError(f"max_tenants is {self.max_tenants}: 1 to 10000")

    def fleet_threshold(self, weight: float, visit: int, chapter: int) -> float:
        """Return the log e-value at which a signal of this weight reverts the fleet."""
        return -log(FLEET_SHARE * self._leaf(weight, visit, chapter))

    def tenant_threshold(self, weight: float, visit: int, chapter: int) -> float:
        """Return the log e-value at which a signal of this weight reverts one tenant."""
        return -log((1.0 - FLEET_SHARE) / self.max_tenants * self._leaf(weight, visit, chapter))

    def _leaf(self, weight: float, visit: int, chapter: int) -> float:
        return self.alpha * weight * VISIT_SHARES[visit] * chapter_share(chapter)


def chapter_share(chapter: int) -> float:
    """Return the share of alpha of the k-th chapter, k >= 1."""
    return FIRST_CHAPTER_SHARE if chapter == 1 else (1.0 - FIRST_CHAPTER_SHARE) / (chapter * (chapter - 1))
