"""ext_proc and ALS on grpcio's asyncio server.

Messages stay bytes here: the codec parses and builds them, so that another transport can use the
same seam. In grpcio a handler that merely returns ends its stream with OK, and Envoy takes a clean
end before the answer for consent: every way out of `_process` that is not the end of the exchange
aborts with an error status.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio

from tenantry.adapters.bind import Address, Tls
from tenantry.adapters.sidecar import Exchange, Sidecar
from tenantry.core.errors import ConversationError, TenantryError

EXT_PROC = "envoy.service.ext_proc.v3.ExternalProcessor"
ALS = "envoy.service.accesslog.v3.AccessLogService"

_ENVELOPE_BYTES = 1024 * 1024
"""Room for headers, attributes and metadata around a body of the greatest size."""

_END_SECONDS = 5.0
"""For ending the streams of exchanges that were decided."""

_SETTLE_SECONDS = 0.25
"""For Envoy to read the ends of the streams before their connection goes."""


class GrpcioTransport:
    """The grpcio transport."""

    def __init__(self, sidecar: Sidecar) -> None:
        self._sidecar = sidecar
        self._closing = False
        self._draining = asyncio.Event()
        self._tls: Tls | None = None
        limits = sidecar.snapshot.book.rules.limits
        self._server = grpc.aio.server(
            # Envoy holds one stream per exchange on a few connections; ALS adds a handful.
            maximum_concurrent_rpcs=limits.max_open_exchanges + 64,
            options=(
                ("grpc.max_receive_message_length", limits.max_body_bytes + _ENVELOPE_BYTES),
                ("grpc.max_concurrent_streams", limits.max_open_exchanges + 64),
                ("grpc.so_reuseport", 0),
                ("grpc.http2.min_ping_interval_without_data_ms", 5000),
                ("grpc.keepalive_permit_without_calls", 1),
            ),
        )
        self._server.add_generic_rpc_handlers(
            (
                # Bytes in, bytes out: without a (de)serialiser grpcio hands messages through.
                grpc.method_handlers_generic_handler(
                    EXT_PROC, {"Process": grpc.stream_stream_rpc_method_handler(self._process)}
                ),
                grpc.method_handlers_generic_handler(
                    ALS, {"StreamAccessLogs": grpc.stream_unary_rpc_method_handler(self._access_log)}
                ),
            )
        )

    async def start(self, address: Address, tls: Tls | None) -> Address:
        """Listen; return the address with the port that was bound."""
        self._tls = tls
        try:
            port = self._bind(address, tls)
        except (RuntimeError, OSError) as error:
            # grpcio raises a bare RuntimeError that does not say why.
            why = error if isinstance(error, OSError) else "the address is in use, or not one of this machine"
            raise TransportError(f"ext_proc cannot listen on {address}: {why}") from None
        await self._server.start()
        return Address(host=address.host, port=port, path=address.path)

    def _bind(self, address: Address, tls: Tls | None) -> int:
        if tls is None:
            return int(self._server.add_insecure_port(str(address)))
        credentials = grpc.ssl_server_credentials(
            [(tls.key.read_bytes(), tls.certificate.read_bytes())],
            root_certificates=tls.client_ca.read_bytes(),
            require_client_auth=True,
        )
        return int(self._server.add_secure_port(str(address), credentials))

    async def drain(self, grace_seconds: float) -> None:
        """Refuse new exchanges, let those under way be decided, end their streams cleanly, then close.

        An exchange that was decided needs the sidecar no more: its response streams on without us.
        Streams end before the server stops, since that begins with GOAWAY, and C-core then closes a
        connection with its last stream while Envoy still reads the ends of the others: one drain in
        five cut some of 300 answers in flight.
        """
        self._closing = True
        await _until(lambda: not self._sidecar.undecided_exchanges, grace_seconds)
        self._draining.set()
        await _until(lambda: self._sidecar.open_exchanges == self._sidecar.undecided_exchanges, _END_SECONDS)
        await asyncio.sleep(_SETTLE_SECONDS)
        await self._server.stop(None)

    async def _process(self, _requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        await self._require_allowed_client(context)
        if self._closing:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the sidecar is draining")
        exchange = self._sidecar.open_exchange()
        try:
            while (message := await self._next(exchange, context)) is not None:
                reply = exchange.answer(message)
                if exchange.waits:
                    reply = await exchange.provide()
                await context.write(reply)
        except ConversationError as error:
            exchange.failed(error)
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "unexpected message in the ext_proc conversation")
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is, the stream must not end cleanly
            exchange.failed(error)
            await context.abort(grpc.StatusCode.INTERNAL, "internal error")
        finally:
            exchange.close()

    async def _next(self, exchange: Exchange, context: grpc.aio.ServicerContext) -> bytes | None:
        """Return the next message; None when the exchange is over, or decided and we are draining."""
        if not exchange.decided:
            return _message(await context.read())
        read = asyncio.ensure_future(context.read())
        drain = asyncio.ensure_future(self._draining.wait())
        try:
            await asyncio.wait((read, drain), return_when=asyncio.FIRST_COMPLETED)
            return _message(read.result()) if read.done() else None
        finally:
            read.cancel()
            drain.cancel()

    async def _access_log(self, messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> bytes:
        await self._require_allowed_client(context)
        async for message in messages:
            self._sidecar.access_log_message(message)
        return b""

    async def _require_allowed_client(self, context: grpc.aio.ServicerContext) -> None:
        if self._tls is None:
            return
        names = context.auth_context().get("x509_subject_alternative_name", ())
        if not self._tls.admits(name.decode("utf-8", "replace") for name in names):
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "this client certificate may not connect")


async def _until(condition: Callable[[], bool], seconds: float) -> None:
    """Wait until the condition holds, or so long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.02)


def _message(read: Any) -> bytes | None:
    return None if read is grpc.aio.EOF else read


class TransportError(TenantryError):
    """The transport could not listen."""
