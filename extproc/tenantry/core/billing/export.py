"""What others' billing is told: settled usage of tenants as events of OpenMeter, Lago and Stripe.

Theory of operation. Only what a tenant pays for is told; mirrored copies, failed attempts and the like are the
operator's. Whose a record is may change while the parts of its attempt still come, so a record is told once it is
settled, and each later change is an event of its own: the first *revision* of a record adds its figures, the second takes
them back, the third adds them again. So an odd revision means that the destination counts the record, an even one that it
does not, and what to say next follows from that alone (`next_revision`). Ids are made of the record's id and the
revision: the same event is the same event, however often it is sent.

OpenMeter and Lago get an event a record. Stripe takes whole numbers and 1,000 events a second at most, so it gets a sum
for each tenant and hour. The part below one unit is carried to the tenant's next sum: nothing is rounded away.
"""

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from tenantry.core.billing.tallies import Kind, Owner

CLOUD_EVENT_TYPE = "tenantry.usage.v1"
HOUR_S = 3600


class Entry(Struct, frozen=True, kw_only=True, tag="record"):
    """What one record adds to its tenant's bill, or takes back from it: an even revision has negative figures.

    `input_tokens` are those that were computed, without the cached ones; of training, all GPU time is in
    `prefill_gpu_ns`. `requests` is 1 for an attempt's last record. `compute_units_micro` are millionths.
    """

    record_id: str
    revision: int = 1
    kind: Kind = "request"
    tenant: str
    tier: str = ""
    model: str = ""
    version: str = ""
    adapter: str = ""
    measured: str = "engine"
    ended_s: float
    requests: int = 0
    prefill_gpu_ns: int = 0
    decode_gpu_ns: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    compute_units_micro: int = 0

    @property
    def id(self) -> str:
        """The event's id: the record's own, and a suffix for what changes it later."""
        return self.record_id if self.revision == 1 else f"{self.record_id}/revision/{self.revision}"

    @property
    def gpu_ns(self) -> int:
        """GPU time of both phases."""
        return self.prefill_gpu_ns + self.decode_gpu_ns

    @property
    def counts(self) -> bool:
        """Whether there is anything to tell: a part in which nothing was measured adds nothing."""
        return any(getattr(self, name) for name in FIGURES)


FIGURES = (
    "requests", "prefill_gpu_ns", "decode_gpu_ns", "input_tokens", "cached_tokens", "output_tokens",
    "compute_units_micro",
)  # fmt: skip


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


Item = Entry | HourSum

_items: msgspec.json.Decoder[Item] = msgspec.json.Decoder(Item)


def read_item(data: bytes) -> Item:
    """Decode what an outbox keeps; raise msgspec.MsgspecError."""
    return _items.decode(data)


def next_revision(owner: Owner, revision: int) -> int | None:
    """Return the revision to tell next, None for nothing; `revision` is the last one that was told, 0 for none."""
    counted = revision % 2 == 1
    return None if counted == (owner == "tenant") else revision + 1


def revised(entry: Entry, revision: int) -> Entry:
    """Return a first revision as a later one."""
    if revision % 2 == 1:
        return msgspec.structs.replace(entry, revision=revision)
    negative = {name: -getattr(entry, name) for name in FIGURES}
    return msgspec.structs.replace(entry, revision=revision, **negative)


def hour_of(ended_s: float) -> int:
    """Return the Unix time at which the hour began."""
    return int(ended_s // HOUR_S) * HOUR_S


def whole(micro: int, carry_micro: int, unit_micro: int) -> tuple[int, int]:
    """Return so many whole units, and what is carried on: from 0 up to, but not including, one unit."""
    return divmod(micro + carry_micro, unit_micro)


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


def cloud_event(entry: Entry, *, source: str, subject: str) -> CloudEvent:
    """Return an entry as a CloudEvent."""
    moment = datetime.fromtimestamp(round(entry.ended_s, 3), UTC)
    return CloudEvent(
        id=entry.id, source=source, subject=subject, data=properties(entry),
        time=moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    )  # fmt: skip


class LagoEvent(Struct, frozen=True, kw_only=True):
    """One event of Lago's `POST /api/v1/events/batch`. Its ClickHouse store tells events apart by id *and* time."""

    transaction_id: str
    external_subscription_id: str
    code: str
    timestamp: str
    properties: dict[str, str | int]


def lago_event(entry: Entry, *, code: str, subscription: str) -> LagoEvent:
    """Return an entry as Lago's event, to the millisecond."""
    return LagoEvent(
        transaction_id=entry.id, external_subscription_id=subscription, code=code,
        timestamp=decimal_text(round(entry.ended_s * 1000), 3), properties=properties(entry),
    )  # fmt: skip


def properties(entry: Entry) -> dict[str, str | int]:
    """Return what can be priced or grouped by. Fractions are decimal text: JSON's numbers are read as binary ones."""
    return {
        "kind": entry.kind,
        "owner": "tenant",
        "record_id": entry.record_id,
        "revision": entry.revision,
        "tenant": entry.tenant,
        "tier": entry.tier,
        "model": entry.model,
        "version": entry.version,
        "adapter": entry.adapter,
        "measured": entry.measured,
        "requests": entry.requests,
        "input_tokens": entry.input_tokens,
        "cached_tokens": entry.cached_tokens,
        "output_tokens": entry.output_tokens,
        "gpu_seconds": decimal_text(entry.gpu_ns, 9),
        "prefill_gpu_seconds": decimal_text(entry.prefill_gpu_ns, 9),
        "decode_gpu_seconds": decimal_text(entry.decode_gpu_ns, 9),
        "compute_units": decimal_text(entry.compute_units_micro, 6),
    }


def stripe_form(total: HourSum, *, source: str, event_name: str, customer: str) -> bytes:
    """Return a sum as the form of Stripe's `POST /v1/billing/meter_events`; its time is the hour's beginning."""
    return urlencode({
        "event_name": event_name,
        "identifier": total.id(source),
        "timestamp": str(total.hour),
        "payload[stripe_customer_id]": customer,
        "payload[value]": str(total.value),
    }).encode()


def summed(entries: Iterable[Entry]) -> dict[tuple[str, int], int]:
    """Return millionths of compute units by tenant and hour."""
    sums: dict[tuple[str, int], int] = {}
    for entry in entries:
        key = (entry.tenant, hour_of(entry.ended_s))
        sums[key] = sums.get(key, 0) + entry.compute_units_micro
    return sums
