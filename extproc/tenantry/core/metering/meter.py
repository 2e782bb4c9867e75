"""The accounts of one engine: steps in, usage records out (invariant 6).

    arrived --> scheduled (in steps) --> freed, and its last step done --> final record
                     |
                     +--(every `part_ns`)--> a part

**Busy time.** An engine plans a step (`scheduled`), runs it, and tells when its output is there (`done`). With
asynchronous scheduling the next step is planned before the last one is done, so a step's time is from
`max(planned, the last one's end)` to its own end: those stretches do not overlap, and their sum is the busy time. Each,
times the engine's GPUs, is divided among the requests in the step by weight (`weights`), in whole nanoseconds that add
up to it exactly. The step's own time does not choose its weights: it is learned from afterwards (`calibration`,
`adapters`).

**Spans.** A span ends now if no step is in flight, else where the stretch of the oldest one begins: at the end of the
last step that is done, or where the oldest one was planned if that was later. All time before that point is settled,
all stretches that are still to come lie after it. So each step lies in one span whole, spans tile the engine's life,
the charges of the steps in a span add up to its `busy_gpu_ns`, and idle time is never negative.

**Ends.** A request's last record is written when it has been freed *and* no step holds it any more: what an aborted
request had in flight is its own. One that got no step has a record of zeros. `close` takes what is in flight for done:
the GPUs were held for it.

**Nothing is dropped in silence.** What does not fit (output of an unknown step, work of an unknown request) never
raises: time is charged to somebody, and `counts` tells. An unknown request's work opens an account without a tenant,
which is the operator's. Steps whose output never comes are given up, oldest first, when MAX_IN_FLIGHT are open.

Records wait in the meter until `collect`; call it after each `tick` at the latest, for nothing else bounds them.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from tenantry.core.metering.account import Account, Arrival, EngineIdentity
from tenantry.core.metering.adapters import Calibrations
from tenantry.core.metering.spans import Spans
from tenantry.core.metering.weights import StepWeights, Work
from tenantry.core.usage import ColdStart, FinishReason, Record

__all__ = ["IDLE_PARTS", "MAX_IN_FLIGHT", "PART_NS", "Arrival", "Clock", "EngineIdentity", "Meter", "Work"]

PART_NS = 5_000_000_000

IDLE_PARTS = 12
"""A span in which nothing runs lasts so many parts: an idle engine has 1,440 a day to say, not 17,280."""

MAX_IN_FLIGHT = 64
"""Steps planned and not done. Pipeline parallelism has a few; more means that output was lost."""

_REMEMBERED = 16_384
"""Attempts whose ids are remembered, so that no two have one id (a tool loop sends several requests of one id)."""

Clock = Callable[[int], float]
"""Turns the meter's nanoseconds into Unix seconds."""


class _Step:
    """A step in flight: when it was planned, and whose work is in it."""

    __slots__ = ("accounts", "adapters", "planned_ns", "works")

    def __init__(self, planned_ns: int, works: Sequence[Work], accounts: list[Account]) -> None:
        self.planned_ns = planned_ns
        self.works = works
        self.accounts = accounts
        self.adapters = [account.arrival.adapter is not None for account in accounts]


