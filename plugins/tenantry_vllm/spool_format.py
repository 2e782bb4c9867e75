r"""The bytes of one segment of the spool: how records are framed, and how they are found again. Pure.

    segment = header frame*
    header  = "tenantry-spool" 0x00 version:u8  first:u64  crc:u32          (28 bytes)
    frame   = FF FE 54 FE  sequence:u64  length:u32  crc:u32  payload  crc:u32   (24 bytes and the payload)

Integers are little-endian. A payload is the JSON of one record. `sequence` counts records in a folder, without gaps and
across segments, so whoever reads knows *how many* are missing where bytes were destroyed. The first CRC-32 of a frame
is over its head (marker, sequence, length), the second over head and payload. `first` is the sequence of the segment's
first record.

What a scan finds where no whole frame is:

- **torn**: the beginning of a frame, or zeros, up to the end. That is how a write ends when its machine dies; nothing
  of it had been acknowledged.
- **damage**: anything else. The head has a CRC of its own, so a destroyed payload costs one record and a destroyed head
  does not lead astray. The scan goes on at the next marker whose head is sound: JSON is UTF-8 and never has FF or FE.
"""

import struct
import zlib
from enum import Enum

from msgspec import Struct

HEADER_BYTES = 28
FRAME_BYTES = 24
"""What a frame adds to its payload."""

MAX_PAYLOAD_BYTES = 64 * 1024
MAX_FRAME_BYTES = FRAME_BYTES + MAX_PAYLOAD_BYTES
MARKER = b"\xff\xfeT\xfe"
VERSION = 1

_MAGIC = b"tenantry-spool\x00"
_HEADER = struct.Struct("<15sBQ")
_HEAD = struct.Struct("<4sQI")
_CRC = struct.Struct("<I")
_HEAD_BYTES = _HEAD.size + _CRC.size


class FormatError(ValueError):
    """A file that is no segment, or one of a version that this code does not know."""


class Entry(Struct, frozen=True):
    """One record of a segment. `end` is the offset behind it in what was scanned."""

    sequence: int
    payload: bytes
    end: int


class Scan(Struct, frozen=True, kw_only=True):
    """What a scan found. All before `end` is decided: records and damage. `torn`: bytes of a write that broke off.

    `damage` has (start, stop) of each destroyed stretch, as offsets in what was scanned.
    """

    entries: tuple[Entry, ...] = ()
    end: int = 0
    damage: tuple[tuple[int, int], ...] = ()
    torn: int = 0


def header(first: int) -> bytes:
    """Return the header of a segment whose first record will have this sequence."""
    head = _HEADER.pack(_MAGIC, VERSION, first)
    return head + _CRC.pack(zlib.crc32(head))


def read_header(data: bytes) -> int | None:
    """Return the sequence of the segment's first record, None for a header that broke off; raise FormatError."""
    head = data[:HEADER_BYTES]
    if len(head) < HEADER_BYTES or not head.strip(b"\0"):
        if not head.strip(b"\0") or _MAGIC.startswith(head[: len(_MAGIC)]):
            return None
        raise FormatError("it does not begin as a spool does")
    magic, version, first = _HEADER.unpack_from(head)
    if magic != _MAGIC:
        raise FormatError("it does not begin as a spool does")
    if zlib.crc32(head[: _HEADER.size]) != _CRC.unpack_from(head, _HEADER.size)[0]:
        raise FormatError("its header is damaged")
    if version != VERSION:
        raise FormatError(f"it has version {version} of the spool's format, this code reads version {VERSION}")
    return int(first)


def frame(sequence: int, payload: bytes) -> bytes:
    """Return the frame of a record; raise ValueError for a payload that is empty or too large."""
    if not 0 < len(payload) <= MAX_PAYLOAD_BYTES:
        raise ValueError(f"a payload has 1 to {MAX_PAYLOAD_BYTES} bytes, not {len(payload)}")
    head = _HEAD.pack(MARKER, sequence, len(payload))
    crc = zlib.crc32(head)
    return b"".join((head, _CRC.pack(crc), payload, _CRC.pack(zlib.crc32(payload, crc))))


