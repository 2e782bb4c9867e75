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

from msgspec import Meta, Struct

from tenantry.core.errors import Problem, RulesError
from tenantry.core.schema import at_most, join, nearest, unprintable
from tenantry.core.schema import parse as parse_schema

TENANT_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"

TenantName = Annotated[str, Meta(pattern=TENANT_PATTERN, description="1 to 63 of A-Z a-z 0-9 . _ -")]
TIER_PATTERN = r"^[a-z0-9][a-z0-9-]{0,31}$"
TierName = Annotated[str, Meta(pattern=TIER_PATTERN, description="1 to 32 of a-z 0-9 -")]
ModelName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$", description="as clients send it")]
VersionName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$", description='quote it: "1.4"')]
Endpoint = Annotated[str, Meta(pattern=r"^([A-Za-z0-9._-]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}$", description="host:port")]
KeyDigest = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}$", description="from `tenantry key new`")]
HeaderName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$", description="lower case")]
Percent = Annotated[float, Meta(ge=0, le=100)]
PositiveInt = Annotated[int, Meta(gt=0, le=10**15)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
OddsMargin = Annotated[float, Meta(ge=1, le=1_000)]
StickySource = Annotated[
    str,
    Meta(
        pattern=r"^(body\.[A-Za-z_][A-Za-z0-9_]{0,63}|header\.[a-z0-9][a-z0-9-]{0,63})$",
        description="body.MEMBER or header.NAME",
    ),
]


class _Document(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Base of every struct of the document: frozen, strict, camelCase outside."""


class Jwt(_Document, frozen=True, kw_only=True):
    """Tokens that Envoy's `jwt_authn` verifies; the sidecar trusts its metadata, never the header.

    `jwks_file` is a path on the proxy's disk. The tenant is the string claim `tenant_claim`;
    `tier_claim` is used for tenants that have no entry of their own.
    """

    issuer: Annotated[str, Meta(min_length=1)]
    audience: Annotated[str, Meta(min_length=1)]
    jwks_file: Annotated[str, Meta(min_length=1)]
    tenant_claim: Annotated[str, Meta(min_length=1)] = "tenant"
    tier_claim: str | None = None


class Mtls(_Document, frozen=True, kw_only=True):
    """Client certificates: the tenant is what follows `uri_san_prefix` in the URI SAN that Envoy verified."""

    uri_san_prefix: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9+.-]*://.*/$", description="ends with /")]


class Identity(_Document, frozen=True, kw_only=True):
    """Which credentials make a tenant. A credential of a kind that is off is ignored, and still stripped."""

    api_keys: bool = True
    jwt: Jwt | None = None
    mtls: Mtls | None = None


class Quota(_Document, frozen=True, kw_only=True):
    """What a tier may spend."""

    compute_units_per_minute: PositiveInt


class Tier(_Document, frozen=True, kw_only=True):
    """An SLA tier. `priority` is vLLM's: the lower, the earlier; `weight` is its share under contention."""

    priority: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    weight: Annotated[float, Meta(gt=0, le=1_000_000)] = 1.0
    max_in_flight: PositiveInt | None = None
    max_queue_seconds: Annotated[float, Meta(gt=0, le=86_400)] | None = None
    quota: Quota | None = None


class Version(_Document, frozen=True, kw_only=True):
    """One version of a model: where it runs and by which name its engine knows it.

    `served_name` defaults to the model's name. `scheduling: priority` declares that the pool runs
    vLLM with `--scheduling-policy priority`; elsewhere vLLM refuses any priority but 0.
    """

    endpoints: Annotated[tuple[Endpoint, ...], Meta(min_length=1, max_length=1024)]
    image: str = ""
    served_name: ModelName | None = None
    scheduling: Literal["fcfs", "priority"] = "fcfs"


class GuardMargins(_Document, frozen=True, kw_only=True):
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


class Guard(_Document, frozen=True, kw_only=True):
    """When a candidate is taken back: `alpha` is the false-alarm probability over the whole rollout.

    `max_tenants` tenants are judged by themselves too, the others together. The candidate's first `warmup_requests`
    (per sidecar process) are not judged on latency.
    """

    alpha: Annotated[float, Meta(gt=0, lt=1)] = 0.01
    margins: GuardMargins = GuardMargins()
    max_tenants: Annotated[int, Meta(ge=1, le=10_000)] = 50
    warmup_requests: Annotated[int, Meta(ge=0, le=100_000)] = 30


class Rescue(_Document, frozen=True, kw_only=True):
    """When a candidate that has not answered is taken for hung, and the stable version answers instead.

    A stream sends its headers at once, so `stream_seconds` may be short. A whole answer sends nothing before it is
    done: after `answer_seconds` the stable version is asked too, and the first answer wins. Either counts as a failure.
    """

    stream_seconds: Seconds = 10.0
    answer_seconds: Seconds = 120.0


class Records(_Document, frozen=True, kw_only=True):
    """How long the guard waits for the engines' usage records of a request that ended.

    Without its record within `seconds` a request counts by its status alone. A mirrored copy has nothing else: without
    a record `mirror_seconds` after its original ended it counts as failed.
    """

    seconds: Seconds = 5.0
    mirror_seconds: Seconds = 60.0


class AutomaticSteps(_Document, frozen=True, kw_only=True):
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


class Rollout(_Document, frozen=True, kw_only=True):
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


class Model(_Document, frozen=True, kw_only=True):
    """A model that clients can name."""

    stable: VersionName
    versions: Annotated[dict[VersionName, Version], Meta(min_length=1)]
    rollout: Rollout | None = None


class Key(_Document, frozen=True, kw_only=True):
    """One API key, as its digest. `not_after` lets a rotation overlap."""

    digest: KeyDigest
    not_after: datetime | None = None
    name: str = ""


class TenantRules(_Document, frozen=True, kw_only=True):
    """What is special about a tenant.

    `models` limits it to these (absent: all). `pins` fix versions, `beta` asks for candidates,
    `adapters` name the LoRA adapter that answers for it. `beta_self_service` lets the tenant set
    its beta flag itself, at run time; without it the document's `betaSelfService` counts.
    """

    tier: TierName | None = None
    keys: tuple[KeyDigest | Key, ...] = ()
    models: tuple[ModelName, ...] | None = None
    pins: dict[ModelName, VersionName] = {}
    beta: bool = False
    beta_self_service: bool | None = None
    adapters: dict[ModelName, ModelName] = {}


FieldName = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,254}$", description="as in the schema")]
CollectionName = Annotated[
    str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,221}$", description="1 to 222 of A-Z a-z 0-9 _")
]
StoreName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="1 to 63 of a-z 0-9 -")]
HostName = Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$", description="lower case, no port")]


