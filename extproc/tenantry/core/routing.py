"""Which version serves a tenant's request, and why.

    pin  >  revert, pause  >  beta flag  >  promotion  >  split  >  stable

A pin wins over everything: no rule moves a pinned tenant (invariant 8). While a rollout is reverted or paused, for the
fleet, the tenant's tier or the tenant, nobody there gets the candidate. Else a tenant with the beta flag gets it, and
so does whom an operator promoted; of everybody else's units the split's percent do, and the stable version serves the
rest. The same function serves requests and `tenantry explain`.

A request that is sent to a candidate is *rescued* by the stable version if the candidate does not answer it, and one
that stays on the stable version may be *mirrored*. Pinned tenants and tenants without a rollout have neither.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Literal

from msgspec import Struct

from tenantry.core.rollout.standing import FLEET, State, effective, tenant_scope, tier_scope
from tenantry.core.rollout.trial import Arm, Trial
from tenantry.core.rules import Model, Rollout, Rules
from tenantry.core.split import Dice
from tenantry.core.tenant import Profile

Reason = Literal["pin", "beta", "promoted", "split", "stable"]


class RolloutView(Struct, frozen=True, kw_only=True):
    """What routing knows of one model's rollout at this moment.

    `id` is that of the rollout of this `candidate` and `image`; rules that name others are another rollout's. `states`
    are those of scopes (`standing.FLEET`, `tier:NAME`, `tenant:NAME`) that are not splitting. `percent` is that of an
    automatic step and stands for the rules' `percent`; None: there are no steps.
    """

    id: str
    candidate: str
    image: str
    states: Mapping[str, State] = {}
    percent: float | None = None


class Live(Struct, frozen=True, kw_only=True):
    """What routing knows beside the rules: the rollouts by model, and the beta flags that tenants set themselves.

    A model whose rollout is not here has a store that could not be read: its candidate gets nothing.
    """

    rollouts: Mapping[str, RolloutView] = {}
    beta: Mapping[str, bool] = {}

    def view(self, name: str, model: Model) -> RolloutView | None:
        """Return the view of a model's rollout; None without one, or while rules and view are of different ones."""
        view, rollout = self.rollouts.get(name), model.rollout
        if view is None or rollout is None:
            return None
        same = view.candidate == rollout.candidate and view.image == model.versions[rollout.candidate].image
        return view if same else None


class Decision(Struct, frozen=True, kw_only=True):
    """A version for one request.

    `served_name` is what the engine calls the model (the tenant's LoRA adapter where it has one), `cluster` is Envoy's
    name for the version's endpoints, `why` is a sentence for a person. `trial` is what the request is to a rollout;
    `mirror_cluster` takes its copy, empty for none. `rescued`: where the candidate does not answer within its trial's
    `limit_s`, the stable version does.
    """

    model: str
    version: str
    reason: Reason
    why: str
    served_name: str
    adapter: str | None
    cluster: str
    priority_scheduling: bool
    trial: Trial | None = None
    mirror_cluster: str = ""
    rescued: bool = False


class _Choice(Struct, frozen=True, kw_only=True):
    """What the order above comes to. `arm` None: the request is nothing to the rollout."""

    version: str
    reason: Reason
    why: str
    arm: Arm | None = None
    share: float = 0.0
    dice: Dice | None = None
    mirror: bool = False


def decide(
    profile: Profile, name: str, model: Model, live: Live, throw: Callable[[str], Dice], *, streams: bool = False
) -> Decision:
    """Choose the version of `model` (known to clients as `name`) that serves this tenant's request.

    `throw` returns the dice of the request's unit in a rollout, by the rollout's id. `streams`: it asks for a stream.
    """
    choice = _choose(profile, name, model, live, throw)
    adapter, chosen = profile.adapters.get(name), model.versions[choice.version]
    cluster, mirror_cluster, rescued = cluster_name(name, choice.version), "", False
    by_priority = chosen.scheduling == "priority"
    trial = None
    rollout, view = model.rollout, live.view(name, model)
    if rollout is not None and view is not None and choice.arm is not None and choice.dice is not None:
        trial = Trial(
            rollout=view.id, candidate=rollout.candidate, arm=choice.arm, share=choice.share, unit=choice.dice.tag,
            mirror=choice.mirror, limit_s=rollout.rescue.stream_seconds if streams else rollout.rescue.answer_seconds,
        )  # fmt: skip
        if choice.arm == "candidate":
            cluster = rescue_cluster_name(name, rollout.candidate, model.stable)
            rescued = True
        elif choice.mirror:
            mirror_cluster = cluster_name(name, rollout.candidate)
        if rescued or mirror_cluster:
            # The same body goes to both, and vLLM refuses a priority where it does not schedule by it.
            by_priority = all(
                model.versions[version].scheduling == "priority" for version in (rollout.candidate, model.stable)
            )
    return Decision(
        model=name,
        version=choice.version,
        reason=choice.reason,
        why=choice.why,
        served_name=adapter or chosen.served_name or name,
        adapter=adapter,
        cluster=cluster,
        priority_scheduling=by_priority,
        trial=trial,
        mirror_cluster=mirror_cluster,
        rescued=rescued,
    )


