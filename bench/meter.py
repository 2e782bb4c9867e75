"""Measure the meter on real vLLM (CPU): whether it charges all of the time, to whom it is due, and what it costs.

    python -m bench.meter [--seed 20261125] [--scale 1]

Three servers, each with the tiny model and three adapters. **Plain and metered** are loaded in turns (A B, B A, ...):
`throughput_ratio`. **Probed** is the metered one with `bench.meter_probe` around it, which writes down every step:

| figure | what it is | target |
|---|---|---|
| `attributed_over_busy` | GPU time charged to requests over the engines' busy time, by their records | 1 +- 0.001 |
| `worker_over_busy` | the worker's own clock over busy time | 0.95 to 1.02 |
| `scheduler_overhead_pct` | time in tenantry's methods of the scheduler over step time, under the mixed load | <= 0.5 |
| `throughput_ratio` | tokens/s with the plugin over without: the median of pairs | >= 0.99 |
| `fairness.max_relative_error` | charge against fair share under the mixed load: the worst of ten shapes | <= 0.15 |
| `fairness.rank_correlation` | Spearman: charges of shapes in the mixed load, costs of each alone | >= 0.9 |
| `fairness.measured_max_relative_error` | charge against fair share, no model: every coalition was run | <= 0.25 |

`bench.meter_fairness` says what is fair. Prints one JSON object as its last line; docs/metering-accuracy.md explains
it.
"""

import argparse
import asyncio
import contextlib
import json
import platform
import random
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import msgspec
from tenantry.core.usage import UsageRecord

from bench import meter_coalitions as coalitions
from bench.meter_engine import ROOT, Engines, Log, Sink, read_log, sessions, settled
from bench.meter_fairness import (
    Step,
    by_flops,
    divided,
    equally,
    explained,
    fair_shares,
    fit,
    rank_correlation,
    relative_errors,
    request_errors,
)
from bench.meter_load import SHAPES, WORKERS, Client, Shape, load
from tools.vllm_server import interpreter, write_adapters, write_tiny_model

SEED = 20_261_125
PER_SHAPE = 24
ALONE_ROUNDS = 7
COALITION_ROUNDS = 13
THROUGHPUT_ROUNDS = (12, 36)
"""At least, and at most: more are run while the standard error of the ratio is above NOISE."""
NOISE = 0.003
THROUGHPUT_LOAD = 2 * SHAPES
"""As in the mixed load, but always of the same length."""
SHORT_ROUNDS, SHORT_LOAD, SHORT_WORKERS = 8, 96 * (Shape(prompt=32, output=64),), 24
"""Beside it, the worst case: almost nothing but decoding, many at a time, so that steps are short and full."""

TARGETS = {
    "requests": (200, None),
    "attributed_over_busy": (0.999, 1.001),
    "worker_over_busy": (0.95, 1.02),
    "scheduler_overhead_pct": (None, 0.5),
    "throughput_ratio": (0.99, None),
    "fairness.max_relative_error": (None, 0.15),
    "fairness.rank_correlation": (0.9, None),
    "fairness.measured_max_relative_error": (None, 0.25),
}

TOKEN_FLOPS, PAIR_FLOPS = 2.0 * 2.5e6, 4.0 * 4 * 4 * 64
"""Of the tiny model: 2 x parameters, 4 x layers x heads x head size."""
UNFAIR = {"equal_split": equally, "flops": by_flops(TOKEN_FLOPS, PAIR_FLOPS)}
"""Meters to compare with: one divides each step equally, one by arithmetic alone."""


def say(text: str) -> None:
    """Tell the person who waits."""
    print(text, file=sys.stderr, flush=True)


