"""What the ledger's service counts for Prometheus. Labels are bounded; the ledger itself is exact.

A record counts once, when it is new to the ledger. `owner` is what the record by itself says: who pays may change while
other attempts of the request still come, and a counter cannot take back. Bills are read from the ledger.

Exemplars name the request. They are written in the OpenMetrics format alone, which a scraper asks for by `Accept`.
"""

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder

from tenantry.adapters.metrics import MAX_VERSIONS, OTHER, BoundedLabels
from tenantry.core.billing.ownership import owner_alone
from tenantry.core.billing.tallies import EngineTally
from tenantry.core.rulebook import RuleBook
from tenantry.core.usage import ColdStart, EngineSpan, Record, Training, UsageRecord

MAX_TIERS = 100
MAX_EXEMPLAR = 128
"""Characters of an exemplar's labels and values together (OpenMetrics)."""

_DELAY_SECONDS = (0.5, 1, 2, 5, 10, 30, 60, 300, 3_600, 86_400)
_COLD_SECONDS = (0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1_800)
_MEMORY_BYTES = tuple(float(4**power * 2**20) for power in range(10))  # 1 MiB to 256 GiB
_SECOND_NS = 1e9
_PHASES = ("download", "load", "warm_up", "capture", "other")


class LedgerMetrics:
    """Counters over what is booked, and gauges over what the ledger sums. Names carry their unit."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._tenants = BoundedLabels(0)
        self._versions = BoundedLabels(MAX_VERSIONS)
        self._models = BoundedLabels(MAX_VERSIONS)
        self._tiers = BoundedLabels(MAX_TIERS)
        self._gpu = self._counter(
            "gpu_seconds", "GPU time of requests and training", ("tenant", "model", "version", "phase", "owner")
        )
        self._units = self._counter("compute_units", "Compute units", ("tenant", "model", "tier"))
        self._tokens = self._counter("tokens", "Tokens by kind: input, cached, output", ("tenant", "model", "kind"))
        self._memory = self._histogram(
            "request_peak_memory_bytes", "Most KV-cache memory that a request held", ("model", "version"), _MEMORY_BYTES
        )
        self._cold = self._histogram(
            "cold_start_seconds", "Phases of engines' starts", ("model", "version", "phase"), _COLD_SECONDS
        )
        of_version = ("model", "version")
        self._busy = self._counter("engine_busy_gpu_seconds", "GPU time of engines' steps", of_version)
        self._idle = self._counter("engine_idle_gpu_seconds", "GPU time in which nothing ran", of_version)
        self._records = self._counter(
            "ledger_records", "Records by kind, and new, known or refused", ("kind", "result")
        )
        self._delay = self._histogram(
            "ledger_delay_seconds", "From the end of what a record tells of until it was booked", (), _DELAY_SECONDS
        )
        self._away = self._counter("ledger_unavailable", "Answers 503: the database is away, or too much waits", ())
        self._unaccounted = self._gauge(
            "ledger_unaccounted_gpu_seconds", "Busy time of this period that no record accounts for", of_version
        )
        self._newest = self._gauge(
            "ledger_newest_record_timestamp_seconds", "Unix time of the newest booked record", ()
        )
        self._rules_ok = self._gauge("rules_last_reload_ok", "1 when the newest document is live", ())
        self._newest_s = 0.0

    def rules_live(self, book: RuleBook | None) -> None:
        """Note the rules that went live, and admit their names as labels; None: they were refused."""
        self._rules_ok.set(int(book is not None))
        if book is None:
            return
        rules = book.rules
        self._tenants.limit = max(self._tenants.limit, rules.metrics.max_tenants)
        self._tenants.admit(rules.tenants)
        self._versions.admit(f"{name}@{version}" for name, model in rules.models.items() for version in model.versions)
        self._models.admit(rules.models)
        self._tiers.admit(rules.tiers)

    def booked(self, records: Sequence[Record], units_micro: Sequence[int], new: Iterable[str], now_s: float) -> None:
        """Count a batch; of its records those that are new, and once each."""
        left = set(new)
        for record, units in zip(records, units_micro, strict=True):
            kind, record_id = _kind(record), record.id
            if record_id not in left:
                self._records.labels(kind, "known").inc()
                continue
            left.remove(record_id)
            self._records.labels(kind, "new").inc()
            self._delay.observe(max(0.0, now_s - record.ended_s))
            self._newest_s = max(self._newest_s, min(record.ended_s, now_s))
            if isinstance(record, UsageRecord):
                self._request(record, units)
            elif isinstance(record, Training):
                tenant, model = self._tenants[record.tenant], self._models[record.model]
                self._gpu.labels(tenant, model, "", "training", "tenant").inc(record.gpu_ns / _SECOND_NS)
            elif isinstance(record, ColdStart):
                self._cold_start(record)
            else:
                self._span(record)
        self._newest.set(self._newest_s)

    def refused(self, count: int = 1) -> None:
        """Count records that were not understood."""
        self._records.labels("unknown", "refused").inc(count)

    def unavailable(self) -> None:
        """Count an answer that bids the sender keep its records."""
        self._away.inc()

    def engines(self, tallies: Iterable[EngineTally]) -> None:
        """Show what the ledger has of this period."""
        self._unaccounted.clear()
        sums: dict[tuple[str, str], int] = {}
        for tally in tallies:
            labels = self._version(tally.model, tally.version)
            sums[labels] = sums.get(labels, 0) + tally.busy_gpu_ns - tally.attributed_gpu_ns
        for labels, unaccounted_ns in sums.items():
            self._unaccounted.labels(*labels).set(unaccounted_ns / _SECOND_NS)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return the text for a scraper that accepts this, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def _request(self, record: UsageRecord, units: int) -> None:
        tenant = self._tenants[record.tenant] if record.tenant else "none"
        model, version = self._version(record.model, record.version)
        charge, owner, exemplar = record.charge, owner_alone(record), _exemplar(record.request_id)
        for phase, gpu_ns in (("prefill", charge.prefill_gpu_ns), ("decode", charge.decode_gpu_ns)):
            if gpu_ns:
                self._gpu.labels(tenant, model, version, phase, owner).inc(gpu_ns / _SECOND_NS, exemplar)
        if units:
            self._units.labels(tenant, model, self._tiers[record.tier]).inc(units / 1e6, exemplar)
        for kind, count in (
            ("input", charge.input_tokens), ("cached", charge.cached_tokens), ("output", charge.output_tokens)
        ):  # fmt: skip
            if count:
                self._tokens.labels(tenant, model, kind).inc(count, exemplar)
        if record.final and record.peak_kv_bytes is not None:
            self._memory.labels(model, version).observe(record.peak_kv_bytes, exemplar)

    def _cold_start(self, record: ColdStart) -> None:
        labels = self._version(record.model, record.version)
        for phase in _PHASES:
            self._cold.labels(*labels, phase).observe(getattr(record, f"{phase}_ns") / _SECOND_NS)

    def _span(self, record: EngineSpan) -> None:
        labels = self._version(record.model, record.version)
        self._busy.labels(*labels).inc(record.busy_gpu_ns / _SECOND_NS)
        self._idle.labels(*labels).inc(max(0, record.idle_gpu_ns) / _SECOND_NS)

    def _version(self, model: str, version: str) -> tuple[str, str]:
        if self._versions[f"{model}@{version}"] != OTHER:
            return model, version
        return self._models[model], OTHER

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"tenantry_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...]) -> Gauge:
        return Gauge(f"tenantry_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"tenantry_{name}", text, labels, buckets=buckets, registry=self.registry)


def _exemplar(request_id: str) -> dict[str, str] | None:
    if not request_id or len("request_id") + len(request_id) > MAX_EXEMPLAR:
        return None
    return {"request_id": request_id}


def _kind(record: Record) -> str:
    return str(record.__struct_config__.tag)
