"""What the ledger's metrics tell of requests, of engines, and of the terms that hold."""

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tenantry.adapters.ledger.metrics import LedgerMetrics
from tenantry.adapters.ledger.standing_metrics import MAX_NAMES, SILENT_SECONDS
from tenantry.core.rulebook import RuleBook
from tenantry.core.rules import parse
from tenantry.core.usage import Charge, ColdStart, EngineSpan, Record, Training, UsageRecord

ORDER = ("tenant", "tier", "model", "version", "role", "phase", "owner", "sli", "result", "reason", "label", "currency")

NOW_S = 1_764_000_000.0
RULES = {
    "version": 1,
    "tiers": {
        "gold": {"sla": {"ttftSeconds": 0.5}, "price": {"computeUnit": "0.002", "gpuHour": "1.5"}},
        "bronze": {},
    },
    "models": {"chat-8b": {"stable": "1.4.0", "versions": {"1.4.0": {"endpoints": ["127.0.0.1:1"]}}}},
    "tenants": {"acme": {"tier": "gold"}, "globex": {"tier": "bronze"}},
    "billing": {"currency": "EUR", "operatorGpuHour": "1.80"},
}


@pytest.fixture
def metrics() -> LedgerMetrics:
    made = LedgerMetrics()
    made.rules_live(RuleBook(parse(RULES)))
    return made


def book(metrics: LedgerMetrics, *records: Record, units_micro: int = 0, now_s: float = NOW_S) -> None:
    metrics.booked(records, [units_micro] * len(records), [record.id for record in records], now_s)


def record(number: int, **fields: object) -> UsageRecord:
    usual: dict[str, object] = {
        "request_id": f"r{number}", "engine": "gpu-1", "tenant": "acme", "tier": "gold", "model": "chat-8b",
        "version": "1.4.0", "ended_s": NOW_S, "finish_reason": "stop", "queue_ms": 100.0, "ttft_ms": 400.0,
        "time_per_token_ms": 20.0, "peak_kv_bytes": 2**20, "engine_peak_memory_bytes": 2**30,
        "charge": Charge(prefill_gpu_ns=10**9, decode_gpu_ns=3 * 10**9, output_tokens=7, kv_byte_ms=5_000),
    }  # fmt: skip
    return UsageRecord(**(usual | fields))  # type: ignore[arg-type]


def samples(metrics: LedgerMetrics, name: str, now_s: float = NOW_S) -> dict[tuple[str, ...], float]:
    metrics.standing.show(now_s)
    families = text_string_to_metric_families(metrics.exposition("")[0].decode())
    return {
        tuple(each.labels[label] for label in ORDER if label in each.labels): each.value
        for family in families
        for each in family.samples
        if each.name == f"tenantry_{name}"
    }


OF_ACME = ("acme", "chat-8b", "1.4.0")


def test_a_request_in_seconds_bytes_and_byte_seconds(metrics: LedgerMetrics) -> None:
    book(metrics, record(1), units_micro=250_000)
    gpu = samples(metrics, "gpu_seconds_total")
    assert gpu["acme", "gold", "chat-8b", "1.4.0", "prefill", "tenant"] == 1
    assert gpu["acme", "gold", "chat-8b", "1.4.0", "decode", "tenant"] == 3
    assert samples(metrics, "compute_units_total") == {("acme", "gold", "chat-8b", "tenant"): 0.25}
    assert samples(metrics, "kv_byte_seconds_total") == {OF_ACME: 5}
    assert samples(metrics, "request_peak_memory_bytes_sum") == {OF_ACME: 2**20}
    assert samples(metrics, "queue_seconds_sum")[OF_ACME] == pytest.approx(0.1)
    assert samples(metrics, "time_to_first_token_seconds_sum")[OF_ACME] == pytest.approx(0.4)
    assert samples(metrics, "time_per_output_token_seconds_sum")[OF_ACME] == pytest.approx(0.02)
    assert samples(metrics, "finished_requests_total") == {(*OF_ACME, "stop"): 1}


def test_a_part_adds_its_time_and_does_not_end_the_request(metrics: LedgerMetrics) -> None:
    book(metrics, record(1, finish_reason=None, ttft_ms=None, time_per_token_ms=None))
    assert samples(metrics, "kv_byte_seconds_total") == {OF_ACME: 5}
    assert samples(metrics, "finished_requests_total") == {}
    assert samples(metrics, "queue_seconds_count") == {}


def test_nobody_waited_for_a_copy(metrics: LedgerMetrics) -> None:
    book(metrics, record(1, mirror=True, ttft_ms=9_000.0), units_micro=1_000_000)
    assert samples(metrics, "time_to_first_token_seconds_count") == {}
    assert samples(metrics, "sla_first_tokens_total") == {}
    assert samples(metrics, "compute_units_total") == {("acme", "gold", "chat-8b", "mirror"): 1}, "the operator's"


