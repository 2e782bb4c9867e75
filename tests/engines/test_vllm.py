"""Real vLLM (CPU, tiny model) behind real Envoy: what the sidecar promises holds in the engine itself."""

import asyncio
import json
import re
import time
from typing import Any

import aiohttp
import pytest
from tenantry_vllm.stamp import Stamp, read_stamp

from engines.conftest import ENGINE_SECRET, KEYS, VllmStack

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(400)]

HELLO: Any = [{"role": "user", "content": "Hello"}]


async def test_a_chat_answer_comes_from_the_engine_under_the_name_the_client_used(vllm: VllmStack) -> None:
    answer = await vllm.clients["acme"].chat.completions.create(model="chat-8b", messages=HELLO, max_tokens=8)
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0
    # The engine was asked for its own name of the model, and knows the request by our id.
    assert answer.model == "tiny-llama"
    assert re.fullmatch(r"chatcmpl-acme:[0-9a-f]{32}", answer.id)


async def test_a_streamed_answer_arrives_token_by_token(vllm: VllmStack) -> None:
    """The first is here while the engine goes on. A server that is short of CPU puts several into one chunk."""
    tokens = 400
    stream = await vllm.clients["acme"].chat.completions.create(
        model="chat-8b", messages=HELLO, max_tokens=tokens, stream=True, extra_body={"ignore_eos": True},
        stream_options={"include_usage": True},
    )  # fmt: skip
    came = [(time.time(), chunk) async for chunk in stream]
    (_, (first_s, _), *_, (_, end), (_, usage)) = came  # the first has the role alone
    assert end.choices[0].finish_reason == "length"
    assert usage.usage is not None
    assert usage.usage.completion_tokens == tokens
    assert len(came) >= tokens / 20
    *_, record = await vllm.chat.sink.ended(end.id.rpartition(":")[2], 1)
    assert record.duration_ms > 100
    assert first_s < record.ended_s, "nothing between engine and client waits for the whole answer"


async def test_the_scheduler_sees_tenant_priority_and_salt_on_every_route(vllm: VllmStack) -> None:
    """Invariant 2: whatever the client sends, the engine's scheduler sees what the sidecar decided."""
    already = len(vllm.scheduled())
    forged = {"priority": -999, "cache_salt": "mine", "vllm_xargs": {"tenant": "globex"}, "request_id": "mine"}
    headers = {"x-vllm-priority": "-999", "x-request-id": "mine", "x-tenantry-tenant": "globex"}
    client = vllm.clients["acme"].with_options(default_headers=headers)
    await client.chat.completions.create(model="chat-8b", messages=HELLO, max_tokens=2, extra_body=forged)
    await client.completions.create(model="chat-8b", prompt="Hello", max_tokens=2, extra_body=forged)
    await client.responses.create(model="chat-8b", input="Hello", max_output_tokens=2, extra_body=forged)
    await client.embeddings.create(model="embed-1", input="Hello", encoding_format="float", extra_body=forged)
    seen = vllm.scheduled()[already:]
    assert len(seen) == 4
    salts = {request["cache_salt"] for request in seen}
    assert len(salts) == 1
    assert "mine" not in salts
    assert {request["priority"] for request in seen} == {-5}
    stamps = [read_stamp(request["request_id"], request["extra_args"]) for request in seen]
    assert [stamp.tenant for stamp in stamps if stamp] == ["acme"] * 4
    # Generating routes carry the version too; embeddings have no member that could.
    assert [stamp.version for stamp in stamps if stamp] == ["1.4.0", "1.4.0", "1.4.0", None]
    assert isinstance(stamps[3], Stamp)
    # The access log knows the same ids; Envoy sends it every 50 ms.
    ids = {stamp.request_id for stamp in stamps if stamp}
    async with asyncio.timeout(5):
        while not ids <= {json.loads(line)["request_id"] for line in vllm.outcomes.read_text().splitlines()}:
            await asyncio.sleep(0.05)


async def test_a_cache_salt_keeps_tenants_apart(vllm: VllmStack) -> None:
    """The same 800-token prompt: only the tenant that sent it before finds it in the prefix cache."""

    async def cached_tokens(tenant: str) -> int:
        prompt: Any = [{"role": "user", "content": "The quick brown fox jumps over the lazy dog. " * 18}]
        answer = await vllm.clients[tenant].chat.completions.create(model="chat-8b", messages=prompt, max_tokens=1)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens > 800
        details = answer.usage.prompt_tokens_details
        return (details.cached_tokens or 0) if details else 0

    assert await cached_tokens("acme") == 0
    assert await cached_tokens("globex") == 0
    assert await cached_tokens("acme") > 0
    assert await cached_tokens("globex") > 0


async def test_a_gold_request_overtakes_a_bronze_queue(vllm: VllmStack) -> None:
    finished: list[str] = []

    async def ask(tenant: str, tokens: int) -> None:
        await vllm.clients[tenant].chat.completions.create(
            model="chat-8b", messages=HELLO, max_tokens=tokens, extra_body={"ignore_eos": True}
        )
        finished.append(tenant)

    already = len(vllm.scheduled())
    bronze = [asyncio.create_task(ask("globex", 160)) for _ in range(24)]  # long enough to queue on a busy machine
    while len(vllm.scheduled()) < already + 24:  # all are queued in the engine, four of them run
        await asyncio.sleep(0.02)
    gold = [asyncio.create_task(ask("acme", 16)) for _ in range(4)]
    await asyncio.gather(*bronze, *gold)
    behind_gold = len(finished) - 1 - max(index for index, tenant in enumerate(finished) if tenant == "acme")
    assert behind_gold >= 8, f"bronze was queued first, gold finished before {behind_gold} of 24: {finished}"


async def test_the_engine_accepts_its_own_secret_and_no_client_key(vllm: VllmStack) -> None:
    """Invariant 2: the client's credential is replaced, so the engine can refuse everybody else."""
    body = {"model": "tiny-llama", "messages": HELLO, "max_tokens": 1}
    async with aiohttp.ClientSession() as http:
        for token, status in ((KEYS["acme"], 401), (ENGINE_SECRET, 200)):
            headers = {"authorization": f"Bearer {token}"}
            async with http.post(f"{vllm.chat_url}/v1/chat/completions", json=body, headers=headers) as response:
                assert response.status == status
