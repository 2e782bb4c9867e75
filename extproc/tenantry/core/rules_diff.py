"""Which tenants a change of the rules moves, and how: by the code that identifies and routes.

A tenant is described by facets, each a short text, once under the old document and once under the new; what differs is
a change. Tenants that only a token or certificate names stand in no document: all of one tier are described together.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Literal

from msgspec import Struct

from tenantry.core.outlook import outlook
from tenantry.core.quota.answer import units
from tenantry.core.routing import Live
from tenantry.core.rulebook import RuleBook
from tenantry.core.rules import key_of
from tenantry.core.tenant import Profile

Kind = Literal["access", "tier", "priority", "quota", "key", "model", "adapter"]

ABSENT = "none"
BY_TOKEN = "that of its token"  # noqa: S105  # words, not a secret


class Facet(Struct, frozen=True, kw_only=True, order=True):
    """Something that can change of a tenant; `name` is the model's, or the key's first digits."""

    kind: Kind
    name: str = ""


class Change(Struct, frozen=True, kw_only=True):
    """One facet before and after; `none` for what is not there."""

    kind: Kind
    name: str
    before: str
    after: str


class Moved(Struct, frozen=True, kw_only=True):
    """A tenant that a change moves. `tenant` is None for all that no entry names, of one `tier`."""

    tenant: str | None
    tier: str = ""
    changes: tuple[Change, ...]


class Side(Struct, frozen=True, kw_only=True):
    """A document, and the rollouts that its requests meet."""

    book: RuleBook
    live: Live


def moved(before: Side, after: Side) -> Iterator[Moved]:
    """Yield whom the change moves: tenants of either document in their order, then others by tier."""
    names = dict.fromkeys((*before.book.rules.tenants, *after.book.rules.tenants))
    for name in names:
        changes = tuple(_changes(_of_tenant(before, name), _of_tenant(after, name)))
        if changes:
            yield Moved(tenant=name, changes=changes)
    for tier in dict.fromkeys((*before.book.rules.tiers, *after.book.rules.tiers)):
        changes = tuple(_changes(_of_others(before, tier), _of_others(after, tier)))
        if changes:
            yield Moved(tenant=None, tier=tier, changes=changes)


def counted(found: Iterable[Moved]) -> Counter[Kind]:
    """Return how many tenants (and tiers of others) each kind of change concerns."""
    return Counter(kind for each in found for kind in {change.kind for change in each.changes})


def _changes(before: dict[Facet, str], after: dict[Facet, str]) -> Iterator[Change]:
    for facet in dict.fromkeys((*before, *after)):
        old, new = before.get(facet, ABSENT), after.get(facet, ABSENT)
        if old != new:
            yield Change(kind=facet.kind, name=facet.name, before=old, after=new)


def _of_tenant(side: Side, name: str) -> dict[Facet, str]:
    book, entry = side.book, side.book.rules.tenants.get(name)
    if book.closed(name):
        return {Facet(kind="access"): "closed"}
    by_key = book.rules.identity.api_keys and entry is not None and bool(entry.keys)
    if not by_key and not book.names_strangers:
        return {Facet(kind="access"): ABSENT}
    profile = book.profile(name) or book.untiered(name)
    facets = {Facet(kind="access"): "open"}
    for key in map(key_of, entry.keys if entry and book.rules.identity.api_keys else ()):
        until = "" if key.not_after is None else f" until {key.not_after.isoformat()}"
        facets[Facet(kind="key", name=key.digest[:19])] = f"accepted{until}"
    return facets | _of_profile(side, profile)


def _of_others(side: Side, tier: str) -> dict[Facet, str]:
    """Describe a tenant without an entry whom a token or certificate puts in this tier."""
    book, jwt = side.book, side.book.rules.identity.jwt
    by_claim = jwt is not None and jwt.tier_claim is not None and tier in book.rules.tiers
    if not by_claim and not (book.names_strangers and book.rules.default_tier == tier):
        return {Facet(kind="access"): ABSENT}
    profile = book.profile("", tier)
    return {} if profile is None else {Facet(kind="access"): "open"} | _of_profile(side, profile)


def _of_profile(side: Side, profile: Profile) -> dict[Facet, str]:
    facets = {
        Facet(kind="tier"): profile.tier or BY_TOKEN,
        Facet(kind="priority"): str(profile.priority) if profile.tier else BY_TOKEN,
        Facet(kind="quota"): _quota(profile),
    }
    for name, model in side.book.rules.models.items():
        if profile.may_use(name):
            seen = outlook(profile, name, model, side.live)
            copied = f"; {seen.copied}" if seen.copied else ""
            facets[Facet(kind="model", name=name)] = f"{seen.decision.version} ({seen.because}{copied})"
            if seen.decision.adapter is not None:
                facets[Facet(kind="adapter", name=name)] = seen.decision.adapter
    return facets


def _quota(profile: Profile) -> str:
    limits = profile.limits
    if limits is None:
        return ABSENT
    spans = (("a minute", limits.minute), ("a month", limits.period))
    return " and ".join(f"{units(limit)} {span}" for span, limit in spans if limit is not None) or ABSENT
