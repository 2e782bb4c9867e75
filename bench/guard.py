"""Measure the guard: how often it takes a healthy candidate back, and how many units it needs for a bad one.

    python -m bench.guard [--seed 20261124] [--scale 1.0] [--processes 2]

Drives `tenantry.core.rollout.guard.Guard` on a virtual clock over seeded traces (`guard_traces.py`), watched after
every request; any verdict, of the fleet or of a single tenant, is a revert. Prints one JSON object as its last line.
DEEP=1 runs 10,000 rollouts of 20,000 candidate requests as well (hours). Healthy rollouts are split 5 / 25 / 50 %,
since a 5 % rollout of 1,000 candidate requests is 20,000 requests long; the power is measured at 5 %.

`median_units_to_revert` counts candidate units of all tenants, each once, of which the signal that reverted had a
reading (of latency there is none before the warm-up is over); `median_candidate_units_that_came` counts all of them.
`at_the_margin` is the worst candidate that must still be left alone: at every margin at once.
"""

import argparse
import json
import os
import platform
import random
import sys
import time
import tomllib
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from math import log
from pathlib import Path
from statistics import median

import msgspec
from tenantry.core.rollout.evidence import Evidence
from tenantry.core.rollout.guard import Guard
from tenantry.core.rollout.lone import LoneGuard
from tenantry.core.rollout.signals import Observation, Pair
from tenantry.core.rollout.verdicts import Plan, Verdict

from bench.guard_baselines import Baseline, FixedSizeTest, FixedThreshold
from bench.guard_traces import A_LITTLE_WORSE, AT_THE_MARGIN, Fault, Rollout

PLAN = Plan()
ALPHA = PLAN.budget.alpha
SEED = 20_261_124

