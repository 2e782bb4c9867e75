"""What a request's work in a step weighs, and a step's time divided by it.

**Fairness is Shapley's.** Who pays for a step that several requests shared? Shapley's value is the one division that
adds up to the whole, treats equal work equally, charges nothing to who caused nothing, and adds over steps. Let a step
of the requests S cost

    cost(S) = fixed, once if S is not empty  +  for each request in S: what its own tokens cost

Averaged over all orders of joining, a request then pays `fixed / |S|` (each is equally likely to have come first) and
the whole of its own tokens, since those cost the same whoever else is there. That is what it weighs here; the step's
measured time is divided in proportion. Where tokens do not cost the same whoever else is there, beside an adapter,
`adapters` says who bears the difference.

Shares are whole nanoseconds by largest remainder: they add up to the step's time exactly, in integer arithmetic; of
equal remainders the earlier request's goes first.
"""

import math
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

Source = Literal["flops", "calibrated"]

_RESOLUTION = 1024
"""Weights become integers in this fraction of their unit."""

FIXED_PREFILL_TOKENS = 100.0
"""A step's fixed cost before calibration, in prefill tokens.

Measured on vLLM on a CPU: 7.34 ms / 0.073 ms. On a GPU it is the time to read the weights once: at 2 bytes a parameter,
an H100's 990 TFLOP/s and 3.35 TB/s make it the time of 300 prefill tokens, an A10's 125 and 0.6 the time of 200.
"""

DECODE_PREFILL_TOKENS = 3.0
"""A decode token before calibration, in prefill tokens (measured on the same steps: 0.215 ms / 0.073 ms)."""


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


class StepWeights(Struct, frozen=True, kw_only=True):
    """What makes a step last: a fixed cost, and what each token adds. All in one unit, of time or of FLOPs.

    `context_token` is what a (token, attended token) pair adds. Raises ValueError on what is negative or not finite,
    or if everything is 0.
    """

    fixed: float
    prefill_token: float
    decode_token: float
    context_token: float = 0.0
    source: Source = "flops"

    def __post_init__(self) -> None:
        numbers = (self.fixed, self.prefill_token, self.decode_token, self.context_token)
        if not all(math.isfinite(number) and number >= 0 for number in numbers) or not any(numbers):
            raise ValueError(f"weights must be finite, not negative, and not all 0; these are {numbers}")

    def cost(self, prefill_tokens: float, decode_tokens: float, context_tokens: float) -> float:
        """Return what a step of so much work costs in all."""
        own = self.prefill_token * prefill_tokens + self.decode_token * decode_tokens
        return self.fixed + own + self.context_token * context_tokens

    def prefill_share(self, prefill_tokens: int, decode_tokens: int) -> float:
        """Return what of a request's share of a step is prefill, 0 to 1, when it did both in one."""
        prefill, decode = self.prefill_token * prefill_tokens, self.decode_token * decode_tokens
        return prefill / (prefill + decode) if prefill else 0.0

    def own(self, work: Work) -> float:
        """Return what a request's own tokens cost in a step."""
        own = self.prefill_token * work.prefill_tokens + self.decode_token * work.decode_tokens
        return own + self.context_token * work.context_tokens

    def shares(self, works: Sequence[Work], ns: int) -> list[int]:
        """Divide `ns` (at least 0) among the works of one step (at least one): whole numbers that add up to it."""
        equal = self.fixed / len(works)
        return divided(ns, [equal + self.own(work) for work in works])


def divided(ns: int, weights: Sequence[float]) -> list[int]:
    """Divide `ns` (at least 0) by weights (none negative; all 0 are all equal): whole numbers that add up to it."""
    exact = [int(_RESOLUTION * weight) for weight in weights]
    total = sum(exact)
    if not total:
        exact, total = [1] * len(exact), len(exact)
    shares, remainders = [], []
    for weight in exact:
        share, remainder = divmod(ns * weight, total)
        shares.append(share)
        remainders.append(remainder)
    if left := ns - sum(shares):
        # The sort is stable also when reversed: equals stay in order.
        for index in sorted(range(len(shares)), key=remainders.__getitem__, reverse=True)[:left]:
            shares[index] += 1
    return shares


def flops_weights(
    *,
    parameters: float,
    layers: int,
    heads: int,
    head_size: int,
    fixed_prefill_tokens: float = FIXED_PREFILL_TOKENS,
    decode_prefill_tokens: float = DECODE_PREFILL_TOKENS,
) -> StepWeights:
    """Return the weights of a model by its config: what divides the steps until they are calibrated.

    A token costs 2 FLOPs a parameter (those that are active, of a mixture of experts), a (token, attended token) pair
    `4 x layers x heads x head_size`. FLOPs alone would make a decode token as cheap as a prefill token and a step
    without tokens free, which no engine is: hence the two measured factors.
    """
    token = 2.0 * parameters
    return StepWeights(
        fixed=fixed_prefill_tokens * token,
        prefill_token=token,
        decode_token=decode_prefill_tokens * token,
        context_token=4.0 * layers * heads * head_size,
        source="flops",
    )
