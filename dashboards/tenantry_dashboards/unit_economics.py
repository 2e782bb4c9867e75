"""What a tenant and a thousand tokens cost, what remains of the price, and what is paid for nothing."""

from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from tenantry_dashboards import money
from tenantry_dashboards import panels as p
from tenantry_dashboards import queries as q
from tenantry_dashboards.frame import ECONOMICS, TENANT, Row, made, of_cell
from tenantry_dashboards.panels import Column
from tenantry_dashboards.queries import MODEL, Query

BOTH = (MODEL, q.TENANT)
TOKENS = q.raw("tenantry_tokens_total", *BOTH, 'kind!="cached"')
"""Cached tokens are part of the input."""
IDLE = q.raw("tenantry_engine_idle_gpu_seconds_total", MODEL)
BUSY = q.raw("tenantry_engine_busy_gpu_seconds_total", MODEL)


def build() -> Dashboard:
    """Return the dashboard."""
    return made(
        ECONOMICS,
        "What a tenant and a thousand tokens cost, what remains of the price, and what is paid for nothing. At the "
        "terms of now; bills and closed periods are the ledger's.",
        [
            Row(title="Now, per hour", panels=_now()),
            Row(title="Margin and cost", panels=_margin()),
            Row(title="By tenant, in the time that is shown", panels=[_tenants()]),
            Row(title="What is paid for nothing", panels=_idle()),
        ],
        since="now-24h",
    )


def _now() -> list[Panel]:
    revenue, cost = (
        q.total(q.recorded(f"tenantry:{name}:rate1h", q.TENANT), "currency") for name in ("revenue", "cost")
    )
    each = f"{_gpu_cost('currency')} / on () group_left () ({q.rate(TOKENS)} > 0) * 1000"
    return [
        p.value(
            "Revenue", "What tenants' use is worth at its prices, over the last hour.",
            p.MONEY_PER_HOUR, Query(expr=f"{revenue} * 3600", legend="{{currency}}"),
        ),
        p.value(
            "Cost of tenants' GPU time",
            "What the operator pays for the GPU time of requests that tenants pay for, over the last hour.",
            p.MONEY_PER_HOUR, Query(expr=f"{cost} * 3600", legend="{{currency}}"),
        ),
        p.value(
            "Margin",
            "1 - cost / revenue, the worst tier. Idle time is not in it: subtract the next panel to see what remains. "
            "Below 0: a tier is served at a loss.",
            p.SHARE, Query(expr=f"min({q.recorded('tenantry:margin:ratio1h')})", legend="worst tier"),
            limits=p.below(0, 0.2),
        ),
        p.value(
            "Cost of idle GPUs",
            "What the time costs in which nothing ran. High for long: fewer engines would do.",
            p.MONEY_PER_HOUR,
            Query(expr=_per_hour(q.rate(IDLE, "cluster"), "currency"), legend="{{currency}}"),
        ),
        p.value(
            "Cost per 1,000 tokens",
            "Tenants' GPU time over their input and output tokens. Falls as batches fill.",
            p.COUNT, Query(expr=each, legend="{{currency}}"), decimals=5,
        ),
        p.value(
            "GPUs busy",
            "Share of the engines' GPU time in which something ran.",
            p.SHARE, Query(expr=f"avg({q.recorded('tenantry:engine_utilisation:ratio5m', MODEL)})", legend="busy"),
            limits=p.below(0.2, 0.4),
        ),
    ]  # fmt: skip


def _per_hour(gpu_seconds_per_second: str, by: str) -> str:
    """Price GPUs in use, by cluster, at the operator's cost of an hour."""
    return q.total(f"{gpu_seconds_per_second} * on (cluster) group_left (currency) {money.COST_PER_GPU_HOUR}", by)


def _gpu_cost(by: str) -> str:
    """Price tenants' GPU time per second."""
    extra = "".join(f", {label}" for label in ("model",) if label in by)
    used = q.rate(q.raw("tenantry_gpu_seconds_total", *BOTH, 'owner="tenant"'), f"cluster{extra}")
    return money.of_gpu_seconds(used, by.removesuffix("currency").rstrip(", "))


