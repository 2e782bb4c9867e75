"""The meter's benchmark can fail: its statistics by hand, and unfair meters on steps whose costs are known."""

import random
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from math import inf
from pathlib import Path
from statistics import fmean

import pytest

from bench import meter_coalitions
from bench.meter import TARGETS, UNFAIR, missed
from bench.meter_coalitions import TRIPLES, Run
from bench.meter_engine import read_log, request_id
from bench.meter_fairness import (
    Piece,
    Step,
    StepCost,
    divided,
    explained,
    fair_shares,
    fit,
    least_squares,
    rank_correlation,
    ranks,
    relative_errors,
    request_errors,
    shapley,
    summed,
)
from bench.meter_load import OTHERS, SHAPES, Shape, load

MODEL = StepCost(
    fixed=3.5e6,
    prefill=4e4,
    decode=1.6e5,
    context=50.0,
    prefill_step=3e6,
    adapter_fixed=5e6,
    adapter_prefill=1.2e5,
    adapter_decode=1e5,
    adapter_prefill_step=-2e6,
)
"""Like vLLM on a CPU, in nanoseconds."""


class Engine:
    """Continuous batching of up to eight requests with prompts in chunks; a step lasts what MODEL says, and noise."""

    def __init__(self, seed: int, noise: float = 0.0, model: StepCost = MODEL) -> None:
        self.rng = random.Random(seed)
        self.noise, self.model = noise, model
        self.steps: list[Step] = []

    def run(self, requests: Mapping[str, Shape], at_a_time: int = 8) -> None:
        waiting = iter(requests.items())
        running: dict[str, tuple[Shape, int]] = {}
        while True:
            while len(running) < at_a_time and (new := next(waiting, None)):
                running[new[0]] = new[1], 0
            if not running:
                return
            self._step(running)

    def _step(self, running: dict[str, tuple[Shape, int]]) -> None:
        room, pieces = 1024, list[Piece]()
        for key, (shape, done) in list(running.items()):
            tokens = min(max(shape.prompt - done, 1), room)
            if not tokens:
                continue
            room -= tokens
            prefill = tokens if done < shape.prompt else 0
            pairs = tokens * done + tokens * (tokens + 1) // 2
            pieces.append(Piece(key, prefill, 0 if prefill else 1, pairs, shape.adapter is not None))
            running[key] = shape, done + tokens
            if done + tokens >= shape.prompt + shape.output - 1:
                del running[key]
        ns = self.model.cost(pieces) * max(0.5, self.rng.gauss(1.0, self.noise))
        self.steps.append(Step(round(ns), tuple(pieces)))


@pytest.fixture(scope="module")
def mixed() -> tuple[list[Step], dict[str, list[str]]]:
    """The steps of a mixed load, and the ids of its requests by shape."""
    engine = Engine(1, noise=0.05)
    by_shape: dict[str, list[str]] = {shape.name: [] for shape in SHAPES}
    for wave in load(random.Random(1), 18):
        asked = {f"{shape.name}.{number}": shape for number, shape in enumerate(wave) if shape in SHAPES}
        asked = {f"{len(engine.steps)}.{key}": shape for key, shape in asked.items()}
        engine.run(asked)
        for key, shape in asked.items():
            by_shape[shape.name].append(key)
    return engine.steps, by_shape


def test_shapley_of_three_by_hand() -> None:
    costs = {"": 0, "a": 10, "b": 6, "c": 4, "ab": 12, "ac": 13, "bc": 8, "abc": 15}
    fair = shapley("abc", lambda coalition: costs["".join(sorted(coalition))])
    # a: 10/3 as the first, (12 - 6)/6 + (13 - 4)/6 as the second, (15 - 8)/3 as the last; and so on.
    assert fair == pytest.approx({"a": 49 / 6, "b": 11 / 3, "c": 19 / 6})
    assert sum(fair.values()) == pytest.approx(15)


@pytest.mark.parametrize("with_adapter", range(6))
@pytest.mark.parametrize("seed", range(5))
def test_the_closed_form_is_shapleys_value(with_adapter: int, seed: int) -> None:
    rng = random.Random(seed)
    pieces = [
        Piece(f"r{index}", rng.choice((0, 16, 300)), 1, rng.randrange(10_000), index < with_adapter)
        for index in range(5)
    ]
    fair = shapley(pieces, MODEL.cost)
    assert MODEL.shares(pieces) == pytest.approx([fair[piece] for piece in pieces])
    assert sum(MODEL.shares(pieces)) == pytest.approx(MODEL.cost(pieces))


