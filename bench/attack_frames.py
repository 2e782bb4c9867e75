"""Attacks that the corpus does not have: on frames, on headers, and by the names of what is the other tenant's."""

import gzip
from collections.abc import Iterator
from typing import Any

from google.protobuf.message import Message
from tenantry.core.vector import scope
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.grpc_frame import write_message

from bench.attack_seen import Seen
from bench.attack_store import ALL, NOTES, THEIRS, Engine
from bench.attack_wire import Attack, Headers, attempt, flagged

GZIP: Headers = (("grpc-encoding", "gzip"),)


def attacks(engine: Engine) -> Iterator[Attack]:
    """Yield every attack for an engine's layout."""
    query = engine.query(ALL)
    plain = query.SerializeToString()
    frame = write_message(plain)
    packed = gzip.compress(plain, mtime=0)
    small = flagged(packed)
    yield Attack(id="two-messages", method="Query", body=frame + frame)
    yield Attack(id="bytes-after", method="Query", body=frame + b"\x00")
    yield Attack(id="cut-message", method="Query", body=frame[:-1])
    yield Attack(id="no-message", method="Query", body=b"\x00")
    yield Attack(id="flag-without-encoding", method="Query", body=small)
    yield Attack(id="flag-2", method="Query", body=b"\x02" + frame[1:])
    yield Attack(id="gzip-twice", method="Query", body=small, headers=GZIP + GZIP)
    yield Attack(id="gzip-two-members", method="Query", body=flagged(packed + packed), headers=GZIP)
    yield Attack(id="gzip", method="Query", body=small, headers=GZIP, expect="rewrite")
    yield Attack(id="snappy", method="Query", body=small, headers=(("grpc-encoding", "snappy"),))
    yield Attack(id="json-codec", method="Query", body=frame, headers=(("content-type", "application/grpc+json"),))
    yield Attack(
        id="expr-then-break", method="Query", body=write_message(plain + b"\x22\x1cprice >= 0) or (price >= 0.0")
    )
    yield Attack(id="expr-twice", method="Query", body=write_message(plain + b"\x22\x0aprice >= 0"), expect="rewrite")
    yield Attack(id="method-case", method="query", body=frame)
    yield Attack(id="method-escaped", method="%51uery", body=frame, expect="rewrite")  # Envoy makes it Query
    yield Attack(id="method-slash", method="/Query", body=frame)
    yield Attack(id="method-parameters", method="Query?x=1", body=frame)
    token = scope.token_of(THEIRS)
    for name, value in (("database", token), ("named", THEIRS), ("twice", "default")):
        headers = (("dbname", value),) if name != "twice" else (("dbname", value), ("dbname", token))
        yield Attack(id=f"dbname-{name}", method="Query", body=frame, headers=headers)
    yield _changed("db_name", query, db_name=token)
    for header in ("x-tenantry-tenant", "x-tenantry-cluster"):
        value = THEIRS if header.endswith("tenant") else "store-docs"
        yield Attack(id=header, method="Query", body=frame, headers=((header, value),), expect="rewrite")
    yield from _named(engine, token)


def _named(engine: Engine, token: str) -> Iterator[Attack]:
    """Yield attacks that name what is the other tenant's."""
    search = engine.search(ALL)
    physical = f"{token}_{NOTES}"
    for request in (engine.query(ALL, name=physical), engine.search(ALL, name=physical)):
        method = "Query" if isinstance(request, pb.QueryRequest) else "Search"
        # Under `collection` and `database` it is a name like others, of a collection of acme's that nobody made.
        yield _changed(f"their-collection-{method}", request, method=method, expect="either" if engine.own else "deny")
    for method, request in (
        ("DescribeCollection", pb.DescribeCollectionRequest(collection_name=physical)),
        ("DropCollection", pb.CollectionRequest(collection_name=physical)),
        ("GetCollectionStatistics", pb.CollectionRequest(collection_name=physical)),
    ):
        yield _changed(f"their-collection-{method}", request, method=method, expect="either")
    yield _changed("their-partition", engine.query(ALL), partition_names=[token], expect="rewrite")
    yield _changed("their-partition-search", search, method="Search", partition_names=[token], expect="rewrite")
    yield _changed("their-column", engine.query(ALL), output_fields=["tenant_id"])
    yield _changed("their-column-case", engine.query(ALL), output_fields=["TENANT_ID"])
    yield _changed("count", engine.query("", fields=("count(*)",)), expect="rewrite")
    yield _changed("count-filtered", engine.query(ALL, fields=("count(*)",)), expect="rewrite")
    yield _changed("count-and-more", engine.query(""), output_fields=["count(*)", "text"])
    stored = f'"{token}:k3"'
    keys = stored if engine.text_keys else "3"
    yield _changed("their-keys", engine.query(f"id in [{keys}]"), expect="rewrite")
    hybrid = pb.HybridSearchRequest(collection_name=NOTES, requests=[search], output_fields=["text"])
    hybrid.rank_params.add(key="strategy", value="rrf")
    hybrid.rank_params.add(key="limit", value="100")
    broken = pb.HybridSearchRequest()
    broken.CopyFrom(hybrid)
    broken.requests[0].dsl = f'price >= 0) or (tenant_id == "{THEIRS}"'
    yield _changed("hybrid", hybrid, method="HybridSearch", expect="rewrite")
    yield _changed("hybrid-break", broken, method="HybridSearch")
    named = pb.HybridSearchRequest()
    named.CopyFrom(hybrid)
    named.requests[0].collection_name = physical
    yield _changed("hybrid-their-collection", named, method="HybridSearch")


def _changed(name: str, request: Message, *, method: str = "Query", expect: Any = "deny", **fields: object) -> Attack:
    made = type(request)()
    made.CopyFrom(request)
    for field, value in fields.items():
        if isinstance(value, list):
            del getattr(made, field)[:]
            getattr(made, field).extend(value)
        else:
            setattr(made, field, value)
    body = write_message(made.SerializeToString())
    return Attack(id=name, method=method, body=body, expect=expect)


def run(engine: Engine) -> Seen:
    """Try every attack; none of them writes."""
    return attempt(engine, attacks(engine))
