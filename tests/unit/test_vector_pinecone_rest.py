"""Pinecone over REST: whatever a tenant writes, the store is asked about the tenant's own namespace and rows."""

import json
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
from tenantry.core.rules_stores import Store
from tenantry.core.vector.calls import ForeignRowError, UnreadableResponseError
from tenantry_testing.pinecone import ACME, GLOBEX, JSON, NDJSON, Rest, opened

MINE = {"tenant_id": {"$eq": "acme"}}


def refused(line: str, body: object = None, *headers: tuple[str, bytes]) -> RequestRefusedError:
    with pytest.raises(RequestRefusedError) as raised:
        Rest(line, body, *headers)
    return raised.value


# --- The attacks, by their names in the list that we keep of them.


def test_pc_nons_a_query_without_a_namespace_asks_in_the_tenants_own() -> None:
    query = Rest("POST /query", b'{"topK":3,"vector":[0]}')
    assert query.request.path == "/query"
    assert query.sent == {"topK": 3, "vector": [0], "namespace": ACME, "includeMetadata": True, "filter": MINE}
    assert Rest("POST /query", b'{"topK":3,"vector":[0]}', tenant="globex").sent["namespace"] == GLOBEX


def test_pc_dup_two_namespaces_in_a_body_are_refused() -> None:
    assert refused("POST /query", b'{"namespace":"A","namespace":"B"}').code == "invalid_json"


def test_pc_snake_protobufs_other_spelling_is_refused() -> None:
    assert refused("POST /query", b'{"top_k":3,"include_metadata":true}').param == "topK"


def test_pc_fetch_a_namespace_given_twice_is_refused() -> None:
    error = refused("GET /vectors/fetch?ids=b1&namespace=A&namespace=B")
    assert (error.code, error.param) == ("invalid_query", "namespace")


def test_pc_upd_the_tenant_field_cannot_be_set() -> None:
    """Refused, where taking it out would do too: a client that names the field is wrong about who sets it."""
    error = refused("POST /vectors/update", {"id": "b1", "setMetadata": {"tenant_id": "A"}})
    assert error.code == "reserved_field"
    assert "A" not in error.message


def test_pc_delall_deletes_all_of_the_tenants_namespace() -> None:
    assert Rest("POST /vectors/delete", b'{"deleteAll":true}').sent == {"deleteAll": True, "namespace": ACME}


def test_pc_path_ns_the_namespace_in_a_path_is_the_tenants() -> None:
    search = Rest("POST /records/namespaces/B/search", b"{}")
    assert search.request.path == f"/records/namespaces/{ACME}.B/search"
    assert search.sent == {"query": {"filter": MINE}}


def test_pc_docs_so_is_that_of_documents() -> None:
    search = Rest("POST /namespaces/B/documents/search", b"{}")
    assert search.request.path == f"/namespaces/{ACME}.B/documents/search"
    assert search.sent == {"include_fields": ["tenant_id"], "filter": MINE}


# --- What reaches the store.


def test_a_namespace_of_the_clients_choice_is_one_of_the_tenants() -> None:
    body = {"topK": 1, "id": "a", "namespace": GLOBEX}
    assert Rest("POST /query", body).sent["namespace"] == f"{ACME}.{GLOBEX}"
    assert Rest("POST /query", {**body, "namespace": "__default__"}).sent["namespace"] == ACME
    assert Rest("POST /query", {**body, "namespace": ""}).sent["namespace"] == ACME
    assert Rest("POST /query", {**body, "namespace": None}).sent["namespace"] == ACME


@pytest.mark.parametrize("name", ["a\x00b", "a\nb", "é", "x" * 481])
def test_a_namespace_that_pinecone_would_not_take_is_refused(name: str) -> None:
    assert refused("POST /query", {"topK": 1, "id": "a", "namespace": name}).code == "invalid_namespace"


def test_a_query_keeps_what_it_asks_for_and_its_vector_to_the_digit() -> None:
    body = (
        b'{"topK":2,"vector":[0.10000000000000000001,1],"sparseVector":{"indices":[3],"values":[0.5]},'
        b'"filter":{"genre":"drama"},"includeValues":true,"scanFactor":2,"maxCandidates":50}'
    )
    query = Rest("POST /query", body)
    assert query.request.body is not None
    assert b'"vector":[0.10000000000000000001,1]' in query.request.body
    assert query.sent["filter"] == {"$and": [MINE, {"genre": "drama"}]}
    assert query.sent["sparseVector"] == {"indices": [3], "values": [0.5]}
    assert (query.sent["scanFactor"], query.sent["maxCandidates"], query.sent["includeValues"]) == (2, 50, True)


