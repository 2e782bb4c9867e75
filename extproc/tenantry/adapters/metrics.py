"""The one place that talks to Prometheus. Every label set has a bound.

A tenant gets a label of its own while there is room (`metrics.maxTenants`, in the document's
order); all others count together as `other`. A name that was admitted keeps its label for the life
of the process, so counters never jump; the bound holds over any number of reloads.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder

from tenantry.adapters.labels import MAX_TIERS, MAX_VERSIONS, OTHER, BoundedLabels, Children, exemplar, status
from tenantry.adapters.quotas.metrics import QuotaMetrics
from tenantry.adapters.rollout_metrics import RolloutMetrics
from tenantry.adapters.sla_metrics import Requests, SlaMetrics
from tenantry.adapters.store_metrics import StoreMetrics
from tenantry.adapters.store_requests import StoreRequests
from tenantry.adapters.usage_metrics import UsageMetrics
from tenantry.adapters.wanted_metrics import LabelMetrics, WantedMetrics
from tenantry.core.outcome import Outcome
from tenantry.core.rulebook import RuleBook
from tenantry.core.session import Session, State

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_DECISION_SECONDS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)


class Metrics:
    """What the sidecar counts. Names begin with `tenantry_` and carry their unit."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._tenants = BoundedLabels(0)
        self._versions = BoundedLabels(MAX_VERSIONS)
        of_tenant = ("tenant", "model", "version")
        self._requests = Children(self._counter("requests", "Exchanges by final status", (*of_tenant, "code", "ended")))
        self._attempts = Children(self._counter("upstream_attempts", "Upstream attempts", of_tenant))
        self._ttfb = Children(
            self._histogram(
                "time_to_first_byte_seconds", "To the first upstream byte (not the first token)", of_tenant[1:]
            )
        )
        self._duration = Children(self._histogram("request_duration_seconds", "To the last byte", of_tenant[1:]))
        self._refusals = self._counter("refusals", "Requests answered here instead of forwarded", ("tenant", "code"))
        self._unattributed = self._counter("access_log_unattributed", "Log entries the sidecar never decided", ())
        of_state = ("tenant", "state")
        self._messages = Children(self._counter("ext_proc_messages", "ext_proc messages of ended exchanges", of_state))
        self._exchanges = Children(self._counter("ext_proc_exchanges", "Ended exchanges by their last state", of_state))
        self._open = Gauge("tenantry_ext_proc_open_exchanges", "Exchanges open now", registry=self.registry)
        self._decision = Histogram(
            "tenantry_decision_seconds", "Own time per exchange", buckets=_DECISION_SECONDS, registry=self.registry
        )
        self._errors = self._counter("internal_errors", "Events that ended a stream with an error", ("kind",))
        for kind in (
            "conversation",
            "bug",
            "access_log",
        ):  # an alert sees the first one only if there was a 0 before it
            self._errors.labels(kind)
        self._reloads = self._counter("rules_reloads", "Reloads by result", ("result",))
        self._rules_ok = Gauge(
            "tenantry_rules_last_reload_ok", "1 when the newest document is live", registry=self.registry
        )
        self._generation = Gauge("tenantry_rules_generation", "Documents made live so far", registry=self.registry)
        self._models = BoundedLabels(MAX_VERSIONS)
        self._tiers = BoundedLabels(MAX_TIERS)
        self._sla = SlaMetrics(self.registry)
        self._served = Requests(self.registry)
        self._wanted = WantedMetrics(self.registry)
        self._labels = LabelMetrics(self.registry)
        self.stores = StoreRequests(self.registry)
        self.store_gate = StoreMetrics(self.registry)
        self.quotas = QuotaMetrics(self.registry, self._tenants)
        self.usage = UsageMetrics(self.registry)
        self.rollouts = RolloutMetrics(self.registry, self._tenants, self._models)

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"tenantry_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, labels: tuple[str, ...]) -> Histogram:
        return Histogram(f"tenantry_{name}", text, labels, buckets=_SECONDS, registry=self.registry)

    def rules_live(self, book: RuleBook, generation: int) -> None:
        """Note that a document went live, and admit its names as labels."""
        self._tenants.limit = max(self._tenants.limit, book.rules.metrics.max_tenants)
        self._tenants.admit(book.rules.tenants)
        self._versions.admit(
            f"{model}@{version}" for model, rules in book.rules.models.items() for version in rules.versions
        )
        self._models.admit(book.rules.models)
        self._tiers.admit(book.rules.tiers)
        self._sla.rules_live(book.rules, self._tiers)
        self._wanted.rules_live(book.rules, self._versions, self._models)
        self._labels.rules_live(
            book.rules, tenant=self._tenants.limit, model=MAX_VERSIONS, version=MAX_VERSIONS, tier=MAX_TIERS
        )
        self._reloads.labels("live").inc()
        self._rules_ok.set(1)
        self._generation.set(generation)

    def rules_refused(self) -> None:
        """Note that the newest document was refused and the last good one stays."""
        self._reloads.labels("refused").inc()
        self._rules_ok.set(0)

    def exchange_opened(self) -> None:
        """Note a new ext_proc stream."""
        self._open.inc()

    def exchange_closed(self, session: Session, own_seconds: float) -> None:
        """Note the end of an exchange's ext_proc stream; `own_seconds` is the time spent deciding."""
        tenant = self._tenant(session)
        self._open.dec()
        self._decision.observe(own_seconds)
        labels = (tenant, session.state.value)
        self._messages[labels].inc(session.events)
        self._exchanges[labels].inc()
        self.stores.closed(session, tenant)
        if session.state is State.ANSWERED and session.refusal is not None:
            self._refusals.labels(tenant, session.refusal.code).inc()

    def stream_failed(self, kind: str) -> None:
        """Note a stream that was ended with an error status."""
        self._errors.labels(kind).inc()

    def access_log_entry(self, outcome: Outcome | None) -> None:
        """Note one entry of the access log."""
        if outcome is None:
            self._unattributed.inc()
            return
        if outcome.store:
            self.stores.ended(outcome)
            return
        tenant = self._tenants[outcome.tenant]
        known = self._versions[f"{outcome.model}@{outcome.version}"] != OTHER
        served = (outcome.model, outcome.version) if known else (OTHER, OTHER)
        self._requests[tenant, *served, status(outcome.code), outcome.ended].inc()
        self._attempts[tenant, *served].inc(outcome.attempts)
        named = exemplar(outcome.request_id)
        self._duration[served].observe(outcome.duration_ms / 1e3, named)
        if outcome.ttfb_ms is not None:
            self._ttfb[served].observe(outcome.ttfb_ms / 1e3, named)
        failed = outcome.ended == "failed" or outcome.code >= 500
        self._served.ended(self._tiers[outcome.tier], self._models[outcome.model], failed=failed)

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """Return the text for a scraper that accepts this, and its content type.

        Exemplars, which name the request, are written in the OpenMetrics format alone.
        """
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def _tenant(self, session: Session) -> str:
        return "none" if session.tenant is None else self._tenants[session.tenant.profile.name]