def test_least_squares_finds_what_made_the_steps_and_gives_a_redundant_column_nothing() -> None:
    rng = random.Random(2)
    rows = [(1.0, x := rng.random(), y := 1000.0 * rng.random(), x + y) for _ in range(50)]
    targets = [7.0 + 2.0 * row[1] + 0.003 * row[2] for row in rows]
    found = least_squares(rows, targets)
    assert [sum(map(float.__mul__, row, found)) for row in rows] == pytest.approx(targets)
    assert 0.0 in found
    # By hand: the line through (0, 1), (1, 3), (2, 4) with the least squares is 7/6 + 3/2 x.
    assert least_squares([(1, 0), (1, 1), (1, 2)], [1, 3, 4]) == pytest.approx([7 / 6, 3 / 2])


def test_the_fit_finds_the_engine_and_the_plain_one_cannot(mixed: tuple[list[Step], dict[str, list[str]]]) -> None:
    steps = mixed[0]
    found = fit(steps)
    assert (found.fixed, found.prefill, found.adapter_prefill) == pytest.approx((3.5e6, 4e4, 1.2e5), rel=0.15)
    assert explained(steps, found) > 0.95 > explained(steps, fit(steps, plain=True))


def test_no_step_is_judged_by_itself() -> None:
    """Even steps that cost ten times as much as odd ones get the shares of odd ones, and the other way round."""
    one, ten = Engine(3), Engine(3, model=StepCost(fixed=4.5e7, prefill=5e5, decode=1.6e6))
    for engine in (one, ten):
        engine.run({f"r{index}": Shape(prompt=16 << index % 5, output=20) for index in range(40)})
    steps = [step for pair in zip(ten.steps, one.steps, strict=True) for step in pair]  # even: ten
    marked = [
        Step(step.ns, tuple(Piece("odd" if index % 2 else "even", *_rest(piece)) for piece in step.pieces))
        for index, step in enumerate(steps)
    ]
    fair = fair_shares(marked)
    assert fair["odd"] == pytest.approx(sum(step.ns for step in ten.steps), rel=0.001)
    assert fair["even"] == pytest.approx(sum(step.ns for step in one.steps), rel=0.05)


def _rest(piece: Piece) -> tuple[int, int, int, bool]:
    return piece.prefill_tokens, piece.decode_tokens, piece.context_pairs, piece.adapter


def test_ranks_share_ties_and_correlate_by_hand() -> None:
    assert ranks([30, 10, 20, 10]) == [4.0, 1.5, 3.0, 1.5]
    # 1 - 6 x (sum of squared differences of ranks) / (n (n^2 - 1))
    assert rank_correlation([1, 2, 3, 4, 5], [10, 30, 20, 60, 50]) == pytest.approx(1 - 6 * 4 / 120)
    assert rank_correlation([1, 2, 3, 4, 5], [10, 30, 40, 20, 50]) == pytest.approx(1 - 6 * 6 / 120)
    assert rank_correlation([1, 2, 3], [30, 20, 10]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 3], [5, 5, 5]) == 0


def test_errors_of_a_shape_and_of_its_single_requests() -> None:
    shapes = {"big": ["a", "b"], "small": ["c"]}
    charges, fair = {"a": 50, "b": 160}, {"a": 100.0, "b": 100.0, "c": 1.0}  # nobody was charged for c
    assert relative_errors(shapes, charges, fair) == pytest.approx({"big": 0.05, "small": 1.0})
    assert request_errors(shapes, charges, fair) == pytest.approx({"big": 0.55, "small": 1.0})
    assert relative_errors({"free": ["c"]}, {"c": 1}, {"c": -1.0}) == {"free": inf}


def test_a_fair_meter_passes_on_a_mixed_load(mixed: tuple[list[Step], dict[str, list[str]]]) -> None:
    steps, shapes = mixed
    charges = summed(steps, map(_scaled, steps))
    assert sum(charges.values()) == pytest.approx(sum(step.ns for step in steps))
    assert max(relative_errors(shapes, charges, fair_shares(steps)).values()) < 0.1


def _scaled(step: Step) -> list[float]:
    shares = MODEL.shares(step.pieces)
    return [share * step.ns / sum(shares) for share in shares]


@pytest.mark.parametrize("name", UNFAIR)
def test_an_unfair_meter_fails_on_a_mixed_load(name: str, mixed: tuple[list[Step], dict[str, list[str]]]) -> None:
    steps, shapes = mixed
    charges = divided(steps, UNFAIR[name])
    assert sum(charges.values()) == pytest.approx(sum(step.ns for step in steps))  # conservation proves nothing
    assert max(relative_errors(shapes, charges, fair_shares(steps)).values()) > 2 * 0.15


