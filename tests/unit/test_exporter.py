"""The export against stand-ins of the three destinations, on a clock of its own; no network."""

import os
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tenantry.adapters.ledger.export.outbox import LeaseLostError, NoEventError
from tenantry.core.billing.export import HourSum
from tenantry.core.billing.export_settings import DestinationName
from tenantry_testing.billing_standins import BillingStandIn
from tenantry_testing.exports import NOW, Clock, Direct, Rig, settings_for

HOURS = 3600.0
DEEP = os.environ.get("DEEP") == "1"


class Bench:
    """A rig, its stand-in and its clock."""

    def __init__(self, folder: Path, *names: DestinationName, **changes: Any) -> None:
        self.clock = Clock()
        self.standin = BillingStandIn(now=self.clock)
        self.rig = Rig(folder, settings_for(folder, *names, **changes), Direct(self.standin), self.clock)
        self.ledger = self.rig.ledger

    @property
    def counts(self) -> set[int]:
        """How often events counted: {1} where each did once."""
        return set(self.standin.counted_at.values())


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(*names: DestinationName, **changes: Any) -> Bench:
        made.append(Bench(tmp_path, *names, **changes))
        return made[-1]

    yield make
    for each in made:
        await each.rig.tables.close()


Make = Callable[..., Bench]


@pytest.mark.parametrize("name", ["openmeter", "lago"])
async def test_entries_of_tenants_are_told_once(bench: Make, name: DestinationName) -> None:
    b = bench(name)
    for number in range(1_234):
        b.ledger.add(tenant=("acme", "globex")[number % 2], owner=("tenant", "failed")[number % 5 == 4])
    await b.rig.step(name)
    await b.rig.step(name)
    told = [entry for entry in b.ledger.held if entry.owner == "tenant"]
    assert sorted(b.standin.counted) == sorted(entry.id for entry in told)
    assert b.counts == {1}
    assert b.standin.faults == []
    assert sum(b.standin.total.values()) == Decimal("1.5") * len(told)
    assert await b.rig.states() == {"done": len(told)}
    assert b.rig.metric("events_total", destination=name, result="taken") == len(told)


async def test_what_another_attempt_made_useless_is_taken_back(bench: Make) -> None:
    b = bench("openmeter")
    entry = b.ledger.add()
    await b.rig.step("openmeter")
    assert b.standin.total == {"acme": Decimal("1.5")}
    b.ledger.take_back(entry)
    b.ledger.add(owner="failed")
    await b.rig.step("openmeter")
    assert b.standin.total == {"acme": Decimal(0)}
    assert sorted(b.standin.counted) == ["r1", "r1~2"]


async def test_nothing_that_ended_before_since(bench: Make) -> None:
    b = bench("lago")
    b.ledger.add(at_s=b.rig.settings.since_s - 1)
    kept = b.ledger.add(at_s=b.rig.settings.since_s)
    await b.rig.step("lago")
    assert list(b.standin.counted) == [kept.id]


async def test_stripe_gets_a_sum_for_each_tenant_and_hour(bench: Make) -> None:
    b = bench("stripe")
    for minute in range(0, 120, 10):
        b.ledger.add(micro=1_234_567, at_s=NOW - NOW % 3600 + 60 * minute)
        b.ledger.add(micro=1, tenant="globex", at_s=NOW - NOW % 3600 + 60 * minute)
    await b.rig.step("stripe")
    assert b.standin.counted == {}  # the hour goes on
    await b.rig.pass_time(4 * HOURS, "stripe")
    assert len(b.standin.counted) == 2
    # 12 times 1,234,567 millionths are 14,814 thousandths and 804 millionths, which wait for the next sum.
    assert b.standin.total == {"cus_acme": 14_814}
    b.ledger.add(micro=196, at_s=b.clock())
    await b.rig.pass_time(2 * HOURS, "stripe")
    assert b.standin.total == {"cus_acme": 14_815}
    assert b.standin.faults == []


async def test_what_comes_late_is_a_further_sum(bench: Make) -> None:
    b = bench("stripe")
    b.ledger.add(micro=5_000_000)
    await b.rig.pass_time(2 * HOURS, "stripe")
    b.ledger.add(micro=3_000_000, at_s=NOW)
    await b.rig.step("stripe")
    b.ledger.add(micro=1_000_000, at_s=NOW + 1)
    await b.rig.pass_time(0.5 * HOURS, "stripe")
    assert b.standin.total == {"cus_acme": 9_000}
    assert len(b.standin.counted) == 2
    assert b.counts == {1}


