"""Inserts and upserts of a tenant: each row is stamped, and no column says otherwise."""

from collections.abc import Callable
from typing import Any

import pytest
from tenantry.core.rules_stores import Store
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry_testing.milvus import (
    COLLECTION,
    DATABASE,
    KEYPREFIX,
    LAYOUTS,
    OTHER,
    OTHER_TOKEN,
    PARTITION,
    PHYSICAL,
    TENANT,
    TOKEN,
    Exchange,
    documents,
    insert,
    numbers,
    refusal,
    rewritten,
    texts,
    upsert,
    vectors,
)

STAMP = texts("tenant_id", TENANT, TENANT)
EVERY_LAYOUT = pytest.mark.parametrize("store", LAYOUTS.values(), ids=LAYOUTS)
BOTH = pytest.mark.parametrize(("method", "write"), [("Insert", insert), ("Upsert", upsert)], ids=["Insert", "Upsert"])


@EVERY_LAYOUT
@BOTH
def test_rows_are_stamped(method: str, write: Callable[..., Any], store: Store) -> None:
    sent = rewritten(method, write(texts("pk", "a", "b"), vectors("vec", 2)), store)
    keys = ("a", "b") if store is not KEYPREFIX else (f"{TOKEN}:a", f"{TOKEN}:b")
    assert list(sent.fields_data) == [texts("pk", *keys), vectors("vec", 2), STAMP]
    assert sent.num_rows == 2
    assert sent.partition_name == (TOKEN if store is PARTITION else "")
    assert sent.collection_name == PHYSICAL[store.isolation]
    assert sent.db_name == (TOKEN if store is DATABASE else "")


@BOTH
def test_what_a_client_says_of_the_tenant_is_dropped(method: str, write: Callable[..., Any]) -> None:
    sent = rewritten(method, write(texts("tenant_id", OTHER, OTHER), numbers("id", 1, 2)), PARTITION)
    assert list(sent.fields_data) == [numbers("id", 1, 2), STAMP]


def test_ids_of_fields_and_keys_of_shards_are_dropped() -> None:
    column = numbers("id", 1, 2)
    column.field_id = 101
    sent = rewritten("Insert", insert(column, hash_keys=[7, 7]), PARTITION)
    assert sent.fields_data[0] == numbers("id", 1, 2)
    assert list(sent.hash_keys) == []


def test_a_partition_of_the_clients_own() -> None:
    assert rewritten("Insert", insert(numbers("id", 1, 2), partition_name="x"), COLLECTION).partition_name == "x"
    assert rewritten("Insert", insert(numbers("id", 1, 2), partition_name="x"), PARTITION).partition_name == TOKEN
    assert rewritten("Upsert", upsert(texts("pk", "a", "b"), partition_name="x"), KEYPREFIX).partition_name == ""
    assert refusal("Insert", insert(numbers("id", 1, 2), partition_name="a b"), COLLECTION) == "invalid_partition_name"


@pytest.mark.parametrize(
    ("raw", "sent"),
    [
        (b'{"a": 1, "a": 2}', b'{"a":2}'),
        (b"", b"{}"),
        (b' { "a" : {"tenant_id": "globex"} } ', b'{"a":{"tenant_id": "globex"}}'),
        (b'{"tenant": 1}', b'{"tenant":1}'),
        (b'{"n":[9223372036854775807,-9223372036854775808]}', b'{"n":[9223372036854775807,-9223372036854775808]}'),
        (b'{"n":"99999999999999999999"}', b'{"n":"99999999999999999999"}'),
    ],
)
def test_the_dynamic_field_is_written_anew(raw: bytes, sent: bytes) -> None:
    for name in ("", "$meta"):
        for dynamic in (True, False):
            made = rewritten(
                "Insert", insert(numbers("id", 1), documents(raw, name=name, dynamic=dynamic), rows=1), PARTITION
            )
            assert list(made.fields_data[1].scalars.json_data.data) == [sent]


def test_a_json_column_of_the_schema_is_the_clients_own() -> None:
    column = documents(b'{"tenant_id": 1}', name="extra", dynamic=False)
    assert rewritten("Insert", insert(column, rows=1), PARTITION).fields_data[0] == column


def nested(depth: int) -> pb.FieldData:
    column = pb.FieldData(type=22, field_name="deep")
    inner = column.scalars
    for _ in range(depth):
        inner = inner.array_data.data.add()
    inner.string_data.data.append("x")
    return column


def within(field: int, message: bytes) -> bytes:
    """Return a message of fewer than 16,384 bytes as the only field of another."""
    return bytes((field << 3 | 2, len(message) & 127 | 128, len(message) >> 7)) + message


