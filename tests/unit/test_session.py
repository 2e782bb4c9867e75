"""One exchange as a conversation: `>>` is what Envoy sends, `<<` is what it must hear, or the state after it."""

import json
import re

import pytest
from tenantry.core.errors import ConversationError
from tenantry.core.events import Answer, Continue, Event, Forward, RequestBody, RequestTrailers, ResponseEvent
from tenantry.core.session import TRANSITIONS, Session, State
from tenantry_testing.documents import JWT, KEYS, MTLS, keyring, snapshot
from tenantry_testing.exchanges import REQUEST_ID, Refused, Transcript, body, headers, post

ACME, GLOBEX = KEYS["acme"], KEYS["globex"]
TRAILERS = RequestTrailers()
RESPONSE = ResponseEvent(kind="response_headers")
EMPTY = RequestBody(body=b"", end_stream=True)


def forwarded(talk: Transcript) -> Forward:
    assert isinstance(talk.heard, Forward), talk.heard
    return talk.heard


def test_a_chat_request_is_two_messages() -> None:
    talk = Transcript() >> post(key=ACME) << Continue() << State.AWAIT_BODY
    talk >> body() << Forward << State.PASSED
    assert talk.session.events == 2


def test_what_is_forwarded() -> None:
    """Invariants 1 and 2."""
    client = (("api-key", ACME.encode()), ("x-tenantry-tier", b"gold"), ("accept", b"*/*"), ("x-request-id", b"mine"))
    reply = forwarded(Transcript() >> post(*client, key=ACME) >> body())
    assert reply.body is not None
    assert json.loads(reply.body)["vllm_xargs"]["tenant"] == "acme"
    assert dict(reply.set_headers) == {
        "x-tenantry-tenant": "acme",
        "x-tenantry-tier": "gold",
        "x-tenantry-model": "chat-8b",
        "x-tenantry-version": "1.4.0",
        "x-tenantry-request-id": REQUEST_ID,
        "x-tenantry-cluster": "chat-8b@1.4.0",
        "x-request-id": f"acme:{REQUEST_ID}",
        "content-type": "application/json",
        "content-length": str(len(reply.body)),
        "authorization": "Bearer engine-token",
    }
    assert len(reply.set_headers) == len(dict(reply.set_headers))
    assert reply.remove_headers == ("api-key",)  # the others are overwritten, or may stay
    assert reply.metadata == {
        "tenant": "acme",
        "tier": "gold",
        "model": "chat-8b",
        "version": "1.4.0",
        "request_id": REQUEST_ID,
        "reason": "pin",
        "enforced": "yes",
    }


def test_a_key_may_come_as_pinecones_clients_send_it() -> None:
    (Transcript() >> post(("api-key", ACME.encode())) << Continue() >> body() << Forward)


def test_an_engine_that_expects_no_secret_gets_none() -> None:
    """Invariant 2: nor does it get the client's."""
    shot = snapshot()
    bare = type(shot)(book=shot.book, keyring=keyring())
    reply = forwarded(Transcript(bare) >> post(key=ACME) >> body())
    assert "authorization" not in dict(reply.set_headers)
    assert reply.remove_headers == ("authorization",)


def test_a_tenant_hears_which_models_it_has() -> None:
    talk = Transcript() >> headers(method="GET", path="/v1/models", key=KEYS["initech"], end_stream=True) << Answer
    assert isinstance(talk.heard, Answer)
    assert [each["id"] for each in json.loads(talk.heard.body)["data"]] == ["chat-8b"]
    talk << State.ANSWERED >> body() << ConversationError << State.FAILED


@pytest.mark.parametrize(
    ("event", "refused"),
    [
        (post(), Refused(status=401, code="missing_credential")),
        (post(key=KEYS["nobody"]), Refused(status=401, code="invalid_api_key")),
        (post(("authorization", b"Bearer x"), key=ACME), Refused(status=401, code="conflicting_credentials")),
        (post(path="/abort_requests"), Refused(status=401, code="missing_credential")),  # strangers learn nothing
        (post(key=ACME, path="/abort_requests"), Refused(status=404, code="unknown_route")),
        (post(key=ACME, path="/v1/chat/completions?x=1"), Refused(status=400, code="query_not_allowed")),
        (headers(key=ACME, method="GET"), Refused(status=405, code="method_not_allowed")),
        (headers(("content-type", b"text/plain"), key=ACME), Refused(status=415, code="unsupported_media_type")),
        (post(("content-encoding", b"gzip"), key=ACME), Refused(status=415, code="unsupported_encoding")),
        (post(("content-length", b"10485761"), key=ACME), Refused(status=413, code="body_too_large")),
        (headers(key=ACME, end_stream=True), Refused(status=400, code="missing_body")),
    ],
)
def test_headers_that_are_answered_here(event: Event, refused: Refused) -> None:
    talk = Transcript() >> event << refused << State.ANSWERED
    assert isinstance(talk.heard, Answer)
    assert talk.heard.details == f"tenantry_{refused.code}"
    assert talk.session.refusal is not None
    assert talk.session.refusal.code == refused.code
    assert (("www-authenticate", "Bearer") in talk.heard.headers) == (refused.status == 401)
    assert talk.heard.grpc_status is None
    talk >> body() << ConversationError << State.FAILED


