"""Runs inside vLLM's EngineCore: writes down what the scheduler sees of each request.

--scheduler-cls tenantry_recorder.RecordingScheduler      with TENANTRY_RECORD=FILE

With TENANTRY_INTERFACE=FILE it writes there, once, what the plugin finds of vLLM (`tenantry_interface`).
"""

import json
import os

from vllm.v1.core.sched.async_scheduler import AsyncScheduler


class RecordingScheduler(AsyncScheduler):
    """vLLM's scheduler, with one JSON line per added request."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if path := os.environ.get("TENANTRY_INTERFACE"):
            from tenantry_interface import facts  # noqa: PLC0415

            with open(path, "w") as file:
                json.dump(facts(), file)

    def add_request(self, request):
        seen = {
            "request_id": request.request_id,
            "priority": request.priority,
            "cache_salt": request.cache_salt,
            "extra_args": getattr(request.sampling_params, "extra_args", None),
            "lora": request.lora_request.lora_name if request.lora_request else None,
        }
        with open(os.environ["TENANTRY_RECORD"], "a") as file:
            file.write(json.dumps(seen) + "\n")
        return super().add_request(request)
