"""Credentials in all their forms: whose the request is, and that no credential goes on to an upstream (1, 2)."""

import base64
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from dataplane.harness import ENGINE_SECRET, KEYS, Json, Stack, rules, stack
from dataplane.pki import Authority, Issuer
from dataplane.upstream import Upstream
from dataplane.wire import CHAT, Headers, ask, chat, request

ACME, GLOBEX = KEYS["acme"], KEYS["globex"]
SAN = "spiffe://prod/tenant/"


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def bearer(token: str) -> tuple[str, str]:
    return "Authorization", f"Bearer {token}"


async def served(shared: Stack, headers: Headers, mark: str, **tls: Any) -> tuple[str, str]:
    """Tenant and tier that the upstream saw; fails when the upstream could see any credential."""
    response = await ask(shared.address, chat(None, headers=headers, mark=mark), **tls)
    assert response.status == 200, response
    (seen,) = shared.upstream.marked(mark)
    assert seen.header("authorization") == [f"Bearer {ENGINE_SECRET}".encode()]
    for name, value in headers:
        if str(name).lower() not in ("content-type", "x-forwarded-client-cert"):
            secret = str(value).strip().split(" ")[-1]
            assert secret.encode() not in seen.raw
            assert base64.b64encode(secret.encode()) not in seen.raw
    assert not any(seen.header(name) for name in ("api-key", "x-api-key", "proxy-authorization", "cookie"))
    return seen.header("x-tenantry-tenant")[0].decode(), seen.header("x-tenantry-tier")[0].decode()


async def unauthenticated(shared: Stack, headers: Headers, target: str = CHAT, **tls: Any) -> str:
    """The error code of a 401; fails when anything reached the upstream."""
    seen = len(shared.upstream.seen)
    response = await ask(shared.address, chat(None, headers=headers, target=target), **tls)
    assert (response.status, response.header("www-authenticate")) == (401, "Bearer"), response
    assert len(shared.upstream.seen) == seen
    return response.error_code


# --- API keys ---


KEY_HEADERS = {
    "OpenAI": bearer(ACME),
    "OpenAI, another case": ("Authorization", f"bearer   {ACME}"),
    "pymilvus": ("Authorization", b64(ACME)),
    "Pinecone": ("Api-Key", ACME),
    "Pinecone, another case": ("API-KEY", f" {ACME} "),
}


@pytest.mark.parametrize("protocol", KEY_HEADERS)
async def test_a_key_is_read_where_each_protocol_puts_it(shared: Stack, protocol: str) -> None:
    assert await served(shared, [KEY_HEADERS[protocol]], f"key of {protocol}") == ("acme", "gold")


async def test_two_credentials_of_one_tenant_are_one(shared: Stack) -> None:
    assert await served(shared, [bearer(ACME), ("Api-Key", ACME)], "twice acme") == ("acme", "gold")


REFUSED_KEYS: dict[str, tuple[Headers, str]] = {
    "none": ([], "missing_credential"),
    "unknown": ([bearer("tk_unknown")], "invalid_api_key"),
    "expired": ([bearer(KEYS["late"])], "expired_api_key"),
    "empty": ([("Authorization", "")], "invalid_api_key"),
    "empty bearer": ([("Authorization", "Bearer ")], "invalid_api_key"),
    "cut short": ([bearer(ACME[:-1])], "invalid_api_key"),
    "another case": ([bearer(ACME.upper())], "invalid_api_key"),
    "its digest": ([bearer("sha256:" + "0" * 64)], "invalid_api_key"),
    "basic": ([("Authorization", f"Basic {b64(ACME)}")], "invalid_api_key"),
    "bare": ([("Authorization", ACME)], "invalid_api_key"),
    "base64 behind Bearer": ([bearer(b64(ACME))], "invalid_api_key"),
    "two tenants": ([bearer(ACME), ("Api-Key", GLOBEX)], "conflicting_credentials"),
    "a good and an unknown one": ([bearer(ACME), ("Api-Key", "tk_unknown")], "invalid_api_key"),
    # Envoy joins them with a comma before anybody sees them.
    "two headers": ([bearer(ACME), bearer(ACME)], "invalid_api_key"),
    "two headers, two tenants": ([bearer(ACME), bearer(GLOBEX)], "invalid_api_key"),
    "two Api-Keys": ([("Api-Key", ACME), ("Api-Key", ACME)], "conflicting_credentials"),
    "a list": ([("Authorization", f"Bearer {ACME}, Bearer {GLOBEX}")], "invalid_api_key"),
    "in a cookie": ([("Cookie", f"api-key={ACME}")], "missing_credential"),
    "in the wrong header": ([("X-Api-Key", ACME), ("Proxy-Authorization", f"Bearer {ACME}")], "missing_credential"),
    "with underscores": ([("api_key", ACME)], "missing_credential"),
}


