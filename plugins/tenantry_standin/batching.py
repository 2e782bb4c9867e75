"""Continuous batching in simulated time: a state machine without a clock, a thread or a socket.

    submit ---> waiting --(schedule)--> prefill --(complete)--> decode --(complete)--> Finished
                   |                       |                       |
                   +-------- abort --------+-----------------------+-----------------> Finished (aborted)

As in vLLM, an engine step has two halves. `schedule(now)` picks the step's work and says how long it
takes; `complete(now)` hands out its tokens. What is submitted or aborted in between counts from the
next step on. A step holds at most `max_step_tokens` tokens: first one for each decoding sequence, then
prefill, in chunks, of sequences already running, then of waiting ones by (priority, arrival), lower
first, while fewer than `max_running` run.

Left out, because nothing here needs it: a limit of KV memory beyond the prefix cache, and therefore preemption.
Times are in milliseconds, on any clock that does not run backwards.
"""

import math
from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from msgspec import Struct
from tenantry.core.metering.meter import Work

from tenantry_standin.prefix_cache import PrefixCache, Prompt

FinishReason = Literal["stop", "length", "abort"]


class StepCost(Struct, frozen=True, kw_only=True):
    """How long a step takes: least squares over 214 steps of vLLM 0.32 on two CPU cores (R2 0.99)."""

    fixed_ms: float = 7.34
    prefill_token_ms: float = 0.073
    decode_sequence_ms: float = 0.215

    def step_ms(self, prefill_tokens: int, decode_sequences: int) -> float:
        """Return the time of a step at speed 1."""
        return self.fixed_ms + self.prefill_token_ms * prefill_tokens + self.decode_sequence_ms * decode_sequences


class Limits(Struct, frozen=True, kw_only=True):
    """The bounds of an engine, under vLLM's names where it has one (`max_num_seqs`, `max_num_batched_tokens`)."""

    max_running: int = 256
    max_step_tokens: int = 2048
    max_waiting: int = 4096
    max_cached_blocks: int = 16384

    def __post_init__(self) -> None:
        if self.max_running < 1 or self.max_waiting < 1 or self.max_cached_blocks < 0:
            raise ValueError("max_running and max_waiting must be at least 1, max_cached_blocks at least 0")
        if self.max_step_tokens < self.max_running:
            # Below it, a full batch of decodes would leave no budget to finish a prefill.
            raise ValueError(f"max_step_tokens must be at least max_running ({self.max_running})")


class Job(Struct, frozen=True, kw_only=True):
    """One sequence to generate. `id` is unique in the engine; `request_id` and `tenant` are only carried along.

    `output_tokens` may be 0 (embeddings: prefill only). The first token is held back until the
    prefill has taken `ttft_factor` times as long (at least 1), without slowing other sequences. Queueing
    is not multiplied: holding slots for the time spent waiting for slots would feed on itself.
    """

    id: int
    prompt: Prompt
    output_tokens: int
    priority: int = 0
    ttft_factor: float = 1.0
    finish_reason: FinishReason = "length"
    tenant: str = ""
    version: str = ""
    request_id: str = ""


class Finished(Struct, frozen=True, kw_only=True):
    """What one sequence came to: the material of a usage record.

    `queue_ms` runs from arrival to the first step, `ttft_ms` from arrival to the first token (None
    without one), `tpot_ms` is the mean between later tokens (None with fewer than two).
    """

    id: int
    request_id: str
    tenant: str
    version: str
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    queue_ms: float
    ttft_ms: float | None
    tpot_ms: float | None
    finish_reason: FinishReason
    aborted: bool


class Step(Struct, frozen=True, kw_only=True):
    """A scheduled step: when it ends, and what it computes until then."""

    ends_ms: float
    prefill_tokens: int
    decode_sequences: int


class Progress(Struct, frozen=True, kw_only=True):
    """What a completed step brought: the ids that got one more token each, and the sequences it finished."""

    tokens: tuple[int, ...]
    finished: tuple[Finished, ...]


class QueueFullError(Exception):
    """More than `max_waiting` sequences would wait."""


