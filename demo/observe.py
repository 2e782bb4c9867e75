"""Reads the records that the demo measures by: the engines', Envoy's access log, the sidecar's metrics."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from prometheus_client.parser import text_string_to_metric_families
from tenantry.adapters.admin_client import AdminClient
from tenantry.adapters.rollout_status import Status
from tenantry.core.outcome import Outcome
from tenantry.core.rollout.conduct import Entry

from demo.retrieval_run import Verified
from demo.run import Arrival, Conversation, EngineCount, Look
from demo.stack import Engine

SETTLE_SECONDS = 10.0
POLL_SECONDS = 0.02

_outcomes = msgspec.json.Decoder(Outcome)


class NotSettledError(Exception):
    """Something that had to end did not, in time."""


class RecordLostError(Exception):
    """An engine's record cannot be read any more; the message says whose."""


class EngineRecord:
    """One engine's record of the requests that reached it, read bit by bit."""

    def __init__(self, version: str, url: str) -> None:
        self._version = version
        self._url = url
        self._last = 0

    async def new(self, http: aiohttp.ClientSession) -> list[Arrival]:
        """Return what arrived since the last look. Engines keep 1,000 requests: look often enough."""
        try:
            async with http.get(self._url, params={"after": str(self._last)}) as response:
                response.raise_for_status()
                document = await response.json()
        except aiohttp.ClientError as error:
            raise RecordLostError(
                f"the engine of version {self._version} is gone, and its record with it: {error}"
            ) from None
        self._last = document["last"]
        return [self._arrival(seen) for seen in document["requests"]]

    def _arrival(self, seen: dict[str, Any]) -> Arrival:
        return Arrival(
            version=self._version,
            number=seen["number"],
            time_s=seen["time_s"],
            path=seen["path"],
            headers=tuple((name, value) for name, value in seen["headers"]),
            body=seen["body"] or {},
        )


class OutcomeFile:
    """The file of outcomes (one JSON line per finished exchange), read bit by bit."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new(self) -> list[Outcome]:
        """Return the outcomes that were written whole since the last look."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            raw = file.read()
        whole = raw[: raw.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [_outcomes.decode(line) for line in whole.splitlines()]


class RolloutAdmin:
    """The sidecar's admin listener, asked as `tenantry rollout` asks it."""

    def __init__(self, admin: str, secrets: Path) -> None:
        self._client = AdminClient(admin, secrets)

    async def looks(self) -> list[Look]:
        """Return where every rollout stands now."""
        answer = await self._client.ask("GET", "/rollouts")
        now_s = time.time()
        return [Look(at_s=now_s, status=status) for status in msgspec.convert(answer, list[Status])]

    async def history(self, model: str) -> tuple[Entry, ...]:
        """Return what happened to a model's rollout, oldest first."""
        return msgspec.convert(
            await self._client.ask("GET", "/rollouts/history", params={"model": model}), tuple[Entry, ...]
        )


async def engine_count(http: aiohttp.ClientSession, engine: Engine) -> EngineCount:
    """Ask a stand-in engine how many requests it has answered."""
    samples = await _samples(http, f"http://{engine.endpoint}/metrics")
    return EngineCount(
        model=engine.model,
        version=engine.version,
        requests=int(_value(samples, "standin_records_total")),
        copies=int(_value(samples, "standin_mirrored_total")),
    )


class SidecarMetrics:
    """The sidecar's /metrics."""

    def __init__(self, http: aiohttp.ClientSession, admin: str) -> None:
        self._http = http
        self._url = f"http://{admin}/metrics"

    async def conversations(self) -> Mapping[str, Conversation]:
        """Return ext_proc messages and exchanges so far by tenant, once no exchange is open."""
        samples = await self._settled()
        messages, exchanges = Counter[str](), Counter[str]()
        for name, labels, value in samples:
            if name == "tenantry_ext_proc_messages_total":
                messages[labels["tenant"]] += int(value)
            elif name == "tenantry_ext_proc_exchanges_total":
                exchanges[labels["tenant"]] += int(value)
        return {
            tenant: Conversation(messages=messages[tenant], exchanges=exchanges[tenant])
            for tenant in messages.keys() | exchanges.keys()
        }

    async def verified(self, store: str) -> Verified:
        """Return what was counted of a store's rows so far."""
        samples = await self._settled()

        def count(wanted: str) -> int:
            return int(sum(value for name, labels, value in samples if name == wanted and labels["store"] == store))

        return Verified(
            rows=count("tenantry_store_rows_verified_total"), foreign=count("tenantry_store_foreign_rows_total")
        )

    async def generation(self) -> int:
        """Return how many rules documents went live so far."""
        return int(_value(await self._samples(), "tenantry_rules_generation"))

    async def _settled(self) -> list[tuple[str, Mapping[str, str], float]]:
        deadline = asyncio.get_running_loop().time() + SETTLE_SECONDS
        while True:
            samples = await self._samples()
            if not (still_open := _value(samples, "tenantry_ext_proc_open_exchanges")):
                return samples
            if asyncio.get_running_loop().time() > deadline:
                raise NotSettledError(f"{still_open:g} exchanges are still open after {SETTLE_SECONDS:g} s")
            await asyncio.sleep(POLL_SECONDS)

    async def _samples(self) -> list[tuple[str, Mapping[str, str], float]]:
        return await _samples(self._http, self._url)


async def _samples(http: aiohttp.ClientSession, url: str) -> list[tuple[str, Mapping[str, str], float]]:
    async with http.get(url) as response:
        response.raise_for_status()
        text = await response.text()
    return [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def _value(samples: list[tuple[str, Mapping[str, str], float]], wanted: str) -> float:
    return next(value for name, _, value in samples if name == wanted)
