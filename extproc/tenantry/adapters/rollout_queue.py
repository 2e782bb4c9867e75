"""Evidence that waits for its visits to be counted: bounded, and taken out only once a guard has seen it.

A count is a key in a store: one for the units of a split, one for mirrored pairs; what had no chance (beta, 0 or 100 %)
needs none. Each has a line of its own, so that a store that fails in the middle never leaves visits counted of
which no guard hears.
"""

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Literal

from tenantry.core.rollout.signals import Observation, Pair

Seen = Observation | Pair
Count = Literal["split", "pairs", "none"]
Line = tuple[str, Count]
"""A rollout, and which count of its visits."""


class Waiting:
    """At most `limit` requests of all rollouts together; `len` is how many wait."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lines: dict[Line, deque[Seen]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, rollout: str, seen: Seen) -> bool:
        """Let a request wait; return False when there is no room, and it is lost."""
        if self._size >= self._limit:
            return False
        self._lines.setdefault((rollout, _count(seen)), deque()).append(seen)
        self._size += 1
        return True

    def lines(self) -> tuple[Line, ...]:
        """Return the lines in which somebody waits, those that were served last at the end."""
        return tuple(self._lines)

    def batches(self, line: Line, size: int) -> Iterator[list[Seen]]:
        """Yield what waited in a line when it was asked, in order. A batch is taken out when the next one is asked for.

        So whoever stops in between (an error, a cancellation) leaves the batch at hand where it was; `drop` takes it.
        """
        left = len(self._lines.get(line, ()))
        while left > 0:
            batch = list(islice(self._lines.get(line, ()), min(size, left)))
            if not batch:
                return
            left -= len(batch)
            yield batch
            self.drop(line, batch)

    def drop(self, line: Line, batch: list[Seen]) -> None:
        """Take out a batch that stands at the head of its line, unless it was forgotten meanwhile."""
        waiting = self._lines.pop(line, deque())
        for seen in batch:
            if not waiting or waiting[0] is not seen:
                break
            waiting.popleft()
            self._size -= 1
        if waiting:
            self._lines[line] = waiting

    def postpone(self, line: Line) -> None:
        """Let the other lines have their turn first."""
        self.drop(line, [])

    def forget(self, rollout: str) -> int:
        """Forget all that waits of a rollout; return how many requests these were."""
        gone = [line for line in self._lines if line[0] == rollout]
        lost = sum(len(self._lines.pop(line)) for line in gone)
        self._size -= lost
        return lost


def _count(seen: Seen) -> Count:
    if isinstance(seen, Pair):
        return "pairs"
    return "split" if 0.0 < seen.share < 1.0 else "none"
