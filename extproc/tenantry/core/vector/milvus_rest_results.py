"""What Milvus answers over REST: a code with data or with a message, built again from what is known.

Each row of a read must say that it is the tenant's; the field that says so is taken out. A member that is not known
here does not reach the client, a shape that is not known makes the whole answer unreadable. Numbers stay exact:
integers of 64 bits (or, without `Accept-Type-Allow-Int64: true`, their digits as a string), floats by their shortest
text.

Only `count(*)` has no tenant field: one number, made by the store from rows that the layout and the filter had already
narrowed to the tenant's. A `get` that stays one has no filter; its layout and this check are its locks.
"""

from collections.abc import Callable
from typing import Any

from tenantry.core.vector.calls import ForeignRowError, UnreadableResponseError
from tenantry.core.vector.milvus_rest_scope import Members, RestScope
from tenantry.core.vector.milvus_rows import COUNT, take_prefix

Check = Callable[[RestScope, Any], tuple[Any, int]]
"""Takes what stands under `data`, returns what the client gets there and how many rows were looked at."""

_FIELD_MEMBERS = frozenset(
    {
        "name",
        "id",
        "type",
        "primaryKey",
        "partitionKey",
        "clusteringKey",
        "autoId",
        "description",
        "nullable",
        "defaultValue",
        "isFunctionOutput",
        "params",
        "elementType",
    }
)
_FUNCTION_MEMBERS = frozenset({"name", "description", "type", "id", "inputFieldNames", "outputFieldNames", "params"})
_INDEX_MEMBERS = frozenset({"indexName", "fieldName", "metricType", "indexType", "indexState"})
_INDEX_ROWS = ("totalRows", "indexedRows", "pendingRows")
_COLLECTION_MEMBERS = frozenset(
    {"autoId", "load", "shardsNum", "partitionsNum", "consistencyLevel", "enableDynamicField", "description"}
)


def check_query(work: RestScope, data: Any) -> tuple[Any, int]:
    """Verify the rows of a query or get."""
    if work.counts:
        return _count(data), 0
    rows = _objects(data)
    return [_own_row(work, row, ranked=False) for row in rows], len(rows)


def check_search(work: RestScope, data: Any) -> tuple[Any, int]:
    """Verify the rows of a search, those of all query vectors: one list, or a list for each."""
    if isinstance(data, list) and any(isinstance(group, list) for group in data):
        groups = [_objects(group) for group in data]
        return [[_own_row(work, row, ranked=True) for row in rows] for rows in groups], sum(map(len, groups))
    rows = _objects(data)
    return [_own_row(work, row, ranked=True) for row in rows], len(rows)


def _count(data: Any) -> Any:
    rows = _objects(data)
    if len(rows) > 1 or any(row.keys() != {COUNT} or type(row[COUNT]) not in (int, str) for row in rows):
        raise UnreadableResponseError("a count that is not one number")
    if any(isinstance(row[COUNT], str) and not row[COUNT].isdecimal() for row in rows):
        raise UnreadableResponseError("a count that is not one number")
    return rows


def _own_row(work: RestScope, row: Members, *, ranked: bool) -> Members:
    place = work.place
    if row.get(place.tenant_field) != work.layout.tenant:
        raise ForeignRowError("a row that is not the tenant's")
    shown = {name: value for name, value in row.items() if name != place.tenant_field}
    if place.primary_field is not None:
        _take_key(work, shown, place.primary_field, ranked=ranked)
    return shown


def _take_key(work: RestScope, row: Members, primary: str, *, ranked: bool) -> None:
    """Show a row's primary key as the client wrote it.

    A search has it under its own name, under `id`, or under both, depending on Milvus's version. Where both are there,
    `id` may be another field of the client's.
    """
    prefix = work.layout.key_prefix
    named = primary if primary in row or not ranked else "id"
    key = row.get(named)
    if not isinstance(key, str):
        raise UnreadableResponseError("a row without its primary key")
    row[named] = take_prefix([key], prefix)[0]
    other = row.get("id")
    if ranked and named != "id" and isinstance(other, str):
        row["id"] = other.removeprefix(prefix)


def check_done(_work: RestScope, data: Any) -> tuple[Members, int]:
    """Answer that it was done; nothing else is documented."""
    if not isinstance(data, dict):
        raise UnreadableResponseError("an answer that is no object")
    return {}, 0


