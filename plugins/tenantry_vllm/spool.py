"""Keeps records on disk until the ledger has them. `append` returns at once; a thread writes and fsyncs in groups.

    append --> pending (memory, bounded) --(write + fsync, at most every commit_s)--> segments --(SpoolReader)--> ledger

A record is *fsynced* when its group is on the disk: from then on neither `kill -9` nor a power cut loses it. What is
lost with the process is what came since the last fsync: `commit_s`, and as long as the disk takes.

When a write fails, what the disk may have of it is cut off, and the same records are written anew to another segment:
after a failed fsync nobody can tell what is on the disk, and a second fsync may say that all is well (fsyncgate, 2018).
Meanwhile records wait in memory; beyond `memory_bytes` they are lost, counted by reason, and said to be so in the log
again and again. It goes on by itself as soon as a write succeeds.
"""

import errno
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from tenantry_vllm.spool_folder import Disk, Folder, SpoolError, bytes_below, claim, folder_name, sync_folder
from tenantry_vllm.spool_format import FRAME_BYTES, HEADER_BYTES, MAX_PAYLOAD_BYTES, frame, header
from tenantry_vllm.spool_health import FULL, DiskRule, Health
from tenantry_vllm.spool_repair import repair

__all__ = ["Spool", "SpoolError", "SpoolLimits", "limits_of"]

_GROUP_BYTES = 1024 * 1024
LEAST_SPOOL_BYTES = 1024 * 1024

_PASSING = (*FULL, errno.EIO, errno.EROFS)
_MEASURE_EVERY_S = 60.0


class SpoolLimits(Struct, frozen=True, kw_only=True):
    """The bounds of one spool. `spool_bytes` is of all below the root, whoever wrote it.

    With less than `reserve_bytes` left, the rule `refuse` refuses: the reserve is for records of what runs already.
    """

    spool_bytes: int = 4 * 1024**3
    segment_bytes: int = 16 * 1024**2
    reserve_bytes: int = 32 * 1024**2
    memory_bytes: int = 16 * 1024**2
    commit_s: float = 0.05
    retry_s: float = 1.0
    stalled_s: float = 10.0