@dataclass(slots=True, kw_only=True)
class _Sequence:
    """A job on its way; what is None or infinite has not happened yet."""

    job: Job
    arrived_ms: float
    unprefilled_tokens: int
    admitted_ms: float = math.inf
    cached_tokens: int = 0
    output_tokens: int = 0
    first_token_due_ms: float | None = None
    first_token_ms: float | None = None
    last_token_ms: float | None = None

    def add_token(self, now_ms: float) -> None:
        self.output_tokens += 1
        self.last_token_ms = now_ms
        if self.first_token_ms is None:
            self.first_token_ms = now_ms

    def finished(self, now_ms: float, *, aborted: bool) -> Finished:
        ttft_ms = tpot_ms = None
        if self.first_token_ms is not None and self.last_token_ms is not None:
            ttft_ms = self.first_token_ms - self.arrived_ms
            if self.output_tokens > 1:
                tpot_ms = (self.last_token_ms - self.first_token_ms) / (self.output_tokens - 1)
        return Finished(
            id=self.job.id,
            request_id=self.job.request_id,
            tenant=self.job.tenant,
            version=self.job.version,
            prompt_tokens=self.job.prompt.tokens,
            cached_tokens=self.cached_tokens,
            output_tokens=self.output_tokens,
            queue_ms=min(now_ms, self.admitted_ms) - self.arrived_ms,
            ttft_ms=ttft_ms,
            tpot_ms=tpot_ms,
            finish_reason="abort" if aborted else self.job.finish_reason,
            aborted=aborted,
        )


