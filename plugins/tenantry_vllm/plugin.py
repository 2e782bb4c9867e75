"""The entry point `vllm.general_plugins`: what tenantry changes in vLLM, in each of its processes.

| process | what |
|---|---|
| API server | the stamp goes to EngineCore (`middleware`), which gets time to end; the `gate`; `metrics` |
| EngineCore | its scheduler is metered, whichever it is (`scheduler`); the cold start's phases are asked for |
| worker | steps are timed (`worker_clock`), and the phases of the start (`cold_start`) |

vLLM calls `register` in all of them, before anything else; a process that lacks the object simply never comes by.
Without TENANTRY_MODEL nothing is changed. An error raised here ends the start of the engine, with its message last.
"""

import functools
import logging
import os
import socket
from typing import Any

from tenantry_vllm import _compat, cold_start, config, metrics, middleware, worker_clock
from tenantry_vllm.board import Board, EngineStatus, Teller
from tenantry_vllm.gate import Gate

__all__ = ["register"]

END_TIMEOUT_S = 8.0
"""How long EngineCore may take to end: its own teardown (1 to 3 s), then the last records."""

_log = logging.getLogger("vllm.tenantry")
_registered = False


def register() -> None:
    """Install metering if the environment asks for it; raise ConfigError or UnsupportedVllmError."""
    global _registered  # noqa: PLW0603 - once a process
    if _registered or not config.enabled():
        return
    _compat.check()
    settings = config.read()
    for name in config.unknown():
        _log.warning("%s is no variable of tenantry's metering; is it misspelt?", name)
    cold_start.note_process_start()
    middleware.install(Gate.shared())
    _show_metrics(settings)
    cold_start.install_report()
    _meter_schedulers()
    _time_workers()
    _wait_for_last_records()
    _registered = True


def registered() -> bool:
    """Return whether metering is installed in this process."""
    return _registered


def _show_metrics(settings: config.EngineConfig) -> None:
    """Add what stands on the board to vLLM's own `/metrics`, and an API server's own faults to the board."""

    def status() -> EngineStatus:
        name = f"{socket.gethostname()[:64]}-{os.getpid()}-api"
        return EngineStatus(model=settings.model, version=settings.version, engine=name, faults=middleware.faults())

    if (board := Board.shared()) is not None:
        metrics.install(board, Teller(board, status).tell)


def _meter_schedulers() -> None:
    """Make EngineCore build the metered subclass of whatever scheduler it would have built."""
    from vllm.config.scheduler import SchedulerConfig  # noqa: PLC0415 - there alone

    choose = SchedulerConfig.get_scheduler_cls

    @functools.wraps(choose)
    def get_scheduler_cls(self: Any) -> Any:
        from tenantry_vllm.scheduler import metered  # noqa: PLC0415

        return metered(choose(self))

    SchedulerConfig.get_scheduler_cls = get_scheduler_cls


def _wait_for_last_records() -> None:
    """Give EngineCore time to end: vLLM kills it at once after SIGTERM, unless told to let requests drain.

    The same is done in vLLM for ROCm's sake. It waits no longer than EngineCore takes to end.
    """
    from vllm.v1.engine import utils  # noqa: PLC0415

    choose = utils.get_engine_process_shutdown_timeout

    @functools.wraps(choose)
    def get_engine_process_shutdown_timeout(request_timeout: Any, process_timeout: Any) -> Any:
        chosen = choose(request_timeout, process_timeout)
        return END_TIMEOUT_S if request_timeout == 0 and chosen == 0 else chosen

    utils.get_engine_process_shutdown_timeout = get_engine_process_shutdown_timeout


def _time_workers() -> None:
    """Wrap the methods of each worker that is made from now on; `WorkerWrapperBase` loads plugins just before."""
    from vllm.v1.worker.worker_base import WorkerBase  # noqa: PLC0415

    make = WorkerBase.__init__

    @functools.wraps(make)
    def __init__(self: Any, vllm_config: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it is one
        make(self, vllm_config, *args, **kwargs)
        try:
            worker_clock.install_clock(self, vllm_config.device_config.device_type)
            cold_start.install_phases(self)
        except Exception as error:  # noqa: BLE001
            _log.error("Workers are not timed (%s); serving and billing go on.", type(error).__name__)

    WorkerBase.__init__ = __init__
