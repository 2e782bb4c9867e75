"""Reading the ledger, and closing its periods.

| route | door | what |
|---|---|---|
| `GET /usage` | reader | tallies; `period` or `from` and `to` (Unix time, whole hours), `tenant`, `model`, `group_by` |
| `GET /engines` | admin | how the GPUs of each model and version spent `period` |
| `GET /periods` | admin | the periods that were closed |
| `POST /periods/close` | admin | closes one: `{"period": "2026-11"}` |

A tenant reads what it pays for; work that the operator pays for (copies, failed attempts) is not told to it.
"""

import asyncio
from collections.abc import Iterable
from typing import Annotated, get_args

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from tenantry.adapters.ledger.http import LedgerService, answer
from tenantry.adapters.ledger.invoice_routes import require_prices
from tenantry.adapters.ledger.store import GroupBy, Query
from tenantry.adapters.rollout_routes import error
from tenantry.core.billing.invoice import PriceError
from tenantry.core.billing.periods import checked_period, ends_s
from tenantry.core.billing.terms import write_terms
from tenantry.core.errors import ForbiddenError

_PARAMETERS = ("period", "from", "to", "tenant", "model", "group_by")
_GROUPS: tuple[GroupBy, ...] = get_args(GroupBy)


class _Close(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    period: Annotated[str, Meta(max_length=7)]


def routes(service: LedgerService) -> Iterable[web.RouteDef]:
    """Return the routes."""

    async def usage(request: web.Request, tenant: str | None) -> web.Response:
        query = query_of(request, tenant)
        tallies = await service.ledger.tallies(query)
        return answer({"tallies": [tally for tally in tallies if tenant is None or tally.owner == "tenant"]})

    async def engines(request: web.Request) -> web.Response:
        period = checked_period(request.query.get("period", ""))
        return answer({"engines": await service.ledger.engine_tallies(period)})

    async def periods(_request: web.Request) -> web.Response:
        return answer({"periods": await service.ledger.periods()})

    async def close(request: web.Request) -> web.Response:
        period = checked_period(msgspec.json.decode(await request.read(), type=_Close).period)
        rules = service.live.book.rules
        not_before_s = ends_s(period) + rules.billing.close_after_hours * 3_600
        if service.now() >= not_before_s and period not in {each.period for each in await service.ledger.periods()}:
            try:
                await require_prices(service, period, rules)
            except PriceError as unpriced:
                return error(409, f"{period} stays open, as a closed period keeps its prices: {unpriced}")
        closing = service.ledger.close_period(
            period, service.now(), not_before_s=not_before_s, terms=write_terms(rules)
        )
        return answer(await asyncio.shield(asyncio.ensure_future(closing)))

    return [
        web.get("/usage", service.reader(usage)),
        web.get("/engines", service.admin(engines)),
        web.get("/periods", service.admin(periods)),
        web.post("/periods/close", service.admin(close)),
    ]


def query_of(request: web.Request, tenant: str | None) -> Query:
    """Return what a request asks for; a tenant can ask for its own alone.

    Raises ValueError for what is not understood, ForbiddenError for another tenant's.
    """
    given = request.query
    if unknown := sorted(set(given) - set(_PARAMETERS)):
        raise ValueError(f"no parameter is called {unknown[0][:50]!r}: {', '.join(_PARAMETERS)}")
    if repeated := [name for name in given if name != "group_by" and len(given.getall(name)) > 1]:
        raise ValueError(f"{repeated[0]} stands there more than once")
    if tenant is not None and given.get("tenant", tenant) != tenant:
        raise ForbiddenError("not_yours", "A tenant's key reads that tenant's usage alone.")
    period = given.get("period")
    return Query(
        period=None if period is None else checked_period(period),
        from_s=_moment(request, "from"),
        to_s=_moment(request, "to"),
        tenant=given.get("tenant") if tenant is None else tenant,
        model=given.get("model"),
        group_by=_grouped(given.getall("group_by", ["tenant,model"])),
    )


def _moment(request: web.Request, name: str) -> float | None:
    text = request.query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 11) or int(text) % 3_600:
        raise ValueError(f"{name} is {text[:20]!r}: give Unix time of a whole hour, a multiple of 3600")
    return float(text)


def _grouped(given: Iterable[str]) -> tuple[GroupBy, ...]:
    names = [name for part in given for name in part.split(",") if name]
    groups: list[GroupBy] = [known for name in names for known in _GROUPS if known == name]
    if len(groups) != len(names):
        wrong = next(name for name in names if name not in _GROUPS)
        raise ValueError(f"cannot group by {wrong[:50]!r}: {', '.join(_GROUPS)}")
    return tuple(groups)
