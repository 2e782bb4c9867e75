"""What an engine may see of a request, and what of the client's it must not."""

from collections.abc import Iterable

import msgspec
from msgspec import Struct

from demo.run import Arrival
from demo.scenario import FORGED_MEMBERS, MODEL, TenantPlan

_RANKING_PREFIXES = ("x-tenantry-", "x_tenantry_", "x-envoy-", "x-vllm-")


class Truth(Struct, frozen=True, kw_only=True):
    """Whose a request really was: known from the client that sent it, not from anything upstream says.

    `version` is the one that its engine was started with.
    """

    plan: TenantPlan
    request_id: str
    version: str


def forged_headers(arrival: Arrival, truth: Truth) -> tuple[str, ...]:
    """Return the names of headers that say something else than tenantry decided; a second copy counts too."""
    decided = {
        "x-tenantry-tenant": truth.plan.name,
        "x-tenantry-tier": truth.plan.tier,
        "x-tenantry-model": MODEL,
        "x-tenantry-version": truth.version,
        "x-tenantry-request-id": truth.request_id,
        "x-request-id": f"{truth.plan.name}:{truth.request_id}",
        "x-envoy-attempt-count": "1",  # Envoy's own count: no request of this play needs a second attempt
    }
    found = []
    for name, value in ((name.lower(), value) for name, value in arrival.headers):
        if name in decided:
            if decided.pop(name) != value:
                found.append(name)
        elif name.startswith(_RANKING_PREFIXES) or name == "x-request-id":
            found.append(name)
    return tuple(found)


def missing_headers(arrival: Arrival) -> tuple[str, ...]:
    """Return the names of tenantry's own headers that an arrival lacks."""
    names = {name.lower() for name, _ in arrival.headers}
    return tuple(name for name in ("x-tenantry-tenant", "x-tenantry-version", "x-request-id") if name not in names)


def forged_members(arrival: Arrival, truth: Truth) -> tuple[str, ...]:
    """Return the names of body members that say something else than tenantry decided."""
    body = arrival.body
    decided: dict[str, object] = {"model": MODEL, "priority": truth.plan.priority, "vllm_xargs": None}
    if not arrival.path.endswith("/embeddings"):
        decided["vllm_xargs"] = {
            "tenant": truth.plan.name,
            "version": truth.version,
            "request_id": truth.request_id,
        }
    found = [name for name, value in decided.items() if body.get(name) != value]
    if body.get("cache_salt") in (None, FORGED_MEMBERS["cache_salt"]):
        found.append("cache_salt")
    return tuple(found)


def leaked_keys(arrival: Arrival, keys: Iterable[str]) -> int:
    """Return how many of these clients' keys stand anywhere in an arrival."""
    text = msgspec.json.encode((arrival.path, arrival.headers, arrival.body)).decode()
    return sum(key in text for key in keys)
