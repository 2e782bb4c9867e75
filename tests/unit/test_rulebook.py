"""What a compiled document knows, and what it costs to ask."""

from datetime import UTC, datetime

import pytest
from tenantry.core.apikeys import digest, digest_text
from tenantry.core.rulebook import KeyEntry, RuleBook
from tenantry.core.rules import parse
from tenantry.core.tenant import Profile
from tenantry_testing.documents import JWT, KEYS, book, document


def test_a_key_is_found_by_its_digest() -> None:
    made = digest(KEYS["acme"].encode())
    assert book().key(made) == KeyEntry(digest=made, tenant="acme", not_after=None)
    assert book().key(digest(KEYS["nobody"].encode())) is None
    assert book().key(b"") is None


def test_a_keys_end_is_in_unix_seconds() -> None:
    ending = {"digest": digest_text(KEYS["nobody"]), "notAfter": "2027-01-15T10:00:00+02:00"}
    entry = book({"tenants.acme.keys": [digest_text(KEYS["acme"]), ending]}).key(digest(KEYS["nobody"].encode()))
    assert entry is not None
    assert entry.not_after == datetime(2027, 1, 15, 8, tzinfo=UTC).timestamp()


def test_a_tenant_with_an_entry_has_its_profile() -> None:
    found = book({"tenants.acme.adapters": {"embed": "lora"}, "tenants.acme.models": ["embed"]}).profile("acme")
    assert found == Profile(
        name="acme",
        tier="gold",
        priority=0,
        beta=False,
        models=frozenset({"embed"}),
        pins={"chat-8b": "1.4.0"},
        adapters={"embed": "lora"},
    )
    globex = book().profile("globex")
    assert globex is not None
    assert (globex.tier, globex.priority, globex.beta, globex.models) == ("bronze", 20, True, None)


CLAIMS = [
    # claim, defaultTier, the tier that follows
    ("bronze", "gold", "bronze"),
    ("platinum", "gold", "gold"),  # a claim that names no tier counts for nothing
    ("", "gold", "gold"),
    (None, "gold", "gold"),
    ("gold", None, "gold"),
    ("platinum", None, None),
    (None, None, None),
]


@pytest.mark.parametrize(
    ("known", "entry", "claim", "default", "tier"),
    [
        (True, "gold", "bronze", "bronze", "gold"),  # the operator's document is nearer than the identity provider
        *((True, None, *row) for row in CLAIMS),
        *((False, None, *row) for row in CLAIMS),
    ],
)
def test_where_the_tier_comes_from(
    known: bool, entry: str | None, claim: str | None, default: str | None, tier: str | None
) -> None:
    """Invariant 2: of a tenant's tier, at most a *verified* claim may speak."""
    sections: dict[str, object] = {"identity": {"jwt": JWT}} | ({} if default is None else {"defaultTier": default})
    changes = {"tenants.acme.tier": ... if entry is None else entry} if known else {"tenants.acme": ...}
    profile = book(changes, **sections).profile("acme", claim)
    assert (profile and profile.tier) == tier
    if profile is not None:
        assert profile.priority == {"gold": 0, "bronze": 20}[profile.tier]
        assert profile.pins == ({"chat-8b": "1.4.0"} if known else {})


def test_the_models_of_a_tenant_in_the_documents_order() -> None:
    rules = book()
    names = {}
    for name in ("acme", "initech"):
        profile = rules.profile(name)
        assert profile is not None
        names[name] = rules.models_of(profile)
    assert names == {"acme": ["chat-8b", "embed"], "initech": ["chat-8b"]}
    nothing = book({"tenants.acme.models": []}).profile("acme")
    assert nothing is not None
    assert rules.models_of(nothing) == []


def test_a_profile_cannot_be_changed_through_its_mappings() -> None:
    profile = book().profile("acme")
    assert profile is not None
    with pytest.raises(TypeError, match="does not support item assignment"):
        profile.pins["chat-8b"] = "1.5.0"  # type: ignore[index]


def test_a_model_is_found_by_the_name_that_clients_know() -> None:
    found = book().model("embed")
    assert found is not None
    assert found.stable == "1"
    assert book().model("Embed") is None


def test_headers_that_the_operator_forwards() -> None:
    assert book(limits={"forwardHeaders": ["x-trace", "baggage"]}).forwarded_headers == {"x-trace", "baggage"}


def test_a_look_up_does_not_walk_the_tenants() -> None:
    """Ten thousand tenants: a profile and a key are found in the time of a few dictionary accesses."""
    many = document()
    many["tenants"] |= {f"t{n}": {"tier": "gold", "keys": [f"sha256:{n:064x}"]} for n in range(10_000)}
    rules = RuleBook(parse(many))
    assert rules.profile("t9999") is rules.profile("t9999")  # compiled once, not for each request
    found = rules.key((9999).to_bytes(32, "big"))
    assert found is not None
    assert found.tenant == "t9999"
