"""What is counted, and that no label set grows without bound."""

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tenantry.adapters.labels import MAX_VERSIONS, OTHER, BoundedLabels
from tenantry.adapters.metrics import Metrics
from tenantry.core.errors import ConversationError
from tenantry.core.outcome import Outcome
from tenantry_testing.documents import KEYS, book
from tenantry_testing.exchanges import Transcript, body, headers, post

Labels = frozenset[tuple[str, str]]


def series(metrics: Metrics) -> dict[tuple[str, Labels], float]:
    families = text_string_to_metric_families(metrics.exposition()[0].decode())
    return {(each.name, frozenset(each.labels.items())): each.value for family in families for each in family.samples}


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return series(metrics).get((f"tenantry_{name}", frozenset(labels.items())))


def values_of(metrics: Metrics, label: str) -> set[str]:
    return {text for _, labels in series(metrics) for name, text in labels if name == label}


def outcome(
    tenant: str = "acme", *, model: str = "chat-8b", version: str = "1.4.0", ttfb_ms: float | None = 20.0
) -> Outcome:
    return Outcome(
        tenant=tenant, tier="gold", model=model, version=version, request_id="0" * 32, reason="pin", code=200,
        ended="completed", flags=(), attempts=2, ttfb_ms=ttfb_ms, duration_ms=400.0, cluster="c",
    )  # fmt: skip


@pytest.fixture
def metrics() -> Metrics:
    made = Metrics()
    made.rules_live(book(), generation=1)
    return made


def test_an_outcome_is_counted_once(metrics: Metrics) -> None:
    metrics.access_log_entry(outcome())
    served = {"model": "chat-8b", "version": "1.4.0"}
    assert value(metrics, "requests_total", tenant="acme", code="200", ended="completed", **served) == 1
    assert value(metrics, "upstream_attempts_total", tenant="acme", **served) == 2
    assert value(metrics, "request_duration_seconds_sum", **served) == pytest.approx(0.4)
    assert value(metrics, "time_to_first_byte_seconds_sum", **served) == pytest.approx(0.02)
    assert value(metrics, "time_to_first_byte_seconds_bucket", le="0.01", **served) == 0
    assert value(metrics, "time_to_first_byte_seconds_bucket", le="0.025", **served) == 1


def test_without_a_first_byte_there_is_no_time_to_it(metrics: Metrics) -> None:
    metrics.access_log_entry(outcome(ttfb_ms=None))
    assert value(metrics, "time_to_first_byte_seconds_count", model="chat-8b", version="1.4.0") is None
    assert value(metrics, "request_duration_seconds_count", model="chat-8b", version="1.4.0") == 1


def test_an_entry_that_was_never_decided_is_nobodys(metrics: Metrics) -> None:
    metrics.access_log_entry(None)
    assert value(metrics, "access_log_unattributed_total") == 1
    assert values_of(metrics, "tenant") == set()


def test_exchanges_by_how_they_ended(metrics: Metrics) -> None:
    passed = Transcript() >> post(key=KEYS["acme"]) >> body()
    refused = Transcript() >> post(key=KEYS["globex"]) >> body("gpt-9")
    stranger = Transcript() >> post(key=KEYS["nobody"])
    failed = Transcript() >> body() << ConversationError
    left = Transcript() >> post(key=KEYS["acme"])
    for _ in range(5):
        metrics.exchange_opened()
    assert value(metrics, "ext_proc_open_exchanges") == 5
    for talk in (passed, refused, stranger, failed, left):
        metrics.exchange_closed(talk.session, 0.0007)
    assert value(metrics, "ext_proc_open_exchanges") == 0
    assert value(metrics, "ext_proc_exchanges_total", tenant="acme", state="passed on") == 1
    assert value(metrics, "ext_proc_messages_total", tenant="acme", state="passed on") == 2
    assert value(metrics, "ext_proc_exchanges_total", tenant="acme", state="await body") == 1
    assert value(metrics, "ext_proc_exchanges_total", tenant="none", state="failed") == 1
    assert value(metrics, "refusals_total", tenant="globex", code="model_not_found") == 1
    assert value(metrics, "refusals_total", tenant="none", code="invalid_api_key") == 1
    assert sum(each for (name, _), each in series(metrics).items() if name == "tenantry_refusals_total") == 2
    assert value(metrics, "decision_seconds_count") == 5
    assert value(metrics, "decision_seconds_sum") == pytest.approx(0.0035)


