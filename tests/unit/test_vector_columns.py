"""A write's columns are held against the schema before the store sees them: engines take a client's word for it."""

from collections.abc import Callable

import pytest
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.column import Column
from tenantry.core.vector.columns import KINDS, columns_of, misfits

BOOL, INT32, INT64, VARCHAR, ARRAY, JSON, FLOAT_VECTOR, SPARSE = 1, 4, 5, 21, 22, 23, 101, 104


def schema(*, dynamic: bool = False) -> pb.CollectionSchema:
    made = pb.CollectionSchema(name="notes", enable_dynamic_field=dynamic)
    made.fields.add(name="id", data_type=INT64, is_primary_key=True)
    made.fields.add(name="price", data_type=INT32)
    made.fields.add(name="note", data_type=VARCHAR, nullable=True)
    made.fields.add(name="tags", data_type=ARRAY, element_type=VARCHAR)
    made.fields.add(name="meta", data_type=JSON)
    made.fields.add(name="vec", data_type=FLOAT_VECTOR).type_params.add(key="dim", value="4")
    made.fields.add(name="words", data_type=SPARSE)
    return made


def scalars(name: str, fill: Callable[[pb.ScalarField], object], **more: object) -> pb.FieldData:
    field = pb.FieldData(field_name=name, **more)  # type: ignore[arg-type]
    fill(field.scalars)
    return field


def vectors(name: str, dim: int, values: int) -> pb.FieldData:
    field = pb.FieldData(field_name=name, type=FLOAT_VECTOR)
    field.vectors.dim = dim
    field.vectors.float_vector.data.extend([0.5] * values)
    return field


def longs(to: pb.ScalarField) -> None:
    to.long_data.data.extend([1, 2])


def texts(to: pb.ScalarField) -> None:
    to.string_data.data.extend(["a", "b"])


def numbers(to: pb.ScalarField) -> None:
    to.int_data.data.extend([1, 2])


def documents(to: pb.ScalarField) -> None:
    to.json_data.data.extend([b"{}", b"{}"])


def rows_of_texts(to: pb.ScalarField) -> None:
    to.array_data.data.add().string_data.data.append("a")


def rows_of_numbers(to: pb.ScalarField) -> None:
    rows_of_texts(to)
    to.array_data.data.add().long_data.data.append(1)


def sparse() -> pb.FieldData:
    field = pb.FieldData(field_name="words")
    field.vectors.dim = 7  # of the longest row: what SDKs send
    field.vectors.sparse_float_vector.contents.append(b"\x00" * 8)
    return field


def wrong(*fields: pb.FieldData, dynamic: bool = False) -> list[str]:
    return list(misfits(schema(dynamic=dynamic), columns_of(fields), "$meta"))


GOOD = (
    scalars("id", longs), scalars("price", numbers), scalars("note", texts), scalars("tags", rows_of_texts),
    scalars("meta", documents), vectors("vec", 4, 8), sparse(),
)  # fmt: skip


def test_rows_that_fit() -> None:
    assert wrong(*GOOD) == []
    assert wrong(*GOOD, scalars("$meta", documents, is_dynamic=True), dynamic=True) == []
    assert wrong(scalars("", documents, is_dynamic=True), dynamic=True) == []  # as pymilvus 2.3 names it


def test_a_column_may_be_without_values_where_rows_have_none() -> None:
    assert wrong(pb.FieldData(field_name="note", valid_data=[False, False])) == []
    assert wrong(pb.FieldData(field_name="price", valid_data=[False, True])) == [
        '"price" has no value in some rows, and is not nullable'
    ]


@pytest.mark.parametrize(
    ("field", "problem"),
    [
        # Milvus 2.3.5 read memory that was not there, and ended; 2.5.1 Lite ended at once.
        (scalars("price", texts, type=VARCHAR), '"price" is sent as string_data, which is not how its type is written'),
        (scalars("id", texts), '"id" is sent as string_data, which is not how its type is written'),
        (scalars("note", longs), '"note" is sent as long_data, which is not how its type is written'),
        (scalars("price", longs), '"price" is sent as long_data, which is not how its type is written'),
        (scalars("vec", texts), '"vec" is sent as string_data, which is not how its type is written'),
        (vectors("price", 4, 8), '"price" is sent as float_vector, which is not how its type is written'),
        (vectors("vec", 2, 4), '"vec" has 2 dimensions instead of 4'),
        (scalars("tags", rows_of_numbers), '"tags" has elements of another type'),
        (scalars("colour", texts), 'the collection has no field "colour"'),
        (scalars("$meta", documents, is_dynamic=True), "the collection has no dynamic field"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_rows_that_do_not(field: pb.FieldData, problem: str) -> None:
    assert wrong(field) == [problem]
    assert wrong(*GOOD, field)[-1] == problem


def test_a_type_that_nobody_reviewed_takes_no_values() -> None:
    made = pb.CollectionSchema()
    made.fields.add(name="new", data_type=99)
    assert 99 not in KINDS
    assert list(misfits(made, [Column(name="new", kind="long_data")], "$meta")) == [
        '"new" is sent as long_data, which is not how its type is written'
    ]
