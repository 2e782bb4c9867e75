"""A gRPC proxy that lets everything pass and keeps what passed: what SDKs send, and what reaches an engine.

With `alter` it plays an engine that errs.

Knows no message: requests and responses stay bytes, so that nothing is lost in a parse that the engine would see.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc

SERVICE = "/milvus.proto.milvus.MilvusService/"
_UNBOUNDED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
Alter = Callable[[str, bytes, bytes], bytes]
"""From method, request and the engine's response to the response that is passed on."""

_HOP = ("user-agent", "te", "content-type", "grpc-")


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call as it arrived; `status` is gRPC's, and the response is absent unless that is OK."""

    method: str
    metadata: tuple[tuple[str, str | bytes], ...]
    request: bytes
    response: bytes | None
    status: str


@dataclass(kw_only=True)
class Recorder:
    """`calls` grow as they end; use `clear()` between the parts of a test."""

    address: str
    calls: list[Call] = field(default_factory=list)

    @property
    def methods(self) -> Counter[str]:
        """How often each method was called, by its short name where it is Milvus's own."""
        return Counter(call.method.removeprefix(SERVICE) for call in self.calls)

    def clear(self) -> None:
        self.calls.clear()


@contextlib.contextmanager
def recording(engine: str, alter: Alter = lambda _method, _request, response: response) -> Iterator[Recorder]:
    """Run the proxy inside the `with` block, on a free port of loopback; `engine` is host:port."""
    with grpc.insecure_channel(engine, options=_UNBOUNDED) as channel:
        server = grpc.server(ThreadPoolExecutor(8), options=_UNBOUNDED)
        recorder = Recorder(address="")
        server.add_generic_rpc_handlers((_Handlers(channel, recorder, alter),))
        recorder.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            yield recorder
        finally:
            server.stop(None).wait(5)


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, channel: Any, recorder: Recorder, alter: Alter) -> None:
        self._channel = channel
        self._alter = alter
        self._recorder = recorder

    def service(self, handler_call_details: Any) -> Any:
        method: str = handler_call_details.method
        forward = self._channel.unary_unary(method)

        def relay(request: bytes, context: Any) -> bytes:
            metadata = tuple(context.invocation_metadata())
            onward = [pair for pair in metadata if not pair[0].startswith(_HOP)]
            try:
                # Without a deadline, what remains is a number too large for the engine's side.
                response: bytes = forward(request, timeout=min(context.time_remaining(), 60), metadata=onward)
            except grpc.RpcError as error:
                status = error.code()
                self._keep(method, metadata, request, None, status.name)
                context.abort(status, error.details())
                raise
            response = self._alter(method, request, response)
            self._keep(method, metadata, request, response, "OK")
            return response

        return grpc.unary_unary_rpc_method_handler(relay)

    def _keep(
        self, method: str, metadata: tuple[tuple[str, str | bytes], ...], request: bytes, response: bytes | None,
        status: str,
    ) -> None:  # fmt: skip
        self._recorder.calls.append(
            Call(method=method, metadata=metadata, request=request, response=response, status=status)
        )
