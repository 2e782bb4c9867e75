"""Whose request is this? The sidecar's stamp, and how it gets to vLLM's scheduler.

The sidecar writes it three times, since no one place reaches everywhere:

| where | what of it | who sees it |
|---|---|---|
| headers `x-tenantry-*`, `x-envoy-attempt-count` | all but the adapter | the API server, on all routes |
| the body's `vllm_xargs` | tenant, request id, version, adapter | the scheduler, on generating routes |
| `x-request-id` | tenant, request id | the scheduler, as `embd-TENANT:REQUEST_ID-INDEX-RANDOM` (vLLM 0.32) |

The headers are the whole truth: `middleware` hands them to the scheduler as one more of the request's trace headers,
under CARRIER. The others stand in where nobody did. Nothing of it is the client's own word: the sidecar overwrites
all three (tenantry/core/chat.py), and vLLM takes only `traceparent` and `tracestate` from a client into trace headers.
"""

import re
from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Struct
from tenantry.core.rules_base import TENANT_PATTERN

__all__ = ["CARRIER", "Stamp", "read_carried", "read_headers", "read_stamp", "write_carried"]

CARRIER = "x-tenantry-stamp"

MAX_ATTEMPT = 100

_ENGINE_ID = re.compile(rf"^[a-z]+[-_](?P<tenant>{TENANT_PATTERN.strip('^$')}):(?P<request_id>[0-9a-f]{{32}})(?:-|$)")
_MAX_NAME = 128
_HEADERS = {
    b"x-tenantry-tenant": "tenant",
    b"x-tenantry-request-id": "request_id",
    b"x-tenantry-tier": "tier",
    b"x-tenantry-model": "model",
    b"x-tenantry-version": "version",
    b"x-tenantry-mirror": "mirror",
    b"x-envoy-attempt-count": "attempt",
}


class Stamp(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who a scheduled request belongs to. `tier` and `model` are empty, `version` and `adapter` None, if not told.

    `model` is the rules' name, `version` the one that the sidecar chose. `sequence` counts what one HTTP request asks
    the engine for.
    """

    tenant: str
    request_id: str
    tier: str = ""
    model: str = ""
    version: str | None = None
    adapter: str | None = None
    attempt: int = 1
    mirror: bool = False
    sequence: int = 0


_carried = msgspec.json.Decoder(Stamp)


def read_headers(headers: Iterable[tuple[bytes, bytes]]) -> Stamp | None:
    """Return the stamp of an HTTP request (ASGI's headers: names in lower case), or None without tenant and id."""
    found: dict[str, str] = {}
    for name, value in headers:
        if field := _HEADERS.get(name):
            found[field] = value.decode("latin-1")[:_MAX_NAME]
    if not found.get("tenant") or not found.get("request_id"):
        return None
    return Stamp(
        tenant=found["tenant"],
        request_id=found["request_id"],
        tier=found.get("tier", ""),
        model=found.get("model", ""),
        version=found.get("version"),
        mirror=found.get("mirror") == "1",
        attempt=_attempt(found.get("attempt", "")),
    )


def write_carried(stamp: Stamp) -> str:
    """Return what goes under CARRIER."""
    return msgspec.json.encode(stamp).decode()


def read_carried(text: str) -> Stamp:
    """Read it back; raise msgspec.MsgspecError."""
    return _carried.decode(text)


def read_stamp(
    engine_request_id: str, extra_args: Mapping[str, object] | None, carried: str | None = None
) -> Stamp | None:
    """Return the stamp of a request, or None for one that did not come through the sidecar.

    `engine_request_id` is `Request.request_id` in the scheduler, `extra_args` is
    `Request.sampling_params.extra_args`, None for pooling requests; `carried` is what its trace headers have.
    """
    arguments = extra_args or {}
    adapter = arguments.get("adapter")
    adapter = adapter if isinstance(adapter, str) else None
    if carried is not None:
        return msgspec.structs.replace(read_carried(carried), adapter=adapter)
    tenant, request_id = arguments.get("tenant"), arguments.get("request_id")
    if isinstance(tenant, str) and isinstance(request_id, str):
        version = arguments.get("version")
        return Stamp(
            tenant=tenant,
            request_id=request_id,
            version=version if isinstance(version, str) else None,
            adapter=adapter,
        )
    found = _ENGINE_ID.match(engine_request_id)
    return Stamp(tenant=found["tenant"], request_id=found["request_id"]) if found else None


def _attempt(text: str) -> int:
    """Read `x-envoy-attempt-count`; 1 for anything but a number that a record may bear."""
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_ATTEMPT)) else 1
    return number if 1 <= number <= MAX_ATTEMPT else 1
