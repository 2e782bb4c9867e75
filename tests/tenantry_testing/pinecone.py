"""Pinecone's calls as a tenant makes them, and as the store answers, without a network between."""

import json
from typing import Any, Generic, TypeVar

from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from tenantry.core.rules_stores import Store
from tenantry.core.vector.calls import Call, StoreHead, StoreOf, StoreRequest, StoreResponse, Verified
from tenantry.core.vector.grpc_frame import write_message
from tenantry.core.vector.pinecone import pinecone_call
from tenantry.core.vector.scope import namespace_of

Request = TypeVar("Request", bound=Message)
Answer = TypeVar("Answer", bound=Message)
M = TypeVar("M", bound=Message)

STORE = Store(kind="pinecone", endpoints=("127.0.0.1:5081",), isolation="namespace")
JSON = ("content-type", b"application/json")
NDJSON = ("content-type", b"application/x-ndjson")
GRPC = ("content-type", b"application/grpc")

ACME, GLOBEX = namespace_of("acme"), namespace_of("globex")
"""Both tenants' default namespaces."""


def head(method: str, path: str, *headers: tuple[str, bytes]) -> StoreHead:
    return StoreHead(method=method, path=path, headers=headers)


def opened(
    method: str, path: str, *headers: tuple[str, bytes], tenant: str = "acme", store: Store = STORE
) -> Call | None:
    """The call behind a head; a POST is JSON unless it says otherwise."""
    sent = headers or ((JSON,) if method == "POST" else ())
    return pinecone_call(StoreOf(tenant=tenant, name="index", store=store), head(method, path, *sent))


class Rest:
    """One REST call of a tenant: what reaches the store, then what the client gets of its answer."""

    def __init__(
        self, line: str, body: object = None, *headers: tuple[str, bytes], tenant: str = "acme", store: Store = STORE
    ) -> None:
        method, path = line.split(" ", 1)
        call = opened(method, path, *headers, tenant=tenant, store=store)
        assert call is not None, f"{path} is not Pinecone's"
        sent = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        self.call = call
        self.request: StoreRequest = call.request(sent)

    @property
    def sent(self) -> Any:
        """The body at the store."""
        assert self.request.body is not None
        return json.loads(self.request.body)

    def answered(self, body: object, status: int = 200) -> Verified:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.call.response(StoreResponse(status=status, headers=(), body=raw))

    def got(self, body: object, status: int = 200) -> Any:
        """What the client gets."""
        return json.loads(self.answered(body, status).body)


class Grpc(Generic[Request, Answer]):
    """One gRPC call of a tenant."""

    def __init__(
        self,
        name: str,
        message: Request | bytes,
        answer: type[Answer],
        *headers: tuple[str, bytes],
        tenant: str = "acme",
    ) -> None:
        call = opened("POST", f"/VectorService/{name}", GRPC, *headers, tenant=tenant)
        assert call is not None
        self.call = call
        self._answer = answer
        raw = message if isinstance(message, bytes) else message.SerializeToString()
        self.request = call.request(write_message(raw))

    def sent(self, kind: type[Request]) -> Request:
        """The message at the store."""
        assert self.request.body is not None
        return kind.FromString(self.request.body[5:])

    def answered(self, answer: Message) -> tuple[Answer, int]:
        """What the client gets, and how many rows were looked at."""
        body = write_message(answer.SerializeToString())
        verified = self.call.response(StoreResponse(status=200, headers=(), body=body))
        return self._answer.FromString(verified.body[5:]), verified.rows


def message(kind: type[M], value: dict[str, Any]) -> M:
    """A message by its JSON form."""
    return ParseDict(value, kind())
