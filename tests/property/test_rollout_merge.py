"""Evidence and standings merge like sets: in any order, any grouping, any number of times."""

from functools import reduce
from math import exp, log, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import json, structs
from tenantry.core.rollout.books import RESERVE_LOG, REST_GROUPS, Books, with_reserve
from tenantry.core.rollout.evidence import COMPONENTS, LAYOUT, WRITERS_MAX, Evidence, Ledger, Tally, log_mix, merge
from tenantry.core.rollout.signals import SIGNALS
from tenantry.core.rollout.standing import Event, Standing, State, TransitionError, apply
from tenantry.core.rollout.standing import merge as merge_standings


def tally(group: str, wealth: float, *, visit: int = 1, units: int = 1, since_s: float = 0.0) -> Tally:
    return Tally(
        group=group,
        visit=visit,
        units=units,
        all_units=2 * units,
        counted=(units,) * len(SIGNALS),
        since_s=since_s,
        log_wealth=(wealth,) * COMPONENTS,
    )


GROUPS = st.sampled_from(["acme", "globex", "initech", "~3"])
TALLIES = st.builds(tally, GROUPS, st.integers(-8, 8).map(float), visit=st.sampled_from([1, 4]))
LEDGERS = st.builds(
    Ledger,
    sequence=st.integers(1, 4),
    writer=st.sampled_from("abc"),
    tallies=st.lists(TALLIES, max_size=3, unique_by=lambda each: (each.group, each.visit)).map(tuple),
)
EVIDENCE = st.builds(
    Evidence,
    chapter=st.integers(1, 2),
    started_s=st.integers(0, 3).map(float),
    ledgers=st.lists(LEDGERS, max_size=3, unique_by=lambda each: each.writer).map(
        lambda ledgers: tuple(sorted(ledgers, key=lambda ledger: ledger.writer))
    ),
)


@given(EVIDENCE, EVIDENCE, EVIDENCE)
def test_evidence_is_a_semilattice(one: Evidence, two: Evidence, three: Evidence) -> None:
    both = merge(one, two)
    assert both == merge(two, one)
    assert merge(both, three) == merge(one, merge(two, three))
    assert merge(both, one) == merge(both, two) == merge(both, both) == both


