"""A metered engine to ask directly, as Envoy would: with the headers that the sidecar and Envoy set."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from tenantry.core.usage import UsageRecord

from tenantry_testing.usage_sink import UsageSink

_ids = itertools.count(1)


@dataclass(frozen=True)
class MeteredEngine:
    """Where to ask, with what credential, what came of it; its spool and its log."""

    url: str
    secret: str
    sink: UsageSink
    spool: Path
    log: Path
    http: aiohttp.ClientSession

    async def post(self, path: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
        async with self.stream(path, body, headers) as response:
            answer = await response.json()
            assert response.status == 200, answer
            return dict(answer)

    def stream(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> "aiohttp.client._RequestContextManager":
        return self.http.post(
            f"{self.url}{path}", json=body, headers={"authorization": f"Bearer {self.secret}", **headers}
        )

    async def complete(self, tokens: int, **body: Any) -> tuple[dict[str, Any], list[UsageRecord]]:
        """Ask for a completion as acme; return the answer and its records."""
        request_id, headers = stamp("acme")
        asked = {"model": "tiny-llama", "prompt": "Hello", "max_tokens": tokens, **body}
        answer = await self.post("/v1/completions", asked, headers)
        return answer, await self.sink.ended(request_id, len(answer["choices"]))

    async def settled(self) -> None:
        """Wait until a span has told of all that went before; nothing may be asked meanwhile."""
        told = len(self.sink.spans)
        # One in which nothing ran is the last of them; it lasts twelve parts (IDLE_PARTS).
        await self.sink.until(lambda: any(not span.busy_gpu_ns for span in self.sink.spans[told:]), 40)


def stamp(tenant: str, **headers: str) -> tuple[str, dict[str, str]]:
    """Return a new request's id, and the headers that the sidecar and Envoy give it."""
    request_id = f"{next(_ids):032x}"
    return request_id, {
        "x-tenantry-tenant": tenant,
        "x-tenantry-tier": "gold",
        "x-tenantry-model": "chat-8b",
        "x-tenantry-version": "1.5.0",
        "x-tenantry-request-id": request_id,
        "x-request-id": f"{tenant}:{request_id}",
        "x-envoy-attempt-count": "1",
    } | {name.replace("_", "-"): value for name, value in headers.items()}
