"""The stand-in's accounts: the meter that real engines have (`tenantry.core.metering`), fed by simulated steps.

How a step's time is divided, learned from and written to records is real. The time itself is that of a simulation, and
so are the cold start and the KV cache that there would be; the engine's id in each record says so.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

from msgspec import Struct
from tenantry.core.metering.meter import PART_NS, Arrival, EngineIdentity, Meter, Work
from tenantry.core.metering.weights import flops_weights
from tenantry.core.usage import ColdStart, FinishReason, Record

TICK_S = 1.0

Deliver = Callable[[Record], None]
"""Takes a record on its way: to the spool and the sidecars, or wherever a test wants it. Must not raise."""

_MODEL = flops_weights(parameters=8e9, layers=32, heads=32, head_size=128)
"""What divides the first steps: the model that the KV cache is of, too (8 billion parameters, 8 of 32 heads cached)."""

KV_BYTES_PER_TOKEN = 2 * 32 * 8 * 128 * 2


class ColdStartCost(Struct, frozen=True, kw_only=True):
    """How long a start is said to have taken, at speed 1: vLLM with a tiny model on two CPU cores was ready in 28 s."""

    load_ms: float = 9_000.0
    warm_up_ms: float = 15_000.0
    other_ms: float = 4_000.0


class EngineMeter:
    """The accounts of one engine in the running loop; `deliver` gets each record once it is ready.

    Requests are known by the ids of their jobs.
    """

    def __init__(self, identity: EngineIdentity, cold: ColdStartCost, speed: float, deliver: Deliver) -> None:
        now_ns = self._now_ns()
        self._deliver = deliver
        self._step = 0
        self._works = False
        self._closed = False
        self.meter = Meter(identity, _MODEL, self._unix_s, start_ns=now_ns, part_ns=PART_NS)
        self.meter.cold_start(_cold_start(identity, cold, speed, ended_s=self._unix_s(now_ns)), now_ns)

    @property
    def busy_seconds(self) -> float:
        """Time in steps since the start."""
        return self.meter.busy_gpu_ns / self.meter.identity.gpus / 1e9

    def arrived(self, job_id: int, arrival: Arrival) -> None:
        """Open a request's account."""
        self.meter.arrived(str(job_id), arrival, self._now_ns())

    def step_begins(self, works: Sequence[Work], cached: Sequence[tuple[int, int]]) -> None:
        """Note a step, and how many tokens of each prompt that it begins were cached."""
        for job_id, tokens in cached:
            self.meter.cached(str(job_id), tokens)
        self._step += 1
        self._works = bool(works)
        self.meter.scheduled(self._step, works, self._now_ns())

    def step_ends(self) -> None:
        """Divide the step that began last, if there was work in it."""
        if self._works:
            self.meter.done(self._step, self._now_ns())
            self._collect()

    def produced(self, job_id: int, token: int, log_probability: float) -> None:
        """Note a token."""
        self.meter.produced(str(job_id), (token,), self._now_ns(), log_probability=log_probability)

    def ended(self, job_id: int, reason: FinishReason) -> None:
        """Close a request's account; its record comes with the end of the step that it is in."""
        self.meter.freed(str(job_id), reason, self._now_ns())
        self._collect()

    async def run(self) -> None:
        """Write what is due every TICK_S, until cancelled; the cold start at once."""
        while True:
            self.meter.tick(self._now_ns())
            self._collect()
            await asyncio.sleep(TICK_S)

    def close(self) -> None:
        """Write what is left; the engine's life ends here, once."""
        if not self._closed:
            self._closed = True
            for record in self.meter.close(self._now_ns()):
                self._deliver(record)

    def _collect(self) -> None:
        for record in self.meter.collect():
            self._deliver(record)

    def _now_ns(self) -> int:
        return int(asyncio.get_running_loop().time() * 1e9)

    def _unix_s(self, now_ns: int) -> float:
        return time.time() - (self._now_ns() - now_ns) / 1e9


def _cold_start(identity: EngineIdentity, cost: ColdStartCost, speed: float, *, ended_s: float) -> ColdStart:
    load, warm_up, other = (round(ms * 1e6 / speed) for ms in (cost.load_ms, cost.warm_up_ms, cost.other_ms))
    return ColdStart(
        engine=identity.engine,
        model=identity.model,
        version=identity.version,
        gpus=identity.gpus,
        ended_s=ended_s,
        load_ns=load,
        warm_up_ns=warm_up,
        other_ns=other,
    )
