"""Who caused this spike: shares of GPU time and KV memory beside the others' latency, and what it came to."""

from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from tenantry_dashboards import money
from tenantry_dashboards import panels as p
from tenantry_dashboards import queries as q
from tenantry_dashboards.frame import NEIGHBOUR, TENANT, Row, made, of_cell, of_line
from tenantry_dashboards.panels import Column
from tenantry_dashboards.queries import MODEL, Query

TTFT = "tenantry_time_to_first_token_seconds"
GPU_SECONDS = q.raw("tenantry_gpu_seconds_total", MODEL)
RANKING = q.shown_at_end(GPU_SECONDS, "tenant")
TO_TENANT = [of_line("Everything of ${__field.labels.tenant}", TENANT, "tenant")]


def build() -> Dashboard:
    """Return the dashboard. `tenant` narrows whose latency is shown; shares are always everybody's."""
    return made(
        NEIGHBOUR,
        "Who caused this spike. Zoom to the spike; 1: when did the others begin to wait; 2: whose share grew then; "
        "3: the table says by how much, and what it cost; 4: what that tenant did differently. The variable `tenant` "
        "narrows whose waiting is shown, never whose share.",
        [
            Row(title="1. When did others wait", panels=_victims()),
            Row(title="2. Whose share grew", panels=_shares()),
            Row(title="3. By how much, and what it cost", panels=[_table()]),
            Row(title="4. What it did differently", panels=_causes()),
        ],
    )


def _victims() -> list[Panel]:
    longest = q.recorded("tenantry:ttft_seconds:p99_5m", MODEL, q.TENANT)
    waiting = f"max by (tenant) (max_over_time({longest}[$__range] @ end()))"
    return [
        p.line_chart(
            "Time to first token by tenant, p99",
            "The ten that waited longest. All rise at once: something filled the engines. Zoom to where it begins.",
            p.SECONDS,
            Query(
                expr=q.top(q.quantile(0.99, TTFT, MODEL, q.TENANT, by="tenant"), "tenant", waiting),
                legend="{{tenant}}",
                exemplar=True,
            ),
            width=16,
            links=TO_TENANT,
        ),
        p.line_chart(
            "Engines busy",
            "Share of GPU time in which something ran. Below 80 % during the spike: it was not load; look at the "
            "version, the network, or a cold start.",
            p.SHARE,
            Query(
                expr=q.most(q.recorded("tenantry:engine_utilisation:ratio5m", MODEL), "model, version"),
                legend="{{model}} {{version}}",
            ),
            limits=p.above(0.85, 0.95),
            width=8,
        ),
    ]


def _shares() -> list[Panel]:
    def share(title: str, metric: str, description: str) -> Panel:
        by_tenant = q.most(q.recorded(metric, MODEL), "model, tenant")
        largest = f"max by (tenant) (max_over_time({q.recorded(metric, MODEL)}[$__range] @ end()))"
        query = Query(expr=q.top(by_tenant, "tenant", largest), legend="{{tenant}} on {{model}}")
        return p.line_chart(title, description, p.SHARE, query, height=9, links=TO_TENANT)

    return [
        share(
            "Share of a model's GPU time", "tenantry:gpu_share:ratio5m",
            "Of several clusters the largest share. Whoever grew when the others began to wait is the cause; one that "
            "was large before and stayed so is not.",
        ),
        share(
            "Share of a model's KV memory", "tenantry:kv_share:ratio5m",
            "Memory can be the cause without GPU time: a few very long contexts held for long leave no room, and "
            "others queue or are preempted.",
        ),
    ]  # fmt: skip


