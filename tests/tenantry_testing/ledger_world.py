"""A small world of engines and requests for tests of ledgers: what was posted, in any order, and what it must come to.

The expectation is computed from all records at once, without a database, an order or an increment.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import get_args

from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import asdict
from tenantry.adapters.ledger.store import GroupBy, Ledger, Query
from tenantry.core.billing.booking import FIGURES
from tenantry.core.billing.ownership import owners
from tenantry.core.billing.tallies import EngineTally, Tally
from tenantry.core.usage import Charge, ColdStart, EngineSpan, FinishReason, Record, Training, UsageRecord

EVERYTHING: tuple[GroupBy, ...] = get_args(GroupBy)

OCTOBER = datetime(2026, 10, 31, 23, 30, tzinfo=UTC).timestamp()
NOVEMBER = datetime(2026, 11, 1, 0, 30, tzinfo=UTC).timestamp()
LATER = datetime(2027, 6, 1, tzinfo=UTC).timestamp()


def request(request_id: str = "r1", **changes: object) -> UsageRecord:
    """Return a record of a request that was served, or of what `changes` says."""
    usual: dict[str, object] = {
        "request_id": request_id, "engine": "e1", "tenant": "acme", "tier": "gold", "model": "chat-8b",
        "version": "1.4.0", "ended_s": OCTOBER, "finish_reason": "stop",
        "charge": Charge(prefill_gpu_ns=100, decode_gpu_ns=200, input_tokens=10, output_tokens=5, kv_byte_ms=1_000),
    }  # fmt: skip
    return UsageRecord(**(usual | changes))  # type: ignore[arg-type]


def span(part: int = 1, **changes: object) -> EngineSpan:
    """Return an engine's span: ten microseconds, three of them busy."""
    usual: dict[str, object] = {
        "engine": "e1", "model": "chat-8b", "version": "1.4.0", "part": part, "ended_s": OCTOBER, "wall_ns": 10_000,
        "busy_gpu_ns": 3_000,
    }  # fmt: skip
    return EngineSpan(**(usual | changes))  # type: ignore[arg-type]


class Delivery(Struct, frozen=True, kw_only=True):
    """Records as they come: batches, with repetitions; a None in between closes October."""

    records: tuple[Record, ...]
    batches: tuple[tuple[Record, ...] | None, ...]


@st.composite
def deliveries(draw: st.DrawFn, *, closing: bool = False) -> Delivery:
    """Draw a world and an order in which its records come."""
    records = _unique([*draw(_requests()), *draw(_reports())])
    coming = draw(st.permutations(records + draw(st.lists(st.sampled_from(records), max_size=6))))
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(coming) - 1)), max_size=5)))
    batches: list[tuple[Record, ...] | None] = [
        tuple(coming[start:end]) for start, end in itertools.pairwise([0, *cuts, len(coming)])
    ]
    if closing:
        batches.insert(draw(st.integers(0, len(batches))), None)
    return Delivery(records=tuple(records), batches=tuple(batches))


@st.composite
def _requests(draw: st.DrawFn) -> list[Record]:
    found: list[Record] = []
    for request_id in draw(st.sets(st.sampled_from(["r1", "r2", "r3"]), min_size=1)):
        tenant = draw(st.sampled_from(["acme", "acme", "globex", ""]))
        for attempt in range(1, 1 + draw(st.integers(1, 3))):
            engine, mirror = draw(st.sampled_from(["e1", "e2"])), draw(st.integers(0, 4)) == 0
            for sequence in range(draw(st.sampled_from([1, 1, 2]))):
                parts = draw(st.integers(1, 3))
                reason = draw(st.sampled_from(_REASONS))
                moments = sorted(draw(st.lists(_MOMENTS, min_size=parts, max_size=parts)))
                found += [
                    request(
                        request_id, tenant=tenant, attempt=attempt, engine=engine, mirror=mirror, sequence=sequence,
                        part=part, ended_s=moment, finish_reason=reason if part == parts else None,
                        version=_VERSIONS[engine], peak_kv_bytes=draw(st.none() | st.integers(1, 9)),
                        charge=draw(_CHARGES),
                    )
                    for part, moment in enumerate(moments, start=1)
                ]  # fmt: skip
    for part in range(1, 1 + draw(st.integers(0, 2))):
        found.append(
            Training(job="tune", part=part, tenant="acme", model="chat-8b", ended_s=draw(_MOMENTS), gpu_ns=part * 1_000)
        )
    return found


@st.composite
def _reports(draw: st.DrawFn) -> list[Record]:
    found: list[Record] = []
    for engine in draw(st.sets(st.sampled_from(["e1", "e2"]))):
        version, gpus = _VERSIONS[engine], draw(st.integers(1, 2))
        found.append(
            ColdStart(engine=engine, model="chat-8b", version=version, gpus=gpus, ended_s=OCTOBER, load_ns=5_000)
        )
        for part in range(1, 1 + draw(st.integers(0, 3))):
            wall_ns = draw(st.integers(0, 10_000))
            busy_ns = draw(st.integers(0, wall_ns * gpus))
            found.append(
                span(
                    part, engine=engine, version=version, gpus=gpus, ended_s=draw(_MOMENTS), wall_ns=wall_ns,
                    busy_gpu_ns=busy_ns,
                )
            )  # fmt: skip
    return found


