"""What a usage record says of an attempt beyond what the meter measures: whose it is, and how it ended.

The engine's id begins with `stand-in-`: its figures are those of a simulation. What a real engine could not know is not
in a record either: a request that hangs until its client (or Envoy) leaves is an `abort`, since to the engine a client
that lost patience looks like one that changed its mind. What the client did wrong (4xx) leaves none.
"""

import random
from collections.abc import Mapping
from enum import Enum
from hashlib import blake2b

from tenantry.core.metering.meter import Arrival
from tenantry.core.usage import FinishReason

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


def engine_id(name: str, suffix: str) -> str:
    """Return an engine's id: `stand-in-NAME-SUFFIX`, the name cut so that the suffix, unique to the start, stays."""
    return f"{ENGINE_PREFIX}{name[: _MAX_NAME - len(ENGINE_PREFIX) - len(suffix) - 1]}-{suffix}"


def read_arrival(headers: Mapping[str, str], arguments: Mapping[str, object], job: Job, *, model: str) -> Arrival:
    """Read an attempt; `arguments` are the body's `vllm_xargs`, `job` bears tenant and request id already.

    The model is the one of the rules (`x-tenantry-model`), which the engine may serve under another name.
    """
    adapter = arguments.get("adapter")
    return Arrival(
        request_id=job.request_id[:_MAX_NAME],
        tenant=job.tenant[:_MAX_NAME],
        tier=headers.get("x-tenantry-tier", "")[:_MAX_NAME],
        model=headers.get("x-tenantry-model", model)[:_MAX_NAME],
        attempt=_attempt_number(headers.get("x-envoy-attempt-count", "")),
        mirror=headers.get("x-tenantry-mirror") == "1",
        adapter=adapter[:_MAX_NAME] if isinstance(adapter, str) else None,
        priority=job.priority,
        input_tokens=job.prompt.tokens,
    )


def finish_reason(ended: Ended, finished: Finished | None) -> FinishReason:
    """Return a record's finish reason; `finished` is None for an attempt that never reached the batch."""
    if ended is Ended.FAILED:
        return "error"
    if finished is not None and not finished.aborted:
        return finished.finish_reason  # complete, even if the client left with the last word on its way
    return "abort" if ended is Ended.LEFT else "error"


def log_probability(mean: float, prompt: bytes, rng: random.Random) -> float:
    """Draw an answer's mean log-probability.

    The larger part of its noise belongs to the prompt, so that a mirrored pair shares it, the rest to the attempt.
    """
    shared = random.Random(blake2b(prompt, digest_size=8).digest())  # noqa: S311 - noise, not a secret
    return min(0.0, mean + shared.gauss(0.0, _PROMPT_NOISE) + rng.gauss(0.0, _ATTEMPT_NOISE))


def _attempt_number(text: str) -> int:
    """Read `x-envoy-attempt-count`; 1 for anything but a number that a record may bear."""
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 3 else 1
    return number if 1 <= number <= _MAX_ATTEMPT else 1
