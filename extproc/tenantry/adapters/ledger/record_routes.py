"""`POST /records`: a batch of usage records, booked whole or not at all, and answered when it is on disk.

| answer | what the sender does |
|---|---|
| 200 `{"new": 3, "known": 0}` | forgets the batch |
| 400 `{"error": ..., "bad": [3]}` | sets the records at these places aside, and sends the others again |
| 401, 413 | is wrongly set up, or sends less at once |
| 503, or none | keeps the batch, and sends it again: a record that comes twice counts once |
"""

import asyncio
from collections.abc import Iterable, Iterator

import msgspec
from aiohttp import web

from tenantry.adapters.ledger.http import LedgerService, answer, unavailable
from tenantry.adapters.ledger.store import UnbookableError
from tenantry.core.billing.compute_units import compute_units_micro
from tenantry.core.rulebook import RuleBook
from tenantry.core.rules_billing import ModelProfile
from tenantry.core.usage import MAX_BATCH, Record, Refused, Taken, UsageRecord, read_batch, read_record

MAX_WAITING = 64
"""Batches that wait for the database; a sender beyond that is asked to try again."""

_UNKNOWN_MODEL = ModelProfile()


class _Envelope(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A batch whose records are not looked at yet."""

    records: list[msgspec.Raw]


def routes(service: LedgerService) -> Iterable[web.RouteDef]:
    """Return the route."""
    waiting = 0

    async def book(request: web.Request) -> web.Response:
        nonlocal waiting
        body = await request.read()
        try:
            records = read_batch(body)
        except ValueError as error:
            bad = dict(_bad_records(body))
            service.metrics.refused(len(bad) or 1)
            message = next((f"records[{index}]: {reason}" for index, reason in bad.items()), str(error))
            return answer(Refused(error=message, bad=tuple(bad)), status=400)
        if waiting >= MAX_WAITING:
            service.metrics.unavailable()
            return unavailable(f"{MAX_WAITING} batches wait for the database; keep this one and send it again")
        waiting += 1
        try:
            # A sender that goes away must not leave a batch half counted.
            return await asyncio.shield(asyncio.ensure_future(_booked(service, records)))
        except UnbookableError as error:
            service.metrics.refused()
            return answer(Refused(error=str(error), bad=(error.index,)), status=400)
        finally:
            waiting -= 1

    return [web.post("/records", service.engine(book))]


async def _booked(service: LedgerService, records: tuple[Record, ...]) -> web.Response:
    units = list(weighed(service.live.book, records))
    now_s = service.now()
    booked = await service.ledger.book(records, units, now_s)
    service.metrics.booked(records, units, booked.new, now_s)
    return answer(Taken(new=len(booked.new), known=booked.known))


def weighed(book: RuleBook, records: Iterable[Record]) -> Iterator[int]:
    """Yield each record's compute units, in millionths, by its model's profile (an unknown model: the default one)."""
    for record in records:
        if not isinstance(record, UsageRecord):
            yield 0
            continue
        model, charge = book.model(record.model), record.charge
        yield compute_units_micro(
            model.profile if model is not None else _UNKNOWN_MODEL, input_tokens=charge.input_tokens,
            cached_tokens=charge.cached_tokens, output_tokens=charge.output_tokens,
        )  # fmt: skip


def _bad_records(body: bytes) -> Iterator[tuple[int, str]]:
    """Yield the place of each record that is not understood, and why; none when the batch itself is not."""
    try:
        envelope = msgspec.json.decode(body, type=_Envelope)
    except ValueError:
        return
    for index, raw in enumerate(envelope.records[:MAX_BATCH]):
        try:
            read_record(bytes(raw))
        except ValueError as error:
            yield index, str(error)
