"""The break-outs that the attacker tries: with pymilvus where it lets one, else with the gRPC stub that it ships.

Each returns what came back, which is searched for other tenants' documents afterwards. What one of them changes in
the attacker's own collection it puts back, so that the engine holds at the end what it held before.
"""

import base64
from collections.abc import Callable
from typing import Any

import grpc
from pymilvus import MilvusClient
from pymilvus.grpc_gen import milvus_pb2 as pb
from pymilvus.grpc_gen import milvus_pb2_grpc

from demo.retrieval_story import TENANT
from demo.retrieval_wire import Attacked, Connect

TIMEOUT_SECONDS = 10.0
MAX_SAID = 4_000_000
NEW_KEY = 9001
ALL = ["id", "title", "text"]
UNKNOWN_FIELD = b"\x9a\x06\x01x"
"""Field 99 of a request, which no version has yet."""


class Attacker:
    """What an attack works with: the attacker's own key and client, and the real name of the other's collection."""

    def __init__(self, milvus: MilvusClient, connect: Connect, rows: list[dict[str, Any]]) -> None:
        self.milvus = milvus
        self.uri, self.key = connect.uri, connect.key
        self.name, self.other = connect.collection, connect.other
        self.rows = rows
        self.vector: list[float] = rows[0]["vector"]
        self._channel = grpc.insecure_channel(connect.uri.removeprefix("http://"))
        self._stub = milvus_pb2_grpc.MilvusServiceStub(self._channel)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def attempt(self, name: str) -> Attacked:
        """Try an attack; say what became of it."""
        try:
            answer = ATTACKS[name](self)
        except Exception as error:  # noqa: BLE001  # a refusal comes as one of several types
            return _refused(error)
        count = answer if isinstance(answer, int) else None
        status = getattr(answer, "status", answer if hasattr(answer, "error_code") else None)
        if status is not None and (status.code or status.error_code):
            return Attacked(refused=f"Milvus code {status.code or status.error_code}", message=status.reason)
        said = str(list(answer) if isinstance(answer, list) else answer)  # the SDK's own lists show their first rows
        if len(said) > MAX_SAID:  # what was cut off could not be searched
            raise RuntimeError(f"{name}: an answer of {len(said)} characters")
        return Attacked(said=said, count=count)

    def query(self, filter_: str, **options: Any) -> Any:
        """Query with a filter."""
        options = {"output_fields": ALL, "limit": 100, **options}
        return self.milvus.query(self.name, filter=filter_, timeout=TIMEOUT_SECONDS, **options)

    def search(self, **options: Any) -> Any:
        """Search for what is near the attacker's first document, in the whole collection."""
        options = {"output_fields": ALL, "limit": 100, **options}
        found = self.milvus.search(self.name, data=[self.vector], timeout=TIMEOUT_SECONDS, **options)
        return [dict(hit) for hits in found for hit in hits]

    def call(self, method: str, request: Any, *, metadata: tuple[tuple[str, str], ...] = (), gzip: bool = False) -> Any:
        """Call a method of Milvus below the SDK, and show its answer."""
        key = base64.b64encode(self.key.encode()).decode()
        return getattr(self._stub, method)(
            request,
            timeout=TIMEOUT_SECONDS,
            metadata=(("authorization", key), *metadata),
            compression=grpc.Compression.Gzip if gzip else None,
        )

    def raw_query(self, expr: str = "id >= 0", **fields: Any) -> pb.QueryRequest:
        """Return a query below the SDK."""
        return pb.QueryRequest(collection_name=self.name, expr=expr, output_fields=ALL, **fields)

    def restore(self) -> None:
        """Write the attacker's own rows again."""
        self.milvus.upsert(self.name, self.rows, timeout=TIMEOUT_SECONDS)


def _refused(error: BaseException) -> Attacked:
    """Say what refused: the sidecar by a gRPC status, the engine by a code of its own, or pymilvus before either."""
    cause: BaseException | None = error
    if not isinstance(error, grpc.RpcError):
        cause = error.__cause__  # pymilvus raises some errors from themselves: one step, no loop
    if isinstance(cause, grpc.RpcError):
        return Attacked(refused=cause.code().name, message=cause.details() or "")
    code = getattr(error, "code", None)
    by = f"Milvus code {code}" if isinstance(code, int) else type(error).__name__
    return Attacked(refused=by, message=str(getattr(error, "message", error))[:300])


