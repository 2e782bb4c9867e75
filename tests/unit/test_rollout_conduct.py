"""A rollout from its first request to its promotion or its revert, in one process and in several.

`Replica` is a process: `sends` lets units end there, one a second, and returns what the history gets.
"""

import random
from collections.abc import Iterable

import pytest
from msgspec import structs
from tenantry.core.rollout.conduct import MAX_EVIDENCE_ROWS, MAX_POINTS, Conduct, Entry, identity
from tenantry.core.rollout.shared import MAX_PLANS, PlanEvidence, Shared, decode, encode, merge
from tenantry.core.rollout.signals import Observation, Pair, Sample
from tenantry.core.rollout.standing import FLEET, Event, State, TransitionError
from tenantry.core.rollout.trial import Arm
from tenantry.core.rollout.visits import Visits
from tenantry.core.rules import Model
from tenantry_testing.documents import NOW, rules

ACME = "tenant:acme"
TENANTS = ("acme", "globex", "initech")
GOOD = Sample(failed=False, output_tokens=100)
BAD = Sample(failed=True)
STEPS = {"percents": [5, 25, 100], "minUnits": 20, "minSeconds": 60}


def model(image: str = "engine:1.5.0", **rollout: object) -> Model:
    """Stable 1.4.0 and candidate 1.5.0; `rollout` as in a document."""
    return rules(
        {
            "models/chat-8b/versions/1.5.0/image": image,
            "models/chat-8b/rollout": {"candidate": "1.5.0", "percent": 5, **rollout},
        }
    ).models["chat-8b"]


class Replica:
    """A process with a Conduct, and the count of visits that its store would keep."""

    def __init__(
        self, writer: str = "one", *, of: Model | None = None, known: Shared | None = None, now_s: float = NOW
    ) -> None:
        self.now_s = now_s
        self.conduct = Conduct("chat-8b", of or model(), writer=writer, now_s=self.now_s, known=known)
        self.dice = random.Random(1)
        self.visits: dict[str, Visits] = {}
        self.number = 0

    def sends(
        self,
        units: int,
        candidate: Sample = GOOD,
        *,
        stable: Sample = GOOD,
        tenants: Iterable[str] = TENANTS,
        bad_for: str | None = None,
        share: float = 0.5,
        always: Arm | None = None,
    ) -> list[Entry]:
        """Let units end until something is to be entered. `bad_for`: the tenant that alone sees `candidate`."""
        names = sorted(tenants)
        for _ in range(units):
            self.number += 1
            self.now_s += 1.0
            tenant = self.dice.choice(names)
            arm: Arm = always or ("candidate" if self.dice.random() < share else "stable")
            sample = stable if arm == "stable" else candidate if bad_for in {None, tenant} else GOOD
            entries = self.sees(Observation(tenant=tenant, unit=f"u{self.number}", arm=arm, share=share, sample=sample))
            if entries:
                return entries
        return []

    def sees(self, seen: Observation | Pair) -> list[Entry]:
        (arrival,) = self.conduct.arrivals([seen], self.now_s)
        kind = "pairs" if isinstance(seen, Pair) else "split"
        counted = self.visits.setdefault(f"{self.conduct.visits_key}/{kind}", Visits(10_000))
        return self.conduct.observe([seen], [counted.arrive(arrival)], self.now_s)

    def bid(self, event: Event, scope: str = FLEET) -> list[Entry]:
        """An operator's word."""
        return self.conduct.command(scope, event, who="ada", why="because", now_s=self.now_s)

    def ticks(self, seconds: float = 0.0, *, readable: bool = True) -> list[Entry]:
        self.now_s += seconds
        return self.conduct.tick(self.now_s, readable=readable)

    def hears(self, other: "Replica | Shared") -> list[Entry]:
        """Reads from a store what another replica wrote there."""
        known = other if isinstance(other, Shared) else decode(encode(other.shared))
        return self.conduct.merge(known, self.now_s)

    @property
    def shared(self) -> Shared:
        return self.conduct.shared(self.now_s)


