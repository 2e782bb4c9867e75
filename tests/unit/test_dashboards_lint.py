"""The dashboards keep the linter's rules, and each rule refuses a dashboard that breaks it."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tenantry_dashboards.__main__ import FOLDER, main, rendered
from tenantry_testing import grafana
from tenantry_testing.dashboard_lint import findings
from tenantry_testing.metric_catalogue import catalogue

KNOWN = catalogue()
DASHBOARDS = grafana.dashboards(FOLDER)
UIDS = {dashboard["uid"] for dashboard in DASHBOARDS}

Document = dict[str, Any]


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard["uid"])
def test_a_dashboard_keeps_the_rules(dashboard: Document) -> None:
    assert findings(dashboard, KNOWN, UIDS) == []


def test_the_eight_are_there() -> None:
    assert {
        *("tenantry-overview", "tenantry-tenant", "tenantry-noisy-neighbour", "tenantry-rollout"),
        *("tenantry-retrieval", "tenantry-unit-economics", "tenantry-drift", "tenantry-sidecar"),
    } == UIDS
    assert len({dashboard["title"] for dashboard in DASHBOARDS}) == 8


def test_what_is_checked_in_is_what_the_code_writes() -> None:
    assert {path.name: path.read_text() for path in FOLDER.iterdir()} == rendered()


def test_writing_removes_what_is_no_dashboard_any_more_and_check_says_what_is_stale(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([], tmp_path) == 0
    assert main(["--check"], tmp_path) == 0
    capsys.readouterr()
    (tmp_path / "tenantry-drift.json").write_text("{}")
    (tmp_path / "gone.json").write_text("{}")
    assert main(["--check"], tmp_path) == 1
    assert capsys.readouterr().out == (
        "gone.json: stale; run `make stubs`\ntenantry-drift.json: stale; run `make stubs`\n"
    )
    assert main([], tmp_path) == 0
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == rendered()


def panel(document: Document, title: str) -> Document:
    (found,) = (one for one in document["panels"] if one["title"] == title)
    assert isinstance(found, dict)
    return found


def of_panel(title: str, change: Callable[[Document], object]) -> Callable[[Document], object]:
    return lambda document: change(panel(document, title))


def query(expr: str, **more: object) -> Callable[[Document], object]:
    """Put another query into a panel that shows lines."""
    return of_panel("GPUs used by tenant", lambda one: one["targets"][0].update(expr=expr, legendFormat="", **more))


S = '{job=~"$job", cluster=~"$cluster"}'
COUNTER = f"tenantry_gpu_seconds_total{S}"
GOOD = f"sum(rate({COUNTER}[$__rate_interval]))"

BREAKS: dict[str, tuple[str, Callable[[Document], object]]] = {
    "a time zone": ("nothing_of_whoever_made_it", lambda it: it.update(timezone="Europe/Berlin")),
    "a database id": ("nothing_of_whoever_made_it", lambda it: it.update(id=7)),
    "a style": ("nothing_of_whoever_made_it", lambda it: it.update(style="dark")),
    "a fixed data source": (
        "datasource_is_a_variable",
        of_panel("Requests", lambda one: one["targets"][0].update(datasource={"type": "prometheus", "uid": "P1"})),
    ),
    "a panel's own data source": ("datasource_is_a_variable", of_panel("Requests", lambda one: one.pop("datasource"))),
    "an annotation's own data source": (
        "datasource_is_a_variable", lambda it: it["annotations"]["list"][0].update(datasource=None),
    ),
    "no title": ("panels_are_complete", of_panel("Requests", lambda one: one.update(title=""))),
    "no description": ("panels_are_complete", of_panel("Requests", lambda one: one.update(description="Requests."))),
    "no unit": ("panels_are_complete", of_panel("Requests", lambda one: one["fieldConfig"]["defaults"].pop("unit"))),
    "no query": ("panels_are_complete", of_panel("Requests", lambda one: one.update(targets=[]))),
    "no refId": ("panels_are_complete", of_panel("Requests", lambda one: one["targets"][0].update(refId=""))),
    "a refId twice": (
        "panels_are_complete", of_panel("Tenants", lambda one: one["targets"][1].update(refId="A")),
    ),
    "an id twice": (
        "ids_are_unique", lambda it: panel(it, "Requests").update(id=panel(it, "Tenants")["id"]),
    ),
    "a panel on another": ("panels_do_not_overlap", of_panel("Requests", lambda one: one["gridPos"].update(w=5))),
    "a panel over the edge": ("panels_do_not_overlap", of_panel("Tenants", lambda one: one["gridPos"].update(w=25))),
    "a promise without a limit": (
        "promises_have_a_limit",
        of_panel("Availability: budget burn by tier", lambda one: one["fieldConfig"]["defaults"].pop("thresholds")),
    ),
    "a bracket too few": ("promql_is_sound", query(GOOD[:-1])),
    "a bracket of another kind": ("promql_is_sound", query(GOOD[:-1] + "]")),
    "a function that is none": ("promql_is_sound", query(f"median({GOOD})")),
    "no PromQL": ("promql_is_sound", query("sum(?)")),
    "a fixed window": ("windows_are_grafanas", query(GOOD.replace("$__rate_interval", "5m"))),
    "the whole time at each step": ("windows_are_grafanas", query(GOOD.replace("$__rate_interval", "$__range"))),
    "a step's window at the end": ("windows_are_grafanas", query(GOOD.replace("interval]", "interval] @ end()"))),
    "a single value over a step": ("windows_are_grafanas", query(GOOD, instant=True)),
    "an unknown variable": ("variables_exist", query(GOOD.replace("$cluster", "$kluster"))),
    "a variable too few": ("variables_exist", lambda it: it["templating"]["list"].pop()),
    "an unknown variable in a variable": (
        "variables_exist", lambda it: it["templating"]["list"][2].update(query='label_values(up{x=~"$x"}, cluster)'),
    ),
    "a metric that is none": ("series_exist", query(GOOD.replace("gpu_seconds", "gpu_minutes"))),
    "a matcher on no label": ("series_exist", query(GOOD.replace("{", '{colour="red", '))),
    "a recording rule's lost label": (
        "series_exist", query('tenantry:gpu_share:ratio5m{cluster=~"$cluster", version="1"}'),
    ),
    "grouped by no label": ("series_exist", query(GOOD.replace("sum(", "sum by (colour) ("))),
    "a legend of a lost label": (
        "series_exist", of_panel("GPUs used by tenant", lambda one: one["targets"][0].update(legendFormat="{{model}}")),
    ),
    "a counter as it is": ("counters_in_rates", query(f"sum({COUNTER})")),
    "a histogram's bucket as it is": (
        "counters_in_rates", query(f"histogram_quantile(0.9, tenantry_queue_seconds_bucket{S})"),
    ),
    "a counter's maximum": (
        "counters_in_rates", query(f"max_over_time({COUNTER}[$__rate_interval])"),
    ),
    "a counter that is new, but not against the time shown": (
        "counters_in_rates", query(f"sum({COUNTER} unless {COUNTER} offset 5m)"),
    ),
    "a rate of a gauge": ("counters_in_rates", query(f"rate(tenantry_rules_generation{S}[$__rate_interval])")),
    "anybody's job": ("scrape_is_named", query(GOOD.replace('job=~"$job", ', ""))),
    "any cluster": ("scrape_is_named", query("tenantry:gpu_share:ratio5m{}")),
    "exemplars of a recording rule": (
        "exemplars_are_raw", query('tenantry:gpu_share:ratio5m{cluster=~"$cluster"}', exemplar=True),
    ),
    "a link to nothing": ("links_lead_somewhere", lambda it: it["links"][0].update(url="/d/tenantry-tenants")),
    "a link that forgets the time": ("links_lead_somewhere", lambda it: it["links"][0].update(keepTime=False)),
    "a line's link to nothing": (
        "links_lead_somewhere",
        of_panel("GPUs used by tenant", lambda one: _first_link(one).update(url="/d/x?" + _first_link(one)["url"])),
    ),
    "a line's link that forgets the time": (
        "links_lead_somewhere",
        of_panel(
            "GPUs used by tenant",
            lambda one: _first_link(one).update(url=_first_link(one)["url"].replace("${__url_time_range}", "")),
        ),
    ),
    "a cell's link to nothing": (
        "links_lead_somewhere", of_panel("Tenants", lambda one: _cell_links(one)[0].update(url="/d/gone?")),
    ),
}  # fmt: skip
"""What is wrong, the rule that says so, and how to make it so in the overview."""


def _first_link(one: Document) -> Document:
    link = one["fieldConfig"]["defaults"]["links"][0]
    assert isinstance(link, dict)
    return link


def _cell_links(one: Document) -> list[Document]:
    properties = [each for override in one["fieldConfig"]["overrides"] for each in override["properties"]]
    (links,) = (each["value"] for each in properties if each["id"] == "links")
    assert isinstance(links, list)
    return links


@pytest.mark.parametrize("what", BREAKS)
def test_a_rule_refuses(what: str) -> None:
    rule, break_it = BREAKS[what]
    (overview,) = (each for each in DASHBOARDS if each["uid"] == "tenantry-overview")
    document = copy.deepcopy(overview)
    break_it(document)
    assert document != overview
    found = findings(document, KNOWN, UIDS)
    assert [text for text in found if text.startswith(f"{rule}: ")], json.dumps(found, indent=1)


def test_a_panel_keeps_its_id_when_others_come_and_go() -> None:
    """Links to a panel and Grafana's own alerts go by it; so it comes from the title alone."""
    (overview,) = (each for each in DASHBOARDS if each["uid"] == "tenantry-overview")
    assert panel(overview, "GPUs used by tenant")["id"] == 937297
    assert panel(overview, "Tenants")["id"] == 793384


