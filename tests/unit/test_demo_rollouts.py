"""The demo's rollouts: what counts as kept, as taken back and as never moved, and how far a fair draw may stray.

Two small rollouts are written down by hand: `calm` keeps its candidate, `slow` has it taken back at second 1004.
"""

import asyncio
import time
from math import comb
from typing import Any

import msgspec
import pytest
from aiohttp import web
from msgspec.structs import replace
from tenantry.adapters.rollout_status import Status
from tenantry.core.outcome import Outcome
from tenantry.core.rollout.conduct import Entry
from tenantry.core.rollout.standing import FLEET, State
from tenantry.core.rollout.trial import Trial
from tenantry.core.rollout.verdicts import Progress, Row
from tenantry_testing.demo_books import books_of, rebilled
from tenantry_testing.demo_run import Figures, clean_run, looked_up

from demo import rollout_expectations
from demo.binomial import bounds
from demo.crowd import crowd
from demo.measure import build
from demo.report import Report, RolloutReport
from demo.report_html import page
from demo.run import CrowdCall, EngineCount, Look, Run
from demo.scenario import CrowdPlan, EnginePlan, RolloutPlan

CROWD = (
    CrowdPlan(name="acme", tier="gold", requests_per_s=1.0, pinned=True),
    CrowdPlan(name="initech", tier="silver", requests_per_s=1.0),
    CrowdPlan(name="wonka", tier="bronze", requests_per_s=1.0),
)
CALM = RolloutPlan(
    model="calm", stable=EnginePlan(model="calm", version="2.0"), candidate=EnginePlan(model="calm", version="2.1"),
    percent=50.0, mirror_percent=10.0, expected="splitting", story="a healthy candidate", crowd=CROWD, answer_tokens=3,
)  # fmt: skip
SLOW = RolloutPlan(
    model="slow", stable=EnginePlan(model="slow", version="3.0"), candidate=EnginePlan(model="slow", version="3.1"),
    percent=50.0, mirror_percent=0.0, expected="reverted", story="a slow candidate", crowd=CROWD, answer_tokens=3,
)  # fmt: skip
WHY = "the candidate's ttft is beyond its margin: log e-value 7.0, threshold 6.4"


def crowd_call(plan: RolloutPlan, tenant: str, sent_s: float, *, candidate: bool) -> CrowdCall:
    version = plan.candidate.version if candidate else plan.stable.version
    return CrowdCall(
        tenant=tenant, model=plan.model, sent_s=sent_s, ended_s=sent_s + 0.1, status=200, version=version,
        request_id=f"{plan.model} {tenant} {sent_s}",
    )  # fmt: skip


def logged(call: CrowdCall, *, drawn: bool) -> Outcome:
    trial = Trial(
        rollout="r", candidate="c", arm="candidate" if call.version.endswith("1") else "stable", share=0.5, unit="u"
    )
    return Outcome(
        tenant=call.tenant, tier="silver", model=call.model, version=call.version, request_id=call.request_id,
        reason="split", code=200, ended="completed", flags=(), attempts=1, ttfb_ms=1.0, duration_ms=100.0, cluster="",
        trial=trial if drawn else None,
    )  # fmt: skip


def look(plan: RolloutPlan, at_s: float, state: State, suspicion: float) -> Look:
    progress = Progress(
        units=1, all_units=2, pairs=0, last_candidate_s=None, last_stable_s=None, suspicion=suspicion, alarms=0
    )
    status = Status(
        model=plan.model, rollout="r", candidate=plan.candidate.version, image="", stable=plan.stable.version,
        state=state, readable=True, scopes={}, percents={"all": plan.percent}, mirror_percent=plan.mirror_percent,
        beta=(), pinned=(), chapter=1, progress=progress, next_step="", problems=(), evidence=(), course=(),
    )  # fmt: skip
    return Look(at_s=at_s, status=status)


def revert(plan: RolloutPlan, at_s: float, **fields: Any) -> Entry:
    evidence = (
        Row(group=None, signal="errors", visit=1, units=12, log_e=-1.0, log_threshold=7.0),
        Row(group=None, signal="ttft", visit=1, units=9, log_e=7.0, log_threshold=6.4),
    )
    facts: dict[str, Any] = {"scope": FLEET, "who": "guard", "why": WHY, "evidence": evidence}
    return Entry(
        id="e", at_s=at_s, rollout="r", model=plan.model, candidate=plan.candidate.version, stable=plan.stable.version,
        kind="reverted", before=State.SPLITTING, after=State.REVERTED, **{**facts, **fields},
    )  # fmt: skip


