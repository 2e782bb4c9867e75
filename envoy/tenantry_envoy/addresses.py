"""Endpoints as text (`host:port`, `[v6]:port`, a socket's path) -> Envoy's addresses."""

import ipaddress
from typing import Any as Json
from typing import NamedTuple

from envoy_data_plane.envoy.config.core.v3 import Address, Pipe, SocketAddress

from tenantry_envoy.options import is_ip

MAX_PORT = 65535


class Endpoint(NamedTuple):
    """Where a connection goes: `host` (an IP address or a name, without brackets) and `port`, or `path` of a socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def needs_dns(self) -> bool:
        """Whether the host is a name that has to be looked up."""
        return not self.path and not is_ip(self.host)

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine for certain."""
        return bool(self.path) or (is_ip(self.host) and ipaddress.ip_address(self.host).is_loopback)

    @property
    def hostname(self) -> str:
        """Return what a request to it has as its `host` header; nothing for a socket."""
        if self.path:
            return ""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def address(self) -> Address:
        """Return the address as a message."""
        if self.path:
            return Address(pipe=Pipe(path=self.path))
        return Address(socket_address=SocketAddress(address=self.host, port_value=self.port))

    def plain(self) -> dict[str, Json]:
        """Return the same as plain data, a thousand times faster than by way of the message."""
        if self.path:
            return {"pipe": {"path": self.path}}
        return {"socket_address": {"address": self.host, "port_value": self.port}}


def bound(host: str, port: int) -> Address:
    """Return where a listener binds; `::` takes in IPv4."""
    return Address(socket_address=SocketAddress(address=host, port_value=port, ipv4_compat=host == "::"))


def parse(text: str) -> Endpoint:
    """Parse one endpoint; raise ValueError saying what is wrong with it."""
    if text.startswith("/"):
        return Endpoint(path=text)
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit():
        raise ValueError(f'"{text}" is neither host:port nor the absolute path of a socket')
    if not 0 < int(port) <= MAX_PORT:
        raise ValueError(f'"{text}" has no port between 1 and {MAX_PORT}')
    if host.startswith("[") and host.endswith("]"):
        host = str(ipaddress.IPv6Address(host[1:-1]))
    elif ":" in host:
        raise ValueError(f'"{text}" is ambiguous; write an IPv6 address in brackets')
    return Endpoint(host=host, port=int(port))
