"""Pinecone over gRPC: the methods that tenants may call, and what each becomes in the tenant's scope.

The same locks as over REST (`pinecone_scope`). A message is parsed, a field that our subset does not have is refused at
any depth, and the message is serialised again. Filters are `Struct`s: read into plain data for the one grammar that we
have, and built again.
"""

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from msgspec import Struct as Data

from tenantry.core.errors import BadRequestError
from tenantry.core.vector import pinecone_filter
from tenantry.core.vector._pb import pinecone_pb2 as pb
from tenantry.core.vector.calls import (
    ForeignRowError,
    StoreRequest,
    StoreResponse,
    UnreadableResponseError,
    Verified,
)
from tenantry.core.vector.grpc_frame import PREFIX_BYTES, read_message, write_message
from tenantry.core.vector.milvus_wire import parse, parse_answer
from tenantry.core.vector.pinecone_scope import (
    DEFAULT_NAMESPACE,
    MAX_ID_CHARACTERS,
    MAX_IDS,
    MAX_ROWS,
    MAX_TOKEN_CHARACTERS,
    MAX_TOP_K,
    Work,
)
from tenantry.core.vector.strictjson import MAX_MEMBERS

SERVICE = "/VectorService/"


class Method(Data, frozen=True, kw_only=True):
    """One method: its messages, how a request is put into scope, how an answer is verified."""

    request: type[Message]
    answer: type[Message]
    scope: Callable[[Work, Any], None]
    check: Callable[[Work, Any], None]


class PineconeGrpcCall:
    """One gRPC call to Pinecone."""

    __slots__ = ("_encoding", "_headers", "_max_bytes", "_method", "_work", "operation")

    def __init__(
        self, name: str, work: Work, encoding: str, max_bytes: int, headers: tuple[tuple[str, str], ...]
    ) -> None:
        self.operation = name
        self._method = METHODS[name]
        self._work = work
        self._encoding = encoding
        self._max_bytes = max_bytes
        self._headers = headers

    def request(self, body: bytes) -> StoreRequest:
        """Return the call in the tenant's scope; raise RequestRefusedError for what was not understood whole."""
        message = parse(self._method.request, read_message(body, self._encoding, self._max_bytes))
        self._method.scope(self._work, message)
        return StoreRequest(body=write_message(message.SerializeToString()), headers=self._headers)

    def response(self, response: StoreResponse) -> Verified:
        """Return the answer with each row verified; raise ForeignRowError or UnreadableResponseError."""
        body = response.body
        if not body:  # an error, in the headers or trailers
            return Verified(body=b"")
        if response.status != 200 or body[0] != 0 or int.from_bytes(body[1:PREFIX_BYTES]) != len(body) - PREFIX_BYTES:
            raise UnreadableResponseError("not one plain gRPC message")
        answer = parse_answer(self._method.answer, body[PREFIX_BYTES:])
        self._method.check(self._work, answer)
        return Verified(body=write_message(answer.SerializeToString()), rows=self._work.rows)


def scope_query(work: Work, message: pb.QueryRequest) -> None:
    """Search by a vector, or by that of a row, which the store looks up in the same namespace."""
    _scope_namespace(work, message)
    _count("top_k", message.top_k, MAX_TOP_K)
    _row_id("id", message.id)
    work.metadata = message.include_metadata
    message.include_metadata = True
    _guard(work, message)


def scope_upsert(work: Work, message: pb.UpsertRequest) -> None:
    """Write vectors, each with whose it is."""
    _scope_namespace(work, message)
    _count("vectors", len(message.vectors), MAX_ROWS)
    if sum(len(vector.metadata.fields) for vector in message.vectors) > MAX_MEMBERS:
        raise BadRequestError("invalid_message", f"vectors have more than {MAX_MEMBERS} metadata members in all.")
    for index, vector in enumerate(message.vectors):
        _row_id(f"vectors[{index}].id", vector.id)
        _stamp(work, vector.metadata, f"vectors[{index}].metadata")


def scope_update(work: Work, message: pb.UpdateRequest) -> None:
    """Change one row, or the metadata of all that a filter matches."""
    _scope_namespace(work, message)
    if bool(message.id) == message.HasField("filter"):
        raise BadRequestError("invalid_message", "Give exactly one of id, filter.")
    _row_id("id", message.id)
    if len(message.set_metadata.fields) > MAX_MEMBERS:
        raise BadRequestError("invalid_message", f"set_metadata has more than {MAX_MEMBERS} members.")
    if message.HasField("set_metadata"):
        _stamp(work, message.set_metadata, "set_metadata")
    if message.HasField("filter"):
        _some(message.filter)
        _guard(work, message)


