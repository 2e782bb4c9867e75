"""Pinecone over gRPC: the same locks as over REST, on messages instead of JSON."""

import gzip
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value
from tenantry.core.errors import ForbiddenError, MethodNotAllowedError, RequestRefusedError, UnsupportedMediaError
from tenantry.core.vector._pb import pinecone_pb2 as pb
from tenantry.core.vector.calls import ForeignRowError, StoreResponse, UnreadableResponseError
from tenantry.core.vector.grpc_frame import write_message
from tenantry.core.vector.pinecone_grpc import METHODS
from tenantry_testing.pinecone import ACME, GLOBEX, GRPC, Grpc, message, opened

MINE = {"tenant_id": {"$eq": "acme"}}


def refused(name: str, sent: Message | bytes, *headers: tuple[str, bytes]) -> RequestRefusedError:
    with pytest.raises(RequestRefusedError) as raised:
        Grpc(name, sent, Message, *headers)
    return raised.value


def query(**members: Any) -> Grpc[pb.QueryRequest, pb.QueryResponse]:
    return Grpc("Query", message(pb.QueryRequest, {"topK": 3, "vector": [1, 2], **members}), pb.QueryResponse)


def sent(call: Grpc[Any, Any], kind: type[Message]) -> dict[str, Any]:
    return MessageToDict(call.sent(kind))


def test_a_query_asks_in_the_tenants_namespace_for_the_tenants_rows() -> None:
    assert sent(query(), pb.QueryRequest) == {
        "topK": 3,
        "vector": [1, 2],
        "namespace": ACME,
        "includeMetadata": True,
        "filter": MINE,
    }
    named = query(namespace=GLOBEX, filter={"a": 1, "$or": [{"b": {"$in": ["x", 2, True]}}]}, id="a", scanFactor=2)
    assert sent(named, pb.QueryRequest) == {
        "topK": 3,
        "vector": [1, 2],
        "id": "a",
        "scanFactor": 2,
        "namespace": f"{ACME}.{GLOBEX}",
        "includeMetadata": True,
        "filter": {"$and": [MINE, {"a": 1, "$or": [{"b": {"$in": ["x", 2, True]}}]}]},
    }


def test_each_vector_is_written_with_whose_it_is() -> None:
    vectors = [{"id": "a", "values": [1], "metadata": {"x": ["y"]}}, {"id": "b", "values": [2]}]
    upsert = Grpc("Upsert", message(pb.UpsertRequest, {"vectors": vectors, "namespace": "docs"}), pb.UpsertResponse)
    assert sent(upsert, pb.UpsertRequest) == {
        "vectors": [
            {"id": "a", "values": [1], "metadata": {"x": ["y"], "tenant_id": "acme"}},
            {"id": "b", "values": [2], "metadata": {"tenant_id": "acme"}},
        ],
        "namespace": f"{ACME}.docs",
    }
    answer, rows = upsert.answered(pb.UpsertResponse(upserted_count=2))
    assert (answer.upserted_count, rows) == (2, 0)


@pytest.mark.parametrize("name", ["tenant_id", "TENANT_ID", "tenant-id "])
def test_the_tenant_field_in_any_spelling_is_not_the_clients_to_write(name: str) -> None:
    vectors = [{"id": "a"}, {"id": "b", "metadata": {"x": 1, name: "globex"}}]
    assert refused("Upsert", message(pb.UpsertRequest, {"vectors": vectors})).code == "reserved_field"
    update = {"id": "a", "setMetadata": {name: "globex"}}
    assert refused("Update", message(pb.UpdateRequest, update)).code == "reserved_field"


