"""Exchanges with stores as transcripts: what Envoy says, and what is said to it."""

import gzip
import json
import sys
from typing import Any

import pytest
from google.protobuf.message import Message
from msgspec import structs
from tenantry.core import keyring as keyrings
from tenantry.core.errors import ConversationError, UnavailableError
from tenantry.core.events import (
    Answer,
    Continue,
    Deliver,
    Forward,
    Header,
    RequestBody,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
)
from tenantry.core.session import Snapshot, State, closed
from tenantry.core.vector import scope
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.calls import Need, StoreOf
from tenantry.core.vector.grpc_frame import write_message
from tenantry_testing.documents import KEYS, secret_files
from tenantry_testing.exchanges import REQUEST_ID, Denied, Refused, Transcript, body, headers, post
from tenantry_testing.milvus import delete, found, numbers, query, search, texts
from tenantry_testing.store_exchanges import (
    WITH_STORES,
    answer,
    answer_body,
    call,
    greeting,
    greeting_body,
    message,
    store_transcript,
    with_stores,
)

KEY = KEYS["acme"]
TOKEN = scope.token_of("acme")
INVALID_ARGUMENT, PERMISSION_DENIED, UNAVAILABLE = 3, 7, 14
PINECONE = {"index": {"kind": "pinecone", "endpoints": ["127.0.0.1:5080"], "isolation": "namespace"}}
WITH_PINECONE = with_stores(stores=PINECONE)


def heard(transcript: Transcript, kind: type[Any]) -> Any:
    assert isinstance(transcript.heard, kind), transcript.heard
    return transcript.heard


def asked(
    sent: Message | None = None, method: str = "Query", *more: Header, shot: Snapshot = WITH_STORES
) -> Transcript:
    """An exchange whose request has gone to the store."""
    started = store_transcript(shot) >> call(method, *more, key=KEY) << Continue()
    return started >> message(query() if sent is None else sent) << Forward


# On the way there.


def test_a_call_from_its_headers_to_its_verified_answer() -> None:
    exchange = asked() << State.AWAIT_ANSWER >> answer() << Continue() << State.AWAIT_ANSWER_BODY
    exchange >> answer_body(pb.QueryResults(fields_data=[texts("tenant_id", "acme"), numbers("id", 1)])) << Deliver
    exchange << State.VERIFIED
    shown = heard(exchange, Deliver)
    assert shown.metadata == {"verified": "yes"}
    assert shown.body == write_message(
        pb.QueryResults(fields_data=[numbers("id", 1)], collection_name="notes").SerializeToString()
    )
    store = exchange.session.store
    assert store is not None
    assert (store.rows, store.failed, store.operation) == (1, False, "Query")
    assert store.need == Need(collection="notes", partition=TOKEN)


def test_what_goes_to_the_store() -> None:
    more: tuple[Header, ...] = (
        ("x-tenantry-tenant", b"globex"), ("cookie", b"c"), ("dbname", b"default"), ("grpc-encoding", b"identity"),
        ("grpc-timeout", b"1S"), ("content-length", b"5"), ("accept-encoding", b"gzip"), ("user-agent", b"u"),
    )  # fmt: skip
    forward = heard(asked(query(), "Query", *more), Forward)
    assert dict(forward.set_headers) == {
        "x-tenantry-tenant": "acme",
        "x-tenantry-tier": "gold",
        "x-tenantry-request-id": REQUEST_ID,
        "x-tenantry-cluster": dict(forward.set_headers)["x-tenantry-cluster"],
        "x-request-id": REQUEST_ID,
        "te": "trailers",
    }
    assert set(forward.remove_headers) == {
        "authorization", "cookie", "dbname", "grpc-encoding", "content-length", "accept-encoding",
    }  # fmt: skip
    assert forward.metadata == {
        "tenant": "acme", "tier": "gold", "store": "docs", "operation": "Query", "request_id": REQUEST_ID,
        "reason": "store", "enforced": "yes",
    }  # fmt: skip
    sent = pb.QueryRequest.FromString(forward.body[5:])
    assert sent.expr == '(tenant_id == "acme") and (price > 3)'


@pytest.mark.parametrize(
    ("stores", "name", "sent"),
    [
        (None, "docs", ("authorization", "cm9vdDpwdw==")),
        (PINECONE, "index", ("api-key", "root:pw")),
    ],
)
def test_the_stores_own_credential(stores: Any, name: str, sent: tuple[str, str]) -> None:
    shot = WITH_STORES if stores is None else WITH_PINECONE
    secret = keyrings.keyring(secret_files() | {f"store.{name}": b"root:pw"}, (), (name,))
    shot = structs.replace(shot, keyring=secret)
    if stores is None:
        forward = heard(asked(shot=shot), Forward)
    else:
        start = headers(("api-key", KEY.encode()), method="GET", path="/describe_index_stats", end_stream=True)
        forward = heard(store_transcript(shot) >> start, Forward)
    assert sent in forward.set_headers
    assert sent[0] not in forward.remove_headers


