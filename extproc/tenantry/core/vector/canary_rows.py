"""Rows of canary tenants, for whatever schema a collection has; and reading them back to be compared.

A row's content follows from one number, its `mark`: rows of different marks differ in every field that can differ.
"""

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.milvus_rows import VARCHAR

JSON, ARRAY = 23, 22
BINARY, FLOAT, FLOAT16, BFLOAT16, SPARSE, INT8 = 100, 101, 102, 103, 104, 105

Key = int | str
Rows = dict[Key, tuple[tuple[str, object], ...]]
"""Rows by their primary key as the engine keeps it: names and values of all other fields, sorted by name."""

_SCALARS: dict[int, tuple[str, Callable[[int], Any]]] = {
    1: ("bool_data", lambda mark: mark % 2 == 1),
    2: ("int_data", lambda mark: mark % 128),
    3: ("int_data", lambda mark: mark),
    4: ("int_data", lambda mark: mark),
    5: ("long_data", lambda mark: mark),
    10: ("float_data", float),
    11: ("double_data", float),
    20: ("string_data", lambda mark: f"v{mark}"),
    VARCHAR: ("string_data", lambda mark: f"v{mark}"),
    JSON: ("json_data", lambda mark: b'{"v":%d}' % mark),
    24: ("geometry_data", lambda mark: f"POINT ({mark} 0)".encode()),
    25: ("string_data", lambda mark: f"v{mark}"),
}
"""How a scalar type (`DataType`, schema.proto) is sent, and its value for a mark."""

VECTORS = frozenset({BINARY, FLOAT, FLOAT16, BFLOAT16, SPARSE, INT8})
PLACEHOLDER_TEXT = 21


def known(field: pb.FieldSchema) -> bool:
    """Return whether rows can be made for a field of this type."""
    if field.data_type == ARRAY:
        return field.element_type in _SCALARS and field.element_type != JSON
    return field.data_type in _SCALARS or field.data_type in VECTORS


def columns(schema: pb.CollectionSchema, tenant_field: str, keys: Sequence[Key], marks: Sequence[int]) -> list[Any]:
    """Return the columns of a client that does not know of tenants: none for the tenant, none that the engine makes."""
    made = []
    for field in schema.fields:
        if field.name == tenant_field or field.is_function_output or (field.is_primary_key and field.autoID):
            continue
        if field.is_primary_key:
            made.append(_keys(field, keys))
        else:
            made.append(_column(field, marks))
    return made


def _keys(field: pb.FieldSchema, keys: Sequence[Key]) -> pb.FieldData:
    column = pb.FieldData(type=field.data_type, field_name=field.name)
    data: Any = column.scalars.string_data.data if field.data_type == VARCHAR else column.scalars.long_data.data
    data.extend(keys)
    return column


def _column(field: pb.FieldSchema, marks: Sequence[int]) -> pb.FieldData:
    column = pb.FieldData(type=field.data_type, field_name=field.name)
    if field.nullable:
        column.valid_data.extend([True] * len(marks))
    if field.data_type in VECTORS:
        _vectors(column.vectors, field, marks)
    elif field.data_type == ARRAY:
        member, value = _SCALARS[field.element_type]
        array = column.scalars.array_data
        array.element_type = field.element_type
        for mark in marks:
            getattr(array.data.add(), member).data.append(value(mark))
    else:
        member, value = _SCALARS[field.data_type]
        getattr(column.scalars, member).data.extend(value(mark) for mark in marks)
    _cut(column, field)
    return column


def _cut(column: pb.FieldData, field: pb.FieldSchema) -> None:
    """Keep texts within a very short VARCHAR: the end of them, which tells marks apart."""
    limit = parameter(field.type_params, "max_length")
    if column.scalars.WhichOneof("data") == "string_data" and limit:
        data = column.scalars.string_data.data
        data[:] = [text[-limit:] for text in data]


