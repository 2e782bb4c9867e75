"""One message behind five bytes, inflated within a bound."""

import gzip
import random
import zlib

import pytest
from tenantry.core.errors import BadRequestError, RequestRefusedError, TooLargeError, UnsupportedMediaError
from tenantry.core.vector.grpc_frame import (
    FREE_INFLATION_BYTES,
    MAX_INFLATION_RATIO,
    read_message,
    write_message,
)

LIMIT = 16 * 1024 * 1024


def framed(message: bytes, flag: int = 1) -> bytes:
    return bytes((flag,)) + len(message).to_bytes(4) + message


@pytest.mark.parametrize("message", [b"", b"x", bytes(70_000)])
def test_a_message_comes_back_as_it_was_written(message: bytes) -> None:
    assert read_message(write_message(message), "", LIMIT) == message
    assert read_message(write_message(message), "gzip", LIMIT) == message


@pytest.mark.parametrize("message", [b"", b"x", bytes(FREE_INFLATION_BYTES), b"abc" * 100_000])
def test_compressed(message: bytes) -> None:
    assert read_message(framed(gzip.compress(message)), "gzip", LIMIT) == message
    assert read_message(framed(zlib.compress(message)), "deflate", LIMIT) == message


NOT_ONE_MESSAGE = {
    "nothing": b"",
    "a frame's head cut": b"\0\0\0\0",
    "bytes after the message": framed(b"x", 0) + b"y",
    "a message cut": framed(b"x", 0)[:-1],
    "two messages": framed(b"x", 0) * 2,
    "flag 2": framed(b"x", 2),
    "flag 128": framed(b"x", 0x80),
    "a length without bytes": b"\0\xff\xff\xff\xff",
    "marked gzip, plain": framed(b"x"),
    "gzip cut": framed(gzip.compress(b"x")[:-1]),
    "gzip and a byte": framed(gzip.compress(b"x") + b"\0"),
    "two gzip members": framed(gzip.compress(b"x") * 2),
    "marked gzip, deflated": framed(zlib.compress(b"x")),
    "marked gzip, empty": framed(b""),
}


# Named, since gzip writes the time into its header: as test ids the bytes differ between pytest's workers.
@pytest.mark.parametrize("body", NOT_ONE_MESSAGE.values(), ids=NOT_ONE_MESSAGE)
def test_what_is_not_one_message(body: bytes) -> None:
    with pytest.raises(BadRequestError):
        read_message(body, "gzip", LIMIT)


@pytest.mark.parametrize("encoding", ["", "identity", "br", "GZIP", "gzip,deflate", "snappy"])
def test_other_encodings(encoding: str) -> None:
    with pytest.raises(UnsupportedMediaError):
        read_message(framed(gzip.compress(b"x")), encoding, LIMIT)


def test_what_inflates_too_far() -> None:
    with pytest.raises(TooLargeError):
        read_message(framed(gzip.compress(bytes(FREE_INFLATION_BYTES + 1))), "gzip", LIMIT)
    with pytest.raises(TooLargeError):
        read_message(framed(gzip.compress(b"x" * 1025)), "gzip", 1024)
    assert len(read_message(framed(gzip.compress(b"x" * 1024)), "gzip", 1024)) == 1024


def test_beyond_the_free_part_the_ratio_counts() -> None:
    noise = random.Random(7).randbytes(30_000)  # not a secret
    for zeros, passes in ((2_000_000, True), (4_000_000, False)):
        message = noise + bytes(zeros)
        packed = gzip.compress(message)
        assert (len(message) < MAX_INFLATION_RATIO * len(packed)) is passes
        if passes:
            assert read_message(framed(packed), "gzip", LIMIT) == message
        else:
            with pytest.raises(TooLargeError):
                read_message(framed(packed), "gzip", LIMIT)


@pytest.mark.parametrize("cut", range(0, 40, 3))
def test_every_cut_of_a_compressed_message_is_refused(cut: int) -> None:
    packed = gzip.compress(b"a message of some length, in words")
    with pytest.raises(RequestRefusedError):
        read_message(framed(packed[:cut]), "gzip", LIMIT)
