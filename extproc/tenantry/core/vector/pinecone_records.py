"""Pinecone's records (text that Pinecone embeds) and documents (API 2026-07), whose namespace stands in the path.

    /records/namespaces/NAME/{upsert,search}
    /namespaces/NAME/documents/{upsert,search,fetch,update,delete,list}

A record's or document's own fields stand beside `_id`, and the tenant field is one of them. A search returns the fields
that it names, so the tenant field is asked for with them and taken out of each row again.
"""

from collections.abc import Mapping
from typing import Any

from tenantry.core.errors import BadRequestError
from tenantry.core.vector import pinecone_shapes as shapes
from tenantry.core.vector.pinecone_rest import Body, Route
from tenantry.core.vector.pinecone_scope import MAX_ROWS, MAX_TOP_K, Work
from tenantry.core.vector.pinecone_shapes import number, pagination, pick, pick_list, pick_map, text, usage
from tenantry.core.vector.strictjson import Kind, dumps, expect, loads, require

MAX_CLAUSES = 100
NO_FIELDS: tuple[str, ...] = ()


def ask_records_upsert(work: Work, body: bytes) -> bytes:
    """Write records, one JSON object a line, each with whose it is."""
    lines = [line for line in body.split(b"\n", MAX_ROWS + 2) if line.strip(b" \t\r")]
    if not 1 <= len(lines) <= MAX_ROWS:
        raise BadRequestError("invalid_body", f"Send 1 to {MAX_ROWS} records, one a line.")
    written = []
    for place, line in enumerate(lines, 1):
        record = loads(line)
        written.append(dumps(work.scope.stamped(_identified(record, f"record {place}"), f"record {place}")))
    return b"\n".join(written) + b"\n"


def ask_records_search(work: Work, body: Body) -> Body:
    """Search records."""

    def query(value: Any, path: str) -> Body:
        members = require(value, path, _RECORD_QUERY, drop_null=True)
        return {**members, "filter": work.scope.filter(members.get("filter"))}

    def rerank(value: Any, path: str) -> Body:
        members = require(value, path, _RERANK, drop_null=True)
        _refuse_fields(work, members.get("rank_fields", NO_FIELDS), f"{path}.rank_fields")
        return members

    members = require(body, "", {"query": query, "fields": shapes.names, "rerank": rerank}, drop_null=True)
    members.setdefault("query", query({}, "query"))
    if "fields" in members:
        members["fields"] = _with_tenant_field(work, members["fields"], "fields")
    return members


def ask_documents_upsert(work: Work, body: Body) -> Body:
    """Write documents, each with whose it is."""

    def document(value: Any, path: str) -> Body:
        return work.scope.stamped(_identified(expect(value, path, dict), path), path)

    return _all(require(body, "", {"documents": shapes.rows(document, MAX_ROWS)}), "documents")


def ask_documents_search(work: Work, body: Body) -> Body:
    """Search documents. Clauses of type `query_string` are a language of their own, which nobody has reviewed."""

    def clause(value: Any, path: str) -> Body:
        members = require(value, path, _CLAUSE, drop_null=True)
        if members.get("type") not in _CLAUSE_TYPES:
            raise BadRequestError("invalid_body", f"{path}.type must be one of {', '.join(_CLAUSE_TYPES)}.")
        _refuse_fields(work, [*members.get("fields", NO_FIELDS), members.get("field", "")], path)
        return members

    allowed: Mapping[str, Kind] = {
        "score_by": shapes.rows(clause, MAX_CLAUSES),
        "top_k": shapes.top_k,
        "include_fields": shapes.names,
        "filter": dict,
    }
    members = require(body, "", allowed, drop_null=True)
    # No fields and an empty list mean the id and the score alone; then we ask for ours alone.
    members["include_fields"] = _with_tenant_field(work, members.get("include_fields", []), "include_fields")
    return {**members, "filter": work.scope.filter(members.get("filter"), text_match=True)}


