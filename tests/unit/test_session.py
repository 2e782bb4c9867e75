"""One exchange as a conversation: `>>` is what Envoy sends, `<<` is what it must hear, or the state after it."""

import json
import re

import pytest
from tenantry.core.errors import ConversationError
from tenantry.core.events import (
    Answer,
    Continue,
    Event,
    Forward,
    RequestBody,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
)
from tenantry.core.rollout import standing
from tenantry.core.rollout.trial import Trial
from tenantry.core.rollout.trial import read as read_trial
from tenantry.core.routing import Live
from tenantry.core.session import TRANSITIONS, Session, Snapshot, State, closed
from tenantry.core.split import throw
from tenantry.core.vector.calls import StoreOf
from tenantry_testing.documents import JWT, KEYS, MTLS, NOW, keyring, live, snapshot
from tenantry_testing.exchanges import REQUEST_ID, Refused, Transcript, body, headers, post
from tenantry_testing.store_exchanges import greeting, greeting_body, store_transcript

ACME, GLOBEX = KEYS["acme"], KEYS["globex"]
TRAILERS = RequestTrailers()
RESPONSE = ResponseHeaders(headers=((":status", b"200"),), end_stream=False)
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


BODY_OF_ANSWER = ResponseBody(body=b"\0\0\0\0\0", end_stream=False)
TRAILERS_OF_ANSWER = ResponseTrailers()
EVENTS: tuple[Event, ...] = (post(key=ACME), body(), TRAILERS, RESPONSE, BODY_OF_ANSWER, TRAILERS_OF_ANSWER)

UNEXPECTED: dict[State, tuple[Event, ...]] = {
    State.AWAIT_HEADERS: (body(), EMPTY, TRAILERS, RESPONSE, BODY_OF_ANSWER, TRAILERS_OF_ANSWER),
    State.AWAIT_BODY: (post(key=ACME), TRAILERS, RESPONSE, BODY_OF_ANSWER, TRAILERS_OF_ANSWER),
    State.PASSED: (post(key=ACME), body()),
    State.AWAIT_ANSWER: (post(key=ACME), body(), TRAILERS, BODY_OF_ANSWER, TRAILERS_OF_ANSWER),
    State.AWAIT_ANSWER_BODY: (post(key=ACME), body(), EMPTY, TRAILERS, RESPONSE, TRAILERS_OF_ANSWER),
    State.VERIFIED: (*EVENTS, EMPTY),
    State.ANSWERED: (*EVENTS, EMPTY),
    State.FAILED: (*EVENTS, EMPTY),
}
WITH_A_STORE = (State.AWAIT_ANSWER, State.AWAIT_ANSWER_BODY, State.VERIFIED)


def in_state(state: State) -> Transcript:
    if state in WITH_A_STORE:
        talk = store_transcript() >> greeting(key=ACME) >> greeting_body() << State.AWAIT_ANSWER
        if state is not State.AWAIT_ANSWER:
            talk >> RESPONSE
        if state is State.VERIFIED:
            talk >> BODY_OF_ANSWER
        return talk << state
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
    for after in (*EVENTS, EMPTY):
        talk >> after << ConversationError << State.FAILED
    assert re.search(r"RequestBody|content", str((in_state(state) >> body()).heard)) or state is State.AWAIT_BODY


def test_the_table_has_no_other_rows() -> None:
    allowed = {(state, type(event)) for state in State for event in EVENTS}
    refused = {(state, type(event)) for state, events in UNEXPECTED.items() for event in events}
    # A body is refused there for its content alone; the empty one that Envoy may send is not.
    with_content = {(State.PASSED, RequestBody), (State.AWAIT_ANSWER, RequestBody)}
    assert set(TRANSITIONS) == allowed - (refused - with_content)


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


# --- rollouts: what Envoy's router is told, and what comes back with the access log --------------------------------

ROUTE, MIRROR = "x-tenantry-route", "x-tenantry-mirror-cluster"
PER_TRY, HEDGE = "x-envoy-upstream-rq-per-try-timeout-ms", "x-envoy-hedge-on-per-try-timeout"
INITECH = KEYS["initech"]  # neither pinned nor beta