def click(links: list[Document], title: str, row: dict[str, str], kept: dict[str, str]) -> tuple[str, set[str]]:
    """Follow a link as Grafana does: its uid, and what it carries."""
    (url,) = (link["url"] for link in links if link["title"] == title)
    for name, value in {**kept, **row}.items():
        url = url.replace(name, value)
    address, _, carried = url.partition("?")
    return address, set(carried.split("&"))


def test_two_clicks_lead_from_the_overview_to_who_caused_a_spike() -> None:
    """The first click is on the line, the second on the link."""
    (overview,) = (each for each in DASHBOARDS if each["uid"] == "tenantry-overview")
    kept = {
        "${__url_time_range}": "from=1&to=2", "${datasource:queryparam}": "var-datasource=P",
        "${cluster:queryparam}": "var-cluster=eu", "${model:queryparam}": "var-model=m",
        "${tenant:queryparam}": "var-tenant=$__all",
    }  # fmt: skip
    for title in ("GPUs used by tenant", "Time to first token by tenant, p99"):
        links = panel(overview, title)["fieldConfig"]["defaults"]["links"]
        assert click(links, "Who caused this?", {}, kept) == (
            "/d/tenantry-noisy-neighbour",
            {"from=1", "to=2", "var-datasource=P", "var-cluster=eu", "var-model=m", "var-tenant=$__all"},
        )
    links = _cell_links(panel(overview, "Tenants"))
    assert click(links, "Everything of ${__value.text}", {"${__data.fields.tenant}": "acme"}, kept) == (
        "/d/tenantry-tenant",
        {"from=1", "to=2", "var-datasource=P", "var-cluster=eu", "var-model=m", "var-tenant=acme"},
    )
