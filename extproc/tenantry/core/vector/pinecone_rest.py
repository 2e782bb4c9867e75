"""Pinecone's vectors over REST: each route's members, what they become in the tenant's scope, what may come back.

API 2026-07, and what SDKs of 2025 send (they are the same routes). A body is read whole (`strictjson`), its members are
checked by exact name (Go's JSON, behind Pinecone, would take `top_k` for `topK`), and a body is built from them.
"""

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from tenantry.core.errors import BadRequestError
from tenantry.core.vector import pinecone_shapes as shapes
from tenantry.core.vector.pinecone_query import Parameters, written
from tenantry.core.vector.pinecone_scope import DEFAULT_NAMESPACE, MAX_IDS, MAX_ROWS, MAX_TOP_K, Work
from tenantry.core.vector.pinecone_shapes import number, pagination, pick, pick_list, pick_map, text, usage
from tenantry.core.vector.strictjson import Kind, require

Body = dict[str, Any]


class Route(Struct, frozen=True, kw_only=True):
    """One route: how a body, lines of bodies, or parameters come into scope, and how the answer is verified."""

    operation: str
    answer: Callable[[Work, Body], Body]
    body: Callable[[Work, Body], Body] | None = None
    lines: Callable[[Work, bytes], bytes] | None = None
    parameters: Callable[[Work, Parameters], str] | None = None
    raw: tuple[str, ...] = ()
    """Members whose numbers stay text."""


def _members(work: Work, body: Body, allowed: Mapping[str, Kind]) -> Body:
    """Return the body's known members with the namespace, which every request has, put into scope."""
    members = require(body, "", {"namespace": str, **allowed}, drop_null=True)
    work.namespace = members.get("namespace", "")
    members["namespace"] = work.physical()
    return members


def ask_query(work: Work, body: Body) -> Body:
    """Search by a vector, or by that of a row, which the store looks up in the same namespace."""
    members = _members(work, body, _QUERY)
    work.metadata = members.get("includeMetadata", False)
    return {**members, "includeMetadata": True, "filter": work.scope.filter(members.get("filter"))}


def ask_upsert(work: Work, body: Body) -> Body:
    """Write vectors, each with whose it is."""
    members = _members(work, body, {"vectors": shapes.rows(_vector, MAX_ROWS)})
    for index, row in enumerate(members.get("vectors", ())):
        row["metadata"] = work.scope.stamped(row.get("metadata", {}), f"vectors[{index}].metadata")
    return members


def ask_update(work: Work, body: Body) -> Body:
    """Change one row, or the metadata of all that a filter matches."""
    members = _members(work, body, _UPDATE)
    shapes.exactly_one(members, "id", "filter")
    if "setMetadata" in members:
        members["setMetadata"] = work.scope.stamped(members["setMetadata"], "setMetadata")
    if "filter" in members:
        members["filter"] = _some(work, members["filter"])
    return members


def ask_delete(work: Work, body: Body) -> Body:
    """Delete rows by id, by filter, or all of a namespace, which is the tenant's own."""
    members = _members(work, body, {"ids": shapes.ids, "deleteAll": bool, "filter": dict})
    if members.get("deleteAll") is False:
        del members["deleteAll"]
    if members.get("filter") == {}:
        del members["filter"]  # as SDKs write "no filter"; deleting by an empty one would delete all
    shapes.exactly_one(members, "ids", "deleteAll", "filter")
    if "filter" in members:
        members["filter"] = _some(work, members["filter"])
    return members


def ask_fetch_by_metadata(work: Work, body: Body) -> Body:
    """Read the rows that a filter matches."""
    members = _members(
        work,
        body,
        {"filter": dict, "limit": shapes.count_to(MAX_TOP_K), "paginationToken": shapes.page_token},
    )
    return {**members, "filter": work.scope.filter(members.get("filter"))}


def ask_stats(work: Work, body: Body) -> Body:
    """Ask for counts; those of other namespaces are dropped from the answer."""
    members = require(body, "", {"filter": dict}, drop_null=True)
    # Serverless indexes refuse a filter here, so none is added for a client that sends none.
    return {"filter": work.scope.filter(members["filter"])} if members.get("filter") else {}


def ask_stats_by_get(_work: Work, parameters: Parameters) -> str:
    """Ask for counts without a body."""
    parameters.end()
    return ""


def ask_fetch(work: Work, parameters: Parameters) -> str:
    """Read rows by id."""
    wanted = [shapes.row_id(one, "ids") for one in parameters.every("ids")]
    if not 1 <= len(wanted) <= MAX_IDS:
        raise BadRequestError("invalid_query", f"ids must name 1 to {MAX_IDS} rows.", param="ids")
    work.namespace = parameters.one("namespace") or ""
    parameters.end()
    return written([*(("ids", one) for one in wanted), ("namespace", work.physical())])


def ask_list(work: Work, parameters: Parameters) -> str:
    """List the ids of a namespace."""
    work.namespace = parameters.one("namespace") or ""
    asked: list[tuple[str, str]] = []
    prefix, token, limit = (parameters.one(name) for name in ("prefix", "paginationToken", "limit"))
    parameters.end()
    if prefix:
        asked.append(("prefix", shapes.row_id(prefix, "prefix")))
    if limit:
        if not limit.isascii() or not limit.isdecimal() or not 1 <= int(limit[:4]) <= 100 or len(limit) > 3:
            raise BadRequestError("invalid_query", "limit must be from 1 to 100.", param="limit")
        asked.append(("limit", str(int(limit))))
    if token:
        asked.append(("paginationToken", shapes.page_token(token, "paginationToken")))
    return written([*asked, ("namespace", work.physical())])


