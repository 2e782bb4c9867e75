"""Learns from the step times themselves what a step's work weighs, while the engine runs.

    step time = fixed + a x prefill tokens + b x decode tokens + c x (token, attended token) pairs, none negative

by weighted least squares with a slow forgetting, so that it follows a clock that throttles or a mix that changes. A
step costs a few multiplications (3 us); every SOLVE_EVERY steps four equations are solved.

**Relative.** Each step counts by its relative error (rows are divided by the predicted time): noise in step times grows
with them, and a share is judged by its ratio to the fair one, not by the difference.

**Robust.** A step that compiled something or met a garbage collection tells nothing of the others. The first
FIRST_STEPS are fitted together, again and again, each time with what lies more than CLIP deviations off pulled back to
there. Later ones are pulled back the same way before they count. The deviation is learned, too, from what is left: it
grows as long as most steps lie beyond it, so a lasting change gets through.

**Where the data say nothing** (an engine that only ever decodes one sequence cannot tell `fixed` from `b`), the last
weights stay: a small ridge holds on to them, in the beginning to the fallback, scaled to the times seen. The weights
become active at the first solution in which work varied enough to tell the fixed cost from the rest: VARIETY is the
share of the constant that the other columns must leave unexplained. From then on they are used.

The arithmetic is deterministic, in floats; the weights are always finite and not negative, and not all 0.
"""

import math
from statistics import median

from tenantry.core.metering.weights import StepWeights

FIRST_STEPS = 64
SOLVE_EVERY = 32
MEMORY_STEPS = 4096
"""Steps after which a step counts 1/e: at 10 to 20 ms, about a minute."""

CLIP = 2.0
VARIETY = 0.02

_RIDGE = 1e-3
_FORGET = math.exp(-SOLVE_EVERY / MEMORY_STEPS)
_ROUNDS = 12
_LEAST_DEVIATION = 0.005
_LEAST_PREDICTION = 0.05
"""Of the median of the first step times: no step may be predicted as cheaper, and count for more."""

_FOLLOW = 1 / 64
"""How fast the deviation is learned."""

_Vector = list[float]
_Row = tuple[int, int, int, int]
"""Context tokens, prefill tokens, decode tokens; the time in nanoseconds."""

_COLUMNS = range(4)
"""Context, prefill, decode, fixed. The fixed one is last: the last pivot is what the others leave unexplained of it."""


