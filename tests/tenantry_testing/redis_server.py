"""A real Redis of a test's own: on a free port, in a folder, without a disk; it can be killed and come back empty."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from tenantry.adapters.ports import free_port

READY_SECONDS = 10.0


@dataclass(kw_only=True)
class RedisServer:
    """`start()` after `stop()` or `kill()` is a restart on the same port, with all data lost."""

    folder: Path
    port: int
    options: tuple[str, ...]
    password: str | None
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        credential = f":{self.password}@" if self.password else ""
        return f"redis://{credential}127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server does not run"
        return self._process.pid

    async def start(self) -> None:
        """Start, and wait until it answers. Does nothing when it runs."""
        if self._process is not None:
            return
        command = [
            "redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder),
            "--save", "", "--appendonly", "no", "--daemonize", "no", *self.options,
        ]  # fmt: skip
        if self.password:
            command += ["--requirepass", self.password]
        with (self.folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        until = time.monotonic() + READY_SECONDS
        while not await self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                await self.kill()
                raise RuntimeError(f"redis-server does not answer:\n{(self.folder / 'redis.log').read_text()[-2000:]}")
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """End it as an operator does (SIGTERM); its clients' connections are closed in order."""
        if self._process is not None:
            self._process.terminate()
            await self._gone()

    async def kill(self) -> None:
        """End it as the kernel does when memory is short (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            await self._gone()

    def freeze(self) -> None:
        """Let it hang: its port still accepts, and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on, with what was sent to it meanwhile."""
        os.kill(self.pid, signal.SIGCONT)

    async def command(self, *words: str) -> bytes:
        """Send it a command, as an operator would; return the first line of its answer."""
        async with asyncio.timeout(READY_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            for command in [("AUTH", self.password), words] if self.password else [words]:
                writer.write(b"".join([b"*%d\r\n" % len(command), *(_bulk(word or "") for word in command)]))
                answer = await reader.readline()
            writer.close()
            await writer.wait_closed()
        return answer

    async def _gone(self) -> None:
        assert self._process is not None
        await asyncio.to_thread(self._process.wait, READY_SECONDS)
        self._process = None

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(1):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(b"PING\r\n")
                # An error (no credential) is an answer too.
                answer = await reader.readline()
                writer.close()
                await writer.wait_closed()
                return answer[:1] in (b"+", b"-")
        except (OSError, TimeoutError):
            return False


@contextlib.asynccontextmanager
async def redis_server(folder: Path, *options: str, password: str | None = None) -> AsyncIterator[RedisServer]:
    """Run a redis-server inside the `async with` block; `options` are further arguments of its command line."""
    folder.mkdir(parents=True, exist_ok=True)
    server = RedisServer(folder=folder, port=free_port(), options=options, password=password)
    await server.start()
    try:
        yield server
    finally:
        await server.kill()


def _bulk(word: str) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode())
