"""A real PostgreSQL of a test's own: a fresh cluster in a folder, on a free port; it can be killed and started again.

What was committed is on the disk and there after a kill. PostgreSQL refuses to run as root: then it runs as
`postgres` or `nobody`, in a folder of theirs.
"""

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from tenantry.adapters.ports import free_port

from tenantry_testing.folders import in_memory

READY_SECONDS = 30.0


def find_postgres() -> Path | None:
    """Return the folder of PostgreSQL's programs, of the newest version; Debian keeps them off PATH."""
    homes = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    found = homes[-1] if homes else shutil.which("postgres")
    return Path(found).parent if found else None


@dataclass(kw_only=True)
class PostgresServer:
    """`start()` after `stop()` or `kill()` is a restart on the same port and data."""

    folder: Path
    port: int
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _databases: int = field(default=0, init=False)

    @property
    def url(self) -> str:
        """Where the database `postgres` is."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """Where a database is."""
        return f"postgresql://tenantry@127.0.0.1:{self.port}/{database}"

    async def make(self) -> None:
        """Make the cluster, with durable settings, as an operator's is."""
        if os.geteuid() == 0:
            os.chown(self.folder, _account().pw_uid, _account().pw_gid)
        await asyncio.to_thread(
            self._run, "initdb", "-D", str(self.data), "-U", "tenantry", "-A", "trust", "-E", "UTF8", "--no-sync",
            "--no-locale",
        )  # fmt: skip

    @property
    def data(self) -> Path:
        """The cluster's folder."""
        return self.folder / "data"

    async def start(self) -> None:
        """Start, and wait until it answers. Does nothing when it runs."""
        if self._process is not None:
            return
        with (self.folder / "postgres.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(_programs() / "postgres"), "-D", str(self.data), "-p", str(self.port), "-h", "127.0.0.1",
                    "-k", "", "-c", "shared_buffers=16MB", "-c", "max_connections=40",
                    "-c", "dynamic_shared_memory_type=mmap",  # a killed server leaves nothing outside its folder
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/",
                user=_user(), group=_group(),
            )  # fmt: skip
        until = time.monotonic() + READY_SECONDS
        while not await asyncio.to_thread(self._answers):
            if self._process.poll() is not None or time.monotonic() > until:
                await self.kill()
                raise RuntimeError(f"postgres does not answer:\n{(self.folder / 'postgres.log').read_text()[-2000:]}")
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """End it as an operator does who does not wait for clients (SIGINT: fast shutdown)."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            await self._gone()

    async def kill(self) -> None:
        """End all of its processes at once (SIGKILL), as the kernel does with a container."""
        if self._process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in (psutil.Process(self._process.pid), *psutil.Process(self._process.pid).children()):
                    process.kill()
            await self._gone()

    def new_database(self) -> str:
        """Make an empty database; return its URL."""
        self._databases += 1
        name = f"test_{self._databases}"
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "tenantry", name)
        return self.url_of(name)

    def _answers(self) -> bool:
        command = [str(_programs() / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(command, check=False).returncode == 0

    async def _gone(self) -> None:
        assert self._process is not None
        await asyncio.to_thread(self._process.wait, READY_SECONDS)
        self._process = None

    @staticmethod
    def _run(program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(_programs() / program), *arguments], cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, check=False, user=_user(), group=_group(),
        )  # fmt: skip
        assert done.returncode == 0, f"{program}: {done.stdout[-2000:]}"


@contextlib.asynccontextmanager
async def postgres_server() -> AsyncIterator[PostgresServer]:
    """Run a PostgreSQL inside the `async with` block."""
    # Not in pytest's folder, which is its owner's alone: nobody could look into it.
    server = PostgresServer(
        folder=Path(tempfile.mkdtemp(prefix="tenantry-postgres-", dir=in_memory())), port=free_port()
    )
    try:
        await server.make()
        await server.start()
        yield server
    finally:
        await server.kill()
        shutil.rmtree(server.folder, ignore_errors=True)


def _programs() -> Path:
    found = find_postgres()
    assert found is not None, "no PostgreSQL: `python3 tools/services.py postgresql` says why"
    return found


def _account() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise RuntimeError("PostgreSQL does not run as root, and this machine has neither a postgres nor a nobody")


def _user() -> int | None:
    return _account().pw_uid if os.geteuid() == 0 else None


def _group() -> int | None:
    return _account().pw_gid if os.geteuid() == 0 else None
