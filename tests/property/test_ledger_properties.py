"""A ledger in SQLite: any order and repetition of delivery comes to the same, and every nanosecond has an owner.

The same worlds are played against PostgreSQL in tests/state/test_ledger_contract.py.
"""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from hypothesis import given, settings
from tenantry.adapters.ledger.sqlite import SqliteLedger
from tenantry_testing import ledger_checks
from tenantry_testing.folders import in_memory
from tenantry_testing.ledger_world import Delivery, deliveries

Result = TypeVar("Result")

# Each example is a dozen commits, each with an fsync.
quickly = settings(max_examples=min(400, settings().max_examples // 4))


def played(work: Callable[[SqliteLedger], Awaitable[Result]]) -> Result:
    async def run() -> Result:
        ledger = SqliteLedger(Path(folder) / "ledger.db")
        try:
            return await work(ledger)
        finally:
            await ledger.close()

    with tempfile.TemporaryDirectory(dir=in_memory()) as folder:
        return asyncio.run(run())


@quickly
@given(deliveries())
def test_any_order_and_repetition_of_delivery_gives_the_same_ledger(world: Delivery) -> None:
    played(lambda ledger: ledger_checks.same_as_at_once(ledger, world))


@quickly
@given(deliveries(closing=True))
def test_a_closed_period_never_changes_and_nothing_is_lost(world: Delivery) -> None:
    played(lambda ledger: ledger_checks.closed_for_good(ledger, world))


@quickly
@given(deliveries(closing=True))
def test_every_nanosecond_has_an_owner(world: Delivery) -> None:
    played(lambda ledger: ledger_checks.conserves(ledger, world))


@quickly
@given(deliveries(closing=True))
def test_entries_add_up_to_the_tallies(world: Delivery) -> None:
    played(lambda ledger: ledger_checks.entries_add_up(ledger, world))
