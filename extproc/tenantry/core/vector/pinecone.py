"""Pinecone: which call a request is, over REST or gRPC. What is not named here is refused.

Namespaces as such (`/namespaces`), their aliases and bulk imports are the operator's: they reach beyond a tenant's part
of the index. An alias resolves on reads: an operator who gives one the name of a tenant's namespace leads that tenant's
reads elsewhere, and then the second and third lock hold.
"""

import re
from collections.abc import Mapping

from tenantry.core.errors import (
    BadRequestError,
    ForbiddenError,
    MethodNotAllowedError,
    NotFoundError,
    UnsupportedMediaError,
)
from tenantry.core.vector import pinecone_shapes as shapes
from tenantry.core.vector.calls import (
    Call,
    StoreHead,
    StoreOf,
    StoreRequest,
    StoreResponse,
    UnreadableResponseError,
    Verified,
)
from tenantry.core.vector.pinecone_grpc import METHODS, SERVICE, PineconeGrpcCall
from tenantry.core.vector.pinecone_query import Parameters, escaped, unescaped
from tenantry.core.vector.pinecone_records import DOCUMENTS, RECORDS
from tenantry.core.vector.pinecone_rest import ROUTES, Route
from tenantry.core.vector.pinecone_scope import Work, passed_on, scope_of
from tenantry.core.vector.strictjson import dumps, loads, loads_response

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""Of an inflated gRPC request; Pinecone itself takes 2 MB in an upsert."""

_FAMILIES = frozenset(
    ("query", "vectors", "describe_index_stats", "records", "namespaces", "namespace-aliases", "bulk")
)
_SERVICES = frozenset(("vectorservice", "namespacealiasservice"))
_in_path = re.compile(r"/(?:records/namespaces/(?P<records>[^/]*)/|namespaces/(?P<documents>[^/]*)/documents/)([a-z]+)")
_name_in_path = re.compile(r"[A-Za-z0-9._~-]+")
_PATHS = frozenset(path for _, path in ROUTES)


class PineconeRestCall:
    """One REST request to Pinecone."""

    __slots__ = ("_headers", "_path", "_query", "_route", "_work", "operation")

    def __init__(self, route: Route, work: Work, path: str, query: str, headers: tuple[tuple[str, str], ...]) -> None:
        self.operation = route.operation
        self._route = route
        self._work = work
        self._path = path
        self._query = query
        self._headers = headers

    def request(self, body: bytes) -> StoreRequest:
        """Return the request in the tenant's scope; raise RequestRefusedError for what was not understood whole."""
        route, work = self._route, self._work
        if route.parameters is not None:
            if body:
                raise BadRequestError("invalid_body", "A GET has no body.")
            query = route.parameters(work, Parameters(self._query))
            return StoreRequest(body=None, path=f"{self._path}?{query}" if query else self._path, headers=self._headers)
        if route.lines is not None:
            sent = route.lines(work, body)
        elif route.body is not None:
            sent = dumps(route.body(work, loads(body, raw=route.raw)))
        return StoreRequest(body=sent, path=self._path, headers=self._headers)

    def response(self, response: StoreResponse) -> Verified:
        """Return the answer with each row verified; raise ForeignRowError or UnreadableResponseError."""
        if response.status >= 400:
            return shapes.refusal(response)
        if not 200 <= response.status < 300:
            raise UnreadableResponseError(f"status {response.status}")
        if not response.body:  # 201 of a write of records, 202 of a delete
            return Verified(body=b"")
        answer = self._route.answer(self._work, loads_response(response.body))
        return Verified(body=dumps(answer), rows=self._work.rows, headers=shapes.JSON_CONTENT)


def pinecone_call(store_of: StoreOf, head: StoreHead, max_bytes: int = MAX_MESSAGE_BYTES) -> Call | None:
    """Return the call behind a request's head, None when the path is not Pinecone's; refuse what is not allowed."""
    path, mark, query = head.path.partition("?")
    if path.startswith(SERVICE):
        return _grpc(store_of, head, max_bytes)
    if not _pinecones(path):
        return None
    if "%" in path:
        raise BadRequestError(
            "invalid_path", "Write the path without escapes; a namespace in it has letters, digits and -._~ only."
        )
    work = Work(scope_of(store_of))
    route = _route(head.method, path)
    if route is None:
        route, path = _route_in_namespace(head.method, path, work)
    if mark and route.parameters is None:
        raise BadRequestError("invalid_query", "A POST has no query.")
    _check_content(head, b"application/x-ndjson" if route.lines is not None else b"application/json")
    content = (("content-type", "application/x-ndjson"),) if route.lines is not None else shapes.JSON_CONTENT
    headers = passed_on(head) if route.parameters is not None else (*passed_on(head), *content)
    return PineconeRestCall(route, work, path, query, headers)