def percent_of(profile: Profile, rollout: Rollout, view: RolloutView) -> float:
    """Return which percent of a tenant's units the split sends to the candidate."""
    default = rollout.percent if view.percent is None else view.percent
    return rollout.percent_by_tenant.get(profile.name, rollout.percent_by_tier.get(profile.tier, default))


def has_beta(profile: Profile, live: Live) -> bool:
    """Tell whether a tenant asks for candidates: its own word where the rules let it have one, else the rules'."""
    own = live.beta.get(profile.name) if profile.beta_self_service else None
    return profile.beta if own is None else own


def state_of(profile: Profile, view: RolloutView) -> State:
    """Return the state of a rollout for a tenant: that of the fleet, its tier and itself together."""
    scopes = (FLEET, tier_scope(profile.tier), tenant_scope(profile.name))
    return effective(view.states.get(scope, State.SPLITTING) for scope in scopes)


def cluster_name(model: str, version: str) -> str:
    """Return Envoy's cluster name for a version. Injective: `@` stands in neither name."""
    return f"{model}@{version}"


def rescue_cluster_name(model: str, candidate: str, stable: str) -> str:
    """Return Envoy's name for the aggregate cluster that tries a candidate first, then the stable version."""
    return f"{model}@{candidate}@{stable}"


def store_cluster(store: str, *, grpc: bool) -> str:
    """Return Envoy's name for the cluster of a store, by gRPC (HTTP/2) or REST; a version's has an `@`."""
    return f"store.{store}.{'grpc' if grpc else 'rest'}"


def cluster_names(rules: Rules) -> frozenset[str]:
    """Return the names of all clusters that a document's decisions can name."""
    return frozenset(_cluster_names(rules))


def _cluster_names(rules: Rules) -> Iterator[str]:
    for name, model in rules.models.items():
        yield from (cluster_name(name, version) for version in model.versions)
        if model.rollout is not None:
            yield rescue_cluster_name(name, model.rollout.candidate, model.stable)
    for name in rules.stores:
        yield from (store_cluster(name, grpc=grpc) for grpc in (True, False))


def _choose(profile: Profile, name: str, model: Model, live: Live, throw: Callable[[str], Dice]) -> _Choice:
    pinned = profile.pins.get(name)
    if pinned is not None:
        return _Choice(version=pinned, reason="pin", why=f"tenant {profile.name} is pinned to {pinned}")
    rollout, view = model.rollout, live.view(name, model)
    stable = f"{model.stable} is the stable version of {name}"
    if rollout is None:
        return _Choice(version=model.stable, reason="stable", why=stable)
    if view is None:
        why = f"the state of the rollout of {rollout.candidate} cannot be read, so nobody gets it; {stable}"
    elif (state := state_of(profile, view)) in (State.REVERTED, State.PAUSED):
        why = f"the rollout of {rollout.candidate} is {state.value} for {_whom(profile, view, state)}; {stable}"
    else:
        return _choose_open(profile, model.stable, rollout, view, beta=has_beta(profile, live), throw=throw) or _Choice(
            version=model.stable, reason="stable", why=stable
        )
    return _Choice(version=model.stable, reason="stable", why=why)


def _choose_open(
    profile: Profile, stable: str, rollout: Rollout, view: RolloutView, *, beta: bool, throw: Callable[[str], Dice]
) -> _Choice | None:
    """Choose while the rollout is open to the tenant; None when nothing of it goes to the candidate."""
    if beta:
        why = f"tenant {profile.name} has the beta flag and {rollout.candidate} is the candidate"
        return _all_of_it(rollout, "beta", why, throw(view.id))
    if state_of(profile, view) is State.PROMOTED:
        why = f"the candidate {rollout.candidate} is promoted for {_whom(profile, view, State.PROMOTED)}"
        return _all_of_it(rollout, "promoted", why, throw(view.id))
    percent = percent_of(profile, rollout, view)
    if percent <= 0.0 and rollout.mirror_percent <= 0.0:
        return None
    return _split(stable, rollout, percent, throw(view.id))


def _all_of_it(rollout: Rollout, reason: Reason, why: str, dice: Dice) -> _Choice:
    return _Choice(version=rollout.candidate, reason=reason, why=why, arm="candidate", share=1.0, dice=dice)


def _split(stable: str, rollout: Rollout, percent: float, dice: Dice) -> _Choice:
    candidate = dice.split < percent
    below = "below" if candidate else "not below"
    return _Choice(
        version=rollout.candidate if candidate else stable,
        reason="split" if candidate else "stable",
        why=f"its unit is in bucket {dice.split:.2f} of 100, {below} the {percent:g} % that go to {rollout.candidate}",
        arm="candidate" if candidate else "stable",
        share=percent / 100.0,
        dice=dice,
        mirror=not candidate and dice.mirror < rollout.mirror_percent,
    )


def _whom(profile: Profile, view: RolloutView, state: State) -> str:
    names = {FLEET: "all", tier_scope(profile.tier): f"tier {profile.tier}", tenant_scope(profile.name): profile.name}
    return next(words for scope, words in names.items() if view.states.get(scope) is state)
