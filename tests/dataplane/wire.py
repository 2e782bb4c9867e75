"""A client that sends exactly the bytes it is given, and says exactly what came back."""

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

CHAT = "/v1/chat/completions"

Headers = Sequence[tuple[str | bytes, str | bytes]]


@dataclass(frozen=True, kw_only=True)
class Response:
    """A response. `complete` is false when the connection ended before the response did."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    complete: bool = True
    trailers: tuple[tuple[str, str], ...] = ()

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error_code(self) -> str:
        """`error.code` of an OpenAI-shaped error; fails on any other shape."""
        assert self.header("content-type") == "application/json", self
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}, self
        assert error["message"], self
        assert error["type"], self
        return str(error["code"])

    @property
    def request_id(self) -> str:
        found = self.header("x-tenantry-request-id")
        assert found is not None, self
        return found


def request(
    target: str | bytes = CHAT,
    *,
    method: str = "POST",
    headers: Headers = (),
    body: bytes | None = None,
    key: str | None = None,
    host: str = "tenantry.test",
    length: bool = True,
) -> bytes:
    """HTTP/1.1 bytes. Names and values are sent as they stand; `length=False` leaves content-length to the caller."""
    lines = [_bytes(method) + b" " + _bytes(target) + b" HTTP/1.1", b"Host: " + host.encode()]
    if key is not None:
        lines.append(b"Authorization: Bearer " + key.encode())
    lines += [_bytes(name) + b": " + _bytes(value) for name, value in headers]
    if body is not None and length:
        lines += [b"Content-Length: %d" % len(body)]
    return b"\r\n".join([*lines, b"", body or b""])


def chat_body(model: str = "chat-8b", **members: object) -> bytes:
    return json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}], **members}).encode()


def chat(
    key: str | None, *, headers: Headers = (), target: str = CHAT, model: str = "chat-8b", **members: object
) -> bytes:
    """The bytes of a chat request; `members` go into its body (`mark`, `script`: see `upstream`)."""
    json_type = ("Content-Type", "application/json")
    return request(target, headers=[json_type, *headers], body=chat_body(model, **members), key=key)


class Connection:
    """One TCP connection to Envoy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, address: str, **tls: Any) -> "Connection":
        host, _, port = address.rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port), limit=1 << 20, **tls))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.abort()
        await asyncio.sleep(0)

    def abort(self) -> None:
        """Go away at once."""
        self.writer.transport.abort()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def ask(self, data: bytes, timeout: float = 20.0) -> Response:
        """Send a request and read its response."""
        with contextlib.suppress(ConnectionError):  # refused while it was still being sent: the answer is there to read
            await self.send(data)
        return await self.response(timeout, bodiless=data.startswith(b"HEAD "))

    async def response(self, timeout: float = 20.0, *, bodiless: bool = False) -> Response:
        async with asyncio.timeout(timeout):
            status, headers = await self.head()
            if status in (0, 204, 304) or bodiless:
                return Response(status=status, headers=headers, body=b"", complete=status != 0)
            body, complete = await self._body(dict(headers))
            return Response(status=status, headers=headers, body=body, complete=complete)

    async def head(self) -> tuple[int, tuple[tuple[str, str], ...]]:
        """Status and headers, 100 Continue passed over; (0, ()) when the connection ended without any."""
        try:
            while (head := await self.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100"):
                pass
        except (asyncio.IncompleteReadError, OSError):  # OSError: also what TLS says of a refused certificate
            return 0, ()
        first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        return int(first.split(" ")[1]), tuple((key.lower(), value.strip()) for key, _, value in pairs)

    async def chunk(self) -> bytes | None:
        """The next chunk of a chunked body, None at its end; raises IncompleteReadError when it is cut."""
        line = await self.reader.readline()
        if not line.endswith(b"\n"):
            raise asyncio.IncompleteReadError(line, None)
        size = int(line.split(b";")[0], 16)
        data = await self.reader.readexactly(size + 2)
        return data[:-2] if size else None

    async def _body(self, headers: dict[str, str]) -> tuple[bytes, bool]:
        body = b""
        try:
            if headers.get("transfer-encoding") == "chunked":
                while (piece := await self.chunk()) is not None:
                    body += piece
            elif "content-length" in headers:
                body = await self.reader.readexactly(int(headers["content-length"]))
            else:
                body = await self.reader.read()
        except asyncio.IncompleteReadError as error:
            return body or error.partial, False
        except ConnectionError:
            return body, False
        return body, True


async def ask(address: str, data: bytes, timeout: float = 20.0, **tls: Any) -> Response:
    """Send bytes on a connection of their own; return the response (status 0: the connection just ended)."""
    async with await Connection.open(address, **tls) as connection:
        return await connection.ask(data, timeout)


@contextlib.asynccontextmanager
async def load(address: str, rate: float, data: Callable[[int], bytes]) -> AsyncIterator[list[Response]]:
    """Send `rate` requests a second inside the block, whether answers come or not; yield the responses so far.

    At the end of the block all have been answered.
    """
    responses: list[Response] = []
    idle: list[Connection] = []
    tasks: set[asyncio.Task[None]] = set()

    async def one(number: int) -> None:
        connection = idle.pop() if idle else await Connection.open(address)
        responses.append(await connection.ask(data(number)))
        idle.append(connection)

    async def tick() -> None:
        begin = time.monotonic()
        for number in itertools.count():
            await asyncio.sleep(max(0.0, begin + number / rate - time.monotonic()))
            tasks.add(asyncio.create_task(one(number)))

    ticking = asyncio.create_task(tick())
    try:
        yield responses
    finally:
        ticking.cancel()
        await asyncio.gather(*tasks)
        for connection in idle:
            connection.abort()
        await asyncio.sleep(0)


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")
