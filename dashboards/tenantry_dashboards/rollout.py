"""How a candidate does beside the stable version, and why it was taken back."""

from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from tenantry_dashboards import panels as p
from tenantry_dashboards import queries as q
from tenantry_dashboards.frame import ROLLOUT, TENANT, Annotation, Row, made, of_line
from tenantry_dashboards.panels import Column
from tenantry_dashboards.queries import MODEL, Query

STATE = q.raw("tenantry_rollout_state", MODEL)
CODES = {"splitting": "1", "promoted": "2", "paused": "3", "reverted": "4"}
"""The more careful state is the larger: of replicas that differ, the largest is shown."""

NAMES = {
    "0": ("not known", "text"),
    "1": ("splitting", "blue"),
    "2": ("promoted", p.GREEN),
    "3": ("paused", p.YELLOW),
    "4": ("reverted", p.RED),
}


def build() -> Dashboard:
    """Return the dashboard."""
    return made(
        ROLLOUT,
        "How a candidate does beside the stable version: its share, the evidence, verdicts (marks in all panels).",
        [
            Row(title="Where it stands", panels=[states_of_rollouts(), *_standing()]),
            Row(title="Shares", panels=_shares()),
            Row(title="Candidate beside stable", panels=_arms()),
            Row(title="Versions, as engines measured them", panels=_versions()),
            Row(title="Evidence", panels=_evidence()),
        ],
        annotations=[_verdicts(), _steps()],
        since="now-6h",
    )


def states_of_rollouts() -> Panel:
    """Show which state each rollout of the fleet is in."""
    coded = " or ".join(
        q.raw("tenantry_rollout_state", MODEL, f'state="{state}"') + f" * {code}" for state, code in CODES.items()
    )
    return p.states(
        "Rollouts",
        "State of each candidate. Reverted: the guard or an operator took it back; `tenantry rollout explain MODEL` "
        "says by which evidence, `resume` tries again.",
        Query(expr=q.quiet(q.most(coded, "model, candidate"), q.SIDECAR, "model"), legend="{{model}} {{candidate}}"),
        names=NAMES,
        height=5,
    )


def _verdicts() -> Annotation:
    now = q.most(STATE, "cluster, model, candidate, state")
    before = q.most(f"{STATE} offset 1m", "cluster, model, candidate, state")
    return Annotation(
        "Verdicts and words", f"{now} == 1 unless {before} == 1",
        title="{{model}} {{candidate}}: {{state}}", tags="cluster,model,candidate,state", colour="red",
    )  # fmt: skip


def _steps() -> Annotation:
    changed = q.most(f"changes({q.raw('tenantry_rollout_percent', MODEL)}[2m])", "cluster, model") + " > 0"
    return Annotation("Steps", changed, title="{{model}}: another share", tags="cluster,model", colour="purple")


def _standing() -> list[Panel]:
    def of_model(metric: str) -> str:
        return q.quiet(q.most(q.raw(metric, MODEL), "model"), q.SIDECAR, "model")

    return [
        p.value(
            "Suspicion",
            "The largest of the fleet's log e-values over its threshold: how much speaks against the candidate. At 1 "
            "the guard takes it back.",
            p.COUNT,
            Query(expr=of_model("tenantry_rollout_suspicion"), legend="{{model}}"),
            width=6, limits=p.above(0.5, 1), decimals=2,
        ),
        p.value(
            "Verdicts held back",
            "The candidate would be taken back, but the stable version fails too: that would help nobody. Look for "
            "what both share.",
            p.COUNT,
            Query(expr=of_model("tenantry_rollout_held_verdicts"), legend="{{model}}"),
            width=6, limits=p.above(None, 1),
        ),
        p.value(
            "Tenants pinned to a reverted version",
            "They stay where they are pinned, by their own rules. Tell them, or change the pin.",
            p.COUNT,
            Query(expr=of_model("tenantry_rollout_pinned_to_reverted"), legend="{{model}}"),
            width=6, limits=p.above(1, 100),
        ),
        p.value(
            "Records from another version",
            "Usage records per second of engines that run another version than their endpoints are listed under. Not "
            "0: evidence counts for the wrong version; see deployment drift.",
            p.PER_SECOND,
            Query(
                expr=q.quiet(
                    q.rate(q.raw("tenantry_rollout_version_mismatches_total", MODEL), "model"), q.SIDECAR, "model"
                ),
                legend="{{model}}",
            ),
            width=6, limits=p.above(None, 0.001),
        ),
    ]  # fmt: skip


