"""The stand-in engine over HTTP: one engine per test on a port of its own, a real client before it."""

import asyncio
import io
import json
import resource
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from tenantry.core.usage import Record
from tenantry_standin.__main__ import json_lines, main
from tenantry_standin.batching import Finished, Limits, StepCost
from tenantry_standin.behaviour import Behaviour
from tenantry_standin.bodies import ApiError
from tenantry_standin.engine import EngineConfig
from tenantry_standin.pages import ADMIN_ROUTES, check_loopback
from tenantry_standin.server import RunningEngine, start
from tenantry_vllm.delivery import DeliveryStatus

FAST = Behaviour(speed=100.0)
SLOW_STEP = StepCost(fixed_ms=400.0)


class Bench:
    """A running engine, a client for it, and what it finished."""

    def __init__(self, running: RunningEngine, client: aiohttp.ClientSession, finished: list[Finished]) -> None:
        self.running = running
        self.engine = running.engine
        self.client = client
        self.finished = finished

    def chat(self, **members: Any) -> Any:
        body = {"model": "chat-8b", "messages": [{"role": "user", "content": "hello"}], **members}
        return self.client.post("/v1/chat/completions", json=body)

    async def chat_json(self, **members: Any) -> Any:
        async with self.chat(**members) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def chat_events(self, **members: Any) -> list[Any]:
        async with self.chat(stream=True, **members) as response:
            assert response.status == 200
            return events(await response.read())

    async def get(self, path: str, **arguments: Any) -> Any:
        async with self.client.get(path, **arguments) as response:
            assert response.status == 200
            return await response.json()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.002)


def events(body: bytes) -> list[Any]:
    """Decode an SSE body; `[DONE]` stays a string."""
    assert body.endswith(b"\n\n")
    data = [event.rpartition(b"data: ")[2] for event in body[:-2].split(b"\n\n")]
    return ["[DONE]" if item == b"[DONE]" else json.loads(item) for item in data]


@asynccontextmanager
async def bench(**config: Any) -> AsyncIterator[Bench]:
    finished: list[Finished] = []
    config = {"model": "chat-8b", "version": "1.4.0", "behaviour": FAST, **config}
    running = await start(EngineConfig(**config), on_finished=finished.append)
    connector = aiohttp.TCPConnector(limit=0)
    try:
        async with aiohttp.ClientSession(running.url, connector=connector) as client:
            yield Bench(running, client, finished)
    finally:
        await running.stop()


async def test_chat_answers_in_one_piece_with_usage() -> None:
    async with bench() as b:
        answer = await b.chat_json(max_tokens=5)
        assert answer["object"] == "chat.completion"
        assert answer["system_fingerprint"] == "tenantry-stand-in"
        (choice,) = answer["choices"]
        assert choice["finish_reason"] == "length"
        assert choice["message"]["content"].startswith("[stand-in] ")
        assert len(choice["message"]["content"].split()) == 5
        assert answer["usage"]["completion_tokens"] == 5
        assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}


