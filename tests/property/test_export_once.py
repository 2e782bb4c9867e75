"""Whatever fails, and in whatever order: each event counts once, or waits for a person who is told why."""

import asyncio
import os
import tempfile
from decimal import Decimal
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from tenantry.core.billing.export import HourSum, read_item
from tenantry.core.billing.export_settings import DESTINATIONS
from tenantry_testing.billing_standins import BillingStandIn
from tenantry_testing.exports import Clock, Direct, EntryList, Rig, settings_for

CUSTOMERS = {"acme": "cus_acme", "globex": "cus_globex"}

booked = st.tuples(
    st.just("book"), st.sampled_from([*CUSTOMERS, "evil"]), st.integers(0, 3_000_000), st.integers(0, 90_000),
    st.sampled_from(["tenant", "tenant", "tenant", "failed", "mirror"]),
)  # fmt: skip
taken_back = st.tuples(st.just("take back"), st.integers(0, 30))
time = st.tuples(st.just("time"), st.sampled_from([1, 61, 900, 3_600, 40_000, 100_000]))
words = st.sampled_from(["", "", "500", "500+", "hang", "hang+", "429", "garbage+", "404"])
weather = st.tuples(st.just("weather"), st.lists(words, max_size=4))
death = st.tuples(st.just("death"), st.integers(0, 4), st.booleans())
steps = st.lists(st.one_of(booked, booked, taken_back, time, weather, death, st.tuples(st.just("work"))), max_size=25)


class DeathError(BaseException):
    """kill -9, as far as the exporter can tell."""


@settings(max_examples=2_000 if os.environ.get("DEEP") == "1" else 40)
@given(steps)
def test_each_event_counts_once_or_waits_for_a_person(told: list[tuple[object, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_play(Path(folder), told))


async def _play(folder: Path, told: list[tuple[object, ...]]) -> None:
    clock = Clock()
    standin = BillingStandIn(now=clock, refused={"evil"})
    ledger = EntryList()
    rig = Rig(folder, settings_for(folder, *DESTINATIONS), Direct(standin), clock, ledger=ledger)
    try:
        for step in told:
            await _do(rig, ledger, standin, step)
        standin.weather = lambda _path: ""
        await rig.start_again()
        # A sum's hour ends, then its lag; the longest pause is shorter.
        clock.now_s = max([clock.now_s, *(entry.ended_s for entry in ledger.held)])
        for _ in range(4):
            clock.now_s += 1_300
            for name in DESTINATIONS:
                await rig.step(name)
        await _judge(rig, ledger, standin)
    finally:
        await rig.tables.close()


async def _do(rig: Rig, ledger: EntryList, standin: BillingStandIn, step: tuple[object, ...]) -> None:
    match step:
        case ("book", str(tenant), int(micro), int(ago_s), owner):
            ledger.add(tenant=tenant, micro=micro, at_s=rig.clock() - ago_s, owner=owner)
        case ("take back", int(place)):
            firsts = [entry for entry in ledger.held if entry.id == entry.record_id and entry.owner == "tenant"]
            gone = {entry.record_id for entry in ledger.held if entry.id != entry.record_id}
            left = [entry for entry in firsts if entry.id not in gone]
            if left:
                ledger.take_back(left[place % len(left)])
        case ("time", int(seconds)):
            rig.clock.now_s += seconds
        case ("weather", list(words)):
            coming = list(words)
            standin.weather = lambda _path: coming.pop(0) if coming else ""
        case ("death", int(after), bool(taken)):
            await _die(rig, standin, after, taken=taken)
        case _:
            for name in DESTINATIONS:
                await rig.step(name)


async def _die(rig: Rig, standin: BillingStandIn, after: int, *, taken: bool) -> None:
    """Let the exporter die at its n-th request, before or after it was taken; another process follows."""
    take, left = standin.take, [after]

    def dying(path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        left[0] -= 1
        if left[0] >= 0:
            return take(path, headers, body)
        if taken:
            take(path, headers, body)
        raise DeathError

    standin.take = dying  # type: ignore[method-assign,assignment]
    try:
        for name in DESTINATIONS:
            await rig.step(name)
    except DeathError:
        await rig.start_again()
    finally:
        standin.take = take  # type: ignore[method-assign]


async def _judge(rig: Rig, ledger: EntryList, standin: BillingStandIn) -> None:
    assert standin.faults == []
    assert set(standin.counted_at.values()) <= {1}
    async with rig.tables.transaction() as tx:
        events = await tx.rows("SELECT destination, id, state, reason, item FROM export_events")
        carries = dict(await tx.rows("SELECT tenant, micro FROM export_carries"))
        waiting = await tx.rows("SELECT COUNT(*) FROM export_sums")
    assert waiting == [(0,)]
    assert {state for _, _, state, _, _ in events} <= {"done", "parked"}
    for destination, event_id, state, reason, item in events:
        counted = (destination, event_id) in standin.counted_at
        assert counted if state == "done" else bool(reason), (destination, event_id, state)
        if counted and state == "parked":  # nobody could know, and the reason says so
            assert "may have been counted" in reason
        assert destination != "lago" or state == "done" or read_item(item.encode()).tenant == "evil"
    paid = [entry for entry in ledger.held if entry.owner == "tenant"]
    for name in ("openmeter", "lago"):
        assert sorted(event_id for at, event_id, *_ in events if at == name) == sorted(entry.id for entry in paid)
    for tenant in CUSTOMERS:
        sums = [read_item(item.encode()) for at, _, _, _, item in events if at == "stripe"]
        told = sum(total.value for total in sums if isinstance(total, HourSum) and total.tenant == tenant)
        due = sum(entry.compute_units_micro for entry in paid if entry.tenant == tenant)
        assert told * 1_000 + carries.get(tenant, 0) == due
    if not any(state == "parked" for at, _, state, *_ in events if at != "lago"):
        for tenant, customer in CUSTOMERS.items():
            due = sum(entry.compute_units_micro for entry in paid if entry.tenant == tenant)
            assert standin.total[tenant] == 2 * Decimal(due) / 1_000_000
            assert standin.total[customer] * 1_000 + carries.get(tenant, 0) == due
