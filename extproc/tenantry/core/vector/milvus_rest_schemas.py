"""Collections, indexes and partitions over REST: what a tenant may make, and how it names them.

A collection that a tenant makes gets the tenant field. Milvus's quick form (a dimension instead of a schema) has no
place for it, so it is written out as the schema that Milvus documents for it: a primary key `id`, a vector field
`vector` with an automatic index, a dynamic field, loaded at once.
"""

import re
from typing import Any

from tenantry.core.errors import BadRequestError
from tenantry.core.vector.milvus_rest_scope import (
    COLLECTION,
    DATABASE,
    Member,
    Members,
    RestScope,
    choice,
    field_name,
    integer,
    many,
    matching,
    objects,
    partition_name,
    partition_names,
    required,
    scalar,
    scalars,
    text,
)
from tenantry.core.vector.milvus_schemas import (
    MAX_FIELDS,
    MAX_FUNCTIONS,
    MAX_PARTITIONS,
    MAX_SHARDS,
    TENANT_CHARACTERS,
)
from tenantry.core.vector.milvus_types import INDEX_BUILD_PARAMETERS
from tenantry.core.vector.strictjson import expect, require

MAX_DIMENSION = 32_768
MAX_CHARACTERS = 65_535
MAX_TTL_SECONDS = 2**31 - 1
MAX_INDEXES = 64

DATA_TYPES = frozenset(
    {
        "Bool",
        "Int8",
        "Int16",
        "Int32",
        "Int64",
        "Float",
        "Double",
        "VarChar",
        "JSON",
        "Array",
        "FloatVector",
        "BinaryVector",
        "Float16Vector",
        "BFloat16Vector",
        "SparseFloatVector",
        "Int8Vector",
    }
)
ELEMENT_TYPES = frozenset({"Bool", "Int8", "Int16", "Int32", "Int64", "Float", "Double", "VarChar"})

_ANALYZER_WORD = re.compile(r"[A-Za-z0-9_]{1,64}")


def _size(most: int) -> Member:
    """Return the kind: a number from 1, as it is or as text. Milvus's documentation writes both."""

    def check(value: Any, path: str) -> int:
        found = expect(value, path, (int, str))
        if isinstance(found, str) and found.isascii() and found.isdecimal() and len(found) <= 10:
            found = int(found)
        if not isinstance(found, int) or not 1 <= found <= most:
            raise BadRequestError("invalid_body", f"{path} must be 1 to {most}.", param=path)
        return found

    return check


def _analyzer(value: Any, path: str) -> Members:
    """Check an analyzer: names of built-in parts, nothing that names a file or a service."""
    word = matching(_ANALYZER_WORD, "the name of a built-in part")
    return require(value, path, {"type": word, "tokenizer": word, "filter": many(word, 32)}, drop_null=True)


_TYPE_PARAMETERS: dict[str, Any] = {
    "max_length": _size(MAX_CHARACTERS),
    "dim": _size(MAX_DIMENSION),
    "max_capacity": _size(4096),
    "enable_analyzer": scalar,
    "enable_match": scalar,
    "analyzer_params": _analyzer,
    "mmap.enabled": scalar,
}


def _type_parameters(value: Any, path: str) -> Members:
    return require(value, path, _TYPE_PARAMETERS, drop_null=True)


def _default(value: Any, path: str) -> bool | float | str:
    found: bool | float | str = expect(value, path, (bool, float, str))
    return text(MAX_CHARACTERS)(found, path) if isinstance(found, str) else found


def _nothing(value: Any, path: str) -> Members:
    return require(value, path, {}, drop_null=True) if value != {} else {}


_FIELD: dict[str, Any] = {
    "fieldName": field_name,
    "dataType": choice(DATA_TYPES),
    "elementDataType": choice(ELEMENT_TYPES),
    "isPrimary": bool,
    "isPartitionKey": bool,
    "isClusteringKey": bool,
    "elementTypeParams": _type_parameters,
    "nullable": bool,
    "defaultValue": _default,
}
_FUNCTION: dict[str, Any] = {
    "name": field_name,
    "description": text(1024),
    # Computed inside the store. Others (text embedding, rerank) call services, with the operator's credentials.
    "type": choice(("BM25",)),
    "inputFieldNames": many(field_name, 4),
    "outputFieldNames": many(field_name, 4),
    "params": _nothing,
}
_SCHEMA: dict[str, Any] = {
    "fields": objects(_FIELD, MAX_FIELDS),
    "functions": objects(_FUNCTION, MAX_FUNCTIONS),
    "autoID": bool,
    "autoId": bool,
    "enableDynamicField": bool,
}
_INDEX: dict[str, Any] = {
    "fieldName": field_name,
    "indexName": field_name,
    "metricType": text(64),
    "indexType": text(64),
    "params": scalars(INDEX_BUILD_PARAMETERS),
}
_CREATE_PARAMETERS: dict[str, Any] = {
    "max_length": _size(MAX_CHARACTERS),
    "enableDynamicField": bool,
    "shardsNum": integer(1, MAX_SHARDS),
    "partitionsNum": integer(1, MAX_PARTITIONS),
    "consistencyLevel": choice(("Strong", "Session", "Bounded", "Eventually")),
    "ttlSeconds": integer(0, MAX_TTL_SECONDS),
    "partitionKeyIsolation": bool,
}


def _schema(value: Any, path: str) -> Members:
    found = require(value, path, _SCHEMA, drop_null=True)
    # Milvus's documentation writes `autoId`, its code reads `autoID`, and Go takes the last of both.
    if "autoId" in found:
        if "autoID" in found:
            raise BadRequestError("invalid_body", f"{path} has both autoID and autoId.", param=path)
        found["autoID"] = found.pop("autoId")
    return found


