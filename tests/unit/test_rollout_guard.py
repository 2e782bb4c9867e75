"""The guard as transcripts: traffic in, verdicts out. Dice are seeded; no test waits for luck."""

import random
from collections.abc import Callable
from functools import partial, reduce
from math import exp

import pytest
from msgspec import structs
from tenantry.core.rollout.budget import Budget
from tenantry.core.rollout.evidence import Evidence, merge
from tenantry.core.rollout.guard import Guard
from tenantry.core.rollout.lone import LoneGuard
from tenantry.core.rollout.signals import Observation, Pair, Sample
from tenantry.core.rollout.trial import Arm
from tenantry.core.rollout.verdicts import Plan, Verdict
from tenantry.core.rollout.visits import Arrival, Visit, Visits

Behaviour = Callable[[random.Random], Sample]
PLAN = Plan(warmup_requests=0)


def fine(dice: random.Random) -> Sample:
    return Sample(
        failed=dice.random() < 0.01,
        ttft_ms=exp(dice.gauss(5.0, 1.0)),
        time_per_token_ms=exp(dice.gauss(3.0, 0.3)),
        output_tokens=round(exp(dice.gauss(5.0, 0.8))) + 1,
        finished=True,
        repetitive=False,
        mean_log_probability=dice.gauss(-0.6, 0.2),
    )


def down(dice: random.Random) -> Sample:
    del dice
    return Sample(failed=True)


def slow(dice: random.Random) -> Sample:
    sample = fine(dice)
    return structs.replace(sample, ttft_ms=(sample.ttft_ms or 0.0) * 4.0)


def short(dice: random.Random) -> Sample:
    return structs.replace(fine(dice), output_tokens=round(exp(dice.gauss(4.0, 0.8))) + 1)


def babbling(dice: random.Random) -> Sample:
    return structs.replace(fine(dice), repetitive=dice.random() < 0.3)


def cut_off(dice: random.Random) -> Sample:
    return structs.replace(fine(dice), finished=dice.random() > 0.3)


def unsure(dice: random.Random) -> Sample:
    return structs.replace(fine(dice), mean_log_probability=dice.gauss(-1.2, 0.2))


def guard(plan: Plan = PLAN, writer: str = "one") -> Guard:
    return Guard(plan, writer=writer, evidence=Evidence(started_s=0.0))


def lone(plan: Plan = PLAN, writer: str = "one") -> LoneGuard:
    return LoneGuard(guard(plan, writer))


class Traffic:
    """Units of the split, one a second, each new; it goes to the candidate with probability `share`."""

    def __init__(self, to: LoneGuard, *, seed: int = 1, share: float = 0.2, tenants: int = 4) -> None:
        self._to, self.guard, self.share = to, to.guard, share
        self.dice = random.Random(seed)
        self.tenants = [f"tenant-{index}" for index in range(tenants)]
        self.now_s, self.number = 0.0, 0
        self.came: dict[Arm, int] = {"stable": 0, "candidate": 0}

    def send(
        self,
        units: int,
        candidate: Behaviour,
        *,
        stable: Behaviour = fine,
        only: str | None = None,
        by: Callable[[Observation], Observation] = lambda seen: seen,
    ) -> tuple[Verdict, ...]:
        """Send units until the first verdicts, and return them. `only`: the tenant that the behaviour is for."""
        for _ in range(units):
            self.number += 1
            self.now_s += 1.0
            tenant = self.dice.choice(self.tenants)
            arm: Arm = "candidate" if self.dice.random() < self.share else "stable"
            behaviour = stable if arm == "stable" else candidate if only in {None, tenant} else fine
            seen = Observation(
                tenant=tenant, unit=f"u{self.number}", arm=arm, share=self.share, sample=behaviour(self.dice)
            )
            self.came[arm] += 1
            verdicts = self._to.observe(by(seen), self.now_s)
            if verdicts:
                return verdicts
        return ()


@pytest.mark.parametrize(
    ("behaviour", "signal", "at_most"),
    [
        (down, "errors", 12),
        (slow, "ttft", 60),
        (short, "length", 60),
        (babbling, "repetition", 60),
        (cut_off, "unfinished", 60),
        (unsure, "log_probability", 40),
    ],
)
def test_a_bad_candidate_is_reverted_for_what_is_bad_about_it(behaviour: Behaviour, signal: str, at_most: int) -> None:
    traffic = Traffic(lone())
    (verdict,) = traffic.send(5_000, behaviour)
    assert (verdict.action, verdict.tenant, verdict.signal, verdict.visit) == ("revert", None, signal, 1)
    assert verdict.log_e >= verdict.log_threshold > 5.2  # log 200, the fleet's half of alpha, and more for its shares
    assert verdict.units == traffic.came["candidate"] <= at_most
    assert f"the candidate's {signal} is beyond its margin" in verdict.why