BAD = {
    "errors": Fault(failure_rate=0.10),
    "ttft": Fault(ttft=2.0),
    "length": Fault(length=0.7),
    "length_paired": Fault(length=0.7),
}
FAULTS = {
    "healthy": A_LITTLE_WORSE,
    "long": A_LITTLE_WORSE,
    "edge": AT_THE_MARGIN,
    "edge_paired": AT_THE_MARGIN,
    **BAD,
}
TARGETS = {"errors": 120, "ttft": 170, "length": 400, "length_paired": 180}
POWER_REQUESTS = 5_000
BASELINE_REQUESTS = 10_000
"""Beyond these, a baseline is not waited for once the guard has reverted."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One rollout to judge. `kind` is a key of FAULTS."""

    kind: str
    seed: str
    percent: float
    candidate_requests: int
    baselines: bool


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of it. Units are None without a revert."""

    kind: str
    percent: float
    requests: int
    chapters: int
    alarms: int
    counted: int | None
    signal: str | None
    scope: str | None
    came: int | None
    baseline_units: dict[str, int | None]


def judge(task: Task) -> Result:
    """Run one rollout until its first revert, or its end."""
    fault = FAULTS[task.kind]
    rollout = Rollout(
        task.seed,
        percent=task.percent,
        candidate_requests=task.candidate_requests,
        fault=fault,
        weather=fault is A_LITTLE_WORSE,
    )
    guard = LoneGuard(Guard(PLAN, writer="bench", evidence=Evidence(started_s=0.0)))
    watchers = _baselines() if task.baselines else {}
    baseline_units: dict[str, int | None] = dict.fromkeys(watchers)
    reverted: Verdict | None = None
    counted = came = 0
    alarms = requests = 0
    units: set[str] = set()
    for now_s, seen in rollout.pairs() if task.kind.endswith("_paired") else rollout.requests():
        requests += 1
        if isinstance(seen, Pair) or seen.arm == "candidate":
            units.add(seen.unit)
        if reverted is None:
            verdicts = guard.observe(seen, now_s)
            if verdicts:
                alarms += sum(verdict.action == "alarm" for verdict in verdicts)
                reverted = _first_revert(verdicts)
                came = len(units)
                counted = _units_read(guard.guard, reverted.signal, came) if reverted else 0
        if watchers and isinstance(seen, Observation):
            for name in _reverting(watchers, seen, now_s):
                baseline_units[name] = len(units)
        if reverted and (not watchers or requests > BASELINE_REQUESTS):
            break
    return Result(
        kind=task.kind,
        percent=task.percent,
        requests=requests,
        chapters=guard.guard.chapter,
        alarms=alarms,
        counted=counted if reverted else None,
        signal=reverted.signal if reverted else None,
        scope=(reverted.tenant or "fleet") if reverted else None,
        came=came if reverted else None,
        baseline_units=baseline_units,
    )


def _baselines() -> dict[str, Baseline]:
    return {"fixed_threshold": FixedThreshold(PLAN.margins), "fixed_n": FixedSizeTest(PLAN.margins, ALPHA)}


def _reverting(watchers: dict[str, Baseline], seen: Observation, now_s: float) -> list[str]:
    """Show a request to the baselines; return, and dismiss, those that revert upon it."""
    done = [name for name, watcher in watchers.items() if watcher.observe(seen, now_s)]
    for name in done:
        del watchers[name]
    return done


def _units_read(guard: Guard, signal: str, came: int) -> int:
    """Return of how many candidate units the signal had a reading, also when one tenant's or a later visit tripped it.

    The guard forgets what it counted in earlier chapters: then it is every unit that came.
    """
    if guard.chapter > 1:
        return came
    return next(row.units for row in guard.rows() if (row.group, row.signal, row.visit) == (None, signal, 1))


def _first_revert(verdicts: Iterable[Verdict]) -> Verdict | None:
    return next((verdict for verdict in verdicts if verdict.action == "revert"), None)


def tasks(seed: int, scale: float, *, deep: bool) -> list[Task]:
    """List every rollout of the run."""

    def several(kind: str, count: int, percent: float, requests: int, *, baselines: int = 0) -> Iterable[Task]:
        for index in range(max(1, round(count * scale))):
            yield Task(
                kind=kind,
                seed=f"{seed}/{kind}/{percent}/{index}",
                percent=percent,
                candidate_requests=requests,
                baselines=index < baselines * scale,
            )

    listed = [
        *several("healthy", 1_000, 5.0, 1_000, baselines=200),
        *several("healthy", 2_000, 25.0, 1_000, baselines=200),
        *several("healthy", 7_000, 50.0, 1_000, baselines=600),
        *several("long", 6, 5.0, 20_000),
        *several("long", 14, 25.0, 20_000),
        *several("long", 80, 50.0, 20_000),
        *several("edge", 1_000, 50.0, 1_000),
        *several("edge_paired", 1_000, 50.0, 1_000),
    ]
    if deep:
        listed += several("long", 10_000, 25.0, 20_000)
    for kind in BAD:
        listed += several(kind, 300, 5.0, POWER_REQUESTS, baselines=300)
    return listed


def oracle_units(kind: str, rng: random.Random) -> int:
    """Return the units of Wald's SPRT that knows both distributions: margin against the fault, all of alpha for it."""
    total, units = 0.0, 0
    while total < -log(ALPHA):
        total += _log_likelihood_ratio(kind, rng)
        units += 1
    return units


def _log_likelihood_ratio(kind: str, rng: random.Random) -> float:
    """Draw a candidate unit with the fault; return its log likelihood ratio of the fault to the margin."""
    fault, margins = BAD[kind], PLAN.margins
    if kind == "errors":
        bad, stable = fault.failure_rate or 0.0, 0.01
        edge = margins.error_odds * stable / (1.0 - stable + margins.error_odds * stable)
        return log(bad / edge) if rng.random() < bad else log((1.0 - bad) / (1.0 - edge))
    ratio, sd = {
        "ttft": (fault.ttft / margins.ttft_ratio, fault.ttft_sd),
        "length": (margins.output_length_ratio / fault.length, fault.length_sd),
        "length_paired": (margins.output_length_ratio / fault.length, fault.pair_sd),
    }[kind]
    shift = log(ratio) / sd
    return shift * rng.gauss(shift, 1.0) - shift * shift / 2.0


