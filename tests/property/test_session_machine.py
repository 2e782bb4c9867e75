"""Any order of events, good and bad: one reply each or an error, and nothing passes that should not.

Invariants 1, 2 and 4. The model below is the conversation as a person would tell it; it knows nothing of the
table in `session.py`.
"""

import json
from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from tenantry.core.chat import Api
from tenantry.core.errors import ConversationError
from tenantry.core.events import (
    Answer,
    Continue,
    Event,
    Forward,
    Header,
    Reply,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
)
from tenantry.core.model_api import NEVER_FORWARDED
from tenantry.core.session import Session, Snapshot, State
from tenantry_testing.documents import JWT, KEYS, MTLS, NOW, keyring, snapshot
from tenantry_testing.exchanges import CHAT, REQUEST_ID

SNAPSHOTS = (
    snapshot(),
    snapshot(identity={"jwt": JWT, "mtls": MTLS}, defaultTier="bronze"),
    snapshot(identity={"apiKeys": False, "mtls": MTLS}, limits={"maxBodyBytes": 1024, "forwardHeaders": ["x-trace"]}),
    Snapshot(book=snapshot(identity={"jwt": JWT}).book, keyring=keyring()),
)

names = st.sampled_from(["acme", "globex", "initech", "umbrella"])
good_keys = names.map(lambda name: KEYS.get(name, KEYS["nobody"]).encode())
keys = good_keys | st.sampled_from([KEYS["nobody"].encode(), b"", b"\xff"])
credentials: st.SearchStrategy[Header] = st.one_of(
    keys.map(lambda key: ("authorization", b"Bearer " + key)),
    keys.map(lambda key: ("api-key", key)),
    st.binary(max_size=20).map(lambda value: ("authorization", value)),
)
other_headers: st.SearchStrategy[Header] = st.tuples(
    st.sampled_from(
        [
            "content-type", "content-length", "content-encoding", "transfer-encoding", "accept", "x-trace", "cookie",
            "x-tenantry-tenant", "x-tenantry-cluster", "x-tenantry-mirror-cluster", "x-request-id", "x-vllm-priority",
            "x-forwarded-client-cert", "proxy-authorization", "x-api-key", "traceparent",
        ]
    ),
    st.sampled_from(b"application/json application/grpc gzip identity 5 99999999999 globex".split())
    | st.binary(max_size=8),
)  # fmt: skip
paths = st.sampled_from(
    [CHAT, "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/models", "/sleep", CHAT + "?x"]
)
claims = st.none() | st.dictionaries(
    st.sampled_from(["tenant", "tier"]), names | st.sampled_from(["gold", "", "a/b"]) | st.none()
)
sans = st.lists(st.one_of(names.map("spiffe://prod/tenant/".__add__), st.just("spiffe://x/")), max_size=2).map(tuple)


@st.composite
def request_headers(draw: st.DrawFn) -> RequestHeaders:
    """Mostly requests that could pass; now and then anything."""
    method, path = draw(st.sampled_from([b"POST", b"POST", b"POST", b"GET", b"PUT"])), draw(st.just(CHAT) | paths)
    pseudo: list[Header] = [(":method", method), (":path", path.encode())]
    strange = draw(st.sampled_from([None] * 8 + [":method", ":path"]))
    if strange is not None:
        pseudo = draw(st.sampled_from([[each for each in pseudo if each[0] != strange], [*pseudo, (strange, b"x")]]))
    more = draw(st.lists(credentials, max_size=2)) + draw(st.lists(other_headers, max_size=4))
    return RequestHeaders(
        headers=(*pseudo, *more), end_stream=draw(st.booleans()) and draw(st.booleans()),
        jwt_claims=draw(claims), uri_sans=draw(sans),
    )  # fmt: skip


forged = (
    "x-tenantry-tenant",
    "x-tenantry-mirror-cluster",
    "cookie",
    "x-vllm-priority",
    "proxy-authorization",
    "x-trace",
)


