"""What is shown of models: their versions with wanted and realised shares, and the evidence of their rollouts.

Figures are those of the gauges (`rollout_status.shown`), so that page and dashboards cannot disagree.
"""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from tenantry.adapters.rollout_status import Status, shown
from tenantry.core.rollout.conduct import Entry, Point
from tenantry.core.rollout.standing import FLEET, State
from tenantry.core.rollout.verdicts import Row
from tenantry.core.rules import Model, Rules

MAX_MODELS = 100
MAX_VERSIONS = 300
MAX_SCOPES = 20
MAX_NAMES = 8
MAX_ENTRIES = 20
MAX_COURSE = 60


class VersionRow(Struct, frozen=True, kw_only=True):
    """A version of a model. Shares in percent: `wanted` of units, by the rules and the rollout's state; `realised`.

    `realised` is None where nothing was drawn: without a rollout, or before the chapter's first unit.
    """

    model: str
    version: str
    image: str
    roles: tuple[str, ...]
    pinned: int
    wanted: float
    realised: float | None
    requests: int


class EvidenceRow(Struct, frozen=True, kw_only=True):
    """A signal of the fleet (scope `all`) or a tenant. `ratio` is log e-value over threshold: 1 is a verdict."""

    scope: str
    signal: str
    visit: int
    units: int
    log_e: float
    log_threshold: float
    ratio: float
    covered: bool


class EntryRow(Struct, frozen=True, kw_only=True):
    """A line of a rollout's history: who moved what, and why. Times are Unix seconds."""

    at_s: float
    scope: str
    kind: str
    before: str
    after: str
    who: str
    why: str


class RolloutCard(Struct, frozen=True, kw_only=True):
    """One rollout. `percent`, `realised_share`, `suspicion`, `held` and `pinned` are the gauges of that name.

    `course` has the fleet's largest log e-value over its threshold at moments of the last 20 minutes, with the percent.
    `scopes` and `percents` are cut at MAX_SCOPES, names at MAX_NAMES; the counts count all.
    """

    model: str
    candidate: str
    stable: str
    state: str
    readable: bool
    chapter: int
    percent: float
    mirror_percent: float
    realised_share: float
    units: int
    all_units: int
    suspicion: float
    held: int
    pinned: int
    pinned_names: tuple[str, ...]
    beta: int
    scopes: Mapping[str, str]
    scope_count: int
    percents: Mapping[str, float]
    next_step: str
    problems: tuple[str, ...]
    evidence: tuple[EvidenceRow, ...]
    course: tuple[tuple[float, float], ...]
    history: tuple[EntryRow, ...]


class Versions(Struct, frozen=True, kw_only=True):
    """Rows and cards, cut at MAX_VERSIONS and MAX_MODELS; `of` and `rollouts_of` count all there are."""

    rows: tuple[VersionRow, ...]
    of: int
    rollouts: tuple[RolloutCard, ...]
    rollouts_of: int


def versions_of(
    rules: Rules,
    statuses: Sequence[Status],
    pinned: Mapping[tuple[str, str], int],
    requests: Mapping[tuple[str, str], int],
    history: Mapping[str, Sequence[Entry]],
) -> Versions:
    """Return what is shown of the models of these rules."""
    by_model = {status.model: status for status in statuses}
    rows: list[VersionRow] = []
    for name, model in rules.models.items():
        if len(rows) >= MAX_VERSIONS:
            break
        rows += _rows(name, model, by_model.get(name), pinned, requests)
    return Versions(
        rows=tuple(rows[:MAX_VERSIONS]),
        of=sum(len(model.versions) for model in rules.models.values()),
        rollouts=tuple(card_of(status, history.get(status.model, ())) for status in statuses[:MAX_MODELS]),
        rollouts_of=len(statuses),
    )


def _rows(
    name: str,
    model: Model,
    status: Status | None,
    pinned: Mapping[tuple[str, str], int],
    requests: Mapping[tuple[str, str], int],
) -> list[VersionRow]:
    candidate = None if model.rollout is None else model.rollout.candidate
    to_candidate = _wanted(status)
    share = None
    if status is not None and status.progress.all_units:
        share = shown(status).realised_share * 100.0
    rows = []
    for version, rules in model.versions.items():
        pins = pinned.get((name, version), 0)
        wanted = {model.stable: 100.0 - to_candidate, candidate: to_candidate}.get(version, 0.0)
        drawn = {model.stable: None if share is None else 100.0 - share, candidate: share}.get(version)
        roles = {"stable": version == model.stable, "candidate": version == candidate, "pinned": pins > 0}
        rows.append(
            VersionRow(
                model=name, version=version, image=rules.image,
                roles=tuple(role for role, has in roles.items() if has) or ("unused",),
                pinned=pins, wanted=wanted, realised=drawn, requests=requests.get((name, version), 0),
            )
        )  # fmt: skip
    return rows


def _wanted(status: Status | None) -> float:
    """Return which percent of units shall go to the candidate: none of it once it is reverted, paused or not known."""
    if status is None or not status.readable or status.state in (State.REVERTED, State.PAUSED):
        return 0.0
    return 100.0 if status.state is State.PROMOTED else status.percents["all"]


def card_of(status: Status, history: Sequence[Entry]) -> RolloutCard:
    """Return what is shown of one rollout."""
    gauges, progress = shown(status), status.progress
    scopes = {scope: state.value for scope, state in status.scopes.items() if scope != FLEET}
    return RolloutCard(
        model=status.model, candidate=status.candidate, stable=status.stable, state=status.state.value,
        readable=status.readable, chapter=status.chapter, percent=gauges.percent,
        mirror_percent=status.mirror_percent, realised_share=gauges.realised_share, units=progress.units,
        all_units=progress.all_units, suspicion=gauges.suspicion, held=gauges.held, pinned=gauges.pinned,
        pinned_names=status.pinned[:MAX_NAMES], beta=len(status.beta),
        scopes=dict(list(scopes.items())[:MAX_SCOPES]), scope_count=len(scopes),
        percents=dict(list(status.percents.items())[:MAX_SCOPES]), next_step=status.next_step,
        problems=status.problems[:MAX_NAMES], evidence=tuple(map(_evidence, status.evidence)),
        course=_course(status.course),
        history=tuple(_entry(entry) for entry in reversed(history[-MAX_ENTRIES:])),
    )  # fmt: skip


def _evidence(row: Row) -> EvidenceRow:
    return EvidenceRow(
        scope="all" if row.group is None else row.group, signal=row.signal, visit=row.visit, units=row.units,
        log_e=row.log_e, log_threshold=row.log_threshold, covered=row.covered,
        ratio=row.log_e / row.log_threshold if row.log_threshold else 0.0,
    )  # fmt: skip


def _course(points: Sequence[Point]) -> tuple[tuple[float, float], ...]:
    step = -(-len(points) // MAX_COURSE) or 1
    kept = points[::-1][::step][::-1]
    return tuple((round(max(point.suspicion.values(), default=0.0), 3), point.percent) for point in kept)


def _entry(entry: Entry) -> EntryRow:
    return EntryRow(
        at_s=entry.at_s, scope=entry.scope, kind=entry.kind, before=entry.before.value, after=entry.after.value,
        who=entry.who, why=entry.why,
    )  # fmt: skip
