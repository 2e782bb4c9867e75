r"""How the spool's disk stands, whether new work may begin, which records were lost, and what is said about it.

    ok <--> low       all is written; less room is left than the reserve
     \       /
    full, error       a write failed: no room, or otherwise (`error` too while one hangs)

A change is logged once. While records are being lost, that is said at once and then every minute.
"""

import errno
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal

__all__ = ["DROP_REASONS", "DiskRule", "DiskState", "Health"]

DiskRule = Literal["refuse", "count"]
"""When records cannot be kept: refuse new work, or go on and count those that are lost."""

DiskState = Literal["ok", "low", "full", "error"]

DROP_REASONS = ("disk_full", "disk_error", "memory_full", "too_large", "stopped")

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_TELL_EVERY_S = 60.0


class Health:
    """The state of one spool's disk. The spool's thread changes it; any thread may read it."""

    def __init__(
        self,
        path: Path,
        *,
        rule: DiskRule,
        reserve_bytes: int,
        stalled_s: float,
        log: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self.dropped: Counter[str] = Counter()
        self._path = path
        self._rule = rule
        self._reserve_bytes = reserve_bytes
        self._stalled_s = stalled_s
        self._log = log
        self._clock = clock
        self._state: DiskState = "ok"
        self._trouble = ""
        self._began_s: float | None = None
        self._told_s = float("-inf")
        self._told_dropped = 0

    @property
    def state(self) -> DiskState:
        """How the disk stands."""
        return "error" if self._stalled() else self._state

    @property
    def trouble(self) -> str:
        """What is wrong with the disk, as the end of a sentence; empty if nothing is."""
        return f"has not finished a write for {self._stalled_s:g} s" if self._stalled() else self._trouble

    @property
    def accepting(self) -> bool:
        """Whether new work may begin: by the rule `refuse`, only while its records could be kept."""
        return self._rule == "count" or self.state == "ok"

    @property
    def drop_reason(self) -> str:
        """Why there is no place in memory: what the disk does."""
        return {"full": "disk_full", "error": "disk_error"}.get(self.state, "memory_full")

    def begin(self, now_s: float) -> None:
        """Note that the disk is being used from now on."""
        self._began_s = now_s

    def end(self) -> None:
        """Note that it is not any more."""
        self._began_s = None

    def works(self, room_bytes: int) -> None:
        """Note that the disk works, and how much room it has."""
        reserve = self._reserve_bytes
        # Once low, it must be more than just enough before it counts as ok: else the two would alternate.
        if room_bytes < (reserve if self._state == "ok" else reserve + reserve // 4):
            self._set("low", f"has {room_bytes} bytes left, the reserve is {reserve}")
        else:
            self._set("ok", "")

    def failed(self, error: OSError) -> None:
        """Note that a write failed."""
        if error.errno in FULL:
            self._set("full", f"is full: {error.strerror or error}")
        else:
            self._set("error", f"fails: {error.strerror or error}")

    def tell_lost(self) -> None:
        """Say that records are being lost, if so and if it is time to."""
        lost = self.dropped.total()
        if lost == self._told_dropped or (self._told_dropped and self._clock() < self._told_s + _TELL_EVERY_S):
            return
        self._told_s, self._told_dropped = self._clock(), lost
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.dropped.items()) if count)
        self._log(f"{lost} usage records have been lost since the start ({reasons}): nobody will be billed for them.")

    def tell_stalled(self) -> None:
        """Say that a write hangs, if so. For another thread to call: the spool's own is the one that hangs."""
        if self._stalled() and self._clock() >= self._told_s + _TELL_EVERY_S:
            self._told_s = self._clock()
            self._log(f"The disk of the spool {self._path} {self.trouble}. {self._consequence()}")

    def _set(self, state: DiskState, trouble: str) -> None:
        before, self._state, self._trouble = self._state, state, trouble
        if state == before:
            return
        self._told_s = self._clock()
        if state == "ok":
            lost = self.dropped.total()
            self._log(f"The disk of the spool {self._path} has room and works again; {lost} usage records were lost.")
        else:
            self._log(f"The disk of the spool {self._path} {trouble}. {self._consequence()}")

    def _consequence(self) -> str:
        if self._rule == "count":
            return "Serving goes on; records that find no room in memory either are lost and counted."
        return "New work is refused until that has passed."

    def _stalled(self) -> bool:
        began_s = self._began_s
        return began_s is not None and self._clock() > began_s + self._stalled_s