@st.composite
def good_headers(draw: st.DrawFn) -> RequestHeaders:
    """Headers that pass under each of the snapshots, with what a client should not send beside them."""
    name = draw(st.sampled_from(["acme", "globex", "initech"]))
    client = draw(st.lists(st.tuples(st.sampled_from(forged), st.sampled_from([b"globex", b"\xff"])), max_size=3))
    return RequestHeaders(
        headers=(
            (":method", b"POST"),
            (":path", draw(st.sampled_from(Api)).value.encode()),
            draw(
                st.sampled_from([("authorization", b"Bearer " + KEYS[name].encode()), ("api-key", KEYS[name].encode())])
            ),
            *client,
        ),
        end_stream=False,
        uri_sans=(f"spiffe://prod/tenant/{name}",),
    )


members: st.SearchStrategy[dict[str, object]] = st.dictionaries(
    st.sampled_from(
        ["messages", "stream", "priority", "cache_salt", "vllm_xargs", "store", "background", "user", "request_id"]
    ),
    st.sampled_from([None, False, True, 0, "globex", [], {"tenant": "globex"}]),
    max_size=4,
)
bodies = st.one_of(
    st.tuples(st.sampled_from(["chat-8b", "embed", "gpt-9"]), members).map(
        lambda p: json.dumps({"model": p[0]} | p[1]).encode()
    ),
    st.sampled_from([b"", b"{}", b"[]", b'{"model":"chat-8b","model":"embed"}', b'{"model":"chat-8b"}'.ljust(2000)]),
    st.binary(max_size=30),
)
good_bodies = members.map(
    lambda sent: RequestBody(
        body=json.dumps({"model": "chat-8b"} | sent | {"background": False}).encode(), end_stream=False
    )
)
body_events = st.builds(RequestBody, body=bodies, end_stream=st.booleans())
response_events: st.SearchStrategy[Event] = st.one_of(
    st.builds(ResponseHeaders, headers=st.just(((":status", b"200"),)), end_stream=st.booleans()),
    st.builds(ResponseBody, body=st.binary(max_size=20), end_stream=st.booleans()),
    st.just(ResponseTrailers()),
)

REPLIES: dict[State, tuple[type, ...]] = {
    State.AWAIT_HEADERS: (Continue, Answer),
    State.AWAIT_BODY: (Forward, Answer),
    State.PASSED: (Continue,),
    State.AWAIT_ANSWER: (),
    State.AWAIT_ANSWER_BODY: (),
    State.VERIFIED: (),
    State.ANSWERED: (),
    State.FAILED: (),
}
"""What Envoy may hear in each state; where there is nothing, only an error."""


