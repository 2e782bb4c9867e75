"""Where copies for a candidate go: an internal listener, so that a copy is routed as a request is.

Envoy sends a copy past the route of its original. Sent straight to the candidate it kept the
client's `host`, which would choose the backend behind a name-routed gateway; it was waited for
without end when the candidate hung; and its original had to show the stable version's engine the
header that names the candidate (all measured). So the mirror's cluster is this listener inside the
same process: no socket, nobody outside can reach it. Behind it each copy takes a plain route, with
the host of its endpoint and an end to silence, and gets its mark.
"""

from envoy_data_plane.envoy.config.cluster.v3 import Cluster, ClusterDiscoveryType
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    EnvoyInternalAddress,
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, Listener, ListenerInternalListenerConfig
from envoy_data_plane.envoy.config.route.v3 import Route, RouteConfiguration, RouteMatch, VirtualHost
from envoy_data_plane.envoy.extensions.bootstrap.internal_listener.v3 import InternalListener
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpConnectionManager
from envoy_data_plane.google.protobuf import Any
from tenantry.core.rules import Rules

from tenantry_envoy import packing
from tenantry_envoy.cluster_parts import CONNECT_TIMEOUT_SECONDS, UPSTREAM_BUFFER_BYTES, breakers
from tenantry_envoy.names import MIRROR_CLUSTER, MIRROR_CLUSTER_HEADER, MIRROR_HEADER
from tenantry_envoy.routes import to_cluster_of


def mirror_extension() -> TypedExtensionConfig:
    """Return what lets Envoy have internal listeners at all."""
    return packing.extension("envoy.bootstrap.internal_listener", InternalListener())


def mirror_cluster() -> Cluster:
    """Return the cluster whose only endpoint is the internal listener."""
    inside = Address(envoy_internal_address=EnvoyInternalAddress(server_listener_name=MIRROR_CLUSTER))
    return Cluster(
        name=MIRROR_CLUSTER,
        type=ClusterDiscoveryType.STATIC,
        connect_timeout=packing.seconds(CONNECT_TIMEOUT_SECONDS),
        per_connection_buffer_limit_bytes=UPSTREAM_BUFFER_BYTES,
        circuit_breakers=breakers(),
        load_assignment=ClusterLoadAssignment(
            cluster_name=MIRROR_CLUSTER,
            endpoints=[LocalityLbEndpoints(lb_endpoints=[LbEndpoint(endpoint=Endpoint(address=inside))])],
        ),
    )


def mirror_listener(rules: Rules) -> Listener:
    """Return the internal listener."""
    manager = HttpConnectionManager(
        stat_prefix=MIRROR_CLUSTER,
        generate_request_id=False,  # a copy has its original's
        route_config=_routes(rules),
        http_filters=[packing.http_filter("envoy.filters.http.router", Router(suppress_envoy_headers=True))],
        stream_idle_timeout=packing.seconds(rules.limits.stream_idle_seconds),
    )
    chain = FilterChain(
        filters=[Filter(name="envoy.filters.network.http_connection_manager", typed_config=Any.pack(manager))]
    )
    return Listener(
        name=MIRROR_CLUSTER,
        internal_listener=ListenerInternalListenerConfig(),
        filter_chains=[chain],
        # The bound on client connections is for clients; copies are as many as their originals.
        ignore_global_conn_limit=True,
    )


def _routes(rules: Rules) -> RouteConfiguration:
    mark = HeaderValueOption(
        header=HeaderValue(key=MIRROR_HEADER, value="1"),
        append_action=HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )
    return RouteConfiguration(
        name=MIRROR_CLUSTER,
        virtual_hosts=[
            VirtualHost(
                name="copies",
                domains=["*"],
                routes=[
                    Route(name="copy", match=RouteMatch(prefix="/"), route=to_cluster_of(MIRROR_CLUSTER_HEADER, rules))
                ],
                request_headers_to_add=[mark],
                # What Envoy itself put on the copy: it came from inside.
                request_headers_to_remove=[MIRROR_CLUSTER_HEADER, "x-envoy-internal"],
            )
        ],
    )
