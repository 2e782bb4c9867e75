"""What tiers were promised, and whether it was kept.

Both counters of a pair are there from the first request of its kind on: a share can be computed before anything failed.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge

from tenantry.adapters.labels import OTHER, Children, Labels
from tenantry.core.rules import Rules


class SlaMetrics:
    """The objectives, by tier."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._objective = Gauge(
            "tenantry_sla_objective", "Share of a tier's requests that must be good: availability, ttft",
            ("tier", "sli"), registry=registry,
        )  # fmt: skip

    def rules_live(self, rules: Rules, tiers: Labels) -> None:
        """Show the objectives of a document, and of no other; tiers that share a label have none in common."""
        self._objective.clear()
        for name, tier in rules.tiers.items():
            if tiers[name] == OTHER:
                continue
            if tier.sla.availability is not None:
                self._objective.labels(tiers[name], "availability").set(tier.sla.availability)
            if tier.sla.ttft_seconds is not None:
                self._objective.labels(tiers[name], "ttft").set(tier.sla.ttft_share)


class _Pairs:
    """Two counters for each tier and model, one for what was good and one for what was not."""

    def __init__(self, counter: Counter, good: str, bad: str) -> None:
        self._children, self._results = Children(counter), (good, bad)

    def count(self, tier: str, model: str, *, bad: bool) -> None:
        """Count one; labels are bounded already."""
        good, wrong = (self._children[tier, model, result] for result in self._results)
        (wrong if bad else good).inc()


class Requests:
    """Requests that were answered or not: whatever the client did wrong, or left, is no failure of ours."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._pairs = _Pairs(
            Counter(
                "tenantry_sla_requests", "Requests that were served, or failed (5xx, cut)", ("tier", "model", "result"),
                registry=registry,
            ), "served", "failed",
        )  # fmt: skip

    def ended(self, tier: str, model: str, *, failed: bool) -> None:
        """Count an exchange that ended."""
        self._pairs.count(tier, model, bad=failed)


class FirstTokens:
    """First tokens that came within the tier's time or not."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._pairs = _Pairs(
            Counter(
                "tenantry_sla_first_tokens", "First tokens in time, or late by the tier's ttftSeconds",
                ("tier", "model", "result"), registry=registry,
            ), "in_time", "late",
        )  # fmt: skip

    def came(self, tier: str, model: str, *, late: bool) -> None:
        """Count a first token."""
        self._pairs.count(tier, model, bad=late)
