"""Access-log entries become outcomes, and speak of whom the sidecar's own metadata names."""

from typing import Any

import pytest
from google.protobuf.message import DecodeError
from tenantry.adapters import access_log
from tenantry.adapters._pb import wire_pb2 as wire
from tenantry.core.outcome import Measure, Outcome

METADATA = {
    "tenant": "acme", "tier": "gold", "model": "chat-8b", "version": "1.4.0", "request_id": "0" * 32, "reason": "pin",
    "enforced": "yes",
}  # fmt: skip


def entry(
    *, namespace: str = "tenantry", metadata: dict[str, Any] | None = None, code: int = 200
) -> wire.HttpAccessLogEntry:
    made = wire.HttpAccessLogEntry()
    common = made.common_properties
    common.metadata.filter_metadata[namespace].update(METADATA if metadata is None else metadata)
    common.time_to_first_upstream_rx_byte.FromNanoseconds(1_250_000)
    common.duration.FromNanoseconds(2_000_500_000)
    common.upstream_cluster = "chat-8b@1.4.0"
    common.upstream_request_attempt_count = 2
    made.response.response_code.value = code
    made.response.response_code_details = "via_upstream"
    return made


def outcomes(*entries: wire.HttpAccessLogEntry) -> list[Outcome | None]:
    message = wire.StreamAccessLogsMessage(http_logs=wire.HttpAccessLogEntries(log_entry=entries))
    return list(access_log.outcomes(message.SerializeToString()))


def test_an_entry() -> None:
    assert outcomes(entry()) == [
        Outcome(
            tenant="acme", tier="gold", model="chat-8b", version="1.4.0", request_id="0" * 32, reason="pin", code=200,
            ended="completed", flags=(), attempts=2, ttfb_ms=1.25, duration_ms=2000.5, cluster="chat-8b@1.4.0",
        )
    ]  # fmt: skip


def test_a_message_holds_many_entries_or_none() -> None:
    found = outcomes(entry(), entry(metadata={}), entry(code=503))
    assert [each and each.code for each in found] == [200, None, 503]
    assert outcomes() == []
    assert list(access_log.outcomes(b"")) == []


@pytest.mark.parametrize(
    "made",
    [
        entry(metadata={}),
        entry(metadata={**METADATA, "enforced": "no"}),
        entry(metadata={**METADATA, "enforced": True}),
        entry(metadata={**METADATA, "enforced": {"yes": "yes"}}),
        entry(namespace="envoy.filters.http.header_to_metadata"),
        entry(namespace="tenantry.client"),
        wire.HttpAccessLogEntry(),
    ],
)
def test_what_the_sidecar_did_not_write_is_attributed_to_nobody(made: wire.HttpAccessLogEntry) -> None:
    """Invariant 1."""
    assert outcomes(made) == [None]


def test_logged_headers_are_not_even_part_of_the_message() -> None:
    """A client can forge them when ext_proc fails; here they are unknown fields."""
    assert set(wire.HttpRequestProperties.DESCRIPTOR.fields_by_name) == {"request_body_bytes"}
    assert set(wire.HttpResponseProperties.DESCRIPTOR.fields_by_name) == {
        "response_code", "response_body_bytes", "response_code_details",
    }  # fmt: skip


def test_where_no_plugin_tells_the_usage_the_sizes_come_back_with_what_is_needed_to_read_them() -> None:
    measure = Measure(source="estimate", api="chat", streams=True, most_tokens=64)
    made = entry(metadata={**METADATA, **measure.metadata()})
    made.request.request_body_bytes, made.response.response_body_bytes = 1_000, 2**33
    (found,) = outcomes(made)
    assert found is not None
    assert (found.request_bytes, found.response_bytes, found.measure) == (1_000, 2**33, measure)


def test_how_it_ended() -> None:
    aborted, failed, cut = entry(), entry(), entry()
    aborted.common_properties.response_flags.downstream_connection_termination = True
    failed.common_properties.response_flags.upstream_connection_failure = True
    failed.common_properties.response_flags.upstream_retry_limit_exceeded = True
    cut.response.response_code_details = "ext_proc_error_gRPC_error_14"
    found = outcomes(aborted, failed, cut)
    assert [each and (each.ended, each.flags) for each in found] == [
        ("aborted", ("downstream_connection_termination",)),
        ("failed", ("upstream_connection_failure", "upstream_retry_limit_exceeded")),
        ("failed", ()),
    ]


def test_an_exchange_without_a_response() -> None:
    made = entry()
    made.response.Clear()
    made.common_properties.ClearField("time_to_first_upstream_rx_byte")
    (found,) = outcomes(made)
    assert found is not None
    assert (found.code, found.ttfb_ms, found.ended) == (0, None, "failed")


def test_a_first_byte_at_once_is_not_a_missing_one() -> None:
    made = entry()
    made.common_properties.time_to_first_upstream_rx_byte.Clear()
    made.common_properties.time_to_first_upstream_rx_byte.SetInParent()
    (found,) = outcomes(made)
    assert found is not None
    assert found.ttfb_ms == 0.0


def test_bytes_that_are_no_message() -> None:
    with pytest.raises(DecodeError):
        list(access_log.outcomes(b"\xff"))