def test_updates_and_deletes_stay_within_the_tenants_rows() -> None:
    by_id = Grpc("Update", message(pb.UpdateRequest, {"id": "a", "setMetadata": {"x": 1}}), pb.UpdateResponse)
    assert sent(by_id, pb.UpdateRequest) == {
        "id": "a",
        "setMetadata": {"x": 1, "tenant_id": "acme"},
        "namespace": ACME,
    }
    by_filter = Grpc(
        "Update", message(pb.UpdateRequest, {"filter": {"x": 1}, "setMetadata": {"x": 2}}), pb.UpdateResponse
    )
    assert sent(by_filter, pb.UpdateRequest)["filter"] == {"$and": [MINE, {"x": 1}]}
    delete = Grpc("Delete", message(pb.DeleteRequest, {"filter": {"x": 1}}), pb.DeleteResponse)
    assert sent(delete, pb.DeleteRequest) == {"filter": {"$and": [MINE, {"x": 1}]}, "namespace": ACME}
    everything = Grpc("Delete", message(pb.DeleteRequest, {"deleteAll": True, "filter": {}}), pb.DeleteResponse)
    assert sent(everything, pb.DeleteRequest) == {"deleteAll": True, "namespace": ACME}


def test_reads_ask_in_the_tenants_namespace() -> None:
    fetch = Grpc("Fetch", pb.FetchRequest(ids=["a"], namespace="docs"), pb.FetchResponse)
    assert sent(fetch, pb.FetchRequest) == {"ids": ["a"], "namespace": f"{ACME}.docs"}
    by_metadata = Grpc("FetchByMetadata", pb.FetchByMetadataRequest(limit=3), pb.FetchResponse)
    assert sent(by_metadata, pb.FetchByMetadataRequest) == {"limit": 3, "filter": MINE, "namespace": ACME}
    listed = Grpc("List", pb.ListRequest(prefix="a", namespace="__default__"), pb.ListResponse)
    assert sent(listed, pb.ListRequest) == {"prefix": "a", "namespace": ACME}
    stats = Grpc("DescribeIndexStats", message(pb.StatsRequest, {"filter": {"x": 1}}), pb.StatsResponse)
    assert sent(stats, pb.StatsRequest) == {"filter": {"$and": [MINE, {"x": 1}]}}
    bare = Grpc("DescribeIndexStats", message(pb.StatsRequest, {"filter": {}}), pb.StatsResponse)
    assert sent(bare, pb.StatsRequest) == {}


@pytest.mark.parametrize(
    ("name", "request_type", "members"),
    [
        ("Query", pb.QueryRequest, {"topK": 0}),
        ("Query", pb.QueryRequest, {"topK": 10_001}),
        ("Query", pb.QueryRequest, {"topK": 1, "namespace": "a\x00b"}),
        ("Query", pb.QueryRequest, {"topK": 1, "filter": {"tenant_id": "globex"}}),
        ("Query", pb.QueryRequest, {"topK": 1, "filter": {"$or": [{"Tenant_Id": "globex"}, {"a": 1}]}}),
        ("Query", pb.QueryRequest, {"topK": 1, "filter": {"a": None}}),
        ("Query", pb.QueryRequest, {"topK": 1, "filter": {"a": {"$regex": "x"}}}),
        ("Query", pb.QueryRequest, {"topK": 1, "filter": {"$and": {"a": 1}}}),
        ("Upsert", pb.UpsertRequest, {}),
        ("Update", pb.UpdateRequest, {"values": [1]}),
        ("Update", pb.UpdateRequest, {"id": "a", "filter": {"x": 1}}),
        ("Update", pb.UpdateRequest, {"filter": {}, "setMetadata": {"x": 1}}),
        ("Delete", pb.DeleteRequest, {}),
        ("Delete", pb.DeleteRequest, {"filter": {}}),
        ("Delete", pb.DeleteRequest, {"ids": ["a"], "deleteAll": True}),
        ("Delete", pb.DeleteRequest, {"ids": ["a"], "filter": {"x": 1}}),
        ("Fetch", pb.FetchRequest, {"ids": ["a"] * 1_001}),
        ("List", pb.ListRequest, {"limit": 101}),
        ("List", pb.ListRequest, {"paginationToken": "t" * 5_000}),
        ("FetchByMetadata", pb.FetchByMetadataRequest, {"filter": {"tenant_id": "acme"}}),
    ],
)
def test_a_call_beyond_what_is_understood_is_refused(
    name: str, request_type: type[Message], members: dict[str, Any]
) -> None:
    error = refused(name, message(request_type, members))
    assert error.http_status == 400
    assert "globex" not in error.message


