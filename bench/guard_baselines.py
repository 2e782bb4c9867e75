"""What others watch a candidate with, on the same traces and against the same margins. Both count requests, not units.

`FixedThreshold` is the analysis of common canary controllers: every minute, compare the last minute's figures with
thresholds; one breach with at least MIN_REQUESTS candidate requests reverts. `FixedSizeTest` is a one-sided two-sample
test at alpha / 3 for each of three signals, made for one look at a size fixed beforehand, and looked at after each
request.
"""

from math import log, sqrt
from statistics import NormalDist, median
from typing import Protocol

from tenantry.core.rollout.signals import Margins, Observation
from tenantry.core.rollout.trial import Arm

MIN_REQUESTS = 10
WINDOW_S = 60.0
FIRST_LOOK = 30


class Baseline(Protocol):
    """Takes in requests; `observe` returns True when it would revert."""

    def observe(self, seen: Observation, now_s: float) -> bool:
        """Take in one request."""


class FixedThreshold:
    """Error rate, median TTFT and mean length of one-minute windows."""

    def __init__(self, margins: Margins) -> None:
        self._margins = margins
        self._ends_s = WINDOW_S
        self._window: dict[Arm, list[Observation]] = {"stable": [], "candidate": []}

    def observe(self, seen: Observation, now_s: float) -> bool:
        """Take in one request; judge the window that ended before it."""
        bad = False
        if now_s >= self._ends_s:
            bad = (
                len(self._window["candidate"]) >= MIN_REQUESTS and len(self._window["stable"]) > 0 and self._breached()
            )
            self._window = {"stable": [], "candidate": []}
            self._ends_s = now_s - now_s % WINDOW_S + WINDOW_S
        self._window[seen.arm].append(seen)
        return bad

    def _breached(self) -> bool:
        margins = self._margins
        (stable, candidate) = (self._figures(self._window[arm]) for arm in ("stable", "candidate"))
        return (
            candidate[0] > max(margins.error_odds * stable[0], 0.02)
            or candidate[1] > margins.ttft_ratio * stable[1] > 0.0
            or 0.0 < candidate[2] < margins.output_length_ratio * stable[2]
        )

    @staticmethod
    def _figures(window: list[Observation]) -> tuple[float, float, float]:
        samples = [seen.sample for seen in window]
        ttft = [sample.ttft_ms for sample in samples if sample.ttft_ms is not None]
        tokens = [sample.output_tokens for sample in samples if sample.output_tokens is not None]
        return (
            sum(sample.failed is True for sample in samples) / len(samples),
            median(ttft) if ttft else 0.0,
            sum(tokens) / len(tokens) if tokens else 0.0,
        )


class _Moments:
    __slots__ = ("count", "total", "total_squares")

    def __init__(self) -> None:
        self.count, self.total, self.total_squares = 0, 0.0, 0.0

    def add(self, value: float) -> None:
        self.count += 1
        self.total += value
        self.total_squares += value * value

    def mean(self) -> float:
        return self.total / self.count

    def mean_variance(self) -> float:
        return max(self.total_squares / self.count - self.mean() ** 2, 1e-9) / self.count


class FixedSizeTest:
    """Welch's t on log TTFT and log length, a z test on failure rates."""

    def __init__(self, margins: Margins, alpha: float) -> None:
        self._critical = NormalDist().inv_cdf(1.0 - alpha / 3.0)
        # sign, shift and factor with which the stable mean stands for the boundary of the hypothesis
        self._bounds = ((1.0, log(margins.ttft_ratio), 1.0), (-1.0, -log(margins.output_length_ratio), 1.0))
        self._error_factor = margins.error_odds
        self._moments: dict[Arm, tuple[_Moments, _Moments, _Moments]] = {
            arm: (_Moments(), _Moments(), _Moments()) for arm in ("stable", "candidate")
        }

    def observe(self, seen: Observation, now_s: float) -> bool:  # noqa: ARG002 - the other baseline looks at the clock
        """Take in one request and look."""
        ttft, length, failures = self._moments[seen.arm]
        sample = seen.sample
        if sample.ttft_ms is not None:
            ttft.add(log(sample.ttft_ms))
        if sample.output_tokens is not None:
            length.add(-log(sample.output_tokens))
        if sample.failed is not None:
            failures.add(float(sample.failed))
        return seen.arm == "candidate" and self._look()

    def _look(self) -> bool:
        stable, candidate = self._moments["stable"], self._moments["candidate"]
        bounds = ((log_ratio, 1.0) for _, log_ratio, _ in self._bounds)
        for place, (shift, factor) in enumerate((*bounds, (0.0, self._error_factor))):
            ours, theirs = candidate[place], stable[place]
            if min(ours.count, theirs.count) >= FIRST_LOOK:
                difference = ours.mean() - shift - factor * theirs.mean()
                if difference > self._critical * sqrt(ours.mean_variance() + factor**2 * theirs.mean_variance()):
                    return True
        return False