async def test_chat_streams_one_event_a_token_and_the_same_text() -> None:
    async with bench() as b:
        whole = await b.chat_json()
        streamed = await b.chat_events(stream_options={"include_usage": True})
        *chunks, usage, done = streamed
        assert done == "[DONE]"
        assert usage["choices"] == []
        assert usage["usage"] == whole["usage"]
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        assert deltas[0] == {"role": "assistant", "content": ""}
        assert len(deltas) == 1 + 64 + 1  # the role, the default length, the finish reason
        assert "".join(delta.get("content", "") for delta in deltas) == whole["choices"][0]["message"]["content"]
        assert chunks[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"] == "stop"
        assert "[DONE]" not in chunks
        assert not any("usage" in chunk for chunk in await b.chat_events(max_tokens=1) if chunk != "[DONE]")


async def test_headers_go_out_before_the_first_token() -> None:
    async with bench(behaviour=Behaviour(), cost=SLOW_STEP) as b:
        began = time.monotonic()
        async with b.chat(stream=True, max_tokens=1) as response:
            headers_s = time.monotonic() - began
            await response.content.readany()
            first_token_s = time.monotonic() - began
        assert headers_s < 0.2
        assert first_token_s >= 0.395
        assert response.headers["x-stand-in-engine"] == "true"
        assert response.headers["x-stand-in-version"] == "1.4.0"


async def test_an_answer_takes_no_less_time_than_simulated() -> None:
    async with bench(behaviour=Behaviour()) as b:
        began = time.monotonic()
        await b.chat_json(max_tokens=30)
        assert time.monotonic() - began >= 30 * 0.00734
        assert b.engine.meter.busy_seconds >= 30 * 0.00734


async def test_every_route_works_with_the_openai_client() -> None:
    async with bench(api_key="k", served_names=("acme-support",)) as b:
        client = openai.AsyncOpenAI(base_url=f"{b.running.url}/v1", api_key="k", max_retries=0)
        async with client:
            assert [model.id async for model in client.models.list()] == ["chat-8b", "acme-support"]
            completion = await client.completions.create(model="acme-support", prompt="hello", max_tokens=2)
            assert completion.choices[0].text.startswith("[stand-in]")
            vectors = await client.embeddings.create(model="chat-8b", input=["a", "b"], dimensions=8)
            assert [len(item.embedding) for item in vectors.data] == [8, 8]
            response = await client.responses.create(model="chat-8b", input="hello", max_output_tokens=3)
            assert response.status == "incomplete"
            assert response.usage is not None
            assert response.usage.output_tokens == 3
            stream = await client.responses.create(model="chat-8b", input="hello", max_output_tokens=3, stream=True)
            kinds: list[str] = []
            deltas: list[str] = []
            async for event in stream:
                assert event.sequence_number == len(kinds)
                kinds.append(event.type)
                if event.type == "response.output_text.delta":
                    deltas.append(event.delta)
            assert "".join(deltas) == response.output_text
            assert kinds == [
                "response.created",
                "response.in_progress",
                "response.output_item.added",
                "response.content_part.added",
                *["response.output_text.delta"] * 3,
                "response.output_text.done",
                "response.content_part.done",
                "response.output_item.done",
                "response.incomplete",
            ]


async def test_a_prefix_is_cached_for_its_salt_alone() -> None:
    async with bench() as b:
        prompt = [{"role": "user", "content": "The same long question. " * 20}]
        cached = []
        for salt in ("acme", "globex", "acme"):
            answer = await b.chat_json(messages=prompt, cache_salt=salt, max_tokens=1)
            cached.append(answer["usage"]["prompt_tokens_details"]["cached_tokens"])
        assert cached[:2] == [0, 0]
        assert cached[2] > 100


async def test_priority_decides_who_leaves_the_queue_first() -> None:
    async with bench(limits=Limits(max_running=1)) as b:

        def send(tenant: str, priority: int, max_tokens: int) -> asyncio.Task[Any]:
            arguments = {"tenant": tenant}
            return asyncio.create_task(b.chat_json(priority=priority, max_tokens=max_tokens, vllm_xargs=arguments))

        holder = send("holder", 0, max_tokens=100_000)
        await b.until(lambda: b.engine.running == 1)
        queue = []
        for tenant, priority in (("bronze", 20), ("gold", 0), ("silver", 10)):
            queue.append(send(tenant, priority, max_tokens=2))
            await b.until(lambda: b.engine.waiting == len(queue))
        holder.cancel()
        await asyncio.gather(*queue)
        assert [finished.tenant for finished in b.finished] == ["holder", "gold", "silver", "bronze"]


async def test_each_sequence_leaves_one_record_with_its_tenant() -> None:
    async with bench() as b:
        await b.chat_json(max_tokens=3, vllm_xargs={"tenant": "acme", "version": "9.9.9", "request_id": "r1"})
        body = {"model": "chat-8b", "input": "text"}
        async with b.client.post("/v1/embeddings", json=body, headers={"x-request-id": "acme.eu:00ff"}) as response:
            assert response.status == 200
        chat, embeddings = b.finished
        assert (chat.tenant, chat.version, chat.request_id) == ("acme", "1.4.0", "r1")
        assert (chat.output_tokens, chat.finish_reason, chat.aborted) == (3, "length", False)
        assert (embeddings.tenant, embeddings.request_id) == ("acme.eu", "00ff")
        assert embeddings.output_tokens == 0


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_its_slot(stream: bool) -> None:
    async with bench(limits=Limits(max_running=1), behaviour=Behaviour()) as b:
        leaver = asyncio.create_task(b.chat_json(stream=stream, max_tokens=100_000))
        await b.until(lambda: b.engine.running == 1)
        waiter = asyncio.create_task(b.chat_json(max_tokens=1))
        await b.until(lambda: b.engine.waiting == 1)
        leaver.cancel()
        assert (await waiter)["usage"]["completion_tokens"] == 1
        aborted, served = b.finished
        assert (aborted.aborted, aborted.finish_reason) == (True, "abort")
        assert not served.aborted
        assert (b.engine.running, b.engine.waiting) == (0, 0)


async def test_a_client_that_leaves_the_queue_is_forgotten() -> None:
    async with bench(limits=Limits(max_running=1), behaviour=Behaviour()) as b:
        first = asyncio.create_task(b.chat_json(max_tokens=100_000))
        await b.until(lambda: b.engine.running == 1)
        second = asyncio.create_task(b.chat_json())
        await b.until(lambda: b.engine.waiting == 1)
        second.cancel()
        await b.until(lambda: b.engine.waiting == 0)
        first.cancel()
        await b.until(lambda: b.engine.running == 0)


async def test_error_rate_answers_500_before_the_first_byte() -> None:
    async with bench(behaviour=Behaviour(error_rate=1.0)) as b:
        async with b.chat(stream=True) as response:
            assert response.status == 500
            assert (await response.json())["error"]["type"] == "server_error"
        assert b.finished == []


async def test_stream_error_is_an_event_inside_a_200() -> None:
    async with bench(behaviour=FAST.changed({"stream_error_rate": 1.0})) as b:
        *chunks, error, done = await b.chat_events(max_tokens=10)
        assert (error["error"]["code"], done) == (500, "[DONE]")
        assert 5 <= len(chunks) - 1 < 10  # half of the tokens, after the role
        assert all(chunk["choices"][0]["finish_reason"] is None for chunk in chunks)
        assert (await b.chat_json(max_tokens=10))["usage"]["completion_tokens"] == 10  # only streams have such events
        assert [finished.aborted for finished in b.finished] == [True, False]


async def test_hang_never_answers_and_ends_with_its_client() -> None:
    async with bench(behaviour=FAST.changed({"hang_rate": 1.0})) as b:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await b.chat_json()
        assert b.running.seen.last == 1
        assert b.finished == []


@pytest.mark.parametrize("stream", [True, False])
async def test_die_after_first_byte_cuts_the_connection(stream: bool) -> None:
    async with bench(behaviour=FAST.changed({"die_after_first_byte_rate": 1.0})) as b:
        async with b.chat(stream=stream) as response:
            assert response.status == 200
            assert await response.content.readany()
            with pytest.raises(aiohttp.ClientError):
                await response.content.read()
        await b.until(lambda: b.engine.running == 0)


async def test_length_ttft_and_repetition_change_while_it_runs() -> None:
    async with bench(behaviour=Behaviour(speed=2.0)) as b:

        async def change(**changes: float) -> int:
            async with b.client.post("/stand-in/behaviour", json=changes) as response:
                return response.status

        await b.chat_json()
        assert await change(length_factor=0.5, repetition=1.0, ttft_factor=20.0) == 200
        answer = await b.chat_json()
        before, after = b.finished
        assert (before.output_tokens, after.output_tokens) == (64, 32)
        assert len(set(answer["choices"][0]["message"]["content"].split())) == 2
        assert before.ttft_ms is not None
        assert after.ttft_ms is not None
        assert after.ttft_ms >= 20 * 7.34 / 2
        assert after.ttft_ms > 3 * before.ttft_ms
        assert after.tpot_ms is not None
        assert after.tpot_ms < after.ttft_ms / 5

        assert await change(speed=-1) == 400
        assert (await b.get("/stand-in/behaviour"))["behaviour"]["length_factor"] == 0.5


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 401), ({"authorization": "Bearer other"}, 401), ({"authorization": "Bearer k"}, 200)],
)
async def test_the_api_key_guards_v1_alone(headers: dict[str, str], status: int) -> None:
    async with bench(api_key="k") as b:
        async with b.chat(headers=headers) as response:
            assert response.status == 401
        async with b.client.get("/v1/models", headers=headers) as response:
            assert response.status == status
        async with b.client.get("/health") as response:
            assert response.status == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/chat/completions", b'{"model": "other", "messages": [1]}', 404),
        ("POST", "/v1/chat/completions", b'{"model": "chat-8b"}', 400),
        ("POST", "/v1/chat/completions", b'{"model": "chat-8b", "messages": [1], "max_tokens": 200000}', 400),
        ("POST", "/v1/chat/completions", b"x" * 2000, 413),
        ("GET", "/v1/chat/completions", b"", 405),
        ("GET", "/nothing", b"", 404),
        ("GET", "/stand-in/seen?after=x", b"", 400),
    ],
)
async def test_refusals_have_the_openai_shape_and_the_signature(
    method: str, path: str, body: bytes, status: int
) -> None:
    async with bench(max_body_bytes=1000) as b, b.client.request(method, path, data=body) as response:
        assert response.status == status
        error = (await response.json())["error"]
        assert error["type"] == "invalid_request_error"
        assert error["message"]
        assert response.headers["x-stand-in-engine"] == "true"


