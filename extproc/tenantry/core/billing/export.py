"""What others' billing is told: usage that tenants pay for, as events of OpenMeter, Lago and Stripe.

Theory of operation. A ledger's entries are never changed, and each is somebody's. Those of tenants are told, with their
ids and their figures, in the order in which they were booked; those of the operator (mirrored copies, failed attempts,
parts of a request that has not ended) are not. When it turns out later that somebody else pays for a record, the ledger
has an entry that takes it back, with negative figures and an id of its own, and that is told like any other. So each
event is the same however often it is made or sent, and the sum of those of a tenant is what the ledger's own invoice
says.

What corrects a period that the ledger had closed is told at the time at which it was booked, not at that of the usage:
the other side has closed the period too, and would drop it without a word.

OpenMeter and Lago get an event an usage. Stripe takes whole numbers and 1,000 events a second at most, so it gets a sum
for each tenant and hour. The part below one unit is carried to the tenant's next sum: nothing is rounded away.
"""

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Literal

import msgspec
from msgspec import Struct

from tenantry.core.billing.booking import Entry
from tenantry.core.billing.periods import hour_of
from tenantry.core.billing.tallies import Kind

CLOUD_EVENT_TYPE = "tenantry.usage.v1"


class Usage(Struct, frozen=True, kw_only=True, tag="usage"):
    """One entry of the ledger that is a tenant's. Figures are negative where it takes back.

    `id` is the entry's, `record_id` the record's that it is about. `at_s` is Unix time: of the usage, or of the booking
    where it corrects a closed period, which `corrects` names then. `input_tokens` are those that were computed, without
    the cached ones; of training, all GPU time is in `prefill_gpu_ns`. `requests` is 1 for the record that ended an
    attempt. `compute_units_micro` are millionths.
    """

    id: str
    record_id: str
    kind: Kind = "request"
    tenant: str
    tier: str = ""
    model: str = ""
    version: str = ""
    adapter: str = ""
    measured: str = ""
    period: str = ""
    corrects: str = ""
    at_s: float
    requests: int = 0
    prefill_gpu_ns: int = 0
    decode_gpu_ns: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    compute_units_micro: int = 0

    @property
    def gpu_ns(self) -> int:
        """GPU time of both phases."""
        return self.prefill_gpu_ns + self.decode_gpu_ns

    @property
    def counts(self) -> bool:
        """Whether there is anything to tell: a part in which nothing was measured adds nothing."""
        return any((
            self.requests, self.prefill_gpu_ns, self.decode_gpu_ns, self.input_tokens, self.cached_tokens,
            self.output_tokens, self.compute_units_micro,
        ))  # fmt: skip


class HourSum(Struct, frozen=True, kw_only=True, tag="hour"):
    """A tenant's compute units of one hour, as a whole number of Stripe's units.

    `hour` is Unix time of its beginning. `number` counts the tenant's sums: what comes late is a further sum.
    """

    tenant: str
    hour: int
    number: int
    value: int

    def id(self, source: str) -> str:
        """Return the identifier: at most 100 characters (Stripe's limit), the same for the same sum."""
        said = msgspec.json.encode([source, self.tenant, self.hour, self.number])
        return f"tenantry-{hashlib.sha256(said).hexdigest()[:40]}"


Item = Usage | HourSum

_items: msgspec.json.Decoder[Item] = msgspec.json.Decoder(Item)


def read_item(data: bytes) -> Item:
    """Decode what an outbox keeps; raise msgspec.MsgspecError."""
    return _items.decode(data)


def usage_of(entry: Entry) -> Usage | None:
    """Return what is told of an entry, None for nothing: it is the operator's, or adds nothing."""
    if entry.owner != "tenant":
        return None
    usage = Usage(
        id=entry.id, record_id=entry.record_id, kind=entry.kind, tenant=entry.tenant, tier=entry.tier,
        model=entry.model, version=entry.version, adapter=entry.adapter, measured=entry.measured, period=entry.period,
        corrects=entry.corrects, at_s=entry.booked_s if entry.corrects else entry.ended_s, requests=entry.requests,
        prefill_gpu_ns=entry.prefill_gpu_ns, decode_gpu_ns=entry.decode_gpu_ns, input_tokens=entry.input_tokens,
        cached_tokens=entry.cached_tokens, output_tokens=entry.output_tokens,
        compute_units_micro=entry.compute_units_micro,
    )  # fmt: skip
    return usage if usage.counts else None


