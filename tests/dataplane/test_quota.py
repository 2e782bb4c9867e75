"""Quotas through a real Envoy: who passes, what clients are told, and what becomes of what was reserved."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import openai
import pytest
import pytest_asyncio
from tenantry.adapters.bind import Address
from tenantry.adapters.ports import free_port
from tenantry.core.usage import Batch, UsageRecord
from tenantry_testing.redis_server import redis_server

from dataplane.harness import Json, Stack, digest, rules, stack, until
from dataplane.processes import beside
from dataplane.upstream import OK, Seen, Step, Upstream, fixed, sse
from dataplane.wire import Response, ask, chat, request

TOKENS = 3_000
"""What each request asks for: it is reserved at 9.04 compute units, three for a thousand tokens and the input."""

QUOTAS: dict[str, Json] = {
    "minute": {"computeUnitsPerMinute": 91},
    "month": {"computeUnitsPerPeriod": 91},
    "alone": {"computeUnitsPerPeriod": 91},
    "lost": {"computeUnitsPerPeriod": 10},
    "client": {"computeUnitsPerMinute": 300},
    "openai": {"computeUnitsPerMinute": 60},
    "spent": {"computeUnitsPerPeriod": 1},
    "alerted": {"computeUnitsPerPeriod": 100, "alertAt": [0.5, 1.0]},
    "told": {"computeUnitsPerMinute": 60, "computeUnitsPerPeriod": 1_000},
}
"""A tenant for each test that changes its account."""

HEADERS = ("x-ratelimit-limit-compute-units", "x-ratelimit-remaining-compute-units", "x-ratelimit-reset-compute-units")


def key(tenant: str) -> str:
    return f"tk_{tenant}-{'k' * 40}"


def with_quotas(upstream: Upstream) -> Json:
    tenants = {
        name: {"tier": "gold", "keys": [digest(key(name))], "quota": quota, "pins": {"chat-8b": "1.4.0"}}
        for name, quota in QUOTAS.items()
    }
    tenants["free"] = {"tier": "gold", "keys": [digest(key("free"))]}
    document = rules(upstream, tenants=tenants)
    for name, usage in (("mute-8b", "estimate"), ("read-8b", "response")):
        version = {"endpoints": [upstream.endpoint]}
        document["models"][name] = {"stable": "1", "versions": {"1": version}, "usage": usage}
    return document


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def quotas(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """One sidecar, whose accounts are in a file."""
    async with stack(tmp_path_factory.mktemp("quotas"), with_quotas) as running:
        yield running


class Held:
    """A script that answers nobody before `let_go`, so that all are under way at once."""

    def __init__(self, upstream: Upstream) -> None:
        self.gate = asyncio.Event()
        upstream.scripts["held"] = self._script

    async def _script(self, _seen: Seen) -> AsyncIterator[Step]:
        yield self.gate
        yield OK

    def let_go(self) -> None:
        self.gate.set()


async def hundred(where: Stack, tenant: str) -> Counter[int]:
    """A hundred requests at once, none of which ends before all are decided: how many got which status."""
    held = Held(where.upstream)
    before = len(where.upstream.seen)
    asked = [
        asyncio.create_task(where.ask(chat(key(tenant), script="held", max_tokens=TOKENS, mark=tenant)))
        for _ in range(100)
    ]
    await until(
        lambda: sum(task.done() for task in asked) + len(where.upstream.seen) - before >= 100, 20.0, "100 decided"
    )
    held.let_go()
    return Counter(response.status for response in await asyncio.gather(*asked))


def record(request_id: str, tenant: str, **members: Any) -> UsageRecord:
    figures: Json = {"input_tokens": 10, "output_tokens": 100, "finish_reason": "stop"} | members
    return UsageRecord(
        request_id=request_id, engine="stub", tenant=tenant, model="chat-8b", version="1.4.0", ended_s=time.time(),
        **figures,
    )  # fmt: skip


async def post(where: Stack, admins: Iterable[str], *records: UsageRecord) -> None:
    """Post records as an engine does: to every sidecar."""
    token = (where.files.secrets / "usage-token").read_text().strip()
    body = msgspec.json.encode(Batch(records=records))
    for admin in admins:
        assert (await ask(admin, request("/usage", body=body, key=token))).status == 200


async def quota(where: Stack, tenant: str) -> Json:
    document: Json = (await ask(where.admin, request("/quota", method="GET", key=key(tenant)))).json
    return document


async def settled(where: Stack, tenant: str, *, used: float, reserved: float = 0.0, seconds: float = 10.0) -> Json:
    """Wait until an account stands so."""
    async with asyncio.timeout(seconds):
        while ((found := await quota(where, tenant))["used"], found["reserved"]) != (used, reserved):
            await asyncio.sleep(0.05)
    return found


@pytest.mark.parametrize("tenant", ["minute", "month"])
async def test_of_a_hundred_at_once_ten_have_room(quotas: Stack, tenant: str) -> None:
    assert await hundred(quotas, tenant) == {200: 10, 429: 90}
    assert len(quotas.upstream.marked(tenant)) == 10
    window = {"minute": "minute", "month": "period_held"}[tenant]
    assert await quotas.total("tenantry_quota_refusals_total", tenant=tenant, window=window) == 90


async def test_three_replicas_let_the_same_ten_pass(redis_program: None, tmp_path: Path) -> None:
    async with redis_server(tmp_path / "redis") as redis:
        replicas = beside(tmp_path, with_quotas, count=3, arguments=("--redis", redis.url))
        async with replicas as (where, processes):
            admins = [(await process.line("sidecar ready"))["admin"] for process in processes]
            assert await hundred(where, "month") == {200: 10, 429: 90}
            took_part = 0.0
            for admin in admins:
                text = (await ask(admin, request("/metrics", method="GET"))).body.decode()
                took_part += "tenantry_quota_refusals_total{" in text
            assert took_part == 3
            # The records go to all three; the owner of each exchange settles it, once.
            ids = [seen.header("x-tenantry-request-id")[0].decode() for seen in where.upstream.marked("month")]
            await post(where, admins, *(record(each, "month") for each in ids))
            await settled(where, "month", used=3.1)  # ten times 10 tokens in and 100 out
            # A replica that starts again neither forgets nor doubles.
            again = beside(tmp_path / "again", with_quotas, arguments=("--redis", redis.url))
            async with again as (other, _):
                assert (await quota(other, "month"))["used"] == 3.1


async def test_a_record_settles_and_a_lost_one_gives_everything_back(quotas: Stack) -> None:
    held = Held(quotas.upstream)
    asked = asyncio.create_task(quotas.ask(chat(key("lost"), script="held", max_tokens=TOKENS, mark="lost")))
    await until(lambda: quotas.upstream.marked("lost"), what="the request is under way")
    assert (await quota(quotas, "lost"))["reserved"] > 9
    refused = await quotas.ask(chat(key("lost"), max_tokens=TOKENS))
    assert (refused.status, refused.error_code) == (429, "rate_limit_exceeded")
    assert "under way" in refused.json["error"]["message"]
    held.let_go()
    ended_s, response = time.monotonic(), await asked
    # Nobody posts a record: what was reserved comes back after the patience, and not before.
    await settled(quotas, "lost", used=0.0)
    assert 4.0 < time.monotonic() - ended_s < 8.0
    # One that comes too late counts all the same, once.
    for _ in range(2):
        await post(quotas, [quotas.admin], record(response.request_id, "lost", output_tokens=1_000))
    await settled(quotas, "lost", used=3.01)
    assert await quotas.total("tenantry_quota_settlements_total", result="late") == 1


async def test_copies_and_failed_attempts_are_not_the_tenants(quotas: Stack) -> None:
    before = (await quota(quotas, "told"))["used"]
    response = await quotas.ask(chat(key("told"), max_tokens=100))
    await post(
        quotas, [quotas.admin],
        record(response.request_id, "told", output_tokens=77, mirror=True),
        record(response.request_id, "told", output_tokens=77, finish_reason="error"),
        record(response.request_id, "told", output_tokens=20, attempt=2),
    )  # fmt: skip
    await settled(quotas, "told", used=before + 0.07)


async def test_a_model_without_a_plugin_is_settled_by_the_size_of_its_answer(quotas: Stack) -> None:
    before = (await quota(quotas, "told"))["used"]
    answer = OK.partition(b"\r\n\r\n")[2] + b" " * 1_000
    quotas.upstream.scripts["long"] = lambda _seen: [fixed(answer)]
    body = chat(key("told"), model="mute-8b", script="long", max_tokens=5_000)
    response = await quotas.ask(body)
    request_bytes = len(body.partition(b"\r\n\r\n")[2])
    names = len(f"chatcmpl-told:{response.request_id}mute-8b")
    expected = -(-request_bytes // 4) + 3 * ((len(answer) - 629 - names) // 4)
    await settled(quotas, "told", used=round(before + expected / 1e3, 3), seconds=3)
    assert await quotas.total("tenantry_quota_settlements_total", result="estimate") == 1


async def test_usage_without_a_plugin_reaches_a_real_ledger(tmp_path: Path) -> None:
    address = Address(host="127.0.0.1", port=free_port())
    async with stack(tmp_path, with_quotas, ledger=address) as where:
        where.upstream.scripts["used"] = lambda _seen: [fixed(usage_of(40))]
        await where.ask(chat(key("free"), model="read-8b", script="used"))
        await where.ask(chat(key("free"), model="mute-8b", max_tokens=5))
        token = (where.files.secrets / "admin-token").read_text().strip()
        query = request("/usage?group_by=model&group_by=measured&tenant=free", method="GET", key=token)
        async with asyncio.timeout(10):
            while "response" not in (said := (await ask(str(address), query)).body.decode()) or "estimate" not in said:
                await asyncio.sleep(0.1)
        assert await where.total("tenantry_ledger_outbox_records_total", result="sent") == 2
        assert await where.total("tenantry_ledger_outbox_records_total", result="refused") == 0


def usage_of(output_tokens: int) -> bytes:
    details = {"cached_tokens": 10}
    usage = {"prompt_tokens": 20, "completion_tokens": output_tokens, "prompt_tokens_details": details}
    return json.dumps({"choices": [], "usage": usage}, separators=(",", ":")).encode()


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
async def test_usage_can_be_read_from_the_response(quotas: Stack, *, streams: bool) -> None:
    words = [b'data: {"choices":[{"delta":{"content":"word"}}],"usage":null}\n\n'] * 5
    pieces = [*words, b"data: " + usage_of(40) + b"\n\n", b"data: [DONE]\n\n"]
    quotas.upstream.scripts["read"] = lambda _seen: sse(pieces, 0.05) if streams else [fixed(usage_of(40))]
    before = (await quota(quotas, "told"))["used"]
    mark, messages = f"read {streams}", await quotas.total("tenantry_ext_proc_messages_total", tenant="told")
    body = chat(
        key("told"), model="read-8b", script="read", mark=mark, stream=streams, max_tokens=100,
        headers=[("accept-encoding", "gzip")],
    )  # fmt: skip
    response = await quotas.ask(body)
    assert (response.status, response.body) == (200, b"".join(pieces) if streams else usage_of(40))
    (seen,) = quotas.upstream.marked(mark)
    assert seen.json.get("stream_options") == ({"include_usage": True} if streams else None)
    assert seen.header("accept-encoding") == []
    # 10 tokens computed, 10 cached, 40 made.
    await settled(quotas, "told", used=round(before + 0.010 + 0.001 + 0.120, 3), seconds=3)
    cost = await quotas.total("tenantry_ext_proc_messages_total", tenant="told") - messages
    assert cost == 2 + 1 + (len(pieces) + 1 if streams else 1)


async def test_other_models_of_who_may_use_such_a_model_cost_one_message_more(quotas: Stack) -> None:
    before = await quotas.total("tenantry_ext_proc_messages_total", tenant="free")
    assert (await quotas.ask(chat(key("free")))).status == 200
    await until(lambda: quotas.sidecar is not None and quotas.sidecar.open_exchanges == 0)
    assert await quotas.total("tenantry_ext_proc_messages_total", tenant="free") - before == 3


async def test_a_client_that_leaves_a_stream_pays_for_what_came(quotas: Stack) -> None:
    word = b'data: {"choices":[{"delta":{"content":"word"}}],"id":"' + b"x" * 200 + b'"}\n\n'
    quotas.upstream.scripts["endless"] = lambda _seen: sse([word] * 200, 0.02)
    before = await quotas.total("tenantry_usage_reckoned_total", source="response_size")
    with pytest.raises(TimeoutError):
        await quotas.ask(chat(key("told"), model="read-8b", script="endless", stream=True, max_tokens=500), timeout=1.0)
    async with asyncio.timeout(5):
        while await quotas.total("tenantry_usage_reckoned_total", source="response_size") == before:
            await asyncio.sleep(0.05)


async def test_several_answers_are_settled_together(quotas: Stack) -> None:
    before = (await quota(quotas, "told"))["used"]
    response = await quotas.ask(chat(key("told"), max_tokens=100, n=3))
    for sequence in range(3):
        assert (await quota(quotas, "told"))["used"] == before
        await post(quotas, [quotas.admin], record(response.request_id, "told", sequence=sequence))
    await settled(quotas, "told", used=round(before + 3 * 0.31, 3), seconds=3)


async def test_clients_are_told_of_their_quota_with_each_answer(quotas: Stack) -> None:
    def told(response: Response) -> list[str | None]:
        return [response.header(name) for name in HEADERS]

    admitted = await quotas.ask(chat(key("client"), max_tokens=TOKENS))
    assert admitted.status == 200
    limit, remaining, reset = told(admitted)
    assert (limit, remaining) == ("300", "290")
    assert reset in {"1.8s", "1.9s"}
    free = await quotas.ask(chat(key("free")))
    assert (free.status, told(free)) == (200, [None] * 3)


async def test_an_engine_cannot_tell_of_quotas(quotas: Stack) -> None:
    forged = OK.replace(b"\r\n\r\n", b"\r\nx-ratelimit-remaining-compute-units: 999999\r\n\r\n", 1)
    quotas.upstream.scripts["forged"] = lambda _seen: [forged]
    response = await quotas.ask(chat(key("client"), script="forged", max_tokens=10))
    assert [value for name, value in response.headers if name == HEADERS[1]] != ["999999"]


async def test_the_openai_client_waits_as_long_as_it_is_told(quotas: Stack) -> None:
    heard: list[httpx2.Response] = []

    async def note(response: httpx2.Response) -> None:
        heard.append(response)

    http = httpx2.AsyncClient(event_hooks={"response": [note]})
    async with openai.AsyncOpenAI(
        base_url=f"http://{quotas.address}/v1", api_key=key("openai"), max_retries=0, http_client=http
    ) as client:

        async def create(max_tokens: int, retries: int) -> None:
            patient = client.with_options(max_retries=retries)
            messages: Any = [{"role": "user", "content": "Hi"}]
            await patient.chat.completions.create(model="chat-8b", messages=messages, max_tokens=max_tokens)

        await create(19_600, retries=0)  # 58.9 of 60
        with pytest.raises(openai.RateLimitError) as refused:
            await create(1_000, retries=0)
        assert (refused.value.status_code, refused.value.code) == (429, "rate_limit_exceeded")
        told = refused.value.response.headers
        assert (told["retry-after"], told[HEADERS[0]], told[HEADERS[1]]) == ("2", "60", "1")
        # It comes again by itself, after the time that it was told.
        heard.clear()
        begin = time.monotonic()
        await create(1_000, retries=1)
        assert [response.status_code for response in heard] == [429, 200]
        assert time.monotonic() - begin > 1.5


async def test_a_period_that_is_spent_is_said_to_be_and_is_not_tried_again(quotas: Stack) -> None:
    async with openai.AsyncOpenAI(
        base_url=f"http://{quotas.address}/v1", api_key=key("spent"), max_retries=5
    ) as client:
        begin = time.monotonic()
        with pytest.raises(openai.RateLimitError) as refused:
            await client.chat.completions.create(
                model="chat-8b", messages=[{"role": "user", "content": "Hi"}], max_tokens=TOKENS
            )
        assert time.monotonic() - begin < 0.5
    assert (refused.value.code, refused.value.type) == ("insufficient_quota", "insufficient_quota")
    headers = refused.value.response.headers
    assert [headers[name] for name in HEADERS[:2]] == ["1", "1"]
    assert int(headers["retry-after"]) > 60 or time.gmtime().tm_mday > 27
    assert quotas.upstream.marked("spent") == []


async def test_an_alert_is_told_once_for_each_share(quotas: Stack, sidecar_log: Any) -> None:
    for _ in range(4):
        response = await quotas.ask(chat(key("alerted"), max_tokens=10))
        await post(quotas, [quotas.admin], record(response.request_id, "alerted", output_tokens=10_000, input_tokens=0))
        if response.status == 429:
            break
    await until(lambda: sidecar_log.getvalue().count("100 compute units") >= 2, what="both shares were told of")
    await asyncio.sleep(0.3)
    lines = [json.loads(line) for line in sidecar_log.getvalue().splitlines() if '"alerted"' in line]
    told = [line["reason"] for line in lines if line["event"] == "a tenant has spent a share of its quota"]
    assert [reason.rpartition("(")[2] for reason in told] == ["50% or more)", "100% or more)"]
    metrics = await quotas.metrics()
    assert metrics['tenantry_quota_used_ratio{tenant="alerted"}'] >= 1.0


async def test_who_may_see_whose_quota(quotas: Stack) -> None:
    async def status(path: str, key: str) -> tuple[int, Any]:
        response = await ask(quotas.admin, request(path, method="GET", key=key))
        return response.status, response.json

    admin = (quotas.files.secrets / "admin-token").read_text().strip()
    code, own = await status("/quota", key("spent"))
    assert (code, own["tenant"], own["month"]["limit"]) == (200, "spent", 1)
    assert (await status("/quota?tenant=told", key("spent")))[0] == 403
    assert (await status("/quota", "no such key"))[0] == 401
    code, everybody = await status("/quota", admin)
    assert (code, {each["tenant"] for each in everybody}) == (200, set(QUOTAS))
    assert (await status("/quota?tenant=told", admin))[1]["minute"]["limit"] == 60
    assert await status("/quota?tenant=free", admin) == (200, {"tenant": "free", "tier": "gold", "quota": "none"})
    code, wrong = await status("/quota?tenant=tolt", admin)
    assert code == 404
    assert "told" in wrong["error"]


async def test_losing_the_shared_store_neither_hangs_nor_opens_the_door(redis_program: None, tmp_path: Path) -> None:
    async with (
        redis_server(tmp_path / "redis") as redis,
        beside(tmp_path, with_quotas, arguments=("--redis", redis.url)) as (where, _),
    ):
        response = await where.ask(chat(key("alone"), max_tokens=TOKENS))
        await post(where, [where.admin], record(response.request_id, "alone", output_tokens=6_000))
        await settled(where, "alone", used=18.01)
        redis.freeze()
        try:
            begin = time.monotonic()
            statuses = await hundred(where, "alone")
            assert time.monotonic() - begin < 8
        finally:
            redis.thaw()
        assert statuses == {200: 8, 429: 92}  # 72.99 were left by what was last read
        assert await where.total("tenantry_quota_unshared_admissions_total") == 100
        # What went on meanwhile is told when the store answers again.
        ids = [seen.header("x-tenantry-request-id")[0].decode() for seen in where.upstream.marked("alone")]
        await post(where, [where.admin], *(record(each, "alone") for each in ids))
        await settled(where, "alone", used=20.49, seconds=15)
        assert await where.total("tenantry_quota_store_up") == 1