def rollouts_run() -> Run:
    """Four requests of each split tenant a second to `calm`, to `slow` two, every other one the candidate's."""
    calls, outcomes = [], []
    for half in range(20):
        sent_s = 1000.25 + half / 2
        for plan, opened in ((CALM, True), (SLOW, sent_s < 1004)):
            for tenant in ("initech", "wonka"):
                for odd in (0, 1):
                    call = crowd_call(plan, tenant, sent_s + odd / 100, candidate=opened and bool(odd))
                    calls.append(call)
                    outcomes.append(logged(call, drawn=opened))
            call = crowd_call(plan, "acme", sent_s, candidate=False)
            calls.append(call)
            outcomes.append(logged(call, drawn=False))
    run = clean_run()
    run = replace(
        run,
        scenario=replace(run.scenario, rollouts=(CALM, SLOW)),
        models_listed=dict.fromkeys(run.models_listed, ("slow", "calm", "chat-8b")),
        crowd_calls=tuple(calls),
        crowd_outcomes=tuple(outcomes),
        looks=(
            look(CALM, 1000.5, State.SPLITTING, 0.0),
            look(SLOW, 1000.5, State.SPLITTING, 0.1),
            look(CALM, 1005.0, State.SPLITTING, 0.02),
            look(SLOW, 1005.0, State.REVERTED, 1.09),
        ),
        history={"calm": (), "slow": (revert(SLOW, 1004.0),)},
        engine_counts=(
            EngineCount(model="calm", version="2.0", requests=60, copies=0),
            EngineCount(model="calm", version="2.1", requests=47, copies=7),
            EngineCount(model="slow", version="3.0", requests=84, copies=0),
            EngineCount(model="slow", version="3.1", requests=16, copies=0),
        ),
    )
    return replace(run, books=books_of(run))


@pytest.fixture(autouse=True)
def few_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout_expectations, "MIN_UNITS", 50)


def failed(run: Run) -> list[str]:
    return [expectation.what for expectation in build(run).expectations if not expectation.held]


def changed(run: Run, pick: str, **fields: Any) -> Run:
    """The run with the first call and outcome whose id begins with `pick` changed alike, where they have the field."""
    index = next(index for index, call in enumerate(run.crowd_calls) if call.request_id.startswith(pick))
    calls, outcomes = list(run.crowd_calls), list(run.crowd_outcomes)
    own = {name: value for name, value in fields.items() if name in CrowdCall.__struct_fields__}
    calls[index], outcomes[index] = replace(calls[index], **own), replace(outcomes[index], **fields)
    return replace(run, crowd_calls=tuple(calls), crowd_outcomes=tuple(outcomes))


KEPT = "calm 2.1 keeps its 50 % of each unpinned tenant's units"
ALONE = "calm 2.1, healthy, is left alone by the guard"
TAKEN = "slow 3.1, slow, is taken back by the guard"
NOBODY = "nobody gets slow 3.1 once it is taken back"
PINNED = "acme, pinned, never moves"
LOG = "the access log has the tenant and the version of every request of the rollouts, as client and engine do"
COPIES = "mirrored copies reach the candidate, and no tenant's log"


def test_a_play_as_it_should_be_holds_every_expectation() -> None:
    assert failed(rollouts_run()) == []
    assert {KEPT, ALONE, TAKEN, NOBODY, PINNED, LOG, COPIES} <= {
        expectation.what for expectation in build(rollouts_run()).expectations
    }


def test_figures_of_the_one_that_keeps_its_share() -> None:
    calm = build(rollouts_run()).rollouts["calm"]

    assert (calm.state, calm.verdict, calm.percent) == ("splitting", None, 50.0)
    assert (calm.requests, calm.units, calm.candidate_units, calm.candidate_requests) == (100, 80, 40, 40)
    assert calm.candidate_share == 0.5  # of the units, not of the pinned tenant's requests
    assert calm.mirrored == 7
    assert (calm.tenants["acme"].requests, calm.tenants["acme"].units) == (20, 0)
    assert calm.timeline[0].versions == {"2.0": 3, "2.1": 2}


