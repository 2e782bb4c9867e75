"""ext_proc's messages and what the core knows of them."""

from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from tenantry.adapters import codec
from tenantry.adapters._pb import wire_pb2 as wire
from tenantry.core.errors import ConversationError
from tenantry.core.events import (
    Answer,
    Continue,
    Deliver,
    Event,
    Forward,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
)

HEADERS = RequestHeaders(headers=(), end_stream=False)
BODY = RequestBody(body=b"", end_stream=True)


def decoded(**parts: Message) -> object:
    return codec.decode(wire.ProcessingRequest(**parts).SerializeToString())  # type: ignore[arg-type]


def header_map(*headers: tuple[str, bytes]) -> wire.HeaderMap:
    return wire.HeaderMap(headers=[wire.HeaderValue(key=key, raw_value=value) for key, value in headers])


def with_struct(namespace: str, **values: Any) -> wire.Metadata:
    made = wire.Metadata()
    made.filter_metadata[namespace].update(values)
    return made


def test_request_headers() -> None:
    sent = header_map((":path", b"/v1"), ("X-Mixed", b"a\xff"), ("x-empty", b""), ("x-mixed", b"b"))
    assert decoded(request_headers=wire.HttpHeaders(headers=sent, end_of_stream=True)) == RequestHeaders(
        headers=((":path", b"/v1"), ("x-mixed", b"a\xff"), ("x-empty", b""), ("x-mixed", b"b")), end_stream=True
    )


def test_a_value_may_stand_in_either_field() -> None:
    sent = wire.HeaderMap(
        headers=[wire.HeaderValue(key="a", value="\u00e9"), wire.HeaderValue(key="b", value="x", raw_value=b"y")]
    )
    event = decoded(request_headers=wire.HttpHeaders(headers=sent))
    assert event == RequestHeaders(headers=(("a", "\u00e9".encode()), ("b", b"y")), end_stream=False)


def test_request_body_and_the_rest() -> None:
    assert decoded(request_body=wire.HttpBody(body=b"{}", end_of_stream=True)) == RequestBody(
        body=b"{}", end_stream=True
    )
    assert decoded(request_body=wire.HttpBody()) == RequestBody(body=b"", end_stream=False)
    assert decoded(request_trailers=wire.HttpTrailers()) == RequestTrailers()


def test_the_halves_of_a_response() -> None:
    """Sent on the routes of stores, whose answers are verified."""
    headers = wire.HeaderMap(headers=[wire.HeaderValue(key=":status", raw_value=b"200")])
    assert decoded(response_headers=wire.HttpHeaders(headers=headers, end_of_stream=True)) == ResponseHeaders(
        headers=((":status", b"200"),), end_stream=True
    )
    assert decoded(response_body=wire.HttpBody(body=b"rows", end_of_stream=True)) == ResponseBody(
        body=b"rows", end_stream=True
    )
    assert decoded(response_trailers=wire.HttpTrailers()) == ResponseTrailers()


def test_a_verified_answer_says_so_and_nothing_of_routes() -> None:
    event = ResponseBody(body=b"theirs", end_stream=True)
    reply = Deliver(
        set_headers=(("content-length", "4"),), remove_headers=("server",), body=b"ours", metadata={"verified": "yes"}
    )
    response = encoded(event, reply)
    assert response.response_body.response.body_mutation.body == b"ours"
    (header,) = response.response_body.response.header_mutation.set_headers
    assert (header.header.key, header.header.raw_value) == ("content-length", b"4")
    assert not response.response_body.response.clear_route_cache
    assert response.response_body.response.header_mutation.remove_headers == ["server"]
    assert MessageToDict(response.dynamic_metadata) == {"tenantry": {"verified": "yes"}}


@pytest.mark.parametrize("message", [b"\xff", b"\x12\xff", b"\x12\x02\x0a\x05", b"<html>"])
def test_bytes_that_are_no_message(message: bytes) -> None:
    with pytest.raises(ConversationError, match="not a ProcessingRequest"):
        codec.decode(message)


def test_a_message_without_an_event() -> None:
    """Invariant 4: an event of a later Envoy is an error, not a silence."""
    unknown = wire.ProcessingRequest(metadata_context=wire.Metadata()).SerializeToString()
    for message in (b"", unknown, b"\xa2\x06\x00"):
        with pytest.raises(ConversationError, match="holds no event that is known here"):
            codec.decode(message)


def claims_of(metadata: wire.Metadata) -> object:
    event = decoded(request_headers=wire.HttpHeaders(), metadata_context=metadata)
    assert isinstance(event, RequestHeaders)
    return event.jwt_claims


def test_claims_are_what_jwt_authn_wrote() -> None:
    payload = {"tenant": "acme", "roles": ["a", {"b": None}], "iat": 1.5}
    assert claims_of(with_struct("envoy.filters.http.jwt_authn", tenantry_jwt=payload)) == payload
    assert claims_of(with_struct("envoy.filters.http.jwt_authn", tenantry_jwt={})) == {}


