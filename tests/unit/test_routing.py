"""Which version serves whom: pin > beta flag > stable."""

import pytest
from tenantry.core.routing import cluster_name, decide
from tenantry.core.tenant import Profile
from tenantry_testing.documents import rules

CHAT = rules().models["chat-8b"]
"""Stable 1.4.0; candidate 1.5.0, which its engine calls chat-8b-next and schedules by priority."""

STABLE_ONLY = rules({"models/chat-8b/rollout": ...}).models["chat-8b"]


def tenant(**more: object) -> Profile:
    return Profile(name="acme", tier="gold", priority=0, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("profile", "version", "reason", "why"),
    [
        (tenant(), "1.4.0", "stable", "1.4.0 is the stable version of chat-8b"),
        (tenant(beta=True), "1.5.0", "beta", "tenant acme has the beta flag and 1.5.0 is the candidate"),
        (tenant(pins={"chat-8b": "1.5.0"}), "1.5.0", "pin", "tenant acme is pinned to 1.5.0"),
        (tenant(pins={"embed": "1"}), "1.4.0", "stable", "1.4.0 is the stable version of chat-8b"),
    ],
)
def test_who_gets_which_version_and_why(profile: Profile, version: str, reason: str, why: str) -> None:
    decision = decide(profile, "chat-8b", CHAT)
    assert (decision.model, decision.version, decision.reason, decision.why) == ("chat-8b", version, reason, why)


def test_no_flag_moves_a_pinned_tenant() -> None:
    """Invariant 8."""
    pinned = decide(tenant(beta=True, pins={"chat-8b": "1.4.0"}), "chat-8b", CHAT)
    assert (pinned.version, pinned.reason) == ("1.4.0", "pin")


def test_the_beta_flag_means_nothing_without_a_rollout() -> None:
    decision = decide(tenant(beta=True), "chat-8b", STABLE_ONLY)
    assert (decision.version, decision.reason) == ("1.4.0", "stable")


@pytest.mark.parametrize(
    ("profile", "served", "adapter", "by_priority"),
    [
        (tenant(), "chat-8b", None, False),
        (tenant(beta=True), "chat-8b-next", None, True),
        (tenant(beta=True, adapters={"chat-8b": "acme-support"}), "acme-support", "acme-support", True),
        (tenant(adapters={"embed": "acme-search"}), "chat-8b", None, False),
    ],
)
def test_what_the_engine_is_asked_for(profile: Profile, served: str, adapter: str | None, by_priority: bool) -> None:
    decision = decide(profile, "chat-8b", CHAT)
    assert (decision.served_name, decision.adapter, decision.priority_scheduling) == (served, adapter, by_priority)


def test_each_version_has_a_cluster_of_its_own() -> None:
    assert decide(tenant(), "chat-8b", CHAT).cluster == "chat-8b@1.4.0" == cluster_name("chat-8b", "1.4.0")
    assert decide(tenant(beta=True), "chat-8b", CHAT).cluster == "chat-8b@1.5.0"
