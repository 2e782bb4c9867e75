"""What makes the guard's promise true: each bet is fair at the margin and worse than fair within it. Enumerated."""

import random
from math import exp

from hypothesis import given
from hypothesis import strategies as st
from tenantry.core.rollout.betting import CLIP, Reference, discordant_bets, odds_bets, shift_bets, sign_bets
from tenantry.core.rollout.budget import Budget
from tenantry.core.rollout.evidence import Evidence
from tenantry.core.rollout.guard import Guard
from tenantry.core.rollout.lone import LoneGuard
from tenantry.core.rollout.signals import SIGNALS, Margins, Observation, Sample
from tenantry.core.rollout.trial import Arm
from tenantry.core.rollout.verdicts import Plan

SHARES = st.floats(0.001, 0.999)
SCORES = st.floats(-CLIP, CLIP)
TILTS = tuple(sorted({tilt for signal in SIGNALS for tilt in signal.tilts}))
EXACT = 1e-9


def by_arm(share: float, z: float) -> list[tuple[float, float]]:
    """The payoffs (candidate, stable) of each tilt."""
    arms = (shift_bets(z, share, candidate=candidate, tilts=TILTS) for candidate in (True, False))
    return [(exp(candidate), exp(stable)) for candidate, stable in zip(*arms, strict=True)]


@given(SHARES, SCORES)
def test_when_a_reading_says_nothing_about_the_version_no_money_is_made(share: float, z: float) -> None:
    for candidate, stable in by_arm(share, z):
        assert abs(share * candidate + (1 - share) * stable - 1) < EXACT


@given(SHARES, SCORES, SCORES)
def test_a_worse_candidate_and_a_better_stable_version_never_lose_money(share: float, one: float, other: float) -> None:
    """Hence a candidate that is stochastically better than its margin makes each bet worse than fair."""
    low, high = sorted((one, other))
    for (candidate_low, stable_low), (candidate_high, stable_high) in zip(
        by_arm(share, low), by_arm(share, high), strict=True
    ):
        assert candidate_low <= candidate_high * (1 + EXACT)
        assert stable_low >= stable_high * (1 - EXACT)


@given(SHARES, st.floats(1.0, 50.0), st.floats(0.0, 1.0), st.floats(1e-6, 1.0))
def test_failures_within_the_margin_make_no_money(share: float, margin: float, within: float, stable: float) -> None:
    """For any failure rate of the stable version and any odds ratio up to the margin."""
    odds = within * margin * stable / (1 - stable) if stable < 1 else 0.0
    candidate = odds / (1 + odds) if stable < 1 else 1.0
    fails = share * candidate + (1 - share) * stable
    for of_candidate, of_stable in zip(
        odds_bets(share, candidate=True, margin=margin, tilts=(1.5, 6.0, 60.0)),
        odds_bets(share, candidate=False, margin=margin, tilts=(1.5, 6.0, 60.0)),
        strict=True,
    ):
        money = share * candidate * exp(of_candidate) + (1 - share) * stable * exp(of_stable) + (1 - fails)
        assert money < 1 + EXACT


def test_failures_at_the_margin_are_a_fair_bet_when_they_are_rare() -> None:
    """No slack is given away: at a rate of 1 in a million the odds ratio is the ratio of rates."""
    share, stable = 0.05, 1e-6
    candidate = 2.0 * stable
    payoffs = [odds_bets(share, candidate=arm, margin=2.0, tilts=(6.0,))[0] for arm in (True, False)]
    money = share * candidate * exp(payoffs[0]) + (1 - share) * stable * exp(payoffs[1])
    assert abs(money / (share * candidate + (1 - share) * stable) - 1) < EXACT


@given(SCORES, SCORES)
def test_a_pair_that_could_as_well_be_swapped_makes_no_money(z: float, other: float) -> None:
    for here, there in zip(sign_bets(z, TILTS), sign_bets(-z, TILTS), strict=True):
        assert abs(exp(here) + exp(there) - 2) < EXACT
    low, high = sorted((z, other))
    assert all(worse >= better for better, worse in zip(sign_bets(low, TILTS), sign_bets(high, TILTS), strict=True))


@given(st.floats(1.0, 100.0), st.floats(0.0, 1.0))
def test_of_pairs_in_which_one_failed_the_margin_is_a_fair_bet(margin: float, within: float) -> None:
    copies = within * margin / (1 + within * margin)
    for of_copy, of_original in zip(
        discordant_bets(candidate=True, margin=margin, tilts=(6.0,)),
        discordant_bets(candidate=False, margin=margin, tilts=(6.0,)),
        strict=True,
    ):
        assert copies * exp(of_copy) + (1 - copies) * exp(of_original) < 1 + EXACT


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200))
def test_a_yardstick_is_fixed_before_the_reading_it_measures(readings: list[float]) -> None:
    """Replacing the last reading changes no earlier score, and scores are finite and clipped."""
    one, other = Reference(), Reference()
    scores = [one.standardise(reading) for reading in readings]
    again = [other.standardise(reading) for reading in [*readings[:-1], readings[-1] + 1.0]]
    assert scores[:-1] == again[:-1]
    assert again[-1] >= scores[-1]
    assert all(-CLIP <= score <= CLIP for score in scores)
    location, scale = one.learnt()
    assert location is not None
    assert scale > 0


def test_a_yardstick_finds_location_and_scale() -> None:
    dice, reference = random.Random(1), Reference()
    for _ in range(3_000):
        reference.standardise(dice.gauss(40.0, 2.5))
    location, scale = reference.learnt()
    assert location is not None
    assert abs(location - 40.0) < 1.5
    assert 2.0 < scale < 3.0
    heir = Reference(reference)
    assert abs(heir.standardise(location + scale) - 1.0) < EXACT


def reverts(seed: int, plan: Plan, candidate_factor: float) -> bool:
    """Play a rollout of 300 units at 50 % with Cauchy-like tails; the candidate's TTFT is `candidate_factor` x."""
    dice = random.Random(seed)
    guard = LoneGuard(Guard(plan, writer="one", evidence=Evidence(started_s=0.0)))
    for number in range(300):
        arm: Arm = "candidate" if dice.random() < 0.5 else "stable"
        ttft_ms = 100.0 * dice.paretovariate(0.5) * (candidate_factor if arm == "candidate" else 1.0)
        sample = Sample(ttft_ms=ttft_ms)
        seen = Observation(tenant=f"t{number % 2}", unit=str(number), arm=arm, share=0.5, sample=sample)
        if guard.observe(seen, float(number)):
            return True
    return False


def test_at_the_margin_the_promise_is_kept_whatever_the_tails() -> None:
    """The hardest case of the hypothesis, at an alpha large enough to be seen: 200 rollouts, watched at each unit."""
    plan = Plan(warmup_requests=0, margins=Margins(ttft_ratio=4.0), budget=Budget(alpha=0.5, max_tenants=2))
    assert sum(reverts(seed, plan, 4.0) for seed in range(200)) <= 200 * 0.5
    assert sum(reverts(seed, plan, 16.0) for seed in range(20)) == 20
