"""Who asks what, and what must come of it: the whole play as data.

The expected versions are written down here and not asked of tenantry's own routing, so that the
report compares two independent accounts.
"""

from typing import Literal

from msgspec import Struct

EngineKind = Literal["stand-in", "vllm"]
Route = Literal["chat", "embeddings"]
RolloutEnd = Literal["splitting", "reverted"]
"""States of a rollout, as the sidecar's admin listener names them."""

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
    ("x-envoy-attempt-count", "7"),
    ("x-tenantry-mirror", "1"),
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

    `expected` serves it from its first request to its last. A tenant that `joins_by_edit` is unknown
    until the rules are edited, and then pinned to that version. `workers` requests are under way at a
    time; after each the worker pauses for `pause_s` on average.
    """

    name: str
    tier: str
    priority: int
    rule: str
    expected: str
    workers: int
    pause_s: float
    forges: bool = False
    joins_by_edit: bool = False


class EnginePlan(Struct, frozen=True, kw_only=True):
    """One engine: the version it serves, and for the stand-in how fast it is and how many it serves at once.

    `ttft_factor`: the stand-in's first token takes so many times as long. `cold_start_s` is how long the stand-in says
    that its start took.
    """

    version: str
    model: str = MODEL
    speed: float = 1.0
    max_running: int = 16
    ttft_factor: float = 1.0
    cold_start_s: float = 28.0


class CrowdPlan(Struct, frozen=True, kw_only=True):
    """What one tenant sends to the model of a rollout: short requests, each a unit by itself.

    `pinned`: to the stable version. `requests_per_s` is what it tries; a slow machine makes it fewer.
    """

    name: str
    tier: str
    requests_per_s: float
    pinned: bool = False


class RolloutPlan(Struct, frozen=True, kw_only=True):
    """A model with a candidate that the split gives `percent` of each tenant's units, and what must come of it.

    `expected` is the state at the end. `mirror_percent` of the units that stay on the stable version are copied to
    the candidate. A token weighs `gigaflops_per_token`.
    """

    model: str
    stable: EnginePlan
    candidate: EnginePlan
    percent: float
    mirror_percent: float
    expected: RolloutEnd
    story: str
    crowd: tuple[CrowdPlan, ...]
    answer_tokens: int
    gigaflops_per_token: float = 1.0

    @property
    def engines(self) -> tuple[EnginePlan, EnginePlan]:
        """The engines of both versions, the stable one first."""
        return self.stable, self.candidate


class QuotaPlan(Struct, frozen=True, kw_only=True):
    """A tenant that spends its quota before the traffic begins, with requests to one of the rollouts' models.

    A `large` request (a prompt repeated so often) is more than half of `compute_units_per_minute`.
    """

    tenant: str
    tier: str
    model: str
    compute_units_per_minute: int
    prompt: str
    large: int
    answer_tokens: int


class Scenario(Struct, frozen=True, kw_only=True):
    """The play. Midway the rules are edited; `change` says how, for a reader.

    `tenants` and `engines` are those of MODEL; `rollouts` are other models with a load of their own.
    `new_version` joins with the edit. `streamed_share`, `embeddings_share` and the range
    `answer_tokens` describe the requests.
    """

    engine: EngineKind
    tenants: tuple[TenantPlan, ...]
    engines: tuple[EnginePlan, ...]
    candidate: str
    change: str
    new_version: str | None = None
    rollouts: tuple[RolloutPlan, ...] = ()
    quota: QuotaPlan | None = None
    streamed_share: float = 0.75
    embeddings_share: float = 0.08
    answer_tokens: tuple[int, int] = (24, 96)

    @property
    def founding(self) -> tuple[TenantPlan, ...]:
        """Who is in the rules from the beginning."""
        return tuple(plan for plan in self.tenants if not plan.joins_by_edit)

    @property
    def joining(self) -> tuple[TenantPlan, ...]:
        """Who joins by the edit."""
        return tuple(plan for plan in self.tenants if plan.joins_by_edit)

    @property
    def crowd(self) -> dict[str, str]:
        """Tenants that only send to rollouts, and their tiers."""
        known = {plan.name for plan in self.tenants}
        senders = {
            sender.name: sender.tier
            for rollout in self.rollouts
            for sender in rollout.crowd
            if sender.name not in known
        }
        return senders if self.quota is None else senders | {self.quota.tenant: self.quota.tier}

    @property
    def models(self) -> frozenset[str]:
        """The models that a tenant may name."""
        return frozenset({MODEL, *(rollout.model for rollout in self.rollouts)})

    def tenant(self, name: str) -> TenantPlan:
        """Return a tenant's plan."""
        return next(plan for plan in self.tenants if plan.name == name)


