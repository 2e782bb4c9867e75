"""The load of the rollouts: light HTTP clients that send many short requests, each a unit by itself.

The `openai` client costs several milliseconds of CPU per request; a share of 5 % is only visible in many hundreds.
Which version answered, an engine says itself, in a header of its answer.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping

import aiohttp

from demo.run import CrowdCall
from demo.scenario import CrowdPlan, RolloutPlan

TIMEOUT = aiohttp.ClientTimeout(total=60)
MAX_IN_FLIGHT = 24
"""Per tenant and model: a slow machine makes the requests fewer, not the queues longer."""

MAX_BEHIND_SECONDS = 0.25
MAX_ERROR_BYTES = 400
PATH = "/v1/chat/completions"
VERSION_HEADER = "x-stand-in-version"
REQUEST_ID_HEADER = "x-tenantry-request-id"

_PROMPTS = ("Summarise the ticket.", "Extract the names.", "Which language is this?", "Give a title.", "Tag the mail.")


async def crowd(
    plans: tuple[RolloutPlan, ...],
    base_url: str,
    keys: Mapping[str, str],
    *,
    seed: int,
    until_s: float,
    done: Callable[[CrowdCall], None],
) -> None:
    """Send everything that these rollouts' tenants send, until the Unix time `until_s`."""
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        aiohttp.ClientSession(base_url, connector=connector, timeout=TIMEOUT) as http,
        asyncio.TaskGroup() as group,
    ):
        for plan in plans:
            for sender in plan.crowd:
                rng = random.Random(f"{seed} {sender.name} of {plan.model}")
                client = _Client(http, plan, sender, keys[sender.name], rng)
                group.create_task(client.work(until_s, done))


class _Client:
    """One tenant's client of one model."""

    def __init__(
        self, http: aiohttp.ClientSession, plan: RolloutPlan, sender: CrowdPlan, key: str, rng: random.Random
    ) -> None:
        self._http = http
        self._plan = plan
        self._sender = sender
        self._key = key
        self._rng = rng
        self._free = asyncio.Semaphore(MAX_IN_FLIGHT)

    async def work(self, until_s: float, done: Callable[[CrowdCall], None]) -> None:
        """Send at random moments, so many a second, not waiting for answers unless MAX_IN_FLIGHT are awaited."""
        next_s = time.time()
        async with asyncio.TaskGroup() as sending:
            while (next_s := next_s + self._rng.expovariate(self._sender.requests_per_s)) < until_s:
                await asyncio.sleep(next_s - time.time())
                await self._free.acquire()
                next_s = max(next_s, time.time() - MAX_BEHIND_SECONDS)  # what was missed is not made up for in a burst
                if time.time() >= until_s:
                    break
                sending.create_task(self._send(done))

    async def _send(self, done: Callable[[CrowdCall], None]) -> None:
        try:
            done(await self._ask())
        finally:
            self._free.release()

    async def _ask(self) -> CrowdCall:
        return await ask(
            self._http, self._key, tenant=self._sender.name, model=self._plan.model,
            prompt=self._rng.choice(_PROMPTS), answer_tokens=self._plan.answer_tokens,
        )  # fmt: skip


async def ask(
    http: aiohttp.ClientSession, key: str, *, tenant: str, model: str, prompt: str, answer_tokens: int
) -> CrowdCall:
    """Send one request with a tenant's key; an answer other than 200, or none, becomes the call's error."""
    body = {"model": model, "max_tokens": answer_tokens, "messages": [{"role": "user", "content": prompt}]}
    status, request_id, version, error = 0, "", "", ""
    sent_s = time.time()
    try:
        async with http.post(PATH, json=body, headers={"authorization": f"Bearer {key}"}) as response:
            status = response.status
            request_id = response.headers.get(REQUEST_ID_HEADER, "")
            version = response.headers.get(VERSION_HEADER, "")
            text = await response.read()
            if status != 200:
                error = f"{status}: {text[:MAX_ERROR_BYTES].decode(errors='replace')}"
    except (aiohttp.ClientError, TimeoutError) as failure:
        error = f"{type(failure).__name__}: {failure}"
    return CrowdCall(
        tenant=tenant,
        model=model,
        sent_s=sent_s,
        ended_s=time.time(),
        status=status,
        request_id=request_id,
        version=version,
        error=error,
    )
