"""What a batch of records comes to in a ledger: entries that are added, and sums that grow. Pure.

Entries are never changed. A record's first entry adds its figures to its owner. When a later record of the request
changes who pays, two more follow: one that takes the figures from the old owner, one that gives them to the new. So
the entries add up to the same whatever the order in which records come, and one who follows them by `seq` misses no
change. Both stand in the period of the first; when that is closed, in the earliest open one, as its correction.

Sums are kept by all that anybody groups by, and by the hour, in the same transaction: a bill is read from hours,
not from all requests of a month.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from tenantry.core.billing.ownership import contends, owner_alone, owners
from tenantry.core.billing.periods import booked_in, hour_of, period_of
from tenantry.core.billing.tallies import Kind, Owner
from tenantry.core.usage import ColdStart, EngineSpan, Record, Training, UsageRecord

MAX_FIGURE = 2**62
"""Of one entry. Sums have no bound."""

OLDEST_S = 400 * 86_400
AHEAD_S = 86_400
"""A record says that its work ended up to 400 days ago, or a day ahead; beyond, the clock was wrong."""

MAX_TEXT_BYTES = 2_000
"""Of a record's names together: what PostgreSQL can have in one index entry (2,704 bytes)."""


class Entry(Struct, frozen=True, kw_only=True):
    """One line of the ledger. Figures are negative where it takes back.

    `seq` grows with every entry, in the order of commits; 0 until it is booked. `record_id` is the record's, `id` the
    entry's own: the record's for its first, a suffix after that. `corrects` is the closed period in which the usage
    was, empty in its own. `requests` is 1 for the record with which an attempt ended (that of its first sequence).
    `finish_reason` is None for a part. `record` is the whole record as JSON, in its first entry alone.
    """

    seq: int = 0
    id: str
    record_id: str
    booked_s: float
    period: str
    corrects: str = ""
    kind: Kind
    owner: Owner
    tenant: str
    tier: str = ""
    model: str
    version: str = ""
    adapter: str = ""
    hour: int
    measured: str = ""
    ended_s: float
    request_id: str = ""
    engine: str = ""
    attempt: int = 0
    mirror: bool = False
    sequence: int = 0
    finish_reason: str | None = None
    records: int = 1
    requests: int = 0
    prefill_gpu_ns: int = 0
    decode_gpu_ns: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    kv_byte_ms: int = 0
    compute_units_micro: int = 0
    peak_kv_bytes: int = 0
    record: str = ""

    @property
    def gpu_ns(self) -> int:
        """GPU time of both phases; of training it stands in `prefill_gpu_ns`."""
        return self.prefill_gpu_ns + self.decode_gpu_ns


FIGURES = (
    "records", "requests", "prefill_gpu_ns", "decode_gpu_ns", "input_tokens", "cached_tokens", "output_tokens",
    "kv_byte_ms", "compute_units_micro",
)  # fmt: skip
"""What is summed."""

SUM_KEY = (
    "period", "tenant", "model", "hour", "owner", "kind", "corrects", "tier", "version", "adapter", "measured",
)  # fmt: skip
ENGINE_KEY = ("period", "engine", "model", "version")
ENGINE_FIGURES = (
    "wall_gpu_ns", "busy_gpu_ns", "cold_start_gpu_ns", "cold_starts", "attributed_gpu_ns", "reports"
)  # fmt: skip
"""`reports` counts spans and cold starts: an engine of which there are none is not counted among engines."""


class EngineReport(Struct, frozen=True, kw_only=True):
    """A span or a cold start, as a ledger keeps it; `record` is the whole as JSON."""

    id: str
    booked_s: float
    period: str
    corrects: str = ""
    kind: str
    engine: str
    model: str
    version: str
    hour: int
    ended_s: float
    wall_gpu_ns: int
    busy_gpu_ns: int = 0
    cold_start_gpu_ns: int = 0
    record: str = ""


Key = tuple[object, ...]


class Plan(Struct, frozen=True, kw_only=True):
    """What is to be written for a batch. `peaks` belong to keys of `sums`; figures are in the order of their names."""

    new: tuple[str, ...]
    known: int
    entries: tuple[Entry, ...]
    reports: tuple[EngineReport, ...]
    sums: Mapping[Key, Sequence[int]]
    peaks: Mapping[Key, int]
    engine_sums: Mapping[Key, Sequence[int]]


