"""In a worker: the time that a step took by the worker's own clock, and the memory that it had allocated.

It is the check of what EngineCore bills, never the bill. On a GPU two CUDA events enclose the step on the stream, and
are read when they have passed, at a later step if need be: nothing waits for them. Elsewhere the clock is the CPU's.

The report travels as an attribute of the `ModelRunnerOutput`, which vLLM pickles whole on its way to EngineCore. With
asynchronous scheduling that output is made later, by `AsyncModelRunnerOutput.get_output`; the report joins it there.

The worker's methods are wrapped on the instance: whatever class the platform chose, it is the one that runs. Measured
on CPU; the part with CUDA events has run in tests with events of the same behaviour, not on a GPU.
"""

import functools
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["CpuClock", "CudaClock", "attach", "install_clock", "read_report"]

_ATTRIBUTE = "tenantry_report"
_MEMORY_EVERY_S = 0.25
_STATM = "/proc/self/statm"

_MOST_UNREAD = 64
"""Steps whose time is kept until it is taken. On a worker whose outputs vLLM does not ask for, it never is."""

_log = logging.getLogger("vllm.tenantry")

Report = tuple[int | None, int | None]
"""Nanoseconds that ended since the last report, and the most bytes allocated since the last one; None: not known."""


class StepClock(Protocol):
    """Times steps. One thread calls `begin` and `end`; `take` may come from another."""

    def begin(self) -> None:
        """Note that a step starts, unless it has."""

    def end(self) -> None:
        """Note that it has ended, or will, in the stream's order."""

    def take(self) -> int | None:
        """Return the nanoseconds of the steps that have ended since, None if none has."""


