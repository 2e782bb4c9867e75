"""Training jobs pay too: runs a job's command, and books the GPU time that it held, whatever it ends like.

A job that crashes has used its GPUs as much as one that succeeds. So time is booked in parts while the command runs,
and the last part when it has ended; a machine that dies loses one part at most. A part that the ledger did not confirm
is sent again as it was, with its id, so nothing is booked twice.
"""

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from msgspec import Struct

from tenantry.adapters.ledger.client import BookedAnswer, LedgerAwayError
from tenantry.core.errors import TenantryError
from tenantry.core.usage import MAX_BATCH, Record, Training

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PATIENCE_SECONDS = 20.0
"""How long the end of a job waits for a ledger that is away; a container that is told to end has 30 s as a rule."""

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 10.0


class Books(Protocol):
    """Where records go: a `LedgerClient`."""

    async def book(self, records: Sequence[Record]) -> BookedAnswer:
        """Book records, or raise LedgerAwayError (try again) or another TenantryError (do not)."""


class Job(Struct, frozen=True, kw_only=True):
    """Whose GPU time it is, and on how many GPUs. `first_part` numbers the first record; later ones follow."""

    job: str
    tenant: str
    model: str
    tier: str = ""
    adapter: str | None = None
    gpus: int
    first_part: int


class Ended(Struct, frozen=True, kw_only=True):
    """How a command ended: its exit code as a shell has it, its GPU time, and the records that were not confirmed."""

    exit_code: int
    gpu_ns: int
    unconfirmed: tuple[Training, ...] = ()
    why: str = ""
    known: int = 0


class _Account:
    """GPU time that was measured, in parts, and which of them the ledger has confirmed."""

    def __init__(self, job: Job, books: Books, patience_s: float) -> None:
        self._job, self._books, self._patience_s = job, books, patience_s
        self.since_ns = time.monotonic_ns()
        self._part = job.first_part
        self._doubtful = False
        self.waiting: list[Training] = []
        self.gpu_ns = 0
        self.known = 0
        self.why = ""

    def cut(self, now_ns: int) -> None:
        """End a part."""
        gpu_ns, self.since_ns = (now_ns - self.since_ns) * self._job.gpus, now_ns
        self.gpu_ns += gpu_ns
        job = self._job
        part = Training(
            job=job.job, part=self._part, tenant=job.tenant, model=job.model, tier=job.tier, adapter=job.adapter,
            ended_s=time.time(), gpu_ns=gpu_ns,
        )  # fmt: skip
        self.waiting.append(part)
        self._part += 1

    async def send(self) -> bool:
        """Send what waits; return whether the ledger has all of it."""
        while self.waiting:
            batch = self.waiting[:MAX_BATCH]
            try:
                answer = await self._books.book(batch)
            except LedgerAwayError as error:
                self.why, self._doubtful = str(error), True
                return False
            # Behind a send without an answer, a record that is known is our own.
            self.known += 0 if self._doubtful else answer.known
            self._doubtful = False
            del self.waiting[: len(batch)]
        return True

    async def settle(self) -> None:
        """Send what waits, patiently; what is left in the end stays in `waiting`, with the reason in `why`."""
        until, pause_s = time.monotonic() + self._patience_s, FIRST_PAUSE_SECONDS
        try:
            while not await self.send() and time.monotonic() < until:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_SECONDS)
        except TenantryError as refused:
            self.why = str(refused)


async def metered(command: Sequence[str], job: Job, books: Books, *, part_s: float, patience_s: float) -> Ended:
    """Run a command and book its wall time times GPUs; raise TenantryError if it cannot be started.

    SIGTERM, SIGINT and SIGHUP are passed on to it. Its exit code comes back even if the ledger is away.
    """
    account = _Account(job, books, patience_s)
    try:
        process = await asyncio.create_subprocess_exec(*command)
    except OSError as error:
        raise TenantryError(f"cannot run {command[0]!r}: {error.strerror or error}") from None
    async with _forwarding(process.send_signal):
        ended = asyncio.ensure_future(_end(process))
        while not (await asyncio.wait([ended], timeout=part_s))[0]:
            account.cut(time.monotonic_ns())
            with contextlib.suppress(TenantryError):  # told at the end, if it still is so
                await account.send()
        code, end_ns = ended.result()
        account.cut(max(end_ns, account.since_ns))
        await account.settle()
    return Ended(
        exit_code=code if code >= 0 else 128 - code,
        gpu_ns=account.gpu_ns,
        unconfirmed=tuple(account.waiting),
        why=account.why if account.waiting else "",
        known=account.known,
    )


async def _end(process: asyncio.subprocess.Process) -> tuple[int, int]:
    """Return the exit code and when it came: a ledger that answers slowly at that moment is not the job's time."""
    return await process.wait(), time.monotonic_ns()


@contextlib.asynccontextmanager
async def _forwarding(to: Callable[[int], None]) -> AsyncIterator[None]:
    """Pass signals on instead of dying of them: the record is still to be written."""
    loop = asyncio.get_running_loop()

    def forward(number: int) -> None:
        if number == signal.SIGINT and sys.stdin.isatty():
            return  # the terminal tells all of its foreground, the command too
        with contextlib.suppress(ProcessLookupError):
            to(number)

    for number in FORWARDED:
        loop.add_signal_handler(number, forward, number)
    try:
        yield
    finally:
        for number in FORWARDED:
            loop.remove_signal_handler(number)
