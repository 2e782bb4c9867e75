"""An account under any sequence of reservations, settlements, gifts back and deaths."""

from hypothesis import given
from hypothesis import strategies as st
from tenantry.core.quota.account import (
    MINUTE_MS,
    Account,
    Change,
    GiveBack,
    Limits,
    Renew,
    Reserve,
    Settle,
    apply,
    month_begin_ms,
    month_name,
    month_of,
)

LEASE_MS = 30_000
NOW_MS = 1_800_000_000_000
LIMITS = Limits(minute=10_000, period=50_000)

owners = st.sampled_from(["a", "b", "c"])
ids = st.sampled_from([f"r{number}" for number in range(6)])
reserves = st.builds(Reserve, owner=owners, lease_ms=st.just(LEASE_MS), id=ids, amount=st.integers(0, 20_000))
settles = st.builds(
    Settle, owner=owners, lease_ms=st.just(LEASE_MS), id=ids, actual=st.integers(0, 20_000), only_open=st.booleans()
)
others = st.one_of(
    st.builds(GiveBack, owner=owners, lease_ms=st.just(LEASE_MS), id=ids),
    st.builds(Renew, owner=owners, lease_ms=st.just(LEASE_MS)),
)
steps = st.lists(st.tuples(st.integers(-100, 45_000), st.one_of(reserves, settles, others)), max_size=40)


@given(steps)
def test_nothing_is_negative_and_what_is_admitted_stays_within_the_limits(steps: list[tuple[int, Change]]) -> None:
    account, now_ms = Account(), NOW_MS
    for passed_ms, change in steps:
        now_ms += passed_ms
        before = account
        account, standing = apply(account, LIMITS, change, now_ms)
        assert account.content >= 0
        assert 0 <= account.reserved == standing.reserved
        assert account.used >= before.used >= 0
        if isinstance(change, Reserve) and standing.granted and change.id not in before.open:
            assert LIMITS.period is not None
            assert account.used + account.reserved <= LIMITS.period
            assert account.content <= 10_000 * MINUTE_MS
        if not standing.granted:
            assert account.open == {name: each for name, each in before.open.items() if each.owner in account.leases}


@given(steps)
def test_when_all_owners_are_dead_nothing_is_reserved(steps: list[tuple[int, Change]]) -> None:
    account, now_ms = Account(), NOW_MS
    for passed_ms, change in steps:
        now_ms += passed_ms
        account, _ = apply(account, LIMITS, change, now_ms)
    late_ms = account.at_ms + LEASE_MS
    account, standing = apply(account, LIMITS, Renew(owner="new", lease_ms=LEASE_MS), late_ms)
    assert (account.open, standing.reserved) == ({}, 0)
    assert set(account.leases) == {"new"}


@given(
    st.lists(st.tuples(st.integers(0, 20_000), st.integers(1, 9_000), st.floats(0, 1), st.integers(0, 3)), max_size=60)
)
def test_what_requests_came_to_is_never_more_than_a_limit_at_once_and_a_limit_a_minute(
    requests: list[tuple[int, int, float, int]],
) -> None:
    """Reservations are bounds here: no request costs more than was reserved for it."""
    limits = Limits(minute=10_000)
    account, now_ms, spent = Account(at_ms=NOW_MS), NOW_MS, 0
    waiting: list[Settle] = []
    for number, (passed_ms, amount, share, patience) in enumerate(requests):
        now_ms += passed_ms
        while len(waiting) > patience:
            settle = waiting.pop(0)
            account, _ = apply(account, limits, settle, now_ms)
            spent += settle.actual
        change = Reserve(owner="a", lease_ms=10**9, id=f"r{number}", amount=amount)
        account, standing = apply(account, limits, change, now_ms)
        if standing.granted:
            waiting.append(Settle(owner="a", lease_ms=10**9, id=change.id, actual=int(amount * share)))
        assert spent <= 10_000 + (now_ms - NOW_MS) * 10_000 / MINUTE_MS


@given(steps, st.integers(0, 39))
def test_a_change_that_is_repeated_changes_nothing_more(steps: list[tuple[int, Change]], place: int) -> None:
    """A settlement has to say that it is a repetition."""
    account, now_ms = Account(), NOW_MS
    for number, (passed_ms, change) in enumerate(steps):
        now_ms = max(now_ms, now_ms + passed_ms)
        account, standing = apply(account, LIMITS, change, now_ms)
        if number == place and standing.granted:
            again = change
            if isinstance(change, Settle):
                again = Settle(
                    owner=change.owner, lease_ms=LEASE_MS, id=change.id, actual=change.actual, only_open=True
                )
            assert apply(account, LIMITS, again, now_ms)[0] == account


@given(st.integers(0, 4_102_444_800_000))
def test_months(now_ms: int) -> None:
    month = month_of(now_ms)
    assert month_begin_ms(month) <= now_ms < month_begin_ms(month + 1)
    assert month_name(month) == f"{month // 12}-{month % 12 + 1:02}"
