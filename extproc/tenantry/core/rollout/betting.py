"""The bets: log of what one stake becomes after one unit. Pure functions, and the scale they are measured on.

Each returns, per tilt, the logarithm of a payoff that is non-negative and whose expectation, given everything before,
is at most 1 while the candidate is within its margin. That is all the guard needs of them; the tests enumerate it.

Split units: bet on the assignment (Duan, Ramdas, Wasserman, "Interactive rank testing by betting", CLeaR 2022; Ham,
Bojinov, Lindon, Tingley, "Design-based confidence sequences", 2022). Let A be 1 when the unit was sent to the
candidate, which our own keyed hash does with probability p, and y its reading, the margin taken off. For any
increasing g > 0

    payoff = g(y)^A / (1 - p + p g(y)),       E[payoff | y] = 1   when y says nothing about A

and at most 1 when a candidate's y is stochastically smaller than a stable one's, since g / (1 - p + p g) is
increasing. No model of latency enters: y may have any distribution, trend or tail, and any dependence on the past. g
decides only how fast money is made; g(y) = exp(t z - t^2/2) of the standardised z is the likelihood ratio of a normal
shift by t.

Failures: given that a unit failed, the odds that it was the candidate's are p/(1-p) times the ratio of the failure
rates, which is at most the ratio of the odds, hence at most the margin m. Bet on ratio r against m:

    payoff = (r/m)^A (1 - p + p m) / (1 - p + p r)

Pairs: the difference d of a mirrored request and its copy is symmetric about 0 when both versions are alike up to the
margin (swapping them changes nothing), so given |d| its sign is a fair coin (de la Pena, 1999; Ramdas et al.,
"Admissible anytime-valid sequential inference must rely on nonnegative martingales", 2020): payoff exp(t d) / cosh(t
d). Of pairs in which exactly one failed, the candidate's are at most m/(1+m).
"""

from functools import lru_cache
from math import exp, log, log1p

CLIP = 3.0
"""Standard deviations beyond which a reading counts no further: one outlier must not decide."""


def shift_bets(z: float, share: float, *, candidate: bool, tilts: tuple[float, ...]) -> list[float]:
    """Return log payoffs for a unit whose standardised reading is `z` (larger is worse)."""
    logs = []
    for tilt in tilts:
        gain = tilt * z - 0.5 * tilt * tilt
        loss = log1p(share * (exp(gain) - 1.0))
        logs.append(gain - loss if candidate else -loss)
    return logs


@lru_cache(maxsize=1024)
def odds_bets(share: float, *, candidate: bool, margin: float, tilts: tuple[float, ...]) -> tuple[float, ...]:
    """Return log payoffs for a unit that failed. `tilts` are odds ratios as multiples of `margin`."""
    logs = []
    for tilt in tilts:
        change = log(1.0 - share + share * margin) - log(1.0 - share + share * margin * tilt)
        logs.append(change + log(tilt) if candidate else change)
    return tuple(logs)


def sign_bets(z: float, tilts: tuple[float, ...]) -> list[float]:
    """Return log payoffs for a pair with scaled difference `z`, candidate minus stable, the margin taken off."""
    return [log(2.0) - log1p(exp(-2.0 * tilt * z)) for tilt in tilts]


def discordant_bets(*, candidate: bool, margin: float, tilts: tuple[float, ...]) -> tuple[float, ...]:
    """Return log payoffs for a pair in which exactly one failed; `candidate`: its copy did."""
    return odds_bets(0.5, candidate=candidate, margin=margin, tilts=tilts)


class Reference:
    """Location and scale of one group's readings, learnt from both arms with the margin taken off.

    `standardise` uses what was learnt *before* the reading and then learns it, so a bet is fixed before its outcome.
    The location follows the last 48 units (a daily cycle, a burst), the scale the last 200. Validity does not rest on
    either; a wrong scale only bets too little or too much.
    """

    __slots__ = ("_count", "_location", "_scale", "_scale_count")

    MEMORY_UNITS = 48
    SCALE_MEMORY_UNITS = 200
    PRIOR_UNITS = 20
    """The weight, in units, of the scale it starts with."""

    def __init__(self, like: "Reference | None" = None) -> None:
        self._count = 0
        self._location: float | None = None
        self._scale: float = 1.0
        self._scale_count = self.PRIOR_UNITS
        if like is not None:
            self._location, self._scale = like.learnt()

    def learnt(self) -> tuple[float | None, float]:
        """Return location (None before the first reading) and scale."""
        return self._location, self._scale

    def standardise(self, reading: float) -> float:
        """Return the reading in standard deviations, -CLIP to CLIP; then learn it."""
        if self._location is None:
            self._location = reading
        z = (reading - self._location) / self._scale
        z = min(max(z, -CLIP), CLIP)
        self._count += 1
        self._location += self._scale * z / min(self._count + 1, self.MEMORY_UNITS)
        self._learn_scale(z)
        return z

    def scale_difference(self, difference: float) -> float:
        """Return a paired difference in standard deviations, its sign kept, -CLIP to CLIP; then learn its size."""
        z = difference / self._scale
        z = min(max(z, -CLIP), CLIP)
        self._learn_scale(z)
        return z

    def _learn_scale(self, z: float) -> None:
        self._scale_count = min(self._scale_count + 1, self.SCALE_MEMORY_UNITS)
        self._scale = max(self._scale * (1.0 + 0.5 * (z * z - 1.0) / self._scale_count), 1e-6)
