"""How far a fair draw may stray."""

from math import exp, lgamma, log, log1p


def bounds(draws: int, chance: float, error: float) -> tuple[int, int]:
    """Return the smallest and largest count that so many draws may come to; beyond lies at most `error` in all."""
    low, high, below = 0, draws, 0.0
    for count in range(draws + 1):
        if below <= error / 2:
            low = count
        below += _probability(count, draws, chance)
        if 1.0 - below <= error / 2:
            high = count
            break
    return low, high


def _probability(count: int, draws: int, chance: float) -> float:
    if not 0.0 < chance < 1.0:
        return float(count == (0 if chance <= 0.0 else draws))
    ways = lgamma(draws + 1) - lgamma(count + 1) - lgamma(draws - count + 1)
    return exp(ways + count * log(chance) + (draws - count) * log1p(-chance))
