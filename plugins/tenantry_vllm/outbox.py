"""The usage records that wait for one sidecar: when to post, what to keep, what to give up. No clock, thread or socket.

    add --> waiting --(take, once due)--> in flight --(taken: 2xx)-----------> shipped
               ^                              |------(never: 400 and the like)-> dropped "refused"
               +----------(later)-------------+

A batch is due `flush_s` after its oldest record came, or at once when it is full. `later` (down, hanging, 401, 5xx)
puts it back in front and waits: `first_retry_s`, doubled each time up to `longest_retry_s`. No jitter: engines that
retry in step cost a sidecar one POST each. A batch may arrive twice; a record's id makes that harmless
(tenantry.core.usage).

Nothing here grows without end or lives for ever: beyond `waiting_records` the oldest go ("full"), and beyond
`max_age_s` a record is worthless to the guard, which has judged the request without it ("too_old").
"""

from collections import Counter, deque
from enum import Enum

from msgspec import Struct
from tenantry.core.usage import MAX_BATCH, MAX_BATCH_BYTES

_HEAD, _TAIL = b'{"records":[', b"]}"

SHIPPED = "shipped"
DROP_REASONS = ("full", "too_old", "refused", "stopped")
"""What `Outbox.counts` counts besides SHIPPED."""


class Limits(Struct, frozen=True, kw_only=True):
    """The bounds of one outbox. With 0.1 s a record is posted at most about 0.15 s after its request ended.

    `longest_retry_s` stays below the 5 s for which the guard waits (`rollout.records.seconds`): what ended just before
    a sidecar came back is still in time.
    """

    flush_s: float = 0.1
    batch_records: int = MAX_BATCH
    batch_bytes: int = MAX_BATCH_BYTES
    waiting_records: int = 20_000
    max_age_s: float = 60.0
    first_retry_s: float = 0.25
    longest_retry_s: float = 2.0


class Item(Struct, frozen=True):
    """One encoded record, and when it came, on the shipper's clock."""

    data: bytes
    added_s: float


class Verdict(Enum):
    """What a sidecar's answer means for a batch."""

    TAKEN = "taken"
    LATER = "later"
    NEVER = "never"


def verdict(status: int) -> Verdict:
    """Judge an HTTP status. What a sidecar does not understand now it will not understand later."""
    if 200 <= status < 300:
        return Verdict.TAKEN
    return Verdict.NEVER if status in {400, 413, 415, 422} else Verdict.LATER


def batch_body(items: tuple[Item, ...]) -> bytes:
    """Return the JSON of a `Batch` of records that are JSON already."""
    return _HEAD + b",".join(item.data for item in items) + _TAIL


class Outbox:
    """The queue of one sidecar. Times are seconds on one clock that does not run backwards."""

    def __init__(self, limits: Limits) -> None:
        self.counts: Counter[str] = Counter()
        self._limits = limits
        self._waiting: deque[Item] = deque()
        self._waiting_bytes = 0
        self._in_flight: tuple[Item, ...] = ()
        self._not_before_s = float("-inf")
        self._failures = 0
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting) + len(self._in_flight)

    @property
    def closed(self) -> bool:
        """Whether it takes no more."""
        return self._closed

    @property
    def due_s(self) -> float | None:
        """When `take` should be called next: None with nothing to take, minus infinity for at once."""
        if not self._waiting or self._in_flight:
            return None
        if self._closed:
            return float("-inf")
        ready_s = float("-inf") if self._full() else self._waiting[0].added_s + self._limits.flush_s
        return max(ready_s, self._not_before_s)

    def add(self, item: Item) -> bool:
        """Queue a record; return whether `due_s` has changed, so that a sleeping sender must be woken."""
        if self._closed:
            self.counts["stopped"] += 1
            return False
        before = self.due_s
        self._append(item)
        self._shed()
        return self.due_s != before

    def take(self, now_s: float) -> tuple[Item, ...]:
        """Return the next batch, the oldest first; empty if all that waited was too old. One at a time."""
        if self._in_flight:
            raise RuntimeError("take() with a batch in flight: call taken(), later() or never() first")
        while self._waiting and self._waiting[0].added_s < now_s - self._limits.max_age_s:
            self._pop()
            self.counts["too_old"] += 1
        batch: list[Item] = []
        size = len(_HEAD) + len(_TAIL)
        while self._waiting and len(batch) < self._limits.batch_records:
            size += len(self._waiting[0].data) + 1
            if batch and size > self._limits.batch_bytes:
                break
            batch.append(self._pop())
        self._in_flight = tuple(batch)
        return self._in_flight

    def taken(self) -> None:
        """Note that the sidecar has the batch in flight."""
        self.counts[SHIPPED] += len(self._in_flight)
        self._in_flight = ()
        self._failures = 0
        self._not_before_s = float("-inf")

    def never(self) -> None:
        """Give the batch in flight up: the sidecar works, but will not have it."""
        self.counts["refused"] += len(self._in_flight)
        self._in_flight = ()
        self._failures = 0
        self._not_before_s = float("-inf")

    def later(self, now_s: float) -> None:
        """Put the batch in flight back and wait; once closed, there is no later and all is dropped."""
        for item in reversed(self._in_flight):
            self._waiting.appendleft(item)
            self._waiting_bytes += len(item.data) + 1
        self._in_flight = ()
        if self._closed:
            self.abandon()
            return
        wait_s = min(self._limits.first_retry_s * 2.0 ** min(self._failures, 30), self._limits.longest_retry_s)
        self._failures += 1
        self._not_before_s = now_s + wait_s
        self._shed()

    def close(self) -> None:
        """Take no more; what waits is due at once, each batch for one last try."""
        self._closed = True

    def abandon(self) -> None:
        """Drop all that is left, in flight too."""
        self._closed = True
        self.counts["stopped"] += len(self)
        self._waiting.clear()
        self._waiting_bytes = 0
        self._in_flight = ()

    def _full(self) -> bool:
        limits = self._limits
        return len(self._waiting) >= limits.batch_records or self._waiting_bytes >= limits.batch_bytes

    def _append(self, item: Item) -> None:
        self._waiting.append(item)
        self._waiting_bytes += len(item.data) + 1

    def _pop(self) -> Item:
        item = self._waiting.popleft()
        self._waiting_bytes -= len(item.data) + 1
        return item

    def _shed(self) -> None:
        while len(self._waiting) > self._limits.waiting_records:
            self._pop()
            self.counts["full"] += 1
