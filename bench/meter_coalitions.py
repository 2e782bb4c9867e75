"""Fair shares without a model: every coalition of three requests is run on the real engine.

The requests of a coalition are sent together; its cost is the time of the steps that they were in. The coalitions of a
triple take turns, in an order drawn anew for each round, so that whatever else the machine does meets all of them. Of
the rounds, medians count. Shapley's value of the eight costs (the empty coalition costs nothing) is the fair share;
what the meter charged in the runs of all three is compared with it.
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import Any

from bench.meter_fairness import Step, shapley
from bench.meter_load import Client, Shape

TRIPLES = {
    "chat_beside_long_context": (
        Shape(prompt=16, output=96),
        Shape(prompt=64, output=32),
        Shape(prompt=1024, output=8),
    ),
    "long_answers": (
        Shape(prompt=64, output=96),
        Shape(prompt=256, output=64),
        Shape(prompt=256, output=16),
    ),
    "two_with_adapters": (
        Shape(prompt=64, output=64, adapter="lora-0"),
        Shape(prompt=256, output=32, adapter="lora-1"),
        Shape(prompt=128, output=64),
    ),
    "one_with_an_adapter": (
        Shape(prompt=64, output=64, adapter="lora-2"),
        Shape(prompt=256, output=48),
        Shape(prompt=512, output=16),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a coalition: the requests' ids by player (index into the triple)."""

    triple: str
    ids: Mapping[int, str]


async def run(client: Client, rng: random.Random, rounds: int) -> list[Run]:
    """Run every coalition of every triple `rounds` times, one after another; a round before is a warm-up."""
    runs = []
    for number in range(rounds + 1):
        for name, shapes in TRIPLES.items():
            turns = [players for size in (1, 2, 3) for players in combinations(range(len(shapes)), size)]
            rng.shuffle(turns)
            for players in turns:
                ids = {player: client.name(f"coalition-{name}", shapes[player]) for player in players}
                await asyncio.gather(*(client.send(ids[player], shapes[player]) for player in players))
                if number:
                    runs.append(Run(triple=name, ids=ids))
    return runs


def judge(runs: Sequence[Run], steps: Mapping[str, Sequence[Step]], charges: Mapping[str, float]) -> dict[str, Any]:
    """Compare the meter's charges with measured fair shares, by triple.

    `steps` are those that each request was in. Returns for each triple its requests with `fair_ms`, `charged_ms` and
    the relative `error`; `alone_ms` is what each costs by itself.
    """
    report: dict[str, Any] = {}
    for name, shapes in TRIPLES.items():
        here = [each for each in runs if each.triple == name]
        costs: dict[frozenset[int], list[float]] = {}
        for each in here:
            costs.setdefault(frozenset(each.ids), []).append(_cost(each, steps))
        medians = {coalition: median(values) for coalition, values in costs.items()}
        medians[frozenset()] = 0.0
        fair = shapley(range(len(shapes)), medians.__getitem__)
        whole = [each for each in here if len(each.ids) == len(shapes)]
        report[name] = []
        for player, shape in enumerate(shapes):
            charged = median(charges.get(each.ids[player], 0.0) for each in whole)
            report[name].append(
                {
                    "request": shape.name,
                    "alone_ms": round(medians[frozenset({player})] / 1e6, 2),
                    "fair_ms": round(fair[player] / 1e6, 2),
                    "charged_ms": round(charged / 1e6, 2),
                    "error": round(abs(charged / fair[player] - 1.0), 4),
                }
            )
    return report


def _cost(each: Run, steps: Mapping[str, Sequence[Step]]) -> float:
    """Return the nanoseconds of all steps of a run; a step of several of its requests counts once."""
    return float(sum({id(step): step.ns for key in each.ids.values() for step in steps[key]}.values()))