def scan(data: bytes, *, ended: bool) -> Scan:
    """Find the records in `data`, which begins where a frame should. `ended`: nothing comes behind it.

    Without `ended` the last bytes may stay undecided (behind `Scan.end`), fewer than MAX_FRAME_BYTES of them.
    """
    entries: list[Entry] = []
    damage: list[tuple[int, int]] = []
    at = 0
    while at < len(data):
        found, stop, sequence = _look(data, at)
        if found is _Found.BEGINNING:
            if ended or len(data) - at < MAX_FRAME_BYTES:
                return Scan(entries=tuple(entries), end=at, damage=tuple(damage), torn=len(data) - at if ended else 0)
            stop = len(data)  # zeros, and more of them than a frame is long
        if found is _Found.RECORD:
            entries.append(Entry(sequence, data[at + _HEAD_BYTES : stop - _CRC.size], stop))
        else:
            stop = stop or _resume(data, at + 1, ended=ended)
            start = damage.pop()[0] if damage and damage[-1][1] == at else at
            damage.append((start, stop))
        at = stop
    return Scan(entries=tuple(entries), end=at, damage=tuple(damage))


class _Found(Enum):
    RECORD = "a whole frame"
    BEGINNING = "what may be the beginning of one, or zeros, up to the end"
    DAMAGE = "neither"


def _look(data: bytes, at: int) -> tuple[_Found, int, int]:
    """Return what is at an offset, where it stops (0: unknown), and the sequence of a record."""
    head = data[at : at + _HEAD_BYTES]
    if not head.strip(b"\0"):
        return (_Found.DAMAGE if data[at:].strip(b"\0") else _Found.BEGINNING), 0, 0
    if len(head) < _HEAD_BYTES:
        begins = MARKER.startswith(head[: len(MARKER)])
        return (_Found.BEGINNING if begins else _Found.DAMAGE), 0, 0
    if (length := _length(head)) is None:
        return _Found.DAMAGE, 0, 0
    stop = at + FRAME_BYTES + length
    if stop <= len(data):
        crc = zlib.crc32(memoryview(data)[at + _HEAD_BYTES : stop - _CRC.size], zlib.crc32(head[: _HEAD.size]))
        if _CRC.unpack_from(data, stop - _CRC.size)[0] == crc:
            return _Found.RECORD, stop, _HEAD.unpack_from(head)[1]
    # A payload holds no marker. If one begins in it, bytes were lost, and what follows begins there.
    if (lost := _next_head(data, at + _HEAD_BYTES, min(stop + len(MARKER) - 1, len(data)))) is not None:
        return _Found.DAMAGE, lost, 0
    return (_Found.DAMAGE, stop, 0) if stop <= len(data) else (_Found.BEGINNING, 0, 0)


def _length(head: bytes) -> int | None:
    """Return the payload's length by a head; None if it is not sound."""
    marker, _, length = _HEAD.unpack_from(head)
    if marker != MARKER or zlib.crc32(head[: _HEAD.size]) != _CRC.unpack_from(head, _HEAD.size)[0]:
        return None
    return int(length) if 0 < length <= MAX_PAYLOAD_BYTES else None


def _next_head(data: bytes, at: int, stop: int) -> int | None:
    """Return where the next head begins that is sound, or cut off by the end of the data."""
    while (at := data.find(MARKER, at, stop)) >= 0:
        head = data[at : at + _HEAD_BYTES]
        if len(head) < _HEAD_BYTES or _length(head) is not None:
            return at
        at += 1
    return None


def _resume(data: bytes, at: int, *, ended: bool) -> int:
    """Return where the next head begins; without one, the end, but for what may begin a marker."""
    if (found := _next_head(data, at, len(data))) is not None:
        return found
    return len(data) if ended else max(at, len(data) - len(MARKER) + 1)
