"""Who a request belongs to.

A `Profile` is what the rules say about a tenant: anybody may build one. A `Tenant` is a profile
that was *verified in this exchange*: it needs a `Proof`, and only `identity.authenticate` makes
proofs (a test holds the rest of the tree to that). Code which touches an upstream asks for a
Tenant, so forgetting to authenticate is a type error (invariant 1).
"""

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from tenantry.core.quota.account import Limits

ProofKind = Literal["api_key", "jwt", "mtls"]


class Profile(Struct, frozen=True, kw_only=True):
    """What the rules say about one tenant.

    `priority` is vLLM's (lower is earlier). `models` limits the tenant to these names, None means
    all. `pins` and `adapters` map a model to a version or a LoRA adapter. `beta_self_service`: the
    tenant may set its beta flag itself. `limits` are those of its quota, None without one.
    """

    name: str
    tier: str
    priority: int
    beta: bool = False
    beta_self_service: bool = False
    models: frozenset[str] | None = None
    pins: Mapping[str, str] = {}
    adapters: Mapping[str, str] = {}
    limits: Limits | None = None

    def may_use(self, model: str) -> bool:
        """Return whether the rules let this tenant name the model."""
        return self.models is None or model in self.models


class Proof(Struct, frozen=True, kw_only=True):
    """How the tenant was verified: `api_key` (digest known), `jwt` (by Envoy), `mtls` (by Envoy)."""

    kind: ProofKind


class Tenant(Struct, frozen=True, kw_only=True):
    """A verified tenant."""

    profile: Profile
    proof: Proof
