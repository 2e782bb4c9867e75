"""vLLM's schedulers, metered. Importing this takes vLLM; `tenantry_vllm.hooks` does not.

The plugin (`tenantry_vllm.plugin`) meters whichever scheduler vLLM chooses. To name one all the same:

    --scheduler-cls tenantry_vllm.scheduler.MeteredAsyncScheduler
    --scheduler-cls tenantry_vllm.scheduler.MeteredScheduler --no-async-scheduling
"""

import os
import socket
import time
from typing import Any

from tenantry.core.metering.meter import EngineIdentity, Meter
from tenantry.core.metering.weights import StepWeights, flops_weights

from tenantry_vllm import _compat, cold_start, config, plugin
from tenantry_vllm.adapter import MeterAdapter, unix_clock
from tenantry_vllm.board import Board, EngineStatus, Teller
from tenantry_vllm.delivery import Delivery
from tenantry_vllm.gate import Gate
from tenantry_vllm.hooks import MeterHooks

_compat.check()

from vllm.logger import init_logger  # noqa: E402 - what is missing is told before
from vllm.v1.core.sched.async_scheduler import AsyncScheduler  # noqa: E402
from vllm.v1.core.sched.scheduler import Scheduler  # noqa: E402

__all__ = ["MeteredAsyncScheduler", "MeteredScheduler", "metered"]

_log = init_logger("vllm.tenantry")
_MAX_NAME = 128


class _Metered(MeterHooks):
    """The hooks, opened with what a real scheduler knows."""

    def _open_meter(self) -> MeterAdapter:
        return open_meter(self)


class MeteredAsyncScheduler(_Metered, AsyncScheduler):  # type: ignore[misc] # vLLM is not installed where this is checked
    """vLLM's asynchronous scheduler, metered."""


class MeteredScheduler(_Metered, Scheduler):  # type: ignore[misc]
    """vLLM's synchronous scheduler, metered."""


def metered(scheduler: type[Any]) -> type[Any]:
    """Return a metered subclass of a scheduler class; raise UnsupportedVllmError if it is none of vLLM's."""
    if issubclass(scheduler, MeterHooks):
        return scheduler
    if not issubclass(scheduler, Scheduler):
        raise _compat.UnsupportedVllmError(
            f"{scheduler.__qualname__} (--scheduler-cls) is no subclass of vLLM's Scheduler, so it cannot be metered. "
            "Take one that is, or unset TENANTRY_MODEL to serve without metering."
        )
    if scheduler is AsyncScheduler:
        return MeteredAsyncScheduler
    return type(f"Metered{scheduler.__name__}", (_Metered, scheduler), {"__module__": __name__})


def open_meter(scheduler: Any) -> MeterAdapter:
    """Return the adapter of a scheduler that was just built, started; raise ConfigError and the like."""
    if not plugin.registered():
        raise config.ConfigError(
            "tenantry's plugin is not loaded, so no request would bear its stamp: "
            + ("set TENANTRY_MODEL" if not config.enabled() else "add tenantry to VLLM_PLUGINS")
        )
    engine, gpus = engine_id(), gpus_of(scheduler.vllm_config.parallel_config)
    settings = config.read(engine=engine)
    delivery = Delivery(settings.delivery, log=_log.warning)
    delivery.start()
    gate, rank = Gate.shared(), scheduler.vllm_config.parallel_config.data_parallel_index
    ready_ns = time.monotonic_ns()
    identity = EngineIdentity(engine=engine, model=settings.model, version=settings.version, gpus=gpus)

    def status() -> EngineStatus:
        return EngineStatus(
            model=settings.model,
            version=settings.version,
            engine=engine,
            faults=adapter.faults_by_hook(),
            delivery=delivery.status(),
        )

    def watch() -> None:
        gate.refuse(rank, not delivery.accepting)
        teller.tell()

    def close() -> None:
        delivery.stop()
        teller.end()

    teller = Teller(Board.shared(), status)
    weights = model_weights(scheduler.vllm_config.model_config)
    cache = scheduler.kv_cache_config
    adapter = MeterAdapter(
        Meter(identity, weights, unix_clock, start_ns=ready_ns, part_ns=settings.part_ns),
        delivery.deliver,
        requests=scheduler.requests,
        managers=scheduler.kv_cache_manager.coordinator.single_type_managers,
        # Each worker holds its share of the heads or layers in tensors of this size.
        block_bytes=gpus * sum(tensor.size for tensor in cache.kv_cache_tensors) // max(1, cache.num_blocks),
        watch=watch,
        close=close,
    )
    adapter.cold_start(
        cold_start.cold_start_record(
            engine=engine,
            model=settings.model,
            version=settings.version,
            gpus=gpus,
            ended_s=unix_clock(ready_ns),
            wall_ns=cold_start.age_ns(),
            phases=cold_start.reports,
        ),
        ready_ns,
    )
    adapter.start()
    _log.info("Usage of %s %s is metered as %s: %d GPU(s).", settings.model, settings.version, engine, gpus)
    return adapter


def engine_id() -> str:
    """Return a name that no other start of any engine has: host, process, time."""
    suffix = f"-{os.getpid()}-{time.time_ns() // 1_000_000}"
    return socket.gethostname()[: _MAX_NAME - len(suffix)] + suffix


def gpus_of(parallel: Any) -> int:
    """Return the GPUs of one engine: tensor times pipeline times context parallel.

    Launched by torchrun each process has its own engine, all do the same work, and `world_size` counts them all.
    """
    return 1 if parallel.distributed_executor_backend == "external_launcher" else int(parallel.world_size)


def model_weights(model: Any) -> StepWeights:
    """Return what divides steps until they are calibrated, from a `ModelConfig`."""
    text, hidden = model.hf_text_config, model.get_hidden_size()
    layers, size = model.get_total_num_hidden_layers(), model.get_head_size()
    heads = getattr(text, "num_attention_heads", 0) or max(1, hidden // max(1, size))
    inner = getattr(text, "moe_intermediate_size", None) or getattr(text, "intermediate_size", None) or 4 * hidden
    active = max(1, getattr(text, "num_experts_per_tok", None) or 1)
    attention = hidden * size * 2 * (heads + model.get_total_num_kv_heads())
    parameters = layers * (attention + 3 * hidden * inner * active) + hidden * model.get_vocab_size()
    return flops_weights(parameters=parameters, layers=layers, heads=heads, head_size=size)
