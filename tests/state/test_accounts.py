"""Accounts of quotas, asked of SQLite and of a real Redis alike: both do what `core.quota.account` says."""

import asyncio
import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tenantry.adapters.state import Store, open_state
from tenantry.adapters.state.redis import RedisState
from tenantry.adapters.state.sqlite import SqliteState
from tenantry.core.quota.account import (
    Account,
    Change,
    GiveBack,
    Limits,
    Renew,
    Reserve,
    Seen,
    Settle,
    Standing,
    apply,
    month_of,
)

_NUMBERS = itertools.count()
LEASE_MS = 30_000
LIMITS = Limits(minute=10_000, period=50_000, alert_at=(0.5, 1.0))
NOW_MS = 1_764_547_195_000
"""Five seconds before December of 2025."""

owners = st.sampled_from(["a", "b"])
ids = st.sampled_from(["r1", "r2", "r3", "r4"])
amounts = st.integers(0, 30_000)
seen = st.none() | st.builds(Seen, month=st.just(month_of(NOW_MS)), used=amounts)
changes = st.one_of(
    st.builds(Reserve, owner=owners, lease_ms=st.just(LEASE_MS), seen=seen, id=ids, amount=amounts),
    st.builds(
        Settle, owner=owners, lease_ms=st.just(LEASE_MS), seen=seen, id=ids, actual=amounts, only_open=st.booleans()
    ),
    st.builds(GiveBack, owner=owners, lease_ms=st.just(LEASE_MS), seen=seen, id=ids),
    st.builds(Renew, owner=owners, lease_ms=st.just(LEASE_MS), seen=seen),
)  # fmt: skip
limits = st.builds(
    Limits,
    minute=st.none() | st.integers(1, 20_000),
    period=st.none() | st.integers(1, 60_000),
    alert_at=st.sampled_from([(), (0.5, 1.0), (0.8, 0.333), (1.5,)]),
)


@pytest.fixture
def key() -> str:
    return f"tenant/{next(_NUMBERS)}"


def at(where: str, now: Callable[[], float]) -> Store:
    return RedisState(where, now=now) if "://" in where else SqliteState(Path(where), now=now)


def reserve(name: str, amount: int = 1_000, owner: str = "a", lease_ms: int = LEASE_MS) -> Reserve:
    return Reserve(owner=owner, lease_ms=lease_ms, id=name, amount=amount)


def settle(name: str, actual: int, owner: str = "a", *, only_open: bool = False) -> Settle:
    return Settle(owner=owner, lease_ms=LEASE_MS, id=name, actual=actual, only_open=only_open)


@settings(max_examples=100)
@given(steps=st.lists(st.tuples(st.integers(-500, 40_000), limits, changes), max_size=25))
async def test_a_store_does_what_the_core_does(where: str, steps: list[tuple[int, Limits, Change]]) -> None:
    now_ms, model, name = NOW_MS, Account(), f"model/{next(_NUMBERS)}"
    store = at(where, lambda: now_ms / 1e3)
    for passed_ms, of_tenant, change in steps:
        now_ms += passed_ms
        model, expected = apply(model, of_tenant, change, now_ms)
        assert await store.account(name, of_tenant, change) == expected
    await store.close()


@settings(max_examples=50)
@given(now_ms=st.integers(0, 4_102_444_800_000))
async def test_a_store_knows_the_calendar(where: str, now_ms: int) -> None:
    store = at(where, lambda: now_ms / 1e3)
    standing = await store.account(f"calendar/{next(_NUMBERS)}", LIMITS, reserve("r"))
    assert (standing.now_ms, standing.month) == (now_ms, month_of(now_ms))
    await store.close()


async def test_a_forgotten_account_begins_anew(where: str, key: str) -> None:
    """With what was reserved in it; another's stays."""
    store, other = at(where, lambda: NOW_MS / 1e3), f"{key}/other"
    for name in (key, other):
        await store.account(name, LIMITS, reserve("spent"))
        await store.account(name, LIMITS, settle("spent", 700))
        await store.account(name, LIMITS, reserve("open"))
    await store.forget_account(key)
    await store.forget_account(key)
    renew = Renew(owner="a", lease_ms=LEASE_MS)
    anew, kept = [await store.account(name, LIMITS, renew) for name in (key, other)]
    assert (anew.used, anew.reserved) == (0, 0)
    assert (kept.used, kept.reserved) == (700, 1_000)
    await store.close()


