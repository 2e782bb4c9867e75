"""`tenantry explain`: the decision that a request would get, in words, from the code that serves."""

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from tenantry.adapters.admin_client import AdminClient
from tenantry.adapters.rules_file import read_secrets
from tenantry.core.errors import TenantryError
from tenantry.core.keyring import SPLIT
from tenantry.core.outlook import outlook
from tenantry.core.quota.answer import units
from tenantry.core.rollout.conduct import identity
from tenantry.core.rollout.standing import State
from tenantry.core.routing import Decision, Live, RolloutView, decide
from tenantry.core.rulebook import RuleBook
from tenantry.core.rules import Rules
from tenantry.core.split import throw
from tenantry.core.tenant import Profile

Json = dict[str, Any]


class Unit(Struct, frozen=True, kw_only=True):
    """A sticky unit, where a request names it (empty: a request's id), and the key that its dice are thrown with."""

    source: str = ""
    name: bytes
    key: bytes

    @classmethod
    def of(cls, unit: str | None, request_id: str | None, secrets: Path) -> "Unit":
        """Return the unit that the command line names; raise TenantryError for one that is none."""
        key = read_secrets(secrets).get(SPLIT, b"").strip()
        if not key:
            raise TenantryError(f"no split key in {secrets}; give --secrets")
        if unit is None:
            return cls(name=b"request\0" + (request_id or "").encode(), key=key)
        source, equals, value = unit.partition("=")
        if not equals or not source.startswith(("body.", "header.")):
            raise TenantryError(f"--unit {unit}: SOURCE=VALUE, for example body.user=alice")
        return cls(source=source, name=source.encode() + b"\0" + value.encode(), key=key)


def live_of(rules: Rules, admin: str | None, secrets: Path) -> Live:
    """Return the live state of rollouts that a sidecar tells, or the one of a rules document by itself."""
    return live_by(rules, None if admin is None else told(admin, secrets))


def live_by(rules: Rules, statuses: Mapping[str, Json] | None, *, begins: bool = False) -> Live:
    """Return the state of a document's rollouts by what a sidecar told (None: nobody was asked).

    A rollout that the sidecar does not tell of has a state that cannot be read, or `begins` with the document.
    """
    views: dict[str, RolloutView] = {}
    beta: dict[str, bool] = {}
    for name, model in rules.models.items():
        if model.rollout is None:
            continue
        candidate = model.rollout.candidate
        status = (statuses or {}).get(identity(name, model))
        if statuses is not None and not (begins if status is None else status["readable"]):
            continue
        status = status or {}
        views[name] = RolloutView(
            id=identity(name, model),
            candidate=candidate,
            image=model.versions[candidate].image,
            states={scope: State(state) for scope, state in status.get("scopes", {}).items()},
            percent=None if model.rollout.steps is None else status.get("percents", {}).get("all"),
        )
        if status:  # who is not named may have said no against the rules
            beta = dict.fromkeys(rules.tenants, False) | dict.fromkeys(status["beta"], True)
    return Live(rollouts=views, beta=beta)


def told(admin: str, secrets: Path) -> dict[str, Json]:
    """Return what a sidecar tells of its rollouts, by their ids."""
    statuses = asyncio.run(AdminClient(admin, secrets).ask("GET", "/rollouts"))
    return {status["rollout"]: status for status in statuses}


def explained(book: RuleBook, profile: Profile, names: list[str], live: Live, unit: Unit | None) -> str:
    """Return the answer for each model, as text."""
    known = "in the rules" if profile.name in book.rules.tenants else "known by a verified token or certificate"
    lines = [f"tenant {profile.name} ({known}), tier {profile.tier}", *_quota(book, profile)]
    if book.closed(profile.name):
        lines.append("  closed     every request is refused (403); what follows is what it would get otherwise")
    for name in names:
        lines += _lines(book, profile, name, live, unit)
    return "\n".join(lines)


def _quota(book: RuleBook, profile: Profile) -> Iterator[str]:
    limits = profile.limits
    if limits is None:
        yield "  quota      none: it may spend what it likes"
        return
    entry = book.rules.tenants.get(profile.name)
    whose = "its own" if entry is not None and entry.quota is not None else f"that of tier {profile.tier}"
    spans = (("a minute", limits.minute), ("a calendar month", limits.period))
    each = " and ".join(f"{units(limit)} compute units {span}" for span, limit in spans if limit is not None)
    yield f"  quota      {each} ({whose})"


def _lines(book: RuleBook, profile: Profile, name: str, live: Live, unit: Unit | None) -> Iterator[str]:
    model = book.rules.models[name]
    if unit is None:
        expected = outlook(profile, name, model, live)
        decision = expected.decision
        yield f"  {name} -> {decision.version}"
        yield f"      because  {expected.because}"
        if expected.copied:
            yield f"               {expected.copied}"
    else:
        decision = decide(profile, name, model, live, lambda id_: throw(unit.key, id_, profile.name, unit.name))
        yield f"  {name} -> {decision.version}"
        yield f"      because  {decision.reason}: {decision.why}"
        splits = decision.trial is not None and decision.trial.share < 1.0
        if unit.source and splits and model.rollout and unit.source not in model.rollout.sticky:
            yield f"      note     {unit.source} is no sticky source here: {', '.join(model.rollout.sticky)}"
    yield f"      engine   asked for {decision.served_name!r}" + (
        f" at priority {profile.priority}" if decision.priority_scheduling else ""
    )
    yield f"      cluster  {decision.cluster}" + _second(decision, book, name)


def _second(decision: Decision, book: RuleBook, name: str) -> str:
    if decision.rescued:
        return f" ({book.rules.models[name].stable} answers if the candidate does not)"
    return f" (copied to {decision.mirror_cluster})" if decision.mirror_cluster else ""
