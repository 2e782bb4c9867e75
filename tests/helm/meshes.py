"""What a mesh makes of the resources that attach it: stand-ins for Istio's control plane, which does not run here.

`envoy_gateway` translates the policies that it reads (EnvoyExtensionPolicy, ClientTrafficPolicy) and applies
EnvoyPatchPolicy's JSON patches, of JSONPath only the one form that the chart uses.

`istio` begins with a gateway as Istio configures it (a listener with its own filters, a route table that knows no host)
and applies EnvoyFilter patches as Istio documents them. It refuses operations that it does not know.
"""

import copy
import re
from typing import Any

Json = dict[str, Any]

MANAGER = "envoy.filters.network.http_connection_manager"
TYPES = "type.googleapis.com/envoy."


def gateway(sidecar_cluster: str, sidecar_socket: str) -> Json:
    """The bootstrap of a gateway with one HTTP listener and the sidecar's cluster."""
    manager = {
        "@type": f"{TYPES}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "outbound_0.0.0.0_8080",
        "use_remote_address": True,
        "normalize_path": True,
        "http_filters": [
            _filter("cors", "Cors"),
            _filter("router", "Router"),
        ],
        "route_config": {"name": "http.8080", "virtual_hosts": [{"name": "blackhole:8080", "domains": ["*"]}]},
    }  # fmt: skip
    endpoint = {"endpoint": {"address": {"pipe": {"path": sidecar_socket}}}}
    http2: Json = {"explicit_http_config": {"http2_protocol_options": {}}}
    options = {"@type": f"{TYPES}extensions.upstreams.http.v3.HttpProtocolOptions", **http2}
    cluster = {
        "name": sidecar_cluster,
        "type": "STATIC",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
        "load_assignment": {"cluster_name": sidecar_cluster, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    listener = {
        "name": "clients",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": MANAGER, "typed_config": manager}]}],
    }
    internal = {"@type": f"{TYPES}extensions.bootstrap.internal_listener.v3.InternalListener", "buffer_size_kb": 64}
    return {
        "node": {"id": "gateway", "cluster": "gateway"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        # As Istio's own bootstrap has it.
        "bootstrap_extensions": [{"name": "envoy.bootstrap.internal_listener", "typed_config": internal}],
        "static_resources": {"listeners": [listener], "clusters": [cluster]},
    }


def _filter(name: str, kind: str) -> Json:
    config = {"@type": f"{TYPES}extensions.filters.http.{name}.v3.{kind}"}
    return {"name": f"envoy.filters.http.{name}", "typed_config": config}


def merged(into: Json, patch: Json) -> Json:
    """Protobuf's merge: messages field by field, lists one behind the other, maps of messages by their keys."""
    result = copy.deepcopy(into)
    for key, value in patch.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict) and key != "typed_extension_protocol_options":
            result[key] = merged(result[key], value)
        elif isinstance(value, list):
            result[key] = [*result.get(key, []), *copy.deepcopy(value)]
        else:
            result[key] = copy.deepcopy(value)
    return result


def istio(base: Json, envoy_filter: Json, port: int) -> Json:
    """The base with an EnvoyFilter's patches."""
    config = copy.deepcopy(base)
    static = config["static_resources"]
    (network_filter,) = static["listeners"][0]["filter_chains"][0]["filters"]
    for entry in envoy_filter["spec"]["configPatches"]:
        match, patch = entry["match"], entry["patch"]
        value = patch["value"]
        assert match["context"] == "GATEWAY"
        for place in ("listener", "routeConfiguration"):
            assert match.get(place, {}).get("portNumber", port) == port
        manager = network_filter["typed_config"]
        names = [http_filter["name"] for http_filter in manager["http_filters"]]
        match (entry["applyTo"], patch["operation"]):
            case ("NETWORK_FILTER", "MERGE"):
                assert match["listener"]["filterChain"]["filter"]["name"] == value["name"] == MANAGER
                network_filter["typed_config"] = merged(manager, value["typed_config"])
            case ("HTTP_FILTER", "INSERT_BEFORE"):
                before = match["listener"]["filterChain"]["filter"]["subFilter"]["name"]
                manager["http_filters"].insert(names.index(before), value)
            case ("HTTP_FILTER", "MERGE"):
                index = names.index(match["listener"]["filterChain"]["filter"]["subFilter"]["name"])
                manager["http_filters"][index] = merged(manager["http_filters"][index], value)
            case ("VIRTUAL_HOST", "ADD"):
                manager["route_config"]["virtual_hosts"].append(value)
            case ("CLUSTER", "ADD"):
                static["clusters"].append(value)
            case ("LISTENER", "ADD"):
                static["listeners"].append(value)
            case ("CLUSTER", "MERGE"):
                (index,) = (i for i, c in enumerate(static["clusters"]) if c["name"] == match["cluster"]["name"])
                static["clusters"][index] = merged(static["clusters"][index], value)
            case unknown:
                raise AssertionError(f"{unknown} is nothing that this stand-in knows")
    return config


def envoy_gateway(base: Json, resources: dict[str, Json], cluster: str, listener: str) -> Json:
    """The base with Envoy Gateway's own filters for the policies, then with the patches."""
    config = copy.deepcopy(base)
    static = config["static_resources"]
    manager = static["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    (wanted,) = resources["EnvoyExtensionPolicy"]["spec"]["extProc"]
    assert (wanted["failOpen"], wanted["processingMode"]) == (False, {"request": {"body": "Buffered"}})
    made = {
        "@type": f"{TYPES}extensions.filters.http.ext_proc.v3.ExternalProcessor",
        "grpc_service": {"envoy_grpc": {"cluster_name": cluster}, "timeout": "10s"},
        "message_timeout": wanted["messageTimeout"],
        "processing_mode": {"request_body_mode": "BUFFERED", "response_header_mode": "SKIP"},
        "metadata_options": {"receiving_namespaces": {"untyped": wanted["metadata"]["writableNamespaces"]}},
    }
    name = f"envoy.filters.http.ext_proc/{cluster}"
    manager["http_filters"].insert(-1, {"name": name, "disabled": True, "typed_config": made})
    client = resources["ClientTrafficPolicy"]["spec"]
    removals = [
        {"remove_on_match": {"key_matcher": {entry["type"].lower(): entry["value"]}}}
        for entry in client["headers"]["earlyRequestHeaders"]["removeOnMatch"]
    ]
    early = {"@type": f"{TYPES}extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"}
    early_name = "envoy.http.early_header_mutation.header_mutation"
    manager["early_header_mutation_extensions"] = [
        {"name": early_name, "typed_config": early | {"mutations": removals}}
    ]
    assert client["path"]["escapedSlashesAction"] == "RejectRequest"
    manager["path_with_escaped_slashes_action"] = "REJECT_REQUEST"
    for entry in resources["EnvoyPatchPolicy"]["spec"]["jsonPatches"]:
        operation = entry["operation"]
        match entry["type"].rpartition(".")[2]:
            case "Listener":
                assert entry["name"] == listener
                _json_patch(static["listeners"][0], operation)
            case "RouteConfiguration":
                assert entry["name"] == listener
                _json_patch(manager["route_config"], operation)
            case "Cluster" if operation["path"] == "":
                assert entry["name"] == operation["value"]["name"]
                static["clusters"].append(operation["value"])
            case "Cluster":
                (found,) = (known for known in static["clusters"] if known["name"] == entry["name"])
                _json_patch(found, operation)
            case unknown:
                raise AssertionError(f"{unknown} is nothing that this stand-in knows")
    return config


def _json_patch(document: Any, operation: Json) -> None:
    """RFC 6902's add and replace at the places that `..KEY[?(@.name=='NAME')].MORE` finds, or at `path` alone."""
    keys = operation.get("path", "").split("/")[1:]
    places: list[list[Any]] = [[]]
    if "jsonPath" in operation:
        found = re.fullmatch(r"\.\.(\w+)\[\?\(@\.name=='([^']+)'\)\]((?:\.\w+)*)", operation["jsonPath"])
        assert found is not None, operation["jsonPath"]
        more = found[3].split(".")[1:]
        places = [place + more for place in _named(document, found[1], found[2])]
        assert len(places) == 1, f"{operation['jsonPath']}: {len(places)} places"
    (place,) = places
    path = place + keys
    last = path[-1]
    for key in path[:-1]:
        document = document[key] if isinstance(document, list) else document.setdefault(key, [] if last == "-" else {})
    if isinstance(document, list):
        assert operation["op"] == "add"
        document.insert(len(document) if last == "-" else last, operation["value"])
    else:
        assert operation["op"] == "add" or last in document
        document[last] = operation["value"]


def _named(document: Any, key: str, name: str, way: tuple[Any, ...] = ()) -> list[list[Any]]:
    """Where a list `key` has an element of this name, at any depth."""
    found: list[list[Any]] = []
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for here, value in items:
        if here == key and isinstance(value, list):
            found += [[*way, here, i] for i, element in enumerate(value) if element.get("name") == name]
        found += _named(value, key, name, (*way, here))
    return found
