"""What is a fair share of a step, and how far from it is a meter? Statistics alone: no engine, no clock.

**Fair is Shapley's.** Several requests run in one step; what should each pay? Shapley's value is the one division that
adds up to the whole, treats equal work equally, charges nothing to who causes nothing, and adds over steps. It needs
the cost of every *coalition* of those requests. `shapley` takes them from wherever they come:

- from running every coalition on the engine (`bench.meter_coalitions`): no model at all, but three requests at a time;
- from a model of a step's cost, `StepCost`, for any number of requests, in closed form.

**The model is not the meter's.** It is fitted here, by plain least squares, and each step is judged by a model that was
fitted to *other* steps: odd steps judge even ones, and even ones odd. Nothing of tenantry.core.metering is used.

A step of the requests S costs, in nanoseconds,

    fixed + prefill x tokens + decode x sequences + context x (token, attended token) pairs
      + if any of S prefills: prefill_step
      + if any of S has an adapter: adapter_fixed + adapter_prefill x tokens + adapter_decode x sequences
          + if any of S prefills: adapter_prefill_step

The first line alone (`plain`) takes steps for the same that are not. Engines have a faster way for steps that only
decode (vLLM's CPU build: 3.5 ms, and 7 ms with 20 tokens of prefill). And they run a whole step through the adapter
kernels as soon as one request needs them: a prefill token then costs three times as much there, whoever's it is.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import pairwise
from math import factorial, inf, sqrt
from statistics import fmean
from typing import TypeVar

from msgspec import Struct

P = TypeVar("P", bound=Hashable)


class Piece(Struct, frozen=True, array_like=True):
    """One request's part of one step; `context_pairs` is the number of (token, attended token) pairs."""

    key: str
    prefill_tokens: int
    decode_tokens: int
    context_pairs: int
    adapter: bool = False


class Step(Struct, frozen=True, array_like=True):
    """What an engine ran at once, and how long that took."""

    ns: int
    pieces: tuple[Piece, ...]


def shapley(players: Sequence[P], cost: Callable[[frozenset[P]], float]) -> dict[P, float]:
    """Return each player's Shapley value; `cost` is asked for all 2^n coalitions, the empty one too."""
    count = len(players)
    weights = [factorial(size) * factorial(count - size - 1) / factorial(count) for size in range(count)]
    coalitions: list[tuple[P, ...]] = [()]
    for player in players:
        coalitions += [(*coalition, player) for coalition in coalitions]
    costs = {frozenset(coalition): cost(frozenset(coalition)) for coalition in coalitions}
    return {
        player: sum(
            weights[len(coalition)] * (costs[coalition | {player}] - costs[coalition])
            for coalition in costs
            if player not in coalition
        )
        for player in players
    }