def limits_of(spool_bytes: int) -> SpoolLimits:
    """Return the bounds of a spool of that size: segments and reserve of a small one are small; raise ValueError."""
    if spool_bytes < LEAST_SPOOL_BYTES:
        raise ValueError(f"spool_bytes is {spool_bytes}, must be {LEAST_SPOOL_BYTES} at least")
    usual = SpoolLimits()
    return SpoolLimits(
        spool_bytes=spool_bytes,
        segment_bytes=min(usual.segment_bytes, spool_bytes // 16),
        reserve_bytes=min(usual.reserve_bytes, spool_bytes // 8),
    )


class Spool:
    """The spool of one engine process. `append` may be called from any thread; `log` gets whole sentences."""

    def __init__(
        self,
        root: Path,
        engine: str,
        *,
        log: Callable[[str], None],
        rule: DiskRule = "refuse",
        limits: SpoolLimits = SpoolLimits(),  # noqa: B008 - frozen
        disk: Disk = Disk(),  # noqa: B008 - without state
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = root / folder_name(engine)
        self.folder: Folder | None = None
        self.health = Health(
            self.path, rule=rule, reserve_bytes=limits.reserve_bytes, stalled_s=limits.stalled_s, log=log, clock=clock
        )
        self.appended = 0
        self._root = root
        self._log = log
        self._limits = limits
        self._disk = disk
        self._clock = clock
        self._changed = threading.Condition()
        self._pending: deque[bytes] = deque()
        self._pending_bytes = 0
        self._first = 0  # sequence of the first record of this process
        self._fsynced = 0  # all below are on disk
        self._sizes: dict[int, int] = {}
        self._elsewhere_bytes = 0
        self._measured_s = float("-inf")
        self._open: _Segment | None = None
        self._number = 0
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="usage-spool", daemon=True)

    @property
    def fsynced(self) -> int:
        """How many records of this process are on disk."""
        return self._fsynced - self._first

    @property
    def limit_bytes(self) -> int:
        """How much may be on disk."""
        return self._limits.spool_bytes

    @property
    def end(self) -> int:
        """The sequence that the next record gets."""
        with self._changed:
            return self._fsynced + len(self._pending)

    @property
    def unwritten(self) -> bytes | None:
        """The oldest record that is not on disk yet."""
        with self._changed:
            return self._pending[0] if self._pending else None

    def start(self) -> None:
        """Lock the folder, repair what a crash left in it, and start the thread.

        Raise SpoolError if the folder cannot be used, or another process uses it. A full disk is no such error: that
        passes, and until then the rule for it holds.
        """
        try:
            self._claim()
            self.health.works(self._room())
        except OSError as error:
            if isinstance(error, SpoolError) or error.errno not in _PASSING:
                raise SpoolError(f"{self.path} cannot hold usage records: {error.strerror or error}") from error
            self.health.failed(error)
        self._thread.start()

    def append(self, payload: bytes) -> int | None:
        """Take a record's JSON; return its place among those of this process, from 0, or None if it was dropped.

        Never waits for I/O.
        """
        with self._changed:
            if reason := self._no_place(len(payload)):
                self.health.dropped[reason] += 1
                return None
            self._pending.append(payload)
            self._pending_bytes += len(payload)
            self.appended += 1
            if len(self._pending) == 1:
                self._changed.notify_all()
            return self.appended - 1

    def wait_fsynced(self, place: int, timeout_s: float) -> bool:
        """Wait until a record is on disk; return whether it is. `place` is what `append` returned."""
        with self._changed:
            return self._changed.wait_for(lambda: self.fsynced > place, timeout_s)

    def segments(self) -> tuple[dict[int, int], int | None]:
        """Return the segments by number with the bytes that are on disk, and the number of the one being written."""
        with self._changed:
            return dict(self._sizes), self._open.number if self._open else None

    def released(self, number: int) -> None:
        """Note that a segment was deleted, as the ledger has all of it."""
        with self._changed:
            self._sizes.pop(number, None)

    def stop(self, timeout_s: float = 1.0) -> None:
        """Write what waits, for `timeout_s` at most; drop and count the rest. The folder stays locked."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        with self._changed:
            lost = len(self._pending)
            self.health.dropped["stopped"] += lost
        if not self._thread.is_alive():
            self._close_segment()
        if lost:
            self._log(f"{lost} usage records were lost: the engine stopped, and {self.path} {self.health.trouble}.")

    def _no_place(self, size: int) -> str:
        """Return why a record cannot be taken, or nothing."""
        if self._stopping:
            return "stopped"
        if not 0 < size <= MAX_PAYLOAD_BYTES:
            return "too_large"
        return "" if self._pending_bytes + size <= self._limits.memory_bytes else self.health.drop_reason

    def _run(self) -> None:
        wait_s = 0.0
        while True:
            with self._changed:
                if wait_s:  # what fails is not tried again at once, what succeeds not too often
                    self._changed.wait_for(lambda: self._stopping, wait_s)
                self._changed.wait_for(lambda: self._pending or self._stopping, self._limits.retry_s)
                ending = self._stopping
            began_s = self._clock()
            good = self._step(began_s)
            self.health.tell_lost()
            if ending and (not good or not self._pending):
                return
            wait_s = max(0.0, began_s + self._limits.commit_s - self._clock()) if good else self._limits.retry_s

    def _step(self, now_s: float) -> bool:
        """Write a group if there is one; return whether the disk works."""
        self.health.begin(now_s)
        try:
            if self.folder is None:
                self._claim()
            if now_s >= self._measured_s + _MEASURE_EVERY_S or self.health.state != "ok":
                self._elsewhere_bytes, self._measured_s = bytes_below(self._root, but=self.path), now_s
            self._commit()
            self.health.works(self._room())
        except OSError as error:
            self._give_up_segment()
            self.health.failed(error)
            return False
        except Exception as error:  # noqa: BLE001 - a bug must not end the thread: what waits would be lost silently
            self._give_up_segment()
            self.health.failed(OSError(0, f"has met a bug: {type(error).__name__}"))
            return False
        finally:
            self.health.end()
        return True

    def _claim(self) -> None:
        folder = claim(self.path)
        if folder is None:
            raise SpoolError(f"another process has {self.path}: give each engine process a name of its own")
        try:
            repaired = repair(folder, self._log)
            sync_folder(self._root)
        except BaseException:
            folder.close()
            raise
        sizes = folder.segments()
        with self._changed:
            self.folder = folder
            self._sizes = sizes
            self._number = max(self._sizes, default=0)
            self._first = self._fsynced = repaired

    def _commit(self) -> None:
        room = self._bound_room() - HEADER_BYTES
        group: list[bytes] = []
        size = 0
        with self._changed:
            for payload in self._pending:
                size += FRAME_BYTES + len(payload)
                if size > (min(room, _GROUP_BYTES) if group else room):
                    break
                group.append(payload)
            if not self._pending:
                return
        if not group:
            raise OSError(errno.ENOSPC, f"holds {self._limits.spool_bytes} bytes, as many as it may")
        data = b"".join(frame(self._fsynced + place, payload) for place, payload in enumerate(group))
        segment = self._open or self._new_segment()
        self._disk.write(segment.descriptor, data)
        self._disk.sync(segment.descriptor)
        with self._changed:
            for payload in group:
                self._pending_bytes -= len(payload)
                self._pending.popleft()
            self._fsynced += len(group)
            self._sizes[segment.number] += len(data)
            full = self._sizes[segment.number] >= self._limits.segment_bytes
            self._changed.notify_all()
        if full:
            self._close_segment()

    def _new_segment(self) -> "_Segment":
        folder = self.folder
        if folder is None:
            raise RuntimeError("the folder is not claimed yet")
        number = self._number + 1
        path = folder.segment(number)
        descriptor = self._disk.create(path)
        try:
            self._disk.write(descriptor, header(self._fsynced))
            self._disk.sync(descriptor)
            sync_folder(folder.path)
        except BaseException:
            os.close(descriptor)
            with suppress(OSError):
                path.unlink()
            raise
        with self._changed:
            self._number = number
            self._sizes[number] = HEADER_BYTES
            self._open = _Segment(number, descriptor)
            return self._open

    # A disk may hang in whatever it is asked: nothing of it is asked while the lock is held, or `append` would wait.

    def _give_up_segment(self) -> None:
        """Cut off what may have been written since the last fsync; the next write goes to another segment."""
        segment = self._open
        if segment is None:
            return
        size = self._sizes[segment.number]
        with suppress(OSError):  # what stays is read twice and known by its sequence, or is torn
            os.ftruncate(segment.descriptor, size)
        self._close_segment()
        if size == HEADER_BYTES and self.folder is not None:
            with suppress(OSError):
                self.folder.segment(segment.number).unlink()
                self.released(segment.number)

    def _close_segment(self) -> None:
        with self._changed:
            segment, self._open = self._open, None
        if segment is not None:
            with suppress(OSError):
                os.close(segment.descriptor)

    def _bound_room(self) -> int:
        with self._changed:
            return self._limits.spool_bytes - self._elsewhere_bytes - sum(self._sizes.values())

    def _room(self) -> int:
        return min(self._bound_room(), self._disk.free_bytes(self._root))


class _Segment(Struct, frozen=True):
    number: int
    descriptor: int
