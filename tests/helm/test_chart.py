"""What the chart makes of its values: complete, taken by Kubernetes, and restarted no more often than it must be."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from tenantry.adapters.bind import parse_address
from tenantry.adapters.rules_file import read_document
from tenantry.cli import app
from tenantry.core.rules import parse
from tenantry.up import listener_tls, render_bootstrap

from helm import helm as chart
from helm.helm import (
    CASES,
    CHART,
    EVERYTHING,
    NO_TLS,
    RULES,
    VALUES,
    VERSIONS,
    containers,
    merged,
    named,
    pods,
    render,
)
from tools.chart.readme import unexplained

OUR_API = ("v1", "apps/v1", "batch/v1", "policy/v1", "autoscaling/v2", "networking.k8s.io/v1")


@pytest.fixture(scope="module", params=CASES)
def manifests(request: pytest.FixtureRequest) -> list[chart.Manifest]:
    return render(merged(VALUES, CASES[request.param]))


@pytest.mark.parametrize("helm", VERSIONS)
def test_helm_finds_nothing_wrong(helm: str, figure: dict[str, Any]) -> None:
    values = json.dumps(merged(VALUES, EVERYTHING))
    done = chart.run(helm, "lint", "--strict", str(CHART), "--values", "-", given=values)
    assert done.returncode == 0, done.stdout + done.stderr
    figure[f"versions.{helm}"] = chart.run(helm, "version", "--template", "{{.Version}}").stdout


@pytest.mark.parametrize("case", CASES)
def test_both_helms_render_the_same(case: str) -> None:
    values = merged(VALUES, CASES[case])
    assert render(values, "helm3") == render(values, "helm4")


@pytest.mark.parametrize("helm", VERSIONS)
def test_a_package_holds_alerts_and_dashboards_too(helm: str, tmp_path: Path) -> None:
    """In the tree they are symbolic links to where they are made; in a package they are files."""
    done = chart.run(helm, "package", str(CHART), "--destination", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (package,) = tmp_path.glob("tenantry-*.tgz")
    values = json.dumps(merged(VALUES, EVERYTHING))
    packed = chart.run(helm, "template", "t", str(package), "--values", "-", given=values)
    kinds = [each["kind"] for each in yaml.load_all(packed.stdout, yaml.CSafeLoader) if each]
    assert "PrometheusRule" in kinds
    assert packed.stdout == chart.template(values, helm).stdout


def test_kubernetes_would_take_each_manifest(manifests: list[chart.Manifest], figure: dict[str, Any]) -> None:
    ours = [manifest for manifest in manifests if manifest["apiVersion"] in OUR_API]
    assert {"Deployment", "Service", "ConfigMap", "Job", "NetworkPolicy"} <= {each["kind"] for each in ours}
    for manifest in ours:
        kubernetes_validate.validate(manifest, "1.34", strict=True)
    figure["versions.kubernetes_schemas"] = "1.34"


def test_every_container_is_given_options_that_its_command_takes(manifests: list[chart.Manifest]) -> None:
    ours = [each for _, pod in pods(manifests) for each in containers(pod) if each["name"] != "envoy"]
    assert {each["name"] for each in ours} >= {"sidecar", "check"}
    for container in ours:
        _, bound, _ = app.parse_args(container["args"], print_error=False, exit_on_error=False)
        sans = [word for word in container["args"] if word.startswith("spiffe://")]
        assert list(bound.arguments.get("allow_client_san", [])) == sans, "the names, and nothing that came after them"


def test_what_is_mounted_is_there(manifests: list[chart.Manifest]) -> None:
    for name, pod in pods(manifests):
        volumes = [volume["name"] for volume in pod["volumes"]]
        assert len(volumes) == len(set(volumes)), name
        mounted = {mount["name"] for container in containers(pod) for mount in container["volumeMounts"]}
        assert mounted == set(volumes), name


def test_a_file_that_an_option_names_is_in_a_volume(manifests: list[chart.Manifest]) -> None:
    for name, pod in pods(manifests):
        for container in containers(pod):
            mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
            for path in paths(container["args"]):
                assert any(Path(path).is_relative_to(mount) for mount in mounts), (name, container["name"], path)


def paths(arguments: list[str]) -> Iterator[str]:
    """Yield the paths in a container's arguments that its own process opens."""
    for word in arguments:
        option, _, value = word.rpartition("=")
        path = value.removeprefix("unix:").removeprefix("@").removeprefix("sqlite:")
        envoys = option in ("--tls-cert", "--tls-key", "--client-ca") and arguments[0] == "envoy"
        if path.startswith("/") and not envoys:
            yield path


def test_long_running_containers_have_probes(manifests: list[chart.Manifest]) -> None:
    for name, pod in pods(manifests):
        running = [each for each in containers(pod) if each["name"] in ("sidecar", "envoy", "ledger")]
        assert all("readinessProbe" in each and "livenessProbe" in each for each in running), name


