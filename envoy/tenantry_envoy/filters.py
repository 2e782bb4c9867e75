"""The HTTP filters, in order: [jwt_authn] -> [store guard] -> ext_proc -> RBAC backstop -> router.

ext_proc decides. The backstop is there because ext_proc lets a request pass when its stream ends
cleanly without an answer, `failure_mode_allow: false` or not (measured on 1.40).
"""

from collections.abc import Iterator

from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutationRules
from envoy_data_plane.envoy.config.core.v3 import (
    BackoffStrategy,
    GrpcService,
    GrpcServiceEnvoyGrpc,
    RetryPolicy,
    RetryPolicyRetryHostPredicate,
)
from envoy_data_plane.envoy.config.rbac.v3 import (
    MetadataSource,
    Permission,
    Policy,
    Principal,
    RbacAction,
    SourcedMetadata,
)
from envoy_data_plane.envoy.config.rbac.v3 import Rbac as RbacRules
from envoy_data_plane.envoy.config.route.v3 import RouteMatch
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import (
    ExternalProcessor,
    HeaderForwardingRules,
    MetadataOptions,
    MetadataOptionsMetadataNamespaces,
    ProcessingMode,
    ProcessingModeBodySendMode,
    ProcessingModeHeaderSendMode,
)
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import HeaderMutation
from envoy_data_plane.envoy.extensions.filters.http.jwt_authn.v3 import (
    JwtAuthentication,
    JwtHeader,
    JwtProvider,
    JwtRequirement,
    JwtRequirementOrList,
    RequirementRule,
)
from envoy_data_plane.envoy.extensions.filters.http.rbac.v3 import Rbac
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.http.upstream_codec.v3 import UpstreamCodec
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.extensions.retry.host.previous_hosts.v3 import PreviousHostsPredicate
from envoy_data_plane.envoy.type.matcher.v3 import (
    ListStringMatcher,
    MetadataMatcher,
    MetadataMatcherPathSegment,
    RegexMatcher,
    StringMatcher,
    ValueMatcher,
)
from envoy_data_plane.envoy.type.v3 import HttpStatus, StatusCode
from envoy_data_plane.google.protobuf import Any, Empty
from tenantry.core.rules import Jwt, Rules

from tenantry_envoy import packing
from tenantry_envoy.clusters import sidecar_endpoints
from tenantry_envoy.names import (
    ENFORCED_KEY,
    ENFORCED_VALUE,
    EXT_PROC,
    FROM_UPSTREAM_HEADER,
    JWT_KEY,
    JWT_NAMESPACE,
    METADATA_NAMESPACE,
    SIDECAR_CLUSTER,
    UPSTREAM_HEADERS,
    URI_SAN_ATTRIBUTE,
)
from tenantry_envoy.options import EnvoyOptions
from tenantry_envoy.store_guard import guard_filters

REPLY_OVERHEAD_BYTES = 1024 * 1024
"""How much longer than the body a reply of the sidecar can be: stamped members, headers, metadata."""


def http_filters(rules: Rules, options: EnvoyOptions) -> list[HttpFilter]:
    """Return the filter chain."""
    return list(_http_filters(rules, options))


def sidecar_service(max_receive_bytes: int | None = None) -> GrpcService:
    """Return the gRPC service of the sidecar; without a timeout, since its streams last as long as answers."""
    return GrpcService(
        envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=SIDECAR_CLUSTER, max_receive_message_length=max_receive_bytes)
    )


def _http_filters(rules: Rules, options: EnvoyOptions) -> Iterator[HttpFilter]:
    if rules.identity.jwt is not None:
        yield packing.http_filter("envoy.filters.http.jwt_authn", _jwt_authn(rules.identity.jwt))
    if rules.stores:
        yield from guard_filters()
    yield packing.http_filter(EXT_PROC, _ext_proc(rules, options))
    yield packing.http_filter("envoy.filters.http.rbac", _backstop())
    yield packing.http_filter("envoy.filters.http.router", _router())


def _jwt_authn(jwt: Jwt) -> JwtAuthentication:
    provider = JwtProvider(
        issuer=jwt.issuer,
        audiences=[jwt.audience],
        require_expiration=True,
        local_jwks=packing.file(jwt.jwks_file),
        # The one place where the protocols put it. With no location named, Envoy would also
        # read the query parameter `access_token`.
        from_headers=[JwtHeader(name="Authorization", value_prefix="Bearer ")],
        forward=False,
        payload_in_metadata=JWT_KEY,
    )
    # Not `allow_missing`: that answers 401 to an API key in the Authorization header. The sidecar
    # decides what a request without a verified token is worth.
    requirement = JwtRequirement(
        requires_any=JwtRequirementOrList(
            requirements=[JwtRequirement(provider_name="tenantry"), JwtRequirement(allow_missing_or_failed=Empty())]
        )
    )
    return JwtAuthentication(
        providers={"tenantry": provider},
        rules=[RequirementRule(match=RouteMatch(prefix="/"), requires=requirement)],
    )


