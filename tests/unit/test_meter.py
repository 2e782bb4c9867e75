"""Transcripts of an engine: what happens, and the records that come of it. Times in milliseconds, as in the records."""

import pytest
from msgspec.structs import replace
from tenantry.core.metering.meter import MAX_IN_FLIGHT, Meter
from tenantry.core.metering.weights import StepWeights
from tenantry.core.usage import Charge, ColdStart, EngineSpan, UsageRecord
from tenantry_testing.metering import MS, arrival, decode, meter, prefill, requests, spans


def step(m: Meter, number: int, works: list, begin: int, end: int) -> None:  # type: ignore[type-arg]
    m.scheduled(number, works, begin * MS)
    m.done(number, end * MS)


def only(m: Meter) -> UsageRecord:
    (record,) = requests(m.collect())
    return record


def test_a_request_from_arrival_to_record() -> None:
    m = meter()
    m.memory(700)
    m.arrived("k", arrival("r1", tier="gold", adapter="acme-a", priority=3, attempt=2, mirror=True), 100 * MS)
    m.scheduled(1, [prefill("k", 10, kv_bytes=1_000)], 110 * MS)
    m.memory(900)
    m.done(1, 130 * MS)
    m.produced("k", [5], 130 * MS)
    m.memory(800)
    step(m, 2, [decode("k", kv_bytes=3_000)], 130, 140)
    m.produced("k", [6], 140 * MS)
    step(m, 3, [decode("k", kv_bytes=3_000)], 145, 150)
    m.produced("k", [6], 150 * MS)
    m.freed("k", "stop", 150 * MS)

    assert only(m) == UsageRecord(
        request_id="r1", engine="e1", attempt=2, mirror=True, tenant="acme", tier="gold", model="chat", version="2",
        adapter="acme-a", priority=3, ended_s=0.150, finish_reason="stop", input_tokens=10, cached_tokens=0,
        output_tokens=3, queue_ms=10.0, ttft_ms=30.0, time_per_token_ms=10.0, duration_ms=50.0, preemptions=0,
        peak_kv_bytes=3_000, engine_peak_memory_bytes=900, repetition=1 / 3,
        charge=Charge(
            prefill_gpu_ns=20 * MS, decode_gpu_ns=15 * MS, input_tokens=10, output_tokens=3,
            kv_byte_ms=1_000 * 20 + 3_000 * 20, weights="flops",
        ),
    )  # fmt: skip
    assert m.collect() == []


def test_all_gpus_are_paid_for() -> None:
    m = meter(gpus=4)
    m.arrived("k", arrival(), 0)
    step(m, 1, [prefill("k")], 0, 10)
    m.freed("k", "stop", 10 * MS)
    (record, span) = m.close(20 * MS)
    assert isinstance(record, UsageRecord)
    assert isinstance(span, EngineSpan)
    assert record.charge.gpu_ns == span.busy_gpu_ns == 40 * MS
    assert span.idle_gpu_ns == 40 * MS


def test_a_step_that_was_planned_early_begins_where_the_last_one_ended() -> None:
    m = meter()
    for key in ("a", "b"):
        m.arrived(key, arrival(key), 0)
    m.scheduled(1, [prefill("a")], 0)
    m.scheduled(2, [prefill("b")], 2 * MS)
    m.done(1, 10 * MS)
    m.done(2, 16 * MS)
    for key in ("a", "b"):
        m.freed(key, "stop", 16 * MS)
    assert [record.charge.gpu_ns for record in requests(m.collect())] == [10 * MS, 6 * MS]


def test_an_aborted_request_pays_for_what_it_had_in_flight() -> None:
    m = meter()
    m.arrived("a", arrival("a"), 0)
    m.arrived("b", arrival("b"), 0)
    m.scheduled(1, [prefill("a"), prefill("b")], 0)
    m.scheduled(2, [decode("a"), decode("b")], 1 * MS)
    m.freed("a", "abort", 4 * MS)
    assert m.collect() == []
    m.done(1, 10 * MS)
    assert m.collect() == []
    m.produced("a", [1], 10 * MS)  # the step's output tells of it still
    m.done(2, 20 * MS)
    record = only(m)
    assert (record.finish_reason, record.ended_s, record.duration_ms) == ("abort", 0.004, 4.0)
    assert (record.charge.prefill_gpu_ns, record.charge.decode_gpu_ns) == (5 * MS, 5 * MS)
    assert (record.output_tokens, record.charge.output_tokens) == (1, 1)


