"""Query, get, delete, search and hybrid search over REST, in the tenant's scope.

Each gets the guarded filter, the tenant's partitions and database, and the tenant field among its output fields.
Members and types are those of Milvus 2.4 to 2.6 (internal/distributed/proxy/httpserver/request_v2.go). Not let
through: search by ids (`ids`: a foreign row as query vector), `functionScore`, `functionChains`, `searchAggregation`,
the obsolete `params` of a search, and whatever is not named here.

`get` has no filter. Milvus makes one itself by pasting each id between two quotes (utils.go, convertRange), so that an
id with a quote in it is a filter of the client's. Where the rules know the primary key, `get` is sent on as a query
with the guard. Elsewhere it stays a `get`: of ids that cannot end the quotes, in the tenant's own collection or
partition.
"""

import re
from typing import Any

from msgspec import Raw

from tenantry.core.errors import BadRequestError
from tenantry.core.vector.expr import TemplateValue
from tenantry.core.vector.milvus_reads import INDEX_PARAMETERS, MAX_OUTPUT_FIELDS, OUTPUT_FIELD, check_filters
from tenantry.core.vector.milvus_rest_scope import (
    COLLECTION,
    Members,
    RestScope,
    choice,
    field_name,
    filter_text,
    integer,
    many,
    objects,
    partition_name,
    partition_names,
    required,
    scalar,
    scalars,
    templates,
    text,
)
from tenantry.core.vector.milvus_rows import COUNT
from tenantry.core.vector.strictjson import expect, require

MAX_ROWS = 16_384
"""Milvus's bound of `limit` and `offset` together (quotaAndLimits.limits.topK)."""

MAX_SUB_SEARCHES = 1024
MAX_KEY_CHARACTERS = 65_535

_SAFE_KEY = re.compile(r'[^"\\\x00-\x1f\x7f]+')
_DIMENSION = re.compile(r"[0-9]{1,10}")
_NUMBERS = frozenset({int, float})


def _ids(value: Any, path: str) -> list[int | str]:
    ids = value if isinstance(value, list) else [value]
    if not 1 <= len(ids) <= MAX_ROWS:
        raise BadRequestError("invalid_body", f"{path} must be 1 to {MAX_ROWS} primary keys.", param=path)
    found = [expect(each, path, (int, str)) for each in ids]
    if any(isinstance(each, str) and len(each) > MAX_KEY_CHARACTERS for each in found):
        raise BadRequestError("invalid_body", f"A primary key has at most {MAX_KEY_CHARACTERS} characters.", param=path)
    return found


def _vectors(value: Any, path: str) -> Any:
    """Check query vectors: of numbers, sparse, packed or, for BM25, texts. Raw is an array of numbers alone."""
    if isinstance(value, Raw):
        return value
    found = expect(value, path, list)
    if not 1 <= len(found) <= MAX_ROWS:
        raise BadRequestError("invalid_body", f"{path} must be 1 to {MAX_ROWS} vectors.", param=path)
    for place, vector in enumerate(found):
        if not (isinstance(vector, str) or _is_numbers(vector) or _is_sparse(vector)):
            raise BadRequestError(
                "invalid_body", f"{path}[{place}] must be a vector: numbers, a sparse one, or a text.", param=path
            )
    return found


def _is_numbers(vector: Any) -> bool:
    return isinstance(vector, list) and _NUMBERS.issuperset(map(type, vector))


def _is_sparse(vector: Any) -> bool:
    if not isinstance(vector, dict):
        return False
    if vector.keys() == {"indices", "values"}:
        return all(map(_is_numbers, vector.values()))
    return all(map(_DIMENSION.fullmatch, vector)) and _NUMBERS.issuperset(map(type, vector.values()))


_limit = integer(1, MAX_ROWS)
_offset = integer(0, MAX_ROWS)
_consistency = choice(("Strong", "Session", "Bounded", "Eventually"))
_metric = text(64)
_output_fields = many(text(255), MAX_OUTPUT_FIELDS)
_index_parameters = scalars(INDEX_PARAMETERS)

_SEARCH_PARAMETERS: dict[str, Any] = dict.fromkeys(INDEX_PARAMETERS, scalar) | {
    "metricType": _metric,
    "ignoreGrowing": bool,
    "ignore_growing": bool,
    "params": _index_parameters,
}


def _search_parameters(value: Any, path: str) -> Members:
    """Check how to search. From 2.5.2 on Milvus takes every member for a parameter, also of a grouping or iterator."""
    return require(value, path, _SEARCH_PARAMETERS, drop_null=True)


def _rerank(value: Any, path: str) -> Members:
    return require(value, path, _RERANK, drop_null=True)


_weights = many(lambda value, path: expect(value, path, float), MAX_SUB_SEARCHES)


def _rank_parameters(value: Any, path: str) -> Members:
    return require(value, path, {"k": float, "weights": _weights, "norm_score": bool}, drop_null=True)


_RERANK: dict[str, Any] = {"strategy": choice(("rrf", "weighted")), "params": _rank_parameters}

