"""The part of an exchange that is about a vector store: its request on the way there, its answer on the way back.

`session` says when; this page says what goes into the replies. Unlike an engine's, a store's answer is held until it
was verified: Envoy sends it whole, and passes it on only with the mark that `deliver` writes.
"""

import base64

from tenantry.core.errors import ConversationError, TooLargeError, UnsupportedMediaError, WithheldError
from tenantry.core.events import Deliver, Forward, Header, ResponseBody, ResponseHeaders
from tenantry.core.keyring import Keyring
from tenantry.core.model_api import FORWARDED_HEADERS
from tenantry.core.routing import store_cluster
from tenantry.core.tenant import Tenant
from tenantry.core.vector.calls import (
    Call,
    ForeignRowError,
    Need,
    StoreHead,
    StoreOf,
    StoreResponse,
    UnreadableResponseError,
)

GRPC = b"application/grpc"
VERIFIED = {"verified": "yes"}

_KEPT = (FORWARDED_HEADERS | {"grpc-timeout"}) - {"accept-encoding", "content-length", "te"}
"""What a store sees of a client's headers. Compressed answers could not be read; lengths are of the body before."""


_SHOWN = frozenset({"content-type", "content-length", "grpc-status"})
"""What a client sees of a store's headers. Others say things that nobody looked at, `grpc-message` among them."""


class StoreExchange:
    """One request to a store, from its headers to its verified answer.

    After it `rows` were verified, and `failed` says that the store did not do what was asked.
    """

    __slots__ = (
        "_answer_headers",
        "_call",
        "_grpc",
        "_head",
        "_max_bytes",
        "failed",
        "need",
        "operation",
        "rows",
        "store_of",
    )

    def __init__(self, store_of: StoreOf, call: Call, head: StoreHead, max_bytes: int) -> None:
        self.store_of = store_of
        self.operation = call.operation
        self.need: Need | None = None
        self.rows = 0
        self.failed = False
        self._call = call
        self._head = head
        self._grpc = any(value.startswith(GRPC) for value in head.all("content-type"))
        self._max_bytes = max_bytes
        self._answer_headers: ResponseHeaders | None = None
        if any(value.strip().lower() not in (b"", b"identity") for value in head.all("content-encoding")):
            raise UnsupportedMediaError("unsupported_encoding", "Send the body uncompressed (no content-encoding).")
        for value in head.all("content-length"):
            if value.isdigit():
                self._check_size(int(value[:19]))

    def forward(self, body: bytes | None, tenant: Tenant, keyring: Keyring, request_id: str) -> Forward:
        """Return the last request-phase reply; `body` None: the request has none."""
        self._check_size(len(body or b""))
        request = self._call.request(body or b"")
        if (request.body is None) != (body is None):
            raise ConversationError("a body that came, or did not come, where the call has none, or one")
        self.need = request.need
        profile, name = tenant.profile, self.store_of.name
        set_headers = [
            ("x-tenantry-tenant", profile.name),
            ("x-tenantry-tier", profile.tier),
            ("x-tenantry-request-id", request_id),
            ("x-tenantry-cluster", store_cluster(name, grpc=self._grpc)),
            ("x-request-id", request_id),
            *request.headers,
        ]
        if request.path is not None:
            set_headers.append((":path", request.path))
        if request.body is not None and not self._grpc:
            set_headers.append(("content-length", str(len(request.body))))
        secret = keyring.store_secret(name)
        if secret is not None:
            set_headers.append(self._credential(secret))
        names = {header for header, _ in set_headers}
        return Forward(
            set_headers=tuple(set_headers),
            remove_headers=tuple(header for header in _removed(self._head.headers) if header not in names),
            body=request.body,
            metadata={
                "tenant": profile.name,
                "tier": profile.tier,
                "store": name,
                "operation": self.operation,
                "request_id": request_id,
                "reason": "store",
                "enforced": "yes",
            },
        )

    def hold(self, event: ResponseHeaders) -> Deliver | None:
        """Keep the answer's headers; return the reply for an answer that ends with them."""
        self._answer_headers = event
        return self.deliver(ResponseBody(body=b"", end_stream=True)) if event.end_stream else None

    def deliver(self, event: ResponseBody) -> Deliver:
        """Return the reply that lets a verified answer pass; raise WithheldError for any other."""
        head = self._answer_headers
        if head is None:
            raise ConversationError("the body of an answer before its headers")
        values = dict(head.headers)
        try:
            status = int(values.get(":status", b"0"))
            _check_plain(head.headers)
            verified = self._call.response(StoreResponse(status=status, headers=head.headers, body=event.body))
        except ForeignRowError as error:
            raise WithheldError("foreign_row", "The store's answer was withheld.") from error
        except (UnreadableResponseError, ValueError) as error:
            raise WithheldError("unreadable_answer", "The store's answer was withheld.") from error
        self.rows, self.failed = verified.rows, verified.failed
        changed = verified.body != event.body
        set_headers = list(verified.headers)
        if "content-length" in values and not head.end_stream:
            set_headers.append(("content-length", str(len(verified.body))))
        names = {name for name, _ in set_headers}
        return Deliver(
            set_headers=tuple(set_headers),
            remove_headers=tuple({name: None for name, _ in head.headers if not _passes(name) and name not in names}),
            body=verified.body if changed else None,
            metadata=VERIFIED,
        )

    def _credential(self, secret: str) -> tuple[str, str]:
        if self.store_of.store.kind == "pinecone":
            return "api-key", secret
        if self._grpc:
            return "authorization", base64.b64encode(secret.encode()).decode()
        return "authorization", f"Bearer {secret}"

    def _check_size(self, body_bytes: int) -> None:
        if body_bytes > self._max_bytes:
            raise TooLargeError("body_too_large", f"The body is larger than {self._max_bytes} bytes.")


def _passes(header: str) -> bool:
    return header in _SHOWN or header.startswith(":")


def _check_plain(headers: tuple[Header, ...]) -> None:
    if any(name == "content-encoding" and value != b"identity" for name, value in headers):
        raise UnreadableResponseError("a compressed answer")


def _removed(headers: tuple[Header, ...]) -> tuple[str, ...]:
    """Return the names, each once, that must not reach a store. Pseudo-headers stay."""
    return tuple({name: None for name, _ in headers if name not in _KEPT and not name.startswith(":")})
