"""The account of one request while it is open: what it has used, what of that was written to records already.

Only the meter changes it. Sums run over the whole attempt; a record takes what was added since the record before.
"""

from collections.abc import Sequence

from msgspec import Struct

from tenantry.core.metering.repetition import Repetition
from tenantry.core.usage import Charge, FinishReason, UsageRecord

_NS_PER_MS = 1_000_000


class EngineIdentity(Struct, frozen=True, kw_only=True):
    """Who the records are from. `engine` is unique to the process's start; `gpus` are all it occupies (TP x PP)."""

    engine: str
    model: str
    version: str
    gpus: int = 1


class Arrival(Struct, frozen=True, kw_only=True):
    """A request as it comes to the scheduler. `tenant` is empty for one that bears no stamp.

    `model` is the name that the rules know it by, where the engine serves it under another (empty: the engine's own).
    `input_tokens` is the length of the prompt.
    """

    request_id: str
    attempt: int = 1
    mirror: bool = False
    sequence: int = 0
    tenant: str = ""
    tier: str = ""
    model: str = ""
    adapter: str | None = None
    priority: int = 0
    input_tokens: int = 0


class Account:
    """One request's sums. Times are in nanoseconds of the meter's clock; None: it has not happened yet."""

    __slots__ = (
        "_charged",
        "_input_limit",
        "arrival",
        "arrived_ns",
        "cached_tokens",
        "decode_ns",
        "ended_ns",
        "first_step_ns",
        "first_token_ns",
        "in_flight",
        "kv_byte_ns",
        "kv_bytes",
        "kv_since_ns",
        "last_token_ns",
        "log_probability",
        "log_probability_tokens",
        "output_tokens",
        "part",
        "part_ns",
        "peak_kv_bytes",
        "peak_memory",
        "preemptions",
        "prefill_ns",
        "prefilled_tokens",
        "reason",
        "repetition",
        "source",
    )

    def __init__(self, arrival: Arrival, now_ns: int, peak_memory: int | None) -> None:
        self.arrival = arrival
        self.arrived_ns = self.part_ns = self.kv_since_ns = now_ns
        self.first_step_ns: int | None = None
        self.first_token_ns: int | None = None
        self.last_token_ns = now_ns
        self.ended_ns: int | None = None
        self.reason: FinishReason | None = None
        self.in_flight = 0
        self.prefill_ns = self.decode_ns = 0
        self.prefilled_tokens = self.cached_tokens = self.output_tokens = 0
        self._input_limit = arrival.input_tokens
        self.kv_bytes = self.kv_byte_ns = 0
        self.peak_kv_bytes: int | None = None
        self.peak_memory = peak_memory
        self.preemptions = 0
        self.repetition = Repetition()
        self.log_probability = 0.0
        self.log_probability_tokens = 0
        self.source = ""
        self.part = 0
        self._charged = (0, 0, 0, 0, 0, 0)

    def hold(self, kv_bytes: int, now_ns: int) -> None:
        """Note how much KV-cache memory it holds from now on."""
        held_ns = now_ns - self.kv_since_ns
        if held_ns > 0:
            self.kv_byte_ns += self.kv_bytes * held_ns
            self.kv_since_ns = now_ns
        self.kv_bytes = kv_bytes
        if kv_bytes > (self.peak_kv_bytes or 0):
            self.peak_kv_bytes = kv_bytes

    def cache(self, tokens: int) -> None:
        """Note what a prefix cache saved."""
        self.cached_tokens = min(tokens, self.arrival.input_tokens)
        self._input_limit = self.arrival.input_tokens - self.cached_tokens

    def produce(self, tokens: Sequence[int], now_ns: int, log_probability: float | None) -> None:
        """Note output tokens."""
        if self.first_token_ns is None:
            self.first_token_ns = now_ns
        self.last_token_ns = now_ns
        self.output_tokens += len(tokens)
        self.repetition.add(tokens)
        if log_probability is not None:
            self.log_probability += log_probability
            self.log_probability_tokens += len(tokens)

    @property
    def uncharged_ns(self) -> int:
        """GPU time that is in no record yet."""
        return self.prefill_ns + self.decode_ns - self._charged[0] - self._charged[1]

    def record(self, identity: EngineIdentity, now_ns: int, ended_s: float) -> UsageRecord | None:
        """Return the next part, the last one if the request has ended; None if it goes on and nothing was added.

        What it returns counts as charged.
        """
        if self.reason is None:
            self.hold(self.kv_bytes, now_ns)
        charge = self._charge()
        self.part_ns = now_ns
        if charge is None and self.reason is None:
            return None
        self.part += 1
        self.source = ""
        arrival = self.arrival
        end_ns = now_ns if self.ended_ns is None else self.ended_ns
        first_ns, output = self.first_token_ns, self.output_tokens
        waited_ns = (end_ns if self.first_step_ns is None else self.first_step_ns) - self.arrived_ns
        per_token_ns = None if first_ns is None or output < 2 else (self.last_token_ns - first_ns) / (output - 1)
        log_probability = None
        if self.log_probability_tokens:
            log_probability = min(0.0, self.log_probability / self.log_probability_tokens)
        return UsageRecord(
            request_id=arrival.request_id,
            engine=identity.engine,
            attempt=arrival.attempt,
            mirror=arrival.mirror,
            sequence=arrival.sequence,
            part=self.part,
            tenant=arrival.tenant,
            tier=arrival.tier,
            model=arrival.model or identity.model,
            version=identity.version,
            adapter=arrival.adapter,
            priority=arrival.priority,
            ended_s=ended_s,
            finish_reason=self.reason,
            input_tokens=arrival.input_tokens,
            cached_tokens=self.cached_tokens,
            output_tokens=output,
            queue_ms=_ms(waited_ns),
            ttft_ms=None if first_ns is None else _ms(first_ns - self.arrived_ns),
            time_per_token_ms=None if per_token_ns is None else _ms(per_token_ns),
            duration_ms=_ms(end_ns - self.arrived_ns),
            preemptions=self.preemptions,
            peak_kv_bytes=self.peak_kv_bytes,
            engine_peak_memory_bytes=self.peak_memory,
            repetition=self.repetition.share(),
            mean_log_probability=log_probability,
            charge=charge or Charge(),
        )

    def _charge(self) -> Charge | None:
        """Take what was added since the last record; None if nothing was."""
        sums = (
            self.prefill_ns,
            self.decode_ns,
            # Never more than the prompt: what a preemption made it compute again is GPU time, not tokens.
            min(self.prefilled_tokens, self._input_limit),
            self.cached_tokens,
            self.output_tokens,
            self.kv_byte_ns // _NS_PER_MS,
        )
        if sums == self._charged:
            return None
        # `cache` may come after a part with prefilled tokens: a charge never takes back what was charged.
        sums = tuple(map(max, sums, self._charged))  # type: ignore[assignment]
        added = [new - old for new, old in zip(sums, self._charged, strict=True)]
        self._charged = sums
        prefill_ns, decode_ns, input_tokens, cached_tokens, output_tokens, kv_byte_ms = added
        return Charge(
            prefill_gpu_ns=prefill_ns,
            decode_gpu_ns=decode_ns,
            input_tokens=input_tokens,
            cached_tokens=cached_tokens,
            output_tokens=output_tokens,
            kv_byte_ms=kv_byte_ms,
            weights=self.source,
        )


def _ms(ns: float) -> float:
    return max(0.0, ns / _NS_PER_MS)