class Batcher:
    """The scheduler of one engine.

    `cached` tells of the step under way: the ids that it admitted, each with how many of its tokens were cached.
    """

    def __init__(self, limits: Limits, cost: StepCost) -> None:
        self._limits = limits
        self._cost = cost
        self._cache = PrefixCache(limits.max_cached_blocks)
        self._sequences: dict[int, _Sequence] = {}
        self._queue: list[tuple[int, int]] = []  # (priority, id), sorted; ids grow with arrival
        self._running: dict[int, _Sequence] = {}  # in the order of admission
        self._last_id = -1
        self._in_step = False
        self._prefills: list[tuple[_Sequence, int]] = []
        self._decodes: list[_Sequence] = []
        self.cached: list[tuple[int, int]] = []

    @property
    def waiting(self) -> int:
        """Sequences that no step has worked on yet."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Sequences that hold one of the `max_running` slots."""
        return len(self._running)

    def submit(self, job: Job, now_ms: float) -> None:
        """Put a job into the queue; raise QueueFullError if it is full. Ids must grow."""
        if job.id <= self._last_id:
            raise ValueError(f"job id {job.id} is not greater than the last one, {self._last_id}")
        if len(self._queue) >= self._limits.max_waiting:
            raise QueueFullError(f"{self._limits.max_waiting} requests are waiting already")
        self._last_id = job.id
        self._sequences[job.id] = _Sequence(job=job, arrived_ms=now_ms, unprefilled_tokens=job.prompt.tokens)
        insort(self._queue, (job.priority, job.id))

    def abort(self, job_id: int, now_ms: float) -> Finished | None:
        """Drop a sequence wherever it is and free its slot; None if it has finished already."""
        sequence = self._sequences.pop(job_id, None)
        if sequence is None:
            return None
        if self._running.pop(job_id, None) is None:
            del self._queue[bisect_left(self._queue, (sequence.job.priority, job_id))]
        return sequence.finished(now_ms, aborted=True)

    def schedule(self, now_ms: float, *, speed: float = 1.0) -> Step | None:
        """Choose the work of the step that starts now, `speed` times as fast as `StepCost`; None if there is none."""
        if self._in_step:
            raise RuntimeError("schedule() while a step is under way: call complete() first")
        self.cached = []
        self._decodes = [sequence for sequence in self._running.values() if sequence.output_tokens]
        self._prefills = list(self._prefill_work(self._limits.max_step_tokens - len(self._decodes), now_ms))
        if not self._running:
            return None
        self._in_step = True
        prefill_tokens = sum(tokens for _, tokens in self._prefills)
        ends_ms = now_ms + self._cost.step_ms(prefill_tokens, len(self._decodes)) / speed
        if not (self._prefills or self._decodes):
            # All that run are held back by their ttft_factor: sleep no longer than the first of them.
            ends_ms = min(ends_ms, max(now_ms, min(due for _, due in self._held())))
        return Step(ends_ms=ends_ms, prefill_tokens=prefill_tokens, decode_sequences=len(self._decodes))

    def works(self, kv_bytes_per_token: int) -> list[Work]:
        """Return what each sequence has to do in the step under way, for the meter; their keys are the ids of the jobs.

        Sequences held back by their `ttft_factor` are not in it: they cost nothing.
        """
        works = []
        for sequence, tokens in self._prefills:
            before = sequence.job.prompt.tokens - sequence.unprefilled_tokens
            works.append(
                Work(
                    key=str(sequence.job.id),
                    prefill_tokens=tokens,
                    context_tokens=tokens * before + tokens * (tokens + 1) // 2,
                    kv_bytes=kv_bytes_per_token * (before + tokens),
                )
            )
        for sequence in self._decodes:
            length = sequence.job.prompt.tokens + sequence.output_tokens
            works.append(
                Work(
                    key=str(sequence.job.id),
                    decode_tokens=1,
                    context_tokens=length,
                    kv_bytes=kv_bytes_per_token * length,
                )
            )
        return works

    def complete(self, now_ms: float) -> Progress:
        """End the step under way; `now_ms` is when its tokens exist, about `Step.ends_ms`."""
        if not self._in_step:
            raise RuntimeError("complete() without a step: call schedule() first")
        self._in_step = False
        for sequence, tokens in self._prefills:
            sequence.unprefilled_tokens -= tokens
            if not sequence.unprefilled_tokens:
                self._cache.insert(sequence.job.prompt)
                prefill_ms = now_ms - sequence.admitted_ms
                sequence.first_token_due_ms = now_ms + (sequence.job.ttft_factor - 1) * prefill_ms
        decoded = [sequence for sequence in self._decodes if sequence.job.id in self._running]
        stepped = decoded + [sequence for sequence, due_ms in self._held() if due_ms <= now_ms]
        tokens_for, finished = [], []
        for sequence in stepped:
            if sequence.job.output_tokens:
                sequence.add_token(now_ms)
                tokens_for.append(sequence.job.id)
            if sequence.output_tokens >= sequence.job.output_tokens:
                del self._running[sequence.job.id], self._sequences[sequence.job.id]
                finished.append(sequence.finished(now_ms, aborted=False))
        return Progress(tokens=tuple(tokens_for), finished=tuple(finished))

    def _held(self) -> Iterator[tuple[_Sequence, float]]:
        """Yield the sequences between prefill and first token, each with the time that token is due."""
        for sequence in self._running.values():
            if sequence.first_token_due_ms is not None and not sequence.output_tokens:
                yield sequence, sequence.first_token_due_ms

    def _prefill_work(self, budget: int, now_ms: float) -> Iterator[tuple[_Sequence, int]]:
        """Yield (sequence, tokens) until the budget is spent, admitting from the queue on the way."""
        for sequence in self._running.values():
            if sequence.unprefilled_tokens:
                tokens = min(budget, sequence.unprefilled_tokens)
                budget -= tokens
                yield sequence, tokens
        while budget and self._queue and len(self._running) < self._limits.max_running:
            sequence = self._admit(now_ms)
            tokens = min(budget, sequence.unprefilled_tokens)
            budget -= tokens
            yield sequence, tokens

    def _admit(self, now_ms: float) -> _Sequence:
        _, job_id = self._queue.pop(0)
        sequence = self._running[job_id] = self._sequences[job_id]
        sequence.admitted_ms = now_ms
        sequence.cached_tokens = self._cache.match(sequence.job.prompt)
        sequence.unprefilled_tokens -= sequence.cached_tokens
        self.cached.append((job_id, sequence.cached_tokens))
        return sequence