def ask_documents_fetch(work: Work, body: Body) -> Body:
    """Read documents by id or by filter."""
    allowed: Mapping[str, Kind] = {
        "ids": shapes.ids,
        "filter": dict,
        "include_fields": shapes.names,
        "pagination_token": shapes.page_token,
        "limit": shapes.count_to(MAX_TOP_K),
    }
    members = require(body, "", allowed, drop_null=True)
    shapes.exactly_one(members, "ids", "filter")
    if members.get("include_fields"):  # none and an empty list mean all fields here
        members["include_fields"] = _with_tenant_field(work, members["include_fields"], "include_fields")
    return _filtered(work, members, text_match=True)


def ask_documents_update(work: Work, body: Body) -> Body:
    """Change documents one by one, or all that a filter matches."""

    def document(value: Any, path: str) -> Body:
        patch = _identified(expect(value, path, dict), path)
        if "_remove_fields" in patch:
            removed = shapes.names(patch["_remove_fields"], f"{path}._remove_fields")
            _refuse_fields(work, removed, f"{path}._remove_fields")
        return work.scope.stamped(patch, path)

    allowed: Mapping[str, Kind] = {
        "documents": shapes.rows(document, MAX_ROWS),
        "filter": dict,
        "set_fields": shapes.metadata,
        "remove_fields": shapes.names,
    }
    members = require(body, "", allowed, drop_null=True)
    shapes.exactly_one(members, "documents", "filter")
    _refuse_fields(work, members.get("remove_fields", NO_FIELDS), "remove_fields")
    if "set_fields" in members:
        _refuse_directives(members["set_fields"], "set_fields", NO_FIELDS)
        members["set_fields"] = work.scope.stamped(members["set_fields"], "set_fields")
    return _filtered(work, members)


def ask_documents_delete(work: Work, body: Body) -> Body:
    """Delete documents by id, by filter, or all of a namespace, which is the tenant's own."""
    members = require(body, "", {"ids": shapes.ids, "filter": dict, "delete_all": bool}, drop_null=True)
    if members.get("delete_all") is False:
        del members["delete_all"]
    shapes.exactly_one(members, "ids", "filter", "delete_all")
    return _filtered(work, members)


def ask_documents_list(_work: Work, body: Body) -> Body:
    """List the ids of a namespace."""
    allowed: Mapping[str, Kind] = {
        "prefix": shapes.row_id,
        "limit": shapes.count_to(100),
        "pagination_token": shapes.page_token,
    }
    return require(body, "", allowed, drop_null=True)


def answer_records_search(work: Work, body: Body) -> Body:
    """Verify each hit."""

    def hit(value: Any) -> Body:
        found = pick(value, {"_id": text, "_score": number})
        return {**found, "fields": work.opened(value.get("fields"))}

    result: shapes.Pick = lambda value: {"hits": [], **pick(value, {"hits": pick_list(hit)})}  # noqa: E731
    return {"result": {"hits": []}, "usage": {}, **pick(body, {"result": result, "usage": usage})}


def answer_documents_search(work: Work, body: Body) -> Body:
    """Verify each match."""
    picked = pick(body, {"matches": pick_list(work.opened), "usage": usage})
    return {"matches": [], **picked, "namespace": work.scope.expect(body.get("namespace"), work.namespace)}


def answer_documents_fetch(work: Work, body: Body) -> Body:
    """Verify each document."""
    picked = pick(body, {"documents": pick_map(work.opened), "usage": usage, "pagination": pagination})
    return {"documents": {}, **picked, "namespace": work.scope.expect(body.get("namespace"), work.namespace)}


def answer_documents_list(work: Work, body: Body) -> Body:
    """Let ids of the namespace pass."""
    entry: shapes.Pick = lambda value: pick(value, {"_id": text})  # noqa: E731
    picked = pick(body, {"documents": pick_list(entry), "pagination": pagination, "usage": usage})
    return {"documents": [], **picked, "namespace": work.scope.expect(body.get("namespace"), work.namespace)}


def answer_counts(_work: Work, body: Body) -> Body:
    """Let the counts of a write pass."""
    return pick(body, {"upserted_count": number, "matched_records": number, "usage": usage})