def evidence_of(replica: Replica) -> list[tuple[object, ...]]:
    """Log-wealth is a sum, whose last digits depend on the order of adding up."""
    return [(row.group, row.signal, row.visit, row.units, round(row.log_e, 9)) for row in replica.conduct.rows()]


def told(entries: list[Entry]) -> list[tuple[str, str, str, str]]:
    return [(each.kind, each.scope, each.before.value, each.after.value) for each in entries]


# --- what the guard does -----------------------------------------------------------------------------------------


def test_a_candidate_that_is_bad_for_all_is_reverted_for_all_without_anybodys_doing() -> None:
    replica = Replica()
    entries = replica.sends(400, BAD)
    assert told(entries) == [("reverted", "fleet", "splitting", "reverted")]
    (entry,) = entries
    assert (entry.who, entry.model, entry.candidate, entry.stable) == ("guard", "chat-8b", "1.5.0", "1.4.0")
    assert (entry.rollout, entry.at_s) == (replica.conduct.id, replica.now_s)
    assert "errors is beyond its margin" in entry.why
    assert {row.group for row in entry.evidence} == {None}
    assert max(row.log_e / row.log_threshold for row in entry.evidence) >= 1.0
    assert replica.conduct.view().states == {FLEET: State.REVERTED}
    assert replica.conduct.version == 1


def test_a_revert_is_entered_once() -> None:
    """Requests that were in flight still end, and say the same."""
    replica = Replica()
    replica.sends(400, BAD)
    assert [each for each in replica.sends(100, BAD) if each.scope == FLEET] == []
    assert replica.conduct.state(FLEET) is State.REVERTED


def test_a_candidate_that_is_bad_for_one_tenant_is_reverted_for_that_tenant() -> None:
    replica = Replica()
    entries = replica.sends(2_000, BAD, bad_for="acme")
    assert told(entries) == [("reverted", ACME, "splitting", "reverted")]
    assert {row.group for row in entries[0].evidence} == {"acme"}
    assert replica.conduct.view().states == {ACME: State.REVERTED}
    assert replica.conduct.state(FLEET) is State.SPLITTING


def test_a_good_candidate_is_left_alone() -> None:
    replica = Replica()
    assert replica.sends(1_000) == []
    assert replica.conduct.version == 0


def test_while_the_stable_version_fails_too_there_is_an_alarm_and_nothing_moves() -> None:
    replica = Replica()
    replica.dice = random.Random(1)
    alarm = None
    for number in range(1_500):
        told = [each for each in replica.sends(1, BAD, stable=BAD if number % 10 < 3 else GOOD) if each.scope == FLEET]
        if told:
            (alarm,) = told
            break
    assert alarm is not None
    assert alarm.kind == "alarm"
    assert (alarm.before, alarm.after, alarm.who) == (State.SPLITTING, State.SPLITTING, "guard")
    assert replica.conduct.view().states == {}


def test_a_tenant_that_picks_its_version_raises_an_alarm() -> None:
    replica = Replica()
    (alarm,) = replica.sends(400, tenants=["acme"], share=0.05, always="candidate")
    assert (alarm.kind, alarm.scope, alarm.id) == ("alarm", ACME, f"{replica.conduct.id}/alarm/{ACME}/share/1/1")


def test_mirrored_pairs_are_judged_too() -> None:
    replica = Replica()
    entries: list[Entry] = []
    for number in range(300):
        replica.now_s += 1.0
        tenant = TENANTS[number % 3]
        entries += replica.sees(Pair(tenant=tenant, unit=f"u{number}", stable=GOOD, candidate=BAD))
    assert told(entries)[0] == ("reverted", FLEET, "splitting", "reverted")
    assert "errors_paired" in entries[0].why


def test_the_evidence_of_an_entry_is_bounded_and_no_row_of_it_is_empty() -> None:
    (entry,) = Replica().sends(400, BAD)
    assert 0 < len(entry.evidence) <= MAX_EVIDENCE_ROWS
    # The candidate fails before it has written anything: of its answers' length only the stable version's are known.
    assert {(row.signal, row.units > 0) for row in entry.evidence} == {("errors", True), ("length", False)}


