"""Verified credentials in, one tenant out, or 401 (invariants 1 and 2)."""

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

import pytest
from tenantry.core.apikeys import digest_text
from tenantry.core.errors import ForbiddenError, UnauthenticatedError
from tenantry.core.identity import MAX_CREDENTIAL_BYTES, Presented, authenticate
from tenantry.core.rulebook import RuleBook
from tenantry.core.tenant import Tenant
from tenantry_testing.documents import JWT, KEYS, MTLS, NOW, book

ALL_KINDS = book(identity={"jwt": JWT, "mtls": MTLS}, defaultTier="bronze")
ACME, GLOBEX = KEYS["acme"].encode(), KEYS["globex"].encode()
SAN = "spiffe://prod/tenant/"


def presents(
    *,
    bearer: bytes | None = None,
    authorization: tuple[bytes, ...] = (),
    api_key: tuple[bytes, ...] = (),
    claims: Mapping[str, object] | None = None,
    sans: tuple[str, ...] = (),
    rules: RuleBook = ALL_KINDS,
    now: float = NOW,
) -> Tenant:
    if bearer is not None:
        authorization = (b"Bearer " + bearer, *authorization)
    presented = Presented(authorization=authorization, api_key=api_key, jwt_claims=claims, uri_sans=sans)
    return authenticate(rules, presented, now)


@pytest.mark.parametrize(
    "authorization",
    [
        b"Bearer " + ACME,
        b"bearer " + ACME,
        b"BEARER   " + ACME + b" ",
        b" Bearer " + ACME,
        base64.b64encode(ACME),  # pymilvus
        b" " + base64.b64encode(ACME) + b"\t",
    ],
)
def test_a_key_in_the_authorization_header(authorization: bytes) -> None:
    tenant = presents(authorization=(authorization,))
    assert (tenant.profile.name, tenant.profile.tier, tenant.proof.kind) == ("acme", "gold", "api_key")


def test_a_key_where_pinecone_puts_it() -> None:
    assert presents(api_key=(b" " + ACME + b" ",)).profile.name == "acme"


def test_a_token_that_envoy_verified() -> None:
    tenant = presents(claims={"tenant": "umbrella", "tier": "gold"})
    assert (tenant.profile.name, tenant.profile.tier, tenant.proof.kind) == ("umbrella", "gold", "jwt")
    assert presents(claims={"tenant": "acme", "tier": "bronze"}).profile.tier == "gold"  # the document is nearer
    assert presents(claims={"tenant": "umbrella"}).profile.tier == "bronze"  # the default
    assert presents(claims={"tenant": "umbrella", "tier": ["gold"]}).profile.tier == "bronze"


def test_a_certificate_that_envoy_verified() -> None:
    tenant = presents(sans=("https://elsewhere/acme", SAN + "umbrella"))
    assert (tenant.profile.name, tenant.profile.tier, tenant.proof.kind) == ("umbrella", "bronze", "mtls")


def test_credentials_may_come_together_when_they_agree() -> None:
    tenant = presents(bearer=ACME, api_key=(ACME,), claims={"tenant": "acme"}, sans=(SAN + "acme", SAN + "acme"))
    assert (tenant.profile.name, tenant.proof.kind) == ("acme", "mtls")
    assert presents(sans=(SAN + "umbrella",), claims={"tenant": "umbrella", "tier": "gold"}).profile.tier == "gold"