def _pinecones(path: str) -> bool:
    """Return whether a path is Pinecone's, or one that a careless reader might take for it."""
    plain = unescaped(path.encode("utf-8", "replace")).decode("utf-8", "replace").lower().replace("\\", "/")
    segments = [segment for segment in plain.split("/") if segment not in ("", ".", "..")]
    first = segments[0].split(";")[0].strip() if segments else ""
    return first in _FAMILIES or first.split(".")[-1] in _SERVICES


def _route(method: str, path: str) -> Route | None:
    if path not in _PATHS:
        return None
    route = ROUTES.get((method, path))
    if route is None:
        raise MethodNotAllowedError("method_not_allowed", "This path is not open to that method.")
    return route


def _route_in_namespace(method: str, path: str, work: Work) -> tuple[Route, str]:
    """Return the route of a path that holds a namespace, and the path with the tenant's in its place."""
    found = _in_path.fullmatch(path)
    if found is None:
        if path.startswith(("/namespaces", "/namespace-aliases", "/bulk")):
            raise ForbiddenError("path_not_allowed", "Namespaces and imports are managed by the operator.")
        raise NotFoundError("unknown_path", "This path of Pinecone is not open to tenants.")
    records = found["records"] is not None
    name = found["records"] if records else found["documents"]
    operations: Mapping[str, Route] = RECORDS if records else DOCUMENTS
    route = operations.get(found[3])
    if route is None:
        raise NotFoundError("unknown_path", "This path of Pinecone is not open to tenants.")
    if method != "POST":
        raise MethodNotAllowedError("method_not_allowed", "This path is not open to that method.")
    if not _name_in_path.fullmatch(name) or name in (".", ".."):
        raise BadRequestError("invalid_namespace", "A namespace in a path has letters, digits and -._~ only.")
    work.namespace = name
    namespace = escaped(work.physical())
    scoped = f"/records/namespaces/{namespace}/" if records else f"/namespaces/{namespace}/documents/"
    return route, f"{scoped}{found[3]}"


def _grpc(store_of: StoreOf, head: StoreHead, max_bytes: int) -> PineconeGrpcCall:
    name = head.path.removeprefix(SERVICE)
    method = METHODS.get(name)
    if method is None:
        raise ForbiddenError("method_not_allowed", "This method of Pinecone is not open to tenants.")
    if head.method != "POST":
        raise MethodNotAllowedError("method_not_allowed", "gRPC calls are POST.")
    content_types = head.all("content-type")
    if len(content_types) != 1 or content_types[0] not in (b"application/grpc", b"application/grpc+proto"):
        raise UnsupportedMediaError("unsupported_media_type", "Send application/grpc.")
    encodings = head.all("grpc-encoding")
    if len(encodings) > 1:
        raise BadRequestError("invalid_grpc", "grpc-encoding was sent more than once.")
    encoding = encodings[0].decode("latin-1") if encodings else ""
    return PineconeGrpcCall(
        name,
        Work(scope_of(store_of)),
        "" if encoding == "identity" else encoding,
        max_bytes,
        (("te", "trailers"), *passed_on(head)),
    )


def _check_content(head: StoreHead, right: bytes) -> None:
    encodings = head.all("content-encoding")
    if encodings and encodings != [b"identity"]:
        raise UnsupportedMediaError("unsupported_encoding", "Send the body uncompressed.")
    types = head.all("content-type")
    if head.method == "GET" and not types:
        return
    plain = [value.split(b";")[0].strip().lower() for value in types]
    charsets = [value.split(b";", 1)[1].strip().lower() for value in types if b";" in value]
    # GETs of some SDKs name a type, too; they have no body.
    if plain not in ([right], []) or any(charset not in (b"charset=utf-8", b'charset="utf-8"') for charset in charsets):
        raise UnsupportedMediaError("unsupported_media_type", f"Send {right.decode()} in UTF-8.")
