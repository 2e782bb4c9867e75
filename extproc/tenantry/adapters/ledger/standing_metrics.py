"""What engines said of themselves last, and the terms that hold now. Gauges, shown when somebody scrapes."""

from msgspec import Struct
from prometheus_client import CollectorRegistry, Gauge

from tenantry.adapters.labels import OTHER, Labels
from tenantry.core.rules import Rules
from tenantry.core.usage import ColdStart, EngineSpan, Record, UsageRecord

SILENT_SECONDS = 180.0
"""An idle engine tells of itself each minute; one that did not for so long is taken for gone."""

MAX_ENGINES = 5_000
MAX_NAMES = 500


class _Engine(Struct, kw_only=True):
    model: str
    version: str
    gpus: int = 0
    memory_bytes: int = 0
    seen_s: float = 0.0


class EngineStanding:
    """Engines by the model and version that they themselves name, whatever the rules have: that is the point of it.

    At most MAX_ENGINES are followed and MAX_NAMES pairs named; a name keeps its label while an engine has it.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._engines, self._gpus, self._memory = (
            Gauge(f"tenantry_{name}", text, ("model", "version"), registry=registry)
            for name, text in (
                ("engines", "Engines that told of themselves within three minutes, as they name model and version"),
                ("engine_gpus", "Their GPUs"),
                ("engine_memory_bytes", "The most that they had allocated while their last requests ran"),
            )
        )
        self._seen: dict[str, _Engine] = {}

    def told(self, record: Record, now_s: float) -> None:
        """Note what a record says of its engine; one that is older than what is known, or than counts, says nothing."""
        if not isinstance(record, UsageRecord | EngineSpan | ColdStart):
            return
        if isinstance(record, UsageRecord) and record.measured != "engine":
            return
        ended_s = min(record.ended_s, now_s)  # a clock that is ahead must not keep an engine that is gone
        if now_s - ended_s > SILENT_SECONDS:
            return
        engine = self._seen.get(record.engine)
        if engine is None:
            if len(self._seen) >= MAX_ENGINES:
                return
            engine = self._seen[record.engine] = _Engine(model=record.model, version=record.version)
        if ended_s < engine.seen_s:
            return
        engine.seen_s, engine.model, engine.version = ended_s, record.model, record.version
        if isinstance(record, UsageRecord):
            engine.memory_bytes = record.engine_peak_memory_bytes or engine.memory_bytes
        else:
            engine.gpus = record.gpus

    def show(self, now_s: float) -> None:
        """Set the gauges, and forget engines that are silent."""
        self._seen = {name: each for name, each in self._seen.items() if now_s - each.seen_s <= SILENT_SECONDS}
        for gauge in (self._engines, self._gpus, self._memory):
            gauge.clear()
        named: set[tuple[str, str]] = set()
        for engine in self._seen.values():
            labels = (engine.model, engine.version)
            if len(named) >= MAX_NAMES and labels not in named:
                labels = (OTHER, OTHER)
            named.add(labels)
            self._engines.labels(*labels).inc()
            self._gpus.labels(*labels).inc(engine.gpus)
            self._memory.labels(*labels).inc(engine.memory_bytes)


class TermsMetrics:
    """Prices and costs of the live document: what dashboards multiply use by. Bills are the ledger's own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._unit, self._hour = (
            Gauge(f"tenantry_price_per_{name}", text, ("tier", "currency"), registry=registry)
            for name, text in (
                ("compute_unit", "What a tier pays for a compute unit"), ("gpu_hour", "What a tier pays for a GPU-hour")
            )
        )  # fmt: skip
        self._cost = Gauge(
            "tenantry_operator_cost_per_gpu_hour",
            "What a GPU-hour costs the operator",
            ("currency",),
            registry=registry,
        )

    def rules_live(self, rules: Rules, tiers: Labels) -> None:
        """Show the terms of a document, and of no other; tiers that share a label have no price in common."""
        currency = rules.billing.currency
        for gauge in (self._unit, self._hour, self._cost):
            gauge.clear()
        for name, tier in rules.tiers.items():
            if tiers[name] == OTHER:
                continue
            self._unit.labels(tiers[name], currency).set(float(tier.price.compute_unit))
            self._hour.labels(tiers[name], currency).set(float(tier.price.gpu_hour))
        self._cost.labels(currency).set(float(rules.billing.operator_gpu_hour))
