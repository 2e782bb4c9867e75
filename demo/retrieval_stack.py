"""What retrieval runs on: the environments of the SDK and of the model, and a Milvus Lite of its own."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from msgspec import Struct

from tools.milvus_engines import Engine, Kind, start

ROOT = Path(__file__).resolve().parent.parent
KIND: Kind = "lite3"
ENVIRONMENTS = ("milvus30", "minilm")


class Environments(Struct, frozen=True, kw_only=True):
    """Interpreters: where pymilvus and Milvus Lite are, and where the model of sentences is."""

    clients: str
    embedder: str


class NoEnvironmentError(Exception):
    """An environment is missing and could not be set up; what was printed says why."""


async def environments() -> Environments:
    """Return the environments, setting up those that are missing (45 s, once; it prints its progress)."""
    script = str(ROOT / "tools" / "env.py")
    process = await asyncio.create_subprocess_exec("python3", script, *ENVIRONMENTS, stdout=asyncio.subprocess.PIPE)
    try:
        output, _ = await process.communicate()
    finally:
        await end(process)
    if process.returncode != 0:
        names = " and ".join(ENVIRONMENTS)
        raise NoEnvironmentError(f"no environments {names}: tools/env.py ended with {process.returncode}")
    clients, embedder = output.decode().split()
    return Environments(clients=clients, embedder=embedder)


async def end(process: asyncio.subprocess.Process) -> None:
    """End a process that still runs."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


@contextlib.asynccontextmanager
async def milvus(folder: Path) -> AsyncIterator[Engine]:
    """Run a Milvus Lite inside the `async with` block, empty at its beginning; raise EngineError if it does not."""
    shutil.rmtree(folder, ignore_errors=True)
    running = start(KIND, folder)
    starting = asyncio.ensure_future(asyncio.to_thread(running.__enter__))
    try:
        engine = await asyncio.shield(starting)
    except asyncio.CancelledError:
        # A thread cannot be cancelled: without waiting for it, its engine would be left running.
        with contextlib.suppress(Exception):
            await starting
            running.__exit__(None, None, None)
        raise
    try:
        yield engine
    finally:
        await asyncio.to_thread(running.__exit__, None, None, None)
