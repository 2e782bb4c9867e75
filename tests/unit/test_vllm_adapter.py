"""What the hooks in vLLM's scheduler make of it: transcripts against a toy of the same shape, and a real meter."""

import logging
import time
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from tenantry.core.metering.meter import Work
from tenantry.core.usage import read_record
from tenantry_testing.metering import requests, spans
from tenantry_testing.toy_scheduler import BLOCK_BYTES, MS, Status, ToyScheduler, request
from tenantry_vllm.adapter import MeterAdapter
from tenantry_vllm.middleware import STOPPED
from tenantry_vllm.stamp import CARRIER, Stamp, write_carried
from tenantry_vllm.worker_clock import attach

ID = "0123456789abcdef0123456789abcdef"


def test_a_request_from_its_prefill_to_its_last_token() -> None:
    toy = ToyScheduler()
    toy.add_request(request("r", prompt=20))
    toy.end(toy.step(10, r=20), 40, r=[7])
    toy.end(toy.step(40, r=1), 50, {"r": Status.FINISHED_LENGTH_CAPPED}, r=[8])
    (record,) = requests(toy.collect())
    assert (record.finish_reason, record.input_tokens, record.output_tokens) == ("length", 20, 2)
    assert (record.charge.prefill_gpu_ns, record.charge.decode_gpu_ns) == (30 * MS, 10 * MS)
    assert (record.queue_ms, record.ttft_ms, record.time_per_token_ms) == (10, 40, 10)
    assert record.peak_kv_bytes == 2 * BLOCK_BYTES
    assert toy.metering.faults == {}


def test_a_step_that_is_planned_ahead_begins_when_the_one_before_ends() -> None:
    toy = ToyScheduler()
    toy.add_request(request("r"))
    first = toy.step(0, r=10)
    second = toy.step(1, r=1)
    toy.end(first, 10, r=[1])
    toy.end(second, 16, {"r": Status.FINISHED_STOPPED}, r=[2])
    (record,) = requests(toy.collect())
    assert (record.charge.prefill_gpu_ns, record.charge.decode_gpu_ns) == (10 * MS, 6 * MS)


def test_an_aborted_request_bears_the_step_that_still_holds_it() -> None:
    toy = ToyScheduler()
    toy.add_request(request("r"))
    toy.end(toy.step(0, r=10), 10, r=[1])
    step = toy.step(10, r=1)
    toy.finish_requests(["r"], Status.FINISHED_ABORTED)
    assert requests(toy.collect()) == []
    toy.end(step, 15, r=[2])
    (record,) = requests(toy.collect())
    assert (record.finish_reason, record.output_tokens, record.charge.gpu_ns) == ("abort", 1, 15 * MS)


def test_an_abort_at_a_stop_string_is_a_stop() -> None:
    toy = ToyScheduler()
    for key in ("stops", "leaves"):
        toy.add_request(request(key))
    ended = toy.finish_requests(["stops", "leaves", f"{STOPPED}stops", f"{STOPPED}gone"], Status.FINISHED_ABORTED)
    assert [held.request_id for held in ended] == ["stops", "leaves"]  # vLLM sees no marks
    assert {record.request_id: record.finish_reason for record in requests(toy.collect())} == {
        "stops": "stop",
        "leaves": "abort",
    }


@pytest.mark.parametrize("ids", [None, "r", {"r"}])
def test_other_ways_to_name_what_ends_are_left_as_they_are(ids: Any) -> None:
    assert ToyScheduler().metering.ending(ids) is ids


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (Status.FINISHED_STOPPED, "stop"),
        (Status.FINISHED_LENGTH_CAPPED, "length"),
        (Status.FINISHED_IGNORED, "length"),
        (Status.FINISHED_ERROR, "error"),
        (Status.FINISHED_REPETITION, "stop"),
        (Status.PREEMPTED, "error"),  # no way to end that is known
    ],
)
def test_how_it_ended(status: Status, reason: str) -> None:
    toy = ToyScheduler()
    toy.add_request(request("r"))
    toy.end(toy.step(0, r=10), 10, {"r": status}, r=[1])
    assert [record.finish_reason for record in requests(toy.collect())] == [reason]


def test_what_a_preempted_request_computes_again_is_prefill() -> None:
    toy = ToyScheduler()
    held = request("r", prompt=10)
    toy.add_request(held)
    toy.end(toy.step(0, r=10), 10, r=[1])
    toy.end(toy.step(10, r=1), 20, r=[2])
    toy._preempt_request(held, 0.0)
    toy.end(toy.step(20, r=12), 50, r=[3])  # ten of the prompt, two of the output
    toy.end(toy.step(50, r=1), 55, {"r": Status.FINISHED_LENGTH_CAPPED}, r=[4])
    (record,) = requests(toy.collect())
    assert record.preemptions == 1
    assert (record.charge.prefill_gpu_ns, record.charge.decode_gpu_ns) == (40 * MS, 15 * MS)
    assert (record.charge.input_tokens, record.charge.output_tokens) == (10, 4)


