"""What an ext_proc conversation says, as plain values: events from Envoy, replies to it.

Adapters turn protobuf messages into events and replies into protobuf messages; `session` knows
neither gRPC nor protobuf. Names follow envoy/service/ext_proc/v3/external_processor.proto.
"""

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

Header = tuple[str, bytes]
"""A header's name in lower case, and its raw value."""


class RequestHeaders(Struct, frozen=True, kw_only=True):
    """The request's headers; `end_stream` says that no body follows.

    `jwt_claims` and `uri_sans` are what Envoy verified: metadata of `jwt_authn`, and the attribute
    `connection.uri_san_peer_certificate`.
    """

    headers: tuple[Header, ...]
    end_stream: bool
    jwt_claims: Mapping[str, object] | None = None
    uri_sans: tuple[str, ...] = ()


class RequestBody(Struct, frozen=True, kw_only=True):
    """The whole body (Envoy buffers it). `end_stream` is false when HTTP/2 trailers follow."""

    body: bytes
    end_stream: bool


class RequestTrailers(Struct, frozen=True, kw_only=True):
    """Trailers after the body; sent only under a processing mode other than the generated one."""


class ResponseHeaders(Struct, frozen=True, kw_only=True):
    """The response's headers; `end_stream` says that no body follows. Sent on the routes of stores alone."""

    headers: tuple[Header, ...]
    end_stream: bool


class ResponseBody(Struct, frozen=True, kw_only=True):
    """The whole body of the response (Envoy buffers it). `end_stream` is false when trailers follow, as in gRPC."""

    body: bytes
    end_stream: bool


class ResponseTrailers(Struct, frozen=True, kw_only=True):
    """Trailers of the response; sent only under a processing mode other than the generated one."""


Event = RequestHeaders | RequestBody | RequestTrailers | ResponseHeaders | ResponseBody | ResponseTrailers


class Continue(Struct, frozen=True, kw_only=True):
    """Nothing to change; go on. `watch` asks to be shown more of this exchange's response; only on headers.

    `headers`: the response's headers, whatever the processing mode says. `body`: its body too, piece by piece.
    """

    watch: Literal["headers", "body"] | None = None


class Forward(Struct, frozen=True, kw_only=True):
    """The last request-phase reply: pass the request on, with these changes and this metadata.

    `set_headers` overwrite, `remove_headers` take away every copy. `body` replaces the request's
    body. `metadata` is written under the namespace `tenantry`; `enforced: yes` in it is what the
    RBAC backstop behind ext_proc waits for.
    """

    set_headers: tuple[tuple[str, str], ...]
    remove_headers: tuple[str, ...]
    body: bytes | None
    metadata: Mapping[str, str]


class Deliver(Struct, frozen=True, kw_only=True):
    """The last response-phase reply for a store: what the client gets was verified.

    `remove_headers` take away every copy; `body` None leaves the body as it is. `verified: yes` in the metadata is what
    the store guard in Envoy waits for.
    """

    set_headers: tuple[tuple[str, str], ...]
    remove_headers: tuple[str, ...]
    body: bytes | None
    metadata: Mapping[str, str]


class Answer(Struct, frozen=True, kw_only=True):
    """Answer the client from here; nothing reaches an upstream.

    `details` becomes Envoy's response code details. `grpc_status` is set for gRPC clients, which
    then read `message` from the trailers instead of `body`.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    details: str
    grpc_status: int | None = None


Reply = Continue | Forward | Deliver | Answer