def _table() -> Panel:
    gpu = q.shown(GPU_SECONDS, "tenant")
    before = q.total(f"increase({GPU_SECONDS}[$__range] offset $__range)", "tenant")
    kv = q.shown(q.raw("tenantry_kv_byte_seconds_total", MODEL), "tenant")
    grew = f"{gpu} - ({q.absent_as_zero(before, gpu)})"
    cost = q.shown(GPU_SECONDS, "cluster, tenant")
    cost_before = q.total(f"increase({GPU_SECONDS}[$__range] offset $__range)", "cluster, tenant")
    extra = f"({cost} - ({q.absent_as_zero(cost_before, cost)}))"
    return p.rows(
        "Tenants, in the time that is shown",
        "Who grew most stands first, against the stretch of equal length just before. Money is GPU time at what it "
        "costs the operator, whoever pays: all of it, and what came on top.",
        [
            Column(title="GPU-seconds more than before", expr=grew, unit=p.SECONDS),
            Column(title="GPU-seconds", expr=gpu, unit=p.SECONDS),
            Column(title="GPU time", expr=_share(gpu), unit=p.SHARE, limits=p.above(0.5, 0.8)),
            Column(title="KV memory", expr=_share(kv), unit=p.SHARE, limits=p.above(0.5, 0.8)),
            Column(title="First token p99", expr=q.quantile_shown(0.99, TTFT, MODEL, by="tenant"), unit=p.SECONDS),
            Column(title="Cost", expr=money.of_gpu_seconds(cost, "tenant"), unit=p.COUNT),
            Column(title="Cost more than before", expr=money.of_gpu_seconds(extra, "tenant"), unit=p.COUNT),
        ],
        sort_by="GPU-seconds more than before",
        links={"tenant": [of_cell("Everything of ${__value.text}", TENANT, "tenant")]},
    )


def _share(by_tenant: str) -> str:
    return f"{by_tenant} / on () group_left () (sum({by_tenant}) > 0)"


def _causes() -> list[Panel]:
    def of_top(title: str, description: str, unit: str, expr: str, *, exemplar: bool = False) -> Panel:
        query = Query(expr=q.top(expr, "tenant", RANKING), legend="{{tenant}}", exemplar=exemplar)
        return p.line_chart(title, description, unit, query, width=8, links=TO_TENANT)

    finished = q.rate(q.raw("tenantry_finished_requests_total", MODEL), "tenant")

    def tokens_each(kind: str) -> str:
        return q.ratio(q.rate(q.raw("tenantry_tokens_total", MODEL, f'kind="{kind}"'), "tenant"), finished)

    refused = q.rate(q.raw("tenantry_quota_refusals_total"), "tenant, window")
    return [
        of_top(
            "More requests",
            "Per second, of the ten with most GPU time. Grew: a burst; a quota on the short window holds the next one.",
            p.REQUESTS, q.rate(q.raw("tenantry_requests_total", MODEL), "tenant"),
        ),
        of_top(
            "Longer prompts",
            "Input tokens for each request. Grew: prefill took the steps that others' tokens waited for.",
            "suffix: tokens", tokens_each("input"),
        ),
        of_top(
            "Longer answers",
            "Output tokens for each request. Grew: its requests hold slots and memory longer.",
            "suffix: tokens", tokens_each("output"),
        ),
        of_top(
            "More memory for each request",
            "Peak in the KV cache, p99. Grew: fewer requests fit beside it.",
            p.BYTES, q.quantile(0.99, "tenantry_request_peak_memory_bytes", MODEL, by="tenant"), exemplar=True,
        ),
        of_top(
            "Time in the queue",
            "p99. Of whoever fills an engine it grows as well: priorities and tiers decide who waits.",
            p.SECONDS, q.quantile(0.99, "tenantry_queue_seconds", MODEL, by="tenant"), exemplar=True,
        ),
        p.line_chart(
            "Held back by a quota",
            "Requests refused per second. None for the tenant that grew: it has no quota on this window; "
            "docs/set-a-quota.md.",
            p.REQUESTS,
            Query(expr=q.quiet(refused, q.SIDECAR, "tenant"), legend="{{tenant}} {{window}}"),
            width=8, links=TO_TENANT,
        ),
    ]  # fmt: skip