_ROWS: dict[str, Any] = COLLECTION | {
    "partitionNames": partition_names,
    "outputFields": _output_fields,
    "consistencyLevel": _consistency,
}
_FILTERED: dict[str, Any] = {"filter": filter_text, "exprParams": templates}
_GROUPED: dict[str, Any] = {
    "groupingField": field_name,
    "groupSize": integer(1, MAX_ROWS),
    "strictGroupSize": bool,
}
QUERY: dict[str, Any] = _ROWS | _FILTERED | {"limit": _limit, "offset": _offset}
GET: dict[str, Any] = _ROWS | {"id": _ids}
DELETE: dict[str, Any] = COLLECTION | _FILTERED | {"partitionName": partition_name}
SEARCH: dict[str, Any] = (
    _ROWS
    | _FILTERED
    | _GROUPED
    | {
        "data": _vectors,
        "annsField": field_name,
        "limit": _limit,
        "offset": _offset,
        "searchParams": _search_parameters,
    }
)
_SUB_SEARCH: dict[str, Any] = _FILTERED | {
    "data": _vectors,
    "annsField": field_name,
    "groupingField": field_name,
    "metricType": _metric,
    "limit": _limit,
    "offset": _offset,
    "ignoreGrowing": bool,
    "params": _search_parameters,
}
HYBRID_SEARCH: dict[str, Any] = (
    _ROWS | _GROUPED | {"search": objects(_SUB_SEARCH, MAX_SUB_SEARCHES), "rerank": _rerank, "limit": _limit}
)


def scope_query(work: RestScope, members: Members) -> Members:
    """Put a query into the tenant's scope."""
    return (
        work.enter(members)
        | work.partitions(members)
        | {"filter": _guarded(work, members), "outputFields": _fields(work, members, absent=["*"], counts=True)}
        | _as_they_are(members, "limit", "offset", "consistencyLevel")
    )


def scope_get(work: RestScope, members: Members) -> Members:
    """Put a look-up by primary key into the tenant's scope: a query where the primary key's name is known."""
    rows = (
        work.enter(members)
        | work.partitions(members)
        | {"outputFields": _fields(work, members, absent=["*"])}
        | _as_they_are(members, "consistencyLevel")
    )
    ids = required(members, "id")
    if work.place.primary_field is not None:
        if not all(isinstance(each, str) for each in ids):
            raise BadRequestError("invalid_body", "id must be strings, as the primary key is.", param="id")
        found: dict[str, TemplateValue] = {"ids": tuple(ids)}
        return rows | {"filter": work.guarded(f"{work.place.primary_field} in {{ids}}", found), "limit": len(ids)}
    if not all(isinstance(each, int) or _SAFE_KEY.fullmatch(each) for each in ids):
        raise BadRequestError(
            "invalid_body", "id must not hold quotes, backslashes or control characters: send a query.", param="id"
        )
    return rows | {"id": ids}


def scope_delete(work: RestScope, members: Members) -> Members:
    """Put a delete into the tenant's scope. Milvus refuses one without a filter; so the guard alone is none."""
    if not members.get("filter", "").strip():
        raise BadRequestError("invalid_body", "A delete needs a filter.", param="filter")
    return work.enter(members) | work.partition_to_write(members) | {"filter": _guarded(work, members)}


def scope_search(work: RestScope, members: Members) -> Members:
    """Put a search into the tenant's scope."""
    required(members, "data")
    return (
        work.enter(members)
        | work.partitions(members)
        | {"filter": _guarded(work, members), "outputFields": _fields(work, members, absent=[])}
        | _grouping(work, members)
        | work.field(members, "annsField")
        | _as_they_are(members, "data", "limit", "offset", "searchParams", "consistencyLevel")
    )


def scope_hybrid_search(work: RestScope, members: Members) -> Members:
    """Put a hybrid search into the tenant's scope: every search in it."""
    entered = work.enter(members) | work.partitions(members)
    parts: list[Members] = []
    characters = 0
    for part in required(members, "search"):
        parts.append(_sub_search(work, part))
        characters += len(part.get("filter", "")) + len(parts[-1]["filter"])
        check_filters(characters)
    return (
        entered
        | {"search": parts, "outputFields": _fields(work, members, absent=[])}
        | _grouping(work, members)
        | _as_they_are(members, "rerank", "limit", "consistencyLevel")
    )


def _sub_search(work: RestScope, members: Members) -> Members:
    required(members, "data", "search[].")
    return (
        {"filter": _guarded(work, members)}
        | work.field(members, "annsField")
        | work.field(members, "groupingField")
        | _as_they_are(members, "data", "metricType", "limit", "offset", "ignoreGrowing", "params")
    )


def _guarded(work: RestScope, members: Members) -> str:
    return work.guarded(members.get("filter", ""), members.get("exprParams", {}))


def _grouping(work: RestScope, members: Members) -> Members:
    return work.field(members, "groupingField") | _as_they_are(members, "groupSize", "strictGroupSize")


def _fields(work: RestScope, members: Members, *, absent: list[str], counts: bool = False) -> list[str]:
    """Return the output fields with the tenant's; `absent` is what Milvus takes where there are none."""
    names: list[str] = members.get("outputFields", absent)
    if counts and names == [COUNT]:
        work.counts = True
        return names
    for name in names:
        if OUTPUT_FIELD.fullmatch(name) is None:
            raise BadRequestError(
                "invalid_output_field",
                f"An output field is the name of a field, or *; {COUNT} stands alone in a query, other aggregates "
                "are not allowed.",
                param="outputFields",
            )
        work.refuse_tenant_field(name, "outputFields")
    return [*names, work.place.tenant_field]


def _as_they_are(members: Members, *names: str) -> Members:
    return {name: members[name] for name in names if name in members}
