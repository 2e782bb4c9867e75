"""`tenantry check --against`: which tenants a change of the rules moves."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from tenantry.adapters.admin_client import AdminClient
from tenantry.adapters.rules_file import load
from tenantry.core.routing import Live
from tenantry.core.rulebook import RuleBook
from tenantry.core.rules import Rules, parse
from tenantry.core.rules_diff import Moved, Side, counted, moved
from tenantry.explained import Json, live_by, told

LIVE = "live"
MAX_SHOWN = 50


def compared(rules: Rules, against: str, admin: str, secrets: Path) -> list[Moved]:
    """Return whom `rules` move, against a sidecar's live document or that of a file or folder."""
    if against != LIVE:
        before = load(Path(against))
        return list(moved(_side(before, live_by(before, None)), _side(rules, live_by(rules, None))))
    before = parse(asyncio.run(AdminClient(admin, secrets).ask("GET", "/rules/document")))
    statuses = told(admin, secrets)
    return list(moved(_side(before, live_by(before, statuses)), _side(rules, _coming(before, rules, statuses))))


def shown(found: Sequence[Moved]) -> Iterator[str]:
    """Yield lines: the first MAX_SHOWN with each change, then how many there are of each kind."""
    for each in found[:MAX_SHOWN]:
        yield each.tenant or f"any other tenant of tier {each.tier} (known by a verified token or certificate)"
        for change in each.changes:
            yield f"    {change.kind} {change.name}".rstrip() + f": {change.before} -> {change.after}"
    if len(found) > MAX_SHOWN:
        yield f"... and {len(found) - MAX_SHOWN:,} more; --json lists all"
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in counted(found).most_common())
    yield f"{len(found):,} moved: {kinds}" if found else "Nobody is moved."


def as_json(found: Sequence[Moved]) -> str:
    """Return all of it as JSON."""
    return msgspec.json.format(msgspec.json.encode(found), indent=1).decode()


def _side(rules: Rules, live: Live) -> Side:
    return Side(book=RuleBook(rules), live=live)


def _coming(before: Rules, rules: Rules, statuses: dict[str, Json]) -> Live:
    """Return the state that the new document meets: rollouts that are new begin; a changed beta flag counts."""
    live = live_by(rules, statuses, begins=True)
    return replace(live, beta={name: flag for name, flag in live.beta.items() if not _flag_is_new(before, rules, name)})


def _flag_is_new(before: Rules, rules: Rules, tenant: str) -> bool:
    """Return whether the new document says something else of a tenant's beta flag than the old one, or begins to."""
    old, new = before.tenants.get(tenant), rules.tenants.get(tenant)
    return new is not None and (old is None or old.beta != new.beta)
