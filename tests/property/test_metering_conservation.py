"""Whatever an engine does, and in whatever order it tells, each GPU-nanosecond has one owner (invariant 6)."""

from collections import defaultdict
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tenantry.core.metering.meter import Meter, Work
from tenantry.core.metering.weights import StepWeights
from tenantry.core.usage import ColdStart, Record, UsageRecord, read_record
from tenantry_testing.metering import MS, arrival, meter, requests, spans

WEIGHTS = StepWeights(fixed=7.3, prefill_token=0.073, decode_token=0.215, context_token=0.0001)
KEYS = st.integers(0, 2).map(lambda number: f"k{number}")

TOKENS = st.integers(0, 40)
WORKS = st.lists(
    st.builds(
        Work, key=KEYS, prefill_tokens=TOKENS, decode_tokens=st.integers(0, 2), context_tokens=st.integers(0, 10**6),
        kv_bytes=st.integers(0, 10**9),
    ),
    max_size=3,
    unique_by=lambda work: work.key,
)  # fmt: skip
EVENTS = st.one_of(
    st.tuples(st.just("arrived"), KEYS),
    st.tuples(st.just("arrived"), KEYS),
    st.tuples(st.just("scheduled"), WORKS),
    st.tuples(st.just("scheduled"), WORKS),
    st.tuples(st.just("done"), st.integers(0, 2)),
    st.tuples(st.just("done"), st.just(0)),
    st.tuples(st.just("late"), st.integers(10**6, 10**7)),
    st.tuples(st.just("cached"), KEYS),
    st.tuples(st.just("produced"), KEYS),
    st.tuples(st.just("preempted"), KEYS),
    st.tuples(st.just("freed"), KEYS),
    st.tuples(st.just("tick"), st.none()),
    st.tuples(st.just("tick"), st.none()),
    st.tuples(st.just("memory"), st.integers(0, 10**12)),
)
PAUSES = st.one_of(st.just(0), st.integers(0, 30 * MS), st.integers(0, 300 * MS))


class Engine:
    """Tells a meter what happens, and keeps its own books in the simplest way that there is."""

    def __init__(self, meter: Meter, gpus: int, now_ns: int) -> None:
        self.meter, self.gpus, self.now_ns = meter, gpus, now_ns
        self.steps: dict[int, int] = {}
        self.last_end_ns = now_ns
        self.stretches: list[tuple[int, int]] = []
        self.next = 0
        self.arrivals = 0
        self.records: list[Record] = []

    def play(self, event: str, what: Any) -> None:
        if event == "arrived":
            before = self.meter.accounts
            self.next += 1
            self.meter.arrived(what, arrival(f"r{self.next % 3}", input_tokens=30), self.now_ns)
            self.arrivals += self.meter.accounts - before
        elif event == "scheduled" and len(self.steps) < 3:
            before = self.meter.accounts
            self.next += 1
            self.meter.scheduled(self.next, what, self.now_ns)
            self.arrivals += self.meter.accounts - before  # work of a request that nobody announced
            if what:
                self.steps[self.next] = self.now_ns
        elif event == "done" and len(self.steps) > what:
            self.end(sorted(self.steps)[what])
        elif event == "late":
            self.meter.done(what, self.now_ns)
        elif event == "cached":
            self.meter.cached(what, 16)
        elif event == "produced":
            self.meter.produced(what, (self.next, 7), self.now_ns)
        elif event == "preempted":
            self.meter.preempted(what, self.now_ns)
        elif event == "freed":
            self.meter.freed(what, "stop", self.now_ns)
        elif event == "tick":
            self.meter.tick(self.now_ns)
        elif event == "memory":
            self.meter.memory(what)

    def end(self, step: int) -> None:
        self.meter.done(step, self.now_ns, worker_ns=1)
        self.book(step)

    def book(self, step: int) -> None:
        begun_ns = max(self.steps.pop(step), self.last_end_ns)
        self.last_end_ns = self.now_ns
        self.stretches.append((self.now_ns, (self.now_ns - begun_ns) * self.gpus))

    def close(self) -> None:
        self.records += self.meter.close(self.now_ns)
        for step in sorted(self.steps):
            self.book(step)


