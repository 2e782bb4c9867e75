"""Envoy's gRPC access log (ALS): serialised messages in, outcomes out.

Whose an exchange was is read from `common_properties.metadata` under the namespace `tenantry`
alone; see `tenantry.core.outcome` for why.
"""

from collections.abc import Iterator

from google.protobuf.duration_pb2 import Duration

from tenantry.adapters._pb import wire_pb2 as wire
from tenantry.adapters.codec import METADATA_NAMESPACE
from tenantry.core.outcome import ExchangeFacts, Outcome, outcome


def outcomes(message: bytes) -> Iterator[Outcome | None]:
    """Yield one Outcome for each HTTP entry of a StreamAccessLogsMessage.

    None stands for an entry that the sidecar never decided (refused, or ext_proc failed): it is
    counted, never attributed. Raises google.protobuf.message.DecodeError for other bytes.
    """
    for entry in wire.StreamAccessLogsMessage.FromString(message).http_logs.log_entry:
        yield outcome(_metadata(entry.common_properties), _facts(entry))


def _metadata(common: wire.AccessLogCommon) -> dict[str, str]:
    namespaces = common.metadata.filter_metadata
    if METADATA_NAMESPACE not in namespaces:
        return {}
    return {key: value.string_value for key, value in namespaces[METADATA_NAMESPACE].fields.items()}


def _facts(entry: wire.HttpAccessLogEntry) -> ExchangeFacts:
    common = entry.common_properties
    first_byte = common.time_to_first_upstream_rx_byte
    return ExchangeFacts(
        code=entry.response.response_code.value,
        flags=tuple(field.name for field, _ in common.response_flags.ListFields()),
        attempts=common.upstream_request_attempt_count,
        ttfb_ms=_milliseconds(first_byte) if common.HasField("time_to_first_upstream_rx_byte") else None,
        duration_ms=_milliseconds(common.duration),
        cluster=common.upstream_cluster,
        details=entry.response.response_code_details,
        sent_ms=_milliseconds(common.time_to_first_upstream_tx_byte),
        request_bytes=entry.request.request_body_bytes,
        response_bytes=entry.response.response_body_bytes,
    )


def _milliseconds(duration: Duration) -> float:
    return duration.seconds * 1e3 + duration.nanos / 1e6
