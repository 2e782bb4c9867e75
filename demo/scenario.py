"""Who asks what, and what must come of it: the whole play as data.

The expected versions are written down here and not asked of tenantry's own routing, so that the
report compares two independent accounts.
"""

from typing import Literal

from msgspec import Struct

EngineKind = Literal["stand-in", "vllm"]
Route = Literal["chat", "embeddings"]

MODEL = "chat-8b"
SEED = 20
FORGED_PRIORITY = -1000
NO_ID = "0" * 32

FORGED_HEADERS = (
    ("x-tenantry-tenant", "acme"),
    ("X-Tenantry-Tenant", "acme"),
    ("X-TENANTRY-TENANT", "acme"),
    ("x_tenantry_tenant", "acme"),
    ("x-tenantry-tier", "gold"),
    ("x-tenantry-version", "1.5.0"),
    ("x-tenantry-cluster", f"{MODEL}@1.5.0"),
    ("x-tenantry-request-id", NO_ID),
    ("x-request-id", f"acme:{NO_ID}"),
    ("x-envoy-retry-on", "5xx"),
    ("x-envoy-max-retries", "10"),
    ("x-vllm-priority", str(FORGED_PRIORITY)),
)
"""What the forging client adds to each of its requests, in this spelling and as often as it stands here."""

FORGED_MEMBERS: dict[str, object] = {
    "cache_salt": "acme",
    "priority": FORGED_PRIORITY,
    "vllm_xargs": {"tenant": "acme", "version": "1.5.0", "request_id": NO_ID},
}
"""What it adds to each body: another tenant's cache, first place in the queue, another tenant's bill."""


class TenantPlan(Struct, frozen=True, kw_only=True):
    """One tenant: its tier's priority, the rule that applies to it, its load, and what must serve it.

    `expected` has one version per phase. `workers` requests are under way at a time; after each the
    worker pauses for `pause_s` on average.
    """

    name: str
    tier: str
    priority: int
    rule: str
    expected: tuple[str, ...]
    workers: int
    pause_s: float
    forges: bool = False


class EnginePlan(Struct, frozen=True, kw_only=True):
    """One engine: the version it serves, and for the stand-in how fast it is and how many it serves at once."""

    version: str
    speed: float = 1.0
    max_running: int = 16


class Scenario(Struct, frozen=True, kw_only=True):
    """The play. Phase 0 ends when the rules are edited; `change` says how, for a reader.

    `candidates` has one version per phase. `new_version` joins with the edit, `beta_lost` names who
    loses the beta flag by it. `streamed_share`, `embeddings_share` and the range `answer_tokens`
    describe the requests.
    """

    engine: EngineKind
    tenants: tuple[TenantPlan, ...]
    engines: tuple[EnginePlan, ...]
    candidates: tuple[str, ...]
    change: str
    new_version: str | None = None
    beta_lost: str | None = None
    streamed_share: float = 0.75
    embeddings_share: float = 0.08
    answer_tokens: tuple[int, int] = (24, 96)

    def tenant(self, name: str) -> TenantPlan:
        """Return a tenant's plan."""
        return next(plan for plan in self.tenants if plan.name == name)


class Refusal(Struct, frozen=True, kw_only=True):
    """A request that must be refused, once. `tenant` None: the key is nobody's."""

    what: str
    status: int
    tenant: str | None
    path: str
    body: dict[str, object]


_HELLO: dict[str, object] = {"messages": [{"role": "user", "content": "Hello"}]}

REFUSALS = (
    Refusal(
        what="an unknown API key", status=401, tenant=None, path="/chat/completions", body={"model": MODEL, **_HELLO}
    ),
    Refusal(
        what="an unknown model",
        status=404,
        tenant="initech",
        path="/chat/completions",
        body={"model": "chat-70b", **_HELLO},
    ),
    Refusal(
        what="a route that vLLM serves and clients must not reach",
        status=404,
        tenant="hooli",
        path="/load_lora_adapter",
        body={"lora_name": "acme-support", "lora_path": "/adapters/acme"},
    ),
)


def stand_in() -> Scenario:
    """Return the play with stand-in engines: midway a third version joins and becomes the candidate.

    Version 1.4.0 has fewer slots than its three tenants want, so its queue orders them by tier.
    """
    return Scenario(
        engine="stand-in",
        tenants=_tenants(globex=("1.5.0", "1.6.0"), workers=(2, 2, 3, 4)),
        engines=(
            EnginePlan(version="1.4.0", speed=0.6, max_running=4),
            EnginePlan(version="1.5.0", speed=1.0),
            EnginePlan(version="1.6.0", speed=1.6),
        ),
        candidates=("1.5.0", "1.6.0"),
        change="version 1.6.0 joins and becomes the candidate: globex, which has the beta flag, moves to it",
        new_version="1.6.0",
    )


def vllm() -> Scenario:
    """Return the play with real vLLM on CPU: two servers are enough for two cores; globex loses its beta flag."""
    return Scenario(
        engine="vllm",
        tenants=_tenants(globex=("1.5.0", "1.4.0"), workers=(1, 1, 1, 2)),
        engines=(EnginePlan(version="1.4.0", max_running=2), EnginePlan(version="1.5.0", max_running=2)),
        candidates=("1.5.0", "1.5.0"),
        change="globex loses the beta flag and goes back to the stable version",
        beta_lost="globex",
        embeddings_share=0.0,  # the tiny model generates only
    )


def _tenants(*, globex: tuple[str, str], workers: tuple[int, int, int, int]) -> tuple[TenantPlan, ...]:
    stable = ("1.4.0", "1.4.0")
    return (
        TenantPlan(
            name="acme", tier="gold", priority=0, rule="pinned to 1.4.0",
            expected=stable, workers=workers[0], pause_s=0.35,
        ),
        TenantPlan(
            name="globex", tier="silver", priority=10, rule="beta: candidate",
            expected=globex, workers=workers[1], pause_s=0.35,
        ),
        TenantPlan(
            name="initech", tier="silver", priority=10, rule="no rule: stable",
            expected=stable, workers=workers[2], pause_s=0.25,
        ),
        TenantPlan(
            name="hooli", tier="bronze", priority=20, rule="no rule: stable",
            expected=stable, workers=workers[3], pause_s=0.1, forges=True,
        ),
    )  # fmt: skip