def test_a_request_that_got_no_step_has_a_record_of_zeros() -> None:
    m = meter()
    m.arrived("k", arrival(), 5 * MS)
    m.freed("k", "abort", 25 * MS)
    record = only(m)
    assert record.charge == Charge()
    assert (record.queue_ms, record.duration_ms, record.ttft_ms, record.repetition) == (20.0, 20.0, None, None)
    assert (record.input_tokens, record.peak_kv_bytes, record.engine_peak_memory_bytes) == (10, None, None)


def test_a_long_request_writes_parts_that_add_up() -> None:
    m = meter(part_ns=100 * MS)
    m.arrived("k", arrival(input_tokens=50), 0)
    m.cached("k", 16)
    step(m, 1, [prefill("k", 20, kv_bytes=7)], 0, 40)
    m.tick(99 * MS)
    assert m.collect() == []
    m.tick(100 * MS)
    first = only(m)
    assert (first.part, first.finish_reason, first.ended_s) == (1, None, 0.1)
    assert first.charge == Charge(
        prefill_gpu_ns=40 * MS, input_tokens=20, cached_tokens=16, kv_byte_ms=700, weights="flops"
    )
    step(m, 2, [prefill("k", 14, kv_bytes=7)], 100, 120)
    m.produced("k", [1], 120 * MS)
    m.freed("k", "length", 130 * MS)
    last = only(m)
    assert (last.part, last.finish_reason, last.attempt_id) == (2, "length", first.attempt_id)
    assert last.charge == Charge(
        prefill_gpu_ns=20 * MS, input_tokens=14, output_tokens=1, kv_byte_ms=210, weights="flops"
    )
    assert (last.input_tokens, last.cached_tokens, last.output_tokens, last.duration_ms) == (50, 16, 1, 130.0)


def test_a_request_that_waits_writes_no_parts() -> None:
    m = meter(part_ns=100 * MS)
    m.arrived("k", arrival(), 0)
    for now in range(100, 1_000, 100):
        m.tick(now * MS)
    assert requests(m.collect()) == []


def test_a_preempted_request_pays_again_for_time_and_not_for_tokens() -> None:
    m = meter()
    m.arrived("k", arrival(), 0)
    step(m, 1, [prefill("k", 10, kv_bytes=100)], 0, 10)
    m.produced("k", [1], 10 * MS)
    m.preempted("k", 10 * MS)
    m.arrived("k", arrival("another"), 12 * MS)  # it comes back under its key
    step(m, 2, [prefill("k", 10, decode_tokens=1, kv_bytes=100)], 20, 31)
    m.produced("k", [2], 31 * MS)
    m.freed("k", "stop", 31 * MS)
    record = only(m)
    assert (record.request_id, record.preemptions, record.queue_ms) == ("r1", 1, 0.0)
    assert record.charge == Charge(
        prefill_gpu_ns=20 * MS, decode_gpu_ns=1 * MS, input_tokens=10, output_tokens=2,
        kv_byte_ms=100 * 10 + 100 * 11, weights="flops",
    )  # fmt: skip


def test_what_was_cached_is_not_computed() -> None:
    m = meter()
    m.arrived("k", arrival(input_tokens=40), 0)
    m.scheduled(1, [prefill("k", 8)], 0)
    m.cached("k", 32)
    m.done(1, 10 * MS)
    m.freed("k", "stop", 10 * MS)
    record = only(m)
    assert (record.input_tokens, record.cached_tokens) == (40, 32)
    assert (record.charge.input_tokens, record.charge.cached_tokens) == (8, 32)


def test_a_span_ends_where_no_step_is_cut() -> None:
    m = meter(part_ns=100 * MS)
    m.arrived("k", arrival(), 0)
    step(m, 1, [prefill("k")], 10, 40)
    m.scheduled(2, [decode("k")], 35 * MS)
    m.tick(100 * MS)
    (first,) = spans(m.collect())
    assert (first.wall_ns, first.busy_gpu_ns, first.ended_s) == (40 * MS, 30 * MS, 0.04)
    m.done(2, 110 * MS)
    m.scheduled(3, [decode("k")], 150 * MS)
    m.tick(200 * MS)
    (second,) = spans(m.collect())
    assert (second.wall_ns, second.busy_gpu_ns, second.part) == (110 * MS, 70 * MS, 2)  # to where step 3 was planned
    m.done(3, 230 * MS)
    (third,) = spans(m.close(250 * MS))
    assert (third.wall_ns, third.busy_gpu_ns) == (100 * MS, 80 * MS)


