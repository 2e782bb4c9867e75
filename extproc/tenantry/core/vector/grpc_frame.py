"""gRPC's framing of a unary call: one message behind five bytes, inflated within a bound.

grpc/grpc, doc/PROTOCOL-HTTP2.md: a flag byte (1: compressed as `grpc-encoding` says), four bytes of length, the
message. A request of a unary call holds exactly one; a second one would pass unread, so it is refused.
"""

import zlib

from tenantry.core.errors import BadRequestError, TooLargeError, UnsupportedMediaError

PREFIX_BYTES = 5
FREE_INFLATION_BYTES = 1024 * 1024
"""Up to here any ratio is believed: small messages of equal vectors compress very well."""

MAX_INFLATION_RATIO = 100
"""Beyond that. Deflate reaches 1,032:1, embeddings about 1.1:1."""

_GZIP, _ZLIB = 31, 15
_WINDOW_BITS = {"gzip": _GZIP, "deflate": _ZLIB}
_SLICE_BYTES = 64 * 1024
_STEP_BYTES = 256 * 1024


def read_message(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Return the one message of a request body; `encoding` is the value of `grpc-encoding`, "" without one.

    Raises BadRequestError unless the body is exactly one message, TooLargeError for one that inflates beyond
    `max_bytes` or, past 1 MiB, beyond a hundred times what was read of it so far (in slices of 64 KiB),
    UnsupportedMediaError for an unknown encoding.
    """
    if len(body) < PREFIX_BYTES:
        raise BadRequestError("invalid_grpc", "The body is shorter than a gRPC message's prefix.")
    flag, length = body[0], int.from_bytes(body[1:PREFIX_BYTES])
    if length != len(body) - PREFIX_BYTES:
        raise BadRequestError("invalid_grpc", "A unary call has exactly one gRPC message.")
    if flag == 0:
        return body[PREFIX_BYTES:]
    if flag != 1:
        raise BadRequestError("invalid_grpc", "The gRPC message's flag is neither 0 nor 1.")
    bits = _WINDOW_BITS.get(encoding)
    if bits is None:
        raise UnsupportedMediaError("unsupported_encoding", "Send the message uncompressed, or as gzip or deflate.")
    return _inflate(memoryview(body)[PREFIX_BYTES:], bits, max_bytes)


def write_message(message: bytes) -> bytes:
    """Return the body that holds this message alone, uncompressed."""
    return b"\x00" + len(message).to_bytes(4) + message


def _inflate(packed: memoryview, bits: int, max_bytes: int) -> bytes:
    inflater = zlib.decompressobj(bits)
    parts: list[bytes] = []
    total = fed = 0
    rest = b""
    try:
        # In slices, as zlib copies what it has not read yet at each step; and a bomb is known by its first ones.
        while fed < len(packed) and not inflater.eof:
            rest = bytes(packed[fed : fed + _SLICE_BYTES])
            fed += len(rest)
            limit = min(max_bytes, max(FREE_INFLATION_BYTES, MAX_INFLATION_RATIO * fed))
            while rest and not inflater.eof:
                # One step more than the limit is enough to know.
                part = inflater.decompress(rest, min(_STEP_BYTES, limit + 1 - total))
                total += len(part)
                if total > limit:
                    raise TooLargeError("body_too_large", "The message is too large when inflated.")
                parts.append(part)
                rest = inflater.unconsumed_tail
    except zlib.error:
        raise BadRequestError("invalid_grpc", "The message does not inflate.") from None
    if not inflater.eof or inflater.unused_data or rest or fed < len(packed):
        raise BadRequestError("invalid_grpc", "The compressed message is cut off, or something follows it.")
    return b"".join(parts)