def test_each_vector_is_written_with_whose_it_is() -> None:
    vectors = [
        {"id": "a", "values": [1, 2.5], "metadata": {"genre": "drama", "tags": ["x"]}},
        {"id": "b", "values": [1.0, 2.0], "sparseValues": {"indices": [1], "values": [0.5]}},
    ]
    upsert = Rest("POST /vectors/upsert", {"vectors": vectors, "namespace": "docs"})
    assert upsert.sent["namespace"] == f"{ACME}.docs"
    assert [row["metadata"] for row in upsert.sent["vectors"]] == [
        {"genre": "drama", "tags": ["x"], "tenant_id": "acme"},
        {"tenant_id": "acme"},
    ]
    assert [row["id"] for row in upsert.sent["vectors"]] == ["a", "b"]


@pytest.mark.parametrize("name", ["tenant_id", "Tenant_ID", "tenant-id", " tenant_id", "TENANT_ID\t", "\uff54enant_id"])
@pytest.mark.parametrize("value", ["acme", "globex"])
def test_the_tenant_field_in_any_spelling_is_not_the_clients_to_write(name: str, value: str) -> None:
    row = {"id": "a", "values": [1.0], "metadata": {name: value}}
    assert refused("POST /vectors/upsert", {"vectors": [row]}).code == "reserved_field"
    assert refused("POST /vectors/update", {"id": "a", "setMetadata": {name: value}}).code == "reserved_field"


def test_the_field_is_the_one_of_the_rules() -> None:
    store = Store(kind="pinecone", endpoints=("127.0.0.1:1",), isolation="namespace", tenant_field="owner")
    upsert = Rest("POST /vectors/upsert", {"vectors": [{"id": "a", "metadata": {"tenant_id": 1}}]}, store=store)
    assert upsert.sent["vectors"][0]["metadata"] == {"tenant_id": 1, "owner": "acme"}


def test_updates_by_id_are_stamped_and_by_filter_guarded_too() -> None:
    by_id = Rest("POST /vectors/update", {"id": "a", "setMetadata": {"x": 1}, "values": [1.0]})
    assert by_id.sent == {
        "id": "a",
        "setMetadata": {"x": 1, "tenant_id": "acme"},
        "values": [1.0],
        "namespace": ACME,
    }
    by_filter = Rest("POST /vectors/update", {"filter": {"x": 1}, "setMetadata": {"x": 2}, "dryRun": True})
    assert by_filter.sent["filter"] == {"$and": [MINE, {"x": 1}]}
    assert Rest("POST /vectors/update", {"id": "a", "values": [1.0]}).sent.keys() == {"id", "values", "namespace"}


@pytest.mark.parametrize(
    "body",
    [{}, {"values": [1.0]}, {"id": "a", "filter": {"x": 1}}, {"filter": {}, "setMetadata": {"x": 1}}, {"id": ""}],
)
def test_an_update_says_what_it_is_of(body: dict[str, Any]) -> None:
    assert refused("POST /vectors/update", body).http_status == 400


def test_deletes_by_filter_are_guarded() -> None:
    assert Rest("POST /vectors/delete", {"filter": {"x": {"$gt": 1}}}).sent == {
        "filter": {"$and": [MINE, {"x": {"$gt": 1}}]},
        "namespace": ACME,
    }
    assert Rest("POST /vectors/delete", {"ids": ["a"], "deleteAll": False, "filter": {}}).sent == {
        "ids": ["a"],
        "namespace": ACME,
    }


@pytest.mark.parametrize(
    "body",
    [{}, {"ids": []}, {"filter": {}}, {"deleteAll": False}, {"ids": ["a"], "deleteAll": True},
     {"ids": ["a"], "filter": {"x": 1}}, {"deleteAll": True, "filter": {"x": 1}}],
)  # fmt: skip
def test_a_delete_says_exactly_what_it_deletes(body: dict[str, Any]) -> None:
    assert refused("POST /vectors/delete", body).http_status == 400


