"""The rules that a dashboard keeps. Each yields what breaks it, as `RULE: uid / panel: what`.

After Grafana's dashboard-linter: data source and job are variables; a panel has title, description, unit and a query;
rates go over `$__rate_interval`; counters stand in rates only. Beyond it: series, labels, links and variables exist.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import combinations
from typing import Any

from tenantry_testing.grafana import panels
from tenantry_testing.metric_catalogue import Series
from tenantry_testing.promql import Selection, balanced, called, grouped_by, selections

RATE_INTERVAL, RANGE = "11111s", "22222s"
"""Stand for Grafana's variables while an expression is read as PromQL."""

RATES = {"rate", "increase"}
FUNCTIONS = RATES | {
    *("sum", "max", "min", "avg", "count", "topk", "histogram_quantile", "label_replace", "clamp_min", "time", "end"),
    *("changes", "max_over_time"),
}
BUILT_IN = {"__rate_interval", "__range", "__url_time_range", "__field", "__data", "__value"}
RARE = re.compile(rf"(?P<series>\w+{{[^}}]*}}) unless (?P=series) offset {RANGE} or increase\((?P=series)\[{RANGE}\]\)")
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24

Dashboard = Mapping[str, Any]
Query = tuple[str, Mapping[str, Any]]
"""Where it is, and the target."""


def findings(dashboard: Dashboard, known: Mapping[str, Series], uids: Collection[str]) -> list[str]:
    """Return what breaks a rule; `uids` are those of all dashboards."""
    found = [f"{rule.__name__}: {text}" for rule in STRUCTURE for text in rule(dashboard)]
    if unsound := [f"promql_is_sound: {text}" for text in promql_is_sound(dashboard)]:
        return found + unsound
    found += [f"windows_are_grafanas: {text}" for text in windows_are_grafanas(dashboard)]
    found += [f"links_lead_somewhere: {text}" for text in links_lead_somewhere(dashboard, uids)]
    return found + [f"{rule.__name__}: {text}" for rule in MEANING for text in rule(dashboard, known)]


def nothing_of_whoever_made_it(dashboard: Dashboard) -> Iterator[str]:
    """No number, style, time zone or version of the Grafana that it was drawn in."""
    for key in ("id", "style", "version", "weekStart", "gnetId"):
        if dashboard.get(key) is not None:
            yield f"{key} is {dashboard[key]!r}"
    if dashboard["timezone"]:
        yield f"the time zone is {dashboard['timezone']!r}, not the viewer's"


def datasource_is_a_variable(dashboard: Dashboard) -> Iterator[str]:
    """Panels, queries, annotations and variables ask the data source that was chosen."""
    asking = [*_queries(dashboard), *((_place(dashboard, panel), panel) for panel in panels(dashboard))]
    asking += [(f"annotation {each['name']}", each) for each in dashboard["annotations"]["list"]]
    asking += [(f"variable {each['name']}", each) for each in _variables(dashboard) if each["type"] == "query"]
    for place, part in asking:
        if part.get("datasource") != DATASOURCE:
            yield f"{place}: asks {part.get('datasource')}"


def panels_are_complete(dashboard: Dashboard) -> Iterator[str]:
    """Title, a description of more than a few words, unit, query; queries have letters of their own."""
    for panel in panels(dashboard):
        place = _place(dashboard, panel)
        if not panel.get("title"):
            yield f"{place}: no title"
        if len(panel.get("description") or "") < 20:
            yield f"{place}: a description says what it means and what to do"
        if not panel["fieldConfig"]["defaults"].get("unit"):
            yield f"{place}: no unit"
        letters = [target.get("refId") for target in panel.get("targets") or ()]
        if not letters:
            yield f"{place}: no query"
        if not all(letters) or len(set(letters)) < len(letters):
            yield f"{place}: refIds are {letters}"


def ids_are_unique(dashboard: Dashboard) -> Iterator[str]:
    """Grafana's links and alerts go by them."""
    seen: dict[int, str] = {}
    for panel in [*dashboard["panels"], *(one for row in dashboard["panels"] for one in row.get("panels") or ())]:
        other = seen.setdefault(panel["id"], panel["title"])
        if other is not panel["title"]:
            yield f"{_place(dashboard, panel)}: has the id of {other}"


