"""Milvus over gRPC: the methods that tenants may call, and what each becomes in the tenant's scope.

Default deny: a method that is not in `METHODS` is refused, and so is a request with a field that our subset of the
messages does not have (`_pb/milvus.proto`). A message is parsed, put into scope and serialised again; no byte of the
client's is spliced into anything. Each answer is parsed too, and built again from fields that are known.

`tests/contract/test_vector_milvus_wire.py` names every method of Milvus's service, with the reason where it is not
here; it fails when a newer pymilvus knows another.
"""

import re
from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message
from msgspec import Struct

from tenantry.core.errors import BadRequestError, ForbiddenError, MethodNotAllowedError, UnsupportedMediaError
from tenantry.core.vector import milvus_reads as reads
from tenantry.core.vector import milvus_schemas as schemas
from tenantry.core.vector import milvus_writes as writes
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.calls import (
    StoreHead,
    StoreOf,
    StoreRequest,
    StoreResponse,
    UnreadableResponseError,
    Verified,
)
from tenantry.core.vector.grpc_frame import PREFIX_BYTES, read_message, write_message
from tenantry.core.vector.layout import Layout
from tenantry.core.vector.milvus_scope import Scoped
from tenantry.core.vector.milvus_wire import parse, parse_answer

_NAME = re.compile(r"[A-Za-z]{1,64}")
REPORTED_COST = "report_value"
"""What pymilvus reads of a status's `extra_info`. The rest tells of the store's insides."""

SERVICE = "/milvus.proto.milvus.MilvusService/"


class Method(Struct, frozen=True, kw_only=True):
    """One method: its messages, how a request is put into scope, how an answer is verified."""

    request: type[Message]
    answer: type[Message]
    scope: Callable[[Scoped, Any], None]
    check: Callable[[Scoped, Any], int] = schemas.check_nothing


METHODS: dict[str, Method] = {
    "Connect": Method(request=pb.ConnectRequest, answer=pb.ConnectResponse, scope=schemas.scope_connect),
    "GetVersion": Method(request=pb.EmptyRequest, answer=pb.VersionResponse, scope=schemas.scope_nothing),
    "CheckHealth": Method(request=pb.EmptyRequest, answer=pb.HealthResponse, scope=schemas.scope_nothing),
    "AllocTimestamp": Method(request=pb.TimestampRequest, answer=pb.TimestampResponse, scope=schemas.scope_base),
    # Rows.
    "Search": Method(
        request=pb.SearchRequest, answer=pb.SearchResults, scope=reads.scope_search, check=reads.check_search
    ),
    "HybridSearch": Method(
        request=pb.HybridSearchRequest,
        answer=pb.SearchResults,
        scope=reads.scope_hybrid_search,
        check=reads.check_search,
    ),
    "Query": Method(request=pb.QueryRequest, answer=pb.QueryResults, scope=reads.scope_query, check=reads.check_query),
    "Insert": Method(
        request=pb.InsertRequest, answer=pb.MutationResult, scope=writes.scope_write, check=writes.check_write
    ),
    "Upsert": Method(
        request=pb.UpsertRequest, answer=pb.MutationResult, scope=writes.scope_write, check=writes.check_write
    ),
    "Delete": Method(
        request=pb.DeleteRequest, answer=pb.MutationResult, scope=reads.scope_delete, check=writes.check_write
    ),
    # What is there.
    "HasCollection": Method(request=pb.HasCollectionRequest, answer=pb.BoolResponse, scope=schemas.scope_perhaps),
    "DescribeCollection": Method(
        request=pb.DescribeCollectionRequest,
        answer=pb.DescribeCollectionResponse,
        scope=schemas.scope_perhaps,
        check=schemas.check_describe,
    ),
    "ShowCollections": Method(
        request=pb.ShowCollectionsRequest,
        answer=pb.ShowCollectionsResponse,
        scope=schemas.scope_show_collections,
        check=schemas.check_show_collections,
    ),
    "GetCollectionStatistics": Method(
        request=pb.CollectionRequest, answer=pb.StatisticsResponse, scope=schemas.scope_own
    ),
    "GetLoadState": Method(request=pb.LoadStateRequest, answer=pb.LoadStateResponse, scope=schemas.scope_load_state),
    "GetLoadingProgress": Method(
        request=pb.LoadStateRequest, answer=pb.LoadingProgressResponse, scope=schemas.scope_load_state
    ),
    "DescribeIndex": Method(
        request=pb.DescribeIndexRequest,
        answer=pb.DescribeIndexResponse,
        scope=schemas.scope_index,
        check=schemas.check_indexes,
    ),
    "GetIndexState": Method(
        request=pb.IndexRequest,
        answer=pb.IndexStateResponse,
        scope=schemas.scope_index,
        check=schemas.check_index_state,
    ),
    "GetIndexBuildProgress": Method(
        request=pb.IndexRequest,
        answer=pb.IndexProgressResponse,
        scope=schemas.scope_index,
        check=schemas.check_index_progress,
    ),
    "HasPartition": Method(request=pb.PartitionRequest, answer=pb.BoolResponse, scope=schemas.scope_partition),
    "ShowPartitions": Method(
        request=pb.ShowPartitionsRequest, answer=pb.ShowPartitionsResponse, scope=schemas.scope_partitions
    ),
    # What tenants change in collections of their own.
    "CreateCollection": Method(request=pb.CreateCollectionRequest, answer=pb.Status, scope=schemas.scope_create),
    "DropCollection": Method(request=pb.CollectionRequest, answer=pb.Status, scope=schemas.scope_own),
    "CreateIndex": Method(request=pb.CreateIndexRequest, answer=pb.Status, scope=schemas.scope_own_index),
    "DropIndex": Method(request=pb.IndexRequest, answer=pb.Status, scope=schemas.scope_own_index),
    "CreatePartition": Method(request=pb.PartitionRequest, answer=pb.Status, scope=schemas.scope_partition),
    "DropPartition": Method(request=pb.PartitionRequest, answer=pb.Status, scope=schemas.scope_partition),
    "ReleaseCollection": Method(request=pb.CollectionRequest, answer=pb.Status, scope=schemas.scope_own),
    "LoadPartitions": Method(request=pb.LoadPartitionsRequest, answer=pb.Status, scope=schemas.scope_partitions),
    "ReleasePartitions": Method(request=pb.ReleasePartitionsRequest, answer=pb.Status, scope=schemas.scope_partitions),
    "LoadCollection": Method(request=pb.LoadCollectionRequest, answer=pb.Status, scope=schemas.scope_load),
    "Flush": Method(
        request=pb.FlushRequest, answer=pb.FlushResponse, scope=schemas.scope_flush, check=schemas.check_flush
    ),
    "GetFlushState": Method(
        request=pb.GetFlushStateRequest, answer=pb.FlushStateResponse, scope=schemas.scope_flush_state
    ),
}
"""Every method that a tenant may call."""


