"""Usage as a table: who used what, by whichever columns a reader asks for, for people and for other programs.

One table has many faces (text, CSV, JSON, Parquet) with the same columns and exact figures: GPU seconds have nine
decimals, compute units six. How a row was measured is always a column, so that an estimate is never taken for a
measurement; who pays is one too.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal

import msgspec
from msgspec import Struct

from tenantry.core.billing.money import decimal_of
from tenantry.core.billing.tallies import Tally

By = Literal["tenant", "tier", "model", "version", "adapter", "hour"]
Value = str | int | Decimal | datetime

ColumnKind = Literal["text", "time", "whole", "decimal"]

GPU_DIGITS = 9
UNIT_DIGITS = 6


class Column(Struct, frozen=True, kw_only=True):
    """A column: its values are str, datetime (UTC), int, or Decimal with so many `digits` after the point."""

    name: str
    kind: ColumnKind
    digits: int = 0


class UsageTable(Struct, frozen=True, kw_only=True):
    """Columns and rows; a row has one value a column. Rows are sorted by what they are grouped by."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...] = ()

    def records(self) -> list[dict[str, Value]]:
        """Return each row by column name."""
        names = [column.name for column in self.columns]
        return [dict(zip(names, row, strict=True)) for row in self.rows]


_SUMS = (
    Column(name="requests", kind="whole"),
    Column(name="input_tokens", kind="whole"),
    Column(name="cached_tokens", kind="whole"),
    Column(name="output_tokens", kind="whole"),
    Column(name="gpu_seconds", kind="decimal", digits=GPU_DIGITS),
    Column(name="compute_units", kind="decimal", digits=UNIT_DIGITS),
    Column(name="kv_byte_ms", kind="whole"),
    Column(name="peak_kv_bytes", kind="whole"),
)

_numbers = msgspec.json.Encoder(decimal_format="number")


def usage_table(tallies: Iterable[Tally], by: Sequence[By]) -> UsageTable:
    """Sum tallies up by `by`, and always by kind, owner and how they were measured; any order, the same table."""
    names: tuple[str, ...] = (*dict.fromkeys(by), "kind", "owner", "measured")
    merged: dict[tuple[str | int, ...], list[Tally]] = {}
    for tally in tallies:
        merged.setdefault(tuple(getattr(tally, name) for name in names), []).append(tally)
    keys = tuple(Column(name=name, kind="time" if name == "hour" else "text") for name in names)
    rows = (
        (*(_value(column, part) for column, part in zip(keys, key, strict=True)), *_sums(merged[key]))
        for key in sorted(merged)
    )
    return UsageTable(columns=(*keys, *_SUMS), rows=tuple(rows))


def as_json(table: UsageTable) -> bytes:
    """Return the table as a JSON array of objects; decimals are numbers, written exactly."""
    rows = [
        {name: plain(value) if isinstance(value, datetime) else value for name, value in row.items()}
        for row in table.records()
    ]
    return msgspec.json.format(_numbers.encode(rows), indent=1) + b"\n"


def remarks(table: UsageTable) -> list[str]:
    """Return what a reader must know of the rows: which of them were not measured by an engine."""
    counts = {"estimate": 0, "response": 0}
    requests = 0
    for row in table.records():
        requests += int(str(row["requests"]))
        if (measured := str(row["measured"])) in counts:
            counts[measured] += int(str(row["requests"]))
    said = {
        "estimate": "estimated from the sizes of bodies (measured: estimate)",
        "response": "read from responses, without GPU time (measured: response)",
    }
    return [f"{count} of {requests} requests are {said[how]}" for how, count in counts.items() if count]


def plain(value: Value) -> str:
    """Return a value as text: decimals without an exponent, times in UTC."""
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    return format(value, "f") if isinstance(value, Decimal) else str(value)


def _value(column: Column, part: str | int) -> Value:
    return datetime.fromtimestamp(int(part), UTC) if column.kind == "time" else str(part)


def _sums(tallies: Sequence[Tally]) -> tuple[Value, ...]:
    return (
        sum(tally.requests for tally in tallies),
        sum(tally.input_tokens for tally in tallies),
        sum(tally.cached_tokens for tally in tallies),
        sum(tally.output_tokens for tally in tallies),
        decimal_of(sum(tally.gpu_ns for tally in tallies), GPU_DIGITS),
        decimal_of(sum(tally.compute_units_micro for tally in tallies), UNIT_DIGITS),
        sum(tally.kv_byte_ms for tally in tallies),
        max(tally.peak_kv_bytes for tally in tallies),
    )
