"""How tests read a dashboard: the queries that its panels send, with variables put in as Grafana would."""

from typing import Any

import pytest
from tenantry_testing.grafana import Shown, interpolated, panels, queries, variables

DASHBOARD: dict[str, Any] = {
    "uid": "tenantry-x",
    "annotations": {"list": [{"name": "Verdicts", "expr": "changes(v[1m])"}, {"name": "built in"}]},
    "templating": {
        "list": [
            {"name": "datasource", "type": "datasource", "query": "prometheus"},
            {"name": "job", "type": "constant", "query": "tenantry-.*"},
            {"name": "cluster", "type": "query", "query": 'label_values(up{job=~"$job"}, cluster)', "includeAll": True,
             "allValue": ".*"},
            {"name": "model", "type": "query", "query": {"query": 'label_values(m{c=~"$cluster"}, model)'},
             "includeAll": True},
            {"name": "tenant", "type": "query", "query": "label_values(tenant)", "regex": "^[a-m]"},
        ]
    },
    "panels": [
        {"type": "text", "title": "Read me"},
        {"type": "row", "title": "R", "panels": [
            {"type": "stat", "title": "S", "targets": [{"refId": "A", "expr": "a", "instant": True}]},
        ]},
        {"type": "timeseries", "title": "T", "targets": [{"refId": "A", "expr": "b", "exemplar": True},
                                                         {"refId": "B", "expr": "c"}]},
    ],
}  # fmt: skip


def values(selector: str, label: str) -> list[str]:
    asked = {
        ('up{job=~"tenantry-.*"}', "cluster"): ["demo"],
        ('m{c=~".*"}', "model"): ["chat-8b", "a.b"],
        ("", "tenant"): ["zeta", "acme", "beta"],
    }
    return asked[selector, label]


def test_queries_are_those_of_panels_rows_and_annotations() -> None:
    assert [panel["title"] for panel in panels(DASHBOARD)] == ["S", "T"]
    found = list(queries(DASHBOARD))
    assert [query.name for query in found] == [
        "tenantry-x / S / A", "tenantry-x / T / A", "tenantry-x / T / B", "tenantry-x / annotation / Verdicts",
    ]  # fmt: skip
    assert [query.instant for query in found] == [True, False, False, False]
    assert [query.exemplar for query in found] == [False, True, False, False]


def test_variables_are_those_of_somebody_who_opens_it() -> None:
    assert variables(DASHBOARD, values) == {
        "datasource": ("", ["prometheus"]),
        "job": ("tenantry-.*", ["tenantry-.*"]),
        "cluster": (".*", ["demo"]),
        "model": (r"(chat-8b|a\\.b)", ["chat-8b", "a.b"]),
        "tenant": ("acme", ["acme", "beta"]),
    }


def test_an_unknown_kind_of_variable_is_an_error_and_no_empty_string() -> None:
    for variable in ({"type": "adhoc"}, {"type": "query", "query": "query_result(up)"}):
        with pytest.raises(ValueError, match="the variable x"):
            variables({"uid": "u", "templating": {"list": [{"name": "x", **variable}]}}, values)


def test_what_is_shown_sets_grafanas_own_variables() -> None:
    own = Shown(begin_s=100.0, end_s=145.4).variables()
    expr = 'rate(a{m=~"$model"}[$__rate_interval]) + b[${__range}] + c{m="${model:regex}"}'
    assert interpolated(expr, own | {"model": "m.*"}) == 'rate(a{m=~"m.*"}[4s]) + b[45s] + c{m="m.*"}'
    with pytest.raises(ValueError, match="the variable tenant is not known"):
        interpolated("a[$tenant]", own)
