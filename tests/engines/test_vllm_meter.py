"""Real vLLM (CPU, tiny model, three adapters) with tenantry's plugin: every nanosecond of its steps has an owner.

All tests ask one engine, which has served the tests of other files as well; the last test of all kills it.
"""

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tenantry.core.usage import Record, UsageRecord, read_record
from tenantry_testing.metered_engine import MeteredEngine, stamp
from tenantry_vllm.gate import Gate
from tenantry_vllm.spool_folder import abandoned
from tenantry_vllm.spool_reader import SpoolReader

from engines.conftest import PART_S, VllmStack

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(400)]

HELLO: Any = [{"role": "user", "content": "Hello"}]
BLOCK_BYTES = 128 * 2048
"""128 tokens: 4 layers x 2 heads x 64 numbers x 2 bytes x (key, value) each."""


@pytest.fixture
def engine(vllm: VllmStack) -> MeteredEngine:
    """The chat engine."""
    return vllm.chat


async def test_this_vllm_has_all_of_the_private_interface_that_is_used(vllm: VllmStack) -> None:
    """As the engine's own process found it (vllm_recorder/tenantry_interface.py)."""
    seen = json.loads(vllm.interface.read_text())
    assert seen["missing"] == []
    assert len(seen["found_out"]) == 2  # a name that is gone, an argument that moved
    assert seen["known"] == seen["statuses"]  # each way to end has a finish reason
    assert seen["metered"] == [True] * 4
    assert seen["carried"] == {"x-tenantry-stamp": "s"}
    assert seen["pickled"] == [7, 8]
    assert seen["deferred"] is True
    assert (seen["full_attention_skips"], seen["sliding_window_may_skip"]) == (0, True)


async def test_the_cold_start_comes_first_and_its_phases_add_up(engine: MeteredEngine) -> None:
    await engine.sink.until(lambda: bool(engine.sink.cold_starts))
    (cold,) = engine.sink.cold_starts
    assert engine.sink.records[0] is cold
    assert (cold.model, cold.version, cold.gpus) == ("chat-8b", "1.4.0", 1)
    assert cold.load_ns > 0
    assert cold.other_ns > cold.load_ns  # importing torch takes longer than reading 5 MB
    assert 5e9 < cold.gpu_ns < 240e9
    await engine.sink.until(lambda: bool(engine.sink.spans))
    first = engine.sink.spans[0]
    assert abs(first.ended_s - first.wall_ns / 1e9 - cold.ended_s) < 0.05  # the first span begins where it ended


