"""What a version of the stand-in does well or badly: settable, and changeable while it runs."""

import random
from collections.abc import Mapping
from enum import Enum

from msgspec import Struct, convert, to_builtins
from msgspec.structs import asdict

_RANGES = {
    "speed": (0.001, 1e6),
    "ttft_factor": (1.0, 1000.0),
    "length_factor": (0.01, 64.0),
    "mean_log_probability": (-100.0, 0.0),
}
_SHARE = (0.0, 1.0)


class Fate(Enum):
    """What happens to one request."""

    SERVED = "served"
    ERROR = "error"
    HANG = "hang"
    STREAM_ERROR = "stream_error"
    DIE_AFTER_FIRST_BYTE = "die_after_first_byte"


class Behaviour(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One version's manners. The four failure rates are shares of all requests and exclude each other.

    speed                      steps take `1 / speed` of the time measured on vLLM
    ttft_factor                the first token takes so many times as long (queueing apart), the others do not
    error_rate                 answered 500, before the first byte
    hang_rate                  never answered: the connection stays open until the client leaves
    stream_error_rate          200, then an error event half-way through the SSE stream (only streams)
    die_after_first_byte_rate  the connection is cut once the answer has begun
    length_factor              answers are so many times as long (never beyond the client's max_tokens)
    repetition                 share of words that repeat the word before
    mean_log_probability       of an answer's tokens, in nats, as its usage record says; give or take a noise of 0.1
    """

    speed: float = 1.0
    ttft_factor: float = 1.0
    error_rate: float = 0.0
    hang_rate: float = 0.0
    stream_error_rate: float = 0.0
    die_after_first_byte_rate: float = 0.0
    length_factor: float = 1.0
    repetition: float = 0.0
    mean_log_probability: float = -0.6

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            low, high = _RANGES.get(name, _SHARE)
            if not low <= value <= high:
                raise ValueError(f"{name} must be from {low:g} to {high:g}, not {value}")
        if (total := sum(rate for _, rate in self._failure_rates())) > 1 + 1e-9:
            raise ValueError(f"the failure rates exclude each other: their sum must not exceed 1, but it is {total:g}")

    def changed(self, changes: Mapping[str, object]) -> "Behaviour":
        """Return a copy with some fields replaced; raise msgspec.ValidationError naming what is wrong."""
        return convert({**to_builtins(self), **changes}, Behaviour)

    def draw_fate(self, rng: random.Random) -> Fate:
        """Draw what happens to the next request: one number per request, so that a seed replays a run."""
        drawn = rng.random()
        for fate, rate in self._failure_rates():
            if drawn < rate:
                return fate
            drawn -= rate
        return Fate.SERVED

    def output_tokens(self, wanted: int | None, default: int) -> int:
        """Return the length of an answer: what was asked for or the default, times `length_factor`, within the ask."""
        tokens = max(1, round((wanted or default) * self.length_factor))
        return tokens if wanted is None else min(wanted, tokens)

    def _failure_rates(self) -> tuple[tuple[Fate, float], ...]:
        return (
            (Fate.ERROR, self.error_rate),
            (Fate.HANG, self.hang_rate),
            (Fate.STREAM_ERROR, self.stream_error_rate),
            (Fate.DIE_AFTER_FIRST_BYTE, self.die_after_first_byte_rate),
        )
