"""Values and manifests that are checked in, and the custom resources among them against the schemas of their CRDs."""

import copy
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from helm.golden_files import NAMES, expected, values_of
from helm.helm import CHART, Manifest, render

NOT_VALIDATED = {"gateway.kgateway.dev"}
"""No registry here has kgateway's CRDs: its two resources are held against its documentation alone."""

GROUPS = {"networking.istio.io", "gateway.networking.k8s.io", "gateway.envoyproxy.io", "monitoring.coreos.com"}


@pytest.mark.parametrize("helm", ["helm4", "helm3"])
@pytest.mark.parametrize("name", NAMES)
def test_the_chart_makes_what_is_checked_in(name: str, helm: str) -> None:
    """If the change is meant: `make golden`, and read the diff."""
    assert render(values_of(name), helm) == expected(name)


@pytest.fixture(scope="module")
def schemas() -> str:
    cache = Path(os.environ.get("TENANTRY_CACHE") or Path.home() / ".cache" / "tenantry")
    found = sorted(path for path in cache.glob("envs/crds-*") if path.is_dir())
    if not found:
        pytest.skip("no schemas of CRDs: `python3 tools/env.py crds` says why")
    return str(found[-1])


def messages(manifests: list[Manifest], schemas: str) -> list[str]:
    script = str(Path(__file__).with_name("custom_resources.mjs"))
    done = subprocess.run(
        ["node", script, schemas], input=json.dumps(manifests), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


def custom(manifests: list[Manifest]) -> list[Manifest]:
    return [each for each in manifests if each["apiVersion"].split("/")[0] in GROUPS]


def alerts() -> Manifest:
    groups = [
        group
        for name in ("rules", "alerts")
        for group in yaml.safe_load((CHART / "files" / f"{name}.yaml").read_text())["groups"]
    ]
    kind = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule"}
    return {**kind, "metadata": {"name": "alerts"}, "spec": {"groups": groups}}


def test_custom_resources_are_of_their_schemas(schemas: str) -> None:
    manifests = [each for name in NAMES for each in custom(expected(name))]
    kinds = {each["kind"] for each in manifests}
    assert {"EnvoyFilter", "DestinationRule", "EnvoyPatchPolicy", "EnvoyExtensionPolicy", "PodMonitor"} <= kinds
    assert messages([*manifests, alerts()], schemas) == []


def test_a_field_of_the_wrong_kind_is_found(schemas: str) -> None:
    (policy,) = (each for each in expected("envoy-gateway") if each["kind"] == "EnvoyExtensionPolicy")
    broken: dict[str, Any] = copy.deepcopy(policy)
    broken["spec"]["extProc"][0]["failOpen"] = "no"
    (message,) = messages([broken], schemas)
    assert "failOpen" in message


def test_every_custom_resource_is_validated_but_kgateways() -> None:
    manifests = [each for name in NAMES for each in expected(name)]
    groups = {each["apiVersion"].split("/")[0] for each in manifests if "." in each["apiVersion"].split("/")[0]}
    builtin = {"networking.k8s.io"}
    assert groups - GROUPS - builtin == NOT_VALIDATED