def test_figures_of_the_one_that_is_taken_back() -> None:
    slow = build(rollouts_run()).rollouts["slow"]

    assert slow.verdict is not None
    assert (slow.verdict.who, slow.verdict.scope, slow.verdict.signal) == ("guard", FLEET, "ttft")
    assert (slow.verdict.units_to_revert, slow.verdict.log_e, slow.verdict.log_threshold) == (9, 7.0, 6.4)
    assert (slow.verdict.at_s, slow.verdict.seconds_after_start) == (4.0, 3.74)  # of the traffic, of the candidate
    assert (slow.units, slow.candidate_units, slow.after_verdict) == (32, 16, 0)
    assert [point.suspicion for point in slow.evidence] == [0.1, 1.09]


def without_history(run: Run) -> Run:
    return replace(run, history={}, looks=tuple(each for each in run.looks if each.status.state is State.SPLITTING))


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (without_history(rollouts_run()), [TAKEN]),
        (replace(rollouts_run(), history={"slow": (revert(SLOW, 1004.0, who="ann"),)}), [TAKEN]),
        (replace(rollouts_run(), history={"slow": (revert(SLOW, 1004.0, scope="tenant:wonka"),)}), [TAKEN]),
        (replace(rollouts_run(), history={"slow": (revert(SLOW, 1004.0, evidence=()),)}), [TAKEN]),
        (replace(rollouts_run(), history={"slow": (revert(SLOW, 1003.7),)}), [NOBODY]),
        (
            replace(
                rollouts_run(),
                history={"slow": (revert(SLOW, 1004.0),), "calm": (revert(CALM, 1009.0, scope="tenant:wonka"),)},
            ),
            [ALONE],
        ),
        (replace(rollouts_run(), looks=rollouts_run().looks[1:2]), [ALONE, TAKEN]),
        (changed(rollouts_run(), "calm acme", version="2.1"), [PINNED]),
        (replace(rollouts_run(), crowd_outcomes=rollouts_run().crowd_outcomes[1:]), [LOG, COPIES]),
        (replace(rollouts_run(), engine_counts=rollouts_run().engine_counts[:3]), [COPIES]),
        (changed(rollouts_run(), "slow initech", rescued=True), [LOG]),
    ],
)
def test_each_defect_fails_its_own_expectation(run: Run, expected: list[str]) -> None:
    assert failed(run) == expected


def test_a_share_that_no_fair_draw_gives_is_not_kept() -> None:
    run = rollouts_run()
    calls = tuple(replace(call, version="2.1") if call.model == "calm" else call for call in run.crowd_calls)

    assert KEPT in failed(replace(run, crowd_calls=calls))


def test_one_tenants_share_is_not_made_up_for_by_anothers() -> None:
    run = rollouts_run()
    versions = {"initech": "2.1", "wonka": "2.0"}
    calls = tuple(
        replace(call, version=versions[call.tenant]) if call.model == "calm" and call.tenant in versions else call
        for call in run.crowd_calls
    )
    report = build(replace(run, crowd_calls=calls))

    assert report.rollouts["calm"].candidate_share == 0.5
    assert KEPT in failed(replace(run, crowd_calls=calls))


def test_too_few_units_show_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout_expectations, "MIN_UNITS", 81)

    assert failed(rollouts_run()) == [KEPT]


def test_a_failed_request_of_the_crowd_fails_the_play() -> None:
    run = rollouts_run()
    calls = (*run.crowd_calls[:-1], replace(run.crowd_calls[-1], status=503, error="503: no"))
    report = build(replace(run, crowd_calls=calls))

    assert report.failed_requests == 1
    assert report.expectations[0].detail == "205 requests, 1 failed: 503: no"


def test_a_play_without_rollouts_expects_nothing_of_them_and_shows_none() -> None:
    text = page(build(clean_run()))

    assert not [each for each in build(clean_run()).expectations if "candidate" in each.what]
    assert "Two candidates" not in text
    assert "taken back" not in text