@pytest.mark.parametrize("what", REFUSED_KEYS)
async def test_a_doubtful_key_is_401(shared: Stack, what: str) -> None:
    headers, code = REFUSED_KEYS[what]
    assert await unauthenticated(shared, headers) == code


async def test_a_key_in_the_query_string_is_no_key(shared: Stack) -> None:
    assert await unauthenticated(shared, [], f"{CHAT}?api-key={ACME}&access_token={ACME}") == "missing_credential"


async def test_a_refused_body_was_authenticated_first(shared: Stack) -> None:
    """A stranger learns nothing about routes, models or limits."""
    answers = [
        await shared.ask(data)
        for data in (
            request("/sleep"),
            request("/nope", body=b"{"),
            chat(None, model="nope"),
            chat(None, pad="x" * 99_999),
        )
    ]
    assert {answer.error_code for answer in answers} == {"missing_credential"}


# --- tokens; the shared stack verifies them, and takes API keys in the same header ---


async def test_a_verified_token_names_its_tenant(shared: Stack, issuer: Issuer) -> None:
    assert await served(shared, [bearer(issuer.token())], "jwt") == ("acme", "gold")


async def test_a_tenant_without_an_entry_takes_its_tier_from_the_token(shared: Stack, issuer: Issuer) -> None:
    token = issuer.token(tenant="umbrella", tier="bronze")
    assert await served(shared, [bearer(token)], "jwt tier") == ("umbrella", "bronze")


async def test_a_tenant_with_an_entry_keeps_the_operators_tier(shared: Stack, issuer: Issuer) -> None:
    assert await served(shared, [bearer(issuer.token(tier="bronze"))], "jwt own tier") == ("acme", "gold")


@pytest.mark.parametrize("tier", [None, "platinum", 7, ["gold"]])
async def test_a_verified_tenant_without_a_tier_is_403(shared: Stack, issuer: Issuer, tier: object) -> None:
    seen = len(shared.upstream.seen)
    response = await shared.ask(chat(issuer.token(tenant="umbrella", tier=tier)))
    assert (response.status, response.error_code, len(shared.upstream.seen)) == (403, "no_tier", seen)


REFUSED_CLAIMS: dict[str, dict[str, Any]] = {
    "expired": {"exp": int(time.time()) - 3600},
    "no expiry": {"exp": None},
    "not yet valid": {"nbf": int(time.time()) + 3600},
    "wrong issuer": {"iss": "https://evil.test"},
    "no issuer": {"iss": None},
    "wrong audience": {"aud": "billing"},
    "no audience": {"aud": None},
}


@pytest.mark.parametrize("what", REFUSED_CLAIMS)
async def test_a_token_that_envoy_does_not_verify_is_an_unknown_key(shared: Stack, issuer: Issuer, what: str) -> None:
    assert await unauthenticated(shared, [bearer(issuer.token(**REFUSED_CLAIMS[what]))]) == "invalid_api_key"


async def test_nor_one_with_a_signature_that_proves_nothing(shared: Stack, issuer: Issuer, tmp_path: Path) -> None:
    head, payload, signature = issuer.token().split(".")
    other_payload = issuer.token(tenant="globex").split(".")[1]
    public = base64.urlsafe_b64encode(issuer.public_pem).decode()
    tokens = {
        "alg none": issuer.token(key="", algorithm="none"),
        "signature cut off": f"{head}.{payload}.",
        "payload swapped": f"{head}.{other_payload}.{signature}",
        "another key": Issuer(tmp_path).token(),
        "HMAC with the public key": issuer.token(key=public, algorithm="HS256"),
    }
    for what, token in tokens.items():
        assert (what, await unauthenticated(shared, [bearer(token)])) == (what, "invalid_api_key")


@pytest.mark.parametrize("tenant", [None, "", 7, ["acme"], "a b", "acme\n", "../acme", "x" * 64, "acmé"])
async def test_a_token_without_a_proper_tenant_is_401(shared: Stack, issuer: Issuer, tenant: object) -> None:
    assert await unauthenticated(shared, [bearer(issuer.token(tenant=tenant))]) == "invalid_token_tenant"


