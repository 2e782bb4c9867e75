"""The generated Envoy configuration: what it says, that it is checked in, and that Envoy takes it.

What it *does* is shown in tests/dataplane, through a real Envoy.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from dataplane.pki import Authority, Issuer
from envoy_data_plane.google.protobuf import Any as ProtoAny
from tenantry.adapters import codec
from tenantry.core.chat import Api
from tenantry.core.errors import RequestRefusedError, RulesError
from tenantry.core.routing import cluster_names
from tenantry.core.rules import Rules, parse
from tenantry_envoy import addresses, cases, names, packing, store_guard
from tenantry_envoy.binary import EnvoyNotFoundError, find_envoy
from tenantry_envoy.bootstrap import bootstrap
from tenantry_envoy.cases import Case
from tenantry_envoy.clusters import clusters, model_cluster, rescue_cluster
from tenantry_envoy.local_replies import table
from tenantry_envoy.options import EnvoyOptions, ListenerTls, OptionsError, SidecarTls

ENVOY = Path(__file__).resolve().parents[2] / "envoy"
CASES = [cases.load(path) for path in sorted((ENVOY / "cases").glob("*.yaml"))]

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def rules(*, models: dict[str, Any] | None = None, **members: Any) -> Rules:
    default = {"chat": {"stable": "1", "versions": {"1": {"endpoints": ["127.0.0.1:8001"]}}}}
    return parse({"version": 1, "tiers": {"t": {}}, "defaultTier": "t", "models": models or default} | members)


def one_model(**endpoints: str) -> Rules:
    """Rules for model `m` with a version for each keyword, `v1="host:port"`."""
    versions = {name: {"endpoints": [endpoint]} for name, endpoint in endpoints.items()}
    return rules(models={"m": {"stable": next(iter(endpoints)), "versions": versions}})


OPTIONS = EnvoyOptions(sidecars=("127.0.0.1:9200",), cds_path="/run/tenantry/cds.json")


def listener(document: dict[str, Any], name: str = "clients") -> dict[str, Any]:
    (found,) = (entry for entry in document["static_resources"]["listeners"] if entry["name"] == name)
    config: dict[str, Any] = found
    return config


def manager(document: dict[str, Any], name: str = "clients") -> dict[str, Any]:
    """The HTTP connection manager of a bootstrap's listener."""
    (chain,) = listener(document, name)["filter_chains"]
    (network_filter,) = chain["filters"]
    config: dict[str, Any] = network_filter["typed_config"]
    return config


