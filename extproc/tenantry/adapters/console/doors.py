"""Who may look: sessions of people who gave the admin token, the rate of attempts, and which pages may ask.

A cookie holds a random id and nothing else; what it stands for is in this process's memory, so that it ends with the
process, with a new admin token, at logout, and after SESSION_SECONDS. The admin token itself is never kept: a session
remembers its hash, and compares.

Two kinds of other people's pages are kept out. A page that sends forms here from elsewhere: SameSite=Strict, and Origin
must be our own. A page whose name was made to lead here (DNS rebinding): without TLS only an address or `localhost` is
taken for a Host, since only names can be rebound; with TLS the browser has compared the name with our certificate.
"""

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Callable

from aiohttp import web
from msgspec import Struct

SESSION_SECONDS = 12 * 3_600
MAX_SESSIONS = 32
ATTEMPTS_AT_ONCE = 10
SECONDS_PER_ATTEMPT = 3.0
COOKIE = "tenantry-console"

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; frame-ancestors 'none'; form-action 'self'"
    ),
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
"""What goes with every answer."""


class _Session(Struct, frozen=True, kw_only=True):
    token: bytes
    until_s: float


class Sessions:
    """Sessions by the hash of their ids: what is looked up says nothing of an id by its time."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._kept: dict[bytes, _Session] = {}

    def begin(self, token: bytes) -> str:
        """Return the id of a new session of who gave this admin token; the oldest makes room for one too many."""
        name = secrets.token_urlsafe(32)
        self._kept[_hash(name.encode())] = _Session(token=_hash(token), until_s=self._monotonic() + SESSION_SECONDS)
        while len(self._kept) > MAX_SESSIONS:
            del self._kept[next(iter(self._kept))]
        return name

    def holds(self, name: str, token: bytes) -> bool:
        """Tell whether a session goes on, while this is the admin token."""
        key = _hash(name.encode("utf-8", "surrogateescape"))
        session = self._kept.get(key)
        if session is None:
            return False
        if self._monotonic() >= session.until_s or not hmac.compare_digest(session.token, _hash(token)):
            del self._kept[key]
            return False
        return True

    def end(self, name: str) -> None:
        """End a session, if there is one of this id."""
        self._kept.pop(_hash(name.encode("utf-8", "surrogateescape")), None)


class Attempts:
    """ATTEMPTS_AT_ONCE wrong tokens, then one each SECONDS_PER_ATTEMPT: of all who reach the listener together."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._left, self._at_s = float(ATTEMPTS_AT_ONCE), monotonic()

    @property
    def wait_s(self) -> float:
        """How long until another attempt is heard; 0: now."""
        now_s = self._monotonic()
        self._left = min(self._left + (now_s - self._at_s) / SECONDS_PER_ATTEMPT, float(ATTEMPTS_AT_ONCE))
        self._at_s = now_s
        return max(0.0, (1.0 - self._left) * SECONDS_PER_ATTEMPT)

    def wrong(self) -> None:
        """Note a wrong token."""
        self._left -= 1.0


def is_right(given: str, token: bytes) -> bool:
    """Tell whether a text is the admin token, in constant time."""
    return hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), token)


def host_problem(request: web.Request) -> str | None:
    """Return why a request's Host is not ours, or None."""
    hosts = request.headers.getall("host", ())
    if len(hosts) != 1:
        return "send one Host"
    if request.secure or _is_address(hosts[0]):
        return None
    return "open this page by an address or by localhost (without TLS any other name may be somebody else's)"


def origin_problem(request: web.Request) -> str | None:
    """Return why a request that begins or ends a session did not come from our own page, or None."""
    own = f"{'https' if request.secure else 'http'}://{request.headers['host']}"
    if request.headers.getall("origin", ()) != [own]:
        return f"this comes from another page than {own[:200]}"
    if request.content_type != "application/json":
        return "send JSON"  # no form of another page can, without asking first
    return None


def comes_from_elsewhere(request: web.Request) -> bool:
    """Tell whether the browser says that another page asks."""
    return request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")


def set_cookie(response: web.Response, name: str, *, secure: bool) -> None:
    """Give a browser its session."""
    response.set_cookie(
        COOKIE, name, max_age=SESSION_SECONDS, path="/console", httponly=True, samesite="Strict", secure=secure
    )


def del_cookie(response: web.Response, *, secure: bool) -> None:
    """Take it back."""
    response.del_cookie(COOKIE, path="/console", httponly=True, samesite="Strict", secure=secure)


def _is_address(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.endswith("]") else host
    if name.lower() == "localhost":
        return True
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _hash(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()
