"""The rules document: one schema for `tenantry up`, the Helm chart and the tests.

The operator writes one document. It grows with the number of *exceptions*, not of tenants: a
tenant that is known from a verified JWT or certificate needs no entry. `parse` turns plain data
(from YAML or JSON) into frozen structs and refuses it whole when a key is unknown, a name points
nowhere, or a credential stands twice (invariant 9). Secrets are never part of it: keys appear as
SHA-256 digests.

Keys are camelCase in the document and snake_case here. Units are in the names.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import chain, pairwise
from typing import Annotated, Literal

from msgspec import Meta

from tenantry.core.errors import Problem, RulesError
from tenantry.core.rules_base import (
    Document,
    Endpoint,
    HeaderName,
    KeyDigest,
    ModelName,
    Objective,
    OddsMargin,
    Percent,
    PositiveInt,
    Seconds,
    StickySource,
    TenantName,
    TierName,
    VersionName,
    bad_ports,
)
from tenantry.core.rules_billing import Billing, ModelProfile, Price, Quota, UsageSource
from tenantry.core.rules_stores import Store, StoreName, store_problems
from tenantry.core.schema import at_most, join, nearest, unprintable
from tenantry.core.schema import parse as parse_schema


class Jwt(Document, frozen=True, kw_only=True):
    """Tokens that Envoy's `jwt_authn` verifies; the sidecar trusts its metadata, never the header.

    `jwks_file` is a path on the proxy's disk. The tenant is the string claim `tenant_claim`;
    `tier_claim` is used for tenants that have no entry of their own.
    """

    issuer: Annotated[str, Meta(min_length=1)]
    audience: Annotated[str, Meta(min_length=1)]
    jwks_file: Annotated[str, Meta(min_length=1)]
    tenant_claim: Annotated[str, Meta(min_length=1)] = "tenant"
    tier_claim: str | None = None


class Mtls(Document, frozen=True, kw_only=True):
    """Client certificates: the tenant is what follows `uri_san_prefix` in the URI SAN that Envoy verified."""

    uri_san_prefix: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9+.-]*://.*/$", description="ends with /")]


class Identity(Document, frozen=True, kw_only=True):
    """Which credentials make a tenant. A credential of a kind that is off is ignored, and still stripped."""

    api_keys: bool = True
    jwt: Jwt | None = None
    mtls: Mtls | None = None


class Sla(Document, frozen=True, kw_only=True):
    """What a tier was promised, for alerts: nothing is refused or hurried by it.

    `availability` is the share of requests that must be answered (not 5xx, not cut); `ttft_share` of those that answer
    must have their first token within `ttft_seconds`. Absent: no objective.
    """

    availability: Objective | None = None
    ttft_seconds: Seconds | None = None
    ttft_share: Objective = 0.99


class Tier(Document, frozen=True, kw_only=True):
    """An SLA tier. `priority` is vLLM's: the lower, the earlier; `weight` is its share under contention."""

    priority: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    weight: Annotated[float, Meta(gt=0, le=1_000_000)] = 1.0
    max_in_flight: PositiveInt | None = None
    max_queue_seconds: Annotated[float, Meta(gt=0, le=86_400)] | None = None
    quota: Quota | None = None
    price: Price = Price()
    sla: Sla = Sla()


class Version(Document, frozen=True, kw_only=True):
    """One version of a model: where it runs and by which name its engine knows it.

    `served_name` defaults to the model's name. `scheduling: priority` declares that the pool runs
    vLLM with `--scheduling-policy priority`; elsewhere vLLM refuses any priority but 0.
    """

    endpoints: Annotated[tuple[Endpoint, ...], Meta(min_length=1, max_length=1024)]
    image: str = ""
    served_name: ModelName | None = None
    scheduling: Literal["fcfs", "priority"] = "fcfs"