def test_a_filter_as_deep_as_a_message_may_be_is_refused() -> None:
    client: dict[str, Any] = {"a": 1}
    for _ in range(17):
        client = {"$or": [client]}
    assert refused("Query", message(pb.QueryRequest, {"topK": 1, "filter": client})).code == "invalid_filter"


def varint(number: int, payload: bytes) -> bytes:
    """A length-delimited field."""
    size = len(payload)
    head = bytes([number << 3 | 2])
    return head + (bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])) + payload


def test_many_values_are_counted_before_they_are_read() -> None:
    request = pb.QueryRequest(top_k=1)
    request.filter.fields["a"].struct_value.fields["$in"].list_value.MergeFromString(b"\x0a\x00" * 36_001)
    assert "36000 values" in refused("Query", request).message
    request = pb.QueryRequest(top_k=1)
    for number in range(36_001):
        request.filter.fields[str(number)].bool_value = True
    assert "36000 values" in refused("Query", request).message


def test_many_metadata_members_are_counted_before_they_are_read() -> None:
    vectors = [pb.Vector(id=row) for row in "ab"]
    for number in range(50_001):
        for vector in vectors:
            vector.metadata.fields[str(number)].bool_value = True
    assert refused("Upsert", pb.UpsertRequest(vectors=vectors)).code == "invalid_message"
    assert Grpc("Upsert", pb.UpsertRequest(vectors=vectors[:1]), pb.UpsertResponse).sent(pb.UpsertRequest)
    vectors[0].metadata.MergeFrom(Struct(fields={f"x{number}": Value() for number in range(50_000)}))
    update = pb.UpdateRequest(id="a", set_metadata=vectors[0].metadata)
    assert refused("Update", update).code == "invalid_message"


def test_fields_that_pinecone_has_and_we_do_not_are_refused_at_any_depth() -> None:
    """Field 6 of a query is `queries`: vectors that each name a namespace and a filter of their own."""
    plain = pb.QueryRequest(top_k=1).SerializeToString()
    overriding = varint(6, varint(3, GLOBEX.encode()))
    assert refused("Query", plain + overriding).code == "field_not_allowed"
    vector = pb.Vector(id="a").SerializeToString() + varint(9, b"x")
    assert refused("Upsert", varint(1, vector)).code == "field_not_allowed"
    nested = varint(1, varint(1, b"a") + varint(2, varint(7, b"x")))  # a value of a Struct, of a kind that is none
    assert refused("Query", plain + varint(3, nested)).code == "field_not_allowed"
    assert refused("Query", plain + bytes([15 << 3, 1])).code == "field_not_allowed"


def test_a_field_that_is_written_twice_counts_as_it_is_sent_on() -> None:
    """protobuf takes the last of two; what we check is what we serialise, so the store has no first to take."""
    raw = (
        pb.QueryRequest(top_k=1, namespace="a").SerializeToString() + pb.QueryRequest(namespace="b").SerializeToString()
    )
    call: Grpc[pb.QueryRequest, pb.QueryResponse] = Grpc("Query", raw, pb.QueryResponse)
    assert call.request.body is not None
    assert call.request.body.count(ACME.encode()) == 1
    assert call.sent(pb.QueryRequest).namespace == f"{ACME}.b"
    two = Struct(fields={"x": message(Struct, {"x": 1}).fields["x"]}).SerializeToString()
    update: Grpc[Any, Any] = Grpc("Update", varint(1, b"a") + varint(3, two) + varint(3, two), pb.UpdateResponse)
    assert sent(update, pb.UpdateRequest)["setMetadata"] == {"x": 1, "tenant_id": "acme"}


