"""Fair shares without a model: every coalition of three requests is run on the real engine.

The requests of a coalition are sent together; its cost is the time of the steps that they were in. The seven coalitions
of a triple take turns, in an order drawn anew for each round. Costs, and what the meter charged in the run of all
three, are counted in units of what the seven cost together in that round: a machine that is slower for some seconds is
so for all of them. Of the rounds, medians count. Shapley's value of the eight costs (the empty coalition costs nothing)
is the fair share.
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
        Shape(prompt=16, output=64),
        Shape(prompt=64, output=48),
        Shape(prompt=1024, output=16),
    ),
    "answers_of_three_lengths": (
        Shape(prompt=64, output=72),
        Shape(prompt=256, output=48),
        Shape(prompt=512, output=24),
    ),
    "two_with_adapters": (
        Shape(prompt=64, output=40, adapter="lora-0"),
        Shape(prompt=256, output=24, adapter="lora-1"),
        Shape(prompt=128, output=56),
    ),
    "one_with_an_adapter": (
        Shape(prompt=64, output=32, adapter="lora-2"),
        Shape(prompt=256, output=48),
        Shape(prompt=512, output=32),
    ),
}
"""Each request takes a good part of its triple: a small share would be lost in the noise of the others."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a coalition: the requests' ids by player (index into the triple)."""

    triple: str
    round: int
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
                    runs.append(Run(triple=name, round=number, ids=ids))
    return runs


def judge(runs: Sequence[Run], steps: Mapping[str, Sequence[Step]], charges: Mapping[str, float]) -> dict[str, Any]:
    """Compare the meter's charges with measured fair shares, by triple.

    `steps` are those that each request was in. Returns for each triple its requests: the fair share and the charge as
    parts of what all three cost together, and the relative `error`; `alone` is what the request costs by itself, and
    `together_ms` the time of all three.
    """
    report: dict[str, Any] = {}
    for name, shapes in TRIPLES.items():
        costs: dict[frozenset[int], list[float]] = {}
        charged: dict[int, list[float]] = {player: [] for player in range(len(shapes))}
        whole_ns = []
        for number in {each.round for each in runs if each.triple == name}:
            turns = [each for each in runs if each.triple == name and each.round == number]
            unit = sum(_cost(each, steps) for each in turns)
            for each in turns:
                costs.setdefault(frozenset(each.ids), []).append(_cost(each, steps) / unit)
            whole = max(turns, key=lambda each: len(each.ids))
            whole_ns.append(_cost(whole, steps))
            for player, key in whole.ids.items():
                charged[player].append(charges.get(key, 0.0) / unit)
        medians = {coalition: median(values) for coalition, values in costs.items()} | {frozenset(): 0.0}
        fair = shapley(range(len(shapes)), medians.__getitem__)
        together = medians[frozenset(range(len(shapes)))]
        report[name] = {
            "together_ms": round(median(whole_ns) / 1e6, 1),
            "requests": {
                shape.name: {
                    "alone": round(medians[frozenset({player})] / together, 4),
                    "fair": round(fair[player] / together, 4),
                    "charged": round(median(charged[player]) / together, 4),
                    "error": round(abs(median(charged[player]) / fair[player] - 1.0), 4),
                }
                for player, shape in enumerate(shapes)
            },
        }
    return report


def worst(judged: Mapping[str, Any]) -> float:
    """Return the largest error of all requests of all triples."""
    return max(float(request["error"]) for triple in judged.values() for request in triple["requests"].values())


def _cost(each: Run, steps: Mapping[str, Sequence[Step]]) -> float:
    """Return the nanoseconds of all steps of a run; a step of several of its requests counts once."""
    return float(sum({id(step): step.ns for key in each.ids.values() for step in steps[key]}.values()))
