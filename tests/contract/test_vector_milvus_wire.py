"""Our messages are Milvus's, and what Milvus has besides was looked at.

`tests/data/milvus_descriptors.json` is Milvus's side, as a pymilvus has it; `tests/stores/test_descriptors.py` compares
it with the one that is installed there. When that fails: make the list anew with `tools/milvus_descriptors.py` and the
methods of `METHODS`, run these tests, and for each name that they show decide whether it is let through (`_pb`,
`METHODS`) or refused (`tenantry_testing/milvus_review.py`, with the reason).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from msgspec import Struct
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.milvus import METHODS
from tenantry_testing.milvus_review import REFUSED_FIELDS, REFUSED_METHODS, REVIEWED_OTHERWISE

DATA = Path(__file__).parent.parent / "data"
THEIRS: dict[str, Any] = json.loads((DATA / "milvus_descriptors.json").read_text())
CLASSES: dict[str, str] = json.loads((DATA / "milvus_methods.json").read_text())["grpc"]
SERVICE, PACKAGE = "MilvusService/", "milvus.proto."

KINDS = {
    FieldDescriptor.TYPE_DOUBLE: "double", FieldDescriptor.TYPE_FLOAT: "float", FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_UINT64: "uint64", FieldDescriptor.TYPE_INT32: "int32", FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_STRING: "string", FieldDescriptor.TYPE_BYTES: "bytes", FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_MESSAGE: "message",
}  # fmt: skip

PACKED = (
    (pb.CollectionSchema, "milvus.proto.schema.CollectionSchema"),
    (pb.PlaceholderGroup, "milvus.proto.common.PlaceholderGroup"),
)
"""Messages that travel as bytes inside a request."""

RENAMED = {("milvus.MutationResult", "IDs"): "ids"}
OPERATORS = {"DatabaseRequest", "ListDatabasesResponse"}
"""Messages of the operator's own calls."""


class Field(Struct, frozen=True, kw_only=True):
    """What a field is on the wire. An enumeration travels as an int32 does."""

    number: int
    name: str
    kind: str
    repeated: bool
    message: str = ""


class Pair(Struct, frozen=True):
    """One of our messages, the one of Milvus's that it stands for, and whether clients send it."""

    ours: Descriptor
    theirs: str
    sent: bool

    @property
    def name(self) -> str:
        return self.theirs.removeprefix(PACKAGE)


def their_fields(message: str) -> dict[int, Field]:
    found = {}
    for number, text in THEIRS["messages"][message].items():
        name, _, kind = text.partition(": ")
        repeated, (kind, *inner) = kind.startswith("repeated "), kind.removeprefix("repeated ").split()
        found[int(number)] = Field(
            number=int(number), name=name, kind={"enum": "int32"}.get(kind, kind), repeated=repeated,
            message="".join(inner),
        )  # fmt: skip
    return found


def our_fields(message: Descriptor) -> dict[int, Field]:
    return {
        field.number: Field(number=field.number, name=field.name, kind=KINDS[field.type], repeated=field.is_repeated)
        for field in message.fields
    }


def reach(pair: Pair, found: dict[tuple[str, str, bool], Pair]) -> None:
    key = (pair.ours.full_name, pair.theirs, pair.sent)
    if key in found:
        return
    found[key] = pair
    theirs = their_fields(pair.theirs)
    for field in pair.ours.fields:
        if field.message_type is not None and field.number in theirs:
            reach(Pair(field.message_type, theirs[field.number].message, pair.sent), found)


def described(kind: type[Message]) -> Descriptor:
    return cast("Descriptor", kind.DESCRIPTOR)  # its stub also names the class behind it


def every_pair() -> Iterator[Pair]:
    found: dict[tuple[str, str, bool], Pair] = {}
    for name, method in METHODS.items():
        request, answer = THEIRS["methods"][SERVICE + name]
        reach(Pair(described(method.request), request, sent=True), found)
        reach(Pair(described(method.answer), answer, sent=False), found)
    for kind, theirs in PACKED:
        reach(Pair(described(kind), theirs, sent=True), found)
    return iter(found.values())


