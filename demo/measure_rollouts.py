"""What became of the rollouts: from requests, access log, engines' counts and the sidecar's own word. Pure."""

from collections import Counter
from collections.abc import Iterable

from tenantry.core.outcome import Outcome
from tenantry.core.rollout.conduct import Entry
from tenantry.core.rollout.standing import FLEET

from demo.quantiles import quantiles
from demo.report import Bin, CrowdReport, EvidencePoint, RolloutReport, VerdictReport
from demo.run import CrowdCall, Run
from demo.scenario import CrowdPlan, RolloutPlan

BIN_S = 0.5
NO_STATE = "never seen"


def rollout_report(run: Run, plan: RolloutPlan) -> RolloutReport:
    """Return one rollout's part."""
    candidate = plan.candidate.version
    calls = [call for call in run.crowd_calls if call.model == plan.model]
    served = [call for call in calls if call.version == candidate]
    drawn = _drawn(run, plan)
    units = [call for call in calls if call.request_id in drawn]
    candidate_units = sum(call.version == candidate for call in units)
    looks = [look for look in run.looks if look.status.model == plan.model]
    taken_back = revert_of(run, plan)
    begin_s, end_s = run.traffic_s
    return RolloutReport(
        candidate=candidate,
        state=looks[-1].status.state.value if looks else NO_STATE,
        candidate_requests=len(served),
        candidate_share=round(candidate_units / len(units), 4) if units else 0.0,
        requests=len(calls),
        stable=plan.stable.version,
        story=plan.story,
        expected_state=plan.expected,
        percent=plan.percent,
        mirror_percent=plan.mirror_percent,
        units=len(units),
        candidate_units=candidate_units,
        mirrored=sum(count.copies for count in run.engine_counts if count.model == plan.model),
        verdict=None if taken_back is None else _verdict(taken_back, begin_s, served),
        after_verdict=0 if taken_back is None else sum(call.sent_s > taken_back.at_s for call in served),
        tenants={sender.name: _tenant(sender, calls, units, candidate) for sender in plan.crowd},
        answer_ms={
            engine.version: quantiles(
                (call.ended_s - call.sent_s) * 1e3 for call in units if call.version == engine.version
            )
            for engine in plan.engines
        },
        bin_s=BIN_S,
        timeline=_timeline(calls, begin_s, end_s),
        evidence=[
            EvidencePoint(at_s=round(look.at_s - begin_s, 2), suspicion=round(look.status.progress.suspicion, 4))
            for look in looks
            if begin_s <= look.at_s <= end_s
        ],
    )


def revert_of(run: Run, plan: RolloutPlan) -> Entry | None:
    """Return the entry of the history that took the candidate back from everybody."""
    reverts = [entry for entry in run.history.get(plan.model, ()) if (entry.kind, entry.scope) == ("reverted", FLEET)]
    return reverts[-1] if reverts else None


def _drawn(run: Run, plan: RolloutPlan) -> frozenset[str]:
    """Return the ids of the requests whose version the split drew: no pin, no beta flag, no revert."""
    return frozenset(
        outcome.request_id for outcome in run.crowd_outcomes if outcome.model == plan.model and _is_drawn(outcome)
    )


def _is_drawn(outcome: Outcome) -> bool:
    return outcome.trial is not None and 0.0 < outcome.trial.share < 1.0


def _verdict(entry: Entry, begin_s: float, served: Iterable[CrowdCall]) -> VerdictReport:
    # The evidence at that moment: the signal nearest to its threshold, or beyond it, is the one that decided.
    row = max(entry.evidence, key=lambda row: row.log_e / row.log_threshold, default=None)
    first_s = min((call.sent_s for call in served), default=begin_s)
    return VerdictReport(
        scope=entry.scope,
        who=entry.who,
        signal="" if row is None else row.signal,
        log_e=0.0 if row is None else round(row.log_e, 2),
        log_threshold=0.0 if row is None else round(row.log_threshold, 2),
        units_to_revert=0 if row is None else row.units,
        why=entry.why,
        at_s=round(entry.at_s - begin_s, 2),
        seconds_after_start=round(entry.at_s - first_s, 2),
    )


def _tenant(sender: CrowdPlan, calls: Iterable[CrowdCall], units: Iterable[CrowdCall], candidate: str) -> CrowdReport:
    own = [call for call in calls if call.tenant == sender.name]
    return CrowdReport(
        pinned=sender.pinned,
        requests=len(own),
        units=sum(call.tenant == sender.name for call in units),
        candidate_requests=sum(call.version == candidate for call in own),
    )


def _timeline(calls: Iterable[CrowdCall], begin_s: float, end_s: float) -> list[Bin]:
    bins: dict[int, Counter[str]] = {}
    for call in calls:
        if call.version and begin_s <= call.sent_s <= end_s:
            bins.setdefault(int((call.sent_s - begin_s) / BIN_S), Counter())[call.version] += 1
    return [Bin(at_s=index * BIN_S, versions=dict(sorted(counts.items()))) for index, counts in sorted(bins.items())]
