"""The chart, rendered by real Helm: manifests in, questions about them out."""

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "tenantry"
VERSIONS = ("helm4", "helm3")

Manifest = dict[str, Any]
Values = dict[str, Any]

RULES: Values = {
    "version": 1,
    "tiers": {"gold": {"priority": 0}, "bronze": {"priority": 20}},
    "models": {
        "chat-8b": {
            "stable": "1.4.0",
            "versions": {name: {"endpoints": ["10.0.0.1:8000"]} for name in ("1.4.0", "1.5.0")},
        }
    },
    "tenants": {"acme": {"tier": "gold", "pins": {"chat-8b": "1.4.0"}}, "globex": {"tier": "bronze"}},
}
VALUES: Values = {
    "secretName": "tenantry-secrets",
    "tls": {"secretName": "tenantry-tls", "allowClientSans": ["spiffe://prod/engine"]},
    "ledger": {"db": {"existingClaim": "ledger"}},
    "rules": RULES,
}
DEPLOYMENT: Values = {
    "sidecar": {"mode": "deployment"},
    "attachment": {"kind": "none"},
    "tls": {"allowClientSans": ["spiffe://prod/engine", "spiffe://prod/envoy"]},
    "networkPolicy": {
        "envoy": {
            "namespaceSelector": {"matchLabels": {"team": "edge"}},
            "podSelector": {"matchLabels": {"app": "envoy"}},
        }
    },
}
"""On top of VALUES: sidecars of their own, for an Envoy that somebody else runs."""

EVERYTHING: Values = {
    "sidecar": {"redis": {"secretName": "redis"}, "tracesUrl": "http://collector:4318/v1/traces"},
    "tls": {"allowClientSans": ["spiffe://prod/engine", "spiffe://prod/operator"]},
    "envoy": {"tls": {"secretName": "front", "clientCertificates": True}},
    "autoscaling": {"enabled": True},
    "rulesFrom": [{"configMap": "tenants-1", "key": "rules.yaml"}, {"secret": "tenants-2", "key": "rules.yaml"}],
    "ledger": {"replicas": 2, "db": {"secretName": "postgres"}},
    "monitoring": {
        "podMonitor": {
            "enabled": True,
            "pods": [
                {
                    "job": "engine",
                    "namespace": "engines",
                    "podSelector": {"matchLabels": {"app": "vllm"}},
                    "port": "http",
                }
            ],
        },
        "rules": {"enabled": True},
        "dashboards": {"enabled": True},
    },
    "networkPolicy": {
        "engines": [{"namespace": "engines", "podSelector": {"matchLabels": {"app": "vllm"}}, "port": 8000}],
        "stores": [{"namespace": "milvus", "podSelector": {"matchLabels": {"app": "milvus"}}, "port": 19530}],
        "operators": [{"podSelector": {"matchLabels": {"role": "operator"}}}],
    },
}
"""On top of VALUES: all that can be switched on where the chart runs Envoy."""
NO_TLS: Values = {"tls": {"secretName": "", "allowClientSans": []}, "ledger": {"enabled": False}}
CASES = {"smallest": NO_TLS, "usual": {}, "everything": EVERYTHING, "own pods": DEPLOYMENT}


def merged(base: Values, over: Values) -> Values:
    """Return values as Helm merges two files: mappings member by member, all else replaced."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        result[key] = merged(base[key], value) if both else value
    return result


@functools.cache
def program(name: str) -> str:
    """Return the path of helm4 or helm3; skip where they are not installed."""
    assert name in VERSIONS, name
    cache = Path(os.environ.get("TENANTRY_CACHE") or Path.home() / ".cache" / "tenantry")
    found = sorted(cache.glob(f"envs/helm-*/bin/{name}")) or [Path(shutil.which(name) or "/nowhere")]
    if not found[-1].exists():
        pytest.skip("no Helm: `python3 tools/env.py helm` says why")
    return str(found[-1])


def run(helm: str, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run Helm with text on its standard input, without what it says about symbolic links."""
    command = [program(helm), *arguments]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=60)
    kept = [line for line in done.stderr.splitlines() if "symbolic link" not in line]
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout, "\n".join(kept))


def render(values: Values, helm: str = "helm4") -> list[Manifest]:
    """Return the manifests of a release `t` in the namespace `default`."""
    done = template(json.dumps(values), helm)
    assert done.returncode == 0, done.stderr
    return [manifest for manifest in yaml.load_all(done.stdout, yaml.CSafeLoader) if manifest]


@functools.cache
def template(values: str, helm: str = "helm4") -> subprocess.CompletedProcess[str]:
    """Run `helm template` with these values (YAML or JSON), once for each."""
    return run(helm, "template", "t", str(CHART), "--values", "-", given=values)


def refusal(values: Values, helm: str = "helm4") -> str:
    """Return what Helm says to values that the chart refuses."""
    done = template(json.dumps(values), helm)
    assert done.returncode != 0, "the chart took them"
    return done.stderr


def named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """Return the one manifest of a kind and name."""
    (found,) = (each for each in manifests if each["kind"] == kind and each["metadata"]["name"] == name)
    return found


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Yield each pod template's spec with the name of what makes it."""
    for manifest in manifests:
        if manifest["kind"] in ("Deployment", "Job"):
            yield manifest["metadata"]["name"], manifest["spec"]["template"]["spec"]


def containers(pod: Manifest) -> list[Manifest]:
    """Return a pod's containers, those that run first before the others."""
    return [*pod.get("initContainers", []), *pod["containers"]]
