"""The stand-in's usage records: built from facts first, then one for each way in which an attempt ends."""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from statistics import fmean
from typing import Any

import aiohttp
import pytest
from msgspec.structs import replace
from tenantry.core.metering.meter import Arrival
from tenantry.core.usage import ColdStart, EngineSpan, Record, UsageRecord
from tenantry_standin.batching import Finished, Job, Limits
from tenantry_standin.behaviour import Behaviour
from tenantry_standin.engine import EngineConfig
from tenantry_standin.prefix_cache import prompt
from tenantry_standin.records import Ended, engine_id, finish_reason, log_probability, read_arrival
from tenantry_standin.server import RunningEngine, start

JOB = Job(
    id=0, prompt=prompt(b"x" * 40), output_tokens=4, priority=3, tenant="acme", version="2.0.0", request_id="0" * 32
)
FINISHED = Finished(
    id=0, request_id="r1", tenant="acme", version="2.0.0", prompt_tokens=10, cached_tokens=0, output_tokens=4,
    queue_ms=1.0, ttft_ms=9.0, tpot_ms=2.0, finish_reason="stop", aborted=False,
)  # fmt: skip
ABORTED = replace(FINISHED, output_tokens=2, finish_reason="abort", aborted=True)


@pytest.mark.parametrize(
    ("ended", "finished", "reason"),
    [
        (Ended.SERVED, FINISHED, "stop"),
        (Ended.LEFT, ABORTED, "abort"),
        (Ended.LEFT, FINISHED, "stop"),  # it was complete, only its last word was still on its way
        (Ended.LEFT, None, "abort"),  # hung: to the engine, a client that left
        (Ended.FAILED, None, "error"),
        (Ended.FAILED, ABORTED, "error"),
        (Ended.FAILED, FINISHED, "error"),
    ],
)
def test_the_finish_reason(ended: Ended, finished: Finished | None, reason: str) -> None:
    assert finish_reason(ended, finished) == reason


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("", 1), ("1", 1), ("2", 2), ("100", 100), ("101", 1), ("0", 1), ("-1", 1), ("2.0", 1), (" 3", 1), ("²", 1),
        ("9" * 5000, 1), ("1, 2", 1),
    ],
)  # fmt: skip
def test_the_attempt_count_is_envoys_or_one(value: str, number: int) -> None:
    assert read_arrival({"x-envoy-attempt-count": value}, {}, JOB, model="m").attempt == number


@pytest.mark.parametrize(("value", "mirror"), [("1", True), ("0", False), ("true", False), ("", False)])
def test_a_copy_is_known_by_its_header(value: str, mirror: bool) -> None:
    assert read_arrival({"x-tenantry-mirror": value}, {}, JOB, model="m").mirror is mirror


def test_the_stamp_is_read_and_cut_to_what_a_record_can_bear() -> None:
    headers = {"x-tenantry-model": "chat", "x-tenantry-tier": "gold"}
    assert read_arrival(headers, {"adapter": "a" * 200}, JOB, model="served-name") == Arrival(
        request_id="0" * 32, tenant="acme", tier="gold", model="chat", adapter="a" * 128, priority=3, input_tokens=10
    )
    plain = read_arrival({}, {"adapter": 7}, replace(JOB, request_id="r" * 500), model="m")
    assert (plain.model, plain.tier, plain.adapter, len(plain.request_id)) == ("m", "", None, 128)


def test_the_engines_id_says_stand_in_and_stays_unique() -> None:
    assert engine_id("chat-8b-2.0.0", "0a1b2c3d") == "stand-in-chat-8b-2.0.0-0a1b2c3d"
    long = engine_id("x" * 500, "0a1b2c3d")
    assert (len(long), long[-9:]) == (128, "-0a1b2c3d")


def test_log_probabilities_spread_about_their_mean_and_pairs_share_most_of_it() -> None:
    stable, candidate = random.Random(1), random.Random(2)
    prompts = [str(index).encode() for index in range(400)]
    pairs = [(log_probability(-0.6, text, stable), log_probability(-0.9, text, candidate)) for text in prompts]
    assert fmean(a for a, _ in pairs) == pytest.approx(-0.6, abs=0.02)
    differences = [a - b for a, b in pairs]
    assert fmean(differences) == pytest.approx(0.3, abs=0.01)
    assert max(differences) - min(differences) < 0.3
    assert log_probability(0.0, b"x", stable) <= 0.0


