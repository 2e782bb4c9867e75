"""What the rules want, what tiers were promised, and how near label sets are to their bounds: told by the sidecar."""

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tenantry.adapters.labels import MAX_VERSIONS
from tenantry.adapters.metrics import Metrics
from tenantry.core.outcome import Ended, Outcome
from tenantry.core.rulebook import RuleBook
from tenantry.core.rules import parse

ORDER = ("tenant", "tier", "model", "version", "role", "phase", "owner", "sli", "result", "reason", "label", "currency")

DOCUMENT = {
    "version": 1,
    "tiers": {
        "gold": {"sla": {"availability": 0.999, "ttftSeconds": 2, "ttftShare": 0.95}},
        "silver": {"sla": {"ttftSeconds": 5}},
        "bronze": {},
    },
    "models": {
        "chat-8b": {
            "stable": "1.4.0",
            "rollout": {"candidate": "1.5.0", "percent": 5},
            "versions": {name: {"endpoints": ["127.0.0.1:1"]} for name in ("1.3.0", "1.4.0", "1.5.0", "1.2.0")},
        }
    },
    "tenants": {
        "acme": {"tier": "gold", "pins": {"chat-8b": "1.4.0"}},
        "globex": {"tier": "gold", "pins": {"chat-8b": "1.3.0"}},
        "hooli": {"tier": "bronze"},
    },
    "metrics": {"maxTenants": 2},
}


@pytest.fixture
def metrics() -> Metrics:
    made = Metrics()
    made.rules_live(RuleBook(parse(DOCUMENT)), generation=1)
    return made


def samples(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    """Return a metric's values by those of its labels, in ORDER."""
    families = text_string_to_metric_families(metrics.exposition()[0].decode())
    return {
        tuple(each.labels[label] for label in ORDER if label in each.labels): each.value
        for family in families
        for each in family.samples
        if each.name == f"tenantry_{name}"
    }


def outcome(*, code: int = 200, ended: Ended = "completed", tier: str = "gold") -> Outcome:
    return Outcome(
        tenant="acme", tier=tier, model="chat-8b", version="1.4.0", request_id="ab" * 16, reason="pin", code=code,
        ended=ended, flags=(), attempts=1, ttfb_ms=20.0, duration_ms=400.0, cluster="c",
    )  # fmt: skip


def test_what_each_version_is_to_the_rules(metrics: Metrics) -> None:
    assert set(samples(metrics, "version_wanted")) == {
        ("chat-8b", "1.4.0", "stable"),
        ("chat-8b", "1.4.0", "pinned"),
        ("chat-8b", "1.5.0", "candidate"),
        ("chat-8b", "1.3.0", "pinned"),
        ("chat-8b", "1.2.0", "unused"),
    }
    assert samples(metrics, "version_pinned_tenants")["chat-8b", "1.3.0"] == 1


def test_a_new_document_takes_back_what_the_old_one_wanted(metrics: Metrics) -> None:
    model = DOCUMENT["models"]["chat-8b"] | {"stable": "1.2.0", "rollout": None}  # type: ignore[index]
    metrics.rules_live(RuleBook(parse({**DOCUMENT, "models": {"chat-8b": model}})), generation=2)
    wanted = set(samples(metrics, "version_wanted"))
    assert ("chat-8b", "1.2.0", "stable") in wanted
    assert ("chat-8b", "1.5.0", "unused") in wanted
    assert len([each for each in wanted if each[1] == "1.2.0"]) == 1


def test_only_what_was_promised_has_an_objective(metrics: Metrics) -> None:
    assert samples(metrics, "sla_objective") == {
        ("gold", "availability"): 0.999, ("gold", "ttft"): 0.95, ("silver", "ttft"): 0.99,
    }  # fmt: skip


def test_a_request_fails_by_a_5xx_or_by_being_cut(metrics: Metrics) -> None:
    metrics.access_log_entry(outcome())
    assert samples(metrics, "sla_requests_total") == {
        ("gold", "chat-8b", "served"): 1, ("gold", "chat-8b", "failed"): 0,
    }, "the other half is there, so that a share can be computed"  # fmt: skip
    metrics.access_log_entry(outcome(code=503, ended="completed"))
    metrics.access_log_entry(outcome(code=200, ended="failed"))
    assert samples(metrics, "sla_requests_total")["gold", "chat-8b", "failed"] == 2


def test_what_the_client_did_is_no_failure(metrics: Metrics) -> None:
    metrics.access_log_entry(outcome(code=400))
    metrics.access_log_entry(outcome(code=0, ended="aborted"))
    assert samples(metrics, "sla_requests_total")["gold", "chat-8b", "served"] == 2


def test_a_tier_that_the_rules_do_not_have_makes_no_series_of_its_own(metrics: Metrics) -> None:
    for number in range(50):
        metrics.access_log_entry(outcome(tier=f"tier-{number}"))
    assert samples(metrics, "sla_requests_total")["other", "chat-8b", "served"] == 50


def test_three_tenants_want_a_label_and_two_may_have_one(metrics: Metrics) -> None:
    assert samples(metrics, "metric_label_values")["tenant",] == 3
    assert samples(metrics, "metric_label_limit")["tenant",] == 2
    assert samples(metrics, "metric_label_values")["version",] == 4
    assert samples(metrics, "metric_label_limit")["version",] == MAX_VERSIONS


def test_exemplars_name_the_request_in_openmetrics_alone(metrics: Metrics) -> None:
    metrics.access_log_entry(outcome())
    text, content_type = metrics.exposition("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert f'# {{request_id="{"ab" * 16}"}} 0.4'.encode() in text
    plain, content_type = metrics.exposition("")
    assert content_type.startswith("text/plain")
    assert b"# {" not in plain