# --- what an operator does ---------------------------------------------------------------------------------------


def test_to_resume_all_is_to_resume_whoever_was_reverted_by_itself_and_costs_one_chapter() -> None:
    replica = Replica()
    for scope in (ACME, "tenant:globex", "tier:gold"):
        replica.conduct.command(scope, Event.OPERATOR_REVERT, who="ada", why="test", now_s=1.0)
    replica.conduct.command("tenant:initech", Event.OPERATOR_PROMOTE, who="ada", why="test", now_s=1.0)
    entries = replica.conduct.command(FLEET, Event.OPERATOR_RESUME, who="ada", why="mended", now_s=2.0)
    assert [(entry.scope, entry.kind) for entry in entries] == [
        (ACME, "resumed"), ("tenant:globex", "resumed"), ("tier:gold", "resumed"),
    ]  # fmt: skip
    assert replica.conduct.view().states == {"tenant:initech": State.PROMOTED}
    assert replica.conduct.guard.chapter == 2


def test_an_operators_words() -> None:
    replica = Replica()
    said = [
        (Event.OPERATOR_PAUSE, "paused", State.PAUSED),
        (Event.OPERATOR_RESUME, "resumed", State.SPLITTING),
        (Event.OPERATOR_PROMOTE, "promoted", State.PROMOTED),
        (Event.OPERATOR_REVERT, "reverted", State.REVERTED),
        (Event.OPERATOR_RESUME, "resumed", State.SPLITTING),
    ]
    for version, (event, kind, state) in enumerate(said, 1):
        (entry,) = replica.bid(event, "tier:gold")
        assert (entry.kind, entry.scope, entry.after, entry.who, entry.why) == (
            kind, "tier:gold", state, "ada", "because",
        )  # fmt: skip
        assert replica.conduct.state("tier:gold") is state
        assert replica.conduct.state(FLEET) is State.SPLITTING
        assert replica.conduct.version == version


def test_what_is_so_already_is_not_entered_again() -> None:
    replica = Replica()
    replica.bid(Event.OPERATOR_PAUSE)
    before = replica.shared
    assert replica.bid(Event.OPERATOR_PAUSE) == []
    assert (replica.shared, replica.conduct.version) == (before, 1)


def test_a_word_that_has_no_place_is_refused_with_what_would_be_right() -> None:
    replica = Replica()
    with pytest.raises(TransitionError, match=r"fleet: operator_resume has no place .* it is splitting already"):
        replica.bid(Event.OPERATOR_RESUME)
    replica.bid(Event.OPERATOR_REVERT, ACME)
    with pytest.raises(TransitionError, match=r"tier:gold: .* it is splitting already \(tenant:acme is reverted\)"):
        replica.bid(Event.OPERATOR_RESUME, "tier:gold")  # who meant the tenant is told where to look
    with pytest.raises(TransitionError, match=r"tenant:acme: .* resume it first"):
        replica.bid(Event.OPERATOR_PROMOTE, ACME)
    assert replica.conduct.version == 1


def test_after_a_resume_the_evidence_begins_anew() -> None:
    """What spoke against the candidate before must not take it back again at once."""
    replica = Replica()
    replica.sends(400, BAD)
    assert told(replica.bid(Event.OPERATOR_RESUME)) == [("resumed", FLEET, "reverted", "splitting")]
    assert (replica.conduct.guard.chapter, replica.conduct.rows()) == (2, [])
    assert replica.sends(1_000, GOOD) == []
    (again,) = replica.sends(400, BAD)
    assert (again.kind, again.id) == ("reverted", f"{replica.conduct.id}/reverted/fleet/2.1")


