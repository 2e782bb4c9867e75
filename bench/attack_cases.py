"""The known attacks on Milvus's gRPC, and those on primary keys that two tenants share, against one engine.

`expect` of a case is what whoever wrote it thought right. One that was to be denied and is answered with nothing of
anybody else's (our scope was put around it) is no leak, and is listed as a deviation.
"""

import gzip
import json
from collections.abc import Iterator
from typing import Any

from tenantry.core.vector import scope
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.grpc_frame import write_message

from bench.attack_seen import Seen, load
from bench.attack_store import ALL, NOTES, OURS, ROWS, THEIRS, VARCHAR, Engine
from bench.attack_wire import Attack, Expect, Headers, attempt, bomb, flagged, send

UNKNOWN = {
    ("Query", "namespace"): (14, b"globex"), ("Search", "ids"): (22, b"\x0a\x02\x08\x05"),
    ("Search", "search_aggregation"): (23, b"\x0a\x09tenant_id"), ("Search", "function_chains"): (24, b"\x0a\x01x"),
    ("Search", "highlighter"): (21, b"\x08\x01"), ("Upsert", "field_ops"): (11, b"\x0a\x05price"),
    ("Upsert", "partial_update"): (9, None),
}  # fmt: skip
"""Fields that our subset of the messages does not have: number, and content of that length; None is `true`."""

THEIR_KEY = 3
"""A primary key that both tenants have."""


def run(engine: Engine) -> Seen:
    """Try every case of Milvus's gRPC; rows of globex's that they cost are counted."""
    before = engine.theirs()
    seen = attempt(engine, (attack for case in load("milvus.grpc") for attack in _attacks(engine, case)))
    seen.rows_lost = len(set(before) ^ set(engine.theirs()))
    return seen


def _attacks(engine: Engine, case: dict[str, Any]) -> Iterator[Attack]:
    name, request = case["id"], case["request"]
    method, fields = request["method"], request.get("fields", {})
    expect: Expect = case["expect"] if case["expect"] in ("deny", "rewrite") else "either"
    if name.startswith("method-"):
        named = pb.CollectionRequest(collection_name=NOTES).SerializeToString()
        for body in (b"", named):
            yield Attack(id=name, method=method, body=write_message(body), expect=expect)
    elif "expr" in request:
        # A constant is for the engine to take or not; both are no leak.
        text = request["expr"].replace('"A"', f'"{OURS}"').replace('"B"', f'"{THEIRS}"')
        for read, made in (("Query", engine.query(text)), ("Search", engine.search(text))):
            yield Attack(id=name, method=read, body=write_message(made.SerializeToString()), expect=expect)
        counted = engine.query(text, fields=("count(*)",))
        yield Attack(id=name, method="Query", body=write_message(counted.SerializeToString()), expect=expect)
    else:
        headers: Headers = tuple((key, scope.database_of(THEIRS)) for key in fields.get("metadata", {}))
        if "grpc_encoding" in fields:
            headers = (("grpc-encoding", fields["grpc_encoding"]),)
        yield Attack(id=name, method=method, body=_body(engine, method, fields), headers=headers, expect=expect)


def _body(engine: Engine, method: str, fields: dict[str, Any]) -> bytes:
    if "inflated" in fields:
        return flagged(bomb(2048))
    data: bytes = _message(engine, method, fields).SerializeToString()
    for name in fields:
        if (method, name) in UNKNOWN:
            number, content = UNKNOWN[method, name]
            data += _field(number, content)
    data += bytes.fromhex(fields.get("raw_append_hex", ""))
    if "raw_append" in fields:
        data += _field(4, b"price >= 0")
    return flagged(gzip.compress(data, mtime=0)) if "grpc_encoding" in fields else write_message(data)


def _field(number: int, content: bytes | None) -> bytes:
    tag = number << 3 | (0 if content is None else 2)
    first = bytes([tag]) if tag < 0x80 else bytes([tag & 0x7F | 0x80, tag >> 7])
    return first + (b"\x01" if content is None else bytes([len(content)]) + content)


def _message(engine: Engine, method: str, fields: dict[str, Any]) -> Any:
    if method == "Delete":
        return pb.DeleteRequest(collection_name=NOTES, expr=f"id in [{json.dumps(engine.key(THEIR_KEY))}]")
    if method in ("Insert", "Upsert"):
        return _write(engine, method, fields)
    if method == "Search":
        search = engine.search(fields.get("dsl", ALL), dsl_type=fields.get("dsl_type", 1))
        search.partition_names.extend(scope.partition_of(THEIRS) for _ in fields.get("partition_names", ()))
        for key, value in fields.get("search_params", {}).items():
            search.search_params.add(key=key, value=value)
        return search
    query = engine.query(fields.get("expr", ALL).replace("id >=", "price >="))
    query.db_name = scope.database_of(THEIRS) if "db_name" in fields else ""
    for key, value in fields.get("query_params", {}).items():
        query.query_params.add(key=key, value=value if key != "collection_id" else str(engine.their_collection()))
    for key, value in fields.get("expr_template_values", {}).items():
        query.expr_template_values[key].int64_val = value
    return query


def _write(engine: Engine, method: str, fields: dict[str, Any]) -> Any:
    request = engine.rows(OURS, method, NOTES, range(THEIR_KEY, THEIR_KEY + 1))
    for name in fields.get("columns", []):
        request.fields_data.add(type=VARCHAR, field_name=name).scalars.string_data.data.append(THEIRS)
    if "$meta" in fields:
        request.fields_data[-1].scalars.json_data.data[0] = json.dumps({"tenant_id": THEIRS}).encode()
    return request


def shared_keys(engine: Engine) -> int:
    """Write, delete and overwrite with globex's primary keys, as acme; return how many of globex's rows are lost.

    A row that is changed or comes to be counts like one that is gone.
    """
    before = set(engine.theirs())
    lost = abs(ROWS - len(before))
    for step in _steps(engine):
        send(engine.address, step)
        lost = max(lost, len(before ^ set(engine.theirs())))
    engine.insert(OURS)
    return lost


def _steps(engine: Engine) -> Iterator[Attack]:
    keys = json.dumps([engine.key(number) for number in range(ROWS)])
    stored = json.dumps([f"{scope.key_prefix_of(THEIRS)}{engine.key(number)}" for number in range(ROWS)])

    def step(method: str, message: Any) -> Attack:
        return Attack(id=method, method=method, body=write_message(message.SerializeToString()))

    def delete(text: str) -> Attack:
        return step("Delete", pb.DeleteRequest(collection_name=NOTES, expr=text))

    def write(method: str, *, forged: bool = False, prefix: str = "") -> Attack:
        request = engine.rows(OURS, method, NOTES, range(ROWS))
        if prefix:
            data = request.fields_data[0].scalars.string_data.data
            data[:] = [prefix + key for key in data]
        if forged:
            column = request.fields_data.add(type=VARCHAR, field_name="tenant_id")
            column.scalars.string_data.data.extend([THEIRS] * ROWS)
        return step(method, request)

    yield write("Insert")
    yield delete(f"id in {keys}")
    yield write("Upsert")
    yield delete(ALL)
    yield write("Insert", forged=True)
    yield write("Upsert", forged=True)
    yield delete(f"not (id in {keys})" if engine.kind != "lite25" else f"id not in {keys}")
    if engine.text_keys:
        prefix = scope.key_prefix_of(THEIRS)
        yield delete(f"id in {stored}")
        yield write("Insert", prefix=prefix)
        yield write("Upsert", prefix=prefix)
        yield delete(f'id like "{prefix}%"')
    yield delete(ALL)