def refusal(record: Record, units_micro: int) -> str:
    """Return why no ledger can keep a valid record; empty when it can. Such figures are a fault of who measured."""
    if isinstance(record, EngineSpan):
        figures = [record.wall_ns * record.gpus]
    else:
        figures = [record.gpu_ns] if isinstance(record, ColdStart) else [units_micro]
    if max(map(abs, figures)) > MAX_FIGURE:
        return f"a figure is beyond 2^62 ({max(figures):.1e})"
    texts = [value for value in msgspec.structs.astuple(record) if isinstance(value, str)]
    if any("\0" in text for text in texts):
        return "a text holds a NUL character"
    if sum(len(text.encode()) for text in texts) > MAX_TEXT_BYTES:
        return f"its texts hold more than {MAX_TEXT_BYTES} bytes together"
    return ""


def contested(records: Iterable[Record]) -> set[str]:
    """Return the ids of requests whose other records a plan needs to know."""
    return {record.request_id for record in records if isinstance(record, UsageRecord) and contends(record)}


def plan(
    records: Sequence[Record], units_micro: Sequence[int], *, known: Iterable[str], held: Iterable[Entry],
    closed: str | None, now_s: float,
) -> Plan:  # fmt: skip
    """Return what follows from a batch.

    `known` are ids of records that are in the ledger already, `held` all entries of the requests that `contested`
    named, in the order of `seq`; `closed` is the last closed period.
    """
    seen = set(known)
    entries: list[Entry] = []
    reports: list[EngineReport] = []
    new: list[str] = []
    requests: dict[str, list[tuple[UsageRecord, int]]] = defaultdict(list)
    for record, units in zip(records, units_micro, strict=True):
        record_id = record.id
        if record_id in seen:
            continue
        seen.add(record_id)
        new.append(record_id)
        if isinstance(record, UsageRecord):
            requests[record.request_id].append((record, units))
        elif isinstance(record, Training):
            entries.append(_training(record, units, closed, now_s))
        else:
            reports.append(_report(record, closed, now_s))
    before: dict[str, list[Entry]] = defaultdict(list)
    for entry in held:
        before[entry.request_id].append(entry)
    for request_id, arrived in requests.items():
        entries += _request(arrived, before.get(request_id, []), closed, now_s)
    return _summed(new, len(records) - len(new), entries, reports)


def _request(
    arrived: list[tuple[UsageRecord, int]], held: list[Entry], closed: str | None, now_s: float
) -> Iterable[Entry]:
    """Yield a request's entries: those of new records, and what they change for records before."""
    if len(arrived) == 1 and not held:
        ((record, units),) = arrived
        yield _first(record, units, owner_alone(record), closed, now_s)
        return
    of_record: dict[str, list[Entry]] = defaultdict(list)
    for entry in held:
        of_record[entry.record_id].append(entry)
    found = owners([*(history[0] for history in of_record.values()), *(record for record, _ in arrived)])
    for record_id, history in of_record.items():
        if history[-1].owner != found[record_id]:
            yield from _moved(history, found[record_id], closed, now_s)
    for record, units in arrived:
        yield _first(record, units, found[record.id], closed, now_s)


def _moved(history: list[Entry], owner: Owner, closed: str | None, now_s: float) -> Iterable[Entry]:
    """Yield what takes a record from its owner, and what gives it to another one."""
    first, last = history[0], history[-1]
    period, corrects = last.period, last.corrects
    if closed is not None and period <= closed:
        period, corrects = booked_in(period_of(first.ended_s), closed)
    common = {"booked_s": now_s, "period": period, "corrects": corrects, "record": "", "seq": 0, "peak_kv_bytes": 0}
    figures = {name: getattr(first, name) for name in FIGURES}
    number = len(history) + 1
    negative = {name: -figure for name, figure in figures.items()}
    yield replace(first, id=_entry_id(first.id, number), owner=last.owner, **common, **negative)
    yield replace(first, id=_entry_id(first.id, number + 1), owner=owner, **common, **figures)


def _entry_id(record_id: str, number: int) -> str:
    # No record's id ends so: after its last slash there is a number alone.
    return f"{record_id}~{number}"


