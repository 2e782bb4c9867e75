"""What all clusters have in common: breakers, time and size limits, endpoints, and templates filled in fast."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any as Json

from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    Cluster,
    ClusterCustomClusterType,
    ClusterDiscoveryType,
    ClusterLbPolicy,
    UpstreamConnectionOptions,
)
from envoy_data_plane.envoy.config.core.v3 import HttpProtocolOptions as CommonHttpOptions
from envoy_data_plane.envoy.config.core.v3 import TcpKeepalive
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint_v3
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints
from envoy_data_plane.envoy.extensions.clusters.common.dns.v3 import DnsLookupFamily
from envoy_data_plane.envoy.extensions.clusters.dns.v3 import DnsCluster
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsExplicitHttpConfig,
)
from envoy_data_plane.google.protobuf import Any

from tenantry_envoy import packing
from tenantry_envoy.addresses import Endpoint

BREAKER = 100_000
"""Above every bound that the rules set elsewhere: with the default of 1,024 the 1,025th open stream got 500."""

CONNECT_TIMEOUT_SECONDS = 1.0

UPSTREAM_IDLE_SECONDS = 3.0
"""Below the 5 s after which uvicorn, and so vLLM, closes an idle connection: the first to close
must be Envoy, or a request is sent into a connection that is being closed, and retries are for rollouts alone."""

UPSTREAM_BUFFER_BYTES = 1024 * 1024
OUTBOUND_FRAMES = 1_000_000
"""With the default of 1,000 Envoy takes its own resets of many streams for a flood, and closes the connection."""


def breakers() -> CircuitBreakers:
    """Return the circuit breakers of every cluster."""
    threshold = CircuitBreakersThresholds(
        max_connections=BREAKER, max_pending_requests=BREAKER, max_requests=BREAKER, max_retries=BREAKER
    )
    return CircuitBreakers(thresholds=[threshold])


def plain_cluster(name: str, endpoints: Sequence[Endpoint]) -> Cluster:
    """Return a cluster without a protocol."""
    cluster = Cluster(
        name=name,
        connect_timeout=packing.seconds(CONNECT_TIMEOUT_SECONDS),
        per_connection_buffer_limit_bytes=UPSTREAM_BUFFER_BYTES,
        lb_policy=ClusterLbPolicy.LEAST_REQUEST,
        load_assignment=ClusterLoadAssignment(
            cluster_name=name,
            endpoints=[
                LocalityLbEndpoints(
                    lb_endpoints=[
                        LbEndpoint(
                            endpoint=endpoint_v3.Endpoint(address=endpoint.address(), hostname=endpoint.hostname)
                        )
                        for endpoint in endpoints
                    ]
                )
            ],
        ),
        circuit_breakers=breakers(),
        upstream_connection_options=UpstreamConnectionOptions(
            tcp_keepalive=TcpKeepalive(keepalive_time=30, keepalive_interval=10, keepalive_probes=3)
        ),
    )
    if any(endpoint.needs_dns for endpoint in endpoints):
        # Strict DNS, in the form that replaces the deprecated fields of Cluster. IPv4 first:
        # hosts files give `localhost` as ::1 too, where engines do not listen.
        cluster.cluster_type = ClusterCustomClusterType(
            name="envoy.cluster.dns",
            typed_config=Any.pack(DnsCluster(dns_lookup_family=DnsLookupFamily.V4_PREFERRED)),
        )
    else:
        cluster.type = ClusterDiscoveryType.STATIC
    return cluster


def http_options(
    explicit: HttpProtocolOptionsExplicitHttpConfig, common: CommonHttpOptions | None = None
) -> dict[str, Any]:
    """Return the protocol options of a cluster."""
    options = HttpProtocolOptions(explicit_http_config=explicit, common_http_protocol_options=common)
    return {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": Any.pack(options)}


def somewhere(*, needs_dns: bool) -> Endpoint:
    """Return an endpoint for a template."""
    return Endpoint(host="name.invalid" if needs_dns else "127.0.0.1", port=1)


def filled(template: Mapping[str, Json], name: str, endpoints: Sequence[Endpoint]) -> dict[str, Json]:
    """Return a copy of a cluster's plain data with this name and these endpoints.

    The message-to-data step takes 10 ms a cluster, and a reload runs beside live traffic: it is taken once for each
    kind of cluster, and name and endpoints are put in here (30 us).
    """
    resource: dict[str, Json] = copy.deepcopy(dict(template))
    resource["name"] = resource["load_assignment"]["cluster_name"] = name
    resource["load_assignment"]["endpoints"] = [
        {
            "lb_endpoints": [
                {"endpoint": {"address": endpoint.plain(), "hostname": endpoint.hostname}} for endpoint in endpoints
            ]
        }
    ]
    return resource