@pytest.mark.parametrize("moved", ["resume", "turn", "plan"])
def test_visits_that_were_counted_before_a_chapter_began_are_no_evidence_in_it(moved: str) -> None:
    """A store counts them while an operator may say something."""
    replica = Replica()
    replica.bid(Event.OPERATOR_REVERT)
    seen = [
        Observation(tenant="acme", unit=f"u{number}", arm="candidate", share=0.5, sample=BAD) for number in range(9)
    ]
    visits = [Visits(99).arrive(each) for each in replica.conduct.arrivals(seen, replica.now_s)]
    if moved == "resume":
        replica.bid(Event.OPERATOR_RESUME)
    elif moved == "turn":
        replica.conduct.turn(replica.now_s)
    else:
        replica.conduct.configure(model(guard={"alpha": 0.02}), replica.now_s)
    assert replica.conduct.observe(seen, visits, replica.now_s) == []
    assert replica.conduct.rows() == []
    assert replica.conduct.guard.progress().last_candidate_s == replica.now_s  # though they did come


def test_a_pause_does_not_throw_evidence_away() -> None:
    replica = Replica()
    replica.sends(50)
    rows = replica.conduct.rows()
    replica.bid(Event.OPERATOR_PAUSE)
    replica.bid(Event.OPERATOR_RESUME)
    assert rows
    assert replica.conduct.rows() == rows


def test_a_store_that_forgot_begins_a_chapter_and_no_state() -> None:
    """Which units were counted is forgotten with it; that the candidate is reverted is not."""
    replica = Replica()
    replica.sends(400, BAD)
    key = replica.conduct.visits_key
    replica.conduct.turn(replica.now_s)
    assert replica.conduct.visits_key != key
    assert replica.conduct.state(FLEET) is State.REVERTED


# --- what routing sees -------------------------------------------------------------------------------------------


def test_the_view_of_routing() -> None:
    of = model()
    replica = Replica(of=of)
    view = replica.conduct.view()
    assert (view.id, view.candidate, view.image, view.states, view.percent) == (
        identity("chat-8b", of), "1.5.0", "engine:1.5.0", {}, None,
    )  # fmt: skip
    replica.bid(Event.OPERATOR_PAUSE, ACME)
    replica.bid(Event.OPERATOR_PROMOTE, "tier:gold")
    replica.bid(Event.OPERATOR_PAUSE)
    replica.bid(Event.OPERATOR_RESUME)
    assert replica.conduct.view().states == {ACME: State.PAUSED, "tier:gold": State.PROMOTED}
    assert replica.conduct.standings[FLEET].state is State.SPLITTING


def test_a_model_without_a_rollout_has_nothing_to_conduct() -> None:
    with pytest.raises(ValueError, match="no rollout"):
        Conduct("embed", rules().models["embed"], writer="one", now_s=NOW)


# --- automatic steps ---------------------------------------------------------------------------------------------


def climbing(writer: str = "one", *, known: Shared | None = None, **steps: object) -> Replica:
    replica = Replica(writer, of=model(steps=STEPS | steps), known=known)
    replica.ticks()
    return replica


def test_a_rollout_with_steps_begins_at_the_first_whatever_its_percent() -> None:
    replica = Replica(of=model(percent=50, steps=STEPS))
    assert (replica.conduct.percent, replica.conduct.view().percent) == (5.0, 5.0)
    assert replica.ticks() == []
    assert (replica.conduct.view().percent, replica.conduct.version) == (5.0, 1)


def test_steps_climb_to_a_promotion_each_with_units_and_time_of_its_own() -> None:
    replica = climbing()
    assert replica.ticks() == []
    assert replica.conduct.step_why.startswith("no outcome of both versions")
    replica.sends(50)
    assert replica.ticks() == []
    assert replica.conduct.step_why == "the step is younger than 60 s"
    replica.sends(20)
    (entry,) = replica.ticks()
    assert (entry.kind, entry.scope, entry.who, entry.id) == (
        "step", FLEET, "steps", f"{replica.conduct.id}/step/2",
    )  # fmt: skip
    assert entry.why.startswith("5 % to 25 %")
    assert replica.conduct.view().percent == 25.0
    assert replica.ticks(61.0) == []  # long enough, and nobody came
    assert "0 of 20 answered candidate units" in replica.conduct.step_why
    replica.sends(70)
    assert told(replica.ticks()) == [("promoted", FLEET, "splitting", "promoted")]
    assert replica.conduct.state(FLEET) is State.PROMOTED
    assert replica.conduct.view().percent == 25.0
    replica.sends(70)
    assert replica.ticks() == []
    assert replica.conduct.step_why == "the rollout is promoted"


