"""Routes: the exact paths of the model API, those of stores (`store_routes`), and 404 for everything else.

ext_proc answers first and knows the allow-list too; these routes are the second lock.

Each path of the model API has three routes. For a request of a rollout the sidecar's last reply names one of the
first two in a header, and has the route chosen anew; every other request takes the third:

    rescue    the candidate, and the stable version when the candidate fails before its first byte
    mirror    the stable version, and a copy to the candidate that nobody waits for
    plain     one upstream, once
"""

from collections.abc import Iterator

from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation
from envoy_data_plane.envoy.config.core.v3 import (
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
    RuntimeFractionalPercent,
)
from envoy_data_plane.envoy.config.route.v3 import (
    DirectResponseAction,
    HeaderMatcher,
    RetryPolicy,
    RetryPolicyRetryBackOff,
    RetryPolicyRetryPriority,
    Route,
    RouteAction,
    RouteActionClusterNotFoundResponseCode,
    RouteActionRequestMirrorPolicy,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
)
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import HeaderMutationPerRoute, Mutations
from envoy_data_plane.envoy.extensions.retry.priority.previous_priorities.v3 import PreviousPrioritiesConfig
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.envoy.type.v3 import FractionalPercent
from envoy_data_plane.google.protobuf import Any
from tenantry.core.chat import Api
from tenantry.core.quota.answer import NAMES, header, metadata_key
from tenantry.core.rules import Rules

from tenantry_envoy import packing
from tenantry_envoy.names import (
    CLUSTER_HEADER,
    METADATA_NAMESPACE,
    MIRROR,
    MIRROR_CLUSTER,
    MIRROR_CLUSTER_HEADER,
    REQUEST_ID_HEADER,
    RESCUE,
    ROUTE_HEADER,
    UPSTREAM_HEADERS,
)
from tenantry_envoy.store_routes import store_routes

STAMP_BYTES = 16 * 1024
"""How much stamping may lengthen a body. Envoy holds the rebuilt body in the same buffer and answers
413 when that is too long: without this room the longest bodies allowed were refused (measured)."""


RESCUED_STATUSES = (401, 403, 404, 408, 429, 500, 502, 503, 504)
"""Answers of a candidate instead of which the client gets the stable version's. The sidecar has checked credential,
model and path, so that these speak of the candidate: misconfigured, full or broken. What a client's own request
causes (400, 413, 415, 422) it gets as it is: the stable version would say the same."""


def route_configuration(rules: Rules) -> RouteConfiguration:
    """Return the one route table.

    `GET /v1/models` is not in it: the sidecar answers that itself, and an engine's own list would
    show every tenant's adapters.
    """
    return RouteConfiguration(
        name="tenantry",
        virtual_hosts=[
            VirtualHost(
                name="models",
                domains=["*"],
                routes=[
                    *(route for api in Api for route in _model_routes(api, rules)),
                    *store_routes(rules, to_cluster_of(CLUSTER_HEADER, rules), _body_bytes(rules)),
                    _everything_else(),
                ],
                include_request_attempt_count=True,
                response_headers_to_add=[
                    _from_metadata(REQUEST_ID_HEADER, "request_id"),
                    # Without a quota there is no such metadata, and Envoy adds no empty header.
                    *(_from_metadata(header(name), metadata_key(name)) for name in NAMES),
                ],
                request_headers_to_remove=[CLUSTER_HEADER, ROUTE_HEADER],
            )
        ],
    )


def _from_metadata(name: str, key: str) -> HeaderValueOption:
    """Return a response header with what the sidecar wrote; an upstream's own word for it is overwritten."""
    return HeaderValueOption(
        header=HeaderValue(key=name, value=f"%DYNAMIC_METADATA({METADATA_NAMESPACE}:{key})%"),
        append_action=HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )


def to_cluster_of(header: str, rules: Rules) -> RouteAction:
    """Return the way to the cluster that a header names, and to it alone."""
    return RouteAction(
        cluster_header=header,
        cluster_not_found_response_code=RouteActionClusterNotFoundResponseCode.SERVICE_UNAVAILABLE,
        # The client's own host would choose the backend where an endpoint is a name-routed gateway.
        auto_host_rewrite=True,
        # The default of 15 s cut a streaming answer.
        timeout=packing.seconds(0),
        idle_timeout=packing.seconds(rules.limits.stream_idle_seconds),
    )


def _model_routes(api: Api, rules: Rules) -> Iterator[Route]:
    rescue, mirror, plain = (to_cluster_of(CLUSTER_HEADER, rules) for _ in range(3))
    rescue.retry_policy = _stable_after_candidate()
    yield _model_route(api, rules, rescue, RESCUE)
    mirror.request_mirror_policies = [_copy_to_candidate()]
    mirrored = _model_route(api, rules, mirror, MIRROR)
    mirrored.typed_per_filter_config = {UPSTREAM_HEADERS: Any.pack(_original_without_helper())}
    yield mirrored
    yield _model_route(api, rules, plain)


def _stable_after_candidate() -> RetryPolicy:
    return RetryPolicy(
        # `reset` takes in a candidate that hung until the per-try timeout, which the sidecar sets by header.
        retry_on="connect-failure,refused-stream,reset,retriable-status-codes",
        retriable_status_codes=list(RESCUED_STATUSES),
        num_retries=1,
        retry_priority=RetryPolicyRetryPriority(
            name="envoy.retry_priorities.previous_priorities",
            typed_config=Any.pack(PreviousPrioritiesConfig(update_frequency=1)),
        ),
        # Envoy's least; of its own accord it would wait for up to 25 ms.
        retry_back_off=RetryPolicyRetryBackOff(
            base_interval=packing.seconds(0.001), max_interval=packing.seconds(0.001)
        ),
    )


def _original_without_helper() -> HeaderMutationPerRoute:
    # A copy is made of what the virtual host left of the headers and needs this one (`mirror`), so it cannot go
    # with the other helpers. The router's own filters run on the original with its route, on a copy without.
    return HeaderMutationPerRoute(mutations=Mutations(request_mutations=[HeaderMutation(remove=MIRROR_CLUSTER_HEADER)]))


def _copy_to_candidate() -> RouteActionRequestMirrorPolicy:
    return RouteActionRequestMirrorPolicy(
        cluster=MIRROR_CLUSTER,
        runtime_fraction=RuntimeFractionalPercent(default_value=FractionalPercent(numerator=100)),
        # Behind the listener the copy gets the host of its endpoint.
        disable_shadow_host_suffix_append=True,
    )


def _model_route(api: Api, rules: Rules, action: RouteAction, variant: str | None = None) -> Route:
    chosen = [HeaderMatcher(name=ROUTE_HEADER, string_match=StringMatcher(exact=variant))] if variant else []
    return Route(
        name=f"{api.name.lower()}.{variant}" if variant else api.name.lower(),
        match=RouteMatch(
            path=api.value,
            headers=[HeaderMatcher(name=":method", string_match=StringMatcher(exact="POST")), *chosen],
        ),
        route=action,
        request_body_buffer_limit=_body_bytes(rules),
    )


def _body_bytes(rules: Rules) -> int:
    return rules.limits.max_body_bytes + STAMP_BYTES


def _everything_else() -> Route:
    return Route(
        name="everything_else",
        match=RouteMatch(prefix="/"),
        # The body comes from local_replies, as for every other 404.
        direct_response=DirectResponseAction(status=404),
    )
