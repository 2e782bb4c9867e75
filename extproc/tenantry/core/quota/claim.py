"""What a request is reserved at: the most that it is likely to cost, from its body alone.

    input tokens    body bytes / 3, or / 2 where a prompt may be token numbers; at most MAX_INPUT_TOKENS
    output tokens   what the body allows (max_tokens and its kin) for each answer asked for, at most MAX_OUTPUT_TOKENS;
                    DEFAULT_OUTPUT_TOKENS where it says nothing

Prose has 4 to 5 bytes a token, and JSON around it more, so a third is an upper bound for what people send. Text that is
made to have more tokens than that gains nothing: the record settles what it really was, in full. All that the estimate
decides is how much a tenant can have under way at once.

The cached part of an input is not known before, so all counts as computed.
"""

import msgspec
from msgspec import Raw, Struct

from tenantry.core.billing.compute_units import compute_units_micro
from tenantry.core.chat import Api, ChatBody
from tenantry.core.outcome import Measure
from tenantry.core.quota.account import Limits
from tenantry.core.rules import Model
from tenantry.core.rules_billing import ModelProfile, UsageSource

INPUT_BYTES_PER_TOKEN = 3
NUMBER_BYTES_PER_TOKEN = 2
"""A prompt of token numbers has a digit and a comma at least for each."""

MAX_INPUT_TOKENS = 131_072
"""An image in a body is a million bytes and a thousand tokens."""

DEFAULT_OUTPUT_TOKENS = 1_024
MAX_OUTPUT_TOKENS = 131_072

_OUTPUT_MEMBERS = {
    Api.CHAT: ("max_completion_tokens", "max_tokens"),
    Api.COMPLETIONS: ("max_tokens",),
    Api.RESPONSES: ("max_output_tokens",),
}
"""What bounds the output, by route. An engine passes over the others' names: whoever believed them could be told of one
token and be sent a hundred thousand. Of two that chat engines know the larger counts, as not all know both."""

_NONE = Raw(b"null")
_number = msgspec.json.Decoder(float, strict=False)
"""As engines read it: 100, 100.0 and "100" are the same."""


class Claim(Struct, frozen=True, kw_only=True):
    """What a request asks of its tenant's quota. `amount` is in milliunits, `usage` says what will settle it.

    `sequences` is how many usage records are to come, 0 when that cannot be told before.
    """

    tenant: str
    limits: Limits
    amount: int
    profile: ModelProfile
    usage: UsageSource
    sequences: int


class Size(Struct, frozen=True, kw_only=True):
    """A request in tokens, at most; `sequences` as in Claim. `most_tokens` bounds the output, where a body says so."""

    input_tokens: int
    output_tokens: int
    sequences: int
    most_tokens: int = MAX_OUTPUT_TOKENS


def claim(tenant: str, limits: Limits, model: Model, size: Size) -> Claim:
    """Return what a request of this size asks for."""
    amount = milliunits(model.profile, input_tokens=size.input_tokens, output_tokens=size.output_tokens)
    return Claim(
        tenant=tenant, limits=limits, amount=amount, profile=model.profile, usage=model.usage, sequences=size.sequences
    )


def measure(source: UsageSource, api: Api, size: Size, *, streams: bool) -> Measure:
    """Return what is to be known later of a request whose usage no plugin tells."""
    return Measure(source=source, api=api.name.lower(), streams=streams, most_tokens=size.most_tokens)


def milliunits(profile: ModelProfile, *, input_tokens: int, output_tokens: int, cached_tokens: int = 0) -> int:
    """Return thousandths of compute units, rounded up."""
    micro = compute_units_micro(
        profile, input_tokens=input_tokens, cached_tokens=cached_tokens, output_tokens=output_tokens
    )
    return -(-micro // 1_000)


def size_of(body: ChatBody, api: Api, body_bytes: int) -> Size:
    """Return how large a request may be."""
    prompts, numbers = _prompts(body, api)
    input_tokens = -(-body_bytes // (NUMBER_BYTES_PER_TOKEN if numbers else INPUT_BYTES_PER_TOKEN))
    answers = 0 if api is Api.EMBEDDINGS else _int(body, "n", 1)
    drafts = max(answers, _int(body, "best_of", 0)) if answers else 0
    each = max((_int(body, name, 0) for name in _OUTPUT_MEMBERS.get(api, ())), default=0)
    all_answers = drafts * max(prompts, 1)
    return Size(
        input_tokens=min(input_tokens, MAX_INPUT_TOKENS),
        output_tokens=min((each or DEFAULT_OUTPUT_TOKENS) * all_answers, MAX_OUTPUT_TOKENS),
        sequences=max(answers, 1) if prompts == 1 and drafts == answers else 0,
        most_tokens=min((each or MAX_OUTPUT_TOKENS) * all_answers, MAX_OUTPUT_TOKENS),
    )


def _prompts(body: ChatBody, api: Api) -> tuple[int, bool]:
    """Return how many prompts a body has at most, and whether they may be token numbers."""
    name = {Api.COMPLETIONS: "prompt", Api.EMBEDDINGS: "input"}.get(api)
    text = bytes(body.members.get(name, _NONE)) if name is not None else b""
    if not text.startswith(b"["):
        return 1, False
    inner = text[1:].lstrip()[:1]
    if inner == b'"':
        return max(1, text.count(b'"') // 2), False
    return (max(1, text.count(b"[") - 1) if inner == b"[" else 1), True


def _int(body: ChatBody, name: str, default: int) -> int:
    """Return a member's value where it is a number from 1 on, at most the most output; else the default.

    vLLM refuses all others. To some engines 0 or -1 means no bound.
    """
    try:
        value = _number.decode(body.members.get(name, _NONE))
    except msgspec.MsgspecError:
        return default
    return int(min(value, MAX_OUTPUT_TOKENS)) if value >= 1 else default
