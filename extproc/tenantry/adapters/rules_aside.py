"""A large document made ready without holding up requests.

Reading 10,000 tenants takes a second of Python, during which threads of one interpreter take turns: in a thread of the
sidecar it made the event loop late by 5 ms in the median, 95 ms at p99 and 250 ms at worst. (As it is now: 0.2, 2 to 6
and, on two busy cores, 120 ms; without any reload 0.2 and 3 ms.) So another process reads, merges and
validates, with little priority, and what it found comes back in pieces that are quickly taken in, with a pause after
each. Python's collector rests meanwhile, and need not look at a document again that lives until the next: each of its
rounds over one took 12 ms.

Small documents are read in a thread: they take a few milliseconds, and a process takes 0.15 s to begin.
"""

import asyncio
import gc
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from tenantry.adapters import logs
from tenantry.adapters.rules_file import Parts, rules_of
from tenantry.core.errors import Problem, RulesError
from tenantry.core.rulebook import RuleBook
from tenantry.core.rules import Rules, TenantRules

ASIDE_BYTES = 32 * 1024
PIECE_TENANTS = 100
"""0.25 ms to take in."""

PAUSE_SECONDS = 0.002
"""After each piece. With 0.2 ms this thread and the event loop handed the interpreter to each other and gRPC's own
thread did not get it: in one of four reloads requests waited until all was taken in (150 to 220 ms, bench.reload)."""

NICENESS = 10
ASIDE_SECONDS = 120.0
"""A document of the largest size takes a minute; a reader that takes longer hangs."""


class Answer(Struct, frozen=True, kw_only=True):
    """What the other process found: problems, or the rules without tenants, and these in pieces."""

    problems: tuple[Problem, ...] = ()
    rest: Rules | None = None
    tenants: tuple[Raw, ...] = ()


class ReaderError(Exception):
    """The other process could not be started, or ended without an answer."""


_answer = msgspec.msgpack.Decoder(Answer).decode
_piece = msgspec.msgpack.Decoder(dict[str, TenantRules]).decode
_encode = msgspec.msgpack.encode


async def book_of(parts: Parts) -> RuleBook:
    """Return the rules of these parts, indexed; raise RulesError with every problem."""
    if sum(len(raw) for _, raw in parts) < ASIDE_BYTES:
        return await asyncio.to_thread(lambda: RuleBook(rules_of(parts)))
    try:
        answer = _answer(await _read_aside(parts))
    except (ReaderError, TimeoutError, msgspec.MsgspecError) as error:
        # Late requests are better than rules that do not change.
        logs.get().warning("large rules are read in this process, which holds up requests", reason=str(error))
        return await asyncio.to_thread(lambda: RuleBook(rules_of(parts)))
    if answer.rest is None:
        raise RulesError(list(answer.problems))
    with _collector_at_rest():
        return await asyncio.to_thread(_taken_in, answer, answer.rest)


def _taken_in(answer: Answer, rest: Rules) -> RuleBook:
    tenants: dict[str, TenantRules] = {}
    for piece in answer.tenants:
        tenants |= _piece(piece)
        _pause()
    return RuleBook(replace(rest, tenants=tenants), _pause)


def _pause() -> None:
    time.sleep(PAUSE_SECONDS)  # who waits for the interpreter gets it


@contextmanager
def _collector_at_rest() -> Iterator[None]:
    """Keep Python's collector from looking at what is made inside, now and later."""
    gc.collect()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


async def _read_aside(parts: Parts) -> bytes:
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", __name__, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
    except OSError as error:
        raise ReaderError(f"no process: {error.strerror or error}") from None
    try:
        async with asyncio.timeout(ASIDE_SECONDS):
            told, _ = await process.communicate(_encode(parts))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise ReaderError(f"it ended with {process.returncode}")
    return told


def found(parts: Parts) -> Answer:
    """Return what is in these parts."""
    try:
        rules = rules_of(parts)
    except RulesError as error:
        return Answer(problems=tuple(error.problems))
    tenants = iter(rules.tenants.items())
    pieces = iter(lambda: dict(islice(tenants, PIECE_TENANTS)), {})
    return Answer(rest=replace(rules, tenants={}), tenants=tuple(Raw(_encode(piece)) for piece in pieces))


def main() -> None:
    """Read parts from standard input, write what was found to standard output."""
    os.nice(NICENESS)
    parts = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Parts)
    sys.stdout.buffer.write(_encode(found(parts)))


if __name__ == "__main__":
    main()
