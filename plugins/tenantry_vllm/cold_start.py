"""What it took until this engine could serve: the phases of its start, and the GPUs held meanwhile.

    API server's process starts --> ... --> EngineCore's scheduler is built: ready
      other | download | load | other | warm_up | capture | other

The workers time their phases (`install_phases`), and EngineCore asks them once the last is over. Tensor- and
pipeline-parallel workers go through them together; the slowest one counts. What is in no phase is `other`: starting
Python, importing, asking the device.

The start is that of the API server's process, from which on the GPUs are taken: `note_process_start` puts it into the
environment, which EngineCore inherits. The clock is `CLOCK_BOOTTIME`, which /proc counts by.
"""

import functools
import logging
import os
import time
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

from tenantry.core.usage import ColdStart

__all__ = ["Phases", "cold_start_record", "install_phases", "note_process_start", "take_phases"]

STARTED = "TENANTRY_STARTED_NS"
PHASES = ("download", "load", "warm_up", "capture")

Phases = dict[str, int]
"""Nanoseconds by phase; those of a worker do not overlap."""

_LONGEST_NS = 24 * 3600 * 1_000_000_000

_log = logging.getLogger("vllm.tenantry")


class Stopwatch:
    """Times phases that may lie within one another: the inner one's time is not the outer one's."""

    def __init__(self, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self.phases: Phases = {}
        self._now_ns = now_ns
        self._open: list[tuple[str, int]] = []

    def timed(self, phase: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed."""

        @functools.wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._switch(phase)
            try:
                return call(*args, **kwargs)
            finally:
                self._back()

        return timed

    def _switch(self, phase: str) -> None:
        now_ns = self._now_ns()
        self._settle(now_ns)
        self._open.append((phase, now_ns))

    def _back(self) -> None:
        now_ns = self._now_ns()
        self._settle(now_ns)
        self._open.pop()
        if self._open:
            self._open[-1] = (self._open[-1][0], now_ns)

    def _settle(self, now_ns: int) -> None:
        if self._open:
            phase, since_ns = self._open[-1]
            self.phases[phase] = self.phases.get(phase, 0) + now_ns - since_ns


stopwatch = Stopwatch()
"""This process's."""

reports: list[Phases] = []
"""In EngineCore: what its workers reported."""


def note_process_start(environment: MutableMapping[str, str] = os.environ) -> None:
    """Put this process's start into the environment, unless a parent did."""
    if STARTED not in environment:
        environment[STARTED] = str(process_start_ns())


def process_start_ns() -> int:
    """Return when this process began, by CLOCK_BOOTTIME; the present where /proc does not tell."""
    now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    try:
        with open("/proc/self/stat", "rb") as file:  # noqa: PTH123
            ticks = int(file.read().rpartition(b")")[2].split()[19])  # field 22, starttime; field 2 may hold blanks
        started_ns = ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return now_ns
    return started_ns if 0 <= now_ns - started_ns <= _LONGEST_NS else now_ns


def age_ns(environment: MutableMapping[str, str] = os.environ) -> int:
    """Return how long ago the engine's first process began."""
    now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    text = environment.get(STARTED, "")
    started_ns = int(text) if text.isdecimal() else process_start_ns()
    age = now_ns - started_ns
    return age if 0 <= age <= _LONGEST_NS else now_ns - process_start_ns()


def install_phases(worker: Any) -> None:
    """Time the phases of a worker that was just made."""
    from vllm.model_executor.model_loader.default_loader import DefaultModelLoader as Loader  # noqa: PLC0415

    if not getattr(Loader, "_tenantry", False):
        Loader._tenantry = True  # noqa: SLF001
        Loader._prepare_weights = stopwatch.timed("download", Loader._prepare_weights)  # noqa: SLF001
    worker.load_model = stopwatch.timed("load", worker.load_model)
    worker.determine_available_memory = stopwatch.timed("warm_up", worker.determine_available_memory)
    warm_up = stopwatch.timed("warm_up", worker.compile_or_warm_up_model)

    @functools.wraps(warm_up)
    def compile_or_warm_up_model(*args: Any, **kwargs: Any) -> Any:
        runner = worker.model_runner  # made after the worker was
        if (capture := getattr(runner, "capture_model", None)) is not None:
            runner.capture_model = stopwatch.timed("capture", capture)
        return warm_up(*args, **kwargs)

    worker.compile_or_warm_up_model = compile_or_warm_up_model


def take_phases(_worker: Any) -> Phases:
    """Return this worker's phases; called in it by `Executor.collective_rpc`."""
    return stopwatch.phases


def install_report() -> None:
    """In EngineCore: ask the workers for their phases when they are warm."""
    from vllm.v1.executor.abstract import Executor  # noqa: PLC0415

    if getattr(Executor, "_tenantry", False):
        return
    Executor._tenantry = True  # noqa: SLF001
    warm_up = Executor.compile_or_warm_up_model

    @functools.wraps(warm_up)
    def compile_or_warm_up_model(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = warm_up(self, *args, **kwargs)
        try:
            reports[:] = self.collective_rpc(take_phases)
        except Exception as error:  # noqa: BLE001 - how long which phase took is not worth a failed start
            _log.error("The phases of the cold start are not known (%s).", type(error).__name__)
        return result

    Executor.compile_or_warm_up_model = compile_or_warm_up_model


def cold_start_record(
    *, engine: str, model: str, version: str, gpus: int, ended_s: float, wall_ns: int, phases: Sequence[Phases]
) -> ColdStart:
    """Return the record of a start of `wall_ns`; its phases add up to that, whatever the workers reported."""
    slowest = max(phases, key=lambda report: sum(report.values()), default={})
    left = wall_ns
    told: Phases = {}
    for phase in PHASES:
        told[phase] = min(left, max(0, slowest.get(phase, 0)))
        left -= told[phase]
    return ColdStart(
        engine=engine,
        model=model,
        version=version,
        gpus=gpus,
        ended_s=ended_s,
        download_ns=told["download"],
        load_ns=told["load"],
        warm_up_ns=told["warm_up"],
        capture_ns=told["capture"],
        other_ns=left,
    )