class MilvusCall:
    """One gRPC call to Milvus."""

    __slots__ = ("_encoding", "_max_bytes", "_method", "_work", "operation")

    def __init__(self, method: str, work: Scoped, encoding: str, max_bytes: int) -> None:
        self.operation = method
        self._method = METHODS[method]
        self._work = work
        self._encoding = encoding
        self._max_bytes = max_bytes

    def request(self, body: bytes) -> StoreRequest:
        """Return the call in the tenant's scope; raise RequestRefusedError for what was not understood whole."""
        message = parse(self._method.request, read_message(body, self._encoding, self._max_bytes))
        self._method.scope(self._work, message)
        database = self._work.layout.database
        return StoreRequest(
            body=write_message(message.SerializeToString()),
            headers=(("te", "trailers"), ("dbname", database)) if database else (("te", "trailers"),),
            need=self._work.need,
        )

    def response(self, response: StoreResponse) -> Verified:
        """Return the answer with each row verified; raise ForeignRowError or UnreadableResponseError."""
        body = response.body
        if not body:  # an error, in the headers or trailers
            return Verified(body=b"", failed=True)
        if response.status != 200 or body[0] != 0 or int.from_bytes(body[1:PREFIX_BYTES]) != len(body) - PREFIX_BYTES:
            raise UnreadableResponseError("not one plain gRPC message")
        answer = parse_answer(self._method.answer, body[PREFIX_BYTES:])
        rows = self._method.check(self._work, answer)
        status = answer if isinstance(answer, pb.Status) else answer.status  # type: ignore[attr-defined]
        if status.reason or status.detail:
            status.reason, status.detail = (self._work.layout.shown(text) for text in (status.reason, status.detail))
        for name in [name for name in status.extra_info if name != REPORTED_COST]:
            del status.extra_info[name]
        failed = bool(status.code or status.error_code)  # Milvus Lite 2.5 sets the first alone
        return Verified(body=write_message(answer.SerializeToString()), rows=rows, failed=failed)


def milvus_call(store_of: StoreOf, head: StoreHead, max_bytes: int) -> MilvusCall | None:
    """Return the call behind a request's head, None when it is not Milvus's gRPC; refuse what is not allowed."""
    if not head.path.startswith(SERVICE):
        return None
    method = head.path.removeprefix(SERVICE)
    if method not in METHODS:
        shown = method if _NAME.fullmatch(method) else "This method"
        raise ForbiddenError("method_not_allowed", f"{shown} of Milvus is not open to tenants.")
    if head.method != "POST":
        raise MethodNotAllowedError("method_not_allowed", "gRPC calls are POST.")
    content_types = head.all("content-type")
    if len(content_types) != 1 or content_types[0] not in (b"application/grpc", b"application/grpc+proto"):
        raise UnsupportedMediaError("unsupported_media_type", "Send application/grpc.")
    encodings = head.all("grpc-encoding")
    if len(encodings) > 1:
        raise BadRequestError("invalid_grpc", "grpc-encoding was sent more than once.")
    layout = Layout(store_of)
    for name in head.all("dbname"):
        layout.check_database(name.decode("utf-8", "replace"))
    encoding = encodings[0].decode("latin-1") if encodings else ""
    return MilvusCall(method, Scoped(layout), "" if encoding == "identity" else encoding, max_bytes)
