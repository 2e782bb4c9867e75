"""Protobuf messages of ext_proc <-> events and replies of the core. The only place that knows both."""

from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import DecodeError

from tenantry.adapters._pb import wire_pb2 as wire
from tenantry.core.errors import ConversationError
from tenantry.core.events import (
    Answer,
    Continue,
    Deliver,
    Event,
    Forward,
    Header,
    Reply,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
)

JWT_NAMESPACE = "envoy.filters.http.jwt_authn"
JWT_KEY = "tenantry_jwt"
EXT_PROC_ATTRIBUTES = "envoy.filters.http.ext_proc"
URI_SAN_ATTRIBUTE = "connection.uri_san_peer_certificate"
METADATA_NAMESPACE = "tenantry"

_OVERWRITE = wire.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


def decode(message: bytes) -> Event:
    """Parse a serialised ProcessingRequest; raise ConversationError for bytes that are none."""
    try:
        request = wire.ProcessingRequest.FromString(message)
    except DecodeError:
        raise ConversationError("the message is not a ProcessingRequest") from None
    kind = request.WhichOneof("request")
    if kind == "request_body":
        return RequestBody(body=request.request_body.body, end_stream=request.request_body.end_of_stream)
    if kind == "request_headers":
        return RequestHeaders(
            headers=tuple(_headers(request.request_headers.headers)),
            end_stream=request.request_headers.end_of_stream,
            jwt_claims=_jwt_claims(request),
            uri_sans=_uri_sans(request),
        )
    if kind == "request_trailers":
        return RequestTrailers()
    if kind == "response_body":
        return ResponseBody(body=request.response_body.body, end_stream=request.response_body.end_of_stream)
    if kind == "response_headers":
        return ResponseHeaders(
            headers=tuple(_headers(request.response_headers.headers)),
            end_stream=request.response_headers.end_of_stream,
        )
    if kind == "response_trailers":
        return ResponseTrailers()
    raise ConversationError("the ProcessingRequest holds no event that is known here")


def encode(event: Event, reply: Reply) -> bytes:
    """Serialise the ProcessingResponse that answers `event` with `reply`."""
    response = wire.ProcessingResponse()
    if isinstance(reply, Answer):
        _fill_answer(response.immediate_response, reply)
        return response.SerializeToString()
    part = getattr(response, _REPLY_FIELDS[type(event)])
    part.SetInParent()
    if isinstance(reply, Continue):
        if reply.watch is not None:
            response.mode_override.CopyFrom(_WATCHED[reply.watch])
        return response.SerializeToString()
    if isinstance(reply, Forward):
        # The route was chosen before the sidecar named a cluster.
        part.response.clear_route_cache = True
    _fill_change(part.response, reply)
    response.dynamic_metadata.update({METADATA_NAMESPACE: dict(reply.metadata)})
    return response.SerializeToString()


_WATCHED = {
    watch: wire.ProcessingMode(
        request_header_mode=wire.ProcessingMode.SEND,
        request_body_mode=wire.ProcessingMode.BUFFERED,
        request_trailer_mode=wire.ProcessingMode.SKIP,
        response_header_mode=wire.ProcessingMode.SEND,
        response_body_mode=body,
        response_trailer_mode=wire.ProcessingMode.SKIP,
    )
    for watch, body in (("headers", wire.ProcessingMode.NONE), ("body", wire.ProcessingMode.STREAMED))
}
"""The modes of the generated configuration, and more of the response; Envoy allows these two and no other."""

_REPLY_FIELDS: dict[type, str] = {
    RequestHeaders: "request_headers",
    RequestBody: "request_body",
    RequestTrailers: "request_trailers",
    ResponseHeaders: "response_headers",
    ResponseBody: "response_body",
    ResponseTrailers: "response_trailers",
}


def _fill_change(common: wire.CommonResponse, reply: Forward | Deliver) -> None:
    mutation = common.header_mutation
    for name, value in reply.set_headers:
        option = mutation.set_headers.add()
        option.header.key = name
        option.header.raw_value = value.encode()
        option.append_action = _OVERWRITE
    mutation.remove_headers.extend(reply.remove_headers)
    if reply.body is not None:
        common.body_mutation.body = reply.body


def _fill_answer(immediate: wire.ImmediateResponse, reply: Answer) -> None:
    immediate.status.code = reply.status
    immediate.body = reply.body
    immediate.details = reply.details
    if reply.grpc_status is not None:
        immediate.grpc_status.status = reply.grpc_status
    for name, value in reply.headers:
        option = immediate.headers.set_headers.add()
        option.header.key = name
        option.header.raw_value = value.encode()
        option.append_action = _OVERWRITE


def _headers(header_map: wire.HeaderMap) -> Iterator[Header]:
    # Envoy fills raw_value; `value` is for older control planes that ask for it.
    for header in header_map.headers:
        yield header.key.lower(), header.raw_value or header.value.encode()


def _jwt_claims(request: wire.ProcessingRequest) -> Mapping[str, object] | None:
    metadata = request.metadata_context.filter_metadata
    if JWT_NAMESPACE not in metadata:
        return None
    claims = _plain(metadata[JWT_NAMESPACE]).get(JWT_KEY)
    return claims if isinstance(claims, dict) else None


def _uri_sans(request: wire.ProcessingRequest) -> tuple[str, ...]:
    if EXT_PROC_ATTRIBUTES not in request.attributes:
        return ()
    value = _plain(request.attributes[EXT_PROC_ATTRIBUTES]).get(URI_SAN_ATTRIBUTE)
    # Envoy's attribute is the first URI SAN of the certificate.
    return (value,) if isinstance(value, str) and value else ()


def _plain(struct: Any) -> dict[str, object]:
    return json_format.MessageToDict(struct)
