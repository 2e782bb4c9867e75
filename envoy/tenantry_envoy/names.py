"""Names that the generated configuration shares with the sidecar."""

SIDECAR_CLUSTER = "tenantry_sidecar"
"""Cluster of the ext_proc and access-log services. No version's cluster: those hold an `@`."""

MIRROR_CLUSTER = "tenantry_mirror"
"""Cluster and internal listener through which copies go to candidates (`mirror`)."""

STATS = "tenantry_stats"
"""Listener for Prometheus, and cluster of Envoy's own admin page behind it (`stats`)."""

CLUSTER_HEADER = "x-tenantry-cluster"
"""Request header in which the sidecar names the cluster; removed before the upstream."""

ROUTE_HEADER = "x-tenantry-route"
"""Request header that chooses the route of a rollout's request: RESCUE or MIRROR; without it, one upstream, once."""

RESCUE = "rescue"
"""Tries the candidate, then the stable version (an aggregate cluster, one retry)."""

MIRROR = "mirror"
"""Sends a copy to the cluster in MIRROR_CLUSTER_HEADER; the copy bears MIRROR_HEADER."""

MIRROR_CLUSTER_HEADER = "x-tenantry-mirror-cluster"

MIRROR_HEADER = "x-tenantry-mirror"
"""On the copy of a mirrored request alone; an upstream's plugin recognises the copy by it."""

PER_TRY_HEADER = "x-envoy-upstream-rq-per-try-timeout-ms"
"""How long the candidate has before its first byte; Envoy takes it off the request."""

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

VERIFIED_KEY = "verified"
VERIFIED_VALUE = "yes"
"""What the last response-phase reply writes; the store guard lets no answer of a store pass without it."""

FROM_UPSTREAM_HEADER = "x-tenantry-from-upstream"
"""Response header on what a store really answered, from the store's route to the guard; neither the sidecar nor a
client sees it."""

STORE_GUARD = "envoy.filters.http.custom_response"
"""The filter that withholds a store's answer until it is verified (`store_guard`)."""

STORE_UNMARK = "tenantry.store_unmark"
"""The filter that takes FROM_UPSTREAM_HEADER off; not UPSTREAM_HEADERS, under which routes configure another one."""

EXT_PROC = "envoy.filters.http.ext_proc"

UPSTREAM_HEADERS = "envoy.filters.http.header_mutation"
"""The filter between the router and an upstream, under which a route says what it does."""

ACCESS_LOG_NAME = "tenantry"