def _shares() -> list[Panel]:
    percent, realised = (
        q.most(q.raw(f"tenantry_rollout_{name}", MODEL), "model") for name in ("percent", "realised_share")
    )
    scopes = q.most(q.raw("tenantry_rollout_scopes", MODEL), "model, state")
    return [
        p.line_chart(
            "Share of the candidate",
            "What the rules ask for, and what units really got since this chapter began. Realised stays below wanted "
            "where tenants are pinned or shut out, and nears it as units come.",
            p.SHARE,
            Query(expr=q.quiet(f"{percent} / 100", q.SIDECAR, "model"), legend="{{model}} wanted"),
            Query(expr=q.quiet(realised, q.SIDECAR, "model"), legend="{{model}} realised"),
        ),
        p.line_chart(
            "Tiers and tenants that stand apart",
            "How many have a state of their own: the guard or an operator took the candidate from them alone. Many: "
            "the candidate suits only some; `tenantry rollout status` names them.",
            p.COUNT,
            Query(expr=q.quiet(scopes, q.SIDECAR, "model"), legend="{{model}} {{state}}"),
        ),
    ]


def _arms() -> list[Panel]:
    arms = q.raw("tenantry_rollout_requests_total", MODEL, q.TENANT)
    failed = q.raw("tenantry_rollout_requests_total", MODEL, q.TENANT, 'ended="failed"')
    by_arm = q.rate(arms, "model, arm")
    rescued = q.rate(q.raw("tenantry_rollout_rescued_total", MODEL, q.TENANT), "model, tenant")
    return [
        p.line_chart(
            "Requests by arm",
            "Requests per second by the version that they were assigned. An arm that is missing gets no traffic, and "
            "no evidence comes.",
            p.REQUESTS,
            Query(expr=q.quiet(by_arm, q.SIDECAR, "model"), legend="{{model}} {{arm}}"),
            width=8,
        ),
        p.line_chart(
            "Failed requests by arm",
            "Share of an arm's requests that failed. The candidate above the stable version: the guard is collecting "
            "evidence against it. Both: it is not the version.",
            p.SHARE,
            Query(
                expr=q.quiet(
                    q.ratio(q.absent_as_zero(q.rate(failed, "model, arm"), by_arm), by_arm), q.SIDECAR, "model"
                ),
                legend="{{model}} {{arm}}",
            ),
            width=8,
        ),
        p.line_chart(
            "Rescued requests by tenant",
            "Requests per second that the candidate failed and the stable version answered: clients saw no error, but "
            "waited longer, and the operator paid twice.",
            p.REQUESTS,
            Query(expr=q.quiet(rescued, q.SIDECAR, "tenant"), legend="{{tenant}} ({{model}})"),
            width=8,
            links=[of_line("Everything of ${__field.labels.tenant}", TENANT, "tenant")],
        ),
    ]


def _versions() -> list[Panel]:
    def p99(metric: str) -> Query:
        expr = q.quantile(0.99, metric, MODEL, q.TENANT, by="model, version")
        return Query(expr=expr, legend="{{model}} {{version}}", exemplar=True)

    finished = q.rate(q.raw("tenantry_finished_requests_total", MODEL, q.TENANT), "model, version, reason")
    return [
        p.line_chart(
            "Time to first token by version, p99",
            "Queue and prefill. A candidate that is slower here also fills its queue sooner. Points are requests.",
            p.SECONDS, p99("tenantry_time_to_first_token_seconds"), width=8,
        ),
        p.line_chart(
            "Time per output token by version, p99",
            "The pace of generation. Slower at the same load: the version, its quantisation; at more load: the batch.",
            p.SECONDS, p99("tenantry_time_per_output_token_seconds"), width=8,
        ),
        p.line_chart(
            "How requests finished by version",
            "Requests per second by what ended them. More `length` or `abort` than the stable version has: the "
            "candidate talks too long, or clients give up.",
            p.REQUESTS, Query(expr=finished, legend="{{model}} {{version}} {{reason}}"), width=8,
        ),
    ]  # fmt: skip


def _evidence() -> list[Panel]:
    observed = q.rate(q.raw("tenantry_rollout_observations_total", MODEL), "model, kind, record")
    dropped, unjoined = (
        q.rate(q.raw(f"tenantry_rollout_{name}_total")) for name in ("observations_dropped", "joins_dropped")
    )
    kinds = q.happened(q.raw("tenantry_rollout_transitions_total", MODEL), "model, kind")
    return [
        p.line_chart(
            "What the guard was shown",
            "Requests per second, with the engine's record or without. Without: latency and tokens are not judged, "
            "statuses are; see whether engines reach POST /usage.",
            p.PER_SECOND,
            Query(expr=q.quiet(observed, q.SIDECAR, "kind"), legend="{{model}} {{kind}}, record: {{record}}"),
            width=8,
        ),
        p.line_chart(
            "Evidence lost",
            "Per second. Not 0: a queue was full, and the guard decides later than it could. Nothing becomes unsafe.",
            p.PER_SECOND,
            Query(expr=dropped, legend="queue full"),
            Query(expr=unjoined, legend="other half never came"),
            width=8, limits=p.above(None, 0.001),
        ),
        p.rows(
            "What happened in the time that is shown",
            "Reverts, alarms, promotions and the like, counted by all replicas. `tenantry rollout history` has each "
            "with its reason.",
            [Column(title="Times", expr=q.quiet(kinds, q.SIDECAR, "kind"), unit=p.COUNT)],
            sort_by="Times", width=8, height=8,
        ),
    ]  # fmt: skip
