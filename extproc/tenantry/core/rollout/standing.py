"""Where a rollout stands, for the fleet and each tenant: the table that runs, and a merge that forgets no revert.

| from | guard_revert | operator_revert | operator_pause | operator_resume | operator_promote | steps_done |
|---|---|---|---|---|---|---|
| splitting | reverted | reverted | paused | (refused) | promoted | promoted |
| paused | reverted | reverted | paused | splitting | promoted | (refused) |
| promoted | reverted | reverted | (refused) | splitting | promoted | promoted |
| reverted | reverted | reverted | (refused) | splitting | (refused) | (refused) |

`reverted` is monotone: only an operator's `resume` leads out of it, never a promotion, a pause, a step, a reload of
the rules or a store that forgot. It is kept as two counters, how often the rollout was reverted and up to which revert
an operator cleared it; both only grow, and replicas take the larger of each. So a replica that remembers a revert
publishes it to a store that does not, and a resume clears the reverts that its operator knew of, not one that comes
after it.
"""

from collections.abc import Iterable
from enum import Enum

from msgspec import Struct, structs

from tenantry.core.errors import TenantryError
from tenantry.core.rollout.verdicts import Progress


class State(Enum):
    """What happens to the candidate: its share of new units is the split's, all of them, none for now, or none."""

    SPLITTING = "splitting"
    PAUSED = "paused"
    PROMOTED = "promoted"
    REVERTED = "reverted"


class Event(Enum):
    """What moves a rollout."""

    GUARD_REVERT = "guard_revert"
    OPERATOR_REVERT = "operator_revert"
    OPERATOR_PAUSE = "operator_pause"
    OPERATOR_RESUME = "operator_resume"
    OPERATOR_PROMOTE = "operator_promote"
    STEPS_DONE = "steps_done"


class TransitionError(TenantryError):
    """An event that has no place in the state; the message says what would be right."""


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.SPLITTING, Event.GUARD_REVERT): State.REVERTED,
    (State.SPLITTING, Event.OPERATOR_REVERT): State.REVERTED,
    (State.SPLITTING, Event.OPERATOR_PAUSE): State.PAUSED,
    (State.SPLITTING, Event.OPERATOR_PROMOTE): State.PROMOTED,
    (State.SPLITTING, Event.STEPS_DONE): State.PROMOTED,
    (State.PAUSED, Event.GUARD_REVERT): State.REVERTED,
    (State.PAUSED, Event.OPERATOR_REVERT): State.REVERTED,
    (State.PAUSED, Event.OPERATOR_PAUSE): State.PAUSED,
    (State.PAUSED, Event.OPERATOR_RESUME): State.SPLITTING,
    (State.PAUSED, Event.OPERATOR_PROMOTE): State.PROMOTED,
    (State.PROMOTED, Event.GUARD_REVERT): State.REVERTED,
    (State.PROMOTED, Event.OPERATOR_REVERT): State.REVERTED,
    (State.PROMOTED, Event.OPERATOR_RESUME): State.SPLITTING,
    (State.PROMOTED, Event.OPERATOR_PROMOTE): State.PROMOTED,
    (State.PROMOTED, Event.STEPS_DONE): State.PROMOTED,
    (State.REVERTED, Event.GUARD_REVERT): State.REVERTED,
    (State.REVERTED, Event.OPERATOR_REVERT): State.REVERTED,
    (State.REVERTED, Event.OPERATOR_RESUME): State.SPLITTING,
}

_HINTS = {
    State.SPLITTING: "it is splitting already",
    State.PAUSED: "resume it first",
    State.PROMOTED: "resume it to go back to a split, or revert it",
    State.REVERTED: "resume it first: a revert is never undone by anything else",
}

_BOLDNESS = (State.PAUSED, State.SPLITTING, State.PROMOTED)
"""Of two changes that did not know of one another, the more careful one counts."""

SUSPICION_MAX = 0.25
"""The part of the way to a verdict, on the log scale, beyond which no step is taken."""


class Standing(Struct, frozen=True, kw_only=True):
    """The standing of one scope, the fleet or a tenant. `clock` counts changes of `mode`, the state under a revert.

    The guard's verdicts from the chapters up to `heard_chapter` were known to an operator who resumed all the same.
    """

    reverts: int = 0
    cleared: int = 0
    clock: int = 0
    mode: State = State.SPLITTING
    heard_chapter: int = 0

    def __post_init__(self) -> None:
        if self.mode is State.REVERTED:
            raise ValueError("a standing's mode is never reverted: reverts are counted")

    @property
    def state(self) -> State:
        """The state that counts."""
        return State.REVERTED if self.reverts > self.cleared else self.mode


