"""The HTTP connection manager: what a request may look like before any filter or log sees it."""

from envoy_data_plane.envoy.config.accesslog.v3 import AccessLog
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import (
    HeaderMutation as Mutation,
)
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import (
    HeaderMutationRemoveOnMatch,
)
from envoy_data_plane.envoy.config.core.v3 import (
    ApiVersion,
    Http1ProtocolOptions,
    Http2ProtocolOptions,
    HttpProtocolOptions,
    HttpProtocolOptionsHeadersWithUnderscoresAction,
)
from envoy_data_plane.envoy.extensions.access_loggers.grpc.v3 import CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpConnectionManagerForwardClientCertDetails,
    HttpConnectionManagerPathWithEscapedSlashesAction,
)
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 import HeaderMutation
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.google.protobuf import Any
from tenantry.core.rules import Rules

from tenantry_envoy import packing
from tenantry_envoy.filters import http_filters, sidecar_service
from tenantry_envoy.local_replies import local_reply_config
from tenantry_envoy.names import ACCESS_LOG_NAME
from tenantry_envoy.options import EnvoyOptions
from tenantry_envoy.routes import route_configuration

STRIPPED_PREFIXES = ("x-tenantry-", "x-envoy-", "x-vllm-", "x-forwarded-")
"""Headers of which no client's copy may reach a filter or a log. `x-forwarded-` takes in the client
certificate (XFCC) and the client's own claims of its address; Envoy then sets the true ones."""

STRIPPED_NAMES = ("x-request-id", "forwarded")
"""Usage is billed by request id, and vLLM takes `x-request-id` for its own."""

REQUEST_HEADERS_SECONDS = 10.0
REQUEST_SECONDS = 120.0
"""Until the request is whole and decided: 10 MiB at 0.7 Mbit/s. The time of the answer does not count."""

CONNECTION_IDLE_SECONDS = 600.0
MAX_HEADERS_KIB = 60
MAX_HEADERS = 100

MAX_CONCURRENT_STREAMS = 1024
STREAM_WINDOW_BYTES = 1024 * 1024
CONNECTION_WINDOW_BYTES = 4 * 1024 * 1024

ACCESS_LOG_BUFFER_BYTES = 16 * 1024


def connection_manager(rules: Rules, options: EnvoyOptions) -> HttpConnectionManager:
    """Return the configuration of the one HTTP connection manager."""
    return HttpConnectionManager(
        stat_prefix="tenantry",
        server_name="tenantry",
        early_header_mutation_extensions=[
            packing.extension("envoy.http.early_header_mutation.header_mutation", _stripping())
        ],
        use_remote_address=True,
        forward_client_cert_details=HttpConnectionManagerForwardClientCertDetails.SANITIZE,
        generate_request_id=False,
        normalize_path=True,
        merge_slashes=False,
        path_with_escaped_slashes_action=HttpConnectionManagerPathWithEscapedSlashesAction.REJECT_REQUEST,
        stream_error_on_invalid_http_message=False,
        max_request_headers_kb=MAX_HEADERS_KIB,
        request_headers_timeout=packing.seconds(REQUEST_HEADERS_SECONDS),
        request_timeout=packing.seconds(REQUEST_SECONDS),
        stream_idle_timeout=packing.seconds(rules.limits.stream_idle_seconds),
        common_http_protocol_options=HttpProtocolOptions(
            idle_timeout=packing.seconds(CONNECTION_IDLE_SECONDS),
            max_headers_count=MAX_HEADERS,
            headers_with_underscores_action=HttpProtocolOptionsHeadersWithUnderscoresAction.DROP_HEADER,
        ),
        http_protocol_options=Http1ProtocolOptions(),
        http2_protocol_options=Http2ProtocolOptions(
            max_concurrent_streams=MAX_CONCURRENT_STREAMS,
            initial_stream_window_size=STREAM_WINDOW_BYTES,
            initial_connection_window_size=CONNECTION_WINDOW_BYTES,
            allow_connect=False,
            override_stream_error_on_invalid_http_message=True,
        ),
        http_filters=http_filters(rules, options),
        route_config=route_configuration(rules),
        local_reply_config=local_reply_config(rules),
        access_log=[_access_log(options)],
    )


def _stripping() -> HeaderMutation:
    matchers = [StringMatcher(prefix=prefix) for prefix in STRIPPED_PREFIXES]
    matchers += [StringMatcher(exact=name) for name in STRIPPED_NAMES]
    return HeaderMutation(
        mutations=[Mutation(remove_on_match=HeaderMutationRemoveOnMatch(key_matcher=matcher)) for matcher in matchers]
    )


def _access_log(options: EnvoyOptions) -> AccessLog:
    config = HttpGrpcAccessLogConfig(
        common_config=CommonGrpcAccessLogConfig(
            log_name=ACCESS_LOG_NAME,
            transport_api_version=ApiVersion.V3,
            grpc_service=sidecar_service(),
            buffer_flush_interval=packing.seconds(options.access_log_flush_seconds),
            buffer_size_bytes=ACCESS_LOG_BUFFER_BYTES,
        )
    )
    return AccessLog(name="envoy.access_loggers.http_grpc", typed_config=Any.pack(config))