def whole(micro: int, carry_micro: int, unit_micro: int) -> tuple[int, int]:
    """Return so many whole units, and what is carried on: less than one unit, on the side of zero where the sum is."""
    total = micro + carry_micro
    units = abs(total) // unit_micro * (1 if total >= 0 else -1)
    return units, total - units * unit_micro


def decimal_text(value: int, digits: int) -> str:
    """Return `value` / 10^`digits` as decimal text, exactly and without a trailing zero: 1500, 3 are 1.5."""
    sign = "-" if value < 0 else ""
    before, after = divmod(abs(value), 10**digits)
    fraction = f"{after:0{digits}d}".rstrip("0") if digits else ""
    return f"{sign}{before}.{fraction}" if fraction else f"{sign}{before}"


class CloudEvent(Struct, frozen=True, kw_only=True):
    """CloudEvents 1.0 in JSON (cloudevents/spec, json-format.md)."""

    specversion: Literal["1.0"] = "1.0"
    id: str
    source: str
    type: str = CLOUD_EVENT_TYPE
    subject: str
    time: str
    datacontenttype: Literal["application/json"] = "application/json"
    data: dict[str, str | int]


def cloud_event(usage: Usage, *, source: str, subject: str) -> CloudEvent:
    """Return usage as a CloudEvent."""
    moment = datetime.fromtimestamp(round(usage.at_s, 3), UTC)
    return CloudEvent(
        id=usage.id, source=source, subject=subject, data=properties(usage),
        time=moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    )  # fmt: skip


class LagoEvent(Struct, frozen=True, kw_only=True):
    """One event of Lago's `POST /api/v1/events/batch`. Its ClickHouse store tells events apart by id *and* time."""

    transaction_id: str
    external_subscription_id: str
    code: str
    timestamp: str
    properties: dict[str, str | int]


def lago_event(usage: Usage, *, code: str, subscription: str) -> LagoEvent:
    """Return usage as Lago's event, to the millisecond."""
    return LagoEvent(
        transaction_id=usage.id, external_subscription_id=subscription, code=code,
        timestamp=decimal_text(round(usage.at_s * 1000), 3), properties=properties(usage),
    )  # fmt: skip


def properties(usage: Usage) -> dict[str, str | int]:
    """Return what can be priced or grouped by. Fractions are decimal text: JSON's numbers are read as binary ones."""
    return {
        "kind": usage.kind,
        "owner": "tenant",
        "record_id": usage.record_id,
        "tenant": usage.tenant,
        "tier": usage.tier,
        "model": usage.model,
        "version": usage.version,
        "adapter": usage.adapter,
        "measured": usage.measured,
        "period": usage.period,
        "corrects": usage.corrects,
        "requests": usage.requests,
        "input_tokens": usage.input_tokens,
        "cached_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
        "gpu_seconds": decimal_text(usage.gpu_ns, 9),
        "prefill_gpu_seconds": decimal_text(usage.prefill_gpu_ns, 9),
        "decode_gpu_seconds": decimal_text(usage.decode_gpu_ns, 9),
        "compute_units": decimal_text(usage.compute_units_micro, 6),
    }


def stripe_form(total: HourSum, *, source: str, event_name: str, customer: str) -> dict[str, str]:
    """Return a sum as the form of Stripe's `POST /v1/billing/meter_events`; its time is the hour's beginning."""
    return {
        "event_name": event_name,
        "identifier": total.id(source),
        "timestamp": str(total.hour),
        "payload[stripe_customer_id]": customer,
        "payload[value]": str(total.value),
    }


def summed(usages: Iterable[Usage]) -> dict[tuple[str, int], int]:
    """Return millionths of compute units by tenant and hour."""
    sums: dict[tuple[str, int], int] = {}
    for usage in usages:
        key = (usage.tenant, hour_of(usage.at_s))
        sums[key] = sums.get(key, 0) + usage.compute_units_micro
    return sums
