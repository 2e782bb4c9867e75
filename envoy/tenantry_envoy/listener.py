"""The listener: address, TLS, and how much one connection may hold."""

from envoy_data_plane.envoy.config.core.v3 import TransportSocket
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, Listener
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CertificateValidationContext,
    CommonTlsContext,
    DownstreamTlsContext,
    TlsCertificate,
    TlsParameters,
    TlsParametersTlsProtocol,
)
from envoy_data_plane.google.protobuf import Any
from tenantry.core.rules import Rules

from tenantry_envoy import addresses, packing
from tenantry_envoy.connection_manager import connection_manager
from tenantry_envoy.options import EnvoyOptions, ListenerTls

CONNECTION_BUFFER_BYTES = 256 * 1024
"""What one slow client can make Envoy hold in each direction; request bodies have a bound of their own."""

HANDSHAKE_SECONDS = 10.0


def listener(rules: Rules, options: EnvoyOptions) -> Listener:
    """Return the listener for clients."""
    manager = Filter(
        name="envoy.filters.network.http_connection_manager",
        typed_config=Any.pack(connection_manager(rules, options)),
    )
    chain = FilterChain(filters=[manager])
    if options.listener_tls is not None:
        chain.transport_socket = _tls(options.listener_tls)
        chain.transport_socket_connect_timeout = packing.seconds(HANDSHAKE_SECONDS)
    return Listener(
        name="clients",
        address=addresses.bound(options.listen_host, options.listen_port),
        per_connection_buffer_limit_bytes=CONNECTION_BUFFER_BYTES,
        # A second Envoy on the same port is an error then, not a silent split of the traffic.
        enable_reuse_port=False,
        filter_chains=[chain],
    )


def _tls(tls: ListenerTls) -> TransportSocket:
    validation = None
    if tls.client_ca_file is not None:
        validation = CertificateValidationContext(trusted_ca=packing.file(tls.client_ca_file))
    context = DownstreamTlsContext(
        # Optional, but never unverified: who comes without one needs another credential.
        require_client_certificate=False,
        common_tls_context=CommonTlsContext(
            tls_params=TlsParameters(tls_minimum_protocol_version=TlsParametersTlsProtocol.TLSv1_2),
            alpn_protocols=["h2", "http/1.1"],
            tls_certificates=[
                TlsCertificate(certificate_chain=packing.file(tls.cert_file), private_key=packing.file(tls.key_file))
            ],
            validation_context=validation,
        ),
    )
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=Any.pack(context))