def test_without_steps_the_share_stays_what_the_rules_say() -> None:
    replica = Replica()
    replica.sends(1_000)
    assert replica.ticks(10_000.0) == []
    assert (replica.conduct.percent, replica.conduct.step_why, replica.conduct.version) == (5.0, "", 0)


def test_no_step_is_taken_while_the_store_cannot_be_read() -> None:
    """It may know of a revert, or of steps that were taken back."""
    fresh = Replica(of=model(steps=STEPS))
    fresh.ticks(readable=False)
    assert (fresh.conduct.version, fresh.shared.stepping) == (0, None)
    replica = climbing()
    replica.sends(70)
    assert replica.ticks(readable=False) == []
    assert replica.conduct.step_why == "the evidence cannot be read"
    assert told(replica.ticks()) == [("step", FLEET, "splitting", "splitting")]


def test_a_doubt_takes_no_step() -> None:
    replica = climbing()
    replica.sends(60)
    replica.sends(20, BAD)
    assert replica.conduct.state(FLEET) is State.SPLITTING
    assert replica.ticks() == []
    assert replica.conduct.step_why == "a signal speaks against the candidate"


def test_a_reverted_candidate_that_is_resumed_begins_at_the_first_step() -> None:
    replica = climbing()
    replica.sends(70)
    replica.ticks()
    replica.sends(400, BAD)
    replica.bid(Event.OPERATOR_RESUME)
    assert replica.conduct.view().percent == 5.0
    assert replica.ticks(61.0) == []
    replica.sends(70)
    assert [each.id for each in replica.ticks()] == [f"{replica.conduct.id}/step/4"]


def test_one_tenants_resume_takes_no_units_of_others_back() -> None:
    replica = climbing()
    replica.sends(70)
    replica.ticks()
    replica.bid(Event.OPERATOR_REVERT, ACME)
    replica.bid(Event.OPERATOR_RESUME, ACME)
    assert replica.conduct.view().percent == 25.0


@pytest.mark.parametrize("event", [Event.OPERATOR_PROMOTE, Event.OPERATOR_PAUSE])
def test_what_came_before_a_pause_or_a_promotion_takes_no_step_after_it(event: Event) -> None:
    """An operator who takes a promotion back must not see it promoted again by the next tick."""
    replica = climbing(percents=[5, 100])
    replica.sends(70)
    replica.bid(event)
    replica.bid(Event.OPERATOR_RESUME)
    assert replica.ticks() == []
    assert "the step is younger" in replica.conduct.step_why
    replica.sends(70)
    assert told(replica.ticks()) == [("promoted", FLEET, "splitting", "promoted")]


def test_steps_that_one_replica_takes_are_taken_by_all() -> None:
    one, two = climbing("one"), climbing("two")
    one.sends(70)
    one.ticks()
    assert two.hears(one) == []
    assert two.conduct.view().percent == 25.0
    two.now_s = one.now_s
    assert two.ticks() == []


def test_a_step_counts_only_units_that_came_after_it_under_any_plan() -> None:
    """Back to margins of before: the units counted under them then say nothing of a step since."""
    tight, loose = (model(steps=STEPS, guard={"margins": {"errorOdds": odds}}) for odds in (2, 4))
    replica = Replica(of=tight)
    replica.ticks()
    replica.sends(70)
    replica.conduct.configure(loose, replica.now_s)
    assert replica.ticks() == []
    assert replica.conduct.step_why == "the evidence is another plan's: the step begins anew"
    replica.sends(70)
    assert [each.why[:10] for each in replica.ticks()] == ["5 % to 25 "]
    replica.conduct.configure(tight, replica.now_s)
    replica.ticks()
    assert replica.ticks(61.0) == []
    assert replica.conduct.percent == 25.0
    assert replica.sends(3) == []
    assert replica.ticks() == []
    assert "of 20 answered candidate units" in replica.conduct.step_why


