"""Clusters: one for each model version and two for each store, from a file that Envoy watches, and the sidecar's.

A rollout has one more, which holds no endpoints: the aggregate of candidate and stable version, in
this order, by which a request that failed on the candidate finds the stable version (`routes`).

While rules are being reloaded, requests decided by the old and by the new document are both on
their way, so the file holds the versions of both until the old document's last exchange is over.
"""

import copy
import functools
import hashlib
import ipaddress
import json
from collections.abc import Iterator, Sequence
from typing import Any as Json

from envoy_data_plane.envoy.config.cluster.v3 import (
    Cluster,
    ClusterCustomClusterType,
    ClusterLbPolicy,
    OutlierDetection,
)
from envoy_data_plane.envoy.config.core.v3 import (
    Http1ProtocolOptions,
    Http2ProtocolOptions,
    KeepaliveSettings,
    TransportSocket,
)
from envoy_data_plane.envoy.config.core.v3 import (
    HttpProtocolOptions as CommonHttpOptions,
)
from envoy_data_plane.envoy.extensions.clusters.aggregate.v3 import ClusterConfig as AggregateCluster
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CertificateValidationContext,
    CommonTlsContext,
    SubjectAltNameMatcher,
    SubjectAltNameMatcherSanType,
    TlsCertificate,
    TlsParameters,
    TlsParametersTlsProtocol,
    UpstreamTlsContext,
)
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptionsExplicitHttpConfig,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.google.protobuf import Any
from tenantry.core.errors import Problem, RulesError
from tenantry.core.routing import cluster_name, rescue_cluster_name, store_cluster
from tenantry.core.rules import Rules
from tenantry.core.rules_stores import Store
from tenantry.core.schema import join

from tenantry_envoy import addresses, packing
from tenantry_envoy.addresses import Endpoint
from tenantry_envoy.cluster_parts import (
    CONNECT_TIMEOUT_SECONDS,
    OUTBOUND_FRAMES,
    UPSTREAM_BUFFER_BYTES,
    UPSTREAM_IDLE_SECONDS,
    breakers,
    filled,
    http_options,
    plain_cluster,
    somewhere,
)
from tenantry_envoy.names import SIDECAR_CLUSTER
from tenantry_envoy.options import EnvoyOptions, OptionsError, SidecarTls
from tenantry_envoy.store_clusters import store_resource

SIDECAR_STREAM_WINDOW_BYTES = 1024 * 1024
SIDECAR_CONNECTION_WINDOW_BYTES = 16 * 1024 * 1024


def clusters(*documents: Rules) -> dict[str, Json]:
    """Return the cluster discovery response for the versions and stores of all documents together.

    Plain data for the file at `EnvoyOptions.cds_path`. Where documents disagree on a cluster's
    endpoints the last one counts. Clusters are in the order of their names, and `version_info` is
    a digest of them: Envoy's stat `cluster_manager.cds.version_text` shows it once it has them.

    Raises RulesError for an endpoint that Envoy would refuse.
    """
    found: dict[str, dict[str, Json]] = {}
    for rules in documents:
        for model_name, model in rules.models.items():
            for version_name, version in model.versions.items():
                path = join(f"{join('models', model_name)}.versions", version_name)
                name = cluster_name(model_name, version_name)
                found[name] = _resource(name, _endpoints(version.endpoints, f"{path}.endpoints"))
            if model.rollout is not None:
                resource = _rescue_resource(model_name, model.rollout.candidate, model.stable)
                found[resource["name"]] = resource
        for store_name, store in rules.stores.items():
            found.update((resource["name"], resource) for resource in _store_resources(store_name, store))
    resources = [found[name] for name in sorted(found)]
    canonical = json.dumps(resources, sort_keys=True, separators=(",", ":")).encode()
    return {"version_info": hashlib.sha256(canonical).hexdigest()[:16], "resources": resources}


def model_cluster(name: str, endpoints: Sequence[Endpoint]) -> Cluster:
    """Return the cluster of one model version."""
    cluster = plain_cluster(name, endpoints)
    cluster.typed_extension_protocol_options = http_options(
        HttpProtocolOptionsExplicitHttpConfig(http_protocol_options=Http1ProtocolOptions()),
        CommonHttpOptions(idle_timeout=packing.seconds(UPSTREAM_IDLE_SECONDS)),
    )
    return cluster


def rescue_cluster(model: str, candidate: str, stable: str) -> Cluster:
    """Return the aggregate cluster that tries a candidate first, then the stable version."""
    return Cluster(
        name=rescue_cluster_name(model, candidate, stable),
        cluster_type=ClusterCustomClusterType(
            name="envoy.clusters.aggregate",
            typed_config=Any.pack(
                AggregateCluster(clusters=[cluster_name(model, candidate), cluster_name(model, stable)])
            ),
        ),
        lb_policy=ClusterLbPolicy.CLUSTER_PROVIDED,
        # Connections are those of the two clusters; requests and retries are counted here.
        connect_timeout=packing.seconds(CONNECT_TIMEOUT_SECONDS),
        per_connection_buffer_limit_bytes=UPSTREAM_BUFFER_BYTES,
        circuit_breakers=breakers(),
    )


def sidecar_endpoints(options: EnvoyOptions) -> list[Endpoint]:
    """Return the sidecars' addresses; raise OptionsError for a bad one."""
    try:
        return [addresses.parse(text) for text in options.sidecars]
    except ValueError as error:
        raise OptionsError(f"sidecars: {error}") from None


