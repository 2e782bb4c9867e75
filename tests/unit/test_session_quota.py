"""What a session says of quotas and usage: transcripts, and a sidecar that asks before it replies."""

import json

import pytest
from google.protobuf.json_format import MessageToDict
from tenantry.adapters._pb import wire_pb2 as wire
from tenantry.adapters.metrics import Metrics
from tenantry.adapters.sidecar import Exchange, Sidecar
from tenantry.core.errors import ConversationError, RateLimitedError
from tenantry.core.events import Continue, Forward, ResponseBody, ResponseHeaders
from tenantry.core.quota.claim import Claim
from tenantry.core.session import State
from tenantry.core.usage import UsageRecord
from tenantry.explained import explained
from tenantry_testing import documents
from tenantry_testing.documents import KEYS, snapshot
from tenantry_testing.exchanges import REQUEST_ID, Refused, Transcript, body, post

ACME, GLOBEX = KEYS["acme"], KEYS["globex"]
LIMITED = snapshot({"tenants.acme.quota": {"computeUnitsPerMinute": 50}})
READ = snapshot({"models/embed/usage": "response"})
OK = ResponseHeaders(headers=((":status", b"200"), ("content-type", b"application/json")), end_stream=False)


def test_a_tenant_with_a_quota_claims_what_its_request_may_cost() -> None:
    talk = Transcript(LIMITED) >> post(key=ACME) << Continue() >> body(max_tokens=10) << Forward
    claimed = talk.session.claim
    assert claimed is not None
    assert (claimed.tenant, claimed.limits.minute, claimed.sequences) == ("acme", 50_000, 1)
    assert 30 < claimed.amount < 70


def test_others_claim_nothing_and_a_refused_request_neither() -> None:
    talk = Transcript(LIMITED) >> post(key=GLOBEX) << Continue() >> body() << Forward
    assert talk.session.claim is None
    assert (Transcript(LIMITED) >> post(key=ACME) >> body("no such model") << Refused(
        status=404, code="model_not_found", param="model"
    )).session.claim is None  # fmt: skip


def test_a_request_can_be_taken_back_before_it_went_and_at_no_other_time() -> None:
    refusal = RateLimitedError("rate_limit_exceeded", "later", headers=(("retry-after", "3"),))
    talk = Transcript(LIMITED) >> post(key=ACME)
    with pytest.raises(ConversationError):
        talk.session.refuse(refusal)
    answer = (talk >> body()).session.refuse(refusal)
    talk << State.ANSWERED
    assert (answer.status, dict(answer.headers)["retry-after"]) == (429, "3")
    assert json.loads(answer.body)["error"]["type"] == "rate_limit_exceeded"


def test_a_response_is_watched_for_models_that_say_so() -> None:
    talk = Transcript(READ) >> post(key=ACME, path="/v1/embeddings") << Continue(watch="headers")
    talk >> body("embed", input="x") << Forward
    forward = talk.heard
    assert isinstance(forward, Forward)
    assert {key: forward.metadata[key] for key in ("usage", "api", "streams")} == {
        "usage": "response", "api": "embeddings", "streams": "no",
    }  # fmt: skip
    assert "accept-encoding" in forward.remove_headers
    talk >> OK << Continue(watch="body")
    usage = json.dumps({"usage": {"prompt_tokens": 7, "total_tokens": 7}}).encode()
    talk >> ResponseBody(body=usage, end_stream=True) << Continue() << State.PASSED
    assert talk.session.response_usage is not None
    record = talk.session.response_usage.record(documents.NOW)
    assert (record.request_id, record.tenant, record.version, record.input_tokens) == (REQUEST_ID, "acme", "1", 7)


def test_another_models_response_is_let_go_of_at_its_headers() -> None:
    talk = Transcript(READ) >> post(key=ACME) << Continue(watch="headers") >> body() << Forward
    assert isinstance(talk.heard, Forward)
    assert "usage" not in talk.heard.metadata
    talk >> OK << Continue()


def test_who_may_not_use_such_a_model_is_not_watched() -> None:
    Transcript(READ) >> post(key=KEYS["initech"]) << Continue()