def test_a_first_token_is_late_by_what_its_tier_was_promised(metrics: LedgerMetrics) -> None:
    late, punctual = record(1, ttft_ms=501.0), record(2, ttft_ms=500.0)
    book(metrics, late, punctual, record(3, tenant="globex", tier="bronze", ttft_ms=60_000.0))
    assert samples(metrics, "sla_first_tokens_total") == {
        ("gold", "chat-8b", "in_time"): 1, ("gold", "chat-8b", "late"): 1,
    }, "bronze was promised nothing"  # fmt: skip
    assert samples(metrics, "sla_objective") == {("gold", "ttft"): 0.99}


def test_a_record_that_comes_twice_counts_once(metrics: LedgerMetrics) -> None:
    book(metrics, record(1))
    metrics.booked([record(1)], [0], [], NOW_S)
    assert samples(metrics, "finished_requests_total") == {(*OF_ACME, "stop"): 1}


def test_training_has_its_tenants_tier(metrics: LedgerMetrics) -> None:
    job = Training(job="job-1", part=1, tenant="acme", model="chat-8b", ended_s=NOW_S, gpu_ns=9 * 10**9)
    book(metrics, job)
    assert samples(metrics, "gpu_seconds_total") == {("acme", "gold", "chat-8b", "", "training", "tenant"): 9}


def span(engine: str, version: str, gpus: int = 2, ended_s: float = NOW_S, model: str = "chat-8b") -> EngineSpan:
    return EngineSpan(
        engine=engine, model=model, version=version, gpus=gpus, part=1, ended_s=ended_s, wall_ns=10**9,
        busy_gpu_ns=10**9,
    )  # fmt: skip


def test_engines_are_counted_as_they_name_themselves_also_a_version_that_nobody_wrote_down(
    metrics: LedgerMetrics,
) -> None:
    book(metrics, span("gpu-1", "1.4.0"), span("gpu-2", "1.4.0"), span("gpu-3", "1.6.0", gpus=8), record(1))
    assert samples(metrics, "engines") == {("chat-8b", "1.4.0"): 2, ("chat-8b", "1.6.0"): 1}
    assert samples(metrics, "engine_gpus") == {("chat-8b", "1.4.0"): 4, ("chat-8b", "1.6.0"): 8}
    assert samples(metrics, "engine_memory_bytes")["chat-8b", "1.4.0"] == 2**30


def test_an_engine_that_is_silent_for_three_minutes_is_gone(metrics: LedgerMetrics) -> None:
    book(metrics, span("gpu-1", "1.4.0"))
    assert samples(metrics, "engines", NOW_S + SILENT_SECONDS) == {("chat-8b", "1.4.0"): 1}
    assert samples(metrics, "engines", NOW_S + SILENT_SECONDS + 1) == {}


def test_a_late_record_does_not_bring_an_engine_back(metrics: LedgerMetrics) -> None:
    book(metrics, span("gpu-1", "1.4.0"))
    book(metrics, span("gpu-1", "1.3.0", ended_s=NOW_S - 60))
    assert samples(metrics, "engines") == {("chat-8b", "1.4.0"): 1}


def test_an_engine_that_just_started_is_there(metrics: LedgerMetrics) -> None:
    book(metrics, ColdStart(engine="gpu-9", model="chat-8b", version="1.5.0", gpus=4, ended_s=NOW_S, load_ns=10**9))
    assert samples(metrics, "engine_gpus") == {("chat-8b", "1.5.0"): 4}


def test_engines_that_invent_names_share_one_series_in_the_end(metrics: LedgerMetrics) -> None:
    for number in range(MAX_NAMES + 20):
        book(metrics, span(f"gpu-{number}", f"v{number}"))
    engines = samples(metrics, "engines")
    assert len(engines) == MAX_NAMES + 1
    assert engines["other", "other"] == 20


def test_the_terms_of_now(metrics: LedgerMetrics) -> None:
    assert samples(metrics, "price_per_compute_unit") == {("gold", "EUR"): 0.002, ("bronze", "EUR"): 0}
    assert samples(metrics, "price_per_gpu_hour")["gold", "EUR"] == 1.5
    assert samples(metrics, "operator_cost_per_gpu_hour") == {("EUR",): 1.8}


def test_exemplars_name_the_request(metrics: LedgerMetrics) -> None:
    book(metrics, record(7))
    text, _ = metrics.exposition("application/openmetrics-text; version=1.0.0")
    assert b'tenantry_time_to_first_token_seconds_bucket{le="0.5"' in text
    assert b'# {request_id="r7"} 0.4' in text
