"""A release of the real chart in the stand-in cluster, and its Envoy pod really run."""

import contextlib
import json
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataplane.harness import Files, Json, Stack
from dataplane.upstream import Upstream

from helm.helm import CHART, program
from helm.toy_cluster.cluster import NAMESPACE, Cluster, Pod, Said
from helm.toy_cluster.kinds import BY_NAME

RELEASE = "t"
NAME = "t-tenantry"
"""What the chart calls things of that release."""

ADMIN, LISTENER, ENVOY_ADMIN = 9300, 10000, 9901
"""Ports in the pod."""


def values(document: Json) -> Json:
    """One replica without a ledger: what the drills are about is the Envoy pod and the rules."""
    return {
        "secretName": "key-material", "sidecar": {"replicas": 1}, "ledger": {"enabled": False}, "rules": document
    }  # fmt: skip


@dataclass(kw_only=True)
class Release:
    """A release and its cluster. `files.secrets` is what the operator made the Secret of."""

    cluster: Cluster
    helm: str
    files: Files

    async def install(self, document: Json) -> Said:
        """`helm install`, after `kubectl create secret generic key-material --from-file=FOLDER`."""
        data = {path.name: b64encode(path.read_bytes()).decode() for path in self.files.secrets.iterdir()}
        made = {"metadata": {"name": "key-material"}, "data": data}
        self.cluster.objects.create(BY_NAME["Secret"], NAMESPACE, made)
        return await self.run("install", RELEASE, CHART, values=values(document))

    async def upgrade(self, document: Json) -> Said:
        """`helm upgrade` with other rules."""
        return await self.run("upgrade", RELEASE, CHART, values=values(document))

    def done(self, said: Said) -> None:
        """Fail, with all that is known, unless a command succeeded."""
        assert said.code == 0, said.err + self.checked

    async def run(self, *arguments: str | Path, values: Json | None = None) -> Said:
        """Any Helm command."""
        return await self.cluster.helm(program(self.helm), *arguments, values=values)

    @property
    def rules(self) -> str:
        """The rules' ConfigMap, as text."""
        data: dict[str, str] = self.cluster.objects.find("ConfigMap", NAMESPACE, f"{NAME}-rules")["data"]
        return data["rules.yaml"]

    @property
    def checked(self) -> str:
        """What the hook's pod said last."""
        return self.cluster.log(NAMESPACE, f"{NAME}-check-0")

    @contextlib.asynccontextmanager
    async def running(self, upstream: Upstream, document: Json) -> AsyncIterator[tuple[Stack, Pod]]:
        """Run a pod of the release as the chart renders it; the outcome log is the test's addition."""
        deployment: Any = self.cluster.objects.find("Deployment", NAMESPACE, f"{NAME}-gateway")
        extra = {"sidecar": ("--outcomes", str(self.files.outcomes))}
        async with self.cluster.pod(deployment["spec"]["template"]["spec"], extra=extra) as pod:
            here = Stack(
                address=f"127.0.0.1:{pod.ports[LISTENER]}", admin=f"127.0.0.1:{pod.ports[ADMIN]}",
                envoy_admin=f"127.0.0.1:{pod.ports[ENVOY_ADMIN]}", upstream=upstream, files=self.files,
                document=document,
            )  # fmt: skip
            await here.serves()
            yield here, pod


def bootstrap_of(pod: Pod) -> Json:
    """Envoy's configuration, as the pod's init container wrote it."""
    config: Json = json.loads((pod.volumes.folder_of("run") / "envoy.json").read_text())
    return config