def answer_query(work: Work, body: Body) -> Body:
    """Verify each match."""

    def match(value: Any) -> Body:
        found = pick(value, {"id": text, "score": number, **_VECTOR_DATA})
        found["metadata"] = work.opened(value.get("metadata"))
        if not work.metadata:
            del found["metadata"]
        return found

    picked = pick(body, {"matches": pick_list(match), "usage": usage})
    return {"matches": [], **picked, "namespace": _namespace(work, body)}


def answer_fetch(work: Work, body: Body) -> Body:
    """Verify each row, of a fetch by ids or by metadata."""

    def row(value: Any) -> Body:
        found = pick(value, {"id": text, **_VECTOR_DATA})
        metadata = work.opened(value.get("metadata"))
        return {**found, "metadata": metadata} if metadata else found

    picked = pick(body, {"vectors": pick_map(row), "usage": usage, "pagination": pagination})
    return {"vectors": {}, **picked, "namespace": _namespace(work, body)}


def answer_list(work: Work, body: Body) -> Body:
    """Let ids pass, which are all that is known of a row here, if they are of the namespace that was asked for."""
    entry: shapes.Pick = lambda value: pick(value, {"id": text})  # noqa: E731
    picked = pick(body, {"vectors": pick_list(entry), "pagination": pagination, "usage": usage})
    return {"vectors": [], **picked, "namespace": _namespace(work, body)}


def answer_stats(work: Work, body: Body) -> Body:
    """Keep the tenant's own namespaces, under the client's names; the total is theirs."""
    counts = pick_map(lambda value: pick(value, {"vectorCount": number}))(body.get("namespaces") or {})
    own = {work.scope.own(name): count for name, count in counts.items()}
    namespaces = {name or DEFAULT_NAMESPACE: count for name, count in own.items() if name is not None}
    picked = pick(body, {"dimension": number, "metric": text, "vectorType": text})
    return {
        "namespaces": namespaces,
        **picked,
        # How full an index is tells of others; SDKs want the member.
        "indexFullness": 0.0,
        "totalVectorCount": sum(count.get("vectorCount", 0) for count in namespaces.values()),
    }


def answer_count(_work: Work, body: Body) -> Body:
    """Let the counts of a write pass."""
    return pick(body, {"upsertedCount": number, "matchedRecords": number})


def _namespace(work: Work, body: Body) -> str:
    return work.scope.expect(body.get("namespace", ""), work.namespace)


def _some(work: Work, client: Body) -> Body:
    if not client:
        raise BadRequestError("invalid_filter", "filter must have at least one condition.", param="filter")
    return work.scope.filter(client)


def _vector(value: Any, path: str) -> Body:
    row = require(value, path, _VECTOR, drop_null=True)
    if "id" not in row:
        raise BadRequestError("invalid_body", f"{path} has no id.", param=path)
    return row


_QUERY: Mapping[str, Kind] = {
    "topK": shapes.top_k,
    "vector": shapes.numbers,
    "sparseVector": shapes.sparse,
    "id": shapes.row_id,
    "filter": dict,
    "includeValues": bool,
    "includeMetadata": bool,
    "scanFactor": float,
    "maxCandidates": shapes.count_to(100_000),
}
_VECTOR: Mapping[str, Kind] = {
    "id": shapes.row_id,
    "values": shapes.numbers,
    "sparseValues": shapes.sparse,
    "metadata": shapes.metadata,
}
_UPDATE: Mapping[str, Kind] = {
    "id": shapes.row_id,
    "values": shapes.numbers,
    "sparseValues": shapes.sparse,
    "setMetadata": shapes.metadata,
    "filter": dict,
    "dryRun": bool,
}
_VECTOR_DATA: Mapping[str, shapes.Pick] = {"values": shapes.vector, "sparseValues": shapes.sparse_vector}

ROUTES: Mapping[tuple[str, str], Route] = {
    ("POST", "/query"): Route(operation="query", body=ask_query, answer=answer_query, raw=("vector",)),
    ("POST", "/vectors/upsert"): Route(operation="upsert", body=ask_upsert, answer=answer_count),
    ("POST", "/vectors/update"): Route(operation="update", body=ask_update, answer=answer_count, raw=("values",)),
    ("POST", "/vectors/delete"): Route(operation="delete", body=ask_delete, answer=answer_count),
    ("POST", "/vectors/fetch_by_metadata"): Route(
        operation="fetch_by_metadata", body=ask_fetch_by_metadata, answer=answer_fetch
    ),
    ("GET", "/vectors/fetch"): Route(operation="fetch", parameters=ask_fetch, answer=answer_fetch),
    ("GET", "/vectors/list"): Route(operation="list", parameters=ask_list, answer=answer_list),
    ("POST", "/describe_index_stats"): Route(operation="stats", body=ask_stats, answer=answer_stats),
    ("GET", "/describe_index_stats"): Route(operation="stats", parameters=ask_stats_by_get, answer=answer_stats),
}
"""Every route of vectors that a tenant may call; `pinecone_records` has those with a namespace in their path."""