async def throughput(engines: Engines, seed: int, scale: float) -> dict[str, Any]:
    """Load a plain and a metered server in turns; return the figures."""
    least, most = (max(2, round(rounds * scale)) for rounds in THROUGHPUT_ROUNDS)
    async with contextlib.AsyncExitStack() as stack:
        urls = await asyncio.gather(
            *(stack.enter_async_context(engines.server(kind, kind, say)) for kind in ("plain", "metered"))
        )
        http = await stack.enter_async_context(sessions())
        rng = random.Random(f"{seed} throughput")
        clients = {kind: Client(url, http, rng) for kind, url in zip(("plain", "metered"), urls, strict=True)}
        sent: set[str] = set()

        async def measure(kind: str, shapes: Sequence[Shape], workers: int) -> float:
            client, before, begin = clients[kind], clients[kind].output_tokens, time.perf_counter()
            ids = await client.mixed("throughput", shapes, workers=workers)
            sent.update(ids if kind == "metered" else ())
            return (client.output_tokens - before) / (time.perf_counter() - begin)

        async def take_turns(load: Sequence[Shape], workers: int, rounds: range) -> dict[str, list[float]]:
            speeds: dict[str, list[float]] = {kind: [] for kind in clients}
            for kind in clients:
                await measure(kind, load, workers)
            for number in range(rounds.stop):
                if number >= rounds.start and _noise(speeds) <= NOISE:
                    break
                shapes = rng.sample(load, len(load))
                for kind in sorted(clients, reverse=number % 2 == 0):
                    speeds[kind].append(await measure(kind, shapes, workers))
                say(f"round {number + 1}: " + ", ".join(f"{kind} {values[-1]:.0f}" for kind, values in speeds.items()))
            return speeds

        speeds = await take_turns(THROUGHPUT_LOAD, WORKERS, range(least, most))
        short = max(2, round(SHORT_ROUNDS * scale))
        short_speeds = await take_turns(SHORT_LOAD, SHORT_WORKERS, range(short, short))
        await settled(engines.sink, sent)
    return _speed(speeds) | {"short_steps": _speed(short_speeds)}