def _first(record: UsageRecord, units: int, owner: Owner, closed: str | None, now_s: float) -> Entry:
    ended_s = _plausible(record.ended_s, now_s)
    period, corrects = booked_in(period_of(ended_s), closed)
    charge = record.charge
    record_id = record.id
    return Entry(
        id=record_id, record_id=record_id, booked_s=now_s, period=period, corrects=corrects, kind="request",
        owner=owner, tenant=record.tenant, tier=record.tier, model=record.model, version=record.version,
        adapter=record.adapter or "", hour=hour_of(ended_s), measured=record.measured, ended_s=ended_s,
        request_id=record.request_id, engine=record.engine, attempt=record.attempt, mirror=record.mirror,
        sequence=record.sequence, finish_reason=record.finish_reason,
        requests=int(record.final and record.sequence == 0), prefill_gpu_ns=charge.prefill_gpu_ns,
        decode_gpu_ns=charge.decode_gpu_ns, input_tokens=charge.input_tokens, cached_tokens=charge.cached_tokens,
        output_tokens=charge.output_tokens, kv_byte_ms=charge.kv_byte_ms, compute_units_micro=units,
        peak_kv_bytes=record.peak_kv_bytes or 0, record=_json(record),
    )  # fmt: skip


def _training(record: Training, units: int, closed: str | None, now_s: float) -> Entry:
    ended_s = _plausible(record.ended_s, now_s)
    period, corrects = booked_in(period_of(ended_s), closed)
    return Entry(
        id=record.id, record_id=record.id, booked_s=now_s, period=period, corrects=corrects, kind="training",
        owner="tenant", tenant=record.tenant, tier=record.tier, model=record.model, adapter=record.adapter or "",
        hour=hour_of(ended_s), ended_s=ended_s, prefill_gpu_ns=record.gpu_ns,
        compute_units_micro=units, record=_json(record),
    )  # fmt: skip


def _report(record: EngineSpan | ColdStart, closed: str | None, now_s: float) -> EngineReport:
    ended_s = _plausible(record.ended_s, now_s)
    period, corrects = booked_in(period_of(ended_s), closed)
    cold = isinstance(record, ColdStart)
    return EngineReport(
        id=record.id, booked_s=now_s, period=period, corrects=corrects, kind="cold_start" if cold else "span",
        engine=record.engine, model=record.model, version=record.version, hour=hour_of(ended_s),
        ended_s=ended_s, record=_json(record),
        wall_gpu_ns=record.gpu_ns if isinstance(record, ColdStart) else record.wall_ns * record.gpus,
        busy_gpu_ns=0 if isinstance(record, ColdStart) else record.busy_gpu_ns,
        cold_start_gpu_ns=record.gpu_ns if isinstance(record, ColdStart) else 0,
    )  # fmt: skip


def _plausible(ended_s: float, now_s: float) -> float:
    """Return when a record is booked for: when its work ended, unless no clock that works can have said so.

    A month in 1970 would have to be closed before all others, one in 2100 would not be billed before. The record that
    is kept beside the entry has the time as it came.
    """
    return ended_s if now_s - OLDEST_S <= ended_s <= now_s + AHEAD_S else now_s


def _json(record: Record) -> str:
    return msgspec.json.encode(record).decode()


def _summed(new: list[str], known: int, entries: list[Entry], reports: list[EngineReport]) -> Plan:
    sums: dict[Key, list[int]] = {}
    peaks: dict[Key, int] = {}
    engines: dict[Key, list[int]] = {}
    for entry in entries:
        key = _key(entry, entry.owner)
        _add(sums, key, [getattr(entry, name) for name in FIGURES])
        if entry.peak_kv_bytes:
            # What was held in memory does not depend on who turns out to pay for it.
            key = _key(entry, "tenant" if entry.owner in {"failed", "unfinished"} else entry.owner)
            _add(sums, key, [0] * len(FIGURES))
            peaks[key] = max(peaks.get(key, 0), entry.peak_kv_bytes)
        if entry.kind == "request" and entry.id == entry.record_id:
            _add(engines, _engine_key(entry), [0, 0, 0, 0, entry.gpu_ns, 0])
    for report in reports:
        starts = int(report.kind == "cold_start")
        figures = [report.wall_gpu_ns, report.busy_gpu_ns, report.cold_start_gpu_ns, starts, 0, 1]
        _add(engines, _engine_key(report), figures)
    return Plan(
        new=tuple(new), known=known, entries=tuple(entries), reports=tuple(reports), sums=sums, peaks=peaks,
        engine_sums=engines,
    )  # fmt: skip


def _key(entry: Entry, owner: Owner) -> Key:
    return (
        entry.period, entry.tenant, entry.model, entry.hour, owner, entry.kind, entry.corrects, entry.tier,
        entry.version, entry.adapter, entry.measured,
    )  # fmt: skip


def _engine_key(one: Entry | EngineReport) -> Key:
    return one.period, one.engine, one.model, one.version


def _add(sums: dict[Key, list[int]], key: Key, figures: list[int]) -> None:
    before = sums.get(key)
    sums[key] = figures if before is None else [ours + more for ours, more in zip(before, figures, strict=True)]
