"""Whether the columns of a write are what the collection's schema says.

An engine may take a client's word for it: Milvus 2.3.5 answers OK to an INT64 column that is sent as text, reads its
memory as numbers later, and ends; Milvus Lite 2.5.1 ends at once (measured). What lies beside that memory may be
another tenant's. So no write is passed on whose columns were not held against the schema, as the store has it now.
"""

from collections.abc import Iterable, Iterator

from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.column import Column

KINDS: dict[int, tuple[str, ...]] = {
    1: ("bool_data",),
    2: ("int_data",),
    3: ("int_data",),
    4: ("int_data",),
    5: ("long_data",),
    10: ("float_data",),
    11: ("double_data",),
    20: ("string_data",),
    21: ("string_data",),
    22: ("array_data",),
    23: ("json_data",),
    24: ("geometry_data", "geometry_wkt_data"),
    25: ("string_data",),
    26: ("timestamptz_data", "string_data"),
    100: ("binary_vector",),
    101: ("float_vector",),
    102: ("float16_vector",),
    103: ("bfloat16_vector",),
    104: ("sparse_float_vector",),
    105: ("int8_vector",),
}
"""How values of each `DataType` (schema.proto) are sent. Types that are not here are not written through tenantry."""

ARRAY, SPARSE = 22, 104
FIRST_VECTOR = 100


def columns_of(fields: Iterable[pb.FieldData]) -> tuple[Column, ...]:
    """Return what the columns are."""
    return tuple(_column(field) for field in fields)


def _column(field: pb.FieldData) -> Column:
    part = field.WhichOneof("field")
    kind = (getattr(field, part).WhichOneof("data") if part else None) or ""
    elements: frozenset[str] = frozenset()
    if kind == "array_data":
        elements = frozenset(row.WhichOneof("data") or "" for row in field.scalars.array_data.data)
    dim = field.vectors.dim if part == "vectors" and kind != "sparse_float_vector" else 0
    return Column(name=field.field_name, kind=kind, elements=elements, dim=dim, nulls=not all(field.valid_data))


def misfits(schema: pb.CollectionSchema, columns: Iterable[Column], dynamic: str) -> Iterator[str]:
    """Yield what is wrong with a write's columns; `dynamic` names the dynamic field, which is JSON and in no schema."""
    fields = {field.name: field for field in schema.fields}
    for column in columns:
        if column.name in ("", dynamic):
            if not schema.enable_dynamic_field:
                yield "the collection has no dynamic field"
            continue
        field = fields.get(column.name)
        if field is None:
            yield f'the collection has no field "{column.name}"'
        elif (problem := _misfit(field, column)) is not None:
            yield f'"{column.name}" {problem}'


def _misfit(field: pb.FieldSchema, column: Column) -> str | None:
    if column.nulls and not field.nullable:
        return "has no value in some rows, and is not nullable"
    if column.kind and column.kind not in KINDS.get(field.data_type, ()):
        return f"is sent as {column.kind}, which is not how its type is written"
    if field.data_type == ARRAY and not column.elements <= {*KINDS.get(field.element_type, ()), ""}:
        return "has elements of another type"
    if field.data_type >= FIRST_VECTOR and field.data_type != SPARSE and column.kind and column.dim != _dim(field):
        return f"has {column.dim} dimensions instead of {_dim(field)}"
    return None


def _dim(field: pb.FieldSchema) -> int:
    return next((int(pair.value) for pair in field.type_params if pair.key == "dim" and pair.value.isdecimal()), 0)