def test_rows_are_fetched_from_the_tenants_namespace() -> None:
    fetch = Rest("GET /vectors/fetch?ids=a%20b&ids=c%26namespace%3Dx&ids=d+e&namespace=docs%2Fx")
    assert fetch.request.body is None
    assert fetch.request.path == (f"/vectors/fetch?ids=a%20b&ids=c%26namespace%3Dx&ids=d%20e&namespace={ACME}.docs%2Fx")
    by_metadata = Rest("POST /vectors/fetch_by_metadata", {"filter": {"x": 1}, "limit": 5, "paginationToken": "t"})
    assert by_metadata.sent == {
        "filter": {"$and": [MINE, {"x": 1}]},
        "limit": 5,
        "paginationToken": "t",
        "namespace": ACME,
    }


def test_ids_are_listed_from_the_tenants_namespace() -> None:
    asked = Rest("GET /vectors/list?paginationToken=abc%3D&prefix=doc&limit=007&namespace=")
    assert asked.request.path == f"/vectors/list?prefix=doc&limit=7&paginationToken=abc%3D&namespace={ACME}"
    assert Rest("GET /vectors/list").request.path == f"/vectors/list?namespace={ACME}"


@pytest.mark.parametrize(
    "query",
    ["ids=a&namespace=A&namespace=A", "ids=a&Namespace=B", "ids=a&n%61mespace=B", "ids=a&namespace", "ids=a&&", "ids=",
     "namespace=A", "", "ids=%zz", "ids=%2", "ids=%", "ids=%ff", "ids=a;namespace=B", "ids=a#b", "ids=a&x=1", "ids=a b",
     "ids[]=a", "ids=a&=b", "ids=é", "ids=" + "x" * 513, "ids=%25&namespace=%00"],
)  # fmt: skip
def test_a_query_string_that_is_not_understood_whole_is_refused(query: str) -> None:
    assert refused(f"GET /vectors/fetch?{query}").http_status == 400


@pytest.mark.parametrize("limit", ["0", "101", "-1", "1e2", "+5", "٣", "1000000000000000000000", "5 "])
def test_a_limit_is_a_small_number(limit: str) -> None:
    assert refused(f"GET /vectors/list?limit={limit}").http_status == 400


def test_statistics_are_asked_for_with_the_clients_filter_alone_guarded() -> None:
    assert Rest("POST /describe_index_stats", b"{}").sent == {}
    assert Rest("POST /describe_index_stats", {"filter": {"x": 1}}).sent == {"filter": {"$and": [MINE, {"x": 1}]}}
    by_get = Rest("GET /describe_index_stats")
    assert (by_get.request.path, by_get.request.body) == ("/describe_index_stats", None)
    assert refused("GET /describe_index_stats?filter=x").code == "invalid_query"


# --- Records and documents.


def test_records_are_written_line_by_line_each_with_whose_it_is() -> None:
    lines = b'{"_id":"1","text":"hello"}\r\n\n{"id":"2","text":"bye\\n","n":1}\n'
    upsert = Rest("POST /records/namespaces/docs/upsert", lines, NDJSON)
    assert upsert.request.path == f"/records/namespaces/{ACME}.docs/upsert"
    assert ("content-type", "application/x-ndjson") in upsert.request.headers
    assert upsert.request.body is not None
    assert [json.loads(line) for line in upsert.request.body.splitlines()] == [
        {"_id": "1", "text": "hello", "tenant_id": "acme"},
        {"id": "2", "text": "bye\n", "n": 1, "tenant_id": "acme"},
    ]
    assert upsert.answered(b"", 201).body == b""


@pytest.mark.parametrize(
    "lines",
    [b"", b"\n", b'{"_id":"1"}{"_id":"2"}', b'[{"_id":"1"}]', b'{"_id":"1","_id":"2"}', b'{"_id":"1","tenant_id":"x"}',
     b'{"text":"x"}', b'{"_id":"1","_other":1}', b'{"_id":7}', b'{"_id":"1"}\n' * 1_001, b'{"_id":"1"}\x0b{"_id":"2"}'],
)  # fmt: skip
def test_lines_that_are_not_records_are_refused(lines: bytes) -> None:
    assert refused("POST /records/namespaces/docs/upsert", lines, NDJSON).http_status == 400


