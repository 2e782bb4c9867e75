"""A stand-in engine as a process that ships to a ledger, which can be killed and come back; and all that it spooled.

What was spooled is known apart from what was shipped: every segment has a second name, so it stays when the engine has
deleted it. A record stands there before the ledger can have it, and what a test reads there nobody has filtered.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from tenantry.adapters.ports import free_port
from tenantry.core.usage import Record, read_record
from tenantry_vllm.spool_folder import DAMAGED, REFUSED
from tenantry_vllm.spool_format import HEADER_BYTES, read_header, scan

READY_SECONDS = 30.0
MODEL, VERSION = "chat-8b", "1.4.0"


@dataclass(kw_only=True)
class EngineProcess:
    """`start()` after `kill()` is a new engine on the same port and spool: it ships what the dead one left."""

    folder: Path
    ledger_url: str
    token_file: Path
    speed: float = 1.0
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def spool(self) -> Path:
        return self.folder / "spool"

    @property
    def log(self) -> Path:
        return self.folder / "engine.log"

    async def start(self) -> None:
        """Start, and wait until it answers and its first record, the cold start's, is on disk."""
        self.spool.mkdir(exist_ok=True)
        command = [
            *(sys.executable, "-m", "tenantry_standin", "--model", MODEL, "--version", VERSION),
            *("--speed", str(self.speed), "--listen", f"127.0.0.1:{self.port}", "--drain-s", "5"),
            *("--ledger-url", self.ledger_url, "--spool-dir", str(self.spool)),
            *("--ship-token-file", str(self.token_file)),
        ]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        until = time.monotonic() + READY_SECONDS
        while not await self._is_ready():
            assert self._process.poll() is None, self.log.read_text()[-2_000:]
            assert time.monotonic() < until, "the engine does not answer"
            await asyncio.sleep(0.02)
        self.name_segments()

    async def kill(self) -> None:
        """End it as the kernel does when memory is short (SIGKILL)."""
        if self._process is not None:
            self.name_segments()
            self._process.kill()
            await asyncio.to_thread(self._process.wait, READY_SECONDS)
            self._process = None
            self.name_segments()  # nobody deletes them before the next start

    async def stop(self) -> int:
        """End it as an operator does (SIGTERM); return its exit code."""
        assert self._process is not None, "the engine does not run"
        self._process.terminate()
        while self._process.poll() is None:
            self.name_segments()
            await asyncio.sleep(0.01)
        code, self._process = self._process.returncode, None
        return code

    async def counts(self) -> dict[str, float]:
        """Return the counters of its metrics page that tell of records, such as `spool_fsynced`."""
        async with aiohttp.ClientSession() as http, http.get(f"{self.url}/metrics") as page:
            lines = [line.split() for line in (await page.text()).splitlines() if not line.startswith("#")]
        found = {}
        for name, value in (line for line in lines if len(line) == 2):
            if "records_" in name:
                found[name.partition("{")[0].partition("records_")[2].removesuffix("_total")] = float(value)
        return found

    async def fsynced(self) -> float:
        """Wait until all that it has written to its spool up to now is on disk; return how many records are."""
        wanted = (await self.counts())["spool_appended"]
        async with asyncio.timeout(READY_SECONDS):
            while (fsynced := (await self.counts())["spool_fsynced"]) < wanted:
                await asyncio.sleep(0.01)
        return fsynced

    def name_segments(self) -> None:
        """Give each segment that there is a second name, below `spooled`."""
        for segment in self.spool.glob("*/*.spool"):
            kept = self.folder / "spooled" / segment.parent.name / segment.name
            kept.parent.mkdir(parents=True, exist_ok=True)
            if segment.parent.name not in {DAMAGED, REFUSED} and not kept.exists():
                kept.hardlink_to(segment)

    def spooled(self, *, of_the_last: bool = False) -> list[Record]:
        """Return what all its processes have spooled so far, or the last one; fail if one is not there any more."""
        found: list[Record] = []
        folders = sorted((self.folder / "spooled").iterdir(), key=lambda folder: folder.stat().st_ctime_ns)
        for folder in folders[-1:] if of_the_last else folders:
            expected = 0
            for segment in sorted(folder.iterdir()):
                for sequence, record in _records(segment.read_bytes()):
                    assert sequence == expected, f"{segment}: a record is missing before {sequence}"
                    found.append(record)
                    expected += 1
        assert len({record.id for record in found}) == len(found), "two records have one id"
        return found

    async def _is_ready(self) -> bool:
        try:
            return (await self.counts()).get("spool_fsynced", 0) > 0
        except aiohttp.ClientError:
            return False


def _records(segment: bytes) -> Iterator[tuple[int, Record]]:
    if read_header(segment) is None:
        return
    found = scan(segment[HEADER_BYTES:], ended=True)
    assert not found.damage, "bytes of a segment are destroyed"
    for entry in found.entries:
        yield entry.sequence, read_record(entry.payload)