_REASONS: list[FinishReason | None] = ["stop", "stop", "length", "tool_calls", "abort", "abort", "error", None]
_MOMENTS = st.sampled_from([OCTOBER, OCTOBER + 900, NOVEMBER, NOVEMBER + 7_200])
_VERSIONS = {"e1": "1.4.0", "e2": "1.5.0-rc.2"}
_CHARGES = st.builds(
    Charge, prefill_gpu_ns=st.integers(0, 2**62), decode_gpu_ns=st.integers(0, 1_000), input_tokens=st.integers(0, 50),
    cached_tokens=st.integers(0, 50), output_tokens=st.integers(0, 50), kv_byte_ms=st.integers(0, 2**62),
)  # fmt: skip


def _unique(records: Iterable[Record]) -> list[Record]:
    """Return the records without those whose id stands there already: two attempts drew one engine and number."""
    return list({record.id: record for record in records}.values())


def units_of(record: Record) -> int:
    """Return compute units that depend on the record alone, as rules that nobody changes give."""
    return 7 * record.charge.output_tokens if isinstance(record, UsageRecord) else 0


async def book(ledger: Ledger, records: Sequence[Record], now_s: float = LATER) -> tuple[str, ...]:
    """Book records; return the ids that were new."""
    return (await ledger.book(records, [units_of(record) for record in records], now_s)).new


async def deliver(ledger: Ledger, batches: Iterable[Sequence[Record] | None]) -> None:
    """Book every batch in turn, and close October where a None stands."""
    for batch in batches:
        if batch is None:
            await ledger.close_period("2026-10", LATER, not_before_s=0)
        else:
            await book(ledger, batch)


def expected(records: Iterable[Record]) -> list[Tally]:
    """Return the tallies of all records, in every detail, with no period closed."""
    records = list(records)
    paying = _owners(records)
    sums: dict[tuple[object, ...], dict[str, int]] = defaultdict(lambda: dict.fromkeys(FIGURES, 0))
    peaks: dict[tuple[object, ...], int] = defaultdict(int)
    for record in records:
        if isinstance(record, Training):
            named = _named(record, "training", "tenant", record.adapter, "", "")
            figures = {"records": 1, "prefill_gpu_ns": record.gpu_ns}
        elif isinstance(record, UsageRecord):
            owner, charge = paying[record.id], record.charge
            named = _named(record, "request", owner, record.adapter, record.version, record.measured)
            figures = {name: getattr(charge, name) for name in FIGURES if hasattr(charge, name)} | {
                "records": 1, "requests": int(record.final and record.sequence == 0),
                "compute_units_micro": units_of(record),
            }  # fmt: skip
            memory = _named(
                record, "request", "tenant" if owner in {"failed", "unfinished"} else owner, record.adapter,
                record.version, record.measured,
            )  # fmt: skip
            peaks[memory] = max(peaks[memory], record.peak_kv_bytes or 0)
        else:
            continue
        for name, figure in figures.items():
            sums[named][name] += figure
    return [
        Tally(**dict(zip(_COLUMNS, named, strict=True)), **figures, peak_kv_bytes=peaks[named])  # type: ignore[arg-type]
        for named, figures in sorted(sums.items(), key=lambda item: str(item[0]))
    ]


_COLUMNS = ("period", "kind", "owner", "tenant", "tier", "model", "adapter", "version", "measured", "hour")


def _named(
    record: UsageRecord | Training, kind: str, owner: str, adapter: str | None, version: str, measured: str
) -> tuple[object, ...]:
    period = datetime.fromtimestamp(record.ended_s, UTC).strftime("%Y-%m")
    hour = int(record.ended_s) // 3_600 * 3_600
    return (period, kind, owner, record.tenant, record.tier, record.model, adapter or "", version, measured, hour)


def _owners(records: Iterable[Record]) -> dict[str, str]:
    of_request: dict[str, list[UsageRecord]] = defaultdict(list)
    for record in records:
        if isinstance(record, UsageRecord):
            of_request[record.request_id].append(record)
    return {record_id: owner for parts in of_request.values() for record_id, owner in owners(parts).items()}


async def in_detail(ledger: Ledger, period: str | None = None) -> list[Tally]:
    """Return a ledger's tallies by everything."""
    return sorted(await ledger.tallies(Query(period=period, group_by=EVERYTHING)), key=_order)


def in_order(tallies: Iterable[Tally]) -> list[Tally]:
    """Return tallies in an order that depends on nothing but them."""
    return sorted(tallies, key=_order)


def _order(tally: Tally) -> str:
    return str(tuple(getattr(tally, name) for name in (*_COLUMNS, "corrects")))


def net(tallies: Iterable[Tally]) -> dict[tuple[object, ...], dict[str, int]]:
    """Return the figures by everything but the period, whichever it was booked in."""
    sums: dict[tuple[object, ...], dict[str, int]] = defaultdict(lambda: dict.fromkeys(FIGURES, 0))
    for tally in tallies:
        key = tuple(value for name, value in asdict(tally).items() if name in _COLUMNS and name != "period")
        for name in FIGURES:
            sums[key][name] += getattr(tally, name)
    return {key: figures for key, figures in sums.items() if any(figures.values())}


def gaps(tallies: Iterable[Tally], engines: Iterable[EngineTally]) -> Iterator[int]:
    """Yield for each version the wall time that tenants, operator, what is not told, cold start and idle leave over."""
    told: dict[tuple[str, str], int] = defaultdict(int)
    for tally in tallies:
        if tally.kind == "request":
            told[tally.model, tally.version] += tally.gpu_ns
    for engine in engines:
        untold = engine.busy_gpu_ns - engine.attributed_gpu_ns
        parts = (told.pop((engine.model, engine.version), 0), untold, engine.cold_start_gpu_ns, engine.idle_gpu_ns)
        yield engine.wall_gpu_ns - sum(parts)
    yield from (gpu_ns for gpu_ns in told.values() if gpu_ns)