@given(st.lists(EVIDENCE, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_batches_may_come_late_twice_and_in_any_order(batches: list[Evidence], dice: object) -> None:
    def delivered(order: list[Evidence]) -> Evidence:
        total = order[0]
        for batch in order[1:]:
            total = merge(total, batch)
        return total

    shuffled = [*batches, *batches[::-1]]
    dice.shuffle(shuffled)  # type: ignore[attr-defined]
    assert delivered(shuffled) == delivered(batches)


def test_more_writers_than_fit_drop_the_least_whatever_the_order() -> None:
    alone = [
        Evidence(started_s=0.0, ledgers=(Ledger(sequence=number, writer=f"w{number:03}", tallies=()),))
        for number in range(1, WRITERS_MAX + 10)
    ]
    forward = backward = alone[5]
    for batch in alone:
        forward = merge(forward, batch)
    for batch in alone[::-1]:
        backward = merge(backward, batch)
    assert forward == backward
    assert [ledger.sequence for ledger in forward.ledgers] == list(range(10, WRITERS_MAX + 10))


@given(EVIDENCE)
def test_evidence_survives_the_store(evidence: Evidence) -> None:
    assert json.decode(json.encode(evidence), type=Evidence) == evidence


@given(st.lists(st.tuples(GROUPS, st.integers(-5, 5)), max_size=30), st.integers(1, 4))
def test_replicas_add(bets: list[tuple[str, int]], replicas: int) -> None:
    """Bets divided among replicas in any way come to the same fleet, groups and counts as in one place."""
    start = Evidence(started_s=0.0)
    single = Books(writer="one", max_tenants=9, evidence=start)
    several = [Books(writer=f"w{index}", max_tenants=9, evidence=start) for index in range(replicas)]
    for number, (group, wealth) in enumerate(bets):
        for books in (single, several[number % replicas]):
            account = books.account(group, 1, 0.0)
            account.units += 1
            account.all_units += 1
            books.credit(account, 0, [float(wealth)] * 3)
    reader = Books(writer="reader", max_tenants=9, evidence=start)
    for books in several:
        reader.merge(books.evidence())
        reader.merge(books.evidence())
    assert reader.fleet(1) == pytest.approx(single.fleet(1))  # the order of adding up differs
    assert reader.units(1) == single.units(1) == len(bets)
    assert {a.group: a.total for a in reader.accounts()} == {a.group: a.total for a in single.accounts()}
    for books in several:  # and a replica that hears of the others does not count itself twice
        books.merge(reader.evidence())
        assert books.fleet(1) == pytest.approx(single.fleet(1))


def test_a_later_chapter_voids_the_bets_of_an_earlier_one() -> None:
    books = Books(writer="one", max_tenants=9, evidence=Evidence(started_s=0.0))
    books.credit(books.account("acme", 1, 0.0), 0, [3.0])
    later = Evidence(started_s=50.0, chapter=2, ledgers=(Ledger(sequence=1, writer="two", tallies=(tally("a", 1.0),)),))
    assert books.merge(later) is True
    assert (books.chapter, books.started_s, books.fleet(1)[0]) == (2, 50.0, with_reserve(1.0))
    assert books.merge(Evidence(started_s=0.0)) is False  # an earlier one changes nothing
    assert books.fleet(1)[0] == with_reserve(1.0)


def test_what_one_group_loses_costs_the_fleet_no_more_than_its_reserve_and_what_it_wins_counts_almost_whole() -> None:
    books = Books(writer="one", max_tenants=9, evidence=Evidence(started_s=0.0))
    for _ in range(1_000):
        books.credit(books.account("mallory", 1, 0.0), 0, [-1.0])
    for _ in range(20):
        books.credit(books.account("acme", 1, 0.0), 0, [1.0])
    assert books.fleet(1)[0] == pytest.approx(20.0 + RESERVE_LOG, abs=0.01)
    assert {account.group: account.total[0] for account in books.accounts()} == {"mallory": -1_000.0, "acme": 20.0}


@given(st.lists(st.tuples(st.floats(0.01, 0.99), st.floats(0.05, 5.0)), max_size=12))
def test_money_put_aside_keeps_the_bets_fair(bets: list[tuple[float, float]]) -> None:
    """Of every bet of expectation 1: the wealth with a reserve has expectation 1 over all outcomes, too."""
    wealths = [(1.0, 0.0)]  # probability, log-wealth
    for chance, win in bets:
        lose = (1.0 - chance * win) / (1.0 - chance)
        if lose <= 0.0:
            continue
        wealths = [
            (part * weight, wealth + log(factor))
            for part, wealth in wealths
            for weight, factor in ((chance, win), (1.0 - chance, lose))
        ]
    assert sum(part * exp(with_reserve(wealth)) for part, wealth in wealths) == pytest.approx(1.0)


def test_nothing_new_is_no_new_batch() -> None:
    books = Books(writer="one", max_tenants=9, evidence=Evidence(started_s=0.0))
    assert books.evidence().ledgers == ()
    account = books.account("acme", 1, 0.0)
    account.all_units += 1
    books.credit(account, 0, [3.0])
    assert books.evidence() is books.evidence()
    assert [ledger.sequence for ledger in books.evidence().ledgers] == [1]
    books.credit(account, 0, [3.0])
    assert [ledger.sequence for ledger in books.evidence().ledgers] == [2]


def test_a_process_that_writes_under_a_name_that_was_used_is_told_so() -> None:
    known = Evidence(started_s=0.0, ledgers=(Ledger(sequence=7, writer="one", tallies=()),))
    with pytest.raises(ValueError, match="every start of a process needs a writer id of its own"):
        Books(writer="one", max_tenants=9, evidence=known)
    with pytest.raises(ValueError, match="batch 7 of writer 'one'"):
        Books(writer="one", max_tenants=9, evidence=Evidence(started_s=0.0)).merge(known)


def test_damaged_evidence_is_refused_with_its_place() -> None:
    good = tally("acme", 1.0)
    for bad, why in (
        (structs.replace(good, log_wealth=(1.0,)), "1 components"),
        (structs.replace(good, log_wealth=(nan,) * COMPONENTS), "not finite"),
        (structs.replace(good, counted=(1,)), "1 signals"),
    ):
        with pytest.raises(ValueError, match=f"batch 3 of writer 'w', group 'acme'.*{why}"):
            Evidence(started_s=0.0, ledgers=(Ledger(sequence=3, writer="w", tallies=(bad,)),))
    with pytest.raises(ValueError, match="chapter 0"):
        Evidence(started_s=0.0, chapter=0)


def test_the_places_of_tenants_go_to_the_earliest_on_every_replica() -> None:
    tallies = tuple(tally(name, 0.0, since_s=float(at)) for name, at in (("late", 9), ("early", 1), ("middle", 5)))
    books = Books(
        writer="r",
        max_tenants=2,
        evidence=Evidence(started_s=0.0, ledgers=(Ledger(sequence=1, writer="w", tallies=tallies),)),
    )
    assert [books.judged_alone(name) for name in ("early", "middle", "late", "~1")] == [True, True, False, False]


def test_tenants_of_the_rest_fall_into_the_same_group_everywhere() -> None:
    books = [Books(writer=name, max_tenants=1, evidence=Evidence(started_s=0.0)) for name in "ab"]
    assert [each.group_of("first") for each in books] == ["first", "first"]
    groups = [[each.group_of(f"t{number}") for number in range(100)] for each in books]
    assert groups[0] == groups[1]
    assert set(groups[0]) == {f"~{number}" for number in range(REST_GROUPS)}


@given(st.lists(st.floats(-50, 50), min_size=3, max_size=3))
def test_a_mixture_is_worth_no_more_than_its_best_and_no_less_than_a_share_of_it(logs: list[float]) -> None:
    mixed = log_mix(logs, (0.2, 0.5, 0.3))
    assert min(logs) - 1e-9 <= mixed <= max(logs) + 1e-9
    assert mixed >= logs[1] - 0.6932


def test_the_layout_has_a_place_for_each_tilt() -> None:
    assert [end - begin for begin, end in LAYOUT.values()] == [*(len(signal.tilts) for signal in SIGNALS), *[2] * 5]
    assert sum(end - begin for begin, end in LAYOUT.values()) == COMPONENTS


EVENTS = st.sampled_from(Event)


def apply_if_allowed(standing: Standing, event: Event) -> Standing:
    try:
        return apply(standing, event)
    except TransitionError:
        return standing


STANDINGS = st.lists(EVENTS, max_size=6).map(lambda events: reduce(apply_if_allowed, events, Standing()))


@given(STANDINGS, STANDINGS, STANDINGS)
def test_standings_are_a_semilattice(one: Standing, two: Standing, three: Standing) -> None:
    assert merge_standings(one, two) == merge_standings(two, one)
    assert merge_standings(merge_standings(one, two), three) == merge_standings(one, merge_standings(two, three))
    assert merge_standings(one, one) == one


NOT_A_RESUME = EVENTS.filter(lambda event: event is not Event.OPERATOR_RESUME)
STORE_DOES = st.sampled_from(["read", "publish", "lose everything"])


@given(st.lists(st.tuples(st.integers(0, 2), st.one_of(NOT_A_RESUME, STORE_DOES))))
def test_whatever_replicas_hear_and_the_store_forgets_a_revert_stays(history: list[tuple[int, Event | str]]) -> None:
    """Three replicas and a store; without a resume, no replica that knew of a revert lets the candidate back."""
    replicas, store = [Standing()] * 3, Standing()
    knew: set[int] = set()
    for here, what in history:
        if isinstance(what, Event):
            replicas[here] = apply_if_allowed(replicas[here], what)
        elif what == "read":
            replicas[here] = merge_standings(replicas[here], store)
        elif what == "publish":
            store = merge_standings(store, replicas[here])
        else:
            store = Standing()
        knew |= {place for place in range(3) if replicas[place].state is State.REVERTED}
        assert all(replicas[place].state is State.REVERTED for place in knew)
