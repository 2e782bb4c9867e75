"""One HTTP/2 request on a connection of its own, with any headers and trailers."""

import asyncio
from collections.abc import Sequence

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from dataplane.wire import CHAT, Response

Pairs = Sequence[tuple[str, str]]


class _Exchange:
    def __init__(self, writer: asyncio.StreamWriter, body: bytes, trailers: Pairs) -> None:
        # Validation off: the point is to send what a proper client would not.
        config = h2.config.H2Configuration(
            header_encoding="latin-1", validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.h2 = h2.connection.H2Connection(config)
        self.writer = writer
        self.left = memoryview(body)
        self.trailers = trailers
        self.sent_all = False
        self.headers: list[tuple[str, str]] = []
        self.got_trailers: list[tuple[str, str]] = []
        self.body = b""
        self.ended: bool | None = None
        """True: whole; False: reset or cut."""

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def pump(self) -> None:
        """Send as much of the body as the windows allow, then the trailers."""
        while not self.sent_all and self.ended is None:
            size = min(self.h2.local_flow_control_window(1), self.h2.max_outbound_frame_size, len(self.left))
            if self.left and not size:
                return
            piece, self.left = self.left[:size], self.left[size:]
            last = not self.left
            self.h2.send_data(1, bytes(piece), end_stream=last and not self.trailers)
            if last:
                self.sent_all = True
                if self.trailers:
                    self.h2.send_headers(1, list(self.trailers), end_stream=True)

    def take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ResponseReceived):
            self.headers = [(str(key), str(value)) for key, value in event.headers]
        elif isinstance(event, h2.events.TrailersReceived):
            self.got_trailers = [(str(key), str(value)) for key, value in event.headers]
        elif isinstance(event, h2.events.DataReceived):
            self.body += event.data
            self.h2.acknowledge_received_data(event.flow_controlled_length, 1)
        elif isinstance(event, h2.events.StreamEnded):
            self.ended = True
        elif isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated) and self.ended is None:
            self.ended = False


async def ask_h2(
    address: str,
    *,
    headers: Pairs = (),
    body: bytes = b"",
    trailers: Pairs = (),
    target: str = CHAT,
    method: str = "POST",
    key: str | None = None,
    pseudo: Pairs | None = None,
    timeout: float = 20.0,
) -> Response:
    """Send one request; `pseudo` replaces the pseudo-headers. Status 0: reset or closed without an answer."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    exchange = _Exchange(writer, body, trailers)
    first = pseudo or [(":method", method), (":scheme", "http"), (":authority", "tenantry.test"), (":path", target)]
    credential = [("authorization", f"Bearer {key}")] if key else []
    try:
        async with asyncio.timeout(timeout):
            exchange.h2.initiate_connection()
            exchange.h2.send_headers(1, [*first, *credential, *headers], end_stream=not body and not trailers)
            exchange.sent_all = not body and not trailers
            exchange.pump()
            exchange.flush()
            while exchange.ended is None and (data := await reader.read(65536)):
                for event in exchange.h2.receive_data(data):
                    exchange.take(event)
                exchange.pump()
                exchange.flush()
    except (ConnectionError, h2.exceptions.ProtocolError):
        pass
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)
    fields = dict(exchange.headers)
    return Response(
        status=int(fields.get(":status", 0)),
        headers=tuple(pair for pair in exchange.headers if not pair[0].startswith(":")),
        body=exchange.body,
        complete=exchange.ended is True,
        trailers=tuple(exchange.got_trailers),
    )