class GuardMargins(Document, frozen=True, kw_only=True):
    """How much worse than the stable version a candidate may be before it counts against it.

    Odds and ratios are candidate over stable, `log_probability_drop` is in nats per output token. A candidate within
    its margins is left alone: with enough traffic any two versions differ.
    """

    error_odds: OddsMargin = 2.0
    ttft_ratio: OddsMargin = 1.25
    time_per_token_ratio: OddsMargin = 1.25
    output_length_ratio: Annotated[float, Meta(ge=0.001, le=1)] = 0.9
    unfinished_odds: OddsMargin = 2.0
    repetition_odds: OddsMargin = 2.0
    log_probability_drop: Annotated[float, Meta(ge=0, le=100)] = 0.1


class Guard(Document, frozen=True, kw_only=True):
    """When a candidate is taken back: `alpha` is the false-alarm probability over the whole rollout.

    `max_tenants` tenants are judged by themselves too, the others together. The candidate's first `warmup_requests`
    (per sidecar process) are not judged on latency.
    """

    alpha: Annotated[float, Meta(gt=0, lt=1)] = 0.01
    margins: GuardMargins = GuardMargins()
    max_tenants: Annotated[int, Meta(ge=1, le=10_000)] = 50
    warmup_requests: Annotated[int, Meta(ge=0, le=100_000)] = 30


class Rescue(Document, frozen=True, kw_only=True):
    """When a candidate that has not answered is taken for hung, and the stable version answers instead.

    A stream sends its headers at once, so `stream_seconds` may be short. A whole answer sends nothing before it is
    done: after `answer_seconds` the stable version is asked too, and the first answer wins. Either counts as a failure.
    """

    stream_seconds: Seconds = 10.0
    answer_seconds: Seconds = 120.0


class Records(Document, frozen=True, kw_only=True):
    """How long the guard waits for the engines' usage records of a request that ended.

    Without its record within `seconds` a request counts by its status alone. A mirrored copy has nothing else: without
    a record `mirror_seconds` after its original ended it counts as failed.
    """

    seconds: Seconds = 5.0
    mirror_seconds: Seconds = 60.0


class AutomaticSteps(Document, frozen=True, kw_only=True):
    """The share grows by itself through `percents`, after `min_units` candidate units and `min_seconds` at each.

    Off unless it stands here. The last step promotes (100) or stays; no data and no doubt ever takes a step.
    """

    percents: Annotated[tuple[Annotated[float, Meta(gt=0, le=100)], ...], Meta(min_length=1, max_length=20)] = (
        5.0,
        25.0,
        50.0,
        100.0,
    )
    min_units: PositiveInt = 300
    min_seconds: Seconds = 3_600.0


class Rollout(Document, frozen=True, kw_only=True):
    """A candidate version: `percent` of each tenant's own units, `mirror_percent` of the others copied.

    `percent_by_tier` and `percent_by_tenant` override `percent`, the tenant's own last. `sticky` says where a request
    names its unit, first match first: `body.MEMBER` or `header.NAME`; a request that names none is a unit by itself.
    """

    candidate: VersionName
    percent: Percent = 0.0
    percent_by_tier: dict[TierName, Percent] = {}
    percent_by_tenant: dict[TenantName, Percent] = {}
    mirror_percent: Percent = 0.0
    sticky: Annotated[tuple[StickySource, ...], Meta(max_length=16)] = (
        "body.safety_identifier",
        "body.user",
        "body.prompt_cache_key",
        "header.x-conversation-id",
        "header.x-session-id",
    )
    guard: Guard = Guard()
    rescue: Rescue = Rescue()
    records: Records = Records()
    steps: AutomaticSteps | None = None


class Model(Document, frozen=True, kw_only=True):
    """A model that clients can name.

    `profile` says what its tokens weigh. `usage` says how the usage of a request is learnt: from the engine's `plugin`;
    by an `estimate` from byte counts where there is none; or by reading the `response`, which the sidecar then sees.
    """

    stable: VersionName
    versions: Annotated[dict[VersionName, Version], Meta(min_length=1)]
    rollout: Rollout | None = None
    profile: ModelProfile = ModelProfile()
    usage: UsageSource = "plugin"


class Key(Document, frozen=True, kw_only=True):
    """One API key, as its digest. `not_after` lets a rotation overlap."""

    digest: KeyDigest
    not_after: datetime | None = None
    name: str = ""