@pytest.mark.parametrize("limit", [Limits(minute=10_000), Limits(period=10_000)], ids=["minute", "period"])
async def test_of_a_hundred_at_once_ten_have_room(where: str, key: str, limit: Limits) -> None:
    replicas = [open_state(where) for _ in range(3)]
    asked = (
        replicas[number % 3].account(key, limit, reserve(f"r{number}", owner=f"replica{number % 3}"))
        for number in range(100)
    )
    standings = await asyncio.gather(*asked)
    assert sum(standing.granted for standing in standings) == 10
    for replica in replicas:
        await replica.close()


RESERVING = """
import asyncio, sys
from tenantry.adapters.state import open_state
from tenantry.core.quota.account import Limits, Reserve

async def main(where, key, owner, lease_ms):
    store = open_state(where)
    asked = (
        store.account(
            key, Limits(minute=10_000, period=10_000),
            Reserve(owner=owner, lease_ms=int(lease_ms), id=f"{owner}-{number}", amount=1_000),
        )
        for number in range(40)
    )
    print(sum(standing.granted for standing in await asyncio.gather(*asked)), flush=True)
    await asyncio.sleep(60)

asyncio.run(main(*sys.argv[1:]))
"""


async def reserving(where: str, key: str, owner: str, lease_ms: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", RESERVING, where, key, owner, str(lease_ms), stdout=asyncio.subprocess.PIPE
    )


async def test_processes_share_one_account_and_what_a_dead_one_held_is_given_back(where: str, key: str) -> None:
    processes = [await reserving(where, key, owner, 2_000) for owner in ("p1", "p2", "p3")]
    granted = 0
    for process in processes:
        assert process.stdout is not None
        granted += int(await process.stdout.readline())
    assert granted == 10
    store = open_state(where)
    full = Limits(period=10_000)
    assert not (await store.account(key, full, reserve("mine"))).granted
    for process in processes:
        process.kill()
        await process.wait()
    async with asyncio.timeout(5):
        while not (standing := await store.account(key, full, reserve("mine"))).granted:
            await asyncio.sleep(0.1)
    assert (standing.reserved, standing.used) == (1_000, 0)
    await store.close()


async def test_a_replica_that_starts_changes_nothing(store: Store, where: str, key: str) -> None:
    await store.account(key, LIMITS, reserve("r1", 4_000))
    await store.account(key, LIMITS, settle("r1", 3_000))
    await store.account(key, LIMITS, reserve("r2", 500))
    late = open_state(where)
    standing = await late.account(key, LIMITS, Renew(owner="late", lease_ms=LEASE_MS))
    assert (standing.used, standing.reserved) == (3_000, 500)
    await late.close()


async def test_an_account_that_was_lost_is_told_again_by_who_has_read_it(store: Store, key: str) -> None:
    knows = Seen(month=(await store.account(key, LIMITS, reserve("r0", 0))).month, used=40_000)
    for _ in range(2):  # saying it twice adds nothing
        standing = await store.account(key, LIMITS, Renew(owner="a", lease_ms=LEASE_MS, seen=knows))
    assert standing.used == 40_000
    refused = await store.account(key, LIMITS, reserve("r1", 10_001))
    assert not refused.granted


async def test_a_settlement_counts_once_however_often_it_is_repeated(store: Store, key: str) -> None:
    async def used(change: Change) -> int:
        return (await store.account(key, LIMITS, change)).used

    await store.account(key, LIMITS, reserve("r1"))
    assert await used(settle("r1", 700)) == 700
    assert [await used(settle("r1", 700, only_open=True)) for _ in range(3)] == [700] * 3
    # One of which the reservation is gone counts all the same.
    assert await used(settle("lost", 50)) == 750


async def test_a_share_is_told_of_once_by_all_replicas(store: Store, where: str, key: str) -> None:
    other = open_state(where)
    spent = [each.account(key, LIMITS, settle(f"r{n}", 1_000)) for n in range(30) for each in (store, other)]
    standings: list[Standing] = await asyncio.gather(*spent)
    assert sorted(share for standing in standings for share in standing.crossed) == [0.5, 1.0]
    await other.close()


async def test_a_store_without_durability_keeps_what_a_dead_process_wrote(tmp_path: Path, key: str) -> None:
    path = str(tmp_path / "quotas.db")
    process = await reserving(path, key, "p1", 60_000)
    assert process.stdout is not None
    assert int(await process.stdout.readline()) == 10
    process.kill()
    await process.wait()
    store = open_state(path, durable=False)
    assert (await store.account(key, LIMITS, Renew(owner="a", lease_ms=LEASE_MS))).reserved == 10_000
    await store.close()
