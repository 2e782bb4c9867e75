"""The rules document: what it may say, and what is said about one that is wrong (invariant 9)."""

from datetime import UTC, datetime

import pytest
from tenantry.core.apikeys import digest_text
from tenantry.core.errors import RulesError
from tenantry.core.rules import Guard, Key, Rollout, Rules, TenantRules, Tier, Version, key_of, not_acted_on, parse
from tenantry_testing.documents import JWT, KEYS, MTLS, document, rules

DIGEST = digest_text(KEYS["nobody"])
SHORT_JWT = {"issuer": "i", "audience": "a", "jwksFile": "j", "tenantClaim": "t"}
STORE = {"kind": "milvus", "endpoints": ["127.0.0.1:19530"], "isolation": "partition", "collections": {"notes": {}}}
KEYED = STORE | {"isolation": "keyprefix", "collections": {"notes": {"primaryField": "id"}}}
PINE = {"kind": "pinecone", "endpoints": ["[::1]:5080"], "isolation": "namespace"}

EVERYTHING = document(
    {
        "tiers.gold": {"priority": -5, "weight": 8, "maxInFlight": 64, "maxQueueSeconds": 30},
        "tiers.bronze": {"quota": {"computeUnitsPerMinute": 50_000}},
        "tenants.acme.adapters": {"embed": "org/acme-lora"},
        "tenants.acme.keys": [
            DIGEST,
            {"digest": f"sha256:{'a' * 64}", "notAfter": "2027-01-15T08:00:00Z", "name": "ci"},
        ],
        "models.chat-8b.rollout": {"candidate": "1.5.0", "percent": 5, "mirrorPercent": 0.5, "guard": {"alpha": 0.05}},
    },
    identity={"apiKeys": False, "jwt": JWT, "mtls": MTLS},
    defaultTier="bronze",
    stores={"docs": STORE | {"collections": {"notes": {}, "files": {"tenantField": "owner"}}}, "pine": PINE},
    limits={"maxBodyBytes": 1024, "streamIdleSeconds": 60, "maxOpenExchanges": 5, "forwardHeaders": ["x-trace"]},
    metrics={"maxTenants": 0},
)


def problems(document: object) -> list[str]:
    with pytest.raises(RulesError) as caught:
        parse(document)
    return [str(problem) for problem in caught.value.problems]


def test_a_document_with_everything() -> None:
    made = parse(EVERYTHING)
    assert made.tiers["gold"] == Tier(priority=-5, weight=8.0, max_in_flight=64, max_queue_seconds=30.0)
    assert made.tiers["bronze"].quota is not None
    assert made.tiers["bronze"].quota.compute_units_per_minute == 50_000
    rollout = made.models["chat-8b"].rollout
    assert rollout is not None
    assert (rollout.candidate, rollout.percent, rollout.mirror_percent, rollout.guard.alpha) == (
        "1.5.0",
        5.0,
        0.5,
        0.05,
    )
    assert made.tenants["acme"].keys[1] == Key(
        digest=f"sha256:{'a' * 64}", not_after=datetime(2027, 1, 15, 8, tzinfo=UTC), name="ci"
    )
    assert made.identity.jwt is not None
    assert (made.identity.jwt.tenant_claim, made.identity.jwt.tier_claim) == ("tenant", "tier")
    assert (made.identity.api_keys, made.default_tier) == (False, "bronze")
    assert {name: each.tenant_field for name, each in made.stores["docs"].collections.items()} == {
        "notes": "tenant_id",
        "files": "owner",
    }
    assert (made.limits.max_body_bytes, made.limits.forward_headers) == (1024, ("x-trace",))
    assert made.metrics.max_tenants == 0


def test_what_a_document_need_not_say() -> None:
    made = parse({"version": 1, "models": {}, "tiers": {"only": {}}})
    assert made == Rules(version=1, models={}, tiers={"only": Tier(priority=0, weight=1.0)})
    assert made.identity.api_keys
    assert (made.identity.jwt, made.identity.mtls, made.default_tier, made.tenants, made.stores) == (
        None,
        None,
        None,
        {},
        {},
    )
    assert TenantRules() == TenantRules(tier=None, keys=(), models=None, pins={}, beta=False, adapters={})
    assert Rollout(candidate="2") == Rollout(candidate="2", percent=0.0, mirror_percent=0.0, guard=Guard(alpha=0.01))
    assert made.limits.max_body_bytes == 10 * 1024 * 1024
    assert (made.limits.stream_idle_seconds, made.limits.max_open_exchanges, made.limits.forward_headers) == (
        300.0,
        20_000,
        (),
    )
    assert made.metrics.max_tenants == 200