# --- the course of the evidence ----------------------------------------------------------------------------------


def test_a_point_every_five_seconds_and_no_more_than_are_kept() -> None:
    replica = Replica()
    replica.sends(30)
    replica.ticks()
    replica.ticks(4.9)
    assert len(replica.conduct.points) == 1
    replica.ticks(0.1)
    assert len(replica.conduct.points) == 2
    point = replica.conduct.points[-1]
    assert (point.at_s, point.percent) == (replica.now_s, 5.0)
    assert 0 < point.units < point.all_units == 30
    assert set(point.suspicion) == {"errors", "length"}
    assert all(value < 1.0 for value in point.suspicion.values())
    for _ in range(MAX_POINTS + 10):
        replica.ticks(5.0)
    assert len(replica.conduct.points) == MAX_POINTS
    assert replica.conduct.points[-1].at_s == replica.now_s


# --- changed rules -----------------------------------------------------------------------------------------------


def test_other_margins_begin_with_evidence_of_their_own_and_come_back_to_it() -> None:
    """And what was reverted stays reverted, whatever the margins."""
    of, other = model(), model(guard={"margins": {"errorOdds": 3}})
    replica = Replica(of=of)
    replica.sends(50)
    rows, key = replica.conduct.rows(), replica.conduct.visits_key
    replica.conduct.configure(other, replica.now_s)
    assert replica.conduct.rows() == []
    assert replica.conduct.visits_key != key
    assert told(replica.sends(400, BAD)) == [("reverted", FLEET, "splitting", "reverted")]
    replica.conduct.configure(of, replica.now_s)
    again = [structs.replace(row, log_e=round(row.log_e, 9)) for row in replica.conduct.rows()]
    assert again == [structs.replace(row, log_e=round(row.log_e, 9)) for row in rows]
    assert replica.conduct.visits_key == key
    assert replica.conduct.state(FLEET) is State.REVERTED
    replica.sends(50)
    assert len(replica.shared.evidence) == 2
    assert replica.hears(decode(encode(replica.shared))) == []


def test_other_percents_leave_the_evidence_alone() -> None:
    replica = Replica()
    replica.sends(50)
    rows = replica.conduct.rows()
    replica.conduct.configure(model(percent=10, mirrorPercent=3), replica.now_s)
    assert replica.conduct.rows() == rows
    assert (replica.conduct.percent, replica.conduct.rollout.mirror_percent) == (10.0, 3.0)


def test_a_rollout_that_the_rules_drop_and_take_up_again_goes_on() -> None:
    """Same process, same writer, and its own evidence in what it remembers."""
    first = Replica()
    first.sends(50)
    again = Replica(known=first.shared, now_s=first.now_s)
    assert evidence_of(again) == evidence_of(first)
    again.sends(20)
    assert again.hears(first) == []
    assert again.hears(again) == []


def test_a_newer_image_is_another_rollout() -> None:
    assert identity("chat-8b", model()) != identity("chat-8b", model("engine:1.5.1"))


def test_a_store_full_of_newer_plans_does_not_take_the_present_ones_evidence_away() -> None:
    replica = Replica()
    replica.sends(50)
    rows, (mine,) = replica.conduct.rows(), replica.shared.evidence
    evidence = replica.shared.evidence[mine].evidence
    replica.hears(
        Shared(
            evidence={
                f"plan{number}": PlanEvidence(evidence=evidence, at_s=replica.now_s + 99.0)
                for number in range(MAX_PLANS)
            }
        )
    )
    assert replica.conduct.rows() == rows
    assert replica.shared.evidence[mine].evidence == evidence


