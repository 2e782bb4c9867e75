"""What Prometheus and Grafana get: monitors, rules and dashboards, as the repository has them."""

import yaml

from helm.helm import CHART, DEPLOYMENT, EVERYTHING, VALUES, Manifest, merged, named, pods, render

CLUSTER = {"cluster": "eu-1"}


def monitors(manifests: list[Manifest]) -> dict[str, Manifest]:
    """The PodMonitors' specs by name."""
    return {each["metadata"]["name"]: each["spec"] for each in manifests if each["kind"] == "PodMonitor"}


def test_each_job_has_the_name_and_the_cluster_that_dashboards_ask_for() -> None:
    found = monitors(render(merged(merged(VALUES, EVERYTHING), CLUSTER)))
    jobs = {}
    for name, spec in found.items():
        (endpoint,) = spec["podMetricsEndpoints"]
        set_to = {each["targetLabel"]: each["replacement"] for each in endpoint["relabelings"]}
        assert set_to["cluster"] == "eu-1", name
        jobs[set_to["job"]] = (endpoint["port"], endpoint["path"])
    assert jobs == {
        "tenantry-sidecar": ("telemetry", "/metrics"),
        "tenantry-ledger": ("telemetry", "/metrics"),
        "tenantry-envoy": ("stats", "/stats/prometheus"),
        "tenantry-engine": ("http", "/metrics"),
    }


def test_a_monitor_selects_pods_that_have_its_port() -> None:
    manifests = render(merged(VALUES, EVERYTHING))
    templates = [each["spec"]["template"] for each in manifests if each["kind"] == "Deployment"]
    for name, spec in monitors(manifests).items():
        if name.startswith("t-tenantry-engine"):
            assert spec["namespaceSelector"] == {"matchNames": ["engines"]}
            assert spec["selector"] == {"matchLabels": {"app": "vllm"}}
            continue
        wanted = spec["selector"]["matchLabels"].items()
        (pod,) = (each["spec"] for each in templates if wanted <= each["metadata"]["labels"].items())
        every = [*pod.get("initContainers", []), *pod["containers"]]
        ports = [port["name"] for each in every for port in each.get("ports", [])]
        assert spec["podMetricsEndpoints"][0]["port"] in ports, name


def test_an_envoy_of_somebody_else_is_scraped_where_they_say() -> None:
    pod = {"job": "envoy", "namespace": "edge", "podSelector": {"matchLabels": {"app": "gw"}}, "port": "admin"}
    scraped = {"monitoring": {"podMonitor": {"enabled": True, "pods": [{**pod, "path": "/stats/prometheus"}]}}}
    found = monitors(render(merged(VALUES, merged(DEPLOYMENT, scraped))))
    assert found.keys() == {"t-tenantry-sidecar", "t-tenantry-ledger", "t-tenantry-envoy-0"}
    assert found["t-tenantry-envoy-0"]["podMetricsEndpoints"][0]["path"] == "/stats/prometheus"


def test_alerts_and_dashboards_arrive_as_they_are() -> None:
    manifests = render(merged(VALUES, EVERYTHING))
    groups = named(manifests, "PrometheusRule", "t-tenantry")["spec"]["groups"]
    written = [
        group
        for name in ("rules", "alerts")
        for group in yaml.safe_load((CHART / "files" / f"{name}.yaml").read_text())["groups"]
    ]
    assert groups == written
    assert any("{{" in str(rule.get("annotations")) for group in groups for rule in group["rules"]), (
        "left to Prometheus"
    )
    dashboards = {path.name: path.read_text() for path in (CHART / "files" / "dashboards").glob("*.json")}
    assert dashboards
    shipped = [each for each in manifests if each["kind"] == "ConfigMap" and "-dashboard-" in each["metadata"]["name"]]
    assert {name: text for each in shipped for name, text in each["data"].items()} == dashboards
    assert all(each["metadata"]["labels"]["grafana_dashboard"] == "1" for each in shipped)


def test_runbooks_are_where_the_operator_keeps_them() -> None:
    over = merged(EVERYTHING, {"monitoring": {"runbookBase": "https://wiki.example/tenantry/"}})
    groups = named(render(merged(VALUES, over)), "PrometheusRule", "t-tenantry")["spec"]["groups"]
    links = {rule["annotations"]["runbook_url"] for group in groups for rule in group["rules"] if "alert" in rule}
    assert links
    assert all(link.startswith("https://wiki.example/tenantry/docs/runbooks/") for link in links)


def test_probes_ask_the_listener_that_needs_no_certificate() -> None:
    for name, pod in pods(render(VALUES)):
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if "httpGet" in container.get(probe, {}):
                    assert container[probe]["httpGet"]["port"] == "telemetry", (name, container["name"])
