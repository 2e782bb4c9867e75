"""The store guard: no answer of a vector store reaches a client before the sidecar has verified it.

ext_proc alone does not hold that: when its stream ends cleanly after the request, Envoy takes it for consent and the
answer passes as it is (measured). So three filters stand around it. On the way back, in this order:

    mark      between the store and the router: a header on each answer that really came from a store
    guard     behind ext_proc: an answer with the mark and without the sidecar's word `verified` is replaced whole
    unmark    behind the guard: takes the mark off what may pass

Envoy's own errors and the sidecar's own answers have no mark and pass. The mark hangs on the routes of stores; guard
and unmark are on for every route, so that no route, and no path that the sidecar rewrites, leads around them.

The guard is Envoy's custom_response filter. A Lua script could do the same and is a trap: a script that fails lets the
answer pass, and it has to empty headers, body and trailers one by one (measured: an object that had gone stale after
`body()` let the trailers of another tenant's row through). This filter replaces the answer before any of it was sent.

REST clients get 502. gRPC clients get PERMISSION_DENIED, since pymilvus repeats a call up to 75 times on most other
codes. Trailers pass nobody who could verify them, so of a store's trailers `grpc-status` is left and no more.
"""

from typing import Final

from betterproto2 import Message
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation as Mutation
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutationRemoveOnMatch
from envoy_data_plane.envoy.config.core.v3 import (
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
)
from envoy_data_plane.envoy.extensions.filters.http.custom_response.v3 import CustomResponse
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import (
    ExtProcOverrides,
    ExtProcPerRoute,
    ProcessingMode,
    ProcessingModeBodySendMode,
    ProcessingModeHeaderSendMode,
)
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import (
    HeaderMutation,
    HeaderMutationPerRoute,
    Mutations,
)
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.extensions.http.custom_response.local_response_policy.v3 import LocalResponsePolicy
from envoy_data_plane.envoy.extensions.matching.common_inputs.network.v3 import (
    DynamicMetadataInput,
    DynamicMetadataInputPathSegment,
)
from envoy_data_plane.envoy.extensions.matching.input_matchers.metadata.v3 import Metadata
from envoy_data_plane.envoy.type.matcher.v3 import (
    HttpRequestHeaderMatchInput,
    HttpResponseHeaderMatchInput,
    RegexMatcher,
    StringMatcher,
    ValueMatcher,
)
from envoy_data_plane.google.protobuf import Any
from envoy_data_plane.xds.core.v3 import TypedExtensionConfig
from envoy_data_plane.xds.type.matcher.v3 import (
    Matcher,
    MatcherMatcherList,
    MatcherMatcherListFieldMatcher,
    MatcherMatcherListPredicate,
    MatcherMatcherListPredicatePredicateList,
    MatcherMatcherListPredicateSinglePredicate,
    MatcherOnMatch,
)
from envoy_data_plane.xds.type.matcher.v3 import StringMatcher as MatcherString

from tenantry_envoy import packing
from tenantry_envoy.names import (
    EXT_PROC,
    FROM_UPSTREAM_HEADER,
    METADATA_NAMESPACE,
    STORE_GUARD,
    STORE_UNMARK,
    UPSTREAM_HEADERS,
    VERIFIED_KEY,
    VERIFIED_VALUE,
)

WITHHELD: Final = "The store's answer could not be verified and was withheld."

WITHHELD_STATUS: Final = 599
"""What the guard answers a REST client with. `local_replies` knows it by this, gives it its body, and makes it 502."""

_WITHHELD_GRPC_STATUS: Final = 403
"""Envoy makes PERMISSION_DENIED of it."""

_MARKED: Final = "yes"


def guard_filters() -> list[HttpFilter]:
    """Return what stands before ext_proc in the list, and so behind it on the way back."""
    unmark = HeaderMutation(mutations=Mutations(response_mutations=[Mutation(remove=FROM_UPSTREAM_HEADER)]))
    return [packing.http_filter(STORE_UNMARK, unmark), packing.http_filter(STORE_GUARD, _guard())]


