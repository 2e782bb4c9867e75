"""A worker's own clock: what it times, where the report goes, and that it never waits or breaks a step."""

import logging
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from tenantry_vllm import worker_clock
from tenantry_vllm.worker_clock import (
    CpuClock,
    CudaClock,
    MemoryGauge,
    Reporter,
    StepClock,
    deferred,
    read_report,
    resident_bytes,
)

STEP = SimpleNamespace(total_num_scheduled_tokens=5)
EMPTY = SimpleNamespace(total_num_scheduled_tokens=0)


def test_a_step_lasts_from_the_forward_pass_to_its_tokens() -> None:
    ticks = iter((100, 350))
    reporter = _reporter(CpuClock(lambda: next(ticks)))
    execute, sample = reporter.execute(lambda _step: None), reporter.sample(lambda _grammar: _output())
    assert execute(STEP) is None
    assert read_report(sample(None)) == (250, 7)


def test_a_pooling_step_ends_with_the_forward_pass() -> None:
    ticks = iter((100, 350))
    assert read_report(_reporter(CpuClock(lambda: next(ticks))).execute(lambda _: _output())(STEP)) == (250, 7)


def test_a_step_without_work_is_none() -> None:
    output = _reporter(CpuClock(_fail)).execute(lambda _: _output())(EMPTY)
    assert read_report(output) == (None, None)


def test_the_empty_output_that_all_steps_share_is_left_alone() -> None:
    shared = SimpleNamespace(req_ids=[])
    assert _reporter(CpuClock()).sample(lambda: shared)() is shared
    assert read_report(shared) == (None, None)


def test_an_output_that_is_made_later_is_reported_with_then() -> None:
    """By the time the first is made, the second step has been timed: each gets its own."""
    ticks = iter((0, 10, 10, 30))
    base = type("AsyncModelRunnerOutput", (), {})
    reporter = Reporter(CpuClock(lambda: next(ticks)), MemoryGauge(lambda: 7), later=deferred(base))
    execute = reporter.execute(lambda _: None)
    sample = reporter.sample(lambda: SimpleNamespace(get_output=_output))
    outputs = []
    for _ in range(2):
        execute(STEP)
        outputs.append(sample())
    assert all(isinstance(output, base) for output in outputs)
    assert [read_report(output.get_output())[0] for output in outputs] == [10, 20]


def test_outputs_that_nobody_asks_for_do_not_pile_up() -> None:
    clock = CpuClock()
    cuda = CudaClock(lambda: Event(iter(())))
    for _ in range(1000):
        for each in (clock, cuda):
            each.begin()
            each.end()
    assert len(clock._ended) <= 64
    assert len(cuda._pairs) <= 64


def test_a_gpus_events_are_read_when_they_have_passed() -> None:
    passed: list[Event] = []
    events = iter(range(100))
    clock = CudaClock(lambda: Event(events, passed))
    for _ in range(2):
        clock.begin()
        clock.end()
    assert clock.take() is None  # still running: nothing waits
    passed += [clock._pairs[0][1], clock._pairs[1][1]]
    assert clock.take() == 2 * 1_000_000
    assert clock.take() is None
    used = {id(event) for pair in clock._free for event in pair}
    clock.begin()
    first = clock._begin
    clock.begin()  # a step that has begun does not begin again
    clock.end()
    assert clock._pairs[0][0] is first
    assert {id(event) for event in clock._pairs[0]} <= used  # events are used again


def test_a_clock_that_fails_breaks_no_step_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    reporter = _reporter(CpuClock(_fail))
    with caplog.at_level(logging.ERROR, "vllm.tenantry"):
        for _ in range(3):
            reporter.execute(lambda _: None)(STEP)
            assert read_report(reporter.sample(_output)())[0] is None
    assert len(caplog.records) == 1


def test_a_fault_of_the_model_is_its_own() -> None:
    with pytest.raises(ValueError, match="the model's"):
        _reporter(CpuClock()).execute(_raise)(STEP)


def test_memory_is_asked_for_a_few_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(worker_clock, "time", SimpleNamespace(monotonic=lambda: now[0]))
    gauge = MemoryGauge(lambda: 7)
    seen = []
    for at in (0.0, 0.1, 0.24, 0.26, 0.3, 0.6):
        now[0] = at
        seen.append(gauge.take())
    assert seen == [7, None, None, 7, None, 7]


def test_resident_memory_is_that_of_this_process() -> None:
    before = resident_bytes()
    held = bytearray(os.urandom(1)) * (64 << 20)
    assert resident_bytes() - before > 48 << 20
    assert len(held) == 64 << 20


class Event:
    """A CUDA event: queried, it has passed or not; two that have are a millisecond apart."""

    def __init__(self, numbers: Iterator[int], passed: "list[Event] | None" = None) -> None:
        next(numbers, None)
        self._passed = passed if passed is not None else []

    def record(self) -> None:
        pass

    def query(self) -> bool:
        return self in self._passed

    def elapsed_time(self, other: "Event") -> float:
        return 1.0


def _reporter(clock: StepClock) -> Reporter:
    return Reporter(clock, MemoryGauge(lambda: 7), later=deferred(object))


def _output(*_: Any) -> Any:
    return SimpleNamespace(req_ids=["r"])


def _fail() -> int:
    raise RuntimeError("no clock")


def _raise(_: Any) -> None:
    raise ValueError("the model's")
