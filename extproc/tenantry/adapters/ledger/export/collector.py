"""Fills the outbox: follows the ledger's entries by their `seq`, which grows in the order of commits.

How far a destination has come is written in the transaction that adds what it is to be told, so an entry is added once,
wherever a process ends.
"""

from collections.abc import Sequence
from typing import Protocol

from tenantry.adapters.ledger.export.outbox import LeaseLostError, Outbox, add
from tenantry.adapters.ledger.export.tables import Tables, Transaction
from tenantry.core.billing.booking import Entry
from tenantry.core.billing.export import HourSum, Usage, summed, usage_of, whole
from tenantry.core.billing.export_settings import DestinationName, ExportSettings
from tenantry.core.billing.periods import HOUR_S

PAGE = 500
LAG_S = 300.0
"""A sum is told so long after its hour ended, so that what is booked late is mostly in it."""


class Entries(Protocol):
    """A ledger, as far as an export reads it."""

    async def entries(self, after: int, limit: int) -> list[Entry]:
        """Return up to `limit` entries beyond a `seq`, in order; may raise LedgerUnavailableError."""


class Collector:
    """Fills the outbox of one ledger."""

    def __init__(self, ledger: Entries, tables: Tables, outbox: Outbox, settings: ExportSettings) -> None:
        self._ledger = ledger
        self._tables = tables
        self._outbox = outbox
        self._settings = settings

    async def collect(self, destination: DestinationName, now_s: float) -> bool:
        """Add a page of events, and the sums that are due; return whether there may be more. Raises LeaseLostError."""
        before = await self._place(destination)
        entries = await self._ledger.entries(before, PAGE)
        usages = [
            usage
            for entry in entries
            if entry.ended_s >= self._settings.since_s and (usage := usage_of(entry)) is not None
        ]
        stripe = self._settings.stripe if destination == "stripe" else None
        if entries or stripe is not None:
            async with self._tables.transaction() as tx:
                await self._outbox.hold(tx, now_s)
                await _move(tx, destination, before, entries[-1].seq if entries else before)
                if stripe is None:
                    await add(tx, destination, [(usage.id, usage.at_s, usage) for usage in usages], now_s)
                else:
                    await _sum_up(tx, destination, usages, now_s)
                    await _tell_sums(tx, destination, self._settings.source, stripe.unit_micro, now_s)
        return len(entries) >= PAGE

    async def _place(self, destination: DestinationName) -> int:
        async with self._tables.transaction() as tx:
            rows = await tx.rows("SELECT seq FROM export_cursors WHERE destination = ?", destination)
        return int(rows[0][0]) if rows else 0


async def _move(tx: Transaction, destination: DestinationName, before: int, now: int) -> None:
    """Write how far a destination has come; raise LeaseLostError when it was elsewhere, whoever did it."""
    rows = await tx.rows(
        "INSERT INTO export_cursors (destination, seq) VALUES (?, ?) ON CONFLICT (destination) "
        "DO UPDATE SET seq = excluded.seq WHERE export_cursors.seq = ? RETURNING seq",
        destination, now, before,
    )  # fmt: skip
    if not rows:
        raise LeaseLostError("another exporter has been at it")


async def _sum_up(tx: Transaction, destination: DestinationName, usages: Sequence[Usage], now_s: float) -> None:
    await tx.many(
        "INSERT INTO export_sums (destination, tenant, hour, micro, due_s) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (destination, tenant, hour) DO UPDATE SET micro = export_sums.micro + excluded.micro",
        [
            (destination, tenant, hour, micro, max(hour + HOUR_S, now_s) + LAG_S)
            for (tenant, hour), micro in sorted(summed(usages).items())
        ],
    )


async def _tell_sums(tx: Transaction, destination: DestinationName, source: str, unit_micro: int, now_s: float) -> None:
    due = await tx.rows(
        "SELECT s.tenant, s.hour, s.micro, COALESCE(c.micro, 0), COALESCE(c.sums, 0) FROM export_sums s "
        "LEFT JOIN export_carries c ON c.destination = s.destination AND c.tenant = s.tenant "
        "WHERE s.destination = ? AND s.due_s <= ? ORDER BY s.tenant, s.hour",
        destination, now_s,
    )  # fmt: skip
    carries: dict[str, tuple[int, int]] = {}
    items = []
    for tenant, hour, micro, carry_before, sums_before in due:
        carry, number = carries.get(tenant, (int(carry_before), int(sums_before)))
        value, carry = whole(int(micro), carry, unit_micro)
        if value:
            number += 1
            total = HourSum(tenant=tenant, hour=int(hour), number=number, value=value)
            items.append((total.id(source), float(hour), total))
        carries[tenant] = (carry, number)
    await add(tx, destination, items, now_s)
    await tx.many(
        "INSERT INTO export_carries (destination, tenant, micro, sums) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (destination, tenant) DO UPDATE SET micro = excluded.micro, sums = excluded.sums",
        [(destination, tenant, carry, number) for tenant, (carry, number) in carries.items()],
    )
    await tx.many(
        "DELETE FROM export_sums WHERE destination = ? AND tenant = ? AND hour = ?",
        [(destination, row[0], row[1]) for row in due],
    )
