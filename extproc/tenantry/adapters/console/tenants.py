"""The table of tenants: everybody in the rules, and whom a token or certificate named since the start.

10,000 tenants are a page at a time. What changes with the rules alone is made once per document, beside the event loop;
an order is kept for a moment, so that a reader who looks once a second does not sort once a second.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime

from msgspec import Struct

from tenantry.adapters.console.tables import Ask, Page, cut
from tenantry.adapters.quotas.accounts import Last
from tenantry.adapters.quotas.desk import ratio
from tenantry.core.quota.account import MILLI, Limits
from tenantry.core.routing import Live, has_beta
from tenantry.core.rulebook import RuleBook
from tenantry.core.rules import TenantRules, key_of
from tenantry.core.tenant import Profile

COLUMNS = ("name", "tier", "requests", "failed", "quota")
MAX_PINS = 8


class QuotaCell(Struct, frozen=True, kw_only=True):
    """Compute units of the period. `used`, `reserved` and `ratio` as last heard, None before anything was."""

    per_period: int | None
    per_minute: int | None
    used: float | None
    reserved: float | None
    ratio: float | None


class TenantRow(Struct, frozen=True, kw_only=True):
    """One tenant. `keys` counts API keys that are good now; `pins` has MAX_PINS at most, `pin_count` all of them.

    `token`, `certificate`: the rules let it come by one. Not `in_rules`: only such a credential names it.
    """

    name: str
    tier: str
    in_rules: bool
    keys: int
    token: bool
    certificate: bool
    pins: Mapping[str, str]
    pin_count: int
    beta: bool
    quota: QuotaCell | None
    requests: int
    failed: int


class Index(Struct, frozen=True, kw_only=True):
    """What is known of tenants from the rules alone: names in their order, folded names, tiers, pins by version."""

    book: RuleBook
    names: tuple[str, ...]
    folded: Mapping[str, str]
    tiers: Mapping[str, str]
    pinned: Mapping[tuple[str, str], int]


class World(Struct, frozen=True, kw_only=True):
    """What else is known at a moment: traffic by tenant, accounts, tenants' own flags, the month (`month_of`)."""

    traffic: Mapping[str, tuple[int, int]]
    accounts: Mapping[str, Last]
    live: Live
    month: int
    now_s: float


def index_of(book: RuleBook) -> Index:
    """Return the index of a rules document."""
    names = tuple(sorted(book.rules.tenants, key=lambda name: (name.casefold(), name)))
    pinned = Counter(pin for tenant in book.rules.tenants.values() for pin in tenant.pins.items())
    return Index(
        book=book,
        names=names,
        folded={name: name.casefold() for name in names},
        tiers={name: book.rules.tenants[name].tier or book.rules.default_tier or "" for name in names},
        pinned=dict(pinned),
    )


class Orders:
    """The orders that were asked for last, each kept for `keep_s`."""

    def __init__(self, monotonic: Callable[[], float], keep_s: float = 2.0, most: int = 8) -> None:
        self._monotonic, self._keep_s, self._most = monotonic, keep_s, most
        self._kept: dict[tuple[str, str, bool], tuple[float, Index, list[str]]] = {}

    def order(self, index: Index, world: World, ask: Ask) -> list[str]:
        """Return the names that match, in order."""
        key = (ask.word, ask.sort, ask.descending)
        kept = self._kept.pop(key, None)
        now_s = self._monotonic()
        if kept is None or kept[1] is not index or now_s - kept[0] >= self._keep_s:
            kept = (now_s, index, ordered(index, world, ask))
        self._kept[key] = kept
        while len(self._kept) > self._most:
            del self._kept[next(iter(self._kept))]
        return kept[2]


def ordered(index: Index, world: World, ask: Ask) -> list[str]:
    """Return the names whose name or tier has the word; equals stand in the order of their names."""
    strangers = sorted(name for name in world.traffic if name and name not in index.folded)
    names = [*index.names, *strangers]
    if ask.word:
        names = [
            name
            for name in names
            if ask.word in index.folded.get(name, name.casefold()) or ask.word == index.tiers.get(name, "")
        ]
    elif ask.sort == "name" and strangers:
        names.sort(key=str.casefold)
    if ask.sort != "name":
        # A stable sort: equals stay in the order of their names, also from the largest down.
        names.sort(key=_key(index, world, ask.sort), reverse=ask.descending)
    elif ask.descending:
        names.reverse()
    return names


def _key(index: Index, world: World, column: str) -> Callable[[str], tuple[float, str]]:
    if column == "tier":
        return lambda name: (0, index.tiers.get(name, ""))
    if column == "quota":
        return lambda name: (
            ratio(world.accounts[name], world.month) if name in world.accounts else -1.0,
            "",
        )
    place = 0 if column == "requests" else 1
    return lambda name: (world.traffic.get(name, (0, 0))[place], "")


def page_of(names: list[str], index: Index, world: World, ask: Ask) -> Page:
    """Return a page of tenants."""
    strangers = sum(name not in index.folded for name in world.traffic if name)
    return cut(names, ask, len(index.names) + strangers, lambda name: row_of(name, index.book, world))


def row_of(name: str, book: RuleBook, world: World) -> TenantRow:
    """Return one tenant's row."""
    tenant = book.rules.tenants.get(name)
    profile = book.profile(name)
    known = tenant or TenantRules()
    requests, failed = world.traffic.get(name, (0, 0))
    return TenantRow(
        name=name,
        tier="" if profile is None else profile.tier,
        in_rules=tenant is not None,
        keys=sum(_is_good(key_of(key).not_after, world.now_s) for key in known.keys),
        token=book.rules.identity.jwt is not None,
        certificate=book.rules.identity.mtls is not None,
        pins=dict(list(known.pins.items())[:MAX_PINS]),
        pin_count=len(known.pins),
        beta=profile is not None and has_beta(profile, world.live),
        quota=_quota(profile, world),
        requests=requests,
        failed=failed,
    )


def _is_good(not_after: datetime | None, now_s: float) -> bool:
    return not_after is None or not_after.timestamp() > now_s


def _quota(profile: Profile | None, world: World) -> QuotaCell | None:
    if profile is None or profile.limits is None:
        return None
    limits, last = profile.limits, world.accounts.get(profile.name)
    here = last if last is not None and last.standing.month == world.month else None
    return QuotaCell(
        per_period=_units(limits, "period"),
        per_minute=_units(limits, "minute"),
        used=None if here is None else here.standing.used / MILLI,
        reserved=None if here is None else here.standing.reserved / MILLI,
        ratio=None if here is None else ratio(here, world.month),
    )


def _units(limits: Limits, window: str) -> int | None:
    milliunits = limits.period if window == "period" else limits.minute
    return None if milliunits is None else milliunits // MILLI