@pytest.mark.parametrize("raw", [b"\xff", b"\x0a\x05ab", b"\x12\x02\xff\xfe"])
def test_bytes_that_are_no_message_are_refused(raw: bytes) -> None:
    assert refused("Fetch", raw).code == "invalid_message"


def test_a_body_is_exactly_one_message_plain_or_deflated() -> None:
    raw = pb.FetchRequest(ids=["a"]).SerializeToString()
    call = opened("POST", "/VectorService/Fetch", GRPC, ("grpc-encoding", b"gzip"))
    assert call is not None
    packed = gzip.compress(raw)
    body = b"\x01" + len(packed).to_bytes(4) + packed
    assert call.request(body).body == write_message(pb.FetchRequest(ids=["a"], namespace=ACME).SerializeToString())
    for bad in (write_message(raw) * 2, write_message(raw)[:-1], b"", raw, b"\x02" + write_message(raw)[1:]):
        call = opened("POST", "/VectorService/Fetch", GRPC)
        assert call is not None
        with pytest.raises(RequestRefusedError):
            call.request(bad)


@pytest.mark.parametrize(
    "path",
    ["/VectorService/ListNamespaces", "/VectorService/DescribeNamespace", "/VectorService/DeleteNamespace",
     "/VectorService/CreateNamespace", "/VectorService/query", "/VectorService/", "/VectorService/Query/x",
     "/VectorService/Query?x", "/VectorService/%51uery", "/vectorservice/Query", "/VectorService",
     "/NamespaceAliasService/RepointNamespaceAlias", "/pinecone.VectorService/Query"],
)  # fmt: skip
def test_any_other_method_is_refused(path: str) -> None:
    with pytest.raises(RequestRefusedError):
        opened("POST", path, GRPC)


def test_the_methods_are_those_of_the_list() -> None:
    assert sorted(METHODS) == [
        "Delete", "DescribeIndexStats", "Fetch", "FetchByMetadata", "List", "Query", "Update", "Upsert",
    ]  # fmt: skip


def test_a_call_is_a_post_of_grpc() -> None:
    with pytest.raises(MethodNotAllowedError):
        opened("GET", "/VectorService/Query", GRPC)
    for headers in (
        (("content-type", b"application/grpc-web"),),
        (GRPC, GRPC),
        (("content-type", b"application/json"),),
    ):
        with pytest.raises(UnsupportedMediaError):
            opened("POST", "/VectorService/Query", *headers)
    with pytest.raises(RequestRefusedError):
        opened("POST", "/VectorService/Query", GRPC, ("grpc-encoding", b"gzip"), ("grpc-encoding", b"identity"))
    with pytest.raises(ForbiddenError):
        opened("POST", "/VectorService/Drop", GRPC)


def test_of_the_clients_metadata_the_api_version_goes_on_alone() -> None:
    call = Grpc(
        "Fetch",
        pb.FetchRequest(ids=["a"]),
        pb.FetchResponse,
        ("x-pinecone-api-version", b"2026-07"),
        ("api-key", b"secret"),
    )
    assert call.request.headers == (("te", "trailers"), ("x-pinecone-api-version", "2026-07"))


# --- Answers.


def row(tenant: object = "acme") -> dict[str, Any]:
    return {"id": "a", "values": [1], "metadata": {"x": "y", "tenant_id": tenant}}


def test_the_client_gets_matches_without_what_it_did_not_ask_for() -> None:
    answer = message(pb.QueryResponse, {"matches": [row()], "namespace": ACME, "usage": {"readUnits": 5}})
    got, rows = query().answered(answer)
    assert MessageToDict(got) == {"matches": [{"id": "a", "values": [1]}], "usage": {"readUnits": 5}}
    assert rows == 1
    got, _ = query(includeMetadata=True).answered(answer)
    assert MessageToDict(got.matches[0].metadata) == {"x": "y"}


