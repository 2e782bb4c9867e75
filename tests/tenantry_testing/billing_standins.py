"""Stand-ins for OpenMeter, Lago and Stripe: their rules of what counts once, on a clock that tests set.

None of the three can run here. What they do is taken from their documentation and, of OpenMeter and Lago, their source:

| | knows an event again by | for | says of one it knows | of a batch with a bad event |
|---|---|---|---|---|
| OpenMeter | source and id | what its Redis is told, 24 h otherwise | 204 | 400, none is taken |
| Lago | transaction_id | always | 422, `value_already_exist`, none is taken | 422 by place, none is taken |
| Stripe | identifier | 24 h | 400, "An event already exists with identifier" | (one event a request) |

`take` is the whole of it, without a network. `served` puts it behind HTTP.
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs

from aiohttp import web
from tenantry.adapters.ports import free_port

TOKEN = "s3cret-token"
HOUR = 3600.0
_MOMENT = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$")

Reply = tuple[int, bytes]
"""Status 0: no answer."""


@dataclass
class BillingStandIn:
    """All three at once. `counted`, `counted_at`: how often each event counted; `total`: what it comes to by customer.

    `weather(path)` says what becomes of a request: "" for nothing in particular; a status, answered without a look; the
    same with a `+`: after it was taken; "hang", "hang+": no answer; "garbage", "garbage+": a page that is no answer.
    Customers in `refused` are refused for good.
    """

    now: Callable[[], float]
    remembers_hours: float = 24.0
    refused: set[str] = field(default_factory=set)
    weather: Callable[[str], str] = lambda _path: ""
    counted: Counter[str] = field(default_factory=Counter)
    counted_at: Counter[tuple[str, str]] = field(default_factory=Counter)
    total: Counter[str] = field(default_factory=Counter)
    seen_s: dict[tuple[str, str], float] = field(default_factory=dict)
    keys: dict[str, Reply] = field(default_factory=dict)
    requests: list[tuple[str, int]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def take(self, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Do what a request asks for, in the weather of the moment."""
        word = self.weather(path)
        taken = self._work(path, headers, body) if not word or word.endswith("+") else None
        self.requests.append((path, len(body)))
        match word.rstrip("+"):
            case "":
                return taken or (500, b"")
            case "hang":
                return 0, b""
            case "garbage":
                return 200, b"<html>Welcome to the hotel's network</html>"
            case status:
                return int(status), json.dumps({"error": {"message": "the weather is bad"}}).encode()

    def _work(self, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        if headers.get("authorization") != f"Bearer {TOKEN}":
            return 401, b'{"status": 401}'
        if path == "/api/v1/events":
            return self._openmeter(headers, body)
        if path == "/api/v1/events/batch":
            return self._lago(headers, body)
        if path == "/v1/billing/meter_events":
            return self._stripe(headers, body)
        return 404, b"{}"

    def _openmeter(self, headers: Mapping[str, str], body: bytes) -> Reply:
        if headers.get("content-type") != "application/cloudevents-batch+json":
            return 400, b'{"title": "invalid content type"}'
        events = json.loads(body)
        faults = [fault for event in events for fault in cloud_event_faults(event)]
        self.faults += faults
        if faults or any(event["subject"] in self.refused for event in events):
            return 400, b'{"title": "Bad Request", "detail": "invalid event"}'
        for event in events:
            if self._is_new("openmeter", f"{event['source']} {event['id']}", self.remembers_hours):
                self._count("openmeter", event["id"], event["subject"], Decimal(event["data"]["compute_units"]))
        return 204, b""

    def _lago(self, headers: Mapping[str, str], body: bytes) -> Reply:
        events = json.loads(body)["events"]
        if not 0 < len(events) <= 100:
            return 422, b'{"status": 422, "error_details": {"events": ["too_many_events"]}}'
        details: dict[str, Any] = {}
        for place, event in enumerate(events):
            if set(event) != {"transaction_id", "external_subscription_id", "code", "timestamp", "properties"}:
                self.faults.append(f"members {sorted(event)}")
            if event["external_subscription_id"] in self.refused:
                details[str(place)] = {"external_subscription_id": ["subscription_not_found"]}
            elif ("lago", event["transaction_id"]) in self.seen_s:
                details[str(place)] = {"transaction_id": ["value_already_exist"]}
        if details:
            said = {
                "status": 422,
                "error": "Unprocessable Entity",
                "code": "validation_errors",
                "error_details": details,
            }
            return 422, json.dumps(said).encode()
        for event in events:
            self._is_new("lago", event["transaction_id"], None)
            units = Decimal(event["properties"]["compute_units"])
            self._count("lago", event["transaction_id"], event["external_subscription_id"], units)
        return 200, json.dumps({"events": events}).encode()

    def _stripe(self, headers: Mapping[str, str], body: bytes) -> Reply:
        key = headers["idempotency-key"]
        if key not in self.keys:
            self.keys[key] = self._stripe_new({name: values[0] for name, values in parse_qs(body.decode()).items()})
        return self.keys[key]

    def _stripe_new(self, form: dict[str, str]) -> Reply:
        expected = {"event_name", "identifier", "timestamp", "payload[stripe_customer_id]", "payload[value]"}
        if (
            set(form) != expected
            or len(form["identifier"]) > 100
            or re.fullmatch(r"-?\d+", form["payload[value]"]) is None
        ):
            self.faults.append(f"form {form}")
            return 400, b'{"error": {"type": "invalid_request_error", "message": "invalid"}}'
        if not self.now() - 35 * 24 * HOUR <= int(form["timestamp"]) <= self.now() + 300:
            return 400, b'{"error": {"type": "invalid_request_error", "message": "timestamp too far in the past"}}'
        if form["payload[stripe_customer_id]"] in self.refused:
            return 400, b'{"error": {"type": "invalid_request_error", "message": "No such customer"}}'
        identifier = form["identifier"]
        if not self._is_new("stripe", identifier, 24.0):
            said = {
                "type": "invalid_request_error",
                "message": f"An event already exists with identifier {identifier}.",
            }
            return 400, json.dumps({"error": said}).encode()
        self._count("stripe", identifier, form["payload[stripe_customer_id]"], Decimal(form["payload[value]"]))
        return 200, json.dumps({"object": "billing.meter_event", "identifier": identifier}).encode()

    def _is_new(self, destination: str, event_id: str, hours: float | None) -> bool:
        seen_s = self.seen_s.get((destination, event_id))
        if seen_s is not None and (hours is None or self.now() - seen_s < hours * HOUR):
            return False
        self.seen_s[destination, event_id] = self.now()
        return True

    def _count(self, destination: str, event_id: str, customer: str, amount: Decimal) -> None:
        self.counted[event_id] += 1
        self.counted_at[destination, event_id] += 1
        self.total[customer] += amount  # type: ignore[assignment]  # exact sums


def cloud_event_faults(event: Any) -> list[str]:
    """Return what is wrong with a CloudEvent in JSON (cloudevents/spec 1.0.2, spec.md and json-format.md)."""
    if not isinstance(event, dict):
        return ["no object"]
    required = ("specversion", "id", "source", "type")
    faults = [f"{name} is missing" for name in required if not isinstance(event.get(name), str) or not event[name]]
    if event.get("specversion") != "1.0":
        faults.append("specversion is not 1.0")
    if "subject" in event and not event["subject"]:
        faults.append("subject is empty")
    if "time" in event and _MOMENT.match(event["time"]) is None:
        faults.append(f"time {event['time']} is not RFC 3339")
    faults += [f"{name} is no attribute's name" for name in event if re.fullmatch(r"[a-z0-9]{1,20}", name) is None]
    return faults


@asynccontextmanager
async def served(standin: BillingStandIn) -> AsyncIterator[str]:
    """Serve a stand-in on this machine; yield its URL."""

    async def answer(request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        status, body = standin.take(request.path, headers, await request.read())
        if status == 0:
            await asyncio.sleep(30)
        headers = {"location": "/elsewhere"} if 300 <= status < 400 else {"retry-after": "7"} if status == 429 else {}
        return web.Response(status=status, body=body, headers=headers)

    app = web.Application()
    app.add_routes([web.route("*", "/{path:.*}", answer)])
    runner = web.AppRunner(app, shutdown_timeout=0, handler_cancellation=True)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()
