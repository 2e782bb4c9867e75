"""How a batch reaches one address of a sidecar: URL, name resolution, token, HTTP. The standard library alone.

Not followed or honoured, so that the token goes nowhere else: redirects, proxy variables, `user:password@` in a URL.
"""

import socket
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct

PATH = "/usage"
POST_TIMEOUT_S = 2.0

_MAX_ANSWER_BYTES = 64 * 1024
_KINDS = (socket.AF_INET, socket.AF_INET6)


class Endpoint(Struct, frozen=True, kw_only=True):
    """A URL of sidecars: one name, and as many sidecars as it has addresses."""

    host: str
    port: int
    path: str = PATH

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Answer(Struct, frozen=True, kw_only=True):
    """What a sidecar said: its status, and the beginning of its text."""

    status: int
    text: str = ""


class TokenError(ValueError):
    """There is no usable token; the message says why, and never what was found."""


def parse_url(url: str) -> Endpoint:
    """Read `http://HOST[:PORT][/PREFIX]`; raise ValueError that says what is wrong with any other."""
    parts = urlsplit(url)
    if "@" in url or parts.query or parts.fragment:
        # Said without the URL: the part before an @ may be a password.
        raise ValueError("a sidecar's URL has no user, query or fragment; the token comes from a file")
    if parts.scheme != "http" or not parts.hostname or not url.isascii() or " " in url:
        raise ValueError(f"a sidecar's URL looks like http://HOST:PORT, not '{url}'")
    prefix = parts.path.rstrip("/").removesuffix(PATH)
    return Endpoint(host=parts.hostname, port=parts.port or 80, path=prefix + PATH)


def resolve(endpoint: Endpoint) -> frozenset[str]:
    """Return the addresses behind a name; raise OSError if it has none.

    Of a name with both kinds, the IPv4 addresses: they are the same sidecars again, and `localhost` is `::1` too,
    where nobody listens.
    """
    found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    of_kind = {kind: frozenset(str(entry[4][0]) for entry in found if entry[0] == kind) for kind in _KINDS}
    return next((addresses for addresses in of_kind.values() if addresses), frozenset())


def token_from(path: Path) -> Callable[[], str]:
    """Return a function that reads the token, anew each time: a rotated one counts from the next connection on.

    It raises OSError or TokenError.
    """

    def read() -> str:
        token = path.read_text(encoding="ascii", errors="replace").strip()
        if not token or not token.isascii() or any(character <= " " or character == "\x7f" for character in token):
            # http.client would refuse such a header too, but quote it.
            raise TokenError(f"{path} must hold one token of visible ASCII characters")
        return token

    return read


class SidecarConnection:
    """A kept-alive connection to one address. One thread posts; `abort` may be called from another."""

    def __init__(
        self, endpoint: Endpoint, address: str, token: Callable[[], str], timeout_s: float = POST_TIMEOUT_S
    ) -> None:
        self._endpoint = endpoint
        self._token = token
        self._bearer = ""
        self._http = HTTPConnection(address, endpoint.port, timeout=timeout_s)

    def post(self, body: bytes) -> Answer:
        """Post a batch; raise OSError, TokenError or http.client.HTTPException when there is no answer."""
        reused = self._http.sock is not None
        try:
            return self._post(body)
        except ConnectionError:
            if not reused:
                raise
            # The other side closed a connection that had been idle: that is no outage.
            return self._post(body)

    def close(self) -> None:
        """Close the connection; the next post opens another."""
        self._http.close()

    def abort(self) -> None:
        """Wake a thread that waits in `post`: it gets an OSError."""
        if (sock := self._http.sock) is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _post(self, body: bytes) -> Answer:
        good = False
        try:
            if self._http.sock is None:
                self._bearer = f"Bearer {self._token()}"
            headers = {
                "host": self._endpoint.authority,
                "authorization": self._bearer,
                "content-type": "application/json",
            }
            self._http.request("POST", self._endpoint.path, body, headers)
            with self._http.getresponse() as response:
                text = response.read(_MAX_ANSWER_BYTES).decode(errors="replace")
                # After a refusal, a new connection and thereby the token anew.
                good = response.status < 300 and response.isclosed()
                return Answer(status=response.status, text=text[:200])
        finally:
            if not good:
                self._http.close()
