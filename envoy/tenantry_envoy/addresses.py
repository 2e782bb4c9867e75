"""Endpoints as text (`host:port`, `[v6]:port`, a socket's path) -> Envoy's addresses."""

import ipaddress

from envoy_data_plane.envoy.config.core.v3 import Address, Pipe, SocketAddress

MAX_PORT = 65535


def socket(host: str, port: int) -> Address:
    """Return a TCP address; `host` is an IP address or a name, without brackets."""
    return Address(socket_address=SocketAddress(address=host, port_value=port))


def endpoint(text: str) -> Address:
    """Return the address of one endpoint; raise ValueError saying what is wrong with it."""
    if text.startswith("/"):
        return Address(pipe=Pipe(path=text))
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit():
        raise ValueError(f'"{text}" is neither host:port nor the absolute path of a socket')
    if not 0 < int(port) <= MAX_PORT:
        raise ValueError(f'"{text}" has no port between 1 and {MAX_PORT}')
    if host.startswith("[") and host.endswith("]"):
        host = str(ipaddress.IPv6Address(host[1:-1]))
    elif ":" in host:
        raise ValueError(f'"{text}" is ambiguous; write an IPv6 address in brackets')
    return socket(host, int(port))


def needs_dns(address: Address) -> bool:
    """Tell whether an address is a name that has to be looked up."""
    if address.socket_address is None:
        return False
    try:
        ipaddress.ip_address(address.socket_address.address)
    except ValueError:
        return True
    return False
