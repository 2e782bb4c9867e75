"""What the generator must know and the rules do not say: addresses, files, limits of the machine."""

import ipaddress
from typing import Annotated

from msgspec import Meta, Struct
from tenantry.core.errors import TenantryError

Port = Annotated[int, Meta(ge=0, le=65535, description="0 lets the kernel choose")]
Seconds = Annotated[float, Meta(gt=0)]
FilePath = Annotated[str, Meta(min_length=1)]


class OptionsError(TenantryError, ValueError):
    """Options that contradict themselves or the rules; the message says which and what would be right.

    Also a ValueError, which is what msgspec wants from `__post_init__`.
    """


class SidecarTls(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Mutual TLS to a sidecar elsewhere. `server_san`: the DNS name, URI or IP that its certificate must hold."""

    ca_file: FilePath
    cert_file: FilePath
    key_file: FilePath
    server_san: Annotated[str, Meta(min_length=1)]


class ListenerTls(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """TLS for clients. With `client_ca_file` a client may present a certificate, and then it must verify."""

    cert_file: FilePath
    key_file: FilePath
    client_ca_file: FilePath | None = None


class EnvoyOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Where Envoy listens, where the sidecar is, and which bounds this machine sets.

    `sidecars` are `host:port` or the absolute path of a unix socket, one for each worker process.
    `cds_path` is the file with `clusters.clusters`; it must exist when Envoy starts, and every
    later version must arrive by rename into the same directory. `max_connections` bounds client
    connections; None stands for twice `limits.maxOpenExchanges`. `max_heap_bytes` makes Envoy
    refuse requests when its heap comes near it. With `stats_port` there is a listener that serves the admin page's
    `/stats/prometheus` alone, on any address.
    """

    cds_path: FilePath
    sidecars: Annotated[tuple[str, ...], Meta(min_length=1, max_length=256)]
    listen_host: str = "127.0.0.1"
    listen_port: Port = 8080
    admin_host: str = "127.0.0.1"
    admin_port: Port = 9901
    stats_host: str = "127.0.0.1"
    stats_port: Port | None = None
    sidecar_tls: SidecarTls | None = None
    listener_tls: ListenerTls | None = None
    message_timeout_seconds: Seconds = 5.0
    access_log_flush_seconds: Seconds = 0.05
    max_connections: Annotated[int, Meta(gt=0)] | None = None
    max_heap_bytes: Annotated[int, Meta(gt=0)] | None = None

    def __post_init__(self) -> None:
        hosts = {"listenHost": self.listen_host, "adminHost": self.admin_host, "statsHost": self.stats_host}
        for name, host in hosts.items():
            if not is_ip(host):
                raise OptionsError(f'{name}: "{host}" is not an IP address; Envoy binds to addresses, not names')
        if not ipaddress.ip_address(self.admin_host).is_loopback:
            raise OptionsError(
                f"adminHost: {self.admin_host} is not loopback; Envoy's admin page has no password and can stop Envoy"
            )
        if self.stats_port is not None and self.admin_port == 0:
            raise OptionsError("adminPort: 0 leaves the port to the kernel; with statsPort name one to ask for stats")


def is_ip(host: str) -> bool:
    """Tell whether a host is an IP address, without brackets."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
