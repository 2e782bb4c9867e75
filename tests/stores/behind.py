"""A real engine behind Envoy and the sidecar, its tenants as raw gRPC clients, and the operator beside them.

    async with behind(folder, engine.address, "collection") as stack:
        acme = exits.enter(Tenant(stack.address, "acme"))
        await acme.make("notes")

What tenants send is as plain as gRPC allows, so that a test says what goes over the wire, not what an SDK adds.
"""

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import grpc.aio
from dataplane.harness import KEYS, Stack, rules, stack
from dataplane.upstream import Upstream
from google.protobuf.message import Message
from msgspec import Struct
from tenantry.adapters.milvus_admin import MilvusAdmin
from tenantry.core.rules_stores import Store
from tenantry.core.vector import operator
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.milvus import METHODS, SERVICE

M = TypeVar("M", bound=Message)

DIMENSION = 8
INT64, VARCHAR, JSON, FLOAT_VECTOR = 5, 21, 23, 101
UNBOUNDED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
PROBE = [1.0] + [0.0] * (DIMENSION - 1)

Key = int | str


def store(kind: str, address: str, isolation: str, **more: Any) -> dict[str, Any]:
    """A store of a rules document."""
    return {"kind": kind, "endpoints": [address], "isolation": isolation, **more}


@contextlib.asynccontextmanager
async def behind(folder: Path, stores: Mapping[str, Any], **members: Any) -> AsyncIterator[Stack]:
    """Run Envoy and the sidecar before these stores; when the block begins, all are open."""

    def build(upstream: Upstream) -> dict[str, Any]:
        return rules(upstream, stores=dict(stores), **members)

    async with stack(folder, build) as running:
        await opened(running)
        yield running


async def opened(running: Stack, seconds: float = 90) -> None:
    """Wait until each store was shown to keep tenants apart; fail at once when one was shown not to."""
    assert running.sidecar is not None
    gate: Any = running.sidecar.stores
    async with asyncio.timeout(seconds):
        while not gate.status() or any(each.standing != "safe" for each in gate.status()):
            assert not any(each.standing == "unsafe" for each in gate.status()), gate.status()
            await asyncio.sleep(0.02)


class Row(Struct, frozen=True, kw_only=True):
    """What these tests read of a row."""

    id: Key
    text: str


def rows(marker: str, keys: Iterable[Key], note: str = "") -> list[Row]:
    """Rows whose texts begin with the tenant's marker."""
    return [Row(id=key, text=f"{marker}: {key}{note}") for key in keys]


class RefusedError(Exception):
    """The answer was an error: gRPC's `code`, or Milvus's number in `status`; `everything` is all that came."""

    def __init__(self, code: grpc.StatusCode, details: str, status: int = 0, metadata: object = ()) -> None:
        super().__init__(f"{code.name} {status}: {details}")
        self.everything = f"{details} {metadata}"
        self.code = code
        self.details = details
        self.status = status


class Tenant:
    """One tenant's client over one connection."""

    def __init__(self, address: str, name: str, *, dynamic: bool = False, host: str = "") -> None:
        """`dynamic`: the collection has no column for texts, so they are dynamic fields. `host`: `:authority`."""
        self.name = name
        self._dynamic = dynamic
        authority = (("grpc.default_authority", host),) if host else ()
        self._channel = grpc.aio.insecure_channel(address, options=UNBOUNDED + authority)
        self._metadata = (("authorization", f"Bearer {KEYS[name]}"),)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close()

    async def raw(self, method: str, message: bytes, *, timeout: float = 20, patient: bool = False) -> bytes:
        """Send bytes, return bytes; AioRpcError as gRPC has it."""
        call = self._channel.unary_unary(SERVICE + method)
        answer: bytes = await call(message, metadata=self._metadata, timeout=timeout, wait_for_ready=patient)
        return answer

    async def call(self, method: str, request: Message, *, timeout: float = 20) -> Any:
        """Make a call; raise RefusedError for an error of either kind."""
        try:
            data = await self.raw(method, request.SerializeToString(), timeout=timeout)
        except grpc.aio.AioRpcError as failed:
            metadata = (failed.initial_metadata(), failed.trailing_metadata())
            raise RefusedError(failed.code(), failed.details() or "", metadata=metadata) from None
        answer = METHODS[method].answer.FromString(data)
        status: Any = answer if isinstance(answer, pb.Status) else answer.status  # type: ignore[attr-defined]
        if status.code or status.error_code:
            raise RefusedError(grpc.StatusCode.OK, status.reason, status.code or status.error_code)
        return answer

    async def make(self, collection: str) -> None:
        """Make a collection of its own, indexed and loaded."""
        await self.call("CreateCollection", creation(collection))
        index = pb.CreateIndexRequest(collection_name=collection, field_name="vector", index_name="vector")
        for key, value in (("index_type", "FLAT"), ("metric_type", "L2")):
            index.extra_params.add(key=key, value=value)
        await self.call("CreateIndex", index)
        await self.call("LoadCollection", pb.LoadCollectionRequest(collection_name=collection, replica_number=1))
        progress = pb.LoadStateRequest(collection_name=collection)
        async with asyncio.timeout(20):
            while (await self.call("GetLoadingProgress", progress)).progress < operator.LOADED_PERCENT:
                await asyncio.sleep(0.05)

    async def insert(self, collection: str, new: list[Row]) -> None:
        await self.call("Insert", insertion(pb.InsertRequest, collection, new, dynamic=self._dynamic))

    async def upsert(self, collection: str, new: list[Row]) -> None:
        await self.call("Upsert", insertion(pb.UpsertRequest, collection, new, dynamic=self._dynamic))

    async def delete(self, collection: str, expr: str) -> None:
        await self.call("Delete", pb.DeleteRequest(collection_name=collection, expr=expr))

    async def query(self, collection: str, expr: str) -> list[Row]:
        return queried(await self.call("Query", query(collection, expr)))

    async def count(self, collection: str) -> int:
        answer = await self.call("Query", query(collection, "", fields=["count(*)"]))
        return int(answer.fields_data[0].scalars.long_data.data[0])

    async def search(self, collection: str, limit: int = 100, expr: str = "") -> list[Row]:
        return searched(await self.call("Search", search(collection, limit, expr)))


