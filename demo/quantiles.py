"""Quantiles by nearest rank."""

from collections.abc import Iterable
from math import ceil

from demo.report import Quantiles


def quantiles(values: Iterable[float]) -> Quantiles:
    """Return median and 99th percentile by nearest rank, rounded to a hundredth."""
    ordered = sorted(values)

    def rank(share: float) -> float | None:
        return round(ordered[ceil(share * len(ordered)) - 1], 2) if ordered else None

    return Quantiles(p50=rank(0.50), p99=rank(0.99), n=len(ordered))
