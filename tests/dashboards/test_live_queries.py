"""Every query of every panel, every recording rule and every alert, asked of a Prometheus that watched a real run."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from tenantry_testing import grafana
from tenantry_testing.grafana import PanelQuery, Shown
from tenantry_testing.promql import selectors, uncompared
from tenantry_testing.scraped_demo import ROOT, RULES, Scraped

DASHBOARDS = grafana.dashboards(ROOT / "dashboards" / "generated")
QUERIES = [query for dashboard in DASHBOARDS for query in grafana.queries(dashboard)]

MAY_BE_EMPTY: dict[str, str] = {
    "tenantry-rollout / annotation / Steps": "no rollout of the demo has steps, and the run is no longer than a minute",
}
"""Queries by name that rightly have no data in this run, each with the reason. What they compare must be there."""

MAY_LACK: dict[str, str] = {
    'tenantry_version_wanted{role="unused"}': "each version of the demo's rules is stable, a candidate or pinned",
    "tenantry_export_parked": "the demo sends its usage nowhere but to its own ledger",
    "tenantry_export_oldest_pending_seconds": "as tenantry_export_parked",
}
"""Series of alerts that this run rightly lacks, each with the reason. Each alert is provoked elsewhere."""


def rules_of(name: str, kind: str) -> list[Any]:
    path = Path(ROOT / "dashboards" / name)
    groups = yaml.safe_load(path.read_text())["groups"] if path.exists() else []
    found = [rule for group in groups for rule in group["rules"] if kind in rule]
    return [pytest.param(rule, id=f"{rule[kind]}-{place}") for place, rule in enumerate(found)]


@pytest.fixture(scope="session")
def put_in(scraped: Scraped) -> dict[str, dict[str, str]]:
    """The variables of each dashboard, as for somebody who opens it."""
    own = Shown(begin_s=scraped.begin_s, end_s=scraped.end_s).variables()
    chosen = {}
    for dashboard in DASHBOARDS:
        found = grafana.variables(dashboard, scraped.prometheus.label_values)
        chosen[dashboard["uid"]] = own | {name: value for name, (value, _) in found.items()}
    return chosen


@pytest.fixture(scope="session")
def empty(figure: dict[str, Any]) -> list[str]:
    """Queries that have no data, for whoever reads the figures."""
    figure["dashboards"] = len(DASHBOARDS)
    figure["panels"] = sum(len(list(grafana.panels(dashboard))) for dashboard in DASHBOARDS)
    figure["queries"] = len(QUERIES)
    figure["may_be_empty"] = len(MAY_BE_EMPTY)
    names: list[str] = figure.setdefault("empty", [])
    return names


def has_data(series: list[dict[str, Any]]) -> bool:
    """Whether there is a number: Grafana shows none for NaN."""
    samples = [value for one in series for _, value in one.get("values") or [one["value"]]]
    return any(not math.isnan(float(value)) for value in samples)


def data_of(scraped: Scraped, expr: str, *, instant: bool = False) -> bool:
    """Ask as a panel does: at the end alone, or over the whole time."""
    server = scraped.prometheus
    if instant:
        return has_data(server.instant(expr, scraped.end_s))
    return has_data(server.over(expr, scraped.begin_s, scraped.end_s))


def skip_without_retrieval(scraped: Scraped, expr: str) -> None:
    if scraped.no_retrieval and any(name.startswith("tenantry_store_") for name in selectors(expr)):
        pytest.skip(f"no retrieval: {scraped.no_retrieval}")


def test_there_is_something_to_check() -> None:
    """An empty list of queries would pass in silence."""
    assert {dashboard["uid"] for dashboard in DASHBOARDS} >= {"tenantry-overview", "tenantry-tenant"}
    assert len(RULES) == 2


def test_everything_is_scraped(scraped: Scraped) -> None:
    for job, count in {"sidecar": 1, "ledger": 1, "engine": 7, "envoy": 1}.items():
        (up,) = scraped.prometheus.instant(f'sum(up{{job="tenantry-{job}", cluster="demo"}})', scraped.end_s)
        assert float(up["value"][1]) == count, job
    # Sidecar, ledger and all clients share one process here: on a busy machine a scrape may take over its second.
    whole = f"{round(scraped.end_s - scraped.begin_s) - 2}s"
    assert scraped.prometheus.instant(f"avg_over_time(up[{whole}]) < 0.7", scraped.end_s) == []


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard["uid"])
def test_every_variable_has_something_to_choose(scraped: Scraped, dashboard: dict[str, Any]) -> None:
    found = grafana.variables(dashboard, scraped.prometheus.label_values)
    assert [name for name, (_, values) in found.items() if not values] == []


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.name)
def test_a_query_returns_data(
    scraped: Scraped, put_in: dict[str, dict[str, str]], empty: list[str], query: PanelQuery
) -> None:
    expr = grafana.interpolated(query.expr, put_in[query.dashboard])
    found = data_of(scraped, expr, instant=query.instant)
    if query.name in MAY_BE_EMPTY:
        assert not found, "it has data now: take it from MAY_BE_EMPTY"
        assert data_of(scraped, uncompared(expr)), f"its parts have no data either: {uncompared(expr)}"
        return
    if not found:
        skip_without_retrieval(scraped, expr)
        empty.append(query.name)
    assert found, f"no data: {expr}"


def test_a_query_with_exemplars_has_some(
    scraped: Scraped, put_in: dict[str, dict[str, str]], figure: dict[str, Any]
) -> None:
    found = 0
    for query in QUERIES:
        if query.exemplar:
            expr = grafana.interpolated(query.expr, put_in[query.dashboard])
            exemplars = scraped.prometheus.exemplars(expr, scraped.begin_s, scraped.end_s)
            assert exemplars, query.name
            found += len(exemplars)
    figure["exemplars"] = found


def test_only_queries_that_exist_may_be_empty() -> None:
    assert MAY_BE_EMPTY.keys() <= {query.name for query in QUERIES}
    assert all(MAY_BE_EMPTY.values())


@pytest.mark.parametrize("rule", rules_of("rules.yaml", "record"))
def test_a_recording_rule_writes_series(scraped: Scraped, figure: dict[str, Any], rule: dict[str, Any]) -> None:
    figure["recording_rules"] = figure.get("recording_rules", 0) + 1
    assert data_of(scraped, rule["expr"]), f"no data: {rule['expr']}"
    assert data_of(scraped, rule["record"]), "it was not recorded"


@pytest.mark.parametrize("rule", rules_of("alerts.yaml", "alert"))
def test_an_alert_watches_series_that_exist_and_fit_each_other(
    scraped: Scraped, figure: dict[str, Any], rule: dict[str, Any]
) -> None:
    figure["alerts"] = figure.get("alerts", 0) + 1
    expr = rule["expr"]
    data_of(scraped, expr)  # it parses, and two sides that match many to many are an error
    skip_without_retrieval(scraped, expr)
    lacking = [name for name in selectors(expr) if not data_of(scraped, f"count({name})")]
    assert set(lacking) <= MAY_LACK.keys()
    assert lacking or data_of(scraped, uncompared(expr)), f"its parts have no labels in common: {uncompared(expr)}"


def test_prometheus_evaluates_every_rule_without_an_error(scraped: Scraped) -> None:
    rules = scraped.prometheus.rules()
    assert rules
    assert {rule["name"]: rule["lastError"] for rule in rules if rule["health"] != "ok"} == {}


def test_only_series_that_alerts_ask_for_and_that_are_absent_may_be_lacking(scraped: Scraped) -> None:
    asked = {name for rule in rules_of("alerts.yaml", "alert") for name in selectors(rule.values[0]["expr"])}
    assert MAY_LACK.keys() <= asked
    assert [name for name in MAY_LACK if data_of(scraped, f"count({name})")] == []
