"""Calls to Milvus as clients make them, and what becomes of them.

query = pb.QueryRequest(collection_name="notes", expr="price > 3")
sent = rewritten("Query", query, PARTITION)        # what the store gets
sent.expr == '(tenant_id == "acme") and (price > 3)'

call = Exchange("Query", PARTITION).sends(query)   # and on the way back
shown = call.hears(pb.QueryResults(fields_data=[texts("tenant_id", "acme"), numbers("id", 1)]))
"""

import struct
from collections.abc import Mapping
from typing import Any, TypeVar

from google.protobuf.message import Message
from tenantry.core.errors import RequestRefusedError
from tenantry.core.events import Header
from tenantry.core.rules_stores import Collection, Store
from tenantry.core.vector import scope
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.calls import Need, StoreHead, StoreOf, StoreResponse
from tenantry.core.vector.grpc_frame import PREFIX_BYTES, write_message
from tenantry.core.vector.milvus import METHODS, SERVICE, milvus_call

M = TypeVar("M", bound=Message)

TENANT, OTHER = "acme", "globex"
TOKEN, OTHER_TOKEN = scope.token_of(TENANT), scope.token_of(OTHER)
GUARD = f'tenant_id == "{TENANT}"'
MAX_BYTES = 64 * 1024 * 1024
INT64, VARCHAR, JSON, FLOAT_VECTOR = 5, 21, 23, 101


def _store(isolation: Any, **more: Any) -> Store:
    return Store(kind="milvus", endpoints=("127.0.0.1:19530",), isolation=isolation, **more)


DATABASE = _store("database")
COLLECTION = _store("collection")
PARTITION = _store("partition", collections={"notes": Collection(), "files": Collection(tenant_field="owner")})
KEYPREFIX = _store("keyprefix", collections={"notes": Collection(primary_field="pk")})
LAYOUTS = {each.isolation: each for each in (DATABASE, COLLECTION, PARTITION, KEYPREFIX)}
OWN = (DATABASE, COLLECTION)
SHARED = (PARTITION, KEYPREFIX)

PHYSICAL = {"database": "notes", "collection": f"{TOKEN}_notes", "partition": "notes", "keyprefix": "notes"}
"""The real name of the collection `notes` of TENANT, by layout."""


class Exchange:
    """One call of TENANT. `sends` gives it a request, `hears` the store's answer."""

    def __init__(self, method: str, store: Store, *headers: Header, tenant: str = TENANT) -> None:
        given = {name for name, _ in headers}
        usual: tuple[Header, ...] = (("content-type", b"application/grpc"), ("te", b"trailers"))
        head = StoreHead(
            method="POST",
            path=SERVICE + method,
            headers=(*(pair for pair in usual if pair[0] not in given), *headers),
        )
        call = milvus_call(StoreOf(tenant=tenant, name="docs", store=store), head, MAX_BYTES)
        assert call is not None
        self.call = call
        self.method = METHODS[method]
        self.request: Any = None
        self.headers: Mapping[str, str] = {}
        self.need: Need | None = None
        self.rows = 0

    def sends(self, message: Message) -> "Exchange":
        """Put a client's message into scope; `request` is then what the store gets."""
        return self.sends_bytes(message.SerializeToString())

    def sends_bytes(self, message: bytes) -> "Exchange":
        made = self.call.request(write_message(message))
        self.headers, self.need = dict(made.headers), made.need
        self.request = unframed(self.method.request, made.body or b"")
        return self

    def hears(self, answer: M) -> M:
        """Return what the client gets of a store's answer."""
        return unframed(type(answer), self.hears_bytes(answer.SerializeToString()))

    def hears_bytes(self, message: bytes) -> bytes:
        response = StoreResponse(status=200, headers=((":status", b"200"),), body=write_message(message))
        verified = self.call.response(response)
        self.rows = verified.rows
        return verified.body


def unframed(kind: type[M], body: bytes) -> M:
    assert body[0] == 0
    assert int.from_bytes(body[1:PREFIX_BYTES]) == len(body) - PREFIX_BYTES
    return kind.FromString(body[PREFIX_BYTES:])


def rewritten(method: str, message: Message, store: Store, **more: Any) -> Any:
    """Return what the store gets of a client's message."""
    return Exchange(method, store, **more).sends(message).request


