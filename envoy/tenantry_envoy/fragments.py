"""Parts of the configuration for meshes that write the rest themselves: the chart's files/envoy/*.json.

    python -m tenantry_envoy      # writes them with generated/

A mesh has its own listeners, and its escape hatch (Istio's EnvoyFilter, Envoy Gateway's EnvoyPatchPolicy) takes pieces:
filters, fields of the connection manager, a virtual host, clusters. Each piece here comes from the same functions as
the bootstrap. The chart's templates read them and set what a release knows: names, addresses and limits of its rules.

What depends on a feature of the rules is a file of its own that says how a piece differs with the feature:
`ext_proc.milvus.json` holds the fields of ext_proc that are others when a Milvus store is there.
"""

import json
from typing import Any as Json

from betterproto2 import Message
from envoy_data_plane.google.protobuf import Any
from tenantry.core.rules import Limits, Rules, parse
from tenantry.core.rules_stores import Store, StoreTls

from tenantry_envoy import filters, packing, store_clusters
from tenantry_envoy.cluster_parts import somewhere
from tenantry_envoy.clusters import model_cluster, rescue_cluster, sidecar_cluster
from tenantry_envoy.connection_manager import connection_manager
from tenantry_envoy.filters import http_filters
from tenantry_envoy.mirror import mirror_cluster, mirror_extension, mirror_listener
from tenantry_envoy.names import EXT_PROC
from tenantry_envoy.options import EnvoyOptions
from tenantry_envoy.routes import STAMP_BYTES
from tenantry_envoy.store_guard import guard_filters

OPTIONS = EnvoyOptions(sidecars=("sidecar.invalid:50051",), cds_path="/unused")
"""The templates put the mesh's own cluster in the place of the sidecar's: a name that may stand for many replicas."""

LEFT_TO_THE_MESH = (
    *("stat_prefix", "server_name", "http_filters", "route_config", "access_log"),
    *("use_remote_address", "forward_client_cert_details"),
)
"""Fields of the connection manager that a mesh decides: it knows its load balancer and its own certificates."""

FEATURES: dict[str, dict[str, Json]] = {
    "milvus": {"stores": {"s": {"kind": "milvus", "endpoints": ["10.0.0.1:19530"], "isolation": "database"}}},
    "pinecone": {"stores": {"s": {"kind": "pinecone", "endpoints": ["10.0.0.1:443"], "isolation": "namespace"}}},
    "mtls": {"identity": {"mtls": {"uriSanPrefix": "spiffe://any/"}}},
    "usage": {
        "models": {"m": {"stable": "1", "usage": "response", "versions": {"1": {"endpoints": ["10.0.0.1:8000"]}}}}
    },
}
"""Rules by which the pieces differ, each with one feature."""


def fragments() -> dict[str, str]:
    """Return the text of each file by its name."""
    return {name: json.dumps(data, indent=1) + "\n" for name, data in _fragments().items()}


def _fragments() -> dict[str, Json]:
    base, stores = _rules(), _rules("milvus")
    manager = packing.plain(connection_manager(base, OPTIONS))
    found: dict[str, Json] = {
        "limits.json": _limits(),
        "connection_manager.json": _without(manager, LEFT_TO_THE_MESH),
        "access_log.json": manager["access_log"][0],
        "virtual_host.json": manager["route_config"]["virtual_hosts"][0],
        "ext_proc.json": _filter(base, EXT_PROC),
        "rbac.json": _filter(base, "envoy.filters.http.rbac"),
        "router.json": _filter(base, "envoy.filters.http.router"),
        "store_guard.json": [packing.plain(entry) for entry in guard_filters()],
        "local_replies.stores.json": packing.plain(connection_manager(stores, OPTIONS))["local_reply_config"],
        "mirror_cluster.json": packing.plain(mirror_cluster()),
        "mirror_listener.json": packing.plain(mirror_listener(base)),
        "mirror_bootstrap.json": packing.plain(mirror_extension()),
        "sidecar_cluster.json": packing.plain(sidecar_cluster(OPTIONS)),
    }
    for feature in FEATURES:
        found[f"ext_proc.{feature}.json"] = _difference(base, _rules(feature))
    for kind in ("milvus", "pinecone"):
        found[f"routes.{kind}.json"] = _store_routes(kind)
    return found | _clusters()


def _rules(*features: str) -> Rules:
    document: dict[str, Json] = {"version": 1, "tiers": {"t": {}}, "defaultTier": "t", "models": {}}
    for feature in features:
        document |= FEATURES[feature]
    return parse(document)


def _filter(rules: Rules, name: str) -> dict[str, Json]:
    (found,) = (entry for entry in http_filters(rules, OPTIONS) if entry.name == name)
    return packing.plain(found)


def _difference(base: Rules, feature: Rules) -> dict[str, Json]:
    """Return the fields of ext_proc that a feature adds or changes; it takes none away."""
    before, after = (_filter(rules, EXT_PROC)["typed_config"] for rules in (base, feature))
    if before.keys() - after.keys():
        raise AssertionError(f"{before.keys() - after.keys()} are gone, which a file of fields cannot say")
    return {key: value for key, value in after.items() if before.get(key) != value}


def _store_routes(kind: str) -> list[dict[str, Json]]:
    plain = packing.plain(connection_manager(_rules(kind), OPTIONS))
    (host,) = plain["route_config"]["virtual_hosts"]
    return [route for route in host["routes"] if route["name"].startswith(f"{kind}.")]


def _limits() -> dict[str, Json]:
    limits = Limits()
    return {
        "default_max_body_bytes": limits.max_body_bytes,
        "default_stream_idle_seconds": limits.stream_idle_seconds,
        "reply_overhead_bytes": filters.REPLY_OVERHEAD_BYTES,
        "stamp_bytes": STAMP_BYTES,
    }


def _clusters() -> dict[str, Json]:
    """Return clusters to fill in: a name, and addresses of one kind, IP addresses (static) or names (dns)."""
    found: dict[str, Json] = {"cluster.rescue.json": _plain(rescue_cluster("template", "candidate", "stable"))}
    for kind, needs_dns in (("static", False), ("dns", True)):
        endpoints = [somewhere(needs_dns=needs_dns)]
        found[f"cluster.model.{kind}.json"] = _plain(model_cluster("template", endpoints))
        for protocol in ("grpc", "rest"):
            for suffix, tls in (("", None), (".tls", StoreTls(ca_file="/template"))):
                store = Store(kind="milvus", endpoints=("10.0.0.1:1",), isolation="database", tls=tls)
                resource = store_clusters.store_resource("template", endpoints, store, grpc=protocol == "grpc")
                found[f"cluster.store.{protocol}.{kind}{suffix}.json"] = _without(resource, ("@type",))
    return found


def _plain(message: Message) -> dict[str, Json]:
    return _without(packing.plain(Any.pack(message)), ("@type",))


def _without(data: dict[str, Json], names: tuple[str, ...]) -> dict[str, Json]:
    return {key: value for key, value in data.items() if key not in names}
