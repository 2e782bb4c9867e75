"""Sends events over HTTP and brings back what was said. It decides nothing: `core.billing.answers` does.

The token is read anew for each request, so that a secret may rotate; it goes into a header and nowhere else. Redirects
are not followed: they would take usage and token to a place that nobody named.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import urlencode

import aiohttp
import msgspec
from msgspec import Raw

from tenantry.adapters.ledger.export.outbox import Claimed, Render, Unmapped
from tenantry.core.billing.answers import MAX_ANSWER_BYTES, Answer
from tenantry.core.billing.export import HourSum, Item, Usage, cloud_event, lago_event, stripe_form
from tenantry.core.billing.export_settings import DestinationName, ExportSettings, Lago, OpenMeter, Stripe

MAX_TOKEN_BYTES = 64 * 1024
_NOT_LEFT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL)
"""No connection, so not a byte of the request got anywhere."""


class Sender(Protocol):
    """What an exporter sends by."""

    async def send(
        self, name: DestinationName, settings: OpenMeter | Lago | Stripe, events: Sequence[Claimed]
    ) -> Answer:
        """Send events, of Stripe one, and return what came back; nothing is raised but cancellation."""


class Http:
    """A Sender. One session for all destinations. `now` is Unix time, for a Retry-After that is a date."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the session."""
        self._session = aiohttp.ClientSession(auto_decompress=True, cookie_jar=aiohttp.DummyCookieJar())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the session."""
        if self._session is not None:
            await self._session.close()

    async def send(
        self, name: DestinationName, settings: OpenMeter | Lago | Stripe, events: Sequence[Claimed]
    ) -> Answer:
        """See Sender."""
        try:
            headers = _headers(name, settings, events)
        except (OSError, ValueError) as error:
            return Answer(left=False, said=f"the token of {name}: {error}")
        return await self._post(_url(name, settings), _body(name, events), headers, settings.timeout_seconds)

    async def _post(self, url: str, body: bytes, headers: dict[str, str], seconds: float) -> Answer:
        if self._session is None:
            raise RuntimeError("not entered")
        try:
            # All of it, the answer's last byte too, within the one time.
            async with (
                asyncio.timeout(seconds),
                self._session.post(
                    url, data=body, headers=headers, allow_redirects=False, timeout=aiohttp.ClientTimeout(total=None)
                ) as response,
            ):
                return Answer(
                    status=response.status, body=_scrubbed(await _read(response), headers),
                    retry_after_s=_retry_after(response.headers.get("retry-after"), self._now()),
                )  # fmt: skip
        except _NOT_LEFT as error:
            return Answer(left=False, said=f"no connection ({type(error).__name__})")
        except TimeoutError:
            return Answer(said=f"no answer within {seconds:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Answer(said=f"the answer broke off ({type(error).__name__})")


def renderer(name: DestinationName, settings: ExportSettings) -> Render:
    """Return what makes the text to send of an item, by the settings of this moment."""

    def render(item: Item) -> str | Unmapped:
        if name == "openmeter" and settings.openmeter is not None and isinstance(item, Usage):
            subject = settings.openmeter.subjects.get(item.tenant, item.tenant)
            return msgspec.json.encode(cloud_event(item, source=settings.source, subject=subject)).decode()
        if name == "lago" and settings.lago is not None and isinstance(item, Usage):
            subscription = settings.lago.subscriptions.get(item.tenant, item.tenant)
            return msgspec.json.encode(lago_event(item, code=settings.lago.code, subscription=subscription)).decode()
        if name == "stripe" and settings.stripe is not None and isinstance(item, HourSum):
            return _rendered_sum(item, settings.source, settings.stripe)
        return Unmapped(why=f"an item of another kind than {name} takes")

    return render


def _rendered_sum(item: HourSum, source: str, stripe: Stripe) -> str | Unmapped:
    customer = stripe.customers.get(item.tenant)
    if customer is None:
        return Unmapped(why="stripe.customers does not name this tenant")
    if item.value < 0 and stripe.corrections == "park":
        return Unmapped(why="a correction: less than was reported; stripe.corrections says that a person decides")
    return urlencode(stripe_form(item, source=source, event_name=stripe.event_name, customer=customer))


def _url(name: DestinationName, settings: OpenMeter | Lago | Stripe) -> str:
    path = {"openmeter": "/api/v1/events", "lago": "/api/v1/events/batch", "stripe": "/v1/billing/meter_events"}[name]
    return settings.url.rstrip("/") + path


def _headers(name: DestinationName, settings: OpenMeter | Lago | Stripe, events: Sequence[Claimed]) -> dict[str, str]:
    # Exactly so: OpenMeter compares the whole header, a charset would be another type.
    types = {
        "openmeter": "application/cloudevents-batch+json",
        "lago": "application/json",
        "stripe": "application/x-www-form-urlencoded",
    }
    headers = {"content-type": types[name], "accept": "application/json"}
    if settings.token_file is not None:
        headers["authorization"] = f"Bearer {_token(Path(settings.token_file))}"
    if name == "stripe":
        # Stripe answers a known key as it did before, a 500 too. So a send without an answer keeps its key, and one
        # after an answer has a new one; that the event counts once is the identifier's doing.
        headers["idempotency-key"] = f"{events[0].id}-{events[0].attempt}"
    return headers


def _token(path: Path) -> str:
    with path.open("rb") as file:
        raw = file.read(MAX_TOKEN_BYTES + 1)
    token = raw.decode("ascii", errors="replace").strip()
    if not token or len(raw) > MAX_TOKEN_BYTES or not token.isprintable() or not token.isascii() or " " in token:
        raise ValueError(f"{path} does not hold one line of printable ASCII")
    return token


def _body(name: DestinationName, events: Sequence[Claimed]) -> bytes:
    if name == "stripe":
        return events[0].body.encode()
    batch = [Raw(event.body.encode()) for event in events]
    return msgspec.json.encode(batch if name == "openmeter" else {"events": batch})


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(16 * 1024):
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            return b""  # no answer of a destination is so long: it is read as none
    return bytes(body)


def _scrubbed(body: bytes, headers: dict[str, str]) -> bytes:
    """Return an answer without our token, which something that only echoes would put into a log."""
    token = headers.get("authorization", "").removeprefix("Bearer ").encode()
    return body.replace(token, b"***") if token else body


def _retry_after(text: str | None, now_s: float) -> float | None:
    if text is None:
        return None
    if text.strip().isdecimal():
        return float(text) if len(text) < 10 else None
    try:
        moment = parsedate_to_datetime(text)
        return max(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - now_s, 0.0)
    except (ValueError, OverflowError):
        return None