class Calibration:
    """The weights of one engine's steps. `weights` are those to divide by: the fallback until it knows better.

    `steps` counts what was observed. `deviation` is the typical relative error of a prediction, once there is one.
    """

    def __init__(self, fallback: StepWeights) -> None:
        self.weights = fallback
        self.steps = 0
        self.deviation: float | None = None
        self._first: list[_Row] = []
        self._model: _Vector = [fallback.context_token, fallback.prefill_token, fallback.decode_token, fallback.fixed]
        self._least_ns = 1.0
        self._spread = 0.0
        self._products = [[0.0] * 4 for _ in _COLUMNS]
        self._targets = [0.0] * 4

    def observe(self, prefill_tokens: int, decode_tokens: int, context_tokens: int, step_ns: int) -> None:
        """Learn from one step: its work, and how long it took. One without time or work tells nothing."""
        if step_ns <= 0 or not (prefill_tokens or decode_tokens):
            return
        self.steps += 1
        if self.steps <= FIRST_STEPS:
            self._first.append((context_tokens, prefill_tokens, decode_tokens, step_ns))
            if self.steps == FIRST_STEPS:
                self._begin()
            return
        context, prefill, decode, fixed = self._model
        predicted = fixed + prefill * prefill_tokens + decode * decode_tokens + context * context_tokens
        predicted = max(predicted, self._least_ns)
        error, limit = step_ns / predicted - 1.0, CLIP * self._spread
        error = max(-limit, min(limit, error))
        # A normal distribution's mean absolute error is 0.8 deviations.
        self._spread += _FOLLOW * (max(_LEAST_DEVIATION, 1.25 * abs(error)) - self._spread)
        self._add(
            context_tokens / predicted, prefill_tokens / predicted, decode_tokens / predicted, 1.0 / predicted, error
        )
        if not self.steps % SOLVE_EVERY:
            self._solve()
            self._forget()

    def _add(self, c: float, p: float, d: float, f: float, error: float) -> None:
        """Add a row, divided by its prediction. Only one half of the symmetric products is kept."""
        target = 1.0 + error
        context, prefill, decode, fixed = self._products
        context[0] += c * c
        prefill[0] += p * c
        prefill[1] += p * p
        decode[0] += d * c
        decode[1] += d * p
        decode[2] += d * d
        fixed[0] += f * c
        fixed[1] += f * p
        fixed[2] += f * d
        fixed[3] += f * f
        targets = self._targets
        targets[0] += c * target
        targets[1] += p * target
        targets[2] += d * target
        targets[3] += f * target

    def _begin(self) -> None:
        """Fit the first steps, again and again with outliers pulled back by what the fit before says they are."""
        self._least_ns = max(1.0, _LEAST_PREDICTION * median(row[3] for row in self._first))
        scale = median(row[3] / max(self._predict(row), 1e-300) for row in self._first)
        self._model = [scale * weight for weight in self._model]
        for left in reversed(range(_ROUNDS)):
            errors = [row[3] / max(self._predict(row), self._least_ns) - 1.0 for row in self._first]
            self._spread = max(_LEAST_DEVIATION, 1.4826 * median(map(abs, errors)))
            self._products = [[0.0] * 4 for _ in _COLUMNS]
            self._targets = [0.0] * 4
            # Far, at first: what the fallback predicts worst is the rule that is to be learned, and no outlier.
            limit = CLIP * self._spread * 2.0 ** max(0, left - _ROUNDS // 2)
            for row, error in zip(self._first, errors, strict=True):
                predicted = max(self._predict(row), self._least_ns)
                context, prefill, decode, _ = row
                clipped = max(-limit, min(limit, error))
                self._add(context / predicted, prefill / predicted, decode / predicted, 1.0 / predicted, clipped)
            self._solve()
        self._first = []

    def _predict(self, row: _Row) -> float:
        context, prefill, decode, fixed = self._model
        return fixed + context * row[0] + prefill * row[1] + decode * row[2]

    def _forget(self) -> None:
        self._products = [[_FORGET * product for product in row] for row in self._products]
        self._targets = [_FORGET * target for target in self._targets]

    def _solve(self) -> None:
        """Solve for the model, held to the last one by the ridge; make its weights active once they are told apart."""
        scales = [math.sqrt(self._products[i][i]) for i in _COLUMNS]
        free = [i for i in _COLUMNS if scales[i] > 0]  # of what never occurred nothing is known: it keeps its weight
        told_apart = self.weights.source == "calibrated" or _last_pivot(self._normal(free, scales, 0.0)) >= VARIETY
        model = list(self._model)
        while free:
            held = [self._targets[i] / scales[i] + _RIDGE * self._model[i] * scales[i] for i in free]
            solution = _solved(self._normal(free, scales, _RIDGE), held)
            for i, value in zip(free, solution, strict=True):
                model[i] = value / scales[i]
            worst = min(free, key=model.__getitem__)
            if model[worst] >= 0:
                break
            model[worst] = 0.0
            free.remove(worst)
        if not (any(model) and all(map(math.isfinite, model))):
            return
        self._model = model
        if told_apart:
            context, prefill, decode, fixed = model
            self.deviation = self._spread
            self.weights = StepWeights(
                fixed=fixed, prefill_token=prefill, decode_token=decode, context_token=context, source="calibrated"
            )

    def _normal(self, free: list[int], scales: _Vector, ridge: float) -> list[_Vector]:
        """Return the lower half of the normal equations' matrix, scaled to ones on its diagonal, plus the ridge."""
        rows = [[self._products[i][j] / (scales[i] * scales[j]) for j in free if j <= i] for i in free]
        for row in rows:
            row[-1] += ridge
        return rows


def _factor(matrix: list[_Vector]) -> tuple[list[_Vector], _Vector]:
    """Return L and D of a symmetric matrix, given by its lower half, as L D L'; a pivot below 1e-12 becomes that."""
    lower: list[_Vector] = []
    pivots: _Vector = []
    for row in matrix:
        new: _Vector = []
        for j, value in enumerate(row):
            against = new if j == len(lower) else lower[j]
            rest = value - sum(new[k] * against[k] * pivots[k] for k in range(j))
            if j == len(lower):
                pivots.append(max(rest, 1e-12))
            else:
                new.append(rest / pivots[j])
        lower.append(new)
    return lower, pivots


def _last_pivot(matrix: list[_Vector]) -> float:
    return _factor(matrix)[1][-1]


def _solved(matrix: list[_Vector], target: _Vector) -> _Vector:
    lower, pivots = _factor(matrix)
    solution: _Vector = []
    for row, value in zip(lower, target, strict=True):
        solution.append(value - sum(a * b for a, b in zip(row, solution, strict=True)))
    solution = [value / pivot for value, pivot in zip(solution, pivots, strict=True)]
    for i in reversed(range(len(solution))):
        solution[i] -= sum(lower[k][i] * solution[k] for k in range(i + 1, len(solution)))
    return solution
