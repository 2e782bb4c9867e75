"""Reads the ledger over HTTP, as `tenantry usage` and `tenantry invoice` do."""

import time
from collections.abc import Mapping
from typing import TypeVar

import aiohttp
import msgspec
from msgspec import Struct
from tenantry.adapters.ledger.client import UsageAnswer
from tenantry.core.billing.operator import Bills
from tenantry.core.billing.periods import period_of
from tenantry.core.billing.tallies import EngineTally

from demo.observe import RecordLostError
from demo.run import Books

Answer = TypeVar("Answer")


class _Engines(Struct, frozen=True, kw_only=True):
    engines: tuple[EngineTally, ...]


async def read_books(
    http: aiohttp.ClientSession, url: str, *, operator: str, tenant_key: str, other_tenant: str
) -> Books:
    """Return what the ledger has of the play; raise RecordLostError when it does not answer.

    `operator` is the admin token; with `tenant_key` a tenant reads its own invoice, and tries to read another's.
    """

    async def ask(path: str, shape: type[Answer], **params: str) -> Answer:
        status, body = await _get(http, url + path, operator, params)
        if status != 200:
            raise RecordLostError(f"the ledger answers {status} to {path}: {body[:300].decode(errors='replace')}")
        return msgspec.json.decode(body, type=shape)

    tallies = (await ask("/usage", UsageAnswer, group_by="tenant,model,version")).tallies
    # Two of them, if the play is on while a month ends.
    periods = sorted({tally.period for tally in tallies} | {period_of(time.time())})
    status, own = await _get(http, f"{url}/invoice", tenant_key, {"period": periods[-1]})
    foreign_status, _ = await _get(http, f"{url}/invoice", tenant_key, {"tenant": other_tenant})
    return Books(
        tallies=tallies,
        engines=tuple(
            [engine for period in periods for engine in (await ask("/engines", _Engines, period=period)).engines]
        ),
        bills=tuple([await ask("/invoice", Bills, period=period) for period in periods]),
        own=msgspec.json.decode(own, type=Bills) if status == 200 else Bills(),
        foreign_status=foreign_status,
    )


async def _get(http: aiohttp.ClientSession, url: str, key: str, params: Mapping[str, str]) -> tuple[int, bytes]:
    try:
        async with http.get(url, params=params, headers={"authorization": f"Bearer {key}"}) as response:
            return response.status, await response.read()
    except aiohttp.ClientError as error:
        raise RecordLostError(f"the ledger does not answer ({type(error).__name__}): its invoices are lost") from None