def report(results: list[Result], seed: int, seconds: float) -> dict[str, object]:
    """Put the figures together."""
    healthy = [result for result in results if result.kind in {"healthy", "long"}]
    edge = {kind: [result for result in results if result.kind == kind] for kind in ("edge", "edge_paired")}
    power = {kind: [result for result in results if result.kind == kind] for kind in BAD}
    rng = random.Random(f"{seed}/oracle")

    def share(reverted: list[bool]) -> float | None:
        return round(sum(reverted) / len(reverted), 5) if reverted else None

    def rate(chosen: list[Result]) -> float | None:
        return share([result.counted is not None for result in chosen])

    def units(values: Iterable[int | None]) -> float | None:
        listed = [float("inf") if value is None else value for value in values]
        middle = median(listed) if listed else float("inf")
        return None if middle == float("inf") else middle

    compared = [result for result in healthy if result.baseline_units]
    return {
        "healthy_rollouts": len(healthy),
        "false_revert_rate": rate(healthy),
        "alpha": ALPHA,
        "at_the_margin": {
            kind: {"rollouts": len(chosen), "revert_rate": rate(chosen)} for kind, chosen in edge.items()
        },
        "median_units_to_revert": {kind: units(result.counted for result in power[kind]) for kind in BAD},
        "targets": TARGETS,
        "p90_units_to_revert": {kind: _quantile([result.counted for result in power[kind]], 0.9) for kind in BAD},
        "median_candidate_units_that_came": {kind: units(result.came for result in power[kind]) for kind in BAD},
        "oracle_units": {kind: median(oracle_units(kind, rng) for _ in range(2_000)) for kind in BAD},
        "baselines": {
            name: {
                "healthy_rollouts": len(compared),
                "false_revert_rate": share([result.baseline_units[name] is not None for result in compared]),
                "guard_on_the_same": rate(compared),
                "median_units_to_revert": {
                    kind: units(result.baseline_units[name] for result in power[kind])
                    for kind in BAD
                    if kind != "length_paired"
                },
            }
            for name in ("fixed_threshold", "fixed_n")
        },
        "false_reverts": {
            "1000_candidate_requests": _by_percent([result for result in healthy if result.kind == "healthy"]),
            "20000_candidate_requests": _by_percent([result for result in healthy if result.kind == "long"]),
            "signals": _tally(result.signal for result in healthy),
            "of_single_tenants": sum(result.scope not in {None, "fleet"} for result in healthy),
            "alarms": sum(result.alarms for result in healthy),
        },
        "reverted_by": {kind: _tally(result.signal for result in power[kind]) for kind in BAD},
        "requests": sum(result.requests for result in results),
        "seconds": round(seconds, 1),
        "seed": seed,
        "versions": {"tenantry": _own_version(), "msgspec": msgspec.__version__, "python": platform.python_version()},
    }


def _quantile(values: list[int | None], part: float) -> int | None:
    listed = sorted(float("inf") if value is None else value for value in values) or [float("inf")]
    value = listed[min(int(part * len(listed)), len(listed) - 1)]
    return None if value == float("inf") else int(value)


def _by_percent(results: list[Result]) -> dict[str, dict[str, int]]:
    return {
        f"{percent:g} %": {
            "rollouts": len(chosen),
            "reverted": sum(result.counted is not None for result in chosen),
            "chapters": max(result.chapters for result in chosen),
        }
        for percent in sorted({result.percent for result in results})
        if (chosen := [result for result in results if result.percent == percent])
    }


def _tally(names: Iterable[str | None]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        if name is not None:
            counts[name] = counts.get(name, 0) + 1
    return counts


def _own_version() -> str:
    project = tomllib.loads((Path(__file__).resolve().parent.parent / "pyproject.toml").read_text())
    return str(project["project"]["version"])


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the rollouts to run")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--only", help="run one kind of rollout: " + ", ".join(FAULTS))
    options = parser.parse_args()
    listed = tasks(options.seed, options.scale, deep=os.environ.get("DEEP") == "1")
    listed = [task for task in listed if options.only in {None, task.kind}]
    began = time.monotonic()
    results = []
    # Long ones first, so that no process is left alone with them at the end.
    listed.sort(key=lambda task: -task.candidate_requests / task.percent)
    with ProcessPoolExecutor(options.processes) as pool:
        for result in pool.map(judge, listed, chunksize=8):
            results.append(result)
            if len(results) % 500 == 0:
                print(f"{len(results)} of {len(listed)} rollouts, {time.monotonic() - began:.0f} s", file=sys.stderr)
    print(json.dumps(report(results, options.seed, time.monotonic() - began)))


if __name__ == "__main__":
    main()