def test_a_search_of_records_is_guarded_and_its_hits_are_verified() -> None:
    body = {
        "query": {"top_k": 2, "inputs": {"text": "hi"}, "filter": {"n": 1}},
        "fields": ["text"],
        "rerank": {"model": "m", "rank_fields": ["text"], "top_n": 1},
    }
    search = Rest("POST /records/namespaces/docs/search", body)
    assert search.sent["query"]["filter"] == {"$and": [MINE, {"n": 1}]}
    assert search.sent["fields"] == ["text", "tenant_id"]
    hit = {"_id": "1", "_score": 0.5, "fields": {"text": "hi", "tenant_id": "acme"}, "_namespace": "?"}
    got = search.got({"result": {"hits": [hit], "more": 1}, "usage": {"read_units": 1, "other": 2}})
    assert got == {
        "result": {"hits": [{"_id": "1", "_score": 0.5, "fields": {"text": "hi"}}]},
        "usage": {"read_units": 1},
    }


def test_documents_are_stamped_guarded_and_verified() -> None:
    def documents(operation: str, body: object) -> Rest:
        return Rest(f"POST /namespaces/docs/documents/{operation}", body)

    assert documents("upsert", {"documents": [{"_id": "1", "t": "x"}]}).sent == {
        "documents": [{"_id": "1", "t": "x", "tenant_id": "acme"}]
    }
    assert documents("update", {"documents": [{"_id": "1", "_remove_fields": ["t"]}]}).sent == {
        "documents": [{"_id": "1", "_remove_fields": ["t"], "tenant_id": "acme"}]
    }
    assert documents("update", {"filter": {"t": "x"}, "set_fields": {"t": "y"}}).sent == {
        "filter": {"$and": [MINE, {"t": "x"}]},
        "set_fields": {"t": "y", "tenant_id": "acme"},
    }
    assert documents("delete", {"delete_all": True}).sent == {"delete_all": True}
    assert documents("delete", {"filter": {"t": "x"}}).sent == {"filter": {"$and": [MINE, {"t": "x"}]}}
    assert documents("list", {"prefix": "a", "limit": 3}).sent == {"prefix": "a", "limit": 3}
    fetch = documents("fetch", {"ids": ["1"], "include_fields": ["t"]})
    assert fetch.sent == {"ids": ["1"], "include_fields": ["t", "tenant_id"]}
    row = {"_id": "1", "t": "x", "tenant_id": "acme"}
    assert fetch.got({"documents": {"1": row}, "namespace": f"{ACME}.docs"}) == {
        "documents": {"1": {"_id": "1", "t": "x"}},
        "namespace": "docs",
    }
    search = documents(
        "search",
        {
            "score_by": [{"type": "text", "query": "x", "fields": ["t"]}],
            "top_k": 3,
            "include_fields": ["*"],
            "filter": {"t": {"$match_all": "x"}},
        },
    )
    assert search.sent["include_fields"] == ["*"]
    assert search.sent["filter"] == {"$and": [MINE, {"t": {"$match_all": "x"}}]}
    assert search.answered({"matches": [{**row, "_score": 1.0}], "namespace": f"{ACME}.docs"}).rows == 1
    with pytest.raises(ForeignRowError):
        search.answered({"matches": [{"_id": "1", "tenant_id": "globex"}], "namespace": f"{ACME}.docs"})


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("upsert", {"documents": [{"_id": "1", "Tenant_Id": "x"}]}),
        ("upsert", {"documents": [{"t": "x"}]}),
        ("upsert", {"documents": []}),
        ("update", {"documents": [{"_id": "1", "_remove_fields": ["tenant_id"]}]}),
        ("update", {"filter": {"t": 1}, "remove_fields": ["tenant_id"]}),
        ("update", {"filter": {"t": 1}, "set_fields": {"_remove_fields": ["tenant_id"]}}),
        ("update", {"filter": {"t": {"$match_any": "x"}}, "set_fields": {"t": 1}}),
        ("update", {"documents": [{"_id": "1"}], "filter": {"t": 1}}),
        ("search", {"top_k": 1, "score_by": [{"type": "query_string", "query": "tenant_id:globex"}]}),
        ("search", {"top_k": 1, "score_by": [{"type": "text", "query": "x", "fields": ["tenant_id"]}]}),
        ("search", {"top_k": 1, "include_fields": ["tenant_id"]}),
        ("fetch", {"ids": ["1"], "namespace": "B"}),
        ("fetch", {"ids": ["1"], "filter": {"t": 1}}),
        ("fetch", {"filter": {}}),
        ("delete", {}),
        ("delete", {"filter": {"tenant_id": "globex"}}),
    ],
)
def test_documents_leave_the_tenant_field_and_the_namespace_alone(operation: str, body: object) -> None:
    assert refused(f"POST /namespaces/docs/documents/{operation}", body).http_status == 400


