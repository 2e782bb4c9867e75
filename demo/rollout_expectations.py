"""What must hold of the rollouts: the healthy candidate keeps its share, the slow one goes, the pinned never moves."""

from collections.abc import Iterator, Mapping

from tenantry.core.rollout.conduct import GUARD
from tenantry.core.rollout.standing import FLEET

from demo.binomial import bounds
from demo.report import Expectation, RolloutReport
from demo.run import Run
from demo.scenario import RolloutPlan

STRAYS = 1e-7
"""How improbable a share must be, were the draw fair, to count as wrong: no play in a million fails by bad luck."""

MIN_UNITS = 400
"""Below, 5 % could not be told from nothing; a machine that slow shows nothing."""

SLOW_SIGNAL = "ttft"


def rollout_expectations(run: Run, rollouts: Mapping[str, RolloutReport]) -> Iterator[Expectation]:
    """Return each expectation with whether it held; none for a play without rollouts."""
    for plan in run.scenario.rollouts:
        report = rollouts[plan.model]
        yield from _kept(run, plan, report) if plan.expected == "splitting" else _taken_back(plan, report)
    if run.scenario.rollouts:
        yield _pinned(rollouts)
        yield _recorded(run)
    if any(plan.mirror_percent for plan in run.scenario.rollouts):
        yield _copies(run, rollouts)


def _kept(run: Run, plan: RolloutPlan, report: RolloutReport) -> Iterator[Expectation]:
    counts = {
        name: (tenant.candidate_requests, tenant.units) for name, tenant in report.tenants.items() if tenant.units
    }
    counts["together"] = (report.candidate_units, report.units)
    fair = {name: bounds(units, plan.percent / 100, STRAYS) for name, (_, units) in counts.items()}
    low, high = fair["together"]
    yield Expectation(
        what=f"{_name(plan)} keeps its {plan.percent:g} % of each unpinned tenant's units",
        held=report.units >= MIN_UNITS
        and len(counts) == 1 + sum(not sender.pinned for sender in plan.crowd)
        and all(fair[name][0] <= candidate <= fair[name][1] for name, (candidate, _) in counts.items()),
        detail=", ".join(f"{name} {candidate} of {units:,}" for name, (candidate, units) in counts.items())
        + f" ({report.candidate_share * 100:.1f} %); a fair draw gives {low} to {high}",
    )
    reverts = [entry for entry in run.history.get(plan.model, ()) if entry.kind == "reverted"]
    doubt = max((point.suspicion for point in report.evidence), default=0.0)
    yield Expectation(
        what=f"{_name(plan)}, healthy, is left alone by the guard",
        held=report.state == plan.expected and not reverts,
        detail=f"{report.state}; its evidence never came beyond {doubt * 100:.0f} % of a verdict"
        + "".join(f"; {entry.scope} reverted: {entry.why}" for entry in reverts),
    )


def _taken_back(plan: RolloutPlan, report: RolloutReport) -> Iterator[Expectation]:
    verdict = report.verdict
    what = f"{_name(plan)}, slow, is taken back by the guard"
    if verdict is None:
        detail = f"{report.state} after {report.candidate_units} of {report.units} units"
        yield Expectation(what=what, held=False, detail=detail)
        return
    yield Expectation(
        what=what,
        held=(report.state, verdict.scope, verdict.who, verdict.signal) == ("reverted", FLEET, GUARD, SLOW_SIGNAL),
        detail=f"{report.state} for the {verdict.scope} by the {verdict.who} {verdict.seconds_after_start:.1f} s after "
        f"its first request: {verdict.units_to_revert} of its {report.candidate_units} units were judged by "
        f"{verdict.signal} (none while it warmed up); {verdict.why}",
    )
    later = [slot for slot in report.timeline if slot.at_s > verdict.at_s]
    yield Expectation(
        what=f"nobody gets {_name(plan)} once it is taken back",
        held=report.after_verdict == 0 and bool(later),
        detail=f"{report.after_verdict} of its requests were sent later; "
        f"{sum(sum(slot.versions.values()) for slot in later):,} went to {report.stable}",
    )


def _pinned(rollouts: Mapping[str, RolloutReport]) -> Expectation:
    pinned = [
        (model, name, tenant)
        for model, report in rollouts.items()
        for name, tenant in report.tenants.items()
        if tenant.pinned
    ]
    names = sorted({name for _, name, _ in pinned})
    return Expectation(
        what=f"{', '.join(names)}, pinned, never moves",
        held=bool(pinned) and all(t.requests > 0 and t.candidate_requests == 0 and t.units == 0 for *_, t in pinned),
        detail="; ".join(
            f"{model}: {tenant.candidate_requests} of {tenant.requests:,} requests to the candidate"
            for model, _, tenant in pinned
        ),
    )


def _recorded(run: Run) -> Expectation:
    logged = {outcome.request_id: outcome for outcome in run.crowd_outcomes}
    wrong = sum(
        (outcome := logged.get(call.request_id)) is None
        or (outcome.tenant, outcome.model, outcome.version, outcome.rescued)
        != (call.tenant, call.model, call.version, False)
        for call in run.crowd_calls
    )
    return Expectation(
        what="the access log has the tenant and the version of every request of the rollouts, as client and engine do",
        held=not wrong and len(logged) == len(run.crowd_outcomes) == len(run.crowd_calls),
        detail=f"{len(run.crowd_outcomes):,} entries for {len(run.crowd_calls):,} requests, {wrong} wrong or missing",
    )


def _copies(run: Run, rollouts: Mapping[str, RolloutReport]) -> Expectation:
    answered = sum(count.requests - count.copies for count in run.engine_counts)
    copies = {model: report.mirrored for model, report in rollouts.items() if report.mirror_percent}
    return Expectation(
        what="mirrored copies reach the candidate, and no tenant's log",
        held=all(copies.values())
        and answered == len(run.crowd_calls) == len(run.crowd_outcomes)
        and sum(copies.values()) == sum(count.copies for count in run.engine_counts),
        detail=", ".join(f"{model}: {count} copies" for model, count in copies.items())
        + f"; the engines answered {answered:,} requests besides, the log has {len(run.crowd_outcomes):,}",
    )


def _name(plan: RolloutPlan) -> str:
    return f"{plan.model} {plan.candidate.version}"
