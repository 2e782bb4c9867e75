"""What the chart makes of its values: complete, safe, and refused with words where it would not work."""

import json
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from tenantry.core.rules import Rules

from helm import helm as chart
from helm.helm import CHART, DEPLOYMENT, VALUES, VERSIONS, containers, merged, named, pods, refusal, render

EVERYTHING: dict[str, Any] = {
    "sidecar": {"redis": {"secretName": "redis"}},
    "tls": {"secretName": "tenantry-tls", "allowClientSans": ["spiffe://prod/envoy", "spiffe://prod/engine"]},
    "autoscaling": {"enabled": True},
    "rulesFrom": [{"configMap": "tenants-1", "key": "rules.yaml"}, {"secret": "tenants-2", "key": "rules.yaml"}],
    "monitoring": {"podMonitor": {"enabled": True}, "rules": {"enabled": True}, "dashboards": {"enabled": True}},
    "networkPolicy": {
        "engines": [{"namespace": "engines", "podSelector": {"matchLabels": {"app": "vllm"}}, "port": 8000}],
        "stores": [{"namespace": "milvus", "podSelector": {"matchLabels": {"app": "milvus"}}, "port": 19530}],
        "operators": [{"podSelector": {"matchLabels": {"role": "operator"}}}],
    },
}
CASES = {"smallest": {}, "everything": EVERYTHING, "own pods": DEPLOYMENT}
OUR_API = ("v1", "apps/v1", "batch/v1", "policy/v1", "autoscaling/v2", "networking.k8s.io/v1")


@pytest.fixture(scope="module", params=CASES, ids=lambda name: name)
def manifests(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[chart.Manifest]:
    return render(merged(VALUES, CASES[request.param]))


@pytest.mark.parametrize("helm", VERSIONS)
def test_helm_finds_nothing_wrong(helm: str, tmp_path: Path, figure: dict[str, Any]) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump(merged(VALUES, EVERYTHING)))
    done = chart.run(helm, "lint", "--strict", str(CHART), "--values", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    figure[f"versions.{helm}"] = chart.run(helm, "version", "--template", "{{.Version}}").stdout


@pytest.mark.parametrize("case", CASES)
def test_both_helms_render_the_same(case: str, tmp_path: Path) -> None:
    values = merged(VALUES, CASES[case])
    assert render(values, "helm3") == render(values, "helm4")


def test_kubernetes_would_take_each_manifest(manifests: list[chart.Manifest], figure: dict[str, Any]) -> None:
    ours = [manifest for manifest in manifests if manifest["apiVersion"] in OUR_API]
    assert {"Deployment", "Service", "ConfigMap", "Job", "NetworkPolicy"} <= {each["kind"] for each in ours}
    for manifest in ours:
        kubernetes_validate.validate(manifest, "1.34", strict=True)
    figure["versions.kubernetes_schemas"] = "1.34"


def test_no_container_can_become_more_than_it_is(manifests: list[chart.Manifest]) -> None:
    for name, pod in pods(manifests):
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsUser"] == 65532, name
        for container in containers(pod):
            context = container["securityContext"]
            assert context["runAsNonRoot"] is True, (name, container["name"])
            assert context["readOnlyRootFilesystem"] is True, (name, container["name"])
            assert context["allowPrivilegeEscalation"] is False, (name, container["name"])
            assert context["capabilities"] == {"drop": ["ALL"]}, (name, container["name"])
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}, (name, container["name"])
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), (name, container["name"])
            assert "memory" in container["resources"]["limits"], (name, container["name"])


def test_what_is_mounted_is_there(manifests: list[chart.Manifest]) -> None:
    for name, pod in pods(manifests):
        volumes = [volume["name"] for volume in pod["volumes"]]
        assert len(volumes) == len(set(volumes)), name
        for container in containers(pod):
            assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes), (name, container["name"])


def test_long_running_containers_have_probes(manifests: list[chart.Manifest]) -> None:
    for name, pod in pods(manifests):
        running = [each for each in containers(pod) if each["name"] in ("sidecar", "envoy", "ledger")]
        assert all("readinessProbe" in each and "livenessProbe" in each for each in running), name


def test_a_change_of_the_rules_restarts_nothing(tmp_path: Path) -> None:
    before = render(VALUES)
    over = {"rules": {"tenants": {"hooli": {"tier": "gold"}}, "tiers": {"silver": {}}}}
    after = render(merged(VALUES, over))
    for kind, name in (("Deployment", "t-tenantry-gateway"), ("Deployment", "t-tenantry-ledger")):
        assert named(before, kind, name) == named(after, kind, name)
    assert named(before, "ConfigMap", "t-tenantry-rules") != named(after, "ConfigMap", "t-tenantry-rules")


