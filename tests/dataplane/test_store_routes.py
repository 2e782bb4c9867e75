"""How requests reach a vector store through Envoy: which paths, whole, and with which answer when they do not."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from dataplane.harness import Files, Json, envoy
from dataplane.pki import Authority
from dataplane.processes import sockets
from dataplane.stores import (
    GOOD,
    SECRET,
    FakeSidecar,
    GrpcStore,
    StoreStack,
    call,
    rest,
    store_document,
    store_stack,
)
from dataplane.upstream import Upstream, fixed
from dataplane.wire import ask, chat, request
from dataplane.wire_h2 import ask_h2

MIB = 1024 * 1024
LIMIT_BYTES = 64 * MIB
OWN = b"row-of-its-own-tenant"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[StoreStack]:
    # 60 MiB on a busy machine keep a sidecar in Python for longer than a second.
    folder = tmp_path_factory.mktemp("routes")
    async with store_stack(folder, {"generated": lambda _config: None}, patience_seconds=20.0) as running:
        running.rest_store.scripts["big"] = lambda seen: [fixed(SECRET + b"." * seen.json["size"])]
        yield running


@pytest.fixture
def stores(stack: StoreStack) -> Iterator[StoreStack]:
    yield stack
    stack.sidecar.conduct, stack.sidecar.store, stack.sidecar.enforced = GOOD, "vectors", "yes"
    stack.sidecar.sets = {}


# --- sizes ---


@pytest.mark.parametrize("mib", [1, 16, 60])
async def test_large_bodies_pass_both_ways(stores: StoreStack, mib: int) -> None:
    size = mib * MIB
    answer = await stores.rest(rest("big", size=size), timeout=60)
    assert (answer.status, answer.complete, len(answer.body)) == (200, True, size + len(OWN))
    called = await stores.call(b"big %d" % size, timeout=60)
    assert (called.code, len(called.body)) == (grpc.StatusCode.OK, size + len(OWN))
    answer = await stores.rest(rest("", pad="." * size), timeout=60)
    assert answer.status == 200
    assert len(stores.rest_store.seen[-1].body) > size
    called = await stores.call(b"pad " + b"." * size, timeout=60)
    assert called.code is grpc.StatusCode.OK
    assert len(stores.grpc_store.seen[-1][0]) == size + 4
    stores.rest_store.seen.clear()
    stores.grpc_store.seen.clear()


async def test_larger_ones_are_refused_with_a_reason(stores: StoreStack) -> None:
    size = LIMIT_BYTES + MIB
    answer = await stores.rest(rest("big", size=size))
    assert (answer.status, answer.error_code) == (502, "answer_too_large")
    assert answer.json["error"]["message"] == f"The store's answer is larger than {LIMIT_BYTES} bytes."
    called = await stores.call(b"big %d" % size)
    assert (called.code, called.details) == (grpc.StatusCode.PERMISSION_DENIED, answer.json["error"]["message"])
    answer = await stores.rest(rest("", pad="." * size))
    assert (answer.status, answer.error_code) == (413, "body_too_large")
    called = await stores.call(b"." * size)
    assert (called.code, called.details) == (
        grpc.StatusCode.PERMISSION_DENIED,
        f"The body is larger than {LIMIT_BYTES} bytes.",
    )


# --- paths ---

LISTED = [
    ("vectors", "POST", "/v2/vectordb/entities/query"),
    ("index", "POST", "/query"),
    ("index", "POST", "/vectors/upsert"),
    ("index", "GET", "/vectors/fetch?ids=a&namespace=b"),
    ("index", "GET", "/describe_index_stats"),
    ("index", "POST", "/records/namespaces/a/search"),
    ("index", "POST", "/namespaces/a/documents/search"),
]


@pytest.mark.parametrize(("store", "method", "target"), LISTED)
async def test_a_listed_path_reaches_its_store(stores: StoreStack, store: str, method: str, target: str) -> None:
    stores.sidecar.store = store
    body = b"{}" if method == "POST" else None
    assert (await stores.rest(request(target, method=method, body=body))).status == 200
    assert stores.rest_store.seen[-1].line == f"{method} {target} HTTP/1.1".encode()


UNLISTED = [
    ("POST", "/v1/vector/search"),
    ("GET", "/v2/vectordb/collections/list"),
    ("POST", "/v2/vectordb"),
    ("POST", "/v2/vectordbs/entities/query"),
    ("POST", "/milvus.proto.milvus.MilvusService/Search"),
    ("POST", "/VectorService/Query"),
    ("GET", "/query"),
    ("POST", "/query/a"),
    ("DELETE", "/vectors/delete"),
    ("GET", "/indexes"),
    ("POST", "/bulk/imports"),
    ("POST", "/namespacesx"),
    ("GET", "/namespaces"),
    ("POST", "/namespaces"),
    ("DELETE", "/namespaces/a"),
    ("GET", "/metrics"),
    ("GET", "/healthz"),
    ("POST", "/expr"),
]


@pytest.mark.parametrize(("method", "target"), UNLISTED)
async def test_any_other_is_404_though_the_sidecar_forwards_it(stores: StoreStack, method: str, target: str) -> None:
    seen = len(stores.rest_store.seen)
    answer = await stores.rest(request(target, method=method, body=b"{}"))
    assert (answer.status, answer.error_code) == (404, "unknown_route")
    assert len(stores.rest_store.seen) == seen


async def test_pinecone_speaks_grpc_too(stores: StoreStack) -> None:
    stores.sidecar.store = "index"
    answer = await stores.call(method="/VectorService/Query")
    assert (answer.code, answer.body) == (grpc.StatusCode.OK, OWN)


@pytest.mark.parametrize("method", ["/milvus.proto.milvus.ProxyService/Search", "/milvus.proto.rootcoord.RootCoord/X"])
async def test_an_unlisted_grpc_service_is_unimplemented(stores: StoreStack, method: str) -> None:
    """pymilvus does not repeat this one."""
    assert (await stores.call(method=method)).code is grpc.StatusCode.UNIMPLEMENTED


async def test_the_sidecar_may_rewrite_the_path_and_nothing_else_of_where(stores: StoreStack) -> None:
    """Pinecone has namespaces in paths; the routes still hold for the new one."""
    stores.sidecar.store, stores.sidecar.sets = "index", {":path": "/namespaces/t123.own/documents/search"}
    assert (await stores.rest(request("/namespaces/own/documents/search", body=b"{}"))).status == 200
    assert stores.rest_store.seen[-1].line == b"POST /namespaces/t123.own/documents/search HTTP/1.1"
    seen = len(stores.rest_store.seen)
    stores.sidecar.sets = {":path": "/indexes"}
    assert (await stores.rest(request("/namespaces/own/documents/search", body=b"{}"))).status == 404
    for name, value in ((":method", "DELETE"), (":authority", "other"), (":scheme", "https"), ("host", "other")):
        stores.sidecar.sets = {name: value}
        assert (await stores.rest(request("/namespaces/own/documents/search", body=b"{}"))).status == 503, name
    assert len(stores.rest_store.seen) == seen


async def test_a_path_that_was_no_stores_leads_to_a_store_only_past_the_guard(stores: StoreStack) -> None:
    """The route that a request came in by chose what the sidecar sees; the guard is on for all."""
    stores.sidecar.sets = {":path": "/v2/vectordb/entities/query"}
    for target in ("/v1/chat/completions", "/elsewhere"):
        answer = await stores.rest(rest("big", target=target, size=1))
        assert (answer.status, answer.error_code) == (502, "unverified_answer")


async def test_no_store_is_asked_to_compress(stores: StoreStack) -> None:
    await stores.rest(rest("", headers=[("Accept-Encoding", "gzip")]))
    assert stores.rest_store.seen[-1].header("accept-encoding") == []
    await stores.call()
    assert "grpc-accept-encoding" not in stores.grpc_store.seen[-1][1]


async def test_a_store_sees_its_own_host(stores: StoreStack) -> None:
    await stores.rest(rest(""))
    assert stores.rest_store.seen[-1].header("host") == [stores.rest_store.endpoint.encode()]


async def test_rest_over_http2_is_http1_to_the_store(stores: StoreStack) -> None:
    headers = [("content-type", "application/json")]
    body = b'{"script": "big", "size": 1}'
    answer = await ask_h2(stores.envoys["generated"], target="/v2/vectordb/entities/query", headers=headers, body=body)
    assert (answer.status, answer.body) == (200, OWN + b".")
    assert stores.rest_store.seen[-1].line.endswith(b"HTTP/1.1")


# --- models beside stores ---


async def test_a_models_answer_is_no_business_of_the_guard(stores: StoreStack) -> None:
    stores.sidecar.sets = {"x-tenantry-cluster": "chat-8b@1.4.0"}
    stores.rest_store.scripts["marked"] = lambda _seen: [
        b"HTTP/1.1 200 OK\r\nx-tenantry-from-upstream: yes\r\ncontent-length: 2\r\n\r\n{}"
    ]
    stores.sidecar.events.clear()
    assert (await stores.rest(chat(None, script="big", size=3))).body == SECRET + b"..."
    assert stores.sidecar.kinds == ["request_headers", "request_body"]
    assert (await stores.rest(chat(None, script="marked"))).status == 502, "a model server has no use for our mark"


# --- Envoy's own answers to gRPC ---


async def test_what_was_not_enforced_is_permission_denied(stores: StoreStack) -> None:
    stores.sidecar.enforced = "no"
    assert (await stores.call()).code is grpc.StatusCode.PERMISSION_DENIED
    assert (await stores.rest(rest(""))).status == 403


async def test_a_store_that_is_not_there_is_unavailable(stores: StoreStack) -> None:
    stores.sidecar.store = "nowhere"
    assert (await stores.call()).code is grpc.StatusCode.UNAVAILABLE
    assert (await stores.rest(rest(""))).status == 503


async def test_without_a_sidecar_a_store_is_unavailable(tmp_path: Path) -> None:
    files = Files(folder=tmp_path)
    async with Upstream().running() as upstream, GrpcStore().running() as grpc_store:
        files.save(store_document(upstream, grpc_store))
        with sockets() as folder:
            async with envoy(files, (str(folder / "nobody"),)) as (address, _admin):
                assert (await call(address)).code is grpc.StatusCode.UNAVAILABLE
                assert (await ask(address, rest(""))).status == 503
        assert not upstream.seen
        assert not grpc_store.seen


# --- TLS to a store ---


@contextlib.asynccontextmanager
async def _tls_server(context: ssl.SSLContext, names: list[str | None]) -> AsyncIterator[int]:
    """An HTTP server that notes each client's SNI."""
    context.sni_callback = lambda _socket, name, _context: names.append(name)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(fixed(OWN))
            await writer.drain()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.mark.parametrize(("name", "status"), [("localhost", 200), ("elsewhere.example", 503)])
async def test_a_store_behind_tls_must_prove_its_name(tmp_path: Path, name: str, status: int) -> None:
    authority = Authority(tmp_path / "pki")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.leaf("store", name))
    names: list[str | None] = []
    files, sidecar = Files(folder=tmp_path), FakeSidecar()
    async with Upstream().running() as upstream, GrpcStore().running() as grpc_store, contextlib.AsyncExitStack() as up:
        port = await up.enter_async_context(_tls_server(context, names))
        document: Json = store_document(upstream, grpc_store)
        tls = {"endpoints": [f"localhost:{port}"], "grpcEndpoints": [], "tls": {"caFile": str(authority.certificate)}}
        document["stores"]["vectors"] |= tls
        files.save(document)
        socket = str(up.enter_context(sockets()) / "s")
        await up.enter_async_context(sidecar.running(socket))
        address, _admin = await up.enter_async_context(envoy(files, (socket,)))
        answer = await ask(address, rest(""))
        assert answer.status == status
        assert names[:1] == ["localhost"]
