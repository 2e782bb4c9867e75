"""Names that the generated configuration shares with the sidecar."""

from tenantry.core.routing import cluster_name
from tenantry.core.rules import Rules

SIDECAR_CLUSTER = "tenantry_sidecar"
"""Cluster of the ext_proc and access-log services. No version's cluster: those hold an `@`."""

CLUSTER_HEADER = "x-tenantry-cluster"
"""Request header in which the sidecar names the cluster; removed before the upstream."""

REQUEST_ID_HEADER = "x-tenantry-request-id"
"""Response header that tells the client the exchange's id."""

METADATA_NAMESPACE = "tenantry"
"""Dynamic metadata that the sidecar alone writes."""

ENFORCED_KEY = "enforced"
ENFORCED_VALUE = "yes"
"""What the last request-phase reply writes; the RBAC backstop lets nothing else pass."""

JWT_NAMESPACE = "envoy.filters.http.jwt_authn"
JWT_KEY = "tenantry_jwt"
"""Where jwt_authn leaves the claims of a token that it verified."""

URI_SAN_ATTRIBUTE = "connection.uri_san_peer_certificate"
"""The verified client certificate's first URI SAN."""

DETAILS_PREFIX = "tenantry_"
"""Beginning of the response code details of every answer that the sidecar itself gave."""

ACCESS_LOG_NAME = "tenantry"


def cluster_names(rules: Rules) -> frozenset[str]:
    """Return the names of the clusters that the rules' versions need."""
    return frozenset(
        cluster_name(model_name, version) for model_name, model in rules.models.items() for version in model.versions
    )