def test_a_stream_is_asked_for_its_usage_and_keeps_its_other_options() -> None:
    read = snapshot({"models/chat-8b/usage": "response"})
    talk = Transcript(read) >> post(key=ACME)
    talk >> body(stream=True, stream_options={"include_usage": False, "x": 1}) << Forward
    assert isinstance(talk.heard, Forward)
    assert json.loads(talk.heard.body or b"")["stream_options"] == {"include_usage": True, "x": 1}
    refused = Refused(status=400, code="invalid_stream_options", param="stream_options")
    Transcript(read) >> post(key=ACME) >> body(stream=True, stream_options=[]) << refused


class Desk:
    """Grants or refuses, and notes what it was asked."""

    def __init__(self) -> None:
        self.refusal: RateLimitedError | None = None
        self.asked: list[Claim] = []
        self.over: list[str] = []

    async def admit(self, claim: Claim, request_id: str) -> dict[str, str]:
        self.asked.append(claim)
        if self.refusal is not None:
            raise self.refusal
        return {"limit": "50", "remaining": "49", "reset": "1.2s"}

    def ended(self, request_id: str) -> None:
        self.over.append(request_id)

    def record(self, record: UsageRecord) -> None:
        raise NotImplementedError


def sent(exchange: Exchange) -> None:
    headers, posted = post(key=ACME), body()
    request = wire.ProcessingRequest()
    for name, value in headers.headers:
        request.request_headers.headers.headers.add(key=name, raw_value=value)
    assert exchange.answer(request.SerializeToString()) != b""
    assert not exchange.waits
    request = wire.ProcessingRequest()
    request.request_body.body, request.request_body.end_of_stream = posted.body, True
    assert exchange.answer(request.SerializeToString()) == b""


async def test_no_reply_leaves_before_the_desk_has_granted() -> None:
    desk = Desk()
    exchange = Sidecar(LIMITED, Metrics(), quotas=desk).open_exchange()
    sent(exchange)
    assert (exchange.waits, exchange.decided, desk.asked) == (True, False, [])
    reply = wire.ProcessingResponse.FromString(await exchange.provide())
    assert (exchange.waits, exchange.decided) == (False, True)
    told = MessageToDict(reply.dynamic_metadata)["tenantry"]
    assert (told["enforced"], told["quota_limit"], told["quota_remaining"], told["quota_reset"]) == (
        "yes", "50", "49", "1.2s",
    )  # fmt: skip
    exchange.close()
    assert len(desk.over) == 1


async def test_a_refusal_of_the_desk_is_the_answer() -> None:
    desk = Desk()
    desk.refusal = RateLimitedError("rate_limit_exceeded", "later")
    exchange = Sidecar(LIMITED, Metrics(), quotas=desk).open_exchange()
    sent(exchange)
    reply = wire.ProcessingResponse.FromString(await exchange.provide())
    assert reply.immediate_response.status.code == 429
    assert "tenantry" not in reply.dynamic_metadata
    assert exchange.decided


async def test_without_a_desk_nobody_who_has_a_quota_is_served() -> None:
    exchange = Sidecar(LIMITED, Metrics()).open_exchange()
    sent(exchange)
    reply = wire.ProcessingResponse.FromString(await exchange.provide())
    assert reply.immediate_response.status.code == 503


def test_explain_shows_the_quota() -> None:
    book = documents.book(
        {
            "tiers.bronze.quota": {"computeUnitsPerMinute": 50, "computeUnitsPerPeriod": 9_000},
            "tenants.globex.quota": {"computeUnitsPerPeriod": 7},
        }
    )

    def quota(name: str) -> str:
        profile = book.profile(name, None)
        assert profile is not None
        return explained(book, profile, [], documents.live(book.rules), None).splitlines()[1].strip()

    assert quota("acme") == "quota      none: it may spend what it likes"
    assert quota("globex") == "quota      7 compute units a calendar month (its own)"
    assert quota("initech") == (
        "quota      50 compute units a minute and 9000 compute units a calendar month (that of tier bronze)"
    )