def test_an_answer_that_refuses_nothing_is_no_refusal(metrics: Metrics) -> None:
    talk = Transcript() >> headers(method="GET", path="/v1/models", key=KEYS["acme"], end_stream=True)
    metrics.exchange_closed(talk.session, 0.0)
    assert value(metrics, "ext_proc_exchanges_total", tenant="acme", state="answered here") == 1
    assert values_of(metrics, "code") == set()


def test_errors_by_kind(metrics: Metrics) -> None:
    metrics.stream_failed("conversation")
    assert value(metrics, "internal_errors_total", kind="conversation") == 1


def test_a_refused_document_raises_a_metric_until_the_next_good_one(metrics: Metrics) -> None:
    """Invariant 9."""
    assert value(metrics, "rules_last_reload_ok") == 1
    metrics.rules_refused()
    assert value(metrics, "rules_last_reload_ok") == 0
    assert value(metrics, "rules_reloads_total", result="refused") == 1
    assert value(metrics, "rules_generation") == 1
    metrics.rules_live(book(), generation=2)
    assert value(metrics, "rules_last_reload_ok") == 1
    assert value(metrics, "rules_reloads_total", result="live") == 2
    assert value(metrics, "rules_generation") == 2


def test_tenants_beyond_the_limit_count_together() -> None:
    metrics = Metrics()
    metrics.rules_live(book(metrics={"maxTenants": 2}), generation=1)
    for tenant in ("acme", "globex", "initech", "umbrella"):
        metrics.access_log_entry(outcome(tenant))
    assert values_of(metrics, "tenant") == {"acme", "globex", OTHER}
    served = {"model": "chat-8b", "version": "1.4.0"}
    assert value(metrics, "requests_total", tenant=OTHER, code="200", ended="completed", **served) == 2


def test_the_limit_may_be_nothing() -> None:
    metrics = Metrics()
    metrics.rules_live(book(metrics={"maxTenants": 0}), generation=1)
    metrics.access_log_entry(outcome("acme"))
    assert values_of(metrics, "tenant") == {OTHER}


def test_a_tenant_keeps_its_label_whatever_comes_later() -> None:
    metrics = Metrics()
    metrics.rules_live(book(metrics={"maxTenants": 3}), generation=1)
    metrics.rules_live(book({"tenants": {"zeta": {"tier": "gold"}}}, metrics={"maxTenants": 1}), generation=2)
    metrics.access_log_entry(outcome("initech"))
    metrics.access_log_entry(outcome("zeta"))
    assert values_of(metrics, "tenant") == {"initech", OTHER}
    metrics.rules_live(book({"tenants": {"zeta": {"tier": "gold"}}}, metrics={"maxTenants": 4}), generation=3)
    metrics.access_log_entry(outcome("zeta"))
    assert "zeta" in values_of(metrics, "tenant")


def test_the_bound_holds_over_fifty_reloads_with_a_thousand_new_tenants_each() -> None:
    metrics = Metrics()
    sizes = []
    for generation in range(50):
        names = [f"g{generation}-{number}" for number in range(1000)]
        tenants = {name: {"tier": "gold"} for name in names}
        models = {f"m{generation}-{n}": {"stable": "1", "versions": {"1": {"endpoints": ["h:1"]}}} for n in range(17)}
        metrics.rules_live(book({"tenants": tenants, "models": models}, metrics={"maxTenants": 200}), generation)
        for name in (*names[::50], "from-a-token"):
            for model in (*models, "unknown"):
                metrics.access_log_entry(outcome(name, model=model, version="1"))
        sizes.append(len(series(metrics)) if generation % 10 == 9 else 0)
    assert len(values_of(metrics, "tenant")) <= 200 + 1
    assert len(values_of(metrics, "model")) <= MAX_VERSIONS + 1
    # After the labels have run out nothing grows; versions that the rules want share one series then.
    assert sizes[29] >= sizes[39] == sizes[49]


def test_labels_are_first_come_and_never_taken_back() -> None:
    labels = BoundedLabels(2)
    labels.admit(["a", "a", "b", "c"])
    assert [labels[name] for name in "abc"] == ["a", "b", OTHER]
    labels.limit = 3
    labels.admit(["d", "c"])
    assert [labels[name] for name in "abcd"] == ["a", "b", OTHER, "d"]
    nothing = BoundedLabels(0)
    nothing.admit(["a"])
    assert nothing["a"] == OTHER
