"""Collections, indexes, partitions: what a tenant may make, and what it is shown."""

from typing import Any

import pytest
from tenantry.core.rules_stores import Collection, Store
from tenantry.core.vector import scope
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.calls import Need, UnreadableResponseError
from tenantry.core.vector.milvus import METHODS
from tenantry_testing.milvus import (
    COLLECTION,
    DATABASE,
    KEYPREFIX,
    LAYOUTS,
    OTHER_TOKEN,
    OWN,
    PARTITION,
    PHYSICAL,
    SHARED,
    TENANT,
    TOKEN,
    VARCHAR,
    Exchange,
    create,
    pairs,
    refusal,
    rewritten,
    schema,
)

EVERY_LAYOUT = pytest.mark.parametrize("store", LAYOUTS.values(), ids=LAYOUTS)
ON_OWN = pytest.mark.parametrize("store", OWN, ids=["database", "collection"])
ON_SHARED = pytest.mark.parametrize("store", SHARED, ids=["partition", "keyprefix"])
FLUSHED = Store(
    kind="milvus", endpoints=("127.0.0.1:19530",), isolation="partition", collections={"notes": Collection()},
    load_and_flush=True,
)  # fmt: skip

NAMED = {
    "HasCollection": pb.HasCollectionRequest,
    "DescribeCollection": pb.DescribeCollectionRequest,
    "GetLoadState": pb.LoadStateRequest,
    "GetLoadingProgress": pb.LoadStateRequest,
    "LoadCollection": pb.LoadCollectionRequest,
    "DescribeIndex": pb.DescribeIndexRequest,
    "GetIndexState": pb.IndexRequest,
    "GetIndexBuildProgress": pb.IndexRequest,
}
CHANGES: dict[str, Any] = {
    "CreateCollection": create(),
    "DropCollection": pb.CollectionRequest(collection_name="notes"),
    "ReleaseCollection": pb.CollectionRequest(collection_name="notes"),
    "GetCollectionStatistics": pb.CollectionRequest(collection_name="notes"),
    "CreateIndex": pb.CreateIndexRequest(collection_name="notes", field_name="vec"),
    "DropIndex": pb.IndexRequest(collection_name="notes", field_name="vec"),
    "CreatePartition": pb.PartitionRequest(collection_name="notes", partition_name="x"),
    "DropPartition": pb.PartitionRequest(collection_name="notes", partition_name="x"),
    "HasPartition": pb.PartitionRequest(collection_name="notes", partition_name="x"),
    "ShowPartitions": pb.ShowPartitionsRequest(collection_name="notes", collectionID=7),
    "LoadPartitions": pb.LoadPartitionsRequest(collection_name="notes", partition_names=["x"]),
    "ReleasePartitions": pb.ReleasePartitionsRequest(collection_name="notes", partition_names=["x"]),
}


@EVERY_LAYOUT
@pytest.mark.parametrize("method", NAMED)
def test_what_names_a_collection_gets_its_real_name(method: str, store: Store) -> None:
    sent = rewritten(method, NAMED[method](collection_name="notes"), store)
    assert sent.collection_name == PHYSICAL[store.isolation]
    assert sent.db_name == (TOKEN if store is DATABASE else "")


@ON_OWN
@pytest.mark.parametrize("method", CHANGES)
def test_what_changes_a_collection_on_the_tenants_own(method: str, store: Store) -> None:
    sent = rewritten(method, CHANGES[method], store)
    assert sent.collection_name == PHYSICAL[store.isolation]
    assert sent.db_name == (TOKEN if store is DATABASE else "")
    assert getattr(sent, "collectionID", 0) == 0


@ON_SHARED
@pytest.mark.parametrize("method", CHANGES)
def test_what_changes_a_collection_that_is_shared(method: str, store: Store) -> None:
    assert refusal(method, CHANGES[method], store) == "shared_collection"


