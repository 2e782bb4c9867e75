"""Everything of a tenant: how it is served, what it takes, what it costs, what went wrong."""

from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from tenantry_dashboards import panels as p
from tenantry_dashboards import queries as q
from tenantry_dashboards.frame import NEIGHBOUR, TENANT, Row, made, of_line
from tenantry_dashboards.queries import MODEL, Query

BOTH = (MODEL, q.TENANT)
REQUESTS = q.raw("tenantry_requests_total", *BOTH)
FAILED = q.raw("tenantry_requests_total", *BOTH, 'ended="failed"')
WHO_ELSE = [of_line("Who caused this?", NEIGHBOUR)]


def build() -> Dashboard:
    """Return the dashboard."""
    return made(
        TENANT,
        "Everything of the chosen tenants: how they are served, what they take and cost, what went wrong. Choose one "
        "above, or come here from a line of the overview.",
        [
            Row(title="Now", panels=_now()),
            Row(title="Latency by phase", panels=_latency()),
            Row(title="What it takes", panels=_use()),
            Row(title="Money", panels=_money()),
            Row(title="What went wrong, and where it ran", panels=_errors()),
        ],
    )


def _now() -> list[Panel]:
    refused = q.quiet(q.rate(q.raw("tenantry_refusals_total", q.TENANT)), q.SIDECAR)
    ratio = q.quiet(q.most(q.raw("tenantry_quota_used_ratio", q.TENANT)), q.SIDECAR)
    return [
        p.value(
            "Requests",
            "Requests that ended, per second. None from a tenant that pays: ask it before it asks you.",
            p.REQUESTS, Query(expr=q.rate(REQUESTS), legend="requests"),
        ),
        p.value(
            "Failed requests",
            "Share that ended with 5xx or was cut, clients' aborts apart. Below, by version and status.",
            p.SHARE,
            Query(expr=q.ratio(q.quiet(q.rate(FAILED), q.SIDECAR), q.rate(REQUESTS)), legend="failed"),
            limits=p.above(0.001, 0.01),
        ),
        p.value(
            "Refused here",
            "Per second, answered by the sidecar: a wrong key, a route or model that it may not use, a quota.",
            p.REQUESTS, Query(expr=refused, legend="refused"),
        ),
        p.value(
            "Time to first token, p99",
            "Queue included. Compare it with the tier's promise in the overview.",
            p.SECONDS,
            Query(expr=q.quantile(0.99, "tenantry_time_to_first_token_seconds", *BOTH), legend="p99"),
            links=WHO_ELSE,
        ),
        p.value(
            "GPUs kept busy",
            "GPU-seconds per second. One GPU wholly for this tenant is 1.",
            p.GPUS, Query(expr=q.rate(q.raw("tenantry_gpu_seconds_total", *BOTH)), legend="GPUs"),
        ),
        p.value(
            "Quota of this period spent",
            "The highest of the chosen tenants. At 100 % requests are refused until the period ends: raise it, or tell "
            "the tenant.",
            p.SHARE, Query(expr=ratio, legend="spent"), limits=p.above(0.75, 0.9),
        ),
    ]  # fmt: skip


def _latency() -> list[Panel]:
    def phase(title: str, metric: str, description: str) -> Panel:
        quantiles = [
            Query(expr=q.quantile(share, metric, *BOTH, by="tenant"), legend=f"{{{{tenant}}}} {name}", exemplar=True)
            for share, name in ((0.5, "p50"), (0.99, "p99"))
        ]
        return p.line_chart(title, description, p.SECONDS, *quantiles, width=8, links=WHO_ELSE)

    def part(metric: str) -> str:
        return q.mean(metric, *BOTH)

    return [
        phase(
            "1. In the queue", "tenantry_queue_seconds",
            "Before the engine began. High: others, or this tenant itself, fill the engine; see the noisy neighbour.",
        ),
        phase(
            "2. To the first token", "tenantry_time_to_first_token_seconds",
            "Queue and prefill. High with a short queue: its prompts are long, or nothing of them is cached.",
        ),
        phase(
            "3. Each further token", "tenantry_time_per_output_token_seconds",
            "The pace of generation. High: large batches; the version; too little memory, so that work is preempted.",
        ),
        p.line_chart(
            "Where the time to the first token goes, mean",
            "Queue, and what comes after it until the first token. Which of them grew says where to look.",
            p.SECONDS,
            Query(expr=part("tenantry_queue_seconds"), legend="queue"),
            Query(
                expr=f"{part('tenantry_time_to_first_token_seconds')} - {part('tenantry_queue_seconds')}",
                legend="prefill",
            ),
            stacked=True,
        ),
        p.line_chart(
            "Whole request and first byte by version, p99",
            "What Envoy saw, of all tenants of the chosen models. The first byte is not the first token: engines send "
            "their headers at once.",
            p.SECONDS,
            Query(
                expr=q.quantile(0.99, "tenantry_request_duration_seconds", MODEL, by="model, version"),
                legend="{{model}} {{version}} whole",
            ),
            Query(
                expr=q.quantile(0.99, "tenantry_time_to_first_byte_seconds", MODEL, by="model, version"),
                legend="{{model}} {{version}} first byte",
            ),
        ),
    ]  # fmt: skip