@pytest.mark.parametrize(
    "bad",
    [row("globex"), row(None), row(["acme"]), row({"acme": 1}), {"id": "a", "metadata": {"x": 1}}, {"id": "a"}],
)  # fmt: skip
def test_a_row_that_is_not_stamped_as_the_tenants_is_withheld_with_the_whole_answer(bad: dict[str, Any]) -> None:
    with pytest.raises(ForeignRowError):
        query().answered(message(pb.QueryResponse, {"matches": [row(), bad], "namespace": ACME}))
    fetch = Grpc("Fetch", pb.FetchRequest(ids=["a"]), pb.FetchResponse)
    with pytest.raises(ForeignRowError):
        fetch.answered(message(pb.FetchResponse, {"vectors": {"a": row(), "b": bad}, "namespace": ACME}))


@pytest.mark.parametrize("namespace", [GLOBEX, "", "docs", f"{ACME}.other"])
def test_an_answer_from_another_namespace_is_withheld(namespace: str) -> None:
    calls: list[tuple[Grpc[Any, Any], Message]] = [
        (query(), pb.QueryResponse(namespace=namespace)),
        (Grpc("Fetch", pb.FetchRequest(ids=["a"]), pb.FetchResponse), pb.FetchResponse(namespace=namespace)),
        (Grpc("List", pb.ListRequest(), pb.ListResponse), pb.ListResponse(namespace=namespace)),
    ]
    for call, answer in calls:
        with pytest.raises(ForeignRowError):
            call.answered(answer)


def test_fetched_rows_are_opened_and_listed_ids_pass() -> None:
    fetch = Grpc("Fetch", pb.FetchRequest(ids=["a"], namespace="docs"), pb.FetchResponse)
    got, rows = fetch.answered(
        message(pb.FetchResponse, {"vectors": {"a": row()}, "namespace": f"{ACME}.docs", "pagination": {"next": "t"}})
    )
    assert MessageToDict(got) == {
        "vectors": {"a": {"id": "a", "values": [1], "metadata": {"x": "y"}}},
        "namespace": "docs",
        "pagination": {"next": "t"},
    }
    assert rows == 1
    listed = Grpc("List", pb.ListRequest(), pb.ListResponse)
    ids, _ = listed.answered(pb.ListResponse(vectors=[pb.ListItem(id="a")], namespace=ACME))
    assert [item.id for item in ids.vectors] == ["a"]


def test_statistics_tell_of_the_tenants_own_namespaces() -> None:
    counts = {ACME: 3, f"{ACME}.docs": 4, GLOBEX: 50, "": 60, f"{ACME}x": 70}
    namespaces = {name: {"vectorCount": count} for name, count in counts.items()}
    stats = Grpc("DescribeIndexStats", pb.StatsRequest(), pb.StatsResponse)
    fullness = bytes([3 << 3 | 5]) + b"\x00\x00\x80\x3f"  # index_fullness, which our subset leaves out
    raw = message(pb.StatsResponse, {"namespaces": namespaces, "totalVectorCount": 187, "dimension": 3})
    got, _ = stats.answered(pb.StatsResponse.FromString(raw.SerializeToString() + fullness))
    assert MessageToDict(got) == {
        "namespaces": {"__default__": {"vectorCount": 3}, "docs": {"vectorCount": 4}},
        "totalVectorCount": 7,
        "dimension": 3,
    }
    assert got.SerializeToString().find(fullness) == -1


def test_what_is_not_one_plain_message_is_withheld_and_an_error_passes() -> None:
    call = query().call
    good = write_message(pb.QueryResponse(namespace=ACME).SerializeToString())
    assert call.response(StoreResponse(status=200, headers=(), body=b"")).body == b""
    for status, body in ((200, good * 2), (200, b"\x01" + good[1:]), (200, good[:-1]), (200, b"x"), (502, good)):
        with pytest.raises(UnreadableResponseError):
            call.response(StoreResponse(status=status, headers=(), body=body))
    with pytest.raises(UnreadableResponseError):
        call.response(StoreResponse(status=200, headers=(), body=write_message(b"\xff")))
