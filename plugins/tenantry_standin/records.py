"""The usage record of one attempt at a request (tenantry.core.usage): a function of what is known at its end.

The figures are those of a simulation, and the engine's id says so: it begins with `stand-in-`. What a real engine could
not know is not in them either: a request that hangs until its client (or Envoy) leaves is an `abort`, since to the
engine a client that lost patience looks like one that changed its mind. What the client did wrong (4xx) leaves none.
"""

import random
from collections.abc import Mapping, Sequence
from enum import Enum
from hashlib import blake2b
from itertools import pairwise

from msgspec import Struct
from tenantry.core.usage import FinishReason, UsageRecord

from tenantry_standin.batching import Finished, Job

ENGINE_PREFIX = "stand-in-"

_MAX_NAME = 128
_MAX_ATTEMPT = 100
_PROMPT_NOISE, _ATTEMPT_NOISE = 0.1, 0.02


class Ended(Enum):
    """How an attempt ended, apart from what its sequence says."""

    SERVED = "served"
    LEFT = "left"
    FAILED = "failed"


class Attempt(Struct, frozen=True, kw_only=True):
    """What is known of an attempt when it arrives, from the sidecar's stamp and from Envoy's headers."""

    request_id: str
    tenant: str
    model: str
    number: int = 1
    mirror: bool = False
    adapter: str | None = None
    priority: int = 0
    input_tokens: int = 0


class Result(Struct, frozen=True, kw_only=True):
    """What is known when it ends. `finished` is None for one that never reached the batch. Times as in UsageRecord."""

    ended: Ended
    ended_s: float
    duration_ms: float
    finished: Finished | None = None
    words: Sequence[str] = ()
    mean_log_probability: float = 0.0


def engine_id(name: str, suffix: str) -> str:
    """Return an engine's id: `stand-in-NAME-SUFFIX`, the name cut so that the suffix, unique to the start, stays."""
    return f"{ENGINE_PREFIX}{name[: _MAX_NAME - len(ENGINE_PREFIX) - len(suffix) - 1]}-{suffix}"


def read_attempt(headers: Mapping[str, str], arguments: Mapping[str, object], job: Job, *, model: str) -> Attempt:
    """Read an attempt; `arguments` are the body's `vllm_xargs`, `job` bears tenant and request id already.

    The model is the one of the rules (`x-tenantry-model`), which the engine may serve under another name.
    """
    adapter = arguments.get("adapter")
    return Attempt(
        request_id=job.request_id[:_MAX_NAME],
        tenant=job.tenant[:_MAX_NAME],
        model=headers.get("x-tenantry-model", model)[:_MAX_NAME],
        number=_attempt_number(headers.get("x-envoy-attempt-count", "")),
        mirror=headers.get("x-tenantry-mirror") == "1",
        adapter=adapter[:_MAX_NAME] if isinstance(adapter, str) else None,
        priority=job.priority,
        input_tokens=job.prompt.tokens,
    )


def usage_record(attempt: Attempt, result: Result, *, engine: str, version: str) -> UsageRecord:
    """Return the record; `engine` and `version` are the engine's own, whatever the request was stamped with."""
    finished = result.finished
    tokens = finished.output_tokens if finished else 0
    return UsageRecord(
        request_id=attempt.request_id,
        engine=engine,
        attempt=attempt.number,
        mirror=attempt.mirror,
        tenant=attempt.tenant,
        model=attempt.model,
        version=version[:_MAX_NAME],
        adapter=attempt.adapter,
        priority=attempt.priority,
        ended_s=result.ended_s,
        finish_reason=_finish_reason(result),
        input_tokens=attempt.input_tokens,
        cached_tokens=finished.cached_tokens if finished else 0,
        output_tokens=tokens,
        queue_ms=max(0.0, finished.queue_ms) if finished else 0.0,
        ttft_ms=finished.ttft_ms if finished else None,
        time_per_token_ms=finished.tpot_ms if finished else None,
        duration_ms=max(0.0, result.duration_ms),
        repetition=repetition(result.words),
        mean_log_probability=min(0.0, result.mean_log_probability) if tokens else None,
    )


def repetition(words: Sequence[str]) -> float | None:
    """Return the share of words that equal the word before, None without words."""
    return sum(a == b for a, b in pairwise(words)) / len(words) if words else None


def log_probability(mean: float, prompt: bytes, rng: random.Random) -> float:
    """Draw an answer's mean log-probability.

    The larger part of its noise belongs to the prompt, so that a mirrored pair shares it, the rest to the attempt.
    """
    shared = random.Random(blake2b(prompt, digest_size=8).digest())  # noqa: S311 - noise, not a secret
    return min(0.0, mean + shared.gauss(0.0, _PROMPT_NOISE) + rng.gauss(0.0, _ATTEMPT_NOISE))


def _finish_reason(result: Result) -> FinishReason:
    if result.ended is Ended.FAILED:
        return "error"
    if result.finished is not None and not result.finished.aborted:
        return result.finished.finish_reason  # complete, even if the client left with the last word on its way
    return "abort" if result.ended is Ended.LEFT else "error"


def _attempt_number(text: str) -> int:
    """Read `x-envoy-attempt-count`; 1 for anything but a number that a record may bear."""
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 3 else 1
    return number if 1 <= number <= _MAX_ATTEMPT else 1
