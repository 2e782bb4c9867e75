"""`tenantry ledger serve` as a process of its own, which can be killed and come back; a sender that never gives up."""

import asyncio
import contextlib
import random
import resource
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import msgspec
import yaml
from tenantry.adapters.ports import free_port
from tenantry.core.billing.tallies import EngineTally, Tally
from tenantry.core.usage import Batch, Record

from tenantry_testing.documents import document, secret_files

READY_SECONDS = 30.0
ADMIN, USAGE = (secret_files()[name].decode() for name in ("admin-token", "usage-token"))


class _Tallies(msgspec.Struct):
    tallies: list[Tally]


class _Engines(msgspec.Struct):
    engines: list[EngineTally]


@dataclass(kw_only=True)
class LedgerProcess:
    """`start()` after `kill()` is a restart on the same port and database."""

    folder: Path
    db: str
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start, and wait until it answers (its database may be away)."""
        code = "from tenantry.cli import main; main()"
        with (self.folder / "ledger.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable, "-c", code, "ledger", "serve", str(self.folder / "rules.yaml"), "--secrets",
                    str(self.folder / "secrets"), "--db", self.db, "--listen", f"127.0.0.1:{self.port}",
                ],
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        until = time.monotonic() + READY_SECONDS
        while not await self._answers():
            assert self._process.poll() is None, (self.folder / "ledger.log").read_text()[-2_000:]
            assert time.monotonic() < until, "the ledger does not answer"
            await asyncio.sleep(0.02)

    async def kill(self) -> None:
        """End it as the kernel does when memory is short (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait, READY_SECONDS)
            self._process = None

    async def stop(self) -> int:
        """End it as an operator does (SIGTERM); return its exit code."""
        assert self._process is not None, "the ledger does not run"
        self._process.terminate()
        code = await asyncio.to_thread(self._process.wait, READY_SECONDS)
        self._process = None
        return code

    def limit_files(self, size: int | None) -> None:
        """Let none of its files grow beyond so many bytes, as on a full disk; None: as large as they like."""
        assert self._process is not None, "the ledger does not run"
        soft = resource.RLIM_INFINITY if size is None else size
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))

    async def post(self, http: aiohttp.ClientSession, records: Sequence[Record]) -> int:
        """Post a batch; return the status, 0 without an answer."""
        body = msgspec.json.encode(Batch(records=tuple(records)))
        try:
            async with http.post(
                f"{self.url}/records", data=body, headers={"authorization": f"Bearer {USAGE}"}
            ) as response:
                await response.read()
                return response.status
        except (aiohttp.ClientError, OSError, TimeoutError):
            return 0

    async def tallies(self, query: str = "group_by=") -> list[Tally]:
        return msgspec.json.decode(await self._get(f"/usage?{query}"), type=_Tallies).tallies

    async def engines(self, period: str) -> list[EngineTally]:
        return msgspec.json.decode(await self._get(f"/engines?period={period}"), type=_Engines).engines

    async def known(self) -> float:
        """Return how many records came to this process that the ledger had already."""
        lines = (await self._get("/metrics")).decode().splitlines()
        return sum(float(line.split()[1]) for line in lines if '"known"' in line and "ledger_records_total" in line)

    async def _get(self, path: str) -> bytes:
        async with (
            aiohttp.ClientSession() as http,
            http.get(self.url + path, headers={"authorization": f"Bearer {ADMIN}"}) as response,
        ):
            answer = await response.read()
            assert response.status == 200, answer
            return answer

    async def _answers(self) -> bool:
        try:
            async with aiohttp.ClientSession() as http, http.get(f"{self.url}/healthz") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False


@contextlib.asynccontextmanager
async def ledger_process(folder: Path, db: str) -> AsyncIterator[LedgerProcess]:
    """Run a ledger's service inside the `async with` block."""
    (folder / "secrets").mkdir()
    for name in ("admin-token", "usage-token"):
        (folder / "secrets" / name).write_bytes(secret_files()[name])
    (folder / "rules.yaml").write_text(yaml.safe_dump(document()))
    server = LedgerProcess(folder=folder, db=db)
    await server.start()
    try:
        yield server
    finally:
        await server.kill()


class Progress:
    """How many batches were acknowledged."""

    def __init__(self) -> None:
        self._count = 0
        self._changed = asyncio.Condition()

    async def acknowledged(self) -> None:
        async with self._changed:
            self._count += 1
            self._changed.notify_all()

    async def until(self, count: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._count >= count)


async def send_all(
    server: LedgerProcess, batches: Sequence[Sequence[Record]], rng: random.Random, progress: Progress
) -> None:
    """Post each batch until it is acknowledged, some of them again after that, as a spool does that lost its place."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http:
        for batch in batches:
            while (status := await server.post(http, batch)) != 200:
                assert status in {0, 503}
                await asyncio.sleep(rng.uniform(0.01, 0.1))
            await progress.acknowledged()
            if rng.random() < 0.2:
                await server.post(http, batch)
