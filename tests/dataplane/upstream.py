"""A model server that records what reaches it, byte by byte, and answers by a script.

A request chooses its script by the member `script` of its body (the sidecar leaves unknown members
alone) and is found again by the member `mark`, so tests can share one upstream and run at once.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

CUT: Final = "cut"
"""In a script: break the connection (RST) here."""

CLOSE: Final = "close"
"""In a script: end the connection properly (FIN) here."""

Step = bytes | float | asyncio.Event | str
"""Of a script: bytes to write, seconds to wait, an event to wait for, CUT or CLOSE."""

Script = Callable[["Seen"], Iterable[Step] | AsyncIterator[Step]]


@dataclass(kw_only=True)
class Seen:
    """One request as the upstream got it. Header names and values are the bytes on the wire."""

    line: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    trailers: list[tuple[bytes, bytes]]
    left: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def json(self) -> dict[str, Any]:
        document = json.loads(self.body) if self.body else {}
        return document if isinstance(document, dict) else {}

    def header(self, name: str) -> list[bytes]:
        """All values of a header, by its name in any case."""
        return [value for key, value in self.headers if key.lower() == name.encode()]

    @property
    def raw(self) -> bytes:
        """Everything that arrived, for a search."""
        lines = [self.line, *(key + b": " + value for key, value in [*self.headers, *self.trailers])]
        return b"\r\n".join([*lines, b"", self.body])


def fixed(body: bytes, *, status: str = "200 OK", content_type: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


SSE_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"


def sse(events: Iterable[bytes], pause: float = 0.0) -> list[Step]:
    """A script that sends each piece as a chunk of its own, `pause` seconds apart."""
    steps: list[Step] = [SSE_HEAD]
    for event in events:
        steps += [chunk(event), pause] if pause else [chunk(event)]
    return [*steps, LAST_CHUNK]


OK: Final = fixed(b'{"object":"chat.completion","choices":[]}')


class _Reader(asyncio.StreamReader):
    """A reader that tells of the end without being read: `ended` is set when the other side went away."""

    def __init__(self) -> None:
        super().__init__(limit=1 << 20)
        self.ended = asyncio.Event()

    def feed_eof(self) -> None:
        super().feed_eof()
        self.ended.set()

    def set_exception(self, exc: type[BaseException] | BaseException) -> None:
        super().set_exception(exc)  # type: ignore[arg-type]  # typeshed has it narrower than asyncio
        self.ended.set()


class Upstream:
    """The server. `seen` holds all requests in order of arrival."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.scripts: dict[str, Script] = {}
        self.connections = 0
        self.port = 0

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def marked(self, mark: str) -> list[Seen]:
        """The requests whose body says `"mark": mark`."""
        return [seen for seen in self.seen if seen.json.get("mark") == mark]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Upstream"]:
        writers: set[asyncio.StreamWriter] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert isinstance(reader, _Reader)
            self.connections += 1
            writers.add(writer)
            try:
                while (seen := await _read_request(reader)) is not None:
                    self.seen.append(seen)
                    await self._answer(seen, reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                writers.discard(writer)
                writer.close()

        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: asyncio.StreamReaderProtocol(_Reader(), connected), "127.0.0.1", 0, backlog=4096
        )
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for writer in list(writers):
                writer.transport.abort()
            await asyncio.sleep(0)

    async def _answer(self, seen: Seen, reader: _Reader, writer: asyncio.StreamWriter) -> None:
        script = self.scripts.get(seen.json.get("script", ""), _just_ok)
        playing = asyncio.ensure_future(_play(script(seen), writer))
        leaving = asyncio.ensure_future(reader.ended.wait())
        try:
            await asyncio.wait((playing, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not playing.done():
                seen.left.set()
                raise ConnectionError("the other side went away")
            await playing
        finally:
            for task in (playing, leaving):
                task.cancel()
            await asyncio.gather(playing, leaving, return_exceptions=True)


def _just_ok(_seen: Seen) -> Iterable[Step]:
    return [OK]


async def _play(steps: Iterable[Step] | AsyncIterator[Step], writer: asyncio.StreamWriter) -> None:
    if isinstance(steps, Iterable):
        for step in steps:
            await _step(step, writer)
    else:
        async for step in steps:
            await _step(step, writer)


async def _step(step: Step, writer: asyncio.StreamWriter) -> None:
    if isinstance(step, bytes):
        writer.write(step)
        await writer.drain()
    elif isinstance(step, asyncio.Event):
        await step.wait()
    elif isinstance(step, str):
        if step == CUT:
            writer.transport.abort()
        else:
            writer.close()
        raise ConnectionError("ended by the script")
    else:
        await asyncio.sleep(step)


async def _read_request(reader: asyncio.StreamReader) -> Seen | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    line, *rest = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    headers = [_pair(text) for text in rest]
    fields = {key.lower(): value for key, value in headers}
    trailers: list[tuple[bytes, bytes]] = []
    if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
        body, trailers = await _read_chunks(reader)
    else:
        body = await reader.readexactly(int(fields.get(b"content-length", b"0")))
    return Seen(line=line, headers=headers, body=body, trailers=trailers)


async def _read_chunks(reader: asyncio.StreamReader) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    body, trailers = b"", []
    while size := int((await reader.readline()).split(b";")[0], 16):
        body += (await reader.readexactly(size + 2))[:-2]
    while line := (await reader.readline()).rstrip(b"\r\n"):
        trailers.append(_pair(line))
    return body, trailers


def _pair(line: bytes) -> tuple[bytes, bytes]:
    key, _, value = line.partition(b":")
    return key, value.strip(b" \t")