def _create_parameters(value: Any, path: str) -> Members:
    return require(value, path, _CREATE_PARAMETERS, drop_null=True)


_indexes = objects(_INDEX, MAX_INDEXES)

CREATE: dict[str, Any] = COLLECTION | {
    "dimension": integer(1, MAX_DIMENSION),
    "idType": choice(("Int64", "VarChar", "Varchar", "int64")),
    "autoID": bool,
    "metricType": text(64),
    "primaryFieldName": field_name,
    "vectorFieldName": field_name,
    "schema": _schema,
    "indexParams": _indexes,
    "params": _create_parameters,
    "description": text(1024),
}
LIST: dict[str, Any] = DATABASE
LOAD_STATE: dict[str, Any] = COLLECTION | {"partitionNames": partition_names}
PARTITION: dict[str, Any] = COLLECTION | {"partitionName": partition_name}
PARTITIONS: dict[str, Any] = COLLECTION | {"partitionNames": partition_names}
CREATE_INDEX: dict[str, Any] = COLLECTION | {"indexParams": _indexes}
INDEX: dict[str, Any] = COLLECTION | {"indexName": field_name}


def scope_list(work: RestScope, members: Members) -> Members:
    """List the tenant's own collections."""
    return work.enter_database(members)


def scope_named(work: RestScope, members: Members) -> Members:
    """Put a request that names a collection into the tenant's scope."""
    return work.enter(members)


def scope_perhaps(work: RestScope, members: Members) -> Members:
    """As `scope_named`, for a request that asks whether there is such a collection."""
    return work.enter(members, perhaps=True)


def scope_load_state(work: RestScope, members: Members) -> Members:
    """Ask for the state of the collection, or of the partitions that the tenant has in it."""
    return work.enter(members) | work.partitions(members)


def scope_partition(work: RestScope, members: Members) -> Members:
    """Put a request about one partition of the tenant's own collection into its scope."""
    return work.enter(members) | {"partitionName": required(members, "partitionName")}


def scope_partitions(work: RestScope, members: Members) -> Members:
    """Put a request about some partitions of the tenant's own collection into its scope."""
    return work.enter(members) | {"partitionNames": required(members, "partitionNames")}


def scope_index(work: RestScope, members: Members) -> Members:
    """Put a request about an index, by its name, into the tenant's scope."""
    return work.enter(members) | {"indexName": required(members, "indexName")}


def scope_create_index(work: RestScope, members: Members) -> Members:
    """Put the making of indexes into the tenant's scope."""
    return work.enter(members) | {"indexParams": _own_indexes(work, required(members, "indexParams"))}


def scope_create(work: RestScope, members: Members) -> Members:
    """Add the tenant field to the schema of a new collection."""
    entered = work.enter(members)
    parameters: Members = members.get("params", {})
    if "schema" in members:
        # With a schema Milvus ignores the members of the quick form.
        schema, indexes = members["schema"], members.get("indexParams", [])
    else:
        schema, indexes = _written_out(members, parameters)
    fields = schema.get("fields", [])
    if not fields:
        raise BadRequestError("invalid_schema", "schema.fields is missing.", param="schema")
    for place, field in enumerate(fields):
        required(field, "fieldName", f"schema.fields[{place}].")
        work.refuse_tenant_field(field["fieldName"], f"schema.fields[{place}].fieldName")
    kept = {name: value for name, value in parameters.items() if name not in ("max_length", "enableDynamicField")}
    return (
        entered
        | {"schema": schema | {"fields": [*fields, _tenant_field(work)]}}
        | ({"indexParams": _own_indexes(work, indexes)} if indexes else {})
        | ({"params": kept} if kept else {})
        | {name: members[name] for name in ("description",) if name in members}
    )


def _written_out(members: Members, parameters: Members) -> tuple[Members, list[Members]]:
    """Return the schema and the index that the quick form stands for."""
    is_text = members.get("idType", "Int64").lower() == "varchar"
    if is_text and "max_length" not in parameters:
        raise BadRequestError("invalid_schema", "params.max_length is missing: idType is VarChar.", param="params")
    vector = members.get("vectorFieldName", "vector")
    primary = {
        "fieldName": members.get("primaryFieldName", "id"),
        "dataType": "VarChar" if is_text else "Int64",
        "isPrimary": True,
        "elementTypeParams": {"max_length": parameters["max_length"]} if is_text else {},
    }
    embedding = {
        "fieldName": vector,
        "dataType": "FloatVector",
        "elementTypeParams": {"dim": required(members, "dimension")},
    }
    schema = {
        "autoID": members.get("autoID", False),
        "enableDynamicField": parameters.get("enableDynamicField", True),
        "fields": [primary, embedding],
    }
    index = {
        "fieldName": vector,
        "indexName": vector,
        "metricType": members.get("metricType", "COSINE"),
        "indexType": "AUTOINDEX",
    }
    return schema, [index]


def _tenant_field(work: RestScope) -> Members:
    return {
        "fieldName": work.place.tenant_field,
        "dataType": "VarChar",
        "elementTypeParams": {"max_length": TENANT_CHARACTERS},
    }


def _own_indexes(work: RestScope, indexes: list[Members]) -> list[Members]:
    for place, index in enumerate(indexes):
        name = required(index, "fieldName", f"indexParams[{place}].")
        work.refuse_tenant_field(name, f"indexParams[{place}].fieldName")
    return indexes