def test_every_method_is_in_some_test_here_or_with_the_rows() -> None:
    others = {"Search", "HybridSearch", "Query", "Insert", "Upsert", "Delete", "Connect", "GetVersion", "CheckHealth"}
    assert set(METHODS) == {*NAMED, *CHANGES, *others, "AllocTimestamp", "ShowCollections", "Flush", "GetFlushState"}


@pytest.mark.parametrize("method", sorted({*NAMED, *CHANGES} - {"CreateCollection"}))
@pytest.mark.parametrize("name", ["", "a-b", "a.b", "9", "a" * 223, "ä", "a\n"])
def test_odd_names(method: str, name: str) -> None:
    message = METHODS[method].request(collection_name=name)
    assert refusal(method, message, COLLECTION) in ("invalid_collection_name", "collection_not_found")


def test_another_database() -> None:
    for name in ("other", TOKEN, OTHER_TOKEN, "Default"):
        assert refusal("HasCollection", pb.HasCollectionRequest(db_name=name, collection_name="notes"), DATABASE) == (
            "database_not_allowed"
        )
    assert (
        rewritten("HasCollection", pb.HasCollectionRequest(db_name="default", collection_name="a"), DATABASE).db_name
        == TOKEN
    )


# Making one.


@ON_OWN
def test_a_new_collection_gets_the_tenant_column(store: Store) -> None:
    sent = rewritten("CreateCollection", create(), store)
    made = pb.CollectionSchema.FromString(sent.schema)
    assert made.name == sent.collection_name == PHYSICAL[store.isolation]
    assert [field.name for field in made.fields] == ["id", "vec", "tenant_id"]
    assert (made.fields[2].data_type, list(made.fields[2].type_params)) == (VARCHAR, pairs(max_length=64))


def test_ids_in_a_schema_are_the_stores() -> None:
    asked = schema(pb.FieldSchema(name="a", fieldID=7, index_params=pairs(index_type="FLAT")))
    asked.functions.add(type=1, input_field_names=["text"], input_field_ids=[9], output_field_ids=[9])
    made = pb.CollectionSchema.FromString(rewritten("CreateCollection", create(asked), COLLECTION).schema)
    assert {field.fieldID for field in made.fields} == {0}
    assert not made.fields[2].index_params
    assert (list(made.functions[0].input_field_ids), list(made.functions[0].output_field_ids)) == ([], [])


def text_field(**parameters: object) -> pb.CollectionSchema:
    made = schema(pb.FieldSchema(name="text", data_type=VARCHAR, type_params=pairs(max_length=10)))
    made.fields[2].type_params.extend(pairs(**parameters))
    return made


def functions(*names: str, kind: int = 1) -> pb.CollectionSchema:
    made = schema()
    made.functions.add(type=kind, input_field_names=names[:1], output_field_names=names[1:])
    return made


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ('{"type": "english", "stop_words": ["a"]}', '{"type":"english","stop_words":["a"]}'),
        ('{"tokenizer": "standard", "filter": ["lowercase", {"type": "length", "max": 40}]}',
         '{"tokenizer":"standard","filter":["lowercase",{"type":"length","max":40}]}'),
    ],
)  # fmt: skip
def test_an_analyzer_of_built_in_parts(asked: str, sent: str) -> None:
    made = rewritten("CreateCollection", create(text_field(enable_analyzer="true", analyzer_params=asked)), COLLECTION)
    assert pb.CollectionSchema.FromString(made.schema).fields[2].type_params[2].value == sent


