"""Answers of Milvus over REST: rows of others are withheld, and so is what cannot be read; the rest is built again."""

import json
from typing import Any

import pytest
from tenantry.core.vector import scope
from tenantry.core.vector.calls import ForeignRowError, StoreResponse, UnreadableResponseError, Verified
from tenantry.core.vector.layout import Layout
from tenantry.core.vector.milvus_rest import OPERATIONS, RestCall
from tenantry_testing.milvus_rest import EXAMPLES, call, store_of

TOKEN = scope.token_of("acme")
OTHER = scope.token_of("globex")
ROWS = ["entities/query", "entities/get", "entities/search", "entities/hybrid_search", "entities/advanced_search"]


def asked(path: str, layout: str = "partition", **changes: Any) -> RestCall:
    """A call whose request went out."""
    found = call(path, layout)
    found.request(json.dumps(EXAMPLES[path] | changes).encode())
    return found


def answered(call: RestCall, body: bytes, status: int = 200, *headers: tuple[str, bytes]) -> Verified:
    return call.response(StoreResponse(status=status, headers=headers, body=body))


def shown(path: str, data: Any, layout: str = "partition", **changes: Any) -> Any:
    """What the client gets under `data`."""
    found = json.loads(answered(asked(path, layout, **changes), json.dumps({"code": 0, "data": data}).encode()).body)
    assert found.keys() == {"code", "data"}
    return found["data"]


@pytest.mark.parametrize("path", ROWS)
def test_rows_are_the_tenants_and_lose_the_field_that_says_so(path: str) -> None:
    body = b'{"code":0,"cost":6,"data":[{"id":9223372036854775807,"score":0.1,"tenant_id":"acme","j":"{\\"a\\":1}"},'
    body += b'{"id":"9007199254740993","vector":[1e-7,0.25],"tenant_id":"acme"}]}'
    found = answered(asked(path), body)
    assert found.rows == 2
    assert found.body == (
        b'{"code":0,"data":[{"id":9223372036854775807,"score":0.1,"j":"{\\"a\\":1}"},'
        b'{"id":"9007199254740993","vector":[1e-7,0.25]}],"cost":6}'
    )


@pytest.mark.parametrize("path", ROWS)
@pytest.mark.parametrize(
    "row",
    [
        {"id": 1, "tenant_id": "globex"},
        {"id": 1},
        {"id": 1, "Tenant_id": "acme"},
        {"id": 1, "tenant_id": None},
        {"id": 1, "tenant_id": ["acme"]},
        {"id": 1, "tenant_id": "acme "},
        {"id": 1, "meta": {"tenant_id": "acme"}},
    ],
)
def test_one_row_of_another_tenant_withholds_all(path: str, row: dict[str, Any]) -> None:
    own = {"id": 2, "tenant_id": "acme"}
    for data in ([row], [own, row], [row, own], [own] * 50 + [row]):
        with pytest.raises(ForeignRowError):
            shown(path, data)


def test_searches_of_several_vectors() -> None:
    own = {"id": 2, "distance": 0.5, "tenant_id": "acme"}
    body = json.dumps({"code": 0, "data": [own, own, own], "topks": [2, 1], "recalls": [1, 0.5], "cost": 1}).encode()
    found = answered(asked("entities/search"), body)
    assert found.rows == 3
    assert json.loads(found.body) == {
        "code": 0,
        "data": [{"id": 2, "distance": 0.5}] * 3,
        "topks": [2, 1],
        "recalls": [1, 0.5],
        "cost": 1,
    }
    assert shown("entities/search", [[own, own], [], [own]]) == [
        [{"id": 2, "distance": 0.5}] * 2,
        [],
        [{"id": 2, "distance": 0.5}],
    ]
    with pytest.raises(ForeignRowError):
        shown("entities/search", [[own], [{"id": 1, "tenant_id": "globex"}]])
    for data in ([[own], own], [own, [own]], [[[own]]], [1], [[1]]):
        with pytest.raises(UnreadableResponseError):
            shown("entities/search", data)


