"""Which series there are, and with which labels: read from what exposes them, not from a list that may age.

Of Envoy, whose code is not here, those that dashboards use are listed as Envoy 1.38 shows them; `make dashboards-check`
asks a real one.
"""

import re
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct
from prometheus_client import CollectorRegistry
from tenantry.adapters.ledger.export.metrics import ExportMetrics
from tenantry.adapters.ledger.metrics import LedgerMetrics
from tenantry.adapters.metrics import Metrics
from tenantry_vllm.metrics import EngineCollector

RULES = Path(__file__).resolve().parents[2] / "dashboards" / "rules.yaml"
OF_THE_SCRAPE = frozenset({"job", "instance", "cluster"})

_ENVOY = {
    **dict.fromkeys(
        (
            *(f"envoy_http_ext_proc_streams_{name}" for name in ("started", "failed")),
            *("envoy_http_ext_proc_message_timeouts", "envoy_http_ext_proc_failure_mode_allowed"),
            *("envoy_http_ext_proc_spurious_msgs_received", "envoy_http_ext_proc_rejected_header_mutations"),
            "envoy_http_rbac_denied",
        ),
        ("counter", frozenset({"envoy_http_conn_manager_prefix"})),
    ),
    "envoy_server_live": ("gauge", frozenset[str]()),
}
_PROMETHEUS = {
    "up": ("gauge", frozenset[str]()),
    "scrape_samples_post_metric_relabeling": ("gauge", frozenset[str]()),
    "ALERTS": ("gauge", frozenset({"alertname", "alertstate", "severity"})),
}


class Series(Struct, frozen=True, kw_only=True):
    """A name that can be selected. What a recording rule wrote has of a scrape's labels `cluster` alone."""

    kind: str
    labels: frozenset[str]
    recorded: bool = False


def catalogue() -> dict[str, Series]:
    """Return all series by name."""
    exports = CollectorRegistry()
    ExportMetrics(exports)
    scraped: dict[str, tuple[str, frozenset[str]]] = {**_ENVOY, **_PROMETHEUS}
    for registry in (Metrics().registry, LedgerMetrics().registry, exports):
        for collector in registry._collector_to_names:
            _add(scraped, _known(collector))
    for family in EngineCollector(list).describe():
        scraped_name = family.name + ("_total" if family.type == "counter" else "")
        labels: Any = family
        _add(scraped, {scraped_name: (family.type, frozenset(labels._labelnames))})
    found = {
        name: Series(kind=kind, labels=labels | OF_THE_SCRAPE, recorded=False)
        for name, (kind, labels) in scraped.items()
    }
    return found | _recorded()


def _known(collector: Any) -> dict[str, tuple[str, frozenset[str]]]:
    name, labels = collector._name, frozenset(collector._labelnames)
    if collector._type == "histogram":
        parts = {f"{name}_{part}": ("counter", labels) for part in ("sum", "count")}
        return parts | {f"{name}_bucket": ("counter", labels | {"le"})}
    return {f"{name}_total" if collector._type == "counter" else name: (collector._type, labels)}


def _add(scraped: dict[str, tuple[str, frozenset[str]]], more: dict[str, tuple[str, frozenset[str]]]) -> None:
    """Sidecar and ledger both have some names; a label that only one of them has is there."""
    for name, (kind, labels) in more.items():
        scraped[name] = (kind, labels | scraped.get(name, (kind, frozenset()))[1])


def _recorded() -> dict[str, Series]:
    """Read the labels of a recording rule: of its first `by`, and what `group_left` adds."""
    found = {}
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            by = re.search(r"by \(([^)]*)\)", rule["expr"])
            assert by is not None, rule["record"]
            added = re.findall(r"group_left \((\w+)\)", rule["expr"])
            labels = frozenset(label.strip() for label in by[1].split(",")) - {"le"} | set(added)
            found[rule["record"]] = Series(kind="gauge", labels=labels, recorded=True)
    return found
