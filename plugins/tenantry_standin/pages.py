"""What the stand-in serves besides the model: its own pages, vLLM's dangerous routes, and the test pages.

A vLLM server obeys its administrative routes whoever asks. Here they do nothing but answer 200, be
logged and be seen: a test proves that they are never reached.
"""

from collections.abc import Callable, Mapping
from html import escape
from ipaddress import ip_address
from typing import Any

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from tenantry_vllm.board import EngineStatus
from tenantry_vllm.delivery import DeliveryStatus
from tenantry_vllm.metrics import EngineCollector

from tenantry_standin.answers import FINGERPRINT
from tenantry_standin.bodies import ApiError
from tenantry_standin.engine import Engine, EngineConfig, Log
from tenantry_standin.seen import SeenLog

ADMIN_ROUTES = (
    ("POST", "/abort_requests"),
    ("POST", "/sleep"),
    ("POST", "/wake_up"),
    ("POST", "/update_weights"),
    ("POST", "/collective_rpc"),
    ("POST", "/reset_prefix_cache"),
    ("POST", "/v1/load_lora_adapter"),
    ("POST", "/v1/unload_lora_adapter"),
    ("GET", "/v1/responses/{id}"),
    ("POST", "/v1/responses/{id}/cancel"),
)

_TOTALS = (
    *("finished", "aborted", "prompt_tokens", "cached_tokens", "output_tokens"),  # of sequences
    *("mirrored", "retried", "records"),  # of attempts: copies, those with a number above 1, those that left a record
)

_NOTICE = (
    "This is a stand-in for a serving engine, part of tenantry. "
    "No model runs here: the words are filler and the time they take is simulated."
)


class Pages:
    """The pages of one engine."""

    def __init__(
        self,
        config: EngineConfig,
        engine: Engine,
        seen: SeenLog,
        log: Log,
        *,
        own_id: str,
        record_counts: Callable[[], Mapping[str, int]],
        delivery_status: Callable[[], DeliveryStatus] | None,
    ) -> None:
        self._config = config
        self._own_id = own_id
        self._record_counts = record_counts
        self._registry = CollectorRegistry()
        if delivery_status is not None:
            self._registry.register(EngineCollector(lambda: [self._status(delivery_status())]))
        self._engine = engine
        self._seen = seen
        self._log = log

    def routes(self) -> list[web.RouteDef]:
        """Return the route table."""
        return [
            web.get("/", self._front),
            web.get("/health", self._health),
            web.get("/version", self._health),
            web.get("/metrics", self._metrics),
            web.get("/v1/models", self._models),
            web.get("/stand-in/seen", self._show_seen),
            web.get("/stand-in/behaviour", self._show_behaviour),
            web.post("/stand-in/behaviour", self._set_behaviour),
            *(web.route(method, path, self._admin) for method, path in ADMIN_ROUTES),
        ]

    async def _front(self, _: web.Request) -> web.Response:
        shown = {**self._facts(), **msgspec.to_builtins(self._engine.behaviour)}
        rows = "".join(f"<tr><th>{escape(name)}<td>{escape(str(value))}" for name, value in shown.items())
        head = "<!doctype html><html lang=en><meta charset=utf-8><title>Stand-in engine</title><h1>Stand-in engine</h1>"
        return web.Response(text=f"{head}<p>{_NOTICE}<table>{rows}</table>", content_type="text/html")

    async def _health(self, _: web.Request) -> web.Response:
        return json_response({"stand_in": True, "status": "ok", "version": FINGERPRINT, **self._facts()})

    async def _metrics(self, _: web.Request) -> web.Response:
        totals = self._engine.totals
        lines = [_metric(f"{name}_total", "counter", totals[name]) for name in _TOTALS]
        lines += [_metric(f"records_{name}_total", "counter", value) for name, value in self._record_counts().items()]
        lines.append(_metric("requests_total", "counter", self._seen.last))
        lines.append(_metric("busy_seconds_total", "counter", self._engine.meter.busy_seconds))
        lines.append(_metric("waiting", "gauge", self._engine.waiting))
        lines.append(_metric("running", "gauge", self._engine.running))
        body = "".join(lines).encode() + generate_latest(self._registry)
        return web.Response(body=body, headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _models(self, _: web.Request) -> web.Response:
        data = [{"id": name, "object": "model", "created": 0, "owned_by": FINGERPRINT} for name in self._config.names()]
        return json_response({"object": "list", "data": data})

    async def _admin(self, request: web.Request) -> web.Response:
        self._log("admin route reached", method=request.method, path=request.path)
        return json_response({"stand_in": True, "did": "nothing", "warning": "A real engine would have obeyed."})

    async def _show_seen(self, request: web.Request) -> web.Response:
        check_loopback(request.remote)
        after = request.query.get("after", "0")
        if not (after.isascii() and after.isdecimal()):
            raise ApiError(400, f"'after' must be the number of a request, not '{after}'.")
        requests = self._seen.after(int(after))
        return json_response({"stand_in": True, "last": self._seen.last, "requests": requests})

    async def _show_behaviour(self, request: web.Request) -> web.Response:
        check_loopback(request.remote)
        return json_response({"stand_in": True, "behaviour": self._engine.behaviour})

    async def _set_behaviour(self, request: web.Request) -> web.Response:
        check_loopback(request.remote)
        try:
            changes = msgspec.json.decode(await request.read(), type=dict[str, Any])
            self._engine.behaviour = self._engine.behaviour.changed(changes)
        except msgspec.DecodeError as error:
            raise ApiError(400, f"The behaviour was not changed: {error}") from None
        self._log("behaviour changed", changes=changes)
        return await self._show_behaviour(request)

    def _status(self, delivery: DeliveryStatus) -> EngineStatus:
        return EngineStatus(
            model=self._config.model,
            version=self._config.version,
            engine=self._own_id,
            faults={"deliver": self._engine.totals["lost_records"]},
            delivery=delivery,
        )

    def _facts(self) -> dict[str, object]:
        return {
            "model": self._config.model,
            "model_version": self._config.version,
            "engine": self._own_id,
            "waiting": self._engine.waiting,
            "running": self._engine.running,
        }


def json_response(data: object, *, status: int = 200) -> web.Response:
    """Return `data` as a JSON answer."""
    return web.Response(body=msgspec.json.encode(data), status=status, content_type="application/json")


def check_loopback(remote: str | None) -> None:
    """Raise ApiError 403 unless the peer's address is this machine's own."""
    if remote is None or not ip_address(remote).is_loopback:
        raise ApiError(403, "/stand-in/ answers to loopback only.")


def _metric(name: str, kind: str, value: float) -> str:
    help_line = f"# HELP standin_{name} Of a stand-in engine: no model runs here."
    return f"{help_line}\n# TYPE standin_{name} {kind}\nstandin_{name} {value}\n"
