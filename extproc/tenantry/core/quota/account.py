"""One tenant's account: what it has spent, what is reserved for requests under way, and whether one more fits.

**Reserve, then settle.** A request is admitted by *reserving* the most that it is likely to cost. So requests that come
at once cannot all pass by what none of them has spent yet. Its end *settles* the reservation with what it really cost,
or *gives it back*.

**The minute** is a bucket that drains: what is reserved is poured in, a sixtieth of the limit drains each second, and
what would overflow is refused. A sliding window would have to keep every request of a minute, and a fixed one lets
twice the limit pass around the turn of a minute; a bucket is one number and a time, and knows exactly when there will
be room. Its guarantee: from any moment at which it is empty on, what requests came to is never more than the limit at
once plus the limit a minute. Settling takes the unused part of a reservation out again, but never more than is in the
bucket.

A request that is larger than the whole limit passes when the bucket is empty: it is poured in as one limit, and the
rest when it is settled. Else a tenant that does not say how much it wants could never ask anything.

**The period** is a calendar month (UTC): `used` counts what was settled, `reserved` what is under way, and both
together stay within the limit. What is under way at the turn of a month counts in the one in which it ends, as in the
ledger. Months only go forward, so that a clock that is set back gives nobody a second budget.

**Leases.** Whoever reserves is an `owner` with a lease, which each of its changes renews. When it runs out (a sidecar
died) what it had reserved is given back. A settlement that comes all the same counts in full.

**A store that forgets.** `used` never falls within a month, so replicas say with each change what they last read
(`Seen`), and the higher one counts: a Redis that lost its memory gets it back from any replica that lives, and a
replica that starts, having read nothing, changes nothing.

Amounts are whole *milliunits* (thousandths of a compute unit, an input token of the default profile), rounded up. The
bucket's content is kept in 1/60,000 of that: so much drains in a millisecond as the limit has milliunits, a whole
number. With the bounds of `rules_billing.Quota` all of it stays below 2^53, where Lua's numbers are exact.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from msgspec import Struct
from msgspec.structs import replace

from tenantry.core.rules_billing import Quota

MILLI = 1_000
"""Milliunits in a compute unit."""

MINUTE_MS = 60_000


class Limits(Struct, frozen=True, kw_only=True):
    """A tenant's limits in milliunits (None: none), and the shares of the period's whose passing is told of."""

    minute: int | None = None
    period: int | None = None
    alert_at: tuple[float, ...] = ()

    def thresholds(self) -> dict[float, int]:
        """Return the milliunits at which each share is reached, in ascending order."""
        if self.period is None:
            return {}
        return {share: -int(-share * self.period // 1) for share in sorted(set(self.alert_at))}


def limits_of(quota: Quota | None) -> Limits | None:
    """Return the limits of a quota; None when there is none to keep."""
    if quota is None or (quota.compute_units_per_minute is None and quota.compute_units_per_period is None):
        return None
    minute, period = quota.compute_units_per_minute, quota.compute_units_per_period
    return Limits(
        minute=None if minute is None else minute * MILLI,
        period=None if period is None else period * MILLI,
        alert_at=quota.alert_at,
    )


class Seen(Struct, frozen=True, kw_only=True):
    """What an account was last read to have used, and in which month (`month_of`)."""

    month: int
    used: int


class Open(Struct, frozen=True, kw_only=True, array_like=True):
    """A reservation: whose it is, what it holds of the period, and what it put into the bucket (milliunits)."""

    owner: str
    amount: int
    poured: int


class Account(Struct, frozen=True, kw_only=True):
    """What a store keeps of a tenant.

    `content` is the bucket's, in milliunits times MINUTE_MS, at `at_ms` (Unix time). `leases` say until when (Unix
    time, milliseconds) each owner's reservations hold. `told` are the shares that somebody was told of this month.
    """

    content: int = 0
    at_ms: int = 0
    month: int = 0
    used: int = 0
    open: Mapping[str, Open] = {}
    leases: Mapping[str, int] = {}
    told: tuple[float, ...] = ()

    @property
    def reserved(self) -> int:
        """What is under way."""
        return sum(each.amount for each in self.open.values())


class _Change(Struct, frozen=True, kw_only=True):
    """`owner` says who asks, and `lease_ms` how long its reservations shall hold from now on."""

    owner: str
    lease_ms: int
    seen: Seen | None = None


class Reserve(_Change, frozen=True, kw_only=True):
    """Hold `amount` milliunits under `id`, if there is room. An id that is held already is granted again."""

    id: str
    amount: int


class Settle(_Change, frozen=True, kw_only=True):
    """Count `actual` milliunits in place of what is held under `id`.

    Nothing is held there any more (its lease ran out, or it was reserved elsewhere while the store was lost): `actual`
    counts all the same, unless `only_open`, which a repetition has to say.
    """

    id: str
    actual: int
    only_open: bool = False


class GiveBack(_Change, frozen=True, kw_only=True):
    """Let go of what is held under `id`, if anything is."""

    id: str


class Renew(_Change, frozen=True, kw_only=True):
    """Do nothing but renew the owner's lease."""