SCHEMAS: list[tuple[str, pb.CollectionSchema, str]] = [
    ("the tenant column", schema(pb.FieldSchema(name="tenant_id")), "reserved_field"),
    ("in other letters", schema(pb.FieldSchema(name="Tenant_Id")), "reserved_field"),
    ("computed", functions("text", "tenant_id"), "reserved_field"),
    ("computed from", functions("TENANT_ID", "sparse"), "reserved_field"),
    ("a model of the operator", functions("text", "vec", kind=2), "invalid_schema"),
    ("functions without end", schema(functions=[pb.FunctionSchema(type=1)] * 17), "invalid_schema"),
    ("fields without end", schema(*[pb.FieldSchema(name=f"f{n}") for n in range(255)]), "invalid_schema"),
    ("a property", schema(properties=pairs(replicate_id=1)), "parameter_not_allowed"),
    ("properties without end", schema(properties=pairs(timezone=1) * 33), "invalid_schema"),
    ("a file", text_field(analyzer_params='{"tokenizer":{"type":"jieba","dict":"/etc/passwd"}}'), "invalid_schema"),
    ("a service", text_field(analyzer_params='{"tokenizer":{"type":"grpc","endpoint":"http://10.0.0.1"}}'),
     "invalid_schema"),
    ("a download", text_field(analyzer_params='{"tokenizer":{"type":"lindera","download_urls":["x"]}}'),
     "invalid_schema"),
    ("a download in a filter", text_field(analyzer_params='{"filter":[{"type":"a","file":{}}]}'), "invalid_schema"),
    ("no JSON", text_field(analyzer_params="{"), "invalid_schema"),
    ("analyzers by language", text_field(multi_analyzer_params="{}"), "parameter_not_allowed"),
    ("a size that is none", schema(pb.FieldSchema(name="a", type_params=pairs(dim="2 "))), "parameter_not_allowed"),
    ("one twice", text_field(max_length=11), "invalid_parameter"),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "code"), [case[1:] for case in SCHEMAS], ids=[case[0] for case in SCHEMAS])
def test_refused_schemas(asked: pb.CollectionSchema, code: str) -> None:
    assert refusal("CreateCollection", create(asked), COLLECTION) == code


def test_refused_collections() -> None:
    assert refusal("CreateCollection", create(shards_num=17), COLLECTION) == "invalid_schema"
    assert refusal("CreateCollection", create(num_partitions=1025), COLLECTION) == "invalid_schema"
    assert refusal("CreateCollection", create(properties=pairs(x=1)), COLLECTION) == "parameter_not_allowed"
    assert refusal("CreateCollection", create(schema=b"\xff"), COLLECTION) == "invalid_message"
    assert refusal("CreateCollection", create(schema=b"\x42\x00"), COLLECTION) == "field_not_allowed"


@pytest.mark.parametrize(
    ("index", "code"),
    [
        ({"field_name": "tenant_id"}, "reserved_field"),
        ({"field_name": "TENANT_ID"}, "reserved_field"),
        ({"extra_params": pairs(index_type="FLAT", params='{"nlist": 1}')}, ""),
        ({"extra_params": pairs(index_type="FLAT", nlist=1, json_path="a")}, ""),
        ({"extra_params": pairs(data_path="/")}, "parameter_not_allowed"),
        ({"extra_params": pairs(params='{"data_path": "/"}')}, "parameter_not_allowed"),
        ({"extra_params": pairs(params='{"nlist": {}}')}, "invalid_parameter"),
        ({"extra_params": pairs(params="[]")}, "invalid_parameter"),
        ({"extra_params": pairs(nlist=1) * 2}, "invalid_parameter"),
        ({"extra_params": pairs(nlist="1" * 5000)}, "invalid_parameter"),
    ],
)
def test_indexes(index: dict[str, Any], code: str) -> None:
    message = pb.CreateIndexRequest(**{"collection_name": "notes", "field_name": "vec"} | index)
    assert refusal("CreateIndex", message, COLLECTION) == code


# Loading and flushing.