def test_an_idle_engine_writes_spans_too_but_fewer() -> None:
    m = meter(part_ns=10 * MS)
    for now in (10, 119, 120, 230, 250):
        m.tick(now * MS)
    assert [(span.part, span.wall_ns, span.busy_gpu_ns) for span in spans(m.collect())] == [
        (1, 120 * MS, 0),
        (2, 130 * MS, 0),
    ]


def test_the_first_step_after_idle_time_ends_the_span_soon() -> None:
    m = meter(part_ns=10 * MS)
    m.arrived("k", arrival(), 50 * MS)
    m.scheduled(1, [prefill("k")], 50 * MS)
    m.tick(55 * MS)
    m.done(1, 57 * MS)
    m.tick(66 * MS)
    assert [(span.wall_ns, span.busy_gpu_ns) for span in spans(m.collect())] == [(50 * MS, 0), (16 * MS, 7 * MS)]


def test_spans_begin_where_the_cold_start_ended() -> None:
    m = meter()
    cold = ColdStart(engine="e1", model="chat", version="2", ended_s=0.03, load_ns=30 * MS)
    m.cold_start(cold, 30 * MS)
    assert m.collect() == [cold]
    m.arrived("k", arrival(), 40 * MS)
    step(m, 1, [prefill("k")], 40, 50)
    (span,) = spans(m.close(60 * MS))
    assert (span.wall_ns, span.busy_gpu_ns) == (30 * MS, 10 * MS)
    with pytest.raises(ValueError, match="before the first step"):
        m.cold_start(cold, 70 * MS)


def test_the_workers_clock_stands_beside_busy_time_when_it_is_complete() -> None:
    m = meter(gpus=2, part_ns=100 * MS)
    m.arrived("k", arrival(), 0)
    for number, worker_ns in enumerate([9 * MS, 8 * MS, 7 * MS, None]):
        if number == 2:
            m.tick(100 * MS)
        m.scheduled(number, [decode("k")], (100 + 10 * number) * MS)
        m.done(number, (110 + 10 * number) * MS, worker_ns)
    m.tick(300 * MS)
    m.tick(1_500 * MS)
    assert [span.worker_gpu_ns for span in spans(m.collect())] == [2 * 17 * MS, None, None]


def test_close_ends_everything() -> None:
    m = meter()
    m.arrived("runs", arrival("a"), 0)
    m.arrived("waits", arrival("b"), 0)
    m.scheduled(1, [prefill("runs")], 0)
    m.scheduled(2, [decode("runs")], 1 * MS)
    records = m.close(30 * MS)
    assert [(record.request_id, record.finish_reason, record.charge.gpu_ns) for record in requests(records)] == [
        ("a", "abort", 30 * MS),
        ("b", "abort", 0),
    ]
    assert [span.busy_gpu_ns for span in spans(records)] == [30 * MS]
    assert m.close(30 * MS) == []


def test_what_is_unknown_changes_nothing_and_is_counted() -> None:
    m = meter()
    m.done(7, 10 * MS)
    m.freed("x", "stop", 10 * MS)
    m.produced("x", [1], 10 * MS)
    m.preempted("x", 10 * MS)
    m.cached("x", 10)
    m.scheduled(8, [], 10 * MS)
    m.done(8, 20 * MS)
    assert (m.counts["unknown_steps"], m.counts["unknown_requests"]) == (2, 4)
    assert (m.busy_gpu_ns, m.accounts, m.collect()) == (0, 0, [])


def test_work_of_an_unknown_request_is_the_operators() -> None:
    m = meter()
    step(m, 1, [prefill("x")], 0, 10)
    assert (m.uncharged_gpu_ns, m.counts["unknown_requests"]) == (10 * MS, 1)
    (record,) = requests(m.close(10 * MS))
    assert (record.request_id, record.tenant, record.charge.gpu_ns) == ("x", "", 10 * MS)


def test_work_after_the_end_is_still_the_requests() -> None:
    m = meter()
    m.arrived("k", arrival(), 0)
    m.scheduled(1, [prefill("k")], 0)
    m.freed("k", "stop", 1 * MS)
    m.scheduled(2, [decode("k")], 2 * MS)
    m.done(1, 10 * MS)
    m.done(2, 20 * MS)
    assert only(m).charge.gpu_ns == 20 * MS


