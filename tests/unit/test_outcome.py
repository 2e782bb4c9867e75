"""How an exchange ended, and whose it was."""

import pytest
from tenantry.core.outcome import ExchangeFacts, Outcome, outcome

METADATA = {
    "tenant": "acme",
    "tier": "gold",
    "model": "chat-8b",
    "version": "1.4.0",
    "request_id": "0" * 32,
    "reason": "pin",
    "enforced": "yes",
}


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
    ],
)
def test_how_it_ended(ended: str, entry: ExchangeFacts) -> None:
    found = outcome(METADATA, entry)
    assert found is not None
    assert found.ended == ended
    assert (found.code, found.flags) == (entry.code, entry.flags)
