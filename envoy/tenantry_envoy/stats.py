"""A listener for Prometheus: Envoy's own `GET /stats/prometheus` and nothing else of its admin page.

The admin page has no password, can stop Envoy and shows keys' file names and addresses, so it stays on loopback. This
listener may be on any address: it asks the admin page for one path, compared as it was sent, before anything is
normalised. Whatever differs by a character (a query, an escape, a dot) is 404 and never becomes a request there.
"""

from collections.abc import Iterator

from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    Cluster,
)
from envoy_data_plane.envoy.config.core.v3 import HttpProtocolOptions
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, Listener
from envoy_data_plane.envoy.config.route.v3 import (
    DirectResponseAction,
    HeaderMatcher,
    Route,
    RouteAction,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
)
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.connection_limit.v3 import ConnectionLimit
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpConnectionManagerCodecType,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.google.protobuf import Any

from tenantry_envoy import packing
from tenantry_envoy.addresses import Endpoint, bound
from tenantry_envoy.cluster_parts import plain_cluster
from tenantry_envoy.names import STATS
from tenantry_envoy.options import EnvoyOptions

STATS_PATH = "/stats/prometheus"

MAX_CONNECTIONS = 16
"""More than the replicas of a Prometheus; a bound on what anybody else can hold."""

MAX_ANSWERS = 4
"""Answers under way. Envoy's main thread makes them, and that thread also takes new clusters."""

ANSWER_SECONDS = 10.0
CONNECTION_IDLE_SECONDS = 120.0
"""Above the usual scrape interval, so that a scrape finds its connection open."""

MAX_HEADERS_KIB = 8
BUFFER_BYTES = 64 * 1024


def stats_listeners(options: EnvoyOptions) -> list[Listener]:
    """Return the listener, if one is wanted."""
    return list(_listeners(options))


def stats_clusters(options: EnvoyOptions) -> list[Cluster]:
    """Return the cluster of Envoy's own admin page, if the listener is wanted."""
    if options.stats_port is None:
        return []
    cluster = plain_cluster(STATS, [Endpoint(host=options.admin_host, port=options.admin_port)])
    few = CircuitBreakersThresholds(
        max_connections=MAX_ANSWERS, max_pending_requests=MAX_ANSWERS, max_requests=MAX_ANSWERS
    )
    cluster.circuit_breakers = CircuitBreakers(thresholds=[few])
    return [cluster]


def _listeners(options: EnvoyOptions) -> Iterator[Listener]:
    if options.stats_port is None:
        return
    limit = ConnectionLimit(stat_prefix=STATS, max_connections=MAX_CONNECTIONS)
    yield Listener(
        name=STATS,
        address=bound(options.stats_host, options.stats_port),
        per_connection_buffer_limit_bytes=BUFFER_BYTES,
        enable_reuse_port=False,
        # When clients have taken every connection, Prometheus must be able to say so; here is a bound of its own.
        ignore_global_conn_limit=True,
        filter_chains=[
            FilterChain(
                filters=[
                    Filter(name="envoy.filters.network.connection_limit", typed_config=Any.pack(limit)),
                    Filter(name="envoy.filters.network.http_connection_manager", typed_config=Any.pack(_manager())),
                ]
            )
        ],
    )


def _manager() -> HttpConnectionManager:
    return HttpConnectionManager(
        stat_prefix=STATS,
        codec_type=HttpConnectionManagerCodecType.HTTP1,
        server_name="tenantry",
        # Compared as it was sent: nothing is made into the one path that there is.
        normalize_path=False,
        merge_slashes=False,
        max_request_headers_kb=MAX_HEADERS_KIB,
        request_headers_timeout=packing.seconds(ANSWER_SECONDS),
        request_timeout=packing.seconds(ANSWER_SECONDS),
        stream_idle_timeout=packing.seconds(ANSWER_SECONDS),
        common_http_protocol_options=HttpProtocolOptions(idle_timeout=packing.seconds(CONNECTION_IDLE_SECONDS)),
        http_filters=[packing.http_filter("envoy.filters.http.router", Router(suppress_envoy_headers=True))],
        route_config=RouteConfiguration(
            name=STATS, virtual_hosts=[VirtualHost(name=STATS, domains=["*"], routes=list(_routes()))]
        ),
    )


def _routes() -> Iterator[Route]:
    yield Route(
        name="prometheus",
        match=RouteMatch(
            path=STATS_PATH,
            headers=[
                HeaderMatcher(name=":method", string_match=StringMatcher(exact="GET")),
                # `path` above leaves the query out of account, this does not.
                HeaderMatcher(name=":path", string_match=StringMatcher(exact=STATS_PATH)),
            ],
        ),
        route=RouteAction(cluster=STATS, timeout=packing.seconds(ANSWER_SECONDS)),
    )
    yield Route(name="nothing_else", match=RouteMatch(prefix="/"), direct_response=DirectResponseAction(status=404))
