"""A Milvus as its operator reaches it: our own stubs over grpcio, a deadline on every call, one exception.

It sends what `core.vector` asks for in steps; the credential is the store's, as for tenants' requests.
"""

import asyncio
import base64
from pathlib import Path
from typing import TypeVar

import grpc

from tenantry.core.rules_stores import Store
from tenantry.core.vector.milvus import SERVICE
from tenantry.core.vector.operator import Failure, Pause, Send, Steps, StoreCallError, version

T = TypeVar("T")

CALL_SECONDS = 10.0
POLL_SECONDS = 0.25
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

    async def aclose(self) -> None:
        """Close the channels."""
        for channel in self._channels:
            await channel.close()

    async def perform(self, steps: Steps[T]) -> T:
        """Do what the steps ask for, one after another, and return what they come to; raise what they raise."""
        return await self._perform(steps, self._channels[0])

    async def version(self) -> str:
        """Return the version of the engine behind the endpoints; where they differ, all of them.

        An endpoint that does not answer is asked last from then on. Raises StoreCallError when none does.
        """
        found: set[str] = set()
        failed: StoreCallError | None = None
        for channel in tuple(self._channels):
            try:
                found.add(await self._perform(version(), channel))
            except StoreCallError as error:
                failed = error
                self._channels.remove(channel)
                self._channels.append(channel)
        if not found and failed is not None:
            raise failed
        return ", ".join(sorted(found))

    async def disturbed(self) -> None:
        """Return when a connection ended, or soon if there is none: another engine may be there now."""
        ready = [channel for channel in self._channels if _is_ready(channel)]
        await asyncio.sleep(POLL_SECONDS)
        while ready and all(map(_is_ready, ready)):
            # Asked, not awaited: gRPC's own wait for a change does not end well when it is cancelled.
            await asyncio.sleep(POLL_SECONDS)

    async def _perform(self, steps: Steps[T], channel: grpc.aio.Channel) -> T:
        try:
            step = next(steps)
            while True:
                try:
                    answer = await self._do(step, channel)
                except StoreCallError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            steps.close()

    async def _do(self, step: Send | Pause, channel: grpc.aio.Channel) -> bytes:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return b""
        metadata = (*self._metadata, ("dbname", step.database)) if step.database else self._metadata
        call = channel.unary_unary(SERVICE + step.method)
        try:
            answer: bytes = await call(step.message, timeout=self._call_seconds, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise StoreCallError(step.method, _failure(error.code()), _words(error)) from None
        return answer


def _is_ready(channel: grpc.aio.Channel) -> bool:
    return bool(channel.get_state() is grpc.ChannelConnectivity.READY)


def _failure(code: grpc.StatusCode) -> Failure:
    if code in _UNREACHABLE:
        return "unreachable"
    return "unimplemented" if code is grpc.StatusCode.UNIMPLEMENTED else "refused"


def _words(error: grpc.aio.AioRpcError) -> str:
    return f"{error.code().name}: {error.details() or ''}"[:500]
