"""Events as Envoy would send them, and a notation in which a test reads as the conversation it is about.

Transcript() >> post(key=KEYS["acme"]) << Continue() >> body() << Forward
"""

import json
from collections.abc import Mapping

from msgspec import Struct
from tenantry.core.events import Answer, Event, Header, Reply, RequestBody, RequestHeaders
from tenantry.core.routing import Live
from tenantry.core.session import Gate, OpenCall, Session, Snapshot, State, closed, no_stores

from tenantry_testing import documents
from tenantry_testing.documents import NOW, snapshot

CHAT = "/v1/chat/completions"
REQUEST_ID = "0123456789abcdef0123456789abcdef"
SNAPSHOT = snapshot()


def headers(
    *more: Header,
    method: str = "POST",
    path: str = CHAT,
    key: str | None = None,
    end_stream: bool = False,
    jwt_claims: Mapping[str, object] | None = None,
    uri_sans: tuple[str, ...] = (),
) -> RequestHeaders:
    """A request's headers; `key` goes where OpenAI's clients put it."""
    pseudo: tuple[Header, ...] = (
        (":method", method.encode()),
        (":path", path.encode()),
        (":authority", b"host"),
        (":scheme", b"https"),
    )
    credential: tuple[Header, ...] = (("authorization", f"Bearer {key}".encode()),) if key is not None else ()
    return RequestHeaders(
        headers=(*pseudo, *credential, *more), end_stream=end_stream, jwt_claims=jwt_claims, uri_sans=uri_sans
    )


def post(*more: Header, key: str | None = None, path: str = CHAT) -> RequestHeaders:
    return headers(("content-type", b"application/json"), *more, key=key, path=path)


def body(model: str = "chat-8b", *, end_stream: bool = True, **members: object) -> RequestBody:
    sent = {"model": model, "messages": [{"role": "user", "content": "Hi"}], **members}
    return RequestBody(body=json.dumps(sent).encode(), end_stream=end_stream)


class Refused(Struct, frozen=True, kw_only=True):
    """Matches an Answer with this status and error code, in OpenAI's shape."""

    status: int
    code: str
    param: str | None = None

    def matches(self, reply: object) -> bool:
        if not isinstance(reply, Answer) or reply.status != self.status:
            return False
        error = json.loads(reply.body)["error"]
        return (error["code"], error["param"]) == (self.code, self.param) and set(error) == {
            "message", "type", "param", "code",
        }  # fmt: skip


class Denied(Struct, frozen=True):
    """Matches an Answer to a gRPC client with this status and error code."""

    grpc_status: int
    code: str

    def matches(self, reply: object) -> bool:
        return isinstance(reply, Answer) and (reply.grpc_status, reply.details) == (
            self.grpc_status, f"tenantry_{self.code}",
        )  # fmt: skip


Expected = Reply | type | State | Refused | Denied


class Transcript:
    """One session. `>> event` sends an event; `<< expected` checks the reply, the type of it, or the state after it."""

    def __init__(
        self,
        snapshot: Snapshot = SNAPSHOT,
        *,
        now: float = NOW,
        live: Live | None = None,
        gate: Gate = closed,
        open_call: OpenCall = no_stores,
    ) -> None:
        known = live or documents.live(snapshot.book.rules)
        self.session = Session(snapshot, lambda: REQUEST_ID, lambda: known, gate, open_call)
        self.now = now
        self.heard: Reply | Exception | None = None

    def __rshift__(self, event: Event) -> "Transcript":
        try:
            self.heard = self.session.on_event(event, self.now)
        except Exception as error:
            self.heard = error
        return self

    def __lshift__(self, expected: Expected) -> "Transcript":
        if isinstance(expected, State):
            assert self.session.state is expected
        elif isinstance(expected, Refused | Denied):
            assert expected.matches(self.heard), self.heard
        elif isinstance(expected, type):
            assert isinstance(self.heard, expected), self.heard
        else:
            assert self.heard == expected
        return self