class Meter:
    """One engine's accounts. Not for two threads at once: the caller has a lock if it needs one.

    `fallback` divides steps until their times have taught better weights (`weights.flops_weights`). `start_ns` is when
    the first span begins, unless `cold_start` tells better. `part_ns` is how often a request that goes on, and the
    engine itself, write a part. All times are nanoseconds of one clock that does not run backwards (`clock` makes Unix
    time of them).

    `counts` has what did not fit: `unknown_steps` (output of), `unknown_requests` (work, tokens or the end of),
    `lost_steps` (given up), `known_ids` (requests whose id had been taken).
    """

    def __init__(
        self, identity: EngineIdentity, fallback: StepWeights, clock: Clock, *, start_ns: int, part_ns: int = PART_NS
    ) -> None:
        self.identity = identity
        self.calibrations = Calibrations(fallback)
        self.counts = Counter(unknown_steps=0, unknown_requests=0, lost_steps=0, known_ids=0)
        self.busy_gpu_ns = 0
        self._clock = clock
        self._part_ns = part_ns
        self._open: dict[str, Account] = {}
        self._draining: dict[str, Account] = {}
        self._live: set[Account] = set()
        self._steps: dict[int, _Step] = {}
        self._last_end_ns = start_ns
        self._ids: dict[tuple[str, int, bool, int], None] = {}
        self._peak_memory: int | None = None
        self._ready: list[Record] = []
        self._started = False
        self._spans = Spans(identity, start_ns)
        self._span_due_ns = start_ns + part_ns

    @property
    def accounts(self) -> int:
        """Requests whose last record is still to come."""
        return len(self._live)

    @property
    def uncharged_gpu_ns(self) -> int:
        """Busy time that is in no record yet. What the records charge and this add up to `busy_gpu_ns`, always."""
        return sum(account.uncharged_ns for account in self._live)

    def arrived(self, key: str, arrival: Arrival, now_ns: int) -> None:
        """Open an account. A key that has one already keeps it (a preempted request comes back)."""
        if key not in self._open:
            self._open[key] = account = Account(self._with_own_id(arrival), now_ns, self._peak_memory)
            self._live.add(account)

    def scheduled(self, step: int, works: Sequence[Work], now_ns: int) -> None:
        """Note a step that was planned; `step` is any number that no other open step has. One without works is none."""
        if not works:
            return
        self._started = True
        if step in self._steps or len(self._steps) >= MAX_IN_FLIGHT:
            self._give_up(step if step in self._steps else next(iter(self._steps)))
        accounts = []
        for work in works:
            account = self._open.get(work.key)
            if account is None:
                account = self._unknown(work.key, now_ns)
            account.in_flight += 1
            if account.first_step_ns is None:
                account.first_step_ns = now_ns
            if work.kv_bytes != account.kv_bytes:
                account.hold(work.kv_bytes, now_ns)
            accounts.append(account)
        self._steps[step] = _Step(max(now_ns, self._spans.start_ns), works, accounts)

    def done(self, step: int, now_ns: int, worker_ns: int | None = None) -> None:
        """Divide a step's time among its requests; `worker_ns` is the workers' own time for it, of one GPU."""
        ended = self._steps.pop(step, None)
        if ended is None:
            self.counts["unknown_steps"] += 1
            return
        step_ns, work = self._settle(ended, now_ns, worker_ns)
        self.calibrations.observe(*work, step_ns, adapters=any(ended.adapters))

    def cached(self, key: str, cached_tokens: int) -> None:
        """Note how many prompt tokens a prefix cache saved; once a request."""
        if account := self._find(key):
            account.cache(cached_tokens)

    def produced(self, key: str, tokens: Sequence[int], now_ns: int, *, log_probability: float | None = None) -> None:
        """Note output tokens, by their ids, at the time they were there; also of a request that a step still holds.

        `log_probability` is the sum over these tokens, in nats; None: not known.
        """
        if tokens and (account := self._find(key)):
            account.produce(tokens, now_ns, log_probability)

    def preempted(self, key: str, now_ns: int) -> None:
        """Note that a running request lost its place, and its KV cache with it."""
        if account := self._find(key):
            account.preemptions += 1
            account.hold(0, now_ns)

    def freed(self, key: str, reason: FinishReason, now_ns: int) -> None:
        """Close an account: nothing more will be scheduled for it. The record comes with its last step."""
        account = self._open.pop(key, None)
        if account is None:
            self.counts["unknown_requests"] += 1
            return
        account.hold(0, now_ns)
        account.ended_ns, account.reason = now_ns, reason
        if account.in_flight:
            self._draining[key] = account
        else:
            self._finish(key, account, now_ns)

    def memory(self, peak_bytes: int) -> None:
        """Note the engine's memory, the most since the last call; about once a second, as it looks at all accounts."""
        self._peak_memory = peak_bytes
        for account in self._live:
            account.peak_memory = max(peak_bytes, account.peak_memory or 0)

    def cold_start(self, record: ColdStart, ended_ns: int) -> None:
        """Take in how the engine started; the first span begins where that ended. Raise ValueError after a step."""
        if self._started:
            raise ValueError("a cold start comes before the first step and the first span, and once")
        self._started = True
        self._last_end_ns = self._spans.start_ns = ended_ns
        self._span_due_ns = ended_ns + self._part_ns
        self._ready.append(record)

    def tick(self, now_ns: int) -> None:
        """Write the parts that are due, also while nothing runs; call about once a second."""
        for account in self._open.values():
            if now_ns - account.part_ns >= self._part_ns:
                self._write(account, now_ns)
        idle = self._spans.idle and not self._steps
        if now_ns >= self._span_due_ns + (IDLE_PARTS - 1) * self._part_ns * idle:
            self._end_span(now_ns)

    def collect(self) -> list[Record]:
        """Take the records that are ready."""
        ready, self._ready = self._ready, []
        return ready

    def close(self, now_ns: int) -> list[Record]:
        """End the engine: steps in flight are done, open accounts end as `abort`, the last span ends now.

        Return all that is left.
        """
        for step in list(self._steps):  # nothing is learned from them: they were cut
            self._settle(self._steps.pop(step), now_ns, None)
        for key in list(self._open):
            self.freed(key, "abort", now_ns)
        self._end_span(now_ns)
        return self.collect()

    def _settle(self, step: _Step, now_ns: int, worker_ns: int | None) -> tuple[int, tuple[int, int, int]]:
        """Divide a step's time; return it, and the step's prefill, decode and context tokens."""
        step_ns = max(0, now_ns - max(step.planned_ns, self._last_end_ns))
        self._last_end_ns = max(self._last_end_ns, now_ns)
        gpu_ns = step_ns * self.identity.gpus
        self.busy_gpu_ns += gpu_ns
        self._spans.add(gpu_ns, worker_ns)
        weights = self.calibrations.weights(adapters=any(step.adapters))
        shares = self.calibrations.shares(step.works, step.adapters, gpu_ns)
        prefill_tokens = decode_tokens = context_tokens = 0
        for account, work, share in zip(step.accounts, step.works, shares, strict=True):
            prefill, decode = work.prefill_tokens, work.decode_tokens
            if not prefill:
                account.decode_ns += share
            elif not decode:
                account.prefill_ns += share
            else:
                own_prefill = int(share * weights.prefill_share(prefill, decode))
                account.prefill_ns += own_prefill
                account.decode_ns += share - own_prefill
            account.prefilled_tokens += prefill
            if account.source != weights.source:
                account.source = "mixed" if account.source else weights.source
            prefill_tokens += prefill
            decode_tokens += decode
            context_tokens += work.context_tokens
            account.in_flight -= 1
            if account.reason is not None and not account.in_flight:
                self._finish(work.key, account, now_ns)
        return step_ns, (prefill_tokens, decode_tokens, context_tokens)

    def _find(self, key: str) -> Account | None:
        account = self._open.get(key) or self._draining.get(key)
        if account is None:
            self.counts["unknown_requests"] += 1
        return account

    def _unknown(self, key: str, now_ns: int) -> Account:
        """Return the account for work of a request that did not arrive; or of one that was freed, and is held."""
        self.counts["unknown_requests"] += 1
        if draining := self._draining.get(key):
            return draining
        self.arrived(key, Arrival(request_id=key), now_ns)
        return self._open[key]

    def _with_own_id(self, arrival: Arrival) -> Arrival:
        """Return the arrival, as a later sequence if its id was taken: two records of one id would count once."""
        sequence = arrival.sequence
        while (own := (arrival.request_id, arrival.attempt, arrival.mirror, sequence)) in self._ids:
            sequence += 1
        self._ids[own] = None
        if len(self._ids) > _REMEMBERED:
            del self._ids[next(iter(self._ids))]
        if sequence == arrival.sequence:
            return arrival
        self.counts["known_ids"] += 1
        return replace(arrival, sequence=sequence)

    def _give_up(self, step: int) -> None:
        """Forget a step whose output never came; its time belongs to those that did."""
        self.counts["lost_steps"] += 1
        lost = self._steps.pop(step)
        for account, work in zip(lost.accounts, lost.works, strict=True):
            account.in_flight -= 1
            if account.reason is not None and not account.in_flight:
                self._finish(work.key, account, lost.planned_ns)

    def _finish(self, key: str, account: Account, now_ns: int) -> None:
        if self._draining.get(key) is account:
            del self._draining[key]
        self._live.remove(account)
        self._write(account, now_ns)

    def _write(self, account: Account, now_ns: int) -> None:
        at_ns = now_ns if account.ended_ns is None else account.ended_ns
        record = account.record(self.identity, now_ns, self._clock(at_ns))
        if record is not None:
            self._ready.append(record)

    def _end_span(self, now_ns: int) -> None:
        self._span_due_ns = now_ns + self._part_ns
        oldest_ns = min((step.planned_ns for step in self._steps.values()), default=now_ns)
        end_ns = max(self._last_end_ns, oldest_ns)
        if span := self._spans.end(end_ns, self._clock(end_ns)):
            self._started = True
            self._ready.append(span)
