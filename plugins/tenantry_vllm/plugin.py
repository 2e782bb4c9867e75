"""The entry point `vllm.general_plugins`: what tenantry changes in vLLM, in each of its processes.

| process | what |
|---|---|
| API server | the stamp goes to EngineCore (`middleware`) |
| EngineCore | its scheduler is metered, whichever it is (`scheduler`); the cold start's phases are asked for |
| worker | steps are timed (`worker_clock`), and the phases of the start (`cold_start`) |

vLLM calls `register` in all of them, before anything else; a process that lacks the object simply never comes by.
Without TENANTRY_MODEL nothing is changed. An error raised here ends the start of the engine, with its message last.
"""

import functools
import logging
from typing import Any

from tenantry_vllm import _compat, cold_start, config, middleware, worker_clock

__all__ = ["register"]

_log = logging.getLogger("vllm.tenantry")
_registered = False


def register() -> None:
    """Install metering if the environment asks for it; raise ConfigError or UnsupportedVllmError."""
    global _registered  # noqa: PLW0603 - once a process
    if _registered or not config.enabled():
        return
    _compat.check()
    config.read()
    for name in config.unknown():
        _log.warning("%s is no variable of tenantry's metering; is it misspelt?", name)
    cold_start.note_process_start()
    middleware.install()
    cold_start.install_report()
    _meter_schedulers()
    _time_workers()
    _registered = True


def registered() -> bool:
    """Return whether metering is installed in this process."""
    return _registered


def _meter_schedulers() -> None:
    """Make EngineCore build the metered subclass of whatever scheduler it would have built."""
    from vllm.config.scheduler import SchedulerConfig  # noqa: PLC0415 - there alone

    choose = SchedulerConfig.get_scheduler_cls

    @functools.wraps(choose)
    def get_scheduler_cls(self: Any) -> Any:
        from tenantry_vllm.scheduler import metered  # noqa: PLC0415

        return metered(choose(self))

    SchedulerConfig.get_scheduler_cls = get_scheduler_cls


def _time_workers() -> None:
    """Wrap each worker when it has been made."""
    from vllm.v1.worker.worker_base import WorkerWrapperBase  # noqa: PLC0415

    init_worker = WorkerWrapperBase.init_worker

    @functools.wraps(init_worker)
    def timed(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = init_worker(self, *args, **kwargs)
        try:
            worker_clock.install_clock(self.worker, self.vllm_config.device_config.device_type)
            cold_start.install_phases(self.worker)
        except Exception as error:  # noqa: BLE001
            _log.error("Workers are not timed (%s); serving and billing go on.", type(error).__name__)
        return result

    WorkerWrapperBase.init_worker = timed
