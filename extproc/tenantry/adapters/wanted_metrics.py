"""What the rules want to run, beside what runs; and how near label sets are to their bounds."""

from collections import Counter as Tally
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Gauge

from tenantry.adapters.labels import OTHER, Labels
from tenantry.core.rules import Model, Rules


class WantedMetrics:
    """Gauges over a document's versions, set anew with each."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._wanted = Gauge(
            "tenantry_version_wanted", "1 for what a version is to the rules: stable, candidate, pinned, unused",
            ("model", "version", "role"), registry=registry,
        )  # fmt: skip
        self._pinned = Gauge(
            "tenantry_version_pinned_tenants", "Tenants that are pinned to a version", ("model", "version"),
            registry=registry,
        )  # fmt: skip

    def rules_live(self, rules: Rules, versions: Labels, models: Labels) -> None:
        """Show a document, and no other."""
        self._wanted.clear()
        self._pinned.clear()
        pins = Tally(pin for tenant in rules.tenants.values() for pin in tenant.pins.items())
        for name, model in rules.models.items():
            for version in model.versions:
                known = versions[f"{name}@{version}"] != OTHER
                labels = (name, version) if known else (models[name], OTHER)
                pinned = pins[name, version]
                self._pinned.labels(*labels).inc(pinned)
                for role in _roles(model, version, pinned):
                    self._wanted.labels(*labels, role).set(1)


def _roles(model: Model, version: str, pinned: int) -> Iterator[str]:
    roles = {
        "stable": version == model.stable,
        "candidate": model.rollout is not None and version == model.rollout.candidate,
        "pinned": pinned > 0,
    }
    yield from (role for role, has in roles.items() if has)
    if not any(roles.values()):
        yield "unused"


class LabelMetrics:
    """How many names want to be label values, and how many may. What is beyond the bound counts as `other`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._values, self._limit = (
            Gauge(f"tenantry_metric_label_{name}", text, ("label",), registry=registry)
            for name, text in (
                ("values", "Names in the rules that want to be values of a label"),
                ("limit", "How many of them get a series of their own; the others count as other"),
            )
        )

    def rules_live(self, rules: Rules, **limits: int) -> None:
        """Show a document's names; `limits` by label."""
        names = {
            "tenant": len(rules.tenants), "model": len(rules.models), "tier": len(rules.tiers),
            "version": sum(len(model.versions) for model in rules.models.values()),
        }  # fmt: skip
        for label, limit in limits.items():
            self._values.labels(label).set(names[label])
            self._limit.labels(label).set(limit)
