"""The stretches of an engine's life: each says how long it was and how much of it the GPUs were busy."""

from tenantry.core.metering.account import EngineIdentity
from tenantry.core.usage import EngineSpan


class Spans:
    """Makes spans that tile the time from `start_ns` on. Steps are noted when they are done."""

    __slots__ = ("_busy_gpu_ns", "_identity", "_part", "_steps", "_worker_ns", "_worker_steps", "start_ns")

    def __init__(self, identity: EngineIdentity, start_ns: int) -> None:
        self.start_ns = start_ns
        self._identity = identity
        self._part = 0
        self._begin(start_ns)

    def add(self, gpu_ns: int, worker_ns: int | None) -> None:
        """Note a step; `worker_ns` is the workers' own time for it, of one GPU."""
        self._busy_gpu_ns += gpu_ns
        self._steps += 1
        if worker_ns is not None:
            self._worker_ns += worker_ns
            self._worker_steps += 1

    def end(self, end_ns: int, ended_s: float) -> EngineSpan | None:
        """End the span where the next begins; None if it would be empty.

        The workers' time stands there only if they gave it for every step: else it could be compared with nothing.
        """
        wall_ns = end_ns - self.start_ns
        if wall_ns <= 0:
            return None
        identity, complete = self._identity, 0 < self._steps == self._worker_steps
        self._part += 1
        span = EngineSpan(
            engine=identity.engine,
            model=identity.model,
            version=identity.version,
            gpus=identity.gpus,
            part=self._part,
            ended_s=ended_s,
            wall_ns=wall_ns,
            busy_gpu_ns=self._busy_gpu_ns,
            worker_gpu_ns=self._worker_ns * identity.gpus if complete else None,
        )
        self._begin(end_ns)
        return span

    def _begin(self, start_ns: int) -> None:
        self.start_ns = start_ns
        self._busy_gpu_ns = self._steps = self._worker_ns = self._worker_steps = 0
