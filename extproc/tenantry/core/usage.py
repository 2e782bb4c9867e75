"""What engines tell of their work: the usage records of the project, version 1.

An engine's plugin makes them. They go two ways: through a spool on disk to the ledger, which bills by them and loses
none; and to every sidecar (`POST /usage`), where the guard judges a version by them and quotas are settled. A stream's
time to first *token*, its length, and an error inside it stand nowhere else, since outside everything is a 200 whose
headers went out at once.

| kind | what it says |
|---|---|
| `request` (`UsageRecord`) | what one attempt at a request did, or a part of it while it goes on |
| `cold_start` (`ColdStart`) | what it took until an engine could serve |
| `engine` (`EngineSpan`) | how an engine's GPUs spent a stretch of time: busy or idle |
| `training` (`Training`) | GPU time of a job that is no request |

**A part adds, it does not replace.** `charge` is what *this* record adds to its owner's bill, so that the ledger only
ever sums, in any order. The other figures are those of the attempt as a whole, up to then. A long request sends a part
every few seconds; the last has a `finish_reason`, those before have None.

**Conservation.** An engine's spans and its cold start tile its life without gap or overlap. The charges of the steps
that ended in a span add up to its `busy_gpu_ns`, to the nanosecond; the rest of the span is idle (invariant 6).

`version` is what the *engine* is configured with, never what the request was stamped with: an attempt that the stable
version rescued says so by itself. Ids are deterministic, so a record that comes twice is the same record. The original
of a mirrored request and its copy have the same request id and different record ids.

GPU time is in whole nanoseconds of all the engine's GPUs together (wall time times `gpus`).
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

FinishReason = Literal["stop", "length", "tool_calls", "abort", "error"]

Measured = Literal["engine", "response", "estimate"]
"""Where a request's figures come from: the engine's plugin, the usage in a response, or the size of the bodies."""

MAX_BATCH = 1_000
"""Records in one POST."""

MAX_BATCH_BYTES = 1024 * 1024

_Name = Annotated[str, Meta(max_length=128)]
_Count = Annotated[int, Meta(ge=0, le=10**12)]
_Bytes = Annotated[int, Meta(ge=0, le=2**62)]
_Nanoseconds = Annotated[int, Meta(ge=0, le=2**62)]
_Milliseconds = Annotated[float, Meta(ge=0, le=1e12)]
_UnixSeconds = Annotated[float, Meta(ge=0, le=1e11)]
_Gpus = Annotated[int, Meta(ge=1, le=65_536)]
_Part = Annotated[int, Meta(ge=1, le=10**9)]


class _Record(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """Base of all kinds."""


class Charge(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one record adds. Zeros: nothing was measured.

    `input_tokens` are those that were computed, `cached_tokens` those that a prefix cache saved; recomputed tokens
    after a preemption are GPU time, not tokens. `kv_byte_ms` is KV-cache memory held, over time. `weights` names what
    divided the steps: `calibrated`, `flops`, `mixed` (some by one, some by the other), or empty without a step.
    """

    prefill_gpu_ns: _Nanoseconds = 0
    decode_gpu_ns: _Nanoseconds = 0
    input_tokens: _Count = 0
    cached_tokens: _Count = 0
    output_tokens: _Count = 0
    kv_byte_ms: _Bytes = 0
    weights: _Name = ""

    @property
    def gpu_ns(self) -> int:
        """GPU time of both phases."""
        return self.prefill_gpu_ns + self.decode_gpu_ns


class UsageRecord(_Record, frozen=True, kw_only=True, tag="request"):
    """One attempt at a request: finished, failed or aborted; or a part of one that goes on.

    `engine` names the process (unique to its start), `attempt` counts from 1 (Envoy's `x-envoy-attempt-count`),
    `mirror` marks the copy of a mirrored request (`x-tenantry-mirror`). A request that asks an engine for several
    sequences (`n`, a list of prompts) has a record for each: `sequence` counts from 0. `part` counts from 1.

    `tenant` is empty for a request that did not come through a sidecar; such work is the operator's. `tier` is empty
    where the engine was not told.

    `ended_s` is Unix time. `queue_ms` is the time before the first prefill step, `ttft_ms` from arrival to the first
    token (None: there was none), `time_per_token_ms` the mean of the later ones. `repetition` is the share, 0 to 1, of
    output tokens that repeat what stood just before them; `mean_log_probability` is in nats per output token. None:
    the engine does not know. `finish_reason` is `error` for whatever the engine failed at, inside a stream or before
    it, `abort` when the client left, None for a part of a request that goes on.

    `peak_kv_bytes` is the most KV-cache memory held at once; shared prefix blocks count whole for each holder.
    `engine_peak_memory_bytes` is the most that the whole engine had allocated while the request ran.
    """

    schema: Literal[1] = 1
    request_id: _Name
    engine: _Name
    attempt: Annotated[int, Meta(ge=1, le=100)] = 1
    mirror: bool = False
    sequence: Annotated[int, Meta(ge=0, le=10**9)] = 0
    part: _Part = 1
    tenant: _Name
    tier: _Name = ""
    model: _Name
    version: _Name
    adapter: _Name | None = None
    priority: int = 0
    ended_s: _UnixSeconds
    finish_reason: FinishReason | None
    measured: Measured = "engine"
    input_tokens: _Count = 0
    cached_tokens: _Count = 0
    output_tokens: _Count = 0
    queue_ms: _Milliseconds = 0.0
    ttft_ms: _Milliseconds | None = None
    time_per_token_ms: _Milliseconds | None = None
    duration_ms: _Milliseconds = 0.0
    preemptions: _Count = 0
    peak_kv_bytes: _Bytes | None = None
    engine_peak_memory_bytes: _Bytes | None = None
    repetition: Annotated[float, Meta(ge=0, le=1)] | None = None
    mean_log_probability: Annotated[float, Meta(le=0)] | None = None
    charge: Charge = Charge()

    @property
    def attempt_id(self) -> str:
        """What all parts of one sequence of one attempt share."""
        copy = "/mirror" if self.mirror else ""
        return f"{self.request_id}/{self.engine}/{self.attempt}{copy}/{self.sequence}"

    @property
    def id(self) -> str:
        """The record's id."""
        return f"{self.attempt_id}/{self.part}"

    @property
    def final(self) -> bool:
        """Whether this is the attempt's last part."""
        return self.finish_reason is not None


