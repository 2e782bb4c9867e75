"""Where a listener binds, and the rule for it: loopback or a unix socket, or else mutual TLS.

ext_proc decides who a request belongs to and ALS who pays for it: whoever reaches these ports can
forge both. So any address that another host can reach requires client certificates with an
allowed name (SECURITY.md).
"""

import ipaddress
import ssl
from collections.abc import Iterable, Mapping
from pathlib import Path

from msgspec import Struct

from tenantry.core.errors import TenantryError


class BindError(TenantryError):
    """An address that is malformed, or reachable from elsewhere without mutual TLS."""


class Tls(Struct, frozen=True, kw_only=True):
    """Files of a mutual-TLS listener, and the client names (URI or DNS SANs) that may connect."""

    certificate: Path
    key: Path
    client_ca: Path
    allowed_sans: frozenset[str]

    def admits(self, sans: Iterable[str]) -> bool:
        """Return whether one of a verified client certificate's SANs is allowed."""
        return not self.allowed_sans.isdisjoint(sans)

    def ssl_context(self) -> ssl.SSLContext:
        """Return a server context that requires a client certificate of our CA."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        context.load_verify_locations(self.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
        return context


class Address(Struct, frozen=True, kw_only=True):
    """A place to listen: either `path` (unix socket) or `host` and `port`."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(text: str) -> Address:
    """Parse `unix:/path`, `host:port` or `[v6]:port`; raise BindError for anything else."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        # sockaddr_un.sun_path holds 108 bytes on Linux, the last one NUL.
        if not path.startswith("/") or "\0" in path or len(path.encode()) > 107:
            raise BindError(f"{text!r}: a unix socket needs an absolute path of at most 107 bytes")
        return Address(path=path)
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    digits = port.isascii() and port.isdigit() and len(port) <= 5
    if not colon or not host or not digits or int(port) > 65535:
        raise BindError(f"{text!r}: expected unix:/PATH, HOST:PORT or [IPV6]:PORT")
    return Address(host=host, port=int(port))


def require_safe(address: Address, tls: Tls | None, what: str) -> None:
    """Raise BindError when `what` would listen beyond this machine without mutual TLS."""
    if not address.is_local and (tls is None or not tls.allowed_sans):
        raise BindError(
            f"{what} would listen on {address}, which other hosts can reach: bind to loopback or unix:/PATH, "
            "or give --tls-cert, --tls-key, --tls-client-ca and at least one --allow-client-san"
        )


def sans_of(certificate: Mapping[str, object] | None) -> tuple[str, ...]:
    """Return the URI and DNS SANs of a certificate as `ssl.SSLSocket.getpeercert()` gives it."""
    names = (certificate or {}).get("subjectAltName", ())
    return tuple(value for kind, value in names if kind in ("URI", "DNS"))  # type: ignore[attr-defined]
