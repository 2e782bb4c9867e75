"""Which units of a tenant see a candidate: one keyed hash, the same in every process and after every restart.

A *unit* is what sticks to a version: the conversation or user that a request names, else the request by itself. Its
bucket is a keyed hash of (rollout, tenant, unit), uniform on [0, 100), and a unit sees the candidate while its bucket
is below the percent: raising 5 to 10 moves only units between, and none back. The rollout's identity is part of the
hash, so that the same users are not the first to meet every new version. The key keeps clients from computing which
unit names lead to the candidate (they can still find out by trying: the guard measures the realised share).

Nothing of what a client sends is kept: a unit is known outside by `tag`, 64 bits of the same hash.
"""

import hashlib
import hmac
from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Raw, Struct

from tenantry.core.events import Header

_BITS = 53
"""Of a bucket: as many as a float holds exactly, so that none is rounded up to 100 and 100 percent are all units."""

_text = msgspec.json.Decoder(str)

BODY, HEADER = "body.", "header."
"""How a sticky source (rules.Rollout.sticky) begins."""


class Dice(Struct, frozen=True, kw_only=True):
    """What the hash says of a unit: two independent buckets, 0 to 100, and a name of 16 hexadecimal digits."""

    split: float
    mirror: float
    tag: str


def rollout_id(model: str, candidate: str, image: str) -> str:
    """Return a rollout's identity, 16 hexadecimal digits: another candidate or another image is another rollout."""
    return hashlib.sha256(f"tenantry rollout v1\0{model}\0{candidate}\0{image}".encode()).hexdigest()[:16]


def throw(key: bytes, rollout: str, tenant: str, unit: bytes) -> Dice:
    """Return the dice of a unit. `key` is the secret `split`, shared by all replicas."""
    # Neither an identity nor a tenant's name holds a NUL, and the unit comes last: no two triples look alike.
    mac = hmac.digest(key, b"tenantry split v1\0" + rollout.encode() + b"\0" + tenant.encode() + b"\0" + unit, "sha256")
    return Dice(
        split=_bucket(mac[:8]),
        mirror=_bucket(mac[8:16]),
        tag=mac[16:24].hex(),
    )


def _bucket(hashed: bytes) -> float:
    return (int.from_bytes(hashed, "big") >> (64 - _BITS)) * 100.0 / float(1 << _BITS)


def unit_of(sticky: Iterable[str], members: Mapping[str, Raw], headers: Iterable[Header], request_id: str) -> bytes:
    """Return the unit that a request names, by the first of the `sticky` sources that it fills, else its own id.

    The source is part of the unit, so that a user called like a conversation is not that conversation.
    """
    for source in sticky:
        value = _member(members, source) if source.startswith(BODY) else _header(headers, source)
        if value:
            return source.encode() + b"\0" + value
    return b"request\0" + request_id.encode()


def _member(members: Mapping[str, Raw], source: str) -> bytes:
    raw = members.get(source.removeprefix(BODY))
    if raw is None:
        return b""
    try:
        return _text.decode(raw).encode()  # decoded, so that two spellings of one text are one unit
    except (msgspec.MsgspecError, UnicodeError):
        return b""


def _header(headers: Iterable[Header], source: str) -> bytes:
    name = source.removeprefix(HEADER)
    return next((value for key, value in headers if key == name and value), b"")
