"""`tenantry explain`: the decision that a request would get, in words, from the code that serves."""

import asyncio
from collections.abc import Iterator
from math import nextafter
from pathlib import Path
from typing import Any

from msgspec import Struct

from tenantry.adapters.admin_client import AdminClient
from tenantry.adapters.rules_file import read_secrets
from tenantry.core.errors import TenantryError
from tenantry.core.keyring import SPLIT
from tenantry.core.quota.answer import units
from tenantry.core.rollout.conduct import identity
from tenantry.core.rollout.standing import State
from tenantry.core.routing import Decision, Live, RolloutView, decide, percent_of
from tenantry.core.rulebook import RuleBook
from tenantry.core.rules import Rules
from tenantry.core.split import Dice, throw
from tenantry.core.tenant import Profile


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
    told = {} if admin is None else _told(admin, secrets)
    views, beta = {}, {}
    for name, model in rules.models.items():
        if model.rollout is None:
            continue
        candidate = model.rollout.candidate
        status: dict[str, Any] = told.get(identity(name, model), {})
        views[name] = RolloutView(
            id=identity(name, model),
            candidate=candidate,
            image=model.versions[candidate].image,
            states={scope: State(state) for scope, state in status.get("scopes", {}).items()},
            percent=None if model.rollout.steps is None else status.get("percents", {}).get("all"),
        )
        if admin is not None and not status.get("readable", False):
            del views[name]
        if status:  # who is not named may have said no against the rules
            beta = dict.fromkeys(rules.tenants, False) | dict.fromkeys(status["beta"], True)
    return Live(rollouts=views, beta=beta)


def explained(book: RuleBook, profile: Profile, names: list[str], live: Live, unit: Unit | None) -> str:
    """Return the answer for each model, as text."""
    known = "in the rules" if profile.name in book.rules.tenants else "known by a verified token or certificate"
    lines = [f"tenant {profile.name} ({known}), tier {profile.tier}", *_quota(book, profile)]
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

    def dice(rollout: str) -> Dice:
        if unit is None:  # the highest bucket: what most units get
            return Dice(split=nextafter(100.0, 0.0), mirror=100.0, tag="")
        return throw(unit.key, rollout, profile.name, unit.name)

    decision = decide(profile, name, model, live, dice)
    view = live.view(name, model)
    splits = decision.trial is not None and decision.trial.share < 1.0
    yield f"  {name} -> {decision.version}"
    if unit is None and splits and model.rollout is not None and view is not None:
        percent = percent_of(profile, model.rollout, view)
        yield f"      because  split: {percent:g} % of its units go to {model.rollout.candidate}, the rest here"
        if model.rollout.mirror_percent:
            yield f"               {model.rollout.mirror_percent:g} % of the rest are copied to it"
    else:
        yield f"      because  {decision.reason}: {decision.why}"
    if unit is not None and unit.source and splits and model.rollout and unit.source not in model.rollout.sticky:
        yield f"      note     {unit.source} is no sticky source here: {', '.join(model.rollout.sticky)}"
    yield f"      engine   asked for {decision.served_name!r}" + (
        f" at priority {profile.priority}" if decision.priority_scheduling else ""
    )
    yield f"      cluster  {decision.cluster}" + _second(decision, book, name)


def _second(decision: Decision, book: RuleBook, name: str) -> str:
    if decision.rescued:
        return f" ({book.rules.models[name].stable} answers if the candidate does not)"
    return f" (copied to {decision.mirror_cluster})" if decision.mirror_cluster else ""


def _told(admin: str, secrets: Path) -> dict[str, dict[str, Any]]:
    statuses = asyncio.run(AdminClient(admin, secrets).ask("GET", "/rollouts"))
    return {status["rollout"]: status for status in statuses}
