"""Columns of rows: how many, whose, and with which keys. The third lock.

A response is columns, all of one length; the tenant column was asked for, and says of each row whose it is. It is
looked at whole, then taken out. Only `count(*)` has no such column: one row, made by the store from rows that the
layout and the filter had already narrowed to the tenant's (both go into the same plan as any other query's:
internal/proxy/task_query.go turns `count(*)` into a field of the plan and leaves its predicate as it is). Other
aggregates are not asked for, since they are not let through.
"""

from collections.abc import Iterable, Sequence

from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.calls import ForeignRowError, UnreadableResponseError

VARCHAR = 21
COUNT = "count(*)"

_BYTES_PER_DIMENSION = {"float16_vector": 2, "bfloat16_vector": 2, "int8_vector": 1}


def length(column: pb.FieldData) -> int | None:
    """Return for how many rows a column has values or says that it has none; None when that cannot be told."""
    values = _values(column)
    return None if values is None else max(values, len(column.valid_data))


def has_rows(column: pb.FieldData, rows: int) -> bool:
    """Return whether a column that a client sends has `rows` rows, and a value for each row that it says has one.

    A store may read beyond the end of one that is shorter: milvus-lite 2.5.1 ends then, for all tenants.
    """
    values, valid = _values(column), column.valid_data
    if any(array.WhichOneof("data") is None for array in column.scalars.array_data.data):
        return False  # an array of nothing, not even of no numbers: Milvus 2.3.5 ends at it
    return (values == rows and not valid) or (len(valid) == rows and values in (rows, sum(valid)))


def _values(column: pb.FieldData) -> int | None:
    kind = column.WhichOneof("field")
    if kind == "scalars":
        scalar = column.scalars.WhichOneof("data")
        return len(getattr(column.scalars, scalar).data) if scalar else 0
    return _vectors(column.vectors) if kind == "vectors" else 0


def _vectors(vectors: pb.VectorField) -> int | None:
    kind = vectors.WhichOneof("data")
    if kind is None:
        return 0
    if kind == "sparse_float_vector":
        return len(vectors.sparse_float_vector.contents)
    if kind == "float_vector":
        size, of_one = len(vectors.float_vector.data), vectors.dim
    elif kind == "binary_vector":
        size, of_one = len(vectors.binary_vector), -(-vectors.dim // 8)
    else:
        size, of_one = len(getattr(vectors, kind)), vectors.dim * _BYTES_PER_DIMENSION[kind]
    if size == 0:
        return 0
    return size // of_one if of_one > 0 and size % of_one == 0 else None


def tenant_column(field: str, tenant: str, rows: int) -> pb.FieldData:
    """Return the column that says of `rows` rows that they are this tenant's."""
    column = pb.FieldData(type=VARCHAR, field_name=field)
    column.scalars.string_data.data.extend([tenant] * rows)
    return column


def take_tenant_column(columns: Iterable[pb.FieldData], field: str, tenant: str, rows: int) -> list[pb.FieldData]:
    """Return `columns` without the tenant's, after every one of `rows` rows was found to be the tenant's.

    Raises ForeignRowError for another tenant's row, UnreadableResponseError when rows cannot be told.
    """
    kept: list[pb.FieldData] = []
    found: list[pb.FieldData] = []
    for column in columns:
        (found if column.field_name == field else kept).append(column)
    if not found and rows:
        raise UnreadableResponseError("rows without the tenant column")
    for column in found:
        names = column.scalars.string_data.data
        if len(names) != rows:
            raise UnreadableResponseError("the tenant column has another length than the rows")
        if not all(column.valid_data) or any(name != tenant for name in names):
            raise ForeignRowError("a row of another tenant")
    # A column with more rows than were looked at would pass rows that nobody saw.
    for column in kept:
        values = length(column)
        if values is None or values > rows:
            raise UnreadableResponseError("a column has more rows than the tenant column")
    return kept


def take_prefix(keys: Sequence[str], prefix: str) -> list[str]:
    """Return primary keys without their prefix; a key without it is another tenant's."""
    if not all(key.startswith(prefix) for key in keys):
        raise ForeignRowError("a primary key of another tenant")
    return [key[len(prefix) :] for key in keys]


def take_prefix_of_column(column: pb.FieldData, prefix: str) -> None:
    """Take the prefix from a column of primary keys."""
    if column.scalars.WhichOneof("data") not in (None, "string_data") or column.WhichOneof("field") == "vectors":
        raise UnreadableResponseError("primary keys that are not text")
    keys = column.scalars.string_data.data
    keys[:] = take_prefix(keys, prefix)


def take_prefix_of_ids(ids: pb.IDs, prefix: str) -> None:
    """Take the prefix from the primary keys of an answer."""
    if ids.int_id.data:
        raise UnreadableResponseError("primary keys that are not text")
    if ids.WhichOneof("id_field") == "str_id":
        ids.str_id.data[:] = take_prefix(ids.str_id.data, prefix)
