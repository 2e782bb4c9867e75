"""`tenantry` as a process of its own, for tests that kill, hang or plant a bug in it."""

import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenantry.adapters.ports import free_port

from dataplane.harness import Files, Json, Stack, envoy, rules, until
from dataplane.upstream import Upstream


@dataclass(kw_only=True)
class Process:
    """A `tenantry` command as a process of its own. `log` gets its stderr, `out` its stdout."""

    process: asyncio.subprocess.Process
    arguments: tuple[str | Path, ...]
    log: Path
    out: Path

    def lines(self) -> list[Json]:
        """The JSON lines of its log."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    async def line(self, event: str, seconds: float = 20.0) -> Json:
        """The first log line of an event; waits for it."""

        def found() -> list[Json]:
            return [line for line in self.lines() if line["event"] == event]

        await until(lambda: found() or self.process.returncode is not None, seconds, f"log line {event!r}")
        assert found(), self.log.read_text() + self.out.read_text()
        return found()[0]

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    async def exit(self, seconds: float = 20.0) -> int:
        async with asyncio.timeout(seconds):
            return await self.process.wait()


@contextlib.asynccontextmanager
async def tenantry(
    folder: Path,
    *arguments: str | Path,
    prelude: str = "",
    name: str = "tenantry",
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[Process]:
    """Run `tenantry ARGUMENTS`; `prelude` is Python that runs before it (to plant a bug). Killed at the end."""
    log, out = folder / f"{name}.log", folder / f"{name}.out"
    code = f"{prelude}\nfrom tenantry.cli import main\nmain()"
    with log.open("wb") as stderr, out.open("wb") as stdout:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, *map(str, arguments), stdout=stdout, stderr=stderr, start_new_session=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "COLUMNS": "200"} | dict(env or {}),
        )  # fmt: skip
    try:
        yield Process(process=process, arguments=arguments, log=log, out=out)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@contextlib.contextmanager
def sockets() -> Any:
    """A folder with a path short enough for unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="tn-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.asynccontextmanager
async def beside(
    folder: Path,
    build: Callable[[Upstream], Json] = rules,
    *,
    count: int = 1,
    arguments: tuple[str, ...] = (),
    prelude: str = "",
    **options: Any,
) -> AsyncIterator[tuple[Stack, list[Process]]]:
    """Run `count` processes of `tenantry serve` beside an Envoy; `options` are `envoy`'s.

    The stack's `admin` is the first process's.
    """
    files = Files(folder=folder)
    async with Upstream().running() as upstream, contextlib.AsyncExitStack() as exits:
        files.save(document := build(upstream))
        where = exits.enter_context(sockets())
        paths = [str(where / f"{index}.sock") for index in range(count)]
        admin_port = free_port()
        processes = []
        for index, path in enumerate(paths):
            serve = (
                "serve", files.rules, "--secrets", files.secrets, "--listen", f"unix:{path}", "--admin", "127.0.0.1:0",
                "--state", files.state,
                "--cds", files.cds, "--envoy-admin", f"http://127.0.0.1:{admin_port}", "--outcomes", files.outcomes,
            )  # fmt: skip
            run = tenantry(folder, *serve, *arguments, prelude=prelude, name=f"sidecar{index}")
            processes.append(await exits.enter_async_context(run))
        ready = [await process.line("sidecar ready") for process in processes]
        listener, admin = await exits.enter_async_context(envoy(files, tuple(paths), admin_port=admin_port, **options))
        yield (
            Stack(
                address=listener, admin=ready[0]["admin"], envoy_admin=admin, upstream=upstream, files=files,
                document=document,
            ),
            processes,
        )  # fmt: skip
