"""What must hold for the demo to end well."""

from collections import defaultdict
from collections.abc import Iterator, Mapping

from demo.joined import Joined
from demo.report import Expectation, RolloutReport, TenantReport
from demo.rollout_expectations import rollout_expectations
from demo.run import Call, CrowdCall, Run
from demo.upstream import missing_headers

MESSAGES_PER_POST = 2
MESSAGES_PER_GET = 1


def expectations(
    run: Run, joined: Joined, tenants: Mapping[str, TenantReport], rollouts: Mapping[str, RolloutReport]
) -> list[Expectation]:
    """Return each expectation with whether it held."""
    return [
        *_requests(run, joined),
        *_versions(tenants),
        *rollout_expectations(run, rollouts),
        *_isolation(run, joined, tenants),
        *_conversation(run, tenants),
        *_edges(run),
    ]


def _requests(run: Run, joined: Joined) -> Iterator[Expectation]:
    calls: tuple[Call | CrowdCall, ...] = (*run.calls, *run.crowd_calls)
    errors = [call.error for call in calls if call.error or call.status != 200]
    detail = f"{len(calls):,} requests, {len(errors)} failed" + (f": {errors[0]}" if errors else "")
    yield Expectation(what="no request failed", held=bool(run.calls) and not errors, detail=detail)
    silent = [plan.name for plan in run.scenario.tenants if not any(call.tenant == plan.name for call in run.calls)]
    unseen = len(joined.calls) - len(joined.served(joined.calls.values()))
    gaps = _gaps(run)
    yield Expectation(
        what="the engines' record is complete",
        held=not (silent or unseen or joined.strangers or gaps),
        detail=f"{len(run.arrivals)} recorded, {unseen} missing, {joined.strangers} that no client sent, {gaps} gaps"
        + (f"; no request of {', '.join(silent)}" if silent else ""),
    )
    logged = {outcome.request_id: outcome for outcome in run.outcomes}
    wrong = sum(
        (outcome := logged.get(call.request_id)) is None
        or (outcome.tenant, outcome.tier, outcome.version)
        != (call.tenant, run.scenario.tenant(call.tenant).tier, arrival.version)
        for call, arrival in joined.served(joined.calls.values())
    )
    yield Expectation(
        what="the access log attributes every request to the tenant whose client sent it",
        held=not wrong and len(logged) == len(run.outcomes) == len(joined.calls),
        detail=f"{len(run.outcomes)} entries for {len(joined.calls)} requests, {wrong} wrong or missing",
    )


def _versions(tenants: Mapping[str, TenantReport]) -> Iterator[Expectation]:
    for name, tenant in tenants.items():
        served = ", ".join(f"{count} by {version}" for version, count in tenant.versions.items())
        yield Expectation(
            what=f"{name} is served by {tenant.expected_version}",
            held=set(tenant.versions) == {tenant.expected_version},
            detail=served or "none",
        )


def _isolation(run: Run, joined: Joined, tenants: Mapping[str, TenantReport]) -> Iterator[Expectation]:
    sent = sum(tenant.forged_headers_sent for tenant in tenants.values())
    headers = sum(tenant.forged_headers_upstream for tenant in tenants.values())
    yield Expectation(
        what="no forged header reaches an engine", held=sent > 0 and headers == 0, detail=f"{sent} sent, {headers} seen"
    )
    members = sum(tenant.forged_members_upstream for tenant in tenants.values())
    yield Expectation(
        what="no forged body member reaches an engine", held=members == 0, detail=f"{members} seen upstream"
    )
    unstamped = sum(bool(missing_headers(arrival)) for arrival in run.arrivals)
    yield Expectation(
        what="every request arrives with tenantry's stamp", held=unstamped == 0, detail=f"{unstamped} without"
    )
    leaked = sum(tenant.client_key_upstream for tenant in tenants.values())
    replaced = sum(arrival.header("authorization") == f"Bearer {run.engine_secret}" for arrival in run.arrivals)
    yield Expectation(
        what="clients' keys stay outside; engines get their own secret",
        held=leaked == 0 and replaced == len(run.arrivals),
        detail=f"{leaked} client keys seen, the engine's own on {replaced} of {len(run.arrivals)} requests",
    )
    salts: defaultdict[str, set[object]] = defaultdict(set)
    for call, arrival in joined.served(joined.calls.values()):
        salts[call.tenant].add(arrival.body.get("cache_salt"))
    distinct = len(set().union(*salts.values()))
    yield Expectation(
        what="each tenant has one cache salt, and no other has it",
        held=all(len(values) == 1 for values in salts.values()) and distinct == len(salts),
        detail=f"{len(salts)} tenants, {distinct} salts",
    )
    wrong = [plan.name for plan in run.scenario.tenants if tenants[plan.name].priority_upstream != [plan.priority]]
    yield Expectation(
        what="the engine ranks by tier, whatever a client asks for",
        held=not wrong,
        detail="; ".join(f"{name} {tenant.priority_upstream}" for name, tenant in tenants.items()),
    )


def _conversation(run: Run, tenants: Mapping[str, TenantReport]) -> Iterator[Expectation]:
    per_request = {name: tenant.ext_proc_messages_per_request for name, tenant in tenants.items()}
    chunks = sum(tenant.chunks for tenant in tenants.values())
    yield Expectation(
        what=f"a POST costs {MESSAGES_PER_POST} ext_proc messages",
        held=all(value == MESSAGES_PER_POST for value in per_request.values()),
        detail=", ".join(f"{name} {value}" for name, value in per_request.items()) + f"; {chunks} chunks streamed",
    )
    wanted = {"streamed": MESSAGES_PER_POST, "whole": MESSAGES_PER_POST, "models": MESSAGES_PER_GET}
    seen = {name: probe.conversation.per_exchange for name, probe in run.probes.items()}
    yield Expectation(
        what="streamed or not, it is the same number; a GET costs 1",
        held=seen == wanted and all(probe.requests == probe.conversation.exchanges for probe in run.probes.values()),
        detail=", ".join(
            f"{name}: {probe.conversation.messages:g} for {probe.requests} requests, {probe.chunks} chunks"
            for name, probe in run.probes.items()
        ),
    )


def _edges(run: Run) -> Iterator[Expectation]:
    for refused in run.refusals:
        yield Expectation(
            what=f"{refused.what} is refused with {refused.expected}",
            held=refused.status == refused.expected,
            detail=f"{refused.path}: {refused.status} {refused.message}",
        )
    yield Expectation(
        what="GET /v1/models lists a tenant's own models",
        held=len(run.models_listed) == len(run.scenario.tenants)
        and all(sorted(models) == sorted(run.scenario.models) for models in run.models_listed.values()),
        detail="; ".join(f"{name}: {', '.join(models)}" for name, models in run.models_listed.items()),
    )
    live = run.reload is not None
    detail = f"live after {(run.reload.live_s - run.reload.saved_s) * 1e3:.0f} ms" if run.reload else "never live"
    yield Expectation(what="the edited rules go live while requests flow", held=live, detail=detail)


def _gaps(run: Run) -> int:
    """Return how many requests the engines numbered and we did not get to see."""
    numbers: defaultdict[str, set[int]] = defaultdict(set)
    for arrival in run.arrivals:
        numbers[arrival.version].add(arrival.number)
    return sum(max(seen) - len(seen) for seen in numbers.values())