def test_a_closed_gate_lets_nothing_pass() -> None:
    store_transcript(gate=closed) >> greeting(key=KEY) << Denied(UNAVAILABLE, "store_not_proven") << State.ANSWERED


def test_the_gate_is_asked_about_the_store_and_the_tenant_and_again_before_the_body_goes_on() -> None:
    seen: list[StoreOf] = []
    talk = store_transcript(gate=seen.append) >> greeting(key=KEY) << Continue()
    assert [(each.tenant, each.name) for each in seen] == [("acme", "docs")]
    talk >> greeting_body() << Forward
    assert [(each.tenant, each.name) for each in seen] == [("acme", "docs")] * 2


def test_a_client_without_a_key_reaches_no_gate() -> None:
    seen: list[StoreOf] = []
    store_transcript(gate=seen.append) >> greeting(key=None) << Answer
    assert seen == []


def test_refusals_before_the_body() -> None:
    for start, status, code in (
        (call("DropDatabase", key=KEY), PERMISSION_DENIED, "method_not_allowed"),
        (call("Query", ("dbname", b"other"), key=KEY), PERMISSION_DENIED, "database_not_allowed"),
        (call("Query", ("content-encoding", b"gzip"), key=KEY), INVALID_ARGUMENT, "unsupported_encoding"),
        (call("Query", ("content-length", b"9" * 30), key=KEY), INVALID_ARGUMENT, "body_too_large"),
    ):
        store_transcript() >> start << Denied(status, code) << State.ANSWERED


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (message(query("other")), "collection_not_found"),
        (message(delete(expr=" ")), "invalid_filter"),
        (RequestBody(body=b"", end_stream=True), "invalid_grpc"),
        (RequestBody(body=write_message(b"") * 2, end_stream=True), "invalid_grpc"),
        (RequestBody(body=write_message(b"\xff"), end_stream=True), "invalid_message"),
    ],
)
def test_refusals_of_the_body(sent: RequestBody, code: str) -> None:
    method = "Delete" if code == "invalid_filter" else "Query"
    transcript = store_transcript() >> call(method, key=KEY) << Continue()
    held = sys.getrefcount(sent)
    transcript >> sent << State.ANSWERED
    assert heard(transcript, Answer).details == f"tenantry_{code}"
    assert transcript.session.refusal is not None
    assert sys.getrefcount(sent) == held, "the refusal keeps what was refused"


def test_a_body_that_announced_no_length_is_measured() -> None:
    small = with_stores(limits={"maxBodyBytes": 1024})
    large = RequestBody(body=write_message(bytes(1100)), end_stream=True)
    store_transcript(small) >> call("Query", key=KEY) >> large << Denied(INVALID_ARGUMENT, "body_too_large")
    bomb = gzip.compress(query(expr="price > 3 " + " " * 5000).SerializeToString())
    packed = RequestBody(body=b"\x01" + len(bomb).to_bytes(4) + bomb, end_stream=True)
    start = call("Query", ("grpc-encoding", b"gzip"), key=KEY)
    store_transcript(small) >> start >> packed << Denied(INVALID_ARGUMENT, "body_too_large")


def test_a_compressed_message_goes_on_plain() -> None:
    packed = gzip.compress(query().SerializeToString())
    sent = RequestBody(body=b"\x01" + len(packed).to_bytes(4) + packed, end_stream=True)
    transcript = store_transcript() >> call("Query", ("grpc-encoding", b"gzip"), key=KEY) >> sent << Forward
    forward = heard(transcript, Forward)
    assert forward.body[0] == 0
    assert "grpc-encoding" in forward.remove_headers


def test_a_second_body() -> None:
    asked() >> RequestBody(body=b"", end_stream=True) << Continue() << State.AWAIT_ANSWER >> answer() << Continue()
    asked() >> RequestBody(body=b"x", end_stream=True) << ConversationError << State.FAILED


def test_what_a_request_needs_cannot_be_made() -> None:
    transcript = asked()
    refused = transcript.session.refuse(UnavailableError("store_busy", "Later."))
    assert Denied(UNAVAILABLE, "store_busy").matches(refused)
    transcript << State.ANSWERED
    with pytest.raises(ConversationError):
        transcript.session.refuse(UnavailableError("store_busy", "Later."))


def test_another_path_is_not_for_a_store() -> None:
    transcript = store_transcript() >> post(key=KEY) << Continue() >> body() << Forward << State.PASSED
    assert transcript.session.store is None
    assert transcript.session.decision is not None


# On the way back.


def test_another_tenants_row_is_withheld() -> None:
    exchange = asked() >> answer() >> answer_body(pb.QueryResults(fields_data=[texts("tenant_id", "globex")]))
    exchange << Denied(PERMISSION_DENIED, "foreign_row") << State.ANSWERED
    assert b"globex" not in heard(exchange, Answer).body
    assert heard(exchange, Answer).status == 502
    exchange = asked(search(), "Search") >> answer() >> answer_body(found(1, tenants=("globex",)))
    exchange << Denied(PERMISSION_DENIED, "foreign_row")