class Collection(_Document, frozen=True, kw_only=True):
    """A collection that tenants share.

    `tenant_field` is the VARCHAR field that says whose a row is. `primary_field` is the VARCHAR primary key, which
    `keyprefix` has to know. `spread` equal collections (NAME, NAME__1, ...) hold the tenants, by a hash: Milvus has no
    more than 1,024 partitions in one. Raising it later moves tenants away from their rows.
    """

    tenant_field: FieldName = "tenant_id"
    primary_field: FieldName | None = None
    spread: Annotated[int, Meta(ge=1, le=1_024)] = 1


class StoreTls(_Document, frozen=True, kw_only=True):
    """TLS to a store. Its certificate is of a CA in `ca_file` (on the proxy's disk) and names the endpoint's host."""

    ca_file: Annotated[str, Meta(min_length=1)] = "/etc/ssl/certs/ca-certificates.crt"


class Store(_Document, frozen=True, kw_only=True):
    """A vector store and how tenants are kept apart in it.

    `endpoints` speak gRPC and REST, as Milvus does on its one port, or REST alone where `grpc_endpoints` are named.

    Under `partition` and `keyprefix` tenants share the `collections` named here, which the operator makes. Under
    `database` and `collection` tenants make their own, of any name, and `tenant_field` is added to each. `hosts` are
    the names under which clients reach this store; a store without any serves every other host, one for each kind.
    `load_and_flush` lets tenants flush collections that they share, and load them with parameters (it costs others
    time, never rows).
    """

    kind: Literal["milvus", "pinecone"]
    endpoints: Annotated[tuple[Endpoint, ...], Meta(min_length=1)]
    grpc_endpoints: tuple[Endpoint, ...] = ()
    tls: StoreTls | None = None
    isolation: Literal["database", "collection", "partition", "keyprefix", "namespace"]
    hosts: Annotated[tuple[HostName, ...], Meta(max_length=64)] = ()
    tenant_field: FieldName = "tenant_id"
    collections: dict[CollectionName, Collection] = {}
    load_and_flush: bool = False


class Limits(_Document, frozen=True, kw_only=True):
    """Bounds. Bytes and seconds are in the names; `forward_headers` adds to what an upstream may see."""

    max_body_bytes: Annotated[int, Meta(ge=1024, le=256 * 1024 * 1024)] = 10 * 1024 * 1024
    stream_idle_seconds: Annotated[float, Meta(gt=0, le=86_400)] = 300.0
    max_open_exchanges: Annotated[int, Meta(gt=0, le=1_000_000)] = 20_000
    forward_headers: tuple[HeaderName, ...] = ()


