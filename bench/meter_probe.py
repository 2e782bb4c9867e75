"""Runs inside vLLM's EngineCore: writes down what each step held and how long it took, and times tenantry's hooks.

    TENANTRY_BENCH_STEPS=FILE vllm serve ... --scheduler-cls bench.meter_probe.ProbedScheduler

For `bench.meter` alone; the product has no such option. The steps are read from vLLM's own scheduler and timed with a
clock of the probe's own: nothing of the meter's is believed.

**How the hooks are timed.** Python calls methods in the order of Probed, Outer, tenantry's, Inner, vLLM's
(`ProbedScheduler.__mro__`). Outer turns a stopwatch to "hooks" when it is entered, Inner turns it to "vLLM" and back:
what passes between them is tenantry's, also when vLLM's methods call one another. The probe's own work runs under a
third name.
"""

import os
import time
from typing import Any

import msgspec
from tenantry_vllm.scheduler import MeteredScheduler
from vllm.v1.core.sched.scheduler import Scheduler

HOOKED = ("add_request", "finish_requests", "schedule", "update_from_output", "_preempt_request", "_free_request")
OUTSIDE, HOOKS, PROBE = range(3)


class Stopwatch:
    """Nanoseconds by what was running. `turn` costs about 0.2 us, half of it within the name that it leaves."""

    def __init__(self) -> None:
        self.ns = [0, 0, 0]
        self.hook_calls = 0
        self.running = OUTSIDE
        self._since = time.perf_counter_ns()

    def turn(self, to: int) -> int:
        """Run under another name; return the one before."""
        now = time.perf_counter_ns()
        before = self.running
        self.ns[before] += now - self._since
        self._since, self.running = now, to
        self.hook_calls += to == HOOKS
        return before


class Inner(Scheduler):  # type: ignore[misc] # vLLM is not installed where this is checked
    """Between tenantry's scheduler and vLLM's."""

    stopwatch: Stopwatch


class Outer(Scheduler):  # type: ignore[misc]
    """Before tenantry's scheduler."""

    stopwatch: Stopwatch


def _turning(name: str, to: int, owner: type) -> Any:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        watch = self.stopwatch
        before = watch.turn(to)
        try:
            return getattr(super(owner, self), name)(*args, **kwargs)
        finally:
            watch.turn(before)

    return method


for (
    hooked
) in HOOKED:  # a turn back to HOOKS counts as a call, too: the probe's own cost is stated too high, not too low
    setattr(Inner, hooked, _turning(hooked, OUTSIDE, Inner))
    setattr(Outer, hooked, _turning(hooked, HOOKS, Outer))


class ProbedScheduler(Outer, MeteredScheduler, Inner):
    """tenantry's scheduler with a line in TENANTRY_BENCH_STEPS for each step, and for each preemption.

    A step's line is [ns, nanoseconds and turns of hooks since the line before, pieces], each piece being the fields of
    `bench.meter_fairness.Piece`. A piece is decode work if it is one token beyond the prompt; all other tokens are
    prefill work, those that are computed again after a preemption too.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.stopwatch = Stopwatch()
        super().__init__(*args, **kwargs)
        self._file = os.open(os.environ["TENANTRY_BENCH_STEPS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._open: dict[int, tuple[int, list[tuple[str, int, int, int, bool]]]] = {}
        self._told = 0, 0
        self._write({"probe_ns_per_call": self._own_cost()})

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        planned = super().schedule(*args, **kwargs)
        begin = time.perf_counter_ns()
        if planned.total_num_scheduled_tokens:
            before = self.stopwatch.turn(PROBE)
            pieces = []
            for key, count in planned.num_scheduled_tokens.items():
                request = self.requests[key]
                earlier = request.num_computed_tokens - count  # vLLM has counted the step's tokens already
                prefill = 0 if count == 1 and earlier >= request.num_prompt_tokens else count
                pairs = count * earlier + count * (count + 1) // 2
                pieces.append((key, prefill, 1 - bool(prefill), pairs, request.lora_request is not None))
            self._open[id(planned)] = begin, pieces
            self.stopwatch.turn(before)
        return planned

    def update_from_output(self, planned: Any, output: Any) -> Any:
        end = time.perf_counter_ns()
        updated = super().update_from_output(planned, output)
        before = self.stopwatch.turn(PROBE)
        begin, pieces = self._open.pop(id(planned), (end, []))
        if pieces:
            told = self.stopwatch.ns[HOOKS], self.stopwatch.hook_calls
            self._write((end - begin, told[0] - self._told[0], told[1] - self._told[1], pieces))
            self._told = told
        self.stopwatch.turn(before)
        return updated

    def _preempt_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        self._write({"preempted": request.request_id})
        return super()._preempt_request(request, *args, **kwargs)

    def _write(self, line: Any) -> None:
        os.write(self._file, msgspec.json.encode(line) + b"\n")

    @staticmethod
    def _own_cost(calls: int = 20_000) -> float:
        """Return the nanoseconds that end up under HOOKS in a call through Outer and Inner with nothing between."""

        class Nothing:
            stopwatch = Stopwatch()

            def inner(self) -> None:
                before = self.stopwatch.turn(OUTSIDE)
                try:
                    return
                finally:
                    self.stopwatch.turn(before)

            def outer(self) -> None:
                before = self.stopwatch.turn(HOOKS)
                try:
                    return self.inner()
                finally:
                    self.stopwatch.turn(before)

        nothing = Nothing()
        for _ in range(calls):
            nothing.outer()
        return nothing.stopwatch.ns[HOOKS] / calls