def test_a_candidate_within_its_margins_stays() -> None:
    def a_little_worse(dice: random.Random) -> Sample:
        sample = fine(dice)
        return structs.replace(
            sample, ttft_ms=(sample.ttft_ms or 0) * 1.2, output_tokens=max(1, int((sample.output_tokens or 0) * 0.92))
        )

    assert Traffic(lone()).send(20_000, a_little_worse) == ()


def test_a_stricter_rule_catches_what_a_laxer_one_lets_pass() -> None:
    def half_as_long_again(dice: random.Random) -> Sample:
        sample = fine(dice)
        return structs.replace(sample, ttft_ms=(sample.ttft_ms or 0) * 1.5)

    lax = structs.replace(PLAN, margins=structs.replace(PLAN.margins, ttft_ratio=1.6))
    assert Traffic(lone(), share=0.5).send(4_000, half_as_long_again)[0].signal == "ttft"
    assert Traffic(lone(lax), share=0.5).send(4_000, half_as_long_again) == ()


def test_what_comes_in_a_burst_hits_both_versions_and_reverts_nothing() -> None:
    """Everything is ten times slower and fails ten times as often, in waves of 200 units."""
    traffic = Traffic(lone())

    def storm(dice: random.Random) -> Sample:
        sample = fine(dice)
        return structs.replace(sample, ttft_ms=(sample.ttft_ms or 0) * 10, failed=dice.random() < 0.1)

    for wave in range(20):
        weather = storm if wave % 2 else fine
        assert traffic.send(200, weather, stable=weather) == ()


def test_a_tenants_verdict_binds_that_tenant() -> None:
    """Its adapter does not load on the candidate; the others are fine."""
    traffic = Traffic(lone())
    (verdict,) = traffic.send(5_000, down, only="tenant-2")
    assert (verdict.action, verdict.tenant, verdict.signal) == ("revert", "tenant-2", "errors")
    assert traffic.send(5_000, down, only="tenant-2") == ()  # each verdict once a chapter, never one for the fleet


def test_the_only_tenant_is_judged_by_its_own_verdict() -> None:
    (verdict,) = Traffic(lone(), tenants=1).send(5_000, down)
    assert verdict.tenant == "tenant-0"


def test_tenants_beyond_the_places_count_for_the_fleet_only() -> None:
    one_place = structs.replace(PLAN, budget=Budget(max_tenants=1))
    traffic = Traffic(lone(one_place), tenants=12)
    assert traffic.send(400, fine) == ()  # tenants take their places
    placed = {row.group for row in traffic.guard.rows()} - {None}
    assert len([group for group in placed if group and not group.startswith("~")]) == 1
    assert len(placed) <= 1 + 8
    (verdict,) = traffic.send(5_000, down)
    assert verdict.tenant is None


def test_a_unit_counts_once_however_often_it_comes() -> None:
    """A unit that fails on the candidate a thousand times is one failure."""
    loud = lone()
    for turn in range(1_000):
        seen = Observation(tenant="acme", unit="bot", arm="candidate", share=0.05, sample=Sample(failed=True))
        assert loud.observe(seen, float(turn)) == ()
    counted = {row.visit: row.units for row in loud.guard.rows() if row.group == "acme" and row.signal == "errors"}
    assert counted == {1: 1, 4: 1, 16: 1}


def test_without_a_chance_of_the_other_version_there_is_nothing_to_learn() -> None:
    """Beta tenants and pinned ones: a share of 1 or 0."""
    for share in (0.0, 1.0):
        blind = Traffic(lone(), share=0.5)
        assert blind.send(2_000, down, by=partial(structs.replace, share=share)) == ()
        assert list(blind.guard.rows()) == []


def test_shares_may_differ_between_tenants() -> None:
    """Slow work gets 50 %, quick work 5 %: candidate units are slower on average, through no fault of the candidate."""
    judge, dice, now_s = lone(), random.Random(3), 0.0
    for number in range(20_000):
        now_s += 1.0
        heavy = number % 2 == 0
        share = 0.5 if heavy else 0.05
        arm: Arm = "candidate" if dice.random() < share else "stable"
        sample = structs.replace(fine(dice), ttft_ms=exp(dice.gauss(7.0 if heavy else 4.0, 1.0)))
        # Both kinds stand in one group: the place is taken by somebody else.
        seen = Observation(tenant="acme", unit=str(number), arm=arm, share=share, sample=sample)
        assert judge.observe(seen, now_s) == ()


