"""Whose request is it? Verified credentials in, one tenant out, or 401.

Where credentials are read from:

- `authorization: Bearer KEY` (OpenAI), `authorization: base64(KEY)` (pymilvus), `api-key: KEY`
  (Pinecone): API keys, known by SHA-256 digest.
- Envoy's `jwt_authn` metadata: claims of a token that Envoy verified. The header itself is removed
  by Envoy then; a token which failed verification stays in `authorization` and is an unknown key.
- Envoy's `connection.uri_san_peer_certificate`: the URI SAN of a certificate that Envoy verified.
  `x-forwarded-client-cert` is never read: a client can send it.

Every credential that is presented must be good, and all must name the same tenant. Whatever is
doubtful is 401: two values of one header, an expired key beside a good certificate, two tenants.
"""

import base64
import binascii
import hmac
import re
from collections.abc import Iterator, Mapping

from msgspec import Struct

from tenantry.core.apikeys import digest
from tenantry.core.errors import ForbiddenError, UnauthenticatedError
from tenantry.core.rulebook import RuleBook
from tenantry.core.rules import Jwt, Mtls
from tenantry.core.rules_base import TENANT_PATTERN
from tenantry.core.tenant import Proof, Tenant

MAX_CREDENTIAL_BYTES = 8192
"""No key is this long; hashing more than this for a stranger is work for nothing."""

_TENANT = re.compile(TENANT_PATTERN)


class Presented(Struct, frozen=True, kw_only=True):
    """What one request presents: header values (raw bytes) and the facts that Envoy verified.

    `jwt_claims` is the payload of a verified token, None without one. `uri_sans` are the URI SANs
    of a verified client certificate, empty without one.
    """

    authorization: tuple[bytes, ...] = ()
    api_key: tuple[bytes, ...] = ()
    jwt_claims: Mapping[str, object] | None = None
    uri_sans: tuple[str, ...] = ()


class _Claim(Struct, frozen=True, kw_only=True):
    """A verified credential's word for the tenant, before the rules are asked."""

    tenant: str
    proof: Proof
    tier: str | None = None


def is_tenant_name(name: str) -> bool:
    """Return whether a credential could name a tenant so."""
    return _TENANT.fullmatch(name) is not None


def authenticate(book: RuleBook, presented: Presented, now: float) -> Tenant:
    """Return the one tenant that every presented credential names; `now` is Unix seconds.

    Raises UnauthenticatedError without a good credential, ForbiddenError for a verified tenant
    that is closed or for which no tier is known.
    """
    claims = list(_claims(book, presented, now))
    if not claims:
        raise UnauthenticatedError(
            "missing_credential", "No credential was presented. Send 'Authorization: Bearer KEY'."
        )
    first = claims[0]
    if any(claim.tenant != first.tenant for claim in claims):
        raise UnauthenticatedError("conflicting_credentials", "The credentials presented name different tenants.")
    if book.closed(first.tenant):
        raise ForbiddenError("tenant_closed", "This tenant is closed. Ask the platform's operator.")
    tier = next((claim.tier for claim in claims if claim.tier is not None), None)
    profile = book.profile(first.tenant, tier)
    if profile is None:
        raise ForbiddenError("no_tier", "This tenant has no service tier yet. Ask the platform's operator.")
    return Tenant(profile=profile, proof=first.proof)


def _claims(book: RuleBook, presented: Presented, now: float) -> Iterator[_Claim]:
    identity = book.rules.identity
    if identity.mtls is not None and presented.uri_sans:
        yield _from_certificate(identity.mtls, presented.uri_sans)
    if identity.jwt is not None and presented.jwt_claims is not None:
        yield _from_jwt(identity.jwt, presented.jwt_claims)
    if identity.api_keys:
        for values, read in ((presented.authorization, _token), (presented.api_key, bytes.strip)):
            if len(values) > 1:
                raise UnauthenticatedError("conflicting_credentials", "A credential header was sent more than once.")
            for value in values:
                yield _from_key(book, read(value) if len(value) <= MAX_CREDENTIAL_BYTES else b"", now)
    elif identity.jwt is not None and presented.authorization:
        # Envoy removes a token that it verified: what is left here was refused.
        raise UnauthenticatedError("invalid_token", "The token was not accepted.")


def _from_key(book: RuleBook, key: bytes, now: float) -> _Claim:
    # A digest of nothing is easily written into the rules by mistake (an unset variable, hashed).
    if not key:
        raise UnauthenticatedError("invalid_api_key", "The API key is not known.")
    # The look-up is by digest: its timing tells about SHA-256(key), of which a stranger cannot
    # choose the bits. The comparison that decides is constant-time all the same.
    presented = digest(key)
    entry = book.key(presented)
    if entry is None or not hmac.compare_digest(entry.digest, presented):
        raise UnauthenticatedError("invalid_api_key", "The API key is not known.")
    if entry.not_after is not None and now >= entry.not_after:
        raise UnauthenticatedError("expired_api_key", "The API key has expired.")
    return _Claim(tenant=entry.tenant, proof=Proof(kind="api_key"))


def _from_jwt(rules: Jwt, claims: Mapping[str, object]) -> _Claim:
    tenant = claims.get(rules.tenant_claim)
    if not isinstance(tenant, str) or not _TENANT.fullmatch(tenant):
        raise UnauthenticatedError("invalid_token_tenant", "The token's tenant claim is missing or malformed.")
    tier = claims.get(rules.tier_claim) if rules.tier_claim else None
    return _Claim(tenant=tenant, proof=Proof(kind="jwt"), tier=tier if isinstance(tier, str) else None)


def _from_certificate(rules: Mtls, uri_sans: tuple[str, ...]) -> _Claim:
    tenants = {san.removeprefix(rules.uri_san_prefix) for san in uri_sans if san.startswith(rules.uri_san_prefix)}
    if len(tenants) != 1 or not _TENANT.fullmatch(tenant := tenants.pop()):
        raise UnauthenticatedError("invalid_certificate_tenant", "The client certificate does not name one tenant.")
    return _Claim(tenant=tenant, proof=Proof(kind="mtls"))


def _token(value: bytes) -> bytes:
    """Return the key inside an `authorization` value; b"" when there is none."""
    scheme, space, rest = value.strip().partition(b" ")
    if space:
        return rest.strip() if scheme.lower() == b"bearer" else b""
    try:
        return base64.b64decode(scheme, validate=True)
    except binascii.Error:
        return b""