PAIRS = list(every_pair())
SENT = {pair.name: pair.ours for pair in PAIRS if pair.sent}


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair.name}-{'sent' if pair.sent else 'heard'}")
def test_every_field_of_ours_is_milvuss(pair: Pair) -> None:
    theirs = their_fields(pair.theirs)
    for number, field in our_fields(pair.ours).items():
        assert number in theirs, f"{pair.ours.name}.{field.name} = {number} is not a field of {pair.name}"
        their = theirs[number]
        name = RENAMED.get((pair.name, their.name), their.name)
        assert (field.name, field.kind, field.repeated) == (name, their.kind, their.repeated)


def test_every_message_of_ours_is_held_against_milvuss() -> None:
    maps = {f"{message.name}.{entry.name}" for message in _messages() for entry in message.nested_types}
    compared = {pair.ours.full_name.removeprefix(pb.DESCRIPTOR.package + ".") for pair in PAIRS}
    assert compared == ({message.name for message in _messages()} | maps) - OPERATORS


def test_a_message_has_one_list_of_what_is_left_out() -> None:
    """REFUSED_FIELDS is by Milvus's name; two subsets of one message would need two lists."""
    ours: dict[str, set[str]] = {}
    for pair in PAIRS:
        if pair.sent:
            ours.setdefault(pair.name, set()).add(pair.ours.full_name)
    assert [name for name, subsets in ours.items() if len(subsets) > 1] == []


@pytest.mark.parametrize("name", sorted(SENT))
def test_every_field_of_a_request_was_reviewed(name: str) -> None:
    left_out = {
        field.name
        for number, field in their_fields(PACKAGE + name).items()
        if number not in SENT[name].fields_by_number
    }
    refused = set(REFUSED_FIELDS.get(name, {}))
    new, gone = sorted(left_out - refused), sorted(refused - left_out)
    assert not new, (
        f"Milvus {THEIRS['pymilvus']} has fields of {name} that nobody reviewed: {new}. Requests that set them are "
        "refused. Find out what each does, then add it to _pb/milvus.proto or, with the reason, to REFUSED_FIELDS."
    )
    assert not gone, f"REFUSED_FIELDS has fields of {name} that are ours, or not Milvus's any more: {gone}"


def test_only_messages_that_clients_send_are_in_the_table() -> None:
    assert set(REFUSED_FIELDS) - set(SENT) == set()


def test_every_method_was_reviewed() -> None:
    service = {name.removeprefix(SERVICE) for name in THEIRS["methods"] if name.startswith(SERVICE)}
    new = sorted(service - set(METHODS) - set(REFUSED_METHODS))
    assert not new, (
        f"Milvus {THEIRS['pymilvus']} has methods that nobody reviewed: {new}. They are refused. Find out what each "
        "does, then add it to METHODS or, with the reason, to REFUSED_METHODS."
    )
    assert sorted((set(METHODS) | set(REFUSED_METHODS)) - service) == []
    assert sorted(set(METHODS) & set(REFUSED_METHODS)) == []


def test_methods_are_as_first_reviewed_or_differ_for_a_reason() -> None:
    differ = set()
    for name, verdict in CLASSES.items():
        method = name.removeprefix(SERVICE)
        if verdict == "forbid" and method in METHODS:
            differ.add(method)
        if verdict in ("inject", "stamp", "harmless", "allow-if-collection-in-policy") and method not in METHODS:
            differ.add(method)
    assert differ == set(REVIEWED_OTHERWISE)


@pytest.mark.parametrize("method", [m.removeprefix(SERVICE) for m, verdict in CLASSES.items() if verdict == "inject"])
def test_methods_that_select_rows_read_filters_and_check_what_comes_back(method: str) -> None:
    assert METHODS[method].scope.__module__.endswith("milvus_reads")
    assert METHODS[method].check.__name__ in ("check_search", "check_query", "check_write")


@pytest.mark.parametrize("method", [m.removeprefix(SERVICE) for m, verdict in CLASSES.items() if verdict == "stamp"])
def test_methods_that_write_rows_stamp_them(method: str) -> None:
    assert METHODS[method].scope.__name__ == "scope_write"


def _messages() -> list[Descriptor]:
    return list(pb.DESCRIPTOR.message_types_by_name.values())
