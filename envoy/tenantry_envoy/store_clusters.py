"""Clusters of vector stores: each store has one for gRPC (HTTP/2, prior knowledge) and one for REST (HTTP/1.1).

Two and not one that follows the client's protocol: a client may speak HTTP/2 to Envoy and REST to the store, and gRPC
is HTTP/2 whatever else is. Milvus serves both on one port, so both clusters then have the same endpoints.
"""

import functools
from collections.abc import Sequence
from typing import Any as Json

from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.core.v3 import (
    Http1ProtocolOptions,
    Http2ProtocolOptions,
    HttpProtocolOptions,
    TransportSocket,
)
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CertificateValidationContext,
    CommonTlsContext,
    TlsParameters,
    TlsParametersTlsProtocol,
    UpstreamTlsContext,
)
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import HttpProtocolOptionsExplicitHttpConfig
from envoy_data_plane.google.protobuf import Any
from tenantry.core.rules_stores import Store

from tenantry_envoy import packing
from tenantry_envoy.addresses import Endpoint
from tenantry_envoy.cluster_parts import (
    OUTBOUND_FRAMES,
    UPSTREAM_IDLE_SECONDS,
    filled,
    http_options,
    plain_cluster,
    somewhere,
)

STREAM_WINDOW_BYTES = 1024 * 1024
CONNECTION_WINDOW_BYTES = 16 * 1024 * 1024


def store_resource(name: str, endpoints: Sequence[Endpoint], store: Store, *, grpc: bool) -> dict[str, Json]:
    """Return one cluster of a store as plain data."""
    needs_dns = any(endpoint.needs_dns for endpoint in endpoints)
    ca_file = None if store.tls is None else store.tls.ca_file
    resource = filled(_template(needs_dns=needs_dns, grpc=grpc, ca_file=ca_file), name, endpoints)
    if ca_file is not None:
        # Here the endpoint's hostname is what SNI says and the certificate must prove, and neither knows of ports.
        for entry, endpoint in zip(resource["load_assignment"]["endpoints"][0]["lb_endpoints"], endpoints, strict=True):
            entry["endpoint"]["hostname"] = endpoint.host
    return resource


@functools.lru_cache(maxsize=64)
def _template(*, needs_dns: bool, grpc: bool, ca_file: str | None) -> dict[str, Json]:
    return packing.plain(Any.pack(_cluster(needs_dns=needs_dns, grpc=grpc, ca_file=ca_file)))


def _cluster(*, needs_dns: bool, grpc: bool, ca_file: str | None) -> Cluster:
    cluster = plain_cluster("template", [somewhere(needs_dns=needs_dns)])
    if grpc:
        explicit = HttpProtocolOptionsExplicitHttpConfig(
            http2_protocol_options=Http2ProtocolOptions(
                initial_stream_window_size=STREAM_WINDOW_BYTES,
                initial_connection_window_size=CONNECTION_WINDOW_BYTES,
                # A client that leaves resets all its requests, on a connection that is other tenants' too.
                max_outbound_frames=OUTBOUND_FRAMES,
                max_outbound_control_frames=OUTBOUND_FRAMES,
            )
        )
        cluster.typed_extension_protocol_options = http_options(explicit)
    else:
        cluster.typed_extension_protocol_options = http_options(
            HttpProtocolOptionsExplicitHttpConfig(http_protocol_options=Http1ProtocolOptions()),
            HttpProtocolOptions(idle_timeout=packing.seconds(UPSTREAM_IDLE_SECONDS)),
        )
    if ca_file is not None:
        cluster.transport_socket = _tls(ca_file, "h2" if grpc else "http/1.1")
    return cluster


def _tls(ca_file: str, protocol: str) -> TransportSocket:
    context = UpstreamTlsContext(
        auto_host_sni=True,
        auto_sni_san_validation=True,
        common_tls_context=CommonTlsContext(
            tls_params=TlsParameters(tls_minimum_protocol_version=TlsParametersTlsProtocol.TLSv1_2),
            alpn_protocols=[protocol],
            validation_context=CertificateValidationContext(trusted_ca=packing.file(ca_file)),
        ),
    )
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=Any.pack(context))