def guarded() -> dict[str, Any]:
    """Return the per-filter configuration of a store's route: answers are marked, and the sidecar sees them whole."""
    modes = ProcessingMode(
        request_header_mode=ProcessingModeHeaderSendMode.SEND,
        request_body_mode=ProcessingModeBodySendMode.BUFFERED,
        request_trailer_mode=ProcessingModeHeaderSendMode.SKIP,
        response_header_mode=ProcessingModeHeaderSendMode.SEND,
        response_body_mode=ProcessingModeBodySendMode.BUFFERED,
        response_trailer_mode=ProcessingModeHeaderSendMode.SKIP,
    )
    mark = HeaderValueOption(
        header=HeaderValue(key=FROM_UPSTREAM_HEADER, value=_MARKED),
        append_action=HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )
    unread = StringMatcher(safe_regex=RegexMatcher(regex=all_but("grpc-status")))
    mutations = Mutations(
        response_mutations=[Mutation(append=mark)],
        response_trailers_mutations=[Mutation(remove_on_match=HeaderMutationRemoveOnMatch(key_matcher=unread))],
    )
    return {
        EXT_PROC: Any.pack(ExtProcPerRoute(overrides=ExtProcOverrides(processing_mode=modes))),
        UPSTREAM_HEADERS: Any.pack(HeaderMutationPerRoute(mutations=mutations)),
    }


def all_but(name: str) -> str:
    """Return a regular expression for every string but this one; RE2 has no negation. `name`: letters and `-`."""
    shorter = (f"{name[:end]}([^{name[end]}].*)?" for end in range(len(name)))
    return "|".join([*shorter, f"{name}.+"])


def _guard() -> CustomResponse:
    marked = _header(HttpResponseHeaderMatchInput(header_name=FROM_UPSTREAM_HEADER), MatcherString(exact=_MARKED))
    grpc = _header(HttpRequestHeaderMatchInput(header_name="content-type"), MatcherString(prefix="application/grpc"))
    unverified = MatcherMatcherListPredicate(not_matcher=_verified())
    withheld = [
        MatcherMatcherListFieldMatcher(
            predicate=MatcherMatcherListPredicate(
                and_matcher=MatcherMatcherListPredicatePredicateList(predicate=predicates)
            ),
            on_match=MatcherOnMatch(action=_extension("withheld", _answer(status))),
        )
        for predicates, status in (
            ([marked, unverified, grpc], _WITHHELD_GRPC_STATUS),
            ([marked, unverified], WITHHELD_STATUS),
        )
    ]
    return CustomResponse(custom_response_matcher=Matcher(matcher_list=MatcherMatcherList(matchers=withheld)))


def _answer(status: int) -> LocalResponsePolicy:
    return LocalResponsePolicy(status_code=status, body=packing.text(WITHHELD))


def _verified() -> MatcherMatcherListPredicate:
    path = [DynamicMetadataInputPathSegment(key=VERIFIED_KEY)]
    said = Metadata(value=ValueMatcher(string_match=StringMatcher(exact=VERIFIED_VALUE)))
    return MatcherMatcherListPredicate(
        single_predicate=MatcherMatcherListPredicateSinglePredicate(
            input=_extension("metadata", DynamicMetadataInput(filter=METADATA_NAMESPACE, path=path)),
            custom_match=_extension("said", said),
        )
    )


def _header(where: Message, match: MatcherString) -> MatcherMatcherListPredicate:
    single = MatcherMatcherListPredicateSinglePredicate(input=_extension("header", where), value_match=match)
    return MatcherMatcherListPredicate(single_predicate=single)


def _extension(name: str, config: Message) -> TypedExtensionConfig:
    return TypedExtensionConfig(name=name, typed_config=Any.pack(config))
