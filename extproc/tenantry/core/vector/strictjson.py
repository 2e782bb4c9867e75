r"""JSON that every reader understands in one way, or none at all.

A body that we read differently from the store is a way around the policy, so what leaves room for that is refused:
duplicate keys at any depth (Go keeps the last, others the first), bytes that are not UTF-8, lone surrogates, NaN and
Infinity, integers that 64 bits do not hold, and keys that only resemble a known one (Go's decoder takes `FILTER` and
even `outputField\u017f`). Bounds stand before the work that they bound.

How duplicates are found without a parser of our own: with strings and numbers taken out, a body's colons count its
members. msgspec decodes at most one member for each colon, and fewer exactly when a key stood twice. Deleting
characters is done at the speed of memory, so a search request with 7,680 floats (160 kB) costs about 200 us when its
vectors stay text (`raw`), 380 us otherwise, of which msgspec takes 110 and 270.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import accumulate
from types import NoneType
from typing import Any

import msgspec
from msgspec import Raw

from tenantry.core.errors import BadRequestError
from tenantry.core.vector.calls import UnreadableResponseError

MAX_DEPTH = 32
"""Objects and arrays within each other. A Milvus search has 4, a Pinecone filter seldom more than 6."""

MAX_MEMBERS = 100_000
"""Members, and as many objects and arrays, in a request: an upsert of 1,000 vectors with 80 metadata keys each."""

MAX_RESPONSE_MEMBERS = 1_000_000
"""The same of a response: 10,000 matches with 80 metadata keys each."""

MIN_INTEGER, MAX_INTEGER = -(2**63), 2**63 - 1

_STRINGS_PER_MEMBER = 4
_LOCATED_BYTES = 64 * 1024
"""Up to here a duplicate key is looked for by a second, slower reading, so that the refusal says where it is."""

_NUMBERS_AND_WHITE = b"0123456789.eE+-, \t\r\n"
_DEPTH_CHANGE = {ord("{"): 1, ord("["): 1, ord("}"): -1, ord("]"): -1}
_NOT_BRACKETS = bytes(set(range(256)) - set(_DEPTH_CHANGE))
_decode: Callable[[bytes], Any] = msgspec.json.Decoder().decode
_members: Callable[[bytes], dict[str, Raw]] = msgspec.json.Decoder(dict[str, Raw]).decode
_packed = msgspec.msgpack.Encoder().encode
_at_byte = re.compile(r"\(byte ([0-9]+)\)")

Kind = type | tuple[type, ...] | Callable[[Any, str], Any]
"""What a member may be: a type, several, or a function of value and path that returns the member rebuilt."""


def loads(
    body: bytes, *, max_depth: int = MAX_DEPTH, max_members: int = MAX_MEMBERS, raw: Collection[str] = ()
) -> dict[str, Any]:
    """Return a request's JSON object; raise BadRequestError("invalid_json") for what readers may differ on.

    Members named in `raw`, at the top, stay the text they were (`msgspec.Raw`) where they hold no object and no string:
    vectors, which no policy looks into, keep every digit and are not decoded.
    """
    try:
        return _read(body, max_depth, max_members, raw)
    except _FlawError as flaw:
        raise BadRequestError("invalid_json", str(flaw)) from None


def loads_response(
    body: bytes,
    *,
    max_depth: int = MAX_DEPTH,
    max_members: int = MAX_RESPONSE_MEMBERS,
    raw: Collection[str] = (),
) -> dict[str, Any]:
    """Return a response's JSON object, read as strictly as a request; raise UnreadableResponseError."""
    try:
        return _read(body, max_depth, max_members, raw)
    except _FlawError as flaw:
        raise UnreadableResponseError(str(flaw)) from None


dumps: Callable[[Any], bytes] = msgspec.json.Encoder().encode
"""Return an object as JSON: compact, UTF-8, floats by their shortest exact text, Raw members as they were."""


def require(value: object, path: str, allowed: Mapping[str, Kind], *, drop_null: bool = False) -> dict[str, Any]:
    """Return an object rebuilt from its `allowed` members; raise BadRequestError for any other key or type.

    Keys are exact: no other case, no snake_case. `path` says where the object is, "" for the top; an unknown key is
    named by its place among the members, never by its own text. `float` allows integers too, `int` does not allow
    booleans. With `drop_null`, null is an absent member, as it is for protobuf's JSON.
    """
    if not isinstance(value, dict):
        raise BadRequestError("invalid_body", f"{path or 'The body'} must be an object.", param=path or None)
    rebuilt = {}
    for place, (key, member) in enumerate(value.items(), 1):
        kind = allowed.get(key)
        if kind is None:
            raise _unknown(key, place, path, allowed)
        if member is None and drop_null:
            continue
        where = f"{path}.{key}" if path else key
        rebuilt[key] = expect(member, where, kind) if isinstance(kind, (type, tuple)) else kind(member, where)
    return rebuilt


