"""What the guard observes of a version, and the table of what it tests.

Every reading is turned so that *larger is worse*, and a candidate's reading is brought back by the margin before it is
compared: a candidate exactly at its margin is then indistinguishable from the stable version, and that is the
hypothesis each test bets against. Ratios are differences of logarithms.

| signal | reading | kind | default margin |
|---|---|---|---|
| `errors` | the answer failed through no fault of the client | odds | odds 2 x |
| `ttft` | log time to first token | shift | 1.25 x |
| `time_per_token` | log time per output token | shift | 1.25 x |
| `length` | minus log output tokens | shift | -10 % |
| `unfinished` | the answer stopped for another reason than its end | odds | odds 2 x |
| `repetition` | the answer repeats itself | odds | odds 2 x |
| `log_probability` | minus mean log-probability of a token | shift | 0.1 nats |
| `*_paired` | the same, a mirrored request against its copy | paired | the same |
"""

from collections.abc import Callable
from math import isfinite, log
from typing import Literal

from msgspec import Struct

from tenantry.core.outcome import Ended
from tenantry.core.rollout.trial import Arm

Kind = Literal["shift", "odds", "paired_shift", "paired_odds"]

FAILURES_BELOW_500 = frozenset({401, 403, 404, 408, 429})
"""4xx codes of an *upstream* that say what it could not do. The sidecar has checked credential, route and model, so an
engine that misses any of these is set up wrongly; its 429 is a full queue; Envoy answers 408 when an upstream hangs
before its headers (`stream_idle_timeout`). What the sidecar refuses itself reaches no version, so none is observed.
Every other 4xx is caused by what the client sent."""


class Margins(Struct, frozen=True, kw_only=True):
    """How much worse than the stable version a candidate may be. Odds and ratios, candidate over stable.

    `log_probability_drop` is in nats per token. Raises ValueError for a margin that would ask a candidate to be
    *better*.
    """

    error_odds: float = 2.0
    ttft_ratio: float = 1.25
    time_per_token_ratio: float = 1.25
    output_length_ratio: float = 0.9
    unfinished_odds: float = 2.0
    repetition_odds: float = 2.0
    log_probability_drop: float = 0.1

    def __post_init__(self) -> None:
        for name in ("error_odds", "ttft_ratio", "time_per_token_ratio", "unfinished_odds", "repetition_odds"):
            if not 1.0 <= getattr(self, name) <= 1_000.0:
                raise ValueError(f"margin {name} is {getattr(self, name)}: 1 (no worse at all) to 1000")
        if not 0.001 <= self.output_length_ratio <= 1.0:
            raise ValueError(
                f"margin output_length_ratio is {self.output_length_ratio}: 0.001 to 1 (no shorter at all)"
            )
        if not 0.0 <= self.log_probability_drop <= 100.0:
            raise ValueError(f"margin log_probability_drop is {self.log_probability_drop}: 0 to 100 nats per token")


class Sample(Struct, frozen=True, kw_only=True):
    """What a version did with one request. None: not known, or not to be counted.

    `failed` comes from `failed()` below or from an error inside a stream (200 outside). `ttft_ms` is the time to the
    first *token*, from the engine's usage record; where the client left before it, the time it had waited by then (a
    lower bound; leaving it out would hide the slowest). `output_tokens` of an answer that the client cut short is None.
    `finished`: the model ended by itself (`stop`, `tool_calls`), False for `length` and the like. A value that is not a
    positive finite number counts as not known: no record can poison the evidence.
    """

    failed: bool | None = None
    ttft_ms: float | None = None
    time_per_token_ms: float | None = None
    output_tokens: int | None = None
    finished: bool | None = None
    repetitive: bool | None = None
    mean_log_probability: float | None = None


class Observation(Struct, frozen=True, kw_only=True):
    """A finished request of the split, its access-log entry joined with its usage record.

    `arm` is the version the split *assigned*, also when the stable version rescued the answer. `share` is the
    probability, 0 to 1, with which the split would have sent this unit to the candidate: the percent of its tenant.
    Where there was no chance (pin, beta flag, 0 or 100 %), 0 or 1: nothing can be learned from it. `earlier_turns`
    counts the answers already in the conversation, 0 for a fresh one.
    """

    tenant: str
    unit: str
    arm: Arm
    share: float
    sample: Sample
    earlier_turns: int = 0


class Pair(Struct, frozen=True, kw_only=True):
    """A mirrored request: what the stable version answered, and the candidate's copy of it.

    A copy whose record did not come within its deadline is `Sample(failed=True)`. Mirroring picks units, not requests:
    a copy in the middle of a conversation that the candidate never saw would find a cold cache.
    """

    tenant: str
    unit: str
    stable: Sample
    candidate: Sample
    earlier_turns: int = 0


class Signal(Struct, frozen=True, kw_only=True):
    """One test: what it reads, the boundary of its hypothesis, and how it bets against it.

    `weight` is its share of the false-alarm probability. `tilts` are the strengths of its bets, mixed by `priors`: for
    shifts in standard deviations, for odds as odds ratios. `warm` readings depend on caches and wait for them.
    """

    name: str
    kind: Kind
    weight: float
    tilts: tuple[float, ...]
    priors: tuple[float, ...]
    read: Callable[[Sample], float | None]
    margin: Callable[[Margins], float]
    warm: bool = False