class Metrics(_Document, frozen=True, kw_only=True):
    """How many tenants get a label of their own; the others count together as `other`."""

    max_tenants: Annotated[int, Meta(ge=0, le=10_000)] = 200


class Rules(_Document, frozen=True, kw_only=True):
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
            yield from _bad_ports(join(f"{join('models', name)}.versions", version), where.endpoints)
    yield from _dangling_overrides(rules)
    for name, tenant in rules.tenants.items():
        yield from _dangling_tenant(rules, name, tenant)
    yield from _credentials(rules)
    yield from _stores(rules)


def _stores(rules: Rules) -> Iterator[Problem]:
    served: dict[tuple[str, str], str] = {}
    for name, store in rules.stores.items():
        path = join("stores", name)
        yield from _bad_ports(path, store.endpoints)
        yield from _bad_ports(path, store.grpc_endpoints, "grpcEndpoints")
        yield from _unfit(path, store)
        for host in store.hosts or ("",):
            first = served.setdefault((store.kind, host), name)
            if first != name:
                yield Problem(
                    path=f"{path}.hosts",
                    message=f'{store.kind} store "{first}" serves {host or "every host"} already',
                    hint="name the hosts by which clients reach each of them",
                )


def _unfit(path: str, store: Store) -> Iterator[Problem]:
    if (store.isolation == "namespace") != (store.kind == "pinecone"):
        right = "namespace" if store.kind == "pinecone" else "database, collection, partition or keyprefix"
        yield Problem(
            path=join(path, "isolation"),
            message=f"{store.kind} has no isolation by {store.isolation}",
            hint=f"use {right}",
        )
    if store.tls is not None:
        yield from _unnamed_hosts(path, "endpoints", store.endpoints)
        yield from _unnamed_hosts(path, "grpcEndpoints", store.grpc_endpoints)
    shared = store.isolation in ("partition", "keyprefix")
    if shared != bool(store.collections):
        yield Problem(
            path=join(path, "collections"),
            message="no collection is named" if shared else f"tenants name their own under {store.isolation}",
            hint="name those that tenants share" if shared else "remove it; tenantField of the store is for all",
        )
    for name, collection in store.collections.items():
        where = join(f"{path}.collections", name)
        if "__" in name:
            yield Problem(path=where, message="a name with __ is kept for spread collections", hint="choose another")
        if (store.isolation == "keyprefix") != (collection.primary_field is not None):
            needed = collection.primary_field is None
            yield Problem(
                path=join(where, "primaryField"),
                message="keyprefix must know the primary key" if needed else "only keyprefix rewrites primary keys",
                hint="name the VARCHAR primary field" if needed else "remove it",
            )
        elif collection.primary_field == collection.tenant_field:
            yield Problem(path=join(where, "primaryField"), message="it is the tenant field", hint="name another")


def _unnamed_hosts(path: str, member: str, endpoints: Iterable[str]) -> Iterator[Problem]:
    for index, endpoint in enumerate(endpoints):
        host = endpoint.rpartition(":")[0]
        if host.startswith("[") or host.replace(".", "").isdigit():
            yield Problem(
                path=f"{path}.{member}[{index}]",
                message="an address has no name that its certificate could prove",
                hint="give the host's name, or remove tls",
            )


def _bad_ports(path: str, endpoints: Iterable[str], member: str = "endpoints") -> Iterator[Problem]:
    for index, endpoint in enumerate(endpoints):
        port = int(endpoint.rpartition(":")[2])
        if not 1 <= port <= 65535:
            yield Problem(path=f"{path}.{member}[{index}]", message=f"no port has the number {port}", hint="1 to 65535")


def _dangling_tiers(rules: Rules) -> Iterator[Problem]:
    if rules.default_tier is not None and rules.default_tier not in rules.tiers:
        yield _no_such("defaultTier", "tier", rules.default_tier, rules.tiers)
    jwt = rules.identity.jwt
    tier_from_token = jwt is not None and jwt.tier_claim is not None
    for name, tenant in rules.tenants.items():
        if tenant.tier is not None and tenant.tier not in rules.tiers:
            yield _no_such(join(join("tenants", name), "tier"), "tier", tenant.tier, rules.tiers)
        elif tenant.tier is None and rules.default_tier is None and not tier_from_token:
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
                ("quota", tier.quota),
            )
            if value
        ]
        if set_keys:
            found.append(f"tiers.{name}: {', '.join(set_keys)} (admission control)")
    return found