def test_arrays_in_arrays_end() -> None:
    assert refusal("Insert", insert(nested(1), rows=1), PARTITION) == ""
    assert refusal("Insert", insert(nested(20), rows=1), PARTITION) == ""
    deep = b""
    for _ in range(60):  # an array in field 8 of a scalar, a scalar in field 1 of an array
        deep = within(8, within(1, deep))
    column = within(5, within(3, deep))
    assert refusal("Insert", insert(rows=1).SerializeToString() + column, PARTITION) == "invalid_message"


def nullable(values: int, *valid: bool) -> pb.FieldData:
    column = numbers("n", *range(values))
    column.valid_data.extend(valid)
    return column


def test_nulls() -> None:
    for column in (
        nullable(1, True, False),
        nullable(2, True, False),
        nullable(2, True, True),
        nullable(0, False, False),
    ):
        assert rewritten("Insert", insert(column), PARTITION).fields_data[0] == column


def packed(**vectors: Any) -> pb.FieldData:
    return pb.FieldData(field_name="v", vectors=pb.VectorField(**vectors))


REFUSED: list[tuple[str, tuple[pb.FieldData, ...], str]] = [
    ("no column", (), "invalid_column"),
    ("the tenant column alone", (texts("tenant_id", TENANT, TENANT),), "invalid_column"),
    ("one name twice", (numbers("id", 1, 2), texts("id", "a", "b")), "duplicate_column"),
    ("two tenant columns", (numbers("id", 1, 2), STAMP, STAMP), "duplicate_column"),
    ("the tenant column in other letters", (texts("Tenant_ID", OTHER, OTHER),), "reserved_field"),
    ("two dynamic fields", (documents(b"{}", b"{}"), documents(b"{}", b"{}", name="")), "duplicate_column"),
    ("two without a name", (documents(b"{}", b"{}", name=""), documents(b"{}", b"{}", name="")), "duplicate_column"),
    ("a dynamic field of another name", (documents(b"{}", b"{}", name="x"),), "invalid_column"),
    ("a dynamic tenant column", (documents(b"{}", b"{}", name="tenant_id"),), "invalid_column"),
    ("a dynamic field of text", (numbers("id", 1, 2), texts("$meta", "{}", "{}")), "invalid_column"),
    ("the tenant in the dynamic field", (documents(b"{}", b'{"tenant_id":"globex"}'),), "reserved_field"),
    ("the dynamic field in itself", (documents(b"{}", b'{"$meta":{"tenant_id":"globex"}}'),), "reserved_field"),
    ("in other letters", (documents(b"{}", b'{"TENANT_ID":1}'),), "reserved_field"),
    ("escaped", (documents(b"{}", b'{"\\u0074enant_id":1}'),), "reserved_field"),
    ("hidden by a second one", (documents(b"{}", b'{"tenant_id":1,"tenant_id":"acme"}'),), "reserved_field"),
    ("an integer at which an engine fails others", (documents(b"{}", b'{"n":[1' + b"0" * 19 + b"]}"),), "invalid_json"),
    ("not UTF-8 in a value", (documents(b"{}", b'{"n":{"m":"\xff"}}'),), "invalid_json"),
    ("no object", (documents(b"{}", b"[]"),), "invalid_json"),
    ("no JSON", (documents(b"{}", b"{"),), "invalid_json"),
    ("two documents", (documents(b"{}", b"{} {}"),), "invalid_json"),
    ("too deep", (documents(b"{}", b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}"),), "invalid_json"),
    ("not UTF-8", (documents(b"{}", b'{"\xff":1}'),), "invalid_json"),
    (
        "an array of no kind",
        (pb.FieldData(field_name="a", scalars=pb.ScalarField(array_data=pb.ArrayArray(data=[pb.ScalarField()] * 2))),),
        "invalid_column",
    ),
    ("a column too short", (numbers("id", 1),), "invalid_column"),
    ("a column too long", (numbers("id", 1, 2, 3),), "invalid_column"),
    ("a tenant column too short", (numbers("id", 1, 2), texts("tenant_id", TENANT)), "invalid_column"),
    ("vectors too short", (numbers("id", 1, 2), vectors("vec", 1)), "invalid_column"),
    ("half a vector", (packed(dim=4, float_vector=pb.FloatArray(data=[1, 2])),), "invalid_column"),
    ("vectors of no size", (packed(binary_vector=b"xx"),), "invalid_column"),
    ("fewer values than are said to be there", (nullable(1, True, True),), "invalid_column"),
    ("more values than are said to be there", (nullable(3, True, False),), "invalid_column"),
    ("more flags than rows", (nullable(2, True, True, True),), "invalid_column"),
    ("a column of flags", (nullable(0, True, True),), "invalid_column"),
    ("too many columns", tuple(numbers(f"c{place}", 1, 2) for place in range(1025)), "too_many_columns"),
]  # fmt: skip


@BOTH
@pytest.mark.parametrize(("columns", "code"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_refused(method: str, write: Callable[..., Any], columns: tuple[pb.FieldData, ...], code: str) -> None:
    assert refusal(method, write(*columns), PARTITION) == code


@BOTH
def test_a_primary_key_in_the_dynamic_field(method: str, write: Callable[..., Any]) -> None:
    for key in ("pk", "PK", "\\u0070k"):
        member = documents(f'{{"{key}": "{OTHER_TOKEN}:k0"}}'.encode())
        for columns in ((texts("pk", "a"), member), (member, texts("pk", "a"))):
            assert refusal(method, write(*columns, rows=1), KEYPREFIX) == "reserved_field"


def test_a_byte_is_not_made_a_tenant_without_end() -> None:
    many = 131_072
    for rows, code in ((many, ""), (many + 1, "too_many_rows")):
        column = pb.FieldData(field_name="x", scalars=pb.ScalarField(bool_data=pb.BoolArray(data=[True] * rows)))
        assert refusal("Insert", insert(column, rows=rows), COLLECTION) == code


def test_rows_that_nobody_sent_take_no_memory() -> None:
    assert refusal("Insert", insert(numbers("id", 1), rows=2**32 - 1), PARTITION) == "invalid_column"


NO_NAMES = (
    "tenant_id ", " tenant_id", "tenant_id\0", "`tenant_id`", '$meta["tenant_id"]', "$Meta", "a.b", "1a", "\u017fize",
    "a" * 256,
)  # fmt: skip


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_column_has_the_name_of_a_field(name: str) -> None:
    """Milvus Lite 3.2 takes a column that it does not know for a dynamic one, whatever that means with such a name."""
    assert refusal("Insert", insert(numbers("id", 1), numbers(name, 1), rows=1), PARTITION) == "invalid_column"


@pytest.mark.parametrize(
    "columns",
    [(numbers("id", 1, 2),), (numbers("pk", 1, 2),), (texts("pk", "a", "b"), texts("pk", "a", "b"))],
    ids=["no key", "a key that is a number", "two keys"],
)
def test_keys_have_to_be_there_where_they_get_a_prefix(columns: tuple[pb.FieldData, ...]) -> None:
    assert refusal("Insert", insert(*columns), KEYPREFIX) in ("invalid_primary_key", "duplicate_column")


def test_a_key_is_never_null_where_it_gets_a_prefix() -> None:
    keys = texts("pk", "a", "b")
    keys.valid_data.extend([True, False])
    assert refusal("Insert", insert(keys), KEYPREFIX) == "invalid_primary_key"


def test_a_shared_collection_that_is_not_there() -> None:
    assert refusal("Insert", insert(numbers("id", 1, 2), collection="other"), PARTITION) == "collection_not_found"


def test_answers_give_keys_as_the_client_wrote_them() -> None:
    answer = pb.MutationResult(ids=pb.IDs(str_id=pb.StringArray(data=[f"{TOKEN}:a", f"{TOKEN}::"])), insert_cnt=2)
    exchange = Exchange("Insert", KEYPREFIX).sends(insert(texts("pk", "a", ":")))
    assert list(exchange.hears(answer).ids.str_id.data) == ["a", ":"]
    numbered = pb.MutationResult(ids=pb.IDs(int_id=pb.LongArray(data=[1])), insert_cnt=1)
    assert Exchange("Insert", PARTITION).sends(insert(numbers("id", 1), rows=1)).hears(numbered) == numbered


def test_types_of_columns_do_not_matter_for_counting() -> None:
    flags = pb.FieldData(type=1, field_name="f", scalars=pb.ScalarField(bool_data=pb.BoolArray(data=[True, False])))
    sparse = pb.FieldData(
        type=104, field_name="s", vectors=pb.VectorField(sparse_float_vector=pb.SparseFloatArray(contents=[b"a", b"b"]))
    )
    halves = pb.FieldData(type=102, field_name="h", vectors=pb.VectorField(dim=2, float16_vector=bytes(8)))
    bits = pb.FieldData(type=100, field_name="b", vectors=pb.VectorField(dim=9, binary_vector=bytes(4)))
    bytes8 = pb.FieldData(type=105, field_name="i", vectors=pb.VectorField(dim=3, int8_vector=bytes(6)))
    columns = [flags, sparse, halves, bits, bytes8]
    assert list(rewritten("Insert", insert(*columns), PARTITION).fields_data) == [*columns, STAMP]
