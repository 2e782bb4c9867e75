"""The tables of a ledger, and its statements: one text for SQLite and PostgreSQL.

| table | what a row is |
|---|---|
| `ledger_entries` | one entry (`core.billing.booking.Entry`), never changed; `seq` grows in the order of commits |
| `ledger_reports` | one engine's span or cold start, never changed |
| `ledger_sums` | the sums of entries by all that anybody groups by |
| `ledger_engine_sums` | the sums of one engine in one period |
| `ledger_periods` | a closed period, and the terms of its invoices |
| `ledger_schema` | one row: the schema's version |

A sum may outgrow 64 bits (kv_byte_ms of ten GPU-days does), so each is kept in two columns: X_high * 2^40 + X_low.
Both databases add these exactly; SQLite would turn an overflow into a float without a word.

Statements are written with `?` for a value, as SQLite has it; PostgreSQL's driver wants `%s`.
"""
# ruff: noqa: S608  # what is put into statements are this module's own names

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from msgspec.structs import astuple

from tenantry.adapters.ledger.store import Query
from tenantry.core.billing.booking import (
    ENGINE_FIGURES,
    ENGINE_KEY,
    FIGURES,
    SUM_KEY,
    EngineReport,
    Entry,
    Plan,
)
from tenantry.core.billing.tallies import EngineTally, Tally

SCHEMA_VERSION = 1
LOW_BITS = 40
_LOW = 2**LOW_BITS - 1

_ENTRY = Entry.__struct_fields__
_WRITTEN = tuple(name for name in _ENTRY if name != "seq")
_REPORT = EngineReport.__struct_fields__
_INTEGERS = {
    "hour", "attempt", "mirror", "sequence", "peak_kv_bytes", "wall_gpu_ns", "busy_gpu_ns", "cold_start_gpu_ns",
    *FIGURES,
}  # fmt: skip
_TYPES = dict.fromkeys(_INTEGERS, "BIGINT NOT NULL") | {
    "booked_s": "DOUBLE PRECISION NOT NULL",
    "closed_s": "DOUBLE PRECISION NOT NULL",
    "ended_s": "DOUBLE PRECISION NOT NULL",
    "id": "TEXT NOT NULL UNIQUE",
    "finish_reason": "TEXT",
}

Row = Sequence[Any]


def tables(*, serial: str) -> list[str]:
    """Return the statements that make an empty ledger; `serial` is the database's type of a growing primary key."""
    return [
        f"CREATE TABLE ledger_entries (seq {serial}, {_columns(_WRITTEN)})",
        "CREATE INDEX ledger_entries_by_request ON ledger_entries (request_id)",
        f"CREATE TABLE ledger_reports (seq {serial}, {_columns(_REPORT)})",
        _sums_table("ledger_sums", SUM_KEY, FIGURES, "peak_kv_bytes"),
        _sums_table("ledger_engine_sums", ENGINE_KEY, ENGINE_FIGURES),
        f"CREATE TABLE ledger_periods ({_columns(('period', 'terms', 'closed_s', 'records'))}, PRIMARY KEY (period))",
        "CREATE TABLE ledger_schema (version BIGINT NOT NULL)",
        f"INSERT INTO ledger_schema VALUES ({SCHEMA_VERSION})",
    ]


def _columns(names: Iterable[str]) -> str:
    return ", ".join(map(_column, names))


def _column(name: str) -> str:
    return f"{name} {_TYPES.get(name, 'TEXT NOT NULL')}"


def _sums_table(table: str, key: Sequence[str], figures: Iterable[str], *peaks: str) -> str:
    halves = (f"{name}_high BIGINT NOT NULL, {name}_low BIGINT NOT NULL" for name in figures)
    columns = ", ".join([_columns(key), *halves, *map(_column, peaks)])
    return f"CREATE TABLE {table} ({columns}, PRIMARY KEY ({', '.join(key)}))"


def _insert(table: str, names: Sequence[str]) -> str:
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"


def _grow(table: str, key: Sequence[str], figures: Sequence[str], peaks: Sequence[str] = ()) -> str:
    """Return the statement that adds figures to a row of sums, or makes it."""
    columns = [*key, *(f"{name}_{half}" for name in figures for half in ("high", "low")), *peaks]
    changes = []
    for name in figures:
        low = f"{table}.{name}_low + excluded.{name}_low"
        changes += [
            f"{name}_high = {table}.{name}_high + excluded.{name}_high + (({low}) >> {LOW_BITS})",
            f"{name}_low = ({low}) & {_LOW}",
        ]
    for name in peaks:
        both = (f"excluded.{name}", f"{table}.{name}")
        changes.append(f"{name} = CASE WHEN {both[0]} > {both[1]} THEN {both[0]} ELSE {both[1]} END")
    return f"{_insert(table, columns)} ON CONFLICT ({', '.join(key)}) DO UPDATE SET {', '.join(changes)}"


ADD_ENTRY = _insert("ledger_entries", _WRITTEN)
ADD_REPORT = _insert("ledger_reports", _REPORT)
GROW_SUM = _grow("ledger_sums", SUM_KEY, FIGURES, ("peak_kv_bytes",))
GROW_ENGINE_SUM = _grow("ledger_engine_sums", ENGINE_KEY, ENGINE_FIGURES)
ADD_PERIOD = "INSERT INTO ledger_periods (period, closed_s, records, terms) VALUES (?, ?, ?, ?)"
TERMS = "SELECT period, terms FROM ledger_periods WHERE terms <> ''"
LAST_CLOSED = "SELECT max(period) FROM ledger_periods"
PERIODS = "SELECT period, closed_s, records FROM ledger_periods ORDER BY period"
FIRST_USED = (
    "SELECT min(period) FROM (SELECT period FROM ledger_sums UNION ALL SELECT period FROM ledger_engine_sums) AS used"
)
RECORDS_OF = "SELECT sum(records_high), sum(records_low) FROM ledger_sums WHERE period = ?"
ENTRIES_AFTER = f"SELECT {', '.join(_ENTRY)} FROM ledger_entries WHERE seq > ? ORDER BY seq LIMIT ?"

