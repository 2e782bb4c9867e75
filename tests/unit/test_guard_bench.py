"""The guard's benchmark measures what it says: faults of the stated size, fair dice, each unit counted once."""

import json
import random
from collections.abc import Callable, Iterable
from itertools import islice
from math import log
from statistics import fmean, median, stdev

import pytest
from tenantry.core.rollout.signals import Margins, Observation, Sample
from tenantry.core.rollout.trial import Arm

from bench.guard import ALPHA, BAD, PLAN, Result, Task, judge, oracle_units, report, tasks
from bench.guard_baselines import MIN_REQUESTS, Baseline, FixedSizeTest, FixedThreshold
from bench.guard_traces import A_LITTLE_WORSE, AT_THE_MARGIN, UNIT_SD, Fault, Rollout


def rollout(fault: Fault, *, seed: str = "1", percent: float = 50.0, weather: bool = False) -> Rollout:
    return Rollout(seed, percent=percent, candidate_requests=5_000, fault=fault, weather=weather)


def ttft(sample: Sample) -> float | None:
    return sample.ttft_ms


def length(sample: Sample) -> float | None:
    return sample.output_tokens


def logs(seen: Iterable[Observation], arm: Arm, read: Callable[[Sample], float | None]) -> list[float]:
    values = (read(each.sample) for each in seen if each.arm == arm)
    return [log(value) for value in values if value is not None]


def test_a_seed_is_a_rollout() -> None:
    one, same, other = (
        list(islice(rollout(A_LITTLE_WORSE, seed=seed, weather=True).requests(), 500)) for seed in "112"
    )
    assert one == same != other


def test_healthy_is_within_every_margin_and_the_edge_is_on_it() -> None:
    margins = Margins()
    edge = Fault(
        ttft=margins.ttft_ratio,
        time_per_token=margins.time_per_token_ratio,
        length=margins.output_length_ratio,
        failure_odds=margins.error_odds,
    )
    assert edge == AT_THE_MARGIN
    assert 1.0 < A_LITTLE_WORSE.ttft < edge.ttft
    assert 1.0 < A_LITTLE_WORSE.time_per_token < edge.time_per_token
    assert 1.0 > A_LITTLE_WORSE.length > edge.length
    assert 1.0 < A_LITTLE_WORSE.failure_odds < edge.failure_odds


@pytest.mark.parametrize("percent", [5.0, 50.0])
def test_units_stick_to_the_version_that_the_dice_gave_them(percent: float) -> None:
    arms: dict[str, Arm] = {}
    for _, seen in islice(rollout(Fault(), percent=percent, weather=True).requests(), 20_000):
        assert arms.setdefault(seen.unit, seen.arm) == seen.arm
        assert seen.share == percent / 100
    share = sum(arm == "candidate" for arm in arms.values()) / len(arms)
    assert abs(share - percent / 100) < 3 * (0.25 / len(arms)) ** 0.5


def test_faults_have_the_stated_size() -> None:
    seen = [each for _, each in rollout(BAD["errors"]).requests()]
    rates = {
        arm: fmean(each.sample.failed is True for each in seen if each.arm == arm) for arm in ("stable", "candidate")
    }
    assert rates == {"stable": pytest.approx(0.01, abs=0.006), "candidate": pytest.approx(0.10, abs=0.015)}

    for kind, read, sd in (("ttft", ttft, 1.5), ("length", length, 1.2)):
        seen = [each for _, each in rollout(BAD[kind]).requests()]
        bad, good = logs(seen, "candidate", read), logs(seen, "stable", read)
        expected = log(BAD[kind].ttft * BAD[kind].length)
        assert fmean(bad) - fmean(good) == pytest.approx(expected, abs=0.12)
        assert stdev(good) == pytest.approx(sd, abs=0.1)

    differences = [
        log((pair.candidate.output_tokens or 0) / (pair.stable.output_tokens or 1))
        for _, pair in rollout(BAD["length_paired"]).pairs()
    ]
    assert fmean(differences) == pytest.approx(log(0.7), abs=0.03)
    assert stdev(differences) == pytest.approx(0.7, abs=0.05)


def test_units_have_temperaments_of_the_stated_sd() -> None:
    seen = [each for _, each in rollout(Fault()).requests()]
    by_unit: dict[str, list[float]] = {}
    for each in seen:
        if each.sample.ttft_ms is not None:
            by_unit.setdefault(each.unit, []).append(log(each.sample.ttft_ms))
    often = [values for values in by_unit.values() if len(values) >= 4]
    # The covariance of two readings of a unit is the variance of its temperament.
    covariance = fmean((values[0] - 5.0) * (values[1] - 5.0) for values in often)
    assert covariance**0.5 == pytest.approx(UNIT_SD, abs=0.25)


