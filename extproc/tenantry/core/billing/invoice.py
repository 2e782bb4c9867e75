"""A tenant's invoice: what it used in a billing period, line by line, and what that costs.

Theory of operation. Tallies are merged by what distinguishes a price or a reader's question: kind, tier, model,
version, adapter, how it was measured, and the closed period that a correction belongs to. Each becomes a line. A
model's cold starts are divided among all tenants that used it in the period, however they came to be first
(`cold_starts`); each tenant's share is a line too. Amounts are exact until all lines are there, then they are
rounded together (`money.rounded`).

The order of tallies does not matter: lines are sorted before anything is rounded.

Prices are those of the tier that a record was stamped with, as the rules have them; of a closed period, and of what
corrects one, by the terms that were kept when it was closed (`terms`). A tier that the rules do not have any more
cannot be priced; that is an error, since the other choice is to bill nothing and not say so.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from operator import itemgetter
from types import MappingProxyType
from typing import Literal, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from tenantry.core.billing.cold_starts import cold_start_shares
from tenantry.core.billing.money import for_gpu_time, for_units, rounded, total
from tenantry.core.billing.tallies import EngineTally, Tally
from tenantry.core.errors import TenantryError
from tenantry.core.rules import Rules, Tier
from tenantry.core.schema import nearest

LineKind = Literal["request", "training", "cold_start"]
_NO_TERMS: Mapping[str, Rules] = MappingProxyType({})
_ORDER: dict[LineKind, int] = {"request": 0, "training": 1, "cold_start": 2}


class PriceError(TenantryError):
    """Usage that the rules have no price for; the message names whose, and what to put into the rules."""


class Line(Struct, frozen=True, kw_only=True):
    """One line of an invoice.

    `corrects` names the closed period that the usage belongs to (empty: this one). `measured` is `engine`, `response`
    or `estimate` for requests. `gpu_ns` of a `cold_start` line is the tenant's share of the model's cold starts.
    Prices and amount are in the invoice's currency; `amount` is rounded, and may be negative in a correction.
    """

    kind: LineKind
    corrects: str = ""
    tier: str = ""
    model: str
    version: str = ""
    adapter: str = ""
    measured: str = ""
    requests: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    gpu_ns: int = 0
    compute_units_micro: int = 0
    compute_unit_price: Decimal = Decimal(0)
    gpu_hour_price: Decimal = Decimal(0)
    amount: Decimal = Decimal(0)


class QuotaUse(Struct, frozen=True, kw_only=True):
    """A quota of the period, and how much of it is used (in millionths of compute units)."""

    compute_units_per_period: int
    used_micro: int

    @property
    def share(self) -> Fraction:
        """The used share; above 1 once it is spent."""
        return Fraction(self.used_micro, self.compute_units_per_period * 1_000_000)


class Invoice(Struct, frozen=True, kw_only=True):
    """One tenant's invoice. `closed` is whether the period is: until then it may still grow."""

    period: str
    tenant: str
    currency: str
    closed: bool = False
    lines: tuple[Line, ...] = ()
    total: Decimal
    quota: QuotaUse | None = None


class _Key(NamedTuple):
    """What tells lines apart, in the order in which they are printed."""

    corrects: str
    order: int
    model: str
    version: str
    adapter: str
    tier: str
    measured: str
    kind: LineKind


def invoices(
    period: str, tallies: Iterable[Tally], engines: Iterable[EngineTally], rules: Rules, *,
    terms: Mapping[str, Rules] = _NO_TERMS, closed: bool = False,
) -> tuple[Invoice, ...]:  # fmt: skip
    """Return the invoice of every tenant that has one in a period, by name; raise PriceError.

    `tallies` are all tenants' of that period, by tenant, tier, model, version, adapter and measured (or finer).
    `rules` are those of the period, `terms` those of closed periods, for corrections of them.
    """
    books = _Books(period, tallies, engines, terms)
    return tuple(_invoice(tenant, books, rules, closed=closed) for tenant in sorted(books.tallies))


def invoice(
    period: str, tenant: str, tallies: Iterable[Tally], engines: Iterable[EngineTally], rules: Rules, *,
    terms: Mapping[str, Rules] = _NO_TERMS, closed: bool = False,
) -> Invoice:  # fmt: skip
    """Return one tenant's invoice, empty without usage; it needs the tallies of all for its share of cold starts."""
    return _invoice(tenant, _Books(period, tallies, engines, terms), rules, closed=closed)


def tier_of(tenant: str, tier: str, rules: Rules) -> tuple[str, Tier]:
    """Return the tier that prices usage: the stamped one, else the tenant's in the rules; raise PriceError."""
    known = rules.tenants.get(tenant)
    name = tier or (known.tier if known else None) or rules.default_tier
    if not name:
        raise PriceError(f"{tenant} has usage without a tier; give it one in the rules (tenants.{tenant}.tier)")
    if name not in rules.tiers:
        raise PriceError(
            f'{tenant} has usage in tier "{name}", which the rules do not have; put it back to price it; '
            f"{nearest(name, rules.tiers)}"
        )
    return name, rules.tiers[name]


