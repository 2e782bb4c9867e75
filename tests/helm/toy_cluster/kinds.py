"""What the stand-in API server serves, and how it tells so: discovery, and OpenAPI as far as Helm reads it."""

from dataclasses import dataclass
from typing import Any, Final

Json = dict[str, Any]

RELEASE: Final = "1.33.0"
"""The Kubernetes release that it says it is."""

VERBS: Final = ("create", "delete", "get", "list", "patch", "update", "watch")

_SERVED: Final = {
    "v1": "Namespace! ConfigMap Secret Service ServiceAccount Pod Event PersistentVolumeClaim",
    "apps/v1": "Deployment StatefulSet DaemonSet ReplicaSet",
    "batch/v1": "Job CronJob",
    "policy/v1": "PodDisruptionBudget",
    "autoscaling/v2": "HorizontalPodAutoscaler",
    "networking.k8s.io/v1": "NetworkPolicy Ingress",
    "rbac.authorization.k8s.io/v1": "Role RoleBinding ClusterRole! ClusterRoleBinding!",
    "apiextensions.k8s.io/v1": "CustomResourceDefinition!",
    "monitoring.coreos.com/v1": "ServiceMonitor PodMonitor PrometheusRule",
    "cert-manager.io/v1": "Certificate",
    "gateway.networking.k8s.io/v1": "GatewayClass! Gateway HTTPRoute GRPCRoute",
    "gateway.envoyproxy.io/v1alpha1": "EnvoyExtensionPolicy EnvoyPatchPolicy EnvoyProxy SecurityPolicy Backend "
    "BackendTrafficPolicy ClientTrafficPolicy HTTPRouteFilter",
    "gateway.kgateway.dev/v1alpha1": "Backend GatewayExtension GatewayParameters HTTPListenerPolicy ListenerPolicy "
    "TrafficPolicy",
    "networking.istio.io/v1alpha3": "EnvoyFilter",
    "networking.istio.io/v1": "DestinationRule ServiceEntry VirtualService",
    "security.istio.io/v1": "AuthorizationPolicy PeerAuthentication",
}
"""Kinds by group version; `!`: in no namespace."""

_CUSTOM: Final = ("monitoring.coreos.com", "cert-manager.io", "gateway.", "istio.io")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of object. `api` is its apiVersion, as `v1` or `apps/v1`."""

    api: str
    kind: str
    namespaced: bool

    @property
    def plural(self) -> str:
        """As paths have it."""
        name = self.kind.lower()
        if name.endswith("y") and not name.endswith("ay"):
            return name[:-1] + "ies"
        return name + ("es" if name.endswith("s") else "s")

    @property
    def built_in(self) -> bool:
        """Whether Kubernetes itself has it, so that its schema is at hand."""
        return not any(part in self.api for part in _CUSTOM)

    @property
    def root(self) -> str:
        """Where paths of its group begin."""
        return "/api/v1" if self.api == "v1" else f"/apis/{self.api}"


KINDS: Final = tuple(
    Kind(api=api, kind=name.removesuffix("!"), namespaced=not name.endswith("!"))
    for api, names in _SERVED.items()
    for name in names.split()
)
BY_PLURAL: Final = {(kind.root, kind.plural): kind for kind in KINDS}
BY_NAME: Final = {kind.kind: kind for kind in KINDS if kind.built_in}


def resources(api: str) -> Json:
    """The APIResourceList of a group version."""
    listed = [
        {"name": kind.plural, "singularName": kind.kind.lower(), "namespaced": kind.namespaced, "kind": kind.kind,
         "verbs": list(VERBS)}
        for kind in KINDS
        if kind.api == api
    ]  # fmt: skip
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api, "resources": listed}


def groups() -> Json:
    """The APIGroupList."""
    found: dict[str, list[Json]] = {}
    for api in _SERVED:
        if "/" in api:
            group, _, version = api.partition("/")
            found.setdefault(group, []).append({"groupVersion": api, "version": version})
    listed = [{"name": name, "versions": versions, "preferredVersion": versions[0]} for name, versions in found.items()]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}


def openapi_index() -> Json:
    """Where each group version's OpenAPI document is."""
    roots = sorted({kind.root for kind in KINDS})
    return {"paths": {root[1:]: {"serverRelativeURL": f"/openapi/v3{root}"} for root in roots}}


def openapi(root: str) -> Json:
    """Of a group version: that a PATCH may ask for validation, so that Helm leaves validation to the server."""
    paths = {}
    parameter = {"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}
    for kind in (kind for kind in KINDS if kind.root == root):
        group, _, version = kind.api.rpartition("/")
        named = {"group": group, "version": version, "kind": kind.kind}
        place = "/namespaces/{namespace}" if kind.namespaced else ""
        patch = {
            "operationId": f"patch{kind.kind}", "parameters": [parameter], "responses": {"200": {"description": "OK"}},
            "x-kubernetes-action": "patch", "x-kubernetes-group-version-kind": named,
        }  # fmt: skip
        paths[f"{root}{place}/{kind.plural}/{{name}}"] = {"patch": patch}
    return {"openapi": "3.0.0", "info": {"title": "stand-in", "version": RELEASE}, "paths": paths, "components": {}}
