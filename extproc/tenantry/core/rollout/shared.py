"""What replicas and restarts share of one rollout: one document, and a merge that forgets nothing.

Every part merges by rules of its own (`standing.merge`, `evidence.merge`, `merge_stepping`), all of them commutative,
associative and idempotent, so it does not matter who writes first, how often, or onto what: a replica that reads, adds
what it knows and writes back publishes a revert again to a store that forgot it, by doing what it does anyway.

Evidence is kept by plan: with other margins, another alpha, or the tests of another release, bets would not add up.
Of more than MAX_PLANS plans the ones not added to for longest are forgotten, and what two replicas then still remember
of such a plan may depend on who wrote first; who works by a plan always has its own evidence.
Evidence that cannot be read is dropped, which protects nobody's candidate and reverts nobody's; standings that cannot
be read make the whole document unreadable, and then nobody gets the candidate.
"""

import hashlib
from collections.abc import Iterator, Mapping

import msgspec
from msgspec import Raw, Struct, structs

from tenantry.core.errors import TenantryError
from tenantry.core.rollout import evidence as evidences
from tenantry.core.rollout import standing as standings
from tenantry.core.rollout.budget import VISIT_SHARES
from tenantry.core.rollout.evidence import SHARE_RATIOS, Evidence
from tenantry.core.rollout.signals import SIGNALS
from tenantry.core.rollout.standing import Standing
from tenantry.core.rollout.verdicts import Plan

MAX_PLANS = 4
"""Plans whose evidence is kept; an operator who edits margins back and forth does not lose it at once."""


class DamagedStateError(TenantryError):
    """A stored document that this release cannot have written."""


class Stepping(Struct, frozen=True, kw_only=True, order=True):
    """Where automatic steps stand: `number` of steps taken or taken back, the percent since Unix time `since_s`.

    `units` candidate units had come in `chapter` of the evidence under `plan` when the step began.
    """

    number: int
    percent: float
    since_s: float
    chapter: int = 1
    units: int = 0
    plan: str = ""


class PlanEvidence(Struct, frozen=True, kw_only=True):
    """Evidence under one plan, last added to at Unix time `at_s`."""

    evidence: Evidence
    at_s: float


class Shared(Struct, frozen=True, kw_only=True):
    """All that is kept of a rollout. `standings` by scope, `evidence` by plan."""

    standings: Mapping[str, Standing] = {}
    evidence: Mapping[str, PlanEvidence] = {}
    stepping: Stepping | None = None


class BetaFlag(Struct, frozen=True, kw_only=True, order=True):
    """A tenant's own word on its beta flag; the latest counts, and of two at one moment the one that says no."""

    clock: int
    at_s: float
    off: bool


class _Stored(Struct, frozen=True, kw_only=True):
    standings: dict[str, Standing]
    evidence: dict[str, Raw]
    stepping: Stepping | None


_decode = msgspec.json.Decoder(_Stored).decode
_decode_evidence = msgspec.json.Decoder(PlanEvidence).decode
_decode_flags = msgspec.json.Decoder(dict[str, BetaFlag]).decode
_encode = msgspec.json.Encoder(order="sorted").encode

_UNREADABLE = (ValueError, ArithmeticError, RecursionError)
"""What bytes can raise that somebody else wrote: msgspec's errors and undecodable text are ValueErrors, brackets in
brackets a RecursionError."""


def plan_id(plan: Plan) -> str:
    """Return a plan's name, 16 hexadecimal digits."""
    tests = [(signal.name, signal.kind, signal.weight, signal.tilts, signal.priors) for signal in SIGNALS]
    return hashlib.sha256(_encode((plan, tests, sorted(VISIT_SHARES.items()), SHARE_RATIOS))).hexdigest()[:16]


def encode(shared: Shared) -> bytes:
    """Return the stored form."""
    return _encode(shared)


def decode(raw: bytes | None) -> Shared:
    """Return what is stored; raise DamagedStateError for bytes that are no such document."""
    if raw is None:
        return Shared()
    try:
        stored = _decode(raw)
    except _UNREADABLE as error:
        raise DamagedStateError(f"the stored state of a rollout cannot be read ({type(error).__name__})") from None
    return Shared(standings=stored.standings, evidence=dict(_readable(stored.evidence)), stepping=stored.stepping)


def _readable(evidence: Mapping[str, Raw]) -> Iterator[tuple[str, PlanEvidence]]:
    for plan, raw in evidence.items():
        try:
            yield plan, _decode_evidence(raw)
        except _UNREADABLE:
            continue


def merge(one: Shared, other: Shared) -> Shared:
    """Return what both know together."""
    return Shared(
        standings={
            scope: standings.merge(one.standings.get(scope, Standing()), other.standings.get(scope, Standing()))
            for scope in sorted({*one.standings, *other.standings})
        },
        evidence=_merge_evidence(one.evidence, other.evidence),
        stepping=max((each for each in (one.stepping, other.stepping) if each is not None), default=None),
    )


def _merge_evidence(one: Mapping[str, PlanEvidence], other: Mapping[str, PlanEvidence]) -> dict[str, PlanEvidence]:
    merged: dict[str, PlanEvidence] = {}
    for plan in {*one, *other}:
        ours, theirs = one.get(plan), other.get(plan)
        if ours is None or theirs is None:
            merged[plan] = ours or theirs  # type: ignore[assignment]  # one of them is there
        else:
            merged[plan] = PlanEvidence(
                evidence=evidences.merge(ours.evidence, theirs.evidence), at_s=max(ours.at_s, theirs.at_s)
            )
    newest = sorted(merged, key=lambda plan: (merged[plan].at_s, plan))[-MAX_PLANS:]
    return {plan: merged[plan] for plan in sorted(newest)}


def decode_flags(raw: bytes | None) -> dict[str, BetaFlag]:
    """Return the beta flags that are stored; raise DamagedStateError for bytes that are none."""
    try:
        return {} if raw is None else _decode_flags(raw)
    except _UNREADABLE as error:
        raise DamagedStateError(f"the stored beta flags cannot be read ({type(error).__name__})") from None


def encode_flags(flags: Mapping[str, BetaFlag]) -> bytes:
    """Return the stored form."""
    return _encode(flags)


def merge_flags(one: Mapping[str, BetaFlag], other: Mapping[str, BetaFlag]) -> dict[str, BetaFlag]:
    """Return what both know together."""
    return {
        tenant: max(flags[tenant] for flags in (one, other) if tenant in flags) for tenant in sorted({*one, *other})
    }


def flagged(flags: Mapping[str, BetaFlag], tenant: str, *, beta: bool, now_s: float) -> dict[str, BetaFlag]:
    """Return the flags after a tenant's word."""
    before = flags.get(tenant)
    flag = BetaFlag(clock=1 if before is None else before.clock + 1, at_s=now_s, off=not beta)
    return dict(flags) | {tenant: flag}


def with_standing(shared: Shared, scope: str, standing: Standing) -> Shared:
    """Return the document with another standing of a scope."""
    return structs.replace(shared, standings=dict(shared.standings) | {scope: standing})


def without_evidence(shared: Shared, plan: str) -> Shared:
    """Return the document without the evidence under one plan."""
    return structs.replace(shared, evidence={name: kept for name, kept in shared.evidence.items() if name != plan})