class Bench:
    """A running engine, a client for it, and the records it made."""

    def __init__(self, running: RunningEngine, client: aiohttp.ClientSession, all_records: list[Record]) -> None:
        self.running = running
        self.engine = running.engine
        self.client = client
        self.all_records = all_records

    @property
    def records(self) -> list[UsageRecord]:
        """Those of requests, parts as well."""
        return [record for record in self.all_records if isinstance(record, UsageRecord)]

    def post(self, headers: Mapping[str, str] | None = None, **members: Any) -> Any:
        arguments = {"tenant": "acme", "request_id": "r1", "version": "9.9.9"}
        messages = [{"role": "user", "content": "hello"}]
        body = {"model": "chat-8b", "messages": messages, "vllm_xargs": arguments, **members}
        return self.client.post("/v1/chat/completions", json=body, headers=headers)

    async def status(self, headers: Mapping[str, str] | None = None, **members: Any) -> int:
        async with self.post(headers, **members) as response:
            await response.read()
            return int(response.status)

    async def one(self) -> UsageRecord:
        """Wait for the record of the only attempt."""
        async with asyncio.timeout(10):
            while not (ended := [record for record in self.records if record.final]):
                await asyncio.sleep(0.002)
        (only,) = ended
        return only


@asynccontextmanager
async def bench(**config: Any) -> AsyncIterator[Bench]:
    records: list[Record] = []
    behaviour = config.pop("behaviour", Behaviour(speed=100.0))
    plain = EngineConfig(model="chat-8b", version="1.4.0", behaviour=behaviour, **config)
    running = await start(plain, on_record=records.append, record_counts=lambda: {"shipped": 7, "full": 0})
    try:
        async with aiohttp.ClientSession(running.url) as client:
            yield Bench(running, client, records)
    finally:
        await running.stop()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_served_request_leaves_one_record(stream: bool) -> None:
    async with bench(engine_name="blue", behaviour=Behaviour(speed=5.0, repetition=1.0)) as b:
        headers = {"x-tenantry-model": "chat", "x-envoy-attempt-count": "2", "x-tenantry-mirror": "1"}
        assert await b.status(headers, stream=stream, max_tokens=10, priority=4) == 200
        made = await b.one()
        assert made.engine == b.running.engine_id
        assert made.engine.startswith("stand-in-blue-")
        assert (made.request_id, made.tenant, made.model, made.version) == ("r1", "acme", "chat", "1.4.0")
        assert (made.attempt, made.mirror, made.priority, made.finish_reason) == (2, True, 4, "length")
        assert (made.output_tokens, made.repetition) == (10, 0.8)  # [stand-in] and the first word repeat nothing
        assert made.ttft_ms is not None
        assert made.time_per_token_ms is not None
        assert 0 < made.ttft_ms + 9 * made.time_per_token_ms <= made.duration_ms + 0.01
        assert made.mean_log_probability == pytest.approx(-0.6, abs=0.5)
        async with b.client.get("/metrics") as response:
            lines = set((await response.text()).splitlines())
        wanted = {"mirrored_total 1", "retried_total 1", "records_total 1", "records_shipped_total 7"}
        assert {f"standin_{line}" for line in wanted} <= lines


@pytest.mark.parametrize("stream", [False, True])
async def test_the_first_token_is_as_late_as_the_client_sees_it(stream: bool) -> None:
    async with bench(behaviour=Behaviour(speed=50.0)) as b:
        async with b.client.post("/stand-in/behaviour", json={"ttft_factor": 1000.0}) as response:
            assert response.status == 200
        clock = asyncio.get_running_loop().time
        began_s = clock()
        async with b.post(stream=stream, max_tokens=1) as response:
            assert await response.content.readany()
            seen_ms = (clock() - began_s) * 1000
        made = await b.one()
        assert made.ttft_ms is not None
        assert made.ttft_ms >= 1000 * 7.34 / 50
        assert seen_ms >= made.ttft_ms
        assert seen_ms - made.ttft_ms < 100


