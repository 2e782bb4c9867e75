"""What the rules want against what engines say they run, and who holds memory for nobody."""

from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from tenantry_dashboards import panels as p
from tenantry_dashboards import queries as q
from tenantry_dashboards.frame import DRIFT, Row, made
from tenantry_dashboards.panels import Column
from tenantry_dashboards.queries import MODEL, Query

VERSION = "cluster, model, version"
LISTED = q.most(q.raw("tenantry_version_wanted", MODEL), VERSION)
WANTED = q.most(q.raw("tenantry_version_wanted", MODEL, 'role!="unused"'), VERSION)
UNUSED = q.most(q.raw("tenantry_version_wanted", MODEL, 'role="unused"'), VERSION)
ENGINES, GPUS, MEMORY = (
    q.most(q.raw(f"tenantry_engine{name}", MODEL), VERSION) for name in ("s", "_gpus", "_memory_bytes")
)
ALL = f"({LISTED} or {ENGINES})"


def build() -> Dashboard:
    """Return the dashboard."""
    return made(
        DRIFT,
        "The version that the rules want against the version that engines report, each in their own words; versions "
        "that nobody uses, and the memory that they hold.",
        [
            Row(title="Is it as the rules say", panels=_now()),
            Row(title="Every version", panels=[_table()]),
            Row(title="Over time", panels=_over_time()),
        ],
        since="now-6h",
    )


def _now() -> list[Panel]:
    missing = f"count({WANTED} unless on ({VERSION}) ({ENGINES} > 0))"
    unknown = f"count(({ENGINES} > 0) unless on ({VERSION}) {LISTED})"
    mismatched = q.rate(q.raw("tenantry_rollout_version_mismatches_total", MODEL))

    def held(what: str) -> str:
        return q.quiet(f"sum({what} and on ({VERSION}) {UNUSED})", q.LEDGER)

    return [
        p.value(
            "Wanted, but no engine",
            "Versions with a role in the rules of which no engine spoke in the last 3 minutes. Requests for them fail: "
            "the rollout of engines is behind, or they run under another name (next panel).",
            p.COUNT, Query(expr=q.quiet(missing, q.LEDGER), legend="versions"), width=5, limits=p.above(None, 1),
        ),
        p.value(
            "Engines of a version that the rules do not list",
            "An engine says it runs something else than any version here. An image tag moved, or the rules are old.",
            p.COUNT, Query(expr=q.quiet(unknown, q.LEDGER), legend="versions"), width=5, limits=p.above(1, 2),
        ),
        p.value(
            "Records from another version",
            "Usage records per second of engines that run another version than their endpoints are listed under. Not "
            "0: tenants get a version that they were not promised.",
            p.PER_SECOND, Query(expr=q.quiet(mismatched, q.SIDECAR), legend="records"),
            width=5, limits=p.above(None, 0.001),
        ),
        p.value(
            "GPUs of versions nobody uses",
            "Engines of versions that are listed and have no role: nobody is sent there. Scale them down.",
            p.GPUS, Query(expr=held(GPUS), legend="GPUs"), width=4, limits=p.above(1, 8),
        ),
        p.value(
            "Memory of versions nobody uses",
            "Peak GPU memory of those engines.",
            p.BYTES, Query(expr=held(MEMORY), legend="memory"), width=5, limits=p.above(1, 80 * 2**30),
        ),
    ]  # fmt: skip


def _table() -> Panel:
    def role(name: str) -> str:
        return q.absent_as_zero(q.most(q.raw("tenantry_version_wanted", MODEL, f'role="{name}"'), VERSION), ALL)

    served = q.shown(q.raw("tenantry_requests_total", MODEL), VERSION)
    pinned = q.most(q.raw("tenantry_version_pinned_tenants", MODEL), VERSION)
    return p.rows(
        "Versions: wanted and reported",
        "One row for each version that the rules list or an engine names. A role and no engines: missing. Engines and "
        "no role: unused, or unknown to the rules. 1 stands for yes.",
        [
            Column(title="Stable", expr=role("stable"), unit=p.COUNT),
            Column(title="Candidate", expr=role("candidate"), unit=p.COUNT),
            Column(title="Pinned tenants", expr=q.absent_as_zero(pinned, ALL), unit=p.COUNT),
            Column(title="Nobody's", expr=role("unused"), unit=p.COUNT, limits=p.above(1, 2)),
            Column(
                title="Engines", expr=q.absent_as_zero(ENGINES, ALL), unit=p.COUNT, limits=[(None, p.RED), (1, p.GREEN)]
            ),
            Column(title="GPUs", expr=q.absent_as_zero(GPUS, ALL), unit=p.COUNT),
            Column(title="GPU memory", expr=q.absent_as_zero(MEMORY, ALL), unit=p.BYTES),
            Column(title="Requests in the time shown", expr=q.absent_as_zero(served, ALL), unit=p.COUNT),
        ],
        sort_by="Engines",
    )


def _over_time() -> list[Panel]:
    served = q.rate(q.raw("tenantry_requests_total", MODEL), "model, version")
    return [
        p.line_chart(
            "Engines by version",
            "As they name themselves. During a deployment one falls while the other rises; both for long: it is stuck.",
            p.COUNT, Query(expr=q.total(ENGINES, "model, version"), legend="{{model}} {{version}}"),
            width=8, stacked=True,
        ),
        p.line_chart(
            "GPU memory by version",
            "Newest peak of each engine, added up.",
            p.BYTES, Query(expr=q.total(MEMORY, "model, version"), legend="{{model}} {{version}}"),
            width=8, stacked=True,
        ),
        p.line_chart(
            "Requests by version",
            "Per second, by the version that the sidecar chose.",
            p.REQUESTS, Query(expr=served, legend="{{model}} {{version}}"), width=8, stacked=True,
        ),
    ]  # fmt: skip
