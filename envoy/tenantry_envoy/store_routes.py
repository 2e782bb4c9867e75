"""Routes of vector stores: the paths of the methods that tenants may call, as prefixes, and by path alone.

The sidecar knows each method by its exact name and answers first; these routes are the second lock. Which of several
stores serves a request it decides too, and names the cluster as for models. Nothing here is sent twice or copied.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from envoy_data_plane.envoy.config.route.v3 import (
    HeaderMatcher,
    Route,
    RouteAction,
    RouteMatch,
    RouteMatchGrpcRouteMatchOptions,
)
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher
from tenantry.core.rules import Rules

from tenantry_envoy.store_guard import guarded


class Path(NamedTuple):
    """Paths below `path`, or `path` alone where it does not end in `/`."""

    name: str
    path: str
    methods: tuple[str, ...] = ("POST",)
    grpc: bool = False


PATHS: dict[Literal["milvus", "pinecone"], tuple[Path, ...]] = {
    # Not /v1/vector, which is the older REST API.
    "milvus": (
        Path("milvus.grpc", "/milvus.proto.milvus.MilvusService/", grpc=True),
        Path("milvus.rest", "/v2/vectordb/"),
    ),
    # An index's own API; not the account's, which makes indexes.
    "pinecone": (
        Path("pinecone.grpc", "/VectorService/", grpc=True),
        Path("pinecone.query", "/query"),
        Path("pinecone.vectors", "/vectors/", ("GET", "POST")),
        Path("pinecone.stats", "/describe_index_stats", ("GET", "POST")),
        Path("pinecone.records", "/records/namespaces/"),
        # Documents of a namespace. What makes, lists and drops namespaces has other methods, or no such path.
        Path("pinecone.documents", "/namespaces/"),
    ),
}
"""The second lock of each kind of store."""

UNCOMPRESSED = ("accept-encoding", "grpc-accept-encoding")
"""Removed from requests, so that a store answers in what the sidecar can read."""


def store_routes(rules: Rules, action: RouteAction, body_bytes: int) -> Iterator[Route]:
    """Yield the routes of the kinds of stores that the rules have.

    `body_bytes` bounds what Envoy holds of a request, and of an answer.
    """
    kinds = {store.kind for store in rules.stores.values()}
    for kind in sorted(kinds):
        for path in PATHS[kind]:
            yield Route(
                name=path.name,
                match=_match(path),
                route=action,
                request_body_buffer_limit=body_bytes,
                request_headers_to_remove=list(UNCOMPRESSED),
                typed_per_filter_config=guarded(),
            )


def _match(path: Path) -> RouteMatch:
    method = StringMatcher(exact=path.methods[0])
    match = RouteMatch(headers=[HeaderMatcher(name=":method", string_match=method)])
    if len(path.methods) > 1:
        pattern = "|".join(path.methods)
        match.headers = [
            HeaderMatcher(name=":method", string_match=StringMatcher(safe_regex=RegexMatcher(regex=pattern)))
        ]
    if path.path.endswith("/"):
        match.prefix = path.path
    else:
        match.path = path.path
    if path.grpc:
        match.grpc = RouteMatchGrpcRouteMatchOptions()
    return match