async def test_a_token_elsewhere_is_no_token(shared: Stack, issuer: Issuer) -> None:
    token = issuer.token()
    assert await unauthenticated(shared, [], f"{CHAT}?access_token={token}") == "missing_credential"
    assert await unauthenticated(shared, [("Cookie", f"access_token={token}")]) == "missing_credential"
    assert await unauthenticated(shared, [("Api-Key", token)]) == "invalid_api_key"


async def test_token_and_key_must_agree(shared: Stack, issuer: Issuer) -> None:
    token = bearer(issuer.token())
    assert await served(shared, [token, ("Api-Key", ACME)], "jwt and key") == ("acme", "gold")
    assert await unauthenticated(shared, [token, ("Api-Key", GLOBEX)]) == "conflicting_credentials"
    for value in (
        f"{issuer.token()},Bearer {GLOBEX}",
        f"{issuer.token()} {GLOBEX}",
        f"{GLOBEX},Bearer {issuer.token()}",
    ):
        assert (value, await unauthenticated(shared, [bearer(value)])) == (value, "invalid_api_key")


# --- client certificates ---


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def mtls(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> AsyncIterator[Stack]:
    """A stack whose listener asks for client certificates and takes keys as well."""

    def build(upstream: Upstream) -> Json:
        return rules(upstream, identity={"mtls": {"uriSanPrefix": SAN}}, defaultTier="bronze")

    certificate, key = authority.leaf("envoy", "localhost", "127.0.0.1")
    options = {"tls_cert": certificate, "tls_key": key, "client_ca": authority.certificate}
    async with stack(tmp_path_factory.mktemp("mtls"), build, **options) as running:
        yield running


def client(authority: Authority, *sans: str) -> ssl.SSLContext:
    """A client that presents a certificate of the authority with these SANs."""
    return authority.client(authority.leaf("-".join(sans).replace("/", "_") or "plain", *sans))


async def test_a_certificate_names_its_tenant(mtls: Stack, authority: Authority) -> None:
    assert await served(mtls, [], "mtls", ssl=client(authority, f"{SAN}acme")) == ("acme", "gold")
    assert await served(mtls, [], "mtls new", ssl=client(authority, f"{SAN}umbrella")) == ("umbrella", "bronze")


async def test_a_client_without_a_certificate_needs_another_credential(mtls: Stack, authority: Authority) -> None:
    assert await served(mtls, [bearer(ACME)], "tls key", ssl=authority.client()) == ("acme", "gold")
    assert await unauthenticated(mtls, [], ssl=authority.client()) == "missing_credential"


async def test_what_a_client_says_about_its_certificate_is_not_read(mtls: Stack, authority: Authority) -> None:
    xfcc = ("x-forwarded-client-cert", f"By={SAN}x;URI={SAN}globex;Hash={'0' * 64}")
    assert await unauthenticated(mtls, [xfcc], ssl=authority.client()) == "missing_credential"
    assert await served(mtls, [xfcc], "xfcc", ssl=client(authority, f"{SAN}acme")) == ("acme", "gold")
    assert mtls.upstream.marked("xfcc")[0].header("x-forwarded-client-cert") == []


@pytest.mark.parametrize("sans", [(), ("acme",), ("spiffe://prod/acme",), ("spiffe://other/tenant/acme",), (f"{SAN}",),
                                  (f"{SAN}a/b",), (f"{SAN}acme%20",)])  # fmt: skip
async def test_a_certificate_that_names_no_tenant_is_401(
    mtls: Stack, authority: Authority, sans: tuple[str, ...]
) -> None:
    assert await unauthenticated(mtls, [], ssl=client(authority, *sans))


async def test_a_certificate_of_another_authority_does_not_connect(
    mtls: Stack, authority: Authority, tmp_path: Path
) -> None:
    stranger = authority.client(Authority(tmp_path).leaf("stranger", f"{SAN}acme"))
    seen = len(mtls.upstream.seen)
    response = await ask(mtls.address, chat(ACME), ssl=stranger)
    assert (response.status, len(mtls.upstream.seen)) == (0, seen)


async def test_certificate_and_key_must_agree(mtls: Stack, authority: Authority) -> None:
    acme = client(authority, f"{SAN}acme")
    assert await served(mtls, [bearer(ACME)], "mtls and key", ssl=acme) == ("acme", "gold")
    assert await unauthenticated(mtls, [bearer(GLOBEX)], ssl=acme) == "conflicting_credentials"
    assert await unauthenticated(mtls, [bearer(KEYS["late"])], ssl=acme) == "expired_api_key"
