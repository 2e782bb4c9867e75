"""What is counted of quotas; `tenantry_quota_` stands before each name."""

from collections.abc import Iterable
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge

from tenantry.core.quota.account import MILLI
from tenantry.core.quota.answer import Window


class Labels(Protocol):
    """Names that may be label values; others count as `other`."""

    def __getitem__(self, name: str) -> str:
        """Return the label of a name."""


class QuotaMetrics:
    """Counters are told what happens; gauges are set when somebody scrapes."""

    def __init__(self, registry: CollectorRegistry, tenants: Labels) -> None:
        self._registry, self._tenants = registry, tenants
        self._refusals = self._counter("refusals", "Requests refused by a quota, by its window", ("tenant", "window"))
        self._settlements = self._counter("settlements", "Reservations by what settled them", ("result",))
        self._unshared = self._counter(
            "unshared_admissions", "Requests decided by this process alone, as the store was lost", ("granted",)
        )
        for granted in ("yes", "no"):
            self._unshared.labels(granted)
        self._dropped = self._counter("settlements_dropped", "Settlements lost because too many waited", ())
        self._reserved = self._gauge(
            "reserved_compute_units", "Reserved by this process for requests under way", ("tenant",)
        )
        self._ratio = self._gauge("used_ratio", "Share of the period's quota that is spent, as last heard", ("tenant",))
        self._store = self._gauge("store_up", "1 while the store of quotas answers", ())
        self._store.set(1)

    def refused(self, tenant: str, window: Window) -> None:
        """Count a refusal."""
        self._refusals.labels(self._tenants[tenant], window).inc()

    def settled(self, result: str) -> None:
        """Count a reservation that came to its end."""
        self._settlements.labels(result).inc()

    def unshared(self, *, granted: bool) -> None:
        """Count a decision without the shared store."""
        self._unshared.labels("yes" if granted else "no").inc()

    def dropped(self) -> None:
        """Count a settlement that was lost."""
        self._dropped.inc()

    def store(self, *, up: bool) -> None:
        """Note whether the store answers."""
        self._store.set(up)

    def show(self, held: dict[str, int], ratios: Iterable[tuple[str, float]]) -> None:
        """Set the gauges: milliunits that are reserved, and how much of their periods' quotas tenants have spent.

        Tenants without a label of their own show the highest of their ratios.
        """
        self._reserved.clear()
        self._ratio.clear()
        for tenant, milliunits in held.items():
            self._reserved.labels(self._tenants[tenant]).inc(milliunits / MILLI)
        highest: dict[str, float] = {}
        for tenant, ratio in ratios:
            label = self._tenants[tenant]
            highest[label] = max(ratio, highest.get(label, 0.0))
        for label, ratio in highest.items():
            self._ratio.labels(label).set(ratio)

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"tenantry_quota_{name}", text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...]) -> Gauge:
        return Gauge(f"tenantry_quota_{name}", text, labels, registry=self._registry)
