"""The stand-in cluster put together: API server, what controllers and kubelet do that Helm waits for, Helm itself."""

import asyncio
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from helm.toy_cluster.api import Api, serving
from helm.toy_cluster.containers import Containers, Image
from helm.toy_cluster.kinds import BY_NAME
from helm.toy_cluster.objects import Change, Objects, RefusedError
from helm.toy_cluster.volumes import Volumes

Json = dict[str, Any]

NAMESPACE = "tenantry"
_STAMP = "2026-01-01T00:00:00Z"


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a Helm command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output, of `-o json`."""
        return json.loads(self.out)


@dataclass(kw_only=True)
class Pod:
    """A pod that runs. `ports` are this machine's by the pod's, `log` what all its containers said."""

    volumes: Volumes
    containers: Containers
    log: Path
    processes: dict[str, asyncio.subprocess.Process]

    @property
    def ports(self) -> dict[int, int]:
        """This machine's ports by the pod's."""
        return self.containers.ports

    async def started(self, container: Json, seconds: float = 30.0) -> None:
        """Wait for a container's startup probe; raise RuntimeError with the log when it ends before."""
        probe = container["startupProbe"]["httpGet"]
        named = {port.get("name"): port["containerPort"] for port in container["ports"]}
        url = f"http://127.0.0.1:{self.ports[named.get(probe['port'], probe['port'])]}{probe['path']}"
        process = self.processes[container["name"]]
        async with asyncio.timeout(seconds), aiohttp.ClientSession() as http:
            while process.returncode is None:
                with contextlib.suppress(aiohttp.ClientConnectionError):
                    async with http.get(url) as answer:
                        if answer.status == 200:
                            return
                await asyncio.sleep(0.02)
        raise RuntimeError(f"container {container['name']}: {self.log.read_text()}")