# --- Filters.


def filtered(client: object) -> Any:
    return Rest("POST /query", {"topK": 1, "id": "a", "filter": client}).sent["filter"]


@pytest.mark.parametrize(
    "client",
    [
        {"genre": "drama"},
        {"genre": {"$eq": "drama"}, "year": {"$gte": 2019, "$lt": 2021.5}},
        {"genre": {"$in": ["a", 1, True]}, "x": {"$nin": []}},
        {"$or": [{"a": {"$ne": 1}}, {"$and": [{"b": {"$exists": False}}, {"c": True}]}]},
        {"a": 1, "$and": [{"b": 2}], "$or": [{"c": 3}]},
        {"tenant_id_2": "x", "my_tenant_id": 1, "acme": {"$eq": "tenant_id"}},
    ],
)
def test_a_filter_is_joined_with_the_tenants(client: object) -> None:
    assert filtered(client) == {"$and": [MINE, client]}


def test_an_empty_filter_is_none() -> None:
    assert filtered({}) == filtered(None) == MINE


@pytest.mark.parametrize(
    "client",
    [
        {"tenant_id": "acme"},
        {"tenant_id": {"$ne": "acme"}},
        {"Tenant_Id": {"$exists": True}},
        {"tenant-id": 1},
        {"$or": [{"a": 1}, {"tenant_id": {"$in": ["globex"]}}]},
        {"$and": [{"$or": [{"tenant_id": "globex"}]}]},
        {"$not": {"a": 1}},
        {"$nor": [{"a": 1}]},
        {"$eq": "a"},
        {"$AND": [{"a": 1}]},
        {"": 1},
        {"a": {"$regex": ".*"}},
        {"a": {"$match_all": "x"}},
        {"a": {"b": 1}},
        {"a": {}},
        {"a": None},
        {"a": ["x"]},
        {"a": {"$eq": ["x"]}},
        {"a": {"$eq": None}},
        {"a": {"$gt": "x"}},
        {"a": {"$gt": True}},
        {"a": {"$in": "x"}},
        {"a": {"$in": [["x"]]}},
        {"a": {"$exists": 1}},
        {"$and": []},
        {"$or": {}},
        {"$or": [{}]},
        {"$or": ["a"]},
        {"$and": [{"a": 1}, None]},
        [],
        "a",
    ],
)
def test_what_is_not_in_the_grammar_is_refused(client: object) -> None:
    error = refused("POST /query", {"topK": 1, "id": "a", "filter": client})
    assert error.http_status == 400
    assert "globex" not in error.message


def test_filters_are_bounded_in_depth_and_size() -> None:
    def nested(depth: int) -> dict[str, Any]:
        client: dict[str, Any] = {"a": 1}
        for _ in range(depth - 1):
            client = {"$or": [client]}
        return client

    assert filtered(nested(13)) == {"$and": [MINE, nested(13)]}
    assert refused("POST /query", {"topK": 1, "id": "a", "filter": nested(17)}).http_status == 400
    assert filtered({"a": {"$in": list(range(10_000))}})
    assert refused("POST /query", {"topK": 1, "filter": {"a": {"$in": [0] * 12_000}}}).code == "invalid_filter"
    many = {"$or": [{"a": {"$eq": 1}} for _ in range(7_000)]}
    assert refused("POST /query", {"topK": 1, "filter": many}).code == "invalid_filter"


# --- Bodies and paths.