class CpuClock:
    """Wall time from the beginning of `execute_model` to the end of `sample_tokens`."""

    def __init__(self, now_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        self._now_ns = now_ns
        self._begin_ns: int | None = None
        self._ended: deque[int] = deque(maxlen=_MOST_UNREAD)

    def begin(self) -> None:
        """Begin."""
        if self._begin_ns is None:
            self._begin_ns = self._now_ns()

    def end(self) -> None:
        """End."""
        if self._begin_ns is not None:
            self._ended.append(self._now_ns() - self._begin_ns)
            self._begin_ns = None

    def take(self) -> int | None:
        """Return the time of the oldest step."""
        # One step an output, the oldest: outputs are made in the steps' order, perhaps behind them.
        return self._ended.popleft() if self._ended else None


class CudaClock:
    """Time on the stream between two events; `new_event` makes one that has record(), query() and elapsed_time()."""

    def __init__(self, new_event: Callable[[], Any]) -> None:
        self._new_event = new_event
        self._begin: Any = None
        self._pairs: deque[tuple[Any, Any]] = deque()
        self._free: deque[tuple[Any, Any]] = deque()

    def begin(self) -> None:
        """Record the first event."""
        if self._begin is None:
            self._begin, self._end = self._free.popleft() if self._free else (self._new_event(), self._new_event())
            self._begin.record()

    def end(self) -> None:
        """Record the second event."""
        if self._begin is not None:
            self._end.record()
            self._pairs.append((self._begin, self._end))
            if len(self._pairs) > _MOST_UNREAD:
                self._free.append(self._pairs.popleft())
            self._begin = None

    def take(self) -> int | None:
        """Return the time of the steps that the GPU is through with."""
        total: int | None = None
        while self._pairs and self._pairs[0][1].query():
            pair = self._pairs.popleft()
            total = (total or 0) + int(pair[0].elapsed_time(pair[1]) * 1e6)  # milliseconds, a float
            self._free.append(pair)
        return total


def read_report(result: Any) -> Report:
    """Return what the worker reported with a `ModelRunnerOutput`."""
    report: Report = getattr(result, _ATTRIBUTE, (None, None))
    return report


def attach(result: Any, report: Report) -> None:
    """Report with a `ModelRunnerOutput`."""
    setattr(result, _ATTRIBUTE, report)


class MemoryGauge:
    """The most memory allocated since it was last asked, at most every 0.25 s."""

    def __init__(self, read: Callable[[], int]) -> None:
        self._read = read
        self._next_s = 0.0

    def take(self) -> int | None:
        """Return it, None if it was asked just now."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return None
        self._next_s = now_s + _MEMORY_EVERY_S
        return self._read()


def resident_bytes() -> int:
    """Return the resident memory of this process (Linux): the second number of statm, in pages."""
    with open(_STATM, "rb") as file:  # noqa: PTH123 - four times a second
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cuda_peak_bytes() -> int:
    """Return the most that PyTorch's allocator held on the GPU since the last call."""
    import torch  # noqa: PLC0415 - vLLM's own, there alone

    peak = int(torch.cuda.max_memory_allocated())
    torch.cuda.reset_peak_memory_stats()
    return peak


def install_clock(worker: Any, device_type: str) -> None:
    """Wrap a worker's `execute_model` and `sample_tokens`."""
    clock: StepClock
    if device_type == "cuda":
        import torch  # noqa: PLC0415

        clock = CudaClock(lambda: torch.cuda.Event(enable_timing=True))
        gauge = MemoryGauge(cuda_peak_bytes)
    else:
        clock = CpuClock()
        gauge = MemoryGauge(resident_bytes)
    from vllm.v1.outputs import AsyncModelRunnerOutput  # noqa: PLC0415

    reporter = Reporter(clock, gauge, later=deferred(AsyncModelRunnerOutput))
    worker.execute_model = reporter.execute(worker.execute_model)
    worker.sample_tokens = reporter.sample(worker.sample_tokens)


def deferred(base: type) -> type:
    """Return a kind of output that is made later: `(inner, report)`, what `inner` makes goes through `report`.

    It holds the inner one, and is not held by it: a circle would keep its GPU memory until the next collection, on
    workers whose outputs nobody asks for.
    """

    def __init__(self: Any, inner: Any, report: Callable[[Any], Any]) -> None:  # noqa: N807
        self._inner, self._report = inner, report

    def get_output(self: Any) -> Any:
        return self._report(self._inner.get_output())

    return type("TimedOutput", (base,), {"__init__": __init__, "get_output": get_output})


class Reporter:
    """Wraps the two methods of a step. A fault here is logged once and leaves the output without a report.

    `later` is `deferred` of vLLM's class of outputs that are made later.
    """

    def __init__(self, clock: StepClock, gauge: MemoryGauge, *, later: type) -> None:
        self._clock = clock
        self._gauge = gauge
        self._later = later
        self._complained = False

    def execute(self, execute_model: Callable[..., Any]) -> Callable[..., Any]:
        """Begin a step here; end it here as well if there is an output already (pooling)."""

        @functools.wraps(execute_model)
        def timed(scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
            works = scheduler_output.total_num_scheduled_tokens > 0
            if works:
                self._safely(self._clock.begin)
            result = execute_model(scheduler_output, *args, **kwargs)
            return result if result is None or not works else self._ended(result)

        return timed

    def sample(self, sample_tokens: Callable[..., Any]) -> Callable[..., Any]:
        """End a step here if it makes tokens."""

        @functools.wraps(sample_tokens)
        def timed(*args: Any, **kwargs: Any) -> Any:
            return self._ended(sample_tokens(*args, **kwargs))

        return timed

    def report(self, result: Any) -> Any:
        """Attach what is known now, unless the output is the empty one that all steps share."""
        if result.req_ids:
            self._safely(lambda: attach(result, (self._clock.take(), self._gauge.take())))
        return result

    def _ended(self, result: Any) -> Any:
        self._safely(self._clock.end)
        if result is None:
            return result
        if hasattr(result, "get_output"):
            return self._later(result, self.report)
        return self.report(result)

    def _safely(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - the check must not break what it checks
            if not self._complained:
                self._complained = True
                _log.error(
                    "The worker's clock failed (%s); its times are missing from the spans.", type(error).__name__
                )