@pytest.mark.parametrize(
    ("behaviour", "stream", "some_tokens"),
    [
        ({"error_rate": 1.0}, False, False),
        ({"error_rate": 1.0}, True, False),
        ({"stream_error_rate": 1.0}, True, True),
        ({"die_after_first_byte_rate": 1.0}, True, True),
        ({"die_after_first_byte_rate": 1.0}, False, True),
    ],
)
async def test_what_the_engine_fails_at_is_an_error(
    behaviour: dict[str, float], stream: bool, some_tokens: bool
) -> None:
    async with bench(behaviour=Behaviour(speed=100.0, **behaviour)) as b:
        try:
            await b.status(stream=stream, max_tokens=10)
        except aiohttp.ClientError:
            assert "die_after_first_byte_rate" in behaviour
        made = await b.one()
        assert made.finish_reason == "error"
        assert (made.output_tokens > 0, made.ttft_ms is not None) == (some_tokens, some_tokens)


@pytest.mark.parametrize(("hangs", "stream"), [(1.0, False), (1.0, True), (0.0, True), (0.0, False)])
async def test_a_client_that_leaves_is_an_abort_even_if_the_engine_hung(hangs: float, stream: bool) -> None:
    async with bench(behaviour=Behaviour(hang_rate=hangs)) as b:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await b.status(stream=stream, max_tokens=10_000)
        made = await b.one()
        assert made.finish_reason == "abort"
        assert made.duration_ms == pytest.approx(200, abs=150)
        assert (made.ttft_ms is None) == (hangs == 1.0)


async def test_a_full_queue_is_an_error() -> None:
    async with bench(limits=Limits(max_running=1, max_waiting=1), behaviour=Behaviour()) as b:
        tasks = []
        for _ in range(2):
            tasks.append(asyncio.create_task(b.status(max_tokens=1000)))
            await asyncio.sleep(0.05)
        assert await b.status() == 503
        assert (await b.one()).finish_reason == "error"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_the_engine_cuts_when_it_stops_is_an_error() -> None:
    async with bench(behaviour=Behaviour()) as b:
        cut = asyncio.create_task(b.status(stream=True, max_tokens=10_000))
        await asyncio.sleep(0.1)
        await b.running.stop()
        assert (await b.one()).finish_reason == "error"
        await asyncio.gather(cut, return_exceptions=True)


async def test_what_the_client_did_wrong_leaves_no_record() -> None:
    async with bench(api_key="k", max_model_tokens=100) as b:
        assert await b.status() == 401
        key = {"authorization": "Bearer k"}
        assert await b.status(key, model="other") == 404
        assert await b.status(key, messages=None) == 400
        assert await b.status(key, max_tokens=1000) == 400
        assert b.records == []


async def test_embeddings_know_their_tenant_by_header() -> None:
    async with bench() as b:
        body = {"model": "chat-8b", "input": "text"}
        for headers in (
            {"x-request-id": "acme:00ff"},
            {"x-tenantry-tenant": "acme", "x-tenantry-request-id": "00ff", "x-request-id": "envoys-own"},
        ):
            async with b.client.post("/v1/embeddings", json=body, headers=headers) as response:
                assert response.status == 200
        assert [(made.tenant, made.request_id) for made in b.records] == [("acme", "00ff")] * 2
        assert [(made.output_tokens, made.ttft_ms, made.finish_reason) for made in b.records] == [(0, None, "stop")] * 2


async def test_a_hook_that_breaks_harms_no_answer() -> None:
    logged: list[str] = []

    def broken(_: Record) -> None:
        raise RuntimeError("broken on purpose")

    running = await start(
        EngineConfig(model="chat-8b", version="1.4.0", behaviour=Behaviour(speed=100.0)),
        log=lambda event, /, **_: logged.append(event),
        on_record=broken,
    )
    try:
        async with aiohttp.ClientSession(running.url) as client:
            b = Bench(running, client, [])
            assert [await b.status() for _ in range(2)] == [200, 200]
    finally:
        await running.stop()
    assert logged == ["usage record lost"] * 4  # the cold start's, those of two requests, and the last span's