async def test_a_correction_is_left_for_a_person_or_sent(bench: Make, tmp_path: Path) -> None:
    b = bench("stripe")
    entry = b.ledger.add(micro=5_000_000)
    await b.rig.pass_time(2 * HOURS, "stripe")
    b.ledger.take_back(entry)
    await b.rig.pass_time(2 * HOURS, "stripe")
    assert b.standin.total == {"cus_acme": 5_000}
    (parked,) = await b.rig.exporter.outbox.parked()
    assert "a person decides" in parked.reason
    assert isinstance(parked.item, HourSum)
    assert (parked.item.value, parked.counted) == (-5_000, 5_000)
    # The operator reads the documentation, and lets it go.
    b.rig.settings = settings_for(tmp_path, "stripe", corrections="send")
    await b.rig.start_again()
    await b.rig.exporter.outbox.decide("stripe", [parked.id], "pending", who="ada", why="credit", now_s=b.clock())
    await b.rig.step("stripe")
    assert b.standin.total == {"cus_acme": 0}


async def test_a_tenant_that_stripe_has_no_customer_for_waits_for_a_person(bench: Make, tmp_path: Path) -> None:
    b = bench("stripe")
    b.ledger.add(tenant="initech")
    b.ledger.add(tenant="acme")
    await b.rig.pass_time(2 * HOURS, "stripe")
    assert b.standin.total == {"cus_acme": 1_500}
    (parked,) = await b.rig.exporter.outbox.parked()
    assert (parked.tenant, parked.reason) == ("initech", "stripe.customers does not name this tenant")
    assert b.rig.metric("events_total", destination="stripe", result="parked") == 1
    b.rig.settings = settings_for(tmp_path, "stripe", customers={"initech": "cus_initech"})
    await b.rig.start_again()
    await b.rig.exporter.outbox.decide("stripe", [parked.id], "pending", who="ada", why="added", now_s=b.clock())
    await b.rig.step("stripe")
    assert b.standin.total == {"cus_acme": 1_500, "cus_initech": 1_500}


@pytest.mark.parametrize("name", ["openmeter", "lago"])
async def test_a_bad_event_is_parked_and_holds_nobody_up(bench: Make, name: DestinationName) -> None:
    b = bench(name)
    b.standin.refused = {"evil"}
    for number in range(250):
        b.ledger.add(tenant="evil" if number in (3, 77, 78) else "acme")
    await b.rig.step(name)
    assert await b.rig.states() == {"done": 247, "parked": 3}
    assert sum(b.standin.counted.values()) == 247
    assert [each.id for each in await b.rig.exporter.outbox.parked()] == ["r4", "r78", "r79"]
    assert all(each.reason.startswith("refused: ") for each in await b.rig.exporter.outbox.parked())
    assert len(b.standin.requests) < 60


async def test_an_event_that_breaks_its_destination_holds_nobody_up_for_long(bench: Make) -> None:
    b = bench("openmeter", batch=16)
    for number in range(200):
        b.ledger.add(id="poison" if number == 5 else f"x{number}")
    take = b.standin.take
    b.standin.take = lambda path, headers, body: (500, b"") if b"poison" in body else take(path, headers, body)  # type: ignore[method-assign]
    await b.rig.pass_time(1 * HOURS, "openmeter")
    assert await b.rig.states() == {"done": 199, "pending": 1}
    await b.rig.pass_time(24 * HOURS, "openmeter")
    assert await b.rig.states() == {"done": 199, "parked": 1}


@pytest.mark.parametrize("name", ["openmeter", "lago", "stripe"])
@pytest.mark.parametrize(
    "weather", ["500", "500+", "503+", "hang", "hang+", "garbage", "garbage+", "429", "401", "404", "302"]
)
async def test_bad_weather_loses_and_doubles_nothing(bench: Make, name: DestinationName, weather: str) -> None:
    b = bench(name)
    b.ledger.add(tenant="acme")
    b.ledger.add(tenant="globex")
    b.standin.weather = lambda _path: weather
    await b.rig.pass_time(2 * HOURS, name)
    assert b.rig.metric("trouble", destination=name) == 1
    b.standin.weather = lambda _path: ""
    await b.rig.pass_time(1 * HOURS, name)
    assert await b.rig.states() == {"done": 2}
    assert b.counts == {1}
    assert len(b.standin.counted) == 2
    assert b.rig.metric("trouble", destination=name) == 0