@pytest.mark.parametrize(
    ("event", "refused"),
    [
        (RequestBody(body=b"{", end_stream=True), Refused(status=400, code="invalid_json")),
        (EMPTY, Refused(status=400, code="invalid_json")),
        (
            RequestBody(body=b'{"model":"a","model":"b"}', end_stream=True),
            Refused(status=400, code="ambiguous_keys", param="model"),
        ),
        (body("gpt-9"), Refused(status=404, code="model_not_found", param="model")),
        (body(background=True), Refused(status=400, code="unsupported_parameter", param="background")),
        (RequestBody(body=b" " * (10 * 1024 * 1024 + 1), end_stream=True), Refused(status=413, code="body_too_large")),
    ],
)
def test_bodies_that_are_answered_here(event: Event, refused: Refused) -> None:
    talk = Transcript() >> post(key=ACME) << Continue() >> event << refused << State.ANSWERED
    assert isinstance(talk.heard, Answer)
    assert ("content-type", "application/json") in talk.heard.headers
    talk >> event << ConversationError << State.FAILED


def test_a_body_of_the_greatest_size_passes() -> None:
    sent = body().body
    limit = snapshot(limits={"maxBodyBytes": 1024})
    (Transcript(limit) >> post(key=ACME) >> RequestBody(body=sent.ljust(1024), end_stream=True) << Forward)
    (Transcript(limit) >> post(key=ACME) >> RequestBody(body=sent.ljust(1025), end_stream=True) << Answer)


def test_a_model_of_others_does_not_exist() -> None:
    """The same answer for a model that others have and for one that nobody has."""
    theirs = (
        Transcript()
        >> post(key=KEYS["initech"])
        >> body("embed")
        << Refused(status=404, code="model_not_found", param="model")
    )
    nobodys = Transcript() >> post(key=KEYS["initech"]) >> body("gpt-9") << Answer
    assert theirs.heard == nobodys.heard


def test_a_verified_tenant_without_a_tier_is_403() -> None:
    by_token = snapshot(identity={"jwt": JWT})
    (Transcript(by_token) >> headers(jwt_claims={"tenant": "umbrella"}) << Refused(status=403, code="no_tier"))


def test_credentials_that_envoy_verified() -> None:
    shot = snapshot(identity={"jwt": JWT, "mtls": MTLS}, defaultTier="bronze")
    for known in (headers(jwt_claims={"tenant": "umbrella"}), headers(uri_sans=("spiffe://prod/tenant/umbrella",))):
        reply = forwarded(Transcript(shot) >> known << Continue() >> body() << Forward)
        assert reply.metadata["tenant"] == "umbrella"
        assert reply.metadata["tier"] == "bronze"


def test_a_certificate_that_a_client_only_speaks_of_is_none() -> None:
    xfcc = ("x-forwarded-client-cert", b"URI=spiffe://prod/tenant/acme")
    (Transcript(snapshot(identity={"mtls": MTLS})) >> post(xfcc) << Refused(status=401, code="missing_credential"))


def test_a_grpc_client_gets_a_grpc_status() -> None:
    """Of three, since clients retry most others."""
    grpc = ("content-type", b"application/grpc+proto")
    for event, status, code in (
        (headers(grpc), 401, 16),
        (headers(grpc, key=ACME, path="/milvus.proto.milvus.MilvusService/Search"), 404, 7),
        (headers(grpc, key=ACME), 415, 3),
    ):
        talk = Transcript() >> event << Answer
        assert isinstance(talk.heard, Answer)
        assert (talk.heard.status, talk.heard.grpc_status) == (status, code)
        assert talk.session.refusal is not None
        assert talk.heard.body == talk.session.refusal.message.encode()


def test_http2_trailers_leave_end_stream_false_and_the_body_is_last_all_the_same() -> None:
    (
        Transcript()
        >> post(key=ACME)
        << Continue()
        >> body(end_stream=False)
        << Forward
        >> TRAILERS
        << Continue()
        << State.PASSED
    )