def sidecar_cluster(options: EnvoyOptions) -> Cluster:
    """Return the cluster of the ext_proc and access-log services; raise OptionsError for a bad endpoint."""
    endpoints = sidecar_endpoints(options)
    http2 = Http2ProtocolOptions(
        initial_stream_window_size=SIDECAR_STREAM_WINDOW_BYTES,
        initial_connection_window_size=SIDECAR_CONNECTION_WINDOW_BYTES,
        # A client connection that closes makes Envoy reset each of its ext_proc streams at once. With
        # the default of 1,000 frames Envoy then took its own connection to the sidecar for a flood,
        # closed it, and cut every tenant's answer in flight.
        max_outbound_frames=OUTBOUND_FRAMES,
        max_outbound_control_frames=OUTBOUND_FRAMES,
    )
    if not all(endpoint.is_local for endpoint in endpoints):
        # Finds out about a host that went silent; for a process on this host the kernel does.
        # A ping only before a new stream on a connection that was silent, since grpcio takes
        # regular pings for abuse (GOAWAY, too_many_pings); and with patience, since giving up a
        # connection cuts every answer whose exchange it holds.
        http2.connection_keepalive = KeepaliveSettings(
            connection_idle_interval=packing.seconds(5), timeout=packing.seconds(10)
        )
    cluster = plain_cluster(SIDECAR_CLUSTER, endpoints)
    cluster.outlier_detection = _without_the_lost()
    cluster.typed_extension_protocol_options = http_options(
        HttpProtocolOptionsExplicitHttpConfig(http2_protocol_options=http2)
    )
    if options.sidecar_tls is not None:
        cluster.transport_socket = _sidecar_tls(options.sidecar_tls)
    return cluster


def _without_the_lost() -> OutlierDetection:
    # LEAST_REQUEST takes a dead sidecar for an idle one: with one of two gone, 3 of 4 requests got 503.
    # What counts is a failure to connect, and UNAVAILABLE, with which a sidecar drains; other error
    # statuses a client might provoke.
    return OutlierDetection(
        split_external_local_origin_errors=True,
        consecutive_local_origin_failure=1,
        enforcing_consecutive_local_origin_failure=100,
        consecutive_gateway_failure=1,
        enforcing_consecutive_gateway_failure=100,
        enforcing_consecutive_5xx=0,
        enforcing_success_rate=0,
        enforcing_local_origin_success_rate=0,
        interval=packing.seconds(1),
        base_ejection_time=packing.seconds(5),
        max_ejection_time=packing.seconds(30),
        max_ejection_percent=50,
    )


def _endpoints(texts: Sequence[str], path: str) -> list[Endpoint]:
    endpoints: list[Endpoint] = []
    problems: list[Problem] = []
    for index, text in enumerate(texts):
        try:
            endpoints.append(addresses.parse(text))
        except ValueError as error:
            problems.append(Problem(path=f"{path}[{index}]", message=str(error)))
    if problems:
        raise RulesError(problems)
    return endpoints


def _resource(name: str, endpoints: Sequence[Endpoint]) -> dict[str, Json]:
    template = _template(needs_dns=any(endpoint.needs_dns for endpoint in endpoints))
    return filled(template, name, endpoints)


def _store_resources(name: str, store: Store) -> Iterator[dict[str, Json]]:
    path = join("stores", name)
    rest = _endpoints(store.endpoints, f"{path}.endpoints")
    yield store_resource(store_cluster(name, grpc=False), rest, store, grpc=False)
    own = _endpoints(store.grpc_endpoints, f"{path}.grpcEndpoints")
    yield store_resource(store_cluster(name, grpc=True), own or rest, store, grpc=True)


def _rescue_resource(model: str, candidate: str, stable: str) -> dict[str, Json]:
    resource = copy.deepcopy(_rescue_template())
    resource["name"] = rescue_cluster_name(model, candidate, stable)
    resource["cluster_type"]["typed_config"]["clusters"] = [cluster_name(model, candidate), cluster_name(model, stable)]
    return resource


@functools.cache
def _rescue_template() -> dict[str, Json]:
    return packing.plain(Any.pack(rescue_cluster("template", "candidate", "stable")))


@functools.cache
def _template(*, needs_dns: bool) -> dict[str, Json]:
    return packing.plain(Any.pack(model_cluster("template", [somewhere(needs_dns=needs_dns)])))


def _sidecar_tls(tls: SidecarTls) -> TransportSocket:
    context = UpstreamTlsContext(
        sni=tls.server_san if _san_type(tls.server_san) is SubjectAltNameMatcherSanType.DNS else "",
        common_tls_context=CommonTlsContext(
            tls_params=TlsParameters(tls_minimum_protocol_version=TlsParametersTlsProtocol.TLSv1_2),
            alpn_protocols=["h2"],
            tls_certificates=[
                TlsCertificate(certificate_chain=packing.file(tls.cert_file), private_key=packing.file(tls.key_file))
            ],
            validation_context=CertificateValidationContext(
                trusted_ca=packing.file(tls.ca_file),
                match_typed_subject_alt_names=[
                    SubjectAltNameMatcher(
                        san_type=_san_type(tls.server_san), matcher=StringMatcher(exact=tls.server_san)
                    )
                ],
            ),
        ),
    )
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=Any.pack(context))


def _san_type(san: str) -> SubjectAltNameMatcherSanType:
    if "://" in san:
        return SubjectAltNameMatcherSanType.URI
    try:
        ipaddress.ip_address(san)
    except ValueError:
        return SubjectAltNameMatcherSanType.DNS
    return SubjectAltNameMatcherSanType.IP_ADDRESS
