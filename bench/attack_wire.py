"""Attacks that the corpus does not have: on frames, on headers, and by the names of what is the other tenant's.

Each is sent as bytes over one HTTP/2 connection, so that nothing on the way puts it right.
"""

import gzip
import socket
import struct
import zlib
from collections.abc import Iterator

import h2.config
import h2.connection
import h2.events
from google.protobuf.message import Message
from msgspec import Struct
from tenantry.core.vector import scope
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.grpc_frame import write_message
from tenantry.core.vector.milvus import SERVICE

from bench.attack_cases import Seen
from bench.attack_store import ALL, NOTES, OURS, ROWS, THEIRS, Engine
from bench.stack import KEYS

Headers = tuple[tuple[str, str], ...]
TIMEOUT_SECONDS = 30.0
BOMB_MIB = 2048
NOT_GRPC = "http"
GZIP: Headers = (("grpc-encoding", "gzip"),)
REFUSED = ("3", "7", "16", NOT_GRPC)
"""Statuses of a refusal: INVALID_ARGUMENT, PERMISSION_DENIED, UNAUTHENTICATED, or an HTTP status alone."""


class Attack(Struct, frozen=True, kw_only=True):
    """Bytes to send. `denied`: it has to be refused; else it has to be answered with the tenant's own alone."""

    id: str
    method: str
    body: bytes
    headers: Headers = ()
    denied: bool = True


def send(address: str, attack: Attack, tenant: str = OURS) -> tuple[str, bytes]:
    """Send it as a tenant; return the gRPC status ("" for a stream that was cut) and all bytes that came back.

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
    status, seen, left, ended = "", bytearray(), memoryview(attack.body), False
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
                    seen += repr(event.headers).encode()
                    pairs = {str(name): str(value) for name, value in event.headers}
                    other = NOT_GRPC if pairs.get(":status", "200") >= "400" else status
                    status = pairs.get("grpc-status", other)
                elif isinstance(event, h2.events.DataReceived):
                    seen += event.data
                    connection.acknowledge_received_data(event.flow_controlled_length, 1)
                elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset | h2.events.ConnectionTerminated):
                    ended = True
    return status, bytes(seen)


def _room(connection: h2.connection.H2Connection, left: int) -> int:
    return min(connection.local_flow_control_window(1), connection.max_outbound_frame_size, left)


def attacks(engine: Engine) -> Iterator[Attack]:
    """Yield every attack for an engine's layout."""
    query = engine.query(ALL)
    plain = query.SerializeToString()
    frame = write_message(plain)
    packed = gzip.compress(plain, mtime=0)
    small = b"\x01" + len(packed).to_bytes(4) + packed
    yield Attack(id="two-messages", method="Query", body=frame + frame)
    yield Attack(id="bytes-after", method="Query", body=frame + b"\x00")
    yield Attack(id="cut-message", method="Query", body=frame[:-1])
    yield Attack(id="no-message", method="Query", body=b"\x00")
    yield Attack(id="flag-without-encoding", method="Query", body=small)
    yield Attack(id="flag-2", method="Query", body=b"\x02" + frame[1:])
    yield Attack(id="gzip-twice", method="Query", body=small, headers=GZIP + GZIP)
    yield Attack(id="gzip-two-members", method="Query", body=_flagged(packed + packed), headers=GZIP)
    yield Attack(id="gzip", method="Query", body=small, headers=GZIP, denied=False)
    yield Attack(id="gzip-bomb", method="Query", body=_flagged(bomb(BOMB_MIB)), headers=GZIP)
    yield Attack(id="snappy", method="Query", body=small, headers=(("grpc-encoding", "snappy"),))
    yield Attack(id="json-codec", method="Query", body=frame, headers=(("content-type", "application/grpc+json"),))
    yield Attack(
        id="expr-then-break", method="Query", body=write_message(plain + b"\x22\x1cprice >= 0) or (price >= 0.0")
    )
    yield Attack(id="expr-twice", method="Query", body=write_message(plain + b"\x22\x0aprice >= 0"), denied=False)
    yield Attack(id="method-case", method="query", body=frame)
    yield Attack(id="method-escaped", method="%51uery", body=frame, denied=False)  # Envoy makes it Query
    yield Attack(id="method-slash", method="/Query", body=frame)
    yield Attack(id="method-parameters", method="Query?x=1", body=frame)
    token = scope.token_of(THEIRS)
    for name, value in (("database", token), ("named", THEIRS), ("twice", "default")):
        headers = (("dbname", value),) if name != "twice" else (("dbname", value), ("dbname", token))
        yield Attack(id=f"dbname-{name}", method="Query", body=frame, headers=headers)
    yield _changed("db_name", query, db_name=token)
    for header in ("x-tenantry-tenant", "x-tenantry-cluster"):
        value = THEIRS if header.endswith("tenant") else "store-docs"
        yield Attack(id=header, method="Query", body=frame, headers=((header, value),), denied=False)
    yield from _named(engine, token)