def test_a_meter_blind_to_adapters_fails(mixed: tuple[list[Step], dict[str, list[str]]]) -> None:
    steps, shapes = mixed
    blind = fit(steps, plain=True)

    def shares(step: Step) -> list[float]:
        weights = blind.shares(step.pieces)
        return [weight * step.ns / sum(weights) for weight in weights]

    charges = summed(steps, map(shares, steps))
    assert max(relative_errors(shapes, charges, fair_shares(steps)).values()) > 0.15


def coalitions(seed: int) -> Iterator[tuple[Run, list[Step]]]:
    """Every coalition of every triple, three times."""
    for number in range(3):
        for name, shapes in TRIPLES.items():
            for size in (1, 2, 3):
                for players in combinations(range(3), size):
                    engine = Engine(seed + number, noise=0.02)
                    ids = {player: f"{name}.{number}.{players}.{player}" for player in players}
                    engine.run({ids[player]: shapes[player] for player in players})
                    yield Run(triple=name, round=number, ids=ids), engine.steps


@pytest.mark.parametrize(
    ("meter", "passes"),
    [
        (lambda steps: summed(steps, map(_scaled, steps)), True),
        (lambda steps: divided(steps, UNFAIR["equal_split"]), False),
        (lambda steps: divided(steps, UNFAIR["flops"]), False),
    ],
)
def test_coalitions_that_were_run_tell_a_fair_meter_from_unfair_ones(
    meter: Callable[[list[Step]], dict[str, float]], passes: bool
) -> None:
    played = list(coalitions(7))
    steps = [step for _, some in played for step in some]
    by_request: dict[str, list[Step]] = {}
    for step in steps:
        for piece in step.pieces:
            by_request.setdefault(piece.key, []).append(step)
    judged = meter_coalitions.judge([run for run, _ in played], by_request, meter(steps))
    assert set(judged) == set(TRIPLES)
    for triple in judged.values():
        assert sum(request["fair"] for request in triple["requests"].values()) == pytest.approx(1.0, abs=0.001)
    if passes:
        assert meter_coalitions.worst(judged) < 0.1
    else:
        assert meter_coalitions.worst(judged) > 0.25


def test_misses_are_named() -> None:
    good = {
        "requests": 252, "attributed_over_busy": 1.0, "worker_over_busy": 0.98, "scheduler_overhead_pct": 0.3,
        "throughput_ratio": 0.998,
        "fairness": {"max_relative_error": 0.1, "rank_correlation": 0.95, "measured_max_relative_error": 0.2},
    }  # fmt: skip
    assert missed(good) == []
    unfair = {"max_relative_error": 0.2, "rank_correlation": 0.8, "measured_max_relative_error": 0.3}
    bad = dict.fromkeys(good, 2.0) | {"requests": 10, "throughput_ratio": 0.9, "fairness": unfair}
    assert missed(bad) == list(TARGETS)


def test_the_load_has_what_the_figures_are_about() -> None:
    first, then = load(random.Random(0), 18)
    assert len(first) + len(then) >= 200
    assert not any(shape.adapter for shape in first)
    assert {shape.ending for shape in first + then} == {"length", "stop", "abort", "chat"}
    assert len({shape.name for shape in SHAPES}) == 10
    assert fmean(shape.adapter is not None for shape in (*SHAPES, *OTHERS)) == pytest.approx(5 / 14)


def test_the_probes_file_is_read_and_vllms_ids_become_ours(tmp_path: Path) -> None:
    file = tmp_path / "steps.jsonl"
    file.write_text(
        '{"probe_ns_per_call":150.5}\n'
        '[5000000,60000,3,[["cmpl-mixed.256x32+lora-2.length.7-0-a1b2c3d4",256,0,32896,true],'
        '["chatcmpl-mixed.40x24.chat.8-0123abcd",0,1,50,false]]]\n'
        '{"preempted":"cmpl-mixed.16x4.length.9-0-a1b2c3d4"}\n'
        '[4000000,50000,2,[["cmpl-alone.16x4.length.10-0-a1b2c3d4",16,0,136,false]]]\n'
    )
    log = read_log(file)
    assert log.probe_ns_per_call == 150.5
    assert log.preempted == ["mixed.16x4.length.9"]
    assert [piece.key for piece in log.steps[0].pieces] == ["mixed.256x32+lora-2.length.7", "mixed.40x24.chat.8"]
    assert log.of("mixed").busy_ns == 5_000_000
    assert list(log.of("alone").by_request()) == ["alone.16x4.length.10"]
    assert request_id("something-else") == "something-else"
