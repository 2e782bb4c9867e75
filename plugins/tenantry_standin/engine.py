"""The engine: plays the batcher's simulated steps in real time and hands each sequence its tokens."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Protocol

from msgspec import Struct

from tenantry_standin.batching import Batcher, Finished, Job, Limits, StepCost
from tenantry_standin.behaviour import Behaviour
from tenantry_standin.bodies import ApiError

_MAX_LATE_MS = 20.0
"""Beyond this, a starved event loop makes the engine slow instead of making it rush afterwards."""


class EngineConfig(Struct, frozen=True, kw_only=True):
    """One engine: a model in one version. `api_key` empty: none is asked for. Times in seconds.

    `engine_name` is the middle of the id in its usage records, `stand-in-NAME-` and 8 digits drawn at the start; empty
    means MODEL-VERSION.
    """

    model: str
    version: str
    served_names: tuple[str, ...] = ()
    api_key: str = ""
    engine_name: str = ""
    behaviour: Behaviour = Behaviour()
    seed: int = 0
    default_output_tokens: int = 64
    max_model_tokens: int = 131_072
    max_body_bytes: int = 8 << 20
    drain_s: float = 0.0
    limits: Limits = Limits()
    cost: StepCost = StepCost()

    def names(self) -> tuple[str, ...]:
        """Return every model name it answers to, its own first."""
        return tuple(dict.fromkeys((self.model, *self.served_names)))


class Log(Protocol):
    """Writes one line: an event and its fields, never a prompt or a key."""

    def __call__(self, event: str, /, **fields: object) -> None:
        """Write it."""


class TokenStream:
    """How far one sequence has come: tokens that wait to be taken, and its end."""

    def __init__(self) -> None:
        self._ready = 0
        self._closed = False
        self._changed = asyncio.Event()
        self.finished: Finished | None = None

    def add_token(self) -> None:
        """Make one more token ready."""
        self._ready += 1
        self._changed.set()

    def close(self, finished: Finished | None) -> None:
        """End the stream: with the sequence's result, or with None when the engine stopped under it."""
        self.finished = finished
        self._closed = True
        self._changed.set()

    async def take(self) -> int:
        """Wait for tokens and return how many came since the last call; 0 at the end."""
        while not (self._ready or self._closed):
            self._changed.clear()
            await self._changed.wait()
        taken, self._ready = self._ready, 0
        return taken

    def result(self) -> Finished:
        """Return what the sequence came to, once `take` has returned 0; raise ApiError 503 if the engine stopped."""
        if self.finished is None:
            raise ApiError(503, "The stand-in engine stopped.")
        return self.finished


class Engine:
    """Runs sequences. `on_finished` sees each once, aborted ones too.

    `totals` counts what has finished (and, for the server, attempts and records), `busy_seconds` the time in steps,
    both since the start.
    """

    def __init__(self, config: EngineConfig, on_finished: Callable[[Finished], None]) -> None:
        self.behaviour = config.behaviour
        self.totals: Counter[str] = Counter()
        self.busy_seconds = 0.0
        self._batcher = Batcher(config.limits, config.cost)
        self._on_finished = on_finished
        self._streams: dict[int, TokenStream] = {}
        self._ids = count()
        self._work = asyncio.Event()
        self._stopped = False

    @property
    def waiting(self) -> int:
        """Sequences in the queue."""
        return self._batcher.waiting

    @property
    def running(self) -> int:
        """Sequences in a slot of the batch."""
        return self._batcher.running

    def next_id(self) -> int:
        """Return an id for a `Job`, to be submitted before the next is drawn."""
        return next(self._ids)

    @contextmanager
    def sequence(self, job: Job) -> Iterator[TokenStream]:
        """Submit a job and follow it; leaving early, however it happens, aborts it and frees its slot."""
        self._batcher.submit(job, _now_ms())
        stream = self._streams[job.id] = TokenStream()
        if self._stopped:
            stream.close(None)
        self._work.set()
        try:
            yield stream
        finally:
            self._streams.pop(job.id, None)
            if (aborted := self._batcher.abort(job.id, _now_ms())) is not None:
                stream.finished = aborted
                self._report(aborted)

    async def run(self) -> None:
        """Step until cancelled."""
        late_ms = 0.0
        try:
            while True:
                started_ms = _now_ms()
                step = self._batcher.schedule(started_ms, speed=self.behaviour.speed)
                if step is None:
                    self._work.clear()
                    await self._work.wait()
                    late_ms = 0.0
                    continue
                # Event loops sleep in whole milliseconds: what one sleep took too long, the next gives back.
                wake_ms = step.ends_ms - late_ms
                await asyncio.sleep((wake_ms - started_ms) / 1000)
                now_ms = _now_ms()
                late_ms = min(max(now_ms - wake_ms, 0.0), _MAX_LATE_MS)
                self.busy_seconds += (now_ms - started_ms) / 1000
                self._complete(now_ms)
        finally:
            self._stopped = True
            for stream in self._streams.values():
                stream.close(None)

    def _complete(self, now_ms: float) -> None:
        progress = self._batcher.complete(now_ms)
        for job_id in progress.tokens:
            self._streams[job_id].add_token()
        for finished in progress.finished:
            self._streams.pop(finished.id).close(finished)
            self._report(finished)

    def _report(self, finished: Finished) -> None:
        self.totals.update(
            finished=1,
            aborted=int(finished.aborted),  # an empty Counter would keep the bool
            prompt_tokens=finished.prompt_tokens,
            cached_tokens=finished.cached_tokens,
            output_tokens=finished.output_tokens,
        )
        self._on_finished(finished)


def _now_ms() -> float:
    return asyncio.get_running_loop().time() * 1000