def scope_delete(work: Work, message: pb.DeleteRequest) -> None:
    """Delete rows by id, by filter, or all of a namespace, which is the tenant's own."""
    _scope_namespace(work, message)
    _ids(message.ids)
    if message.HasField("filter") and not message.filter.fields:
        message.ClearField("filter")  # as SDKs write "no filter"; deleting by an empty one would delete all
    if bool(message.ids) + message.delete_all + message.HasField("filter") != 1:
        raise BadRequestError("invalid_message", "Give exactly one of ids, delete_all, filter.")
    if message.HasField("filter"):
        _guard(work, message)


def scope_fetch(work: Work, message: pb.FetchRequest) -> None:
    """Read rows by id."""
    _scope_namespace(work, message)
    _ids(message.ids)


def scope_fetch_by_metadata(work: Work, message: pb.FetchByMetadataRequest) -> None:
    """Read the rows that a filter matches."""
    _scope_namespace(work, message)
    if message.HasField("limit"):
        _count("limit", message.limit, MAX_TOP_K)
    _token(message.pagination_token)
    _guard(work, message)


def scope_list(work: Work, message: pb.ListRequest) -> None:
    """List the ids of a namespace."""
    _scope_namespace(work, message)
    if message.HasField("limit"):
        _count("limit", message.limit, 100)
    _row_id("prefix", message.prefix)
    _token(message.pagination_token)


def scope_stats(work: Work, message: pb.StatsRequest) -> None:
    """Ask for counts; those of other namespaces are dropped from the answer."""
    # Serverless indexes refuse a filter here, so none is added for a client that sends none.
    if message.filter.fields:
        _guard(work, message)
    else:
        message.ClearField("filter")


def check_nothing(_work: Work, _answer: Message) -> None:
    """Let the counts of a write pass."""


def check_query(work: Work, answer: pb.QueryResponse) -> None:
    """Verify each match."""
    _own_namespace(work, answer)
    for match in answer.matches:
        _open(work, match)
        if not work.metadata:
            match.ClearField("metadata")


def check_fetch(work: Work, answer: pb.FetchResponse) -> None:
    """Verify each row, of a fetch by ids or by metadata."""
    _own_namespace(work, answer)
    for vector in answer.vectors.values():
        _open(work, vector)


def check_list(work: Work, answer: pb.ListResponse) -> None:
    """Let ids pass, which are all that is known of a row here, if they are of the namespace that was asked for."""
    _own_namespace(work, answer)


def check_stats(work: Work, answer: pb.StatsResponse) -> None:
    """Keep the tenant's own namespaces, under the client's names; the total is theirs."""
    counts = {work.scope.own(name): summary.vector_count for name, summary in answer.namespaces.items()}
    answer.ClearField("namespaces")
    answer.total_vector_count = 0
    for name, count in counts.items():
        if name is not None:
            answer.namespaces[name or DEFAULT_NAMESPACE].vector_count = count
            answer.total_vector_count += count


def plain(message: Struct) -> dict[str, Any]:
    """Return a Struct as plain data; raise BadRequestError for one nested too deep or with a value that is none."""
    return _Plain().members(message, 1)


def packed(value: Mapping[str, Any]) -> Struct:
    """Return plain data as a Struct."""
    return Struct(fields={name: _packed_value(member) for name, member in value.items()})


_MAX_VALUE_DEPTH = 3 * pinecone_filter.MAX_DEPTH
"""Filter, array and object for each level."""

_MAX_VALUES = 3 * pinecone_filter.MAX_PARTS
"""Before the filter's own bound, which counts less: 10 MiB of them took 3 s."""


