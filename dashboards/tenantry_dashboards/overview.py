"""Is everybody served, who takes how much, what does it cost. Two clicks from here to who caused a spike."""

from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from tenantry_dashboards import money
from tenantry_dashboards import panels as p
from tenantry_dashboards import queries as q
from tenantry_dashboards.frame import ECONOMICS, NEIGHBOUR, OVERVIEW, SIDECAR, TENANT, Row, made, of_cell, of_line
from tenantry_dashboards.panels import Column
from tenantry_dashboards.queries import MODEL, Query
from tenantry_dashboards.rollout import states_of_rollouts

BOTH = (MODEL, q.TENANT)
REQUESTS = q.raw("tenantry_requests_total", *BOTH)
FAILED = q.raw("tenantry_requests_total", *BOTH, 'ended="failed"')
GPU_SECONDS = q.raw("tenantry_gpu_seconds_total", *BOTH)
TTFT = "tenantry_time_to_first_token_seconds"

BY_TENANT = (
    of_line("Who caused this?", NEIGHBOUR),
    of_line("Everything of ${__field.labels.tenant}", TENANT, "tenant"),
)


def build() -> Dashboard:
    """Return the dashboard."""
    return made(
        OVERVIEW,
        "Is everybody served, who takes how much of the GPUs, and what does it cost. To find who caused a spike: click "
        "a line of a chart by tenant, then 'Who caused this?'.",
        [
            Row(title="Now", panels=_now()),
            Row(title="Who uses the GPUs, and who waits", panels=_who()),
            Row(title="What each tenant took in the time that is shown", panels=[_tenants()]),
            Row(title="Promises, and what needs a person", panels=_promises()),
        ],
    )


def _now() -> list[Panel]:
    cost = q.total(q.recorded("tenantry:cost:rate1h", q.TENANT), "currency")
    return [
        p.value(
            "Requests",
            "Requests to models that ended, per second. A sudden fall with no rise of refusals means that clients or "
            "Envoy are in trouble: see sidecar health.",
            p.REQUESTS,
            Query(expr=q.rate(REQUESTS), legend="requests"),
        ),
        p.value(
            "Failed requests",
            "Share of requests that ended with 5xx or were cut, clients' aborts apart. Above 1 %: look at the tenant "
            "dashboard for whose, and at the rollout for which version.",
            p.SHARE,
            Query(expr=q.ratio(q.quiet(q.rate(FAILED), q.SIDECAR), q.rate(REQUESTS)), legend="failed"),
            limits=p.above(0.001, 0.01),
        ),
        p.value(
            "Time to first token, p99",
            "99 of 100 requests had their first token by then, queue included. What was promised differs by tier: "
            "the burn rates below say whether it is kept.",
            p.SECONDS,
            Query(expr=q.quantile(0.99, TTFT, *BOTH), legend="p99"),
            links=[of_line("Who caused this?", NEIGHBOUR)],
        ),
        p.value(
            "GPUs busy",
            "Share of the engines' GPU time in which something ran. Near 100 % everybody waits: add engines, or find "
            "who grew. Low: money for nothing, see unit economics.",
            p.SHARE,
            Query(expr=f"avg({q.recorded('tenantry:engine_utilisation:ratio5m', MODEL)})", legend="busy"),
            limits=p.above(0.85, 0.95),
        ),
        p.value(
            "Cost of GPU time charged to tenants",
            "What the GPU time of tenants' requests costs the operator, per hour, over the last hour. Idle time and "
            "cold starts are not in it.",
            p.MONEY_PER_HOUR,
            Query(expr=f"{cost} * 3600", legend="{{currency}}"),
            links=[of_line("Unit economics", ECONOMICS)],
        ),
        p.value(
            "Refused here",
            "Requests per second that the sidecar answered itself: no credential, not allowed, a quota. A rise after "
            "a change of rules: somebody was shut out by mistake.",
            p.REQUESTS,
            Query(expr=q.quiet(q.rate(q.raw("tenantry_refusals_total", q.TENANT)), q.SIDECAR), legend="refused"),
            links=[of_line("Sidecar health", SIDECAR)],
        ),
    ]


