"""One rollout in one process: outcomes, an operator's words and other replicas' knowledge in, history entries out.

Puts together what the modules beside it decide: the guard's verdicts move standings, standings and steps make the view
that routing sees, and `shared` is what a store has to keep. A change counts here at once, before any store has it: a
revert must not wait for a network. `version` rises with each change that is worth writing at once.

Who moves what: a verdict of the guard reverts its scope, the fleet or a tenant, and nothing else; promotions, pauses
and the way out of a revert are an operator's. Automatic steps, where the rules have them, move the fleet's percent.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from msgspec import Struct, structs

from tenantry.core.rollout import shared as shared_state
from tenantry.core.rollout.budget import Budget
from tenantry.core.rollout.evidence import Evidence
from tenantry.core.rollout.guard import Guard
from tenantry.core.rollout.shared import PlanEvidence, Shared, Stepping
from tenantry.core.rollout.signals import Margins, Observation, Pair
from tenantry.core.rollout.standing import (
    FLEET,
    Event,
    Standing,
    State,
    Steps,
    TransitionError,
    apply,
    next_step,
    tenant_scope,
)
from tenantry.core.rollout.verdicts import Plan, Row, Verdict
from tenantry.core.rollout.visits import Arrival, Visit
from tenantry.core.routing import RolloutView
from tenantry.core.rules import Model, Rollout
from tenantry.core.split import rollout_id

Kind = Literal["reverted", "alarm", "promoted", "paused", "resumed", "step"]
GUARD, STEPS = "guard", "steps"
"""Who moved a rollout when no person did."""

MAX_EVIDENCE_ROWS = 40
NO_EVIDENCE = 1e-6
"""A log e-value this close to 0 is what rounding makes of no bet at all."""
MAX_POINTS = 240
POINT_SECONDS = 5.0
_UNCOUNTED = Visit(number=0, was_put_off=False)
_REFUSALS = (ValueError, ArithmeticError, LookupError)
"""What evidence can raise that no release of ours has written."""


class Entry(Struct, frozen=True, kw_only=True):
    """One line of a rollout's history. The id is the same on every replica that sees the same happen.

    `who` is a person's name, `guard` or `steps`. `evidence` is the scope's, as it stood.
    """

    id: str
    at_s: float
    rollout: str
    model: str
    candidate: str
    stable: str
    scope: str
    kind: Kind
    before: State
    after: State
    who: str
    why: str
    evidence: tuple[Row, ...] = ()


class Point(Struct, frozen=True, kw_only=True):
    """The evidence at one moment: per signal the fleet's log e-value over its threshold (1: a verdict)."""

    at_s: float
    percent: float
    units: int
    all_units: int
    suspicion: dict[str, float]


