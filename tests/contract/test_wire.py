"""Our subset of Envoy's messages against envoy-data-plane, which knows every field: an independent codec, both ways."""

import dataclasses
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import betterproto2
import pytest
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.data.accesslog import v3 as data
from envoy_data_plane.envoy.extensions.filters.http.ext_proc import v3 as modes
from envoy_data_plane.envoy.service.accesslog import v3 as als
from envoy_data_plane.envoy.service.ext_proc import v3 as ext_proc
from envoy_data_plane.envoy.type import v3 as types
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from tenantry.adapters import access_log, codec
from tenantry.adapters._pb import wire_pb2 as wire
from tenantry.core.events import Answer, Forward, RequestBody, RequestHeaders

MODULES: tuple[ModuleType, ...] = (ext_proc, als, data, core, types, modes)
OTHER_NAMES = {
    "HttpAccessLogEntries": "StreamAccessLogsMessageHttpAccessLogEntries",
    "HeaderAppendAction": "HeaderValueOptionHeaderAppendAction",
    "HeaderSendMode": "ProcessingModeHeaderSendMode",
    "BodySendMode": "ProcessingModeBodySendMode",
}
"""betterproto2 puts a nested type's name behind its parent's."""

KINDS = {
    FieldDescriptor.TYPE_STRING: "string", FieldDescriptor.TYPE_BYTES: "bytes", FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_INT32: "int32", FieldDescriptor.TYPE_UINT32: "uint32", FieldDescriptor.TYPE_UINT64: "uint64",
    FieldDescriptor.TYPE_ENUM: "enum",
    FieldDescriptor.TYPE_MESSAGE: "message",
}  # fmt: skip
SAME_ON_THE_WIRE = {("int32", "enum")}
"""Ours, theirs. A status code is an enum there; codes that it does not list would be lost."""

OURS: list[Descriptor] = list(wire.DESCRIPTOR.message_types_by_name.values())


def theirs(name: str) -> Any:
    wanted = OTHER_NAMES.get(name, name)
    found = [getattr(module, wanted) for module in MODULES if hasattr(module, wanted)]
    assert len({each.__module__ for each in found}) == 1, f"{wanted}: {found}"
    return found[0]


def their_fields(name: str) -> dict[str, Any]:
    return {field.name: field.metadata["betterproto"] for field in dataclasses.fields(theirs(name))}


PYTHONS_OWN = {"Duration": "timedelta", "UInt32Value": "int"}


def is_map(field: Any) -> bool:
    return bool(field.message_type and field.message_type.GetOptions().map_entry)


def in_oneof(message: Descriptor, group: str | None) -> list[str]:
    """Our fields that exclude one another there."""
    known = their_fields(message.name)
    return [field.name for field in message.fields if group is not None and known[field.name].group == group]


@pytest.mark.parametrize("message", OURS, ids=lambda each: each.name)
def test_every_field_of_ours_has_its_number_and_type_there(message: Descriptor) -> None:
    known = their_fields(message.name)
    classes = theirs(message.name)._betterproto.cls_by_field
    for each in message.fields:
        field: Any = each
        there = known[field.name]
        assert there.number == field.number, field.full_name
        # Where we know one of several that exclude one another, there is nothing to exclude.
        if field.containing_oneof is not None or len(in_oneof(message, there.group)) > 1:
            assert there.group == (field.containing_oneof and field.containing_oneof.name), field.full_name
        if is_map(field):
            assert there.proto_type == "map"
            assert [part.proto_type for part in there.map_meta] == [
                KINDS[part.type] for part in field.message_type.fields
            ]
            value = field.message_type.fields_by_name["value"].message_type
            assert classes[f"{field.name}.value"].__name__ == value.name
            continue
        kinds = KINDS[field.type], there.proto_type
        assert kinds[0] == kinds[1] or kinds in SAME_ON_THE_WIRE, field.full_name
        assert there.repeated == field.is_repeated, field.full_name
        if field.message_type is not None:
            name = field.message_type.name
            assert classes[field.name].__name__ in (OTHER_NAMES.get(name, name), PYTHONS_OWN.get(name)), field.full_name