def _named(engine: Engine, token: str) -> Iterator[Attack]:
    """Yield attacks that name what is the other tenant's."""
    search = engine.search(ALL)
    physical = f"{token}_{NOTES}"
    for request in (engine.query(ALL, name=physical), engine.search(ALL, name=physical)):
        method = "Query" if isinstance(request, pb.QueryRequest) else "Search"
        # Under `collection` and `database` it is a name like others, of a collection of acme's that nobody made.
        yield _changed(f"their-collection-{method}", request, method=method, denied=not engine.own)
    for method, request in (
        ("DescribeCollection", pb.DescribeCollectionRequest(collection_name=physical)),
        ("DropCollection", pb.CollectionRequest(collection_name=physical)),
        ("GetCollectionStatistics", pb.CollectionRequest(collection_name=physical)),
    ):
        yield _changed(f"their-collection-{method}", request, method=method, denied=False)
    yield _changed("their-partition", engine.query(ALL), partition_names=[token], denied=False)
    yield _changed("their-partition-search", search, method="Search", partition_names=[token], denied=False)
    yield _changed("their-column", engine.query(ALL), output_fields=["tenant_id"])
    yield _changed("their-column-case", engine.query(ALL), output_fields=["TENANT_ID"])
    yield _changed("count-and-more", engine.query(""), output_fields=["count(*)", "text"])
    stored = f'"{token}:k3"'
    keys = stored if engine.text_keys else "3"
    yield _changed("their-keys", engine.query(f"id in [{keys}]"), denied=False)
    hybrid = pb.HybridSearchRequest(collection_name=NOTES, requests=[search], output_fields=["text"])
    hybrid.rank_params.add(key="strategy", value="rrf")
    hybrid.rank_params.add(key="limit", value="100")
    broken = pb.HybridSearchRequest()
    broken.CopyFrom(hybrid)
    broken.requests[0].dsl = f'price >= 0) or (tenant_id == "{THEIRS}"'
    yield _changed("hybrid", hybrid, method="HybridSearch", denied=False)
    yield _changed("hybrid-break", broken, method="HybridSearch")
    named = pb.HybridSearchRequest()
    named.CopyFrom(hybrid)
    named.requests[0].collection_name = physical
    yield _changed("hybrid-their-collection", named, method="HybridSearch")


def _changed(name: str, request: Message, *, method: str = "Query", denied: bool = True, **fields: object) -> Attack:
    made = type(request)()
    made.CopyFrom(request)
    for field, value in fields.items():
        if isinstance(value, list):
            del getattr(made, field)[:]
            getattr(made, field).extend(value)
        else:
            setattr(made, field, value)
    body = write_message(made.SerializeToString())
    return Attack(id=name, method=method, body=body, denied=denied)


def _flagged(packed: bytes) -> bytes:
    return b"\x01" + len(packed).to_bytes(4) + packed


def bomb(mib: int) -> bytes:
    """Return gzip of that many MiB of zeros, a thousandth of that in size."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    first = packer.compress(bytes(1024 * 1024)) + packer.flush(zlib.Z_FULL_FLUSH)
    other = packer.compress(bytes(1024 * 1024)) + packer.flush(zlib.Z_FULL_FLUSH)
    # The end has a checksum that is not of all this; whoever gets so far has inflated it all.
    end = b"\x03\x00" + struct.pack("<II", 0, mib * 1024 * 1024 % 2**32)
    return first + other * (mib - 1) + end


def run(engine: Engine) -> Seen:
    """Try every attack, as acme."""
    seen = Seen()
    for attack in attacks(engine):
        seen.cases += 1
        status, answer = send(engine.address, attack)
        denied = status in REFUSED
        seen.denied += denied
        # The client's own words may come back: the token of another tenant is no secret.
        token = scope.token_of(THEIRS).encode()
        if THEIRS.encode() in answer or b"withheld" in answer or (token in answer and token not in attack.body):
            seen.leaks.append(attack.id)
        elif attack.denied and not denied:
            seen.deviations[attack.id] = f"status {status!r}, with nothing of another tenant's"
    counted = pb.QueryResults.FromString(engine.send("Query", engine.query("", fields=("count(*)",))))
    seen.cases += 1
    if any(number > ROWS for column in counted.fields_data for number in column.scalars.long_data.data):
        seen.leaks.append("count of all")
    return seen