@ON_OWN
def test_a_part_of_a_collection_is_loaded_with_the_tenant_column(store: Store) -> None:
    load = pb.LoadCollectionRequest(collection_name="notes", load_fields=["id", "vec"], replica_number=2)
    sent = rewritten("LoadCollection", load, store)
    assert (list(sent.load_fields), sent.replica_number) == (["id", "vec", "tenant_id"], 2)
    some = pb.LoadPartitionsRequest(collection_name="notes", partition_names=["x"], load_fields=["id"])
    assert list(rewritten("LoadPartitions", some, store).load_fields) == ["id", "tenant_id"]
    assert not rewritten("LoadCollection", pb.LoadCollectionRequest(collection_name="notes"), store).load_fields
    load.load_fields.append("Tenant_id")
    assert refusal("LoadCollection", load, store) == "reserved_field"


def test_a_shared_collection_is_loaded_plainly() -> None:
    load = pb.LoadCollectionRequest(
        collection_name="notes", load_fields=["id"], replica_number=2, refresh=True, skip_load_dynamic_field=True
    )
    assert rewritten("LoadCollection", load, PARTITION) == pb.LoadCollectionRequest(collection_name="notes")
    assert list(rewritten("LoadCollection", load, FLUSHED).load_fields) == ["id", "tenant_id"]


def test_states_are_of_the_tenants_partition() -> None:
    asked = pb.LoadStateRequest(collection_name="notes", partition_names=["x"])
    assert rewritten("GetLoadState", asked, PARTITION).partition_names == [TOKEN]
    assert rewritten("GetLoadState", asked, KEYPREFIX).partition_names == []
    assert rewritten("GetLoadState", asked, COLLECTION).partition_names == ["x"]


def test_flushing() -> None:
    flush = pb.FlushRequest(collection_names=["notes"])
    assert refusal("Flush", flush, PARTITION) == "shared_collection"
    assert refusal("GetFlushState", pb.GetFlushStateRequest(), PARTITION) == "shared_collection"
    assert rewritten("Flush", flush, FLUSHED).collection_names == ["notes"]
    assert refusal("Flush", pb.FlushRequest(), COLLECTION) == "invalid_request"
    assert refusal("Flush", pb.FlushRequest(collection_names=["notes", "a b"]), COLLECTION) == "invalid_collection_name"
    exchange = Exchange("Flush", COLLECTION).sends(flush)
    assert exchange.request.collection_names == [f"{TOKEN}_notes"]
    numbers = pb.LongArray(data=[1])
    shown = exchange.hears(
        pb.FlushResponse(
            db_name="x",
            coll_segIDs={f"{TOKEN}_notes": numbers, f"{OTHER_TOKEN}_notes": numbers},
            flush_coll_segIDs={f"{OTHER_TOKEN}_notes": numbers},
            coll_seal_times={f"{TOKEN}_notes": 5, "else": 6},
            coll_flush_ts={f"{TOKEN}_notes": 7, "else": 8},
        )
    )
    assert shown == pb.FlushResponse(
        db_name="default", coll_segIDs={"notes": numbers}, coll_seal_times={"notes": 5}, coll_flush_ts={"notes": 7}
    )
    state = rewritten("GetFlushState", pb.GetFlushStateRequest(segmentIDs=[1], collection_name="notes"), DATABASE)
    assert (state.db_name, state.collection_name) == (TOKEN, "notes")
    assert (
        rewritten("GetFlushState", pb.GetFlushStateRequest(collection_name="a"), COLLECTION).collection_name
        == f"{TOKEN}_a"
    )


# What is shown.


def described(store: Store, *more: pb.FieldSchema) -> pb.DescribeCollectionResponse:
    stamped = schema(pb.FieldSchema(name="tenant_id"), *more, description="d", properties=pairs(a=1))
    stamped.name = PHYSICAL[store.isolation]
    answer = pb.DescribeCollectionResponse(
        schema=stamped, collectionID=451, collection_name=stamped.name, db_name=TOKEN, num_partitions=77,
        properties=pairs(b=1),
    )  # fmt: skip
    return (
        Exchange("DescribeCollection", store).sends(pb.DescribeCollectionRequest(collection_name="notes")).hears(answer)
    )


