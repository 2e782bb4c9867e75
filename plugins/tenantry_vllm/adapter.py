"""Between vLLM's scheduler and the meter: reads vLLM's objects, tells the meter, delivers the records.

| the scheduler | the meter |
|---|---|
| `add_request` | `arrived` |
| `schedule` | `scheduled`: a Work for each request in the step |
| `update_from_output`, begin | `done`: the step's time is divided |
| `update_from_output`, end | `cached`, `produced` by what goes out to clients, then `freed` |
| `_preempt_request`, `_free_request` | `preempted`, `freed` |

**A step waits for what it must.** The scheduler's thread notes what will have changed later (tokens, blocks, times) and
queues the call; a thread of this makes the calls, in order, while the scheduler waits for the GPU: dividing a step of
many requests takes longer than noting it. Should that thread not keep up, the scheduler's makes the calls itself.

**Serving comes first.** No fault of metering reaches the scheduler: it is caught, counted and logged, the first of each
kind at once and then how many, once a minute. What was lost with it stays unbilled or becomes the operator's, and the
busy time that nobody bears shows as the difference between the spans and the charges.

Nothing of vLLM is imported here: the tests drive it with objects of the same shape.
"""

import functools
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, cast

from tenantry.core.metering.meter import Arrival, Meter, Work
from tenantry.core.usage import ColdStart, FinishReason, Record

from tenantry_vllm.middleware import STOPPED
from tenantry_vllm.stamp import CARRIER, Stamp, read_stamp
from tenantry_vllm.worker_clock import read_report

__all__ = ["MeterAdapter", "unix_clock"]

CATCH_UP_EVERY_S = 0.05
"""How long calls to the meter are queued; a step of a large model takes as long."""

MAX_QUEUED = 10_000

COLLECT_EVERY_S = 0.2
"""How long a record waits here; with the shipper's 0.1 s it is at the sidecars well within 2 s."""

TICK_EVERY_S = 1.0
TELL_EVERY_S = 60.0

REASONS: Mapping[str, FinishReason] = {
    "FINISHED_STOPPED": "stop",
    "FINISHED_LENGTH_CAPPED": "length",
    "FINISHED_ABORTED": "abort",
    "FINISHED_IGNORED": "length",  # longer than the model's context; OpenAI's word for it
    "FINISHED_ERROR": "error",
    "FINISHED_REPETITION": "stop",
}

HOOKS = ("arrived", "planned", "done", "updated", "preempted", "freed", "tick", "deliver")
"""Where faults are counted from the start, at 0; `MeterAdapter.faults` may have others."""

_MAX_NAME = 128
_P = ParamSpec("_P")

_log = logging.getLogger("vllm.tenantry")


def unix_clock(now_ns: int) -> float:
    """Return the Unix time of a moment of the monotonic clock."""
    return time.time() - (time.monotonic_ns() - now_ns) / 1e9


