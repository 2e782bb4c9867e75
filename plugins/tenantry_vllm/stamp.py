"""Whose request is this? The sidecar's stamp, as vLLM's scheduler sees it.

On generating routes the stamp arrives in `SamplingParams.extra_args` (the body's `vllm_xargs`).
Pooling requests (embeddings) have no such member; there the engine's request id carries it, which
vLLM takes from `x-request-id` and decorates: `embd-TENANT:REQUEST_ID-INDEX-RANDOM` (vLLM 0.32).
Nothing of either is the client's own word: the sidecar overwrites both (tenantry/core/chat.py).
"""

import re
from collections.abc import Mapping

from msgspec import Struct
from tenantry.core.rules_base import TENANT_PATTERN

_ENGINE_ID = re.compile(rf"^[a-z]+[-_](?P<tenant>{TENANT_PATTERN.strip('^$')}):(?P<request_id>[0-9a-f]{{32}})(?:-|$)")


class Stamp(Struct, frozen=True, kw_only=True):
    """Who a scheduled request belongs to. `version` and `adapter` are None where the route cannot carry them."""

    tenant: str
    request_id: str
    version: str | None = None
    adapter: str | None = None


def read_stamp(engine_request_id: str, extra_args: Mapping[str, object] | None) -> Stamp | None:
    """Return the stamp of a request, or None for one that did not come through the sidecar.

    `engine_request_id` is `Request.request_id` in the scheduler, `extra_args` is
    `Request.sampling_params.extra_args`, None for pooling requests.
    """
    arguments = extra_args or {}
    tenant, request_id = arguments.get("tenant"), arguments.get("request_id")
    if isinstance(tenant, str) and isinstance(request_id, str):
        version, adapter = arguments.get("version"), arguments.get("adapter")
        return Stamp(
            tenant=tenant,
            request_id=request_id,
            version=version if isinstance(version, str) else None,
            adapter=adapter if isinstance(adapter, str) else None,
        )
    found = _ENGINE_ID.match(engine_request_id)
    return Stamp(tenant=found["tenant"], request_id=found["request_id"]) if found else None