def test_a_candidate_with_cold_caches_is_given_time() -> None:
    """Its first 30 requests take ten times as long; later it is as quick as the other."""
    traffic = Traffic(lone(structs.replace(PLAN, warmup_requests=30)))

    def cold_at_first(dice: random.Random) -> Sample:
        sample = fine(dice)
        return structs.replace(sample, ttft_ms=(sample.ttft_ms or 0) * (10 if traffic.came["candidate"] < 30 else 1))

    assert traffic.send(3_000, cold_at_first) == ()
    hasty = Traffic(lone())
    traffic = hasty
    (verdict,) = hasty.send(3_000, cold_at_first)
    assert verdict.signal == "ttft"


def test_a_conversation_that_came_with_a_past_is_judged_on_latency_at_its_second_visit() -> None:
    judge = lone()

    def visit(turns: int) -> dict[str, int]:
        sample = Sample(failed=False, ttft_ms=100.0, output_tokens=9)
        seen = Observation(tenant="acme", unit="u", arm="candidate", share=0.5, sample=sample, earlier_turns=turns)
        assert judge.observe(seen, 1.0) == ()
        return {
            row.signal: row.units for row in judge.guard.rows() if row.group == "acme" and row.visit == 1 and row.units
        }

    assert visit(3) == {"errors": 1, "length": 1}
    assert visit(4) == {"errors": 1, "length": 1, "ttft": 1}
    assert visit(5) == {"errors": 1, "length": 1, "ttft": 1}


def test_latency_put_off_by_the_warm_up_is_read_when_it_is_over() -> None:
    judge = lone(structs.replace(PLAN, warmup_requests=2))

    def visit(unit: str) -> int:
        seen = Observation(tenant="acme", unit=unit, arm="candidate", share=0.5, sample=Sample(ttft_ms=100.0))
        judge.observe(seen, 1.0)
        return next(
            row.units for row in judge.guard.rows() if (row.group, row.signal, row.visit) == ("acme", "ttft", 1)
        )

    assert [visit("a"), visit("a"), visit("a"), visit("b")] == [0, 0, 1, 2]


@pytest.mark.parametrize("batch", [1, 7])
def test_a_request_is_cold_for_the_count_of_visits_and_for_the_guard_alike(batch: int) -> None:
    """Else the last of the warm-up would be read at once, and once more when what was put off is due."""
    judge, visits = guard(structs.replace(PLAN, warmup_requests=10)), Visits(1_000)
    seen = [
        Observation(tenant="acme", unit=f"u{number % 20}", arm="candidate", share=0.5, sample=Sample(ttft_ms=100.0))
        for number in range(60)
    ]
    for start in range(0, len(seen), batch):
        judge.turn_if_due(1.0)
        together = seen[start : start + batch]
        counted = [visits.arrive(judge.arrival(each)) for each in together]
        for each, visit in zip(together, counted, strict=True):
            judge.observe(each, visit, 1.0)
    (read,) = [row.units for row in judge.rows() if (row.group, row.signal, row.visit) == ("acme", "ttft", 1)]
    assert read == 20  # each unit once


def test_a_stable_version_that_fails_too_is_no_place_to_go_back_to() -> None:
    traffic = Traffic(lone())

    def sick(dice: random.Random) -> Sample:
        return Sample(failed=dice.random() < 0.3)

    (alarm,) = traffic.send(5_000, down, stable=sick)
    assert (alarm.action, alarm.tenant) == ("alarm", None)
    assert "not reverted, as the stable version fails too" in alarm.why
    assert traffic.guard.progress().alarms == 1
    assert all(verdict.action == "alarm" for verdict in traffic.send(100, down, stable=sick))
    traffic.now_s += 301.0  # nothing for five minutes: what was seen before says nothing of now
    verdicts = traffic.send(100, fine)
    assert {verdict.action for verdict in verdicts} == {"revert"}
    assert "reverted now" in verdicts[0].why
    assert traffic.guard.progress().alarms == 0


def test_a_tenant_that_picks_its_version_is_left_out() -> None:
    """A client that finds out which units go to the stable version sends its short requests there."""
    traffic = Traffic(lone())

    def chosen(seen: Observation) -> Observation:
        if seen.tenant != "tenant-1":
            return seen
        return structs.replace(seen, arm="stable", sample=structs.replace(seen.sample, ttft_ms=1.0, failed=False))

    (alarm,) = traffic.send(5_000, fine, by=chosen)
    assert (alarm.action, alarm.tenant, alarm.signal) == ("alarm", "tenant-1", "share")
    assert "is not the share of the split" in alarm.why
    assert traffic.send(3_000, fine, by=chosen) == ()
    (verdict,) = traffic.send(5_000, down, by=chosen)
    assert verdict.tenant is None  # the others still count


