"""Who pays for a step: Shapley's division, in whole nanoseconds."""

from itertools import permutations
from statistics import fmean

import pytest
from tenantry.core.metering.weights import StepWeights, Work, flops_weights
from tenantry_testing.metering import decode, prefill

MEASURED = StepWeights(fixed=7.34e6, prefill_token=0.073e6, decode_token=0.215e6, context_token=3.0)


def cost(works: list[Work]) -> float:
    """What a step of these requests would have lasted, in nanoseconds: nothing if there are none."""
    prefilled, decoded = sum(work.prefill_tokens for work in works), sum(work.decode_tokens for work in works)
    return MEASURED.cost(prefilled, decoded, sum(work.context_tokens for work in works)) if works else 0.0


def shapley(works: list[Work], of: Work) -> float:
    """The mean, over all orders of coming, of what a request adds to those before it."""
    added = []
    for order in permutations(works):
        before = list(order[: order.index(of)])
        added.append(cost([*before, of]) - cost(before))
    return fmean(added)


def test_shares_are_shapleys_values() -> None:
    works = [
        prefill("long", 600, context_tokens=180_300),
        prefill("short", 12, context_tokens=78),
        decode("chat", context_tokens=40),
        decode("story", context_tokens=1_800),
    ]
    shares = MEASURED.shares(works, round(cost(works)))
    for work, share in zip(works, shares, strict=True):
        assert share == pytest.approx(shapley(works, work), rel=1e-6)


def test_a_step_that_took_twice_as_long_costs_everyone_twice_as_much() -> None:
    works = [prefill("a", 100), decode("b")]
    once, twice = (MEASURED.shares(works, ns) for ns in (10**7, 2 * 10**7))
    assert twice == pytest.approx([2 * share for share in once], abs=2)


def test_one_pays_alone() -> None:
    assert MEASURED.shares([decode("a")], 7_777_777) == [7_777_777]


def test_what_is_left_over_goes_to_the_largest_remainders_then_to_the_first() -> None:
    even = StepWeights(fixed=0.0, prefill_token=1.0, decode_token=0.0)
    assert even.shares([prefill("a", 1), prefill("b", 1), prefill("c", 1)], 11) == [4, 4, 3]
    assert even.shares([prefill("a", 1), prefill("b", 1), prefill("c", 1)], 10) == [4, 3, 3]
    assert even.shares([prefill("a", 10), prefill("b", 29), prefill("c", 61)], 7) == [1, 2, 4]  # of 0.70, 2.03, 4.27


def test_work_that_weighs_nothing_is_divided_equally() -> None:
    assert StepWeights(fixed=0.0, prefill_token=1.0, decode_token=0.0).shares([decode("a"), decode("b")], 9) == [5, 4]


def test_no_time_is_nobodys() -> None:
    assert MEASURED.shares([decode("a"), decode("b")], 0) == [0, 0]


def test_flops_of_a_model_by_its_config() -> None:
    weights = flops_weights(parameters=8e9, layers=32, heads=32, head_size=128)
    assert weights == StepWeights(
        fixed=1600e9, prefill_token=16e9, decode_token=48e9, context_token=524_288.0, source="flops"
    )


def test_both_phases_in_one_step_are_told_apart_by_weight() -> None:
    assert MEASURED.prefill_share(215, 73) == pytest.approx(0.5)
    assert StepWeights(fixed=1.0, prefill_token=0.0, decode_token=0.0).prefill_share(1, 1) == 0.0


@pytest.mark.parametrize("number", [-1.0, float("nan"), float("inf")])
def test_weights_that_mean_nothing_are_refused(number: float) -> None:
    with pytest.raises(ValueError, match="must be finite, not negative"):
        StepWeights(fixed=1.0, prefill_token=number, decode_token=1.0)
    with pytest.raises(ValueError, match="not all 0"):
        StepWeights(fixed=0.0, prefill_token=0.0, decode_token=0.0)