@pytest.mark.parametrize(
    "rules",
    [
        {"limits": {"maxBodyBytes": 20_000_000}},
        {"identity": {"mtls": {"uriSanPrefix": "spiffe://prod/tenant/"}}},
        {"stores": {"docs": {"kind": "milvus", "endpoints": ["10.0.0.9:19530"], "isolation": "database"}}},
        {"models": {"chat-8b": {"usage": "response"}}},
    ],
    ids=lambda rules: next(iter(rules)),
)
def test_what_envoy_reads_at_start_restarts_it(rules: chart.Values, tmp_path: Path) -> None:
    before, after = (
        named(render(values), "Deployment", "t-tenantry-gateway")["spec"]["template"]["metadata"]
        for values in (VALUES, merged(VALUES, {"rules": rules}))
    )
    assert before["annotations"] != after["annotations"]


def test_the_coming_rules_are_checked_before_anything_else(tmp_path: Path) -> None:
    manifests = render(merged(VALUES, EVERYTHING))
    job = named(manifests, "Job", "t-tenantry-check")
    coming = named(manifests, "ConfigMap", "t-tenantry-rules-coming")
    for manifest in (job, coming):
        assert manifest["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    weights = [int(each["metadata"]["annotations"]["helm.sh/hook-weight"]) for each in (coming, job)]
    assert weights == sorted(weights)
    assert coming["data"] == named(manifests, "ConfigMap", "t-tenantry-rules")["data"]
    pod = job["spec"]["template"]["spec"]
    assert job["spec"]["backoffLimit"] == 0
    assert pod["containers"][0]["args"] == ["check", "/etc/tenantry/rules"]
    sources = pod["volumes"][0]["projected"]["sources"]
    assert [next(iter(source.values()))["name"] for source in sources] == [
        "t-tenantry-rules-coming", "tenants-1", "tenants-2",
    ]  # fmt: skip


def test_parts_of_the_rules_become_files_of_one_folder(tmp_path: Path) -> None:
    pod = named(render(merged(VALUES, EVERYTHING)), "Deployment", "t-tenantry-gateway")["spec"]["template"]
    (rules,) = (volume for volume in pod["spec"]["volumes"] if volume["name"] == "rules")
    paths = [next(iter(source.values()))["items"][0]["path"] for source in rules["projected"]["sources"]]
    assert paths == ["rules.yaml", "tenants-1.rules.yaml", "tenants-2.rules.yaml"]


def test_the_sidecar_is_ready_before_envoy_starts_and_there_until_it_has_ended(tmp_path: Path) -> None:
    pod = named(render(VALUES), "Deployment", "t-tenantry-gateway")["spec"]["template"]["spec"]
    assert [each["name"] for each in pod["initContainers"]] == ["bootstrap", "sidecar"]
    sidecar = pod["initContainers"][1]
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["startupProbe"]["httpGet"]["path"] == "/readyz"
    assert [each["name"] for each in pod["containers"]] == ["envoy"]


def test_only_envoy_reaches_engines_and_stores(tmp_path: Path) -> None:
    manifests = render(merged(VALUES, EVERYTHING))
    gateway = {
        "app.kubernetes.io/name": "tenantry",
        "app.kubernetes.io/instance": "t",
        "app.kubernetes.io/component": "gateway",
    }
    store = named(manifests, "NetworkPolicy", "t-tenantry-store-0")
    assert store["metadata"]["namespace"] == "milvus"
    assert store["spec"]["podSelector"] == {"matchLabels": {"app": "milvus"}}
    (rule,) = store["spec"]["ingress"]
    assert [peer["podSelector"]["matchLabels"] for peer in rule["from"]] == [gateway]
    (rule,) = named(manifests, "NetworkPolicy", "t-tenantry-engine-0")["spec"]["ingress"]
    assert rule["from"][0]["podSelector"]["matchLabels"] == gateway
    assert [peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for peer in rule["from"]] == [
        "default", "monitoring",
    ]  # fmt: skip


def test_no_list_of_peers_is_empty_since_that_would_admit_everybody(manifests: list[chart.Manifest]) -> None:
    for manifest in manifests:
        if manifest["kind"] == "NetworkPolicy":
            for rule in manifest["spec"]["ingress"]:
                assert rule.get("from") != [], manifest["metadata"]["name"]
                assert "from" in rule or rule["ports"] == [{"port": "http"}], "clients reach Envoy's port, nothing else"


def test_alerts_and_dashboards_arrive_as_they_are(tmp_path: Path) -> None:
    manifests = render(merged(VALUES, EVERYTHING))
    groups = named(manifests, "PrometheusRule", "t-tenantry")["spec"]["groups"]
    written = [
        group
        for name in ("rules", "alerts")
        for group in yaml.safe_load((CHART / "files" / f"{name}.yaml").read_text())["groups"]
    ]
    assert groups == written
    dashboards = {path.name: path.read_text() for path in (CHART / "files" / "dashboards").glob("*.json")}
    shipped = [each for each in manifests if each["kind"] == "ConfigMap" and "-dashboard-" in each["metadata"]["name"]]
    assert {name: text for each in shipped for name, text in each["data"].items()} == dashboards
    assert all(each["metadata"]["labels"]["grafana_dashboard"] == "1" for each in shipped)


def test_runbooks_are_where_the_operator_keeps_them(tmp_path: Path) -> None:
    over = merged(EVERYTHING, {"monitoring": {"runbookBase": "https://wiki.example/tenantry/"}})
    groups = named(render(merged(VALUES, over)), "PrometheusRule", "t-tenantry")["spec"]["groups"]
    links = {rule["annotations"]["runbook_url"] for group in groups for rule in group["rules"] if "alert" in rule}
    assert links
    assert all(link.startswith("https://wiki.example/tenantry/docs/runbooks/") for link in links)


BY_SCHEMA: dict[str, tuple[dict[str, Any], str]] = {
    "a percentage": (
        {"rules": {"models": {"chat-8b": {"rollout": {"candidate": "1.5.0", "percent": 120}}}}},
        "percent",
    ),
    "a misspelt key of the rules": ({"rules": {"modles": {}}}, "modles"),
    "a misspelt value": ({"sidecar": {"replica": 3}}, "replica"),
    "a mode": ({"sidecar": {"mode": "daemonset"}}, "mode"),
    "a key in plain text": ({"rules": {"tenants": {"acme": {"keys": ["tk_secret"]}}}}, "keys"),
}


@pytest.mark.parametrize("helm", VERSIONS)
@pytest.mark.parametrize("case", BY_SCHEMA)
def test_the_schema_refuses_and_names_the_place(helm: str, case: str, tmp_path: Path) -> None:
    over, place = BY_SCHEMA[case]
    message = refusal(merged(VALUES, over), helm)
    assert "schema" in message
    assert place in message


VERSIONS_THERE = "there are: 1.4.0, 1.5.0"
DANGLING = {
    "a stable version": (
        {"models": {"chat-8b": {"stable": "9"}}},
        f'rules.models.chat-8b.stable: no version "9"; {VERSIONS_THERE}',
    ),
    "a candidate": (
        {"models": {"chat-8b": {"rollout": {"candidate": "2.0.0"}}}},
        f'rules.models.chat-8b.rollout.candidate: no version "2.0.0"; {VERSIONS_THERE}',
    ),
    "a tenant's tier": (
        {"tenants": {"acme": {"tier": "goldd"}}},
        'rules.tenants.acme.tier: no tier "goldd"; there are: bronze, gold',
    ),
    "a pinned version": (
        {"tenants": {"acme": {"pins": {"chat-8b": "1.0"}}}},
        f'rules.tenants.acme.pins.chat-8b: no version "1.0"; {VERSIONS_THERE}',
    ),
    "a pinned model": (
        {"tenants": {"acme": {"pins": {"chat": "1.4.0"}}}},
        'rules.tenants.acme.pins: no model "chat"; there are: chat-8b',
    ),
    "the default tier": ({"defaultTier": "free"}, 'rules.defaultTier: no tier "free"; there are: bronze, gold'),
}


@pytest.mark.parametrize("case", DANGLING)
def test_a_name_that_points_nowhere_is_named_with_those_that_are_there(case: str, tmp_path: Path) -> None:
    over, words = DANGLING[case]
    assert words in refusal(merged(VALUES, {"rules": over}))


def test_names_may_be_in_a_part_outside_the_release(tmp_path: Path) -> None:
    outside = {"rulesFrom": [{"configMap": "models", "key": "rules.yaml"}], "rules": {"defaultTier": "free"}}
    assert render(merged(VALUES, outside))


UNFIT = {
    "no secret": ({"secretName": ""}, "secretName: name the Secret"),
    "own pods without certificates": (merged(DEPLOYMENT, {"tls": {"secretName": ""}}), "tls.secretName"),
    "a CA for everybody": (merged(DEPLOYMENT, {"tls": {"allowClientSans": []}}), "tls.allowClientSans"),
    "a ledger on sand": ({"ledger": {"db": {"existingClaim": ""}}}, "ledger.db: name a Secret"),
    "two ledgers on one file": ({"ledger": {"replicas": 2}}, "ledger.replicas: several ledgers need PostgreSQL"),
    "two sidecars that do not know of one another": (
        {"rules": {"models": {"chat-8b": {"rollout": {"candidate": "1.5.0", "percent": 5}}}}},
        "sidecar.redis.secretName: several sidecars share a rollout (models.chat-8b.rollout)",
    ),
    "a part of neither kind": ({"rulesFrom": [{"key": "rules.yaml"}]}, "rulesFrom[0]: name either"),
    "envoy's pod that is somebody else's": ({"attachment": {"kind": "none"}}, "sidecar.mode"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_would_not_work_is_refused_with_what_would(case: str, tmp_path: Path) -> None:
    over, words = UNFIT[case]
    assert words in refusal(merged(VALUES, over))


def test_the_schema_is_that_of_the_rules_and_knows_no_other_key() -> None:
    document = json.loads((CHART / "values.schema.json").read_text())
    assert document["properties"]["rules"] == {"$ref": "#/$defs/Rules"}
    assert document["$defs"]["Rules"]["properties"].keys() == set(Rules.__struct_encode_fields__)
    open_ended = [name for name, each in document["$defs"].items() if each.get("additionalProperties") is not False]
    assert open_ended == []