NOTHING_WRONG_BUT: dict[str, dict[str, Any]] = {
    "nothing": {},
    "an unknown key": {"bearer": KEYS["nobody"].encode()},
    "a digest in place of a key": {"bearer": digest_text(KEYS["acme"]).encode()},
    "another case": {"bearer": ACME.swapcase()},
    "half a key": {"bearer": ACME[:-1]},
    "a key and more": {"bearer": ACME + b"x"},
    "two keys in one value": {"bearer": ACME + b", Bearer " + ACME},
    "no scheme": {"authorization": (ACME,)},
    "no key": {"bearer": b""},
    "only a scheme": {"authorization": (b"Bearer",)},
    "an empty header": {"authorization": (b"",)},
    "another scheme": {"authorization": (b"Basic " + base64.b64encode(ACME),)},
    "another scheme with the key itself": {"authorization": (b"Token " + ACME,)},
    "a tab behind the scheme": {"authorization": (b"Bearer\t" + ACME,)},
    "base64 behind a scheme": {"bearer": base64.b64encode(ACME)},
    "base64 with something between": {
        "authorization": (base64.b64encode(ACME)[:8] + b"." + base64.b64encode(ACME)[8:],)
    },
    "base64 twice": {"authorization": (base64.b64encode(base64.b64encode(ACME)),)},
    "obs-text": {"bearer": b"\xff" + ACME},
    "a scheme in api-key": {"api_key": (b"Bearer " + ACME,)},
    "base64 in api-key": {"api_key": (base64.b64encode(ACME),)},
    "an empty api-key": {"api_key": (b"",)},
    "the header twice": {"authorization": (b"Bearer " + ACME, b"Bearer " + ACME)},
    "api-key twice": {"api_key": (ACME, ACME)},
    "a good key beside a bad one": {"bearer": ACME, "api_key": (KEYS["nobody"].encode(),)},
    "a bad key beside a good one": {"bearer": KEYS["nobody"].encode(), "api_key": (ACME,)},
    "two tenants' keys": {"bearer": ACME, "api_key": (GLOBEX,)},
    "a key and another's token": {"bearer": ACME, "claims": {"tenant": "globex"}},
    "a key and another's certificate": {"bearer": ACME, "sans": (SAN + "globex",)},
    "a token and another's certificate": {"claims": {"tenant": "acme"}, "sans": (SAN + "globex",)},
    "a bad key beside a good certificate": {"bearer": b"x", "sans": (SAN + "acme",)},
    "a bad key beside a good token": {"bearer": b"x", "claims": {"tenant": "acme"}},
    "a token without a tenant": {"claims": {}},
    "a token that is empty of one": {"claims": {"tenant": ""}},
    "a token with a number for one": {"claims": {"tenant": 7.0}},
    "a token with a list of them": {"claims": {"tenant": ["acme"]}},
    "a token with a line break": {"claims": {"tenant": "acme\n"}},
    "a token with a path": {"claims": {"tenant": "acme/../globex"}},
    "a token with a long one": {"claims": {"tenant": "a" * 64}},
    "a token without one beside a good key": {"claims": {}, "bearer": ACME},
    "a certificate of nobody here": {"sans": ("spiffe://prod/node/acme",)},
    "a certificate with a prefix that only looks right": {"sans": ("xspiffe://prod/tenant/acme",)},
    "a certificate of two": {"sans": (SAN + "acme", SAN + "globex")},
    "a certificate with an empty one": {"sans": (SAN,)},
    "a certificate with a path": {"sans": (SAN + "acme/x",)},
    "a certificate with a line break": {"sans": (SAN + "acme\n",)},
    "a certificate of nobody beside a good key": {"sans": ("https://x",), "bearer": ACME},
}


@pytest.mark.parametrize("presented", NOTHING_WRONG_BUT.values(), ids=NOTHING_WRONG_BUT)
def test_whatever_is_doubtful_is_401(presented: dict[str, Any]) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        presents(**presented)
    assert caught.value.http_status == 401
    assert KEYS["acme"] not in caught.value.message


@pytest.mark.parametrize(
    ("presented", "code"),
    [
        ({}, "missing_credential"),
        ({"bearer": b"x"}, "invalid_api_key"),
        ({"bearer": b""}, "invalid_api_key"),
        ({"api_key": (ACME, ACME)}, "conflicting_credentials"),
        ({"bearer": ACME, "api_key": (GLOBEX,)}, "conflicting_credentials"),
        ({"claims": {}}, "invalid_token_tenant"),
        ({"sans": ("x",)}, "invalid_certificate_tenant"),
    ],
)
def test_what_went_wrong_has_a_code(presented: dict[str, Any], code: str) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        presents(**presented)
    assert caught.value.code == code


def test_a_key_works_until_its_end() -> None:
    ending = {"digest": digest_text(KEYS["nobody"]), "notAfter": "2027-01-15T08:00:00Z"}
    rules = book({"tenants.acme.keys": [digest_text(KEYS["acme"]), ending]})
    key = KEYS["nobody"].encode()
    assert presents(bearer=key, rules=rules, now=NOW - 0.001).profile.name == "acme"
    for later in (NOW, NOW + 1):
        with pytest.raises(UnauthenticatedError) as caught:
            presents(bearer=key, rules=rules, now=later)
        assert caught.value.code == "expired_api_key"
    assert presents(bearer=ACME, rules=rules, now=NOW + 1e9).profile.name == "acme"  # the other one has none


def test_the_digest_of_nothing_in_the_rules_lets_nobody_in() -> None:
    """What `sha256sum` prints for a variable that was not set."""
    rules = book({"tenants.acme.keys": ["sha256:" + hashlib.sha256(b"").hexdigest()]})
    nothings: list[dict[str, Any]] = [
        {"bearer": b""},
        {"authorization": (b"Basic x",)},
        {"authorization": (b"=",)},
        {"api_key": (b" ",)},
    ]
    for nothing in nothings:
        with pytest.raises(UnauthenticatedError, match="not known"):
            presents(**nothing, rules=rules)


