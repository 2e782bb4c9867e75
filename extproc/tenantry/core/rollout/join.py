r"""Joins what is told of one request from different places into what the guard observes.

    access log (this process's Envoy worker)  --\\
                                                 >-- Observation (a request of the split), Pair (an original, its copy)
    usage records (posted to every sidecar)   --/

The access log says *that* and *how* an exchange ended, and comes to one process only; that process owns the request.
Records of requests that it does not own are forgotten after a while. Either may come first.

| request | waits for | without it, after |
|---|---|---|
| of the split, failed by the access log | nothing | |
| of the split | its first attempt's record, `record_s` | counts by its status alone |
| rescued | nothing: the candidate failed, whatever its record says | |
| mirrored | its record and its copy's, `mirror_s` | the original's missing: no pair; the copy's: it failed |

A request whose end says already that its version failed is reported at once: its record has nothing to add, and an
engine that is down or hung writes none, so that waiting would cost the revert `record_s`. Whichever version it was: the
guard bets on which one a failure belongs to, and reports of one must not come earlier than the other's.

The copy of a mirrored request has no access-log entry: its record is all its evidence, and a candidate that is too
broken to write one has failed. Where the original's record is missing too, it is the way of the records that is broken
(no plugin, a shipper that cannot reach us), and nothing can be said of the candidate.

Everything is bounded: MAX_WAITING requests and records each. The oldest go first, as if their time were over; only a
copy that was not waited for long enough has not failed by that, and there is no pair.
"""

from collections.abc import Iterator

from msgspec import Struct

from tenantry.core.outcome import Outcome
from tenantry.core.rollout.signals import Observation, Pair, Sample, failed
from tenantry.core.rollout.trial import Trial
from tenantry.core.usage import UsageRecord

MAX_WAITING = 20_000

REPETITIVE_FROM = 0.5
"""Share of an answer's tokens that repeat what stood before them, from which it counts as one that repeats itself."""


class Patience(Struct, frozen=True, kw_only=True):
    """How long to wait for records, in seconds from the end of a request."""

    record_s: float = 5.0
    mirror_s: float = 60.0


class Joined(Struct, frozen=True, kw_only=True):
    """What the guard of `rollout` is to observe. `without_record`: the status is all that is known of it."""

    rollout: str
    seen: Observation | Pair
    without_record: bool = False


class Mismatch(Struct, frozen=True, kw_only=True):
    """An engine that runs another version than the one whose endpoints it stands behind; it was not counted."""

    rollout: str
    model: str
    assigned: str
    engine_runs: str
    engine: str


Told = Joined | Mismatch


class _Waiting:
    """A request of which the end is known and a record is not."""

    __slots__ = ("comparable", "copy", "ended_s", "outcome", "own", "patience", "reported", "trial")

    def __init__(self, outcome: Outcome, trial: Trial, patience: Patience, now_s: float) -> None:
        self.outcome, self.trial, self.patience, self.ended_s = outcome, trial, patience, now_s
        self.own: UsageRecord | None = None
        self.copy: UsageRecord | None = None
        self.reported = False
        self.comparable = True


