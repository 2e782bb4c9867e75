"""Usage from the sizes of bodies, held against answers of which the tokens are known."""

import json
from typing import Any

import pytest
from tenantry.core.estimates import ENGINE, estimate
from tenantry.core.outcome import ExchangeFacts, Measure, Outcome, outcome
from tenantry.core.usage import UsageRecord

ID = "0123456789abcdef0123456789abcdef"
WORDS = ["The", " quota", " of", " a", " tenant", " is", " what", " it", " may", " spend", "."] * 40
"""440 tokens of 4.5 bytes."""


def metadata(api: str = "chat", *, streams: bool = False, most_tokens: int = 10_000, source: str = "estimate") -> Any:
    measure = Measure(source=source, api=api, streams=streams, most_tokens=most_tokens)
    own = {"tenant": "acme", "tier": "gold", "model": "chat-8b", "version": "1", "request_id": ID, "enforced": "yes"}
    return own | measure.metadata()


def ended(metadata: dict[str, str], response_bytes: int, **facts: Any) -> UsageRecord | None:
    told: dict[str, Any] = {
        "code": 200, "flags": (), "attempts": 1, "ttfb_ms": 1.0, "duration_ms": 1_250.0, "sent_ms": 50.0,
        "cluster": "chat-8b@1", "details": "via_upstream", "request_bytes": 400,
    } | facts  # fmt: skip
    found = outcome(metadata, ExchangeFacts(response_bytes=response_bytes, **told))
    assert isinstance(found, Outcome)
    return estimate(found, 1_800_000_000.0)


def chat_stream() -> bytes:
    """As vLLM 0.32 writes it."""
    head = {
        "id": f"chatcmpl-acme:{ID}",
        "object": "chat.completion.chunk",
        "created": 1_800_000_000,
        "model": "chat-8b",
    }
    deltas = [{"role": "assistant", "content": ""}, *({"content": word} for word in WORDS), {}]
    chunks = [
        {**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}]} for delta in deltas
    ]
    lines = [b"data: " + json.dumps(chunk, separators=(",", ":")).encode() for chunk in chunks]
    return b"\n\n".join([*lines, b"data: [DONE]", b""])


def responses_stream() -> bytes:
    events = [
        {
            "type": "response.output_text.delta", "sequence_number": 100 + number, "item_id": "msg_" + ID,
            "output_index": 0, "content_index": 0, "delta": word, "logprobs": [],
        }
        for number, word in enumerate(WORDS)
    ]  # fmt: skip
    lines = [
        b"event: response.output_text.delta\ndata: " + json.dumps(each, separators=(",", ":")).encode()
        for each in events
    ]
    return b"\n\n".join([*lines, b""])


@pytest.mark.parametrize(
    ("made", "answer"),
    [
        (metadata(), b"x" * (629 + 46 + 7) + "".join(WORDS).encode()),
        (metadata(streams=True), chat_stream()),
        (metadata("responses", streams=True), responses_stream()),
    ],
    ids=["whole", "stream", "responses"],
)
def test_an_estimate_is_within_a_fifth_for_plain_english(made: dict[str, str], answer: bytes) -> None:
    record = ended(made, len(answer))
    assert record is not None
    assert abs(record.output_tokens / len(WORDS) - 1) < 0.2
    assert record.input_tokens == 100


def test_an_estimate_says_that_it_is_one() -> None:
    record = ended(metadata(), 629 + 46 + 7 + 40)
    assert record is not None
    assert (record.engine, record.measured, record.id) == (ENGINE, "estimate", f"{ID}/access-log/1/0/1")
    assert (record.charge.input_tokens, record.charge.output_tokens, record.charge.gpu_ns) == (100, 10, 0)
    assert (record.tenant, record.tier, record.version, record.finish_reason) == ("acme", "gold", "1", "stop")
    assert (record.duration_ms, record.ttft_ms, record.ended_s) == (1_200.0, None, 1_800_000_000.0)


def test_an_estimate_is_never_more_than_the_request_allowed() -> None:
    record = ended(metadata(most_tokens=16), 1_000_000)
    assert record is not None
    assert record.output_tokens == 16


@pytest.mark.parametrize(
    ("facts", "reason", "tokens"),
    [
        ({"code": 400}, "error", (0, 0)),
        ({"code": 503, "details": "no_healthy_upstream"}, "error", (0, 0)),
        ({"code": 504, "flags": ("stream_idle_timeout",)}, "error", (0, 0)),
        ({"flags": ("downstream_remote_reset",)}, "abort", (100, 10)),
        ({"flags": ("stream_idle_timeout",)}, "abort", (100, 10)),  # perhaps a client that will not read the end
    ],
)
def test_how_it_ended(facts: dict[str, Any], reason: str, tokens: tuple[int, int]) -> None:
    record = ended(metadata(), 629 + 46 + 7 + 40, **facts)
    assert record is not None
    assert (record.finish_reason, (record.input_tokens, record.output_tokens)) == (reason, tokens)


def test_a_rescued_request_is_the_answering_versions() -> None:
    record = ended(metadata(), 800, cluster="chat-8b@2", attempts=2)
    assert record is not None
    assert record.version == "2"


def test_a_short_answer_of_an_engine_that_writes_little_around_it_is_not_free() -> None:
    record = ended(metadata(), 300)
    assert record is not None
    assert record.output_tokens == 1


def test_embeddings_have_no_output() -> None:
    record = ended(metadata("embeddings"), 100_000)
    assert record is not None
    assert record.output_tokens == 0


@pytest.mark.parametrize("metadata", [metadata(source="response"), {"enforced": "yes", "tenant": "acme"}])
def test_usage_that_comes_from_elsewhere_is_not_estimated(metadata: dict[str, str]) -> None:
    assert ended(metadata, 1_000) is None
