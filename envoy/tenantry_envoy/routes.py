"""Routes: the exact paths of the model API, and 404 for everything else.

ext_proc answers first and knows the allow-list too; these routes are the second lock. No retry
and no mirror: a request reaches one upstream, once.
"""

from envoy_data_plane.envoy.config.core.v3 import HeaderValue, HeaderValueOption, HeaderValueOptionHeaderAppendAction
from envoy_data_plane.envoy.config.route.v3 import (
    DirectResponseAction,
    HeaderMatcher,
    Route,
    RouteAction,
    RouteActionClusterNotFoundResponseCode,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from tenantry.core.chat import Api
from tenantry.core.rules import Rules

from tenantry_envoy import packing
from tenantry_envoy.names import CLUSTER_HEADER, METADATA_NAMESPACE, REQUEST_ID_HEADER

STAMP_BYTES = 16 * 1024
"""How much stamping may lengthen a body. Envoy holds the rebuilt body in the same buffer and answers
413 when that is too long: without this room the longest bodies allowed were refused (measured)."""


def route_configuration(rules: Rules) -> RouteConfiguration:
    """Return the one route table.

    `GET /v1/models` is not in it: the sidecar answers that itself, and an engine's own list would
    show every tenant's adapters.
    """
    request_id = HeaderValueOption(
        header=HeaderValue(key=REQUEST_ID_HEADER, value=f"%DYNAMIC_METADATA({METADATA_NAMESPACE}:request_id)%"),
        append_action=HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )
    return RouteConfiguration(
        name="tenantry",
        virtual_hosts=[
            VirtualHost(
                name="models",
                domains=["*"],
                routes=[*(_model_route(api, rules) for api in Api), _everything_else()],
                response_headers_to_add=[request_id],
                request_headers_to_remove=[CLUSTER_HEADER],
            )
        ],
    )


def _model_route(api: Api, rules: Rules) -> Route:
    return Route(
        name=api.name.lower(),
        match=RouteMatch(
            path=api.value,
            headers=[HeaderMatcher(name=":method", string_match=StringMatcher(exact="POST"))],
        ),
        route=RouteAction(
            cluster_header=CLUSTER_HEADER,
            cluster_not_found_response_code=RouteActionClusterNotFoundResponseCode.SERVICE_UNAVAILABLE,
            # The client's own host would choose the backend where an endpoint is a name-routed gateway.
            auto_host_rewrite=True,
            # The default of 15 s cut a streaming answer.
            timeout=packing.seconds(0),
            idle_timeout=packing.seconds(rules.limits.stream_idle_seconds),
        ),
        request_body_buffer_limit=rules.limits.max_body_bytes + STAMP_BYTES,
    )


def _everything_else() -> Route:
    return Route(
        name="everything_else",
        match=RouteMatch(prefix="/"),
        # The body comes from local_replies, as for every other 404.
        direct_response=DirectResponseAction(status=404),
    )
