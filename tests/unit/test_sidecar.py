"""The seam behind which transports stand: bytes in, bytes out, or an exception."""

import io
import json
from collections.abc import Iterator

import pytest
import structlog
from tenantry.adapters import logs, sidecar
from tenantry.adapters._pb import wire_pb2 as wire
from tenantry.adapters.metrics import Metrics
from tenantry.adapters.sidecar import Exchange, Sidecar
from tenantry.core.errors import ConversationError
from tenantry.core.outcome import Outcome
from tenantry_testing.documents import KEYS, snapshot
from tenantry_testing.exchanges import CHAT


def headers(key: str = KEYS["acme"]) -> bytes:
    pairs = {":method": "POST", ":path": CHAT, "authorization": f"Bearer {key}"}
    values = [wire.HeaderValue(key=name, raw_value=value.encode()) for name, value in pairs.items()]
    made = wire.ProcessingRequest(request_headers=wire.HttpHeaders(headers=wire.HeaderMap(headers=values)))
    return made.SerializeToString()


def body(model: str = "chat-8b") -> bytes:
    sent = json.dumps({"model": model, "messages": []}).encode()
    return wire.ProcessingRequest(request_body=wire.HttpBody(body=sent, end_of_stream=True)).SerializeToString()


def reply(exchange: Exchange, message: bytes) -> wire.ProcessingResponse:
    return wire.ProcessingResponse.FromString(exchange.answer(message))


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    logs.configure(stream)
    yield stream
    structlog.reset_defaults()


@pytest.fixture
def house(log: io.StringIO) -> Sidecar:
    return Sidecar(snapshot(), Metrics())


def metric(house: Sidecar, name: str, **labels: str) -> float | None:
    return house.metrics.registry.get_sample_value(f"tenantry_{name}", labels)


def test_an_exchange_from_its_first_byte_to_its_last(house: Sidecar) -> None:
    exchange = house.open_exchange()
    assert (house.open_exchanges, house.undecided_exchanges, exchange.decided) == (1, 1, False)
    assert reply(exchange, headers()).WhichOneof("response") == "request_headers"
    assert not exchange.decided
    passed = reply(exchange, body())
    assert passed.dynamic_metadata.fields["tenantry"].struct_value.fields["enforced"].string_value == "yes"
    assert exchange.decided
    assert (house.open_exchanges, house.undecided_exchanges) == (1, 0)
    exchange.close()
    exchange.close()  # a transport may notice an end twice
    assert house.open_exchanges == 0
    assert metric(house, "ext_proc_open_exchanges") == 0
    assert metric(house, "ext_proc_messages_total", tenant="acme", state="passed on") == 2
    assert metric(house, "decision_seconds_count") == 1
    assert 0 < (metric(house, "decision_seconds_sum") or 0) < 5


def test_an_answer_decides_as_well(house: Sidecar) -> None:
    exchange = house.open_exchange()
    assert reply(exchange, headers("unknown")).immediate_response.status.code == 401
    assert exchange.decided


@pytest.mark.parametrize("message", [b"\xff", b"", body()])
def test_what_envoy_should_not_have_sent_is_an_exception(house: Sidecar, log: io.StringIO, message: bytes) -> None:
    """Invariant 4: the transport ends the stream with an error status upon any exception."""
    exchange = house.open_exchange()
    with pytest.raises(ConversationError) as caught:
        exchange.answer(message)
    assert not exchange.decided
    exchange.failed(caught.value)
    assert metric(house, "internal_errors_total", kind="conversation") == 1
    assert json.loads(log.getvalue())["kind"] == "conversation"


def test_a_bug_is_told_apart_and_tells_nothing(house: Sidecar, log: io.StringIO) -> None:
    house.open_exchange().failed(RuntimeError("CANARY"))
    assert metric(house, "internal_errors_total", kind="bug") == 1
    line = json.loads(log.getvalue())
    assert (line["kind"], line["error"]) == ("bug", "RuntimeError")
    assert "CANARY" not in log.getvalue()


def test_an_exchange_keeps_the_rules_it_began_with(house: Sidecar) -> None:
    exchange = house.open_exchange()
    reply(exchange, headers())
    house.activate(snapshot({"tenants.acme.pins": {"chat-8b": "1.5.0"}}))
    assert house.generation == 2
    versions = []
    for each in (exchange, house.open_exchange()):
        if each is not exchange:
            reply(each, headers())
        fields = reply(each, body()).dynamic_metadata.fields["tenantry"].struct_value.fields
        versions.append(fields["version"].string_value)
    assert versions == ["1.4.0", "1.5.0"]
    assert metric(house, "rules_generation") == 2


def log_message(*tenants: str) -> bytes:
    entries = []
    for tenant in tenants:
        entry = wire.HttpAccessLogEntry()
        if tenant:
            entry.common_properties.metadata.filter_metadata["tenantry"].update({"enforced": "yes", "tenant": tenant})
        entry.response.response_code.value = 200
        entries.append(entry)
    return wire.StreamAccessLogsMessage(http_logs=wire.HttpAccessLogEntries(log_entry=entries)).SerializeToString()


def test_outcomes_go_to_every_sink(log: io.StringIO) -> None:
    first: list[Outcome] = []
    second: list[Outcome] = []
    house = Sidecar(snapshot(), Metrics(), [first.append, second.append])
    house.access_log_message(log_message("acme", "", "globex"))
    assert [outcome.tenant for outcome in first] == ["acme", "globex"]
    assert second == first
    assert metric(house, "access_log_unattributed_total") == 1


def test_what_is_lost_of_the_log_is_counted_and_stops_nothing(log: io.StringIO) -> None:
    """Invariant 5."""

    def full(_: Outcome) -> None:
        raise OSError(28, "No space left on device")

    house = Sidecar(snapshot(), Metrics(), [full])
    house.access_log_message(b"\xff")
    house.access_log_message(log_message("acme"))
    assert metric(house, "internal_errors_total", kind="access_log") == 2
    assert len(log.getvalue().splitlines()) == 2
    assert reply(house.open_exchange(), headers()).WhichOneof("response") == "request_headers"


def test_request_ids_are_128_random_bits() -> None:
    ids = {sidecar.new_request_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(len(each) == 32 and set(each) <= set("0123456789abcdef") for each in ids)