def test_envoy_may_end_a_large_body_with_an_empty_one() -> None:
    """envoyproxy/envoy#46237."""
    (Transcript() >> post(key=ACME) >> body() << Forward >> EMPTY << Continue() << State.PASSED)


def test_a_second_body_with_content_would_pass_unread() -> None:
    """Invariant 1."""
    (Transcript() >> post(key=ACME) >> body() << Forward >> body() << ConversationError << State.FAILED)


def test_response_events_change_nothing() -> None:
    (Transcript() >> post(key=ACME) >> body() >> RESPONSE << Continue() >> RESPONSE << Continue() << State.PASSED)


UNEXPECTED: dict[State, tuple[Event, ...]] = {
    State.AWAIT_HEADERS: (body(), EMPTY, TRAILERS, RESPONSE),
    State.AWAIT_BODY: (post(key=ACME), TRAILERS, RESPONSE),
    State.PASSED: (post(key=ACME), body()),
    State.ANSWERED: (post(key=ACME), body(), EMPTY, TRAILERS, RESPONSE),
    State.FAILED: (post(key=ACME), body(), EMPTY, TRAILERS, RESPONSE),
}


def in_state(state: State) -> Transcript:
    talk = Transcript()
    if state is State.ANSWERED:
        return talk >> post() << state
    if state is State.FAILED:
        return talk >> body() << state
    if state is not State.AWAIT_HEADERS:
        talk >> post(key=ACME)
    if state is State.PASSED:
        talk >> body()
    return talk << state


@pytest.mark.parametrize(
    ("state", "event"), [(state, event) for state, events in UNEXPECTED.items() for event in events]
)
def test_whatever_is_not_expected_ends_the_stream_for_good(state: State, event: Event) -> None:
    """Invariant 4."""
    talk = in_state(state) >> event << ConversationError << State.FAILED
    for after in (post(key=ACME), body(), EMPTY, TRAILERS, RESPONSE):
        talk >> after << ConversationError << State.FAILED
    assert re.search(r"RequestBody|content", str((in_state(state) >> body()).heard)) or state is State.AWAIT_BODY


def test_the_table_has_no_other_rows() -> None:
    allowed = {(state, type(event)) for state in State for event in (post(), body(), TRAILERS, RESPONSE)}
    refused = {(state, type(event)) for state, events in UNEXPECTED.items() for event in events} - {
        (State.PASSED, RequestBody)
    }
    assert set(TRANSITIONS) == allowed - refused


@pytest.mark.parametrize("missing", [":method", ":path"])
def test_pseudo_headers_come_once(missing: str) -> None:
    good = post(key=ACME)
    twice = type(good)(headers=(*good.headers, (missing, b"x")), end_stream=False)
    (Transcript() >> twice << ConversationError << State.FAILED)
    without = type(good)(headers=tuple(each for each in good.headers if each[0] != missing), end_stream=False)
    # CONNECT has no path: that is a client's doing, not Envoy's.
    expected = ConversationError if missing == ":method" else Refused(status=404, code="unknown_route")
    (Transcript() >> without << expected)


def test_a_bug_fails_the_exchange_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 4: whatever goes wrong inside, no later event finds a way through."""
    talk = Transcript() >> post(key=ACME)
    monkeypatch.setattr("tenantry.core.session.decide", lambda *_, **__: 1 / 0)
    talk >> body() << ZeroDivisionError << State.FAILED
    monkeypatch.undo()
    talk >> body() << ConversationError << State.FAILED


def test_a_body_without_a_verified_tenant_is_a_bug_that_passes_nothing() -> None:
    """Invariant 1, should the table ever be wrong."""
    talk = Transcript()
    talk.session.state = State.AWAIT_BODY
    talk >> body() << ConversationError << State.FAILED


def test_the_request_id_is_never_the_clients() -> None:
    ids = iter(("a" * 32, "b" * 32))
    sessions = [Session(snapshot(), lambda: next(ids)) for _ in range(2)]
    assert [session.request_id for session in sessions] == ["a" * 32, "b" * 32]


def test_the_operator_can_forward_more_headers() -> None:
    shot = snapshot(limits={"forwardHeaders": ["x-trace", "authorization", "x-tenantry-tier"]})
    client = (("x-trace", b"1"), ("x-other", b"2"), ("x-tenantry-mirror", b"3"))
    reply = forwarded(Transcript(shot) >> post(*client, key=ACME) >> body())
    assert set(reply.remove_headers) == {"x-other", "x-tenantry-mirror"}
    assert dict(reply.set_headers)["authorization"] == "Bearer engine-token"