class StepCost(Struct, frozen=True, kw_only=True):
    """A model of a step's cost in nanoseconds (above)."""

    fixed: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0
    context: float = 0.0
    adapter_fixed: float = 0.0
    adapter_prefill: float = 0.0
    adapter_decode: float = 0.0
    prefill_step: float = 0.0
    adapter_prefill_step: float = 0.0

    def cost(self, pieces: Iterable[Piece]) -> float:
        """Return what a step of these pieces costs; nothing if there are none."""
        listed = tuple(pieces)
        return sum(map(float.__mul__, self._coefficients(), _features(listed))) if listed else 0.0

    def shares(self, pieces: Sequence[Piece]) -> list[float]:
        """Return each piece's Shapley value, in closed form; they add up to `cost`.

        What any one of some requests brings about, those share equally: `fixed` all, `prefill_step` those that prefill,
        `adapter_fixed` those with an adapter. What takes one of each of two kinds is "any of the one" plus "any of the
        other" less "any of either". What adapters add to the work of a request with one is its own. Of what they add to
        a request without, it bears k/(k+1), and the k requests with an adapter the rest: joining in any order, it pays
        unless it came before all of them.
        """
        with_adapter = sum(piece.adapter for piece in pieces)
        prefilling = sum(piece.prefill_tokens > 0 for piece in pieces)
        either = sum(piece.adapter or piece.prefill_tokens > 0 for piece in pieces)
        two = self.adapter_prefill_step if with_adapter and prefilling else 0.0
        own = [self.adapter_prefill * p.prefill_tokens + self.adapter_decode * p.decode_tokens for p in pieces]
        caused = self.adapter_fixed + two
        caused += sum(ns for ns, piece in zip(own, pieces, strict=True) if not piece.adapter) / (with_adapter + 1)
        kept = with_adapter / (with_adapter + 1)
        return [
            self.fixed / len(pieces)
            + self.prefill * piece.prefill_tokens
            + self.decode * piece.decode_tokens
            + self.context * piece.context_pairs
            + (ns + caused / with_adapter if piece.adapter else ns * kept)
            + ((self.prefill_step + two) / prefilling if piece.prefill_tokens else 0.0)
            - (two / either if piece.adapter or piece.prefill_tokens else 0.0)
            for ns, piece in zip(own, pieces, strict=True)
        ]

    def _coefficients(self) -> tuple[float, ...]:
        return (
            self.fixed, self.prefill, self.decode, self.context,
            self.adapter_fixed, self.adapter_prefill, self.adapter_decode, self.prefill_step, self.adapter_prefill_step,
        )  # fmt: skip


def _features(pieces: Sequence[Piece]) -> tuple[float, ...]:
    prefill = float(sum(piece.prefill_tokens for piece in pieces))
    decode = float(sum(piece.decode_tokens for piece in pieces))
    context = float(sum(piece.context_pairs for piece in pieces))
    gate = float(any(piece.adapter for piece in pieces))
    step = float(prefill > 0)
    return 1.0, prefill, decode, context, gate, gate * prefill, gate * decode, step, gate * step


def fit(steps: Sequence[Step], *, plain: bool = False) -> StepCost:
    """Return the model that least squares fits to the steps; `plain`: only the first line of it."""
    count = 4 if plain else 9
    rows = [_features(step.pieces)[:count] for step in steps]
    found = least_squares(rows, [float(step.ns) for step in steps])
    names = StepCost.__struct_fields__
    return StepCost(**dict(zip(names, found, strict=False)))


def least_squares(rows: Sequence[Sequence[float]], targets: Sequence[float]) -> list[float]:
    """Return the coefficients that minimise the squared error; 0 for a column that others determine.

    Normal equations over columns scaled to unit length, by elimination with diagonal pivots.
    """
    width = len(rows[0])
    scales = [sqrt(sum(row[i] ** 2 for row in rows)) or 1.0 for i in range(width)]
    scaled = [[value / scale for value, scale in zip(row, scales, strict=True)] for row in rows]
    matrix = [
        [*(sum(row[i] * row[j] for row in scaled) for j in range(width)),
         sum(row[i] * target for row, target in zip(scaled, targets, strict=True))]
        for i in range(width)
    ]  # fmt: skip
    remaining, done = set(range(width)), list[int]()
    while remaining:
        pivot = max(remaining, key=lambda i: matrix[i][i])
        if matrix[pivot][pivot] < 1e-9:  # the squared length of what the other columns leave of it
            break
        remaining.discard(pivot)
        done.append(pivot)
        for i in range(width):
            if i != pivot and (factor := matrix[i][pivot] / matrix[pivot][pivot]):
                matrix[i] = [a - factor * b for a, b in zip(matrix[i], matrix[pivot], strict=True)]
    found = [0.0] * width
    for i in done:
        found[i] = matrix[i][width] / matrix[i][i] / scales[i]
    return found


def explained(steps: Sequence[Step], model: StepCost) -> float:
    """Return R2 of a model over steps: the part of the variance of their times that it explains."""
    mean = fmean(step.ns for step in steps)
    total = sum((step.ns - mean) ** 2 for step in steps)
    return 1.0 - sum((step.ns - model.cost(step.pieces)) ** 2 for step in steps) / total if total else 0.0


