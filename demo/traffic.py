"""The clients: the real `openai` library, one client per tenant, through Envoy."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass

import httpx2
import openai
from openai import AsyncOpenAI

from demo.run import Call, Refused
from demo.scenario import FORGED_HEADERS, FORGED_MEMBERS, MODEL, Refusal, Route, Scenario, TenantPlan

TIMEOUT_SECONDS = 60.0
REQUEST_ID_HEADER = "x-tenantry-request-id"
FORGED_ON_THE_WIRE = frozenset((name.encode(), value.encode()) for name, value in FORGED_HEADERS)

_PROMPTS = (
    "Explain prefill and decode in two sentences.",
    "Write a haiku about queues.",
    "What is a KV block?",
    "Name three uses of an embedding.",
    "Summarise the ticket: the customer cannot log in since Tuesday.",
    "Translate 'good morning' into five languages.",
)


@dataclass(kw_only=True)
class _Draft:
    """A call while it is under way."""

    tenant: str
    route: Route
    streamed: bool
    sent_s: float
    ended_s: float = 0.0
    status: int = 0
    request_id: str = ""
    ttft_ms: float | None = None
    chunks: int = 0
    output_tokens: int = 0
    forged_headers: int = 0
    error: str = ""

    def answered(self, response: httpx2.Response) -> None:
        self.status = response.status_code
        self.request_id = response.headers.get(REQUEST_ID_HEADER, "")
        self.forged_headers = sum(header in FORGED_ON_THE_WIRE for header in response.request.headers.raw)

    def failed(self, error: Exception) -> None:
        if isinstance(error, openai.APIStatusError):
            self.answered(error.response)
        self.error = f"{type(error).__name__}: {error}"


class Client:
    """One tenant's client. It never retries: a failed request shall be seen."""

    def __init__(self, plan: TenantPlan, base_url: str, key: str) -> None:
        self.plan = plan
        self._openai = _openai(base_url, key, forges=plan.forges)
        self._extra_body = dict(FORGED_MEMBERS) if plan.forges else {}

    async def close(self) -> None:
        """Close its connections."""
        await self._openai.close()

    async def models(self) -> tuple[str, ...]:
        """List the models that this tenant may name."""
        return tuple(model.id for model in (await self._openai.models.list()).data)

    async def stream(self, prompt: str, tokens: int) -> Call:
        """Ask for an answer of `tokens` tokens, chunk by chunk."""
        async with self._call("chat", streamed=True) as draft:
            raw = await self._openai.chat.completions.with_raw_response.create(
                model=MODEL,
                messages=[{"role": "user", "content": prompt}],
                max_tokens=tokens,
                stream=True,
                stream_options={"include_usage": True},
                extra_body=self._extra_body,
            )
            draft.answered(raw.http_response)
            async for chunk in raw.parse():
                draft.chunks += 1
                if draft.ttft_ms is None and chunk.choices and chunk.choices[0].delta.content:
                    draft.ttft_ms = (time.time() - draft.sent_s) * 1e3
                if chunk.usage:
                    draft.output_tokens = chunk.usage.completion_tokens
        return Call(**asdict(draft))

    async def whole(self, prompt: str, tokens: int) -> Call:
        """Ask for an answer of `tokens` tokens in one piece."""
        async with self._call("chat", streamed=False) as draft:
            raw = await self._openai.chat.completions.with_raw_response.create(
                model=MODEL,
                messages=[{"role": "user", "content": prompt}],
                max_tokens=tokens,
                extra_body=self._extra_body,
            )
            draft.answered(raw.http_response)
            if usage := raw.parse().usage:
                draft.output_tokens = usage.completion_tokens
        return Call(**asdict(draft))

    async def embed(self, text: str) -> Call:
        """Ask for an embedding."""
        async with self._call("embeddings", streamed=False) as draft:
            raw = await self._openai.embeddings.with_raw_response.create(
                model=MODEL, input=text, extra_body=self._extra_body
            )
            draft.answered(raw.http_response)
            raw.parse()
        return Call(**asdict(draft))

    @asynccontextmanager
    async def _call(self, route: Route, *, streamed: bool) -> AsyncIterator[_Draft]:
        """Time what is done inside; an error becomes part of the record."""
        draft = _Draft(tenant=self.plan.name, route=route, streamed=streamed, sent_s=time.time())
        try:
            yield draft
        except (openai.OpenAIError, httpx2.HTTPError) as error:
            draft.failed(error)
        draft.ended_s = time.time()


async def work(
    client: Client, scenario: Scenario, rng: random.Random, until_s: float, done: Callable[[Call], None]
) -> None:
    """Send one request after another until the Unix time `until_s`, and finish the last one."""
    while time.time() < until_s:
        prompt, tokens = rng.choice(_PROMPTS), rng.randint(*scenario.answer_tokens)
        draw = rng.random()
        if draw < scenario.embeddings_share:
            call = await client.embed(prompt)
        elif draw < scenario.embeddings_share + (1 - scenario.embeddings_share) * scenario.streamed_share:
            call = await client.stream(prompt, tokens)
        else:
            call = await client.whole(prompt, tokens)
        done(call)
        await asyncio.sleep(rng.uniform(0, 2 * client.plan.pause_s))


async def refuse(refusal: Refusal, base_url: str, key: str) -> Refused:
    """Send a request that must be refused."""
    status, message = 200, "was answered"
    async with _openai(base_url, key, forges=False) as client:
        try:
            await client.post(refusal.path, body=refusal.body, cast_to=object)
        except openai.APIStatusError as error:
            told = error.body.get("message") if isinstance(error.body, dict) else None
            status, message = error.status_code, str(told or error.message)
        except openai.OpenAIError as error:
            status, message = 0, str(error)
    path = f"/v1{refusal.path}"
    return Refused(what=refusal.what, path=path, expected=refusal.status, status=status, message=message)


def _openai(base_url: str, key: str, *, forges: bool) -> AsyncOpenAI:
    return AsyncOpenAI(
        base_url=f"{base_url}/v1",
        api_key=key,
        max_retries=0,
        timeout=TIMEOUT_SECONDS,
        http_client=httpx2.AsyncClient(
            timeout=TIMEOUT_SECONDS,
            trust_env=False,  # no proxy of this machine stands between a client and its Envoy
            event_hooks={"request": [_forge]} if forges else None,
        ),
    )


async def _forge(request: httpx2.Request) -> None:
    """Add the forged headers last, below the library, which would merge their copies."""
    request.headers = httpx2.Headers([*request.headers.raw, *((n.encode(), v.encode()) for n, v in FORGED_HEADERS)])
