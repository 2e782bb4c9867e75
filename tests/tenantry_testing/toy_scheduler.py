"""As much of vLLM's scheduler as metering listens to: objects of the same shape, moved by hand.

A test adds requests, plans steps by saying how many tokens each request gets, and lets steps end with the tokens that
each produced. As in vLLM, steps may be planned ahead, a request that ends in a step is freed inside
`update_from_output`, and one that was aborted stays in the steps that hold it.
"""

from collections.abc import Mapping, Sequence
from enum import Enum, auto
from types import SimpleNamespace
from typing import Any

from tenantry.core.usage import Record
from tenantry_vllm.adapter import MeterAdapter
from tenantry_vllm.hooks import MeterHooks

from tenantry_testing.metering import meter

MS = 1_000_000
BLOCK_TOKENS, BLOCK_BYTES = 16, 1_000


class Status(Enum):
    """vLLM's RequestStatus, its names."""

    RUNNING = auto()
    PREEMPTED = auto()
    FINISHED_STOPPED = auto()
    FINISHED_LENGTH_CAPPED = auto()
    FINISHED_ABORTED = auto()
    FINISHED_IGNORED = auto()
    FINISHED_ERROR = auto()
    FINISHED_REPETITION = auto()


class Request(SimpleNamespace):
    """vLLM's Request."""

    def is_finished(self) -> bool:
        return str(self.status.name).startswith("FINISHED")


def request(key: str = "r", prompt: int = 10) -> Request:
    return Request(
        request_id=key, num_prompt_tokens=prompt, num_tokens=prompt, num_computed_tokens=0, num_preemptions=0,
        priority=0, status=Status.RUNNING, trace_headers=None, lora_request=None,
        sampling_params=SimpleNamespace(extra_args=None), prefill_stats=SimpleNamespace(num_cached_tokens=0),
    )  # fmt: skip


class Vllm:
    """vLLM's own part of the toy."""

    def __init__(self) -> None:
        self.requests: dict[str, Any] = {}
        self.plan: Mapping[str, int] = {}
        self.blocks: dict[str, list[int]] = {}
        self.fail: Exception | None = None
        self.was_shut_down = False

    def add_request(self, added: Any) -> None:
        self.requests[added.request_id] = added

    def schedule(self) -> Any:
        for key, tokens in self.plan.items():
            self.requests[key].num_computed_tokens += tokens
            self.blocks[key] = [0] * -(-self.requests[key].num_computed_tokens // BLOCK_TOKENS)
        return SimpleNamespace(num_scheduled_tokens=dict(self.plan))

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        outputs = []
        for key, tokens in model_runner_output.tokens.items():
            if self.fail is not None:
                raise self.fail
            if (held := self.requests.get(key)) is None:
                continue
            stats, held.prefill_stats = held.prefill_stats, None
            held.num_tokens += len(tokens)
            outputs.append(SimpleNamespace(request_id=key, new_token_ids=tokens, prefill_stats=stats))
            if (status := model_runner_output.ends.get(key)) is not None:
                held.status = status
                self._free_request(held)
        return {0: SimpleNamespace(outputs=outputs)}

    def finish_requests(self, request_ids: Any, finished_status: Any) -> Any:
        ended = [self.requests[key] for key in request_ids if key in self.requests]
        for held in ended:
            held.status = finished_status
            self._free_request(held)
        return ended

    def _preempt_request(self, held: Any, timestamp: float) -> None:
        held.num_computed_tokens = 0
        held.num_preemptions += 1
        self.blocks.pop(held.request_id, None)

    def _free_request(self, held: Any) -> None:
        self.blocks.pop(held.request_id, None)
        del self.requests[held.request_id]

    def shutdown(self) -> None:
        self.was_shut_down = True


class ToyScheduler(MeterHooks, Vllm):  # type: ignore[misc] # the hooks' own idea of a scheduler comes before
    """The toy, metered; its clock stands until a test moves it. `records` are those collected so far."""

    now_ns = 0

    def _open_meter(self) -> MeterAdapter:
        self.records: list[Record] = []
        self.meter = meter()
        managers = [SimpleNamespace(req_to_blocks=self.blocks)]
        return MeterAdapter(
            self.meter, self.records.append, requests=self.requests, managers=managers, block_bytes=BLOCK_BYTES,
            now_ns=lambda: self.now_ns,
        )  # fmt: skip

    @property
    def metering(self) -> MeterAdapter:
        return self._metering

    def step(self, at_ms: int, **tokens: int) -> Any:
        """Plan a step."""
        self.now_ns, self.plan = at_ms * MS, tokens
        return self.schedule()

    def end(self, step: Any, at_ms: int, ends: Mapping[str, Status] | None = None, **tokens: Sequence[int]) -> None:
        """Let a step end, with the tokens that each request produced."""
        self.now_ns = at_ms * MS
        self.update_from_output(step, SimpleNamespace(tokens=tokens, ends=ends or {}))

    def collect(self) -> list[Record]:
        """Return what the meter has ready, all in all."""
        self.metering.catch_up()
        self.records += self.meter.collect()
        return self.records