@pytest.mark.parametrize("lost", ["candidate", "stable"])
def test_a_version_whose_engines_post_no_records_is_not_judged_by_them_and_somebody_is_told(lost: Arm) -> None:
    """Readings of one version alone make money for any bet on who is slow, whoever is."""
    traffic = Traffic(lone(), share=0.25)

    def without_records(seen: Observation) -> Observation:
        return seen if seen.arm != lost else structs.replace(seen, sample=Sample(failed=seen.sample.failed))

    told: list[Verdict] = []
    for _ in range(40):
        told += traffic.send(300, fine, by=without_records)
    assert {verdict.action for verdict in told} == {"alarm"}
    assert "coverage:ttft" in {verdict.signal for verdict in told}
    assert "post no usage records" in told[0].why
    before = traffic.came["candidate"]
    while not (verdicts := [each for each in traffic.send(500, down, by=without_records) if each.action == "revert"]):
        assert traffic.came["candidate"] - before < 100
    assert {verdict.signal for verdict in verdicts} == {"errors"}  # what needs no record is judged as ever


@pytest.mark.parametrize(("share", "rate"), [(0.5, 20), (0.25, 20), (0.05, 100)])
@pytest.mark.parametrize("hung", [False, True])
def test_a_version_that_answers_late_looks_as_if_it_got_too_few_units_for_a_while(
    share: float, rate: int, hung: bool
) -> None:
    """Answers come in the order in which they end. A cold start is no fault; a hang is found once its limit is over."""
    judge, dice = lone(), random.Random(4)
    ends: list[tuple[float, int, Observation]] = []
    for number in range(rate * 60):
        at_s = number / rate
        arm: Arm = "candidate" if dice.random() < share else "stable"
        late = arm == "candidate" and (hung or at_s < 10.0)
        end_s = at_s + 0.5 if not late else at_s + 10.0 if hung else 10.0 + dice.random()
        sample = Sample(failed=True) if hung and arm == "candidate" else fine(dice)
        seen = Observation(tenant=f"t{number % 5}", unit=f"u{number}", arm=arm, share=share, sample=sample)
        ends.append((end_s, number, seen))
    verdicts = [
        verdict for end_s, _, seen in sorted(ends, key=lambda end: end[:2]) for verdict in judge.observe(seen, end_s)
    ]
    reverts = [(verdict.signal, verdict.tenant) for verdict in verdicts if verdict.action == "revert"]
    assert reverts[:1] == ([("errors", None)] if hung else [])


def test_a_fault_that_comes_late_is_found_in_the_next_chapter_at_the_latest() -> None:
    plan = structs.replace(PLAN, chapter_units=500)
    traffic = Traffic(lone(plan), share=0.5)
    assert traffic.send(1_600, fine) == ()
    assert traffic.guard.chapter == 2
    before = traffic.came["candidate"]
    (verdict,) = traffic.send(5_000, slow)
    assert verdict.signal == "ttft"
    assert traffic.came["candidate"] - before < 500 + 150


def test_when_a_chapter_ends() -> None:
    plan = structs.replace(PLAN, chapter_units=50, chapter_min_units=5, chapter_s=1_000.0, chapter_max_s=9_000.0)

    def chapter(units: int, now_s: float) -> int:
        judge = lone(plan)
        for number in range(units):
            seen = Observation(tenant="a", unit=str(number), arm="candidate", share=0.5, sample=Sample())
            judge.observe(seen, 1.0)
        judge.observe(Observation(tenant="a", unit="x", arm="stable", share=0.5, sample=Sample()), now_s)
        return judge.guard.chapter

    assert [chapter(49, 2.0), chapter(50, 2.0)] == [1, 2]
    assert [chapter(4, 1_000.0), chapter(5, 999.0), chapter(5, 1_000.0)] == [1, 1, 2]
    assert [chapter(0, 8_999.0), chapter(0, 9_000.0)] == [1, 2]


def test_replicas_find_together_what_neither_finds_alone() -> None:
    replicas = [guard(writer=f"replica-{index}") for index in range(3)]
    streams = [Traffic(LoneGuard(replica), seed=index, share=0.2) for index, replica in enumerate(replicas)]
    for stream in streams:
        assert stream.send(60, slow) == ()
    together = guard(writer="fresh")
    verdicts = together.merge(reduce(merge, (replica.evidence() for replica in replicas)), 60.0)
    assert [(verdict.action, verdict.tenant, verdict.signal) for verdict in verdicts] == [("revert", None, "ttft")]
    assert verdicts[0].units == sum(stream.came["candidate"] for stream in streams)


