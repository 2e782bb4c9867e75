"""Reads and deletes of a tenant: what the store gets, what the client gets of its answer."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from tenantry.core.errors import BadRequestError, ForbiddenError, RequestRefusedError
from tenantry.core.rules_stores import Store
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.calls import ForeignRowError, Need, StoreResponse, UnreadableResponseError
from tenantry.core.vector.expr import FilterError
from tenantry.core.vector.grpc_frame import write_message
from tenantry.core.vector.milvus_wire import MAX_PARTS
from tenantry_testing.milvus import (
    COLLECTION,
    DATABASE,
    GUARD,
    KEYPREFIX,
    LAYOUTS,
    OTHER,
    OTHER_TOKEN,
    PARTITION,
    PHYSICAL,
    TENANT,
    TOKEN,
    Exchange,
    delete,
    documents,
    found,
    insert,
    numbers,
    pairs,
    placeholders,
    query,
    refusal,
    rewritten,
    search,
    texts,
    upsert,
)

DATA = Path(__file__).parent.parent / "data"
DESCRIPTORS: dict[str, Any] = json.loads((DATA / "milvus_descriptors.json").read_text())
ATTACKS: list[dict[str, Any]] = [
    attack for attack in json.loads((DATA / "attacks.json").read_text()) if attack["api"] == "milvus.grpc"
]
SCOPED = f"({GUARD}) and (price > 3)"
EVERY_LAYOUT = pytest.mark.parametrize("store", LAYOUTS.values(), ids=LAYOUTS)


@EVERY_LAYOUT
def test_a_query_in_scope(store: Store) -> None:
    sent = rewritten("Query", query(), store)
    assert (sent.db_name, sent.collection_name) == (TOKEN if store is DATABASE else "", PHYSICAL[store.isolation])
    assert sent.expr == SCOPED
    assert sent.partition_names == ([TOKEN] if store is PARTITION else [])
    assert sent.output_fields == ["id", "tenant_id"]


def test_what_is_between_the_stores_own_parts_goes_no_further() -> None:
    asked = query(base=pb.Base(msg_type=500, msgID=1, timestamp=2, sourceID=3, targetID=4))
    assert rewritten("Query", asked, PARTITION).base == pb.Base(msg_type=500)


@EVERY_LAYOUT
def test_a_search_in_scope(store: Store) -> None:
    sent = rewritten("Search", search(output_fields=["id"]), store)
    assert (sent.db_name, sent.collection_name) == (TOKEN if store is DATABASE else "", PHYSICAL[store.isolation])
    assert sent.dsl == SCOPED
    assert sent.partition_names == ([TOKEN] if store is PARTITION else [])
    assert sent.output_fields == ["id", "tenant_id"]
    assert sent.placeholder_group == placeholders()


@EVERY_LAYOUT
def test_a_hybrid_search_in_scope(store: Store) -> None:
    asked = pb.HybridSearchRequest(
        collection_name="notes",
        requests=[search(output_fields=["tenant_id"], partition_names=["x"]), search("", dsl="")],
        rank_params=pairs(strategy="rrf", params='{"k":60}', limit=3),
    )
    sent = rewritten("HybridSearch", asked, store)
    partitions = {"partition": [[TOKEN], [TOKEN]], "keyprefix": [[], []]}.get(store.isolation, [["x"], []])
    assert [part.dsl for part in sent.requests] == [SCOPED, GUARD]
    assert [list(part.partition_names) for part in sent.requests] == partitions
    assert [list(part.output_fields) for part in sent.requests] == [[], []]
    assert {part.collection_name for part in sent.requests} == {sent.collection_name} == {PHYSICAL[store.isolation]}
    assert {part.db_name for part in sent.requests} == {sent.db_name} == {TOKEN if store is DATABASE else ""}
    assert sent.output_fields == ["tenant_id"]


@EVERY_LAYOUT
def test_a_delete_in_scope(store: Store) -> None:
    sent = rewritten("Delete", delete(hash_keys=[1], expr='name == "x"'), store)
    assert sent.expr == f'({GUARD}) and (name == "x")'
    assert sent.partition_name == (TOKEN if store is PARTITION else "")
    assert sent.collection_name == PHYSICAL[store.isolation]
    assert list(sent.hash_keys) == []


@pytest.mark.parametrize("blank", ["", " ", "\t\r\n ", "\x0b"])
@EVERY_LAYOUT
def test_a_delete_of_everything_is_refused(store: Store, blank: str) -> None:
    assert refusal("Delete", delete(expr=blank), store) == "invalid_filter"


def test_the_partition_that_a_tenant_needs_is_named() -> None:
    assert Exchange("Query", PARTITION).sends(query()).need == Need(collection="notes", partition=TOKEN)
    assert Exchange("Query", DATABASE).sends(query()).need == Need(database=TOKEN)
    assert Exchange("Query", KEYPREFIX).sends(query()).need is None


def test_keys_in_a_filter_get_the_prefix() -> None:
    sent = rewritten("Query", query(expr='pk in ["a", "b"] and price > 3'), KEYPREFIX)
    assert f'"{TOKEN}:a"' in sent.expr
    assert f'"{TOKEN}:b"' in sent.expr
    sent = rewritten("Delete", delete(expr='pk == "a"'), KEYPREFIX)
    assert sent.expr == f'({GUARD}) and (pk == "{TOKEN}:a")'


def test_templates_become_literals() -> None:
    asked = query(expr="price > {p}", expr_template_values={"p": pb.TemplateValue(int64_val=3)})
    sent = rewritten("Query", asked, PARTITION)
    assert sent.expr == SCOPED
    assert not sent.expr_template_values


def test_a_collection_with_another_tenant_field() -> None:
    sent = rewritten("Query", query("files", expr=""), PARTITION)
    assert sent.expr == 'owner == "acme"'
    assert sent.output_fields == ["id", "owner"]


def test_an_iterator_may_name_the_id_that_describing_showed() -> None:
    public = Exchange("Query", PARTITION).call._work.layout.public_id("notes")
    for value in ("", 0, public):
        sent = rewritten("Query", query(query_params=pairs(limit=1, iterator=True, collection_id=value)), PARTITION)
        assert [pair.key for pair in sent.query_params] == ["limit", "iterator"]


@pytest.mark.parametrize(
    ("client", "engine"),
    [
        ('{"ef": 64, "ef": 8}', '{"ef":8}'),
        ('{"ef": 64, "\\u0065f": 8}', '{"ef":8}'),
        (' {"radius" : 0.5, "range_filter": 1} ', '{"radius":0.5,"range_filter":1}'),
        ('{"weights": [0.5, 1], "norm_score": true, "hints": "iterative_filter"}',
         '{"weights":[0.5,1.0],"norm_score":true,"hints":"iterative_filter"}'),
    ],
)  # fmt: skip
def test_parameters_of_the_index_are_written_anew(client: str, engine: str) -> None:
    """Of a name that is there twice, each engine would read the one that it likes."""
    sent = rewritten("Search", search(search_params=pairs(params=client)), PARTITION)
    assert [pair.value for pair in sent.search_params] == [engine]


REFUSED: list[tuple[str, Any, str]] = [
    ("Query", query("other"), "collection_not_found"),
    ("Query", query(""), "invalid_collection_name"),
    ("Query", query(db_name="other"), "database_not_allowed"),
    ("Query", query(output_fields=["tenant_id"]), "reserved_field"),
    ("Query", query(output_fields=["TENANT_ID"]), "reserved_field"),
    ("Query", query(output_fields=['$meta["tenant_id"]']), "invalid_output_field"),
    ("Query", query(output_fields=["count(*)", "id"]), "invalid_output_field"),
    ("Query", query(output_fields=["count(*)", "count(*)"]), "invalid_output_field"),
    ("Query", query(output_fields=["max(price)"]), "invalid_output_field"),
    ("Query", query(output_fields=["a"] * 1025), "too_many_fields"),
    ("Query", query(query_params=pairs(collection_id=7)), "invalid_parameter"),
    ("Query", query(query_params=pairs(group_by="tenant_id")), "parameter_not_allowed"),
    ("Query", query(query_params=[*pairs(limit=1), *pairs(limit=2)]), "invalid_parameter"),
    ("Query", query(query_params=pairs(limit="1" * 4097)), "invalid_parameter"),
    ("Query", query(query_params=[pb.KeyValuePair(key=str(n)) for n in range(65)]), "too_many_parameters"),
    ("Search", search(dsl_type=0), "field_not_allowed"),
    ("Search", search(output_fields=["count(*)"]), "invalid_output_field"),
    ("Search", search(placeholder_group=b"\x0a\x02\x20\x01"), "field_not_allowed"),
    ("Search", search(placeholder_group=b"\xff"), "invalid_message"),
    ("Search", search(search_params=pairs(params="[]")), "invalid_parameter"),
    ("Search", search(search_params=pairs(params='{"collection": 1}')), "parameter_not_allowed"),
    *[
        ("Search", search(search_params=pairs(**{key: name})), code)
        for key in ("group_by_field", "anns_field")
        for name, code in (
            ("tenant_id", "reserved_field"),
            ("Tenant_Id", "reserved_field"),
            (" tenant_id ", "invalid_parameter"),
            ('$meta["tenant_id"]', "invalid_parameter"),
            ("$meta", "invalid_parameter"),
            ("id,tenant_id", "invalid_parameter"),
        )
    ],
    *[
        ("Search", search(search_params=pairs(**{key: value})), "invalid_parameter")
        for key in ("topk", "limit", "offset", "group_size", "search_iter_batch_size")
        for value in ("-1", "16385", "1e9", "", " 1", "\u0661", "999999999999")
    ],
    ("Query", query(query_params=pairs(offset="-1")), "invalid_parameter"),
    (
        "HybridSearch",
        pb.HybridSearchRequest(collection_name="notes", rank_params=pairs(limit="1e9")),
        "invalid_parameter",
    ),
    ("HybridSearch", pb.HybridSearchRequest(collection_name="notes", requests=[search("files")]), "field_not_allowed"),
    ("HybridSearch", pb.HybridSearchRequest(collection_name="notes", requests=[search()] * 1025), "too_many_searches"),
    (
        "HybridSearch",
        pb.HybridSearchRequest(collection_name="notes", rank_params=pairs(topk=1)),
        "parameter_not_allowed",
    ),
]


@pytest.mark.parametrize(("method", "message", "code"), REFUSED)
def test_refused(method: str, message: Any, code: str) -> None:
    assert refusal(method, message, PARTITION) == code


def test_an_iterators_foreign_partition_is_replaced_and_a_bad_name_refused() -> None:
    assert rewritten("Query", query(partition_names=[OTHER_TOKEN]), PARTITION).partition_names == [TOKEN]
    assert rewritten("Query", query(partition_names=["x"]), DATABASE).partition_names == ["x"]
    assert refusal("Query", query(partition_names=["x.*"]), DATABASE) == "invalid_partition_name"


def test_a_search_has_as_many_vectors_as_it_says() -> None:
    group = pb.PlaceholderGroup(placeholders=[pb.PlaceholderValue(values=[b"1234", b"1234"])]).SerializeToString()
    for nq, code in ((-1, "invalid_parameter"), (1, "invalid_parameter"), (3, "invalid_parameter"), (0, ""), (2, "")):
        part = search(nq=nq, placeholder_group=group)
        assert refusal("Search", part, PARTITION) == code
        whole = pb.HybridSearchRequest(collection_name="notes", requests=[part])
        assert refusal("HybridSearch", whole, PARTITION) == code


def test_sub_searches_that_take_long_to_read() -> None:
    long = "id in [" + "123," * 15_000 + "]"
    parts = [search(dsl=long)] * 3
    assert refusal("HybridSearch", pb.HybridSearchRequest(collection_name="notes", requests=parts), PARTITION) == ""
    parts *= 2
    assert (
        refusal("HybridSearch", pb.HybridSearchRequest(collection_name="notes", requests=parts), PARTITION)
        == "invalid_filter"
    )


def test_many_parts_are_refused_before_they_take_memory() -> None:
    start = pb.HybridSearchRequest(collection_name="notes").SerializeToString()
    assert refusal("HybridSearch", start + b"\x2a\x00" * MAX_PARTS, PARTITION) == "too_many_parts"
    assert refusal("HybridSearch", start + b"\x2a\x00" * (MAX_PARTS - 1), PARTITION) == "too_many_searches"
    for cut in (b"\x2a", b"\x2a\xff", b"\x2a\x05", b"\xff" * 11):
        assert refusal("HybridSearch", start + cut, PARTITION) == "invalid_message"
    assert refusal("HybridSearch", start + b"\xa3\x06\xa4\x06", PARTITION) == "field_not_allowed"


def test_a_field_that_is_not_allowed_is_looked_for_in_small_messages_alone() -> None:
    for size in (10, 70_000):
        data = query("id > 1" + " " * size).SerializeToString() + b"\xa0\x06\x01"
        assert refusal("Query", data, PARTITION) == "field_not_allowed"


def test_names_of_one_byte_do_not_become_many() -> None:
    names = ["a"] * 1025
    for store in (DATABASE, COLLECTION):
        assert refusal("Query", query(partition_names=names), store) == "too_many_names"
        assert refusal("ShowCollections", pb.ShowCollectionsRequest(collection_names=names), store) == "too_many_names"
        assert refusal("Flush", pb.FlushRequest(collection_names=names), store) == "too_many_names"


# Answers.


def rows(*columns: pb.FieldData, **more: Any) -> pb.QueryResults:
    return pb.QueryResults(fields_data=columns, collection_name="x", **more)


def test_the_tenant_column_is_verified_and_taken_out() -> None:
    exchange = Exchange("Query", PARTITION).sends(query())
    shown = exchange.hears(
        rows(texts("tenant_id", TENANT, TENANT), numbers("id", 1, 2), output_fields=["id", "tenant_id"])
    )
    assert shown == pb.QueryResults(fields_data=[numbers("id", 1, 2)], collection_name="notes", output_fields=["id"])
    assert exchange.rows == 2


def test_hits_are_verified_and_the_tenant_column_taken_out() -> None:
    exchange = Exchange("Search", PARTITION).sends(search())
    shown = exchange.hears(found(1, 2, output_fields=["tenant_id"], all_search_count=1000))
    assert (exchange.rows, shown.collection_name) == (2, "notes")
    assert list(shown.results.ids.int_id.data) == [1, 2]
    assert (list(shown.results.fields_data), list(shown.results.output_fields)) == ([], [])
    assert shown.results.all_search_count == 0


def test_keys_come_back_without_the_prefix() -> None:
    mine = (f"{TOKEN}:a", f"{TOKEN}:b")
    shown = (
        Exchange("Query", KEYPREFIX).sends(query()).hears(rows(texts("tenant_id", TENANT, TENANT), texts("pk", *mine)))
    )
    assert list(shown.fields_data[0].scalars.string_data.data) == ["a", "b"]
    hits = found(1, 2, ids=pb.IDs(str_id=pb.StringArray(data=mine)), group_by_field_value=texts("pk", *mine))
    hits.results.fields_data.append(texts("pk", *mine))
    got = Exchange("Search", KEYPREFIX).sends(search()).hears(hits).results
    assert list(got.ids.str_id.data) == ["a", "b"]
    assert list(got.fields_data[0].scalars.string_data.data) == ["a", "b"]
    assert list(got.group_by_field_value.scalars.string_data.data) == ["a", "b"]


def test_groups_of_the_tenant_column_are_not_shown() -> None:
    shown = (
        Exchange("Search", PARTITION).sends(search()).hears(found(1, group_by_field_value=texts("tenant_id", OTHER)))
    )
    assert not shown.results.HasField("group_by_field_value")


def test_a_count_is_one_number() -> None:
    counting = Exchange("Query", PARTITION).sends(query(output_fields=["count(*)"]))
    assert counting.request.output_fields == ["count(*)"]
    assert counting.hears(rows(numbers("count(*)", 7))).fields_data[0] == numbers("count(*)", 7)
    for answer in (
        rows(numbers("count(*)", 7, 8)),
        rows(numbers("id", 1)),
        rows(numbers("count(*)", 1), numbers("id", 1)),
    ):
        with pytest.raises(UnreadableResponseError):
            counting.hears(answer)


def test_nothing_found() -> None:
    asked = Exchange("Query", PARTITION).sends(query())
    assert list(asked.hears(rows(numbers("id"), pb.FieldData(field_name="tenant_id"))).fields_data) == [numbers("id")]
    for answer in (found(), found(fields_data=[]), found(fields_data=[pb.FieldData(field_name="tenant_id")])):
        answer.results.topks[:] = [0]
        assert Exchange("Search", PARTITION).sends(search()).hears(answer).results.topks == [0]


MINE = pb.IDs(str_id=pb.StringArray(data=[f"{TOKEN}:a"]))
SHAPELESS = pb.FieldData(field_name="v", vectors=pb.VectorField(binary_vector=b"x"))
FOREIGN: list[tuple[str, Any]] = [
    ("Query", rows(texts("tenant_id", TENANT, OTHER), numbers("id", 1, 2))),
    ("Query", rows(texts("tenant_id", "ACME"))),
    ("Query", rows(texts("tenant_id", ""))),
    ("Query", rows(pb.FieldData(field_name="tenant_id", valid_data=[False], scalars=texts("", TENANT).scalars))),
    ("Query", rows(texts("tenant_id", TENANT), texts("tenant_id", OTHER))),
    ("Query", rows(texts("tenant_id", TENANT), texts("pk", f"{OTHER_TOKEN}:a"))),
    ("Query", rows(texts("tenant_id", TENANT), texts("pk", "a"))),
    ("Search", found(1, 2, tenants=(TENANT, OTHER))),
    ("Search", found(1, ids=pb.IDs(str_id=pb.StringArray(data=[f"{OTHER_TOKEN}:a"])))),
    ("Search", found(1, ids=pb.IDs(str_id=pb.StringArray(data=[TOKEN])))),
    (
        "Search",
        found(
            1,
            ids=MINE,
            group_by_field_value=texts("pk", f"{OTHER_TOKEN}:a"),
        ),
    ),
    ("Delete", pb.MutationResult(ids=pb.IDs(str_id=pb.StringArray(data=[f"{OTHER_TOKEN}:a"])))),
]


@pytest.mark.parametrize(("method", "answer"), FOREIGN)
def test_a_foreign_row(method: str, answer: Any) -> None:
    message = {"Query": query(), "Search": search(), "Delete": delete(expr="price > 3")}[method]
    with pytest.raises(ForeignRowError):
        Exchange(method, KEYPREFIX).sends(message).hears(answer)


UNREADABLE: list[tuple[str, Any]] = [
    ("Query", rows(numbers("id", 1))),
    ("Query", rows(texts("tenant_id", TENANT), numbers("id", 1, 2))),
    ("Query", rows(texts("tenant_id", TENANT), texts("tenant_id", TENANT, TENANT))),
    (
        "Query",
        rows(texts("tenant_id", TENANT), pb.FieldData(field_name="v", vectors=pb.VectorField(binary_vector=b"x"))),
    ),
    ("Query", rows(texts("tenant_id", TENANT), pb.FieldData(field_name="v", valid_data=[True, True]))),
    ("Query", rows(texts("tenant_id", TENANT), numbers("pk", 1))),
    ("Search", found(1, ids=MINE, fields_data=[])),
    ("Search", found(1, ids=MINE, tenants=(TENANT, TENANT))),
    ("Search", found(1, ids=MINE, tenants=())),
    ("Search", found(1, ids=MINE, topks=[2])),
    ("Search", found(1, ids=MINE, topks=[])),
    ("Search", found(1, ids=MINE, scores=[0.5, 0.5])),
    ("Search", found(1, ids=MINE, distances=[0.5, 0.5])),
    ("Search", found(1)),  # keys that are numbers, where they have a prefix
    ("Search", found(1, ids=pb.IDs(), topks=[1])),
    (
        "Search",
        found(1, ids=MINE, group_by_field_value=numbers("n", 1, 2)),
    ),
    ("Search", found(1, ids=MINE, group_by_field_value=numbers("pk", 1))),
    ("Delete", pb.MutationResult(ids=pb.IDs(int_id=pb.LongArray(data=[1])))),
]


@pytest.mark.parametrize(("method", "answer"), UNREADABLE)
def test_what_cannot_be_verified(method: str, answer: Any) -> None:
    message = {"Query": query(), "Search": search(), "Delete": delete(expr="price > 3")}[method]
    with pytest.raises(UnreadableResponseError):
        Exchange(method, KEYPREFIX).sends(message).hears(answer)


def test_a_column_of_another_type_has_no_tenants() -> None:
    with pytest.raises(UnreadableResponseError):
        Exchange("Search", PARTITION).sends(search()).hears(found(1, fields_data=[numbers("tenant_id", 1)]))


def test_unknown_fields_of_an_answer_are_dropped() -> None:
    answer = rows(texts("tenant_id", TENANT), numbers("id", 1)).SerializeToString() + b"\xfa\x07\x01x"
    assert b"\xfa\x07\x01x" not in Exchange("Query", PARTITION).sends(query()).hears_bytes(answer)


def test_an_error_is_shown_in_the_clients_names() -> None:
    exchange = Exchange("Query", DATABASE).sends(query())
    status = pb.Status(
        code=100, reason=f"no {TOKEN}", detail=f"[{TOKEN}]", extra_info={"report_value": "3", "node": TOKEN}
    )
    shown = exchange.hears(pb.QueryResults(status=status)).status
    assert (shown.code, shown.reason, shown.detail) == (100, "no default", "[default]")
    assert dict(shown.extra_info) == {"report_value": "3"}


@pytest.mark.parametrize(
    ("status", "failed"),
    [
        (pb.Status(), False),
        (pb.Status(reason="empty"), False),
        (pb.Status(code=1), True),
        (pb.Status(error_code=1), True),
    ],
)
def test_what_a_store_did_not_do(status: pb.Status, failed: bool) -> None:
    call = Exchange("Query", PARTITION).sends(query()).call
    body = write_message(pb.QueryResults(status=status).SerializeToString())
    assert call.response(StoreResponse(status=200, headers=(), body=body)).failed is failed


def test_an_error_without_a_message() -> None:
    verified = (
        Exchange("Query", PARTITION).sends(query()).call.response(StoreResponse(status=200, headers=(), body=b""))
    )
    assert (verified.body, verified.rows, verified.failed) == (b"", 0, True)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, write_message(b"")),
        (200, b"\x01\0\0\0\0"),
        (200, b"\0\0\0\0"),
        (200, write_message(b"") * 2),
        (200, b"\0\0\0\0\x01"),
        (200, write_message(b"\xff")),
        (200, b"<html>"),
    ],
)
def test_what_is_not_one_message(status: int, body: bytes) -> None:
    call = Exchange("Query", PARTITION).sends(query()).call
    with pytest.raises(UnreadableResponseError):
        call.response(StoreResponse(status=status, headers=(), body=body))


# Attacks.

DEVIATIONS: dict[str, str] = {
    "method-ShowCollections": "rewritten: the list is filtered",
    "method-GetCollectionStatistics": "refused under partition and keyprefix; a tenant's own collection has its counts",
    "ins-dupcol": "two tenant columns are one name twice",
    "ups-samepk": "goes to the tenant's partition, or under its key prefix",
    "ins-samepk": "goes to the tenant's partition, or under its key prefix",
    "tmpl": "rewritten: values become literals",
    "agg": "refused",
    "hl": "refused",
}
"""Attacks whose expected verdict leaves a choice, or that are met in another way."""


LEFT_OUT = {"namespace", "ids", "search_aggregation", "function_chains", "highlighter", "partial_update", "field_ops"}


def left_out(method: str, name: str) -> bytes:
    """Return a field that Milvus has and we have not, as it would come: a flag, or one byte of text or message."""
    fields: dict[str, str] = DESCRIPTORS["messages"][f"milvus.proto.milvus.{method}Request"]
    (number,) = (int(number) for number, text in fields.items() if text.startswith(f"{name}: "))
    flag = fields[str(number)].endswith(": bool")
    tag = number << 3 | (0 if flag else 2)
    return bytes((tag,) if tag < 128 else (tag & 127 | 128, tag >> 7)) + (b"\x01" if flag else b"\x01x")


def attacked(attack: dict[str, Any], store: Store) -> tuple[str, Any]:
    """Return ("deny", the error) or ("rewrite", what the store gets)."""
    asked, fields = attack["request"], attack["request"].get("fields", {})
    method, raw, headers = asked["method"], b"", []
    key = texts("pk", "3") if store is KEYPREFIX else numbers("pk", 3)
    message: Any = {"Query": query(), "Search": search(), "Delete": delete()}.get(method, pb.EmptyRequest())
    if method in ("Insert", "Upsert"):
        message = (insert if method == "Insert" else upsert)(key, rows=1)
    for name, value in ({"expr": asked["expr"]} if "expr" in asked else fields).items():
        if name == "raw_append_hex":
            raw += bytes.fromhex(value)
        elif name == "raw_append":
            raw += b"\x22\x04True"
        elif name == "grpc_encoding":
            headers.append(("grpc-encoding", value.encode()))
        elif name == "metadata":
            headers += [(header, text.encode()) for header, text in value.items()]
        elif name in LEFT_OUT:
            raw += left_out(method, name)
        elif name == "expr_template_values":
            message.expr_template_values["t"].int64_val = value["t"]
        elif name in ("search_params", "query_params"):
            getattr(message, name).extend(pairs(**value))
        elif name == "columns":
            message.fields_data.extend(texts(column, OTHER) for column in value)
        elif name == "$meta":
            message.fields_data.append(documents(json.dumps(value).encode()))
        elif name not in ("inflated", "pk"):
            kept = getattr(message, name)
            kept.extend(value) if isinstance(value, list) else setattr(message, name, value)
    try:
        exchange = Exchange(method, store, *headers)
        if "grpc_encoding" in fields:
            packed = gzip.compress(message.SerializeToString() + bytes(64_000_000 if "inflated" in fields else 0))
            return "rewrite", exchange.call.request(b"\x01" + len(packed).to_bytes(4) + packed)
        return "rewrite", exchange.sends_bytes(message.SerializeToString() + raw).request
    except RequestRefusedError as error:
        return "deny", error


@pytest.mark.parametrize("store", [PARTITION, KEYPREFIX], ids=["partition", "keyprefix"])
@pytest.mark.parametrize("attack", ATTACKS, ids=[attack["id"] for attack in ATTACKS])
def test_attacks(attack: dict[str, Any], store: Store) -> None:
    verdict, outcome = attacked(attack, store)
    expected = {"no-effect-on-B": "rewrite", "rewrite-or-deny": "rewrite", "deny-or-verify": "deny"}.get(
        attack["expect"], attack["expect"]
    )
    assert (expected == attack["expect"]) or attack["id"] in DEVIATIONS
    if attack["id"] == "method-ShowCollections":
        expected = "rewrite"
    assert verdict == expected, outcome
    if LEFT_OUT & set(attack["request"].get("fields", {})):
        assert isinstance(outcome, BadRequestError)
        assert outcome.code == "field_not_allowed"
    if attack["id"].startswith("method-") and verdict == "deny":
        assert isinstance(outcome, ForbiddenError)
    if attack["kind"] == "expression" and verdict == "deny":
        assert isinstance(outcome, FilterError)
    for guarded in ("expr", "dsl"):
        if verdict == "rewrite" and hasattr(outcome, guarded):
            text = getattr(outcome, guarded)
            assert text == GUARD or text.startswith(f"({GUARD}) and (")
    if attack["expect"] == "no-effect-on-B":
        assert outcome.partition_name == TOKEN or outcome.fields_data[0].scalars.string_data.data == [f"{TOKEN}:3"]