def _speed(speeds: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    return {
        "ratio": round(median(_ratios(speeds)), 4),
        "rounds": len(speeds["plain"]),
        "standard_error": round(_noise(speeds), 5),
        "tokens_per_second": {kind: round(median(values)) for kind, values in speeds.items()},
    }


def _ratios(speeds: Mapping[str, Sequence[float]]) -> list[float]:
    return [metered / plain for plain, metered in zip(speeds["plain"], speeds["metered"], strict=True)]


def _noise(speeds: Mapping[str, Sequence[float]]) -> float:
    """Return the standard error of a median of so many ratios (1.25 times that of the mean)."""
    ratios = _ratios(speeds)
    return 1.25 * stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else float("inf")


class Observed(msgspec.Struct, kw_only=True):
    """What was run on the probed server."""

    mixed: dict[str, Shape]
    alone: dict[str, Shape]
    runs: list[coalitions.Run]
    never_recorded: set[str]
    aborted: int


async def observe(engines: Engines, seed: int, scale: float) -> Observed:
    """Run the mixed load, each shape alone, and the coalitions on the probed server."""
    rng = random.Random(f"{seed} load")
    async with engines.server("probed", "probed", say) as url, sessions() as http:
        client = Client(url, http, rng)
        await client.mixed("warm-up", [*SHAPES, *SHAPES])
        mixed: dict[str, Shape] = {}
        for wave in load(rng, max(2, round(PER_SHAPE * scale))):
            mixed |= await client.mixed("mixed", wave)
        say(f"mixed load: {len(mixed)} requests")
        alone: dict[str, Shape] = {}
        for _ in range(max(2, round(ALONE_ROUNDS * scale))):
            alone |= await client.mixed("alone", rng.sample(SHAPES, len(SHAPES)), workers=1)
        say("each shape alone: done")
        runs = await coalitions.run(client, rng, max(2, round(COALITION_ROUNDS * scale)))
        say(f"coalitions: {len(runs)} runs")
        missing = await settled(engines.sink, {*mixed, *alone, *(key for each in runs for key in each.ids.values())})
    return Observed(mixed=mixed, alone=alone, runs=runs, never_recorded=missing, aborted=client.aborted)


def fairness(observed: Observed, log: Log, charges: Mapping[str, float]) -> dict[str, Any]:
    """Return the figures on fairness, and what two unfair meters would have got on the same steps."""
    mixed = log.of("mixed")
    shapes: dict[str, list[str]] = {shape.name: [] for shape in SHAPES}
    for key, shape in observed.mixed.items():
        if shape in SHAPES:
            shapes[shape.name].append(key)
    fair, by_request = fair_shares(mixed.steps), log.by_request()
    alone_ns: dict[str, list[int]] = {shape.name: [] for shape in SHAPES}
    for key, shape in observed.alone.items():
        alone_ns[shape.name].append(sum(step.ns for step in by_request[key]))
    alone = {name: median(values) for name, values in alone_ns.items()}
    charged = {name: fmean(charges.get(key, 0.0) for key in keys) for name, keys in shapes.items()}
    errors = relative_errors(shapes, charges, fair)
    measured = coalitions.judge(observed.runs, by_request, charges)
    unfair = {name: divided(log.steps, weigh) for name, weigh in UNFAIR.items()}
    return {
        "max_relative_error": max(errors.values()),
        "rank_correlation": rank_correlation(list(charged.values()), list(alone.values())),
        "measured_max_relative_error": coalitions.worst(measured),
        "rank_correlation_of_fair_shares": rank_correlation(
            [fmean(fair[key] for key in keys) for keys in shapes.values()], list(alone.values())
        ),
        "max_mean_error_of_a_request": max(request_errors(shapes, charges, fair).values()),
        "shapes": {
            name: {
                "requests": len(keys),
                "alone_ms": round(alone[name] / 1e6, 2),
                "fair_ms": round(fmean(fair[key] for key in keys) / 1e6, 2),
                "charged_ms": round(charged[name] / 1e6, 2),
                "error": round(errors[name], 4),
            }
            for name, keys in shapes.items()
        },
        "measured": measured,
        "four_terms_max_relative_error": max(
            relative_errors(shapes, charges, fair_shares(mixed.steps, plain=True)).values()
        ),
        "unfair_meters": {
            name: {
                "max_relative_error": round(max(relative_errors(shapes, other, fair).values()), 4),
                "measured_max_relative_error": round(
                    coalitions.worst(coalitions.judge(observed.runs, by_request, other)), 4
                ),
            }
            for name, other in unfair.items()
        },
        "model": _model(mixed.steps),
    }


def _model(steps: Sequence[Step]) -> dict[str, Any]:
    """Return the fitted model in microseconds, and how much it explains of the steps that it was not fitted to."""
    odd, even = fit(steps[1::2]), fit(steps[0::2])
    whole = {name: round(ns / 1e3, 4) for name, ns in msgspec.structs.asdict(fit(steps)).items()}
    return {
        "us": whole,
        "r2_of_other_steps": round(fmean((explained(steps[0::2], odd), explained(steps[1::2], even))), 4),
    }


def report(
    observed: Observed, log: Log, sink: Sink, speed: Mapping[str, Any], *, seed: int, seconds: float, versions: Any
) -> dict[str, Any]:
    """Put the figures together."""
    spans = sink.spans()
    busy = sum(span.busy_gpu_ns for span in spans)
    charged = sum(sink.charges().values())
    mixed = log.of("mixed")
    records = [record for record in sink.requests() if record.request_id in observed.mixed]
    hook_ns, calls = sum(each.hook_ns for each in mixed.seen), sum(each.hook_calls for each in mixed.seen)
    fair = fairness(observed, log, sink.charges())
    figures = {
        "requests": len(observed.mixed),
        "attributed_over_busy": round(charged / busy, 6) if busy else 0.0,
        "worker_over_busy": round(sum(span.worker_gpu_ns or 0 for span in spans) / busy, 4) if busy else 0.0,
        "scheduler_overhead_pct": round(100 * hook_ns / mixed.busy_ns, 4),
        "throughput_ratio": speed["ratio"],
        "fairness": {key: round(value, 4) if isinstance(value, float) else value for key, value in fair.items()},
    }
    return figures | {
        "missed": missed(figures),
        "targets": TARGETS,
        "unattributed_ns": busy - charged,
        "engine_over_probe_clock": round(_busy_of_probed(sink, observed) / log.busy_ns, 4),
        "scheduler_overhead": {
            "us_per_step": round(hook_ns / len(mixed.seen) / 1e3, 1),
            "step_ms": round(mixed.busy_ns / len(mixed.seen) / 1e6, 2),
            "of_which_probe_us_per_step": round(calls * log.probe_ns_per_call / len(mixed.seen) / 1e3, 2),
        },
        "throughput": speed,
        "ended": _tally(records),
        "preemptions": len(mixed.preempted),
        "preemptions_recorded": sum(record.preemptions for record in records),
        "with_adapter": sum(shape.adapter is not None for shape in observed.mixed.values()),
        "never_recorded": len(observed.never_recorded),
        "clients_that_left": observed.aborted,
        "weights": _weights(sink, observed),
        "steps": {"mixed": len(mixed.seen), "all": len(log.seen)},
        "gpu": "none: CPU",
        "seconds": round(seconds, 1),
        "seed": seed,
        "versions": versions,
    }


def missed(figures: Mapping[str, Any]) -> list[str]:
    """Return the targets that the figures miss."""

    def value(name: str) -> float:
        group, _, key = name.rpartition(".")
        return float(figures[group][key] if group else figures[name])

    return [
        name
        for name, (least, most) in TARGETS.items()
        if (least is not None and value(name) < least) or (most is not None and value(name) > most)
    ]


def _busy_of_probed(sink: Sink, observed: Observed) -> int:
    engines = {record.engine for record in sink.requests() if record.request_id in observed.mixed}
    return sum(span.busy_gpu_ns for span in sink.spans() if span.engine in engines)


def _weights(sink: Sink, observed: Observed) -> dict[str, int]:
    counts: dict[str, int] = {}
    for record in sink.requests():
        if record.request_id in observed.mixed:
            counts[record.charge.weights] = counts.get(record.charge.weights, 0) + 1
    return counts


def _tally(records: Sequence[UsageRecord]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for record in records:
        counts[str(record.finish_reason)] = counts.get(str(record.finish_reason), 0) + 1
    return counts


def _versions(python: str) -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = "from importlib.metadata import version as v; print(v('vllm'), v('torch'))"
    vllm, torch = subprocess.run([python, "-c", asked], check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    return {"tenantry": str(project["project"]["version"]), "vllm": vllm, "torch": torch,
            "python": platform.python_version()}  # fmt: skip


async def measure(seed: int, scale: float, folder: Path) -> dict[str, Any]:
    """Run everything; return the report."""
    began = time.monotonic()
    python = interpreter(ROOT)
    model = write_tiny_model(python, ROOT, folder / "model")
    async with Sink().serving() as sink:
        engines = Engines(
            python=python, model=model, adapters=write_adapters(python, ROOT, model), folder=folder, sink=sink
        )
        speed = await throughput(engines, seed, scale)
        observed = await observe(engines, seed, scale)
    log = read_log(engines.steps_file("probed"))
    return report(observed, log, sink, speed, seed=seed, seconds=time.monotonic() - began, versions=_versions(python))


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the requests, rounds and runs")
    parser.add_argument("--folder", type=Path, help="keep logs and steps here")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        print(json.dumps(asyncio.run(measure(options.seed, options.scale, folder.absolute()))))


if __name__ == "__main__":
    main()