def test_an_operators_resume_begins_anew() -> None:
    traffic = Traffic(lone())
    traffic.send(5_000, down)
    traffic.guard.resume(traffic.now_s)
    assert (traffic.guard.chapter, list(traffic.guard.rows())) == (2, [])
    (verdict,) = traffic.send(5_000, down)
    assert (verdict.chapter, verdict.action) == (2, "revert")


def test_progress_for_the_steps() -> None:
    traffic = Traffic(lone())
    fresh = traffic.guard.progress()
    assert (fresh.units, fresh.last_candidate_s, fresh.last_stable_s, fresh.suspicion) == (0, None, None, 0.0)
    traffic.send(1_000, fine)
    later = traffic.guard.progress()
    assert later.units == traffic.came["candidate"]
    assert later.last_candidate_s is not None
    assert later.last_stable_s is not None
    assert max(later.last_candidate_s, later.last_stable_s) == traffic.now_s
    traffic.send(5_000, down)
    assert traffic.guard.progress().suspicion >= 1.0


def pairs(judge: LoneGuard, count: int, candidate: Behaviour, *, seed: int = 5) -> tuple[Verdict, ...]:
    """Send mirrored requests; the two answers to a prompt resemble one another."""
    dice = random.Random(seed)
    for number in range(count):
        state = dice.getrandbits(64)
        stable, copy = fine(random.Random(state)), candidate(random.Random(state + number % 2))
        pair = Pair(tenant=f"tenant-{number % 3}", unit=str(number), stable=stable, candidate=copy)
        if verdicts := judge.observe(pair, float(number)):
            return verdicts
    return ()


@pytest.mark.parametrize(("behaviour", "signal"), [(down, "errors_paired"), (slow, "ttft_paired")])
def test_mirrored_requests_are_judged_in_pairs(behaviour: Behaviour, signal: str) -> None:
    (verdict,) = pairs(lone(), 1_000, behaviour)
    assert (verdict.action, verdict.tenant, verdict.signal) == ("revert", None, signal)
    assert verdict.units < 100


def test_healthy_copies_are_left_alone() -> None:
    assert pairs(lone(), 3_000, fine) == ()


def test_a_copy_of_a_conversation_with_a_past_waits_like_any_other() -> None:
    judge = lone()
    sample = Sample(failed=False, ttft_ms=100.0, output_tokens=9)
    for turns in (3, 4, 5):
        judge.observe(Pair(tenant="a", unit="u", stable=sample, candidate=sample, earlier_turns=turns), 1.0)
        if turns == 3:
            assert {row.signal for row in judge.guard.rows() if row.group == "a" and row.units} == {
                "errors_paired",
                "length_paired",
            }
    assert {row.signal: row.units for row in judge.guard.rows() if row.group == "a" and row.units} == {
        "errors_paired": 1,
        "length_paired": 1,
        "ttft_paired": 1,
    }


def visit_of(visits: Visits, unit: str) -> Visit:
    return visits.arrive(Arrival(unit=unit, warming=False, has_past=False))


def test_units_are_forgotten_only_after_as_many_others() -> None:
    visits = Visits(3)
    assert [visit_of(visits, unit).number for unit in ("a", "a", "b", "c")] == [1, 2, 1, 1]
    assert visit_of(visits, "d").number == 1  # the young generation is full: it becomes the old one
    assert visit_of(visits, "a").number == 3  # and is still known
    for number in range(20):
        visit_of(visits, f"other {number}")
        assert len(visits) <= 6
    assert visit_of(visits, "a").number == 1


def test_what_was_put_off_is_remembered_until_it_is_read() -> None:
    """The first visit was cold; the second is too, while the candidate warms up; the third is read, once."""
    visits = Visits(3)
    seen = [visits.arrive(Arrival(unit="u", warming=warming, has_past=True)) for warming in (False, True, False, False)]
    assert [(visit.number, visit.was_put_off) for visit in seen] == [(1, False), (2, True), (3, True), (4, False)]


def test_a_visit_that_counts_by_itself_takes_what_was_put_off_along() -> None:
    visits = Visits(3)
    seen = [visits.arrive(Arrival(unit="u", warming=True, has_past=False)) for _ in range(5)]
    assert [(visit.number, visit.was_put_off) for visit in seen] == [
        (1, False),
        *((n, True) for n in (2, 3, 4)),
        (5, False),
    ]
