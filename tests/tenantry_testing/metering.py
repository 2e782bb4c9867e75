"""A meter to play with: its clock says Unix time = nanoseconds / 10^9, its weights are round numbers."""

from collections.abc import Iterable
from typing import Any

from tenantry.core.metering.meter import Arrival, EngineIdentity, Meter, Work
from tenantry.core.metering.weights import StepWeights
from tenantry.core.usage import EngineSpan, Record, UsageRecord

MS = 1_000_000
PLAIN = StepWeights(fixed=0.0, prefill_token=1.0, decode_token=1.0)


def meter(*, gpus: int = 1, start_ns: int = 0, part_ns: int = 5_000 * MS, weights: StepWeights = PLAIN) -> Meter:
    identity = EngineIdentity(engine="e1", model="chat", version="2", gpus=gpus)
    return Meter(identity, weights, lambda now_ns: now_ns / 1e9, start_ns=start_ns, part_ns=part_ns)


def arrival(request_id: str = "r1", **fields: Any) -> Arrival:
    return Arrival(**{"request_id": request_id, "tenant": "acme", "input_tokens": 10, **fields})


def prefill(key: str, tokens: int = 10, **fields: Any) -> Work:
    return Work(key=key, prefill_tokens=tokens, **fields)


def decode(key: str, tokens: int = 1, **fields: Any) -> Work:
    return Work(key=key, decode_tokens=tokens, **fields)


def requests(records: Iterable[Record]) -> list[UsageRecord]:
    return [record for record in records if isinstance(record, UsageRecord)]


def spans(records: Iterable[Record]) -> list[EngineSpan]:
    return [record for record in records if isinstance(record, EngineSpan)]
