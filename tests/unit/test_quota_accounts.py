"""The desk and its accounts over a store that fails, hangs, forgets and loses answers."""

import asyncio
import time

import pytest
from tenantry.adapters.metrics import Metrics
from tenantry.adapters.quotas.accounts import ADMISSION_SECONDS, LEASE_MS, Accounts
from tenantry.adapters.quotas.desk import Quotas
from tenantry.adapters.state import StateUnavailableError
from tenantry.core.errors import QuotaExhaustedError, RateLimitedError
from tenantry.core.quota.account import Account, Change, Limits, Renew, Reserve, Settle, Standing, apply
from tenantry.core.quota.alerts import Alert
from tenantry.core.quota.claim import Claim
from tenantry.core.rules_billing import ModelProfile
from tenantry.core.usage import UsageRecord

LIMITS = Limits(period=10_000, alert_at=(0.5,))


class Store:
    """`core.quota.account` in memory. `down`: refuses; `hangs`: never answers; `loses`: its answers get lost."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.changes: list[Change] = []
        self.down = self.hangs = self.loses = False

    async def account(self, key: str, limits: Limits, change: Change) -> Standing:
        if self.hangs:
            await asyncio.Event().wait()
        if self.down:
            raise StateUnavailableError("nobody is there")
        self.changes.append(change)
        account = self.accounts.get(key, Account())
        self.accounts[key], standing = apply(account, limits, change, round(time.time() * 1e3))
        if self.loses:
            raise StateUnavailableError("the answer got lost")
        return standing

    def of(self, tenant: str = "acme") -> Account:
        return self.accounts[f"quota/{tenant}"]

    async def forget_account(self, key: str) -> None:
        if self.down:
            raise StateUnavailableError("nobody is there")
        self.accounts.pop(key, None)

    async def entries(self, key: str, limit: int) -> list[bytes]:
        return []


class House:
    """A desk over a store, with a clock that stands still unless it is moved."""

    def __init__(self, store: Store, owner: str = "here") -> None:
        self.store, self.alerts, self.now_s = store, list[Alert](), 1_000.0
        self.metrics = Metrics()
        clock = {"monotonic": lambda: self.now_s + time.monotonic()}
        self.accounts = Accounts(store, owner=owner, metrics=self.metrics.quotas, **clock)
        self.desk = Quotas(self.accounts, self.metrics.quotas, notify=self.alerts.append, **clock)

    async def admit(self, name: str, amount: int = 1_000) -> dict[str, str]:
        claim = Claim(tenant="acme", limits=LIMITS, amount=amount, profile=ModelProfile(), usage="plugin", sequences=1)
        return await self.desk.admit(claim, name)

    async def spend(self, name: str, milliunits: int) -> None:
        """Admit, end and settle one request."""
        await self.admit(name)
        self.end(name, milliunits)
        await self.settle()

    def end(self, name: str, milliunits: int) -> None:
        record = UsageRecord(
            request_id=name, engine="e", tenant="acme", model="m", version="1", ended_s=0.0, finish_reason="stop",
            input_tokens=milliunits,
        )  # fmt: skip
        self.desk.record(record)
        self.desk.ended(name)

    async def settle(self) -> None:
        await self.accounts.settle(self.desk._heard)

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"tenantry_quota_{name}", labels) or 0.0


async def test_a_store_that_hangs_costs_a_quarter_of_a_second_once() -> None:
    house = House(store := Store())
    await house.spend("r0", 4_000)
    store.hangs = True
    begin = time.monotonic()
    passed = [await house.admit(f"r{number}") for number in range(1, 7)]
    assert ADMISSION_SECONDS <= time.monotonic() - begin < 2 * ADMISSION_SECONDS
    # It begins at what was last read of the store: 4,000 of 10,000 were spent.
    assert [told["remaining"] for told in passed] == ["5", "4", "3", "2", "1", "0"]
    with pytest.raises(RateLimitedError):
        await house.admit("r7")
    assert (house.count("unshared_admissions_total", granted="yes"), house.count("store_up")) == (6, 0)


async def test_what_went_on_without_the_store_is_told_when_it_answers_again() -> None:
    house = House(store := Store())
    await house.spend("r0", 4_000)
    store.down = True
    await house.admit("r1")
    house.end("r1", 700)
    with pytest.raises(StateUnavailableError):
        await house.settle()
    await house.admit("r2")
    house.end("r2", 20)
    store.down = False
    await house.settle()
    await house.settle()
    assert (store.of().used, store.of().open, house.accounts.owed) == (4_720, {}, 0)
    # Told once more by what was heard of it, after the store has lost everything.
    store.accounts.clear()
    house.now_s += 2
    await house.admit("r3")
    assert store.of().used == 4_720


async def test_a_settlement_of_which_the_answer_got_lost_counts_once() -> None:
    house = House(store := Store())
    await house.admit("r0")
    house.end("r0", 700)
    store.loses = True
    with pytest.raises(StateUnavailableError):
        await house.settle()
    store.loses = False
    await house.settle()
    assert store.of().used == 700
    settled = [change for change in store.changes if isinstance(change, Settle)]
    assert [change.only_open for change in settled] == [False, True]


async def test_an_admission_of_which_the_answer_got_lost_is_settled_by_its_id() -> None:
    house = House(store := Store())
    store.loses = True
    await house.admit("r0")
    store.loses = False
    assert store.of().reserved == 1_000
    house.end("r0", 300)
    await house.settle()
    assert (store.of().used, store.of().reserved) == (300, 0)


async def test_a_client_that_leaves_while_it_is_admitted_leaves_nothing_behind() -> None:
    house = House(store := Store())
    asked = asyncio.create_task(house.admit("r0"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # the store has done it, and the desk not heard of it
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    await house.settle()
    assert store.of().reserved == 0


async def test_a_second_replica_neither_doubles_nor_resets() -> None:
    first = House(store := Store(), owner="first")
    await first.spend("r0", 9_000)
    second = House(store, owner="second")
    with pytest.raises(QuotaExhaustedError):
        await second.admit("r1", 1_001)
    await second.spend("r2", 500)
    assert store.of().used == 9_500


async def test_shares_are_told_of_and_shown() -> None:
    house = House(Store())
    await house.spend("r0", 6_000)
    await house.spend("r1", 500)
    (alert,) = house.alerts
    assert (alert.tenant, alert.share, alert.used, alert.limit) == ("acme", 0.5, 6_000, 10_000)
    assert alert.id == f"quota/acme/{alert.period}/0.5"
    assert alert.text == f"acme has spent 6 of its 10 compute units of {alert.period} (50% or more)"
    await house.admit("r2")
    house.desk.show()
    assert house.count("used_ratio", tenant="other") == 0.65
    assert house.count("reserved_compute_units", tenant="other") == 1.0


async def test_the_task_renews_leases_and_gives_back_what_no_record_came_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenantry.adapters.quotas.accounts.RENEW_SECONDS", 0.05)
    monkeypatch.setattr("tenantry.adapters.quotas.desk.TICK_SECONDS", 0.01)
    house = House(store := Store())
    await house.admit("r0")
    running = asyncio.create_task(house.desk.run())
    async with asyncio.timeout(5):
        while sum(isinstance(change, Renew) for change in store.changes) < 2:
            await asyncio.sleep(0.01)
    (reserve,) = (change for change in store.changes if isinstance(change, Reserve))
    assert reserve.lease_ms == LEASE_MS
    house.desk.ended("r0")
    house.now_s += 6
    async with asyncio.timeout(5):
        while store.of().reserved:
            await asyncio.sleep(0.01)
    assert house.count("settlements_total", result="returned") == 1
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_what_is_owed_at_the_end_is_brought_and_a_hung_store_does_not_keep_it_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tenantry.adapters.quotas.desk.STOP_SECONDS", 0.1)
    house = House(store := Store())
    await house.admit("r0")
    house.end("r0", 300)
    await house.desk.stop()
    assert store.of().used == 300
    await house.admit("r1")
    house.end("r1", 300)
    store.hangs = True
    async with asyncio.timeout(1):
        await house.desk.stop()
    assert house.accounts.owed == 1


async def test_too_many_settlements_push_out_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenantry.adapters.quotas.accounts.MAX_OWED", 2)
    house = House(Store())
    for number in range(3):
        house.accounts.owe("acme", LIMITS, f"r{number}", 10)
    assert (house.accounts.owed, house.count("settlements_dropped_total")) == (2, 1)
    await house.settle()
    assert house.store.of().used == 20


async def test_an_account_is_forgotten_here_and_in_the_store() -> None:
    store = Store()
    house = House(store)
    await house.spend("r1", 700)
    assert "acme" in house.accounts.last
    await house.accounts.forget("acme")
    assert (store.accounts, house.accounts.last) == ({}, {})
    await house.accounts.forget("acme")  # once more: nothing to do
    store.down = True
    with pytest.raises(StateUnavailableError):
        await house.accounts.forget("acme")
