"""How an exchange ended, and whose it was."""

import pytest
from msgspec import structs
from tenantry.core.outcome import Ended, ExchangeFacts, Outcome, outcome
from tenantry.core.rollout.trial import Arm, Trial

METADATA = {
    "tenant": "acme",
    "tier": "gold",
    "model": "chat-8b",
    "version": "1.4.0",
    "request_id": "0" * 32,
    "reason": "pin",
    "enforced": "yes",
}


def of_a_trial(arm: Arm = "candidate") -> dict[str, str]:
    trial = Trial(rollout="r1", candidate="1.5.0", arm=arm, share=0.05, unit="u1")
    return METADATA | {"version": "1.5.0" if arm == "candidate" else "1.4.0", "reason": "split"} | trial.metadata()


def facts(code: int = 200, *flags: str, details: str = "via_upstream") -> ExchangeFacts:
    return ExchangeFacts(
        code=code, flags=flags, attempts=2, ttfb_ms=7.5, duration_ms=812.25, cluster="chat-8b@1.4.0", details=details
    )


def test_an_entry_is_joined_with_what_the_sidecar_decided() -> None:
    assert outcome(METADATA, facts()) == Outcome(
        tenant="acme",
        tier="gold",
        model="chat-8b",
        version="1.4.0",
        request_id="0" * 32,
        reason="pin",
        code=200,
        ended="completed",
        flags=(),
        attempts=2,
        ttfb_ms=7.5,
        duration_ms=812.25,
        cluster="chat-8b@1.4.0",
    )


@pytest.mark.parametrize("mark", [{}, {"enforced": "no"}, {"enforced": ""}, {"enforced": "Yes"}])
def test_an_exchange_that_was_never_decided_is_nobodys(mark: dict[str, str]) -> None:
    """Invariant 1: names without the mark of a decision count for nothing."""
    unmarked = {name: value for name, value in METADATA.items() if name != "enforced"}
    assert outcome(unmarked | mark, facts()) is None


def test_whatever_metadata_lacks_is_empty_not_guessed() -> None:
    bare = outcome({"enforced": "yes"}, facts())
    assert bare is not None
    assert (bare.tenant, bare.tier, bare.model, bare.version, bare.request_id, bare.reason) == ("",) * 6


@pytest.mark.parametrize(
    ("ended", "entry"),
    [
        ("completed", facts(200)),
        ("completed", facts(503)),  # the engine's own answer, delivered whole
        ("completed", facts(200, details="")),  # an Envoy that sends no details
        ("aborted", facts(200, "downstream_connection_termination")),
        ("aborted", facts(0, "downstream_remote_reset")),
        ("aborted", facts(0, "upstream_remote_reset", "downstream_remote_reset")),
        ("failed", facts(0)),
        ("failed", facts(503, "upstream_connection_failure")),
        ("failed", facts(200, "upstream_remote_reset")),
        ("failed", facts(200, details="ext_proc_error_gRPC_error_14")),
        ("completed", facts(200, "upstream_retry_limit_exceeded")),  # it won over a second attempt (measured)
        ("completed", facts(499, "upstream_retry_limit_exceeded")),
        ("failed", facts(503, "upstream_retry_limit_exceeded")),  # both versions failed
        ("failed", facts(0, "upstream_retry_limit_exceeded")),
        ("failed", facts(200, "upstream_retry_limit_exceeded", "upstream_remote_reset")),
        ("failed", facts(200, "upstream_retry_limit_exceeded", details="ext_proc_error_gRPC_error_14")),
        ("aborted", facts(200, "upstream_retry_limit_exceeded", "downstream_remote_reset")),
    ],
)
def test_how_it_ended(ended: str, entry: ExchangeFacts) -> None:
    found = outcome(METADATA, entry)
    assert found is not None
    assert found.ended == ended
    assert (found.code, found.flags) == (entry.code, entry.flags)


def test_what_the_exchange_was_to_a_rollout_comes_back_with_it() -> None:
    found = outcome(of_a_trial("stable"), facts())
    assert found is not None
    assert found.trial == Trial(rollout="r1", candidate="1.5.0", arm="stable", share=0.05, unit="u1")
    garbled = outcome(of_a_trial() | {"share": "much"}, facts())
    assert garbled is not None  # somebody pays for it all the same
    assert (garbled.trial, garbled.rescued, garbled.tenant) == (None, False, "acme")


@pytest.mark.parametrize(
    ("metadata", "attempts", "cluster", "rescued"),
    [
        (of_a_trial(), 1, "chat-8b@1.5.0", False),
        (of_a_trial(), 2, "chat-8b@1.4.0", True),
        (of_a_trial(), 2, "chat-8b@1.5.0", True),  # the candidate's late answer won: it had hung all the same
        (of_a_trial(), 1, "chat-8b@1.4.0", True),  # a candidate without a host is passed over in the first attempt
        (of_a_trial(), 1, "", False),  # no host was chosen at all
        (of_a_trial(), 0, "", False),
        (of_a_trial("stable"), 1, "chat-8b@1.4.0", False),
        (of_a_trial("stable"), 2, "chat-8b@1.4.0", False),  # nobody rescues the stable version
        (METADATA, 2, "chat-8b@1.4.0", False),  # nor a pinned tenant
    ],
)
def test_who_was_rescued(metadata: dict[str, str], attempts: int, cluster: str, rescued: bool) -> None:
    found = outcome(metadata, structs.replace(facts(), attempts=attempts, cluster=cluster))
    assert found is not None
    assert found.rescued is rescued


@pytest.mark.parametrize("ended", ["completed", "aborted", "failed"])
def test_a_rescue_does_not_depend_on_how_it_ended(ended: Ended) -> None:
    flags = {"completed": (), "aborted": ("downstream_remote_reset",), "failed": ("upstream_remote_reset",)}[ended]
    found = outcome(of_a_trial(), facts(200, *flags))
    assert found is not None
    assert (found.ended, found.rescued) == (ended, True)