class TenantRules(Document, frozen=True, kw_only=True):
    """What is special about a tenant.

    `models` limits it to these (absent: all). `pins` fix versions, `beta` asks for candidates,
    `adapters` name the LoRA adapter that answers for it. `beta_self_service` lets the tenant set
    its beta flag itself, at run time; without it the document's `betaSelfService` counts. `quota` takes the place
    of its tier's. `closed` refuses the tenant whatever it presents, also a token or certificate that names it.
    """

    tier: TierName | None = None
    keys: tuple[KeyDigest | Key, ...] = ()
    models: tuple[ModelName, ...] | None = None
    pins: dict[ModelName, VersionName] = {}
    beta: bool = False
    beta_self_service: bool | None = None
    adapters: dict[ModelName, ModelName] = {}
    quota: Quota | None = None
    closed: bool = False


class Limits(Document, frozen=True, kw_only=True):
    """Bounds. Bytes and seconds are in the names; `forward_headers` adds to what an upstream may see."""

    max_body_bytes: Annotated[int, Meta(ge=1024, le=256 * 1024 * 1024)] = 10 * 1024 * 1024
    stream_idle_seconds: Annotated[float, Meta(gt=0, le=86_400)] = 300.0
    max_open_exchanges: Annotated[int, Meta(gt=0, le=1_000_000)] = 20_000
    forward_headers: tuple[HeaderName, ...] = ()


class Metrics(Document, frozen=True, kw_only=True):
    """How many tenants get a label of their own; the others count together as `other`."""

    max_tenants: Annotated[int, Meta(ge=0, le=10_000)] = 200


class Rules(Document, frozen=True, kw_only=True):
    """The whole document, version 1."""

    version: Literal[1]
    models: dict[ModelName, Model]
    tiers: Annotated[dict[TierName, Tier], Meta(min_length=1)]
    identity: Identity = Identity()
    default_tier: TierName | None = None
    beta_self_service: bool = False
    tenants: dict[TenantName, TenantRules] = {}
    stores: dict[StoreName, Store] = {}
    limits: Limits = Limits()
    metrics: Metrics = Metrics()
    billing: Billing = Billing()


def parse(document: object) -> Rules:
    """Validate a document of plain data (dict, list, str, ...) and return it as Rules.

    Raises RulesError with each problem's path, what is wrong, and the nearest valid name.
    """
    rules = parse_schema(document, Rules)
    problems = at_most(chain(unprintable(document, ""), _dangling(rules)))
    if problems:
        raise RulesError(problems)
    return rules


def key_of(entry: str | Key) -> Key:
    """Return a key entry in its long form."""
    return Key(digest=entry) if isinstance(entry, str) else entry


def _dangling(rules: Rules) -> Iterator[Problem]:
    yield from _dangling_tiers(rules)
    for name, model in rules.models.items():
        yield from _dangling_versions(name, model)
        for version, where in model.versions.items():
            yield from bad_ports(join(f"{join('models', name)}.versions", version), where.endpoints)
    yield from _dangling_overrides(rules)
    for name, tenant in rules.tenants.items():
        yield from _dangling_tenant(rules, name, tenant)
    yield from _credentials(rules)
    yield from store_problems(rules.stores)


def _dangling_tiers(rules: Rules) -> Iterator[Problem]:
    if rules.default_tier is not None and rules.default_tier not in rules.tiers:
        yield _no_such("defaultTier", "tier", rules.default_tier, rules.tiers)
    jwt = rules.identity.jwt
    tier_from_token = jwt is not None and jwt.tier_claim is not None
    for name, tenant in rules.tenants.items():
        if tenant.tier is not None and tenant.tier not in rules.tiers:
            yield _no_such(join(join("tenants", name), "tier"), "tier", tenant.tier, rules.tiers)
        elif tenant.tier is None and rules.default_tier is None and not (tier_from_token or tenant.closed):
            yield Problem(
                path=join(join("tenants", name), "tier"),
                message="the tenant has no tier",
                hint="name one here, or a defaultTier for all, or a tierClaim of the tokens",
            )


