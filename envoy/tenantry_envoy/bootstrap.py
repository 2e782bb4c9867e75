"""The complete bootstrap: listener, sidecar cluster, cluster discovery by file, overload limits, admin page."""

import posixpath
from collections.abc import Iterator
from typing import Any as Json

from envoy_data_plane.envoy.config.bootstrap.v3 import (
    Admin,
    Bootstrap,
    BootstrapDynamicResources,
    BootstrapStaticResources,
)
from envoy_data_plane.envoy.config.core.v3 import ApiVersion, ConfigSource, Node, PathConfigSource, WatchedDirectory
from envoy_data_plane.envoy.config.overload.v3 import (
    OverloadAction,
    OverloadManager,
    ResourceMonitor,
    ThresholdTrigger,
    Trigger,
)
from envoy_data_plane.envoy.extensions.resource_monitors.downstream_connections.v3 import DownstreamConnectionsConfig
from envoy_data_plane.envoy.extensions.resource_monitors.fixed_heap.v3 import FixedHeapConfig
from envoy_data_plane.google.protobuf import Any
from tenantry.core.errors import Problem, RulesError
from tenantry.core.rules import Rules

from tenantry_envoy import packing
from tenantry_envoy.addresses import Endpoint
from tenantry_envoy.clusters import sidecar_cluster
from tenantry_envoy.listener import listener
from tenantry_envoy.mirror import mirror_cluster, mirror_extension, mirror_listener
from tenantry_envoy.options import EnvoyOptions
from tenantry_envoy.stats import stats_clusters, stats_listeners

CONNECTIONS_PER_EXCHANGE = 2
"""A client keeps idle connections beside those it uses."""

HEAP_MONITOR = "envoy.resource_monitors.fixed_heap"
SHRINK_AT, REFUSE_AT = 0.90, 0.97


def bootstrap(rules: Rules, options: EnvoyOptions) -> dict[str, Json]:
    """Return the bootstrap as plain data (JSON, hence YAML, for `envoy --config-path`).

    Raises RulesError where rules and options contradict each other, OptionsError for a bad endpoint.
    """
    _check(rules, options)
    return packing.plain(
        Bootstrap(
            node=Node(id="tenantry", cluster="tenantry"),
            admin=Admin(
                address=Endpoint(host=options.admin_host, port=options.admin_port).address(),
                ignore_global_conn_limit=True,
            ),
            static_resources=BootstrapStaticResources(
                listeners=[listener(rules, options), mirror_listener(rules), *stats_listeners(options)],
                clusters=[sidecar_cluster(options), mirror_cluster(), *stats_clusters(options)],
            ),
            bootstrap_extensions=[mirror_extension()],
            dynamic_resources=BootstrapDynamicResources(cds_config=_discovery(options.cds_path)),
            overload_manager=_overload(rules, options),
        )
    )


def _check(rules: Rules, options: EnvoyOptions) -> None:
    verifies_clients = options.listener_tls is not None and options.listener_tls.client_ca_file is not None
    if rules.identity.mtls is not None and not verifies_clients:
        raise RulesError(
            [
                Problem(
                    path="identity.mtls",
                    message="Envoy's listener verifies no client certificates",
                    hint="give the listener a certificate, a key and a client CA, or remove identity.mtls",
                )
            ]
        )


def _discovery(path: str) -> ConfigSource:
    # Watching the directory, not the file, also sees the `..data` swap of a mounted ConfigMap.
    return ConfigSource(
        resource_api_version=ApiVersion.V3,
        path_config_source=PathConfigSource(
            path=path, watched_directory=WatchedDirectory(path=posixpath.dirname(path) or ".")
        ),
    )


def _overload(rules: Rules, options: EnvoyOptions) -> OverloadManager:
    connections = options.max_connections or CONNECTIONS_PER_EXCHANGE * rules.limits.max_open_exchanges
    monitors = [
        ResourceMonitor(
            name="envoy.resource_monitors.global_downstream_max_connections",
            typed_config=Any.pack(DownstreamConnectionsConfig(max_active_downstream_connections=connections)),
        )
    ]
    actions: list[OverloadAction] = []
    if options.max_heap_bytes is not None:
        monitors.append(
            ResourceMonitor(
                name=HEAP_MONITOR, typed_config=Any.pack(FixedHeapConfig(max_heap_size_bytes=options.max_heap_bytes))
            )
        )
        actions = list(_heap_actions())
    return OverloadManager(refresh_interval=packing.seconds(0.25), resource_monitors=monitors, actions=actions)


def _heap_actions() -> Iterator[OverloadAction]:
    for name, threshold in (
        ("envoy.overload_actions.shrink_heap", SHRINK_AT),
        ("envoy.overload_actions.stop_accepting_requests", REFUSE_AT),
    ):
        yield OverloadAction(
            name=name, triggers=[Trigger(name=HEAP_MONITOR, threshold=ThresholdTrigger(value=threshold))]
        )
