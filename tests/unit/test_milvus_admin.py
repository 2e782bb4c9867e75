"""The operator's client of a Milvus, over real channels to servers that answer as they are told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from tenantry.adapters.milvus_admin import MilvusAdmin
from tenantry.core.rules_stores import Store, StoreTls
from tenantry.core.vector import operator
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.operator import StoreCallError


class Server(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
    """Answers methods of Milvus from a table; `seen` holds method and metadata of each call."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.address = ""

    def service(self, details: Any) -> Any:
        method = details.method.rpartition("/")[2]
        if method not in self.answers:
            return None

        async def answer(_request: bytes, context: Any) -> bytes:
            self.seen.append((method, dict(context.invocation_metadata())))
            found = self.answers[method]
            if isinstance(found, grpc.StatusCode):
                await context.abort(found, "because")
            if isinstance(found, asyncio.Event):
                await found.wait()
            data: bytes = found.SerializeToString()
            return data

        return grpc.unary_unary_rpc_method_handler(answer)


@asynccontextmanager
async def serving(*servers: Server) -> AsyncIterator[tuple[str, ...]]:
    async with AsyncExitStack() as stack:
        for each in servers:
            server = grpc.aio.server()
            server.add_generic_rpc_handlers((each,))
            each.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
            await server.start()
            stack.push_async_callback(server.stop, 0)
        yield tuple(each.address for each in servers)


def store(*endpoints: str, **options: Any) -> Store:
    return Store(kind="milvus", endpoints=endpoints, isolation="collection", **options)


def version(text: str) -> pb.VersionResponse:
    return pb.VersionResponse(version=text)


async def test_a_call_bears_credential_and_database() -> None:
    server = Server(ShowCollections=pb.ShowCollectionsResponse(collection_names=["a"]))
    async with serving(server) as endpoints, aclosing(MilvusAdmin(store(*endpoints), "root:Milvus")) as admin:
        assert await admin.perform(operator.collections("tacme")) == ["a"]
    (call,) = server.seen
    assert (call[1]["authorization"], call[1]["dbname"]) == ("cm9vdDpNaWx2dXM=", "tacme")


async def test_grpc_endpoints_come_before_those_of_rest() -> None:
    server = Server(GetVersion=version("2.6.0"))
    async with serving(server) as endpoints:
        rules = store("127.0.0.1:1", grpc_endpoints=endpoints)
        async with aclosing(MilvusAdmin(rules, None)) as admin:
            assert await admin.version() == "2.6.0"
    assert "authorization" not in server.seen[0][1]


@pytest.mark.parametrize(
    ("status", "failure"),
    [
        (grpc.StatusCode.UNAVAILABLE, "unreachable"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "unreachable"),
        (grpc.StatusCode.UNIMPLEMENTED, "unimplemented"),
        (grpc.StatusCode.PERMISSION_DENIED, "refused"),
    ],
)
async def test_what_goes_wrong_is_one_exception(status: grpc.StatusCode, failure: str) -> None:
    server = Server(ShowCollections=status)
    async with serving(server) as endpoints, aclosing(MilvusAdmin(store(*endpoints), None)) as admin:
        with pytest.raises(StoreCallError, match=f"ShowCollections: {status.name}: because") as caught:
            await admin.perform(operator.collections())
        assert caught.value.failure == failure


async def test_an_engine_s_own_error_bears_its_reason() -> None:
    # milvus-lite 2.5.1 leaves error_code at 0.
    server = Server(
        DropCollection=pb.Status(code=65535, reason="no"), DescribeCollection=pb.DescribeCollectionResponse()
    )
    server.answers["DescribeCollection"].status.code = 100
    async with serving(server) as endpoints, aclosing(MilvusAdmin(store(*endpoints), None)) as admin:
        with pytest.raises(StoreCallError, match="DropCollection: no"):
            await admin.perform(operator.ask("DropCollection", pb.CollectionRequest(), pb.Status))
        assert await admin.perform(operator.describe("a")) is None


async def test_an_engine_without_a_version_has_to_answer_something() -> None:
    server = Server(ShowCollections=pb.ShowCollectionsResponse())
    async with serving(server) as endpoints, aclosing(MilvusAdmin(store(*endpoints), None)) as admin:
        assert await admin.version() == ""
        del server.answers["ShowCollections"]
        with pytest.raises(StoreCallError):
            await admin.version()


async def test_every_endpoint_is_asked_for_its_version_and_one_that_is_down_comes_last() -> None:
    old, new = Server(GetVersion=version("2.5.0")), Server(GetVersion=version("2.6.0"))
    new.answers["ShowCollections"] = pb.ShowCollectionsResponse(collection_names=["a"])
    async with serving(old, new) as endpoints, aclosing(MilvusAdmin(store(*endpoints), None)) as admin:
        assert await admin.version() == "2.5.0, 2.6.0"
        old.answers["GetVersion"] = grpc.StatusCode.UNAVAILABLE
        assert await admin.version() == "2.6.0"
        assert await admin.perform(operator.collections()) == ["a"]  # by the second


async def test_an_engine_that_hangs_is_given_up() -> None:
    server = Server(GetVersion=asyncio.Event())
    async with serving(server) as endpoints, aclosing(MilvusAdmin(store(*endpoints), None, call_seconds=0.05)) as admin:
        with pytest.raises(StoreCallError) as caught:
            await admin.version()
        assert caught.value.failure == "unreachable"


async def test_a_lost_connection_is_noticed() -> None:
    server = Server(GetVersion=version("2.6.0"))
    async with AsyncExitStack() as stack:
        endpoints = await stack.enter_async_context(serving(server))
        async with aclosing(MilvusAdmin(store(*endpoints), None)) as admin:
            await admin.version()
            waiting = asyncio.ensure_future(admin.disturbed())
            await asyncio.sleep(0.6)
            assert not waiting.done()
            await stack.aclose()
            await asyncio.wait_for(waiting, 5)


def test_a_ca_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreCallError, match=r"ca\.pem: No such file"):
        MilvusAdmin(store("db.example:19530", tls=StoreTls(ca_file=str(tmp_path / "ca.pem"))), None)
