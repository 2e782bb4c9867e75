"""Who may reach what, and what a container may do: NetworkPolicies and security contexts."""

import pytest

from helm import helm as chart
from helm.helm import CASES, DEPLOYMENT, EVERYTHING, VALUES, containers, merged, named, pods, refusal, render

MESH = DEPLOYMENT["networkPolicy"]["envoy"]


@pytest.fixture(scope="module", params=CASES)
def manifests(request: pytest.FixtureRequest) -> list[chart.Manifest]:
    return render(merged(VALUES, CASES[request.param]))


def component(name: str) -> dict[str, str]:
    """Labels of the release's pods."""
    return {
        "app.kubernetes.io/name": "tenantry", "app.kubernetes.io/instance": "t", "app.kubernetes.io/component": name
    }  # fmt: skip


def peers(policy: chart.Manifest, port: int | str) -> list[chart.Manifest]:
    """Who may reach a port, by all rules of a policy that have it."""
    return [
        peer for rule in policy["spec"]["ingress"] if {"port": port} in rule["ports"] for peer in rule.get("from", [])
    ]


def labels(found: list[chart.Manifest]) -> list[chart.Manifest]:
    """The pods' labels of peers."""
    return [peer["podSelector"].get("matchLabels", {}) for peer in found]


def test_no_container_can_become_more_than_it_is(manifests: list[chart.Manifest]) -> None:
    """What the Pod Security Standard `restricted` asks for, and a file system that nobody can write."""
    for name, pod in pods(manifests):
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsUser"] == 65532, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), name
        assert all("hostPath" not in volume for volume in pod["volumes"]), name
        for container in containers(pod):
            context = container["securityContext"]
            assert context["runAsNonRoot"] is True, (name, container["name"])
            assert context["readOnlyRootFilesystem"] is True, (name, container["name"])
            assert context["allowPrivilegeEscalation"] is False, (name, container["name"])
            assert context["capabilities"] == {"drop": ["ALL"]}, (name, container["name"])
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}, (name, container["name"])
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), (name, container["name"])
            assert "memory" in container["resources"]["limits"], (name, container["name"])


def test_every_pod_of_the_release_that_listens_has_a_policy(manifests: list[chart.Manifest]) -> None:
    selected = [
        each["spec"]["podSelector"].get("matchLabels", {}) for each in manifests if each["kind"] == "NetworkPolicy"
    ]
    for manifest in manifests:
        if manifest["kind"] == "Deployment":
            pod = manifest["spec"]["template"]["metadata"]["labels"]
            assert any(wanted and wanted.items() <= pod.items() for wanted in selected), manifest["metadata"]["name"]


def test_every_port_of_a_container_is_in_a_rule_and_only_envoys_own_is_for_everybody(
    manifests: list[chart.Manifest],
) -> None:
    for manifest in (each for each in manifests if each["kind"] == "Deployment"):
        policy = named(manifests, "NetworkPolicy", manifest["metadata"]["name"])
        ports = {
            port["name"] for each in containers(manifest["spec"]["template"]["spec"]) for port in each.get("ports", [])
        }
        ruled = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
        assert ports == ruled, manifest["metadata"]["name"]
        for rule in policy["spec"]["ingress"]:
            # An empty list of peers means everybody, and so does none.
            assert rule.get("from") or rule["ports"] == [{"port": "http"}], manifest["metadata"]["name"]


def test_only_envoy_reaches_the_stores_and_only_prometheus_the_engines_besides() -> None:
    manifests = render(merged(VALUES, EVERYTHING))
    store = named(manifests, "NetworkPolicy", "t-tenantry-store-0")
    assert store["metadata"]["namespace"] == "milvus"
    assert store["spec"]["podSelector"] == {"matchLabels": {"app": "milvus"}}
    assert labels(peers(store, 19530)) == [component("gateway")]
    engine = named(manifests, "NetworkPolicy", "t-tenantry-engine-0")
    assert engine["metadata"]["namespace"] == "engines"
    assert labels(peers(engine, 8000)) == [component("gateway"), {}]
    assert [peer["namespaceSelector"]["matchLabels"] for peer in peers(engine, 8000)] == [
        {"kubernetes.io/metadata.name": "default"}, {"kubernetes.io/metadata.name": "monitoring"},
    ]  # fmt: skip


def test_the_admin_listener_is_for_engines_and_operators() -> None:
    manifests = render(merged(VALUES, EVERYTHING))
    for name, port in (("t-tenantry-gateway", "admin"), ("t-tenantry-ledger", "ledger")):
        found = labels(peers(named(manifests, "NetworkPolicy", name), port))
        assert {"app": "vllm"} in found
        assert {"role": "operator"} in found
        assert {} not in found, "an empty selector is every pod"


def test_where_nobody_was_named_nobody_reaches_the_admin_listener() -> None:
    gateway = named(render(VALUES), "NetworkPolicy", "t-tenantry-gateway")
    assert labels(peers(gateway, "admin")) == [component("nobody")]


def test_an_envoy_of_somebody_else_is_the_only_way_too() -> None:
    over = merged(EVERYTHING, DEPLOYMENT)
    manifests = render(merged(VALUES, over))
    assert peers(named(manifests, "NetworkPolicy", "t-tenantry-sidecar"), "ext-proc") == [MESH]
    assert peers(named(manifests, "NetworkPolicy", "t-tenantry-engine-0"), 8000)[0] == MESH
    store = peers(named(manifests, "NetworkPolicy", "t-tenantry-store-0"), 19530)
    assert store[0] == MESH
    assert labels(store[1:]) == [component("sidecar")], "it proves the layout there"


def test_telemetry_is_for_prometheus_alone(manifests: list[chart.Manifest]) -> None:
    policies = [each for each in manifests if each["kind"] == "NetworkPolicy"]
    found = [peer for each in policies for port in ("telemetry", "stats") for peer in peers(each, port)]
    assert found
    for peer in found:
        assert peer["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}


@pytest.mark.parametrize(
    "selector", [{}, {"matchLabels": {}}], ids=["an empty selector", "a selector of no labels"]
)  # fmt: skip
@pytest.mark.parametrize("kind", ["engines", "stores"])
def test_a_policy_for_every_pod_of_a_namespace_is_not_taken(kind: str, selector: chart.Values) -> None:
    over = {"networkPolicy": {kind: [{"podSelector": selector, "port": 8000}]}}
    assert f"networkPolicy.{kind}" in refusal(merged(VALUES, over), "helm3")
    assert f"/networkPolicy/{kind}/0/podSelector" in refusal(merged(VALUES, over))


def test_envoys_pods_must_be_named_where_the_chart_does_not_run_them() -> None:
    over = {**DEPLOYMENT, "networkPolicy": {"envoy": {**MESH, "podSelector": {}}}}
    assert "networkPolicy.envoy: name the pods of your Envoy" in refusal(merged(VALUES, over))


def test_the_ledger_gets_its_own_two_tokens_and_no_key_that_decides() -> None:
    pod = named(render(VALUES), "Deployment", "t-tenantry-ledger")["spec"]["template"]["spec"]
    (secrets,) = (volume["secret"] for volume in pod["volumes"] if volume["name"] == "secrets")
    assert [item["key"] for item in secrets["items"]] == ["admin-token", "usage-token"]
