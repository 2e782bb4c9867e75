"""What every store promises (adapters/state/store.py), asked of SQLite and of a real Redis alike."""

import asyncio
import itertools
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tenantry.adapters.state import StateStore, StateUnavailableError, open_state
from tenantry.adapters.state.redis import RedisState
from tenantry.adapters.state.sqlite import SqliteState
from tenantry.core.rollout.visits import Arrival, Visit, Visits

_NUMBERS = itertools.count()


@pytest.fixture
def key() -> str:
    return f"model/{next(_NUMBERS)}"


def one_more(document: bytes | None) -> bytes:
    return b"%d" % (int(document or 0) + 1)


def unchanged(document: bytes | None) -> bytes:
    return document or b""


def arrival(unit: str, *, warming: bool = False, has_past: bool = False) -> Arrival:
    return Arrival(unit=unit, warming=warming, has_past=has_past)


async def test_a_document_is_what_merge_made_of_the_one_before(store: StateStore, key: str) -> None:
    seen: list[bytes | None] = []

    def note(document: bytes | None) -> bytes:
        seen.append(document)
        return (document or b"") + b"\x00\xff"

    assert await store.update(key, note) == b"\x00\xff"
    assert await store.update(key, note) == b"\x00\xff\x00\xff"
    assert seen == [None, b"\x00\xff"]
    assert await store.update(f"{key}/other", unchanged) == b""


async def test_an_empty_document_is_not_a_missing_one(store: StateStore, key: str) -> None:
    await store.update(key, lambda _: b"")
    seen: list[bytes | None] = []
    await store.update(key, lambda document: seen.append(document) or b"")  # type: ignore[func-returns-value]
    assert seen == [b""]


async def test_what_merge_raises_comes_through_and_changes_nothing(store: StateStore, key: str) -> None:
    def refuse(document: bytes | None) -> bytes:
        raise LookupError(f"no such chapter in {document!r}")

    await store.update(key, one_more)
    with pytest.raises(LookupError, match="no such chapter in b'1'"):
        await store.update(key, refuse)
    assert await store.update(key, unchanged) == b"1"


async def test_tasks_do_not_lose_one_anothers_updates(store: StateStore, where: str, key: str) -> None:
    other = open_state(where)
    await asyncio.gather(*(each.update(key, one_more) for each in (store, other) for _ in range(25)))
    await other.close()
    assert await store.update(key, unchanged) == b"50"