async def test_quality_drifts_while_it_runs() -> None:
    async with bench() as b:
        await b.status()
        async with b.client.post("/stand-in/behaviour", json={"mean_log_probability": -2.0}) as response:
            assert response.status == 200
        await b.status()
        before, after = (made.mean_log_probability or 0.0 for made in b.records)
        assert before - after == pytest.approx(1.4, abs=0.2)


async def test_each_gpu_nanosecond_has_an_owner() -> None:
    """Invariant 6, on the whole of an engine's life: many at once, some of whom leave."""
    async with bench(behaviour=Behaviour(speed=20.0), gpus=2) as b:
        leaving = [asyncio.create_task(b.status(stream=True, max_tokens=100_000)) for _ in range(5)]
        staying = [asyncio.create_task(b.status(stream=True, max_tokens=30 + number)) for number in range(15)]
        while b.engine.running < 5:
            await asyncio.sleep(0.002)
        await asyncio.gather(*staying[:5])
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, *staying, return_exceptions=True)
        await b.running.stop()
        cold, *others = b.all_records
        spans = [record for record in others if isinstance(record, EngineSpan)]
        charged = sum(record.charge.gpu_ns for record in b.records)
        assert isinstance(cold, ColdStart)
        assert cold.gpu_ns == 2 * 28 * 10**9 // 20
        assert charged == sum(span.busy_gpu_ns for span in spans) == b.engine.meter.meter.busy_gpu_ns > 0
        assert all(span.idle_gpu_ns >= 0 for span in spans)
        reasons = [record.finish_reason for record in b.records if record.final]
        assert (len(reasons), reasons.count("abort")) == (20, 5)
        produced = sum(record.output_tokens for record in b.records if record.final)
        assert sum(record.charge.output_tokens for record in b.records) == produced
        counts = b.engine.meter.meter.counts
        assert not {name: count for name, count in counts.items() if count and name != "known_ids"}


async def test_the_charge_of_a_request() -> None:
    async with bench(behaviour=Behaviour()) as b:
        text = "x" * 400
        for _ in range(2):
            await b.status(messages=[{"role": "user", "content": text}], max_tokens=4)
        first, second = b.records
        for made in (first, second):
            assert made.charge.input_tokens + made.charge.cached_tokens == made.input_tokens > 100
            assert made.charge.output_tokens == 4
            # An event loop sleeps in whole milliseconds, and what one sleep took too long, the next gives back.
            assert 0.5 * 4 * 7.34e6 <= made.charge.gpu_ns <= made.duration_ms * 1e6
            assert min(made.charge.prefill_gpu_ns, made.charge.decode_gpu_ns) > 1e6
            assert made.peak_kv_bytes == 131_072 * (made.input_tokens + 3)
            assert made.charge.weights == "flops"
            assert made.preemptions == 0
        assert first.charge.cached_tokens == 0
        assert second.charge.cached_tokens >= 96


async def test_a_long_request_has_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenantry_standin.metering.TICK_S", 0.02)
    monkeypatch.setattr("tenantry_standin.metering.PART_NS", 100_000_000)
    async with bench(behaviour=Behaviour(speed=5.0)) as b:
        assert await b.status(max_tokens=200) == 200
        *parts, last = b.records
        assert len(parts) >= 2
        assert [part.finish_reason for part in parts] == [None] * len(parts)
        assert (last.finish_reason, last.output_tokens) == ("length", 200)
        assert sum(part.charge.output_tokens for part in b.records) == 200
        assert len({part.attempt_id for part in b.records}) == 1
        assert last.charge.weights == "flops"  # one sequence alone does not tell the fixed cost from its own


async def test_it_learns_what_a_step_costs() -> None:
    async with bench(behaviour=Behaviour(speed=2.0)) as b:
        counts = (1, 30, 5, 12)
        for _ in range(2):
            for count in counts:
                await asyncio.gather(*(b.status(max_tokens=20, stream=True) for _ in range(count)))
        # How well is a matter of tests/unit/test_calibration.py: a busy machine's event loop is late by milliseconds.
        assert b.engine.meter.meter.calibrations.without.weights.source == "calibrated"
        assert b.records[-1].charge.weights == "calibrated"
