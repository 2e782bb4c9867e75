"""What the ledger's service counts for Prometheus. Labels are bounded; the ledger itself is exact.

A record counts once, when it is new to the ledger. `owner` is what the record by itself says: who pays may change while
other attempts of the request still come, and a counter cannot take back. Bills are read from the ledger.

Exemplars name the request. They are written in the OpenMetrics format alone, which a scraper asks for by `Accept`.
"""

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder

from tenantry.adapters.labels import MAX_TIERS, MAX_VERSIONS, OTHER, BoundedLabels
from tenantry.adapters.ledger.request_metrics import RequestMetrics
from tenantry.adapters.ledger.standing_metrics import EngineStanding, TermsMetrics
from tenantry.adapters.sla_metrics import SlaMetrics
from tenantry.adapters.wanted_metrics import LabelMetrics
from tenantry.core.billing.tallies import EngineTally
from tenantry.core.rulebook import RuleBook
from tenantry.core.usage import ColdStart, EngineSpan, Record, Training, UsageRecord

_DELAY_SECONDS = (0.5, 1, 2, 5, 10, 30, 60, 300, 3_600, 86_400)
_COLD_SECONDS = (0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1_800)
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
        self._requests = RequestMetrics(self.registry)
        self.standing = EngineStanding(self.registry)
        self._terms = TermsMetrics(self.registry)
        self._sla = SlaMetrics(self.registry)
        self._labels = LabelMetrics(self.registry)
        self._ttft_seconds: dict[str, float | None] = {}
        self._tier_of: dict[str, str] = {}
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
        self._terms.rules_live(rules, self._tiers)
        self._sla.rules_live(rules, self._tiers)
        self._labels.rules_live(
            rules, tenant=self._tenants.limit, model=MAX_VERSIONS, version=MAX_VERSIONS, tier=MAX_TIERS
        )
        self._ttft_seconds = {name: tier.sla.ttft_seconds for name, tier in rules.tiers.items()}
        self._tier_of = {name: tenant.tier or rules.default_tier or "" for name, tenant in rules.tenants.items()}

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
            self.standing.told(record, now_s)
            self._delay.observe(max(0.0, now_s - record.ended_s))
            self._newest_s = max(self._newest_s, min(record.ended_s, now_s))
            if isinstance(record, UsageRecord):
                self._request(record, units)
            elif isinstance(record, Training):
                tier = self._tiers[record.tier or self._tier_of.get(record.tenant, "")]
                self._requests.training(record, self._tenants[record.tenant], tier, self._models[record.model])
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
        self._requests.request(
            record, units, tenant=tenant, tier=self._tiers[record.tier], model=model, version=version,
            ttft_seconds=self._ttft_seconds.get(record.tier),
        )  # fmt: skip

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


def _kind(record: Record) -> str:
    return str(record.__struct_config__.tag)