@EVERY_LAYOUT
def test_a_collection_is_shown_without_the_tenant_column(store: Store) -> None:
    shown = described(store)
    assert [field.name for field in shown.schema.fields] == ["id", "vec"]
    assert (shown.collection_name, shown.schema.name, shown.db_name) == ("notes", "notes", "default")
    assert shown.collectionID not in (0, 451)
    own = store in OWN
    assert (shown.num_partitions, shown.schema.description) == ((77, "d") if own else (1, ""))
    assert (bool(shown.properties), bool(shown.schema.properties)) == (own, own)


def test_a_key_is_shown_as_short_as_a_client_may_write_it() -> None:
    key = pb.FieldSchema(name="pk", data_type=VARCHAR, type_params=pairs(max_length=128))
    assert described(KEYPREFIX, key).schema.fields[2].type_params[0].value == "100"
    assert described(PARTITION, key).schema.fields[2].type_params[0].value == "128"


def test_a_collection_without_the_tenant_column_is_not_shown() -> None:
    exchange = Exchange("DescribeCollection", PARTITION).sends(pb.DescribeCollectionRequest(collection_name="notes"))
    with pytest.raises(UnreadableResponseError):
        exchange.hears(pb.DescribeCollectionResponse(schema=schema()))


@EVERY_LAYOUT
def test_a_collection_that_is_not_there(store: Store) -> None:
    asked = pb.DescribeCollectionRequest(collection_name="nowhere", collectionID=451)
    exchange = Exchange("DescribeCollection", store).sends(asked)
    assert exchange.request.collectionID == 0
    assert exchange.need == (Need(database=TOKEN) if store is DATABASE else None)
    answer = pb.DescribeCollectionResponse(
        status=pb.Status(code=100, reason=f"no {TOKEN}_nowhere"), schema=pb.CollectionSchema(name=TOKEN),
        collection_name=f"{TOKEN}_nowhere", db_name=TOKEN,
    )  # fmt: skip
    assert exchange.hears(answer) == pb.DescribeCollectionResponse(status=pb.Status(code=100, reason="no nowhere"))


def test_a_shared_collection_that_is_not_there_has_a_name_that_nobody_can_make() -> None:
    sent = rewritten("HasCollection", pb.HasCollectionRequest(collection_name="nowhere"), PARTITION)
    assert sent.collection_name == f"{TOKEN}_nowhere"


def test_an_id_alone_names_no_collection() -> None:
    assert (
        refusal("DescribeCollection", pb.DescribeCollectionRequest(collectionID=451), COLLECTION)
        == "collection_not_found"
    )


@pytest.mark.parametrize(
    ("store", "names", "shown"),
    [
        (COLLECTION, [f"{OTHER_TOKEN}_a", f"{TOKEN}_a", "notes", TOKEN], ["a"]),
        (DATABASE, ["a", "b"], ["a", "b"]),
        (PARTITION, ["notes", "secret", "files", "notes__1", f"{TOKEN}_a"], ["notes", "files"]),
    ],
)
def test_a_list_of_collections(store: Store, names: list[str], shown: list[str]) -> None:
    exchange = Exchange("ShowCollections", store).sends(pb.ShowCollectionsRequest())
    places = [names.index(name) for name in names if exchange.call._work.layout.name_of(name) in shown]
    answer = pb.ShowCollectionsResponse(
        collection_names=names, collection_ids=range(len(names)), created_timestamps=range(len(names)), shards_num=[1]
    )
    heard = exchange.hears(answer)
    assert list(heard.collection_names) == shown
    assert list(heard.created_timestamps) == places
    assert list(heard.shards_num) == []
    assert not set(heard.collection_ids) & set(range(len(names)))