@dataclass(kw_only=True)
class Cluster:
    """A running stand-in cluster. `folder` holds volumes and logs, `url` is the API server's."""

    folder: Path
    objects: Objects
    url: str = ""
    image: Image = field(default_factory=Image)
    logs: dict[tuple[str, str], Path] = field(default_factory=dict)
    _mounted: list[Volumes] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def helm(self, helm: str, *arguments: str | Path, values: Json | None = None) -> Said:
        """Run a real Helm against the stand-in API server; `values` go into a values file."""
        words = [helm, *map(str, arguments), "--namespace", NAMESPACE]
        if values is not None:
            path = self.folder / "values.json"
            path.write_text(json.dumps(values))
            words += ["--values", str(path)]
        home = self.folder / "helm"
        kubeconfig = self.folder / "kubeconfig"
        kubeconfig.write_text(json.dumps(self._kubeconfig()))
        process = await asyncio.create_subprocess_exec(
            *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "HOME": str(home), "KUBECONFIG": str(kubeconfig)},
        )  # fmt: skip
        out, err = await process.communicate()
        return Said(code=process.returncode or 0, out=out.decode(), err=err.decode())

    @contextlib.asynccontextmanager
    async def pod(
        self, spec: Json, name: str = "pod-0", *, extra: Mapping[str, Sequence[str]] | None = None
    ) -> AsyncIterator[Pod]:
        """Run a pod; killed at the end. `extra` is what a test adds to arguments, by container.

        Init containers run to their end one after the other; one that restarts always is a sidecar, whose startup
        probe is awaited.
        """
        pod = self._prepare(NAMESPACE, name, spec)
        try:
            for container in (*spec.get("initContainers", ()), *spec["containers"]):
                more = (extra or {}).get(container["name"], ())
                process = await pod.containers.run(container, pod.log, more)
                pod.processes[container["name"]] = process
                stays = container in spec["containers"] or container.get("restartPolicy") == "Always"
                if not stays and await process.wait() != 0:
                    raise RuntimeError(f"init container {container['name']}: {pod.log.read_text()}")
                if stays and "startupProbe" in container:
                    await pod.started(container)
            yield pod
        finally:
            self._mounted.remove(pod.volumes)
            for process in pod.processes.values():
                if process.returncode is None:
                    process.kill()
                await process.wait()

    def follow(self, change: Change) -> None:
        """Do what controllers and the kubelet do upon a change."""
        kind, namespace = change.kind.kind, change.object["metadata"].get("namespace", "")
        if kind in ("ConfigMap", "Secret") and change.type != "DELETED":
            for volumes in self._mounted:
                volumes.sync()
        elif kind in ("Deployment", "StatefulSet", "DaemonSet") and change.type != "DELETED":
            self._soon(self._ready(kind, namespace, change.object))
        elif kind == "Job" and change.type == "ADDED":
            self._soon(self._job(namespace, change.object))

    def log(self, namespace: str, name: str) -> str:
        """What a pod's containers said."""
        path = self.logs.get((namespace, name))
        return path.read_text() if path is not None and path.exists() else ""

    async def stop(self) -> None:
        """End what still goes on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _soon(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ready(self, kind: str, namespace: str, workload: Json) -> None:
        """Say of a workload that it is rolled out, though nothing runs."""
        count = workload["spec"].get("replicas", 1)
        names = ("replicas", "readyReplicas", "updatedReplicas", "availableReplicas", "currentReplicas")
        status = dict.fromkeys(names, count) | {"observedGeneration": workload["metadata"]["generation"]}
        available = {"type": "Available", "status": "True", "lastTransitionTime": _STAMP}
        progressing = {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}
        status["conditions"] = [available, progressing]
        live = self.objects.find(kind, namespace, workload["metadata"]["name"])
        self.objects.replace(BY_NAME[kind], namespace, live | {"status": status})
        if kind == "Deployment":
            self._replica_set(namespace, live, status)

    def _replica_set(self, namespace: str, deployment: Json, status: Json) -> None:
        """The one ReplicaSet of a Deployment, ready: Helm 3 looks at it when it waits."""
        name, spec = deployment["metadata"]["name"], deployment["spec"]
        labels = spec["template"]["metadata"]["labels"]
        owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name, "uid": deployment["metadata"]["uid"]}
        metadata = {"name": name, "labels": labels, "ownerReferences": [owner | {"controller": True}]}
        ready = {member: status[member] for member in ("replicas", "readyReplicas", "availableReplicas")}
        ready["observedGeneration"] = 1
        made = {
            "metadata": metadata,
            "spec": {"replicas": ready["replicas"], "selector": spec["selector"], "template": spec["template"]},
            "status": ready,
        }
        with contextlib.suppress(RefusedError):
            self.objects.delete(BY_NAME["ReplicaSet"], namespace, name)
        self.objects.create(BY_NAME["ReplicaSet"], namespace, made)

    async def _job(self, namespace: str, job: Json) -> None:
        """Run a Job's pod once, whatever its backoffLimit, and tell how it ended."""
        name, spec = job["metadata"]["name"], job["spec"]["template"]["spec"]
        template = job["spec"]["template"].get("metadata", {})
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job["metadata"]["uid"]}
        labels = template.get("labels", {}) | {"job-name": name, "batch.kubernetes.io/job-name": name}
        pod_name = f"{name}-0"
        metadata = {"name": pod_name, "labels": labels, "ownerReferences": [owner | {"controller": True}]}
        made = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": {"phase": "Pending"}}
        self.objects.create(BY_NAME["Pod"], namespace, made)
        try:
            pod = self._prepare(namespace, pod_name, spec)
            code = 0
            for container in (*spec.get("initContainers", ()), *spec["containers"]):
                process = await pod.containers.run(container, pod.log)
                code = code or await process.wait()
            self._mounted.remove(pod.volumes)
        except Exception as error:  # what a real kubelet says in events
            self.logs[namespace, pod_name].write_text(f"the stand-in kubelet could not start it: {error}\n")
            code = 128
        ended = "Succeeded" if code == 0 else "Failed"
        terminated = {"exitCode": code, "reason": "Completed" if code == 0 else "Error"}
        statuses = [
            {"name": container["name"], "image": container["image"], "imageID": "", "ready": False, "restartCount": 0,
             "state": {"terminated": terminated}}
            for container in spec["containers"]
        ]  # fmt: skip
        live = self.objects.find("Pod", namespace, pod_name)
        self.objects.replace(
            BY_NAME["Pod"], namespace, live | {"status": {"phase": ended, "containerStatuses": statuses}}
        )
        condition = {"type": "Complete" if code == 0 else "Failed", "status": "True", "lastTransitionTime": _STAMP}
        if code:
            condition |= {"reason": "BackoffLimitExceeded", "message": "Job has reached the specified backoff limit"}
        counts = {"succeeded": 1} if code == 0 else {"failed": 1}
        status = counts | {"startTime": _STAMP, "completionTime": _STAMP, "conditions": [condition]}
        live = self.objects.find("Job", namespace, name)
        self.objects.replace(BY_NAME["Job"], namespace, live | {"status": status})

    def _prepare(self, namespace: str, name: str, spec: Json) -> Pod:
        """Mount a pod's volumes."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        log = folder / "log"
        log.touch()
        self.logs[namespace, name] = log
        volumes = Volumes(folder=folder, namespace=namespace, objects=self.objects, spec=spec)
        volumes.mount()
        self._mounted.append(volumes)
        containers = Containers(namespace=namespace, name=name, volumes=volumes, objects=self.objects, image=self.image)
        return Pod(volumes=volumes, containers=containers, log=log, processes={})

    def _kubeconfig(self) -> Json:
        context = {"cluster": "stand-in", "user": "nobody", "namespace": NAMESPACE}
        return {
            "apiVersion": "v1", "kind": "Config", "current-context": "stand-in",
            "clusters": [{"name": "stand-in", "cluster": {"server": self.url}}],
            "users": [{"name": "nobody", "user": {}}],
            "contexts": [{"name": "stand-in", "context": context}],
        }  # fmt: skip


@contextlib.asynccontextmanager
async def cluster(image: Image | None = None) -> AsyncIterator[Cluster]:
    """Run a stand-in cluster; its folder's path is short enough for unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="tn-"))
    objects = Objects()
    objects.create(BY_NAME["Namespace"], "", {"metadata": {"name": NAMESPACE}})
    here = Cluster(folder=folder, objects=objects, image=image or Image())
    objects.listeners.append(here.follow)
    try:
        async with serving(Api(objects, here.log)) as here.url:
            yield here
    finally:
        await here.stop()
        shutil.rmtree(folder, ignore_errors=True)
