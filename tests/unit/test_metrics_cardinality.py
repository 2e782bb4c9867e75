"""Every label gets names that somebody else chose, far more than it may have; then series are counted."""

from collections import Counter

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tenantry.adapters import labels
from tenantry.adapters.ledger import metrics as ledger_metrics
from tenantry.adapters.ledger.metrics import LedgerMetrics
from tenantry.adapters.ledger.standing_metrics import SILENT_SECONDS
from tenantry.adapters.metrics import Metrics
from tenantry.core.outcome import Ended, Outcome
from tenantry.core.rulebook import RuleBook
from tenantry.core.rules import parse
from tenantry.core.usage import Charge, EngineSpan, UsageRecord

NOW_S = 1_764_000_000.0
TENANTS, MODELS, VERSIONS_OF_EACH, TIERS = 3, 2, 2, 2
VERSIONS = MODELS * VERSIONS_OF_EACH
HOSTILE = [
    'a"b',
    "line\nbreak",
    "back\\slash",
    "{}",
    "é" * 60,
    "other",
    "none",
    " ",
    *(f"made-up-{n}" for n in range(9)),
]
STATUSES = len(labels._STATUSES) + 1

BOOK = RuleBook(
    parse(
        {
            "version": 1,
            "metrics": {"maxTenants": TENANTS},
            "tiers": {f"tier-{n}": {"sla": {"ttftSeconds": 1}} for n in range(TIERS)},
            "models": {
                f"m{n}": {
                    "stable": "v0",
                    "versions": {f"v{v}": {"endpoints": ["h:1"]} for v in range(VERSIONS_OF_EACH)},
                }
                for n in range(MODELS)
            },
            "tenants": {f"t{n}": {"tier": "tier-0"} for n in range(9)},
        }
    )
)
NAMES = [f"t{n}" for n in range(9)] + HOSTILE
SERVED = [(f"m{m}", f"v{v}") for m in range(MODELS) for v in range(VERSIONS_OF_EACH)]
MADE_UP = [(name, f"v-{name}") for name in HOSTILE] + [("m0", "made-up"), ("m1", "made-up")]


def series(text: bytes) -> Counter[str]:
    """Return how many series each metric has (a histogram's buckets, sum and count each are one)."""
    families = text_string_to_metric_families(text.decode())
    return Counter(family.name for family in families for _ in family.samples)


def outcome(tenant: str, model: str, version: str, code: int, tier: str, ended: Ended = "completed") -> Outcome:
    return Outcome(
        tenant=tenant, tier=tier, model=model, version=version, request_id="r", reason="pin", code=code,
        ended=ended, flags=(), attempts=1, ttfb_ms=1.0, duration_ms=1.0, cluster="c",
    )  # fmt: skip


def test_the_sidecar_has_as_many_series_as_the_page_says() -> None:
    metrics = Metrics()
    metrics.rules_live(BOOK, generation=1)
    for ended in ("completed", "aborted", "failed"):
        for tenant in NAMES:
            for model, version in SERVED + MADE_UP:
                for code in (*labels._STATUSES, 299, 999):
                    metrics.access_log_entry(outcome(tenant, model, version, code, "tier-0", ended))
    for tier in ("tier-1", *HOSTILE):
        for model, version in SERVED + MADE_UP:
            metrics.access_log_entry(outcome("t0", model, version, 200, tier))
    found = series(metrics.exposition()[0])
    assert found["tenantry_requests"] == (TENANTS + 1) * (VERSIONS + 1) * STATUSES * 3
    assert found["tenantry_upstream_attempts"] == (TENANTS + 1) * (VERSIONS + 1)
    assert found["tenantry_request_duration_seconds"] == 18 * (VERSIONS + 1)
    assert found["tenantry_time_to_first_byte_seconds"] == 18 * (VERSIONS + 1)
    assert found["tenantry_sla_requests"] == 2 * (TIERS + 1) * (MODELS + 1)