@pytest.mark.parametrize("path", OPERATIONS)
@pytest.mark.parametrize("data", [None, 7, "x", [1], [[1]], [None], True])
def test_shapes_that_are_not_known(path: str, data: Any) -> None:
    with pytest.raises(UnreadableResponseError):
        shown(path, data, "collection")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"404 page not found",
        b"[]",
        b'{"data":[]}',
        b'{"code":"0","data":[]}',
        b'{"code":true,"data":[]}',
        b'{"code":0.0,"data":[]}',
        b'{"code":0,"data":[],"message":{}}',
        b'{"code":0,"data":[],"cost":"1"}',
        b'{"code":0,"data":[],"topks":[{"a":1}]}',
        b'{"code":0,"data":[{"tenant_id":"globex","tenant_id":"acme"}]}',
        b'{"code":0,"data":[]}{"code":0}',
        b'{"code":0,"data":[{"tenant_id":"acme","i":9223372036854775808000}]}',
    ],
)
def test_bodies_that_cannot_be_verified(body: bytes) -> None:
    with pytest.raises(UnreadableResponseError):
        answered(asked("entities/query"), body)


def test_compressed_answers_cannot_be_verified() -> None:
    body = b'{"code":0,"data":[]}'
    with pytest.raises(UnreadableResponseError):
        answered(asked("entities/query"), body, 200, ("content-encoding", b"gzip"))
    assert answered(asked("entities/query"), body, 200, ("content-encoding", b"identity")).body == body


def test_a_success_has_the_status_of_one() -> None:
    with pytest.raises(UnreadableResponseError):
        answered(asked("entities/query"), b'{"code":0,"data":[]}', 500)
    assert answered(asked("entities/query"), b'{"code":200,"data":[]}').body == b'{"code":200,"data":[]}'


def test_errors_keep_their_words_but_not_our_names() -> None:
    text = f"collection {TOKEN}_notes, database {TOKEN}, key {TOKEN}:k1"
    body = json.dumps({"code": 100, "message": text, "data": [{"id": 1, "tenant_id": "globex"}], "trace": 1}).encode()
    for status in (200, 403, 408):
        found = answered(asked("entities/query", "collection"), body, status)
        assert json.loads(found.body) == {"code": 100, "message": "collection notes, database default, key k1"}
        assert found.rows == 0


def test_members_beside_the_data_that_are_not_known() -> None:
    body = b'{"code":0,"data":[],"aggregations":[{"tenant_id":"globex"}],"highlights":["x"]}'
    assert answered(asked("entities/search"), body).body == b'{"code":0,"data":[]}'


@pytest.mark.parametrize("number", [0, 7, "12"])
def test_a_count(number: int | str) -> None:
    fields: Any = {"outputFields": ["count(*)"]}
    data: Any
    assert shown("entities/query", [{"count(*)": number}], **fields) == [{"count(*)": number}]
    for data in (
        [{"count(*)": number, "id": 1}],
        [{"count(*)": number}] * 2,
        [{"id": 1}],
        [{"count(*)": [1]}],
        [{"count(*)": "globex"}],
        [{}],
    ):
        with pytest.raises(UnreadableResponseError):
            shown("entities/query", data, **fields)
    with pytest.raises(ForeignRowError):
        shown("entities/query", [{"count(*)": number}])  # it was not asked for


# --- primary keys with a prefix --------------------------------------------------------------------------------------


def test_keys_lose_their_prefix() -> None:
    key, own = f"{TOKEN}:k1", {"tenant_id": "acme"}
    assert shown("entities/query", [own | {"doc": key, "id": "x"}], "keyprefix") == [{"doc": "k1", "id": "x"}]
    assert shown("entities/query", [own | {"doc": key, "id": key}], "keyprefix") == [{"doc": "k1", "id": key}]
    # A search names the key `id`, or by its own name, or twice, as Milvus's version has it.
    assert shown("entities/search", [own | {"id": key}], "keyprefix") == [{"id": "k1"}]
    assert shown("entities/search", [own | {"doc": key}], "keyprefix") == [{"doc": "k1"}]
    assert shown("entities/search", [own | {"doc": key, "id": key}], "keyprefix") == [{"doc": "k1", "id": "k1"}]
    assert shown("entities/search", [own | {"doc": key, "id": 3}], "keyprefix") == [{"doc": "k1", "id": 3}]
    assert shown("entities/insert", {"insertCount": 1, "insertIds": [key]}, "keyprefix") == {
        "insertCount": 1,
        "insertIds": ["k1"],
    }
    assert shown("entities/upsert", {"upsertCount": 1, "upsertIds": [key]}, "keyprefix") == {
        "upsertCount": 1,
        "upsertIds": ["k1"],
    }


