"""What a ledger can do. Both implementations keep one schema and pass one suite of tests.

A record is booked once, by its id; the same record again changes nothing. When `book` has returned, the records are on
disk. Sums do not depend on the order of records. A closed period never changes: what comes late is booked in the
earliest open period, with `corrects` naming the one it belongs to.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Literal, Protocol

from msgspec import Struct

from tenantry.core.billing.booking import Entry, refusal
from tenantry.core.billing.periods import following
from tenantry.core.billing.tallies import EngineTally, Tally
from tenantry.core.errors import TenantryError
from tenantry.core.usage import Record

GroupBy = Literal["tenant", "tier", "model", "version", "adapter", "hour", "measured"]


class LedgerUnavailableError(TenantryError):
    """The ledger's database cannot be reached, read or written; nothing that was asked counts as done."""


class PeriodError(TenantryError):
    """A period cannot be closed, or is closed already; the message says why."""


class UnbookableError(TenantryError):
    """A valid record with a figure or a text that no database can keep. `index` is its place in the batch."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(f"records[{index}]: {reason}")
        self.index = index


class Booked(Struct, frozen=True, kw_only=True):
    """What a batch came to: the ids that were new, in order, and how many were there already."""

    new: tuple[str, ...] = ()
    known: int = 0


class Query(Struct, frozen=True, kw_only=True):
    """Which usage: of one period, or between two Unix times (whole hours); of one tenant, or of all."""

    period: str | None = None
    from_s: float | None = None
    to_s: float | None = None
    tenant: str | None = None
    model: str | None = None
    group_by: tuple[GroupBy, ...] = ("tenant", "model")


class ClosedPeriod(Struct, frozen=True, kw_only=True):
    """A period that was closed, when (Unix time), and how many records it has."""

    period: str
    closed_s: float
    records: int


class Ledger(Protocol):
    """One ledger. Every call may raise LedgerUnavailableError and can then be repeated."""

    async def book(self, records: Sequence[Record], units_micro: Sequence[int], now_s: float) -> Booked:
        """Book records, all or none; `units_micro` has each one's compute units (0 for kinds without tokens).

        Raises UnbookableError for a record that no ledger can keep.
        """

    async def tallies(self, query: Query) -> list[Tally]:
        """Return sums, by owner always and by `group_by`."""

    async def engine_tallies(self, period: str) -> list[EngineTally]:
        """Return how the GPUs of each model and version spent a period."""

    async def entries(self, after: int, limit: int) -> list[Entry]:
        """Return up to `limit` entries with a `seq` above `after`, in its order; none ever comes in between later."""

    async def close_period(self, period: str, now_s: float, *, not_before_s: float, terms: str = "") -> ClosedPeriod:
        """Close a period, once; raise PeriodError before `not_before_s`, or while an earlier one is open.

        `terms` (core.billing.terms) are kept with it.
        """

    async def periods(self) -> list[ClosedPeriod]:
        """Return the periods that were closed."""

    async def terms(self) -> dict[str, str]:
        """Return the terms that were kept, by closed period."""

    async def close(self) -> None:
        """Let go of files and connections."""


def checked_units(records: Sequence[Record], units_micro: Iterable[int]) -> list[int]:
    """Return the units as a list; raise ValueError unless there is one for each record."""
    units = list(units_micro)
    if len(units) != len(records):
        raise ValueError(f"{len(units)} compute units for {len(records)} records")
    return units


def checked_records(records: Sequence[Record], units_micro: Sequence[int]) -> None:
    """Raise UnbookableError for the first record that no database can keep."""
    for index, (record, units) in enumerate(zip(records, units_micro, strict=True)):
        if reason := refusal(record, units):
            raise UnbookableError(index, reason)


def closable(period: str, *, first: str | None, closed: str | None, now_s: float, not_before_s: float) -> None:
    """Raise PeriodError unless a period may be closed.

    `first` is the first period with usage, `closed` the last one that was closed; None: there is none.
    """
    if closed is not None and period <= closed:
        raise PeriodError(f"{period} is closed already; what comes late is booked in {following(closed)}")
    due = following(closed) if closed is not None else min(first or period, period)
    if period != due:
        raise PeriodError(f"{due} is still open; close it first: periods are closed in order")
    if now_s < not_before_s:
        moment = datetime.fromtimestamp(not_before_s, UTC).strftime("%Y-%m-%d %H:%MZ")
        raise PeriodError(f"{period} may be closed from {moment} on: records may still come (billing.closeAfterHours)")