class Joiner:
    """`outcome` and `record` take in what is told, `due` gives up waiting; all return what is whole by then.

    `now_s` is any clock that does not run backwards.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, _Waiting] = {}
        self._records: dict[str, tuple[float, UsageRecord]] = {}
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._records)

    def outcome(self, outcome: Outcome, patience: Patience, now_s: float) -> Iterator[Told]:
        """Take in the end of an exchange; one that is nothing to a rollout is ignored."""
        if outcome.trial is None or outcome.request_id in self._waiting:
            return
        waiting = self._waiting[outcome.request_id] = _Waiting(outcome, outcome.trial, patience, now_s)
        for mirror in (False, True):
            held = self._records.pop(_key(outcome.request_id, mirror=mirror), None)
            if held is not None:
                yield from self._add(waiting, held[1])
        yield from self._whole(waiting)
        if len(self._waiting) > MAX_WAITING:
            self.dropped += 1
            yield from self._give_up(next(iter(self._waiting.values())), in_time=False)

    def record(self, record: UsageRecord, now_s: float) -> Iterator[Told]:
        """Take in a usage record. A request's first attempt is the assigned version's; another is its rescue."""
        if record.attempt > 1:
            return
        waiting = self._waiting.get(record.request_id)
        if waiting is not None:
            yield from self._add(waiting, record)
            yield from self._whole(waiting)
            return
        key = _key(record.request_id, mirror=record.mirror)
        self._records.setdefault(key, (now_s, record))
        if len(self._records) > MAX_WAITING:
            self.dropped += 1
            del self._records[next(iter(self._records))]

    def due(self, now_s: float, keep_records_s: float) -> Iterator[Told]:
        """Give up what was waited for long enough. Records without a request are kept for `keep_records_s`."""
        for waiting in list(self._waiting.values()):
            age_s = now_s - waiting.ended_s
            if age_s >= waiting.patience.record_s and not waiting.reported:
                yield from self._report(waiting)
            if age_s >= (waiting.patience.mirror_s if waiting.trial.mirror else waiting.patience.record_s):
                yield from self._give_up(waiting)
        for key, (came_s, _) in list(self._records.items()):
            if now_s - came_s < keep_records_s:
                break  # in order of arrival
            del self._records[key]

    def _add(self, waiting: _Waiting, record: UsageRecord) -> Iterator[Told]:
        trial = waiting.trial
        if waiting.outcome.rescued:
            # The candidate failed. Where it has no host at all, the first attempt already was at the stable version.
            return
        assigned = trial.candidate if record.mirror else waiting.outcome.version
        if record.version != assigned:
            waiting.comparable = False
            yield Mismatch(
                rollout=trial.rollout,
                model=waiting.outcome.model,
                assigned=assigned,
                engine_runs=record.version,
                engine=record.engine,
            )
        elif record.mirror:
            waiting.copy = waiting.copy or record
        else:
            waiting.own = waiting.own or record

    def _whole(self, waiting: _Waiting) -> Iterator[Told]:
        certain = _sample(waiting.outcome, None).failed and "stream_idle_timeout" not in waiting.outcome.flags
        if not waiting.reported and (waiting.own is not None or certain):
            yield from self._report(waiting)
        if waiting.reported and (not waiting.trial.mirror or (waiting.own is not None and waiting.copy is not None)):
            yield from self._give_up(waiting)

    def _report(self, waiting: _Waiting) -> Iterator[Told]:
        """Report the request itself, once."""
        waiting.reported = True
        trial, outcome = waiting.trial, waiting.outcome
        seen = Observation(
            tenant=outcome.tenant,
            unit=trial.unit,
            arm=trial.arm,
            share=trial.share,
            sample=_sample(outcome, waiting.own),
            earlier_turns=int(trial.has_past),
        )
        yield Joined(
            rollout=trial.rollout, seen=seen, without_record=waiting.own is None and not waiting.outcome.rescued
        )

    def _give_up(self, waiting: _Waiting, *, in_time: bool = True) -> Iterator[Told]:
        """Report what is left to report, and forget the request; not `in_time`: its records may yet have come."""
        if not waiting.reported:
            yield from self._report(waiting)
        trial, outcome, own = waiting.trial, waiting.outcome, waiting.own
        self._waiting.pop(outcome.request_id, None)
        if not trial.mirror or own is None or not waiting.comparable or (waiting.copy is None and not in_time):
            return
        copy = Sample(failed=True) if waiting.copy is None else _copy_sample(waiting.copy)
        stable = _sample(outcome, own)
        if outcome.ended == "aborted":
            # Its client left; the copy has no client and went on. Both are known only up to then.
            stable, copy = _known_until(outcome, stable), _known_until(outcome, copy)
        pair = Pair(
            tenant=outcome.tenant,
            unit=trial.unit,
            stable=stable,
            candidate=copy,
            earlier_turns=int(trial.has_past),
        )
        yield Joined(rollout=trial.rollout, seen=pair, without_record=waiting.copy is None)


def _known_until(outcome: Outcome, sample: Sample) -> Sample:
    """Return a sample as it looked when the client of the original left."""
    waited_ms = max(outcome.duration_ms - outcome.sent_ms, 1.0)
    ttft_ms = waited_ms if sample.ttft_ms is None else min(sample.ttft_ms, waited_ms)
    return Sample(failed=sample.failed, ttft_ms=None if sample.failed else ttft_ms)


_WHOLE = ("stop", "length", "tool_calls")


def _key(request_id: str, *, mirror: bool) -> str:
    return f"{request_id}/mirror" if mirror else request_id


def _sample(outcome: Outcome, record: UsageRecord | None) -> Sample:
    """Return what the assigned version did with a request, by the access log and, if there is one, its record."""
    if outcome.rescued:
        return Sample(failed=True)
    failure = failed(outcome.code, outcome.ended)
    # The client may have given up first. What it took to send its request is nobody's but its own.
    waited_ms = (outcome.duration_ms if outcome.ttfb_ms is None else outcome.ttfb_ms) - outcome.sent_ms
    if outcome.trial is not None and waited_ms > outcome.trial.limit_s * 1e3:
        failure = True  # as the candidate's would be, whose request is rescued then
    if "stream_idle_timeout" in outcome.flags and record is not None and record.finish_reason in _WHOLE:
        failure = None  # the engine had said all of it: it was the client who did not read
    if record is not None and record.finish_reason == "error":
        failure = True
    if failure or record is None:
        return Sample(failed=failure)
    aborted = outcome.ended == "aborted" or record.finish_reason == "abort"
    ttft_ms = record.ttft_ms
    if ttft_ms is None and aborted:
        # It had waited so long in vain; leaving it out would hide the slowest.
        ttft_ms = max(outcome.duration_ms - outcome.sent_ms, 0.0)
    return _read(record, failed=failure, aborted=aborted, ttft_ms=ttft_ms)


def _copy_sample(record: UsageRecord) -> Sample:
    """Return what the candidate did with a copy, by its record alone.

    Envoy drops a copy's connection when it has what it wants of it at no time but the end: an abort is nobody's wish.
    """
    if record.finish_reason == "error":
        return Sample(failed=True)
    return _read(
        record,
        failed=False if record.finish_reason != "abort" else None,
        aborted=record.finish_reason == "abort",
        ttft_ms=record.ttft_ms,
    )


def _read(record: UsageRecord, *, failed: bool | None, aborted: bool, ttft_ms: float | None) -> Sample:
    generated = record.output_tokens > 0 and not aborted
    return Sample(
        failed=failed,
        ttft_ms=ttft_ms,
        time_per_token_ms=record.time_per_token_ms,
        output_tokens=record.output_tokens if generated else None,
        finished=record.finish_reason in ("stop", "tool_calls") if generated else None,
        repetitive=record.repetition >= REPETITIVE_FROM if generated and record.repetition is not None else None,
        mean_log_probability=record.mean_log_probability if generated else None,
    )
