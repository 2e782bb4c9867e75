"""Attacks as bytes over one HTTP/2 connection, so that nothing on the way puts them right, and what came back.

An answer leaks when it holds what is the other tenant's; when it counts more rows than the tenant has; and when it was
withheld: then the third lock held, and the first two did not.
"""

import socket
import struct
import zlib
from collections.abc import Iterable
from typing import Literal

import h2.config
import h2.connection
import h2.events
from msgspec import Struct
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.grpc_frame import PREFIX_BYTES
from tenantry.core.vector.milvus import SERVICE
from tenantry.core.vector.milvus_rows import COUNT

from bench.attack_seen import Seen
from bench.attack_store import OURS, ROWS, Engine, foreign
from bench.stack import KEYS

Headers = tuple[tuple[str, str], ...]
Expect = Literal["deny", "rewrite", "either"]
TIMEOUT_SECONDS = 30.0
NOT_GRPC = "http"
REFUSED = ("3", "7", "16", NOT_GRPC)
"""Statuses of a refusal: INVALID_ARGUMENT, PERMISSION_DENIED, UNAUTHENTICATED, or an HTTP status alone."""


class Attack(Struct, frozen=True, kw_only=True):
    """Bytes to send. `expect`: refused, answered with the tenant's own alone, or either."""

    id: str
    method: str
    body: bytes
    headers: Headers = ()
    expect: Expect = "deny"


class Answer(Struct, frozen=True):
    """What came back: the gRPC status ("" for a stream that was cut), all headers and trailers, the body."""

    status: str
    headers: bytes
    body: bytes


def send(address: str, attack: Attack, tenant: str = OURS) -> Answer:
    """Send it as a tenant; return what came back.

    A refusal without a gRPC status is told as NOT_GRPC.
    """
    host, _, port = address.rpartition(":")
    # Validation off: the point is to send what a proper client would not.
    connection = h2.connection.H2Connection(
        h2.config.H2Configuration(header_encoding="latin-1", validate_outbound_headers=False)
    )
    headers = [
        (":method", "POST"), (":scheme", "http"), (":authority", "attack.test"), (":path", SERVICE + attack.method),
        ("content-type", "application/grpc"), ("te", "trailers"), ("authorization", f"Bearer {KEYS[tenant]}"),
        *attack.headers,
    ]  # fmt: skip
    status, head, body, left, ended = "", bytearray(), bytearray(), memoryview(attack.body), False
    with socket.create_connection((host, int(port)), timeout=TIMEOUT_SECONDS) as wire:
        connection.initiate_connection()
        connection.send_headers(1, headers)
        while not ended:
            while left and not ended and (size := _room(connection, len(left))):
                connection.send_data(1, bytes(left[:size]), end_stream=size == len(left))
                left = left[size:]
            wire.sendall(connection.data_to_send())
            data = wire.recv(65536)
            ended = not data
            for event in connection.receive_data(data) if data else ():
                if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                    head += repr(event.headers).encode()
                    pairs = {str(name): str(value) for name, value in event.headers}
                    other = NOT_GRPC if pairs.get(":status", "200") >= "400" else status
                    status = pairs.get("grpc-status", other)
                elif isinstance(event, h2.events.DataReceived):
                    body += event.data
                    connection.acknowledge_received_data(event.flow_controlled_length, 1)
                elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset | h2.events.ConnectionTerminated):
                    ended = True
    return Answer(status, bytes(head), bytes(body))


def _room(connection: h2.connection.H2Connection, left: int) -> int:
    return min(connection.local_flow_control_window(1), connection.max_outbound_frame_size, left)


def attempt(engine: Engine, attacks: Iterable[Attack]) -> Seen:
    """Try every attack as acme. Several may have one id, and count as one case."""
    seen, tried = Seen(), set()
    for attack in attacks:
        tried.add(attack.id)
        answer = send(engine.address, attack)
        denied = answer.status in REFUSED
        seen.denied += denied
        if leaks(attack, answer):
            seen.leaks.append(attack.id)
        elif not denied and (attack.expect == "deny" or not answer.status):
            seen.deviations[attack.id] = f"answered ({answer.status or 'cut'}), with nothing of another tenant's"
        elif denied and attack.expect == "rewrite":
            seen.deviations[attack.id] = f"refused ({answer.status})"
    seen.cases = len(tried)
    return seen


def leaks(attack: Attack, answer: Answer) -> bool:
    """Return whether an answer shows, or counts, what is the other tenant's, or would have."""
    text = answer.headers + answer.body
    if foreign(text, attack.body + repr(attack.headers).encode()) or b"withheld" in text:
        return True
    return attack.method == "Query" and answer.status == "0" and counted(answer.body[PREFIX_BYTES:]) > ROWS


def counted(answer: bytes) -> int:
    """Return the number that a Query for `count(*)` answered, 0 for one about rows."""
    columns = pb.QueryResults.FromString(answer).fields_data
    return max((max(c.scalars.long_data.data, default=0) for c in columns if c.field_name == COUNT), default=0)


def flagged(packed: bytes) -> bytes:
    """Return the body of one message that is compressed."""
    return b"\x01" + len(packed).to_bytes(4) + packed


def bomb(mib: int) -> bytes:
    """Return gzip of that many MiB of zeros, a thousandth of that in size."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    first = packer.compress(bytes(1024 * 1024)) + packer.flush(zlib.Z_FULL_FLUSH)
    other = packer.compress(bytes(1024 * 1024)) + packer.flush(zlib.Z_FULL_FLUSH)
    # The end has a checksum that is not of all this; whoever gets so far has inflated it all.
    end = b"\x03\x00" + struct.pack("<II", 0, mib * 1024 * 1024 % 2**32)
    return first + other * (mib - 1) + end