def test_every_enum_of_ours_has_its_values_there() -> None:
    enums = [enum for message in OURS for enum in message.enum_types]
    assert [enum.name for enum in enums] == ["HeaderAppendAction", "HeaderSendMode", "BodySendMode"]
    for enum in enums:
        assert {value.name: value.number for value in enum.values} == {
            each.name: each.value for each in theirs(enum.name)
        }


def test_all_events_that_envoy_can_send_are_known() -> None:
    """An event of another kind would be an error in the middle of an exchange."""
    (oneof,) = wire.ProcessingRequest.DESCRIPTOR.oneofs
    assert {field.name for field in oneof.fields} == {
        name for name, each in their_fields("ProcessingRequest").items() if each.group == "request"
    }


def test_all_response_flags_are_known_but_one() -> None:
    """A flag that is not known would make a failed exchange a completed one."""
    flags = set(wire.ResponseFlags.DESCRIPTOR.fields_by_name)
    assert set(their_fields("ResponseFlags")) - flags == {"unauthorized_details"}


def fill(message: Message, choice: int, number: int = 1) -> Message:
    """Set every field to something of its own; of each oneof the field at `choice`."""
    name = message.DESCRIPTOR.full_name
    made: Any = message
    if name == "google.protobuf.Struct":
        made.update({"text": f"t{number}", "number": 1.5, "list": [True, None, {"deep": "x"}]})
        return message
    if name == "google.protobuf.Duration":
        made.FromNanoseconds(1_500_000_000 + number * 1_000_000)
        return message
    for field in message.DESCRIPTOR.fields:
        number += 1
        oneof = field.containing_oneof
        if oneof is not None and oneof.fields[choice % len(oneof.fields)] is not field:
            continue
        if is_map(field):
            fill(getattr(made, field.name)[f"key{number}"], choice, number)
        elif field.message_type is not None:
            part = getattr(made, field.name)
            for index in range(2 if field.is_repeated else 1):
                inner = fill(part.add() if field.is_repeated else part, choice, number + index)
                inner.SetInParent()
        else:
            value = {
                FieldDescriptor.TYPE_STRING: f"text \u00e9 {number}",
                FieldDescriptor.TYPE_BYTES: b"bytes \xff" + bytes([number]),
                FieldDescriptor.TYPE_BOOL: True,
                FieldDescriptor.TYPE_INT32: 413,
                FieldDescriptor.TYPE_UINT32: 2**32 - number,
                FieldDescriptor.TYPE_UINT64: 2**63 - number,
                FieldDescriptor.TYPE_ENUM: field.enum_type and field.enum_type.values[-1].number,
            }[field.type]
            if field.is_repeated:
                getattr(made, field.name).extend([value, value])
            else:
                setattr(made, field.name, value)
    return message


def parts(message: Any) -> Iterator[Any]:
    yield message
    for field in dataclasses.fields(message):
        value = getattr(message, field.name)
        for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]:
            if isinstance(each, betterproto2.Message):
                yield from parts(each)


def named_codes(plain: Any) -> Any:
    """As an enum, 413 has a name."""
    if isinstance(plain, dict):
        return {
            key: types.StatusCode(value).name if (key, type(value)) == ("code", int) else named_codes(value)
            for key, value in plain.items()
        }
    return [named_codes(each) for each in plain] if isinstance(plain, list) else plain


@pytest.mark.parametrize("choice", range(7))
@pytest.mark.parametrize("message", OURS, ids=lambda each: each.name)
def test_what_ours_writes_theirs_reads_and_back(message: Descriptor, choice: int) -> None:
    ours = getattr(wire, message.name)
    sent = fill(ours(), choice)
    there = theirs(message.name).parse(sent.SerializeToString())
    assert all(each._unknown_fields == b"" for each in parts(there))
    plain = MessageToDict(sent, preserving_proto_field_name=True)
    assert there.to_dict(casing=betterproto2.Casing.SNAKE) == named_codes(plain)
    assert ours.FromString(bytes(there)) == sent