def test_a_key_may_come_again_while_a_step_holds_its_last_request() -> None:
    m = meter()
    m.arrived("k", arrival("old"), 0)
    m.scheduled(1, [prefill("k")], 0)
    m.freed("k", "abort", 1 * MS)
    m.arrived("k", arrival("new"), 2 * MS)
    m.scheduled(2, [prefill("k")], 3 * MS)
    m.freed("k", "stop", 4 * MS)
    m.done(1, 10 * MS)
    m.produced("k", [1], 14 * MS)
    m.done(2, 15 * MS)
    assert [(made.request_id, made.charge.gpu_ns, made.output_tokens) for made in requests(m.collect())] == [
        ("old", 10 * MS, 0),
        ("new", 5 * MS, 1),
    ]


def test_no_two_records_have_one_id() -> None:
    m = meter()
    for number in range(3):
        m.arrived(f"k{number}", arrival("r1"), 0)
        m.freed(f"k{number}", "tool_calls", 1 * MS)
    m.arrived("k3", arrival("r1", attempt=2), 0)
    m.freed("k3", "stop", 1 * MS)
    assert [(record.attempt, record.sequence) for record in requests(m.collect())] == [(1, 0), (1, 1), (1, 2), (2, 0)]
    assert m.counts["known_ids"] == 2


def test_output_that_never_comes_is_given_up_and_releases_its_requests() -> None:
    m = meter()
    m.arrived("k", arrival(), 0)
    m.scheduled(0, [prefill("k")], 0)
    m.freed("k", "error", 1 * MS)
    m.arrived("l", arrival("r2"), 0)
    for number in range(1, MAX_IN_FLIGHT + 1):
        m.scheduled(number, [decode("l")], 2 * MS)
    assert (only(m).finish_reason, m.counts["lost_steps"]) == ("error", 1)
    m.done(1, 10 * MS)
    assert m.uncharged_gpu_ns == m.busy_gpu_ns == 8 * MS


def test_the_record_tells_which_weights_divided_its_steps() -> None:
    m = meter(part_ns=100 * MS)
    m.arrived("k", arrival(), 0)
    step(m, 1, [decode("k")], 0, 10)
    m.calibrations.without.weights = replace(m.calibrations.without.weights, source="calibrated")
    step(m, 2, [decode("k")], 10, 20)
    m.tick(100 * MS)
    step(m, 3, [decode("k")], 100, 110)
    m.freed("k", "stop", 110 * MS)
    assert [record.charge.weights for record in requests(m.collect())] == ["mixed", "calibrated"]


def test_shares_follow_what_was_learned_from_other_steps() -> None:
    m = meter(weights=StepWeights(fixed=0.0, prefill_token=1.0, decode_token=1.0))
    m.arrived("long", arrival("long"), 0)
    m.arrived("chat", arrival("chat"), 0)
    now = 0
    for number in range(200):
        tokens, decoding = (number * 37 % 400) + 1, number % 2
        works = [prefill("long", tokens)] + [decode("chat")] * decoding
        m.scheduled(number, works, now)
        now += 8 * MS + tokens * 70_000 + decoding * 200_000
        m.done(number, now)
    assert m.calibrations.without.weights.source == "calibrated"
    shares = m.calibrations.without.weights.shares([prefill("long", 100), decode("chat")], 15_200_000)
    assert shares == pytest.approx([11_000_000, 4_200_000], rel=0.02)


def test_log_probabilities_are_averaged_over_the_tokens_that_have_one() -> None:
    m = meter()
    m.arrived("k", arrival(), 0)
    m.produced("k", [1, 2], 1 * MS, log_probability=-3.0)
    m.produced("k", [3], 2 * MS)
    m.freed("k", "stop", 2 * MS)
    assert only(m).mean_log_probability == -1.5


def test_a_clock_that_steps_back_takes_no_time_back() -> None:
    m = meter()
    m.arrived("k", arrival(), 10 * MS)
    step(m, 1, [prefill("k")], 10, 20)
    step(m, 2, [decode("k")], 12, 15)
    m.freed("k", "stop", 9 * MS)
    record, span = m.close(15 * MS)
    assert isinstance(record, UsageRecord)
    assert isinstance(span, EngineSpan)
    assert (record.charge.gpu_ns, record.duration_ms) == (10 * MS, 0.0)
    assert (span.wall_ns, span.busy_gpu_ns) == (20 * MS, 10 * MS)
