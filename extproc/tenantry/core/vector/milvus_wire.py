"""Milvus's messages in and out: whole or refused on the way there, known fields alone on the way back."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from tenantry.core.errors import BadRequestError
from tenantry.core.vector.calls import UnreadableResponseError
from tenantry.core.vector.proto_parts import check_parts

M = TypeVar("M", bound=Message)

MAX_PARAMETERS = 64
MAX_VALUE_CHARACTERS = 4096
MAX_PARTS = 524_288
"""Of a request's message, at all depths: a row of an array column has two, a member of Pinecone's metadata four. They
take 50 MiB at most."""

_LOCATED_BYTES = 64 * 1024
"""Up to here a field that is not allowed is looked for, so that the refusal names it."""


def parse(kind: type[M], data: bytes) -> M:
    """Return a request's message; refuse bytes that are none, and any field that `kind` does not have, at any depth."""
    check_parts(kind, data, MAX_PARTS)
    try:
        message = kind.FromString(data)
    except DecodeError:
        raise BadRequestError("invalid_message", f"The body is not a {kind.DESCRIPTOR.name}.") from None
    size = message.ByteSize()
    if _discarding_shrinks(message, size):
        where = kind.DESCRIPTOR.name
        if len(data) <= _LOCATED_BYTES:
            where = next(_unknown(kind.FromString(data), where), where)
        else:
            where = f"A field that {where} does not know"
        raise BadRequestError("field_not_allowed", f"{where} is set, which is not allowed here.")
    return message


def parse_answer(kind: type[M], data: bytes) -> M:
    """Return a response's message without the fields that `kind` does not have."""
    try:
        message = kind.FromString(data)
    except DecodeError:
        raise UnreadableResponseError(f"not a {kind.DESCRIPTOR.name}") from None
    message.DiscardUnknownFields()
    return message


def _discarding_shrinks(message: Message, size: int) -> bool:
    # Sizes are counted in C at every depth; walking the unknown fields of a search cost ten times as much.
    message.DiscardUnknownFields()
    return message.ByteSize() != size


def _unknown(message: Message, path: str) -> Iterator[str]:
    for field in UnknownFieldSet(message):  # type: ignore[attr-defined]  # it iterates; its stub does not say so
        yield f"{path}, field {field.field_number}"
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        below = f"{path}.{descriptor.name}"
        if descriptor.message_type.GetOptions().map_entry:
            parts: Iterable[object] = value.values()
        else:
            parts = value if descriptor.is_repeated else (value,)
        for part in parts:
            if isinstance(part, Message):
                yield from _unknown(part, below)