def _ext_proc(rules: Rules, options: EnvoyOptions) -> ExternalProcessor:
    identity = rules.identity
    service = sidecar_service(rules.limits.max_body_bytes + REPLY_OVERHEAD_BYTES)
    reads = any(model.usage == "response" for model in rules.models.values())
    first, *others = sidecar_endpoints(options)
    if others or first.needs_dns:  # a name may stand for many
        service.retry_policy = _another_sidecar()
    return ExternalProcessor(
        grpc_service=service,
        failure_mode_allow=False,
        status_on_error=HttpStatus(code=StatusCode.ServiceUnavailable),
        message_timeout=packing.seconds(options.message_timeout_seconds),
        max_message_timeout=packing.seconds(0),
        processing_mode=_mode(ProcessingModeHeaderSendMode.SKIP, ProcessingModeBodySendMode.NONE),
        allow_mode_override=reads,
        allowed_override_modes=_watching() if reads else [],
        disable_immediate_response=False,
        mutation_rules=_mutation_rules(rules),
        forward_rules=_hidden() if rules.stores else None,
        metadata_options=MetadataOptions(
            forwarding_namespaces=(
                MetadataOptionsMetadataNamespaces(untyped=[JWT_NAMESPACE]) if identity.jwt is not None else None
            ),
            receiving_namespaces=MetadataOptionsMetadataNamespaces(untyped=[METADATA_NAMESPACE]),
        ),
        request_attributes=[URI_SAN_ATTRIBUTE] if identity.mtls is not None else [],
    )


def _watching() -> list[ProcessingMode]:
    # Where a model's usage is read from its responses, the sidecar asks to see those, in these two ways alone: headers
    # of a request that may be for such a model, and the body when it is.
    bodies = (ProcessingModeBodySendMode.NONE, ProcessingModeBodySendMode.STREAMED)
    return [_mode(ProcessingModeHeaderSendMode.SEND, body) for body in bodies]


def _mode(headers: ProcessingModeHeaderSendMode, body: ProcessingModeBodySendMode) -> ProcessingMode:
    """Return a mode with the whole request in it, and so much of the response."""
    return ProcessingMode(
        request_header_mode=ProcessingModeHeaderSendMode.SEND,
        request_body_mode=ProcessingModeBodySendMode.BUFFERED,
        request_trailer_mode=ProcessingModeHeaderSendMode.SKIP,
        response_header_mode=headers,
        response_body_mode=body,
        response_trailer_mode=ProcessingModeHeaderSendMode.SKIP,
    )


def _mutation_rules(rules: Rules) -> HeaderMutationRules:
    # Pinecone has namespaces in its paths. :scheme, :authority and :method stay out of reach: they are `routing`.
    rewrites_paths = any(store.kind == "pinecone" for store in rules.stores.values())
    # Everything but pseudo-headers and `host`: the sidecar removes by default-deny, which
    # takes in the x-envoy- headers that Envoy itself has added by then.
    allowed = HeaderMutationRules(
        allow_all_routing=False,
        allow_envoy=True,
        disallow_system=None if rewrites_paths else True,
        disallow_is_error=True,
    )
    if rules.stores:
        # Without the mark a store's answer would pass for the sidecar's own.
        allowed.disallow_expression = RegexMatcher(regex=FROM_UPSTREAM_HEADER)
    return allowed


def _hidden() -> HeaderForwardingRules:
    # The sidecar removes what it does not know, and would try to remove the mark.
    return HeaderForwardingRules(
        disallowed_headers=ListStringMatcher(patterns=[StringMatcher(exact=FROM_UPSTREAM_HEADER)])
    )


def _another_sidecar() -> RetryPolicy:
    # Before its first reply, a stream that a dying or draining sidecar refused is begun anew at
    # another. Nothing was decided for good by then: the decision counts once Envoy has it. Costs
    # Envoy some 50 us a request.
    return RetryPolicy(
        retry_on="connect-failure,refused-stream,reset,unavailable",
        num_retries=2,
        # Of its own accord Envoy would wait for 0.5 s and more, also when there is no other.
        retry_back_off=BackoffStrategy(base_interval=packing.seconds(0.005), max_interval=packing.seconds(0.05)),
        retry_host_predicate=[
            RetryPolicyRetryHostPredicate(
                name="envoy.retry_host_predicates.previous_hosts", typed_config=Any.pack(PreviousHostsPredicate())
            )
        ],
        host_selection_retry_max_attempts=10,
    )


def _router() -> Router:
    # Does what the routes of mirrored requests and of stores say, and for others nothing.
    return Router(
        suppress_envoy_headers=True,
        upstream_http_filters=[
            packing.http_filter(UPSTREAM_HEADERS, HeaderMutation()),
            packing.http_filter("envoy.filters.http.upstream_codec", UpstreamCodec()),
        ],
    )


def _backstop() -> Rbac:
    enforced = MetadataMatcher(
        filter=METADATA_NAMESPACE,
        path=[MetadataMatcherPathSegment(key=ENFORCED_KEY)],
        value=ValueMatcher(string_match=StringMatcher(exact=ENFORCED_VALUE)),
    )
    decided = Principal(
        sourced_metadata=SourcedMetadata(metadata_matcher=enforced, metadata_source=MetadataSource.DYNAMIC)
    )
    policy = Policy(permissions=[Permission(any=True)], principals=[decided])
    return Rbac(rules=RbacRules(action=RbacAction.ALLOW, policies={"decided_by_sidecar": policy}))