def test_a_request_that_envoy_writes() -> None:
    path, other = core.HeaderValue(key=":path", raw_value=b"/v1/models"), core.HeaderValue(key="a", value="b")
    headers = core.HeaderMap(headers=[path, other])
    claims = {"tenantry_jwt": {"tenant": "acme", "roles": ["x"]}}
    request = ext_proc.ProcessingRequest(
        request_headers=ext_proc.HttpHeaders(headers=headers, end_of_stream=True),
        metadata_context=core.Metadata(filter_metadata={"envoy.filters.http.jwt_authn": struct(claims)}),
        attributes={"envoy.filters.http.ext_proc": struct({"connection.uri_san_peer_certificate": "spiffe://a"})},
        observability_mode=True,  # fields that we do not know are no obstacle
        protocol_config=ext_proc.ProtocolConfiguration(send_body_without_waiting_for_header_response=True),
    )
    assert codec.decode(bytes(request)) == RequestHeaders(
        headers=((":path", b"/v1/models"), ("a", b"b")),
        end_stream=True,
        jwt_claims={"tenant": "acme", "roles": ["x"]},
        uri_sans=("spiffe://a",),
    )


def struct(values: dict[str, Any]) -> Any:
    """A Struct of theirs."""
    made = wire.ProcessingResponse()
    made.dynamic_metadata.update(values)
    return ext_proc.ProcessingResponse.parse(made.SerializeToString()).dynamic_metadata


BODY = RequestBody(body=b"", end_stream=True)


def test_a_reply_that_envoy_reads() -> None:
    tenant = (("x-tenantry-tenant", "acme"),)
    reply = Forward(set_headers=tenant, remove_headers=("authorization",), body=b"{}", metadata={"enforced": "yes"})
    there = ext_proc.ProcessingResponse.parse(codec.encode(BODY, reply))
    overwrite = core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
    header = core.HeaderValue(key="x-tenantry-tenant", raw_value=b"acme")
    assert there == ext_proc.ProcessingResponse(
        request_body=ext_proc.BodyResponse(
            response=ext_proc.CommonResponse(
                header_mutation=ext_proc.HeaderMutation(
                    set_headers=[core.HeaderValueOption(header=header, append_action=overwrite)],
                    remove_headers=["authorization"],
                ),
                body_mutation=ext_proc.BodyMutation(body=b"{}"),
                clear_route_cache=True,
            )
        ),
        dynamic_metadata=struct({"tenantry": {"enforced": "yes"}}),
    )


def test_an_answer_that_envoy_reads() -> None:
    answer = Answer(status=413, headers=(), body=b"no", details="tenantry_x", grpc_status=3)
    there = ext_proc.ProcessingResponse.parse(codec.encode(BODY, answer))
    assert there.immediate_response == ext_proc.ImmediateResponse(
        status=types.HttpStatus(code=types.StatusCode(413)),
        body=b"no",
        grpc_status=ext_proc.GrpcStatus(status=3),
        details="tenantry_x",
    )


def test_a_log_message_that_envoy_writes() -> None:
    entry = data.HttpAccessLogEntry(
        common_properties=data.AccessLogCommon(
            metadata=core.Metadata(filter_metadata={"tenantry": struct({"enforced": "yes", "tenant": "acme"})}),
            route_name="unknown to us",
            response_flags=data.ResponseFlags(
                upstream_remote_reset=True,
                unauthorized_details=data.ResponseFlagsUnauthorized(reason=data.ResponseFlagsUnauthorizedReason(1)),
            ),
        ),
        request=data.HttpRequestProperties(request_headers={"x-tenantry-tenant": "mallory"}),
        response=data.HttpResponseProperties(response_code=503),
    )
    message = als.StreamAccessLogsMessage(
        identifier=als.StreamAccessLogsMessageIdentifier(log_name="tenantry"),
        http_logs=als.StreamAccessLogsMessageHttpAccessLogEntries(log_entry=[entry]),
    )
    (found,) = access_log.outcomes(bytes(message))
    assert found is not None
    assert (found.tenant, found.code, found.flags, found.ended) == ("acme", 503, ("upstream_remote_reset",), "failed")
