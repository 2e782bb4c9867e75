"""The stand-in Pinecone behaves like one, and tells which rows a request touched: what isolation is measured by."""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
import pytest
from aiohttp import ClientSession
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from tenantry.core.vector._pb import pinecone_pb2 as pb
from tenantry_standin.pinecone import RunningPinecone, start
from tenantry_standin.pinecone_index import IndexError400, wanted
from tenantry_testing.pinecone import ACME, GLOBEX, NDJSON, Rest, message

Answer = tuple[int, Any]


class Client:
    """Both transports of one stand-in, without tenantry."""

    def __init__(self, running: RunningPinecone, http: ClientSession, channel: grpc.aio.Channel) -> None:
        self.running = running
        self._http = http
        self._channel = channel

    async def rest(self, line: str, body: object = None, headers: Mapping[str, str] | None = None) -> Answer:
        method, path = line.split(" ")
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        url = f"http://127.0.0.1:{self.running.rest_port}{path}"
        async with self._http.request(method, url, data=raw, headers=headers) as response:
            assert response.headers["x-stand-in-engine"] == "true"
            return response.status, await response.json()

    async def grpc(self, name: str, request: Message, answer: type[Message]) -> Any:
        call = self._channel.unary_unary(f"/VectorService/{name}")
        raw = await call(request.SerializeToString(), metadata=(("api-key", "k"),))
        return MessageToDict(answer.FromString(raw))

    async def tenant(self, line: str, body: object = None, *headers: tuple[str, bytes], tenant: str) -> Any:
        """A tenant's call: through tenantry's core there, and back."""
        call = Rest(line, body, *headers, tenant=tenant)
        method, path = line.split(" ")
        url = f"http://127.0.0.1:{self.running.rest_port}{call.request.path or path}"
        async with self._http.request(
            method, url, data=call.request.body, headers=dict(call.request.headers)
        ) as response:
            return call.got(await response.read(), response.status)


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    running = await start()
    async with ClientSession() as http, grpc.aio.insecure_channel(f"127.0.0.1:{running.grpc_port}") as channel:
        yield Client(running, http, channel)
    await running.stop()


def vectors(*ids: str) -> list[dict[str, Any]]:
    return [
        {"id": one, "values": [1.0, float(place)], "metadata": {"genre": "drama" if place % 2 == 0 else "comedy"}}
        for place, one in enumerate(ids)
    ]


async def test_what_is_written_by_rest_is_read_by_grpc_and_back(client: Client) -> None:
    assert await client.rest("POST /vectors/upsert", {"vectors": vectors("a", "b"), "namespace": "n"}) == (
        200,
        {"upsertedCount": 2},
    )
    query = message(pb.QueryRequest, {"namespace": "n", "topK": 5, "vector": [1, 0], "includeMetadata": True})
    assert await client.grpc("Query", query, pb.QueryResponse) == {
        "matches": [
            {"id": "a", "score": 1.0, "metadata": {"genre": "drama"}},
            {"id": "b", "score": pytest.approx(0.70710677), "metadata": {"genre": "comedy"}},
        ],
        "namespace": "n",
        "usage": {"readUnits": 1},
    }
    await client.grpc("Delete", pb.DeleteRequest(namespace="n", ids=["a"]), pb.DeleteResponse)
    status, listed = await client.rest("GET /vectors/list?namespace=n")
    assert (status, [item["id"] for item in listed["vectors"]]) == (200, ["b"])


async def test_operations_do_what_pinecone_documents(client: Client) -> None:
    ids = [f"doc{number}" for number in range(5)]
    await client.rest("POST /vectors/upsert", {"vectors": vectors(*ids)})
    _, by_filter = await client.rest("POST /query", {"topK": 9, "id": "doc0", "filter": {"genre": "comedy"}})
    assert [match["id"] for match in by_filter["matches"]] == ["doc1", "doc3"]
    _, fetched = await client.rest("GET /vectors/fetch?ids=doc1&ids=none&namespace=__default__")
    assert fetched["vectors"] == {"doc1": {"id": "doc1", "values": [1.0, 1.0], "metadata": {"genre": "comedy"}}}
    _, page = await client.rest("GET /vectors/list?prefix=doc&limit=3")
    _, rest = await client.rest(f"GET /vectors/list?prefix=doc&limit=3&paginationToken={page['pagination']['next']}")
    assert [item["id"] for item in page["vectors"] + rest["vectors"]] == ids
    assert "pagination" not in rest
    _, updated = await client.rest("POST /vectors/update", {"filter": {"genre": "comedy"}, "setMetadata": {"x": 1}})
    assert updated == {"matchedRecords": 2}
    _, found = await client.rest("POST /vectors/fetch_by_metadata", {"filter": {"x": {"$exists": True}}, "limit": 1})
    assert (list(found["vectors"]), "next" in found["pagination"]) == (["doc1"], True)
    _, stats = await client.rest("GET /describe_index_stats")
    assert (stats["namespaces"], stats["dimension"]) == ({"__default__": {"vectorCount": 5}}, 2)
    await client.rest("POST /vectors/delete", {"filter": {"x": 1}})
    await client.rest("POST /vectors/delete", {"deleteAll": True})
    assert client.running.index.namespaces == {}