def panels_do_not_overlap(dashboard: Dashboard) -> Iterator[str]:
    """Each has its place in a grid of 24 columns."""
    for panel in dashboard["panels"]:
        box = panel["gridPos"]
        if box["x"] < 0 or box["w"] < 1 or box["h"] < 1 or box["x"] + box["w"] > COLUMNS:
            yield f"{_place(dashboard, panel)}: is outside the grid"
    for one, other in combinations(dashboard["panels"], 2):
        a, b = one["gridPos"], other["gridPos"]
        if (
            a["x"] < b["x"] + b["w"]
            and b["x"] < a["x"] + a["w"]
            and a["y"] < b["y"] + b["h"]
            and b["y"] < a["y"] + a["h"]
        ):
            yield f"{_place(dashboard, one)}: lies on {other['title']}"


def promises_have_a_limit(dashboard: Dashboard) -> Iterator[str]:
    """A panel about an SLA has a colour from which it is broken."""
    for panel in panels(dashboard):
        burns = any("tenantry:sla_" in target["expr"] for target in panel["targets"])
        if burns and len(panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", ())) < 2:
            yield f"{_place(dashboard, panel)}: no threshold"


def promql_is_sound(dashboard: Dashboard) -> Iterator[str]:
    """Brackets close and functions are known. That it parses is tried on a real Prometheus (tests/dashboards)."""
    for place, target in _all_queries(dashboard):
        expr = _expr(target)
        try:
            sound, unknown = balanced(expr), called(expr) - FUNCTIONS
        except ValueError as error:
            yield f"{place}: {error}"
            continue
        if not sound:
            yield f"{place}: brackets do not close"
        if unknown:
            yield f"{place}: unknown functions {sorted(unknown)}"


def windows_are_grafanas(dashboard: Dashboard) -> Iterator[str]:
    """A line's window is `$__rate_interval`; `$__range` is for single values, and for rankings at the end."""
    for place, target in _queries(dashboard):
        for each in _selections(target):
            allowed = RANGE if target.get("instant") or each.at_end else RATE_INTERVAL
            if each.window and each.window != allowed:
                wanted = {RANGE: "$__range", RATE_INTERVAL: "$__rate_interval"}[allowed]
                yield f"{place}: {each.metric} goes over {_shown(each.window)}, not {wanted}"


def variables_exist(dashboard: Dashboard) -> Iterator[str]:
    """Whatever is put in is a variable of the dashboard or Grafana's own."""
    names = {each["name"] for each in _variables(dashboard)} | BUILT_IN
    texts = [(place, target["expr"]) for place, target in _all_queries(dashboard)]
    texts += [(f"link {title}", url) for title, url in _links(dashboard)]
    texts += [(f"variable {each['name']}", str(each["query"])) for each in _variables(dashboard)]
    for place, text in texts:
        used = set(re.findall(r"\$\{?(\w+)", text))
        if used - names:
            yield f"{place}: {sorted(used - names)} is no variable"
    if not {"datasource", "job", "cluster", "model", "tenant"} <= names:
        yield "datasource, job, cluster, model and tenant are variables of every dashboard"


def series_exist(dashboard: Dashboard, known: Mapping[str, Series]) -> Iterator[str]:
    """What is selected is exposed, with the labels that are matched, grouped by, and named in the legend."""
    for place, target in _all_queries(dashboard):
        chosen = _selections(target)
        for each in chosen:
            if each.metric not in known:
                yield f"{place}: there is no {each.metric}"
            elif foreign := set(each.labels) - known[each.metric].labels:
                yield f"{place}: {each.metric} has no label {sorted(foreign)}"
        labels = {label for each in chosen if each.metric in known for label in known[each.metric].labels}
        expr = _expr(target)
        labels |= set(re.findall(r'label_replace\(.*?, "(\w+)",', expr))
        grouped = grouped_by(expr)
        if grouped - labels:
            yield f"{place}: groups by {sorted(grouped - labels)}, which no series of it has"
        named = set(re.findall(r"{{\s*(\w+)\s*}}", target.get("legendFormat") or ""))
        if named - grouped:
            yield f"{place}: the legend names {sorted(named - grouped)}, which the query does not keep"


def counters_in_rates(dashboard: Dashboard, known: Mapping[str, Series]) -> Iterator[str]:
    """A counter by itself says when its process began; a rate of a gauge says nothing.

    Rare events are the exception: what was not there when the time began is counted whole (`queries.happened`).
    """
    for place, target in _all_queries(dashboard):
        for each in selections(RARE.sub(r"increase(\g<series>[22222s])", _expr(target))):
            counts = known[each.metric].kind == "counter" if each.metric in known else False
            if counts and each.call not in RATES:
                yield f"{place}: {each.metric} is a counter and not in a rate"
            if not counts and each.call in RATES:
                yield f"{place}: {each.metric} is no counter"


def scrape_is_named(dashboard: Dashboard, known: Mapping[str, Series]) -> Iterator[str]:
    """Another Envoy's figures are not ours: job and cluster are matched wherever they are labels."""
    for place, target in _all_queries(dashboard):
        for each in _selections(target):
            series = known.get(each.metric)
            if series is None or each.metric == "ALERTS":  # an alert keeps the labels of its rule alone
                continue
            wanted = ['cluster=~"$cluster"'] if series.recorded else ['job=~"$job"', 'cluster=~"$cluster"']
            if lacking := [matcher for matcher in wanted if matcher not in each.text]:
                yield f"{place}: {each.metric} is not narrowed by {', '.join(lacking)}"


def exemplars_are_raw(dashboard: Dashboard, known: Mapping[str, Series]) -> Iterator[str]:
    """What a recording rule wrote has lost its exemplars; only counters and histograms have some."""
    for place, target in _queries(dashboard):
        kinds = {known[each.metric].kind for each in _selections(target) if each.metric in known}
        if target.get("exemplar") and "counter" not in kinds:
            yield f"{place}: asks for exemplars of what has none"


def links_lead_somewhere(dashboard: Dashboard, uids: Collection[str]) -> Iterator[str]:
    """To a dashboard of ours, with the time, the data source and the cluster that are looked at."""
    for title, url in _links(dashboard):
        uid, _, query = url.removeprefix("/d/").partition("?")
        if not url.startswith("/d/") or uid not in uids:
            yield f"link {title}: {url} is no dashboard of ours"
        for carried in ("${__url_time_range}", "${datasource:queryparam}", "${cluster:queryparam}"):
            if carried not in query:
                yield f"link {title}: does not carry {carried}"
    for link in dashboard["links"]:
        if link["url"].removeprefix("/d/") not in uids:
            yield f"link {link['title']}: {link['url']} is no dashboard of ours"
        if not (link["keepTime"] and link["includeVars"]):
            yield f"link {link['title']}: does not carry time and variables"


STRUCTURE: tuple[Callable[[Dashboard], Iterator[str]], ...] = (
    nothing_of_whoever_made_it, datasource_is_a_variable, panels_are_complete, ids_are_unique, panels_do_not_overlap,
    promises_have_a_limit, variables_exist,
)  # fmt: skip

MEANING: tuple[Callable[[Dashboard, Mapping[str, Series]], Iterator[str]], ...] = (
    series_exist, counters_in_rates, scrape_is_named, exemplars_are_raw,
)  # fmt: skip


def _place(dashboard: Dashboard, panel: Mapping[str, Any]) -> str:
    return f"{dashboard['uid']} / {panel.get('title')}"


def _variables(dashboard: Dashboard) -> list[Mapping[str, Any]]:
    return list(dashboard["templating"]["list"])


def _queries(dashboard: Dashboard) -> Iterator[Query]:
    for panel in panels(dashboard):
        for target in panel.get("targets") or ():
            yield f"{_place(dashboard, panel)} / {target.get('refId')}", target


def _all_queries(dashboard: Dashboard) -> Iterator[Query]:
    yield from _queries(dashboard)
    for each in dashboard["annotations"]["list"]:
        yield f"{dashboard['uid']} / annotation {each['name']}", {**each, "legendFormat": each["titleFormat"]}


def _links(dashboard: Dashboard) -> Iterator[tuple[str, str]]:
    """Yield the links of lines and cells."""
    for panel in panels(dashboard):
        config = panel["fieldConfig"]
        lists = [config["defaults"].get("links") or ()]
        lists += [
            each["value"]
            for one in config.get("overrides") or ()
            for each in one["properties"]
            if each["id"] == "links"
        ]
        for links in lists:
            yield from ((f"{_place(dashboard, panel)} / {link['title']}", link["url"]) for link in links)


def _expr(target: Mapping[str, Any]) -> str:
    return str(target["expr"]).replace("$__rate_interval", RATE_INTERVAL).replace("$__range", RANGE)


def _selections(target: Mapping[str, Any]) -> list[Selection]:
    return selections(_expr(target))


def _shown(window: str) -> str:
    return {RANGE: "$__range", RATE_INTERVAL: "$__rate_interval"}.get(window, window)
