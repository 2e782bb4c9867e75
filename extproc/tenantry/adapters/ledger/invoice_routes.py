"""`GET /invoice`: a period's invoices, by the rules' prices of this moment, or of when the period was closed.

| who asks | what it gets |
|---|---|
| the admin token | every tenant's invoice and the operator's statement; with `tenant`, that tenant's invoice |
| a tenant's API key | its own invoice |

An invoice needs all tenants' usage, since they share the cold starts; a tenant is shown its own share and no other's.
"""

from collections.abc import Iterable

from aiohttp import web

from tenantry.adapters.ledger.http import LedgerService, answer
from tenantry.adapters.ledger.store import GroupBy, Query
from tenantry.adapters.rollout_routes import error
from tenantry.core.billing.invoice import PriceError, invoice, invoices
from tenantry.core.billing.operator import Bills, statement
from tenantry.core.billing.spans import SpanError, period_from
from tenantry.core.billing.tallies import Tally
from tenantry.core.billing.terms import read_terms
from tenantry.core.errors import ForbiddenError
from tenantry.core.rules import Rules
from tenantry.core.schema import nearest

_PARAMETERS = ("period", "tenant")
_GROUPS: tuple[GroupBy, ...] = ("tenant", "tier", "model", "version", "adapter", "measured")


def routes(service: LedgerService) -> Iterable[web.RouteDef]:
    """Return the route."""

    async def show(request: web.Request, reader: str | None) -> web.Response:
        given = request.query
        if unknown := sorted(set(given) - set(_PARAMETERS)):
            raise ValueError(f"no parameter is called {unknown[0][:50]!r}: {', '.join(_PARAMETERS)}")
        if reader is not None and given.get("tenant", reader) != reader:
            raise ForbiddenError("not_yours", "A tenant's key reads that tenant's invoice alone.")
        try:
            period = period_from(given.get("period"), service.now())
            return answer(await _bills(service, period, reader or given.get("tenant"), known=reader is not None))
        except SpanError as wrong:
            return error(400, str(wrong))
        except PriceError as unpriced:
            return error(409, str(unpriced) if reader is None else "Something on this invoice has no price yet.")
        except _NobodyError as unknown_tenant:
            return error(404, str(unknown_tenant))

    return [web.get("/invoice", service.reader(show))]


async def require_prices(service: LedgerService, period: str, rules: Rules) -> None:
    """Raise PriceError unless `rules` price all that tenants used in a period, as they are kept when it is closed."""
    kept = {each: read_terms(terms) for each, terms in (await service.ledger.terms()).items()}
    tallies = await service.ledger.tallies(Query(period=period, group_by=_GROUPS))
    invoices(period, tallies, await service.ledger.engine_tallies(period), rules, terms=kept)


class _NobodyError(Exception):
    """A tenant that neither the rules nor the period know."""


async def _bills(service: LedgerService, period: str, tenant: str | None, *, known: bool) -> Bills:
    rules = service.live.book.rules
    closed = period in {each.period for each in await service.ledger.periods()}
    kept = {each: read_terms(terms) for each, terms in (await service.ledger.terms()).items()}
    priced = kept.get(period, rules)
    tallies = await service.ledger.tallies(Query(period=period, group_by=_GROUPS))
    engines = await service.ledger.engine_tallies(period)
    if tenant is not None:
        if not known:
            _require(tenant, rules, tallies)
        return Bills(invoices=(invoice(period, tenant, tallies, engines, priced, terms=kept, closed=closed),))
    bills = invoices(period, tallies, engines, priced, terms=kept, closed=closed)
    return Bills(invoices=bills, statement=statement(period, tallies, engines, bills, priced.billing, closed=closed))


def _require(tenant: str, rules: Rules, tallies: Iterable[Tally]) -> None:
    names = set(rules.tenants) | {tally.tenant for tally in tallies if tally.tenant}
    if tenant not in names:
        raise _NobodyError(f"no tenant {tenant[:70]!r} in the rules or the period; {nearest(tenant, names)}")