def _unknown_field(attacker: Attacker) -> Any:
    request = attacker.raw_query()
    request.MergeFromString(UNKNOWN_FIELD)
    return attacker.call("Query", request)


def _search_ids(attacker: Attacker) -> Any:
    request = pb.SearchRequest(collection_name=attacker.name, dsl_type=1, nq=1, output_fields=ALL)
    request.ids.int_id.data.append(1)
    for key, value in (("anns_field", "vector"), ("topk", "5"), ("params", "{}")):
        request.search_params.add(key=key, value=value)
    return attacker.call("Search", request)


def _iterate_another(attacker: Attacker) -> Any:
    request = attacker.raw_query()
    for key, value in (("iterator", "True"), ("collection_id", "1"), ("limit", "100")):
        request.query_params.add(key=key, value=value)
    return attacker.call("Query", request)


def _forged_column(attacker: Attacker) -> Any:
    """Insert a row that says it is the other's: it must become the attacker's own, and be seen as that."""
    request = pb.InsertRequest(collection_name=attacker.name, num_rows=1)
    for name, kind, data in (("title", 21, "forged"), ("text", 21, "forged"), ("tenant_id", 21, TENANT)):
        column = request.fields_data.add(field_name=name, type=kind)
        column.scalars.string_data.data.append(data)
    request.fields_data.add(field_name="id", type=5).scalars.long_data.data.append(NEW_KEY)
    vector = request.fields_data.add(field_name="vector", type=101)
    vector.vectors.dim = len(attacker.vector)
    vector.vectors.float_vector.data.extend(attacker.vector)
    dynamic = request.fields_data.add(field_name="$meta", type=23, is_dynamic=True)
    dynamic.scalars.json_data.data.append(b"{}")
    try:
        answer = attacker.call("Insert", request)
        if answer.status.code:
            return answer
        seen = attacker.query(f"id == {NEW_KEY}", output_fields=["id", "text"])
        return f"{answer.insert_cnt} row written, {len(seen)} of it among its own"
    finally:
        attacker.milvus.delete(attacker.name, ids=[NEW_KEY], timeout=TIMEOUT_SECONDS)


def _dynamic_column(attacker: Attacker) -> Any:
    row = {**attacker.rows[0], "id": NEW_KEY, "tenant_id": TENANT}
    try:
        return attacker.milvus.insert(attacker.name, [row], timeout=TIMEOUT_SECONDS)
    finally:
        attacker.milvus.delete(attacker.name, ids=[NEW_KEY], timeout=TIMEOUT_SECONDS)


def _delete_same_keys(attacker: Attacker) -> Any:
    try:
        keys = [row["id"] for row in attacker.rows]
        return attacker.milvus.delete(attacker.name, ids=keys, timeout=TIMEOUT_SECONDS)
    finally:
        attacker.restore()


def _delete_all(attacker: Attacker) -> Any:
    try:
        return attacker.milvus.delete(attacker.name, filter="id >= 0", timeout=TIMEOUT_SECONDS)
    finally:
        attacker.restore()


def _overwrite_same_keys(attacker: Attacker) -> Any:
    try:
        rows = [{**row, "text": "overwritten"} for row in attacker.rows]
        return attacker.milvus.upsert(attacker.name, rows, timeout=TIMEOUT_SECONDS)
    finally:
        attacker.restore()


def _other_database(attacker: Attacker) -> Any:
    client = MilvusClient(uri=attacker.uri, token=attacker.key, db_name=TENANT, timeout=TIMEOUT_SECONDS)
    return client.query(attacker.name, filter="id >= 0", output_fields=ALL, limit=100)


def _bare(attacker: Attacker) -> Any:
    """Ask without any key."""
    stub = milvus_pb2_grpc.MilvusServiceStub(attacker._channel)  # noqa: SLF001
    return stub.Query(attacker.raw_query(), timeout=TIMEOUT_SECONDS)


