"""A step with an adapter takes longer, and not only for those that brought one: who bears the difference.

As soon as one request of a step needs a LoRA adapter, an engine runs the whole step through its adapter kernels: the
fixed cost grows, and what each token costs, whoever's it is. Measured on vLLM on a CPU: the fixed cost goes from 4.5 to
9.6 ms, a prefill token from 0.05 to 0.17 ms. So two sets of weights are learned: from steps without an adapter, and
from steps with one; what the second has more is what adapters add.

Shapley's value divides that, too (`weights` has the rest). Let k of a step's requests have an adapter.

| what adapters add to | bears |
|---|---|
| the fixed cost | those k, equally |
| the tokens of one of the k | itself |
| the tokens of a request without an adapter | itself k/(k+1), the k the rest, equally |

The last line in a sentence: of that request and those k, joining in any order, it pays itself unless it came first;
then the first of the k does, who turned the kernels on. Beside one adapter that is half and half; in a crowd of
adapters each pays for its own tokens.

Until both sets are calibrated, the one that is divides all steps, and what adapters add is not told apart.
"""

from collections.abc import Sequence

from tenantry.core.metering.calibration import Calibration
from tenantry.core.metering.weights import StepWeights, Work, divided


class Calibrations:
    """What an engine's steps weigh: `without` an adapter in them, and `beside` one."""

    def __init__(self, fallback: StepWeights) -> None:
        self.without = Calibration(fallback)
        self.beside = Calibration(fallback)

    def observe(
        self, prefill_tokens: int, decode_tokens: int, context_tokens: int, step_ns: int, *, adapters: bool
    ) -> None:
        """Learn from one step: its work, whether a request in it had an adapter, and how long it took."""
        calibration = self.beside if adapters else self.without
        calibration.observe(prefill_tokens, decode_tokens, context_tokens, step_ns)

    def weights(self, *, adapters: bool) -> StepWeights:
        """Return what divides a step with or without adapters; the other one's weights while its own are not known."""
        own, other = (self.beside, self.without) if adapters else (self.without, self.beside)
        return own.weights if own.weights.source == "calibrated" else other.weights

    def shares(self, works: Sequence[Work], adapters: Sequence[bool], ns: int) -> list[int]:
        """Divide `ns` among the works of one step; `adapters` tells which of them have one. They add up to it."""
        without, beside = self.without.weights, self.beside.weights
        if not any(adapters) or not without.source == beside.source == "calibrated":
            return self.weights(adapters=any(adapters)).shares(works, ns)
        return divided(ns, shapley_weights(without, beside, works, adapters))


def shapley_weights(
    without: StepWeights, beside: StepWeights, works: Sequence[Work], adapters: Sequence[bool]
) -> list[float]:
    """Return what each work weighs in a step in which at least one has an adapter. Both weights are in one unit.

    What adapters add is never less than nothing.
    """
    count = sum(adapters)
    added = [max(0.0, beside.own(work) - without.own(work)) for work in works]
    borne_for_others = sum(more for more, has in zip(added, adapters, strict=True) if not has) / (count + 1)
    by_each = (max(0.0, beside.fixed - without.fixed) + borne_for_others) / count
    kept, equal = count / (count + 1), without.fixed / len(works)
    return [
        equal + without.own(work) + (more + by_each if has else more * kept)
        for work, more, has in zip(works, added, adapters, strict=True)
    ]