@pytest.mark.parametrize(
    ("line", "body"),
    [
        ("POST /query", {"topK": 0}),
        ("POST /query", {"topK": 10_001}),
        ("POST /query", {"topK": "3"}),
        ("POST /query", {"topK": True}),
        ("POST /query", {"topK": 3, "queries": [{"values": [1], "namespace": "B"}]}),
        ("POST /query", {"topK": 3, "vector": ["a"]}),
        ("POST /query", {"topK": 3, "vector": [{"namespace": "B"}]}),
        ("POST /query", {"topK": 3, "vector": [[1]], "includeMetadata": "yes"}),
        ("POST /query", {"topK": 3, "sparseVector": {"indices": [-1], "values": [1]}}),
        ("POST /query", {"topK": 3, "sparseVector": {"indices": [1], "values": [1], "namespace": "B"}}),
        ("POST /query", {"topK": 3, "id": "x" * 513}),
        ("POST /query", {"topK": 3, "NameSpace": "B"}),
        ("POST /query", {"topK": 3, "namespace": 7}),
        ("POST /query", {"topK": 3, "namespace": {"$eq": "B"}}),
        ("POST /query", [{"topK": 3}]),
        ("POST /query", b""),
        ("POST /vectors/upsert", {"vectors": []}),
        ("POST /vectors/upsert", {"vectors": [{"values": [1.0]}]}),
        ("POST /vectors/upsert", {"vectors": [{"id": "a", "namespace": "B"}]}),
        ("POST /vectors/upsert", {"vectors": [{"id": "a", "metadata": []}]}),
        ("POST /vectors/upsert", {"vectors": {"id": "a"}}),
        ("POST /vectors/upsert", {"vectors": [{"id": "a"}] * 1_001}),
        ("POST /vectors/delete", {"ids": "a"}),
        ("POST /vectors/delete", {"ids": [1]}),
        ("POST /vectors/delete", {"ids": ["a"] * 1_001}),
        ("POST /vectors/fetch_by_metadata", {"filter": {"x": 1}, "paginationToken": "t" * 5_000}),
        ("POST /describe_index_stats", {"namespace": "B"}),
        ("POST /query?namespace=B", {"topK": 3}),
        ("POST /query?", {"topK": 3}),
        ("GET /vectors/fetch?ids=a", b"{}"),
    ],
)
def test_a_request_that_is_not_understood_whole_is_refused(line: str, body: object) -> None:
    assert isinstance(refused(line, body), BadRequestError)


@pytest.mark.parametrize(
    "path",
    ["/%71uery", "/vectors%2Fupsert", "/records/namespaces/a%2e%2e/search", "/records/namespaces/..%2fB/search",
     "/records/namespaces/%42/search", "/namespaces/a%20b/documents/search", "/Query%20"],
)  # fmt: skip
def test_escapes_in_a_path_are_refused(path: str) -> None:
    assert refused(f"POST {path}", b"{}").code == "invalid_path"


@pytest.mark.parametrize(
    "path",
    ["/records/namespaces//search", "/records/namespaces/../search", "/records/namespaces/./search",
     "/records/namespaces/a b/search", "/records/namespaces/a;b/search", "/namespaces/é/documents/search",
     "/namespaces/a\\b/documents/search"],
)  # fmt: skip
def test_a_namespace_in_a_path_is_plain(path: str) -> None:
    assert refused(f"POST {path}", b"{}").code == "invalid_namespace"


@pytest.mark.parametrize(
    "line",
    ["GET /namespaces", "POST /namespaces", "GET /namespaces/B", "DELETE /namespaces/B", "GET /namespace-aliases",
     "PATCH /namespace-aliases/x", "POST /bulk/imports", "GET /bulk/imports/1"],
)  # fmt: skip
def test_what_reaches_beyond_a_tenant_is_the_operators(line: str) -> None:
    assert isinstance(refused(line, b"{}"), ForbiddenError)


@pytest.mark.parametrize(
    "line",
    ["POST /vectors", "POST /query/", "POST //query", "POST /Query", "POST /./query", "POST /x/../query",
     "POST /vectors/upsert/", "POST /vectors/../query", "POST /records/namespaces/a/delete", "POST /vectors/new",
     "POST /namespaces/a/documents/import", "POST /records/namespaces/a/b/search", "POST /query;x=1"],
)  # fmt: skip
def test_any_other_path_of_pinecones_is_refused(line: str) -> None:
    method, path = line.split(" ")
    if path == "/x/../query":  # not Pinecone's, as it stands
        assert opened(method, path) is None
        return
    assert isinstance(refused(line, b"{}"), NotFoundError | ForbiddenError)