@pytest.mark.parametrize("weather", ["hang+", *(["hang", "503", "garbage+"] if DEEP else [])])
async def test_48_hours_without_a_destination(bench: Make, weather: str) -> None:
    b = bench("openmeter", "lago", "stripe")
    names: tuple[DestinationName, ...] = ("openmeter", "lago", "stripe")
    await b.rig.step("stripe")
    b.standin.weather = lambda _path: weather
    for _ in range(48):
        b.ledger.add(at_s=b.clock())
        b.ledger.add(at_s=b.clock(), tenant="globex")
        await b.rig.pass_time(1 * HOURS, *names)
    b.standin.weather = lambda _path: ""
    await b.rig.pass_time(3 * HOURS, *names)
    assert b.counts == {1}
    parked = await b.rig.exporter.outbox.parked()
    assert {each.destination for each in parked} <= {"openmeter", "stripe"}
    assert all("may have been counted" in each.reason for each in parked)
    by_name = {name: [each for each in parked if each.destination == name] for name in names}
    assert 1 <= len(by_name["stripe"]) <= 12
    # Each event is counted once, or waits for a person, who can see how it stands.
    sums = {each.id for each in by_name["stripe"]} | {
        each for each in b.standin.counted if each.startswith("tenantry-")
    }
    assert len(sums) == 96
    told = {each.id for each in b.ledger.held}
    for name in ("openmeter", "lago"):
        here = {event_id for at, event_id in b.standin.counted_at if at == name}
        assert told == here | {each.id for each in by_name[name]}
    if weather == "503":  # what was refused did not count, but nobody can know that
        assert not {each.id for each in by_name["stripe"]} & set(b.standin.counted)


async def test_48_hours_without_an_exporter(bench: Make) -> None:
    b = bench("openmeter", "lago", "stripe")
    for hour in range(48):
        b.ledger.add(at_s=NOW + hour * HOURS)
    b.clock.now_s += 48 * HOURS
    await b.rig.start_again()
    await b.rig.pass_time(2 * HOURS, "openmeter", "lago", "stripe")
    assert await b.rig.states() == {"done": 3 * 48}
    assert b.standin.total["cus_acme"] == 48 * 1_500
    assert b.standin.total["acme"] == 2 * 48 * Decimal("1.5")


class KilledError(BaseException):
    """Ends a process, as far as the rest of it can tell."""


@pytest.mark.parametrize("taken", [False, True])
@pytest.mark.parametrize(("hours", "fate"), [(22.5, "done"), (23.5, "parked"), (30.0, "parked")])
async def test_stripe_in_doubt_for_more_than_23_hours_is_not_sent_again(
    bench: Make, taken: bool, hours: float, fate: str
) -> None:
    b = bench("stripe")
    b.ledger.add()
    await b.rig.pass_time(0.5 * HOURS, "stripe")

    def kill(_path: str) -> str:
        raise KilledError

    take = b.standin.take
    b.clock.now_s += 0.5 * HOURS
    if taken:
        b.standin.take = lambda path, headers, body: (take(path, headers, body), kill(path))[0]  # type: ignore[method-assign]
    else:
        b.standin.weather = kill
    with pytest.raises(KilledError):
        await b.rig.step("stripe")
    assert await b.rig.states() == {"sending": 1}
    b.standin.take, b.standin.weather = take, lambda _path: ""  # type: ignore[method-assign]
    b.clock.now_s += hours * HOURS
    await b.rig.start_again()
    await b.rig.step("stripe")
    assert await b.rig.states() == {fate: 1}
    assert b.counts == ({1} if taken or fate == "done" else set())
    assert len(b.standin.requests) == (taken + (fate == "done"))