def test_the_sidecar_is_ready_before_envoy_starts_and_there_until_it_has_ended() -> None:
    pod = named(render(VALUES), "Deployment", "t-tenantry-gateway")["spec"]["template"]["spec"]
    assert [each["name"] for each in pod["initContainers"]] == ["bootstrap", "sidecar"]
    sidecar = pod["initContainers"][1]
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["startupProbe"]["httpGet"]["path"] == "/readyz"
    (envoy,) = pod["containers"]
    drain = envoy["lifecycle"]["preStop"]["sleep"]["seconds"]
    (grace,) = (word.partition("=")[2] for word in sidecar["args"] if word.startswith("--grace-seconds="))
    assert pod["terminationGracePeriodSeconds"] > drain + int(grace)


def test_a_change_of_the_rules_restarts_nothing() -> None:
    before = render(VALUES)
    over = {"rules": {"tenants": {"hooli": {"tier": "gold"}}, "tiers": {"silver": {}}}}
    after = render(merged(VALUES, over))
    for kind, name in (("Deployment", "t-tenantry-gateway"), ("Deployment", "t-tenantry-ledger")):
        assert named(before, kind, name) == named(after, kind, name)
    assert named(before, "ConfigMap", "t-tenantry-rules") != named(after, "ConfigMap", "t-tenantry-rules")


JWT = {"issuer": "https://id", "audience": "ai", "jwksFile": "/etc/envoy/jwks.json"}
EDITS: dict[str, chart.Values] = {
    "body": {"limits": {"maxBodyBytes": 20_000_000}},
    "idle": {"limits": {"streamIdleSeconds": 30}},
    "exchanges": {"limits": {"maxOpenExchanges": 500}},
    "headers": {"limits": {"forwardHeaders": ["x-trace"]}},
    "jwt": {"identity": {"jwt": JWT}},
    "no API keys": {"identity": {"apiKeys": False}},
    "certificates": {"identity": {"mtls": {"uriSanPrefix": "spiffe://prod/tenant/"}}},
    "a store": {"stores": {"docs": {"kind": "milvus", "endpoints": ["10.0.0.9:19530"], "isolation": "database"}}},
    "a store of another kind": {
        "stores": {"docs": {"kind": "pinecone", "endpoints": ["10.0.0.9:443"], "isolation": "namespace"}}
    },
    "answers read": {"models": {"chat-8b": {"usage": "response"}}},
    "usage estimated": {"models": {"chat-8b": {"usage": "estimate"}}},
    "endpoints": {"models": {"chat-8b": {"versions": {"1.4.0": {"endpoints": ["10.0.0.7:8000"]}}}}},
    "a rollout": {"models": {"chat-8b": {"rollout": {"candidate": "1.5.0", "percent": 5}}}},
    "a tier": {"defaultTier": "gold", "tiers": {"silver": {"priority": 3}}, "metrics": {"maxTenants": 5}},
}
ALIKE: chart.Values = {
    "sidecar": {"replicas": 1}, "envoy": {"tls": {"secretName": "front", "clientCertificates": True}}
}  # fmt: skip


@functools.cache
def bootstrap(rules: str) -> str:
    """Envoy's configuration, as the init container makes it of a document (JSON)."""
    here = parse_address("127.0.0.1:9901")
    tls = listener_tls(Path("/crt"), Path("/key"), Path("/ca"))
    return render_bootstrap(
        parse(json.loads(rules)), listen=here, admin=here, sidecar=here, cds=Path("/cds/cds.json"), tls=tls
    )


def reads(edit: chart.Values) -> str:
    """What Envoy reads at its start, with an edit of the rules."""
    return bootstrap(json.dumps(merged(RULES, edit)))


@pytest.mark.parametrize("edit", EDITS)
def test_pods_restart_when_envoy_would_start_otherwise_and_else_never(edit: str) -> None:
    """The pods' template changes if and only if the generator's output does."""
    before, after = merged(VALUES, ALIKE), merged(VALUES, merged(ALIKE, {"rules": EDITS[edit]}))
    replaced = gateway(before) != gateway(after)
    assert replaced == (reads(EDITS[edit]) != reads({}))


def gateway(values: chart.Values) -> chart.Manifest:
    return named(render(values), "Deployment", "t-tenantry-gateway")


def test_some_edits_restart_and_some_do_not() -> None:
    """Else the test above might compare nothing with nothing."""
    changed = {name for name, edit in EDITS.items() if reads(edit) != reads({})}
    assert {"body", "idle", "exchanges", "jwt", "certificates", "a store", "answers read"} <= changed
    assert changed.isdisjoint({"headers", "endpoints", "a rollout", "a tier", "usage estimated"})