def http_filter(document: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (entry for entry in manager(document)["http_filters"] if entry["name"] == name)
    config: dict[str, Any] = found["typed_config"]
    return config


def walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key of a document with its value, at any depth."""
    if isinstance(value, dict):
        for key, element in value.items():
            yield key, element
            yield from walk(element)
    elif isinstance(value, list):
        for element in value:
            yield from walk(element)


# --- checked in, and taken by Envoy ---


@every_case
def test_checked_in_output_is_what_the_generator_makes(case: Case) -> None:
    for name, text in cases.render(case).items():
        assert (ENVOY / "generated" / name).read_text() == text, "run `make stubs` and look at the difference"


def test_every_generated_file_has_its_case() -> None:
    made = {name for case in CASES for name in cases.render(case)}
    assert {path.name for path in (ENVOY / "generated").iterdir()} == made


def test_running_the_package_makes_the_same_files(tmp_path: Path) -> None:
    folder = tmp_path / "envoy"
    (folder / "generated").mkdir(parents=True)
    (folder / "cases").symlink_to(ENVOY / "cases")
    (folder / "generated" / "stale.yaml").touch()
    subprocess.run([sys.executable, "-m", "tenantry_envoy", str(folder)], check=True, capture_output=True)
    for output in ("envoy/generated", "helm/tenantry/files/envoy"):
        made = {path.name: path.read_text() for path in (tmp_path / output).iterdir()}
        assert made == {path.name: path.read_text() for path in (ENVOY.parent / output).iterdir()}, "run `make stubs`"


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that cases name: certificates, keys, JWKS. Envoy reads them when it validates."""
    folder = tmp_path_factory.mktemp("disk")
    Authority(folder).leaf("leaf", "localhost")
    Issuer(folder)
    return folder


def on_disk(case: Case, disk: Path) -> Case:
    """The case with each file that it names replaced by one that exists."""
    ca, cert, key = (str(disk / name) for name in ("ca.pem", "leaf.pem", "leaf.key"))
    options, identity = case.options, case.rules.identity
    replace = msgspec.structs.replace
    options = replace(
        options,
        cds_path=str(disk / "cds.json"),
        sidecar_tls=options.sidecar_tls
        and SidecarTls(ca_file=ca, cert_file=cert, key_file=key, server_san=options.sidecar_tls.server_san),
        listener_tls=options.listener_tls and ListenerTls(cert_file=cert, key_file=key, client_ca_file=ca),
    )
    jwt = identity.jwt and replace(identity.jwt, jwks_file=str(disk / "jwks.json"))
    stores = {
        name: replace(store, tls=store.tls and replace(store.tls, ca_file=ca))
        for name, store in case.rules.stores.items()
    }
    return replace(case, options=options, rules=replace(case.rules, identity=replace(identity, jwt=jwt), stores=stores))


def validate(document: dict[str, Any], folder: Path) -> str:
    """Envoy's log of validating a bootstrap; fails when it refuses."""
    config = folder / "bootstrap.json"
    config.write_text(json.dumps(document))
    done = subprocess.run(
        [find_envoy(None), "--mode", "validate", "-c", config, "--concurrency", "1"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


@every_case
def test_envoy_takes_the_bootstrap_and_warns_of_nothing(case: Case, disk: Path) -> None:
    real = on_disk(case, disk)
    (disk / "cds.json").write_text(json.dumps(clusters(real.rules)))
    log = validate(bootstrap(real.rules, real.options), disk)
    # A deprecated field is a warning today and an error in a later Envoy.
    found = re.findall(r".*\[(?:warning|error|critical)\].*", log)
    if real.rules.stores:
        # Envoy calls this API unfinished: a later Envoy may want another one, and then refuses this here.
        unfinished = re.compile(r"'envoy\.extensions\.\S*custom_response\.\S+' is .* marked as work-in-progress")
        assert any(map(unfinished.search, found)), "take this exception out"
        found = [line for line in found if not unfinished.search(line)]
    assert not found


@every_case
def test_envoy_takes_the_clusters(case: Case, disk: Path) -> None:
    real = on_disk(case, disk)
    resources = [
        {key: value for key, value in resource.items() if key != "@type"}
        for resource in clusters(real.rules)["resources"]
    ]
    document = bootstrap(rules(), msgspec.structs.replace(OPTIONS, cds_path=real.options.cds_path))
    (disk / "cds.json").write_text("{}")
    document["static_resources"]["clusters"] += resources
    log = validate(document, disk)
    assert not re.findall(r".*\[(?:warning|error|critical)\].*", log)
    assert f"loading {len(resources) + 2} cluster(s)" in log


def test_envoy_refuses_what_is_wrong(disk: Path) -> None:
    """The validation above can fail: Envoy knows no such field."""
    document = bootstrap(rules(), msgspec.structs.replace(OPTIONS, cds_path=str(disk / "cds.json")))
    (disk / "cds.json").write_text("{}")
    manager(document)["early_header_mutations"] = []
    with pytest.raises(AssertionError, match="early_header_mutations"):
        validate(document, disk)


# --- what every bootstrap says ---


@every_case
def test_filters_stand_in_order(case: Case) -> None:
    found = [entry["name"] for entry in manager(bootstrap(case.rules, case.options))["http_filters"]]
    jwt = ["envoy.filters.http.jwt_authn"] if case.rules.identity.jwt else []
    stores = ["tenantry.store_unmark", "envoy.filters.http.custom_response"] if case.rules.stores else []
    assert found == [
        *jwt,
        *stores,  # on the way back it is the other way round: the guard sees what ext_proc let pass
        "envoy.filters.http.ext_proc",
        "envoy.filters.http.rbac",
        "envoy.filters.http.router",
    ]


@every_case
def test_no_filter_can_be_left_out_or_failed_open(case: Case) -> None:
    document = bootstrap(case.rules, case.options)
    ext_proc = http_filter(document, "envoy.filters.http.ext_proc")
    # Absent is false: proto3 does not write defaults.
    assert not {"failure_mode_allow", "allow_mode_override", "observability_mode"} & ext_proc.keys()
    assert ext_proc["status_on_error"] == {"code": "ServiceUnavailable"}
    assert ext_proc["processing_mode"] == {
        "request_header_mode": "SEND",
        "request_body_mode": "BUFFERED",
        "request_trailer_mode": "SKIP",
        "response_header_mode": "SKIP",
        "response_trailer_mode": "SKIP",
    }
    keys = {key for key, _ in walk(document)}
    assert not keys & {"disabled", "is_optional"}
    overridden = {name for key, value in walk(document) if key == "typed_per_filter_config" for name in value}
    allowed = {"envoy.filters.http.header_mutation"}  # it stands behind the router and changes headers
    assert overridden == allowed | ({"envoy.filters.http.ext_proc"} if case.rules.stores else set())


@every_case
def test_the_backstop_waits_for_the_sidecars_word(case: Case) -> None:
    rbac = http_filter(bootstrap(case.rules, case.options), "envoy.filters.http.rbac")
    (policy,) = rbac["rules"]["policies"].values()
    assert "action" not in rbac["rules"], "ALLOW is the default, 0"
    (principal,) = policy["principals"]
    assert principal["sourced_metadata"]["metadata_matcher"] == {
        "filter": "tenantry",
        "path": [{"key": "enforced"}],
        "value": {"string_match": {"exact": "yes"}},
    }


MORE_THAN_ONE_UPSTREAM = re.compile("retry|retries|mirror|shadow|hedge")
"""In a field's name: a request could reach a second upstream, or the same one twice."""


def chosen_by(route: dict[str, Any]) -> str | None:
    """The value of `x-tenantry-route` that a route asks for; None when it takes any request of its path."""
    asked = (entry for entry in route["match"].get("headers", []) if entry["name"] == "x-tenantry-route")
    return next((entry["string_match"]["exact"] for entry in asked), None)


@every_case
def test_each_request_reaches_one_upstream_once_except_a_rollouts(case: Case) -> None:
    """Whatever the sidecar does not call a rollout's (pinned, stable, reverted) is never sent twice."""
    document = bootstrap(case.rules, case.options)
    allowed = {"rescue": {"retry_policy"}, "mirror": {"request_mirror_policies"}, None: set[str]()}
    routes = [
        (name, route)
        for name in ("clients", "tenantry_mirror")
        for host in manager(document, name)["route_config"]["virtual_hosts"]
        for route in host["routes"]
    ]
    assert {chosen_by(route) for name, route in routes if name == "clients"} == allowed.keys()
    assert {chosen_by(route) for name, route in routes if name == "tenantry_mirror"} == {None}
    for _, route in routes:
        action = route.get("route", {})
        assert {field for field in action if MORE_THAN_ONE_UPSTREAM.search(field)} == allowed[chosen_by(route)]
        for field in allowed[chosen_by(route)]:
            del action[field]
    # And so it is nowhere else: not for a virtual host, a route table, a cluster.
    http_filter(document, "envoy.filters.http.ext_proc")["grpc_service"].pop("retry_policy", None)  # asks a sidecar
    found = {key for key, _ in walk([document, clusters(case.rules)]) if MORE_THAN_ONE_UPSTREAM.search(key)}
    assert found == {"max_retries"}, "a circuit breaker's, which allows and does not ask"


STORES = ("milvus.", "pinecone.")


@every_case
def test_routes_are_the_model_api_and_nothing_else(case: Case) -> None:
    (host,) = manager(bootstrap(case.rules, case.options))["route_config"]["virtual_hosts"]
    *routes, last = host["routes"]
    routes = [route for route in routes if not route["name"].startswith(STORES)]
    found = [(route["match"]["path"], chosen_by(route)) for route in routes]
    assert found == [(api.value, variant) for api in Api for variant in ("rescue", "mirror", None)], "the first counts"
    assert last["match"] == {"prefix": "/"}
    assert last["direct_response"] == {"status": 404}
    for route in routes:
        method, *others = route["match"]["headers"]
        assert method == {"name": ":method", "string_match": {"exact": "POST"}}
        assert len(others) == (chosen_by(route) is not None)
        action = route["route"]
        action.pop("retry_policy", None)
        action.pop("request_mirror_policies", None)
        assert action == {
            "cluster_header": "x-tenantry-cluster",
            "timeout": "0s",
            "auto_host_rewrite": True,
            "idle_timeout": f"{case.rules.limits.stream_idle_seconds:.0f}s",
        }
        # Room for what stamping adds: the exact bound is the sidecar's.
        assert int(route["request_body_buffer_limit"]) - case.rules.limits.max_body_bytes == 16 * 1024
    assert host["request_headers_to_remove"] == ["x-tenantry-cluster", "x-tenantry-route"]
    assert host["include_request_attempt_count"] is True
    assert "include_attempt_count_in_response" not in host


def store_routes(*kinds: str) -> list[dict[str, Any]]:
    """The routes of a document with a store of each of these kinds."""
    isolation = {"milvus": "database", "pinecone": "namespace"}
    stores = {kind: {"kind": kind, "endpoints": ["10.0.0.9:1"], "isolation": isolation[kind]} for kind in kinds}
    (host,) = manager(bootstrap(rules(stores=stores), OPTIONS))["route_config"]["virtual_hosts"]
    return [route for route in host["routes"] if route["name"].startswith(STORES)]


def test_only_the_kinds_of_stores_that_are_there_have_routes() -> None:
    def kinds(*kinds: str) -> set[str]:
        return {route["name"].partition(".")[0] for route in store_routes(*kinds)}

    assert kinds() == set()
    assert kinds("milvus") == {"milvus"}
    assert kinds("pinecone", "milvus") == {"milvus", "pinecone"}


def test_every_route_of_a_store_shows_the_sidecar_its_answers_and_marks_them() -> None:
    for route in store_routes("milvus", "pinecone"):
        filters = route["typed_per_filter_config"]
        assert filters["envoy.filters.http.ext_proc"]["overrides"] == {
            "processing_mode": {
                "request_header_mode": "SEND",
                "request_body_mode": "BUFFERED",
                "request_trailer_mode": "SKIP",
                "response_header_mode": "SEND",
                "response_body_mode": "BUFFERED",
                "response_trailer_mode": "SKIP",
            }
        }
        mutations = filters["envoy.filters.http.header_mutation"]["mutations"]
        (mark,) = mutations["response_mutations"]
        assert mark["append"]["header"] == {"key": "x-tenantry-from-upstream", "value": "yes"}
        assert mark["append"]["append_action"] == "OVERWRITE_IF_EXISTS_OR_ADD", "a store's own counts for nothing"
        assert route["request_headers_to_remove"] == ["accept-encoding", "grpc-accept-encoding"]
        assert "grpc" not in route["match"] or route["name"].endswith(".grpc")
        assert route["route"] == {
            "cluster_header": "x-tenantry-cluster",
            "timeout": "0s",
            "auto_host_rewrite": True,
            "idle_timeout": "300s",
        }


def test_the_guard_believes_one_word_and_is_on_everywhere() -> None:
    (case,) = (case for case in CASES if case.name == "stores")
    document = bootstrap(case.rules, case.options)
    over_grpc, rest = http_filter(document, "envoy.filters.http.custom_response")["custom_response_matcher"][
        "matcher_list"
    ]["matchers"]
    for matcher in (over_grpc, rest):
        marked, unverified, *_ = matcher["predicate"]["and_matcher"]["predicate"]
        assert marked["single_predicate"]["value_match"] == {"exact": "yes"}
        said = unverified["not_matcher"]["single_predicate"]
        assert said["input"]["typed_config"]["path"] == [{"key": "verified"}]
        assert said["custom_match"]["typed_config"]["value"] == {"string_match": {"exact": "yes"}}
    assert len(rest["predicate"]["and_matcher"]["predicate"]) == 2, "whoever the client is"


@pytest.mark.parametrize(
    ("kinds", "wanted"),
    [
        ([], {"disallow_system": True}),
        (["milvus"], {"disallow_system": True, "disallow_expression": {"regex": "x-tenantry-from-upstream"}}),
        (["pinecone"], {"disallow_expression": {"regex": "x-tenantry-from-upstream"}}),
    ],
)
def test_the_path_is_the_sidecars_only_where_namespaces_are_in_it(kinds: list[str], wanted: dict[str, Any]) -> None:
    isolation = {"milvus": "database", "pinecone": "namespace"}
    stores = {kind: {"kind": kind, "endpoints": ["10.0.0.9:1"], "isolation": isolation[kind]} for kind in kinds}
    ext_proc = http_filter(bootstrap(rules(stores=stores), OPTIONS), "envoy.filters.http.ext_proc")
    assert ext_proc["mutation_rules"].pop("allow_all_routing", False) is False
    assert ext_proc["mutation_rules"] == {"allow_envoy": True, "disallow_is_error": True} | wanted


@pytest.mark.parametrize("name", ["grpc-status", "a", "ab-c"])
def test_all_but_one_name(name: str) -> None:
    pattern = re.compile(store_guard.all_but(name))
    assert pattern.fullmatch(name) is None
    near = [
        name[:-1],
        name + "s",
        "x" + name,
        name.replace("-", "_", 1) + "_",
        name[1:],
        "grpc-message",
        "grpc-statu",
        "",
    ]
    assert all(pattern.fullmatch(other) for other in near if other != name)


def variants(variant: str) -> list[dict[str, Any]]:
    (host,) = manager(bootstrap(rules(), OPTIONS))["route_config"]["virtual_hosts"]
    return [route for route in host["routes"] if chosen_by(route) == variant]


def test_a_rescue_tries_the_stable_version_once() -> None:
    for route in variants("rescue"):
        policy = route["route"]["retry_policy"]
        assert policy["num_retries"] == 1
        assert policy["retry_priority"]["typed_config"]["update_frequency"] == 1
        assert policy["retry_on"].split(",") == ["connect-failure", "refused-stream", "reset", "retriable-status-codes"]
        statuses = set(policy["retriable_status_codes"])
        assert statuses == {401, 403, 404, 408, 429, 500, 502, 503, 504}
        assert not statuses & {400, 413, 415, 422}, "the client's own doing; the stable version would say the same"
        # The first is the sidecar's to set, by header; the second would cut slow streams.
        assert not {"per_try_timeout", "per_try_idle_timeout"} & policy.keys()
        assert policy["retry_back_off"] == {"base_interval": "0.001s", "max_interval": "0.001s"}


def test_a_copy_goes_through_the_listener_inside() -> None:
    for route in variants("mirror"):
        (policy,) = route["route"]["request_mirror_policies"]
        assert policy == {
            "cluster": "tenantry_mirror",
            "runtime_fraction": {"default_value": {"numerator": 100}},
            "disable_shadow_host_suffix_append": True,
        }
        (mutation,) = route["typed_per_filter_config"].values()
        assert mutation["mutations"] == {"request_mutations": [{"remove": "x-tenantry-mirror-cluster"}]}
    document = bootstrap(rules(), OPTIONS)
    inside = listener(document, "tenantry_mirror")
    assert inside["internal_listener"] == {}
    assert "address" not in inside, "nobody outside can reach it"
    assert inside["ignore_global_conn_limit"] is True
    (cluster,) = (c for c in document["static_resources"]["clusters"] if c["name"] == "tenantry_mirror")
    (locality,) = cluster["load_assignment"]["endpoints"]
    (endpoint,) = locality["lb_endpoints"]
    assert endpoint["endpoint"]["address"] == {"envoy_internal_address": {"server_listener_name": "tenantry_mirror"}}


def test_a_copy_is_routed_as_a_request_is_and_marked() -> None:
    config = manager(bootstrap(rules(), OPTIONS), "tenantry_mirror")
    assert config["stream_idle_timeout"] == "300s"
    (host,) = config["route_config"]["virtual_hosts"]
    (route,) = host["routes"]
    assert route["route"] == {
        "cluster_header": "x-tenantry-mirror-cluster",
        "timeout": "0s",
        "auto_host_rewrite": True,
        "idle_timeout": "300s",
    }
    (mark,) = host["request_headers_to_add"]
    assert mark["header"] == {"key": "x-tenantry-mirror", "value": "1"}
    assert host["request_headers_to_remove"] == ["x-tenantry-mirror-cluster", "x-envoy-internal"]


@every_case
def test_breakers_and_time_limits_stand_on_every_cluster(case: Case) -> None:
    static = bootstrap(case.rules, case.options)["static_resources"]["clusters"]
    serving = [cluster for cluster in static if cluster["name"] != "tenantry_stats"]
    found = serving + clusters(case.rules)["resources"]
    assert len(found) == 2 + len(cluster_names(case.rules))
    for cluster in found:
        (threshold,) = cluster["circuit_breakers"]["thresholds"]
        assert threshold == dict.fromkeys(
            ("max_connections", "max_pending_requests", "max_requests", "max_retries"), 100_000
        )
        assert cluster["connect_timeout"] == "1s"
        assert cluster["per_connection_buffer_limit_bytes"] == 1024 * 1024


def test_statistics_have_bounds_of_their_own_and_only_where_they_are_wanted() -> None:
    without = bootstrap(rules(), OPTIONS)["static_resources"]
    options = msgspec.structs.replace(OPTIONS, stats_host="::", stats_port=9902)
    document = bootstrap(rules(), options)
    extra = {
        kind: [entry for entry in document["static_resources"][kind] if entry not in without[kind]] for kind in without
    }
    ((cluster,), (served,)) = extra["clusters"], extra["listeners"]
    (threshold,) = cluster["circuit_breakers"]["thresholds"]
    assert threshold == {"max_connections": 4, "max_pending_requests": 4, "max_requests": 4}
    admin = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]
    assert admin == document["admin"]["address"]
    assert served["address"]["socket_address"] == {"address": "::", "port_value": 9902, "ipv4_compat": True}
    with pytest.raises(OptionsError, match="adminPort: 0 leaves the port to the kernel"):
        msgspec.structs.replace(options, admin_port=0)
    with pytest.raises(OptionsError, match='statsHost: "localhost" is not an IP address'):
        msgspec.structs.replace(options, stats_host="localhost")


def test_client_copies_of_trusted_headers_are_removed_before_any_filter() -> None:
    (extension,) = manager(bootstrap(rules(), OPTIONS))["early_header_mutation_extensions"]
    matchers = [entry["remove_on_match"]["key_matcher"] for entry in extension["typed_config"]["mutations"]]
    assert matchers == [
        {"prefix": "x-tenantry-"},
        {"prefix": "x-envoy-"},
        {"prefix": "x-vllm-"},
        {"prefix": "x-forwarded-"},
        {"exact": "x-request-id"},
        {"exact": "forwarded"},
    ]


def test_what_a_request_may_look_like() -> None:
    hcm = manager(bootstrap(rules(), OPTIONS))
    assert hcm["common_http_protocol_options"]["headers_with_underscores_action"] == "DROP_HEADER"
    assert hcm["path_with_escaped_slashes_action"] == "REJECT_REQUEST"
    assert hcm["normalize_path"] is True
    assert hcm["use_remote_address"] is True
    # Each would widen what gets in; absent means off.
    assert not {"upgrade_configs", "merge_slashes", "xff_num_trusted_hops", "internal_address_config"} & hcm.keys()
    assert "allow_connect" not in hcm["http2_protocol_options"]
    # Long answers: only silence ends them, and the time for requests ends with the request.
    assert hcm["stream_idle_timeout"] == "300s"
    assert (hcm["request_timeout"], hcm["request_headers_timeout"]) == ("120s", "10s")
    assert "max_stream_duration" not in hcm["common_http_protocol_options"]


def test_the_access_log_holds_no_header() -> None:
    (log,) = manager(bootstrap(rules(), OPTIONS))["access_log"]
    assert log["name"] == "envoy.access_loggers.http_grpc"
    assert log["typed_config"].keys() == {"@type", "common_config"}, "additional_request_headers_to_log is forgeable"
    assert log["typed_config"]["common_config"]["buffer_flush_interval"] == "0.050s"


def test_sidecar_streams_have_no_time_limit() -> None:
    """An ext_proc stream lasts as long as the answer; `grpc_service.timeout` would cut it."""
    ext_proc = http_filter(bootstrap(rules(), OPTIONS), "envoy.filters.http.ext_proc")
    assert ext_proc["grpc_service"].keys() == {"envoy_grpc"}
    assert (ext_proc["message_timeout"], ext_proc["max_message_timeout"]) == ("5s", "0s")


def test_another_sidecar_is_asked_where_there_may_be_one() -> None:
    def retries(*sidecars: str) -> bool:
        document = bootstrap(rules(), msgspec.structs.replace(OPTIONS, sidecars=sidecars))
        return "retry_policy" in http_filter(document, "envoy.filters.http.ext_proc")["grpc_service"]

    assert not retries("/run/sidecar.sock")
    assert not retries("10.0.0.1:1")
    assert retries("/run/a.sock", "/run/b.sock")
    assert retries("sidecar.example:1")


def test_pings_only_to_a_sidecar_elsewhere() -> None:
    def pings(*sidecars: str) -> bool:
        document = bootstrap(rules(), msgspec.structs.replace(OPTIONS, sidecars=sidecars))
        return "connection_keepalive" in dict(walk(document["static_resources"]["clusters"]))

    assert not pings("/run/sidecar.sock", "127.0.0.1:1", "[::1]:1")
    assert pings("127.0.0.1:1", "10.0.0.1:1")
    assert pings("sidecar.example:1")


@every_case
def test_local_replies_have_openais_shape(case: Case) -> None:
    config = manager(bootstrap(case.rules, case.options))["local_reply_config"]
    mappers = config["mappers"]
    if case.rules.stores:
        withheld, *grpc_refusals, too_large = mappers[:4]
        assert (withheld["status_code"], too_large["status_code"]) == (502, 502)
        assert [mapper["status_code"] for mapper in grpc_refusals] == [403, 403], "PERMISSION_DENIED"
        mappers = [*mappers[4:], withheld, too_large]
    untouched, sidecar_failed, *by_status = mappers
    assert untouched["body_format_override"]["text_format_source"] == {"inline_string": "%LOCAL_REPLY_BODY%"}
    assert sidecar_failed["status_code"] == 503
    formats = [mapper["body_format_override"] for mapper in (sidecar_failed, *by_status)] + [config["body_format"]]
    for body in formats:
        assert body["content_type"] == "application/json"
        error = json.loads(body["text_format_source"]["inline_string"])["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert "%" not in error["message"].replace("%RESPONSE_CODE%", ""), "Envoy would take it for a command"


def test_the_sidecar_and_envoy_give_the_same_errors_the_same_code() -> None:
    """413 can come from either; a client must not have to know from which."""
    by_status = {reply.status: reply for reply in table(4096)}
    assert by_status[413].code == "body_too_large"
    assert by_status[413].message == "The body is larger than 4096 bytes."
    assert by_status[413].kind == RequestRefusedError.kind


@every_case
def test_every_cluster_that_a_request_can_be_sent_to_is_there(case: Case) -> None:
    assert {resource["name"] for resource in clusters(case.rules)["resources"]} == cluster_names(case.rules)


def test_names_are_those_the_sidecar_uses() -> None:
    assert names.METADATA_NAMESPACE == codec.METADATA_NAMESPACE
    assert (names.JWT_NAMESPACE, names.JWT_KEY) == (codec.JWT_NAMESPACE, codec.JWT_KEY)
    assert names.URI_SAN_ATTRIBUTE == codec.URI_SAN_ATTRIBUTE
    assert "@" not in names.SIDECAR_CLUSTER + names.MIRROR_CLUSTER, "or a model's version could have its name"


# --- identity ---


def test_a_verified_token_is_removed_and_its_claims_handed_on() -> None:
    (case,) = (case for case in CASES if case.name == "jwt")
    document = bootstrap(case.rules, case.options)
    jwt = http_filter(document, "envoy.filters.http.jwt_authn")
    (provider,) = jwt["providers"].values()
    assert provider["from_headers"] == [{"name": "Authorization", "value_prefix": "Bearer "}]
    assert not {"forward", "from_params", "from_cookies"} & provider.keys()
    assert provider["require_expiration"] is True
    assert provider["payload_in_metadata"] == "tenantry_jwt"
    (rule,) = jwt["rules"]
    assert rule["match"] == {"prefix": "/"}
    assert rule["requires"]["requires_any"]["requirements"][-1] == {"allow_missing_or_failed": {}}
    ext_proc = http_filter(document, "envoy.filters.http.ext_proc")
    assert ext_proc["metadata_options"] == {
        "forwarding_namespaces": {"untyped": ["envoy.filters.http.jwt_authn"]},
        "receiving_namespaces": {"untyped": ["tenantry"]},
    }


def test_the_certificates_name_is_asked_for_only_where_it_counts() -> None:
    for case in CASES:
        ext_proc = http_filter(bootstrap(case.rules, case.options), "envoy.filters.http.ext_proc")
        wanted = ["connection.uri_san_peer_certificate"] if case.rules.identity.mtls else None
        assert ext_proc.get("request_attributes") == wanted, case.name


def test_certificates_cannot_name_tenants_where_none_is_verified() -> None:
    mtls = rules(identity={"mtls": {"uriSanPrefix": "spiffe://a/"}})
    server_only = ListenerTls(cert_file="cert", key_file="key")
    for tls in (None, server_only):
        with pytest.raises(RulesError, match=r"^identity\.mtls: .*verifies no client certificates; .*client CA"):
            bootstrap(mtls, msgspec.structs.replace(OPTIONS, listener_tls=tls))
    bootstrap(
        mtls, msgspec.structs.replace(OPTIONS, listener_tls=msgspec.structs.replace(server_only, client_ca_file="ca"))
    )


def test_a_client_certificate_is_verified_but_not_required() -> None:
    """Who comes without one may have another credential; who comes with a bad one is not let in."""
    (case,) = (case for case in CASES if case.name == "mtls")
    tls = listener(bootstrap(case.rules, case.options))["filter_chains"][0]["transport_socket"]["typed_config"]
    assert tls["require_client_certificate"] is False
    assert tls["common_tls_context"]["validation_context"] == {
        "trusted_ca": {"filename": "/etc/tenantry/tls/clients-ca.pem"}
    }


@pytest.mark.parametrize(
    ("san", "matched"),
    [
        ("spiffe://prod/tenantry", {"san_type": "URI"}),
        ("tenantry.example", {"san_type": "DNS"}),
        ("10.0.0.7", {"san_type": "IP_ADDRESS"}),
    ],
)
def test_the_sidecar_must_show_the_expected_name(san: str, matched: dict[str, str]) -> None:
    tls = SidecarTls(ca_file="ca", cert_file="cert", key_file="key", server_san=san)
    document = bootstrap(rules(), msgspec.structs.replace(OPTIONS, sidecar_tls=tls))
    (sidecar,) = (c for c in document["static_resources"]["clusters"] if c["name"] == names.SIDECAR_CLUSTER)
    context = sidecar["transport_socket"]["typed_config"]["common_tls_context"]
    assert context["validation_context"]["trusted_ca"] == {"filename": "ca"}
    (name,) = context["validation_context"]["match_typed_subject_alt_names"]
    assert name == {**matched, "matcher": {"exact": san}}


# --- clusters ---


def endpoints_of(response: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    return {
        cluster["name"]: [
            entry["endpoint"]["address"]["socket_address"]
            for locality in cluster["load_assignment"]["endpoints"]
            for entry in locality["lb_endpoints"]
        ]
        for cluster in response["resources"]
        if "load_assignment" in cluster
    }


def aggregates_of(response: dict[str, Any]) -> dict[str, list[str]]:
    return {
        cluster["name"]: cluster["cluster_type"]["typed_config"]["clusters"]
        for cluster in response["resources"]
        if "load_assignment" not in cluster
    }


def test_during_a_reload_the_clusters_of_both_documents_are_there() -> None:
    old, new = one_model(v1="10.0.0.1:80", v2="10.0.0.2:80"), one_model(v3="10.0.0.3:80", v2="10.0.0.9:80")
    both = endpoints_of(clusters(old, new))
    assert list(both) == ["m@v1", "m@v2", "m@v3"]
    assert both["m@v2"] == [{"address": "10.0.0.9", "port_value": 80}], "the last document counts"
    assert both.keys() == cluster_names(old) | cluster_names(new)


def test_a_rollout_has_an_aggregate_and_a_reload_those_of_both_documents() -> None:
    def rollout(stable: str, candidate: str | None) -> Rules:
        versions = {name: {"endpoints": [f"10.0.0.{name}:80"]} for name in "123"}
        model = {"stable": stable, "versions": versions}
        return rules(models={"m": model | ({"rollout": {"candidate": candidate}} if candidate else {})})

    first, next_one, none = rollout("1", "2"), rollout("2", "3"), rollout("1", None)
    assert aggregates_of(clusters(first)) == {"m@2@1": ["m@2", "m@1"]}, "the candidate first"
    assert aggregates_of(clusters(first, next_one)) == {"m@2@1": ["m@2", "m@1"], "m@3@2": ["m@3", "m@2"]}
    assert aggregates_of(clusters(none)) == {}
    names_of_both = {resource["name"] for resource in clusters(first, next_one)["resources"]}
    assert names_of_both == cluster_names(first) | cluster_names(next_one)


def test_the_version_tells_contents_apart_and_nothing_else() -> None:
    one, other = one_model(v1="10.0.0.1:80", v2="10.0.0.2:80"), one_model(v2="10.0.0.2:80", v1="10.0.0.1:80")
    assert clusters(one) == clusters(other, one) == clusters(other)
    moved = one_model(v1="10.0.0.1:80", v2="10.0.0.2:81")
    assert clusters(one)["version_info"] != clusters(moved)["version_info"]
    assert clusters()["resources"] == []


def test_names_are_looked_up_and_addresses_are_not() -> None:
    response = clusters(one_model(a="10.0.0.1:80", b="[2001:db8:0::1]:80", c="engine:80"))
    by_ip, by_ip6, by_name = response["resources"]
    assert by_ip["type"] == by_ip6["type"] == "STATIC"
    assert "type" not in by_name
    assert by_name["cluster_type"]["typed_config"]["dns_lookup_family"] == "V4_PREFERRED"
    assert endpoints_of(response)["m@b"] == [{"address": "2001:db8::1", "port_value": 80}]


@every_case
def test_clusters_are_those_of_the_typed_generator(case: Case) -> None:
    """`clusters` fills in copies of a template, for speed; by way of the messages the same comes out."""
    for resource in clusters(case.rules)["resources"]:
        if resource["name"].startswith("store."):
            continue
        model, *versions = resource["name"].split("@")
        if len(versions) == 2:
            assert resource == packing.plain(ProtoAny.pack(rescue_cluster(model, *versions)))
            continue
        (version,) = versions
        parsed = [addresses.parse(text) for text in case.rules.models[model].versions[version].endpoints]
        assert resource == packing.plain(ProtoAny.pack(model_cluster(resource["name"], parsed)))


def stores_of(*stores: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The clusters of Milvus stores `s0`, `s1`, ..., by name."""
    document = {
        f"s{number}": {"kind": "milvus", "isolation": "database"} | store for number, store in enumerate(stores)
    }
    hosts = {name: store | {"hosts": [f"{name}.example"]} for name, store in document.items()}
    resources = clusters(rules(stores=hosts))["resources"]
    return {resource["name"]: resource for resource in resources if resource["name"].startswith("store.")}


def test_a_store_has_a_cluster_for_each_protocol() -> None:
    found = stores_of({"endpoints": ["10.0.0.1:19530"]}, {"endpoints": ["a:1"], "grpcEndpoints": ["b:2"]})
    assert found.keys() == {"store.s0.grpc", "store.s0.rest", "store.s1.grpc", "store.s1.rest"}
    for name, cluster in found.items():
        ((_, protocol),) = cluster["typed_extension_protocol_options"].items()
        spoken = "http2_protocol_options" if name.endswith("grpc") else "http_protocol_options"
        assert list(protocol["explicit_http_config"]) == [spoken]
    where = endpoints_of({"resources": list(found.values())})
    assert where["store.s0.grpc"] == where["store.s0.rest"] == [{"address": "10.0.0.1", "port_value": 19530}]
    assert where["store.s1.rest"] == [{"address": "a", "port_value": 1}]
    assert where["store.s1.grpc"] == [{"address": "b", "port_value": 2}]


def test_a_store_behind_tls_must_prove_the_name_of_its_endpoint() -> None:
    found = stores_of({"endpoints": ["a.example:443", "b.example:1"], "tls": {}}, {"endpoints": ["a:1"]})
    assert all("transport_socket" not in found[f"store.s1.{protocol}"] for protocol in ("grpc", "rest"))
    for protocol, alpn in (("grpc", "h2"), ("rest", "http/1.1")):
        cluster = found[f"store.s0.{protocol}"]
        tls = cluster["transport_socket"]["typed_config"]
        assert (tls["auto_host_sni"], tls["auto_sni_san_validation"]) == (True, True)
        common = tls["common_tls_context"]
        assert common["alpn_protocols"] == [alpn]
        assert common["validation_context"] == {"trusted_ca": {"filename": "/etc/ssl/certs/ca-certificates.crt"}}
        (locality,) = cluster["load_assignment"]["endpoints"]
        hostnames = [entry["endpoint"]["hostname"] for entry in locality["lb_endpoints"]]
        assert hostnames == ["a.example", "b.example"], "SNI and certificates know of no ports"


def test_an_idle_upstream_connection_is_closed_by_envoy_first() -> None:
    (cluster,) = clusters(rules())["resources"]
    ((_, protocol),) = cluster["typed_extension_protocol_options"].items()
    assert protocol["common_http_protocol_options"] == {"idle_timeout": "3s"}, "uvicorn closes after 5 s"


@pytest.mark.parametrize(
    ("endpoint", "why"),
    [
        ("host:0", "no port between 1 and 65535"),
        ("host:65536", "no port between 1 and 65535"),
        ("[::1::2]:80", "At most one '::' permitted"),
    ],
)
def test_an_endpoint_that_envoy_would_refuse_is_refused_here(endpoint: str, why: str) -> None:
    # Built past `rules.parse`, which looks at endpoints too: neither trusts the other's eyes.
    good = rules(models={"m": {"stable": "1.0", "versions": {"1.0": {"endpoints": ["ok:80"]}}}})
    model, version = good.models["m"], good.models["m"].versions["1.0"]
    version = msgspec.structs.replace(version, endpoints=("ok:80", endpoint))
    document = msgspec.structs.replace(good, models={"m": msgspec.structs.replace(model, versions={"1.0": version})})
    with pytest.raises(RulesError, match=rf'^models\.m\.versions\["1\.0"\]\.endpoints\[1\]: .*{re.escape(why)}'):
        clusters(document)


# --- options ---


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"admin_host": "0.0.0.0"}, "adminHost: 0.0.0.0 is not loopback"),
        ({"admin_host": "localhost"}, 'adminHost: "localhost" is not an IP address'),
        ({"listen_host": "example.org"}, 'listenHost: "example.org" is not an IP address'),
        ({"sidecars": ("127.0.0.1",)}, 'sidecars: "127.0.0.1" is neither host:port nor the absolute path'),
        ({"sidecars": ("::1:80",)}, 'sidecars: "::1:80" is ambiguous'),
    ],
)
def test_bad_options_say_what_would_be_right(change: dict[str, Any], why: str) -> None:
    with pytest.raises(OptionsError, match=re.escape(why)):
        bootstrap(rules(), msgspec.structs.replace(OPTIONS, **change))


def test_connections_and_heap_have_bounds() -> None:
    def monitors(**change: Any) -> dict[str, Any]:
        overload = bootstrap(rules(limits={"maxOpenExchanges": 30}), msgspec.structs.replace(OPTIONS, **change))[
            "overload_manager"
        ]
        return {entry["name"].rpartition(".")[2]: entry["typed_config"] for entry in overload["resource_monitors"]}

    assert monitors()["global_downstream_max_connections"]["max_active_downstream_connections"] == "60"
    assert "fixed_heap" not in monitors()
    bounded = monitors(max_connections=7, max_heap_bytes=1 << 30)
    assert bounded["global_downstream_max_connections"]["max_active_downstream_connections"] == "7"
    assert bounded["fixed_heap"]["max_heap_size_bytes"] == str(1 << 30)


def test_the_admin_page_answers_when_clients_are_too_many() -> None:
    assert bootstrap(rules(), OPTIONS)["admin"]["ignore_global_conn_limit"] is True


def test_a_second_envoy_on_the_same_port_is_an_error() -> None:
    assert listener(bootstrap(rules(), OPTIONS))["enable_reuse_port"] is False, (
        "with it the kernel splits the traffic between both, silently"
    )


@pytest.mark.parametrize(("path", "folder"), [("/run/tenantry/cds.json", "/run/tenantry"), ("cds.json", ".")])
def test_the_folder_of_the_clusters_is_watched(path: str, folder: str) -> None:
    """A mounted ConfigMap changes by a swap of `..data` in the folder; the file itself never moves."""
    document = bootstrap(rules(), msgspec.structs.replace(OPTIONS, cds_path=path))
    source = document["dynamic_resources"]["cds_config"]["path_config_source"]
    assert source == {"path": path, "watched_directory": {"path": folder}}


def test_a_listener_for_all_addresses_takes_ipv4_too() -> None:
    def socket(host: str) -> dict[str, Any]:
        document = bootstrap(rules(), msgspec.structs.replace(OPTIONS, listen_host=host))
        address: dict[str, Any] = listener(document)["address"]["socket_address"]
        return address

    assert socket("::")["ipv4_compat"] is True
    assert "ipv4_compat" not in socket("127.0.0.1")


@every_case
def test_what_comes_out_is_plain_data(case: Case) -> None:
    for data in (bootstrap(case.rules, case.options), clusters(case.rules)):
        assert json.loads(json.dumps(data)) == data
        assert yaml.safe_load(yaml.safe_dump(data)) == data


def test_options_names_and_binary_are_light() -> None:
    """The types behind the generator cost 0.4 s; who only wants a name does not pay them."""
    script = (
        "import sys; import tenantry_envoy.options, tenantry_envoy.names, tenantry_envoy.binary;"
        "print([name for name in sys.modules if name.split('.')[0] in ('envoy_data_plane', 'betterproto2', 'yaml')])"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


# --- the binary ---


def test_the_packaged_envoy_is_found_and_runs() -> None:
    done = subprocess.run([find_envoy(None), "--version"], check=True, capture_output=True, text=True)
    found = re.search(r"/(\d+)\.(\d+)\.(\d+)/", done.stdout)
    assert found
    # CVE-2026-47207 in ext_proc is fixed in 1.38.3.
    assert tuple(map(int, found.groups())) >= (1, 38, 3)


def test_a_given_path_is_taken_as_it_is(tmp_path: Path) -> None:
    binary = tmp_path / "envoy"
    with pytest.raises(EnvoyNotFoundError, match=f"{binary}, is no file"):
        find_envoy(str(binary))
    binary.touch(mode=0o600)
    with pytest.raises(EnvoyNotFoundError, match=f"{binary}, is not executable"):
        find_envoy(str(binary))
    binary.chmod(0o700)
    assert find_envoy(str(binary)) == binary


def test_without_the_package_the_path_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "envoy", None)  # as if it were not installed
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvoyNotFoundError, match="Install the extra `envoy`, or give the path of a binary"):
        find_envoy(None)
    (tmp_path / "envoy").touch(mode=0o700)
    assert find_envoy(None) == tmp_path / "envoy"
