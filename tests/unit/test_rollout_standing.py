"""The state table of a rollout, its memory of reverts, and when a step may be taken."""

import pytest
from tenantry.core.rollout import standing as module
from tenantry.core.rollout.standing import (
    TRANSITIONS,
    Event,
    Standing,
    State,
    Steps,
    TransitionError,
    apply,
    effective,
    merge,
    next_step,
)
from tenantry.core.rollout.verdicts import Progress


def after(*events: Event) -> Standing:
    standing = Standing()
    for event in events:
        standing = apply(standing, event)
    return standing


IN = {
    State.SPLITTING: after(),
    State.PAUSED: after(Event.OPERATOR_PAUSE),
    State.PROMOTED: after(Event.OPERATOR_PROMOTE),
    State.REVERTED: after(Event.GUARD_REVERT),
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_the_table_runs(state: State, event: Event) -> None:
    standing = IN[state]
    assert standing.state is state
    expected = TRANSITIONS.get((state, event))
    if expected is None:
        with pytest.raises(TransitionError, match=state.value):
            apply(standing, event)
    else:
        assert apply(standing, event).state is expected


def test_the_documentation_shows_the_table() -> None:
    assert module.__doc__ is not None
    lines = [line.strip("| ").split(" | ") for line in module.__doc__.splitlines() if line.startswith("|")]
    events = [Event(name) for name in lines[0][1:]]
    shown = {
        (State(row[0]), event): State(cell)
        for row in lines[2:]
        for event, cell in zip(events, row[1:], strict=True)
        if cell != "(refused)"
    }
    assert shown == TRANSITIONS


def test_only_a_resume_leads_out_of_a_revert() -> None:
    assert [event for (state, event), to in TRANSITIONS.items() if state is State.REVERTED and to is not state] == [
        Event.OPERATOR_RESUME
    ]
    assert after(Event.GUARD_REVERT, Event.OPERATOR_RESUME).state is State.SPLITTING


def test_a_second_revert_counts_after_a_resume() -> None:
    again = after(Event.GUARD_REVERT, Event.GUARD_REVERT, Event.OPERATOR_RESUME, Event.GUARD_REVERT)
    assert (again.reverts, again.cleared, again.state) == (2, 1, State.REVERTED)


def test_a_store_that_forgot_is_told_again() -> None:
    remembered, forgotten = after(Event.GUARD_REVERT), Standing()
    assert merge(remembered, forgotten).state is State.REVERTED
    assert merge(forgotten, remembered).state is State.REVERTED


def test_an_operator_who_did_not_know_of_the_revert_does_not_undo_it() -> None:
    """One replica reverted; on another the operator paused and resumed in the meantime."""
    reverted, elsewhere = after(Event.GUARD_REVERT), after(Event.OPERATOR_PAUSE, Event.OPERATOR_RESUME)
    assert elsewhere.clock > reverted.clock
    assert merge(reverted, elsewhere).state is State.REVERTED


def test_a_resume_counts_everywhere() -> None:
    reverted = after(Event.GUARD_REVERT)
    assert merge(reverted, apply(reverted, Event.OPERATOR_RESUME)).state is State.SPLITTING


def test_of_two_changes_at_once_the_careful_one_counts() -> None:
    paused, promoted = after(Event.OPERATOR_PAUSE), after(Event.OPERATOR_PROMOTE)
    assert merge(paused, promoted).state is merge(promoted, paused).state is State.PAUSED


def test_a_revert_is_not_a_mode() -> None:
    with pytest.raises(ValueError, match="counted"):
        Standing(mode=State.REVERTED)


@pytest.mark.parametrize("one", State)
@pytest.mark.parametrize("other", State)
def test_of_several_scopes_the_most_careful_word_counts_and_a_promotion_beats_a_split(one: State, other: State) -> None:
    order = [State.REVERTED, State.PAUSED, State.PROMOTED, State.SPLITTING]
    assert effective([one, other]) is order[min(order.index(one), order.index(other))]


def test_nobody_moved_anything() -> None:
    assert effective([]) is State.SPLITTING


STEPS = Steps(min_units=300, min_seconds=3600.0, stale_after_s=300.0)
NOW_S = 100_000.0
READY: dict[str, object] = {
    "units": 300,
    "all_units": 6_000,
    "spread_units": 300,
    "pairs": 0,
    "last_candidate_s": NOW_S - 10,
    "last_stable_s": NOW_S - 10,
    "suspicion": 0.0,
    "alarms": 0,
}


def step(percent: float = 5.0, since_s: float = NOW_S - 3600.0, **changes: object) -> tuple[float, bool, str]:
    progress = Progress(**{**READY, **changes})  # type: ignore[arg-type]
    taken = next_step(STEPS, Standing(), percent=percent, since_s=since_s, progress=progress, now_s=NOW_S)
    return taken.percent, taken.done, taken.why


def test_a_healthy_rollout_climbs() -> None:
    assert [step(percent)[:2] for percent in (1.0, 5.0, 25.0, 50.0)] == [
        (5.0, False),
        (25.0, False),
        (50.0, False),
        (50.0, True),  # to 100 % is to promote: at 100 % there is nothing to compare with
    ]


def test_steps_that_end_below_100_promote_nobody() -> None:
    steps = Steps(percents=(5.0, 25.0), min_units=300, min_seconds=3600.0)
    progress = Progress(**READY)  # type: ignore[arg-type]
    taken = next_step(steps, Standing(), percent=25.0, since_s=0.0, progress=progress, now_s=NOW_S)
    assert (taken.percent, taken.done) == (25.0, False)
    assert "an operator promotes" in taken.why


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"spread_units": 299}, "299 of 300 answered candidate units, at most half of them one tenant's"),
        ({"last_candidate_s": None}, "no outcome of both versions"),
        ({"last_stable_s": None}, "no outcome of both versions"),
        ({"last_candidate_s": NOW_S - 301}, "no outcome of both versions"),
        ({"last_stable_s": NOW_S - 301}, "no outcome of both versions"),
        ({"suspicion": 0.26}, "a signal speaks against the candidate"),
        ({"alarms": 1}, "a verdict is held back"),
        ({"since_s": NOW_S - 3599.0}, "the step is younger"),
    ],
)
def test_doubt_never_promotes(changes: dict[str, object], why: str) -> None:
    percent, done, said = step(**changes)  # type: ignore[arg-type]
    assert (percent, done) == (5.0, False)
    assert why in said


def test_unreadable_evidence_never_promotes() -> None:
    for percent in (5.0, 100.0):
        taken = next_step(STEPS, Standing(), percent=percent, since_s=0.0, progress=None, now_s=NOW_S)
        assert (taken.percent, taken.done, taken.why) == (percent, False, "the evidence cannot be read")


@pytest.mark.parametrize("state", [State.PAUSED, State.PROMOTED, State.REVERTED])
def test_only_a_split_takes_steps(state: State) -> None:
    progress = Progress(**READY)  # type: ignore[arg-type]
    taken = next_step(STEPS, IN[state], percent=5.0, since_s=0.0, progress=progress, now_s=NOW_S)
    assert (taken.percent, taken.done, taken.why) == (5.0, False, f"the rollout is {state.value}")


@pytest.mark.parametrize("percents", [(), (5.0, 5.0), (50.0, 25.0), (0.0, 5.0), (50.0, 101.0)])
def test_steps_rise(percents: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="rising"):
        Steps(percents=percents)