def _vectors(vectors: pb.VectorField, field: pb.FieldSchema, marks: Sequence[int]) -> None:
    kind, dim = field.data_type, parameter(field.type_params, "dim") or 0
    if kind != SPARSE:
        vectors.dim = dim
    for mark in marks:
        if kind == FLOAT:
            vectors.float_vector.data.extend(numbers(mark, dim))
        elif kind == SPARSE:
            vectors.sparse_float_vector.contents.append(vector_bytes(kind, mark, dim))
        else:
            member = {BINARY: "binary_vector", FLOAT16: "float16_vector", BFLOAT16: "bfloat16_vector"}.get(kind)
            member = member or "int8_vector"
            setattr(vectors, member, getattr(vectors, member) + vector_bytes(kind, mark, dim))
    if kind == SPARSE:
        vectors.sparse_float_vector.dim = max(marks, default=0) + 2


def numbers(mark: int, dim: int) -> list[float]:
    """Return a vector of small whole numbers, exact in every format; the first tells marks apart."""
    return [float(mark + 1), *(float((mark + 1) * (place + 3) % 17 + 1) for place in range(dim - 1))]


def vector_bytes(kind: int, mark: int, dim: int) -> bytes:
    """Return a vector as it is sent in a search, and in rows of all kinds but floats."""
    if kind == BINARY:
        return bytes((mark * 37 + place) % 256 for place in range(-(-dim // 8)))
    if kind == SPARSE:
        return struct.pack("<IfIf", mark, 1.0, mark + 1, 0.5)
    values = numbers(mark, dim)
    if kind == FLOAT16:
        return struct.pack(f"<{dim}e", *values)
    if kind == BFLOAT16:  # the upper half of a float
        packed = struct.pack(f"<{dim}f", *values)
        return b"".join(packed[at + 2 : at + 4] for at in range(0, len(packed), 4))
    if kind == INT8:
        return struct.pack(f"<{dim}b", *(int(value) for value in values))
    return struct.pack(f"<{dim}f", *values)


def parameter(pairs: Iterable[pb.KeyValuePair], key: str) -> int | None:
    """Return a whole number among a field's parameters, None where there is none."""
    for pair in pairs:
        if pair.key == key and pair.value.isdecimal():
            return int(pair.value)
    return None


def keys_of(ids: pb.IDs) -> list[Key]:
    """Return the primary keys in an answer."""
    return list(ids.str_id.data) if ids.WhichOneof("id_field") == "str_id" else list(ids.int_id.data)


def rows_of(answer: Sequence[pb.FieldData], primary: str) -> Rows | None:
    """Return the rows of an answer in columns; None when the columns do not say which row is which."""
    values: Mapping[str, list[object]] = {column.field_name: _values(column) for column in answer}
    keys = values.get(primary)
    if not keys:
        return {} if not any(values.values()) else None
    if any(len(each) not in (0, len(keys)) for each in values.values()) or len(set(keys)) != len(keys):
        return None
    names = sorted(name for name, each in values.items() if name != primary and each)
    return {
        key: tuple((name, values[name][place]) for name in names)  # type: ignore[misc]  # keys are int or str
        for place, key in enumerate(keys)
    }


def _values(column: pb.FieldData) -> list[object]:
    if column.WhichOneof("field") == "vectors":
        return _vector_values(column.vectors)
    member = column.scalars.WhichOneof("data")
    if member is None:
        return []
    data = getattr(column.scalars, member).data
    if member == "array_data":
        return [each.SerializeToString(deterministic=True) for each in data]
    return list(data)


def _vector_values(vectors: pb.VectorField) -> list[object]:
    kind = vectors.WhichOneof("data")
    if kind is None:
        return []
    if kind == "sparse_float_vector":
        return list(vectors.sparse_float_vector.contents)
    if kind == "float_vector":
        data: Any = vectors.float_vector.data
        size = vectors.dim
    else:
        data = getattr(vectors, kind)
        size = {"binary_vector": vectors.dim // 8, "int8_vector": vectors.dim}.get(kind, vectors.dim * 2)
    if size <= 0:
        return []
    return [data[at : at + size] if kind != "float_vector" else tuple(data[at : at + size])
            for at in range(0, len(data), size)]  # fmt: skip