def record(number: int, tenant: str, tier: str, model: str, version: str, **fields: object) -> UsageRecord:
    usual: dict[str, object] = {
        "request_id": f"r{number}", "engine": "gpu", "tenant": tenant, "tier": tier, "model": model, "version": version,
        "ended_s": NOW_S, "finish_reason": "stop", "ttft_ms": 1.0, "time_per_token_ms": 1.0, "peak_kv_bytes": 1,
        "charge": Charge(
            prefill_gpu_ns=1, decode_gpu_ns=1, input_tokens=1, cached_tokens=1, output_tokens=1, kv_byte_ms=1
        ),
    }  # fmt: skip
    return UsageRecord(**(usual | fields))  # type: ignore[arg-type]


def test_the_ledger_has_as_many_series_as_the_page_says() -> None:
    """`none` is the tenant of work that no sidecar stamped."""
    metrics, number = LedgerMetrics(), 0
    metrics.rules_live(BOOK)
    for tenant in (*NAMES, ""):
        for model, version in SERVED + MADE_UP:
            for reason in ("stop", "length", "tool_calls", "abort", "error", None):
                for tier in ("tier-0", "tier-1", "made-up"):
                    number += 1
                    one = record(number, tenant, tier, model, version, finish_reason=reason)
                    copy = record(number, tenant, tier, model, version, mirror=True)
                    metrics.booked([one, copy], [1, 1], [one.id, copy.id], NOW_S)
    metrics.standing.show(NOW_S)
    found = series(metrics.exposition("")[0])
    served = (TENANTS + 2) * (VERSIONS + MODELS + 1)
    assert found["tenantry_time_to_first_token_seconds"] == 15 * served
    assert found["tenantry_queue_seconds"] == 15 * served
    assert found["tenantry_time_per_output_token_seconds"] == 13 * served
    assert found["tenantry_request_peak_memory_bytes"] == 13 * served
    assert found["tenantry_finished_requests"] == 5 * served
    assert found["tenantry_kv_byte_seconds"] == served
    assert found["tenantry_tokens"] == 3 * (TENANTS + 2) * (MODELS + 1)
    # Owners: a tenant's are tenant, failed, unfinished and mirror; without a tenant unstamped and mirror.
    assert found["tenantry_gpu_seconds"] == 2 * (TIERS + 1) * (VERSIONS + MODELS + 1) * (4 * (TENANTS + 1) + 2)
    assert found["tenantry_sla_first_tokens"] == 2 * TIERS * (MODELS + 1)


@pytest.mark.parametrize("code", [99, 299, 599, 999])
def test_a_status_that_nobody_registered_makes_no_series_of_its_own(code: int) -> None:
    assert labels.status(code) == labels.OTHER
    assert labels.status(503) == "503"


def test_a_request_id_that_is_too_long_for_an_exemplar_is_counted_all_the_same() -> None:
    metrics = Metrics()
    metrics.rules_live(BOOK, generation=1)
    entry = outcome("t0", "m0", "v0", 200, "tier-0")
    for request_id in ("x" * 500, ""):
        metrics.access_log_entry(
            Outcome(**{n: getattr(entry, n) for n in entry.__struct_fields__} | {"request_id": request_id})
        )
    text = metrics.exposition("application/openmetrics-text; version=1.0.0")[0]
    assert b'tenantry_request_duration_seconds_count{model="m0",version="v0"} 2.0' in text
    assert b"# {" not in text


def test_an_engine_whose_clock_is_ahead_does_not_outlive_itself() -> None:
    metrics = LedgerMetrics()
    metrics.rules_live(BOOK)
    ahead = EngineSpan(engine="gpu", model="m0", version="v0", part=1, ended_s=NOW_S + 1e6, wall_ns=1, busy_gpu_ns=1)
    metrics.booked([ahead], [0], [ahead.id], NOW_S)
    metrics.standing.show(NOW_S + SILENT_SECONDS)
    assert b'tenantry_engines{model="m0",version="v0"} 1.0' in metrics.exposition("")[0]
    metrics.standing.show(NOW_S + SILENT_SECONDS + 1)
    assert b"tenantry_engines{" not in metrics.exposition("")[0]


def test_tiers_that_share_a_label_have_no_price_in_common(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_metrics, "MAX_TIERS", 1)
    metrics = LedgerMetrics()
    metrics.rules_live(BOOK)
    text = metrics.exposition("")[0]
    assert text.count(b"tenantry_price_per_gpu_hour{") == 1
    assert text.count(b"tenantry_sla_objective{") == 1
