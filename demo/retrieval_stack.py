"""What retrieval runs on: the environments of the SDK and of the model, and a Milvus Lite of its own."""

import asyncio
import contextlib
import shutil
import subprocess
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


def environments() -> Environments:
    """Return the environments, setting up those that are missing (45 s, once; it prints its progress)."""
    command = ["python3", str(ROOT / "tools" / "env.py"), *ENVIRONMENTS]
    try:
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    except subprocess.CalledProcessError as error:
        names = " and ".join(ENVIRONMENTS)
        raise NoEnvironmentError(f"no environments {names}: tools/env.py ended with {error.returncode}") from None
    clients, embedder = done.stdout.split()
    return Environments(clients=clients, embedder=embedder)


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
