"""The stored document of a rollout: what is kept, what may be lost of it, and what must not be misread."""

import msgspec
import pytest
from msgspec import structs
from tenantry.core.rollout.budget import Budget
from tenantry.core.rollout.evidence import COMPONENTS, Evidence, Ledger, Tally
from tenantry.core.rollout.shared import (
    MAX_PLANS,
    BetaFlag,
    DamagedStateError,
    PlanEvidence,
    Shared,
    Stepping,
    decode,
    decode_flags,
    encode,
    encode_flags,
    flagged,
    merge,
    merge_flags,
    plan_id,
    with_standing,
)
from tenantry.core.rollout.signals import SIGNALS, Margins
from tenantry.core.rollout.standing import FLEET, Event, Standing, State, apply
from tenantry.core.rollout.verdicts import Plan

REVERTED = apply(Standing(), Event.GUARD_REVERT)
STEPPING = Stepping(number=3, percent=25.0, since_s=100.0, chapter=2, units=40, plan="p")


def evidence(wealth: float = 1.0, *, components: int = COMPONENTS, at_s: float = 9.0) -> PlanEvidence:
    tally = Tally(
        group="acme", visit=1, units=3, all_units=60, counted=(3,) * len(SIGNALS), since_s=5.0,
        log_wealth=(wealth,) * COMPONENTS,
    )  # fmt: skip
    found = PlanEvidence(
        evidence=Evidence(started_s=0.0, ledgers=(Ledger(sequence=1, writer="one", tallies=(tally,)),)), at_s=at_s
    )
    structs.force_setattr(tally, "log_wealth", (wealth,) * components)  # as another release would have written it
    return found


WHOLE = Shared(standings={FLEET: REVERTED}, evidence={"p": evidence()}, stepping=STEPPING)


def test_what_is_written_is_what_is_read() -> None:
    assert decode(encode(WHOLE)) == WHOLE
    assert decode(encode(Shared())) == Shared()


def test_where_nothing_is_stored_nothing_is_known() -> None:
    assert decode(None) == Shared()


def test_the_same_knowledge_is_the_same_bytes() -> None:
    """So a store need not be written when nothing changed."""
    standings = {"tenant:b": REVERTED, "tenant:a": Standing()}
    one = Shared(standings=standings, evidence={"q": evidence(), "p": evidence()})
    other = Shared(standings=dict(reversed(standings.items())), evidence={"p": evidence(), "q": evidence()})
    assert encode(one) == encode(other)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff",
        b'{"standings":{},"evidence":{}}',
        encode(WHOLE)[:-1],
        encode(WHOLE).replace(b'"reverts":1', b'"reverts":"one"'),
        encode(WHOLE).replace(b'"mode":"splitting"', b'"mode":"reverted"'),  # a revert is counted, never a mode
        encode(WHOLE).replace(b'"mode":"splitting"', b'"mode":"rolling"'),
        encode(WHOLE).replace(b'"percent":25.0', b'"percent":null'),
    ],
)
def test_damaged_standings_are_no_standings(raw: bytes) -> None:
    """To take them for none would forget a revert. The caller knows of nothing then, and nobody gets the candidate."""
    with pytest.raises(DamagedStateError, match="cannot be read"):
        decode(raw)


@pytest.mark.parametrize(
    "damaged",
    [
        encode(structs.replace(WHOLE, evidence={"p": evidence(components=COMPONENTS - 1), "q": evidence()})),
        encode(structs.replace(WHOLE, evidence={"p": evidence(), "q": evidence()})).replace(
            b'"p":{"at_s":9.0', b'"p":{"at_s":"soon"'
        ),
        encode(structs.replace(WHOLE, evidence={"p": evidence(), "q": evidence()})).replace(
            b'"chapter":1', b'"chapter":0', 1
        ),
    ],
)
def test_evidence_of_another_release_is_dropped_and_a_revert_is_not(damaged: bytes) -> None:
    found = decode(damaged)
    assert found == structs.replace(WHOLE, evidence={"q": evidence()})
    assert found.standings[FLEET].state is State.REVERTED


def test_a_store_that_forgot_is_told_of_the_revert_again() -> None:
    """A replica writes the sum of what is stored and what it knows, as it always does."""
    forgetful = merge(decode(None), WHOLE)
    assert forgetful == WHOLE
    assert decode(encode(forgetful)).standings[FLEET].state is State.REVERTED


