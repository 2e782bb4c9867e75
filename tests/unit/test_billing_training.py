"""A training job under `metered`: every nanosecond booked once, whatever becomes of the job or the ledger."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence

import pytest
from tenantry.adapters.ledger.client import BookedAnswer, LedgerAwayError, LedgerClientError
from tenantry.adapters.ledger.training import FORWARDED, Ended, Job, metered
from tenantry.core.errors import TenantryError
from tenantry.core.usage import Record, Training

JOB = Job(job="tune-7", tenant="acme", model="chat-8b", gpus=2, first_part=10)


class Books:
    """A ledger that can be away, refuse, or lose an answer; `booked` are the records by id."""

    def __init__(self, *moods: str) -> None:
        self.moods = list(moods)
        self.booked: dict[str, Record] = {}
        self.sent: list[str] = []

    async def book(self, records: Sequence[Record]) -> BookedAnswer:
        mood = self.moods.pop(0) if self.moods else "well"
        self.sent += [record.id for record in records]
        if mood == "away":
            raise LedgerAwayError("nobody there")
        if mood == "refuses":
            raise LedgerClientError("not with this token")
        new = {record.id: record for record in records if record.id not in self.booked}
        known = len(records) - len(new)
        for each in records:
            assert self.booked.get(each.id, each) == each, "the same id with other figures"
        self.booked |= new
        if mood == "answer lost":
            raise LedgerAwayError("the answer was lost")
        return BookedAnswer(new=len(new), known=known)

    def gpu_ns(self) -> int:
        return sum(record.gpu_ns for record in self.booked.values() if isinstance(record, Training))


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


async def run(books: Books, *command: str, part_s: float = 60.0, patience_s: float = 5.0) -> Ended:
    return await metered(command, JOB, books, part_s=part_s, patience_s=patience_s)


async def test_a_long_job_is_booked_in_parts_that_add_up() -> None:
    books = Books()
    began_ns = time.monotonic_ns()
    ended = await run(books, "sleep", "0.35", part_s=0.1)
    passed_ns = time.monotonic_ns() - began_ns
    assert ended == Ended(exit_code=0, gpu_ns=books.gpu_ns())
    assert 2 * 350_000_000 <= ended.gpu_ns <= 2 * passed_ns
    parts = [record.part for record in books.booked.values() if isinstance(record, Training)]
    assert parts == list(range(10, 10 + len(parts)))
    assert len(parts) >= 3


@pytest.mark.parametrize("moods", [("away",), ("away", "away", "away"), ("answer lost",), ("away", "answer lost")])
async def test_a_ledger_that_is_away_for_a_while_loses_and_doubles_nothing(moods: tuple[str, ...]) -> None:
    books = Books(*moods)
    ended = await run(books, "sleep", "0.25", part_s=0.1)
    assert (ended.unconfirmed, ended.why, ended.known) == ((), "", 0)
    assert books.gpu_ns() == ended.gpu_ns


async def test_what_a_ledger_never_confirms_comes_back_whole() -> None:
    books = Books(*["away"] * 50)
    ended = await run(books, "sleep", "0.25", part_s=0.1, patience_s=0.0)
    assert books.booked == {}
    assert sum(part.gpu_ns for part in ended.unconfirmed) == ended.gpu_ns
    assert ended.why == "nobody there"


async def test_a_refusal_is_not_repeated() -> None:
    books = Books("refuses")
    ended = await run(books, "true")
    assert (len(ended.unconfirmed), ended.why, len(books.sent)) == (1, "not with this token", 1)


async def test_a_part_that_another_run_has_booked_is_told() -> None:
    books = Books()
    earlier = Training(job="tune-7", part=10, tenant="acme", model="chat-8b", ended_s=1.0, gpu_ns=1)

    class Taken(Books):
        async def book(self, records: Sequence[Record]) -> BookedAnswer:
            assert [record.id for record in records] == [earlier.id]
            return BookedAnswer(new=0, known=1)

    ended = await metered(("true",), JOB, Taken(), part_s=60.0, patience_s=5.0)
    assert ended.known == 1
    assert books.booked == {}


@pytest.mark.parametrize("number", FORWARDED)
async def test_signals_reach_the_job_and_its_time_is_booked_nevertheless(number: signal.Signals) -> None:
    books = Books()
    told = "import signal, sys, time\n"
    told += "[signal.signal(n, lambda n, _: sys.exit(100 + n)) for n in (1, 2, 15)]\n"
    told += "print('ready', flush=True); time.sleep(20)"
    running = asyncio.ensure_future(run(books, *python(told)))
    await asyncio.sleep(0.6)
    os.kill(os.getpid(), number)
    ended = await running
    assert ended.exit_code == 100 + number
    assert books.gpu_ns() == ended.gpu_ns > 0


async def test_a_ledger_that_answers_slowly_is_not_the_jobs_time() -> None:
    class Slow(Books):
        async def book(self, records: Sequence[Record]) -> BookedAnswer:
            await asyncio.sleep(0.5)
            return await super().book(records)

    books = Slow()
    ended = await run(books, "sleep", "0.15", part_s=0.1)
    assert ended.gpu_ns < 2 * 400_000_000
    assert books.gpu_ns() == ended.gpu_ns


async def test_a_program_that_is_not_there_books_nothing() -> None:
    books = Books()
    with pytest.raises(TenantryError, match="cannot run '/no/such'"):
        await run(books, "/no/such")
    assert books.sent == []
