"""The weights are learned from step times as an engine has them: noisy, with outliers, of little variety at times."""

import random
from collections.abc import Callable, Iterator
from itertools import islice

import pytest
from tenantry.core.metering.calibration import FIRST_STEPS, Calibration
from tenantry.core.metering.weights import StepWeights, flops_weights

FALLBACK = flops_weights(parameters=2.5e6, layers=4, heads=4, head_size=32)
Step = tuple[int, int, int]
"""Prefill tokens, decode tokens, context tokens."""


def mixed(rng: random.Random) -> Iterator[Step]:
    """Mostly decoding, a prompt now and then."""
    while True:
        prompt = rng.choice([0, 0, 0, 0, rng.randint(5, 600)])
        decoding = rng.randint(0 if prompt else 1, 40)
        yield prompt, decoding, prompt * (prompt + 1) // 2 + decoding * rng.randint(100, 2000)


def played(
    steps: int,
    *,
    seed: int = 1,
    noise: float = 0.05,
    outliers: float = 0.0,
    context_ns: float = 0.0,
    slower: Callable[[int], float] = lambda _: 1.0,
    calibration: Calibration | None = None,
) -> Calibration:
    """Play steps of vLLM's measured costs."""
    rng, calibration = random.Random(seed), calibration or Calibration(FALLBACK)
    for index, (prompt, decoding, context) in enumerate(islice(mixed(rng), steps)):
        ns = 7.34e6 + 0.073e6 * prompt + 0.215e6 * decoding + context_ns * context
        ns *= slower(index) * max(0.2, rng.gauss(1, noise))
        if rng.random() < outliers:
            ns *= rng.choice([5, 20, 100])
        calibration.observe(prompt, decoding, context, int(ns))
    return calibration


def near(weights: StepWeights, share: float, *, scale: float = 1.0) -> None:
    assert weights.source == "calibrated"
    assert weights.fixed == pytest.approx(scale * 7.34e6, rel=share)
    assert weights.prefill_token == pytest.approx(scale * 0.073e6, rel=share)
    assert weights.decode_token == pytest.approx(scale * 0.215e6, rel=share)


@pytest.mark.parametrize("seed", range(5))
def test_known_costs_are_found(seed: int) -> None:
    near(played(3_000, seed=seed).weights, 0.03)


@pytest.mark.parametrize("seed", range(5))
def test_outliers_do_not_ruin_it(seed: int) -> None:
    near(played(3_000, seed=seed, outliers=0.03).weights, 0.05)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_active_and_about_right_after_the_first_steps(seed: int) -> None:
    calibration = played(FIRST_STEPS - 1, seed=seed, outliers=0.05)
    assert calibration.weights is FALLBACK
    near(played(1, seed=seed + 100, calibration=calibration).weights, 0.2)


def test_a_first_step_that_compiled_for_a_minute_is_forgotten() -> None:
    calibration = Calibration(FALLBACK)
    calibration.observe(64, 0, 2080, 60 * 10**9)
    near(played(500, calibration=calibration).weights, 0.06)


def test_attention_is_found_where_it_costs() -> None:
    weights = played(3_000, context_ns=20.0).weights
    near(weights, 0.05)
    assert weights.context_token == pytest.approx(20.0, rel=0.1)


def test_nothing_is_negative_even_where_the_data_would_have_it() -> None:
    weights = played(3_000, context_ns=-5.0).weights
    assert weights.context_token == 0.0
    near(weights, 0.15)


def test_without_variety_the_fallback_stays() -> None:
    calibration = Calibration(FALLBACK)
    for step in range(5_000):
        calibration.observe(0, 1, 100 + step % 900, 7_555_000 + step % 1_000)
    assert calibration.weights is FALLBACK
    near(played(2_000, calibration=calibration).weights, 0.15)  # and what came before harms nothing


def test_what_was_learned_stays_when_variety_goes() -> None:
    calibration = played(3_000)
    for _ in range(20_000):
        calibration.observe(0, 1, 500, 7_555_000)
    near(calibration.weights, 0.05)


def test_a_lasting_change_gets_through() -> None:
    near(played(30_000, slower=lambda index: 1.0 if index < 2_000 else 2.5).weights, 0.05, scale=2.5)


def test_useless_steps_are_not_counted_and_the_deviation_is_told() -> None:
    calibration = Calibration(FALLBACK)
    calibration.observe(0, 0, 0, 10**7)
    calibration.observe(10, 0, 55, 0)
    assert (calibration.steps, calibration.deviation) == (0, None)
    assert played(3_000, noise=0.05).deviation == pytest.approx(0.05, rel=0.3)
    assert played(3_000, noise=0.0).deviation == pytest.approx(0.005, rel=0.3)


def test_the_same_steps_give_the_same_weights() -> None:
    assert played(1_000, outliers=0.02).weights == played(1_000, outliers=0.02).weights


def test_any_numbers_leave_usable_weights() -> None:
    rng = random.Random(7)
    calibration = Calibration(FALLBACK)
    for _ in range(3_000):
        size = 10 ** rng.randint(0, 12)
        calibration.observe(rng.randint(0, size), rng.randint(0, 1), rng.randint(0, size**2), rng.randint(0, size))
        assert calibration.weights.cost(1, 1, 1) > 0  # StepWeights refuses what is negative or not finite


def test_what_is_rare_and_predicted_badly_is_a_rule_and_no_outlier() -> None:
    """One step in ten has a prompt, which the fallback takes for much cheaper than it is; nothing is noisy."""
    rng, calibration = random.Random(1), Calibration(FALLBACK)
    for _ in range(200):
        prompt = rng.choice((16, 64, 256, 1000)) if rng.random() < 0.1 else 0
        decoding = rng.randint(1, 8)
        context = rng.randint(100, 20_000)
        calibration.observe(prompt, decoding, context, int(4e6 + 0.17e6 * prompt + 0.2e6 * decoding))
    weights = calibration.weights
    assert (weights.fixed, weights.prefill_token, weights.decode_token) == pytest.approx((4e6, 0.17e6, 0.2e6), rel=0.01)