async def test_a_record_says_whose_it_was_what_it_took_and_how_it_ended(engine: MeteredEngine) -> None:
    request_id, headers = stamp("acme", x_envoy_attempt_count="2", x_tenantry_mirror="1")
    body = {"model": "lora-1", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
    answer = await engine.post("/v1/chat/completions", body, headers)
    (record,) = await engine.sink.ended(request_id)
    assert (record.tenant, record.tier, record.model, record.version) == ("acme", "gold", "chat-8b", "1.4.0")
    assert (record.attempt, record.mirror, record.adapter, record.sequence) == (2, True, "lora-1", 0)
    assert (record.finish_reason, record.measured) == ("length", "engine")
    assert record.input_tokens == answer["usage"]["prompt_tokens"]
    assert record.output_tokens == record.charge.output_tokens == 8
    assert record.charge.input_tokens == record.input_tokens
    assert record.charge.prefill_gpu_ns > 0
    assert record.charge.decode_gpu_ns > 0
    assert record.ttft_ms is not None
    assert record.queue_ms <= record.ttft_ms <= record.duration_ms
    assert record.peak_kv_bytes == BLOCK_BYTES
    assert record.charge.kv_byte_ms > 0
    assert record.repetition is not None


async def test_each_sequence_of_a_request_has_a_record(engine: MeteredEngine) -> None:
    answer, records = await engine.complete(4, prompt=["Hello", "Goodbye"], n=2, temperature=1.0)
    assert len(answer["choices"]) == 4
    assert [record.sequence for record in records] == [0, 1, 2, 3]
    assert len({record.id for record in records}) == 4
    assert sorted(record.input_tokens for record in records) == [5, 5, 7, 7]


async def test_a_request_that_came_past_the_sidecar_is_the_operators(engine: MeteredEngine) -> None:
    body = {"model": "tiny-llama", "prompt": "Hello", "max_tokens": 2}
    answer = await engine.post("/v1/completions", body, {"x-request-id": "mine", "x-tenantry-tier": "gold"})
    await engine.sink.until(lambda: any(record.request_id.startswith(answer["id"]) for record in engine.sink.requests))
    (record,) = [record for record in engine.sink.requests if record.request_id.startswith(answer["id"])]
    assert record.tenant == ""
    assert (record.tier, record.attempt, record.mirror) == ("", 1, False)


async def test_a_stop_is_no_abort(engine: MeteredEngine) -> None:
    """vLLM ends a request at a stop string by aborting it; the record says `stop`, as the client's answer does."""
    answer, (record,) = await engine.complete(200, stop=["e"])
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert record.finish_reason == "stop"
    assert 0 < record.output_tokens < 200
    answer, (record,) = await engine.complete(200, stop_token_ids=list(range(ord("a"), ord("j"))))
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert (record.finish_reason, record.output_tokens) == ("stop", answer["usage"]["completion_tokens"])


async def test_a_client_that_leaves_pays_for_what_was_generated(engine: MeteredEngine) -> None:
    request_id, headers = stamp("globex")
    body = {"model": "tiny-llama", "prompt": "Hello", "max_tokens": 1500, "stream": True, "ignore_eos": True}
    chunks = 0
    async with engine.stream("/v1/completions", body, headers) as response:
        async for line in response.content:
            chunks += line.startswith(b"data:")
            if chunks == 20:
                response.close()
                break
    records = await engine.sink.ended(request_id)
    last = records[-1]
    assert last.finish_reason == "abort"
    assert 20 <= last.output_tokens < 1500
    assert sum(record.charge.output_tokens for record in records) == last.output_tokens
    # Nothing of it is free: about the time of an undisturbed answer, and all of it in steps of its own.
    charged_ms = sum(record.charge.gpu_ns for record in records) / 1e6
    assert 0.5 * last.duration_ms < charged_ms < 1.2 * last.duration_ms


async def test_tokens_that_a_prefix_cache_saved_are_told_apart(engine: MeteredEngine) -> None:
    prompt = "The quick brown fox jumps over the lazy dog. " * 7  # 315 tokens: two blocks of 128, and some
    _, (first,) = await engine.complete(1, prompt=prompt)
    _, (second,) = await engine.complete(1, prompt=prompt)
    assert (first.cached_tokens, first.charge.input_tokens) == (0, first.input_tokens)
    assert second.cached_tokens == second.charge.cached_tokens == 256
    assert second.charge.input_tokens == second.input_tokens - 256


async def test_a_preempted_request_pays_its_recomputation_in_time_and_not_in_tokens(engine: MeteredEngine) -> None:
    answers = await asyncio.gather(
        *(engine.complete(160, prompt=f"{index} " + "abcdefgh " * 45, ignore_eos=True) for index in range(4))
    )
    ends = [records[-1] for _, records in answers]
    assert sum(record.preemptions for record in ends) > 0, "the KV cache was large enough for all"
    for answer, records in answers:
        last = records[-1]
        assert last.output_tokens == answer["usage"]["completion_tokens"] == 160
        assert sum(record.charge.output_tokens for record in records) == 160
        paid_tokens = sum(record.charge.input_tokens + record.charge.cached_tokens for record in records)
        assert paid_tokens <= last.input_tokens
    assert max(record.peak_kv_bytes or 0 for record in ends) == 5 * BLOCK_BYTES


async def test_vllms_own_metrics_show_what_waits_in_the_spool(engine: MeteredEngine) -> None:
    """EngineCore has it, the API server is asked. Nobody is at the ledger's port, so all that was written waits."""
    await engine.complete(2)
    cold = engine.sink.cold_starts[0]
    own = {"model": "chat-8b", "version": "1.4.0", "engine": cold.engine}
    waiting = 0.0
    async with asyncio.timeout(10):
        while not waiting:
            await asyncio.sleep(0.2)
            async with engine.http.get(f"{engine.url}/metrics") as response:
                families = {one.name: one for one in text_string_to_metric_families(await response.text())}
            waiting = sum(one.value for one in families["tenantry_spool_waiting_records"].samples)
    (bytes_waiting,) = families["tenantry_spool_waiting_bytes"].samples
    (oldest,) = families["tenantry_spool_oldest_waiting_seconds"].samples
    assert bytes_waiting.labels == oldest.labels == own
    assert bytes_waiting.value > 0
    assert abs(time.time() - oldest.value - cold.ended_s) < 2.0, "the cold start was the first"
    states = {one.labels["state"]: one.value for one in families["tenantry_spool_disk_state"].samples}
    assert states == {"ok": 1, "low": 0, "full": 0, "error": 0}
    faults = families["tenantry_metering_faults"].samples
    assert {one.labels["hook"] for one in faults} >= {"planned", "done", "send_input"}  # of both processes
    assert sum(one.value for one in faults) == 0
    assert "vllm:prompt_tokens" in families, "vLLM's own are there as before"


async def test_through_envoy_each_route_is_billed_to_the_tenant_of_the_credential(vllm: VllmStack) -> None:
    """Invariant 2: forged headers and members are gone; embeddings, whose body has no room for it, bear it all too."""
    forged = {"vllm_xargs": {"tenant": "globex", "request_id": "mine"}}
    headers = {"x-tenantry-tenant": "globex", "x-tenantry-tier": "bronze", "x-envoy-attempt-count": "7"}
    client = vllm.clients["acme"].with_options(default_headers=headers)
    before = {record.id for record in (*vllm.chat.sink.requests, *vllm.embed_sink.requests)}
    await client.chat.completions.create(model="chat-8b", messages=HELLO, max_tokens=2, extra_body=forged)
    await client.completions.create(model="chat-8b", prompt="Hello", max_tokens=2, extra_body=forged)
    await client.responses.create(model="chat-8b", input="Hello", max_output_tokens=2, extra_body=forged)
    await client.embeddings.create(model="embed-1", input=["Hello", "you"], encoding_format="float", extra_body=forged)

    def new() -> list[UsageRecord]:
        return [r for r in (*vllm.chat.sink.requests, *vllm.embed_sink.requests) if r.id not in before]

    await vllm.embed_sink.until(lambda: len(new()) >= 5 and all(record.final for record in new()))
    owners = {(record.tenant, record.tier, record.attempt, record.mirror, record.version) for record in new()}
    assert owners == {("acme", "gold", 1, False, "1.4.0")}
    assert [record.model for record in new()] == ["chat-8b"] * 3 + ["embed-1"] * 2
    embeddings = new()[3:]
    assert sorted(record.sequence for record in embeddings) == [0, 1]
    assert [(record.finish_reason, record.output_tokens, record.ttft_ms) for record in embeddings] == [
        ("stop", 0, None)
    ] * 2
    assert all(record.charge.prefill_gpu_ns > 0 for record in embeddings)


async def test_charges_add_up_to_the_busy_time_to_the_nanosecond(engine: MeteredEngine) -> None:
    """Invariant 6, after all that the tests above have done; and the workers' own clock agrees."""
    await asyncio.gather(
        *(
            engine.complete(10 + 5 * index, model=("tiny-llama", "lora-0", "lora-1", "lora-2")[index % 4])
            for index in range(12)
        )
    )
    await engine.settled()
    spans, requests = engine.sink.spans, engine.sink.requests
    assert [span.part for span in spans] == list(range(1, len(spans) + 1))
    busy_ns = sum(span.busy_gpu_ns for span in spans)
    assert busy_ns > 1e9
    assert sum(record.charge.gpu_ns for record in requests) == busy_ns
    # Spans tile the engine's life.
    life_s = spans[-1].ended_s - engine.sink.cold_starts[0].ended_s
    assert abs(sum(span.wall_ns for span in spans) / 1e9 - life_s) < 0.05
    assert all(span.idle_gpu_ns >= 0 for span in spans)
    worker_ns = sum(span.worker_gpu_ns or 0 for span in spans)
    # Near 0.97 on an idle machine; on a busy one the processes wait for a core, which is no step of the worker's.
    assert 0.6 < worker_ns / busy_ns < 1.03, "the workers' clock and EngineCore's disagree"
    assert any((record.engine_peak_memory_bytes or 0) > 500e6 for record in requests)


async def test_records_are_at_the_sidecars_within_two_seconds(engine: MeteredEngine) -> None:
    delays_s = sorted(engine.sink.delays_s())
    assert len(delays_s) >= 30
    assert delays_s[int(0.99 * len(delays_s))] <= 2.0


async def test_metering_had_nothing_to_complain_of(engine: MeteredEngine) -> None:
    log = engine.log.read_text()
    assert "is metered as" in log
    assert [
        line for line in log.splitlines() if "Metering" in line or "are not timed" in line or "clock failed" in line
    ] == []


async def test_while_records_cannot_be_kept_new_requests_get_503(engine: MeteredEngine) -> None:
    (pid,) = _pids(engine)
    inherited = dict(pair.partition("=")[::2] for pair in Path(f"/proc/{pid}/environ").read_text().split("\0"))
    gate = Gate.shared(inherited)  # what EngineCore would say for a full disk, said for a rank that it does not have
    body = {"model": "tiny-llama", "prompt": "Hello", "max_tokens": 2, "stream": True}
    gate.refuse(7, True)
    try:
        async with engine.stream("/v1/completions", body, stamp("acme")[1]) as response:
            assert response.status == 503
            assert "cannot keep usage records" in await response.text()
    finally:
        gate.refuse(7, False)
    async with engine.stream("/v1/completions", body, stamp("acme")[1]) as response:
        assert response.status == 200


@pytest.mark.kills_the_engine
async def test_killed_in_the_middle_of_load_it_loses_at_most_what_came_after_the_last_part(
    engine: MeteredEngine,
) -> None:
    ids = []

    async def stream(tenant: str) -> None:
        request_id, headers = stamp(tenant)
        ids.append(request_id)
        body = {"model": "tiny-llama", "prompt": "Hi", "max_tokens": 2000, "stream": True, "ignore_eos": True}
        async with engine.stream("/v1/completions", body, headers) as response:
            async for _ in response.content:
                pass

    streams = [asyncio.create_task(stream(tenant)) for tenant in ("acme", "globex")]
    await engine.sink.until(lambda: all(len(engine.sink.of(name)) >= 2 for name in ids) and len(ids) == 2, 30)
    (pid,) = _pids(engine)
    os.kill(pid, signal.SIGKILL)
    killed_s = time.time()
    ended = await asyncio.gather(*streams, return_exceptions=True)
    assert len(ended) == 2
    kept = _spooled(engine.spool)
    # Whatever a sidecar was told is on the disk as well, but for what came in the spool's last moments.
    assert {record.id for record in kept} >= {
        record.id for record in engine.sink.records if record.ended_s < killed_s - 1
    }
    for request_id in ids:
        parts = [record for record in kept if isinstance(record, UsageRecord) and record.request_id == request_id]
        assert len(parts) >= 2
        assert not any(record.final for record in parts)
        assert killed_s - parts[-1].ended_s < PART_S + 2  # a part each second, a tick each second, a moment to write
    # Every record that was acknowledged is whole, and no id is there twice.
    assert len({record.id for record in kept}) == len(kept)


def _pids(engine: MeteredEngine) -> set[int]:
    """Return the processes that have told of a cold start: an engine's id is host, process, time."""
    return {int(record.engine.split("-")[-2]) for record in engine.sink.cold_starts}


def _spooled(folder: Path) -> list[Record]:
    """Return what a dead process's spool holds."""
    complaints: list[str] = []
    records: list[Record] = []
    for found in abandoned(folder):
        reader = SpoolReader(found, log=complaints.append)
        while batch := reader.batch(1000, 1 << 20):
            records += [read_record(entry.payload) for entry in batch]
            reader.acknowledge(len(batch))
        assert reader.damaged == 0, complaints
        reader.close()
    return records
