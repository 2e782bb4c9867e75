"""What replicas share of a rollout merges like sets, and comes back from a store as it went in."""

from collections.abc import Mapping
from functools import reduce

from hypothesis import given
from hypothesis import strategies as st
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
    merge,
    merge_flags,
)
from tenantry.core.rollout.signals import SIGNALS
from tenantry.core.rollout.standing import FLEET, Event, Standing, State, TransitionError, apply

SCOPES = st.sampled_from([FLEET, "tier:gold", "tenant:acme"])
PLANS = [f"plan{number}" for number in range(MAX_PLANS)]


@st.composite
def standings(draw: st.DrawFn) -> Standing:
    """What a scope's standing may be after any events."""
    standing = Standing()
    for event in draw(st.lists(st.sampled_from(Event), max_size=5)):
        try:
            standing = apply(standing, event)
        except TransitionError:
            continue
    return standing


def tally(group: str, wealth: int) -> Tally:
    return Tally(
        group=group, visit=1, units=1, all_units=2, counted=(1,) * len(SIGNALS), since_s=0.0,
        log_wealth=(float(wealth),) * COMPONENTS,
    )  # fmt: skip


ledgers = st.builds(
    Ledger,
    sequence=st.integers(1, 3),
    writer=st.sampled_from("ab"),
    tallies=st.builds(tally, st.sampled_from(["acme", "~1"]), st.integers(-3, 3)).map(lambda each: (each,)),
)
evidences = st.builds(
    PlanEvidence,
    evidence=st.builds(
        Evidence,
        started_s=st.integers(0, 2).map(float),
        chapter=st.integers(1, 2),
        ledgers=st.lists(ledgers, max_size=2, unique_by=lambda each: each.writer).map(
            lambda found: tuple(sorted(found, key=lambda each: each.writer))
        ),
    ),
    at_s=st.integers(0, 3).map(float),
)
steppings = st.builds(
    Stepping,
    number=st.integers(1, 3),
    percent=st.sampled_from([5.0, 25.0]),
    since_s=st.integers(0, 2).map(float),
    chapter=st.integers(1, 2),
    units=st.integers(0, 9),
    plan=st.sampled_from(["", *PLANS]),
)
documents = st.builds(
    Shared,
    standings=st.dictionaries(SCOPES, standings(), max_size=3),
    evidence=st.dictionaries(st.sampled_from(PLANS), evidences, max_size=2),
    stepping=st.none() | steppings,
)
flags = st.dictionaries(
    st.sampled_from(["acme", "globex"]),
    st.builds(BetaFlag, clock=st.integers(1, 3), at_s=st.integers(0, 2).map(float), off=st.booleans()),
)


@given(documents, documents, documents)
def test_shared_state_is_a_semilattice(one: Shared, two: Shared, three: Shared) -> None:
    both = merge(one, two)
    assert both == merge(two, one)
    assert merge(both, three) == merge(one, merge(two, three))
    assert merge(both, one) == merge(both, two) == merge(both, both) == both


@given(st.lists(documents, min_size=1, max_size=5), st.data())
def test_documents_may_come_late_twice_and_in_any_order(known: list[Shared], data: st.DataObject) -> None:
    whole = reduce(merge, known, Shared())
    order = data.draw(st.permutations([*known, *known[: len(known) // 2 + 1]]))
    assert reduce(merge, order, Shared()) == whole


@given(documents, documents)
def test_no_merge_forgets_a_revert_that_the_other_side_did_not_clear(one: Shared, other: Shared) -> None:
    """Invariant 8."""
    merged = merge(one, other)
    for scope, standing in one.standings.items():
        knows = other.standings.get(scope, Standing())
        if standing.state is State.REVERTED and knows.cleared < standing.reverts:
            assert merged.standings[scope].state is State.REVERTED


@given(documents)
def test_what_is_stored_comes_back(shared: Shared) -> None:
    assert decode(encode(shared)) == shared
    assert encode(decode(encode(shared))) == encode(shared)


@given(documents, st.integers(0, 10**6), st.integers(0, 255))
def test_a_damaged_byte_is_an_error_of_ours_or_a_document(shared: Shared, position: int, byte: int) -> None:
    raw = bytearray(encode(shared))
    raw[position % len(raw)] = byte
    try:
        found = decode(bytes(raw))
    except DamagedStateError:
        return
    assert isinstance(found, Shared)


@given(flags, flags, flags)
def test_beta_flags_are_a_semilattice_and_come_back(
    one: Mapping[str, BetaFlag], two: Mapping[str, BetaFlag], three: Mapping[str, BetaFlag]
) -> None:
    both = merge_flags(one, two)
    assert both == merge_flags(two, one)
    assert merge_flags(both, three) == merge_flags(one, merge_flags(two, three))
    assert merge_flags(both, one) == merge_flags(both, both) == both
    assert decode_flags(encode_flags(both)) == both
