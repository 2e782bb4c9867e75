"""Do vector stores keep tenants apart, and who is refused at them."""

from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from tenantry_dashboards import panels as p
from tenantry_dashboards import queries as q
from tenantry_dashboards.frame import RETRIEVAL, TENANT, Row, chosen, made, of_line
from tenantry_dashboards.queries import Query

STORE = 'store=~"$store"'
REQUESTS = q.raw("tenantry_store_requests_total", STORE, q.TENANT)
SAFE = q.raw("tenantry_store_safe", STORE)
TO_TENANT = [of_line("Everything of ${__field.labels.tenant}", TENANT, "tenant")]


def build() -> Dashboard:
    """Return the dashboard."""
    return made(
        RETRIEVAL,
        "Do vector stores keep tenants apart. A foreign row is an incident even though it was withheld.",
        [
            Row(title="Is it safe", panels=_safe()),
            Row(title="What became of requests", panels=_requests()),
            Row(title="Proofs and provisions", panels=_proofs()),
        ],
        variables=[
            chosen("store", "Store", 'label_values(tenantry_store_safe{job=~"$job", cluster=~"$cluster"}, store)')
        ],
        since="now-6h",
    )


def _safe() -> list[Panel]:
    foreign = q.happened(q.raw("tenantry_store_foreign_rows_total", STORE, q.TENANT))
    withheld = q.happened(q.raw("tenantry_store_requests_total", STORE, q.TENANT, 'result="withheld"'))
    refused = q.rate(q.raw("tenantry_store_refusals_total", STORE, q.TENANT))
    return [
        p.value(
            "Foreign rows in the time that is shown",
            "Answers that held a row of another tenant; they were withheld. Not 0: layout and filter have both failed. "
            "Close the store, then read the log line 'a store answered with a row of another tenant'.",
            p.COUNT, Query(expr=q.quiet(foreign, q.SIDECAR), legend="foreign rows"),
            width=6, limits=p.above(None, 0.001), of_all=True,
        ),
        p.value(
            "Stores that are closed",
            "Out of reach, or not shown to keep tenants apart: all requests to them are UNAVAILABLE. "
            "`tenantry stores prove` says which it is.",
            p.COUNT,
            Query(expr=q.quiet(f"count(min by (cluster, store) ({SAFE}) == 0)", q.SIDECAR), legend="closed"),
            width=6, limits=p.above(None, 1),
        ),
        p.value(
            "Answers withheld in the time that is shown",
            "Foreign rows, and answers that could not be read whole. Without foreign rows: a new version of the store "
            "answers in a form that is not known.",
            p.COUNT, Query(expr=q.quiet(withheld, q.SIDECAR), legend="withheld"), width=6, limits=p.above(None, 0.001),
            of_all=True,
        ),
        p.value(
            "Refused",
            "Requests per second that a tenant may not make, or that were not understood. More than 1 for long: a "
            "client that is wrong, or somebody who tries.",
            p.REQUESTS, Query(expr=q.quiet(refused, q.SIDECAR), legend="refused"), width=6, limits=p.above(0.1, 1),
        ),
        p.states(
            "Open or closed",
            "By store, as the most careful replica sees it.",
            Query(expr=q.quiet(f"min by (store) ({SAFE})", q.SIDECAR, "store"), legend="{{store}}"),
            names={"0": ("closed", p.RED), "1": ("open", p.GREEN)},
            height=5,
        ),
    ]  # fmt: skip


def _requests() -> list[Panel]:
    by_tenant = q.top(q.rate(REQUESTS, "tenant"), "tenant", q.shown_at_end(REQUESTS, "tenant"))
    verified = q.rate(q.raw("tenantry_store_rows_verified_total", STORE, q.TENANT), "store")
    codes = q.rate(q.raw("tenantry_store_refusals_total", STORE, q.TENANT), "tenant, store, code")

    def p99(share: float, name: str) -> Query:
        metric = "tenantry_store_request_duration_seconds"
        return Query(expr=_or_zero(q.quantile(share, metric, STORE, by="store, operation")),
                     legend=f"{{{{store}}}} {{{{operation}}}} {name}")  # fmt: skip

    return [
        p.line_chart(
            "Requests by result",
            "Per second. passed: each row was looked at; refused: answered here; withheld: see above; cut: the store "
            "never answered.",
            p.REQUESTS,
            Query(expr=_or_zero(q.rate(REQUESTS, "store, result")), legend="{{store}} {{result}}"),
        ),
        p.line_chart(
            "Requests by tenant",
            "Per second, the ten largest. One that grew takes the store's time from the others: ask what changed.",
            p.REQUESTS, Query(expr=q.quiet(by_tenant, q.SIDECAR, "tenant"), legend="{{tenant}}"), links=TO_TENANT,
        ),
        p.line_chart(
            "Refused by tenant and reason",
            "Per second. docs/errors.md explains the codes. The log has the tenant and operation of each.",
            p.REQUESTS,
            Query(expr=q.quiet(codes, q.SIDECAR, "code"), legend="{{tenant}} {{store}} {{code}}"), links=TO_TENANT,
        ),
        p.line_chart(
            "Duration by operation",
            "To the last byte of the store's answer, verification included.",
            p.SECONDS, p99(0.5, "p50"), p99(0.99, "p99"),
        ),
        p.line_chart(
            "Rows verified",
            "Rows per second looked at before their tenant saw them. 0 while requests pass: they return none.",
            p.PER_SECOND, Query(expr=_or_zero(verified), legend="{{store}}"),
        ),
    ]  # fmt: skip


def _proofs() -> list[Panel]:
    proofs = q.happened(q.raw("tenantry_store_proofs_total", STORE), "store, result")
    provisioned = q.happened(q.raw("tenantry_store_provisioned_total", STORE), "store, kind")
    return [
        p.bars(
            "Proofs in the time that is shown",
            "A store is proven when it comes up, in another version too. unsafe: do not serve from it; failed: out of "
            "reach, it is tried again.",
            p.COUNT, Query(expr=_or_zero(proofs), legend="{{store}} {{result}}"), width=6,
        ),
        p.bars(
            "Made for tenants in the time that is shown",
            "Databases and partitions that were made on a tenant's first request.",
            p.COUNT, Query(expr=_or_zero(provisioned), legend="{{store}} {{kind}}"), width=6,
        ),
    ]  # fmt: skip


def _or_zero(expr: str) -> str:
    return q.quiet(expr, q.SIDECAR, "store")