# --- several replicas --------------------------------------------------------------------------------------------


def test_replicas_that_see_the_same_write_the_same_lines() -> None:
    """A store appends a line once by its id, and the webhook is told once."""
    one, two = Replica("one"), Replica("two")
    ids = [
        [
            *(each.id for each in replica.sends(2_000, BAD, bad_for="acme")),
            *(each.id for each in replica.sends(400, BAD)),
            *(each.id for each in replica.bid(Event.OPERATOR_RESUME)),
            *(each.id for each in replica.sends(400, BAD)),
        ]
        for replica in (one, two)
    ]
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == len(ids[0]) >= 4


def test_halves_of_the_evidence_add_up_to_a_revert() -> None:
    one, two = Replica("one"), Replica("two")
    two.dice, two.number = random.Random(2), 10_000
    assert one.sends(34, BAD) == two.sends(34, BAD) == []
    (entry,) = [each for each in one.hears(two) if each.scope == FLEET]
    assert entry.kind == "reverted"
    two.hears(one)
    assert two.conduct.state(FLEET) is State.REVERTED


def test_a_revert_reaches_the_others_and_is_entered_by_the_one_that_saw_it() -> None:
    one, two = Replica("one"), Replica("two")
    one.sends(400, BAD)
    assert two.hears(one) == []
    assert (two.conduct.state(FLEET), two.conduct.version) == (State.REVERTED, 1)
    assert two.hears(one) == []
    assert two.conduct.version == 1


def test_a_revert_survives_a_store_and_a_replica_that_know_nothing() -> None:
    """Invariant 8."""
    one, ignorant = Replica("one"), Replica("two")
    one.sends(400, BAD)
    assert one.hears(ignorant) == []
    assert one.hears(Shared()) == []
    assert one.conduct.state(FLEET) is State.REVERTED
    store = merge(decode(None), one.shared)
    restarted = Replica("three", known=decode(encode(store)))
    assert restarted.conduct.state(FLEET) is State.REVERTED
    assert restarted.hears(store) == []


def test_a_resume_reaches_the_others_with_the_chapter_that_it_began() -> None:
    """Else the evidence that one of them still has would revert again at once."""
    one, two = Replica("one"), Replica("two")
    one.sends(400, BAD)
    two.hears(one)
    two.bid(Event.OPERATOR_RESUME)
    assert one.hears(two) == []
    assert (one.conduct.state(FLEET), one.conduct.guard.chapter) == (State.SPLITTING, 2)
    assert two.hears(one) == []
    assert one.sends(200) == []
    assert two.conduct.state(FLEET) is State.SPLITTING


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_verdict_held_back_does_not_outlive_a_resume_wherever_it_was_said(elsewhere: bool) -> None:
    """The stable version was sick when the evidence was in; once it is well, an operator has decided otherwise."""
    one, two = Replica("one"), Replica("two")
    for number in range(1_500):
        two.sends(1, BAD, stable=BAD if number % 4 == 0 else GOOD)
    assert two.conduct.guard.progress().alarms > 0
    asked = one if elsewhere else two
    asked.bid(Event.OPERATOR_REVERT)
    asked.bid(Event.OPERATOR_RESUME)
    assert two.hears(one) == []
    assert two.conduct.guard.progress().alarms == 0
    two.now_s += 301.0
    assert two.sends(200) == []
    assert two.conduct.state(FLEET) is State.SPLITTING


def test_what_is_heard_twice_counts_once() -> None:
    one, two = Replica("one"), Replica("two")
    one.sends(10, BAD)
    for _ in range(20):
        assert two.hears(one) == []
        assert one.hears(two) == []
    assert evidence_of(two) == evidence_of(one)


def test_a_replica_publishes_what_others_know_too() -> None:
    one, two, three = Replica("one"), Replica("two"), Replica("three")
    one.sends(30)
    two.hears(one)
    three.hears(two)
    assert evidence_of(three) == evidence_of(one) != []
