"""How an exchange ended, as the access log tells it.

The only trusted word about *whose* it was is the metadata that the sidecar itself wrote with its
last reply. Logged headers are not read: when ext_proc fails, Envoy logs the client's own copies
(measured), so a forged `x-tenantry-tenant` would be billed to a stranger.
"""

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from tenantry.core.rollout.trial import Trial
from tenantry.core.rollout.trial import read as read_trial

Ended = Literal["completed", "aborted", "failed"]


class Measure(Struct, frozen=True, kw_only=True):
    """How the usage of a request is to be learnt, where no plugin tells it.

    `api` is a model route's name (`core.chat.Api`), `most_tokens` bounds the output that the body allowed.
    """

    source: str
    api: str
    streams: bool
    most_tokens: int

    def metadata(self) -> dict[str, str]:
        """Return it as the sidecar's metadata, for the log entry to bring back."""
        return {
            "usage": self.source, "api": self.api, "streams": "yes" if self.streams else "no",
            "most_tokens": str(self.most_tokens),
        }  # fmt: skip


class Outcome(Struct, frozen=True, kw_only=True):
    """One finished exchange.

    `ended`: `completed` (the response was delivered whole), `aborted` (the client went away first),
    `failed` (no response, or one cut short by the upstream or by Envoy). `code` is the status sent
    downstream, 0 when none was. Times are in milliseconds; `ttfb_ms` is the time to the first byte
    from the upstream, which is *not* the time to the first token (engines send headers at once),
    None without one. `attempts` counts upstream attempts. `version` is the one that was assigned, `trial` what the
    exchange was to a rollout; `rescued`: the stable version was asked as well, as the candidate
    failed or was late; a late candidate may still have answered first. `sent_ms` is when the
    request went upstream: until then it was the client's time, and ours. Bytes are those of bodies, as
    the client sent and got them; `measure` is set where usage is to be estimated from all this.
    `store` and `operation` are set instead of
    `model` and `version` for a request to a vector store.
    """

    tenant: str
    tier: str
    model: str
    version: str
    request_id: str
    reason: str
    code: int
    ended: Ended
    flags: tuple[str, ...]
    attempts: int
    ttfb_ms: float | None
    duration_ms: float
    cluster: str
    trial: Trial | None = None
    rescued: bool = False
    sent_ms: float = 0.0
    store: str = ""
    operation: str = ""
    request_bytes: int = 0
    response_bytes: int = 0
    measure: Measure | None = None


class ExchangeFacts(Struct, frozen=True, kw_only=True):
    """What an access-log entry says about an exchange, apart from whose it was.

    `details` is Envoy's response code details: `via_upstream` for an answer that came from there. `sent_ms` is when the
    first byte went upstream; all times count from the first byte that came from the client.
    """

    code: int
    flags: tuple[str, ...]
    attempts: int
    ttfb_ms: float | None
    duration_ms: float
    cluster: str
    details: str = ""
    sent_ms: float = 0.0
    request_bytes: int = 0
    response_bytes: int = 0


CLIENT_LEFT = frozenset({"downstream_connection_termination", "downstream_remote_reset", "downstream_protocol_error"})
"""Response flags (envoy/data/accesslog/v3/accesslog.proto) that mean the client went away, or broke its connection."""

FROM_UPSTREAM = "via_upstream"


def outcome(metadata: Mapping[str, str], facts: ExchangeFacts) -> Outcome | None:
    """Join an entry with the sidecar's metadata; None when the sidecar never decided the exchange."""
    if metadata.get("enforced") != "yes":
        return None
    trial = read_trial(metadata)
    return Outcome(
        tenant=metadata.get("tenant", ""),
        tier=metadata.get("tier", ""),
        model=metadata.get("model", ""),
        version=metadata.get("version", ""),
        request_id=metadata.get("request_id", ""),
        reason=metadata.get("reason", ""),
        code=facts.code,
        ended=_ended(facts),
        flags=facts.flags,
        attempts=facts.attempts,
        ttfb_ms=facts.ttfb_ms,
        duration_ms=facts.duration_ms,
        cluster=facts.cluster,
        sent_ms=facts.sent_ms,
        store=metadata.get("store", ""),
        operation=metadata.get("operation", ""),
        request_bytes=facts.request_bytes,
        response_bytes=facts.response_bytes,
        measure=_measure(metadata),
        trial=trial,
        rescued=trial is not None and trial.arm == "candidate" and _answered_elsewhere(trial, facts),
    )


def _measure(metadata: Mapping[str, str]) -> Measure | None:
    source, most = metadata.get("usage"), metadata.get("most_tokens", "")
    if source is None or not most.isdecimal():
        return None
    return Measure(
        source=source, api=metadata.get("api", ""), streams=metadata.get("streams") == "yes", most_tokens=int(most)
    )


def _answered_elsewhere(trial: Trial, facts: ExchangeFacts) -> bool:
    # A second attempt is always at the stable version. A candidate without any host (a name that resolves to
    # nothing) is passed over in the first: then only the cluster tells. It is `MODEL@VERSION`, or empty when no host
    # was ever chosen.
    version = facts.cluster.rpartition("@")[2]
    return facts.attempts > 1 or version not in ("", trial.candidate)


def _ended(facts: ExchangeFacts) -> Ended:
    if CLIENT_LEFT.intersection(facts.flags):
        return "aborted"
    # A sidecar that dies after its decision cuts the answer in flight, and then the log says 200
    # without a flag; only the details (`ext_proc_error_...`) tell.
    # An answer that won over a second attempt bears the flag of the retry that was not taken (measured).
    flags = set(facts.flags) - ({"upstream_retry_limit_exceeded"} if 0 < facts.code < 500 else set())
    whole = facts.code != 0 and not flags and facts.details in ("", FROM_UPSTREAM)
    return "completed" if whole else "failed"
