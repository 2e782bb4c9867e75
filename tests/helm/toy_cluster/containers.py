"""A container as a process: its own command, run here, with its mounts as folders and its ports as free ones."""

import asyncio
import base64
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tenantry.adapters.ports import free_port
from tenantry_envoy.binary import find_envoy

from helm.toy_cluster.objects import Objects
from helm.toy_cluster.volumes import Volumes

Json = dict[str, Any]

_PORT = re.compile(r"(?<=[\w\]]:)(\d{2,5})\b")
"""A port in an argument such as `127.0.0.1:50051`."""


@dataclass(kw_only=True)
class Image:
    """What stands for an image: its entry point, here. `prelude` is Python that runs before `tenantry`."""

    prelude: str = ""

    def program(self, container: Json) -> list[str]:
        """What stands here for the program of a container: its command's, or its image's entry point."""
        tenantry = [sys.executable, "-c", f"{self.prelude}\nfrom tenantry.cli import main\nmain()"]
        programs = {"tenantry": tenantry, "envoy": [str(find_envoy(None))]}
        name = (container.get("command") or ["envoy" if "envoy" in container["image"] else "tenantry"])[0]
        return programs.get(Path(name).name, [name])


@dataclass(kw_only=True)
class Containers:
    """The containers of one pod. `ports` maps each port there to a free one here."""

    namespace: str
    name: str
    volumes: Volumes
    objects: Objects
    image: Image = field(default_factory=Image)
    ports: dict[int, int] = field(default_factory=dict)

    def command(self, container: Json) -> tuple[list[str], dict[str, str]]:
        """A container's command and environment, with paths and ports of this machine."""
        paths = self.volumes.paths(container)
        told = self._environment(container)
        words = [*container.get("command", ())[1:], *container.get("args", ())]
        words = [re.sub(r"\$\((\w+)\)", lambda found: told.get(found[1], found[0]), word) for word in words]
        here = {name: self._here(value, paths) for name, value in told.items()}
        return [*self.image.program(container), *(self._here(word, paths) for word in words)], here

    async def run(self, container: Json, log: Path, more: Sequence[str] = ()) -> asyncio.subprocess.Process:
        """Start a container, with `more` arguments of this machine; what it says goes to the end of `log`."""
        words, environment = self.command(container)
        with log.open("ab") as sink:
            return await asyncio.create_subprocess_exec(
                *words, *more, stdout=sink, stderr=sink, start_new_session=True, cwd=self.volumes.folder,
                env={"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1", "COLUMNS": "200"} | environment,
            )  # fmt: skip

    def _here(self, text: str, paths: Mapping[str, str]) -> str:
        if paths:
            # At once: what stands for one path may begin with another (/tmp).
            there = "|".join(re.escape(path) for path in sorted(paths, key=len, reverse=True))
            text = re.sub(rf"(?<![\w.])({there})(?=[/,:;\s'\"]|$)", lambda found: paths[found[1]], text)
        return _PORT.sub(lambda found: str(self._port(int(found[1]))), text)

    def _port(self, there: int) -> int:
        if there not in self.ports:
            self.ports[there] = free_port()
        return self.ports[there]

    def _environment(self, container: Json) -> dict[str, str]:
        told: dict[str, str] = {}
        for entry in container.get("env", ()):
            told[entry["name"]] = entry["value"] if "value" in entry else self._from(entry["valueFrom"])
        return told

    def _from(self, source: Json) -> str:
        if "fieldRef" in source:
            known = {"metadata.name": self.name, "metadata.namespace": self.namespace, "status.podIP": "127.0.0.1"}
            return known[source["fieldRef"]["fieldPath"]]
        if "secretKeyRef" in source:
            wanted = source["secretKeyRef"]
            secret = self.objects.find("Secret", self.namespace, wanted["name"])
            return base64.b64decode(secret["data"][wanted["key"]]).decode()
        wanted = source["configMapKeyRef"]
        return str(self.objects.find("ConfigMap", self.namespace, wanted["name"])["data"][wanted["key"]])
