"""A vector store and a sidecar in small, for tests of what Envoy does with a store's answers.

The sidecar here decides nothing: it sends what a `Conduct` says for each event, which is how a test makes it fail. The
store answers REST (`upstream.Upstream`) and gRPC, with a row that no client may see unless it was verified.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
from tenantry.adapters._pb import wire_pb2
from tenantry.adapters.grpcio_transport import EXT_PROC
from tenantry.core.routing import store_cluster

from dataplane.harness import Edit, Files, Json, connection_manager, envoy, rules
from dataplane.processes import sockets
from dataplane.upstream import Upstream
from dataplane.wire import Headers, Response, ask, request

SECRET: Final = b"row-of-another-tenant"
"""In everything that the store says: body, headers, trailers, error messages."""

REST_TARGET: Final = "/v2/vectordb/entities/search"
GRPC_METHOD: Final = "/milvus.proto.milvus.MilvusService/Search"

_UNBOUNDED: Final = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))

Event = wire_pb2.ProcessingRequest
Reply = wire_pb2.ProcessingResponse

Conduct = Mapping[str, Any]
"""By event (`response_body`, ...): a function from event to reply, or a coroutine that ends the stream. A key
`after EVENT`: just return when that was answered."""


def verified(reply: Reply) -> Reply:
    reply.dynamic_metadata.update({"tenantry": {"verified": "yes"}})
    return reply


def set_header(common: Any, name: str, value: str) -> None:
    option = common.header_mutation.set_headers.add(append_action=2)
    option.header.key, option.header.raw_value = name, value.encode()


def plain_headers(_event: Event) -> Reply:
    """Go on, and say nothing of the answer."""
    reply = Reply()
    reply.response_headers.SetInParent()
    return reply


def response_headers(event: Event) -> Reply:
    reply = plain_headers(event)
    return verified(reply) if event.response_headers.end_of_stream else reply


def response_body(event: Event) -> Reply:
    """Replace the row by one of the same length (gRPC has it in front of the message)."""
    reply = Reply()
    body = event.response_body.body.replace(SECRET, b"row-of-its-own-tenant")
    reply.response_body.response.body_mutation.body = body
    set_header(reply.response_body.response, "content-length", str(len(body)))
    return verified(reply)


SAYS_NOTHING: Final[Conduct] = {
    "response_headers": plain_headers,
    "response_body": lambda _event: Reply(response_body=wire_pb2.BodyResponse()),
}

GOOD: Final[Conduct] = {"response_headers": response_headers, "response_body": response_body}


async def bare_return(_context: Any) -> None:
    """End the stream cleanly, which Envoy takes for consent."""


async def error(context: Any) -> None:
    await context.abort(grpc.StatusCode.INTERNAL, "broken")


async def hang(_context: Any) -> None:
    await asyncio.sleep(60)


@dataclass
class FakeSidecar:
    """An ext_proc server that forwards every request, then does what `conduct` says. `events` it saw, in order.

    `store` and `sets` (headers, pseudo-headers too) say what it writes into a request.
    """

    conduct: Conduct = field(default_factory=lambda: GOOD)
    store: str = "vectors"
    sets: dict[str, str] = field(default_factory=dict)
    enforced: str = "yes"
    events: list[Event] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def running(self, socket: str) -> AsyncIterator[None]:
        server = grpc.aio.server(options=_UNBOUNDED)
        handler = grpc.stream_stream_rpc_method_handler(self._process)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(EXT_PROC, {"Process": handler}),))
        server.add_insecure_port(f"unix:{socket}")
        await server.start()
        try:
            yield
        finally:
            await server.stop(0)

    @property
    def kinds(self) -> list[str]:
        """The kinds of events."""
        return [str(event.WhichOneof("request")) for event in self.events]

    async def _process(self, _requests: Any, context: Any) -> None:
        over_grpc = False
        while (message := await context.read()) is not grpc.aio.EOF:
            event = Event.FromString(message)
            self.events.append(event)
            kind = str(event.WhichOneof("request"))
            if kind == "request_headers":
                headers = {entry.key: entry.raw_value for entry in event.request_headers.headers.headers}
                over_grpc = headers.get("content-type", b"").startswith(b"application/grpc")
            act = self.conduct.get(kind)
            if asyncio.iscoroutinefunction(act):
                await act(context)
                return
            reply = act(event) if act is not None else self._forward(event, kind, grpc=over_grpc)
            await context.write(reply.SerializeToString())
            if f"after {kind}" in self.conduct:
                return

    def _forward(self, event: Event, kind: str, *, grpc: bool) -> Reply:
        reply = Reply()
        common = getattr(reply, kind)
        common.SetInParent()
        if kind == "request_body" or event.request_headers.end_of_stream:
            sets = {"x-tenantry-cluster": store_cluster(self.store, grpc=grpc)} | self.sets
            for name, value in sets.items():
                set_header(common.response, name, value)
            common.response.clear_route_cache = True
            reply.dynamic_metadata.update({"tenantry": {"enforced": self.enforced, "request_id": "id-1"}})
        return reply


@dataclass
class GrpcStore:
    """A gRPC store. A request's first word chooses what it answers; `seen` are the requests and their metadata."""

    seen: list[tuple[bytes, dict[str, str]]] = field(default_factory=list)
    port: int = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["GrpcStore"]:
        server = grpc.aio.server(options=_UNBOUNDED)
        handler = grpc.unary_unary_rpc_method_handler(self._answer)
        server.add_generic_rpc_handlers(
            tuple(
                grpc.method_handlers_generic_handler(service, {method: handler})
                for service, method in (("milvus.proto.milvus.MilvusService", "Search"), ("VectorService", "Query"))
            )
        )
        self.port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield self
        finally:
            await server.stop(0)

    async def _answer(self, data: bytes, context: Any) -> bytes:
        self.seen.append((data, dict(context.invocation_metadata())))
        secret = SECRET.decode()
        word = data[:16].split(b" ")[0]
        if word == b"abort":  # headers and trailers in one: a trailers-only response
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no such {secret}", trailing_metadata=(("x-row", secret),))
        await context.send_initial_metadata((("x-row", secret),))
        context.set_trailing_metadata((("x-row", secret),))
        if word == b"late-abort":  # headers, then trailers, and no message between them
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no such {secret}")
        size = int(data.split(b" ")[1]) if word == b"big" else 0
        return SECRET + b"." * size


