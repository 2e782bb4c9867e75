"""Reads a spool's records in order, and lets go of what the ledger has. One thread reads; others may look at counts.

    batch() --> the first records that are not acknowledged --acknowledge(n)--> cursor moves, whole segments are deleted

What is destroyed is stepped over and reported, with the number of records that are missing by their sequences; such a
segment is set aside for a person instead of deleted. A record that two segments have (`spool`) comes once.
"""

import errno
import math
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from tenantry_vllm.spool_folder import Folder
from tenantry_vllm.spool_format import HEADER_BYTES, MAX_FRAME_BYTES, Entry, FormatError, read_header, scan

__all__ = ["Head", "SpoolReader"]

Segments = Callable[[], tuple[dict[int, int], int | None]]
"""Returns the segments by number with the bytes that may be read, and the number of the one being written."""

_CHUNK_BYTES = 16 * MAX_FRAME_BYTES
_SETTLE_EVERY_S = 1.0
_READ_TRIES, _READ_EVERY_S = 5, 1.0


class Head(Struct, frozen=True):
    """Where the reader stands: the ledger has all records below `sequence`; the first that it lacks, if it was read."""

    sequence: int
    payload: bytes | None


class _Waiting(Struct, frozen=True):
    """A record that was read and is not acknowledged; `number` and `end` say where it ends."""

    entry: Entry
    number: int
    end: int


