"""Milvus's REST v2: what becomes of a request in each layout, and what is refused. (Invariants 2 and 3.)"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tenantry.core.errors import (
    BadRequestError,
    ForbiddenError,
    MethodNotAllowedError,
    NotFoundError,
    RequestRefusedError,
    UnsupportedMediaError,
)
from tenantry.core.vector import scope
from tenantry.core.vector.calls import Need, StoreRequest
from tenantry.core.vector.expr import scoped
from tenantry.core.vector.milvus_rest import OPERATIONS, PREFIX, milvus_rest_call
from tenantry_testing.milvus_rest import EXAMPLES, JSON_HEADERS, call, head, sent, store_of

TOKEN = scope.token_of("acme")


def members(path: str, layout: str, **body: Any) -> Any:
    return json.loads(sent(path, layout, body).body or b"")


# --- what the store gets ---------------------------------------------------------------------------------------------


def test_a_query_in_each_layout() -> None:
    body = {"collectionName": "notes", "filter": "price > 3", "outputFields": ["price"], "limit": 5, "offset": 2}
    kept = {"outputFields": ["price", "tenant_id"], "limit": 5, "offset": 2}
    where = filter_of("price > 3")
    assert members("entities/query", "database", **body) == {
        "dbName": TOKEN,
        "collectionName": "notes",
        "filter": where,
        **kept,
    }
    assert members("entities/query", "collection", **body) == {
        "dbName": "default",
        "collectionName": f"{TOKEN}_notes",
        "filter": where,
        **kept,
    }
    assert members("entities/query", "partition", **body) == {
        "dbName": "default",
        "collectionName": "notes",
        "partitionNames": [TOKEN],
        "filter": where,
        **kept,
    }
    assert members("entities/query", "keyprefix", **body) == {
        "dbName": "default",
        "collectionName": "notes",
        "filter": where,
        **kept,
    }


def filter_of(text: str) -> str:
    """The filter as the grammar prints it behind the guard."""
    return scoped(text, field="tenant_id", tenant="acme")


@pytest.mark.parametrize("layout", ["database", "collection", "partition", "keyprefix"])
def test_a_client_chooses_neither_partition_nor_database(layout: str) -> None:
    other = scope.token_of("globex")
    found = members("entities/query", layout, collectionName="notes", dbName="default", partitionNames=["p", other])
    own = layout in ("database", "collection")
    wanted = {"partition": [TOKEN]}.get(layout, ["p", other] if own else None)
    assert found.get("partitionNames") == wanted
    with pytest.raises(ForbiddenError, match="database"):
        members("entities/query", layout, collectionName="notes", dbName=other)


@pytest.mark.parametrize("empty", ["", "  ", None])
def test_an_empty_filter_becomes_the_guard(empty: str | None) -> None:
    found = members("entities/query", "partition", collectionName="notes", filter=empty)
    assert found["filter"] == filter_of("")
    assert "acme" in found["filter"]


def test_values_of_templates_are_put_into_the_filter() -> None:
    found = members(
        "entities/query",
        "partition",
        collectionName="notes",
        filter="price > {least} and kind in {kinds} and name == {name}",
        exprParams={"least": 2**60 + 1, "kinds": ["a", 'b"'], "name": 'x" or price >= 0 or name == "'},
    )
    assert "exprParams" not in found
    assert str(2**60 + 1) in found["filter"]  # Milvus itself reads it as a float: 2**60
    assert '\\" or price' in found["filter"]


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        (None, ["*", "tenant_id"]),
        ([], ["tenant_id"]),
        (["*"], ["*", "tenant_id"]),
        (["a", "$meta"], ["a", "$meta", "tenant_id"]),
    ],
)
def test_the_tenant_field_is_always_asked_for(asked: list[str] | None, wanted: list[str]) -> None:
    for path in ("entities/query", "entities/get"):
        found = members(path, "partition", **(EXAMPLES[path] | {"outputFields": asked}))
        assert found["outputFields"] == wanted


def test_a_count_stands_alone() -> None:
    found = members("entities/query", "partition", collectionName="notes", outputFields=["count(*)"])
    assert found["outputFields"] == ["count(*)"]
    assert found["partitionNames"] == [TOKEN]
    assert found["filter"] == filter_of("")
    for path in ("entities/get", "entities/search"):
        with pytest.raises(BadRequestError, match="stands alone"):
            members(path, "partition", **(EXAMPLES[path] | {"outputFields": ["count(*)"]}))
    for fields in (["count(*)", "a"], ["COUNT(*)"], ["sum(price)"], ['$meta["tenant_id"]'], ["a b"], [""]):
        with pytest.raises(BadRequestError, match="output field"):
            members("entities/query", "partition", collectionName="notes", outputFields=fields)


def test_a_search() -> None:
    raw = b'{"collectionName":"notes","data":[[0.10, 1e-7,-3]],"annsField":"vector","limit":3,"offset":1,'
    raw += b'"groupingField":"kind","groupSize":2,"strictGroupSize":true,"consistencyLevel":"Strong",'
    raw += b'"searchParams":{"metricType":"L2","params":{"radius":0.5,"nprobe":16}}}'
    request = call("entities/search", "partition").request(raw)
    assert request.path is None
    assert b'"data":[[0.10, 1e-7,-3]]' in (request.body or b"")  # vectors stay the text they were
    assert json.loads(request.body or b"") == {
        "dbName": "default",
        "collectionName": "notes",
        "partitionNames": [TOKEN],
        "filter": filter_of(""),
        "outputFields": ["tenant_id"],
        "groupingField": "kind",
        "groupSize": 2,
        "strictGroupSize": True,
        "annsField": "vector",
        "data": [[0.1, 1e-07, -3]],
        "limit": 3,
        "offset": 1,
        "searchParams": {"metricType": "L2", "params": {"radius": 0.5, "nprobe": 16}},
        "consistencyLevel": "Strong",
    }


@pytest.mark.parametrize(
    "vector", [[0.5, 1], {"1": 0.5, "70000": 1}, {"indices": [1], "values": [0.5]}, "a text", "gD+AP4A="]
)
def test_kinds_of_query_vectors(vector: Any) -> None:
    assert members("entities/search", "partition", collectionName="notes", data=[vector])["data"] == [vector]


@pytest.mark.parametrize("vector", [["a"], {"x": 1}, {"1": "a"}, {"ids": [1]}, {"indices": [1]}, 7, None, [[{}]]])
def test_what_is_no_query_vector(vector: Any) -> None:
    for path, body in (
        ("entities/search", {"data": ["x", vector]}),
        ("entities/hybrid_search", {"search": [{"data": [vector]}]}),
    ):
        with pytest.raises(BadRequestError):
            members(path, "partition", collectionName="notes", **body)


@pytest.mark.parametrize("path", ["entities/hybrid_search", "entities/advanced_search"])
def test_every_search_of_a_hybrid_search_is_guarded(path: str) -> None:
    found = members(
        path,
        "partition",
        collectionName="notes",
        partitionNames=["theirs"],
        search=[
            {"data": [[1, 0.5]], "annsField": "a", "filter": "price > {p}", "exprParams": {"p": 1}, "limit": 3},
            {"data": ["words"], "annsField": "b", "metricType": "BM25", "params": {"drop_ratio_search": 0.2}},
        ],
        rerank={"strategy": "rrf", "params": {"k": 60}},
        limit=2,
    )
    assert found == {
        "dbName": "default",
        "collectionName": "notes",
        "partitionNames": [TOKEN],
        "search": [
            {"filter": filter_of("price > 1"), "annsField": "a", "data": [[1, 0.5]], "limit": 3},
            {
                "filter": filter_of(""),
                "annsField": "b",
                "data": ["words"],
                "metricType": "BM25",
                "params": {"drop_ratio_search": 0.2},
            },
        ],
        "outputFields": ["tenant_id"],
        "rerank": {"strategy": "rrf", "params": {"k": 60}},
        "limit": 2,
    }


def test_get_stays_a_get_where_no_key_is_known() -> None:
    request = sent("entities/get", "partition", {"collectionName": "notes", "id": [105, "7"]})
    assert request.path is None
    assert json.loads(request.body or b"") == {
        "dbName": "default",
        "collectionName": "notes",
        "partitionNames": [TOKEN],
        "outputFields": ["*", "tenant_id"],
        "id": [105, "7"],
    }


def test_get_becomes_a_query_where_the_key_is_known() -> None:
    request = sent("entities/get", "keyprefix", {"collectionName": "notes", "id": ["k1", 'k"2']})
    assert request.path == "/v2/vectordb/entities/query"
    found = json.loads(request.body or b"")
    assert found.pop("filter") == filter_of(f'doc in ["{TOKEN}:k1", "{TOKEN}:k\\"2"]')
    assert found == {"dbName": "default", "collectionName": "notes", "outputFields": ["*", "tenant_id"], "limit": 2}
    with pytest.raises(BadRequestError, match="strings") as refused:
        sent("entities/get", "keyprefix", {"collectionName": "notes", "id": 105})
    assert refused.value.param == "id"


@pytest.mark.parametrize("key", ['x"] or price >= 0 or k in ["', "x\\", "x\n", "", "x\x00"])
def test_an_id_cannot_become_a_filter(key: str) -> None:
    # Milvus pastes ids between quotes (utils.go, convertRange): such an id would end them.
    for layout in ("database", "collection", "partition"):
        with pytest.raises(BadRequestError):
            sent("entities/get", layout, {"collectionName": "notes", "id": [1, key]})


def test_keys_in_filters_are_prefixed() -> None:
    found = members("entities/delete", "keyprefix", collectionName="notes", filter='doc in ["k1"] or doc == "k2"')
    assert f'"{TOKEN}:k1"' in found["filter"]
    assert f'"{TOKEN}:k2"' in found["filter"]


def test_a_delete_needs_a_filter() -> None:
    found = members("entities/delete", "partition", collectionName="notes", filter="a == 1", partitionName="theirs")
    assert found == {
        "dbName": "default",
        "collectionName": "notes",
        "partitionName": TOKEN,
        "filter": filter_of("a == 1"),
    }
    for empty in ("", " ", None):
        with pytest.raises(BadRequestError, match="needs a filter"):
            members("entities/delete", "partition", collectionName="notes", filter=empty)
    with pytest.raises(BadRequestError, match="not known"):
        members("entities/delete", "partition", collectionName="notes", id=[1])


@pytest.mark.parametrize("path", ["entities/insert", "entities/upsert"])
def test_every_row_is_stamped(path: str) -> None:
    rows = [{"id": 1, "vector": [0.1], "meta": {"tenant_id": "x"}}, {"id": 2, "tenant_id": "globex", "note": None}]
    found = members(path, "partition", collectionName="notes", data=rows, partitionName="theirs")
    assert found == {
        "dbName": "default",
        "collectionName": "notes",
        "partitionName": TOKEN,
        "data": [
            {"id": 1, "vector": [0.1], "meta": {"tenant_id": "x"}, "tenant_id": "acme"},
            {"id": 2, "note": None, "tenant_id": "acme"},
        ],
    }


def test_keys_of_rows_are_prefixed() -> None:
    found = members("entities/upsert", "keyprefix", collectionName="notes", data=[{"doc": "k1"}, {"doc": f"{TOKEN}:k"}])
    assert [row["doc"] for row in found["data"]] == [f"{TOKEN}:k1", f"{TOKEN}:{TOKEN}:k"]
    for row in ({}, {"doc": 1}, {"doc": None}, {"Doc": "k"}):
        with pytest.raises(BadRequestError, match="primary key"):
            members("entities/insert", "keyprefix", collectionName="notes", data=[row])


RESERVED = ["Tenant_id", "TENANT_ID", "tenant_ID"]


@pytest.mark.parametrize("name", [*RESERVED, "$meta", "$"])
def test_a_row_cannot_name_the_tenant_in_another_way(name: str) -> None:
    with pytest.raises(BadRequestError, match=r"data\[1\]"):
        members("entities/insert", "partition", collectionName="notes", data=[{}, {name: "globex"}])


def test_letters_that_fold_to_others_are_seen() -> None:
    # Go's decoder folds the long s and the Kelvin sign.
    for field, name in (("scope", "\u017fcope"), ("kind", "\u212aind")):
        layout = store_of("partition", tenant_field=field)
        asking = milvus_rest_call(layout, head("entities/insert"))
        assert asking is not None
        with pytest.raises(BadRequestError, match="reserved"):
            asking.request(json.dumps({"collectionName": "notes", "data": [{name: "globex"}]}).encode())


@pytest.mark.parametrize("name", ["tenant_id", *RESERVED])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("entities/query", {"outputFields": ["a", "NAME"]}),
        ("entities/query", {"filter": "NAME == 'globex'"}),
        ("entities/get", {"outputFields": ["NAME"]}),
        ("entities/search", {"outputFields": ["NAME"]}),
        ("entities/search", {"groupingField": "NAME"}),
        ("entities/search", {"annsField": "NAME"}),
        ("entities/hybrid_search", {"groupingField": "NAME"}),
        ("entities/hybrid_search", {"search": [{"data": [[1]], "annsField": "NAME"}]}),
        ("entities/hybrid_search", {"search": [{"data": [[1]], "groupingField": "NAME"}]}),
        ("entities/hybrid_search", {"search": [{"data": [[1]], "filter": "NAME != ''"}]}),
        ("entities/delete", {"filter": "NAME != ''"}),
        ("collections/create", {"dimension": 4, "vectorFieldName": "NAME"}),
        ("collections/create", {"dimension": 4, "primaryFieldName": "NAME"}),
        ("collections/create", {"schema": {"fields": [{"fieldName": "NAME", "dataType": "Int64"}]}}),
        ("indexes/create", {"indexParams": [{"fieldName": "NAME"}]}),
    ],
)
def test_the_tenant_field_is_nobodys_to_name(path: str, body: dict[str, Any], name: str) -> None:
    named = json.loads(json.dumps(body).replace("NAME", name))
    with pytest.raises(BadRequestError):
        members(path, "collection", **(EXAMPLES[path] | named))


# --- collections of the tenant's own ---------------------------------------------------------------------------------


def test_the_quick_form_is_written_out() -> None:
    assert members("collections/create", "collection", collectionName="notes", dimension=4) == {
        "dbName": "default",
        "collectionName": f"{TOKEN}_notes",
        "schema": {
            "autoID": False,
            "enableDynamicField": True,
            "fields": [
                {"fieldName": "id", "dataType": "Int64", "isPrimary": True, "elementTypeParams": {}},
                {"fieldName": "vector", "dataType": "FloatVector", "elementTypeParams": {"dim": 4}},
                {"fieldName": "tenant_id", "dataType": "VarChar", "elementTypeParams": {"max_length": 64}},
            ],
        },
        "indexParams": [
            {"fieldName": "vector", "indexName": "vector", "metricType": "COSINE", "indexType": "AUTOINDEX"}
        ],
    }
    found = members(
        "collections/create",
        "database",
        collectionName="notes",
        dimension=4,
        idType="VarChar",
        autoID=True,
        metricType="IP",
        primaryFieldName="doc",
        vectorFieldName="v",
        params={"max_length": 99, "enableDynamicField": False, "shardsNum": 2, "ttlSeconds": 60},
    )
    assert found["dbName"] == TOKEN
    assert found["schema"]["autoID"] is True
    assert found["schema"]["enableDynamicField"] is False
    assert found["schema"]["fields"][0] == {
        "fieldName": "doc",
        "dataType": "VarChar",
        "isPrimary": True,
        "elementTypeParams": {"max_length": 99},
    }
    assert found["indexParams"][0]["fieldName"] == "v"
    assert found["indexParams"][0]["metricType"] == "IP"
    assert found["params"] == {"shardsNum": 2, "ttlSeconds": 60}


def test_a_schema_gets_the_tenant_field() -> None:
    schema = {
        "autoId": True,
        "fields": [
            {"fieldName": "id", "dataType": "Int64", "isPrimary": True},
            {
                "fieldName": "text",
                "dataType": "VarChar",
                "elementTypeParams": {"max_length": "512", "enable_analyzer": True},
            },
            {"fieldName": "sparse", "dataType": "SparseFloatVector"},
        ],
        "functions": [
            {"name": "bm25", "type": "BM25", "inputFieldNames": ["text"], "outputFieldNames": ["sparse"], "params": {}}
        ],
    }
    found = members("collections/create", "collection", collectionName="notes", schema=schema, dimension=4)
    assert found["schema"]["autoID"] is True
    assert "autoId" not in found["schema"]
    assert found["schema"]["fields"][-1]["fieldName"] == "tenant_id"
    assert len(found["schema"]["fields"]) == 4
    assert found["schema"]["functions"] == schema["functions"]
    assert "dimension" not in found
    assert "indexParams" not in found  # then nothing is loaded, as without us


@pytest.mark.parametrize(
    "change",
    [
        {"schema": {}},
        {"schema": {"fields": []}},
        {"schema": {"fields": [{"dataType": "Int64"}]}},
        {"schema": {"fields": [{"fieldName": "a", "dataType": "int64"}]}},
        {"schema": {"fields": [{"fieldName": "a", "dataType": "Int64"}], "autoID": True, "autoId": False}},
        {
            "schema": {
                "fields": [{"fieldName": "a", "dataType": "Int64"}],
                "functions": [{"name": "f", "type": "TextEmbedding"}],
            }
        },
        {
            "schema": {
                "fields": [
                    {
                        "fieldName": "a",
                        "dataType": "VarChar",
                        "elementTypeParams": {
                            "analyzer_params": {"filter": [{"type": "stop", "stop_words_file": "x"}]}
                        },
                    }
                ]
            }
        },
        {"dimension": 4, "params": {"shardsNum": 17}},
        {"dimension": 4, "idType": "VarChar"},
        {"dimension": True},
        {"dimension": "4"},
        {},
    ],
)
def test_what_no_schema_may_say(change: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError):
        members("collections/create", "collection", collectionName="notes", **change)


@pytest.mark.parametrize(
    "path", [path for path, operation in OPERATIONS.items() if operation.policy in ("own", "load")]
)
def test_what_changes_a_collection_is_for_its_owner(path: str) -> None:
    for layout in ("database", "collection"):
        found = members(path, layout, **EXAMPLES[path])
        assert found["dbName"] == (TOKEN if layout == "database" else "default")
        if path != "collections/list":
            assert found["collectionName"] == ("notes" if layout == "database" else f"{TOKEN}_notes")
    for layout in ("partition", "keyprefix"):
        with pytest.raises(ForbiddenError, match="shared"):
            call(path, layout)


def test_loading_a_shared_collection_is_for_the_operator_to_allow() -> None:
    allowed = store_of("partition", load_and_flush=True)
    loading = milvus_rest_call(allowed, head("collections/load"))
    assert loading is not None
    assert json.loads(loading.request(b'{"collectionName":"notes"}').body or b"")["collectionName"] == "notes"
    with pytest.raises(ForbiddenError):
        milvus_rest_call(allowed, head("collections/release"))


def test_a_collection_that_is_not_there() -> None:
    for path in ("entities/query", "collections/get_load_state"):
        with pytest.raises(NotFoundError):
            members(path, "partition", collectionName="theirs")
    for path in ("collections/has", "collections/describe"):
        asked = members(path, "partition", collectionName="theirs")
        assert asked["collectionName"] == f"{TOKEN}_theirs"  # nobody's: the store itself says no


@pytest.mark.parametrize(
    ("layout", "path", "wanted"),
    [
        ("database", "entities/query", Need(database=TOKEN)),
        ("database", "collections/create", Need(database=TOKEN)),
        ("database", "collections/list", Need(database=TOKEN)),
        ("collection", "entities/query", None),
        ("keyprefix", "entities/query", None),
        ("partition", "entities/query", Need(collection="notes", partition=TOKEN)),
        ("partition", "entities/insert", Need(collection="notes", partition=TOKEN)),
        ("partition", "collections/has", None),
    ],
)
def test_what_a_first_use_needs(layout: str, path: str, wanted: Need | None) -> None:
    assert sent(path, layout, EXAMPLES[path]).need == wanted


def test_the_load_state_is_that_of_the_tenants_partition() -> None:
    found = members("collections/get_load_state", "partition", collectionName="notes", partitionNames=["theirs"])
    assert found["partitionNames"] == [TOKEN]


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", OPERATIONS)
def test_members_are_exact_on_every_path(path: str) -> None:
    good = EXAMPLES[path]
    assert sent(path, "collection", good).body
    known = OPERATIONS[path].members
    wrong = ["unheard", "ids", "functionScore", "functionChains", "searchAggregation", "highlighter", "partialUpdate"]
    wrong += [
        "namespace",
        "db_name",
        "collection_name",
        *(name.upper() for name in known),
        *(f" {name}" for name in known),
    ]
    wrong += [name.replace("s", "\u017f") for name in known if "s" in name]
    wrong += [name.replace("k", "\u212a") for name in known if "k" in name]
    for name in wrong:
        with pytest.raises(BadRequestError) as refused:
            sent(path, "collection", good | {name: None})
        assert refused.value.code == "unknown_member"
        assert "unheard" not in refused.value.message


@pytest.mark.parametrize("path", OPERATIONS)
def test_types_are_exact_on_every_path(path: str) -> None:
    for name in OPERATIONS[path].members:
        with pytest.raises(BadRequestError):
            sent(path, "collection", EXAMPLES[path] | {name: {"\x00": [[]]}})


@pytest.mark.parametrize(
    ("path", "nested"),
    [
        ("entities/search", {"searchParams": {"search_by_primary_keys": True}}),
        ("entities/search", {"searchParams": {"iterator": True}}),
        ("entities/search", {"searchParams": {"group_by_field": "tenant_id"}}),
        ("entities/search", {"searchParams": {"anns_field": "x"}}),
        ("entities/search", {"searchParams": {"params": {"group_by_field": "x"}}}),
        ("entities/search", {"searchParams": {"params": {"radius": {"a": 1}}}}),
        ("entities/search", {"searchParams": {"hints": 'x" or "'}}),
        ("entities/search", {"searchParams": []}),
        ("entities/search", {"params": {"radius": 1}}),
        ("entities/hybrid_search", {"search": [{"data": [[1]], "partitionNames": ["p"]}]}),
        ("entities/hybrid_search", {"search": [{"data": [[1]], "collectionName": "x"}]}),
        ("entities/hybrid_search", {"search": [{"data": [[1]], "Filter": "a == 1"}]}),
        ("entities/hybrid_search", {"search": [{"data": [[1]], "params": {"iterator": True}}]}),
        ("entities/hybrid_search", {"search": [{}]}),
        ("entities/hybrid_search", {"rerank": {"strategy": "model"}}),
        ("entities/hybrid_search", {"rerank": {"strategy": "rrf", "params": {"endpoint": "x"}}}),
        ("entities/query", {"limit": 0}),
        ("entities/query", {"limit": -1}),
        ("entities/query", {"limit": 16_385}),
        ("entities/query", {"limit": 1.0}),
        ("entities/query", {"offset": True}),
        ("entities/query", {"consistencyLevel": "Customized"}),
        ("entities/query", {"filter": "a == {x}", "exprParams": {"x": {"y": 1}}}),
        ("entities/query", {"filter": "a == {x}", "exprParams": {"x": [[1]]}}),
        ("entities/query", {"filter": "a == {x}", "exprParams": {"x y": 1}}),
        ("entities/query", {"filter": "price >= 0) or (price >= 0"}),
        ("entities/query", {"partitionNames": ["a.*"]}),
        ("entities/get", {"id": []}),
        ("entities/get", {"id": [True]}),
        ("entities/get", {"id": {"a": 1}}),
        ("entities/insert", {"data": []}),
        ("entities/insert", {"data": {"a": 1}}),
        ("entities/insert", {"data": [[1]]}),
        ("indexes/create", {"indexParams": [{"fieldName": "v", "params": {"json_path": "x"}}]}),
        ("indexes/create", {"indexParams": [{"indexName": "v"}]}),
    ],
)
def test_what_is_not_reviewed_within_a_member(path: str, nested: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError):
        sent(path, "collection", EXAMPLES[path] | nested)


@pytest.mark.parametrize(
    ("path", "name", "most", "one"),
    [
        ("entities/query", "outputFields", 1024, "a"),
        ("entities/query", "partitionNames", 1024, "p"),
        ("entities/get", "id", 16_384, 1),
        ("entities/search", "data", 16_384, "words"),
        ("entities/hybrid_search", "search", 1024, {"data": [[1]]}),
        ("indexes/create", "indexParams", 64, {"fieldName": "v"}),
    ],
)
def test_lists_are_bounded(path: str, name: str, most: int, one: Any) -> None:
    assert sent(path, "collection", EXAMPLES[path] | {name: [one] * most}).body
    with pytest.raises(BadRequestError, match=name):
        sent(path, "collection", EXAMPLES[path] | {name: [one] * (most + 1)})


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("entities/query", {"filter": "a" * (1024 * 1024 + 1)}),
        ("entities/query", {"filter": "a in {x}", "exprParams": {"x": [1] * 16_385}}),
        ("entities/query", {"filter": "a == 1", "exprParams": {f"x{number}": 1 for number in range(257)}}),
        ("entities/get", {"id": "k" * 65_536}),
        ("entities/insert", {"data": [{f"x{number}": 1 for number in range(1025)}]}),
        ("collections/create", {"dimension": 32_769}),
        ("collections/create", {"description": "x" * 1025}),
    ],
)
def test_sizes_are_bounded(path: str, body: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError) as refused:
        sent(path, "collection", EXAMPLES[path] | body)
    assert refused.value.code in ("invalid_body", "too_many_columns")


@pytest.mark.parametrize("name", ["p.*", "p q", "p\n", "", "1p", "p" * 256, "\u017f", "p;"])
def test_names_are_exact(name: str) -> None:
    for path, body in (
        ("partitions/create", {"partitionName": name}),
        ("partitions/load", {"partitionNames": ["p", name]}),
        ("entities/search", {"annsField": name}),
        ("entities/search", {"groupingField": name}),
        ("entities/delete", {"partitionName": name}),
        ("indexes/drop", {"indexName": name}),
        ("collections/create", {"vectorFieldName": name}),
        ("collections/create", {"collectionName": name}),
    ):
        with pytest.raises(BadRequestError):
            sent(path, "collection", EXAMPLES[path] | body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"collectionName":"notes","filter":"a == 1","filter":"price >= 0"}',
        b'{"collectionName":"notes","filter":"a == 1","f\\u0069lter":"price >= 0"}',
        b'{"collectionName":"notes","exprParams":{"x":1,"x":2},"filter":"a == {x}"}',
        b'{"collectionName":"notes"}{"collectionName":"notes"}',
        b'{"collectionName":"notes","filter":"\xff"}',
        b'[{"collectionName":"notes"}]',
        b'{"collectionName":"notes","limit":1e2}',
        b'{"collectionName":"notes","limit":NaN}',
        b"\xef\xbb\xbf{}",
        b"",
    ],
)
def test_bodies_that_may_be_read_in_two_ways(body: bytes) -> None:
    with pytest.raises(BadRequestError):
        call("entities/query", "partition").request(body)


def test_a_duplicate_deep_within_a_row() -> None:
    with pytest.raises(BadRequestError):
        call("entities/insert", "partition").request(b'{"collectionName":"notes","data":[{"j":{"a":1,"a":2}}]}')


@pytest.mark.parametrize(
    "path",
    [
        "/v2/vectordb/entities/%71uery",
        "/v2/vectordb/entities/query/",
        "/v2/vectordb/entities//query",
        "/v2/vectordb//entities/query",
        "/v2/vectordb/Entities/query",
        "/v2/vectordb/entities/QUERY",
        "/v2/vectordb/entities/query?",
        "/v2/vectordb/entities/query?dbName=x",
        "/v2/vectordb/entities/query#x",
        "/v2/vectordb/entities/query;x",
        "/v2/vectordb/collections/../entities/query",
        "/v2/vectordb/./entities/query",
        "/v2/vectordb/",
        "/v2/vectordb/users/create",
        "/v2/vectordb/databases/list",
        "/v2/vectordb/collections/rename",
        "/v2/vectordb/aliases/create",
        "/v2/vectordb/jobs/import/create",
        "/v2/vectordb/entities/new",
    ],
)
def test_paths_are_exact(path: str) -> None:
    for layout in ("database", "partition"):
        with pytest.raises(ForbiddenError):
            milvus_rest_call(store_of(layout), head(path, whole=True))


@pytest.mark.parametrize(
    "path",
    [
        "/v1/vector/query",
        "/V2/vectordb/entities/query",
        "//v2/vectordb/entities/query",
        "/v2/%76ectordb/entities/query",
        "/",
        "/management/x",
        "",
    ],
)
def test_other_paths_are_not_this_protocols(path: str) -> None:
    assert milvus_rest_call(store_of("partition"), head(path, whole=True)) is None


def refused(error: type[RequestRefusedError], method: str = "POST", *headers: tuple[str, bytes]) -> None:
    with pytest.raises(error):
        milvus_rest_call(store_of("partition"), head("entities/query", method=method, headers=headers))


def test_heads_that_are_refused() -> None:
    for method in ("GET", "PUT", "post", "DELETE"):
        refused(MethodNotAllowedError, method, *JSON_HEADERS)
    for encoding in (b"gzip", b"identity", b""):
        refused(UnsupportedMediaError, "POST", *JSON_HEADERS, ("content-encoding", encoding))
    for content_type in (b"text/plain", b"application/json; charset=utf-7", b"application/jsonx", b""):
        refused(UnsupportedMediaError, "POST", ("content-type", content_type))
    refused(UnsupportedMediaError, "POST")
    refused(UnsupportedMediaError, "POST", *JSON_HEADERS, *JSON_HEADERS)
    refused(ForbiddenError, "POST", *JSON_HEADERS, ("db-name", b"other"))


def test_heads_that_pass() -> None:
    for content_type in (b"application/json", b"Application/JSON; Charset=UTF-8"):
        headers = (("content-type", content_type), ("db-name", b"default"))
        found = milvus_rest_call(store_of("partition"), head("entities/query", headers=headers))
        assert found is not None
        assert found.operation == "entities/query"


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(b"true", (("accept-type-allow-int64", "true"),)), (b"TRUE", ()), (b"false", ()), (b"true\r\nx: y", ())],
)
def test_integers_as_numbers_where_the_client_asks(value: bytes, wanted: tuple[tuple[str, str], ...]) -> None:
    found = milvus_rest_call(
        store_of("partition"), head("entities/query", headers=(*JSON_HEADERS, ("accept-type-allow-int64", value)))
    )
    assert found is not None
    assert found.request(b'{"collectionName":"notes"}').headers == wanted


ATTACKS = [
    attack
    for attack in json.loads((Path(__file__).parent.parent / "data" / "attacks.json").read_text())
    if attack["id"].startswith("rest-")
]


@pytest.mark.parametrize("attack", ATTACKS, ids=[attack["id"] for attack in ATTACKS])
def test_known_attacks(attack: dict[str, Any]) -> None:
    """Refused, or put into scope: nothing of the client's is left unguarded."""
    method, path = attack["request"]["http"].split(" ", 1)
    body = attack["request"]["body"]
    if path.startswith(":9091"):
        assert (
            milvus_rest_call(store_of("partition"), head(path.removeprefix(":9091"), method=method, whole=True)) is None
        )
        return
    zipped = body == "gzip body"
    headers = (*JSON_HEADERS, ("content-encoding", b"gzip")) if zipped else JSON_HEADERS
    whole = body if zipped else body.replace("{", '{"collectionName":"notes",', 1).replace(",}", "}")
    request: StoreRequest | None = None
    try:
        asking = milvus_rest_call(store_of("partition"), head(path, method=method, headers=headers, whole=True))
        assert asking is not None
        request = asking.request(whole.encode())
    except RequestRefusedError:
        pass
    if attack["expect"] in ("deny", "deny-or-normalise"):
        assert request is None
    elif request is not None:
        found = json.loads(request.body or b"")
        assert found["partitionNames"] == [TOKEN]
        assert "tenant_id" in found["outputFields"]
        assert re.search("acme", found.get("filter", "")) or path == f"{PREFIX}entities/get"
    else:
        assert attack["expect"] == "rewrite-or-deny"