def _margin() -> list[Panel]:
    per_token = f"{_gpu_cost('model, currency')} / on (model) group_left () ({q.rate(TOKENS, 'model')} > 0) * 1000"
    by_tier = [
        q.total(q.recorded(f"tenantry:{name}:rate1h", q.TENANT), "tier, currency") + " * 3600"
        for name in ("revenue", "cost")
    ]
    return [
        p.line_chart(
            "Margin by tier",
            "1 - cost / revenue, without idle time. A tier below the others: its price, or tenants in it whose "
            "requests share nothing (no cached prefix, small batches).",
            p.SHARE,
            Query(
                expr=q.most(q.recorded("tenantry:margin:ratio1h"), "tier, currency"), legend="{{tier}} {{currency}}"
            ),
            width=8, limits=p.below(0, 0.2), lowest=None,
        ),
        p.line_chart(
            "Revenue and cost by tier",
            "Per hour, over the last hour.",
            p.MONEY_PER_HOUR,
            Query(expr=by_tier[0], legend="{{tier}} revenue {{currency}}"),
            Query(expr=by_tier[1], legend="{{tier}} cost {{currency}}"),
            width=8,
        ),
        p.line_chart(
            "Cost per 1,000 tokens by model",
            "Tenants' GPU time over input and output tokens. A rise at the same load: the version; at less load: "
            "batches that are not full.",
            p.COUNT, Query(expr=per_token, legend="{{model}} {{currency}}"), width=8,
        ),
    ]  # fmt: skip


def _tenants() -> Panel:
    tokens = q.shown(TOKENS, "tenant")
    cost, revenue = money.cost_shown("tenant", *BOTH), money.revenue_shown("tenant", *BOTH)
    return p.rows(
        "Tenants",
        "Cost is GPU time that the tenant pays for, at what it costs the operator. Margin below 0: served at a loss.",
        [
            Column(title="Revenue", expr=revenue, unit=p.COUNT),
            Column(title="Cost", expr=cost, unit=p.COUNT),
            Column(title="Margin", expr=f"1 - {cost} / ({revenue} > 0)", unit=p.SHARE, limits=p.below(0, 0.2)),
            Column(title="Tokens", expr=tokens, unit=p.COUNT),
            Column(
                title="Cost per 1,000 tokens",
                expr=f"{cost} / on (tenant) group_left () ({tokens} > 0) * 1000",
                unit=p.COUNT,
            ),
            Column(
                title="Compute units",
                expr=q.shown(q.raw("tenantry_compute_units_total", *BOTH), "tenant"),
                unit=p.COUNT,
            ),
        ],
        sort_by="Cost",
        links={"tenant": [of_cell("Everything of ${__value.text}", TENANT, "tenant")]},
    )


def _idle() -> list[Panel]:
    owners = q.rate(q.raw("tenantry_gpu_seconds_total", MODEL), "owner")
    unaccounted = f"clamp_min({q.rate(BUSY)} - {q.rate(q.raw('tenantry_gpu_seconds_total', MODEL))}, 0)"
    cold = q.rate(q.raw("tenantry_cold_start_seconds_sum", MODEL), "model, phase")
    return [
        p.line_chart(
            "Who owns the GPU time",
            "GPUs by owner: tenants pay for `tenant`, the operator for all else: `failed` attempts, `mirror` copies, "
            "`unstamped` (past the sidecar), `unfinished`, no record yet, idle.",
            p.GPUS,
            Query(expr=owners, legend="{{owner}}", exemplar=True),
            Query(expr=unaccounted, legend="no record yet"),
            Query(expr=q.rate(IDLE), legend="idle"),
            stacked=True, width=8, height=9,
        ),
        p.line_chart(
            "Utilisation by version",
            "Share of GPU time in which something ran. A version near 0 % has engines that nobody asks: see deployment "
            "drift.",
            p.SHARE,
            Query(
                expr=q.most(q.recorded("tenantry:engine_utilisation:ratio5m", MODEL), "model, version"),
                legend="{{model}} {{version}}",
            ),
            width=8, height=9,
        ),
        p.line_chart(
            "Cold starts",
            "Seconds of engines' starts per second, by phase. Much `download` or `load`: keep weights near; much "
            "`capture` or `warm_up`: start fewer, larger.",
            p.COUNT, Query(expr=q.quiet(cold, q.LEDGER, "phase"), legend="{{model}} {{phase}}"), width=8, height=9,
        ),
    ]  # fmt: skip
