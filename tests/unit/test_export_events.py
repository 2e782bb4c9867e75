"""What is told of an entry, to each destination; and the document that says where to."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tenantry.core.billing.export import (
    HourSum,
    Usage,
    cloud_event,
    decimal_text,
    lago_event,
    properties,
    read_item,
    stripe_form,
    summed,
    usage_of,
    whole,
)
from tenantry.core.billing.export_settings import parse_settings
from tenantry.core.errors import RulesError
from tenantry_testing.billing_standins import cloud_event_faults
from tenantry_testing.exports import NOW, EntryList, settings_for


def told(**fields: Any) -> Usage:
    usage = usage_of(EntryList().add(**fields))
    assert usage is not None
    return usage


def test_a_cloud_event() -> None:
    event = cloud_event(told(at_s=NOW + 0.25, adapter="acme-support"), source="prod-eu", subject="customer-7")
    document = json.loads(msgspec.json.encode(event))
    assert cloud_event_faults(document) == []
    data = document.pop("data")
    assert document == {
        "specversion": "1.0", "id": "r1", "source": "prod-eu", "type": "tenantry.usage.v1", "subject": "customer-7",
        "time": "2026-11-18T11:06:40.250Z", "datacontenttype": "application/json",
    }  # fmt: skip
    assert data == {
        "kind": "request", "owner": "tenant", "record_id": "r1", "tenant": "acme", "tier": "gold", "model": "chat-8b",
        "version": "1.4.0", "adapter": "acme-support", "measured": "engine", "period": "2026-11", "corrects": "",
        "requests": 1, "input_tokens": 12, "cached_tokens": 0, "output_tokens": 34, "gpu_seconds": "1.250000001",
        "prefill_gpu_seconds": "0.25", "decode_gpu_seconds": "1.000000001", "compute_units": "1.5",
    }  # fmt: skip


def test_a_lago_event() -> None:
    event = lago_event(told(at_s=NOW + 0.25), code="usage", subscription="sub_1")
    assert (event.transaction_id, event.external_subscription_id, event.code) == ("r1", "sub_1", "usage")
    assert event.timestamp == f"{int(NOW)}.25"
    assert event.properties["compute_units"] == "1.5"


def test_a_stripe_form() -> None:
    total = HourSum(tenant="acme", hour=1_794_999_600, number=3, value=1500)
    form = stripe_form(total, source="prod-eu", event_name="units", customer="cus_1")
    identifier = form.pop("identifier")
    assert form == {
        "event_name": "units", "timestamp": "1794999600", "payload[stripe_customer_id]": "cus_1",
        "payload[value]": "1500",
    }  # fmt: skip
    assert len(identifier) <= 100
    assert identifier == total.id("prod-eu")
    others = [
        total.id("prod-us"), msgspec.structs.replace(total, number=4).id("prod-eu"),
        msgspec.structs.replace(total, hour=0).id("prod-eu"), msgspec.structs.replace(total, tenant="b").id("prod-eu"),
    ]  # fmt: skip
    assert len({identifier, *others}) == 5


def test_only_what_a_tenant_pays_for_is_told() -> None:
    entries = EntryList()
    for owner in ("mirror", "failed", "unstamped", "unfinished"):
        assert usage_of(entries.add(owner=owner)) is None
    assert usage_of(entries.add(owner="tenant")) is not None
    figures = ("requests", "prefill_gpu_ns", "decode_gpu_ns", "input_tokens", "output_tokens")
    nothing: dict[str, Any] = dict.fromkeys(figures, 0)
    assert usage_of(entries.add(micro=0, **nothing)) is None


def test_what_is_taken_back_is_negative_and_has_an_id_of_its_own() -> None:
    entries = EntryList()
    usage = usage_of(entries.take_back(entries.add()))
    assert usage is not None
    said = properties(usage)
    assert (usage.id, said["record_id"]) == ("r1~2", "r1")
    assert (said["requests"], said["output_tokens"], said["gpu_seconds"], said["compute_units"]) == (
        -1, -34, "-1.250000001", "-1.5",
    )  # fmt: skip


def test_a_correction_of_a_closed_period_is_told_when_it_was_booked() -> None:
    assert told(at_s=NOW, booked_s=NOW + 9e6).at_s == NOW
    late = told(at_s=NOW, booked_s=NOW + 9e6, period="2027-03", corrects="2026-11")
    assert late.at_s == NOW + 9e6
    assert properties(late)["corrects"] == "2026-11"


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(0, 9, "0"), (1, 9, "0.000000001"), (1_500_000, 6, "1.5"), (-1, 6, "-0.000001"), (-2_000_000, 6, "-2"),
     (10**24 + 1, 9, "1000000000000000.000000001"), (70, 0, "70"), (100, 1, "10")],
)  # fmt: skip
def test_decimals_are_exact(value: int, digits: int, text: str) -> None:
    assert decimal_text(value, digits) == text
    assert Decimal(text) * 10**digits == value


def test_what_is_below_a_unit_is_carried() -> None:
    assert whole(1_499, 0, 1_000) == (1, 499)
    assert whole(501, 499, 1_000) == (1, 0)
    assert whole(-1_499, 0, 1_000) == (-1, -499)
    assert whole(-1, 0, 1_000) == (0, -1)  # a person need not look at a millionth that is taken back
    assert whole(1_000, -1, 1_000) == (0, 999)
    assert whole(7, 0, 1) == (7, 0)


def test_sums_are_by_tenant_and_hour() -> None:
    usages = [told(tenant="a"), told(tenant="a", at_s=NOW + 1), told(tenant="a", at_s=NOW + 3600), told(tenant="b")]
    assert list(summed(usages).values()) == [3_000_000, 1_500_000, 1_500_000]


def test_an_item_is_read_as_it_was_written() -> None:
    for item in (told(), HourSum(tenant="acme", hour=0, number=1, value=-5)):
        assert read_item(msgspec.json.encode(item)) == item


def test_settings_are_read(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, "openmeter", "stripe")
    assert settings.names() == ("openmeter", "stripe")
    assert settings.since_s == 1_793_491_200.0


STRIPE = {"tokenFile": "k", "eventName": "units", "customers": {"acme": "cus_1"}}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"lagoo": {}},
            'lagoo: unknown key; did you mean "lago"? (known: lago, openmeter, since, source, stripe, version)',
        ),
        ({"since": "yesterday"}, 'since: "yesterday" is no moment; with its offset, as "2026-11-01T00:00:00Z"'),
        ({"since": "2026-11-01"}, 'since: "2026-11-01" is no moment; with its offset, as "2026-11-01T00:00:00Z"'),
        ({"stripe": None}, "(document): no destination; name at least one of openmeter, lago, stripe"),
        ({"stripe": {"tokenFile": "k", "eventName": "units"}}, "stripe.customers: missing; it has no default"),
        (
            {"stripe": {"eventName": "units", "customers": {}}},
            "stripe.tokenFile: missing; a file that holds a restricted key",
        ),
        ({"stripe": STRIPE | {"unitMicro": 10}}, "stripe.unitMicro: invalid enum value 10"),
        ({"openmeter": {"url": "https://me:pw@om.example"}},
         "openmeter.url: holds a credential; put it into a file and name it in tokenFile"),
        ({"openmeter": {"url": "https://om:99999/x"}},
         "openmeter.url: has no host, or a port that is none; http(s)://HOST[:PORT][/PATH]"),
        ({"openmeter": {"url": "http://om.example", "tokenFile": "t"}},
         "openmeter.url: would send the token in clear text; https://"),
        ({"lago": {"url": "https://l.example", "code": "c", "batch": 101}}, "lago.batch: expected `int` <= 100"),
    ],
)  # fmt: skip
def test_settings_that_are_wrong_say_so(change: dict[str, object], problem: str) -> None:
    document = {"version": 1, "source": "prod", "since": "2026-11-01T00:00:00Z", "stripe": STRIPE} | change
    with pytest.raises(RulesError) as refused:
        parse_settings({name: value for name, value in document.items() if value is not None})
    assert problem in [str(each) for each in refused.value.problems]
    assert "me:pw" not in str(refused.value)