@pytest.mark.parametrize("kind", BAD)
def test_units_are_counted_over_all_tenants_and_once(kind: str) -> None:
    task = Task(kind=kind, seed=f"1/{kind}", percent=50.0, candidate_requests=5_000, baselines=False)
    result = judge(task)
    assert (result.signal, result.chapters, result.alarms) == (kind, 1, 0)
    assert result.counted is not None
    assert result.came is not None
    unread = result.came - result.counted  # of latency during the warm-up, of failed answers no length
    assert 0 <= unread <= PLAN.warmup_requests + result.came // 5
    assert (unread == 0) == (kind in {"errors", "length_paired"})


def test_the_oracle_needs_what_walds_identity_says() -> None:
    """On average log(1/alpha) over the information in a unit, and a step more for what overshoots."""
    dice = random.Random(1)
    shift = log(0.9 / 0.7) / 0.7
    mean = fmean(oracle_units("length_paired", dice) for _ in range(2_000))
    wald = -log(ALPHA) / (shift**2 / 2)
    assert wald < mean < 1.15 * wald


def observation(arm: Arm, number: int, *, factor: float) -> Observation:
    sample = Sample(failed=False, ttft_ms=100.0 * factor * (1 + number % 7 / 10), output_tokens=100 + number % 7)
    return Observation(tenant="acme", unit=str(number), arm=arm, share=0.5, sample=sample)


def reverts_at(baseline: Baseline, *, factor: float, candidate_every: int) -> int | None:
    for number in range(600):
        arm: Arm = "stable" if number % candidate_every else "candidate"
        seen = observation(arm, number, factor=factor if arm == "candidate" else 1.0)
        if baseline.observe(seen, float(number)):
            return number
    return None


def test_the_baselines_revert_what_is_blatant_and_leave_what_is_alike() -> None:
    assert reverts_at(FixedThreshold(Margins()), factor=4.0, candidate_every=2) == 60  # the first minute is over
    assert reverts_at(FixedThreshold(Margins()), factor=4.0, candidate_every=60 // MIN_REQUESTS + 1) is None
    assert reverts_at(FixedThreshold(Margins()), factor=1.0, candidate_every=2) is None
    assert reverts_at(FixedSizeTest(Margins(), ALPHA), factor=4.0, candidate_every=2) == 60  # thirty of each
    assert reverts_at(FixedSizeTest(Margins(), ALPHA), factor=1.0, candidate_every=2) is None


def result(kind: str, counted: int | None) -> Result:
    return Result(
        kind=kind,
        percent=5.0,
        requests=100,
        chapters=1,
        alarms=0,
        counted=counted,
        signal=None if counted is None else kind,
        scope=None if counted is None else "fleet",
        came=counted,
        baseline_units={"fixed_threshold": counted, "fixed_n": None},
    )


def test_the_report_has_what_the_issue_asks_for() -> None:
    runs = [result("healthy", None)] * 3 + [result("healthy", 7)]
    runs += [result("ttft", units) for units in (None, 10, 20)] + [result("errors", None)] * 2
    figures = json.loads(json.dumps(report(runs, 1, 2.0)))
    assert (figures["healthy_rollouts"], figures["false_revert_rate"], figures["alpha"]) == (4, 0.25, ALPHA)
    assert figures["median_units_to_revert"] == {"errors": None, "ttft": 20, "length": None, "length_paired": None}
    assert figures["oracle_units"].keys() == BAD.keys()
    assert figures["baselines"]["fixed_threshold"]["false_revert_rate"] == 0.25
    assert figures["baselines"]["fixed_n"]["false_revert_rate"] == 0.0
    assert figures["baselines"]["fixed_n"]["median_units_to_revert"].keys() == {"errors", "ttft", "length"}
    assert figures["seed"] == 1
    assert figures["versions"].keys() == {"tenantry", "msgspec", "python"}


def test_the_full_run_is_as_large_as_promised() -> None:
    listed = tasks(1, 1.0, deep=False)
    assert len({task.seed for task in listed}) == len(listed)
    sizes = [(task.kind, task.candidate_requests) for task in listed]
    assert sizes.count(("healthy", 1_000)) == 10_000
    assert sizes.count(("long", 20_000)) == 100
    for kind in BAD:
        assert sizes.count((kind, 5_000)) == 300
    assert sum(task.kind == "long" for task in tasks(1, 1.0, deep=True)) == 10_100
    assert median(task.percent for task in listed if task.kind in BAD) == 5.0