def _identified(row: Body, path: str) -> Body:
    # `id` is what a record's `_id` is called in some SDKs.
    if "_id" not in row and "id" not in row:
        raise BadRequestError("invalid_body", f"{path} has no _id.", param="_id")
    _refuse_directives(row, path, ("_id", "_remove_fields"))
    if "_id" in row:
        shapes.row_id(row["_id"], f"{path}._id")
    return row


def _refuse_directives(row: Body, path: str, known: tuple[str, ...]) -> None:
    """Refuse names that begin with `_` or `$`: Pinecone's own, and their meaning is not known here."""
    for place, name in enumerate(row, 1):
        if name[:1] in ("_", "$") and name not in known:
            raise BadRequestError("unknown_member", f"Member {place} of {path} is not known here.")


def _refuse_fields(work: Work, fields: tuple[str, ...] | list[str], path: str) -> None:
    for name in fields:
        work.scope.refuse_field(name, path)


def _with_tenant_field(work: Work, fields: list[str], path: str) -> list[str]:
    """Return the fields to ask for: the client's, and ours to verify each row by; `*` has all."""
    _refuse_fields(work, fields, path)
    return fields if "*" in fields else [*fields, work.scope.field]


def _filtered(work: Work, members: Body, *, text_match: bool = False) -> Body:
    if "filter" not in members:
        return members
    if not members["filter"]:
        raise BadRequestError("invalid_filter", "filter must have at least one condition.", param="filter")
    return {**members, "filter": work.scope.filter(members["filter"], text_match=text_match)}


def _all(members: Body, *required: str) -> Body:
    for name in required:
        if name not in members:
            raise BadRequestError("invalid_body", f"The body has no {name}.", param=name)
    return members


def _record_vector(value: Any, path: str) -> Body:
    allowed: Mapping[str, Kind] = {
        "values": shapes.numbers,
        "sparse_indices": shapes.indices,
        "sparse_values": shapes.numbers,
    }
    return require(value, path, allowed, drop_null=True)


def _scalars(value: Any, path: str) -> Body:
    """Return an object of strings, numbers and booleans: the inputs and parameters of a model."""
    found: Body = expect(value, path, dict)
    for place, member in enumerate(found.values(), 1):
        expect(member, f"member {place} of {path}", (str, int, float, bool))
    return found


_RECORD_QUERY: Mapping[str, Kind] = {
    "top_k": shapes.top_k,
    "inputs": _scalars,
    "vector": _record_vector,
    "id": shapes.row_id,
    "filter": dict,
    "match_terms": lambda value, path: require(value, path, {"strategy": str, "terms": shapes.names}, drop_null=True),
}
_RERANK: Mapping[str, Kind] = {
    "model": str,
    "rank_fields": shapes.names,
    "top_n": shapes.top_k,
    "parameters": _scalars,
    "query": str,
}
_CLAUSE_TYPES = ("text", "dense_vector", "sparse_vector", "embed", "sparse_embed")
_CLAUSE: Mapping[str, Kind] = {
    "type": str,
    "query": str,
    "field": str,
    "fields": shapes.names,
    "values": shapes.numbers,
    "sparse_values": shapes.sparse,
}

RECORDS: Mapping[str, Route] = {
    "upsert": Route(operation="records_upsert", lines=ask_records_upsert, answer=answer_counts),
    "search": Route(operation="records_search", body=ask_records_search, answer=answer_records_search),
}
DOCUMENTS: Mapping[str, Route] = {
    "upsert": Route(operation="documents_upsert", body=ask_documents_upsert, answer=answer_counts),
    "search": Route(operation="documents_search", body=ask_documents_search, answer=answer_documents_search),
    "fetch": Route(operation="documents_fetch", body=ask_documents_fetch, answer=answer_documents_fetch),
    "update": Route(operation="documents_update", body=ask_documents_update, answer=answer_counts),
    "delete": Route(operation="documents_delete", body=ask_documents_delete, answer=answer_counts),
    "list": Route(operation="documents_list", body=ask_documents_list, answer=answer_documents_list),
}