async def test_doubt_begins_with_the_first_of_several_deaths(bench: Make) -> None:
    b = bench("stripe")
    b.ledger.add(at_s=NOW - 2 * HOURS)
    await b.rig.step("stripe")
    b.clock.now_s += 400
    take = b.standin.take

    def die(path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        take(path, headers, body)
        raise KilledError

    b.standin.take = die  # type: ignore[method-assign,assignment]
    for hours in (15, 15):
        with pytest.raises(KilledError):
            await b.rig.step("stripe")
        b.clock.now_s += hours * HOURS
        await b.rig.start_again()
    b.standin.take = take  # type: ignore[method-assign]
    await b.rig.step("stripe")
    assert await b.rig.states() == {"parked": 1}
    assert b.counts == {1}


async def test_lago_may_be_asked_again_after_any_time(bench: Make) -> None:
    b = bench("lago")
    b.ledger.add()
    b.standin.weather = lambda _path: "hang+"
    await b.rig.step("lago")
    b.clock.now_s += 1_000 * HOURS
    b.standin.weather = lambda _path: ""
    await b.rig.step("lago")
    assert await b.rig.states() == {"done": 1}
    assert b.counts == {1}


async def test_while_in_doubt_the_same_bytes_are_sent_whatever_the_settings_say(bench: Make, tmp_path: Path) -> None:
    b = bench("lago")
    b.ledger.add()
    b.standin.weather = lambda _path: "hang"
    await b.rig.step("lago")
    b.rig.settings = settings_for(tmp_path, "lago", subscriptions={"acme": "another"})
    await b.rig.start_again()
    b.standin.weather = lambda _path: ""
    await b.rig.step("lago")
    assert list(b.standin.total) == ["acme"]


async def test_settings_are_mended_for_what_was_certainly_not_taken(bench: Make, tmp_path: Path) -> None:
    b = bench("lago")
    b.ledger.add()
    b.standin.weather = lambda _path: "429"
    await b.rig.step("lago")
    b.rig.settings = settings_for(tmp_path, "lago", subscriptions={"acme": "another"})
    await b.rig.start_again()
    b.standin.weather = lambda _path: ""
    await b.rig.step("lago")
    assert list(b.standin.total) == ["another"]


async def test_what_is_older_than_stripe_takes_is_left_for_a_person(bench: Make) -> None:
    b = bench("stripe")
    b.ledger.add()
    b.clock.now_s += 34.5 * 24 * HOURS
    await b.rig.step("stripe")
    await b.rig.pass_time(600, "stripe")
    assert await b.rig.states() == {"parked": 1}
    assert b.standin.requests == []


async def test_a_person_decides_on_what_is_parked_and_on_nothing_else(bench: Make) -> None:
    b = bench("openmeter")
    b.standin.refused = {"evil"}
    b.ledger.add(tenant="evil")
    b.ledger.add(tenant="evil")
    b.ledger.add()
    await b.rig.step("openmeter")
    outbox = b.rig.exporter.outbox
    with pytest.raises(NoEventError, match='the event "r3" of openmeter is done, not parked'):
        await outbox.decide("openmeter", ["r1", "r3"], "discarded", who="ada", why="spam", now_s=b.clock())
    with pytest.raises(NoEventError, match='the event "r9" of openmeter is not there'):
        await outbox.decide("openmeter", ["r9"], "pending", who="ada", why="spam", now_s=b.clock())
    assert await b.rig.states() == {"done": 1, "parked": 2}  # all or none
    await outbox.decide("openmeter", ["r1"], "discarded", who="ada", why="spam", now_s=b.clock())
    b.standin.refused = set()
    await outbox.decide("openmeter", ["r2"], "pending", who="ada", why="mended", now_s=b.clock())
    await b.rig.step("openmeter")
    assert await b.rig.states() == {"discarded": 1, "done": 2}
    assert sorted(b.standin.counted) == ["r2", "r3"]
    (standing,) = await outbox.standing()
    assert (standing.pending, standing.parked, standing.done, standing.discarded) == (0, 0, 2, 1)


async def test_one_process_exports_at_a_time(bench: Make) -> None:
    b = bench("openmeter")
    b.ledger.add()
    first = b.rig.exporter
    assert await first.outbox.lease(b.clock())
    second = b.rig._new()
    assert not await second.outbox.lease(b.clock())
    b.clock.now_s += 61
    assert await second.outbox.lease(b.clock())
    assert not await first.outbox.lease(b.clock())
    for step in (first.collect, first.deliver):
        with pytest.raises(LeaseLostError):
            await step("openmeter")
    assert b.standin.requests == []
    await second.outbox.release()
    assert await first.outbox.lease(b.clock())


async def test_a_process_that_stalled_sends_nothing_more(bench: Make) -> None:
    b = bench("openmeter", batch=2)
    b.standin.refused = {"evil"}
    b.ledger.add(tenant="evil")
    b.ledger.add()
    take = b.standin.take

    def slow(path: str, headers: object, body: bytes) -> tuple[int, bytes]:
        b.clock.now_s += 61
        return take(path, headers, body)  # type: ignore[arg-type]

    b.standin.take = slow  # type: ignore[method-assign]
    await b.rig.step("openmeter")
    assert len(b.standin.requests) == 1
    assert await b.rig.states() == {"pending": 2}


async def test_what_is_done_is_forgotten_after_a_while(bench: Make) -> None:
    b = bench("lago")
    b.standin.refused = {"evil"}
    b.ledger.add()
    b.ledger.add(tenant="evil")
    await b.rig.step("lago")
    b.clock.now_s += 6.9 * 24 * HOURS
    await b.rig.exporter.outbox.forget(b.clock())
    assert await b.rig.states() == {"done": 1, "parked": 1}
    b.clock.now_s += 0.2 * 24 * HOURS
    await b.rig.exporter.outbox.forget(b.clock())
    assert await b.rig.states() == {"parked": 1}
    await b.rig.start_again()
    await b.rig.step("lago")
    assert b.counts == {1}


async def test_gauges_tell_how_full_the_outbox_is(bench: Make) -> None:
    b = bench("openmeter", "lago")
    b.ledger.add()
    b.ledger.add()
    await b.rig.step("lago")
    b.standin.weather = lambda _path: "503"
    await b.rig.step("openmeter")
    b.clock.now_s += 100
    await b.rig.exporter._keep()
    assert b.rig.metric("pending", destination="openmeter") == 2
    assert b.rig.metric("oldest_pending_seconds", destination="openmeter") == 100
    assert b.rig.metric("oldest_pending_seconds", destination="lago") == 0
    assert b.rig.metric("parked", destination="openmeter") == 0
