"""The methods of vLLM's scheduler that metering listens to: a class to mix in before a scheduler's own.

Each calls vLLM's method and tells the adapter; neither arguments nor results are changed, but for the marks that our
API server put among the ids of an abort.
"""

from typing import TYPE_CHECKING, Any

from tenantry_vllm.adapter import MeterAdapter

__all__ = ["MeterHooks"]

if TYPE_CHECKING:

    class _Scheduler:
        """What vLLM's Scheduler is to the hooks."""

        def __init__(self, *args: Any, **kwargs: Any) -> None: ...
        def add_request(self, request: Any) -> None: ...
        def schedule(self, *args: Any, **kwargs: Any) -> Any: ...
        def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any: ...
        def finish_requests(self, request_ids: Any, finished_status: Any) -> Any: ...
        def _preempt_request(self, request: Any, *args: Any, **kwargs: Any) -> Any: ...
        def _free_request(self, request: Any, *args: Any, **kwargs: Any) -> Any: ...
        def shutdown(self) -> None: ...

else:
    _Scheduler = object


class MeterHooks(_Scheduler):
    """Metering for a scheduler: `class Metered(MeterHooks, Scheduler)`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._metering = self._open_meter()

    def _open_meter(self) -> MeterAdapter:
        """Return the adapter of this scheduler, started; raise what must stop the engine's start."""
        raise NotImplementedError

    def add_request(self, request: Any) -> None:  # noqa: D102 - vLLM's, as all that follow
        self._metering.arrived(request)
        super().add_request(request)

    def schedule(self, *args: Any, **kwargs: Any) -> Any:  # noqa: D102
        output = super().schedule(*args, **kwargs)
        self._metering.planned(output)
        return output

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:  # noqa: D102
        self._metering.done(scheduler_output, model_runner_output)
        outputs = None
        try:
            outputs = super().update_from_output(scheduler_output, model_runner_output)
        finally:
            self._metering.updated(outputs)
        return outputs

    def finish_requests(self, request_ids: Any, finished_status: Any) -> Any:  # noqa: D102
        return super().finish_requests(self._metering.ending(request_ids), finished_status)

    def _preempt_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        self._metering.preempted(request)
        return super()._preempt_request(request, *args, **kwargs)

    def _free_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        self._metering.freed(request)
        return super()._free_request(request, *args, **kwargs)

    def shutdown(self) -> None:  # noqa: D102
        try:
            super().shutdown()
        finally:
            self._metering.stop()