def test_every_figure_of_the_rollouts_on_the_page_is_the_one_in_report_json() -> None:
    report = build(rollouts_run())
    document = msgspec.json.decode(msgspec.json.encode(report))
    figures = [figure for figure in Figures(page(report)).found if figure[0].startswith("rollouts/")]

    for path, value, _ in figures:
        assert value == looked_up(document, path), path
    paths = {path for path, _, _ in figures}
    assert {
        "rollouts/calm/candidate_share",
        "rollouts/calm/mirrored",
        "rollouts/slow/verdict/units_to_revert",
        "rollouts/slow/verdict/seconds_after_start",
        "rollouts/slow/evidence/1/suspicion",
        "rollouts/slow/timeline/0/versions/3.1",
        "rollouts/slow/tenants/acme/candidate_requests",
    } <= paths


def test_the_revert_is_marked_at_its_moment() -> None:
    lines = [given for tag, given in Figures(page(build(rollouts_run()))).attributes if tag == "line"]
    wide = [given for given in lines if given.get("class") == "moment" and float(str(given["x1"])) == 352.0]

    assert len(wide) == 2  # 4 of 10 s, 880 wide: in the lane of the one taken back and over the evidence


def test_report_json_with_rollouts_reads_back() -> None:
    report = build(rollouts_run())

    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report
    assert isinstance(report.rollouts["slow"], RolloutReport)


@pytest.mark.parametrize(("draws", "chance"), [(20, 0.05), (60, 0.5), (200, 0.25)])
def test_bounds_leave_no_more_outside_than_they_say(draws: int, chance: float) -> None:
    def probability(counts: range) -> float:
        return sum(comb(draws, count) * chance**count * (1 - chance) ** (draws - count) for count in counts)

    low, high = bounds(draws, chance, 0.01)

    assert probability(range(low)) <= 0.005 < probability(range(low + 1))
    assert probability(range(high + 1, draws + 1)) <= 0.005 < probability(range(high, draws + 1))


def test_bounds_of_what_is_no_draw() -> None:
    assert bounds(0, 0.05, 1e-7) == (0, 0)
    assert bounds(2000, 0.05, 1e-7)[0] > 0
    assert bounds(2000, 0.05, 1e-7)[1] < 200


async def test_the_crowd_asks_with_each_tenants_key_and_notes_who_answered() -> None:
    seen: list[tuple[str, str]] = []

    async def answer(request: web.Request) -> web.Response:
        body = await request.json()
        seen.append((request.headers["authorization"], body["model"]))
        status = 503 if len(seen) == 1 else 200
        await asyncio.sleep(0.01)
        return web.json_response({}, status=status, headers={"x-stand-in-version": "2.0", "x-tenantry-request-id": "i"})

    app = web.Application()
    app.add_routes([web.post("/v1/chat/completions", answer)])
    runner = web.AppRunner(app)
    await runner.setup()
    calls: list[CrowdCall] = []
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        plan = replace(CALM, crowd=tuple(replace(sender, requests_per_s=100.0) for sender in CROWD))
        keys = {sender.name: f"tk_{sender.name}" for sender in CROWD}
        await crowd((plan,), url, keys, seed=1, until_s=time.time() + 0.3, done=calls.append)
    finally:
        await runner.cleanup()

    assert len(calls) == len(seen)
    assert {(call.tenant, call.model) for call in calls} == {(sender.name, "calm") for sender in CROWD}
    assert set(seen) == {(f"Bearer tk_{sender.name}", "calm") for sender in CROWD}
    assert {(call.version, call.request_id) for call in calls} == {("2.0", "i")}
    assert [call.error for call in calls if call.status != 200] == ["503: {}"]


def test_a_copy_that_the_ledger_does_not_have_as_the_operators_fails() -> None:
    run = rollouts_run()
    books = run.books
    copies = next(index for index, tally in enumerate(books.tallies) if tally.owner == "mirror")
    assert books.tallies[copies].requests == 7

    tenants = rebilled(books, changes={copies: {"owner": "tenant", "tenant": "wonka", "tier": "bronze"}})

    assert failed(replace(run, books=tenants)) == [
        "every answer that a client got is billed once, to its tenant, and nothing else is",
        "mirrored copies are the operator's to pay",
    ]
