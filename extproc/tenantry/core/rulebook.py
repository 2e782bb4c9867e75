"""Rules compiled for look-ups: whatever a request needs costs one dictionary access.

Built once per document, off the request path; look-ups do not depend on the number of tenants.
"""

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from types import MappingProxyType

from msgspec import Struct

from tenantry.core.quota.account import limits_of
from tenantry.core.rules import Model, Rules, TenantRules, key_of
from tenantry.core.rules_stores import Store
from tenantry.core.tenant import Profile

PAUSE_TENANTS = 100

_PORT = re.compile(r":[0-9]*$")


class KeyEntry(Struct, frozen=True, kw_only=True):
    """A known API key: its digest (32 bytes), whose it is, and until when (Unix seconds, None: no end)."""

    digest: bytes
    tenant: str
    not_after: float | None


class RuleBook:
    """One valid rules document, indexed. Immutable: a reload makes a new one.

    `names_strangers`: tokens or certificates may name tenants without an entry. `pause` is called after each
    PAUSE_TENANTS, so that whoever indexes many of them can let others go first.
    """

    def __init__(self, rules: Rules, pause: Callable[[], None] = lambda: None) -> None:
        self.rules = rules
        self.forwarded_headers = frozenset(rules.limits.forward_headers)
        self._stores: dict[tuple[str, str], tuple[str, Store]] = {
            (store.kind, host): (name, store) for name, store in rules.stores.items() for host in store.hosts or ("",)
        }
        self.has_stores = bool(rules.stores)
        self._read_models = tuple(name for name, model in rules.models.items() if model.usage == "response")
        self.names_strangers = rules.identity.jwt is not None or rules.identity.mtls is not None
        self._keys: dict[bytes, KeyEntry] = {}
        self._profiles: dict[str, Profile] = {}
        for number, (name, tenant) in enumerate(rules.tenants.items(), 1):
            self._profiles[name] = self._profile(name, tenant)
            self._keys |= {entry.digest: entry for entry in _keys(name, tenant)}
            if number % PAUSE_TENANTS == 0:
                pause()

    def key(self, digest: bytes) -> KeyEntry | None:
        """Return the API key with this SHA-256 digest, or None."""
        return self._keys.get(digest)

    def model(self, name: str) -> Model | None:
        """Return the model that clients know by this name, or None."""
        return self.rules.models.get(name)

    def store(self, kind: str, authority: str) -> tuple[str, Store] | None:
        """Return the name and rules of the store of this kind that a request's `:authority` asks for, or None."""
        host = _PORT.sub("", authority).lower()
        return self._stores.get((kind, host)) or self._stores.get((kind, ""))

    def profile(self, name: str, tier_claim: str | None = None) -> Profile | None:
        """Return the profile of a verified tenant name, or None when no tier is known for it.

        The tier is the tenant's entry in the rules, else the verified `tier_claim` if it names a
        tier, else `defaultTier`: the operator's document is nearer than the identity provider's.
        """
        known = self._profiles.get(name)
        if known is not None and known.tier:
            return known
        tier = tier_claim if tier_claim in self.rules.tiers else self.rules.default_tier
        if tier is None:
            return None
        return self._profile(name, self.rules.tenants.get(name, TenantRules()), tier)

    def untiered(self, name: str) -> Profile:
        """Return the profile of a tenant whose tier only its token will tell, with no tier in it yet."""
        return self._profile(name, self.rules.tenants.get(name, TenantRules()))

    def closed(self, name: str) -> bool:
        """Return whether a tenant is refused whatever it presents."""
        entry = self.rules.tenants.get(name)
        return entry is not None and entry.closed

    def reads_responses(self, profile: Profile) -> bool:
        """Return whether the tenant may name a model whose usage is read from its responses."""
        return any(profile.may_use(name) for name in self._read_models)

    def models_of(self, profile: Profile) -> list[str]:
        """Return the models that this tenant may name, in the document's order."""
        return [name for name in self.rules.models if profile.may_use(name)]

    def _profile(self, name: str, tenant: TenantRules, fallback_tier: str = "") -> Profile:
        tier = tenant.tier or fallback_tier
        quota = tenant.quota or (self.rules.tiers[tier].quota if tier else None)
        return Profile(
            name=name,
            tier=tier,
            priority=self.rules.tiers[tier].priority if tier else 0,
            beta=tenant.beta,
            beta_self_service=self.rules.beta_self_service
            if tenant.beta_self_service is None
            else tenant.beta_self_service,
            models=None if tenant.models is None else frozenset(tenant.models),
            pins=MappingProxyType(tenant.pins),
            adapters=MappingProxyType(tenant.adapters),
            limits=limits_of(quota),
        )


def _keys(name: str, tenant: TenantRules) -> Iterator[KeyEntry]:
    for key in map(key_of, tenant.keys):
        digest = bytes.fromhex(key.digest.removeprefix("sha256:"))
        yield KeyEntry(digest=digest, tenant=name, not_after=_unix(key.not_after))


def _unix(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
