"""Learns from the step times themselves what a step's work weighs, while the engine runs."""

from tenantry.core.metering.weights import StepWeights


class Calibration:
    """Weighted least squares of step time, on line. `weights` are those to divide by: the fallback until it knows."""

    def __init__(self, fallback: StepWeights) -> None:
        self.weights = fallback

    def observe(self, prefill_tokens: int, decode_tokens: int, context_tokens: int, step_ns: int) -> None:
        """Learn from one step: its work, and how long it took."""