class Refusal(Struct, frozen=True, kw_only=True):
    """A request that must be refused, once, before the edit. `tenant` None: the key is nobody's."""

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
        what="umbrella's key before umbrella joins",
        status=401,
        tenant="umbrella",
        path="/chat/completions",
        body={"model": MODEL, **_HELLO},
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
    """Return the play with stand-in engines: midway a fifth tenant joins, and with it the version it is pinned to.

    Version 1.4.0 has fewer slots than its three tenants want, so its queue orders them by tier.
    """
    return Scenario(
        engine="stand-in",
        tenants=_tenants(umbrella="1.6.0", workers=(2, 2, 3, 4, 2)),
        engines=(
            EnginePlan(version="1.4.0", speed=0.6, max_running=4),
            EnginePlan(version="1.5.0", speed=1.0),
            EnginePlan(version="1.6.0", speed=1.6),
        ),
        candidate="1.5.0",
        change="umbrella, a fifth tenant, joins, pinned to version 1.6.0, which joins with it",
        new_version="1.6.0",
        rollouts=(
            RolloutPlan(
                model="summary-1b",
                stable=_light("summary-1b", "2.0.0", cold_start_s=6.0),
                candidate=_light("summary-1b", "2.1.0", cold_start_s=6.0),
                percent=5.0,
                mirror_percent=10.0,
                expected="splitting",
                story="a healthy candidate",
                crowd=_crowd(8.0),
                answer_tokens=3,
                gigaflops_per_token=2.47,
            ),
            RolloutPlan(
                model="extract-3b",
                stable=_light("extract-3b", "3.0.0", cold_start_s=14.0),
                candidate=_light("extract-3b", "3.1.0", cold_start_s=14.0, ttft_factor=5.0),
                percent=25.0,
                mirror_percent=0.0,
                expected="reverted",
                story="a slow candidate: its first token takes 5 times as long",
                crowd=_crowd(1.8),
                answer_tokens=3,
                gigaflops_per_token=6.43,
            ),
        ),
        quota=QuotaPlan(
            tenant="vandelay",
            tier="bronze",
            model="summary-1b",
            compute_units_per_minute=2,
            prompt="Which of these tickets are about the latest export? ",
            large=36,
            answer_tokens=3,
        ),
    )


def vllm() -> Scenario:
    """Return the play with real vLLM on CPU: two servers are enough for two cores, so umbrella brings no version."""
    return Scenario(
        engine="vllm",
        tenants=_tenants(umbrella="1.5.0", workers=(1, 1, 1, 2, 1)),
        engines=(EnginePlan(version="1.4.0", max_running=2), EnginePlan(version="1.5.0", max_running=2)),
        candidate="1.5.0",
        change="umbrella, a fifth tenant, joins, pinned to version 1.5.0",
        embeddings_share=0.0,  # the tiny model generates only
    )


def _light(model: str, version: str, *, cold_start_s: float, ttft_factor: float = 1.0) -> EnginePlan:
    """Return an engine that takes many short requests at a time, in few steps."""
    return EnginePlan(
        model=model, version=version, speed=0.15, max_running=256, ttft_factor=ttft_factor, cold_start_s=cold_start_s
    )


def _crowd(requests_per_s: float) -> tuple[CrowdPlan, ...]:
    """Return one pinned tenant and five that are in the split: no tenant can trip the fleet alone."""
    split = (("initech", "silver"), ("hooli", "bronze"), ("soylent", "bronze"), ("tyrell", "silver"), ("wonka", "gold"))
    return (
        CrowdPlan(name="acme", tier="gold", requests_per_s=requests_per_s / 2, pinned=True),
        *(CrowdPlan(name=name, tier=tier, requests_per_s=requests_per_s) for name, tier in split),
    )


def _tenants(*, umbrella: str, workers: tuple[int, int, int, int, int]) -> tuple[TenantPlan, ...]:
    return (
        TenantPlan(
            name="acme", tier="gold", priority=0, rule="pinned to 1.4.0",
            expected="1.4.0", workers=workers[0], pause_s=0.35,
        ),
        TenantPlan(
            name="globex", tier="silver", priority=10, rule="beta: candidate",
            expected="1.5.0", workers=workers[1], pause_s=0.35,
        ),
        TenantPlan(
            name="initech", tier="silver", priority=10, rule="no rule: stable",
            expected="1.4.0", workers=workers[2], pause_s=0.25,
        ),
        TenantPlan(
            name="hooli", tier="bronze", priority=20, rule="no rule: stable",
            expected="1.4.0", workers=workers[3], pause_s=0.1, forges=True,
        ),
        TenantPlan(
            name="umbrella", tier="gold", priority=0, rule=f"pinned to {umbrella}",
            expected=umbrella, workers=workers[4], pause_s=0.35, joins_by_edit=True,
        ),
    )  # fmt: skip