Change = Reserve | Settle | GiveBack | Renew


class Standing(Struct, frozen=True, kw_only=True):
    """An account after a change: `granted` answers a Reserve, `crossed` are shares that were reached just now.

    `content`, `used` and `reserved` are the account's, `now_ms` is the store's clock.
    """

    granted: bool
    content: int
    used: int
    reserved: int
    month: int
    now_ms: int
    crossed: tuple[float, ...] = ()

    @property
    def seen(self) -> Seen:
        """What of it is to be remembered."""
        return Seen(month=self.month, used=self.used)


def month_of(now_ms: int) -> int:
    """Return the number of a moment's calendar month, UTC: years times twelve plus months from 0."""
    moment = datetime.fromtimestamp(now_ms / 1e3, UTC)
    return moment.year * 12 + moment.month - 1


def month_begin_ms(month: int) -> int:
    """Return when a month begins, in Unix milliseconds."""
    return int(datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC).timestamp() * 1e3)


def month_name(month: int) -> str:
    """Return a month as ledgers name it: 2026-11."""
    return f"{month // 12:04}-{month % 12 + 1:02}"


def apply(account: Account, limits: Limits, change: Change, now_ms: int) -> tuple[Account, Standing]:
    """Return the account after a change, and how it stands."""
    account = _up_to(account, limits, change, now_ms)
    granted = True
    crossed: tuple[float, ...] = ()
    if isinstance(change, Reserve):
        account, granted = _reserved(account, limits, change)
    elif isinstance(change, Settle):
        account, crossed = _settled(account, limits, change)
    elif isinstance(change, GiveBack):
        account = _without(account, lambda name, _open: name == change.id)
    account = replace(account, leases={**account.leases, change.owner: now_ms + change.lease_ms})
    return account, _standing(account, now_ms, granted=granted, crossed=crossed)


def _standing(account: Account, now_ms: int, *, granted: bool, crossed: tuple[float, ...]) -> Standing:
    return Standing(
        granted=granted, content=account.content, used=account.used, reserved=account.reserved, month=account.month,
        now_ms=now_ms, crossed=crossed,
    )  # fmt: skip


def _up_to(account: Account, limits: Limits, change: Change, now_ms: int) -> Account:
    """Let time pass: the bucket drains, months turn, leases run out; and take in what the asker has seen."""
    leases = {owner: until for owner, until in account.leases.items() if until > now_ms}
    if len(leases) < len(account.leases):
        account = _without(account, lambda _name, each: each.owner not in leases)
    drained = max(0, now_ms - account.at_ms) * limits.minute if limits.minute is not None else account.content
    month, used, told = account.month, account.used, account.told
    if (now := month_of(now_ms)) > month:
        month, used, told = now, 0, ()
    if change.seen is not None and change.seen.month == month:
        used = max(used, change.seen.used)
    content = max(0, account.content - drained)
    at_ms = max(account.at_ms, now_ms)
    return replace(account, content=content, at_ms=at_ms, month=month, used=used, told=told, leases=leases)


def _reserved(account: Account, limits: Limits, change: Reserve) -> tuple[Account, bool]:
    if change.id in account.open:
        return account, True
    poured = 0 if limits.minute is None else min(change.amount, limits.minute)
    if limits.period is not None and account.used + account.reserved + change.amount > limits.period:
        return account, False
    if limits.minute is not None and account.content + poured * MINUTE_MS > limits.minute * MINUTE_MS:
        return account, False
    new = {change.id: Open(owner=change.owner, amount=change.amount, poured=poured)}
    return replace(account, content=account.content + poured * MINUTE_MS, open={**account.open, **new}), True


def _settled(account: Account, limits: Limits, change: Settle) -> tuple[Account, tuple[float, ...]]:
    held = account.open.get(change.id)
    if held is None and change.only_open:
        return account, ()
    content = account.content
    if limits.minute is not None:
        content = max(0, content + (change.actual - (0 if held is None else held.poured)) * MINUTE_MS)
    used = account.used + change.actual
    crossed = tuple(share for share, at in limits.thresholds().items() if used >= at and share not in account.told)
    left = {name: each for name, each in account.open.items() if name != change.id}
    return replace(account, content=content, used=used, open=left, told=account.told + crossed), crossed


def _without(account: Account, gone: Callable[[str, Open], bool]) -> Account:
    kept = {name: each for name, each in account.open.items() if not gone(name, each)}
    poured = sum(each.poured for name, each in account.open.items() if name not in kept)
    return replace(account, content=max(0, account.content - poured * MINUTE_MS), open=kept)