@pytest.mark.parametrize(
    "heads",
    [
        (answer(), ResponseBody(body=b"x", end_stream=True)),
        (answer(("content-encoding", b"gzip")), answer_body(pb.QueryResults())),
        (answer(("content-encoding", b"gzip"), ("content-encoding", b"identity")), answer_body(pb.QueryResults())),
        (answer(status=b"500"), answer_body(pb.QueryResults())),
        (answer(status=b"x"), answer_body(pb.QueryResults())),
        (answer(), answer_body(pb.QueryResults(fields_data=[numbers("id", 1)]))),
    ],
)
def test_what_cannot_be_verified_is_withheld(heads: tuple[ResponseHeaders, ResponseBody]) -> None:
    asked() >> heads[0] << Continue() >> heads[1] << Denied(PERMISSION_DENIED, "unreadable_answer") << State.ANSWERED


def test_an_error_that_is_headers_alone() -> None:
    exchange = asked() >> answer(("grpc-status", b"12"), ("grpc-message", b"globex"), end_stream=True) << State.VERIFIED
    assert exchange.heard == Deliver(
        set_headers=(), remove_headers=("grpc-message",), body=None, metadata={"verified": "yes"}
    )
    assert exchange.session.store is not None
    assert exchange.session.store.failed


def test_a_status_that_says_failed() -> None:
    exchange = asked() >> answer() >> answer_body(pb.QueryResults(status=pb.Status(code=100))) << Deliver
    assert exchange.session.store is not None
    assert exchange.session.store.failed


def test_the_stores_own_headers_do_not_pass() -> None:
    more: tuple[Header, ...] = (("server", b"s"), ("x-trace", b"globex"), ("x-trace", b"2"), ("content-length", b"9"))
    exchange = asked() >> answer(*more) >> answer_body(pb.QueryResults(collection_name="x")) << Deliver
    shown = heard(exchange, Deliver)
    assert shown.remove_headers == ("server", "x-trace")
    assert shown.set_headers == (("content-length", str(len(shown.body))),)


def test_an_answer_that_stays_as_it_is() -> None:
    plain = pb.VersionResponse(version="2.6")
    exchange = asked(pb.EmptyRequest(), "GetVersion") >> answer() >> answer_body(plain) << Deliver
    assert heard(exchange, Deliver).body is None


@pytest.mark.parametrize("event", [ResponseBody(body=b"", end_stream=True), ResponseTrailers(), RequestTrailers()])
def test_events_out_of_turn(event: Any) -> None:
    asked() >> event << ConversationError << State.FAILED


def test_nothing_follows_a_verified_answer() -> None:
    exchange = asked() >> answer() >> answer_body(pb.QueryResults()) << State.VERIFIED
    exchange >> answer_body(pb.QueryResults()) << ConversationError << State.FAILED


# A store whose calls may have no body.


def stats(*more: Header, end_stream: bool = True) -> Any:
    return headers(("api-key", KEY.encode()), *more, method="GET", path="/describe_index_stats", end_stream=end_stream)


def test_a_get_has_no_body() -> None:
    transcript = store_transcript(WITH_PINECONE) >> stats() << Forward << State.AWAIT_ANSWER
    forward = heard(transcript, Forward)
    assert forward.body is None
    assert "content-length" not in dict(forward.set_headers)
    assert forward.metadata["operation"] == "stats"
    own: tuple[Header, ...] = ((":status", b"200"), ("content-type", b"application/json"), ("content-length", b"5"))
    transcript >> ResponseHeaders(headers=own, end_stream=False) << Continue()
    transcript >> ResponseBody(body=b'{"namespaces":{"x":{"vectorCount":1}},"dimension":2}', end_stream=True) << Deliver
    shown = heard(transcript, Deliver)
    assert b'"x"' not in shown.body
    assert dict(shown.set_headers)["content-length"] == str(len(shown.body))


def test_a_get_that_has_a_body() -> None:
    transcript = store_transcript(WITH_PINECONE) >> stats(end_stream=False) << Continue()
    transcript >> RequestBody(body=b"", end_stream=True) << ConversationError << State.FAILED


def test_a_refusal_over_rest_is_json() -> None:
    start = headers(
        ("api-key", KEY.encode()), method="GET", path="/vectors/list?namespace=a&namespace=b", end_stream=True
    )
    store_transcript(WITH_PINECONE) >> start << Refused(status=400, code="invalid_query", param="namespace")


def test_a_withheld_answer_over_rest() -> None:
    transcript = store_transcript(WITH_PINECONE) >> stats() << Forward
    own: tuple[Header, ...] = ((":status", b"200"), ("content-type", b"application/json"))
    transcript >> ResponseHeaders(headers=own, end_stream=False) >> ResponseBody(body=b"<html>", end_stream=True)
    transcript << Refused(status=502, code="unreadable_answer")
    assert json.loads(heard(transcript, Answer).body)["error"]["type"] == "server_error"