class _Books:
    """What tenants pay for in a period, by tenant; no prices yet, so that one tenant's mistakes are its own."""

    def __init__(
        self, period: str, tallies: Iterable[Tally], engines: Iterable[EngineTally], terms: Mapping[str, Rules]
    ) -> None:
        billed = [tally for tally in tallies if tally.owner == "tenant" and tally.period == period]
        self.period = period
        self._terms = terms
        self.shares = cold_start_shares(period, billed, engines)
        self.tallies: dict[str, list[Tally]] = defaultdict(list)
        for tally in billed:
            self.tallies[tally.tenant].append(tally)

    def lines(self, tenant: str, rules: Rules) -> list[Line]:
        """Return a tenant's lines, sorted, with prices but without amounts."""
        merged: dict[_Key, list[Tally]] = defaultdict(list)
        for tally in self.tallies.get(tenant, ()):
            merged[_key(tally, self._rules_of(tally, rules))].append(tally)
        lines = [
            _usage_line(tenant, key, of_key, self._pricing(key, rules))
            for key, of_key in sorted(merged.items(), key=itemgetter(0))
        ]
        for model, by_tenant in self.shares.items():
            lines += _cold_start_lines(tenant, model, by_tenant.get(tenant, {}), rules)
        return lines

    def _rules_of(self, tally: Tally, rules: Rules) -> Rules:
        """Return what says a tally's tier: the terms of the period that it corrects, unless they say none."""
        terms = self._terms.get(tally.corrects, rules)
        try:
            tier_of(tally.tenant, tally.tier, terms)
        except PriceError:
            return rules  # those of this period can still be mended, kept terms cannot
        return terms

    def _pricing(self, key: _Key, rules: Rules) -> Rules:
        """Return what prices a line: the terms of the period that it corrects, unless they have no such tier."""
        terms = self._terms.get(key.corrects, rules)
        return terms if key.tier in terms.tiers else rules


def _key(tally: Tally, rules: Rules) -> _Key:
    kind: LineKind = "request" if tally.kind == "request" else "training"
    tier, _ = tier_of(tally.tenant, tally.tier, rules)
    return _Key(tally.corrects, _ORDER[kind], tally.model, tally.version, tally.adapter, tier, tally.measured, kind)


def _usage_line(tenant: str, key: _Key, tallies: Sequence[Tally], rules: Rules) -> Line:
    price = tier_of(tenant, key.tier, rules)[1].price
    training = key.kind == "training"
    return Line(
        kind=key.kind,
        corrects=key.corrects,
        tier=key.tier,
        model=key.model,
        version=key.version,
        adapter=key.adapter,
        measured=key.measured,
        requests=sum(tally.requests for tally in tallies),
        input_tokens=sum(tally.input_tokens for tally in tallies),
        cached_tokens=sum(tally.cached_tokens for tally in tallies),
        output_tokens=sum(tally.output_tokens for tally in tallies),
        gpu_ns=sum(tally.gpu_ns for tally in tallies),
        compute_units_micro=sum(tally.compute_units_micro for tally in tallies),
        compute_unit_price=Decimal("0" if training else price.compute_unit),
        gpu_hour_price=Decimal(price.training_gpu_hour if training else price.gpu_hour),
    )


def _cold_start_lines(tenant: str, model: str, by_tier: dict[str, int], rules: Rules) -> list[Line]:
    sums: dict[str, int] = defaultdict(int)
    for stamped, gpu_ns in by_tier.items():
        sums[tier_of(tenant, stamped, rules)[0]] += gpu_ns
    return [
        Line(
            kind="cold_start",
            tier=tier,
            model=model,
            gpu_ns=gpu_ns,
            gpu_hour_price=Decimal(rules.tiers[tier].price.cold_start_gpu_hour),
        )
        for tier, gpu_ns in sorted(sums.items())
    ]


def _invoice(tenant: str, books: _Books, rules: Rules, *, closed: bool) -> Invoice:
    lines = books.lines(tenant, rules)
    digits = rules.billing.currency_digits
    amounts = rounded([exact_amount(line) for line in lines], digits)
    return Invoice(
        period=books.period,
        tenant=tenant,
        currency=rules.billing.currency,
        closed=closed,
        lines=tuple(replace(line, amount=amount) for line, amount in zip(lines, amounts, strict=True)),
        total=total(amounts, digits),
        quota=_quota(tenant, lines, rules),
    )


def exact_amount(line: Line) -> Fraction:
    """Return what a line costs before rounding."""
    return for_units(line.compute_units_micro, line.compute_unit_price) + for_gpu_time(line.gpu_ns, line.gpu_hour_price)


def _quota(tenant: str, lines: Sequence[Line], rules: Rules) -> QuotaUse | None:
    """Return the tenant's own quota of the period, else its tier's; None for a tenant without either."""
    known = rules.tenants.get(tenant)
    tier = rules.tiers.get((known.tier if known else None) or rules.default_tier or "")
    quota = (known.quota if known else None) or (tier.quota if tier else None)
    if quota is None or quota.compute_units_per_period is None:
        return None
    used = sum(line.compute_units_micro for line in lines if not line.corrects)
    return QuotaUse(compute_units_per_period=quota.compute_units_per_period, used_micro=used)