def test_a_credential_longer_than_any_key_is_not_cut_to_a_good_one() -> None:
    exactly = b"Bearer " + ACME + b" " * (MAX_CREDENTIAL_BYTES - len(ACME) - 7)
    assert presents(authorization=(exactly,)).profile.name == "acme"
    with pytest.raises(UnauthenticatedError, match="not known"):
        presents(authorization=(exactly + b"x",))
    with pytest.raises(UnauthenticatedError, match="not known"):
        presents(api_key=(ACME + b" " * MAX_CREDENTIAL_BYTES + b"x",))


def test_what_is_longer_than_any_key_is_not_even_hashed() -> None:
    long = "k" * (MAX_CREDENTIAL_BYTES + 1)
    rules = book({"tenants.acme.keys": [digest_text(long)]})
    with pytest.raises(UnauthenticatedError, match="not known"):
        presents(api_key=(long.encode(),), rules=rules)


def test_a_tenant_without_a_tier_is_403() -> None:
    rules = book(identity={"jwt": JWT})
    for claims in (
        {"tenant": "umbrella"},
        {"tenant": "umbrella", "tier": "platinum"},
        {"tenant": "umbrella", "tier": 1},
    ):
        with pytest.raises(ForbiddenError) as caught:
            presents(claims=claims, rules=rules)
        assert (caught.value.http_status, caught.value.code) == (403, "no_tier")


@pytest.mark.parametrize(
    "presented",
    [{"bearer": ACME}, {"claims": {"tenant": "acme", "tier": "gold"}}, {"sans": (f"{SAN}acme",)}],
    ids=["key", "token", "certificate"],
)
def test_a_closed_tenant_is_403_whatever_it_presents(presented: dict[str, Any]) -> None:
    rules = book({"tenants.acme.closed": True}, identity={"jwt": JWT, "mtls": MTLS}, defaultTier="bronze")
    with pytest.raises(ForbiddenError, match="closed") as caught:
        presents(**presented, rules=rules)
    assert (caught.value.http_status, caught.value.code) == (403, "tenant_closed")
    assert presents(bearer=GLOBEX, rules=rules).profile.name == "globex"
    with pytest.raises(UnauthenticatedError):  # a stranger does not learn who is closed
        presents(bearer=b"x", rules=rules)


def test_a_closed_tenant_needs_no_tier() -> None:
    rules = book({"tenants.acme": {"closed": True}})
    assert rules.closed("acme")
    assert not rules.closed("nobody")


def test_the_claims_are_those_that_the_rules_name() -> None:
    rules = book(identity={"jwt": JWT | {"tenantClaim": "org", "tierClaim": "plan"}}, defaultTier="bronze")
    claims = {"org": "umbrella", "plan": "gold", "tenant": "acme", "tier": "bronze"}
    tenant = presents(claims=claims, rules=rules)
    assert (tenant.profile.name, tenant.profile.tier) == ("umbrella", "gold")
    no_tier_claim = book(identity={"jwt": JWT | {"tierClaim": None}}, defaultTier="bronze")
    assert presents(claims={"tenant": "umbrella", "tier": "gold"}, rules=no_tier_claim).profile.tier == "bronze"


def test_a_kind_of_credential_that_is_off_counts_for_nothing() -> None:
    keys_only = book()
    good: dict[str, Any] = {"claims": {"tenant": "globex"}, "sans": (SAN + "globex",)}
    assert presents(bearer=ACME, rules=keys_only, **good).profile.name == "acme"
    with pytest.raises(UnauthenticatedError, match="No credential was presented"):
        presents(rules=keys_only, **good)
    no_keys = book(identity={"apiKeys": False, "mtls": MTLS}, defaultTier="bronze")
    assert presents(bearer=ACME, api_key=(ACME, ACME), sans=(SAN + "globex",), rules=no_keys).profile.name == "globex"
    with pytest.raises(UnauthenticatedError, match="No credential was presented"):
        presents(bearer=ACME, rules=no_keys)


def test_a_token_that_envoy_refused_is_not_forgotten_beside_a_good_certificate() -> None:
    """Envoy removes a token that it verified; with keys off too, what is left in the header was refused."""
    rules = book(identity={"apiKeys": False, "jwt": JWT, "mtls": MTLS}, defaultTier="bronze")
    assert presents(rules=rules, sans=(f"{SAN}umbrella",)).profile.name == "umbrella"
    with pytest.raises(UnauthenticatedError) as caught:
        presents(rules=rules, sans=(f"{SAN}umbrella",), bearer=b"eyJ.refused.token")
    assert caught.value.code == "invalid_token"
