"""What one engine did for one attempt at a request: the one usage record of the project, version 1.

An engine's plugin makes it, ships it to the sidecars (`POST /usage`), and later to the ledger. The guard judges a
version by it: a stream's time to first *token*, its length, and an error inside it stand nowhere else, since outside
everything is a 200 whose headers went out at once.

`version` is what the *engine* is configured with, never what the request was stamped with: an attempt that the stable
version rescued says so by itself. Ids are deterministic, so a record that comes twice is the same record. The original
of a mirrored request and its copy have the same request id and different record ids.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

FinishReason = Literal["stop", "length", "tool_calls", "abort", "error"]

MAX_BATCH = 1_000
"""Records in one POST."""

MAX_BATCH_BYTES = 1024 * 1024

_Name = Annotated[str, Meta(max_length=128)]
_Count = Annotated[int, Meta(ge=0, le=10**12)]
_Milliseconds = Annotated[float, Meta(ge=0, le=1e12)]


class UsageRecord(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One attempt, finished, failed or aborted.

    `engine` names the process (unique to its start), `attempt` counts from 1 (Envoy's `x-envoy-attempt-count`),
    `mirror` marks the copy of a mirrored request (`x-tenantry-mirror`). `ended_s` is Unix time. `queue_ms` is the time
    before the first prefill step, `ttft_ms` from arrival to the first token (None: there was none), `time_per_token_ms`
    the mean of the later ones. `repetition` is the share, 0 to 1, of output tokens that repeat what stood just before
    them; `mean_log_probability` is in nats per output token. None: the engine does not know. `finish_reason` is `error`
    for whatever the engine failed at, inside a stream or before it, `abort` when the client left.
    """

    schema: Literal[1] = 1
    request_id: _Name
    engine: _Name
    attempt: Annotated[int, Meta(ge=1, le=100)] = 1
    mirror: bool = False
    tenant: _Name
    model: _Name
    version: _Name
    adapter: _Name | None = None
    priority: int = 0
    ended_s: Annotated[float, Meta(ge=0)]
    finish_reason: FinishReason
    input_tokens: _Count = 0
    cached_tokens: _Count = 0
    output_tokens: _Count = 0
    queue_ms: _Milliseconds = 0.0
    ttft_ms: _Milliseconds | None = None
    time_per_token_ms: _Milliseconds | None = None
    duration_ms: _Milliseconds = 0.0
    repetition: Annotated[float, Meta(ge=0, le=1)] | None = None
    mean_log_probability: Annotated[float, Meta(le=0)] | None = None

    @property
    def id(self) -> str:
        """The record's id: request id, engine, attempt, and whether it is a copy."""
        return f"{self.request_id}/{self.engine}/{self.attempt}" + ("/mirror" if self.mirror else "")


class Batch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an engine's shipper posts: up to MAX_BATCH records."""

    records: Annotated[tuple[UsageRecord, ...], Meta(max_length=MAX_BATCH)]


_batches = msgspec.json.Decoder(Batch)


def read_batch(body: bytes) -> tuple[UsageRecord, ...]:
    """Decode a posted batch; raise msgspec.MsgspecError that names what is wrong and where."""
    return _batches.decode(body).records
