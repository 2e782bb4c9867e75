"""Waits for what admitted requests came to, and says what to do about their reservations.

An exchange's owner is the sidecar that admitted it: it alone knows the reservation, from before the engine has the
request. Records go to every sidecar; those of requests that are not here are somebody else's and are forgotten.

| what happened | what is done |
|---|---|
| the exchange ended, and the records of all its sequences are here | settled with their sum |
| it ended, and PATIENCE_S later some have come | settled with those |
| it ended, and none has come | given back; a record that comes within LATE_S is settled even so |
| the same, of a model whose usage is not told by a plugin | settled with the estimate |

**What counts.** A copy for the candidate does not, nor an attempt that failed: those are the operator's. Of several
attempts (a rescue) the one that finished counts; where none did, as the client left, the last one that was aborted.

The oldest are let go of when more than MAX_OPEN wait: they are given back.
"""

from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

from tenantry.core.quota.claim import Claim, milliunits
from tenantry.core.usage import UsageRecord

PATIENCE_S = 5.0
LATE_S = 60.0
MAX_OPEN = 50_000
MAX_SEQUENCES = 1_024
"""Records of one exchange that are told apart. Those beyond are summed: one that comes twice then counts twice."""

Result = Literal["record", "response", "estimate", "returned", "late"]
"""What settled a reservation: an engine's record, usage read from the response, an estimate; nothing; a late record."""


class Settlement(Struct, frozen=True, kw_only=True):
    """What a reservation came to: `actual` milliunits, None to give it back."""

    request_id: str
    claim: Claim
    actual: int | None
    result: Result


class _Open:
    __slots__ = ("beyond", "claim", "ended_s", "late", "records", "returned")

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.ended_s: float | None = None
        self.records: dict[tuple[int, int], UsageRecord] = {}
        self.beyond: dict[int, int] = {}  # milliunits by attempt
        self.returned = False
        self.late: set[tuple[int, int]] = set()


class Settling:
    """The reservations of one sidecar. `now_s` is any clock that does not run backwards."""

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}
        self._ended: dict[str, _Open] = {}

    def __len__(self) -> int:
        return len(self._open) + len(self._ended)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._open or request_id in self._ended

    def held(self) -> dict[str, int]:
        """Return the milliunits that are reserved, by tenant."""
        held: dict[str, int] = {}
        for waiting in (self._open, self._ended):
            for each in waiting.values():
                if not each.returned:
                    held[each.claim.tenant] = held.get(each.claim.tenant, 0) + each.claim.amount
        return held

    def admitted(self, request_id: str, claim: Claim) -> Iterator[Settlement]:
        """Note a reservation that was granted."""
        self._open[request_id] = _Open(claim)
        if len(self) > MAX_OPEN:
            oldest = next(iter(self._ended or self._open))
            yield from self._give_up(oldest)
            self._forget(oldest)

    def ended(self, request_id: str, now_s: float) -> Iterator[Settlement]:
        """Note the end of an exchange."""
        each = self._open.pop(request_id, None)
        if each is None:
            return
        each.ended_s = now_s
        self._ended[request_id] = each
        if _whole(each):
            yield from self._give_up(request_id)
            self._forget(request_id)

    def record(self, record: UsageRecord) -> Iterator[Settlement]:
        """Take in a usage record, whoever's."""
        each = self._open.get(record.request_id) or self._ended.get(record.request_id)
        if each is None or record.mirror or not record.final or record.finish_reason == "error":
            return
        place = record.attempt, record.sequence
        if place in each.late:
            return
        if len(each.records) < MAX_SEQUENCES:
            each.records.setdefault(place, record)
        elif place not in each.records:
            more = _milliunits(each.claim, record)
            each.beyond[record.attempt] = each.beyond.get(record.attempt, 0) + more
        if each.ended_s is not None and (each.returned or _whole(each)):
            yield from self._give_up(record.request_id)
            if not each.returned:
                self._forget(record.request_id)

    def told(self, request_id: str, actual: int | None, result: Result) -> Iterator[Settlement]:
        """Settle what is known from elsewhere: the access log, the response, or that the request was not sent."""
        each = self._open.get(request_id) or self._ended.get(request_id)
        if each is None or each.returned:
            return
        self._forget(request_id)
        yield Settlement(request_id=request_id, claim=each.claim, actual=actual, result=result)

    def due(self, now_s: float) -> Iterator[Settlement]:
        """Give up what was waited for long enough."""
        for request_id, each in list(self._ended.items()):
            age_s = now_s - (each.ended_s or 0.0)
            if age_s < PATIENCE_S:
                break  # in order of their ends
            if not each.returned:
                yield from self._give_up(request_id)
            if age_s >= LATE_S or not each.returned:
                self._forget(request_id)

    def _give_up(self, request_id: str) -> Iterator[Settlement]:
        """Settle with what is known by now."""
        each = self._open.get(request_id) or self._ended[request_id]
        claim, counted = each.claim, _counted(each)
        if counted:
            actual = sum(_milliunits(claim, record) for record in counted) + each.beyond.pop(counted[0].attempt, 0)
            result: Result = "late" if each.returned else "record"
            each.late.update(each.records)
            each.records.clear()
            yield Settlement(request_id=request_id, claim=claim, actual=actual, result=result)
        elif claim.usage != "plugin":
            yield Settlement(request_id=request_id, claim=claim, actual=claim.amount, result="estimate")
        elif not each.returned:
            each.returned = True
            yield Settlement(request_id=request_id, claim=claim, actual=None, result="returned")

    def _forget(self, request_id: str) -> None:
        self._open.pop(request_id, None)
        self._ended.pop(request_id, None)


def _whole(each: _Open) -> bool:
    """Return whether no record is to come that counts: all sequences of an attempt have finished."""
    if not 0 < each.claim.sequences <= len(each.records):
        return False
    counted = _counted(each)
    finished = all(record.finish_reason != "abort" for record in counted)
    return finished and each.claim.sequences <= len(counted)


def _counted(each: _Open) -> list[UsageRecord]:
    """Return the records of the attempt that counts."""
    attempts: dict[int, list[UsageRecord]] = {}
    for (attempt, _), record in each.records.items():
        attempts.setdefault(attempt, []).append(record)
    finished = [
        attempt for attempt, records in attempts.items() if any(record.finish_reason != "abort" for record in records)
    ]
    chosen = min(finished) if finished else max(attempts, default=None)
    return [] if chosen is None else attempts[chosen]


def _milliunits(claim: Claim, record: UsageRecord) -> int:
    """Return what a record counts. Its `input_tokens` are all of the prompt's, cached ones included."""
    return milliunits(
        claim.profile,
        input_tokens=max(0, record.input_tokens - record.cached_tokens),
        cached_tokens=record.cached_tokens,
        output_tokens=record.output_tokens,
    )