def rollout(**more: object) -> Snapshot:
    return snapshot({"models/chat-8b/rollout": {"candidate": "1.5.0", **more}})


TO_CANDIDATE, TO_STABLE, COPIED = rollout(percent=100), rollout(percent=0), rollout(percent=0, mirrorPercent=100)


def routed(shot: Snapshot, *, key: str = INITECH, told: Live | None = None, **members: object) -> dict[str, str]:
    """The headers that the router acts on."""
    reply = forwarded(Transcript(shot, live=told) >> post(key=key) >> body(**members))  # type: ignore[arg-type]
    return {
        name: value
        for name, value in reply.set_headers
        if name in {ROUTE, MIRROR, PER_TRY, HEDGE, "x-tenantry-cluster", "x-tenantry-version"}
    }


STABLE = {"x-tenantry-version": "1.4.0", "x-tenantry-cluster": "chat-8b@1.4.0"}
RESCUE = {"x-tenantry-version": "1.5.0", "x-tenantry-cluster": "chat-8b@1.5.0@1.4.0", ROUTE: "rescue"}


def test_a_stream_of_the_candidate_is_rescued_when_it_has_no_headers_in_time() -> None:
    assert routed(TO_CANDIDATE, stream=True) == RESCUE | {PER_TRY: "10000"}


def test_a_whole_answer_of_the_candidate_goes_on_beside_its_rescue() -> None:
    """It may be slow and good: the first answer wins."""
    assert routed(TO_CANDIDATE) == RESCUE | {PER_TRY: "120000", HEDGE: "true"}


def test_the_operator_says_how_long_a_candidate_has() -> None:
    shot = rollout(percent=100, rescue={"streamSeconds": 0.5, "answerSeconds": 33.3333})
    assert routed(shot, stream=True)[PER_TRY] == "500"
    assert routed(shot)[PER_TRY] == "33333"


def test_a_beta_tenant_is_rescued_too() -> None:
    assert routed(TO_STABLE, key=GLOBEX, stream=True) == RESCUE | {PER_TRY: "10000"}


def test_a_mirrored_request_says_where_its_copy_goes() -> None:
    """And nothing else: the original waits for the stable version as it would without a rollout."""
    assert routed(COPIED) == STABLE | {ROUTE: "mirror", MIRROR: "chat-8b@1.5.0"}


@pytest.mark.parametrize(
    ("shot", "key", "told"),
    [
        (TO_STABLE, INITECH, None),
        (TO_CANDIDATE, ACME, None),  # pinned
        (COPIED, ACME, None),
        (TO_CANDIDATE, INITECH, live(TO_CANDIDATE.book.rules, **{"chat-8b": standing.State.REVERTED})),
        (COPIED, INITECH, live(COPIED.book.rules, **{"chat-8b": standing.State.REVERTED})),
        (TO_CANDIDATE, GLOBEX, live(TO_CANDIDATE.book.rules, **{"chat-8b": standing.State.PAUSED})),
        (TO_CANDIDATE, INITECH, Live()),  # its state was not read
    ],
)
def test_who_stays_on_the_stable_version_has_neither_rescue_nor_copy(
    shot: Snapshot, key: str, told: Live | None
) -> None:
    """Invariant 8."""
    assert routed(shot, key=key, told=told) == STABLE


def test_a_tenant_pinned_to_the_candidate_is_not_rescued() -> None:
    shot = snapshot({"models/chat-8b/rollout/percent": 5, "tenants.acme.pins": {"chat-8b": "1.5.0"}})
    assert routed(shot, key=ACME) == {"x-tenantry-version": "1.5.0", "x-tenantry-cluster": "chat-8b@1.5.0"}


