"""Runs inside vLLM's EngineCore: what tenantry's plugin finds of the interface that it uses."""

import pickle

from tenantry_vllm import _compat, adapter, worker_clock
from tenantry_vllm.scheduler import MeteredAsyncScheduler, MeteredScheduler, metered
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.diffusion_scheduler import DiffusionScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager, SlidingWindowManager
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.outputs import AsyncModelRunnerOutput, ModelRunnerOutput
from vllm.v1.request import RequestStatus
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder


def carried():
    """An engine request with our trace header, through the encoding that goes to EngineCore and back."""
    request = EngineCoreRequest(
        request_id="r", prompt_token_ids=[1], mm_features=None, sampling_params=None, pooling_params=None,
        arrival_time=0.0, lora_request=None, cache_salt=None, data_parallel_rank=None,
    )  # fmt: skip
    request.trace_headers = {"x-tenantry-stamp": "s"}
    return dict(MsgpackDecoder(EngineCoreRequest).decode(MsgpackEncoder().encode(request)).trace_headers)


def pickled():
    """A report, through the pickle that an output goes through on its way from a worker."""
    output = ModelRunnerOutput(req_ids=["r"], req_id_to_index={"r": 0})
    worker_clock.attach(output, (7, 8))
    return worker_clock.read_report(pickle.loads(pickle.dumps(output)))


def facts():
    """All of it, as JSON can hold it."""
    return {
        "missing": _compat.missing(_compat.INTERFACE),
        "found_out": _compat.missing(
            (
                _compat.Need("vllm.v1.core.sched.scheduler:Scheduler", "no_such_method"),
                _compat.Need("vllm.v1.core.sched.scheduler:Scheduler", "schedule", ("self", "no_such_argument")),
            )
        ),
        "statuses": sorted(s.name for s in RequestStatus if RequestStatus.is_finished(s)),
        "known": sorted(adapter.REASONS),
        "metered": [
            metered(AsyncScheduler) is MeteredAsyncScheduler,
            issubclass(metered(DiffusionScheduler), DiffusionScheduler),
            metered(MeteredScheduler) is MeteredScheduler,
            issubclass(MeteredScheduler, Scheduler),
        ],
        "carried": carried(),
        "pickled": pickled(),
        "deferred": isinstance(worker_clock.deferred(AsyncModelRunnerOutput)(None, None), AsyncModelRunnerOutput),
        "full_attention_skips": FullAttentionManager.get_num_skipped_tokens(None, 1 << 40),
        "sliding_window_may_skip": "get_num_skipped_tokens" in vars(SlidingWindowManager),
    }