async def test_a_full_queue_answers_503() -> None:
    async with bench(limits=Limits(max_running=1, max_waiting=1), behaviour=Behaviour()) as b:
        tasks = [asyncio.create_task(b.chat_json(max_tokens=1000))]
        await b.until(lambda: b.engine.running == 1)
        tasks.append(asyncio.create_task(b.chat_json(max_tokens=1000)))
        await b.until(lambda: b.engine.waiting == 1)
        async with b.chat() as response:
            assert response.status == 503
            assert "1 requests are waiting" in (await response.json())["error"]["message"]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_seen_tells_headers_as_received_and_never_content() -> None:
    async with bench() as b:
        first = (await b.get("/stand-in/seen"))["last"]
        request = (
            b"POST /v1/chat/completions?a=%2F HTTP/1.1\r\nHost: h\r\nX-Tenantry-Tenant: acme\r\n"
            b"x-tenantry-tenant: gl\xf6bex\r\nX_Under: 1\r\nContent-Length: 76\r\n\r\n"
            b'{"model": "chat-8b", "messages": ["secret"], "max_tokens": 1, "priority": 2}'
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", b.running.port)
        writer.write(request)
        assert b"200 OK" in await reader.readline()
        writer.close()
        await writer.wait_closed()
        answer = await b.get("/stand-in/seen", params={"after": first})
        (seen,) = answer["requests"]
        assert (seen["number"], answer["last"]) == (first + 1, first + 1)
        assert (seen["method"], seen["path"]) == ("POST", "/v1/chat/completions?a=%2F")
        assert seen["headers"] == [
            ["Host", "h"],
            ["X-Tenantry-Tenant", "acme"],
            ["x-tenantry-tenant", "gl\xf6bex"],
            ["X_Under", "1"],
            ["Content-Length", "76"],
        ]
        assert seen["body"] == {"model": "chat-8b", "messages": 10, "max_tokens": 1, "priority": 2}
        assert "secret" not in json.dumps(answer)


async def test_a_refused_request_was_seen_all_the_same() -> None:
    async with bench(api_key="k", max_body_bytes=100) as b:
        for path, body in (("/v1/completions", b""), ("/nothing", b""), ("/v1/completions", b"x" * 200)):
            async with b.client.post(path, data=body) as response:
                assert response.status in {401, 404, 413}
        assert [seen.path for seen in b.running.seen.after(0)] == ["/v1/completions", "/nothing", "/v1/completions"]


async def test_dangerous_routes_answer_and_are_seen() -> None:
    async with bench(api_key="k") as b:
        for method, pattern in ADMIN_ROUTES:
            path = pattern.replace("{id}", "resp_1")
            async with b.client.request(method, path, headers={"authorization": "Bearer k"}) as response:
                assert response.status == 200
                assert (await response.json())["did"] == "nothing"
        assert b.running.seen.last == len(ADMIN_ROUTES)


async def test_every_page_says_that_it_is_a_stand_in() -> None:
    async with bench(model="<chat>") as b:
        for path in ("/", "/health", "/version", "/metrics", "/v1/models", "/stand-in/seen", "/stand-in/behaviour"):
            async with b.client.get(path) as response:
                assert response.status == 200
                text = await response.text()
                assert response.headers["x-stand-in-engine"] == "true"
                assert "stand-in" in text.lower() or '"stand_in":true' in text
                if path == "/":
                    assert "&lt;chat&gt;" in text
                    assert "No model runs here" in text


@pytest.mark.parametrize("remote", ["10.0.0.1", "2001:db8::1", None])
def test_the_test_pages_are_for_loopback_peers(remote: str | None) -> None:
    with pytest.raises(ApiError, match="loopback only") as caught:
        check_loopback(remote)
    assert caught.value.status == 403
    check_loopback("127.0.0.1")
    check_loopback("::1")


async def test_metrics_count() -> None:
    async with bench() as b:
        await b.chat_json(max_tokens=3)
        async with b.client.get("/metrics") as response:
            lines = (await response.text()).splitlines()
        assert all(line.startswith(("standin_", "# HELP standin_", "# TYPE standin_")) for line in lines)
        assert {"standin_output_tokens_total 3", "standin_finished_total 1", "standin_running 0"} < set(lines)


async def test_metrics_have_those_of_a_real_engine_where_records_are_delivered() -> None:
    def lost(_: Record) -> None:
        raise OSError("broken on purpose")

    delivery = DeliveryStatus(disk="ok", waiting_records=3, limit_bytes=10)
    running = await start(
        EngineConfig(model="chat-8b", version="1.4.0"), on_record=lost, delivery_status=lambda: delivery
    )
    async with aiohttp.ClientSession(running.url) as client, client.get("/metrics") as response:
        text = await response.text()
    await running.stop()
    own = f'engine="{running.engine_id}",model="chat-8b"'
    assert f'tenantry_spool_waiting_records{{{own},version="1.4.0"}} 3.0' in text
    assert f'tenantry_spool_disk_state{{{own},state="ok",version="1.4.0"}} 1.0' in text
    (faults,) = [line for line in text.splitlines() if line.startswith("tenantry_metering_faults_total{")]
    assert 'hook="deliver"' in faults
    assert float(faults.split()[1]) >= 1  # the cold start, at least


async def test_stop_drains_what_is_open_and_cuts_what_does_not_end() -> None:
    async with bench(drain_s=5.0, behaviour=Behaviour(speed=3.0)) as b:
        short = asyncio.create_task(b.chat_events(max_tokens=50))
        await b.until(lambda: b.engine.running == 1)
        await b.running.stop()
        assert (await short)[-1] == "[DONE]"
    async with bench(behaviour=Behaviour()) as b:
        endless = asyncio.create_task(b.chat_events(max_tokens=100_000))
        await b.until(lambda: b.engine.running == 1)
        began = time.monotonic()
        await b.running.stop()
        assert time.monotonic() - began < 1.0
        with pytest.raises(aiohttp.ClientError):
            await endless
        assert [finished.aborted for finished in b.finished] == [True]


async def test_a_broken_engine_answers_503_instead_of_silence() -> None:
    breaks = iter([True])

    def on_finished(_: Finished) -> None:
        if next(breaks, False):
            raise RuntimeError("broken on purpose")

    running = await start(EngineConfig(model="chat-8b", version="1.4.0"), on_finished=on_finished)
    async with aiohttp.ClientSession(running.url) as client:
        b = Bench(running, client, [])
        waiting = [asyncio.create_task(b.chat_events(max_tokens=1000)), asyncio.create_task(b.chat_events())]
        await b.until(lambda: running.engine.running == 2)
        await b.chat_json(max_tokens=1)
        for task in waiting:
            *_, error, done = await task
            assert (error["error"]["message"], done) == ("The stand-in engine stopped.", "[DONE]")
        async with b.chat() as response:
            assert response.status == 503
    with pytest.raises(RuntimeError, match="on purpose"):
        await running.stop()


async def test_many_engines_share_a_process() -> None:
    async with bench(version="1.4.0") as old, bench(version="1.5.0") as new:
        for b in (old, new):
            await b.chat_json(max_tokens=1)
        assert [b.finished[0].version for b in (old, new)] == ["1.4.0", "1.5.0"]


@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 4500, reason="needs 4,500 file descriptors")
async def test_two_thousand_streams_are_open_at_once_and_all_end_well() -> None:
    streams = 2000
    # Steps of a second until all are in, so that none ends before the last begins.
    cost = StepCost(fixed_ms=1000.0, prefill_token_ms=0.0, decode_sequence_ms=0.0)
    limits = Limits(max_running=streams, max_step_tokens=65536)
    async with bench(limits=limits, cost=cost, behaviour=Behaviour()) as b:
        opened = 0

        async def stream() -> bytes:
            nonlocal opened
            async with b.chat(stream=True, max_tokens=8) as response:
                opened += 1
                body: bytes = await response.read()
                return body

        tasks = [asyncio.create_task(stream()) for _ in range(streams)]
        await b.until(lambda: opened == streams)
        assert b.engine.running + b.engine.waiting == streams
        b.engine.behaviour = Behaviour(speed=1000.0)
        bodies = await asyncio.gather(*tasks)
        assert {len(events(body)) for body in bodies} == {1 + 8 + 1 + 1}
        assert {finished.output_tokens for finished in b.finished} == {8}