@pytest.mark.timeout(900)  # the deep run takes a minute of CPU
@given(
    events=st.lists(st.tuples(EVENTS, PAUSES), min_size=20, max_size=80),
    gpus=st.sampled_from([1, 2, 8]),
    cold_ns=st.integers(0, 10**9),
)
def test_any_sequence_conserves_time_to_the_nanosecond(
    events: list[tuple[tuple[str, Any], int]], gpus: int, cold_ns: int
) -> None:
    m = meter(gpus=gpus, part_ns=50 * MS, weights=WEIGHTS)
    cold = ColdStart(engine="e1", model="chat", version="2", gpus=gpus, ended_s=1.0, other_ns=cold_ns)
    m.cold_start(cold, cold_ns)
    engine = Engine(m, gpus, cold_ns)
    for (event, what), pause_ns in events:
        engine.play(event, what)
        engine.now_ns += pause_ns
        engine.records += m.collect()
        charged = sum(record.charge.gpu_ns for record in requests(engine.records))
        assert charged + m.uncharged_gpu_ns == m.busy_gpu_ns
    engine.close()
    records = engine.records

    busy_ns = sum(ns for _, ns in engine.stretches)
    made = requests(records)
    assert sum(record.charge.gpu_ns for record in made) == busy_ns == m.busy_gpu_ns
    stretches_of_time(records, engine, cold_ns)
    assert cold.gpu_ns + busy_ns + sum(span.idle_gpu_ns for span in spans(records)) == engine.now_ns * gpus
    parts_of_attempts(made, engine.arrivals)
    for record in records:
        assert read_record(msgspec.json.encode(record)) == record
    assert m.collect() == []
    assert m.accounts == 0


def stretches_of_time(records: list[Record], engine: Engine, start_ns: int) -> None:
    """Spans tile the time, and each has the busy time of the steps that ended in it."""
    assert [span.part for span in spans(records)] == list(range(1, len(spans(records)) + 1))
    for span in spans(records):
        end_ns = start_ns + span.wall_ns
        ended = [(end, ns) for end, ns in engine.stretches if start_ns < end <= end_ns]
        assert span.busy_gpu_ns == sum(ns for _, ns in ended)
        assert span.idle_gpu_ns >= 0
        assert span.ended_s == end_ns / 1e9
        start_ns = end_ns
    assert start_ns == engine.now_ns


def parts_of_attempts(made: list[UsageRecord], arrivals: int) -> None:
    """Each arrival ends once; its parts are numbered and add up to its totals."""
    attempts: dict[str, list[UsageRecord]] = defaultdict(list)
    for record in made:
        attempts[record.attempt_id].append(record)
    assert len(attempts) == arrivals
    for parts in attempts.values():
        assert [part.part for part in parts] == list(range(1, len(parts) + 1))
        assert [part.final for part in parts] == [False] * (len(parts) - 1) + [True]
        *_, last = parts
        assert sum(part.charge.output_tokens for part in parts) == last.output_tokens
        assert sum(part.charge.cached_tokens for part in parts) == last.cached_tokens
        assert sum(part.charge.input_tokens for part in parts) <= last.input_tokens
        assert all(part.charge.weights for part in parts if part.charge.gpu_ns)


@given(
    works=st.lists(st.builds(Work, key=KEYS, prefill_tokens=TOKENS, decode_tokens=TOKENS), min_size=1, max_size=70),
    ns=st.integers(0, 2**62),
    weights=st.sampled_from([WEIGHTS, StepWeights(fixed=0.0, prefill_token=1e12, decode_token=0.0)]),
)
def test_shares_add_up_and_are_in_proportion(works: list[Work], ns: int, weights: StepWeights) -> None:
    shares = weights.shares(works, ns)
    assert sum(shares) == ns
    assert min(shares) >= 0
    own = [weights.cost(work.prefill_tokens, work.decode_tokens, 0) - weights.fixed for work in works]
    fair = [weights.fixed / len(works) + cost for cost in own]
    if total := sum(fair):
        for share, weight in zip(shares, fair, strict=True):
            assert abs(share - ns * weight / total) <= 1 + ns * 0.001
