"""The volumes of a pod as folders, written as the kubelet writes them, and again when what they show has changed."""

import base64
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helm.toy_cluster.objects import Objects, RefusedError
from tools.mounted_volume import write_volume

Json = dict[str, Any]


@dataclass(kw_only=True)
class Volumes:
    """A pod's volumes, each a folder of its own in `folder`."""

    folder: Path
    namespace: str
    objects: Objects
    spec: Json
    """The pod's."""
    changed: dict[str, float] = field(default_factory=dict)
    """When each volume was written last, by the monotonic clock."""
    _folders: dict[str, Path] = field(default_factory=dict)

    def mount(self) -> None:
        """Make all of them; raise RefusedError for a ConfigMap or Secret that is not there."""
        for volume in self.spec.get("volumes", ()):
            folder = self.folder / volume["name"]
            folder.mkdir(parents=True, exist_ok=True)
            self._folders[volume["name"]] = folder
        self.sync()

    def sync(self) -> None:
        """Write anew what has changed."""
        for volume in self.spec.get("volumes", ()):
            files = self._files(volume)
            if files is not None and write_volume(self._folders[volume["name"]], files):
                self.changed[volume["name"]] = time.monotonic()

    def folder_of(self, name: str) -> Path:
        """A volume's folder."""
        return self._folders[name]

    def paths(self, container: Json) -> dict[str, str]:
        """Where each mount of a container is here, by its path there."""
        return {
            mount["mountPath"]: str(self._folders[mount["name"]] / mount.get("subPath", ""))
            for mount in container.get("volumeMounts", ())
        }

    def _files(self, volume: Json) -> dict[str, bytes] | None:
        if "projected" in volume:
            files: dict[str, bytes] = {}
            for source in volume["projected"]["sources"]:
                files |= self._of(source)
            return files
        if "configMap" in volume:
            return self._of({"configMap": volume["configMap"]})
        if "secret" in volume:
            secret = volume["secret"]
            return self._of({"secret": secret | {"name": secret["secretName"]}})
        return None

    def _of(self, source: Json) -> dict[str, bytes]:
        (kind, wanted), *_ = source.items()
        if kind not in ("configMap", "secret"):
            raise RefusedError(422, "Invalid", f"the stand-in kubelet projects no {kind}")
        try:
            found = self.objects.find(
                {"configMap": "ConfigMap", "secret": "Secret"}[kind], self.namespace, wanted["name"]
            )
        except RefusedError:
            if wanted.get("optional"):
                return {}
            raise
        if kind == "configMap":
            data = {name: text.encode() for name, text in (found.get("data") or {}).items()}
        else:
            data = {name: base64.b64decode(text) for name, text in (found.get("data") or {}).items()}
        if "items" in wanted:
            return {item["path"]: data[item["key"]] for item in wanted["items"]}
        return data
