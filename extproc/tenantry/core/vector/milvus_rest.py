"""Milvus over REST (v2): the paths that tenants may call, and what each becomes in the tenant's scope.

Default deny: what is not a key of `OPERATIONS`, byte for byte, is refused: other paths, a query string, `%71uery`, a
slash more. Go's router and JSON decoder are lenient where we are not: a path is routed unescaped, of two equal keys
the last counts, and so do `FILTER`, and `outputFields` with a long s. So a body is read strictly, built again from
members that are known here, and never spliced.

    policy    what happens                                                 where it is allowed
    inject    rows are read or deleted: filter, partition, tenant field    everywhere
    stamp     rows are written: each gets its tenant                       everywhere
    visible   tells of one collection                                      everywhere, of those that the tenant sees
    own       makes, changes or lists collections, indexes, partitions     where collections are the tenant's own
    load      costs others time, never rows                                as `own`, or where `loadAndFlush` is set

Everything else that Milvus has under `/v2/vectordb/` (databases, users, roles, aliases, imports, resource groups,
renaming, properties) is the operator's. So is REST v1. What 2.4 and later say is taken from Milvus's documentation and
its source (internal/distributed/proxy/httpserver); no such Milvus was at hand to measure.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from msgspec import Struct

from tenantry.core.errors import ForbiddenError, MethodNotAllowedError, UnsupportedMediaError
from tenantry.core.vector import milvus_rest_reads as reads
from tenantry.core.vector import milvus_rest_results as results
from tenantry.core.vector import milvus_rest_schemas as schemas
from tenantry.core.vector import milvus_rest_writes as writes
from tenantry.core.vector.calls import (
    StoreHead,
    StoreOf,
    StoreRequest,
    StoreResponse,
    UnreadableResponseError,
    Verified,
)
from tenantry.core.vector.layout import Layout
from tenantry.core.vector.milvus_rest_scope import COLLECTION, Members, RestScope
from tenantry.core.vector.strictjson import dumps, loads, loads_response, require

PREFIX = "/v2/vectordb/"

Policy = Literal["inject", "stamp", "visible", "own", "load"]


class Operation(Struct, frozen=True, kw_only=True):
    """One path: its members, how they are put into scope, how the answer is verified.

    `raw` are members of the body that stay the text they were, where they are numbers alone.
    """

    policy: Policy
    members: Mapping[str, Any]
    scope: Callable[[RestScope, Members], Members]
    check: results.Check
    raw: tuple[str, ...] = ()


def _own(
    members: Mapping[str, Any],
    scope: Callable[[RestScope, Members], Members],
    check: results.Check = results.check_done,
) -> Operation:
    return Operation(policy="own", members=members, scope=scope, check=check)


_HYBRID_SEARCH = Operation(
    policy="inject", members=reads.HYBRID_SEARCH, scope=reads.scope_hybrid_search, check=results.check_search
)
_WRITE = Operation(policy="stamp", members=writes.WRITE, scope=writes.scope_write, check=writes.check_write)

OPERATIONS: dict[str, Operation] = {
    # Rows.
    "entities/query": Operation(
        policy="inject", members=reads.QUERY, scope=reads.scope_query, check=results.check_query
    ),
    "entities/get": Operation(policy="inject", members=reads.GET, scope=reads.scope_get, check=results.check_query),
    "entities/search": Operation(
        policy="inject", members=reads.SEARCH, scope=reads.scope_search, check=results.check_search, raw=("data",)
    ),
    "entities/hybrid_search": _HYBRID_SEARCH,
    "entities/advanced_search": _HYBRID_SEARCH,
    "entities/delete": Operation(
        policy="inject", members=reads.DELETE, scope=reads.scope_delete, check=writes.check_write
    ),
    "entities/insert": _WRITE,
    "entities/upsert": _WRITE,
    # What is there.
    "collections/has": Operation(
        policy="visible", members=COLLECTION, scope=schemas.scope_perhaps, check=results.check_has
    ),
    "collections/describe": Operation(
        policy="visible", members=COLLECTION, scope=schemas.scope_perhaps, check=results.check_describe
    ),
    "collections/get_load_state": Operation(
        policy="visible", members=schemas.LOAD_STATE, scope=schemas.scope_load_state, check=results.check_load_state
    ),
    "indexes/describe": Operation(
        policy="visible", members=schemas.INDEX, scope=schemas.scope_index, check=results.check_indexes
    ),
    # What tenants do with collections of their own.
    "collections/load": Operation(
        policy="load", members=COLLECTION, scope=schemas.scope_named, check=results.check_done
    ),
    "collections/create": _own(schemas.CREATE, schemas.scope_create),
    "collections/drop": _own(COLLECTION, schemas.scope_named),
    "collections/release": _own(COLLECTION, schemas.scope_named),
    "collections/list": _own(schemas.LIST, schemas.scope_list, results.check_collections),
    "collections/get_stats": _own(COLLECTION, schemas.scope_named, results.check_statistics),
    "indexes/create": _own(schemas.CREATE_INDEX, schemas.scope_create_index),
    "indexes/drop": _own(schemas.INDEX, schemas.scope_index),
    "indexes/list": _own(COLLECTION, schemas.scope_named, results.check_names),
    "partitions/list": _own(COLLECTION, schemas.scope_named, results.check_names),
    "partitions/has": _own(schemas.PARTITION, schemas.scope_partition, results.check_has),
    "partitions/get_stats": _own(schemas.PARTITION, schemas.scope_partition, results.check_statistics),
    "partitions/create": _own(schemas.PARTITION, schemas.scope_partition),
    "partitions/drop": _own(schemas.PARTITION, schemas.scope_partition),
    "partitions/load": _own(schemas.PARTITIONS, schemas.scope_partitions),
    "partitions/release": _own(schemas.PARTITIONS, schemas.scope_partitions),
}
"""Every path that a tenant may call, without the prefix."""

_SUCCESS = frozenset({0, 200})
"""`code` of a success; the first releases with v2 wrote 200."""

_CONTENT_TYPES = frozenset({b"application/json", b"application/json;charset=utf-8"})
_INT64_HEADER = "accept-type-allow-int64"
"""Asks for integers of 64 bits as numbers; otherwise Milvus writes their digits as strings."""


class RestCall:
    """One REST call to Milvus."""

    __slots__ = ("_headers", "_operation", "_work", "operation")

    def __init__(self, operation: str, work: RestScope, headers: tuple[tuple[str, str], ...]) -> None:
        self.operation = operation
        self._operation = OPERATIONS[operation]
        self._work = work
        self._headers = headers

    def request(self, body: bytes) -> StoreRequest:
        """Return the call in the tenant's scope; raise RequestRefusedError for what was not understood whole."""
        read = loads(body, raw=self._operation.raw)
        members = require(read, "", self._operation.members, drop_null=True)
        rebuilt = self._operation.scope(self._work, members)
        # A `get` that has a filter became a query.
        path = f"{PREFIX}entities/query" if self.operation == "entities/get" and "filter" in rebuilt else None
        return StoreRequest(body=dumps(rebuilt), path=path, headers=self._headers, need=self._work.need)

    def response(self, response: StoreResponse) -> Verified:
        """Return the answer with each row verified; raise ForeignRowError or UnreadableResponseError."""
        if any(name == "content-encoding" and value != b"identity" for name, value in response.headers):
            raise UnreadableResponseError("a compressed answer")
        read = loads_response(response.body)
        code, message = read.get("code"), read.get("message", "")
        if type(code) is not int or not isinstance(message, str):
            raise UnreadableResponseError("an answer without a code, or with a message that is no text")
        shown: Members = {"code": code}
        if message:
            shown["message"] = self._work.layout.shown(message)
        if code not in _SUCCESS:
            return Verified(body=dumps(shown), failed=True)
        if response.status != 200:
            raise UnreadableResponseError("a success with the status of a failure")
        shown["data"], rows = self._operation.check(self._work, read.get("data", {}))
        return Verified(body=dumps(shown | _costs(read)), rows=rows)