class Conduct:
    """One rollout. `writer` is unique to this start of this process; times are Unix seconds.

    Raises TransitionError for an operator's word that has no place in the state.
    """

    def __init__(self, name: str, model: Model, *, writer: str, now_s: float, known: Shared | None = None) -> None:
        self.name = name
        self._writer = writer
        self._guards = 0
        self._counted_in = ""
        self._refused: tuple[str, int] | None = None
        self._shared = known or Shared()
        self._model, self._rollout = model, _rollout(model)
        self.id = identity(name, model)
        self._plan = plan_of(self._rollout)
        self._plan_id = shared_state.plan_id(self._plan)
        self._guard = self._new_guard(now_s)
        self.points: list[Point] = []
        self.version = 0
        self._step_why = ""

    def configure(self, model: Model, now_s: float) -> None:
        """Take over changed rules of the same rollout. Another plan begins with evidence of its own."""
        self._model, self._rollout = model, _rollout(model)
        plan = plan_of(self._rollout)
        if plan != self._plan:
            self._shared = self.shared(now_s)
            self._plan, self._plan_id = plan, shared_state.plan_id(plan)
            self._guard = self._new_guard(now_s)

    @property
    def model(self) -> Model:
        """The model's rules."""
        return self._model

    @property
    def rollout(self) -> Rollout:
        """The rollout's rules."""
        return self._rollout

    @property
    def guard(self) -> Guard:
        """The guard."""
        return self._guard

    @property
    def standings(self) -> dict[str, Standing]:
        """The standings by scope; one that never moved is not among them."""
        return dict(self._shared.standings)

    @property
    def visits_key(self) -> str:
        """The key under which visits of the current chapter are counted."""
        return f"visits/{self.id}/{self._plan_id}/{self._guard.chapter}"

    @property
    def percent(self) -> float:
        """The percent of units that tenants without a word of their own send to the candidate."""
        steps, stepping = self._rollout.steps, self._shared.stepping
        if steps is None:
            return self._rollout.percent
        return steps.percents[0] if stepping is None else stepping.percent

    @property
    def refuses_evidence(self) -> bool:
        """Whether what others know of this chapter is left out, as it cannot be right."""
        plan, chapter = self._refused or ("", 0)
        return plan == self._plan_id and self._guard.chapter <= chapter

    def view(self) -> RolloutView:
        """Return what routing has to know."""
        states = {scope: standing.state for scope, standing in self._shared.standings.items()}
        candidate = self._rollout.candidate
        return RolloutView(
            id=self.id,
            candidate=candidate,
            image=self._model.versions[candidate].image,
            states={scope: state for scope, state in states.items() if state is not State.SPLITTING},
            percent=None if self._rollout.steps is None else self.percent,
        )

    def state(self, scope: str) -> State:
        """Return the state of one scope by itself."""
        return self._shared.standings.get(scope, Standing()).state

    def shared(self, now_s: float) -> Shared:
        """Return what a store has to keep: all that is known here."""
        evidence = dict(self._shared.evidence)
        mine = self._guard.evidence()
        known = evidence.get(self._plan_id)
        if known is None or known.evidence != mine:
            evidence[self._plan_id] = PlanEvidence(evidence=mine, at_s=now_s)
        return Shared(standings=self._shared.standings, evidence=evidence, stepping=self._shared.stepping)

    def merge(self, known: Shared, now_s: float) -> list[Entry]:
        """Take in what a store or another replica knows; return what follows from the sum of the evidence.

        Evidence that the guard refuses is left out while its chapter lasts, and the standings beside it count.
        """
        before = self.shared(now_s)
        theirs = known.evidence.get(self._plan_id)
        if theirs is not None and (self._plan_id, theirs.evidence.chapter) == self._refused:
            known = shared_state.without_evidence(known, self._plan_id)
        self._shared = shared_state.merge(before, known)
        if (self._shared.standings, self._shared.stepping) != (before.standings, before.stepping):
            self.version += 1
        for scope, standing in self._shared.standings.items():
            if standing.cleared > before.standings.get(scope, Standing()).cleared:
                self._guard.drop_held(scope.removeprefix("tenant:") if scope != FLEET else None)
        ours, all_of_it = (shared.evidence.get(self._plan_id) for shared in (before, self._shared))
        # Mostly nobody else knows more, and then there is nothing to add up and judge anew.
        if all_of_it is None or (ours is not None and ours.evidence == all_of_it.evidence):
            return []
        try:
            verdicts = self._guard.merge(all_of_it.evidence, now_s)
        except _REFUSALS:
            self._refuse(all_of_it.evidence.chapter, ours)
            self._guard = self._new_guard(now_s)  # the old one may have taken in half of it
            return []
        return list(self._follow(verdicts, now_s))

    def turn(self, now_s: float) -> None:
        """Begin a new chapter of evidence: what was counted of its units is lost (a store forgot)."""
        self._guard.resume(now_s)

    def arrivals(self, batch: Iterable[Observation | Pair], now_s: float) -> list[Arrival]:
        """Return what the count of visits has to know of requests that `observe` will be given next."""
        self._guard.turn_if_due(now_s)
        self._counted_in = self.visits_key
        return [self._guard.arrival(seen) for seen in batch]

    def observe(self, batch: Sequence[Observation | Pair], visits: Sequence[Visit], now_s: float) -> list[Entry]:
        """Take in requests that ended, each with its visit.

        If a chapter began while a store counted them, these are visits of the chapter before, and no evidence in this.
        """
        if self._counted_in != self.visits_key:
            visits = [_UNCOUNTED] * len(batch)
        entries: list[Entry] = []
        for seen, visit in zip(batch, visits, strict=True):
            verdicts = (
                self._guard.observe_pair(seen, visit, now_s)
                if isinstance(seen, Pair)
                else self._guard.observe(seen, visit, now_s)
            )
            entries += self._follow(verdicts, now_s)
        return entries

    def command(self, scope: str, event: Event, *, who: str, why: str, now_s: float) -> list[Entry]:
        """Do an operator's bidding; return the history entries, nothing when it was so already.

        To resume the fleet is to resume every tier and tenant that was reverted by itself, too: after a bad minute each
        may have been.
        """
        before = self.state(scope)
        scopes = [scope]
        if scope == FLEET and event is Event.OPERATOR_RESUME:
            reverted = [each for each, standing in self._shared.standings.items() if standing.state is State.REVERTED]
            scopes = sorted({*reverted, *([FLEET] if before is not State.SPLITTING or not reverted else [])})
        reverts = any(self.state(each) is State.REVERTED for each in scopes)
        try:
            entries = [entry for each in scopes for entry in self._move(each, event, who=who, why=why, now_s=now_s)]
        except TransitionError as error:
            others = [f"{other} is {state.value}" for other, state in self.view().states.items() if other != scope]
            raise TransitionError(f"{scope}: {error}" + (f" ({', '.join(others)})" if others else "")) from None
        if entries and event is Event.OPERATOR_RESUME:
            if reverts:
                self._go_on(scope, scopes, now_s)
            if scope == FLEET:
                self._resume_step(now_s, back=before is State.REVERTED)
        return entries

    def _go_on(self, scope: str, scopes: Iterable[str], now_s: float) -> None:
        """See to it that what spoke against the candidate before does not take it back again at once.

        For the fleet the evidence begins anew. For a tenant alone that would cost everybody the evidence so far: its
        verdicts of this chapter are heard already, and the fleet's guard goes on over it.
        """
        chapter = self._guard.chapter
        for each in scopes:
            standing = structs.replace(self._shared.standings[each], heard_chapter=chapter)
            self._shared = shared_state.with_standing(self._shared, each, standing)
            if each.startswith("tenant:"):
                self._guard.drop_held(each.removeprefix("tenant:"))
        if scope == FLEET:
            self._guard.resume(now_s)

    def tick(self, now_s: float, *, readable: bool) -> list[Entry]:
        """Note a point of the evidence's course, and take an automatic step if one is due."""
        if not self.points or abs(now_s - self.points[-1].at_s) >= POINT_SECONDS:  # the clock may be set back
            self.points = [*self.points[1 - MAX_POINTS :], self._point(now_s)]
        return list(self._step(now_s, readable=readable))

    def rows(self) -> list[Row]:
        """Return the evidence, the fleet's first; tests without any are left out.

        One that has no reading of the candidate, and evidence all the same, has readings of the stable version alone.
        """
        return [row for row in self._guard.rows() if row.units or abs(row.log_e) > NO_EVIDENCE]

    @property
    def step_why(self) -> str:
        """Why no automatic step was taken last; empty without steps."""
        return self._step_why

    def _new_guard(self, now_s: float) -> Guard:
        known = self._shared.evidence.get(self._plan_id)
        # A guard that comes back to evidence of an earlier one of this process is another writer than that was.
        self._guards += 1
        writer = f"{self._writer}/{now_s:.3f}.{self._guards}"
        if known is not None:
            try:
                guard = Guard(self._plan, writer=writer, evidence=known.evidence)
                for _ in guard.rows():  # each value is looked at
                    pass
            except _REFUSALS:
                self._refuse(known.evidence.chapter, None)
            else:
                return guard
        return Guard(self._plan, writer=writer, evidence=Evidence(started_s=now_s))

    def _refuse(self, chapter: int, mine: PlanEvidence | None) -> None:
        self._refused = (self._plan_id, chapter)
        self._shared = shared_state.without_evidence(self._shared, self._plan_id)
        if mine is not None:
            self._shared = structs.replace(self._shared, evidence=dict(self._shared.evidence) | {self._plan_id: mine})

    def _follow(self, verdicts: Iterable[Verdict], now_s: float) -> Iterator[Entry]:
        for verdict in verdicts:
            scope = FLEET if verdict.tenant is None else tenant_scope(verdict.tenant)
            heard = self._shared.standings.get(scope, Standing()).heard_chapter
            if verdict.action == "revert" and verdict.chapter <= heard:
                continue  # an operator knew of it, and resumed
            if verdict.action == "revert":
                yield from self._move(scope, Event.GUARD_REVERT, who=GUARD, why=verdict.why, now_s=now_s)
            else:
                state = self.state(scope)
                where = f"{verdict.signal}/{verdict.visit}/{verdict.chapter}"
                yield self._entry(
                    f"alarm/{scope}/{where}", scope, "alarm", state, state, who=GUARD, why=verdict.why, now_s=now_s
                )

    def _move(self, scope: str, event: Event, *, who: str, why: str, now_s: float) -> Iterator[Entry]:
        before = self._shared.standings.get(scope, Standing())
        after = apply(before, event)
        if after == before:
            return
        self._shared = shared_state.with_standing(self._shared, scope, after)
        self.version += 1
        kind: Kind = {
            State.REVERTED: "reverted", State.PROMOTED: "promoted", State.PAUSED: "paused", State.SPLITTING: "resumed",
        }[after.state]  # type: ignore[assignment]  # fmt: skip
        moved = f"{kind}/{scope}/{after.reverts}.{after.clock}"
        yield self._entry(moved, scope, kind, before.state, after.state, who=who, why=why, now_s=now_s)

    def _entry(
        self, name: str, scope: str, kind: Kind, before: State, after: State, *, who: str, why: str, now_s: float
    ) -> Entry:
        group = scope.removeprefix("tenant:") if scope.startswith("tenant:") else None
        rows = [row for row in self.rows() if row.group == group]
        return Entry(
            id=f"{self.id}/{name}",
            at_s=now_s,
            rollout=self.id,
            model=self.name,
            candidate=self._rollout.candidate,
            stable=self._model.stable,
            scope=scope,
            kind=kind,
            before=before,
            after=after,
            who=who,
            why=why,
            evidence=tuple(rows[:MAX_EVIDENCE_ROWS]),
        )

    def _point(self, now_s: float) -> Point:
        progress = self._guard.progress()
        worst: dict[str, float] = {}
        for row in self._guard.rows():
            if row.group is None and row.covered and (row.units or abs(row.log_e) > NO_EVIDENCE):
                worst[row.signal] = max(worst.get(row.signal, -99.0), round(row.log_e / row.log_threshold, 4))
        return Point(
            at_s=now_s, percent=self.percent, units=progress.units, all_units=progress.all_units, suspicion=worst
        )

    def _step(self, now_s: float, *, readable: bool) -> Iterator[Entry]:
        if self._rollout.steps is None:
            self._step_why = ""
            return
        steps = Steps(
            percents=self._rollout.steps.percents,
            min_units=self._rollout.steps.min_units,
            min_seconds=self._rollout.steps.min_seconds,
        )
        stepping = self._shared.stepping
        if stepping is None:
            if readable:  # a store that cannot be read may know of steps taken
                self._set_step(steps.percents[0], now_s)
            return
        if stepping.plan != self._plan_id:
            self._step_why = "the evidence is another plan's: the step begins anew"
            if readable:
                self._set_step(stepping.percent, now_s)
            return
        fleet = self._shared.standings.get(FLEET, Standing())
        progress = self._guard.progress()
        if stepping.chapter == self._guard.chapter:
            # Units that came before this step say nothing of it.
            progress = structs.replace(progress, spread_units=progress.spread_units - stepping.units)
        taken = next_step(
            steps,
            fleet,
            percent=stepping.percent,
            since_s=stepping.since_s,
            progress=progress if readable else None,
            now_s=now_s,
        )
        self._step_why = taken.why
        if taken.done:
            yield from self._move(FLEET, Event.STEPS_DONE, who=STEPS, why=taken.why, now_s=now_s)
        elif taken.percent > stepping.percent:
            self._set_step(taken.percent, now_s)
            name = f"step/{self._shared.stepping.number if self._shared.stepping else 0}"
            why = f"{stepping.percent:g} % to {taken.percent:g} %: {taken.why}"
            yield self._entry(name, FLEET, "step", fleet.state, fleet.state, who=STEPS, why=why, now_s=now_s)

    def _resume_step(self, now_s: float, *, back: bool) -> None:
        """Begin the step anew, or the first: else what came before a pause or a promotion would end it at once."""
        steps, stepping = self._rollout.steps, self._shared.stepping
        if steps is not None and stepping is not None:
            self._set_step(steps.percents[0] if back else stepping.percent, now_s)

    def _set_step(self, percent: float, now_s: float) -> None:
        before = self._shared.stepping
        stepping = Stepping(
            number=1 if before is None else before.number + 1,
            percent=percent,
            since_s=now_s,
            chapter=self._guard.chapter,
            units=self._guard.progress().spread_units,
            plan=self._plan_id,
        )
        self._shared = structs.replace(self._shared, stepping=stepping)
        self.version += 1


def identity(name: str, model: Model) -> str:
    """Return the identity of a model's rollout: model, candidate and the candidate's image."""
    candidate = _rollout(model).candidate
    return rollout_id(name, candidate, model.versions[candidate].image)


def plan_of(rollout: Rollout) -> Plan:
    """Return what the guard is to judge a rollout by."""
    guard, margins = rollout.guard, rollout.guard.margins
    return Plan(
        margins=Margins(
            error_odds=margins.error_odds,
            ttft_ratio=margins.ttft_ratio,
            time_per_token_ratio=margins.time_per_token_ratio,
            output_length_ratio=margins.output_length_ratio,
            unfinished_odds=margins.unfinished_odds,
            repetition_odds=margins.repetition_odds,
            log_probability_drop=margins.log_probability_drop,
        ),
        budget=Budget(alpha=guard.alpha, max_tenants=guard.max_tenants),
        warmup_requests=guard.warmup_requests,
    )


def _rollout(model: Model) -> Rollout:
    if model.rollout is None:
        raise ValueError("the model has no rollout")
    return model.rollout
