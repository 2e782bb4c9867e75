"""Our subset of Pinecone's messages has Pinecone's field numbers.

Pinecone's SDK has its messages inside a compiled extension and ships no descriptors, so there is nothing to compare
with at run time. The numbers below were copied by hand from the published API 2026-07 (pinecone-io/pinecone-api,
2026-07/db_data_2026-07.proto); `tests/sdk_clients/pinecone_roundtrip.py` shows that the real SDK is understood.
"""

from google.protobuf.message import Message
from tenantry.core.vector._pb import pinecone_pb2 as pb
from tenantry.core.vector.pinecone_grpc import METHODS

SPARSE = {"indices": 1, "values": 2}
PUBLISHED: dict[type[Message], dict[str, int]] = {
    pb.SparseValues: SPARSE,
    pb.Vector: {"id": 1, "values": 2, "metadata": 3, "sparse_values": 4},
    pb.ScoredVector: {"id": 1, "score": 2, "values": 3, "metadata": 4, "sparse_values": 5},
    pb.Usage: {"read_units": 1, "egress_bytes": 2},
    pb.Pagination: {"next": 1},
    pb.UpsertRequest: {"vectors": 1, "namespace": 2},
    pb.UpsertResponse: {"upserted_count": 1},
    pb.DeleteRequest: {"ids": 1, "delete_all": 2, "namespace": 3, "filter": 4},
    pb.DeleteResponse: {},
    pb.FetchRequest: {"ids": 1, "namespace": 2},
    pb.FetchByMetadataRequest: {"namespace": 1, "filter": 2, "limit": 3, "pagination_token": 4},
    pb.FetchResponse: {"vectors": 1, "namespace": 2, "usage": 3, "pagination": 4},
    pb.ListRequest: {"prefix": 1, "limit": 2, "pagination_token": 3, "namespace": 4},
    pb.ListItem: {"id": 1},
    pb.ListResponse: {"vectors": 1, "pagination": 2, "namespace": 3, "usage": 4},
    pb.QueryRequest: {
        "namespace": 1, "top_k": 2, "filter": 3, "include_values": 4, "include_metadata": 5, "vector": 7, "id": 8,
        "sparse_vector": 9, "scan_factor": 10, "max_candidates": 11,
    },
    pb.QueryResponse: {"matches": 2, "namespace": 3, "usage": 4},
    pb.UpdateRequest: {
        "id": 1, "values": 2, "set_metadata": 3, "namespace": 4, "sparse_values": 5, "filter": 6, "dry_run": 7,
    },
    pb.UpdateResponse: {"matched_records": 1},
    pb.StatsRequest: {"filter": 1},
    pb.NamespaceSummary: {"vector_count": 1},
    pb.StatsResponse: {"namespaces": 1, "dimension": 2, "total_vector_count": 4, "metric": 5, "vector_type": 6},
}  # fmt: skip

LEFT_OUT: dict[tuple[type[Message], int], str] = {
    (pb.QueryRequest, 6): "queries: a namespace and a filter for each vector, in place of the request's",
    (pb.QueryResponse, 1): "results: their answers",
    (pb.StatsResponse, 3): "index_fullness: tells of others",
    (pb.StatsResponse, 7): "memory_fullness: tells of others",
    (pb.StatsResponse, 8): "storage_fullness: tells of others",
}


def test_every_message_has_pinecones_numbers_and_no_others() -> None:
    assert set(pb.DESCRIPTOR.message_types_by_name) == {kind.DESCRIPTOR.name for kind in PUBLISHED}
    for kind, numbers in PUBLISHED.items():
        assert {field.name: field.number for field in kind.DESCRIPTOR.fields} == numbers, kind.DESCRIPTOR.name


def test_fields_that_reach_beyond_a_tenant_are_left_out() -> None:
    for (kind, number), why in LEFT_OUT.items():
        assert number not in kind.DESCRIPTOR.fields_by_number, why


def test_each_method_has_a_message_of_the_table_each_way() -> None:
    assert {method.request for method in METHODS.values()} | {method.answer for method in METHODS.values()} <= set(
        PUBLISHED
    )