def _use() -> list[Panel]:
    tokens = q.rate(q.raw("tenantry_tokens_total", *BOTH), "tenant, kind")
    gpu = q.rate(q.raw("tenantry_gpu_seconds_total", *BOTH), "tenant, phase")
    held = q.rate(q.raw("tenantry_kv_byte_seconds_total", *BOTH), "tenant")
    return [
        p.line_chart(
            "GPUs used by phase",
            "GPU-seconds per second. Prefill grows with prompts, decode with answers and with how many run at once.",
            p.GPUS, Query(expr=gpu, legend="{{tenant}} {{phase}}", exemplar=True), stacked=True, links=WHO_ELSE,
        ),
        p.line_chart(
            "Tokens",
            "Per second by kind. Cached ones are input that the engine had already; many of them make a cheap tenant.",
            p.TOKENS, Query(expr=tokens, legend="{{tenant}} {{kind}}"),
        ),
        p.line_chart(
            "KV-cache memory held",
            "Bytes held on average: byte-seconds per second. It is what others cannot use, and they queue for it.",
            p.BYTES, Query(expr=held, legend="{{tenant}}"), stacked=True, links=WHO_ELSE,
        ),
        p.line_chart(
            "Peak memory of a request",
            "The most that one request held in the KV cache. A p99 far above the median: a few very long contexts.",
            p.BYTES,
            *(
                Query(
                    expr=q.quantile(share, "tenantry_request_peak_memory_bytes", *BOTH, by="tenant"),
                    legend=f"{{{{tenant}}}} {name}",
                )
                for share, name in ((0.5, "p50"), (0.99, "p99"))
            ),
        ),
    ]  # fmt: skip


def _money() -> list[Panel]:
    revenue, cost = (
        q.total(q.recorded(f"tenantry:{name}:rate1h", q.TENANT), "tenant, currency") + " * 3600"
        for name in ("revenue", "cost")
    )
    units = q.rate(q.raw("tenantry_compute_units_total", *BOTH), "tenant")
    reserved = q.total(q.raw("tenantry_quota_reserved_compute_units", q.TENANT), "tenant")
    return [
        p.line_chart(
            "Revenue and cost",
            "Per hour, over the last hour, at the terms of now, of all models. Cost above revenue: this tenant is "
            "served at a loss; see unit economics. Bills are the ledger's.",
            p.MONEY_PER_HOUR,
            Query(expr=revenue, legend="{{tenant}} revenue {{currency}}"),
            Query(expr=cost, legend="{{tenant}} cost {{currency}}"),
            width=8,
        ),
        p.line_chart(
            "Compute units",
            "Per second: what quotas and prices count.",
            p.PER_SECOND, Query(expr=units, legend="{{tenant}}"), width=8,
        ),
        p.line_chart(
            "Compute units reserved",
            "Of requests under way, by all sidecars together. Near a limit, the next request is refused although less "
            "will be used in the end.",
            p.COUNT, Query(expr=q.quiet(reserved, q.SIDECAR, "tenant"), legend="{{tenant}}"), width=8,
        ),
    ]  # fmt: skip


def _errors() -> list[Panel]:
    statuses = q.rate(q.raw("tenantry_requests_total", *BOTH, 'ended!="completed"'), "tenant, code, ended")
    finished = q.rate(q.raw("tenantry_finished_requests_total", *BOTH), "tenant, reason")
    codes = q.rate(q.raw("tenantry_refusals_total", q.TENANT), "tenant, code")
    windows = q.rate(q.raw("tenantry_quota_refusals_total", q.TENANT), "tenant, window")
    versions = q.rate(REQUESTS, "model, version")
    attempts = q.rate(q.raw("tenantry_upstream_attempts_total", *BOTH), "model, version")
    return [
        p.line_chart(
            "Requests that did not complete",
            "Per second by status. `aborted`: the client left; `failed`: 5xx, or cut by the engine.",
            p.REQUESTS, Query(expr=q.quiet(statuses, q.SIDECAR, "tenant"), legend="{{tenant}} {{ended}} {{code}}"),
            width=8,
        ),
        p.line_chart(
            "How requests finished",
            "Per second, as engines tell. Many `length`: answers are cut off at the client's own limit.",
            p.REQUESTS, Query(expr=finished, legend="{{tenant}} {{reason}}"), width=8,
        ),
        p.line_chart(
            "Refused by reason",
            "Per second. docs/errors.md says what each code means and what the client has to change.",
            p.REQUESTS, Query(expr=q.quiet(codes, q.SIDECAR, "code"), legend="{{tenant}} {{code}}"), width=8,
        ),
        p.line_chart(
            "Refused by a quota",
            "Per second by the quota's window. Short ones: a burst, the client should wait; the period: it is spent.",
            p.REQUESTS, Query(expr=q.quiet(windows, q.SIDECAR, "window"), legend="{{tenant}} {{window}}"), width=8,
        ),
        p.line_chart(
            "Requests by version",
            "Per second. It moves with a pin, a canary or a revert; marks show when rules went live.",
            p.REQUESTS, Query(expr=versions, legend="{{model}} {{version}}"), width=8, stacked=True,
        ),
        p.line_chart(
            "Attempts for each request",
            "Above 1: a candidate failed and the stable version was asked too.",
            p.COUNT, Query(expr=f"{attempts} / {versions}", legend="{{model}} {{version}}"), width=8,
        ),
    ]  # fmt: skip