@pytest.mark.parametrize("helm", VERSIONS)
def test_the_sidecar_reads_what_the_operator_wrote(helm: str) -> None:
    """Helm reads YAML by one library and tenantry by another: what is text to one may be a date to the other."""
    odd = ["2026-11-30", "12:30", "=", "<<", "0o7", "1_000", "1e3", "0x1F", "on", "~", "1.10", "a: b", "#", " ",
           "é", "<&>", '"', "'", "\\", '"x": 1e-07']  # fmt: skip
    model = RULES["models"]["chat-8b"]
    models = {
        f"m{index}": {**model, "versions": {"1.4.0": {"endpoints": ["h:1"], "image": text}}}
        for index, text in enumerate(odd)
    }
    rules = merged(RULES, {
        "models": models,
        "limits": {"maxBodyBytes": 256 * 1024 * 1024, "maxOpenExchanges": 1_000_000, "streamIdleSeconds": 0.5},
        "tiers": {"gold": {"weight": 0.0000002}, "bronze": {"weight": 0.00000025}},
    })  # fmt: skip
    shipped = named(render(merged(VALUES, {"rules": rules}), helm), "ConfigMap", "t-tenantry-rules")
    assert parse(read_document(shipped["data"]["rules.yaml"].encode())) == parse(rules)


def test_the_coming_rules_are_checked_before_anything_else() -> None:
    manifests = render(merged(VALUES, EVERYTHING))
    job = named(manifests, "Job", "t-tenantry-check")
    coming = named(manifests, "ConfigMap", "t-tenantry-rules-coming")
    for manifest in (job, coming):
        assert manifest["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade,pre-rollback"
    before, after = (int(each["metadata"]["annotations"]["helm.sh/hook-weight"]) for each in (coming, job))
    assert before < after
    assert coming["data"] == named(manifests, "ConfigMap", "t-tenantry-rules")["data"]
    pod = job["spec"]["template"]["spec"]
    assert job["spec"]["backoffLimit"] == 0
    assert pod["containers"][0]["args"] == ["check", "/etc/tenantry/rules"]
    sources = pod["volumes"][0]["projected"]["sources"]
    assert [next(iter(source.values()))["name"] for source in sources] == [
        "t-tenantry-rules-coming", "tenants-1", "tenants-2",
    ]  # fmt: skip


def test_parts_of_the_rules_become_files_of_one_folder() -> None:
    pod = gateway(merged(VALUES, EVERYTHING))["spec"]["template"]["spec"]
    (rules,) = (volume for volume in pod["volumes"] if volume["name"] == "rules")
    files = [next(iter(source.values()))["items"][0]["path"] for source in rules["projected"]["sources"]]
    assert files == ["rules.yaml", "tenants-1.rules.yaml", "tenants-2.rules.yaml"]


def test_a_claim_is_one_pods_at_a_time() -> None:
    over = {"sidecar": {"replicas": 1, "state": {"existingClaim": "state"}}}
    assert gateway(merged(VALUES, over))["spec"]["strategy"] == {"type": "Recreate"}
    assert named(render(VALUES), "Deployment", "t-tenantry-ledger")["spec"]["strategy"] == {"type": "Recreate"}


def test_every_value_is_explained_where_it_stands() -> None:
    assert unexplained((CHART / "values.yaml").read_text()) == []


def test_every_pod_is_on_the_nodes_that_were_named() -> None:
    over = {"nodeSelector": {"pool": "edge"}, "tolerations": [{"key": "edge"}], "imagePullSecrets": ["registry"]}
    for name, pod in pods(render(merged(VALUES, over))):
        assert (pod["nodeSelector"], pod["tolerations"]) == ({"pool": "edge"}, [{"key": "edge"}]), name
        assert pod["imagePullSecrets"] == [{"name": "registry"}], name


def notes(values: chart.Values) -> str:
    """What an operator reads after an installation. (Helm 3 asks a cluster for it.)"""
    given = json.dumps(values)
    done = chart.run("helm4", "install", "t", str(CHART), "--values", "-", "--dry-run=client", given=given)
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("NOTES:")[2]


def test_notes_tell_what_is_open() -> None:
    said = notes(VALUES)
    assert "curl http://127.0.0.1:10000/v1/models" in said
    assert "port-forward deploy/t-tenantry-gateway 9300:9302" in said
    assert "Nothing scrapes it" in said
    assert "Engines can be reached past Envoy" in said

    said = notes(merged(VALUES, NO_TLS))
    assert "port-forward deploy/t-tenantry-gateway 9300:9300" in said
    assert "Engines in other pods cannot post their usage" in said

    said = notes(merged(VALUES, EVERYTHING))
    assert "curl --insecure https://127.0.0.1:10000/v1/models" in said
    assert "Nothing scrapes it" not in said
    assert "can be reached past Envoy" not in said


def test_notes_tell_the_next_step() -> None:
    first = {"version": 1, "tiers": {"gold": {}}, "models": {}}
    assert "Next: name a model" in notes({**VALUES, "rules": first})
    models = {"m": {"stable": "1", "versions": {"1": {"endpoints": ["h:1"]}}}}
    assert "Next: give a tenant a key" in notes({**VALUES, "rules": {**first, "models": models}})
