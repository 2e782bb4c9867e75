"""How many parts a protobuf message has, told from its bytes before it is parsed.

Parsing costs memory by the part, not by the byte: an empty column is two bytes on the wire and ninety in memory, so
that 10 MiB of them took 450 MiB and most of a second (measured), of all tenants' sidecar. Bodies are bounded in bytes;
this bounds them in parts. What is one block in memory (the numbers or texts of a column: at most 24 times their bytes)
is not looked into.
"""

from functools import lru_cache

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from tenantry.core.errors import BadRequestError, TooLargeError

UNCOUNTED_BYTES = 64 * 1024
"""Up to here nothing is counted: it would cost a search more than it could save."""

MAX_DEPTH = 100
"""Of messages in messages, as upb has it."""

_VARINT, _LENGTH = 0, 2
_FIXED = {1: 8, 5: 4}
"""The wire types of fixed length, and their bytes."""

Table = dict[int, "Table"]
"""The fields of a message that are messages which hold messages: where to look into."""


def check_parts(kind: type[Message], data: bytes, most: int) -> None:
    """Raise TooLargeError for a message of more than `most` fields and messages, at all depths together.

    Raises BadRequestError for what no message of ours has: a group, or one nested too deep. Other bytes that are no
    message are left for the parser to refuse.
    """
    if len(data) > UNCOUNTED_BYTES:
        try:
            _Count(data, most).message(_table(kind.DESCRIPTOR), 0, len(data), 0)
        except IndexError:  # cut off; so far there were not too many
            return


class _Count:
    """The bytes of a message, and how many parts it may still have."""

    __slots__ = ("_data", "_left")

    def __init__(self, data: bytes, most: int) -> None:
        self._data = data
        self._left = most

    def message(self, table: Table, at: int, end: int, depth: int) -> None:
        """Count the parts of the message that lies from `at` to `end`."""
        if depth > MAX_DEPTH:
            raise BadRequestError("invalid_message", "The message is nested too deep.")
        data = self._data
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise TooLargeError("too_many_parts", "The message has too many parts: send it as several.")
            tag, at = _varint(data, at)
            wire = tag & 7
            if wire == _LENGTH:
                length, at = _varint(data, at)
                below = table.get(tag >> 3)
                if below is not None:
                    self.message(below, at, at + length, depth + 1)
                at += length
            elif wire == _VARINT:
                _, at = _varint(data, at)
            elif wire in _FIXED:
                at += _FIXED[wire]
            else:
                raise BadRequestError("field_not_allowed", "The message holds a group, which is not allowed here.")


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
def _table(kind: Descriptor) -> Table:
    made: dict[str, Table] = {}

    def of(each: Descriptor) -> Table:
        if each.full_name not in made:
            table = made[each.full_name] = {}
            inner = {field.number: field.message_type for field in each.fields if field.message_type is not None}
            table.update({number: of(message) for number, message in inner.items() if _nests(message)})
        return made[each.full_name]

    return of(kind)


def _nests(each: Descriptor) -> bool:
    return any(field.message_type is not None for field in each.fields)