def test_a_chunk_that_ends_a_prompt_and_drafts_beyond_is_both() -> None:
    toy = ToyScheduler()
    toy.add_request(request("r", prompt=10))
    toy.end(toy.step(0, r=6), 6, r=[])
    toy.end(toy.step(6, r=8), 14, {"r": Status.FINISHED_LENGTH_CAPPED}, r=[1, 2, 3])
    (record,) = requests(toy.collect())
    assert (record.charge.prefill_gpu_ns, record.charge.decode_gpu_ns) == (10 * MS, 4 * MS)


def test_attention_costs_what_it_looks_at() -> None:
    """Token i of a prompt attends to i tokens, itself among them; one behind 10 others to 11."""
    toy = ToyScheduler()
    works: list[Work] = []
    toy.meter.scheduled = lambda _step, planned, _now: works.extend(planned)  # type: ignore[method-assign,assignment]
    toy.add_request(request("r", prompt=10))
    for tokens in (4, 6, 1):
        toy.step(0, r=tokens)
    toy.metering.catch_up()
    assert [work.context_tokens for work in works] == [1 + 2 + 3 + 4, 5 + 6 + 7 + 8 + 9 + 10, 11]


def test_tokens_of_the_prefix_cache_are_told_even_of_a_request_without_output() -> None:
    toy = ToyScheduler()
    for key in ("a", "b"):
        toy.add_request(request(key, prompt=100))
        toy.requests[key].prefill_stats.num_cached_tokens = 64
        toy.requests[key].num_computed_tokens = 64
    toy.end(toy.step(0, a=36, b=16), 10, {"a": Status.FINISHED_LENGTH_CAPPED}, a=[1])
    toy.finish_requests(["b"], Status.FINISHED_ABORTED)
    found = {record.request_id: record for record in requests(toy.collect())}
    assert {key: record.cached_tokens for key, record in found.items()} == {"a": 64, "b": 64}
    assert {key: record.charge.input_tokens for key, record in found.items()} == {"a": 36, "b": 16}


def test_the_stamp_is_taken_out_of_the_trace_headers() -> None:
    """Else each token's output would carry it back to the API server."""
    toy = ToyScheduler()
    stamp = Stamp(tenant="acme", request_id=ID, tier="gold", model="chat-8b", attempt=2, mirror=True, sequence=3)
    plain, traced = request("a"), request("b")
    plain.trace_headers = {CARRIER: write_carried(stamp)}
    traced.trace_headers = {"traceparent": "00-1-2-01", CARRIER: write_carried(stamp)}
    traced.sampling_params = SimpleNamespace(
        extra_args={"tenant": "globex", "request_id": "other", "adapter": "acme-1"}
    )
    traced.lora_request = SimpleNamespace(lora_name="lora-7")
    for added in (plain, traced):
        toy.add_request(added)
    assert (plain.trace_headers, traced.trace_headers) == (None, {"traceparent": "00-1-2-01"})
    toy.finish_requests(["a", "b"], Status.FINISHED_ABORTED)
    first, second = requests(toy.collect())
    assert (first.tenant, first.tier, first.model, first.request_id) == ("acme", "gold", "chat-8b", ID)
    assert (first.attempt, first.mirror, first.sequence, first.adapter) == (2, True, 3, None)
    assert (second.tenant, second.adapter) == ("acme", "acme-1")  # the headers' tenant, the rules' adapter


def test_the_last_of_very_many_prompts_has_a_record_that_the_ledger_takes() -> None:
    toy = ToyScheduler()
    one = request("r")
    # A prompt of one token is four bytes of a body of 10 MiB; beams have sequences, too.
    one.trace_headers = {CARRIER: write_carried(Stamp(tenant="acme", request_id=ID, sequence=2_600_000))}
    toy.add_request(one)
    toy.finish_requests(["r"], Status.FINISHED_ABORTED)
    (record,) = requests(toy.collect())
    assert read_record(msgspec.json.encode(record)) == record


def test_without_a_stamp_it_is_the_operators_under_the_engines_own_id() -> None:
    toy = ToyScheduler()
    lone = request("x" * 200 + "-1a2b3c4d")
    lone.sampling_params, lone.lora_request = None, SimpleNamespace(lora_name="lora-7")
    toy.add_request(lone)
    toy.finish_requests([lone.request_id], Status.FINISHED_ABORTED)
    (record,) = requests(toy.collect())
    assert (record.tenant, record.adapter) == ("", "lora-7")
    assert len(record.request_id) == 128
    assert record.request_id.endswith("-1a2b3c4d")


def test_the_next_input_of_a_session_opens_no_second_account() -> None:
    toy = ToyScheduler()
    toy.add_request(request("r"))
    toy.end(toy.step(0, r=10), 10, r=[1])
    toy.add_request(toy.requests["r"])
    toy.finish_requests(["r"], Status.FINISHED_ABORTED)
    assert [record.output_tokens for record in requests(toy.collect())] == [1]