class SpoolReader:
    """Reads one folder. Without `segments` it is a dead process's, which nobody writes to any more.

    `acknowledged` and `damaged` count records; of damage at the very end nobody knows how many there were: one.
    `head` is for any thread.
    """

    def __init__(
        self,
        folder: Folder,
        *,
        log: Callable[[str], None],
        segments: Segments | None = None,
        released: Callable[[int], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self.acknowledged = 0
        self.damaged = 0
        self._log = log
        self._clock = clock
        left = folder.segments() if segments is None else {}
        self._dead = segments is None
        self._segments = segments or (lambda: (left, None))
        self._released = released or (lambda number: left.pop(number, None))
        self._waiting: deque[_Waiting] = deque()
        self._segment: int | None = None
        self._last = 0
        self._at = 0
        self._expected = self._written = folder.read_cursor()
        self.head = Head(self._expected, None)
        self._settled_s = -math.inf
        self._acknowledged_at = (0, 0)
        self._finished: deque[tuple[int, int]] = deque()  # segments read to their end, and the sequence behind them
        self._spoilt: set[int] = set()
        self._unexplained = False
        self._failures = 0
        self._not_before_s = -math.inf

    @property
    def finished(self) -> bool:
        """Whether a dead process's folder has nothing left."""
        return self._dead and not self._waiting and not self._segments()[0]

    @property
    def waiting_bytes(self) -> int:
        """How much is on disk that the ledger does not have. From any thread."""
        number, at = self._acknowledged_at
        sizes, _ = self._segments()
        return sum(max(0, size - (at if each == number else HEADER_BYTES)) for each, size in list(sizes.items()))

    def batch(self, records: int, size: int) -> tuple[Entry, ...]:
        """Return the first records that are not acknowledged, of at most so many and so many bytes; raise OSError.

        What could not be read is tried again after a second, five times, and then given up as damage.
        """
        while len(self._waiting) < records and self._clock() >= self._not_before_s and self._fill():
            pass
        self._show_head()
        found: list[Entry] = []
        for waiting in self._waiting:
            size -= len(waiting.entry.payload) + 1
            if len(found) == records or (found and size < 0):
                break
            found.append(waiting.entry)
        if not found:
            self.settle()
        return tuple(found)

    def acknowledge(self, count: int) -> None:
        """Note that the first `count` records need not be sent again; on disk this is within a second."""
        for _ in range(count):
            last = self._waiting.popleft()
            self._acknowledged_at = (last.number, last.end)
        self.acknowledged += count
        self._show_head()
        self.settle()

    def settle(self, *, now: bool = False) -> None:
        """Write the cursor, `now` or when it is time to, and delete the segments that are done with.

        A disk that will not have it is no trouble of this side: the same is sent again, at worst, and known by its ids.
        """
        if not now and self._clock() < self._settled_s + _SETTLE_EVERY_S:
            return
        self._settled_s = self._clock()
        if not self._write_cursor():
            self._delete_finished()  # which may make room
            self._write_cursor()
        else:
            self._delete_finished()

    def close(self) -> None:
        """Let go of the folder; delete it if it has nothing left."""
        self.settle(now=True)
        self.folder.remove()

    def _show_head(self) -> None:
        """Let other threads know; they must not look into what waits."""
        self.head = Head(self._lacking, self._waiting[0].entry.payload if self._waiting else None)

    @property
    def _lacking(self) -> int:
        """The first sequence that the ledger may lack."""
        return self._waiting[0].entry.sequence if self._waiting else self._expected

    def _write_cursor(self) -> bool:
        if self._lacking != self._written:
            try:
                self.folder.write_cursor(self._lacking)
            except OSError:
                return False
            self._written = self._lacking
        return True

    def _delete_finished(self) -> None:
        while self._finished and self._finished[0][1] <= self._lacking:
            number = self._finished[0][0]
            try:
                if number in self._spoilt:
                    kept = self.folder.set_aside(number)
                    self._log(f"A damaged segment of the usage spool is kept at {kept}, what was sound was delivered.")
                else:
                    self.folder.segment(number).unlink(missing_ok=True)
            except OSError:
                return
            self._finished.popleft()
            self._spoilt.discard(number)
            self._released(number)

    def _fill(self) -> bool:
        """Read on; return whether there may be more."""
        sizes, live = self._segments()
        if self._segment is None or self._segment not in sizes:
            self._segment = min((number for number in sizes if number > self._last), default=None)
            if self._segment is None:
                self._end()
                return False
            self._last, self._at = self._segment, 0
        size = sizes[self._segment]
        if self._at < size:
            self._read_on(self._segment, size, live=self._segment == live)
            return True
        if self._segment == live:
            return False
        self._finished.append((self._segment, self._expected))
        self._segment = None
        return True

    def _read_on(self, number: int, size: int, *, live: bool) -> None:
        wanted = min(_CHUNK_BYTES if self._at else HEADER_BYTES, size - self._at)
        try:
            data = _read(self.folder.segment(number), self._at, wanted)
            if len(data) < wanted:
                raise OSError(errno.EIO, f"is shorter than {size} bytes, which it had")  # noqa: TRY301
        except OSError as error:
            self._failures += 1
            self._not_before_s = self._clock() + _READ_EVERY_S
            if live or self._failures < _READ_TRIES:
                raise
            self._spoil(number, f"cannot be read from byte {self._at} on: {error.strerror or error}")
            self._at = size
        else:
            self._take(number, data, ended=self._at + wanted >= size)
        self._failures = 0

    def _take(self, number: int, data: bytes, *, ended: bool) -> None:
        if self._at == 0:
            self._take_header(number, data)
            return
        found = scan(data, ended=ended)
        if found.damage:
            total = sum(stop - start for start, stop in found.damage)
            self._spoil(number, f"has {total} destroyed bytes, the first at {self._at + found.damage[0][0]}")
        for entry in found.entries:
            if entry.sequence >= self._expected:
                self._miss(number, entry.sequence)
                self._waiting.append(_Waiting(entry, number, self._at + entry.end))
                self._expected = entry.sequence + 1
        if found.entries and (not found.damage or found.entries[-1].end > found.damage[-1][1]):
            self._unexplained = False
        if found.torn:
            self._log(f"{self._name(number)} ends in a write that broke off: {found.torn} bytes, none acknowledged.")
        self._at += found.end + found.torn

    def _take_header(self, number: int, data: bytes) -> None:
        try:
            first = read_header(data)
        except FormatError as error:
            self._spoil(number, f"is no segment: {error}")
            first = None
        if first is not None:
            self._miss(number, first)
            self._expected = max(self._expected, first)
        self._at = min(HEADER_BYTES, len(data))

    def _miss(self, number: int, sequence: int) -> None:
        if missing := max(0, sequence - self._expected):
            self.damaged += missing
            self._log(f"{missing} usage records are missing before or in {self._name(number)}: destroyed, or removed.")

    def _spoil(self, number: int, text: str) -> None:
        self._spoilt.add(number)
        self._unexplained = True
        self._log(f"{self._name(number)} {text}. What is sound is delivered, the file is kept.")

    def _end(self) -> None:
        """Count damage behind which nothing came, and never will."""
        if self._dead and self._unexplained:
            self._unexplained = False
            self.damaged += 1

    def _name(self, number: int) -> str:
        return f"The segment {self.folder.segment(number)} of the usage spool"


def _read(path: Path, at: int, size: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, size, at)
    finally:
        os.close(descriptor)