def _who() -> list[Panel]:
    ranking = q.shown_at_end(GPU_SECONDS, "tenant")
    waiting = f"max by (tenant) (max_over_time({q.recorded('tenantry:ttft_seconds:p99_5m', *BOTH)}[$__range] @ end()))"
    return [
        p.line_chart(
            "GPUs used by tenant",
            "GPU-seconds per second, that is how many GPUs a tenant kept busy; the ten largest. The one that grew when "
            "others began to wait is the likely cause: click its line, then 'Who caused this?'.",
            p.GPUS,
            Query(expr=q.top(q.rate(GPU_SECONDS, "tenant"), "tenant", ranking), legend="{{tenant}}", exemplar=True),
            stacked=True,
            height=9,
            links=BY_TENANT,
        ),
        p.line_chart(
            "Time to first token by tenant, p99",
            "The ten tenants that waited longest. All rise together: the engines are full, somebody grew. One rises "
            "alone: its own requests changed, see its dashboard.",
            p.SECONDS,
            Query(
                expr=q.top(q.quantile(0.99, TTFT, *BOTH, by="tenant"), "tenant", waiting),
                legend="{{tenant}}",
                exemplar=True,
            ),
            height=9,
            links=BY_TENANT,
        ),
    ]


def _tenants() -> Panel:
    kv_bytes = q.raw("tenantry_kv_byte_seconds_total", *BOTH)
    gpu, kv, asked = (q.shown(each, "tenant") for each in (GPU_SECONDS, kv_bytes, REQUESTS))
    failed = q.absent_as_zero(q.shown(FAILED, "tenant"), asked)
    return p.rows(
        "Tenants",
        "Largest share of GPU time first. Click a tenant for everything about it, or for who stood beside it. Money is "
        "at the terms of now and says what this stretch of time came to; bills are the ledger's.",
        [
            Column(title="GPU time", expr=_share(gpu), unit=p.SHARE, limits=p.above(0.5, 0.8)),
            Column(title="KV memory", expr=_share(kv), unit=p.SHARE, limits=p.above(0.5, 0.8)),
            Column(title="GPU-seconds", expr=gpu, unit=p.SECONDS),
            Column(title="Requests", expr=asked, unit=p.COUNT),
            Column(title="Failed", expr=q.ratio(failed, asked), unit=p.SHARE, limits=p.above(0.001, 0.01)),
            Column(title="Tokens", expr=q.shown(q.raw("tenantry_tokens_total", *BOTH), "tenant"), unit=p.COUNT),
            Column(title="First token p99", expr=q.quantile_shown(0.99, TTFT, *BOTH, by="tenant"), unit=p.SECONDS),
            Column(title="Cost", expr=money.cost_shown("tenant", *BOTH), unit=p.COUNT),
            Column(title="Revenue", expr=money.revenue_shown("tenant", *BOTH), unit=p.COUNT),
        ],
        sort_by="GPU time",
        links={
            "tenant": [
                of_cell("Everything of ${__value.text}", TENANT, "tenant"),
                of_cell("Who stood beside it?", NEIGHBOUR),
            ]
        },
        height=11,
    )


def _share(by_tenant: str) -> str:
    return f"{by_tenant} / on () group_left () (sum({by_tenant}) > 0)"


def _promises() -> list[Panel]:
    firing = 'max by (alertname, severity) (ALERTS{alertstate="firing", alertname=~"Tenantry.*"})'
    return [
        _burn(
            "Availability: budget burn by tier",
            "availability",
            "How many times faster than promised requests fail. 1 spends the budget exactly in 30 days; 14.4 over "
            "an hour spends a thirtieth of a month's in that hour and pages.",
        ),
        _burn(
            "First token: budget burn by tier",
            "ttft",
            "How many times faster than promised first tokens come late. Read as availability's; then look above for "
            "who grew.",
        ),
        p.rows(
            "Alerts that fire",
            "What Prometheus found that needs a person; 'none' if nothing. Each has a page under docs/runbooks with "
            "the first command to run.",
            [Column(title="Firing", expr=q.quiet(firing, q.SIDECAR, "alertname"), unit=p.COUNT)],
            sort_by="severity",
            width=8,
            height=8,
        ),
        states_of_rollouts(),
    ]


def _burn(title: str, sli: str, description: str) -> Panel:
    windows = ("5m", "1h", "6h")
    return p.line_chart(
        title,
        description,
        "suffix: times",
        *(
            Query(
                expr=q.most(q.recorded(f"tenantry:sla_{sli}:burn{window}"), "tier"),
                legend=f"{{{{tier}}}}, {window}",
            )
            for window in windows
        ),
        width=8,
        limits=p.above(1, 6),
    )