def test_log_lines_say_that_they_are_a_stand_ins() -> None:
    stream = io.StringIO()
    json_lines(stream, EngineConfig(model="chat-8b", version="1.4.0"))("listening", url="http://x")
    line = json.loads(stream.getvalue())
    assert line.pop("time")
    assert line == {
        "stand_in": True,
        "model": "chat-8b",
        "version": "1.4.0",
        "event": "listening",
        "url": "http://x",
    }


def test_the_command_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k\n")
    command = [sys.executable, "-m", "tenantry_standin", "--model", "chat-8b", "--version", "1.4.0"]
    options = ["--listen", "127.0.0.1:0", "--api-key-file", str(tmp_path / "key"), "--behaviour", '{"error_rate": 1}']
    with subprocess.Popen(command + options, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            listening = json.loads(process.stderr.readline())
            assert listening["stand_in"] is True
            client = openai.OpenAI(base_url=f"{listening['url']}/v1", api_key="k", max_retries=0)
            with client, pytest.raises(openai.InternalServerError, match="error_rate"):
                client.chat.completions.create(model="chat-8b", messages=[{"role": "user", "content": "hello"}])
        finally:
            process.terminate()
        lines = [json.loads(line) for line in process.stderr]
    assert process.returncode == 0
    assert lines[-1]["event"] == "stopped"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--listen", "8001"], "takes HOST:PORT"),
        (["--behaviour", '{"eror_rate": 1}'], "unknown field `eror_rate`"),
        (["--speed", "0"], "speed must be from"),
        (["--max-running", "4000"], "max_step_tokens must be at least"),
        (["--api-key-file", "/dev/null"], "is empty"),
        (["--cold-start-s", "0"], "give seconds above 0"),
        (["--cold-start-s", "nan"], "give seconds above 0"),
    ],
)
def test_the_command_explains_what_it_does_not_understand(
    options: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--model", "m", "--version", "1", *options])
    assert complaint in capsys.readouterr().err