def check_has(_work: RestScope, data: Any) -> tuple[Members, int]:
    """Answer whether there is such a collection or partition."""
    return {"has": _member(data, "has", bool)}, 0


def check_names(_work: RestScope, data: Any) -> tuple[list[str], int]:
    """Name the partitions or indexes of the tenant's own collection."""
    return _strings(data), 0


def check_collections(work: RestScope, data: Any) -> tuple[list[str], int]:
    """Leave the collections that are the tenant's, under the names that its clients use."""
    names = [work.layout.name_of(physical) for physical in _strings(data)]
    return [name for name in names if name is not None], 0


def check_statistics(_work: RestScope, data: Any) -> tuple[Members, int]:
    """Say how many rows the tenant's own collection or partition has."""
    return {"rowCount": _member(data, "rowCount", int, str)}, 0


def check_load_state(_work: RestScope, data: Any) -> tuple[Members, int]:
    """Say whether it is loaded."""
    shown: Members = {"loadState": _member(data, "loadState", str)}
    if "loadProgress" in data:
        shown["loadProgress"] = _member(data, "loadProgress", int)
    return shown, 0


def check_indexes(work: RestScope, data: Any) -> tuple[list[Members], int]:
    """Show indexes but that of the tenant field; how many rows others have is not shown."""
    return [_index(work, index) for index in _objects(data) if not _is_tenant_field(work, index, "fieldName")], 0


def _index(work: RestScope, index: Members) -> Members:
    shown = _known(index, _INDEX_MEMBERS)
    shown |= {name: index[name] if work.layout.own else 0 for name in _INDEX_ROWS if name in index}
    if "failReason" in index:
        shown["failReason"] = work.layout.shown(_member(index, "failReason", str)) if work.layout.own else ""
    return shown


def check_describe(work: RestScope, data: Any) -> tuple[Members, int]:
    """Show the collection as if it were the tenant's own and had no tenant field."""
    place, own = work.place, work.layout.own
    if not isinstance(data, dict):
        raise UnreadableResponseError("a description that is no object")
    fields = _objects(data.get("fields"))
    others = [field for field in fields if not _is_tenant_field(work, field, "name")]
    if len(others) == len(fields):
        raise UnreadableResponseError("the collection has no tenant field")
    shown = _known(data, _COLLECTION_MEMBERS) | {
        "collectionName": place.name,
        "collectionID": work.layout.public_id(place.name),
        "fields": [_field(work, field) for field in others],
        "functions": [_known(each, _FUNCTION_MEMBERS) for each in _objects(data.get("functions", []))],
        "indexes": check_indexes(work, data.get("indexes", []))[0],
        # The operator's: a tenant makes none.
        "aliases": [],
        "properties": _objects(data.get("properties", [])) if own else [],
    }
    if not own:
        # One partition a tenant would say how many tenants there are.
        shown |= {"partitionsNum": 1, "description": ""}
    return shown, 0


def _field(work: RestScope, field: Members) -> Members:
    shown = _known(field, _FIELD_MEMBERS)
    if field.get("name") == work.place.primary_field:
        shown["params"] = [_shortened(work, each) for each in _objects(field.get("params", []))]
    return shown


def _shortened(work: RestScope, parameter: Members) -> Members:
    """Show how long a primary key may be without the prefix that is put before it."""
    value = parameter.get("value")
    if parameter.get("key") == "max_length" and isinstance(value, str) and value.isdecimal():
        return {"key": "max_length", "value": str(max(0, int(value) - len(work.layout.key_prefix)))}
    return parameter


def _is_tenant_field(work: RestScope, part: Members, name: str) -> bool:
    return bool(_member(part, name, str) == work.place.tenant_field)


def _known(part: Members, names: frozenset[str]) -> Members:
    return {name: value for name, value in part.items() if name in names}


def _member(part: Any, name: str, *kinds: type) -> Any:
    if not isinstance(part, dict) or type(part.get(name)) not in kinds:
        raise UnreadableResponseError(f"{name} is not there, or of another kind")
    return part[name]


def _objects(value: Any) -> list[Members]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise UnreadableResponseError("not a list of objects")
    return value


def _strings(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise UnreadableResponseError("not a list of names")
    return value