async def test_what_pinecone_refuses_is_refused(client: Client) -> None:
    for body in ({"topK": 0}, {"topK": 1, "filter": {"a": {"$regex": "x"}}}, {"topK": 1, "filter": {"$not": {}}}):
        status, answer = await client.rest("POST /query", body)
        assert (status, answer["code"]) == (400, 3)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await client.grpc("Query", pb.QueryRequest(), pb.QueryResponse)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(IndexError400):
        wanted({"a": {"$like": "x"}})


async def test_the_journal_tells_which_rows_each_request_touched(client: Client) -> None:
    await client.rest("POST /vectors/upsert", {"vectors": vectors("a"), "namespace": "n"}, {"Api-Key": "secret"})
    await client.grpc("Fetch", pb.FetchRequest(ids=["a", "b"], namespace="n"), pb.FetchResponse)
    _, entries = await client.rest("GET /stand-in/journal?after=0")
    both = {"namespace": "n", "ids": ["a"]}
    assert entries == [
        {**both, "number": 1, "transport": "rest", "operation": "upsert", "api_key": "secret"},
        {**both, "number": 2, "transport": "grpc", "operation": "fetch", "api_key": "k"},
    ]
    assert await client.rest("GET /stand-in/journal?after=2") == (200, [])


async def test_two_tenants_with_the_same_ids_never_touch_each_others_rows(client: Client) -> None:
    """Each does all it can, with the other's names; the journal at the store says what was reached."""
    for tenant in ("acme", "globex"):
        rows = [{**row, "metadata": {"of": tenant}} for row in vectors("a", "b", "c")]
        await client.tenant("POST /vectors/upsert", {"vectors": rows}, tenant=tenant)
        record = b'{"_id":"r","text":"%s"}' % tenant.encode()
        await client.tenant("POST /records/namespaces/docs/upsert", record, NDJSON, tenant=tenant)
    for name in ("", GLOBEX, "__default__", "docs"):
        for line, body in (
            ("POST /query", {"topK": 9, "vector": [1, 0], "namespace": name, "includeMetadata": True}),
            ("POST /query", {"topK": 9, "id": "a", "namespace": name, "filter": {"of": {"$ne": "acme"}}}),
            (f"GET /vectors/fetch?ids=a&ids=b&namespace={name}", None),
            ("POST /vectors/fetch_by_metadata", {"namespace": name, "filter": {"of": "globex"}}),
            (f"GET /vectors/list?namespace={name}", None),
            ("POST /vectors/update", {"id": "a", "namespace": name, "setMetadata": {"of": "stolen"}}),
            ("POST /vectors/update", {"filter": {"of": "globex"}, "namespace": name, "setMetadata": {"of": "stolen"}}),
            ("POST /vectors/delete", {"ids": ["b"], "namespace": name}),
            ("POST /vectors/delete", {"filter": {"of": "globex"}, "namespace": name}),
            ("POST /vectors/delete", {"deleteAll": True, "namespace": name}),
        ):
            got = await client.tenant(line, body, tenant="acme")
            assert "globex" not in json.dumps({**got, "namespace": ""})
    index = client.running.index
    reached = [entry for entry in index.journal if entry.number > 4]
    assert len(reached) == 40
    assert all(entry.namespace.startswith(ACME) for entry in reached)
    assert any(entry.ids for entry in reached), "acme's own rows were reached, so the calls did something"
    assert set(index.namespaces) == {GLOBEX, f"{GLOBEX}.docs"}
    assert [row.metadata for row in index.rows(GLOBEX).values()] == [{"of": "globex", "tenant_id": "globex"}] * 3
    stats = await client.tenant("GET /describe_index_stats", tenant="globex")
    assert stats["namespaces"] == {"__default__": {"vectorCount": 3}, "docs": {"vectorCount": 1}}
    hits = await client.tenant(
        "POST /records/namespaces/docs/search", {"query": {"top_k": 3, "inputs": {"text": "globex"}}}, tenant="globex"
    )
    assert [hit["fields"] for hit in hits["result"]["hits"]] == [{"text": "globex"}]


async def test_the_second_lock_holds_where_the_first_is_broken(client: Client) -> None:
    """Globex's rows stand in acme's namespace, and one that nobody stamped: no filtered call reaches them."""
    rows = [
        {"id": "g", "values": [1.0, 0.0], "metadata": {"tenant_id": "globex"}},
        {"id": "u", "values": [1.0, 0.0], "metadata": {"x": 1}},
    ]
    await client.rest("POST /vectors/upsert", {"vectors": rows, "namespace": ACME})
    assert (await client.tenant("POST /query", {"topK": 9, "vector": [1, 0]}, tenant="acme"))["matches"] == []
    anything = {"$or": [{"x": {"$exists": False}}, {"x": {"$exists": True}}]}
    await client.tenant("POST /vectors/delete", {"filter": anything}, tenant="acme")
    await client.tenant("POST /vectors/update", {"filter": anything, "setMetadata": {"x": 2}}, tenant="acme")
    assert (await client.tenant("POST /vectors/fetch_by_metadata", {"filter": anything}, tenant="acme"))[
        "vectors"
    ] == {}
    assert [row.metadata for row in client.running.index.rows(ACME).values()] == [row["metadata"] for row in rows]
