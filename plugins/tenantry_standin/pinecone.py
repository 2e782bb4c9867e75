"""A stand-in for Pinecone's data plane, REST and gRPC over one index in memory, to try tenantry without an account.

    python -m tenantry_standin.pinecone --rest-port 5081 --grpc-port 5082

It says what it is in the header `x-stand-in-engine` and in the first line that it writes. Answered are the routes that
the SDKs use for vectors, and records with a hash for an embedding; no documents, no control plane, any API key. To
loopback peers `GET /stand-in/journal?after=N` tells which namespace each request named and which rows it touched, by
which a test can count what of another tenant's was reached. It shows credentials: never listen where others reach it.
"""

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
import msgspec
from aiohttp import web
from google.protobuf import json_format
from google.protobuf.message import Message
from tenantry.core.vector._pb import pinecone_pb2 as pb

from tenantry_standin.pages import check_loopback
from tenantry_standin.pinecone_index import Index, IndexError400
from tenantry_standin.pinecone_operations import Body, Operations

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
MAX_BODY_BYTES = 32 * 1024 * 1024
_HEADERS = {"x-stand-in-engine": "true"}


_POST: Mapping[str, str] = {
    "/query": "query",
    "/vectors/upsert": "upsert",
    "/vectors/update": "update",
    "/vectors/delete": "delete",
    "/vectors/fetch_by_metadata": "fetch_by_metadata",
    "/describe_index_stats": "stats",
}
_GET: Mapping[str, str] = {"/vectors/fetch": "fetch", "/vectors/list": "list_ids", "/describe_index_stats": "stats"}


class Rest:
    """The REST side."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    def application(self) -> web.Application:
        """Return the application with all routes."""
        application = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_refuse])
        router = application.router
        for path, operation in _POST.items():
            router.add_post(path, self._posted(operation))
        for path, operation in _GET.items():
            router.add_get(path, self._got(operation))
        router.add_post("/records/namespaces/{namespace}/upsert", self._upsert_records)
        router.add_post("/records/namespaces/{namespace}/search", self._search_records)
        router.add_get("/stand-in/journal", self._journal)
        return application

    def _answer(self, request: web.Request, operation: str, body: Body, status: int = 200) -> web.Response:
        answer = self._operations.call(operation, body, "rest", request.headers.get("Api-Key", ""))
        return _json(answer, status)

    def _posted(self, operation: str) -> Handler:
        async def handle(request: web.Request) -> web.Response:
            return self._answer(request, operation, json.loads(await request.read()))

        return handle

    def _got(self, operation: str) -> Handler:
        async def handle(request: web.Request) -> web.Response:
            body: Body = dict(request.query)
            return self._answer(request, operation, {**body, "ids": request.query.getall("ids", [])})

        return handle

    async def _upsert_records(self, request: web.Request) -> web.Response:
        lines = (await request.text()).splitlines()
        body = {
            "namespace": request.match_info["namespace"],
            "records": [json.loads(line) for line in lines if line.strip()],
        }
        return self._answer(request, "records_upsert", body, 201)

    async def _search_records(self, request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        return self._answer(request, "records_search", {**body, "namespace": request.match_info["namespace"]})

    async def _journal(self, request: web.Request) -> web.Response:
        check_loopback(request.remote)
        after = int(request.query.get("after", 0))
        return _json([entry for entry in self._operations.index.journal if entry.number > after])


def _json(answer: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(answer), status=status, content_type="application/json")


@web.middleware
async def _refuse(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        response = await handler(request)
    except (IndexError400, ValueError) as error:
        response = _json({"code": 3, "message": str(error), "details": []}, 400)
    response.headers.update(_HEADERS)
    return response


_RPC: Mapping[str, tuple[str, type[Message], type[Message]]] = {
    "Query": ("query", pb.QueryRequest, pb.QueryResponse),
    "Upsert": ("upsert", pb.UpsertRequest, pb.UpsertResponse),
    "Update": ("update", pb.UpdateRequest, pb.UpdateResponse),
    "Delete": ("delete", pb.DeleteRequest, pb.DeleteResponse),
    "Fetch": ("fetch", pb.FetchRequest, pb.FetchResponse),
    "FetchByMetadata": ("fetch_by_metadata", pb.FetchByMetadataRequest, pb.FetchResponse),
    "List": ("list_ids", pb.ListRequest, pb.ListResponse),
    "DescribeIndexStats": ("stats", pb.StatsRequest, pb.StatsResponse),
}


def grpc_handler(operations: Operations) -> grpc.GenericRpcHandler:
    """Return the gRPC side: Pinecone's service by its name on the wire, which has no package."""

    def handler(operation: str, request_type: type[Message], answer_type: type[Message]) -> Any:
        async def handle(data: bytes, context: Any) -> bytes:
            api_key = dict(context.invocation_metadata()).get("api-key", "")
            body = json_format.MessageToDict(request_type.FromString(data))
            try:
                answer = operations.call(operation, body, "grpc", api_key)
            except IndexError400 as error:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            message = answer_type()
            json_format.ParseDict(answer, message, ignore_unknown_fields=True)
            return message.SerializeToString()

        return grpc.unary_unary_rpc_method_handler(handle)

    methods = {name: handler(*rpc) for name, rpc in _RPC.items()}
    return grpc.method_handlers_generic_handler("VectorService", methods)


class RunningPinecone(msgspec.Struct, frozen=True, kw_only=True):
    """A stand-in that listens, on loopback."""

    rest_port: int
    grpc_port: int
    index: Index
    stop: Callable[[], Awaitable[None]]


async def start(rest_port: int = 0, grpc_port: int = 0, host: str = "127.0.0.1") -> RunningPinecone:
    """Start the stand-in in the running loop; port 0 takes a free one."""
    operations = Operations(Index())
    runner = web.AppRunner(Rest(operations).application(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, host, rest_port)
    await site.start()
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", MAX_BODY_BYTES)])
    server.add_generic_rpc_handlers((grpc_handler(operations),))
    bound = server.add_insecure_port(f"{host}:{grpc_port}")
    await server.start()

    async def stop() -> None:
        await server.stop(None)
        await runner.cleanup()

    return RunningPinecone(rest_port=runner.addresses[0][1], grpc_port=bound, index=operations.index, stop=stop)


async def _serve(options: argparse.Namespace) -> None:
    running = await start(options.rest_port, options.grpc_port, options.host)
    line = {"stand_in": "pinecone", "rest_port": running.rest_port, "grpc_port": running.grpc_port}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await ended.wait()
    await running.stop()


def main() -> None:
    """Parse the command line and serve until SIGINT or SIGTERM; the first line of output has the ports."""
    parser = argparse.ArgumentParser(prog="python -m tenantry_standin.pinecone", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (%(default)s)")
    parser.add_argument("--rest-port", type=int, default=0, help="0 takes a free one (%(default)s)")
    parser.add_argument("--grpc-port", type=int, default=0, help="0 takes a free one (%(default)s)")
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