def creation(collection: str) -> pb.CreateCollectionRequest:
    schema = pb.CollectionSchema(name=collection)
    schema.fields.add(name="id", data_type=INT64, is_primary_key=True)
    schema.fields.add(name="text", data_type=VARCHAR).type_params.add(key="max_length", value="200")
    schema.fields.add(name="vector", data_type=FLOAT_VECTOR).type_params.add(key="dim", value=str(DIMENSION))
    return pb.CreateCollectionRequest(collection_name=collection, schema=schema.SerializeToString(), shards_num=1)


def insertion(kind: type[M], collection: str, new: list[Row], *, dynamic: bool = False) -> M:
    request: Any = kind()
    request.collection_name, request.num_rows = collection, len(new)
    column = request.fields_data.add(field_name="id", type=VARCHAR if isinstance(new[0].id, str) else INT64)
    data = column.scalars.string_data if isinstance(new[0].id, str) else column.scalars.long_data
    data.data.extend(row.id for row in new)
    if dynamic:
        members = request.fields_data.add(field_name="$meta", type=JSON, is_dynamic=True)
        members.scalars.json_data.data.extend(json.dumps({"text": row.text}).encode() for row in new)
    else:
        texts = request.fields_data.add(field_name="text", type=VARCHAR)
        texts.scalars.string_data.data.extend(row.text for row in new)
    vectors = request.fields_data.add(field_name="vector", type=FLOAT_VECTOR).vectors
    vectors.dim = DIMENSION
    vectors.float_vector.data.extend(PROBE * len(new))
    return request  # type: ignore[no-any-return]


def query(collection: str, expr: str, *, fields: Iterable[str] = ("id", "text"), **more: Any) -> pb.QueryRequest:
    return pb.QueryRequest(
        collection_name=collection, expr=expr, output_fields=list(fields), consistency_level=operator.STRONG, **more
    )


def search(collection: str, limit: int, expr: str = "") -> pb.SearchRequest:
    values = [struct.pack(f"<{DIMENSION}f", *PROBE)]
    group = pb.PlaceholderGroup(placeholders=[pb.PlaceholderValue(tag="$0", type=FLOAT_VECTOR, values=values)])
    request = pb.SearchRequest(
        collection_name=collection, dsl=expr, dsl_type=1, placeholder_group=group.SerializeToString(), nq=1,
        output_fields=["text"], consistency_level=operator.STRONG,
    )  # fmt: skip
    parameters = {"anns_field": "vector", "topk": str(limit), "params": "{}", "metric_type": "L2"}
    for key, value in parameters.items():
        request.search_params.add(key=key, value=value)
    return request


def queried(answer: pb.QueryResults) -> list[Row]:
    """The rows of a query, by their keys."""
    return _rows(answer.fields_data, None)


def searched(answer: pb.SearchResults) -> list[Row]:
    """The rows of a search with one vector, by their keys."""
    ids = answer.results.ids
    return _rows(answer.results.fields_data, [*ids.int_id.data, *ids.str_id.data])


def _rows(columns: Iterable[pb.FieldData], keys: list[Key] | None) -> list[Row]:
    by_name = {column.field_name: column.scalars for column in columns}
    if keys is None:
        scalars = by_name["id"]
        keys = [*scalars.long_data.data, *scalars.string_data.data]
    if not keys:
        return []
    texts = _texts(by_name)
    return sorted(
        (Row(id=key, text=text) for key, text in zip(keys, texts, strict=True)), key=lambda row: (str(row.id), row.text)
    )


def _texts(columns: Mapping[str, pb.ScalarField]) -> list[str]:
    if "text" in columns:
        return list(columns["text"].string_data.data)
    return [json.loads(members)["text"] for members in columns["$meta"].json_data.data]


class Operator:
    """The engine itself, past tenantry, as its operator sees it: all rows of all tenants, with the tenant column."""

    def __init__(self, address: str) -> None:
        self._store = Store(kind="milvus", endpoints=(address,), isolation="collection")

    async def collections(self, database: str = "") -> list[str]:
        async with aclosing(MilvusAdmin(self._store, None)) as admin:
            return sorted(await admin.perform(operator.collections(database)))

    async def rows(
        self, collection: str, database: str = "", partitions: Iterable[str] = ()
    ) -> list[tuple[str, Key, str]]:
        """Tenant, key and text of each row. Of equal keys an engine shows one, but for those in other partitions."""
        fields = ("id", "text", "tenant_id")
        request = query(collection, "text != ''", fields=fields, db_name=database, partition_names=list(partitions))
        async with aclosing(MilvusAdmin(self._store, None)) as admin:
            answer = await admin.perform(operator.ask("Query", request, pb.QueryResults))
        stamps = {column.field_name: column.scalars for column in answer.fields_data}
        keys: list[Key] = [*stamps["id"].long_data.data, *stamps["id"].string_data.data]
        return sorted(zip(stamps["tenant_id"].string_data.data, keys, _texts(stamps) if keys else (), strict=True))