def _costs(read: Members) -> Members:
    """Return what an answer says of itself: its cost, and how many rows each query vector got, with which recall."""
    shown: Members = {}
    if "cost" in read:
        if type(read["cost"]) is not int:
            raise UnreadableResponseError("a cost that is no integer")
        shown["cost"] = read["cost"]
    for name in ("topks", "recalls"):
        if name in read:
            numbers = read[name]
            if not isinstance(numbers, list) or any(type(number) not in (int, float) for number in numbers):
                raise UnreadableResponseError(f"{name} that are not numbers")
            shown[name] = numbers
    return shown


def milvus_rest_call(store_of: StoreOf, head: StoreHead, _max_bytes: int = 0) -> RestCall | None:
    """Return the call behind a request's head, None when it is not Milvus's REST v2; refuse what is not allowed.

    Nothing is inflated here, so the bound of the body as it comes (the session's) is enough.
    """
    if not head.path.startswith(PREFIX):
        return None
    name = head.path.removeprefix(PREFIX)
    operation = OPERATIONS.get(name)
    if operation is None:
        raise ForbiddenError(
            "path_not_allowed",
            "This path of Milvus is not open to tenants. Paths are exact: no query string, no escapes, no other case.",
        )
    if head.method != "POST":
        raise MethodNotAllowedError("method_not_allowed", "Milvus's REST v2 takes POST only.")
    _check_media(head)
    layout = Layout(store_of)
    for database in head.all("db-name"):
        layout.check_database(database.decode("utf-8", "replace"))
    if operation.policy == "own" or (operation.policy == "load" and not store_of.store.load_and_flush):
        layout.require_own(name)
    allowed = head.all(_INT64_HEADER)
    headers = ((_INT64_HEADER, "true"),) if allowed == [b"true"] else ()
    return RestCall(name, RestScope(layout), headers)


def _check_media(head: StoreHead) -> None:
    if head.all("content-encoding"):
        raise UnsupportedMediaError("unsupported_encoding", "Send the body uncompressed (no content-encoding).")
    content_types = [value.lower().replace(b" ", b"") for value in head.all("content-type")]
    if len(content_types) != 1 or content_types[0] not in _CONTENT_TYPES:
        raise UnsupportedMediaError("unsupported_media_type", "Send 'content-type: application/json', once.")
