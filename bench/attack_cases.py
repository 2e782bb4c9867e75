"""The known attacks (`tests/data/attacks.json`) as bytes on the wire, against one engine behind tenantry.

An answer leaks when it holds the other tenant's name, which every text of its rows does. `expect` of a case is what
whoever wrote it thought right; a case that was to be denied and is answered with nothing of anybody else's (our scope
was put around it) is no leak, and is listed as a deviation.
"""

import json
from pathlib import Path
from typing import Any

import grpc
from msgspec import Struct
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.grpc_frame import write_message

from bench.attack_store import NOTES, ROWS, THEIRS, Engine, refused

CASES = Path(__file__).resolve().parent.parent / "tests" / "data" / "attacks.json"

UNKNOWN = {
    ("Query", "namespace"): (14, b"B"), ("Search", "ids"): (22, b"\x0a\x02\x08\x05"),
    ("Search", "search_aggregation"): (23, b"\x0a\x09tenant_id"), ("Search", "function_chains"): (24, b"\x0a\x01x"),
    ("Search", "highlighter"): (21, b"\x08\x01"), ("Upsert", "field_ops"): (11, b"\x0a\x05price"),
}  # fmt: skip
"""Fields that our subset of the messages does not have: number, and content of that length."""


class Seen(Struct, kw_only=True):
    """What became of the cases at one engine. `leaks` and `deviations` are ids of cases."""

    cases: int = 0
    denied: int = 0
    leaks: list[str] = []
    deviations: dict[str, str] = {}


def load(api: str) -> list[dict[str, Any]]:
    """Return the cases of one API."""
    return [case for case in json.loads(CASES.read_text()) if case["api"] == api]


def run(engine: Engine) -> Seen:
    """Try every case of Milvus's gRPC."""
    seen = Seen()
    for case in load("milvus.grpc"):
        seen.cases += 1
        try:
            answer = _send(engine, case)
        except grpc.RpcError as error:
            if refused(error) is None:
                seen.deviations[case["id"]] = f"{error.code().name}: {error.details()}"
            else:
                seen.denied += 1
            continue
        if THEIRS.encode() in answer:
            seen.leaks.append(case["id"])
        elif case["expect"] == "deny":
            seen.deviations[case["id"]] = _said(answer)
    return seen


def _said(answer: bytes) -> str:
    status = pb.Status()
    try:
        status = pb.BoolResponse.FromString(answer).status
    except Exception:  # noqa: BLE001  # an answer of another shape: whatever it is, it was searched for foreign bytes
        return "answered, with nothing of another tenant's"
    return f"the engine refused: {status.reason[:80]}" if status.code else "answered, with nothing of another tenant's"


def _send(engine: Engine, case: dict[str, Any]) -> bytes:
    request = case["request"]
    method, fields = request["method"], request.get("fields", {})
    if case["id"].startswith("method-"):
        return engine.client().call(method, write_message(b""))
    if "expr" in request:
        return engine.send("Query", engine.query(request["expr"]))
    message = _message(engine, method, fields)
    data = message.SerializeToString()
    for name in fields:
        if (method, name) in UNKNOWN:
            number, content = UNKNOWN[method, name]
            data += _tag(number, 2) + bytes([len(content)]) + content
    if "raw_append_hex" in fields:
        data += bytes.fromhex(fields["raw_append_hex"])
    if "raw_append" in fields:
        data += b"\x22\x0aprice >= 0"
    if fields.get("partial_update"):
        data += _tag(9, 0) + b"\x01"
    if "inflated" in fields:
        data = bytes(300 * 1024 * 1024)
    compression = grpc.Compression.Gzip if "grpc_encoding" in fields else None
    metadata = tuple(fields.get("metadata", {}).items())
    return engine.client().call(method, write_message(data), metadata=metadata, compression=compression)


def _tag(number: int, kind: int) -> bytes:
    value = number << 3 | kind
    return bytes([value]) if value < 0x80 else bytes([value & 0x7F | 0x80, value >> 7])


def _message(engine: Engine, method: str, fields: dict[str, Any]) -> Any:
    if method == "Search":
        return _search(fields)
    if method == "Delete":
        return pb.DeleteRequest(collection_name=NOTES, expr=fields["expr"] if not engine.text_keys else 'id == "k105"')
    if method in ("Insert", "Upsert"):
        return _write(engine, method, fields)
    query = engine.query(fields.get("expr", "price >= 0"))
    query.db_name = fields.get("db_name", "")
    for key, value in fields.get("query_params", {}).items():
        query.query_params.add(key=key, value=str(value))
    for key, value in fields.get("expr_template_values", {}).items():
        query.expr_template_values[key].int64_val = value
    return query


def _search(fields: dict[str, Any]) -> Any:
    values = [b"\x00\x00\x80?" * 4]
    group = pb.PlaceholderGroup(placeholders=[pb.PlaceholderValue(tag="$0", type=101, values=values)])
    search = pb.SearchRequest(
        collection_name=NOTES, dsl=fields.get("dsl", ""), dsl_type=fields.get("dsl_type", 1), nq=1,
        placeholder_group=group.SerializeToString(), output_fields=["text"], guarantee_timestamp=1,
        partition_names=fields.get("partition_names", []),
    )  # fmt: skip
    parameters = {"anns_field": "vec", "topk": "100", "params": "{}", "metric_type": "L2"}
    for key, value in {**parameters, **fields.get("search_params", {})}.items():
        search.search_params.add(key=key, value=str(value))
    return search


def _write(engine: Engine, method: str, fields: dict[str, Any]) -> Any:
    request = engine.rows("acme", method, NOTES, range(3, 4))
    for name in fields.get("columns", []):
        column = request.fields_data.add(type=21, field_name=name)
        column.scalars.string_data.data.append(THEIRS)
    if "$meta" in fields:
        request.fields_data[-1].scalars.json_data.data[0] = json.dumps(fields["$meta"]).encode()
    return request


def shared_keys(engine: Engine) -> int:
    """Write, delete and overwrite acme's rows with globex's primary keys; return how many of globex's rows are lost."""
    before = engine.theirs()
    if len(before) != ROWS:
        return ROWS - len(before)
    delete = ", ".join(f'"k{n}"' if engine.text_keys else str(n) for n in range(ROWS))
    for step in ("Insert", "Delete", "Upsert", "Delete"):
        if step == "Delete":
            engine.send("Delete", pb.DeleteRequest(collection_name=NOTES, expr=f"id in [{delete}]"))
            engine.send("Delete", pb.DeleteRequest(collection_name=NOTES, expr="price >= 0"))
        else:
            engine.insert("acme", method=step)
        if step == "Insert" and len(engine.theirs()) != ROWS:
            break
    lost = len(set(before) - set(engine.theirs()))
    engine.insert("acme")
    return lost
