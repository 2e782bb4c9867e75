"""Amounts that add up: rounding together, dividing whole numbers, and nothing that depends on luck."""

from decimal import Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tenantry.core.billing.money import divided, for_gpu_time, for_units, rounded, total

AMOUNTS = st.lists(st.fractions(min_value=-1000, max_value=1000, max_denominator=3_600_000), max_size=30)
DIGITS = st.integers(0, 6)
WEIGHTS = st.lists(st.integers(0, 10**18), min_size=1, max_size=30).filter(any)


def thirds(*numerators: int) -> list[Fraction]:
    return [Fraction(numerator, 300) for numerator in numerators]


def test_three_thirds_of_a_cent_are_one_cent_and_the_last_line_has_it() -> None:
    assert rounded(thirds(1, 1, 1), 2) == (Decimal("0.00"), Decimal("0.00"), Decimal("0.01"))


def test_two_halves_of_a_cent_are_one_cent_and_the_last_line_gives_way() -> None:
    halves = [Fraction(1, 200)] * 2
    assert rounded(halves, 2) == (Decimal("0.01"), Decimal("0.00"))


def test_the_largest_remainder_is_rounded_up_first() -> None:
    assert rounded(thirds(4, 5, 3), 2) == (Decimal("0.01"), Decimal("0.02"), Decimal("0.01"))


def test_a_currency_without_digits() -> None:
    assert [str(amount) for amount in rounded([Fraction(7, 2), Fraction(1, 4)], 0)] == ["4", "0"]


@given(AMOUNTS, DIGITS)
def test_lines_add_up_to_the_rounded_total(amounts: list[Fraction], digits: int) -> None:
    lines = rounded(amounts, digits)
    exact = sum(amounts, Fraction(0))
    added = sum(map(Fraction, lines), Fraction(0))
    assert abs(added - exact) <= Fraction(1, 2 * 10**digits)
    assert total(lines, digits) == added
    assert all(-line.as_tuple().exponent == digits for line in lines)  # type: ignore[operator]


@given(AMOUNTS, DIGITS)
def test_no_line_moves_by_a_whole_cent_and_whole_cents_stay(amounts: list[Fraction], digits: int) -> None:
    cent = Fraction(1, 10**digits)
    for amount, line in zip(amounts, rounded(amounts, digits), strict=True):
        assert abs(Fraction(line) - amount) < cent
        if (amount / cent).denominator == 1:
            assert Fraction(line) == amount


@given(AMOUNTS, DIGITS)
def test_a_correction_of_everything_cancels_each_line(amounts: list[Fraction], digits: int) -> None:
    taken_back = rounded([-amount for amount in amounts], digits)
    assert all(line == -back for line, back in zip(rounded(amounts, digits), taken_back, strict=True))


def test_money_does_not_depend_on_the_precision_of_the_thread() -> None:
    with localcontext(prec=3):
        lines = rounded([Fraction(123_456_789, 100), Fraction(1, 100)], 2)
        assert (str(lines[0]), str(total(lines, 2))) == ("1234567.89", "1234567.90")


def test_prices_are_per_unit_and_per_hour() -> None:
    assert for_units(2_500_000, Decimal("0.0042")) == Fraction(105, 10_000)
    assert for_gpu_time(3_600 * 10**9, Decimal("1.50")) == Fraction(3, 2)
    assert for_gpu_time(1, Decimal("1.50")) * 2_400 * 10**9 == 1


@given(st.integers(-(10**18), 10**18), WEIGHTS)
def test_parts_add_up_and_are_within_one_of_their_share(whole: int, weights: list[int]) -> None:
    parts = divided(whole, weights)
    assert sum(parts) == whole
    for part, weight in zip(parts, weights, strict=True):
        assert abs(Fraction(whole * weight, sum(weights)) - part) < 1


@given(st.integers(0, 10**18), WEIGHTS)
def test_who_has_no_weight_gets_nothing_and_equals_differ_by_one_at_most(whole: int, weights: list[int]) -> None:
    parts = divided(whole, [*weights, weights[0], 0])
    assert parts[-1] == 0
    assert abs(parts[0] - parts[-2]) <= 1


@pytest.mark.parametrize("weights", [[], [0, 0], [3, -1]])
def test_weights_that_divide_nothing_are_refused(weights: list[int]) -> None:
    with pytest.raises(ValueError, match="weights"):
        divided(10, weights)