class _Plain:
    """One reading of one filter; counts its values before it reads them."""

    def __init__(self) -> None:
        self._values = 0

    def members(self, message: Struct, depth: int) -> dict[str, Any]:
        self._count(len(message.fields))
        return {name: self._value(value, depth) for name, value in message.fields.items()}

    def _value(self, value: Value, depth: int) -> Any:
        if depth > _MAX_VALUE_DEPTH:
            raise BadRequestError("invalid_filter", "filter is nested too deep.", param="filter")
        kind = value.WhichOneof("kind")
        if kind == "struct_value":
            return self.members(value.struct_value, depth + 1)
        if kind == "list_value":
            self._count(len(value.list_value.values))
            return [self._value(member, depth + 1) for member in value.list_value.values]
        return None if kind in (None, "null_value") else getattr(value, kind)

    def _count(self, values: int) -> None:
        self._values += values
        if self._values > _MAX_VALUES:
            raise BadRequestError("invalid_filter", f"filter has more than {_MAX_VALUES} values.", param="filter")


def _packed_value(value: Any) -> Value:
    if isinstance(value, dict):
        return Value(struct_value=packed(value))
    if isinstance(value, list):
        return Value(list_value=ListValue(values=[_packed_value(member) for member in value]))
    if isinstance(value, bool):
        return Value(bool_value=value)
    return Value(string_value=value) if isinstance(value, str) else Value(number_value=value)


def _scope_namespace(work: Work, message: Any) -> None:
    work.namespace = message.namespace
    message.namespace = work.physical()


def _own_namespace(work: Work, answer: Any) -> None:
    answer.namespace = work.scope.expect(answer.namespace, work.namespace)


def _guard(work: Work, message: Any) -> None:
    client = plain(message.filter) if message.HasField("filter") else None
    message.filter.CopyFrom(packed(work.scope.filter(client)))


def _some(client: Struct) -> None:
    if not client.fields:
        raise BadRequestError("invalid_filter", "filter must have at least one condition.", param="filter")


def _stamp(work: Work, metadata: Struct, path: str) -> None:
    for name in metadata.fields:
        work.scope.refuse_field(name, path)
    metadata.fields[work.scope.field].string_value = work.scope.tenant


def _open(work: Work, row: pb.ScoredVector | pb.Vector) -> None:
    """Verify a row and take the tenant field out of its metadata."""
    fields = row.metadata.fields
    name = work.scope.field
    # Looking a key up in a map of messages makes it; so ask first.
    if name not in fields or fields[name].WhichOneof("kind") != "string_value":
        raise ForeignRowError("The store answered with a row that is not stamped as the tenant's.")
    work.opened({name: fields[name].string_value})
    del fields[name]
    if not fields:
        row.ClearField("metadata")


def _count(path: str, count: int, most: int) -> None:
    if not 1 <= count <= most:
        raise BadRequestError("invalid_message", f"{path} must be from 1 to {most}.", param=path)


def _ids(ids: Any) -> None:
    if len(ids) > MAX_IDS:
        raise BadRequestError("invalid_message", f"ids must name at most {MAX_IDS} rows.", param="ids")
    for one in ids:
        _row_id("ids", one)


def _row_id(path: str, value: str) -> None:
    if len(value) > MAX_ID_CHARACTERS:
        raise BadRequestError("invalid_message", f"{path} has more than {MAX_ID_CHARACTERS} characters.", param=path)


def _token(value: str) -> None:
    if len(value) > MAX_TOKEN_CHARACTERS:
        raise BadRequestError("invalid_message", f"pagination_token has more than {MAX_TOKEN_CHARACTERS} characters.")


METHODS: Mapping[str, Method] = {
    "Query": Method(request=pb.QueryRequest, answer=pb.QueryResponse, scope=scope_query, check=check_query),
    "Upsert": Method(request=pb.UpsertRequest, answer=pb.UpsertResponse, scope=scope_upsert, check=check_nothing),
    "Update": Method(request=pb.UpdateRequest, answer=pb.UpdateResponse, scope=scope_update, check=check_nothing),
    "Delete": Method(request=pb.DeleteRequest, answer=pb.DeleteResponse, scope=scope_delete, check=check_nothing),
    "Fetch": Method(request=pb.FetchRequest, answer=pb.FetchResponse, scope=scope_fetch, check=check_fetch),
    "FetchByMetadata": Method(
        request=pb.FetchByMetadataRequest, answer=pb.FetchResponse, scope=scope_fetch_by_metadata, check=check_fetch
    ),
    "List": Method(request=pb.ListRequest, answer=pb.ListResponse, scope=scope_list, check=check_list),
    "DescribeIndexStats": Method(
        request=pb.StatsRequest, answer=pb.StatsResponse, scope=scope_stats, check=check_stats
    ),
}
"""Every method that a tenant may call."""