@pytest.mark.parametrize("key", [f"{OTHER}:k1", "k1", "", f"{TOKEN}k1"])
def test_a_key_of_another_tenant(key: str) -> None:
    own = {"tenant_id": "acme"}
    for path in ("entities/query", "entities/search"):
        with pytest.raises(ForeignRowError):
            shown(path, [own | {"doc": key}], "keyprefix")
    with pytest.raises(ForeignRowError):
        shown("entities/search", [own | {"id": key}], "keyprefix")
    with pytest.raises(ForeignRowError):
        shown("entities/search", [own | {"doc": key, "id": f"{TOKEN}:k"}], "keyprefix")
    with pytest.raises(ForeignRowError):
        shown("entities/insert", {"insertCount": 1, "insertIds": [key]}, "keyprefix")


def test_rows_without_their_key() -> None:
    for path in ("entities/query", "entities/search"):
        for row in ({}, {"doc": 1}, {"doc": None}):
            with pytest.raises(UnreadableResponseError):
                shown(path, [{"tenant_id": "acme"} | row], "keyprefix")
    for path, data in (
        ("entities/query", [{"tenant_id": "acme", "id": f"{TOKEN}:k1"}]),  # `id` is the key in a search alone
        ("entities/insert", {"insertIds": [1]}),
    ):
        with pytest.raises(UnreadableResponseError):
            shown(path, data, "keyprefix")


# --- writes, collections, indexes ------------------------------------------------------------------------------------


def test_what_writes_answer() -> None:
    data: Any
    assert shown("entities/insert", {"insertCount": 2, "insertIds": [2**53 + 1, 2]}) == {
        "insertCount": 2,
        "insertIds": [2**53 + 1, 2],
    }
    assert shown("entities/upsert", {"upsertCount": 1, "upsertIds": ["9007199254740993"]}) == {
        "upsertCount": 1,
        "upsertIds": ["9007199254740993"],
    }
    assert shown("entities/delete", {"deleteCount": 3, "deleted": [{"tenant_id": "globex"}]}) == {"deleteCount": 3}
    assert shown("entities/delete", {}) == {}
    for data in ({"insertCount": "2"}, {"insertIds": [[1]]}, {"insertIds": [{"a": 1}]}, {"insertIds": {}}):
        with pytest.raises(UnreadableResponseError):
            shown("entities/insert", data)


def described(**changes: Any) -> dict[str, Any]:
    return {
        "aliases": ["theirs"],
        "autoId": False,
        "collectionID": 448707763883002014,
        "collectionName": "notes",
        "consistencyLevel": "Bounded",
        "description": "of the platform",
        "enableDynamicField": True,
        "fields": [
            {"autoId": False, "id": 100, "name": "doc", "primaryKey": True, "type": "VarChar", "secret": 1}
            | {"params": [{"key": "max_length", "value": "100"}]},
            {"id": 101, "name": "tenant_id", "primaryKey": False, "type": "VarChar"},
            {"id": 102, "name": "vector", "params": [{"key": "dim", "value": "5"}], "type": "FloatVector"},
        ],
        "functions": [],
        "indexes": [
            {"fieldName": "vector", "indexName": "vector", "metricType": "COSINE"},
            {"fieldName": "tenant_id", "indexName": "t", "metricType": ""},
        ],
        "load": "LoadStateLoaded",
        "partitionsNum": 812,
        "properties": [{"key": "mmap.enabled", "value": "true"}],
        "shardsNum": 1,
        "unheard": "x",
    } | changes


