"""The objects of the stand-in API server, and the history that a watch reads."""

import asyncio
import base64
import copy
import itertools
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import kubernetes_validate  # it has none

from helm.toy_cluster.kinds import BY_NAME, RELEASE, Kind

Json = dict[str, Any]

MAX_CONFIG_BYTES = 1024 * 1024
"""Kubernetes' bound on what a ConfigMap or Secret holds."""


class RefusedError(Exception):
    """A Status that the API server answers with."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


@dataclass(frozen=True, kw_only=True)
class Change:
    """One event of the history: ADDED, MODIFIED or DELETED."""

    version: int
    type: str
    kind: Kind
    object: Json


@dataclass
class Objects:
    """Everything in the cluster. `listeners` are told of each change, as controllers are."""

    listeners: list[Callable[[Change], None]] = field(default_factory=list)
    _kept: dict[tuple[Kind, str, str], Json] = field(default_factory=dict)
    _applied: dict[tuple[Kind, str, str, str], Json] = field(default_factory=dict)
    _history: list[Change] = field(default_factory=list)
    _versions: Any = field(default_factory=lambda: itertools.count(1))
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def version(self) -> int:
        """The newest resource version."""
        return self._history[-1].version if self._history else 0

    def find(self, kind: Kind | str, namespace: str, name: str) -> Json:
        """A copy of an object; raise RefusedError (404)."""
        kind = BY_NAME[kind] if isinstance(kind, str) else kind
        found = self._kept.get((kind, namespace, name))
        if found is None:
            group = kind.api.rpartition("/")[0]
            where = f"{kind.plural}.{group}" if group else kind.plural
            raise RefusedError(404, "NotFound", f'{where} "{name}" not found')
        return copy.deepcopy(found)

    def list(self, kind: Kind | str, namespace: str | None = None) -> list[Json]:
        """All objects of a kind, by name; of all namespaces without one."""
        kind = BY_NAME[kind] if isinstance(kind, str) else kind
        found = [(key, item) for key, item in self._kept.items() if key[0] == kind and namespace in (None, key[1])]
        return [copy.deepcopy(item) for _, item in sorted(found, key=lambda entry: entry[0][1:])]

    def create(self, kind: Kind, namespace: str, made: Json) -> Json:
        """Keep a new object; raise RefusedError (409, 422)."""
        name = made["metadata"]["name"]
        if (kind, namespace, name) in self._kept:
            raise RefusedError(409, "AlreadyExists", f'{kind.plural} "{name}" already exists')
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        metadata = made["metadata"] | {"uid": str(uuid.uuid4()), "creationTimestamp": now, "generation": 1}
        return self._keep("ADDED", kind, namespace, made | {"metadata": metadata})

    def replace(self, kind: Kind, namespace: str, made: Json) -> Json:
        """Keep another state of an object; what the server sets itself stays."""
        old = self.find(kind, namespace, made["metadata"]["name"])
        ours = {name: old["metadata"][name] for name in ("uid", "creationTimestamp", "generation", "resourceVersion")}
        if made.get("spec") != old.get("spec"):
            ours["generation"] += 1
        fresh = made | {"metadata": made["metadata"] | ours}
        if "status" in old:
            fresh.setdefault("status", old["status"])
        return old if fresh == old else self._keep("MODIFIED", kind, namespace, fresh)

    def delete(self, kind: Kind, namespace: str, name: str) -> Json:
        """Remove an object and what it owns."""
        gone = self.find(kind, namespace, name)
        del self._kept[kind, namespace, name]
        self._applied = {key: value for key, value in self._applied.items() if key[:3] != (kind, namespace, name)}
        self._tell(Change(version=next(self._versions), type="DELETED", kind=kind, object=gone))
        for (other, place, owned), item in list(self._kept.items()):
            owners = [owner["uid"] for owner in item["metadata"].get("ownerReferences", ())]
            if gone["metadata"]["uid"] in owners:
                self.delete(other, place, owned)
        return gone

    def applied(self, kind: Kind, namespace: str, name: str, manager: str) -> Json:
        """What a field manager applied last."""
        return self._applied.get((kind, namespace, name, manager), {})

    def remember(self, kind: Kind, namespace: str, name: str, manager: str, now: Json) -> None:
        """Keep what a field manager applied."""
        self._applied[kind, namespace, name, manager] = now

    async def changes(self, kind: Kind, namespace: str | None, since: int) -> AsyncIterator[Change]:
        """Changes after a resource version, for ever."""
        while True:
            self._changed.clear()
            for change in [change for change in self._history if change.version > since]:
                since = change.version
                if change.kind == kind and namespace in (None, change.object["metadata"].get("namespace")):
                    yield change
            if since >= self.version:
                await self._changed.wait()

    def _keep(self, type_: str, kind: Kind, namespace: str, made: Json) -> Json:
        version = next(self._versions)
        made = copy.deepcopy(made)
        made["metadata"]["resourceVersion"] = str(version)
        if kind.namespaced:
            made["metadata"]["namespace"] = namespace
        made |= {"apiVersion": kind.api, "kind": kind.kind}
        _admit(kind, made)
        self._kept[kind, namespace, made["metadata"]["name"]] = made
        self._tell(Change(version=version, type=type_, kind=kind, object=copy.deepcopy(made)))
        return copy.deepcopy(made)

    def _tell(self, change: Change) -> None:
        self._history.append(change)
        self._changed.set()
        for listener in self.listeners:
            listener(change)


def _admit(kind: Kind, made: Json) -> None:
    """Refuse what a real API server refuses of built-in kinds: unknown members, wrong types, too many bytes.

    Of defaults it sets the one that Helm 3 cannot wait without.
    """
    if kind.kind in ("Deployment", "StatefulSet"):
        made["spec"] = {"replicas": 1} | made["spec"]
    if kind.kind == "Secret" and "stringData" in made:
        text = made.pop("stringData")
        made["data"] = made.get("data", {}) | {k: base64.b64encode(v.encode()).decode() for k, v in text.items()}
    name = made["metadata"]["name"]
    if kind.kind in ("ConfigMap", "Secret"):
        size = sum(len(value) for value in (made.get("data") or {}).values())
        size = size * 3 // 4 if kind.kind == "Secret" else size
        if size > MAX_CONFIG_BYTES:
            message = f'{kind.kind} "{name}" is invalid: data: Too long: may not be more than {MAX_CONFIG_BYTES} bytes'
            raise RefusedError(422, "Invalid", message)
    if kind.built_in and kind.kind != "CustomResourceDefinition":
        checked = {key: value for key, value in made.items() if key != "status"}
        try:
            kubernetes_validate.validate(checked, RELEASE, strict=True)
        except kubernetes_validate.ValidationError as error:
            where = ".".join(map(str, error.path))
            raise RefusedError(422, "Invalid", f'{kind.kind} "{name}" is invalid: {where}: {error.message}') from None