def test_it_is_frozen() -> None:
    with pytest.raises(AttributeError):
        rules().default_tier = "gold"  # type: ignore[misc]


def test_a_key_may_be_written_short() -> None:
    assert key_of(DIGEST) == Key(digest=DIGEST, not_after=None, name="")
    assert key_of(Key(digest=DIGEST, name="ci")) == Key(digest=DIGEST, name="ci")


V = "models/chat-8b/versions/1.4.0"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        # unknown keys, at every depth
        ({"teirs": {}}, 'teirs: unknown key; did you mean "tiers"? '),
        ({"tiers.gold.wieght": 1}, 'tiers.gold.wieght: unknown key; did you mean "weight"? '),
        ({"tiers.gold.max_in_flight": 1}, 'tiers.gold.max_in_flight: unknown key; did you mean "maxInFlight"? '),
        ({f"{V}/serverName": "x"},
         'models.chat-8b.versions["1.4.0"].serverName: unknown key; did you mean "servedName"? '),
        ({"identity": {"jwt": JWT | {"jwksUri": "x"}}}, "identity.jwt.jwksUri: unknown key"),
        # names that point nowhere
        ({"defaultTier": "glod"}, 'defaultTier: no tier is called "glod"; did you mean "gold"? (known: bronze, gold)'),
        ({"tenants.acme.tier": "x"}, 'tenants.acme.tier: no tier is called "x"; (known: bronze, gold)'),
        ({"models.embed.stable": "2"}, 'models.embed.stable: no version is called "2"; (known: 1)'),
        ({"models.chat-8b.rollout.candidate": "1.5"},
         'models.chat-8b.rollout.candidate: no version is called "1.5"; did you mean "1.5.0"? (known: 1.4.0, 1.5.0)'),
        ({"models.chat-8b.rollout.candidate": "1.4.0"},
         'models.chat-8b.rollout.candidate: "1.4.0" is the stable version already; name another version'),
        ({"models/chat-8b/versions/1.5.0/servedName": "next"},
         'models.chat-8b.versions["1.5.0"].servedName: the candidate is asked for "next", the stable version'),
        ({"models.chat-8b.rollout.percentByTier": {"glod": 1}},
         'models.chat-8b.rollout.percentByTier.glod: no tier is called "glod"; did you mean "gold"?'),
        ({"models.chat-8b.rollout.steps": {"percents": [5, 50, 25]}},
         "models.chat-8b.rollout.steps.percents: the steps do not rise; for example [5, 25, 50, 100]"),
        ({"models.chat-8b.rollout.sticky": ["body.user", "cookie.x"]}, "models.chat-8b.rollout.sticky[1]: expected"),
        ({"models.chat-8b.rollout.guard": {"margins": {"ttftRatio": 0.9}}},
         "models.chat-8b.rollout.guard.margins.ttftRatio: expected `float` >= 1"),
        ({"tenants.acme.models": ["embed", "chat-8B"]},
         'tenants.acme.models[1]: no model is called "chat-8B"; did you mean "chat-8b"? (known: chat-8b, embed)'),
        ({"tenants.acme.adapters": {"chat": "lora"}},
         'tenants.acme.adapters.chat: no model is called "chat"; did you mean '),
        ({"tenants.acme.pins": {"chat": "1"}},
         'tenants.acme.pins.chat: no model is called "chat"; did you mean "chat-8b"? '),
        ({"tenants.acme.pins": {"embed": "1.4.0"}},
         'tenants.acme.pins.embed: no version is called "1.4.0"; (known: 1)'),
        # a name with a dot is told from a path
        ({"tenants": {"a.b": {"tier": "x"}}}, 'tenants["a.b"].tier: no tier is called "x"'),
        # a tenant that could never be served
        ({"tenants.acme.tier": ...},
         "tenants.acme.tier: the tenant has no tier; name one here, or a defaultTier for all, or a "),
        ({"tenants.acme.tier": ..., "identity": {"mtls": MTLS}}, "tenants.acme.tier: the tenant has no tier"),
        ({"tenants.acme.tier": ..., "identity": {"jwt": JWT | {"tierClaim": None}}},
         "tenants.acme.tier: the tenant has no tier"),
        # stores
        ({"stores": {"s": STORE | {"isolation": "namespace"}}},
         "stores.s.isolation: milvus has no isolation by namespace; use database, collection, partition or keyprefix"),
        ({"stores": {"s": PINE | {"isolation": "partition"}}},
         "stores.s.isolation: pinecone has no isolation by partition; use namespace"),
        ({"stores": {"s": STORE | {"collections": {}}}},
         "stores.s.collections: no collection is named; name those that tenants share"),
        ({"stores": {"s": STORE | {"isolation": "collection"}}},
         "stores.s.collections: tenants name their own under collection; remove it; tenantField of the store is for"),
        ({"stores": {"s": STORE | {"isolation": "keyprefix"}}},
         "stores.s.collections.notes.primaryField: keyprefix must know the primary key; name the VARCHAR primary"),
        ({"stores": {"s": STORE | {"collections": {"notes": {"primaryField": "id"}}}}},
         "stores.s.collections.notes.primaryField: only keyprefix rewrites primary keys; remove it"),
        ({"stores": {"s": KEYED | {"collections": {"notes": {"primaryField": "tenant_id"}}}}},
         "stores.s.collections.notes.primaryField: it is the tenant field; name another"),
        ({"stores": {"s": STORE, "other": STORE}},
         'stores.other.hosts: milvus store "s" serves every host already; name the hosts by which clients'),
        ({"stores": {"s": STORE | {"hosts": ["a.example"]}, "other": STORE | {"hosts": ["b.example", "a.example"]}}},
         'stores.other.hosts: milvus store "s" serves a.example already'),
        ({"stores": {"s": STORE | {"collections": {"notes__1": {}}}}},
         "stores.s.collections.notes__1: a name with __ is kept for spread collections; choose another"),
        # credentials
        ({"tenants.acme.keys": [{"digest": DIGEST, "notAfter": "2027-01-15T08:00:00"}]},
         'tenants.acme.keys[0]: notAfter has no time zone; end it with "Z" for UTC'),
        ({"tenants.acme.keys": [DIGEST, {"digest": DIGEST}]},
         "tenants.acme.keys[1]: the same key stands at tenants.acme.keys[0]; a key names one tenant, once"),
        ({"tenants.acme.keys": [digest_text(KEYS["globex"])]},
         "tenants.globex.keys[0]: the same key stands at tenants.acme.keys[0]; a key names one tenant, once"),
        # names become header values and cluster names
        ({"tenants": {"acme\n": {"tier": "gold"}}},
         "tenants.acme\n: a line break or another unprintable character; remove it"),
        ({"limits": {"forwardHeaders": ["x-a\n"]}}, "limits.forwardHeaders[0]: a line break"),
        ({f"{V}/image": "chat\x00"}, 'models.chat-8b.versions["1.4.0"].image: a line break'),
        ({"tenants": {"a:b": {"tier": "gold"}}}, "tenants.a:b: expected `str` matching regex"),
        ({"tenants": {"x" * 64: {"tier": "gold"}}}, f"tenants.{'x' * 64}: expected `str` matching regex"),
        ({"models": {"a@b": {"stable": "1", "versions": {"1": {"endpoints": ["h:1"]}}}}},
         "models.a@b: expected `str` matching"),
        ({"models": {"a": {"stable": "b@c", "versions": {"b@c": {"endpoints": ["h:1"]}}}}},
         "models.a.stable: expected `str` ma"),
        ({"limits": {"forwardHeaders": ["X-Trace"]}}, "limits.forwardHeaders[0]: expected `str` matching regex"),
        ({"limits": {"forwardHeaders": [":path"]}}, "limits.forwardHeaders[0]: expected `str` matching regex"),
        # endpoints
        ({f"{V}/endpoints": []}, 'models.chat-8b.versions["1.4.0"].endpoints: expected `array` of length >= 1'),
        ({f"{V}/endpoints": ["h:1"] * 1025},
         'models.chat-8b.versions["1.4.0"].endpoints: expected `array` of length <= 1024'),
        ({f"{V}/endpoints": ["h:1", "h"]},
         'models.chat-8b.versions["1.4.0"].endpoints[1]: expected `str` matching regex'),
        ({f"{V}/endpoints": ["http://h:1"]},
         'models.chat-8b.versions["1.4.0"].endpoints[0]: expected `str` matching regex'),
        ({f"{V}/endpoints": ["h:1", "h:0"]},
         'models.chat-8b.versions["1.4.0"].endpoints[1]: no port has the number 0; 1 to 65535'),
        ({f"{V}/endpoints": ["[::1]:65536"]},
         'models.chat-8b.versions["1.4.0"].endpoints[0]: no port has the number 65536'),
        ({"stores": {"s": STORE | {"endpoints": ["h:99999"]}}}, "stores.s.endpoints[0]: no port has the number 99999"),
        ({"stores": {"s": STORE | {"grpcEndpoints": ["h:1", "h:0"]}}},
         "stores.s.grpcEndpoints[1]: no port has the number 0"),
        ({"stores": {"s": STORE | {"endpoints": ["h:1", "10.0.0.1:1"], "tls": {}}}},
         "stores.s.endpoints[1]: an address has no name that its certificate could prove; give the host's name"),
        ({"stores": {"s": PINE | {"endpoints": ["h:1"], "grpcEndpoints": ["[::1]:1"], "tls": {}}}},
         "stores.s.grpcEndpoints[0]: an address has no name that its certificate could prove"),
        ({"models.embed.versions": {}}, "models.embed.versions: expected `object` of length >= 1"),
        ({"tiers": {}}, "tiers: expected `object` of length >= 1"),
        # what YAML makes of an unquoted version
        ({"models.embed.stable": 1},
         "models.embed.stable: expected `str`, got `int`; YAML reads 1 as a number: write it in "),
        ({"models.embed.versions": {1.4: {"endpoints": ["h:1"]}}},
         'models.embed.versions["1.4"]: expected `str`, got `float`'),
        ({"version": 2}, "version: invalid enum value 2"),
        ({"stores": {"s": STORE | {"isolation": "colection"}}},
         """stores.s.isolation: invalid enum value 'colection'; did you mean "collection"? (known: """),
        ({"version": "1"}, "version: expected `int`, got `str`"),
        ({"tenants.acme": None}, "tenants.acme: expected a mapping, got nothing"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_place_and_what_would_be_right(
    changes: dict[str, object], complaint: str
) -> None:
    """Invariant 9."""
    assert problems(document(changes))[0].startswith(complaint)


@pytest.mark.parametrize(
    ("path", "bad", "good"),
    [
        ("tiers.gold.priority", (-1001, 1001, 1.5), (-1000, 1000)),
        ("tiers.gold.weight", (0, -1, 1_000_001, float("inf"), float("nan")), (0.001, 1_000_000)),
        ("tiers.gold.maxInFlight", (0, -1, 10**15 + 1), (1, 10**15)),
        ("tiers.gold.maxQueueSeconds", (0, 86_401), (0.5, 86_400)),
        ("tiers.gold.quota", ({"computeUnitsPerMinute": 0}, {"alertAt": [0]}), ({"computeUnitsPerMinute": 1},)),
        ("models.chat-8b.rollout.percent", (-0.1, 100.1, float("nan")), (0, 100)),
        ("models.chat-8b.rollout.mirrorPercent", (-0.1, 100.1), (0, 100)),
        ("models.chat-8b.rollout.guard", ({"alpha": 0}, {"alpha": 1}), ({"alpha": 0.5},)),
        ("limits", ({"maxBodyBytes": 1023}, {"maxBodyBytes": 268_435_457}),
         ({"maxBodyBytes": 1024}, {"maxBodyBytes": 268_435_456})),
        ("limits", ({"streamIdleSeconds": 0}, {"streamIdleSeconds": 86_401}),
         ({"streamIdleSeconds": 86_400}, {"streamIdleSeconds": 0.5})),
        ("limits", ({"maxOpenExchanges": 0}, {"maxOpenExchanges": 1_000_001}),
         ({"maxOpenExchanges": 1_000_000}, {"maxOpenExchanges": 1})),
        ("metrics", ({"maxTenants": -1}, {"maxTenants": 10_001}), ({"maxTenants": 0}, {"maxTenants": 10_000})),
        ("identity", ({"mtls": {"uriSanPrefix": "spiffe://prod"}}, {"mtls": {"uriSanPrefix": "/tenant/"}}),
         ({"mtls": MTLS},)),
        ("identity", tuple({"jwt": JWT | {key: ""}} for key in SHORT_JWT), ({"jwt": SHORT_JWT},)),
        ("tenants.acme.keys", (["tk_x"], ["sha256:" + "A" * 64], ["sha256:" + "a" * 63], DIGEST), ([DIGEST], [])),
        ("tenants", ({"": {"tier": "gold"}}, {".a": {"tier": "gold"}}),
         ({"A.b-c_0": {"tier": "gold"}}, {"x" * 63: {"tier": "gold"}})),
        ("models.embed.versions.1.endpoints", (["h:"], [":1"], ["::1:80"], ["h:123456"]),
         (["h:1", "[::1]:65535", "a.b-c_d:80"],)),
        ("models.embed.versions.1.scheduling", ("fifo", ""), ("fcfs", "priority")),
        ("models.embed.versions.1.servedName", ("", "a b", "x" * 129), ("org/model:70b", "x" * 128)),
    ],
)  # fmt: skip
def test_bounds(path: str, bad: tuple[object, ...], good: tuple[object, ...]) -> None:
    for value in bad:
        assert problems(document({path: value}))[0].startswith(path)
    for value in good:
        parse(document({path: value}))


@pytest.mark.parametrize(
    "changes",
    [
        {"tenants.acme.tier": ..., "defaultTier": "gold"},
        {"tenants.acme.tier": ..., "identity": {"jwt": JWT}},
        {"tenants.acme.models": []},
        {"tenants.acme.pins": {"chat-8b": "1.5.0", "embed": "1"}},
        {"tenants.acme.adapters": {"chat-8b": "some/lora:1"}},
        {"stores": {"pine": PINE, "docs": STORE}},
        *({"stores": {"docs": STORE | {"isolation": own, "collections": {}}}} for own in ("database", "collection")),
        {"stores": {"docs": KEYED}},
        {"stores": {"docs": STORE | {"hosts": ["docs.example"]}, "more": STORE | {"hosts": ["more.example"]}}},
    ],
)
def test_what_is_right(changes: dict[str, object]) -> None:
    parse(document(changes))


def test_all_that_is_wrong_is_told_at_once_but_not_more_than_a_person_reads() -> None:
    wrong = document({"defaultTier": "x", "models.embed.stable": "9"})
    assert [problem.partition(":")[0] for problem in problems(wrong)] == ["defaultTier", "models.embed.stable"]
    wrong["tenants"] = {f"t{number}": {"tier": "x"} for number in range(2000)}
    found = problems(wrong)
    assert len(found) == 51
    assert found[-1] == "(document): and more: only the first 50 problems are listed"


def test_a_key_written_in_place_of_its_digest_is_not_repeated() -> None:
    """Whoever pastes the key itself reads the complaint in a terminal or a log."""
    assert "tk_CANARY" not in "\n".join(
        problems(document({"tenants.acme.keys": ["tk_CANARY", {"digest": "tk_CANARY"}]}))
    )


def test_what_this_release_does_not_act_on_is_listed() -> None:
    assert not_acted_on(rules()) == []
    assert not_acted_on(parse(EVERYTHING)) == [
        "tiers.gold: weight, maxInFlight, maxQueueSeconds (admission control)",
    ]


def test_a_version_without_a_served_name_is_called_like_its_model() -> None:
    assert Version(endpoints=("h:1",)) == Version(endpoints=("h:1",), image="", served_name=None, scheduling="fcfs")
