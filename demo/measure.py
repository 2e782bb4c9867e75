"""From what was recorded to the report. Pure: the same run gives the same report."""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from statistics import median

from demo.expectations import expectations
from demo.joined import Joined
from demo.measure_metering import metering_report, with_usage
from demo.measure_retrieval import vector_report
from demo.measure_rollouts import rollout_report
from demo.metering_expectations import metering_expectations
from demo.quantiles import quantiles
from demo.report import (
    Bin,
    ForgeryReport,
    ProbeReport,
    RefusalReport,
    ReloadReport,
    Report,
    RolloutReport,
    TenantReport,
    Timeline,
    VersionReport,
)
from demo.retrieval_expectations import retrieval_expectations
from demo.run import Call, CrowdCall, Run
from demo.scenario import FORGED_HEADERS, FORGED_MEMBERS, MODEL, TenantPlan
from demo.upstream import forged_headers, forged_members, leaked_keys

BIN_S = 1.0
STATE = "beta only"
"""Of MODEL: tenants with the beta flag get the candidate, nobody else."""

ENGINE_NOTES = {
    "stand-in": (
        "The engines are stand-ins: no model ran. Their words are filler and the time they take is simulated, "
        "a slow candidate's slowness too, and so are GPU time, cold starts and amounts. Envoy, the sidecar, its guard, "
        "the ledger, the clients and every request are real."
    ),
    "vllm": (
        "The engines are real vLLM on CPU with a tiny model of random weights: what it writes means nothing, "
        "and its speed says nothing about a GPU: GPU time is that of a CPU, and amounts are examples. Two cores are "
        "too slow for the load that a guard needs, so this play has pins and a beta flag, and no candidate on trial: "
        "the play with stand-in engines has two."
    ),
}


def build(run: Run) -> Report:
    """Return the report of a run."""
    joined = Joined(run)
    metering = metering_report(run)
    tenants = with_usage({plan.name: tenant_report(joined, plan) for plan in run.scenario.tenants}, metering)
    rollouts = {MODEL: _rollout(joined), **{plan.model: rollout_report(run, plan) for plan in run.scenario.rollouts}}
    vector = vector_report(run.retrieval)
    held = [
        *expectations(run, joined, tenants, rollouts),
        *metering_expectations(run, metering),
        *retrieval_expectations(run.retrieval, vector),
    ]
    return Report(
        engine=run.scenario.engine,
        engine_note=ENGINE_NOTES[run.scenario.engine],
        seed=run.seed,
        ok=all(expectation.held for expectation in held),
        started=datetime.fromtimestamp(run.traffic_s[0], UTC).isoformat(timespec="seconds"),
        seconds=round(run.total_s, 1),
        versions=dict(run.versions),
        requests=len(run.calls) + len(run.crowd_calls),
        failed_requests=_failed(run.calls) + _failed(run.crowd_calls),
        tenants=tenants,
        rollouts=rollouts,
        vector=vector,
        metering=metering,
        model_versions={engine.version: _version(joined, engine.version) for engine in run.scenario.engines},
        expectations=held,
        refusals=[
            RefusalReport(
                what=refused.what,
                path=refused.path,
                expected=refused.expected,
                status=refused.status,
                message=refused.message,
            )
            for refused in run.refusals
        ],
        forgery=list(_forgery(joined)),
        probes={
            name: ProbeReport(
                requests=probe.requests, chunks=probe.chunks, ext_proc_messages=int(probe.conversation.messages)
            )
            for name, probe in run.probes.items()
        },
        reload=_reload(joined),
        sources=_sources(run),
        timeline=_timeline(joined),
    )


def stream_speed(calls: Iterable[Call]) -> float | None:
    """Return the median over streams of tokens per second after the first token; None without a stream."""
    speeds = [
        (call.output_tokens - 1) / seconds
        for call in calls
        if call.ttft_ms is not None
        and call.output_tokens > 1
        and (seconds := call.ended_s - call.sent_s - call.ttft_ms / 1e3) > 0
    ]
    return round(median(speeds), 1) if speeds else None


def tenant_report(joined: Joined, plan: TenantPlan) -> TenantReport:
    """Return one tenant's part, of a whole run or of one that is still under way."""
    run = joined.run
    calls = [call for call in run.calls if call.tenant == plan.name]
    served = joined.served(calls)
    streams = [call for call in calls if call.streamed]
    streamed_ids = {call.request_id for call in streams}
    truths = [(arrival, joined.truth(call, arrival)) for call, arrival in served]
    conversation = run.conversations.get(plan.name)
    messages = conversation.per_exchange if conversation else None
    return TenantReport(
        tier=plan.tier,
        rule=plan.rule,
        requests=len(calls),
        streamed=len(streams),
        embeddings=sum(call.route == "embeddings" for call in calls),
        errors=_failed(calls),
        versions=dict(sorted(Counter(arrival.version for _, arrival in served).items())),
        expected_version=plan.expected,
        priority_upstream=sorted({_whole(arrival.body.get("priority")) for _, arrival in served}),
        forged_headers_sent=sum(call.forged_headers for call in calls),
        forged_headers_upstream=sum(len(forged_headers(*pair)) for pair in truths),
        forged_members_upstream=sum(len(forged_members(*pair)) for pair in truths),
        client_key_upstream=sum(leaked_keys(arrival, run.keys.values()) for _, arrival in served),
        ttfb_ms=quantiles(
            outcome.ttfb_ms
            for outcome in run.outcomes
            if outcome.request_id in streamed_ids and outcome.ttfb_ms is not None
        ),
        ttft_ms=quantiles(call.ttft_ms for call in streams if call.ttft_ms is not None),
        stream_tokens_per_s=stream_speed(streams),
        output_tokens=sum(call.output_tokens for call in calls),
        chunks=sum(call.chunks for call in calls),
        ext_proc_messages_per_request=None if messages is None else round(messages, 4),
    )


