"""Steady load through Envoy for `bench.reload`, and the engines behind it: both in one event loop, raw HTTP/1.1."""

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One request: when it was due, how long after that its answer was there, and which version gave it.

    `version` is empty where there was no whole answer of status 200: a failure.
    """

    due: float
    seconds: float
    version: str


@contextlib.asynccontextmanager
async def engine(version: str) -> AsyncIterator[str]:
    """Serve an engine that answers with its version; yield its address."""
    body = json.dumps({"object": "chat.completion", "version": version, "choices": []}).encode()
    answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(_length(head))
                writer.write(answer)
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"{host}:{port}"
    finally:
        server.close()


@dataclass(kw_only=True)
class Load:
    """`rate` requests a second with one key. `answered` has them in the order of their answers."""

    address: str
    key: str
    rate: float
    answered: list[Answered] = field(default_factory=list)
    told: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at each answer."""
    _idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Load"]:
        """Send inside the block, whether answers come or not; at its end all have been answered or given up."""
        tasks: set[asyncio.Task[None]] = set()

        async def tick() -> None:
            begin = time.monotonic()
            for number in itertools.count():
                due = begin + number / self.rate
                await asyncio.sleep(due - time.monotonic())
                task = asyncio.create_task(self._one(due))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

        ticking = asyncio.create_task(tick())
        try:
            yield self
        finally:
            ticking.cancel()
            await asyncio.gather(ticking, *tasks, return_exceptions=True)
            for _, writer in self._idle:
                writer.close()

    async def served_by(self, version: str, since: float, seconds: float) -> float:
        """Wait for an answer of this version to a request sent after `since`; return when it was there."""
        async with asyncio.timeout(seconds):
            seen = len(self.answered)
            while True:
                self.told.clear()
                for answer in self.answered[seen:]:
                    if answer.version == version and answer.due >= since:
                        return answer.due + answer.seconds
                seen = len(self.answered)
                await self.told.wait()

    async def _one(self, due: float) -> None:
        version = ""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                version = await self._ask()
        except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError):
            pass  # no version: counted as a failure
        self.answered.append(Answered(due=due, seconds=time.monotonic() - due, version=version))
        self.told.set()

    async def _ask(self) -> str:
        host, _, port = self.address.rpartition(":")
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection(host, int(port))
        writer.write(self._request())
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(_length(head))
        self._idle.append((reader, writer))
        answer: dict[str, Any] = json.loads(body)
        return str(answer["version"]) if head.startswith(b"HTTP/1.1 200 ") else ""

    def _request(self) -> bytes:
        body = b'{"model": "chat-8b", "messages": [{"role": "user", "content": "Hello"}]}'
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {self.address}\r\nauthorization: Bearer {self.key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return int(value)
    raise ValueError("no content-length")
