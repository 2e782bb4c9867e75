"""What must hold of any ledger, after any delivery."""

from collections import defaultdict
from collections.abc import Awaitable, Callable

from tenantry.adapters.ledger.store import Ledger
from tenantry.core.billing.booking import FIGURES, SUM_KEY, Entry
from tenantry.core.billing.periods import period_of
from tenantry.core.usage import UsageRecord

from tenantry_testing.ledger_world import Delivery, book, deliver, expected, gaps, in_detail, in_order, net

Check = Callable[[Ledger, Delivery], Awaitable[None]]
PERIODS = ("2026-10", "2026-11")


async def same_as_at_once(ledger: Ledger, world: Delivery) -> None:
    """The tallies are those of all records at once."""
    await deliver(ledger, world.batches)
    assert await in_detail(ledger) == in_order(expected(world.records))


async def closed_for_good(ledger: Ledger, world: Delivery) -> None:
    """October stays as it was when it was closed; later corrections bring the sum of all periods to what is true."""
    closing = world.batches.index(None)
    await deliver(ledger, world.batches[: closing + 1])
    before = await in_detail(ledger, "2026-10"), await ledger.engine_tallies("2026-10")
    await deliver(ledger, world.batches[closing + 1 :])
    assert (await in_detail(ledger, "2026-10"), await ledger.engine_tallies("2026-10")) == before
    tallies = await in_detail(ledger)
    assert net(tallies) == net(expected(world.records))
    assert {(tally.period, tally.corrects) for tally in tallies} <= {
        ("2026-10", ""), ("2026-11", ""), ("2026-11", "2026-10")
    }  # fmt: skip


async def conserves(ledger: Ledger, world: Delivery) -> None:
    """Tenants, operator, what is not told, cold start and idle are the wall time, after every batch."""
    for batch in world.batches:
        await deliver(ledger, [batch])
        for period in PERIODS:
            left_over = list(gaps(await in_detail(ledger, period), await ledger.engine_tallies(period)))
            assert not any(left_over)
    attributed = 0
    for period in PERIODS:
        attributed += sum(engine.attributed_gpu_ns for engine in await ledger.engine_tallies(period))
    assert attributed == sum(record.charge.gpu_ns for record in world.records if isinstance(record, UsageRecord))


async def entries_add_up(ledger: Ledger, world: Delivery) -> None:
    """One who follows the entries by `seq`, a few at a time, sees every change once."""
    seen: list[Entry] = []
    for batch in world.batches:
        await deliver(ledger, [batch])
        while page := await ledger.entries(seen[-1].seq if seen else 0, 3):
            seen += page
    assert [entry.seq for entry in seen] == sorted({entry.seq for entry in seen})
    assert len({entry.id for entry in seen}) == len(seen)
    for entry in seen:
        # What is not booked in the month in which it was says so.
        month = period_of(entry.ended_s)
        assert entry.corrects == ("" if entry.period == month else month)
    sums: dict[tuple[object, ...], list[int]] = defaultdict(lambda: [0] * len(FIGURES))
    for entry in seen:
        key = tuple(getattr(entry, name) for name in SUM_KEY)
        sums[key] = [ours + getattr(entry, name) for ours, name in zip(sums[key], FIGURES, strict=True)]
    tallies = {
        tuple(getattr(tally, name) for name in SUM_KEY): [getattr(tally, name) for name in FIGURES]
        for tally in await in_detail(ledger)
    }
    assert {key: figures for key, figures in sums.items() if any(figures)} == tallies
    assert await book(ledger, world.records) == ()