# `{}` is how the database reads a list of texts from one value.
KNOWN_ENTRIES = "SELECT id FROM ledger_entries WHERE id {}"
KNOWN_REPORTS = "SELECT id FROM ledger_reports WHERE id {}"
# Who pays does not depend on the records as they came, which are most of an entry's bytes.
_HELD = ", ".join("'' AS record" if name == "record" else name for name in _ENTRY)
HELD = f"SELECT {_HELD} FROM ledger_entries WHERE request_id {{}} ORDER BY seq"


def entry_row(entry: Entry) -> Row:
    """Return an entry's values for ADD_ENTRY."""
    row = list(astuple(entry))[1:]
    row[_MIRROR - 1] = int(entry.mirror)
    return row


def entry_of(row: Row) -> Entry:
    """Return the entry of a row."""
    entry = dict(zip(_ENTRY, row, strict=True))
    return Entry(**(entry | {"mirror": bool(entry["mirror"])}))


_MIRROR = _ENTRY.index("mirror")


def report_rows(plan: Plan) -> list[Row]:
    """Return a plan's rows for ADD_REPORT."""
    return [astuple(report) for report in plan.reports]


def sum_rows(plan: Plan) -> list[Row]:
    """Return a plan's rows for GROW_SUM, in one order everywhere, so that two transactions never wait in a ring."""
    return [
        (*key, *_split(figures), plan.peaks.get(key, 0))
        for key, figures in sorted(plan.sums.items(), key=lambda item: item[0])
    ]


def engine_sum_rows(plan: Plan) -> list[Row]:
    """Return a plan's rows for GROW_ENGINE_SUM."""
    return [(*key, *_split(figures)) for key, figures in sorted(plan.engine_sums.items(), key=lambda item: item[0])]


def _split(figures: Iterable[int]) -> Iterator[int]:
    for figure in figures:
        yield figure >> LOW_BITS
        yield figure & _LOW


def whole(high: Any, low: Any) -> int:
    """Return a sum of its halves; None (of no rows) is 0."""
    return (int(high or 0) << LOW_BITS) + int(low or 0)


def _sums_of(names: Iterable[str]) -> str:
    return ", ".join(f"sum({name}_high), sum({name}_low)" for name in names)


def _wholes(row: Row) -> Iterator[int]:
    return (whole(row[place], row[place + 1]) for place in range(0, len(row), 2))


_ALWAYS = ("period", "corrects", "kind", "owner")


def tallies_statement(query: Query) -> tuple[str, list[object]]:
    """Return the statement for a query and its values; raise ValueError for hours that are not whole."""
    for moment in (query.from_s, query.to_s):
        if moment is not None and moment % 3600:
            raise ValueError(f"{moment:.17g} is no whole hour: usage is summed by the hour (a multiple of 3600)")
    conditions = [
        (text, value)
        for text, value in (
            ("period = ?", query.period),
            ("hour >= ?", None if query.from_s is None else int(query.from_s)),
            ("hour < ?", None if query.to_s is None else int(query.to_s)),
            ("tenant = ?", query.tenant),
            ("model = ?", query.model),
        )
        if value is not None
    ]
    groups = ", ".join(_groups(query))
    where = " AND ".join(text for text, _ in conditions) or "1 = 1"
    statement = (
        f"SELECT {groups}, max(peak_kv_bytes), {_sums_of(FIGURES)} FROM ledger_sums WHERE {where} GROUP BY {groups}"
    )
    return statement, [value for _, value in conditions]


def _groups(query: Query) -> tuple[str, ...]:
    return (*_ALWAYS, *dict.fromkeys(query.group_by))


def tallies_of(query: Query, rows: Iterable[Row]) -> list[Tally]:
    """Return the tallies of the rows; without those from which everything was taken back again."""
    groups = _groups(query)
    found = []
    # In Python's order: that of PostgreSQL depends on its locale.
    for row in sorted(rows, key=lambda row: tuple(row[: len(groups)])):
        figures = dict(zip(FIGURES, _wholes(row[len(groups) + 1 :]), strict=True))
        if any(figures.values()):
            columns: dict[str, Any] = dict(zip(groups, row, strict=False)) | figures
            found.append(Tally(**columns, peak_kv_bytes=int(row[len(groups)])))
    return found


ENGINE_TALLIES = (
    "SELECT model, version, sum(CASE WHEN reports_high > 0 OR reports_low > 0 THEN 1 ELSE 0 END), "
    f"{_sums_of(ENGINE_FIGURES)} FROM ledger_engine_sums WHERE period = ? "
    "GROUP BY model, version"
)


def engine_tallies_of(period: str, rows: Iterable[Row]) -> list[EngineTally]:
    """Return the tallies of the rows; without those of engines that used no GPU time that anybody knows of."""
    found = []
    for model, version, engines, *halves in sorted(rows, key=lambda row: tuple(row[:2])):
        figures = dict(zip(ENGINE_FIGURES, _wholes(halves), strict=True))
        if any(figures.values()):
            figures.pop("reports")
            found.append(EngineTally(period=period, model=model, version=version, engines=int(engines), **figures))
    return found