def test_collections_to_list_are_named_as_elsewhere() -> None:
    asked = pb.ShowCollectionsRequest(collection_names=["a"], db_name="default")
    sent = rewritten("ShowCollections", asked, COLLECTION)
    assert (list(sent.collection_names), sent.db_name) == ([f"{TOKEN}_a"], "")
    assert rewritten("ShowCollections", asked, DATABASE).db_name == TOKEN
    assert refusal("ShowCollections", asked, PARTITION) == "collection_not_found"


def test_indexes_of_a_shared_collection_do_not_count_rows_of_others() -> None:
    answer = pb.DescribeIndexResponse(
        index_descriptions=[
            pb.IndexDescription(field_name="tenant_id", index_name="t"),
            pb.IndexDescription(field_name="vec", indexed_rows=5, total_rows=6, pending_index_rows=1,
                                index_state_fail_reason=f"{TOKEN}_notes"),
        ]
    )  # fmt: skip
    asked = pb.DescribeIndexRequest(collection_name="notes")
    shared = Exchange("DescribeIndex", PARTITION).sends(asked).hears(answer).index_descriptions
    assert list(shared) == [pb.IndexDescription(field_name="vec", index_state_fail_reason="notes")]
    own = Exchange("DescribeIndex", COLLECTION).sends(asked).hears(answer).index_descriptions
    assert [(each.field_name, each.total_rows) for each in own] == [("vec", 6)]
    assert refusal(
        "DescribeIndex", pb.DescribeIndexRequest(collection_name="notes", field_name="tenant_id"), PARTITION
    ) == ("reserved_field")


@pytest.mark.parametrize(("rows", "shown"), [((5, 6), (0, 1)), ((6, 6), (1, 1)), ((0, 0), (1, 1))])
def test_the_progress_of_an_index(rows: tuple[int, int], shown: tuple[int, int]) -> None:
    asked = pb.IndexRequest(collection_name="notes")
    answer = pb.IndexProgressResponse(indexed_rows=rows[0], total_rows=rows[1])
    heard = Exchange("GetIndexBuildProgress", KEYPREFIX).sends(asked).hears(answer)
    assert (heard.indexed_rows, heard.total_rows) == shown
    assert Exchange("GetIndexBuildProgress", DATABASE).sends(asked).hears(answer) == answer
    failed = Exchange("GetIndexState", COLLECTION).sends(asked).hears(pb.IndexStateResponse(fail_reason=f"{TOKEN}_a"))
    assert failed.fail_reason == "a"


# Greetings.


def test_who_a_client_says_it_is_goes_no_further() -> None:
    asked = pb.ConnectRequest(
        base=pb.Base(msg_type=1, msgID=2, sourceID=3, timestamp=4),
        client_info=pb.ClientInfo(sdk_type="Python", user="u", host="h", reserved={"a": "b"}),
    )
    sent = rewritten("Connect", asked, PARTITION)
    assert sent == pb.ConnectRequest(base=pb.Base(msg_type=1), client_info=pb.ClientInfo(sdk_type="Python"))
    assert rewritten("AllocTimestamp", pb.TimestampRequest(base=pb.Base(msg_type=1, msgID=2)), PARTITION) == (
        pb.TimestampRequest(base=pb.Base(msg_type=1))
    )
    assert rewritten("GetVersion", pb.EmptyRequest(), PARTITION) == pb.EmptyRequest()


def test_headers_name_the_tenants_database() -> None:
    assert Exchange("GetVersion", DATABASE).sends(pb.EmptyRequest()).headers == {"te": "trailers", "dbname": TOKEN}
    assert Exchange("GetVersion", PARTITION).sends(pb.EmptyRequest()).headers == {"te": "trailers"}
    assert refusal("GetVersion", pb.EmptyRequest(), DATABASE, ("dbname", b"other")) == "database_not_allowed"
    assert refusal("GetVersion", pb.EmptyRequest(), PARTITION, ("dbname", b"default"), ("dbname", b"x")) == (
        "database_not_allowed"
    )
    assert TENANT not in scope.token_of(TENANT)
