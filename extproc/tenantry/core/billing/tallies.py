"""What a ledger sums up: usage by owner, model and hour; and how engines' GPUs spent their time."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

Owner = Literal["tenant", "mirror", "failed", "unstamped", "unfinished"]
"""Who pays: the tenant; else the operator, for a mirrored copy, for an attempt that failed or that another one made
useless, for a request without a stamp, for parts of a request whose end never came (a crash)."""

Kind = Literal["request", "training"]

PERIOD_PATTERN = r"^[0-9]{4}-(0[1-9]|1[0-2])$"
Period = Annotated[str, Meta(pattern=PERIOD_PATTERN, description="a calendar month, UTC: 2026-11")]


class Tally(Struct, frozen=True, kw_only=True):
    """Sums over all records that agree in the first fields. `hour` is Unix time of the hour's beginning.

    `period` is where it is booked, `corrects` the closed period that it should have been in (empty: none). A field by
    which was not grouped is empty (`hour` 0). `records` counts records, `requests` attempts that ended.
    `compute_units_micro` are millionths. All may be negative in a correction, apart from `peak_kv_bytes`: the most
    that an attempt held, whoever pays for it, stands with the owners tenant, mirror and unstamped.
    """

    period: str
    corrects: str = ""
    kind: Kind = "request"
    owner: Owner
    tenant: str = ""
    tier: str = ""
    model: str = ""
    version: str = ""
    adapter: str = ""
    hour: int = 0
    measured: str = ""
    records: int = 0
    requests: int = 0
    prefill_gpu_ns: int = 0
    decode_gpu_ns: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    kv_byte_ms: int = 0
    peak_kv_bytes: int = 0
    compute_units_micro: int = 0

    @property
    def gpu_ns(self) -> int:
        """GPU time of both phases; of training it stands in `prefill_gpu_ns`."""
        return self.prefill_gpu_ns + self.decode_gpu_ns


class EngineTally(Struct, frozen=True, kw_only=True):
    """How the GPUs of a model's engines spent a period: wall = busy + idle + cold start, in GPU-nanoseconds.

    `attributed_gpu_ns` is what request records account for; `busy - attributed` is in flight, or lost in a crash. It is
    below zero when an engine was killed that had told of requests, and not yet of the span in which they ran (5 s).
    """

    period: str
    model: str
    version: str = ""
    engines: int = 0
    wall_gpu_ns: int = 0
    busy_gpu_ns: int = 0
    cold_start_gpu_ns: int = 0
    cold_starts: int = 0
    attributed_gpu_ns: int = 0

    @property
    def idle_gpu_ns(self) -> int:
        """Time in which nothing ran."""
        return self.wall_gpu_ns - self.busy_gpu_ns - self.cold_start_gpu_ns