@dataclass(frozen=True, kw_only=True)
class GrpcAnswer:
    """What a gRPC client got. `everything` is all text and bytes of it, for a search."""

    code: grpc.StatusCode
    details: str = ""
    body: bytes = b""
    metadata: tuple[Any, ...] = ()

    @property
    def everything(self) -> bytes:
        return b"".join([self.details.encode(), self.body, repr(self.metadata).encode()])


async def call(
    address: str, data: bytes = b"search", *, method: str = GRPC_METHOD, timeout: float = 20.0, compression: Any = None
) -> GrpcAnswer:
    """Make one unary call on a channel of its own."""
    async with grpc.aio.insecure_channel(address, options=_UNBOUNDED) as channel:
        made = channel.unary_unary(method)(data, timeout=timeout, compression=compression)
        try:
            body = await made
        except grpc.aio.AioRpcError as failed:
            metadata = (*(failed.initial_metadata() or ()), *(failed.trailing_metadata() or ()))
            return GrpcAnswer(code=failed.code(), details=failed.details() or "", metadata=metadata)
        metadata = (*await made.initial_metadata(), *await made.trailing_metadata())
        return GrpcAnswer(code=await made.code(), details=await made.details(), body=body, metadata=metadata)


def rest(
    script: str = "row", *, target: str = REST_TARGET, method: str = "POST", headers: Headers = (), **members: Any
) -> bytes:
    """The bytes of a REST request whose body names the upstream's script."""
    json_type = ("Content-Type", "application/json")
    body = json.dumps({"script": script, **members}).encode()
    return request(target, method=method, headers=[json_type, *headers], body=body)


def store_document(upstream: Upstream, grpc_store: GrpcStore) -> Json:
    """Rules with a Milvus and a Pinecone store, both served by the two upstreams."""
    where: Json = {"endpoints": [upstream.endpoint], "grpcEndpoints": [f"127.0.0.1:{grpc_store.port}"]}
    stores = {
        "vectors": where | {"kind": "milvus", "isolation": "database"},
        "index": where | {"kind": "pinecone", "isolation": "namespace"},
    }
    return rules(upstream, stores=stores, limits={"maxBodyBytes": 64 * 1024 * 1024})


def without_guard(config: Json) -> None:
    """Take the store guard out of a bootstrap: for controls that show what holds."""
    manager = connection_manager(config)
    kept = [entry for entry in manager["http_filters"] if entry["name"] != "envoy.filters.http.custom_response"]
    assert len(kept) == len(manager["http_filters"]) - 1
    manager["http_filters"] = kept


@dataclass(kw_only=True)
class StoreStack:
    """The fake sidecar, the stores, and Envoys by name."""

    sidecar: FakeSidecar
    rest_store: Upstream
    grpc_store: GrpcStore
    envoys: dict[str, str]

    async def rest(self, data: bytes, through: str = "generated", timeout: float = 20.0) -> Response:
        return await ask(self.envoys[through], data, timeout)

    async def call(self, data: bytes = b"search", through: str = "generated", **options: Any) -> GrpcAnswer:
        return await call(self.envoys[through], data, **options)


@contextlib.asynccontextmanager
async def store_stack(
    folder: Path, edits: Mapping[str, Edit], *, patience_seconds: float = 1.0
) -> AsyncIterator[StoreStack]:
    """Run it all; one Envoy for each edit of the generated bootstrap, which waits so long for the sidecar."""
    files = Files(folder=folder)
    sidecar = FakeSidecar()
    async with (
        Upstream().running() as upstream,
        GrpcStore().running() as grpc_store,
        contextlib.AsyncExitStack() as exits,
    ):
        files.save(store_document(upstream, grpc_store))
        socket = str(exits.enter_context(sockets()) / "s")
        await exits.enter_async_context(sidecar.running(socket))
        envoys = {}
        for name, edit in edits.items():
            envoys[name], _ = await exits.enter_async_context(
                envoy(files, (socket,), edit=edit, state=name, message_timeout_seconds=patience_seconds)
            )
        yield StoreStack(sidecar=sidecar, rest_store=upstream, grpc_store=grpc_store, envoys=envoys)