@pytest.mark.parametrize(
    "line",
    ["GET /query", "DELETE /vectors/delete?deleteAll=true&namespace=B", "GET /vectors/delete", "POST /vectors/fetch",
     "PUT /vectors/upsert", "HEAD /vectors/list", "GET /records/namespaces/a/search", "post /query"],
)  # fmt: skip
def test_a_known_path_has_its_method_and_no_other(line: str) -> None:
    assert isinstance(refused(line), MethodNotAllowedError)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/", "/v1/query", "/queryx", "/vector", "/healthz"])
def test_other_paths_are_not_pinecones(path: str) -> None:
    assert opened("POST", path) is None


@pytest.mark.parametrize(
    "headers",
    [
        (("content-type", b"text/plain"),),
        (("content-type", b"application/json; charset=utf-16"),),
        (JSON, JSON),
        (JSON, ("content-encoding", b"gzip")),
        (NDJSON,),
    ],
)
def test_a_body_that_may_be_read_otherwise_is_refused(headers: tuple[tuple[str, bytes], ...]) -> None:
    assert isinstance(refused("POST /query", b"{}", *headers), UnsupportedMediaError)


def test_of_the_clients_headers_the_api_version_goes_on_alone() -> None:
    version = ("x-pinecone-api-version", b"2026-07")
    sent = Rest("POST /query", {"topK": 1}, JSON, version, ("api-key", b"secret"), ("x-other", b"1"))
    assert sent.request.headers == (("x-pinecone-api-version", "2026-07"), ("content-type", "application/json"))
    assert Rest("GET /vectors/list", None, version).request.headers == (("x-pinecone-api-version", "2026-07"),)
    for value in (b"2026-07\n", b"latest", b"2026-7", b"2026-07, 2025-01"):
        assert refused("POST /query", {"topK": 1}, JSON, ("x-pinecone-api-version", value)).http_status == 400
    assert refused("POST /query", {"topK": 1}, JSON, version, version).http_status == 400


# --- Answers.


def match(tenant: object = "acme", **more: object) -> dict[str, Any]:
    return {"id": "a", "score": 0.5, "metadata": {"x": 1, "tenant_id": tenant}, **more}


def test_the_client_gets_matches_without_what_it_did_not_ask_for() -> None:
    query = Rest("POST /query", {"topK": 1, "id": "a", "namespace": "docs"})
    answer = {"matches": [match(values=[1.0])], "namespace": f"{ACME}.docs", "usage": {"readUnits": 6}, "results": []}
    assert query.got(answer) == {
        "matches": [{"id": "a", "score": 0.5, "values": [1.0]}],
        "usage": {"readUnits": 6},
        "namespace": "docs",
    }
    shown = Rest("POST /query", {"topK": 1, "id": "a", "includeMetadata": True})
    verified = shown.answered({"matches": [match(surprise="x")], "namespace": ACME, "surprise": {"b": 1}})
    assert json.loads(verified.body) == {
        "matches": [{"id": "a", "score": 0.5, "metadata": {"x": 1}}],
        "namespace": "",
    }
    assert verified.rows == 1


@pytest.mark.parametrize(
    "row",
    [
        match("globex"),
        match(None),
        match(["acme"]),
        match("ACME"),
        {"id": "a", "score": 1, "metadata": {"x": 1}},
        {"id": "a", "score": 1, "metadata": {"Tenant_id": "acme"}},
        {"id": "a", "score": 1, "metadata": None},
        {"id": "a", "score": 1},
    ],
)
@pytest.mark.parametrize("shows", [True, False])
def test_a_row_that_is_not_stamped_as_the_tenants_is_withheld_with_the_whole_answer(row: object, shows: bool) -> None:
    query = Rest("POST /query", {"topK": 2, "id": "a", "includeMetadata": shows})
    with pytest.raises(ForeignRowError):
        query.answered({"matches": [match(), row], "namespace": ACME})
    fetch = Rest("GET /vectors/fetch?ids=a")
    with pytest.raises(ForeignRowError):
        fetch.answered({"vectors": {"a": match(), "b": row}, "namespace": ACME})


@pytest.mark.parametrize("namespace", [GLOBEX, f"{GLOBEX}.docs", "", "docs", f"{ACME}.other", None, 7])
def test_an_answer_from_another_namespace_is_withheld(namespace: object) -> None:
    for line, body in (("POST /query", {"topK": 1}), ("GET /vectors/fetch?ids=a", None), ("GET /vectors/list", None)):
        with pytest.raises(ForeignRowError):
            Rest(line, body).answered({"namespace": namespace})


