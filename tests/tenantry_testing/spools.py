"""Spools for tests: records, a disk that fills up or fails, a ledger that counts ids, what is on disk in the end."""

import errno
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from tenantry.core.usage import UsageRecord, read_batch
from tenantry_vllm.sidecar_http import Answer
from tenantry_vllm.spool import Spool, SpoolLimits
from tenantry_vllm.spool_folder import Disk, Folder, claim
from tenantry_vllm.spool_health import DiskRule
from tenantry_vllm.spool_reader import SpoolReader

SMALL = SpoolLimits(
    spool_bytes=1_000_000, segment_bytes=4_000, reserve_bytes=1_000, memory_bytes=20_000, commit_s=0.005, retry_s=0.02,
    stalled_s=0.3,
)  # fmt: skip


def record(number: int, **fields: Any) -> UsageRecord:
    base = UsageRecord(
        request_id=f"{number:032x}", engine="e-1", tenant="acme", model="m", version="1", ended_s=1.0,
        finish_reason="stop",
    )  # fmt: skip
    return msgspec.structs.replace(base, **fields)


def payload(number: int, **fields: Any) -> bytes:
    return msgspec.json.encode(record(number, **fields))


def number_of(data: bytes) -> int:
    return int(msgspec.json.decode(data)["request_id"], 16)


def until(condition: Callable[[], object], within_s: float = 5.0) -> None:
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen"
        time.sleep(0.002)


class Log(list[str]):
    """The sentences that were logged."""

    def __call__(self, text: str) -> None:
        self.append(text)

    def having(self, part: str) -> list[str]:
        return [text for text in self if part in text]


class SickDisk(Disk):
    """A disk that takes `room` bytes more (None: any number), fails every sync with `sync_error`, or hangs in one."""

    def __init__(self) -> None:
        self.room: int | None = None
        self.sync_error: int | None = None
        self.hangs = threading.Event()
        self.hangs.set()
        self.syncs = 0

    def write(self, descriptor: int, data: bytes) -> None:
        if self.room is not None and len(data) > self.room:
            super().write(descriptor, data[: self.room])  # as much as fits, as a real one
            self.room = 0
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.room is not None:
            self.room -= len(data)
        super().write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        self.hangs.wait(10.0)
        if self.sync_error is not None:
            raise OSError(self.sync_error, os.strerror(self.sync_error))
        self.syncs += 1
        super().sync(descriptor)


@contextmanager
def spooling(
    root: Path, engine: str = "e-1", *, log: Log | None = None, rule: DiskRule = "refuse",
    limits: SpoolLimits = SMALL, disk: Disk | None = None,
) -> Iterator[Spool]:  # fmt: skip
    """A running spool; afterwards it is stopped, and its folder unlocked as by the end of the process."""
    spool = Spool(root, engine, log=log if log is not None else Log(), rule=rule, limits=limits, disk=disk or Disk())
    spool.start()
    try:
        yield spool
    finally:
        spool.stop(5.0)
        if spool.folder is not None:
            spool.folder.close()


def fill(root: Path, numbers: range, engine: str = "e-1", limits: SpoolLimits = SMALL) -> Path:
    """Write records in one go, as a process that died afterwards; return its folder."""
    with spooling(root, engine, limits=limits) as spool:
        for number in numbers:
            place = spool.append(payload(number))
            if number % 7 == 0:
                assert place is not None
                assert spool.wait_fsynced(place, 5.0)
    assert spool.fsynced == len(numbers)
    return spool.path


def left_in(path: Path, log: Log | None = None) -> list[int]:
    """Return the numbers of the records that a dead process's folder has, without changing it."""
    folder = claim(path)
    assert folder is not None, "somebody holds the lock"
    reader = SpoolReader(folder, log=log if log is not None else Log())
    try:
        return [number_of(entry.payload) for entry in reader.batch(10**9, 10**12)]
    finally:
        folder.close()


def claimed(path: Path) -> Folder:
    folder = claim(path)
    assert folder is not None
    return folder


class FakeLedger:
    """A ledger behind a transport: books each id once, and counts how often each came.

    `behaves` is a status, an exception to raise before booking, or `lost`: it books, and the answer never arrives.
    Records whose number is in `hates` are refused, with their places if it `names_bad`.
    """

    def __init__(self) -> None:
        self.came: Counter[str] = Counter()
        self.behaves: int | Exception | str = 200
        self.hates: set[int] = set()
        self.names_bad = True
        self.posts = 0

    @property
    def numbers(self) -> list[int]:
        return sorted(int(one.split("/")[0], 16) for one in self.came)

    def connect(self) -> "FakeLedger":
        return self

    def post(self, body: bytes) -> Answer:
        self.posts += 1
        if isinstance(self.behaves, Exception):
            raise self.behaves
        if self.behaves not in {200, "lost"}:
            return Answer(status=int(self.behaves), text="<html>no ledger</html>")
        records = read_batch(body)
        bad = [place for place, one in enumerate(records) if int(one.id.split("/")[0], 16) in self.hates]
        if bad:
            said = {"error": f"records[{bad[0]}] is hated"} | ({"bad": bad} if self.names_bad else {})
            return Answer(status=400, text=msgspec.json.encode(said).decode())
        new = len({one.id for one in records} - set(self.came))
        self.came.update(one.id for one in records)
        if self.behaves == "lost":
            raise TimeoutError("timed out")
        return Answer(status=200, text=f'{{"new":{new},"known":{len(records) - new}}}')

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass
