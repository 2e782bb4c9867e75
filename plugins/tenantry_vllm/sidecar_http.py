"""How a batch reaches one address of a sidecar, or of the ledger: URL, names, token, HTTP. The standard library alone.

Plain HTTP goes to this machine only, by the same rule by which a sidecar binds (tenantry.adapters.bind); what leaves it
goes over mutual TLS (`sidecar_tls`).

Not followed or honoured, so that the token goes nowhere else: redirects, proxy variables, `user:password@` in a URL.
"""

import errno
import ipaddress
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct

from tenantry_vllm.sidecar_tls import TlsFiles, TlsHTTPConnection

PATH = "/usage"
POST_TIMEOUT_S = 2.0

_MAX_ANSWER_BYTES = 64 * 1024
_PORTS = {"http": 80, "https": 443}
_KINDS = (socket.AF_INET, socket.AF_INET6)


class Endpoint(Struct, frozen=True, kw_only=True):
    """A URL of sidecars: one name, and as many sidecars as it has addresses. `tls`: it is https."""

    host: str
    port: int
    path: str = PATH
    tls: bool = False

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Answer(Struct, frozen=True, kw_only=True):
    """What a sidecar said: its status, and its text as far as 64 KiB."""

    status: int
    text: str = ""


class TokenError(ValueError):
    """There is no usable token; the message says why, and never what was found."""


def parse_url(url: str, *, path: str = PATH, whose: str = "a sidecar") -> Endpoint:
    """Read `https://HOST[:PORT][/PREFIX]`, or http of loopback; raise ValueError that says why not another."""
    parts = urlsplit(url)
    if "@" in url or parts.query or parts.fragment:
        # Said without the URL: the part before an @ may be a password.
        raise ValueError(f"{whose}'s URL has no user, query or fragment; the token comes from a file")
    if parts.scheme not in _PORTS or not parts.hostname or not url.isascii() or " " in url:
        raise ValueError(f"{whose}'s URL looks like https://HOST:PORT or http://LOOPBACK:PORT, not '{url}'")
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise ValueError(
            f"{whose}'s URL beyond this machine is https: with '{url}' the token would travel in clear, where "
            "others can read it"
        )
    prefix = parts.path.rstrip("/").removesuffix(path)
    return Endpoint(
        host=parts.hostname,
        port=parts.port or _PORTS[parts.scheme],
        path=prefix + path,
        tls=parts.scheme == "https",
    )


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
        self,
        endpoint: Endpoint,
        address: str,
        token: Callable[[], str],
        tls: TlsFiles | None = None,
        timeout_s: float = POST_TIMEOUT_S,
    ) -> None:
        self._endpoint = endpoint
        self._token = token
        self._bearer = ""
        self._aborted = False
        self._http: HTTPConnection
        if not endpoint.tls:
            self._http = HTTPConnection(address, endpoint.port, timeout=timeout_s)
        elif tls is not None:
            self._http = TlsHTTPConnection(address, endpoint.port, name=endpoint.host, files=tls, timeout=timeout_s)
        else:
            raise ValueError(f"https://{endpoint.authority} needs a CA, a client certificate and its key")

    def post(self, body: bytes) -> Answer:
        """Post a batch; raise OSError, TokenError or http.client.HTTPException when there is no answer."""
        if self._http.sock is not None:
            # The other side may have closed a connection that had been idle: that is no outage.
            with suppress(ConnectionError, ssl.SSLError):
                return self._post(body)
        self._open()
        try:
            return self._post(body)
        except (ConnectionError, ssl.SSLError) as error:
            self._go_on()
            if isinstance(self._http, TlsHTTPConnection):
                raise self._http.refused(error) from None
            raise

    def close(self) -> None:
        """Close the connection; the next post opens another."""
        self._http.close()

    def abort(self) -> None:
        """Wake a thread that waits in `post`, for good: it gets an OSError, and so does each later `post`."""
        self._aborted = True
        if (sock := self._http.sock) is not None:
            with suppress(OSError):
                # Not SSLSocket's own, which first makes of it a socket that would send the rest in clear.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _open(self) -> None:
        self._go_on()  # what `abort` has cut off looks like an idle connection that was closed
        self._bearer = f"Bearer {self._token()}"
        try:
            self._http.connect()
            self._go_on()  # while there was no socket yet, `abort` had nothing to shut down
        except BaseException:
            self._http.close()
            raise

    def _go_on(self) -> None:
        if self._aborted:
            raise ConnectionAbortedError(errno.ECONNABORTED, "it was given up at the end, without an answer")

    def _post(self, body: bytes) -> Answer:
        good = False
        try:
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
                return Answer(status=response.status, text=text)
        finally:
            if not good:
                self._http.close()


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