def test_a_resume_that_one_replica_knows_of_counts_for_all() -> None:
    resumed = with_standing(WHOLE, FLEET, apply(REVERTED, Event.OPERATOR_RESUME))
    assert merge(WHOLE, resumed).standings[FLEET].state is State.SPLITTING


def test_the_latest_step_counts_even_if_it_went_back() -> None:
    back = Stepping(number=4, percent=5.0, since_s=200.0)
    for merged in (merge(WHOLE, Shared(stepping=back)), merge(Shared(stepping=back), WHOLE)):
        assert merged.stepping == back
    assert merge(WHOLE, Shared()).stepping == STEPPING


def test_of_more_plans_than_are_kept_those_not_added_to_for_longest_go() -> None:
    many = Shared(evidence={f"p{number}": evidence(at_s=float(number)) for number in range(MAX_PLANS + 2)})
    assert list(merge(many, Shared()).evidence) == [f"p{number}" for number in range(2, MAX_PLANS + 2)]
    assert merge(Shared(), many) == merge(many, Shared()) == merge(many, many)


def test_evidence_is_kept_apart_by_whatever_changes_the_bets() -> None:
    plans = [
        Plan(),
        Plan(margins=Margins(ttft_ratio=1.3)),
        Plan(budget=Budget(alpha=0.02)),
        Plan(budget=Budget(max_tenants=51)),
        Plan(warmup_requests=0),
    ]
    assert len({plan_id(plan) for plan in plans}) == len(plans)
    assert plan_id(Plan()) == plan_id(Plan())


@pytest.mark.parametrize(("name", "value"), [("VISIT_SHARES", {1: 1.0}), ("SHARE_RATIOS", (0.5, 2.0))])
def test_evidence_is_kept_apart_by_what_a_release_bets(
    name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = plan_id(Plan())
    monkeypatch.setattr(f"tenantry.core.rollout.shared.{name}", value)
    assert plan_id(Plan()) != before


@pytest.mark.parametrize("raw", [b"[" * 100_000, b'{"standings":{},"stepping":null,"evidence":{"p":' + b"[" * 100_000])
def test_brackets_in_brackets_are_damage(raw: bytes) -> None:
    with pytest.raises(DamagedStateError, match="cannot be read"):
        decode(raw)
    with pytest.raises(DamagedStateError, match="beta flags"):
        decode_flags(raw)


def test_a_step_of_an_earlier_release_is_read() -> None:
    """It named no plan."""
    stored = msgspec.json.decode(encode(WHOLE))
    del stored["stepping"]["plan"]
    assert decode(msgspec.json.encode(stored)).stepping == structs.replace(STEPPING, plan="")


# --- beta flags --------------------------------------------------------------------------------------------------


def test_a_tenants_last_word_counts_wherever_it_was_heard() -> None:
    on = flagged({}, "acme", beta=True, now_s=10.0)
    off = flagged(on, "acme", beta=False, now_s=20.0)
    assert on == {"acme": BetaFlag(clock=1, at_s=10.0, off=False)}
    assert off == {"acme": BetaFlag(clock=2, at_s=20.0, off=True)}
    assert merge_flags(on, off) == merge_flags(off, on) == merge_flags(off, off) == off
    others = flagged(on, "globex", beta=True, now_s=30.0)
    assert merge_flags(others, off) == {"acme": off["acme"], "globex": others["globex"]}


def test_a_clock_that_runs_behind_does_not_make_a_word_unsaid() -> None:
    on = flagged({}, "acme", beta=True, now_s=1_000.0)
    off = flagged(on, "acme", beta=False, now_s=1.0)
    assert merge_flags(on, off)["acme"].off


def test_of_two_words_at_one_moment_the_no_counts() -> None:
    on, off = (flagged({}, "acme", beta=beta, now_s=1.0) for beta in (True, False))
    assert merge_flags(on, off) == merge_flags(off, on) == off


def test_flags_are_stored_whole_or_not_read() -> None:
    flags = flagged({}, "acme", beta=True, now_s=1.0)
    assert decode_flags(encode_flags(flags)) == flags
    assert decode_flags(None) == {}
    for raw in (b"", b"[]", b"\xff", encode_flags(flags)[:-2], b'{"acme":true}'):
        with pytest.raises(DamagedStateError, match="beta flags"):
            decode_flags(raw)
