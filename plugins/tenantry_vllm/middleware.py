"""In the API server: hands the stamp in a request's headers to EngineCore, and tells it why a request was ended.

    HTTP headers --> context variable --> EngineCoreRequest.trace_headers --(ZMQ)--> Request.trace_headers
                                               ^ AsyncMPClient._send_input: all routes, all sequences pass here

No body is read, parsed or copied. The context variable follows the request into every task that its handler starts.
Trace headers are the one member of an engine request that is text to text, is the same for generating and pooling
requests and means nothing to the model; the scheduler takes ours out again (`adapter`), or each token's output would
bring it back.

`_send_input` also sends aborts. vLLM ends a request at a stop string by aborting it in EngineCore, where that looks
like a client that left. So such an abort names the request a second time, under `STOPPED`; to a scheduler without
metering that is an unknown id, which it passes over.

`check_admission` is vLLM's own question before a response is begun, whether there is room: the `gate` answers it too.

FastAPI's own `__call__` is what is wrapped, not a list of middleware: it comes before all of them, and nobody can
forget the flag for it. Without it a mirrored copy would be billed to its tenant.
"""

import functools
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from http import HTTPStatus
from typing import Any

from msgspec.structs import replace

from tenantry_vllm.gate import Gate
from tenantry_vllm.stamp import CARRIER, Stamp, read_headers, write_carried

__all__ = ["STOPPED", "faults", "install", "outgoing", "stamped"]

STOPPED = "tenantry-stopped:"
"""What an id bears in an abort whose request had come to a stop string."""

HOOK = "send_input"
"""What faults of an API server are counted under."""

REFUSAL = "This engine cannot keep usage records now, so it takes no new requests. Try another instance, or later."

Scope = MutableMapping[str, Any]
Call = Callable[..., Awaitable[None]]

_MOST_STOPPED = 100_000

_log = logging.getLogger("vllm.tenantry")


class _Exchange:
    """One HTTP request: its stamp, and how many sequences it has asked the engine for."""

    __slots__ = ("sequences", "stamp")

    def __init__(self, stamp: Stamp) -> None:
        self.stamp = stamp
        self.sequences = 0

    def next(self) -> Stamp:
        """Return the stamp of the next sequence."""
        number, self.sequences = self.sequences, self.sequences + 1
        return replace(self.stamp, sequence=number)


_exchange: ContextVar[_Exchange | None] = ContextVar("tenantry_exchange", default=None)
_stopped: set[str] = set()
_faults: Counter[str] = Counter()


def stamped(call: Call) -> Call:
    """Return an application's `__call__` that notes the stamp of what it serves."""

    @functools.wraps(call)
    async def __call__(app: Any, scope: Scope, receive: Any, send: Any) -> None:  # noqa: N807 - it is one
        if scope["type"] not in ("http", "websocket") or _exchange.get() is not None:
            await call(app, scope, receive, send)
            return
        stamp = read_headers(scope["headers"])
        if stamp is None:
            await call(app, scope, receive, send)
            return
        token = _exchange.set(_Exchange(stamp))
        try:
            await call(app, scope, receive, send)
        finally:
            _exchange.reset(token)

    return __call__


def outgoing(kind: str, message: Any) -> Any:
    """Return a message to EngineCore with what it must know; `kind` is ADD or ABORT, or anything else."""
    if kind == "ADD":
        exchange = _exchange.get()
        if exchange is not None:
            message.trace_headers = {**(message.trace_headers or {}), CARRIER: write_carried(exchange.next())}
    elif kind == "ABORT" and _stopped:
        stopped = [request_id for request_id in message if request_id in _stopped]
        _stopped.difference_update(stopped)
        return [*message, *(STOPPED + request_id for request_id in stopped)]
    return message


def note_stopped(request_ids: list[str]) -> None:
    """Note requests that are about to be aborted because a stop string was found."""
    if len(_stopped) > _MOST_STOPPED:  # nothing sends: a synchronous engine, whose aborts do not pass here
        _stopped.clear()
    _stopped.update(request_ids)


def faults() -> dict[str, int]:
    """Return how many faults there were in this process, by what they were in."""
    return {HOOK: sum(_faults.values())}


def install(gate: Gate) -> None:
    """Wrap what is named above, once a process."""
    from fastapi import FastAPI  # noqa: PLC0415 - vLLM's own, there alone
    from vllm.exceptions import GracefulHTTPError  # noqa: PLC0415
    from vllm.v1.engine.async_llm import AsyncLLM  # noqa: PLC0415
    from vllm.v1.engine.core_client import AsyncMPClient  # noqa: PLC0415
    from vllm.v1.engine.output_processor import OutputProcessor  # noqa: PLC0415

    if getattr(AsyncMPClient, "_tenantry", False):
        return
    AsyncMPClient._tenantry = True  # noqa: SLF001
    FastAPI.__call__ = stamped(FastAPI.__call__)
    check_admission = AsyncLLM.check_admission
    send_input, process_outputs = AsyncMPClient._send_input, OutputProcessor.process_outputs  # noqa: SLF001

    @functools.wraps(send_input)
    def _send_input(self: Any, request_type: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            request = outgoing(request_type.name, request)
        except Exception as error:  # noqa: BLE001 - metering must not break serving
            _fault("_send_input", error)
        return send_input(self, request_type, request, *args, **kwargs)

    @functools.wraps(process_outputs)
    def _process_outputs(self: Any, *args: Any, **kwargs: Any) -> Any:
        processed = process_outputs(self, *args, **kwargs)
        if processed.reqs_to_abort:
            note_stopped(processed.reqs_to_abort)
        return processed

    @functools.wraps(check_admission)
    def _check_admission(self: Any, *args: Any, **kwargs: Any) -> None:
        if gate.refusing:
            raise GracefulHTTPError(REFUSAL, HTTPStatus.SERVICE_UNAVAILABLE)
        check_admission(self, *args, **kwargs)

    AsyncLLM.check_admission = _check_admission
    AsyncMPClient._send_input = _send_input  # noqa: SLF001
    OutputProcessor.process_outputs = _process_outputs


def _fault(where: str, error: Exception) -> None:
    """Count a fault, and tell of the first of each kind."""
    kind = f"{where}: {type(error).__name__}"
    _faults[kind] += 1
    if _faults[kind] == 1:
        _log.error("Metering failed in %s; such requests are not billed to their tenants.", kind)