def apply(standing: Standing, event: Event) -> Standing:
    """Return the standing after an event. Raises TransitionError for one that has no place in the state."""
    state = standing.state
    after = TRANSITIONS.get((state, event))
    if after is None:
        raise TransitionError(f"{event.value} has no place while the rollout is {state.value}: {_HINTS[state]}")
    if after is State.REVERTED:
        return standing if state is State.REVERTED else structs.replace(standing, reverts=standing.cleared + 1)
    if after is state:
        return standing
    return structs.replace(standing, cleared=standing.reverts, clock=standing.clock + 1, mode=after)


def merge(one: Standing, other: Standing) -> Standing:
    """Return what both know: commutative, associative and idempotent; no revert that is not cleared gets lost."""
    latest = max(one, other, key=lambda standing: (standing.clock, -_BOLDNESS.index(standing.mode)))
    return Standing(
        reverts=max(one.reverts, other.reverts),
        cleared=max(one.cleared, other.cleared),
        clock=latest.clock,
        mode=latest.mode,
        heard_chapter=max(one.heard_chapter, other.heard_chapter),
    )


FLEET = "fleet"


def tier_scope(tier: str) -> str:
    """Return the name of a tier's scope."""
    return f"tier:{tier}"


def tenant_scope(tenant: str) -> str:
    """Return the name of a tenant's scope."""
    return f"tenant:{tenant}"


_STRONGEST = (State.REVERTED, State.PAUSED, State.PROMOTED)


def effective(states: Iterable[State]) -> State:
    """Return the state that several scopes come to together: a revert before a pause before a promotion."""
    found = set(states)
    return next((state for state in _STRONGEST if state in found), State.SPLITTING)


class Steps(Struct, frozen=True, kw_only=True):
    """Automatic steps, off unless configured.

    A step needs `min_seconds`, and `min_units` candidate units that got an answer, at most half of them of one tenant:
    nobody carries a candidate up alone, nor by requests that no version would answer.
    """

    percents: tuple[float, ...] = (5.0, 25.0, 50.0, 100.0)
    min_units: int = 300
    min_seconds: float = 3_600.0
    stale_after_s: float = 300.0

    def __post_init__(self) -> None:
        rising = all(low < high for low, high in zip((0.0, *self.percents), self.percents, strict=False))
        if not self.percents or not rising or self.percents[-1] > 100.0:
            raise ValueError(f"steps {self.percents}: rising percents, more than 0 and at most 100")


class Step(Struct, frozen=True, kw_only=True):
    """The percent from now on, and why. `done`: the step to take is that to 100 %, a promotion (Event.STEPS_DONE)."""

    percent: float
    done: bool
    why: str


def next_step(
    steps: Steps, standing: Standing, *, percent: float, since_s: float, progress: Progress | None, now_s: float
) -> Step:
    """Decide whether the share may grow. `progress` counts since the step began, at `since_s`; None: not readable.

    Whatever is missing, stale or doubtful means: stay. No data never promotes.
    """
    why = _not_yet(steps, standing, since_s, progress, now_s)
    if why is not None:
        return Step(percent=percent, done=False, why=why)
    passed = f"{steps.min_units} units and no objection at {percent:g} %"
    for larger in steps.percents:
        if larger >= 100.0:
            return Step(percent=percent, done=True, why=passed)
        if larger > percent:
            return Step(percent=larger, done=False, why=passed)
    return Step(percent=percent, done=False, why=f"{percent:g} % is the last step; an operator promotes")


def _not_yet(steps: Steps, standing: Standing, since_s: float, progress: Progress | None, now_s: float) -> str | None:
    if progress is None:
        return "the evidence cannot be read"
    seen = (progress.last_candidate_s, progress.last_stable_s)
    stale = any(at is None or now_s - at > steps.stale_after_s for at in seen)
    doubts = (
        (standing.state is not State.SPLITTING, f"the rollout is {standing.state.value}"),
        (progress.alarms > 0, "a verdict is held back, as the stable version fails too"),
        (stale, f"no outcome of both versions in the last {steps.stale_after_s:g} s"),
        (now_s - since_s < steps.min_seconds, f"the step is younger than {steps.min_seconds:g} s"),
        (
            progress.spread_units < steps.min_units,
            f"{progress.spread_units} of {steps.min_units} answered candidate units, at most half of them one tenant's",
        ),
        (progress.suspicion > SUSPICION_MAX, "a signal speaks against the candidate"),
    )
    return next((why for doubt, why in doubts if doubt), None)