def test_blocks_behind_a_sliding_window_are_not_held() -> None:
    blocks = {"r": [0] * 10}
    window = SimpleNamespace(req_to_blocks=blocks, block_size=16, get_num_skipped_tokens=lambda n: max(0, n - 64))
    whole = SimpleNamespace(req_to_blocks=blocks, block_size=16, get_num_skipped_tokens=lambda n: 0)
    adapter = MeterAdapter(ToyScheduler().meter, print, requests={}, managers=[window, whole], block_bytes=1)
    assert adapter._kv_blocks("r", 160) == 4 + 10
    assert adapter._kv_blocks("r", 16) == 10 + 10
    assert adapter._kv_blocks("gone", 16) == 0


def test_the_workers_report_goes_to_the_span() -> None:
    toy = ToyScheduler()
    toy.add_request(request("r"))
    step = toy.step(0, r=10)
    output = SimpleNamespace(tokens={"r": [1]}, ends={})
    attach(output, (9 * MS, 10**9))
    toy.now_ns = 10 * MS
    toy.update_from_output(step, output)
    toy.metering.stop()
    assert [span.worker_gpu_ns for span in spans(toy.records)] == [9 * MS]


def test_the_scheduler_waits_for_no_bookkeeping_unless_it_falls_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = ToyScheduler()
    toy.add_request(request("r"))
    toy.end(toy.step(0, r=10), 10, {"r": Status.FINISHED_STOPPED}, r=[1])
    assert (toy.meter.busy_gpu_ns, toy.meter.accounts) == (0, 0)  # noted, not booked
    monkeypatch.setattr("tenantry_vllm.adapter.MAX_QUEUED", 4)  # as many as those calls
    toy.now_ns = 20 * MS
    toy.add_request(request("next"))
    assert (toy.meter.busy_gpu_ns, toy.meter.accounts) == (10 * MS, 1)
    (record,) = requests(toy.collect())
    assert (record.request_id, record.ttft_ms, record.charge.gpu_ns) == ("r", 10, 10 * MS)


def test_a_fault_of_metering_is_told_once_and_serving_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    toy = ToyScheduler()
    toy.meter.scheduled = _fail  # type: ignore[assignment,method-assign]
    toy.add_request(request("r"))
    with caplog.at_level(logging.WARNING, "vllm.tenantry"):
        for _ in range(3):
            toy.end(toy.step(0, r=1), 10, r=[1])
        toy.metering.catch_up()
    assert toy.requests["r"].num_tokens == 10 + 3
    assert toy.metering.faults == {"_fail: RuntimeError": 3}
    (line,) = [entry.getMessage() for entry in caplog.records]
    assert "_fail: RuntimeError" in line
    assert "a secret prompt" not in line


def test_a_fault_in_telling_of_faults_does_not_end_the_delivery_of_records() -> None:
    toy = ToyScheduler()
    toy.metering._tell = _fail  # type: ignore[method-assign]
    toy.metering.start()
    for name in ("first", "second"):
        toy.add_request(request(name))
        toy.finish_requests([name], Status.FINISHED_ABORTED)
        end_s = time.monotonic() + 5
        while not any(record.request_id == name for record in requests(toy.records)):
            assert time.monotonic() < end_s, f"{name} was not delivered"
            time.sleep(0.02)
    toy.shutdown()


def test_a_stamp_that_cannot_be_read_leaves_the_request_to_the_operator() -> None:
    toy = ToyScheduler()
    broken = request("r")
    broken.trace_headers = {CARRIER: "{"}
    toy.add_request(broken)
    toy.end(toy.step(0, r=10), 10, {"r": Status.FINISHED_STOPPED}, r=[1])
    (record,) = requests(toy.collect())
    assert (record.tenant, record.charge.gpu_ns) == ("", 10 * MS)
    assert sum(toy.metering.faults.values()) == 1


def test_a_fault_of_vllm_is_not_kept_from_it() -> None:
    toy = ToyScheduler()
    toy.add_request(request("r"))
    step, toy.fail = toy.step(0, r=10), ValueError("vLLM's own")
    with pytest.raises(ValueError, match="vLLM's own"):
        toy.end(step, 10, r=[1])
    assert toy.metering.faults == {}


def test_at_the_end_what_is_open_ends_as_an_error_and_all_is_delivered() -> None:
    toy = ToyScheduler()
    toy.add_request(request("r"))
    toy.end(toy.step(0, r=10), 10, r=[1])
    toy.now_ns = 20 * MS
    toy.shutdown()
    assert toy.was_shut_down
    (record,) = requests(toy.records)
    assert (record.finish_reason, record.charge.gpu_ns) == ("error", 10 * MS)
    assert sum(span.busy_gpu_ns for span in spans(toy.records)) == 10 * MS


def _fail(*_: Any) -> None:
    raise RuntimeError("a secret prompt")