def test_fetched_rows_are_verified_and_opened() -> None:
    fetch = Rest("GET /vectors/fetch?ids=a&ids=b")
    rows = {
        "a": {"id": "a", "values": [1, 2], "metadata": {"tenant_id": "acme", "x": "y"}},
        "b": {"id": "b", "sparseValues": {"indices": [1], "values": [2]}, "metadata": {"tenant_id": "acme"}},
    }
    verified = fetch.answered({"vectors": rows, "namespace": ACME, "usage": {"readUnits": 1}})
    assert json.loads(verified.body)["vectors"] == {
        "a": {"id": "a", "values": [1.0, 2.0], "metadata": {"x": "y"}},
        "b": {"id": "b", "sparseValues": {"indices": [1], "values": [2.0]}},
    }
    assert verified.rows == 2
    by_metadata = Rest("POST /vectors/fetch_by_metadata", {"filter": {"x": "y"}})
    page = {"vectors": {"a": rows["a"]}, "namespace": ACME, "pagination": {"next": "t", "other": 1}}
    assert by_metadata.got(page)["pagination"] == {"next": "t"}


def test_listed_ids_pass_with_the_token_of_the_next_page() -> None:
    answer = {"vectors": [{"id": "a", "metadata": {"x": 1}}], "pagination": {"next": "t"}, "namespace": ACME}
    assert Rest("GET /vectors/list").got(answer) == {
        "vectors": [{"id": "a"}],
        "pagination": {"next": "t"},
        "namespace": "",
    }


@pytest.mark.parametrize("line", ["GET /describe_index_stats", "POST /describe_index_stats"])
def test_statistics_tell_of_the_tenants_own_namespaces(line: str) -> None:
    names = {ACME: 3, f"{ACME}.docs": 4, GLOBEX: 50, f"{GLOBEX}.docs": 60, "": 70, "docs": 80, f"{ACME}x": 90}
    answer = {
        "namespaces": {name: {"vectorCount": count, "bytes": 1} for name, count in names.items()},
        "dimension": 3,
        "indexFullness": 0.7,
        "totalVectorCount": 357,
        "metric": "cosine",
        "memoryFullness": 0.5,
    }
    assert Rest(line, b"{}" if line.startswith("POST") else None).got(answer) == {
        "namespaces": {"__default__": {"vectorCount": 3}, "docs": {"vectorCount": 4}},
        "dimension": 3,
        "metric": "cosine",
        "indexFullness": 0.0,
        "totalVectorCount": 7,
    }


@pytest.mark.parametrize(
    "body",
    [b"[]", b"<html>", b'{"matches":{}}', b'{"matches":[7]}', b'{"matches":[],"matches":[]}',
     b'{"matches":[{"id":7,"metadata":{"tenant_id":"acme"}}]}', b'{"matches":[{"score":"x"}]}',
     b'{"matches":[{"values":["x"]}]}', b'{"usage":[]}'],
)  # fmt: skip
def test_an_answer_that_is_not_understood_is_withheld(body: bytes) -> None:
    with pytest.raises(UnreadableResponseError):
        Rest("POST /query", {"topK": 1}).answered(body)


def test_a_redirect_is_no_answer() -> None:
    with pytest.raises(UnreadableResponseError):
        Rest("POST /query", {"topK": 1}).answered(b"{}", 302)


def test_a_refusal_of_the_stores_is_told_by_its_code_and_sentence() -> None:
    query = Rest("POST /query", {"topK": 1})
    refusal = {"code": 3, "message": "Vector dimension 1 does not match 3", "details": [{"rows": [match("globex")]}]}
    assert query.got(refusal, 400) == {"code": 3, "message": "Vector dimension 1 does not match 3", "details": []}
    assert query.got(b"<html>secret</html>", 503)["message"] == "The store refused the request."
    nested = {"error": {"code": "NOT_FOUND", "message": "No such index", "details": {}}, "status": 404}
    assert query.got(nested, 404) == {
        "error": {"code": "NOT_FOUND", "message": "No such index", "details": []},
        "status": 404,
    }
    assert len(query.got({"message": "x" * 5_000}, 500)["message"]) == 1_000
