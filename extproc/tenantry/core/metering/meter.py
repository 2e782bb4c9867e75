"""The accounts of one engine: steps in, usage records out (invariant 6).

    arrived --> scheduled (in steps) --> freed, and its last step done --> final record
                     |
                     +--(every `part_ns`)--> a part

Theory of operation. An engine plans a step (`scheduled`), runs it, and tells when its output is there (`done`). With
asynchronous scheduling the next step is planned before the last one is done, so a step's time is from
`max(planned, the last one's end)` to its own end: those stretches do not overlap, and their sum is the busy time. Each
is divided among the requests in the step by weight, in whole nanoseconds, by largest remainder: the shares add up to
the step's time exactly.

A request's record is written when it has been freed *and* no step holds it any more: what an aborted request had in
flight is its own. Records wait in the meter until `collect`.
"""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from tenantry.core.usage import ColdStart, FinishReason, Record


class EngineIdentity(Struct, frozen=True, kw_only=True):
    """Who the records are from. `engine` is unique to the process's start; `gpus` are all it occupies (TP x PP)."""

    engine: str
    model: str
    version: str
    gpus: int = 1


class Arrival(Struct, frozen=True, kw_only=True):
    """A request as it comes to the scheduler. `tenant` is empty for one that bears no stamp."""

    request_id: str
    attempt: int = 1
    mirror: bool = False
    sequence: int = 0
    tenant: str = ""
    tier: str = ""
    adapter: str | None = None
    priority: int = 0
    input_tokens: int = 0


class Work(Struct, frozen=True, kw_only=True):
    """One request's part of one step.

    `key` is the engine's own id of the request. `prefill_tokens` are computed prompt tokens (recomputed ones too),
    `decode_tokens` those beyond. `context_tokens` is the number of (token, attended token) pairs: what attention
    costs. `kv_bytes` is the KV-cache memory it holds in the step.
    """

    key: str
    prefill_tokens: int = 0
    decode_tokens: int = 0
    context_tokens: int = 0
    kv_bytes: int = 0


class Clock(Protocol):
    """Turns the meter's nanoseconds into Unix seconds."""

    def __call__(self, now_ns: int) -> float:
        """Return the Unix time."""


class Meter:
    """One engine's accounts. Not for two threads at once: the caller has a lock if it needs one.

    `part_ns` is how often a request that goes on, and the engine itself, write a part.
    """

    def arrived(self, key: str, arrival: Arrival, now_ns: int) -> None:
        """Open an account. A key that has one already keeps it (a preempted request comes back)."""
        raise NotImplementedError

    def scheduled(self, step: int, works: Sequence[Work], now_ns: int) -> None:
        """Note a step that was planned; `step` is any number that no other open step has."""
        raise NotImplementedError

    def done(self, step: int, now_ns: int, worker_ns: int | None = None) -> None:
        """Divide a step's time among its requests; `worker_ns` is the workers' own time for it, of one GPU."""
        raise NotImplementedError

    def cached(self, key: str, cached_tokens: int) -> None:
        """Note how many prompt tokens a prefix cache saved; once a request."""
        raise NotImplementedError

    def produced(self, key: str, tokens: Sequence[int], now_ns: int) -> None:
        """Note output tokens, by their ids, at the time they were there."""
        raise NotImplementedError

    def preempted(self, key: str) -> None:
        """Note that a running request lost its place, and its KV cache with it."""
        raise NotImplementedError

    def freed(self, key: str, reason: FinishReason, now_ns: int) -> None:
        """Close an account: nothing more will be scheduled for it. The record comes with its last step."""
        raise NotImplementedError

    def memory(self, peak_bytes: int) -> None:
        """Note the engine's memory, the most since the last call."""
        raise NotImplementedError

    def cold_start(self, record: ColdStart) -> None:
        """Take in how the engine started; spans begin where it ended."""
        raise NotImplementedError

    def tick(self, now_ns: int) -> None:
        """Write the parts that are due, also while nothing runs; call about once a second."""
        raise NotImplementedError

    def collect(self) -> list[Record]:
        """Take the records that are ready."""
        raise NotImplementedError

    def close(self, now_ns: int) -> list[Record]:
        """End the engine: open accounts end as `abort`, the last span ends now; return all that is left."""
        raise NotImplementedError