@pytest.mark.parametrize("of", [{}, {"percent": 100}, {"mirrorPercent": 100}])
@pytest.mark.parametrize("key", [ACME, INITECH])
def test_a_clients_own_copies_of_these_headers_never_win(of: dict[str, object], key: str) -> None:
    """Invariant 2: overwritten or taken off, also where an operator forwards them by mistake."""
    names = (ROUTE, MIRROR, PER_TRY, HEDGE, "x-tenantry-cluster", "x-envoy-max-retries", "x-envoy-retry-on")
    careless = snapshot({"models/chat-8b/rollout": {"candidate": "1.5.0", **of}}, limits={"forwardHeaders": names})
    for each in (rollout(**of), careless):
        sent = tuple((name, b"forged") for name in names)
        reply = forwarded(Transcript(each) >> post(*sent, key=key) >> body())
        for name in names:
            assert (name in dict(reply.set_headers)) != (name in reply.remove_headers)
        assert "forged" not in dict(reply.set_headers).values()


def test_what_a_request_is_to_its_rollout_goes_into_the_metadata() -> None:
    shot = rollout(percent=100)
    reply = forwarded(Transcript(shot) >> post(key=INITECH) >> body(user="u-77", stream=True))
    (view,) = live(shot.book.rules).rollouts.values()
    dice = throw(shot.keyring.split, view.id, "initech", b"body.user\0u-77")
    assert read_trial(reply.metadata) == Trial(
        rollout=view.id, candidate="1.5.0", arm="candidate", share=1.0, unit=dice.tag, limit_s=10.0
    )
    assert reply.metadata["enforced"] == "yes"
    assert "u-77" not in str(reply.metadata)
    assert "u-77" not in str(reply.set_headers)


def test_a_conversation_with_a_past_says_so() -> None:
    past = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    for messages, has_past in ((past, True), (past[:1], False)):
        reply = forwarded(Transcript(COPIED) >> post(key=INITECH) >> body(messages=messages))
        trial = read_trial(reply.metadata)
        assert trial is not None
        assert (trial.arm, trial.mirror, trial.has_past) == ("stable", True, has_past)


def test_a_pinned_tenants_request_is_nothing_to_a_rollout() -> None:
    reply = forwarded(Transcript(TO_CANDIDATE) >> post(key=ACME) >> body(user="u"))
    assert read_trial(reply.metadata) is None
    assert set(reply.metadata) == {"tenant", "tier", "model", "version", "request_id", "reason", "enforced"}


def test_one_unit_goes_one_way_whatever_the_request() -> None:
    """The unit is what the request names, and each that names none is one by itself."""
    shot = rollout(percent=50)

    def version(request_id: str, **members: object) -> str:
        session = Session(shot, lambda: request_id, lambda: live(shot.book.rules))
        session.on_event(post(key=INITECH), NOW)
        session.on_event(body(**members), NOW)  # type: ignore[arg-type]
        assert session.decision is not None
        return session.decision.version

    ids = [f"{number:032x}" for number in range(40)]
    for user in ("ann", "ben", "cleo"):
        assert len({version(each, user=user, seed=number) for number, each in enumerate(ids)}) == 1
    assert {version(each) for each in ids} == {version(each, user=each) for each in ids} == {"1.4.0", "1.5.0"}


def test_a_revert_counts_from_the_next_body_on() -> None:
    """Headers may have come long before: a slow upload must not carry an old state with it."""
    now_known = [live(TO_CANDIDATE.book.rules)]
    session = Session(TO_CANDIDATE, lambda: REQUEST_ID, lambda: now_known[-1])
    session.on_event(post(key=INITECH), NOW)
    now_known.append(live(TO_CANDIDATE.book.rules, **{"chat-8b": standing.State.REVERTED}))
    session.on_event(body(), NOW)
    assert session.decision is not None
    assert (session.decision.version, session.decision.rescued) == ("1.4.0", False)


def test_a_store_that_closed_while_the_body_was_under_way_gets_nothing() -> None:
    shut = False

    def gate(store: StoreOf) -> None:
        if shut:
            closed(store)

    talk = store_transcript(gate=gate) >> greeting(key=ACME) << Continue
    shut = True
    talk >> greeting_body() << State.ANSWERED
    assert talk.session.refusal is not None
    assert talk.session.refusal.code == "store_not_proven"
