"""What all dashboards share: variables, links between them, annotations, and the grid that panels are laid on."""

from collections.abc import Iterator, Sequence

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as model
from msgspec import Struct

from tenantry_dashboards.panels import DATASOURCE, Link, stable_id
from tenantry_dashboards.queries import raw

WIDTH = 24
JOBS = "tenantry-.*"
ALL = model.VariableOption(selected=True, text="All", value="$__all")

OVERVIEW, TENANT, NEIGHBOUR = "tenantry-overview", "tenantry-tenant", "tenantry-noisy-neighbour"
ROLLOUT, RETRIEVAL, ECONOMICS = "tenantry-rollout", "tenantry-retrieval", "tenantry-unit-economics"
DRIFT, SIDECAR = "tenantry-drift", "tenantry-sidecar"

TITLES = {
    OVERVIEW: "Overview",
    TENANT: "Tenant",
    NEIGHBOUR: "Noisy neighbour",
    ROLLOUT: "Rollout",
    RETRIEVAL: "Retrieval isolation",
    ECONOMICS: "Unit economics",
    DRIFT: "Deployment drift",
    SIDECAR: "Sidecar health",
}
"""Titles by uid, in the order of the links at the top of each."""


class Row(Struct, frozen=True, kw_only=True):
    """Panels under a heading, laid from left to right and then on the next line."""

    title: str
    panels: Sequence[model.Panel]


class Annotation(model.AnnotationQuery):
    """A mark in all panels. The SDK's own class lacks the fields that name what happened."""

    def __init__(self, name: str, expr: str, *, title: str, tags: str, colour: str) -> None:
        super().__init__(name=name, datasource=DATASOURCE, enable=True, icon_color=colour, expr=expr)
        self._title, self._tags = title, tags

    def to_json(self) -> dict[str, object]:
        """Return it as Grafana stores it: the expression is asked each minute."""
        return {**super().to_json(), "step": "1m", "titleFormat": self._title, "tagKeys": self._tags}


def rules_live() -> Annotation:
    """Mark when a rules document went live. The window is two steps: it bridges a scrape interval of a minute."""
    changed = f"sum by (cluster) (changes({raw('tenantry_rules_generation')}[2m])) > 0"
    return Annotation("Rules went live", changed, title="Rules went live", tags="cluster", colour="blue")


def made(
    uid: str,
    description: str,
    rows: Sequence[Row],
    *,
    variables: Sequence[dashboard.QueryVariable] = (),
    annotations: Sequence[Annotation] = (),
    since: str = "now-1h",
) -> model.Dashboard:
    """Put a dashboard together. Nothing in it depends on who looks: no time zone, no week's start."""
    built = (
        dashboard.Dashboard(f"tenantry / {TITLES[uid]}")
        .uid(uid)
        .description(description)
        .tags(["tenantry"])
        .timezone("")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .time(since, "now")
        .refresh("30s")
        .variables([datasource(), job(), cluster(), model_name(), tenant(), *variables])
        .links([_between(other, title) for other, title in TITLES.items() if other != uid])
        .build()
    )
    built.annotations.list_val = [rules_live(), *annotations]
    built.panels = list(_laid(rows))
    built.editable = False
    return built


def datasource() -> dashboard.DatasourceVariable:
    """Choose the Prometheus to ask."""
    return dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")


def job() -> dashboard.ConstantVariable:
    """Hold the scrape jobs' names, hidden: an installation that calls them otherwise changes it here."""
    current = model.VariableOption(selected=True, text=JOBS, value=JOBS)
    variable = dashboard.ConstantVariable("job").label("Scrape jobs").value(JOBS)
    variable.build().current = current
    return variable


def cluster() -> dashboard.QueryVariable:
    """Choose Kubernetes clusters."""
    return chosen("cluster", "Cluster", 'label_values(tenantry_rules_generation{job=~"$job"}, cluster)')


def model_name() -> dashboard.QueryVariable:
    """Choose models of the rules."""
    return chosen("model", "Model", f"label_values({raw('tenantry_version_wanted')}, model)")


def tenant() -> dashboard.QueryVariable:
    """Choose tenants that asked in the time that is shown."""
    return chosen("tenant", "Tenant", f"label_values({raw('tenantry_requests_total')}, tenant)")


def chosen(name: str, label: str, query: str) -> dashboard.QueryVariable:
    """Offer a label's values, several at once. All is `.*`, which no number of names makes longer."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(DATASOURCE)
        .query(query)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_CASE_INSENSITIVE_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(ALL)
    )


def of_line(title: str, uid: str, *labels: str) -> Link:
    """Lead from a line of a chart to another dashboard: same time, data source and cluster, and the line's labels."""
    return title, _address(uid, {label: f"${{__field.labels.{label}}}" for label in labels})


def of_cell(title: str, uid: str, *labels: str) -> Link:
    """Lead from a table's row to another dashboard, as `of_line`."""
    return title, _address(uid, {label: f"${{__data.fields.{label}}}" for label in labels})


def _address(uid: str, labels: dict[str, str]) -> str:
    kept = [name for name in ("datasource", "cluster", "model", "tenant") if name not in labels]
    query = ["${__url_time_range}", *(f"${{{name}:queryparam}}" for name in kept)]
    return f"/d/{uid}?" + "&".join([*query, *(f"var-{label}={value}" for label, value in labels.items())])


def _between(uid: str, title: str) -> dashboard.DashboardLink:
    link = dashboard.DashboardLink(title).type(model.DashboardLinkType.LINK).url(f"/d/{uid}")
    return link.icon("dashboard").include_vars(True).keep_time(True)


def _laid(rows: Sequence[Row]) -> Iterator[model.Panel | model.RowPanel]:
    """Give panels their places: full width first, then down by the highest of the line."""
    y = 0
    for row in rows:
        place = model.GridPos(x=0, y=y, w=WIDTH, h=1)
        yield model.RowPanel(title=row.title, collapsed=False, id_val=stable_id(f"row {row.title}"), grid_pos=place)
        y += 1
        x = line = 0
        for panel in row.panels:
            size = panel.grid_pos or model.GridPos()
            if x + size.w > WIDTH:
                x, y, line = 0, y + line, 0
            panel.grid_pos = model.GridPos(x=x, y=y, w=size.w, h=size.h)
            x, line = x + size.w, max(line, size.h)
            yield panel
        y += line
