"""How many parts a protobuf message has, told from its bytes before it is parsed.

Parsing costs memory by the part, not by the byte: an empty column is two bytes on the wire and ninety in memory, so
that 10 MiB of them took 450 MiB and most of a second (measured), of all tenants' sidecar. Bodies are bounded in bytes;
this bounds them in parts. What is one block in memory (the numbers or texts of a
column: at most 24 times their bytes) is not looked into.
"""

from functools import lru_cache

from google.protobuf.descriptor import Descriptor

from tenantry.core.errors import BadRequestError, TooLargeError

UNCOUNTED_BYTES = 64 * 1024
"""Up to here nothing is counted: it would cost a search more than it could save."""

MAX_DEPTH = 100
"""Of messages in messages, as upb has it."""

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5

Table = dict[int, "Table | None"]
"""The fields of a message that are messages; None for one that holds no messages itself."""


def check_parts(kind: Descriptor, data: bytes, most: int) -> None:
    """Raise TooLargeError for a message of more than `most` fields and messages, at all depths together.

    Raises BadRequestError for what no message of ours has: a group, or one nested too deep. Other bytes that are no
    message are left for the parser to refuse.
    """
    if len(data) > UNCOUNTED_BYTES:
        try:
            _count(_table(kind) or {}, data, 0, len(data), most, 0)
        except IndexError:  # cut off; so far there were not too many
            return


def _count(table: Table, data: bytes, at: int, end: int, left: int, depth: int) -> int:
    """Return what is left of the budget behind `end`."""
    if depth > MAX_DEPTH:
        raise BadRequestError("invalid_message", "The message is nested too deep.")
    while at < end:
        left -= 1
        if left < 0:
            raise TooLargeError("too_many_parts", "The message has too many parts: send it as several.")
        tag, at = _varint(data, at)
        wire = tag & 7
        if wire == _LENGTH:
            length, at = _varint(data, at)
            below = table.get(tag >> 3)
            if below is not None:
                left = _count(below, data, at, at + length, left, depth + 1)
            at += length
        elif wire == _VARINT:
            _, at = _varint(data, at)
        elif wire == _FOUR_BYTES:
            at += 4
        elif wire == _EIGHT_BYTES:
            at += 8
        else:
            raise BadRequestError("invalid_message", "The message holds a group, which is not allowed here.")
    return left


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number, and where it ends."""
    value = data[at]
    if value < 0x80:
        return value, at + 1
    value, shift = value & 0x7F, 7
    while shift < 70:
        at += 1
        byte = data[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at + 1
        shift += 7
    raise BadRequestError("invalid_message", "The message holds a number of more than ten bytes.")


@lru_cache(maxsize=64)
def _table(kind: Descriptor) -> Table | None:
    made: dict[Descriptor, Table] = {}

    def of(each: Descriptor) -> Table | None:
        below = {field.number: field.message_type for field in each.fields if field.message_type is not None}
        if not below:
            return None
        if each not in made:
            table = made[each] = {}
            table.update({number: of(message) for number, message in below.items()})
        return made[each]

    return of(kind)