@pytest.mark.parametrize(
    "metadata",
    [
        wire.Metadata(),
        with_struct("envoy.filters.http.jwt_authn"),
        with_struct("envoy.filters.http.jwt_authn", other={"tenant": "acme"}),
        with_struct("envoy.filters.http.jwt_authn", tenantry_jwt="acme"),
        with_struct("envoy.filters.http.jwt_authn", tenantry_jwt=["acme"]),
        with_struct("envoy.filters.http.lua", tenantry_jwt={"tenant": "acme"}),
        with_struct("tenantry", tenantry_jwt={"tenant": "acme"}, tenant="acme"),
    ],
)
def test_whatever_else_is_in_the_metadata_is_no_token(metadata: wire.Metadata) -> None:
    """Invariant 1."""
    assert claims_of(metadata) is None


@pytest.mark.parametrize(
    ("namespace", "values", "sans"),
    [
        ("envoy.filters.http.ext_proc", {"connection.uri_san_peer_certificate": "spiffe://a"}, ("spiffe://a",)),
        ("envoy.filters.http.ext_proc", {"connection.uri_san_peer_certificate": ""}, ()),
        ("envoy.filters.http.ext_proc", {"connection.uri_san_peer_certificate": 7}, ()),
        ("envoy.filters.http.ext_proc", {"connection.subject_peer_certificate": "spiffe://a"}, ()),
        ("envoy.filters.http.other", {"connection.uri_san_peer_certificate": "spiffe://a"}, ()),
    ],
)
def test_the_san_is_the_attribute_that_envoy_verified(
    namespace: str, values: dict[str, Any], sans: tuple[str, ...]
) -> None:
    """Invariant 1."""
    request = wire.ProcessingRequest(request_headers=wire.HttpHeaders())
    request.attributes[namespace].update(values)
    event = codec.decode(request.SerializeToString())
    assert isinstance(event, RequestHeaders)
    assert event.uri_sans == sans


def encoded(event: Event, reply: object) -> wire.ProcessingResponse:
    return wire.ProcessingResponse.FromString(codec.encode(event, reply))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("event", "part"),
    [
        (HEADERS, "request_headers"),
        (BODY, "request_body"),
        (RequestTrailers(), "request_trailers"),
        (ResponseHeaders(headers=(), end_stream=False), "response_headers"),
        (ResponseBody(body=b"", end_stream=True), "response_body"),
        (ResponseTrailers(), "response_trailers"),
    ],
)
def test_to_go_on_is_the_empty_part_that_answers_the_event(event: Event, part: str) -> None:
    """Invariant 4. An answer without a part would leave Envoy waiting."""
    response = encoded(event, Continue())
    assert response.WhichOneof("response") == part
    assert not getattr(response, part).ListFields()
    assert not response.HasField("dynamic_metadata")


FORWARD = Forward(
    set_headers=(("x-tenantry-tenant", "acme"), ("content-length", "2")),
    remove_headers=("authorization", "api-key"),
    body=b"{}",
    metadata={"enforced": "yes", "tenant": "acme"},
)


def test_a_request_that_is_passed_on() -> None:
    response = encoded(BODY, FORWARD)
    common = response.request_body.response
    assert response.WhichOneof("response") == "request_body"
    assert common.clear_route_cache  # the route was chosen before the cluster was named
    mutation = common.header_mutation
    assert [(each.header.key, each.header.raw_value) for each in mutation.set_headers] == [
        ("x-tenantry-tenant", b"acme"),
        ("content-length", b"2"),
    ]
    # Appending would leave the client's copy beside ours.
    assert {each.append_action for each in mutation.set_headers} == {wire.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD}
    assert list(mutation.remove_headers) == ["authorization", "api-key"]
    assert common.body_mutation.body == b"{}"
    assert MessageToDict(response.dynamic_metadata) == {"tenantry": {"enforced": "yes", "tenant": "acme"}}


def test_a_request_whose_body_stays() -> None:
    kept = Forward(set_headers=(), remove_headers=(), body=None, metadata={"enforced": "yes"})
    assert not encoded(HEADERS, kept).request_headers.response.HasField("body_mutation")
    emptied = Forward(set_headers=(), remove_headers=(), body=b"", metadata={"enforced": "yes"})
    assert encoded(BODY, emptied).request_body.response.body_mutation.HasField("body")


def test_an_answer_from_here() -> None:
    answer = Answer(status=401, headers=(("www-authenticate", "Bearer"),), body=b"no", details="tenantry_x")
    response = encoded(HEADERS, answer)
    assert response.WhichOneof("response") == "immediate_response"
    made = response.immediate_response
    assert (made.status.code, made.body, made.details) == (401, b"no", "tenantry_x")
    (header,) = made.headers.set_headers
    assert (header.header.key, header.header.raw_value) == ("www-authenticate", b"Bearer")
    assert header.append_action == wire.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    assert not made.HasField("grpc_status")
    assert not response.HasField("dynamic_metadata")  # the backstop sees no mark
    for event in (BODY, RequestTrailers()):
        assert encoded(event, answer).immediate_response == made


def test_an_answer_for_a_grpc_client() -> None:
    answer = Answer(status=404, headers=(), body=b"no", details="x", grpc_status=7)
    assert encoded(HEADERS, answer).immediate_response.grpc_status.status == 7
