"""The alerts are about metrics that there are, with labels that they have."""

import re
from pathlib import Path

import pytest
import yaml
from tenantry.adapters.metrics import Metrics

ALERTS = Path(__file__).resolve().parents[2] / "dashboards" / "alerts.yaml"
RULES = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_is_about_a_metric_with_these_labels(rule: dict[str, str]) -> None:
    collectors = {collector._name: collector for collector in Metrics().registry._collector_to_names}  # type: ignore[attr-defined]
    (name,) = re.findall(r"tenantry_\w+", rule["expr"])
    collector = collectors[name.removesuffix("_total")]
    wanted = re.search(r"by \(([^)]*)\)", rule["expr"])
    assert wanted is not None
    assert set(wanted[1].split(", ")) <= set(collector._labelnames)  # type: ignore[attr-defined]
    assert rule["annotations"].keys() == {"summary", "description"}  # type: ignore[attr-defined]
