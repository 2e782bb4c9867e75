"""A Secret in Kubernetes' protobuf: Helm 4 sends its releases so. Answers are JSON, which it accepts as well."""

import base64
from collections.abc import Iterator
from typing import Any, Final

Json = dict[str, Any]

CONTENT_TYPE: Final = "application/vnd.kubernetes.protobuf"
_MAGIC: Final = b"k8s\x00"

# Field numbers of k8s.io/api/core/v1 and apimachinery's generated.proto.
_RAW: Final = 2
_METADATA, _DATA, _TYPE = 1, 2, 3
_STRINGS: Final = {1: "name", 3: "namespace", 6: "resourceVersion"}
_MAPS: Final = {11: "labels", 12: "annotations"}


def read_secret(message: bytes) -> Json:
    """Return the Secret of a request's body as JSON has it."""
    if not message.startswith(_MAGIC):
        raise ValueError("not Kubernetes' protobuf")
    (raw,) = (value for number, value in _fields(message[len(_MAGIC) :]) if number == _RAW)
    metadata: Json = {}
    secret: Json = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {}}
    for number, value in _fields(raw):
        if number == _METADATA:
            _read_metadata(value, metadata)
        elif number == _DATA:
            name, content = _entry(value)
            secret["data"][name.decode()] = base64.b64encode(content).decode()
        elif number == _TYPE:
            secret["type"] = value.decode()
    return secret


def _read_metadata(message: bytes, into: Json) -> None:
    for number, value in _fields(message):
        if number in _STRINGS and value:
            into[_STRINGS[number]] = value.decode()
        elif number in _MAPS:
            name, content = _entry(value)
            into.setdefault(_MAPS[number], {})[name.decode()] = content.decode()


def _entry(message: bytes) -> tuple[bytes, bytes]:
    found = dict(_fields(message))
    return found.get(1, b""), found.get(2, b"")


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a message that have a length; numbers are passed over."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        if key & 7 == 0:
            _, place = _varint(message, place)
        elif key & 7 == 2:
            size, place = _varint(message, place)
            yield key >> 3, message[place : place + size]
            place += size
        else:
            raise ValueError(f"a field of wire type {key & 7}")


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
