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
from tenantry_standin.metering import KV_BYTES_PER_TOKEN, ColdStartCost, EngineMeter
from tenantry_standin.text import token_id

_MAX_LATE_MS = 20.0
"""Beyond this, a starved event loop makes the engine slow instead of making it rush afterwards."""


class EngineConfig(Struct, frozen=True, kw_only=True):
    """One engine: a model in one version. `api_key` empty: none is asked for. Times in seconds.

    `engine_name` is the middle of the id in its usage records, `stand-in-NAME-` and 8 digits drawn at the start; empty
    means MODEL-VERSION. `gpus` are those it is said to occupy.
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
    gpus: int = 1
    limits: Limits = Limits()
    cost: StepCost = StepCost()
    cold_start: ColdStartCost = ColdStartCost()

    def names(self) -> tuple[str, ...]:
        """Return every model name it answers to, its own first."""
        return tuple(dict.fromkeys((self.model, *self.served_names)))


class Log(Protocol):
    """Writes one line: an event and its fields, never a prompt or a key."""

    def __call__(self, event: str, /, **fields: object) -> None:
        """Write it."""


class TokenStream:
    """How far one sequence has come: words that wait to be taken, one a token, and its end.

    `text` has the words to come, `log_probability` is said to be that of each.
    """

    def __init__(self, text: Iterator[str], log_probability: float) -> None:
        self.log_probability = log_probability
        self._text = text
        self._ready: list[str] = []
        self._closed = False
        self._changed = asyncio.Event()
        self.finished: Finished | None = None

    def add_token(self) -> int:
        """Make one more word ready; return its token's id."""
        word = next(self._text)
        self._ready.append(word)
        self._changed.set()
        return token_id(word)

    def close(self, finished: Finished | None) -> None:
        """End the stream: with the sequence's result, or with None when the engine stopped under it."""
        self.finished = finished
        self._closed = True
        self._changed.set()

    async def take(self) -> list[str]:
        """Wait for words and return those that came since the last call; none at the end."""
        while not (self._ready or self._closed):
            self._changed.clear()
            await self._changed.wait()
        taken, self._ready = self._ready, []
        return taken

    def result(self) -> Finished:
        """Return what the sequence came to, once `take` has returned none; raise ApiError 503 if the engine stopped."""
        if self.finished is None:
            raise ApiError(503, "The stand-in engine stopped.")
        return self.finished


class Engine:
    """Runs sequences. `on_finished` sees each once, aborted ones too; `meter` is told of all steps and tokens.

    `totals` counts what has finished (and, for the server, attempts and records) since the start.
    """

    def __init__(self, config: EngineConfig, meter: EngineMeter, on_finished: Callable[[Finished], None]) -> None:
        self.behaviour = config.behaviour
        self.totals: Counter[str] = Counter()
        self.meter = meter
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
    def sequence(self, job: Job, text: Iterator[str], log_probability: float) -> Iterator[TokenStream]:
        """Submit a job and follow it; leaving early, however it happens, aborts it and frees its slot.

        Its tokens are the words of `text`.
        """
        self._batcher.submit(job, _now_ms())
        stream = self._streams[job.id] = TokenStream(text, log_probability)
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
                self.meter.step_begins(self._batcher.works(KV_BYTES_PER_TOKEN), self._batcher.cached)
                # Event loops sleep in whole milliseconds: what one sleep took too long, the next gives back.
                wake_ms = step.ends_ms - late_ms
                await asyncio.sleep((wake_ms - started_ms) / 1000)
                now_ms = _now_ms()
                late_ms = min(max(now_ms - wake_ms, 0.0), _MAX_LATE_MS)
                self.meter.step_ends()
                self._complete(now_ms)
        finally:
            self._stopped = True
            for stream in self._streams.values():
                stream.close(None)

    def _complete(self, now_ms: float) -> None:
        progress = self._batcher.complete(now_ms)
        for job_id in progress.tokens:
            stream = self._streams[job_id]
            self.meter.produced(job_id, stream.add_token(), stream.log_probability)
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