def fair_shares(steps: Sequence[Step], *, plain: bool = False) -> dict[str, float]:
    """Return each request's fair share over all steps, in nanoseconds; no step judges itself (above)."""
    halves = (fit(steps[0::2], plain=plain), fit(steps[1::2], plain=plain))
    return summed(steps, [halves[1 - index % 2].shares(step.pieces) for index, step in enumerate(steps)])


def summed(steps: Sequence[Step], shares: Iterable[Sequence[float]]) -> dict[str, float]:
    """Add up shares of steps by request."""
    total: dict[str, float] = {}
    for step, parts in zip(steps, shares, strict=True):
        for piece, ns in zip(step.pieces, parts, strict=True):
            total[piece.key] = total.get(piece.key, 0.0) + ns
    return total


def divided(steps: Sequence[Step], weigh: Callable[[Piece], float]) -> dict[str, float]:
    """Return the charges of a meter that divides each step by weights alone: what to compare a meter with."""

    def shares(step: Step) -> list[float]:
        weights = [weigh(piece) for piece in step.pieces]
        return [step.ns * weight / sum(weights) for weight in weights]

    return summed(steps, map(shares, steps))


def equally(_: Piece) -> float:
    """Weigh every request in a step the same: a meter that divides wall time by the batch."""
    return 1.0


def by_flops(token: float, pair: float) -> Callable[[Piece], float]:
    """Weigh by arithmetic alone: FLOPs of a token, of a (token, attended token) pair."""
    return lambda piece: token * (piece.prefill_tokens + piece.decode_tokens) + pair * piece.context_pairs


def relative_errors(
    shapes: Mapping[str, Sequence[str]], charges: Mapping[str, float], fair: Mapping[str, float]
) -> dict[str, float]:
    """Return by shape |charges / fair shares - 1|, both summed over its requests; `shapes` lists their keys.

    What is left is what the meter does to a kind of request. A step that took longer for reasons of its own is charged
    to whoever was in it and is no part of any model: over many requests it evens out.
    """
    return {
        name: _relative_error(sum(charges.get(key, 0.0) for key in keys), sum(fair[key] for key in keys))
        for name, keys in shapes.items()
    }


def request_errors(
    shapes: Mapping[str, Sequence[str]], charges: Mapping[str, float], fair: Mapping[str, float]
) -> dict[str, float]:
    """Return by shape the mean over its requests of |charge / fair share - 1|: noise of single steps included."""
    return {
        name: fmean(_relative_error(charges.get(key, 0.0), fair[key]) for key in keys) for name, keys in shapes.items()
    }


def _relative_error(charge: float, fair: float) -> float:
    """Return |charge / fair - 1|; infinity if a fair share is not positive: the model that gave it is of no use."""
    return abs(charge / fair - 1.0) if fair > 0 else inf


def rank_correlation(left: Sequence[float], right: Sequence[float]) -> float:
    """Return Spearman's rank correlation; equal values have the mean of their ranks. 0 if either side is constant."""
    one, other = ranks(left), ranks(right)
    middle = (len(one) + 1) / 2
    covariance = sum((a - middle) * (b - middle) for a, b in zip(one, other, strict=True))
    spread = sqrt(sum((a - middle) ** 2 for a in one) * sum((b - middle) ** 2 for b in other))
    return covariance / spread if spread else 0.0


def ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of each value, from 1; equal values have the mean of theirs."""
    order = sorted(range(len(values)), key=values.__getitem__)
    starts = [0, *(at for at, (a, b) in enumerate(pairwise(order), 1) if values[a] != values[b]), len(order)]
    found = [0.0] * len(values)
    for begin, end in pairwise(starts):
        for index in order[begin:end]:
            found[index] = (begin + 1 + end) / 2
    return found