def _guarded(hook: "Callable[Concatenate[MeterAdapter, _P], None]") -> "Callable[Concatenate[MeterAdapter, _P], None]":
    """Return the hook with its faults kept from the scheduler."""

    @functools.wraps(hook)
    def guarded(self: "MeterAdapter", *args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            hook(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - see above
            self.fault(hook.__name__, error)

    return cast("Callable[Concatenate[MeterAdapter, _P], None]", guarded)


class MeterAdapter:
    """The meter of one scheduler. `managers` are its KV-cache managers, a block of each takes `block_bytes`.

    `deliver` takes each record, from a thread of this that also calls `watch` now and then; `close` is called after the
    last record. `faults` counts what metering could not do, by hook and error.
    """

    def __init__(
        self,
        meter: Meter,
        deliver: Callable[[Record], None],
        *,
        requests: Mapping[str, Any],
        managers: Sequence[Any] = (),
        block_bytes: int = 0,
        watch: Callable[[], None] = lambda: None,
        close: Callable[[], None] = lambda: None,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.faults: Counter[str] = Counter()
        self._meter = meter
        self._deliver = deliver
        self._watch = watch
        self._close = close
        self._requests = requests
        self._blocks = [(manager.req_to_blocks, _window(manager)) for manager in managers]
        # Most models have one kind of attention: no call for each request of each step.
        self._single = self._blocks[0][0] if len(self._blocks) == 1 and self._blocks[0][1] is None else None
        self._block_bytes = block_bytes
        self._now_ns = now_ns
        self._lock = threading.Lock()  # of the meter; never held while a hook waits, but when it must catch up
        self._queued: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._update_ns: int | None = None
        self._ended: list[tuple[str, FinishReason]] = []
        self._stopped: set[str] = set()
        self._lost_tokens: dict[str, int] = {}
        self._memory_bytes = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tenantry-metering", daemon=True)
        self._told: Counter[str] = Counter()
        self._told_s = time.monotonic()
        self._ticked_s = 0.0

    def start(self) -> None:
        """Start the thread that collects and delivers."""
        self._thread.start()

    @_guarded
    def cold_start(self, record: ColdStart, ended_ns: int) -> None:
        """Take in how the engine started, before anything else."""
        self._later(self._meter.cold_start, record, ended_ns)

    @_guarded
    def arrived(self, request: Any) -> None:
        """Open an account for a `Request` that is new to the scheduler."""
        carried = None
        if request.trace_headers is not None and CARRIER in request.trace_headers:
            rest = dict(request.trace_headers)
            carried = rest.pop(CARRIER)
            request.trace_headers = rest or None
        extra = request.sampling_params.extra_args if request.sampling_params is not None else None
        stamp = read_stamp(request.request_id, extra, carried)
        lora = request.lora_request.lora_name if request.lora_request is not None else None
        self._later(self._meter.arrived, request.request_id, _arrival(request, stamp, lora), self._now_ns())

    @_guarded
    def planned(self, output: Any) -> None:
        """Note a step by its `SchedulerOutput`; the requests' computed tokens count it already."""
        works = []
        requests, block_bytes, single = self._requests, self._block_bytes, self._single
        for key, tokens in output.num_scheduled_tokens.items():
            request = requests[key]
            before = request.num_computed_tokens - tokens
            given = request.num_prompt_tokens
            if request.num_preemptions:
                given = max(given, self._lost_tokens.get(key, 0))
            prefill = 0 if before >= given else min(given - before, tokens)
            blocks = len(single.get(key, ())) if single is not None else self._kv_blocks(key, before)
            works.append(
                Work(
                    key=key,
                    prefill_tokens=prefill,
                    decode_tokens=tokens - prefill,
                    context_tokens=tokens * before + tokens * (tokens + 1) // 2,
                    kv_bytes=blocks * block_bytes,
                )
            )
        if works:
            self._later(self._meter.scheduled, id(output), works, self._now_ns())

    @_guarded
    def done(self, output: Any, result: Any) -> None:
        """Divide the step that a `ModelRunnerOutput` ends; outputs and ends are told to `updated`."""
        self._update_ns = now_ns = self._now_ns()
        if output.num_scheduled_tokens:
            worker_ns, memory_bytes = read_report(result)
            self._memory_bytes = max(self._memory_bytes, memory_bytes or 0)
            self._later(self._meter.done, id(output), now_ns, worker_ns)

    @_guarded
    def updated(self, outputs: Mapping[int, Any] | None) -> None:
        """Note what goes out to clients after a step: `EngineCoreOutputs` by client; then what ended in it."""
        now_ns, self._update_ns = self._update_ns or self._now_ns(), None
        ended, self._ended = self._ended, []
        for batch in (outputs or {}).values():
            self._later(self._produced, batch.outputs, now_ns)
        for key, reason in ended:
            self._later(self._meter.freed, key, reason, now_ns)

    @_guarded
    def preempted(self, request: Any) -> None:
        """Note that a `Request` lost its blocks; all its tokens so far will be computed again."""
        self._lost_tokens[request.request_id] = request.num_tokens
        self._later(self._meter.preempted, request.request_id, self._now_ns())

    @_guarded
    def freed(self, request: Any) -> None:
        """Close the account of a finished `Request`; of one that ends in a step, after its last tokens."""
        key = request.request_id
        self._lost_tokens.pop(key, None)
        reason = REASONS.get(request.status.name, "error")
        if key in self._stopped:
            self._stopped.discard(key)
            reason = "stop" if reason == "abort" else reason
        if request.prefill_stats is not None:  # nobody was told of its cached tokens: it had no output
            self._later(self._meter.cached, key, request.prefill_stats.num_cached_tokens)
        if self._update_ns is None:
            self._later(self._meter.freed, key, reason, self._now_ns())
        else:
            self._ended.append((key, reason))

    def ending(self, request_ids: Any) -> Any:
        """Return the ids of an abort without marks, having noted those that had come to a stop string."""
        if not isinstance(request_ids, list) or not any(name.startswith(STOPPED) for name in request_ids):
            return request_ids
        marked = [name.removeprefix(STOPPED) for name in request_ids if name.startswith(STOPPED)]
        self._stopped.update(name for name in marked if name in self._requests)
        return [name for name in request_ids if not name.startswith(STOPPED)]

    def catch_up(self) -> None:
        """Make the calls that are queued, in order; a fault of one is its own."""
        with self._lock:
            self._make_calls()

    def _later(self, call: Callable[..., None], *args: Any) -> None:
        """Queue a call to the meter; `args` are of now."""
        self._queued.append((call, args))
        if len(self._queued) > MAX_QUEUED:
            self.catch_up()

    def _make_calls(self) -> None:
        """Make the calls that are queued; the lock is held."""
        queued = self._queued
        while queued:
            call, args = queued.popleft()
            try:
                call(*args)
            except Exception as error:  # noqa: BLE001 - see above
                self.fault(call.__name__, error)

    def _produced(self, outputs: Iterable[Any], now_ns: int) -> None:
        """Tell the meter of one client's outputs of a step; vLLM has made them and changes them no more."""
        meter = self._meter
        for output in outputs:
            if output.prefill_stats is not None:
                meter.cached(output.request_id, output.prefill_stats.num_cached_tokens)
            if output.new_token_ids:
                meter.produced(output.request_id, output.new_token_ids, now_ns)

    def fault(self, where: str, error: Exception) -> None:
        """Count a fault; tell of the first of its kind. Its text may quote a request, so it is not logged."""
        kind = f"{where}: {type(error).__name__}"
        self.faults[kind] += 1
        if self.faults[kind] == 1:
            at = error.__traceback__
            while at is not None and at.tb_next is not None:
                at = at.tb_next
            place = f"{at.tb_frame.f_code.co_filename}:{at.tb_lineno}" if at is not None else "?"
            _log.error("Metering failed in %s (%s). Serving goes on; some usage is not billed.", kind, place)

    def faults_by_hook(self) -> dict[str, int]:
        """Return how many faults there were, for metrics; from any thread."""
        counts = Counter(dict.fromkeys(HOOKS, 0))
        for kind, count in list(self.faults.items()):
            counts[kind.partition(":")[0].lstrip("_")] += count
        return dict(counts)

    def stop(self) -> None:
        """End the engine: what is open ends as an error, since the engine failed it; deliver what is left."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(2.0)
        self._hand_over(self._closed())
        self._safely("close", self._close)

    def _closed(self) -> list[Record]:
        try:
            with self._lock:
                self._make_calls()
                now_ns = self._now_ns()
                for key, request in list(self._requests.items()):
                    if not request.is_finished():
                        self._meter.freed(key, "error", now_ns)
                return self._meter.close(now_ns)
        except Exception as error:  # noqa: BLE001
            self.fault("stop", error)
            return []

    def _kv_blocks(self, key: str, computed_tokens: int) -> int:
        """Return how many KV-cache blocks a request holds."""
        total = 0
        for blocks, window in self._blocks:
            held = len(blocks.get(key, ()))
            if window is not None and held:
                held -= min(held, window(computed_tokens))
            total += held
        return total

    def _run(self) -> None:
        next_s = 0.0
        while not self._stopping.wait(CATCH_UP_EVERY_S):
            self.catch_up()
            if time.monotonic() < next_s:
                continue
            next_s = time.monotonic() + COLLECT_EVERY_S
            self._hand_over(self._collected())
            self._safely("watch", self._watch)
            self._safely("tell", self._tell)

    def _collected(self) -> list[Record]:
        try:
            with self._lock:
                now_s, now_ns = time.monotonic(), self._now_ns()
                self._make_calls()  # the tick comes after what happened before it
                if now_s >= self._ticked_s + TICK_EVERY_S:
                    self._ticked_s = now_s
                    if self._memory_bytes:
                        self._meter.memory(self._memory_bytes)
                        self._memory_bytes = 0
                    self._meter.tick(now_ns)
                return self._meter.collect()
        except Exception as error:  # noqa: BLE001
            self.fault("tick", error)
            return []

    def _hand_over(self, records: Iterable[Record]) -> None:
        for record in records:
            self._safely("deliver", functools.partial(self._deliver, record))

    def _safely(self, name: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001
            self.fault(name, error)

    def _tell(self) -> None:
        """Log how many faults there were, and what did not fit in the meter's books, if there were more."""
        if time.monotonic() < self._told_s + TELL_EVERY_S:
            return
        self._told_s = time.monotonic()
        counts = self.faults + Counter(self._meter.counts)
        if counts != self._told:
            self._told = counts
            _log.warning("Metering so far: %s.", ", ".join(f"{count} {kind}" for kind, count in counts.items()))


def _arrival(request: Any, stamp: Stamp | None, lora: str | None) -> Arrival:
    common = {"priority": request.priority, "input_tokens": request.num_prompt_tokens}
    if stamp is None:
        key = request.request_id  # ends in a random part: cut from the front
        return Arrival(request_id=key[-_MAX_NAME:], adapter=lora, **common)
    return Arrival(
        request_id=stamp.request_id,
        attempt=stamp.attempt,
        mirror=stamp.mirror,
        sequence=stamp.sequence,
        tenant=stamp.tenant,
        tier=stamp.tier,
        model=stamp.model,
        adapter=stamp.adapter or lora,
        **common,
    )


def _window(manager: Any) -> Callable[[int], int] | None:
    """Return how many blocks a manager has let go of by a number of computed tokens; None if it never does.

    Sliding windows, chunked attention and state-space layers put one shared empty block in the place of each.
    """
    skipped = getattr(manager, "get_num_skipped_tokens", None)
    if skipped is None or skipped(1 << 40) == 0:
        return None
    size = manager.block_size
    return lambda computed_tokens: skipped(computed_tokens) // size
