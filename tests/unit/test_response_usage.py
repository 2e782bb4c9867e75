"""Usage as engines write it into their responses, cut into any pieces."""

import json
from typing import Any

import pytest
from tenantry.core.events import ResponseBody, ResponseHeaders
from tenantry.core.outcome import Measure, Outcome
from tenantry.core.response_usage import MAX_BYTES, ResponseUsage
from tenantry.core.usage import UsageRecord

MEASURE = Measure(source="response", api="chat", streams=True, most_tokens=500)
ABOUT = Outcome(
    tenant="acme", tier="gold", model="chat-8b", version="1", request_id="0" * 32, reason="", code=0, ended="aborted",
    flags=(), attempts=1, ttfb_ms=None, duration_ms=0.0, cluster="", request_bytes=400,
)  # fmt: skip
USAGE = {
    "prompt_tokens": 30, "completion_tokens": 12, "total_tokens": 42, "prompt_tokens_details": {"cached_tokens": 16}
}  # fmt: skip


def read(
    pieces: list[bytes], *, content_type: str = "application/json", status: int = 200, ends: bool = True,
    encoding: str | None = None,
) -> UsageRecord:  # fmt: skip
    usage = ResponseUsage(ABOUT, MEASURE, 100.0)
    headers = [(":status", str(status).encode()), ("content-type", content_type.encode())]
    if encoding is not None:
        headers.append(("content-encoding", encoding.encode()))
    usage.headers(ResponseHeaders(headers=tuple(headers), end_stream=False))
    for number, piece in enumerate(pieces):
        last = ends and number == len(pieces) - 1
        usage.body(ResponseBody(body=piece, end_stream=last), 101.0 + number)
    return usage.record(110.0)


def in_pieces(data: bytes, size: int) -> list[bytes]:
    return [data[begin : begin + size] for begin in range(0, len(data), size)]


def stream(*events: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n" for event in events)


CHAT = stream(
    *({"choices": [{"delta": {"content": f'the "usage": {word}'}}], "usage": None} for word in "abc"),
    {"choices": [], "usage": USAGE},
) + b"data: [DONE]\n\n"  # fmt: skip

RESPONSES = b"event: response.completed\n" + stream(
    {
        "type": "response.completed",
        "response": {"usage": {"input_tokens": 30, "output_tokens": 12, "input_tokens_details": {"cached_tokens": 16}}},
    }
)


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        (json.dumps({"choices": [{"message": {"content": "x"}}], "usage": USAGE}).encode(), "application/json"),
        (CHAT, "text/event-stream; charset=utf-8"),
        (RESPONSES, "text/event-stream"),
    ],
    ids=["whole", "stream", "responses"],
)
def test_usage_is_read_however_it_is_cut(data: bytes, content_type: str, size: int) -> None:
    record = read(in_pieces(data, size), content_type=content_type)
    assert (record.measured, record.engine, record.finish_reason) == ("response", "response", "stop")
    assert (record.input_tokens, record.cached_tokens, record.output_tokens) == (30, 16, 12)
    assert (record.charge.input_tokens, record.charge.cached_tokens, record.charge.output_tokens) == (14, 16, 12)
    assert record.ttft_ms == (1_000.0 if "stream" in content_type else None)
    assert record.duration_ms == 10_000.0


def test_a_stream_that_is_cut_off_is_estimated_by_what_came_of_it() -> None:
    chunks = stream(*({"choices": [{"delta": {"content": "word"}}], "id": "x" * 200} for _ in range(20)))
    record = read(in_pieces(chunks, 100), content_type="text/event-stream", ends=False)
    assert (record.measured, record.finish_reason, record.input_tokens) == ("estimate", "abort", 100)
    assert 10 < record.output_tokens < 30


def test_an_error_costs_nothing() -> None:
    record = read([b'{"error": {"message": "no"}}'], status=400)
    assert (record.finish_reason, record.charge.input_tokens, record.output_tokens) == ("error", 0, 0)


@pytest.mark.parametrize(
    "usage", [{"prompt_tokens": "many"}, [], "usage", {"prompt_tokens": 1.5}, None], ids=repr
)  # fmt: skip
def test_what_is_no_usage_is_estimated(usage: object) -> None:
    assert read([json.dumps({"usage": usage}).encode()]).measured == "estimate"


def test_figures_that_cannot_be_are_bounded() -> None:
    record = read([json.dumps({"usage": {"prompt_tokens": -5, "completion_tokens": 10**30}}).encode()])
    assert (record.input_tokens, record.output_tokens) == (0, 10**12)
    record = read([json.dumps({"usage": {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 9}}}).encode()])
    assert (record.input_tokens, record.cached_tokens, record.charge.input_tokens) == (5, 5, 0)


def test_what_is_compressed_or_too_large_is_estimated_within_what_was_allowed() -> None:
    whole = json.dumps({"usage": USAGE}).encode()
    assert read([whole], encoding="gzip").measured == "estimate"
    huge = read([b"x" * MAX_BYTES, b"x", whole])
    assert (huge.measured, huge.output_tokens) == ("estimate", 500)