class ColdStart(_Record, frozen=True, kw_only=True, tag="cold_start"):
    """What it took until an engine could serve, from the start of its process; all its GPUs were held meanwhile.

    The phases are those the engine tells apart; what is in none of them is in `other_ns` (wall time, like each of
    them). `gpu_ns` is the sum of the phases times `gpus`.
    """

    schema: Literal[1] = 1
    engine: _Name
    model: _Name
    version: _Name
    gpus: _Gpus = 1
    ended_s: _UnixSeconds
    download_ns: _Nanoseconds = 0
    load_ns: _Nanoseconds = 0
    warm_up_ns: _Nanoseconds = 0
    capture_ns: _Nanoseconds = 0
    other_ns: _Nanoseconds = 0

    @property
    def id(self) -> str:
        """The record's id: an engine, which is one process, starts once."""
        return f"{self.engine}/cold_start"

    @property
    def gpu_ns(self) -> int:
        """GPU time held."""
        return self.gpus * (self.download_ns + self.load_ns + self.warm_up_ns + self.capture_ns + self.other_ns)


class EngineSpan(_Record, frozen=True, kw_only=True, tag="engine"):
    """How an engine's GPUs spent the time since the span before (the first begins where the cold start ended).

    `worker_gpu_ns` is the workers' own clock for the same steps, None without one: the independent check of `busy`.
    """

    schema: Literal[1] = 1
    engine: _Name
    model: _Name
    version: _Name
    gpus: _Gpus = 1
    part: _Part
    ended_s: _UnixSeconds
    wall_ns: _Nanoseconds
    busy_gpu_ns: _Nanoseconds
    worker_gpu_ns: _Nanoseconds | None = None

    @property
    def id(self) -> str:
        """The record's id."""
        return f"{self.engine}/span/{self.part}"

    @property
    def idle_gpu_ns(self) -> int:
        """GPU time in which nothing ran."""
        return self.wall_ns * self.gpus - self.busy_gpu_ns


class Training(_Record, frozen=True, kw_only=True, tag="training"):
    """GPU time of a fine-tuning job. `job` names it, `part` counts what it posts, `model` is the base model."""

    schema: Literal[1] = 1
    job: Annotated[str, Meta(min_length=1, max_length=128)]
    part: _Part = 1
    tenant: Annotated[str, Meta(min_length=1, max_length=128)]
    model: Annotated[str, Meta(min_length=1, max_length=128)]
    tier: _Name = ""
    adapter: _Name | None = None
    ended_s: _UnixSeconds
    gpu_ns: _Nanoseconds

    @property
    def id(self) -> str:
        """The record's id."""
        return f"training/{self.job}/{self.part}"


Record = UsageRecord | ColdStart | EngineSpan | Training


class Batch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is posted to a sidecar or to the ledger: up to MAX_BATCH records."""

    records: Annotated[tuple[Record, ...], Meta(max_length=MAX_BATCH)]


class Taken(Struct, frozen=True, kw_only=True):
    """The ledger's answer (200) to a batch that it has: how many records were new, how many it had already."""

    new: int
    known: int


class Refused(Struct, frozen=True, kw_only=True):
    """The ledger's answer (400) to a batch of which it took nothing: why, and the places of bad records, if told."""

    error: str
    bad: tuple[int, ...] = ()


_batches = msgspec.json.Decoder(Batch)
_records: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)


def read_batch(body: bytes) -> tuple[Record, ...]:
    """Decode a posted batch; raise msgspec.MsgspecError that names what is wrong and where."""
    return _batches.decode(body).records


def read_record(data: bytes) -> Record:
    """Decode one record; raise msgspec.MsgspecError. A Struct checks nothing when built: encode, then read back."""
    return _records.decode(data)
