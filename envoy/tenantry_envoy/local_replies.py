"""Envoy's own errors in the shape that OpenAI's clients parse.

Envoy passes the sidecar's answers (ext_proc ImmediateResponse) through the same mappers. They
have their shape already, and are known by response code details that begin with `tenantry_`; the
first mapper matches them and leaves the body as it is. So it does for gRPC, where Envoy puts the
body into `grpc-message`.

The second mapper makes one answer of two: a sidecar that does not answer in time is 504 and one
that fails is `status_on_error`, and neither has to do with the model server that 504 speaks of.

With stores there are two more answers (`store_guard`, and an answer too large to verify), and what is too large for
Envoy is PERMISSION_DENIED to gRPC clients: of 413 and 500 Envoy makes UNKNOWN, which pymilvus repeats up to 75 times.
"""

from collections.abc import Iterator
from typing import NamedTuple

import msgspec
from envoy_data_plane.envoy.config.accesslog.v3 import (
    AccessLogFilter,
    ComparisonFilter,
    ComparisonFilterOp,
    ExtensionFilter,
    StatusCodeFilter,
)
from envoy_data_plane.envoy.config.core.v3 import RuntimeUInt32, SubstitutionFormatString
from envoy_data_plane.envoy.extensions.access_loggers.filters.cel.v3 import ExpressionFilter
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    LocalReplyConfig,
    ResponseMapper,
)
from envoy_data_plane.google.protobuf import Any
from tenantry.core.rules import Rules

from tenantry_envoy import packing
from tenantry_envoy.names import DETAILS_PREFIX
from tenantry_envoy.store_guard import WITHHELD, WITHHELD_STATUS

JSON = "application/json"

_GRPC = "('content-type' in request.headers && request.headers['content-type'].startsWith('application/grpc'))"

_SHAPED_ALREADY = f"response.code_details.startsWith('{DETAILS_PREFIX}') || {_GRPC}"

_SIDECAR_FAILED = "response.code_details.startsWith('ext_proc_')"


class LocalReply(NamedTuple):
    """One error of Envoy's own: status, OpenAI's `type` and `code`, and a text that is safe to show."""

    status: int
    kind: str
    code: str
    message: str


def table(max_body_bytes: int, behind: str = "model server") -> tuple[LocalReply, ...]:
    """Return the errors that Envoy answers with by itself. `behind`: what to call the upstream."""
    request, server = "invalid_request_error", "server_error"
    return (
        LocalReply(400, request, "bad_request", "The request is not valid HTTP, or its path is not allowed here."),
        LocalReply(403, "permission_error", "not_admitted", "The request was not admitted."),
        LocalReply(404, request, "unknown_route", "There is no such route here."),
        LocalReply(408, request, "request_timeout", "The request did not arrive whole in time."),
        LocalReply(413, request, "body_too_large", f"The body is larger than {max_body_bytes} bytes."),
        LocalReply(426, request, "http_version", "Use HTTP/1.1 or HTTP/2."),
        LocalReply(431, request, "headers_too_large", "The request's headers are too large or too many."),
        LocalReply(500, server, "internal_error", "The proxy failed to handle the request."),
        LocalReply(502, server, "bad_upstream_response", f"The {behind}'s answer was not understood."),
        LocalReply(503, server, "service_unavailable", "The service is not available right now. Try again later."),
        LocalReply(504, server, "upstream_timeout", f"The {behind} did not answer in time."),
    )


def local_reply_config(rules: Rules) -> LocalReplyConfig:
    """Return the mappers; a status that is not in the table gets a generic error."""
    return LocalReplyConfig(
        mappers=list(_mappers(rules)),
        body_format=_body(LocalReply(0, "server_error", "proxy_error", "The proxy answered %RESPONSE_CODE%.")),
    )


def _mappers(rules: Rules) -> Iterator[ResponseMapper]:
    replies = table(rules.limits.max_body_bytes, "server" if rules.stores else "model server")
    if rules.stores:
        yield from _of_stores(rules.limits.max_body_bytes)
    yield ResponseMapper(
        filter=_expression(_SHAPED_ALREADY),
        body_format_override=SubstitutionFormatString(
            text_format_source=packing.text("%LOCAL_REPLY_BODY%"), content_type=JSON
        ),
    )
    unavailable = next(reply for reply in replies if reply.status == 503)
    yield ResponseMapper(
        filter=_expression(_SIDECAR_FAILED), status_code=unavailable.status, body_format_override=_body(unavailable)
    )
    for reply in replies:
        yield ResponseMapper(filter=_status(reply.status), body_format_override=_body(reply))


def _of_stores(max_body_bytes: int) -> Iterator[ResponseMapper]:
    withheld = LocalReply(502, "server_error", "unverified_answer", WITHHELD)
    yield ResponseMapper(
        filter=_status(WITHHELD_STATUS), status_code=withheld.status, body_format_override=_body(withheld)
    )
    too_large = f"The store's answer is larger than {max_body_bytes} bytes."
    yield _grpc_refusal("request_payload_too_large", f"The body is larger than {max_body_bytes} bytes.")
    yield _grpc_refusal("response_payload_too_large", too_large)
    reply = LocalReply(502, "server_error", "answer_too_large", too_large)
    yield ResponseMapper(
        filter=_expression("response.code_details == 'response_payload_too_large'"),
        status_code=reply.status,
        body_format_override=_body(reply),
    )


def _grpc_refusal(details: str, message: str) -> ResponseMapper:
    return ResponseMapper(
        filter=_expression(f"response.code_details == '{details}' && {_GRPC}"),
        status_code=403,
        body_format_override=SubstitutionFormatString(text_format_source=packing.text(message)),
    )


def _expression(expression: str) -> AccessLogFilter:
    return AccessLogFilter(
        extension_filter=ExtensionFilter(
            name="envoy.access_loggers.extension_filters.cel",
            typed_config=Any.pack(ExpressionFilter(expression=expression)),
        )
    )


def _status(status: int) -> AccessLogFilter:
    # Envoy wants a key under which a runtime layer could change the number; there is no such layer.
    value = RuntimeUInt32(default_value=status, runtime_key=f"tenantry.local_reply.{status}")
    return AccessLogFilter(
        status_code_filter=StatusCodeFilter(comparison=ComparisonFilter(op=ComparisonFilterOp.EQ, value=value))
    )


def _body(reply: LocalReply) -> SubstitutionFormatString:
    error = {"error": {"message": reply.message, "type": reply.kind, "param": None, "code": reply.code}}
    return SubstitutionFormatString(
        text_format_source=packing.text(msgspec.json.encode(error).decode()), content_type=JSON
    )
