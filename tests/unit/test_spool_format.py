"""The spool's framing: torn at every byte, a bit flipped at every byte, bytes cut out, and scans in pieces."""

import random

import pytest
from tenantry_vllm.spool_format import (
    FRAME_BYTES,
    HEADER_BYTES,
    MARKER,
    MAX_FRAME_BYTES,
    MAX_PAYLOAD_BYTES,
    FormatError,
    frame,
    header,
    read_header,
    scan,
)

PAYLOADS = [b'{"kind":"request","n":%d,"text":"%s"}' % (number, b"\xc3\xa9" * number) for number in range(5)]
FRAMES = [frame(10 + number, payload) for number, payload in enumerate(PAYLOADS)]
STARTS = [sum(len(one) for one in FRAMES[:number]) for number in range(6)]
WHOLE = b"".join(FRAMES)


def sequences(data: bytes, *, ended: bool = True) -> list[int]:
    return [entry.sequence for entry in scan(data, ended=ended).entries]


def test_a_header_says_the_first_sequence() -> None:
    assert len(header(7)) == HEADER_BYTES
    assert read_header(header(7) + WHOLE) == 7
    assert read_header(header(2**64 - 1)) == 2**64 - 1


@pytest.mark.parametrize("length", range(HEADER_BYTES))
def test_a_header_that_broke_off_is_no_error(length: int) -> None:
    assert read_header(header(7)[:length]) is None
    assert read_header(bytes(length)) is None, "a file that grew but was never written is zeros"


def test_what_is_no_segment_says_so() -> None:
    with pytest.raises(FormatError, match="does not begin as a spool"):
        read_header(b"PK\x03\x04" + bytes(100))
    with pytest.raises(FormatError, match="does not begin as a spool"):
        read_header(b"PK")
    flipped = bytearray(header(7))
    flipped[20] ^= 1
    with pytest.raises(FormatError, match="header is damaged"):
        read_header(bytes(flipped))


def test_a_later_version_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenantry_vllm.spool_format.VERSION", 2)
    later = header(7)
    monkeypatch.undo()
    with pytest.raises(FormatError, match="version 2 of the spool's format, this code reads version 1"):
        read_header(later)


def test_records_come_back_as_they_were() -> None:
    found = scan(WHOLE, ended=True)
    assert [entry.payload for entry in found.entries] == PAYLOADS
    assert [entry.sequence for entry in found.entries] == [10, 11, 12, 13, 14]
    assert [entry.end for entry in found.entries] == STARTS[1:]
    assert (found.end, found.damage, found.torn) == (len(WHOLE), (), 0)
    assert len(WHOLE) == 5 * FRAME_BYTES + sum(len(payload) for payload in PAYLOADS)


@pytest.mark.parametrize("size", [0, MAX_PAYLOAD_BYTES + 1])
def test_a_payload_has_bounds(size: int) -> None:
    with pytest.raises(ValueError, match=f"not {size}"):
        frame(1, bytes(size))
    assert len(frame(1, bytes(MAX_PAYLOAD_BYTES))) == MAX_FRAME_BYTES


def test_torn_at_every_byte_of_the_last_record() -> None:
    for length in range(STARTS[4], len(WHOLE)):
        found = scan(WHOLE[:length], ended=True)
        assert [entry.payload for entry in found.entries] == PAYLOADS[:4]
        assert (found.end, found.damage, found.torn) == (STARTS[4], (), length - STARTS[4])


def test_zeros_where_the_last_record_should_be_are_torn() -> None:
    for written in range(STARTS[4], len(WHOLE) - 4):
        found = scan(WHOLE[:written] + bytes(5000), ended=True)
        assert [entry.payload for entry in found.entries] == PAYLOADS[:4]
        assert found.damage or found.end == STARTS[4]
        assert found.torn or found.damage, "said, one way or the other"
    assert scan(WHOLE + bytes(5000), ended=True).damage == ()


def test_a_bit_flipped_at_any_byte_costs_that_record_alone_and_is_reported() -> None:
    for at in range(len(WHOLE)):
        hit = next(number for number in range(5) if at < STARTS[number + 1])
        data = bytearray(WHOLE)
        data[at] ^= 1 << (at % 8)
        found = scan(bytes(data), ended=True)
        assert [entry.sequence - 10 for entry in found.entries] == [n for n in range(5) if n != hit], at
        assert [entry.payload for entry in found.entries] == [PAYLOADS[n] for n in range(5) if n != hit]
        assert found.damage == ((STARTS[hit], STARTS[hit + 1]),), "the stretch is reported, and no more than it"
        assert found.torn == 0, "a whole record that is damaged is no write that broke off"


def test_bytes_cut_out_of_the_middle_cost_the_records_they_were_of() -> None:
    rng = random.Random(1)
    for _ in range(300):
        start = rng.randrange(STARTS[1], STARTS[4])
        stop = rng.randrange(start + 1, STARTS[4] + 1)
        found = scan(WHOLE[:start] + WHOLE[stop:], ended=True)
        kept = [entry.sequence - 10 for entry in found.entries]
        untouched = [n for n in range(5) if STARTS[n + 1] <= start or STARTS[n] >= stop]
        assert kept == untouched, (start, stop)
        assert [entry.payload for entry in found.entries] == [PAYLOADS[n] for n in kept]
        assert bool(found.damage) == (start not in STARTS or stop not in STARTS), "else only the sequence tells"


def test_garbage_is_stepped_over_even_with_markers_in_it() -> None:
    rng = random.Random(2)
    garbage = b"".join(rng.choice([MARKER, MARKER[:2], rng.randbytes(9), bytes(30)]) for _ in range(50)) + b"x"
    found = scan(FRAMES[0] + garbage + WHOLE[STARTS[1] :], ended=True)
    assert [entry.payload for entry in found.entries] == PAYLOADS
    assert found.damage == ((STARTS[1], STARTS[1] + len(garbage)),)


def test_a_scan_in_pieces_finds_the_same() -> None:
    rng = random.Random(3)
    broken = bytearray(WHOLE * 3)
    for at in (STARTS[1] + 2, STARTS[3] + 40, len(WHOLE) + STARTS[2] + 17):
        broken[at] ^= 0x10
    for _ in range(200):
        got, damaged, rest, left = [], 0, b"", bytes(broken)
        while left:
            cut = rng.randrange(1, 300)
            piece, left = rest + left[:cut], left[cut:]
            found = scan(piece, ended=not left)
            got += [entry.payload for entry in found.entries]
            damaged += sum(stop - start for start, stop in found.damage)
            rest = piece[found.end :]
        assert got == [entry.payload for entry in scan(bytes(broken), ended=True).entries]
        assert damaged == sum(stop - start for start, stop in scan(bytes(broken), ended=True).damage)
        assert rest == b""


@pytest.mark.parametrize("filling", [b"\0", b"\xff", b"A", MARKER])
def test_what_stays_undecided_is_less_than_a_frame(filling: bytes) -> None:
    data = FRAMES[0] + filling * (3 * MAX_FRAME_BYTES // len(filling))
    found = scan(data, ended=False)
    assert len(found.entries) == 1
    assert len(data) - found.end < MAX_FRAME_BYTES
    assert found.damage
