"""What operators are told of a rollout: one page for `tenantry rollout status`, and the numbers of the gauges."""

from collections.abc import Iterable, Mapping

from msgspec import Struct

from tenantry.adapters.rollout_metrics import Shown
from tenantry.core.rollout.conduct import Conduct, Point
from tenantry.core.rollout.standing import FLEET, State
from tenantry.core.rollout.verdicts import Progress, Row
from tenantry.core.routing import Live, has_beta
from tenantry.core.rulebook import RuleBook


class Status(Struct, frozen=True, kw_only=True):
    """What an operator is shown of a rollout.

    `scopes` are those that are not splitting; `percents` the percent by `all`, `tier:NAME`, `tenant:NAME`. `problems`
    are sentences: rules whose stable version disagrees with a promotion, pins to a reverted version, a store that
    cannot be read.
    """

    model: str
    rollout: str
    candidate: str
    image: str
    stable: str
    state: State
    readable: bool
    scopes: dict[str, State]
    percents: dict[str, float]
    mirror_percent: float
    beta: tuple[str, ...]
    pinned: tuple[str, ...]
    chapter: int
    progress: Progress
    next_step: str
    problems: tuple[str, ...]
    evidence: tuple[Row, ...]
    course: tuple[Point, ...]


def status_of(conduct: Conduct, book: RuleBook | None, live: Live, *, readable: bool) -> Status:
    """Return what an operator is shown of a rollout under the rules of `book`."""
    rollout, candidate = conduct.rollout, conduct.rollout.candidate
    scopes = {scope: standing.state for scope, standing in sorted(conduct.standings.items())}
    return Status(
        model=conduct.name,
        rollout=conduct.id,
        candidate=candidate,
        image=conduct.model.versions[candidate].image,
        stable=conduct.model.stable,
        state=conduct.state(FLEET),
        readable=readable,
        scopes={scope: state for scope, state in scopes.items() if state is not State.SPLITTING},
        percents={
            "all": conduct.percent,
            **{f"tier:{name}": percent for name, percent in rollout.percent_by_tier.items()},
            **{f"tenant:{name}": percent for name, percent in rollout.percent_by_tenant.items()},
        },
        mirror_percent=rollout.mirror_percent,
        beta=beta_tenants(book, live),
        pinned=pinned_to(conduct, book),
        chapter=conduct.guard.chapter,
        progress=conduct.guard.progress(),
        next_step=conduct.step_why,
        problems=tuple(_problems(conduct, book, readable=readable)),
        evidence=tuple(conduct.rows()),
        course=tuple(conduct.points),
    )


def beta_tenants(book: RuleBook | None, live: Live) -> tuple[str, ...]:
    """Return the tenants that ask for candidates, by the rules or, where these let them, by their own word."""
    if book is None:
        return ()
    rules = book.rules
    named = rules.identity.jwt is not None or rules.identity.mtls is not None  # tenants who stand in no rules
    # Of 10,000 tenants few have anything to do with it, and the console asks each second.
    names = {name for name, tenant in rules.tenants.items() if tenant.beta}
    names |= {name for name in live.beta if named or name in rules.tenants}
    profiles = map(book.profile, sorted(names))
    return tuple(profile.name for profile in profiles if profile is not None and has_beta(profile, live))


def pinned_to(conduct: Conduct, book: RuleBook | None) -> tuple[str, ...]:
    """Return the tenants whom the rules pin to the candidate."""
    tenants: Mapping = {} if book is None else book.rules.tenants  # type: ignore[type-arg]
    return tuple(name for name, tenant in tenants.items() if tenant.pins.get(conduct.name) == conduct.rollout.candidate)


def shown(status: Status) -> Shown:
    """Return what the gauges show of it."""
    progress = status.progress
    return Shown(
        model=status.model,
        candidate=status.candidate,
        state=status.state,
        readable=status.readable,
        scopes=tuple(state for scope, state in status.scopes.items() if scope != FLEET),
        percent=status.percents["all"],
        realised_share=progress.units / progress.all_units if progress.all_units else 0.0,
        suspicion=progress.suspicion,
        held=progress.alarms,
        pinned=len(status.pinned),
    )


def _problems(conduct: Conduct, book: RuleBook | None, *, readable: bool) -> Iterable[str]:
    candidate = conduct.rollout.candidate
    if not readable:
        yield "the state store was not read since this process started: nobody gets the candidate"
    if conduct.refuses_evidence:
        yield "the stored evidence of this chapter cannot be right: this process judges by what it saw itself"
    if conduct.state(FLEET) is State.PROMOTED:
        yield (
            f"{candidate} is promoted to all, and the rules still say stable {conduct.model.stable}: "
            f'set models.{conduct.name}.stable to "{candidate}" and remove the rollout'
        )
    if conduct.state(FLEET) is State.REVERTED and (pinned := pinned_to(conduct, book)):
        yield f"pinned to the reverted {candidate} all the same: {', '.join(pinned[:8])}"
    for scope, standing in conduct.standings.items():
        pin = _pin(book, scope.removeprefix("tenant:"), conduct.name)
        if standing.state is State.PROMOTED and pin not in (None, candidate):
            yield f"{scope} is promoted and stays on {pin} all the same, to which the rules pin it"
    alarms = conduct.guard.progress().alarms
    if alarms:
        held = "1 verdict is" if alarms == 1 else f"{alarms} verdicts are"
        yield f"{held} held back, as the stable version {conduct.model.stable} fails too"


def _pin(book: RuleBook | None, tenant: str, model: str) -> str | None:
    rules = None if book is None else book.rules.tenants.get(tenant)
    return None if rules is None else rules.pins.get(model)