def refusal(method: str, message: Message | bytes, store: Store, *headers: Header) -> str:
    """Return the code with which a request is refused, "" if it is not."""
    try:
        exchange = Exchange(method, store, *headers)
        exchange.sends_bytes(message if isinstance(message, bytes) else message.SerializeToString())
    except RequestRefusedError as error:
        return error.code
    return ""


def numbers(name: str, *values: int) -> pb.FieldData:
    column = pb.FieldData(type=INT64, field_name=name)
    column.scalars.long_data.data.extend(values)
    return column


def texts(name: str, *values: str) -> pb.FieldData:
    column = pb.FieldData(type=VARCHAR, field_name=name)
    column.scalars.string_data.data.extend(values)
    return column


def documents(*values: bytes, name: str = "$meta", dynamic: bool = True) -> pb.FieldData:
    column = pb.FieldData(type=JSON, field_name=name, is_dynamic=dynamic)
    column.scalars.json_data.data.extend(values)
    return column


def vectors(name: str, rows: int, dim: int = 2) -> pb.FieldData:
    column = pb.FieldData(type=FLOAT_VECTOR, field_name=name)
    column.vectors.dim = dim
    column.vectors.float_vector.data.extend([0.5] * rows * dim)
    return column


def pairs(**values: object) -> list[pb.KeyValuePair]:
    return [pb.KeyValuePair(key=key, value=str(value)) for key, value in values.items()]


def placeholders(*vectors: tuple[float, ...]) -> bytes:
    values = [struct.pack(f"<{len(vector)}f", *vector) for vector in vectors or ((0.5, 0.5),)]
    value = pb.PlaceholderValue(tag="$0", type=FLOAT_VECTOR, values=values)
    return pb.PlaceholderGroup(placeholders=[value]).SerializeToString()


def search(collection: str = "notes", **more: Any) -> pb.SearchRequest:
    """A search as pymilvus sends it."""
    fields: dict[str, Any] = {
        "dsl": "price > 3",
        "dsl_type": 1,
        "nq": 1,
        "placeholder_group": placeholders(),
        "search_params": pairs(anns_field="vec", topk=10, params="{}"),
        "use_default_consistency": True,
    }
    return pb.SearchRequest(collection_name=collection, **fields | more)


def query(collection: str = "notes", **more: Any) -> pb.QueryRequest:
    fields: dict[str, Any] = {"expr": "price > 3", "output_fields": ["id"], "query_params": pairs(limit=10)}
    return pb.QueryRequest(collection_name=collection, **fields | more)


def delete(collection: str = "notes", **more: Any) -> pb.DeleteRequest:
    return pb.DeleteRequest(collection_name=collection, **{"expr": "id in [105]"} | more)


def insert(*columns: pb.FieldData, rows: int = 2, collection: str = "notes", **more: Any) -> pb.InsertRequest:
    return pb.InsertRequest(collection_name=collection, num_rows=rows, fields_data=columns, **more)


def upsert(*columns: pb.FieldData, rows: int = 2, collection: str = "notes", **more: Any) -> pb.UpsertRequest:
    return pb.UpsertRequest(collection_name=collection, num_rows=rows, fields_data=columns, **more)


def schema(*fields: pb.FieldSchema, **more: Any) -> pb.CollectionSchema:
    """A collection's schema: primary key, vector, and what is given."""
    key = pb.FieldSchema(name="id", data_type=INT64, is_primary_key=True)
    vector = pb.FieldSchema(name="vec", data_type=FLOAT_VECTOR, type_params=pairs(dim=2))
    return pb.CollectionSchema(name="notes", fields=[key, vector, *fields], **more)


def create(made: pb.CollectionSchema | None = None, **more: Any) -> pb.CreateCollectionRequest:
    packed = (schema() if made is None else made).SerializeToString()
    fields: dict[str, Any] = {"collection_name": "notes", "schema": packed, "shards_num": 1}
    return pb.CreateCollectionRequest(**fields | more)


def found(*rows: int, tenants: tuple[str, ...] | None = None, **more: Any) -> pb.SearchResults:
    """An answer to a search of one query: these primary keys, and whose they are."""
    owners = (TENANT,) * len(rows) if tenants is None else tenants
    data: dict[str, Any] = {
        "num_queries": 1,
        "top_k": len(rows),
        "topks": [len(rows)],
        "scores": [0.5] * len(rows),
        "ids": pb.IDs(int_id=pb.LongArray(data=rows)),
        "fields_data": [texts("tenant_id", *owners)],
    }
    return pb.SearchResults(collection_name="x", results=pb.SearchResultData(**data | more))