def expect(value: Any, path: str, kind: type | tuple[type, ...]) -> Any:
    """Return a value of this kind; raise BadRequestError for another, or for an integer beyond 63 bits."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    found = type(value)
    if found not in kinds and not (found is int and float in kinds):
        names = " or ".join(_KIND_NAMES.get(one, one.__name__) for one in kinds)
        raise BadRequestError("invalid_body", f"{path} must be {names}.", param=path)
    if found is int and not MIN_INTEGER <= value <= MAX_INTEGER:
        raise BadRequestError("invalid_body", f"{path} is beyond 64 bits.", param=path)
    return value


_KIND_NAMES = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    list: "an array",
    Raw: "an array of numbers",
    NoneType: "null",
}


class _FlawError(Exception):
    """What makes a text refused; the text says where."""


def _read(body: bytes, max_depth: int, max_members: int, raw: Collection[str]) -> dict[str, Any]:
    members = _refuse_beyond_bounds(body, max_depth, max_members)
    try:
        body.decode()  # Raw members are not checked by the decoder.
        value = _lazily(body, raw) if raw else _decode(body)
        _refuse_great_integers(value)
    except msgspec.MsgspecError as error:
        found = _at_byte.search(str(error))
        raise _FlawError(f"The body is not JSON{f' at byte {found[1]}' if found else ''}.") from None
    except UnicodeDecodeError as error:
        raise _FlawError(f"The body is not UTF-8 at byte {error.start}.") from None
    except (OverflowError, RecursionError):
        raise _FlawError("The body holds an integer beyond 64 bits.") from None
    if not isinstance(value, dict):
        raise _FlawError("The body is not a JSON object.")
    if _count(value, members) != members:
        raise _FlawError(f"A key stands twice in one object{_where_twice(body)}.")
    return value


def _lazily(body: bytes, raw: Collection[str]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in _members(body).items():
        text = bytes(value)
        numbers = name in raw and text.startswith(b"[") and b'"' not in text and b"{" not in text
        members[name] = value if numbers else _decode(text)
    return members


def _refuse_great_integers(value: Any) -> None:
    # msgpack has no integer beyond 64 bits: packing is the fastest look into every array there is.
    if isinstance(value, dict):
        value = [member for member in value.values() if type(member) is not Raw]
    _packed(value)


def _refuse_beyond_bounds(body: bytes, max_depth: int, max_members: int) -> int:
    """Return how many members the body's objects have, if it is JSON at all; refuse too many, or too deep a body."""
    skeleton = body.translate(None, _NUMBERS_AND_WHITE)
    if b"\\" in skeleton:
        # Escapes are read from the left: what remains of a pair is no escape, and a quote after it ends the string.
        skeleton = skeleton.replace(b"\\\\", b"").replace(b'\\"', b"")
    if skeleton.count(b'"') > 2 * _STRINGS_PER_MEMBER * max_members:
        raise _FlawError(f"The body has more than {_STRINGS_PER_MEMBER * max_members} strings.")
    outside = b"".join(skeleton.split(b'"')[::2])
    members, opened = outside.count(b":"), outside.count(b"{") + outside.count(b"[")
    if members > max_members or opened > max_members:
        raise _FlawError(f"The body has more than {max_members} members, objects or arrays.")
    if opened > max_depth:
        brackets = outside.translate(None, _NOT_BRACKETS)
        if max(accumulate(map(_DEPTH_CHANGE.__getitem__, brackets))) > max_depth:
            raise _FlawError(f"The body is nested more than {max_depth} deep.")
    return members


def _count(value: dict[str, Any], expected: int) -> int:
    """Return the number of members in all objects within a value; look no further once the expected number is met."""
    found = 0
    objects: list[dict[str, Any]] = [value]
    arrays: list[list[Any]] = []
    while objects or arrays:
        while objects:
            one = objects.pop()
            found += len(one)
            _sort_out(one.values(), objects, arrays)
        if found == expected:
            # Arrays of numbers, which come last, stay unread.
            return found
        if arrays:
            _sort_out(arrays.pop(), objects, arrays)
    return found


def _sort_out(values: Iterable[Any], objects: list[dict[str, Any]], arrays: list[list[Any]]) -> None:
    for value in values:
        kind = type(value)
        if kind is dict:
            objects.append(value)
        elif kind is list:
            arrays.append(value)


def _where_twice(body: bytes) -> str:
    if len(body) > _LOCATED_BYTES:
        return ""
    ended = 0

    def hook(pairs: list[tuple[str, Any]]) -> None:
        nonlocal ended
        ended += 1
        seen = set()
        for place, (key, _) in enumerate(pairs, 1):
            if key in seen:
                raise _FlawError(f" (member {place} of object {ended}, objects counted by their ends)")
            seen.add(key)

    try:
        json.loads(body, object_pairs_hook=hook)
    except _FlawError as flaw:
        return str(flaw)
    return ""


def _unknown(key: str, place: int, path: str, allowed: Iterable[str]) -> BadRequestError:
    plain = _plain(key)
    meant = next((name for name in allowed if _plain(name) == plain), None)
    right = f"write '{meant}'" if meant else f"known are {', '.join(sorted(allowed))}"
    return BadRequestError(
        "unknown_member", f"Member {place} of {path or 'the body'} is not known here; {right}.", param=meant
    )


def _plain(key: str) -> str:
    return key.strip().casefold().replace("_", "").replace("-", "")
