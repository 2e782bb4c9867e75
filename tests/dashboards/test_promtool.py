"""The rules, played by promtool: each alert fires on what it is about, and keeps still on what it is not."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tenantry_testing.promtool import SCENARIOS, Scenarios

ROOT = Path(__file__).resolve().parents[2]
DASHBOARDS, RUNBOOKS = ROOT / "dashboards", ROOT / "docs" / "runbooks"
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((DASHBOARDS / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
NAMES = sorted({rule["alert"] for rule in ALERTS})

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no promtool: `python3 tools/services.py prometheus` says why"
)


def promtool(*arguments: str) -> str:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def page_name(alert: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", alert).lower()


def told(test: dict[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    for case in test.get("alert_rule_test", ()):
        yield case["alertname"], case["exp_alerts"]


TESTS = [test for path in SCENARIOS for test in yaml.safe_load(path.read_text())["tests"]]


@needs_promtool
@pytest.mark.parametrize("name", ["rules.yaml", "alerts.yaml"])
def test_prometheus_reads_the_rules(name: str) -> None:
    assert "SUCCESS" in promtool("check", "rules", "--lint=all", "--lint-fatal", str(DASHBOARDS / name))


@needs_promtool
@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_alerts_fire_and_keep_still(scenarios: Scenarios, path: Path) -> None:
    done = scenarios[path].result()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_an_alert_has_a_scenario_in_which_it_fires(name: str) -> None:
    assert any(expected for test in TESTS for alert, expected in told(test) if alert == name)


@pytest.mark.parametrize("name", NAMES)
def test_an_alert_has_a_scenario_in_which_it_keeps_still(name: str) -> None:
    """Evaluated without firing, or with a healthy series beside the one that fires: what is expected is exact."""
    for test in TESTS:
        metrics = re.findall(r"(\w+)\{", " ".join(series["series"] for series in test["input_series"]))
        for alert, expected in told(test):
            if alert == name and (not expected or max(map(metrics.count, metrics)) > len(expected)):
                return
    pytest.fail(f"{name} is never expected to keep still")


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{page_name(rule['alert'])}.md"


@pytest.mark.parametrize("name", NAMES)
def test_a_runbook_begins_with_a_command_that_shows_the_cause(name: str) -> None:
    page = (RUNBOOKS / f"{page_name(name)}.md").read_text()
    assert page.startswith(f"# {name}\n")
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == ["Look", "What it means", "What to do"]
    assert "\n    " in page[page.index("## Look") : page.index("## What it means")]


def test_no_runbook_is_left_without_its_alert() -> None:
    assert {path.stem for path in RUNBOOKS.glob("*.md")} - {"README"} == set(map(page_name, NAMES))
