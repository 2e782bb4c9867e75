"""What adapters add to a step, and who bears it."""

import random

import pytest
from tenantry.core.metering.adapters import Calibrations, shapley_weights
from tenantry.core.metering.calibration import FIRST_STEPS
from tenantry.core.metering.weights import StepWeights, Work

from bench.meter_fairness import shapley

WITHOUT = StepWeights(fixed=4e6, prefill_token=5e4, decode_token=2e5, context_token=50.0, source="calibrated")
BESIDE = StepWeights(fixed=10e6, prefill_token=17e4, decode_token=3e5, context_token=60.0, source="calibrated")
FALLBACK = StepWeights(fixed=100.0, prefill_token=1.0, decode_token=3.0)


def learned(*, without: bool = True, beside: bool = True) -> Calibrations:
    """Calibrations that have seen steps of WITHOUT, of BESIDE, or of both."""
    rng, calibrations = random.Random(1), Calibrations(FALLBACK)
    for _ in range(16 * FIRST_STEPS):
        prefill, decode, context = rng.choice((0, 0, 64, 500)), rng.randrange(1, 9), rng.randrange(100, 9_000)
        for weights, adapters in ((WITHOUT, False),) * without + ((BESIDE, True),) * beside:
            ns = round(weights.cost(prefill, decode, context))
            calibrations.observe(prefill, decode, context, ns, adapters=adapters)
    return calibrations


def works(count: int, seed: int = 3) -> list[Work]:
    rng = random.Random(seed)
    return [
        Work(key=f"r{i}", prefill_tokens=rng.choice((0, 16, 700)), decode_tokens=1, context_tokens=rng.randrange(9_000))
        for i in range(count)
    ]


@pytest.mark.parametrize("with_adapter", [1, 2, 5])
def test_each_bears_shapleys_value(with_adapter: int) -> None:
    step, adapters = works(5), [index < with_adapter for index in range(5)]

    def cost(coalition: frozenset[int]) -> float:
        if not coalition:
            return 0.0
        weights = BESIDE if any(adapters[index] for index in coalition) else WITHOUT
        return weights.fixed + sum(weights.own(step[index]) for index in coalition)

    fair = shapley(range(5), cost)
    assert shapley_weights(WITHOUT, BESIDE, step, adapters) == pytest.approx([fair[index] for index in range(5)])


def test_beside_one_adapter_it_is_half_and_half() -> None:
    """512 prompt tokens take 25.6 ms, beside an adapter 87.0: half of what is added is the adapter's."""
    step = [Work(key="lora"), Work(key="prompt", prefill_tokens=512)]
    lora, prompt = shapley_weights(WITHOUT, BESIDE, step, [True, False])
    added = 512 * (BESIDE.prefill_token - WITHOUT.prefill_token)
    assert lora == pytest.approx(WITHOUT.fixed / 2 + (BESIDE.fixed - WITHOUT.fixed) + added / 2)
    assert prompt == pytest.approx(WITHOUT.fixed / 2 + 512 * WITHOUT.prefill_token + added / 2)


def test_steps_with_an_adapter_and_without_are_learned_apart() -> None:
    calibrations = learned()
    for adapters, truth in ((False, WITHOUT), (True, BESIDE)):
        found = calibrations.weights(adapters=adapters)
        assert found.source == "calibrated"
        assert found.fixed == pytest.approx(truth.fixed, rel=0.05)
        assert found.prefill_token == pytest.approx(truth.prefill_token, rel=0.05)


def test_shares_add_up_to_the_step_and_follow_the_weights() -> None:
    step, adapters = works(4), [True, False, False, True]
    shares = learned().shares(step, adapters, 123_456_789)
    assert sum(shares) == 123_456_789
    weights = shapley_weights(WITHOUT, BESIDE, step, adapters)
    assert shares == pytest.approx([123_456_789 * weight / sum(weights) for weight in weights], rel=0.05)


def test_a_step_without_an_adapter_is_divided_as_ever() -> None:
    calibrations, step = learned(), works(4)
    assert calibrations.shares(step, [False] * 4, 10**7) == calibrations.without.weights.shares(step, 10**7)


@pytest.mark.parametrize("only", ["without", "beside"])
def test_until_both_are_known_one_divides_all(only: str) -> None:
    calibrations = learned(**{"without": False, "beside": False, only: True})
    known = getattr(calibrations, only).weights
    step = works(3)
    for adapters in ([False] * 3, [True, False, False]):
        assert calibrations.weights(adapters=any(adapters)) is known
        assert calibrations.shares(step, adapters, 10**7) == known.shares(step, 10**7)


def test_before_anything_is_known_flops_divide() -> None:
    calibrations = Calibrations(FALLBACK)
    assert calibrations.shares(works(3), [True, False, False], 10**7) == FALLBACK.shares(works(3), 10**7)


def test_adapters_never_give_time_back() -> None:
    """A set learned from few steps may say that adapters save time: nobody is paid for that."""
    weights = shapley_weights(BESIDE, WITHOUT, works(3), [True, False, False])
    assert weights == pytest.approx([BESIDE.fixed / 3 + BESIDE.own(work) for work in works(3)])
