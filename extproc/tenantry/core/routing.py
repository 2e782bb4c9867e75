"""Which version serves a tenant's request, and why.

    pin  >  beta flag  >  stable

A pin wins over everything: no rule moves a pinned tenant (invariant 8). A tenant with the beta
flag gets the model's candidate while there is a rollout. Everybody else gets the stable version.
The same function serves requests and `tenantry explain`.
"""

from typing import Literal

from msgspec import Struct

from tenantry.core.rules import Model, Rules
from tenantry.core.tenant import Profile

Reason = Literal["pin", "beta", "stable"]


class Decision(Struct, frozen=True, kw_only=True):
    """A version for one request.

    `served_name` is what the engine calls the model (the tenant's LoRA adapter where it has one),
    `cluster` is Envoy's name for the version's endpoints, `why` is a sentence for a person.
    """

    model: str
    version: str
    reason: Reason
    why: str
    served_name: str
    adapter: str | None
    cluster: str
    priority_scheduling: bool


def decide(profile: Profile, name: str, model: Model) -> Decision:
    """Choose the version of `model` (known to clients as `name`) that serves this tenant."""
    version, reason, why = _choose(profile, name, model)
    chosen = model.versions[version]
    adapter = profile.adapters.get(name)
    return Decision(
        model=name,
        version=version,
        reason=reason,
        why=why,
        served_name=adapter or chosen.served_name or name,
        adapter=adapter,
        cluster=cluster_name(name, version),
        priority_scheduling=chosen.scheduling == "priority",
    )


def cluster_name(model: str, version: str) -> str:
    """Return Envoy's cluster name for a version. Injective: `@` stands in neither name."""
    return f"{model}@{version}"


def rescue_cluster_name(model: str, candidate: str, stable: str) -> str:
    """Return Envoy's name for the aggregate cluster that tries a candidate first, then the stable version."""
    return f"{model}@{candidate}@{stable}"


def cluster_names(rules: Rules) -> frozenset[str]:
    """Return the names of all clusters that requests decided by these rules can be sent to."""
    names: set[str] = set()
    for name, model in rules.models.items():
        names.update(cluster_name(name, version) for version in model.versions)
        if model.rollout is not None:
            names.add(rescue_cluster_name(name, model.rollout.candidate, model.stable))
    return frozenset(names)


def _choose(profile: Profile, name: str, model: Model) -> tuple[str, Reason, str]:
    pinned = profile.pins.get(name)
    if pinned is not None:
        return pinned, "pin", f"tenant {profile.name} is pinned to {pinned}"
    rollout = model.rollout
    if profile.beta and rollout is not None:
        return (
            rollout.candidate,
            "beta",
            f"tenant {profile.name} has the beta flag and {rollout.candidate} is the candidate",
        )
    return model.stable, "stable", f"{model.stable} is the stable version of {name}"