class Conversation(RuleBasedStateMachine):
    """One session that hears whatever comes."""

    sent = Bundle("sent")

    @initialize(shot=st.sampled_from(SNAPSHOTS), opening=st.integers(0, 2), headers=good_headers(), body=good_bodies)
    def begin(self, shot: Snapshot, opening: int, headers: RequestHeaders, body: RequestBody) -> None:
        """Two of three begin well: left to itself, chance has most conversations fail with their first event."""
        self.shot = shot
        self.session = Session(shot, lambda: REQUEST_ID)
        self.replies: list[Reply] = []
        self.forwards: list[Forward] = []
        self.headers: RequestHeaders | None = None
        if opening > 0:
            self.hear(headers)
            assert self.session.state is State.AWAIT_BODY
        if opening > 1:
            self.hear(body)
            assert self.session.state is State.PASSED

    @rule(target=sent, event=request_headers())
    def headers_come(self, event: RequestHeaders) -> Event:
        return self.hear(event)

    @rule(target=sent, event=good_headers())
    def good_headers_come(self, event: RequestHeaders) -> Event:
        return self.hear(event)

    @rule(target=sent, event=good_bodies)
    def a_good_body_comes(self, event: RequestBody) -> Event:
        return self.hear(event)

    @rule(target=sent, event=body_events)
    def body_comes(self, event: RequestBody) -> Event:
        return self.hear(event)

    @rule(target=sent, event=st.just(RequestTrailers()))
    def trailers_come(self, event: RequestTrailers) -> Event:
        return self.hear(event)

    @rule(target=sent, event=response_events)
    def response_comes(self, event: Event) -> Event:
        return self.hear(event)

    @rule(event=sent)
    def the_same_comes_again(self, event: Event) -> None:
        self.hear(event)

    def hear(self, event: Event) -> Event:
        before = self.session.state
        if isinstance(event, RequestHeaders) and before is State.AWAIT_HEADERS:
            self.headers = event
        try:
            reply = self.session.on_event(event, NOW)
        except ConversationError:
            assert self.session.state is State.FAILED
            return event
        assert isinstance(reply, REPLIES[before])
        self.replies.append(reply)
        if isinstance(reply, Forward):
            self.passes(reply, event)
        elif isinstance(reply, Answer):
            assert 200 <= reply.status <= 415
            assert self.session.state is State.ANSWERED
            assert (self.session.refusal is None) == (reply.status == 200)
        return event

    def passes(self, reply: Forward, event: Event) -> None:
        self.forwards.append(reply)
        assert isinstance(event, RequestBody)
        assert self.headers is not None
        assert len(self.forwards) == 1
        tenant = self.session.tenant
        assert tenant is not None
        name = tenant.profile.name
        assert name in self.credible()
        assert reply.metadata["enforced"] == "yes"
        assert reply.metadata["tenant"] == name
        assert reply.body is not None
        assert len(event.body) <= self.shot.book.rules.limits.max_body_bytes
        stamped = json.loads(reply.body)
        assert stamped["cache_salt"] == self.shot.keyring.salt_for(name)
        assert stamped.get("vllm_xargs", {"tenant": name})["tenant"] == name
        # What is neither taken away nor overwritten came from the client and may reach the upstream.
        ours = dict(reply.set_headers)
        assert len(ours) == len(reply.set_headers)
        kept = {key for key, _ in self.headers.headers} - set(reply.remove_headers) - set(ours)
        assert not kept & NEVER_FORWARDED
        assert not {key for key in kept if key.startswith("x-tenantry-")}
        assert ours["content-length"] == str(len(reply.body))
        assert ours.get("authorization") in (None, "Bearer engine-token")

    def credible(self) -> set[str]:
        """Whom this exchange's credentials speak for; found by looking, not by authenticating."""
        assert self.headers is not None
        identity = self.shot.book.rules.identity
        found = {str(san).rpartition("/")[2] for san in self.headers.uri_sans} if identity.mtls else set()
        if identity.jwt and self.headers.jwt_claims:
            found.add(str(self.headers.jwt_claims.get("tenant")))
        if identity.api_keys:
            values = b" ".join(value for _, value in self.headers.headers)
            found |= {name for name, key in KEYS.items() if key.encode() in values and name != "nobody"}
        return found

    @invariant()
    def the_mark_is_only_in_what_passes(self) -> None:
        """`enforced` is written with the last request-phase reply, and stands in no other."""
        marked = [reply for reply in self.replies if hasattr(reply, "metadata")]
        assert marked == list(self.forwards)
        assert (self.session.state is State.PASSED) <= (len(self.forwards) == 1)

    @invariant()
    def after_an_error_there_are_only_errors(self) -> None:
        if self.session.state is State.FAILED:
            answers = len(self.replies)
            for event in (RequestBody(body=b"", end_stream=True), RequestTrailers()):
                self.hear(event)
            assert len(self.replies) == answers
            assert self.session.state is State.FAILED


TestConversation: Callable[..., object] = Conversation.TestCase
Conversation.TestCase.settings = settings(stateful_step_count=10, max_examples=2 * settings().max_examples)