def failed(code: int, ended: Ended) -> bool | None:
    """Judge an exchange by the status sent downstream (0: none) and how it ended; None: do not count it.

    A client that went away says nothing about the version. A 4xx says something about the client, apart from
    FAILURES_BELOW_500, and is then an answer that did not fail.
    """
    if ended == "aborted":
        return None
    if code in FAILURES_BELOW_500 or code >= 500 or code == 0:
        return True
    return ended == "failed" and code < 400


def _log(value: float | None) -> float | None:
    return log(value) if value is not None and value > 0.0 and isfinite(value) else None


def _ttft(sample: Sample) -> float | None:
    return _log(sample.ttft_ms)


def _time_per_token(sample: Sample) -> float | None:
    return _log(sample.time_per_token_ms)


def _shortness(sample: Sample) -> float | None:
    tokens = sample.output_tokens
    return None if tokens is None or tokens < 0 else -log(max(tokens, 1))


def _surprise(sample: Sample) -> float | None:
    value = sample.mean_log_probability
    return -value if value is not None and isfinite(value) else None


def _failed(sample: Sample) -> float | None:
    return sample.failed


def _unfinished(sample: Sample) -> float | None:
    return None if sample.finished is None else not sample.finished


def _repetitive(sample: Sample) -> float | None:
    return sample.repetitive


def _log_ttft_ratio(margins: Margins) -> float:
    return log(margins.ttft_ratio)


def _log_shortness_ratio(margins: Margins) -> float:
    return -log(margins.output_length_ratio)


_SHIFTS = (0.12, 0.29, 0.55, 1.2)
_SHIFT_PRIORS = (0.1, 0.7, 0.12, 0.08)
_LENGTH_SHIFTS = (0.1, 0.21, 0.45, 1.0)
_PAIRED_SHIFTS = (0.15, 0.36, 0.9)
_PAIRED_SHIFT_PRIORS = (0.2, 0.6, 0.2)
"""Most is staked on what operators must not miss: TTFT twice as long at a log-sd of 1.5 is 0.31 standard deviations
beyond the margin of 1.25, an answer 30 % shorter at 1.2 is 0.21 beyond that of 10 %, in pairs at 0.7 it is 0.36."""

_ODDS = (2.5, 6.0, 60.0)
_ODDS_PRIORS = (0.2, 0.6, 0.2)
"""Odds are multiples of the margin, so that a stricter rule moves its bets along."""

SIGNALS: tuple[Signal, ...] = (
    Signal(
        name="errors",
        kind="odds",
        weight=0.22,
        tilts=_ODDS,
        priors=_ODDS_PRIORS,
        read=_failed,
        margin=lambda margins: margins.error_odds,
    ),
    Signal(
        name="ttft",
        kind="shift",
        weight=0.4,
        tilts=_SHIFTS,
        priors=_SHIFT_PRIORS,
        read=_ttft,
        margin=_log_ttft_ratio,
        warm=True,
    ),
    Signal(
        name="length",
        kind="shift",
        weight=0.18,
        tilts=_LENGTH_SHIFTS,
        priors=_SHIFT_PRIORS,
        read=_shortness,
        margin=_log_shortness_ratio,
    ),
    Signal(
        name="time_per_token",
        kind="shift",
        weight=0.06,
        tilts=_SHIFTS,
        priors=_SHIFT_PRIORS,
        read=_time_per_token,
        margin=lambda margins: log(margins.time_per_token_ratio),
        warm=True,
    ),
    Signal(
        name="unfinished",
        kind="odds",
        weight=0.02,
        tilts=_ODDS,
        priors=_ODDS_PRIORS,
        read=_unfinished,
        margin=lambda margins: margins.unfinished_odds,
    ),
    Signal(
        name="repetition",
        kind="odds",
        weight=0.02,
        tilts=_ODDS,
        priors=_ODDS_PRIORS,
        read=_repetitive,
        margin=lambda margins: margins.repetition_odds,
    ),
    Signal(
        name="log_probability",
        kind="shift",
        weight=0.02,
        tilts=_SHIFTS,
        priors=_SHIFT_PRIORS,
        read=_surprise,
        margin=lambda margins: margins.log_probability_drop,
    ),
    Signal(
        name="errors_paired",
        kind="paired_odds",
        weight=0.03,
        tilts=_ODDS,
        priors=_ODDS_PRIORS,
        read=_failed,
        margin=lambda margins: margins.error_odds,
    ),
    Signal(
        name="ttft_paired",
        kind="paired_shift",
        weight=0.02,
        tilts=_PAIRED_SHIFTS,
        priors=_PAIRED_SHIFT_PRIORS,
        read=_ttft,
        margin=_log_ttft_ratio,
        warm=True,
    ),
    Signal(
        name="length_paired",
        kind="paired_shift",
        weight=0.03,
        tilts=_PAIRED_SHIFTS,
        priors=_PAIRED_SHIFT_PRIORS,
        read=_shortness,
        margin=_log_shortness_ratio,
    ),
)
