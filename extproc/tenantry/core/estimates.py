"""Usage without a plugin: what a request probably took, from the sizes of its bodies.

The access log tells how many bytes a client sent and got. Text has about BYTES_PER_TOKEN bytes a token, and around it
stands JSON of which the length is known: once in a whole answer, with each token in a stream. The frames are those of
vLLM 0.32, without the parts that differ (the answer's id, the model's name, the text).

    whole answer    (bytes - WHOLE_BYTES - id - model) / BYTES_PER_TOKEN
    stream          (bytes - two frames) / (frame + id + model + BYTES_PER_TOKEN), one token a frame

That is a guess and is called one (`measured: estimate`): languages differ by a factor of two, an engine that puts
several tokens into a frame looks cheaper, one whose frames are longer dearer, images look like text. It is never more
than what the request allowed. Cached tokens and GPU time are not known. Who bills by it should know.

An estimate has one sequence, in the name of the engine `access-log`; what failed is estimated at nothing.
"""

from tenantry.core.outcome import Measure, Outcome
from tenantry.core.usage import Charge, FinishReason, UsageRecord

ENGINE = "access-log"
BYTES_PER_TOKEN = 4

WHOLE_BYTES = {"chat": 629, "completions": 480, "responses": 1_400}
"""Of a whole answer without text."""

FRAME_BYTES = {"chat": 166, "completions": 150, "responses": 252}
"""Of one event of a stream without text; those of the Responses API name neither the answer nor the model."""


def estimate(outcome: Outcome, now_s: float) -> UsageRecord | None:
    """Return a record of an exchange that ended at `now_s` (Unix time); None where usage comes from elsewhere."""
    measure = outcome.measure
    if measure is None or measure.source != "estimate":
        return None
    return of_bytes(outcome, measure, now_s)


def of_bytes(outcome: Outcome, measure: Measure, now_s: float) -> UsageRecord:
    """Return the record of an exchange by its bytes."""
    reason = finish_reason(outcome)
    worked = reason != "error"
    input_tokens = -(-outcome.request_bytes // BYTES_PER_TOKEN) if worked else 0
    output_tokens = output_of(outcome, measure.api, streams=measure.streams) if worked else 0
    if reason == "stop" and measure.api in WHOLE_BYTES:
        output_tokens = max(1, output_tokens)  # an engine that writes less around its answers than vLLM does
    return record(outcome, reason, input_tokens, min(output_tokens, measure.most_tokens), now_s)


def finish_reason(outcome: Outcome) -> FinishReason:
    """Return how it ended, as far as the log knows."""
    # Envoy does not say who was idle. A client that reads all but the last frame and then waits has had its answer; an
    # engine with a plugin takes that for an abort, too.
    stood_still = "stream_idle_timeout" in outcome.flags and 200 <= outcome.code < 300
    if outcome.ended == "aborted" or stood_still:
        return "abort"
    return "stop" if outcome.ended == "completed" and 200 <= outcome.code < 300 else "error"


def output_of(outcome: Outcome, api: str, *, streams: bool) -> int:
    """Return how many tokens an answer of so many bytes probably has."""
    if api not in WHOLE_BYTES:
        return 0  # embeddings
    names = 0 if api == "responses" else len(f"chatcmpl-{outcome.tenant}:{outcome.request_id}") + len(outcome.model)
    if streams:
        frame = FRAME_BYTES[api] + names
        return max(0, outcome.response_bytes - 2 * frame) // (frame + BYTES_PER_TOKEN)
    return max(0, outcome.response_bytes - WHOLE_BYTES[api] - names) // BYTES_PER_TOKEN


def record(outcome: Outcome, reason: FinishReason, input_tokens: int, output_tokens: int, now_s: float) -> UsageRecord:
    """Return the record of an exchange with so many tokens."""
    return UsageRecord(
        request_id=outcome.request_id,
        engine=ENGINE,
        tenant=outcome.tenant,
        tier=outcome.tier,
        model=outcome.model,
        # A rescued request was answered by the version whose cluster the log names.
        version=outcome.cluster.rpartition("@")[2] or outcome.version,
        ended_s=now_s,
        finish_reason=reason,
        measured="estimate",
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        duration_ms=max(0.0, outcome.duration_ms - outcome.sent_ms),
        charge=Charge(input_tokens=input_tokens, output_tokens=output_tokens),
    )
