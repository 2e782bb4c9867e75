"""A Milvus as its operator reaches it: our own stubs over grpcio, a deadline on every call, one exception.

It sends what `core.vector` asks for in steps; the credential is the store's, as for tenants' requests.
"""

import asyncio
import base64
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import grpc

from tenantry.core.rules import Store
from tenantry.core.vector.milvus import SERVICE
from tenantry.core.vector.operator import Failure, Pause, Send, Steps, StoreCallError, version

T = TypeVar("T")

CALL_SECONDS = 10.0
MAX_MESSAGE_BYTES = 64 * 1024 * 1024

_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # An engine that restarts is asked again within a second, and a proof is not slowed by gRPC's own waiting.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_retries", 0),
    # A channel to each endpoint is its own; the process-wide pool would share broken connections.
    ("grpc.use_local_subchannel_pool", 1),
]
_UNREACHABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


class MilvusAdmin:
    """Calls to one Milvus. The first endpoint that answers is used, and kept until it does not."""

    def __init__(self, store: Store, secret: str | None, *, call_seconds: float = CALL_SECONDS) -> None:
        self._call_seconds = call_seconds
        self._metadata: tuple[tuple[str, str], ...] = ()
        if secret is not None:
            self._metadata = (("authorization", base64.b64encode(secret.encode()).decode()),)
        credentials = None
        if store.tls is not None:
            try:
                roots = Path(store.tls.ca_file).read_bytes()
            except OSError as error:
                raise StoreCallError("TLS", "unreachable", f"{store.tls.ca_file}: {error.strerror}") from None
            credentials = grpc.ssl_channel_credentials(root_certificates=roots)
        self._channels = [
            grpc.aio.insecure_channel(endpoint, options=_OPTIONS)
            if credentials is None
            else grpc.aio.secure_channel(endpoint, credentials, options=_OPTIONS)
            for endpoint in store.grpc_endpoints or store.endpoints
        ]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:  # fmt: skip
        await self.close()

    async def close(self) -> None:
        """Close the channels."""
        for channel in self._channels:
            await channel.close()

    async def perform(self, steps: Steps[T]) -> T:
        """Do what the steps ask for, one after another, and return what they come to; raise what they raise."""
        try:
            step = next(steps)
            while True:
                try:
                    answer = await self._do(step)
                except StoreCallError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            steps.close()

    async def version(self) -> str:
        """Return the version of the engine behind the endpoints; those of different ones, side by side."""
        found: set[str] = set()
        failed: StoreCallError | None = None
        for channel in list(self._channels):
            try:
                found.add(await _OneEndpoint(self, channel).perform(version()))
            except StoreCallError as error:
                failed = error
                self._channels.remove(channel)
                self._channels.append(channel)
        if not found and failed is not None:
            raise failed
        return ", ".join(sorted(found))

    async def _do(self, step: Send | Pause) -> bytes:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return b""
        return await self.send(self._channels[0], step)

    async def send(self, channel: grpc.aio.Channel, step: Send) -> bytes:
        """Send one call over a channel."""
        metadata = (*self._metadata, ("dbname", step.database)) if step.database else self._metadata
        call = channel.unary_unary(SERVICE + step.method)
        try:
            answer: bytes = await call(step.message, timeout=self._call_seconds, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise StoreCallError(step.method, _failure(error.code()), _words(error)) from None
        return answer


class _OneEndpoint(MilvusAdmin):
    """The same store, by one of its channels."""

    def __init__(self, admin: MilvusAdmin, channel: grpc.aio.Channel) -> None:
        self._call_seconds = admin._call_seconds
        self._metadata = admin._metadata
        self._channels = [channel]


def _failure(code: grpc.StatusCode) -> Failure:
    if code in _UNREACHABLE:
        return "unreachable"
    return "unimplemented" if code is grpc.StatusCode.UNIMPLEMENTED else "refused"


def _words(error: grpc.aio.AioRpcError) -> str:
    return f"{error.code().name}: {error.details() or ''}"[:500]