def _dangling_versions(name: str, model: Model) -> Iterator[Problem]:
    path = join("models", name)
    if model.stable not in model.versions:
        yield _no_such(join(path, "stable"), "version", model.stable, model.versions)
    rollout = model.rollout
    if rollout is None:
        return
    if rollout.candidate not in model.versions:
        yield _no_such(f"{path}.rollout.candidate", "version", rollout.candidate, model.versions)
        return
    if rollout.candidate == model.stable:
        yield Problem(
            path=f"{path}.rollout.candidate",
            message=f'"{rollout.candidate}" is the stable version already',
            hint="name another version, or remove the rollout",
        )
    if model.stable in model.versions:
        yield from _unlike(name, model, rollout.candidate)


def _unlike(name: str, model: Model, candidate: str) -> Iterator[Problem]:
    """Refuse versions that cannot answer the same request: a rescued or mirrored one goes to both as it is."""
    ours, theirs = (model.versions[version] for version in (candidate, model.stable))
    if (ours.served_name or name) != (theirs.served_name or name):
        yield Problem(
            path=f"{join(join('models', name) + '.versions', candidate)}.servedName",
            message=f'the candidate is asked for "{ours.served_name or name}", the stable version for '
            f'"{theirs.served_name or name}", and a request must fit both',
            hint="give both one served name (vLLM: --served-model-name takes several)",
        )


def _dangling_overrides(rules: Rules) -> Iterator[Problem]:
    for name, model in rules.models.items():
        rollout = model.rollout
        for tier in rollout.percent_by_tier if rollout else ():
            if tier not in rules.tiers:
                yield _no_such(join(f"{join('models', name)}.rollout.percentByTier", tier), "tier", tier, rules.tiers)
        if rollout and rollout.steps is not None:
            percents = rollout.steps.percents
            if any(low >= high for low, high in pairwise(percents)):
                yield Problem(
                    path=f"{join('models', name)}.rollout.steps.percents",
                    message="the steps do not rise",
                    hint="for example [5, 25, 50, 100]",
                )


def _dangling_tenant(rules: Rules, name: str, tenant: TenantRules) -> Iterator[Problem]:
    path = join("tenants", name)
    for index, model in enumerate(tenant.models or ()):
        if model not in rules.models:
            yield _no_such(f"{path}.models[{index}]", "model", model, rules.models)
    for model in tenant.adapters:
        if model not in rules.models:
            yield _no_such(join(f"{path}.adapters", model), "model", model, rules.models)
    for model, version in tenant.pins.items():
        where = join(f"{path}.pins", model)
        if model not in rules.models:
            yield _no_such(where, "model", model, rules.models)
        elif version not in rules.models[model].versions:
            yield _no_such(where, "version", version, rules.models[model].versions)


def _credentials(rules: Rules) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for name, tenant in rules.tenants.items():
        for index, entry in enumerate(tenant.keys):
            path = f"{join('tenants', name)}.keys[{index}]"
            key = key_of(entry)
            if key.not_after is not None and key.not_after.tzinfo is None:
                yield Problem(path=path, message="notAfter has no time zone", hint='end it with "Z" for UTC')
            first = seen.setdefault(key.digest, path)
            if first is not path:
                yield Problem(path=path, message=f"the same key stands at {first}", hint="a key names one tenant, once")


def _no_such(path: str, kind: str, name: str, known: Iterable[str]) -> Problem:
    return Problem(path=path, message=f'no {kind} is called "{name}"', hint=nearest(name, known))


def not_acted_on(rules: Rules) -> list[str]:
    """Name the parts of a valid document that this release validates but does not act on yet.

    Empty for a document that is served whole. `tenantry check` and the log at start print it.
    """
    found = []
    for name, tier in rules.tiers.items():
        set_keys = [
            key
            for key, value in (
                ("weight", tier.weight != 1.0),
                ("maxInFlight", tier.max_in_flight),
                ("maxQueueSeconds", tier.max_queue_seconds),
            )
            if value
        ]
        if set_keys:
            found.append(f"tiers.{name}: {', '.join(set_keys)} (admission control)")
    return found
