"""Never a tenant without a good credential, whatever else is sent (invariants 1 and 2)."""

import base64
from collections.abc import Mapping

from hypothesis import assume, given
from hypothesis import strategies as st
from tenantry.core.apikeys import digest_text, new_key
from tenantry.core.errors import ForbiddenError, UnauthenticatedError
from tenantry.core.events import Continue, Header
from tenantry.core.identity import Presented, authenticate
from tenantry_testing.documents import JWT, KEYS, MTLS, NOW, book, snapshot
from tenantry_testing.exchanges import Transcript, post

RULES = book(identity={"jwt": JWT, "mtls": MTLS}, defaultTier="bronze")
PREFIX = MTLS["uriSanPrefix"]
GOOD = {name: key.encode() for name, key in KEYS.items() if name != "nobody"}

tenants = st.sampled_from(sorted(GOOD))
shapes = st.sampled_from(["bearer", "base64", "api-key", "token", "certificate"])


class Sent:
    """A request's credentials as they are put together."""

    def __init__(self) -> None:
        self.authorization: list[bytes] = []
        self.api_key: list[bytes] = []
        self.claims: Mapping[str, object] | None = None
        self.sans: list[str] = []

    def add(self, shape: str, name: str, key: bytes) -> None:
        if shape == "bearer":
            self.authorization.append(b"Bearer " + key)
        elif shape == "base64":
            self.authorization.append(base64.b64encode(key))
        elif shape == "api-key":
            self.api_key.append(key)
        elif shape == "token":
            self.claims = {"tenant": name}
        else:
            self.sans.append(PREFIX + name)

    def presented(self) -> Presented:
        return Presented(
            authorization=tuple(self.authorization),
            api_key=tuple(self.api_key),
            jwt_claims=self.claims,
            uri_sans=tuple(self.sans),
        )


def tenant_of(presented: Presented) -> str | None:
    try:
        return authenticate(RULES, presented, NOW).profile.name
    except (UnauthenticatedError, ForbiddenError):
        return None


@given(st.lists(st.tuples(shapes, tenants), max_size=4))
def test_a_tenant_is_whom_all_credentials_name(given_: list[tuple[str, str]]) -> None:
    sent = Sent()
    for shape, name in given_:
        sent.add(shape, name, GOOD[name])
    # A token is one; a header that comes twice is doubtful, whatever it says.
    names = {name for shape, name in given_ if shape != "token"} | ({sent.claims["tenant"]} if sent.claims else set())
    clear = len(names) == 1 and len(sent.authorization) <= 1 and len(sent.api_key) <= 1
    assert tenant_of(sent.presented()) == (names.pop() if clear else None)


garbage = st.binary(max_size=80) | st.sampled_from(
    [digest_text(key).encode() for key in KEYS.values()]
    + [KEYS["nobody"].encode(), b"Bearer", b"Bearer ", b"Basic Og=="]
)


@given(st.lists(garbage, max_size=2), st.lists(garbage, max_size=2))
def test_garbage_names_nobody(authorization: list[bytes], api_key: list[bytes]) -> None:
    assert tenant_of(Presented(authorization=tuple(authorization), api_key=tuple(api_key))) is None


@given(tenants, shapes, st.lists(garbage, min_size=1, max_size=2), st.booleans())
def test_garbage_beside_a_good_credential_spoils_it(name: str, shape: str, bad: list[bytes], in_api_key: bool) -> None:
    sent = Sent()
    sent.add(shape, name, GOOD[name])
    (sent.api_key if in_api_key else sent.authorization).extend(bad)
    assert tenant_of(sent.presented()) is None


@given(tenants, st.integers(0, 45), st.integers(0, 255), st.sampled_from(["change", "cut", "insert"]))
def test_a_key_with_one_byte_wrong_is_unknown(name: str, position: int, byte: int, how: str) -> None:
    key = bytearray(GOOD[name])
    if how == "change":
        assume(key[position] != byte)
        key[position] = byte
    elif how == "cut":
        del key[position]
    else:
        key.insert(position, byte)
    assume(key.strip() != GOOD[name])
    for shape in ("bearer", "api-key", "base64"):
        sent = Sent()
        sent.add(shape, name, bytes(key))
        assert tenant_of(sent.presented()) is None


@given(st.binary(min_size=32, max_size=32))
def test_no_key_but_those_in_the_rules(random: bytes) -> None:
    key = new_key(random)
    assume(key not in KEYS.values())
    for shape in ("bearer", "base64", "api-key"):
        sent = Sent()
        sent.add(shape, "acme", key.encode())
        assert tenant_of(sent.presented()) is None


json_values = st.none() | st.booleans() | st.floats() | st.text(max_size=8) | st.lists(st.just("acme"), max_size=2)


@given(st.dictionaries(st.sampled_from(["tenant", "tier", "sub", "Tenant"]), json_values | tenants))
def test_a_token_names_a_tenant_by_its_claim_alone(claims: dict[str, object]) -> None:
    found = tenant_of(Presented(jwt_claims=claims))
    assert found in (None, claims.get("tenant"))
    if claims.get("tenant") in list(GOOD):
        assert found == claims["tenant"]
    if found is not None:
        assert found.isascii()
        assert 1 <= len(found) <= 63
        assert not set(found) & set(":@/\\ \n\0")


@given(
    st.lists(st.text(max_size=8) | tenants.map(PREFIX.__add__) | st.text(max_size=4).map(PREFIX.__add__), max_size=3)
)
def test_a_certificate_names_one_tenant_or_nobody(sans: list[str]) -> None:
    found = tenant_of(Presented(uri_sans=tuple(sans)))
    named = {san.removeprefix(PREFIX) for san in sans if san.startswith(PREFIX)}
    assert found is None or named == {found}
    if named and named <= set(GOOD) and len(named) == 1:
        assert {found} == named


FORGED = [
    "x-tenantry-tenant", "x-tenantry-tier", "x-forwarded-client-cert", "x-envoy-peer-metadata", "x-jwt-payload",
    "x-api-key", "x-auth-request-user", "x-remote-user", "forwarded", "proxy-authorization", "cookie",
    "x-authorization", "authorization2", "x_tenantry_tenant", ":authorization", " authorization", "authorization ",
    "api_key", "apikey", "api-key2",
]  # fmt: skip
says = st.sampled_from([b"globex", b"Bearer " + GOOD["globex"], GOOD["globex"], b"URI=" + PREFIX.encode() + b"globex"])
forgeries: st.SearchStrategy[list[Header]] = st.lists(
    st.tuples(st.sampled_from(FORGED), says | st.binary(max_size=20)), max_size=6
)
SNAPSHOT = snapshot(identity={"jwt": JWT, "mtls": MTLS}, defaultTier="bronze")


@given(forgeries)
def test_no_other_header_makes_a_tenant(forged: list[Header]) -> None:
    talk = Transcript(SNAPSHOT) >> post(*forged)
    assert talk.session.tenant is None
    assert talk.session.refusal is not None
    assert talk.session.refusal.code == "missing_credential"


@given(forgeries, forgeries)
def test_nor_another_tenant(before: list[Header], after: list[Header]) -> None:
    key: Header = ("authorization", b"Bearer " + GOOD["acme"])
    talk = Transcript(SNAPSHOT) >> post(*before, key, *after) << Continue()
    assert talk.session.tenant is not None
    assert talk.session.tenant.profile.name == "acme"
    assert talk.session.tenant.profile.tier == "gold"