WRITER = """
import asyncio, sys
from tenantry.adapters.state import open_state

async def main(where, key, times):
    store = open_state(where)
    for _ in range(times):
        await store.update(key, lambda document: b"%d" % (int(document or 0) + 1))
        if times > 1000:
            print("done", flush=True)
    await store.close()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


async def writer(where: str, key: str, times: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, where, key, str(times), stdout=asyncio.subprocess.PIPE
    )


async def test_processes_do_not_lose_one_anothers_updates(store: StateStore, where: str, key: str) -> None:
    writers = [await writer(where, key, 30) for _ in range(4)]
    assert [await process.wait() for process in writers] == [0, 0, 0, 0]
    assert await store.update(key, unchanged) == b"120"


async def test_kill_9_between_updates_loses_nothing_acknowledged(store: StateStore, where: str, key: str) -> None:
    process = await writer(where, key, 1_000_000)
    assert process.stdout is not None
    for _ in range(20):
        assert await process.stdout.readline() == b"done\n"
    process.kill()
    acknowledged = 20 + (await process.stdout.read()).count(b"done\n")
    await process.wait()
    # The last one may have been written without its acknowledgement.
    assert int(await store.update(key, unchanged)) in {acknowledged, acknowledged + 1}


UNITS = st.sampled_from(["acme/s1", "acme/s2", "globex/s1", "ü, \x00 or a space"])
ARRIVALS = st.lists(st.builds(Arrival, unit=UNITS, warming=st.booleans(), has_past=st.booleans()), max_size=40)


@settings(max_examples=60)
@given(batches=st.lists(ARRIVALS, max_size=3))
async def test_visits_are_counted_as_the_core_counts_them(store: StateStore, batches: list[list[Arrival]]) -> None:
    key, alone = f"split/{next(_NUMBERS)}", Visits(1_000)
    for arrivals in batches:
        expected = [alone.arrive(each) for each in arrivals]
        assert await store.visits(key, arrivals, ttl_s=60) == expected


@settings(max_examples=60)
@given(batches=st.lists(ARRIVALS, max_size=3))
async def test_memory_for_few_units_forgets_as_the_core_does(where: str, batches: list[list[Arrival]]) -> None:
    key, alone = f"few/{next(_NUMBERS)}", Visits(2)
    store = RedisState(where, max_units=2) if "://" in where else SqliteState(Path(where), max_units=2)
    for arrivals in batches:
        expected = [alone.arrive(each) for each in arrivals]
        assert await store.visits(key, arrivals, ttl_s=60) == expected
    await store.close()


async def test_a_warm_up_puts_the_first_visit_off_until_it_is_read(store: StateStore, key: str) -> None:
    assert await store.visits(key, [arrival("s1", warming=True)], ttl_s=60) == [Visit(number=1, was_put_off=False)]
    assert await store.visits(key, [arrival("s1"), arrival("s1")], ttl_s=60) == [
        Visit(number=2, was_put_off=True),
        Visit(number=3, was_put_off=False),
    ]


async def test_two_replicas_count_a_unit_once(store: StateStore, where: str, key: str) -> None:
    other = open_state(where)
    batches = [each.visits(key, [arrival("s1")] * 3, ttl_s=60) for each in (store, other) for _ in range(10)]
    found = await asyncio.gather(*batches)
    await other.close()
    assert sorted(visit.number for visits in found for visit in visits) == list(range(1, 61))


async def test_many_arrivals_at_once(store: StateStore, key: str) -> None:
    arrivals = [arrival(f"s{number % 1_500}") for number in range(3_000)]
    found = await store.visits(key, arrivals, ttl_s=60)
    assert [visit.number for visit in found] == [1] * 1_500 + [2] * 1_500
    assert await store.visits(key, [], ttl_s=60) == []


async def test_counts_are_forgotten_when_nobody_came_for_a_while(store: StateStore, key: str) -> None:
    async def number(ttl_s: float) -> int:
        (visit,) = await store.visits(key, [arrival("s1")], ttl_s=ttl_s)
        return visit.number

    assert [await number(0.3), await number(0.3)] == [1, 2]
    await asyncio.sleep(0.4)
    assert [await number(60), await number(60)] == [1, 2]


async def test_an_arrival_keeps_all_counts_under_its_key(where: str, key: str) -> None:
    store = RedisState(where, max_units=1) if "://" in where else SqliteState(Path(where), max_units=1)
    await store.visits(f"{key}/left", [arrival("s1"), arrival("s2")], ttl_s=1)
    await store.visits(key, [arrival("s1"), arrival("s2")], ttl_s=1)
    await asyncio.sleep(0.6)
    await store.visits(key, [arrival("s2")], ttl_s=1)
    await asyncio.sleep(0.6)
    assert await store.visits(key, [arrival("s1")], ttl_s=1) == [Visit(number=2, was_put_off=False)]
    await store.visits(key, [arrival("s3")], ttl_s=1)
    await asyncio.sleep(1.1)
    for each in (key, f"{key}/left"):
        assert await store.visits(each, [arrival("s1")], ttl_s=1) == [Visit(number=1, was_put_off=False)]
    await store.close()


async def test_counts_are_forgotten_when_nobody_needs_them(where: str, key: str) -> None:
    store = RedisState(where, max_units=1) if "://" in where else SqliteState(Path(where), max_units=1)
    units = [arrival("s1"), arrival("s2")]  # one in each generation
    for each in (key, f"{key}/left"):
        await store.visits(each, units, ttl_s=60)
    await store.forget(key)
    await store.forget(f"{key}/never-counted")
    assert [visit.number for visit in await store.visits(key, units, ttl_s=60)] == [1, 1]
    assert [visit.number for visit in await store.visits(f"{key}/left", units, ttl_s=60)] == [2, 2]
    with pytest.raises(ValueError, match="no key"):
        await store.forget("two words")
    await store.close()


async def test_an_entry_is_appended_once_and_in_order(store: StateStore, key: str) -> None:
    entries = [b"reverted by the guard", b"", b"resumed \x00\n by ops", b" "]
    done = [await store.append(key, f"event-{number}", entry) for number, entry in enumerate(entries)]
    assert done == [True] * 4
    assert not await store.append(key, "event-0", b"another text under the same id")
    assert await store.entries(key, 10) == entries
    assert await store.entries(key, 2) == entries[-2:]
    assert await store.entries(key, 0) == []
    assert await store.entries(f"{key}/other", 10) == []


async def test_an_entry_that_all_replicas_append_stands_once(store: StateStore, where: str, key: str) -> None:
    other = open_state(where)
    done = await asyncio.gather(*(each.append(key, "revert-1", b"x") for each in (store, other) for _ in range(10)))
    await other.close()
    assert sorted(done) == [False] * 19 + [True]
    assert await store.entries(key, 100) == [b"x"]


async def test_a_log_keeps_its_last_entries(where: str, key: str) -> None:
    store = RedisState(where, max_entries=3) if "://" in where else SqliteState(Path(where), max_entries=3)
    for number in range(5):
        await store.append(key, f"id{number}", b"%d" % number)
        await store.append(f"{key}/other", f"id{number}", b"%d" % number)
    assert await store.entries(key, 10) == [b"2", b"3", b"4"]
    assert not await store.append(key, "id2", b"again")
    assert await store.append(key, "id1", b"forgotten, hence new")
    assert await store.entries(key, 10) == [b"3", b"4", b"forgotten, hence new"]
    await store.close()


@pytest.mark.parametrize("name", ["", "two words", "line\n", "\x7f"])
async def test_keys_are_printable_without_spaces(store: StateStore, name: str) -> None:
    with pytest.raises(ValueError, match="no key"):
        await store.update(name, one_more)
    with pytest.raises(ValueError, match="no key"):
        await store.append("log", name, b"")


async def test_keys_of_any_kind_stay_apart(store: StateStore) -> None:
    for name in ("a{b}", "{b}", "b", "b:old", "';DROP/**/TABLE/**/documents", "ü"):
        assert await store.update(name, lambda document: document or name.encode()) == name.encode()  # noqa: B023
    await store.visits("b", [arrival("s1")], ttl_s=60)
    assert (await store.visits("b:old", [arrival("s1")], ttl_s=60))[0].number == 1


async def test_a_closed_store_says_so(where: str) -> None:
    store = open_state(where)
    await store.update("closing", one_more)
    await store.close()
    await store.close()
    with pytest.raises(StateUnavailableError, match="closed"):
        await store.update("closing", one_more)
    unused = open_state(where)
    await unused.close()


async def test_the_event_loop_runs_on_while_a_document_is_merged(store: StateStore, key: str) -> None:
    def slowly(document: bytes | None) -> bytes:
        time.sleep(0.2)
        return b"merged"

    task, ticks = asyncio.create_task(store.update(key, slowly)), 0
    while not task.done():
        await asyncio.sleep(0.01)
        ticks += 1
    assert await task == b"merged"
    assert ticks >= 5
