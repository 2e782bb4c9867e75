"""Amounts of money that add up: exact until the end, then rounded together.

An exact amount is a Fraction, since a GPU-hour's price for some nanoseconds is no finite decimal. What people see is a
Decimal with the currency's digits. Rounding each line of an invoice by itself would miss the rounded total by up to
half a cent a line; so the total is rounded, and those lines give way that lose least by it (largest remainder).
"""

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

NS_PER_HOUR = 3_600 * 10**9
_HALF = Fraction(1, 2)


def for_units(compute_units_micro: int, price: Decimal) -> Fraction:
    """Return what millionths of compute units cost at a price per unit."""
    return Fraction(compute_units_micro, 1_000_000) * Fraction(price)


def for_gpu_time(gpu_ns: int, price: Decimal) -> Fraction:
    """Return what GPU-nanoseconds cost at a price per GPU-hour."""
    return Fraction(gpu_ns, NS_PER_HOUR) * Fraction(price)


def rounded(exact: Sequence[Fraction], digits: int) -> tuple[Decimal, ...]:
    """Round amounts to `digits` decimals so that they add up to their rounded exact sum.

    Half goes away from zero, so that a correction of everything cancels it line by line. No amount moves by a whole
    smallest unit, and one that needs no rounding stays. Of equal remainders the later line gives way.
    """
    scaled = [amount * 10**digits for amount in exact]
    units = [_nearest(amount) for amount in scaled]
    missing = _nearest(sum(scaled, Fraction(0))) - sum(units)
    sign = 1 if missing > 0 else -1
    by_remainder = sorted(range(len(units)), key=lambda line: (sign * (units[line] - scaled[line]), -line))
    for line in by_remainder[: abs(missing)]:
        units[line] += sign
    return tuple(decimal_of(amount, digits) for amount in units)


def total(amounts: Sequence[Decimal], digits: int) -> Decimal:
    """Return the exact sum of rounded amounts, whatever the precision of the decimal context."""
    return decimal_of(sum(int(Fraction(amount) * 10**digits) for amount in amounts), digits)


def divided(whole: int, weights: Sequence[int]) -> tuple[int, ...]:
    """Divide a whole number in proportion to weights; the parts add up to it, each within 1 of its exact share.

    Of equal remainders the earlier one gets the odd one. Raises ValueError for a negative weight, or without any
    weight above 0.
    """
    everything = sum(weights)
    if everything <= 0 or min(weights) < 0:
        raise ValueError("weights must not be negative, and one must be above 0")
    parts = [whole * weight // everything for weight in weights]
    by_remainder = sorted(range(len(parts)), key=lambda part: -(whole * weights[part] % everything))
    for part in by_remainder[: whole - sum(parts)]:
        parts[part] += 1
    return tuple(parts)


def _nearest(amount: Fraction) -> int:
    """Return the nearest whole number, half away from zero."""
    return int(amount + _HALF) if amount >= 0 else -int(_HALF - amount)


def decimal_of(units: int, digits: int) -> Decimal:
    """Return a whole number of 10^-digits as an exact decimal."""
    sign, figures = (1 if units < 0 else 0), tuple(int(figure) for figure in str(abs(units)))
    return Decimal((sign, figures, -digits))