def test_a_shared_collection_looks_like_the_tenants_own() -> None:
    assert shown("collections/describe", described()) == {
        "autoId": False,
        "consistencyLevel": "Bounded",
        "description": "",
        "enableDynamicField": True,
        "load": "LoadStateLoaded",
        "partitionsNum": 1,
        "shardsNum": 1,
        "collectionName": "notes",
        "collectionID": Layout(store_of("partition")).public_id("notes"),
        "fields": [
            {"autoId": False, "id": 100, "name": "doc", "primaryKey": True, "type": "VarChar"}
            | {"params": [{"key": "max_length", "value": "100"}]},
            {"id": 102, "name": "vector", "params": [{"key": "dim", "value": "5"}], "type": "FloatVector"},
        ],
        "functions": [],
        "indexes": [{"fieldName": "vector", "indexName": "vector", "metricType": "COSINE"}],
        "aliases": [],
        "properties": [],
    }


def test_an_own_collection_is_shown_as_it_is() -> None:
    found = shown("collections/describe", described(collectionName=f"{TOKEN}_notes"), "collection")
    assert found["collectionName"] == "notes"
    assert found["partitionsNum"] == 812
    assert found["properties"] == [{"key": "mmap.enabled", "value": "true"}]
    assert "tenant_id" not in json.dumps(found)


def test_keys_are_as_long_as_clients_may_write_them() -> None:
    found = shown("collections/describe", described(), "keyprefix")
    assert found["fields"][0]["params"] == [{"key": "max_length", "value": str(100 - len(f"{TOKEN}:"))}]


def test_a_collection_without_the_tenant_field_is_not_shown() -> None:
    fields: Any
    for fields in ([], [{"name": "doc"}], [{"name": "Tenant_id"}], [{}], None):
        with pytest.raises(UnreadableResponseError):
            shown("collections/describe", described(fields=fields))


def test_indexes_do_not_tell_of_others() -> None:
    index: Any = {
        "indexName": "v",
        "fieldName": "vector",
        "indexType": "HNSW",
        "metricType": "L2",
        "indexState": "Finished",
    }
    index |= {"totalRows": 90, "indexedRows": 80, "pendingRows": 10, "failReason": f"{OTHER} is too long"}
    mine = {"indexName": "t", "fieldName": "tenant_id"}
    zero = {"totalRows": 0, "indexedRows": 0, "pendingRows": 0, "failReason": ""}
    assert shown("indexes/describe", [index | {"unheard": 1}, mine]) == [index | zero]
    assert shown("indexes/describe", [index, mine], "collection") == [index]


def test_collections_are_listed_by_the_clients_names() -> None:
    names = [f"{TOKEN}_notes", f"{OTHER}_notes", "notes", TOKEN, f"{TOKEN}_b"]
    assert shown("collections/list", names, "collection") == ["notes", "b"]
    assert shown("collections/list", ["notes", "b"], "database") == ["notes", "b"]


@pytest.mark.parametrize(
    ("path", "data", "wanted"),
    [
        ("collections/has", {"has": True, "who": "globex"}, {"has": True}),
        ("collections/get_load_state", {"loadState": "LoadStateNotLoad"}, {"loadState": "LoadStateNotLoad"}),
        ("collections/get_load_state", {"loadState": "x", "loadProgress": 7}, {"loadState": "x", "loadProgress": 7}),
        ("collections/get_stats", {"rowCount": 7}, {"rowCount": 7}),
        ("collections/create", {"collectionID": 7}, {}),
        ("partitions/list", ["_default", "p"], ["_default", "p"]),
        ("partitions/has", {"has": False}, {"has": False}),
        ("partitions/get_stats", {"rowCount": "7"}, {"rowCount": "7"}),
        ("indexes/list", [], []),
    ],
)
def test_what_other_paths_answer(path: str, data: Any, wanted: Any) -> None:
    assert shown(path, data, "collection") == wanted


def test_messages_beside_a_success_are_shown_without_our_names() -> None:
    body = json.dumps({"code": 0, "data": {"loadState": "x"}, "message": f"{TOKEN}_notes is slow."}).encode()
    found = answered(asked("collections/get_load_state", "collection"), body)
    assert json.loads(found.body)["message"] == "notes is slow."