def _count(attacker: Attacker) -> int:
    found = attacker.milvus.query(attacker.name, filter="", output_fields=["count(*)"], timeout=TIMEOUT_SECONDS)
    return int(found[0]["count(*)"])


_OR = "id >= 0) or (id >= 0"

ATTACKS: dict[str, Callable[[Attacker], Any]] = {
    # Filters.
    f"filter {_OR}": lambda it: it.query(_OR),
    f'filter id >= 0) || (tenant_id == "{TENANT}"': lambda it: it.query(f'id >= 0) || (tenant_id == "{TENANT}"'),
    "filter id >= 0)) or ((id >= 0 #": lambda it: it.query("id >= 0)) or ((id >= 0 #"),
    "filter id >= 0 ` ) or (id >= 0": lambda it: it.query("id >= 0 ` ) or (id >= 0"),
    f'filter tenant_id == "{TENANT}"': lambda it: it.query(f'tenant_id == "{TENANT}"'),
    'filter TENANT_ID like "%"': lambda it: it.query('TENANT_ID like "%"'),
    f'filter $meta["tenant_id"] == "{TENANT}"': lambda it: it.query(f'$meta["tenant_id"] == "{TENANT}" or id >= 0'),
    "filter in 10,000 parentheses": lambda it: it.query("(" * 10_000 + "id >= 0" + ")" * 10_000),
    "filter that is always true": lambda it: it.query("id >= 0 or id < 0"),
    "no filter at all": lambda it: it.query(""),
    "count(*) of everything": _count,
    # Fields and parameters.
    "output field tenant_id": lambda it: it.query("id >= 0", output_fields=["text", "tenant_id"]),
    "output field *": lambda it: it.search(output_fields=["*"]),
    "group by tenant_id": lambda it: it.search(group_by_field="tenant_id"),
    "search by ids, with another's row as the question": _search_ids,
    "iterator over another collection's id": _iterate_another,
    "a field that no version of Milvus has": _unknown_field,
    # Names.
    f"database {TENANT}": _other_database,
    f"metadata dbname: {TENANT}": lambda it: it.call("Query", it.raw_query(), metadata=(("dbname", TENANT),)),
    f"metadata x-tenantry-tenant: {TENANT}": lambda it: it.call(
        "Query", it.raw_query(), metadata=(("x-tenantry-tenant", TENANT),)
    ),
    "db_name in the request": lambda it: it.call("Query", it.raw_query(db_name=TENANT)),
    "partition names": lambda it: it.query("id >= 0", partition_names=["_default", TENANT]),
    "the other's collection by its real name": lambda it: it.milvus.query(
        it.other, filter="id >= 0", output_fields=ALL, limit=100
    ),
    "an alias for the other's collection": lambda it: it.milvus.create_alias(it.other, "mine"),
    "rename the other's collection": lambda it: it.milvus.rename_collection(it.other, "mine"),
    "drop the other's collection": lambda it: it.call("DropCollection", pb.DropCollectionRequest(
        collection_name=it.other)),
    "list databases": lambda it: it.milvus.list_databases(),
    "list collections": lambda it: it.milvus.list_collections(),
    # Rows.
    f"insert with the column tenant_id: {TENANT}": _forged_column,
    f"insert with the dynamic field tenant_id: {TENANT}": _dynamic_column,
    "upsert all of the other's primary keys": _overwrite_same_keys,
    "delete all of the other's primary keys": _delete_same_keys,
    "delete everything": _delete_all,
    # Methods and the wire.
    "method CreateCredential": lambda it: it.call("CreateCredential", pb.CreateCredentialRequest(
        username="mallory", password="bQ==")),
    "method BackupRBAC": lambda it: it.call("BackupRBAC", pb.BackupRBACMetaRequest()),
    "a break-out in gzip": lambda it: it.call("Query", it.raw_query(_OR), gzip=True),
    "a plain query in gzip": lambda it: it.call("Query", it.raw_query(), gzip=True),
    "no key": _bare,
}  # fmt: skip
"""By what the report calls them."""
