"""What the chart refuses, and with which words: before anything reaches the cluster."""

import hashlib
import json
from typing import Any

import pytest
from tenantry.core.rules import Rules

from helm.helm import CHART, DEPLOYMENT, RULES, VALUES, VERSIONS, merged, refusal, render

BY_SCHEMA: dict[str, tuple[dict[str, Any], str]] = {
    "a percentage": (
        {"rules": {"models": {"chat-8b": {"rollout": {"candidate": "1.5.0", "percent": 120}}}}},
        "percent",
    ),
    "a misspelt key of the rules": ({"rules": {"modles": {}}}, "modles"),
    "a misspelt value": ({"sidecar": {"replica": 3}}, "replica"),
    "a mesh that is not named": (merged(DEPLOYMENT, {"attachment": {"kind": "istio"}}), "namespace"),
    "a capability that there is not": ({"attachment": {"acknowledge": ["backstop"]}}, "acknowledge"),
    "a mode": ({"sidecar": {"mode": "daemonset"}}, "mode"),
    "a key in plain text": ({"rules": {"tenants": {"acme": {"keys": ["tk_secret"]}}}}, "keys"),
}


@pytest.mark.parametrize("helm", VERSIONS)
@pytest.mark.parametrize("case", BY_SCHEMA)
def test_the_schema_refuses_and_names_the_place(helm: str, case: str) -> None:
    over, place = BY_SCHEMA[case]
    message = refusal(merged(VALUES, over), helm)
    assert "schema" in message
    assert place in message


VERSIONS_THERE = "there are: 1.4.0, 1.5.0"
DANGLING = {
    "a stable version": (
        {"models": {"chat-8b": {"stable": "9"}}},
        f'rules.models.chat-8b.stable: no version "9"; {VERSIONS_THERE}',
    ),
    "a candidate": (
        {"models": {"chat-8b": {"rollout": {"candidate": "2.0.0"}}}},
        f'rules.models.chat-8b.rollout.candidate: no version "2.0.0"; {VERSIONS_THERE}',
    ),
    "a tenant's tier": (
        {"tenants": {"acme": {"tier": "goldd"}}},
        'rules.tenants.acme.tier: no tier "goldd"; there are: bronze, gold',
    ),
    "a pinned version": (
        {"tenants": {"acme": {"pins": {"chat-8b": "1.0"}}}},
        f'rules.tenants.acme.pins.chat-8b: no version "1.0"; {VERSIONS_THERE}',
    ),
    "a pinned model": (
        {"tenants": {"acme": {"pins": {"chat": "1.4.0"}}}},
        'rules.tenants.acme.pins: no model "chat"; there are: chat-8b',
    ),
    "the default tier": ({"defaultTier": "free"}, 'rules.defaultTier: no tier "free"; there are: bronze, gold'),
}


@pytest.mark.parametrize("case", DANGLING)
def test_a_name_that_points_nowhere_is_named_with_those_that_are_there(case: str) -> None:
    over, words = DANGLING[case]
    assert words in refusal(merged(VALUES, {"rules": over}))


def test_names_may_be_in_a_part_outside_the_release() -> None:
    outside = {"rulesFrom": [{"configMap": "models", "key": "rules.yaml"}], "rules": {"defaultTier": "free"}}
    assert render(merged(VALUES, outside))


KEYED = {
    f"tenant-{index:05}": {"tier": "gold", "keys": [f"sha256:{hashlib.sha256(str(index).encode()).hexdigest()}"]}
    for index in range(5_000)
}
KGATEWAY = merged(DEPLOYMENT, {"attachment": {"kind": "kgateway", "kgateway": {"gateway": "g", "section": "s"}}})
UNFIT = {
    "no secret": ({"secretName": ""}, "secretName: name the Secret"),
    "own pods without certificates": (merged(DEPLOYMENT, {"tls": {"secretName": ""}}), "tls.secretName"),
    "a CA for everybody": (merged(DEPLOYMENT, {"tls": {"allowClientSans": []}}), "tls.allowClientSans"),
    "a ledger on sand": ({"ledger": {"db": {"existingClaim": ""}}}, "ledger.db: name a Secret"),
    "two ledgers on one file": ({"ledger": {"replicas": 2}}, "ledger.replicas: several ledgers need PostgreSQL"),
    "two sidecars that do not know of one another": (
        {"rules": {"models": {"chat-8b": {"rollout": {"candidate": "1.5.0", "percent": 5}}}}},
        "sidecar.redis.secretName: several sidecars share rules.models.chat-8b.rollout through Redis",
    ),
    "a quota that each sidecar would grant anew": (
        {"rules": {"tiers": {"gold": {"quota": {"computeUnitsPerMinute": 5}}}}},
        "sidecar.redis.secretName: several sidecars share rules.tiers.gold.quota through Redis",
    ),
    "a ledger that nobody can reach": ({"tls": {"secretName": ""}}, "tls.secretName: engines and sidecars reach the"),
    "fewer pods than pods": (
        {"autoscaling": {"enabled": True, "maxReplicas": 1}},
        "autoscaling.maxReplicas: 1 is less than",
    ),
    "certificates that nobody verifies": (
        {"rules": {"identity": {"mtls": {"uriSanPrefix": "spiffe://prod/tenant/"}}}},
        "envoy.tls: rules.identity.mtls takes tenants from client certificates",
    ),
    "rules that are too many for a release": (
        {"rules": {"tenants": KEYED}},
        "`tenantry rules split`, then rulesFrom",
    ),
    "one file for several sidecars": (
        {"sidecar": {"state": {"existingClaim": "state"}}},
        "sidecar.state.existingClaim: SQLite on a claim is for one sidecar",
    ),
    "tokens that a mesh does not hand on": (
        merged(KGATEWAY, {"rules": {"identity": {"jwt": {"issuer": "i", "audience": "a", "jwksFile": "/jwks.json"}}}}),
        "rules.identity.jwt: with attachment.kind kgateway",
    ),
    "an attachment without a backstop": (KGATEWAY, "attachment: {acknowledge: [rbacBackstop, accessLog]}"),
    "a part of neither kind": ({"rulesFrom": [{"key": "rules.yaml"}]}, "rulesFrom[0]: name either"),
    "envoy's pod that is somebody else's": ({"attachment": {"kind": "none"}}, "sidecar.mode"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_would_not_work_is_refused_with_what_would(case: str) -> None:
    over, words = UNFIT[case]
    assert words in refusal(merged(VALUES, over))


def test_the_schema_is_that_of_the_rules_and_knows_no_other_key() -> None:
    document = json.loads((CHART / "values.schema.json").read_text())
    assert document["properties"]["rules"] == {"$ref": "#/$defs/Rules"}
    assert document["$defs"]["Rules"]["properties"].keys() == set(Rules.__struct_encode_fields__)
    open_ended = [name for name, each in document["$defs"].items() if each.get("additionalProperties") is not False]
    assert open_ended == []


@pytest.mark.parametrize("missing", ["version", "tiers", "models"])
def test_a_document_without_what_it_must_have_is_refused(missing: str) -> None:
    rules = {key: value for key, value in RULES.items() if key != missing}
    assert f"rules.{missing}: is missing" in refusal({**VALUES, "rules": rules})


def test_no_default_is_mixed_into_the_rules() -> None:
    """Helm merges a chart's values into the operator's: a default tier there would admit tenants that nobody named."""
    (rules,) = (each["data"]["rules.yaml"] for each in render(VALUES) if each["metadata"]["name"] == "t-tenantry-rules")
    assert json.loads(rules) == RULES