def _rollout(joined: Joined) -> RolloutReport:
    candidate = joined.run.scenario.candidate
    versions = [arrival.version for _, arrival in joined.served(joined.run.calls)]
    count = versions.count(candidate)
    return RolloutReport(
        candidate=candidate,
        state=STATE,
        candidate_requests=count,
        candidate_share=round(count / len(versions), 4) if versions else 0.0,
        requests=len(versions),
    )


def _version(joined: Joined, version: str) -> VersionReport:
    calls = [call for call, arrival in joined.served(joined.run.calls) if arrival.version == version]
    return VersionReport(
        requests=len(calls),
        stream_tokens_per_s=stream_speed(call for call in calls if call.streamed),
        tenants=sorted({call.tenant for call in calls}),
    )


def _forgery(joined: Joined) -> Iterable[ForgeryReport]:
    run = joined.run
    forgers = [plan.name for plan in run.scenario.tenants if plan.forges]
    calls = [call for call in run.calls if call.tenant in forgers]
    pairs = joined.served(calls)
    reached_headers = Counter(name for pair in pairs for name in forged_headers(pair[1], joined.truth(*pair)))
    reached_members = Counter(name for pair in pairs for name in forged_members(pair[1], joined.truth(*pair)))
    copies = Counter(name.lower() for name, _ in FORGED_HEADERS)
    for name, value in {name.lower(): value for name, value in FORGED_HEADERS}.items():
        yield ForgeryReport(
            where="header", name=name, value=value, sent=copies[name] * len(calls), reached=reached_headers[name],
            engine_saw=_shown({arrival.header(name) for _, arrival in pairs}, "its own, made by the sidecar"),
        )  # fmt: skip
    for name, member in FORGED_MEMBERS.items():
        seen = {_text(arrival.body.get(name)) for call, arrival in pairs if call.route == "chat"}
        if name == "cache_salt":  # knowing a tenant's salt is what lets one probe its cache
            seen = {"the tenant's own, a keyed hash" for _ in seen}
        yield ForgeryReport(
            where="body", name=name, value=_text(member), sent=len(calls), reached=reached_members[name],
            engine_saw=_shown(seen, "tenant and id as the sidecar decided"),
        )  # fmt: skip


def _shown(values: set[str], many: str) -> str:
    """Say what the engines saw: one value, or that each request had one of its own."""
    seen = sorted(value for value in values if value)
    if not seen:
        return "nothing"
    return seen[0] if len(seen) == 1 else many


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {inner}" for key, inner in value.items())
    return "" if value is None else str(value)


def _reload(joined: Joined) -> ReloadReport | None:
    run = joined.run
    if run.reload is None:
        return None
    sent = [*(call.sent_s for call in run.calls), *(call.sent_s for call in run.crowd_calls)]
    return ReloadReport(
        change=run.scenario.change,
        at_s=round(run.reload.saved_s - run.traffic_s[0], 2),
        live_after_ms=round((run.reload.live_s - run.reload.saved_s) * 1e3, 1),
        requests_during=sum(run.reload.saved_s <= sent_s <= run.reload.live_s for sent_s in sent),
        failed_requests=_failed(run.calls) + _failed(run.crowd_calls),
    )


def _timeline(joined: Joined) -> Timeline:
    begin, end = joined.run.traffic_s
    bins: dict[str, dict[int, Counter[str]]] = {plan.name: {} for plan in joined.run.scenario.tenants}
    for call, arrival in joined.served(joined.run.calls):
        if begin <= call.sent_s <= end:
            index = int((call.sent_s - begin) / BIN_S)
            bins[call.tenant].setdefault(index, Counter())[arrival.version] += 1
    return Timeline(
        bin_s=BIN_S,
        end_s=round(end - begin, 2),
        tenants={
            name: [
                Bin(at_s=index * BIN_S, versions=dict(sorted(counts.items())))
                for index, counts in sorted(slots.items())
            ]
            for name, slots in bins.items()
        },
    )


def _sources(run: Run) -> dict[str, str]:
    sources = {
        "versions, priority, what reached the engines": run.record_source,
        "whose a request was": "the client that sent it, joined by the id in the response header x-tenantry-request-id",
        "time to first byte": "Envoy's access log, streamed requests only: engines send their headers at once",
        "time to first token, chunks, tokens": "counted by the openai client",
        "ext_proc messages": "the sidecar's own metrics, over a stretch in which only POSTs were sent",
    }
    sources |= {
        "GPU time, compute units": "the engines' usage records, brought to the ledger by spools on disk, read by HTTP",
        "idle time, cold starts": "the engines' own account of their time, in the ledger as well",
        "amounts": "the ledger's invoices, by the prices in the rules",
    }
    if run.scenario.rollouts:
        sources |= {
            "load of the rollouts": "light HTTP clients: the openai client takes too much CPU for thousands",
            "who served the rollouts' requests": "the engine that answered, by a header of its answer; copies by its "
            "own count",
            "what the split drew": "Envoy's access log, with what the sidecar wrote at its decision",
            "states, evidence, verdicts": "the sidecar's admin listener (/rollouts), as `tenantry rollout` asks it",
        }
    if not run.retrieval.not_run:
        sources |= {
            "what retrieval answered": "the tenants' clients (pymilvus); a text says whose it is by its figure",
            "rows by tenant": "the engine, read by its operator past Envoy and the sidecar",
        }
    return sources


def _failed(calls: Iterable[Call | CrowdCall]) -> int:
    return sum(bool(call.error) or call.status != 200 for call in calls)


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0
