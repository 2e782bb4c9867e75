"""Request bodies of the model API: read, checked, rebuilt with what the tenant may not choose.

The body is decoded one level deep: each member stays the bytes it was (`msgspec.Raw`), so a
message array of half a megabyte is copied but never parsed. It is rebuilt member by member,
never spliced, and what an engine would obey is overwritten:

    member       set to                                       routes
    model        the name the engine serves, or the adapter   all
    cache_salt   keyed hash of the tenant                     all
    priority     the tier's, if the pool schedules by it      all
    vllm_xargs   tenant, version, request_id, adapter         chat, completions, responses
    store        false                                        responses (elsewhere: removed)
    stream_options.include_usage  true, for models with `usage: response`   chat, completions (streams)

How the tenant reaches the engine's scheduler: by `vllm_xargs` (SamplingParams.extra_args) on the
generating routes. Embeddings have no such member (vllm/entrypoints/pooling/base/protocol.py);
there the engine's request id carries it, which vLLM takes from `x-request-id`: see `engine_request_id`.

Duplicate keys: JSON readers disagree on which one counts, so a body with any is refused, found by
walking the bytes beside the decoded members (`_refuse_ambiguous_keys`).
"""

import re
from collections.abc import Mapping
from enum import Enum
from typing import Any

import msgspec
from msgspec import Raw, Struct

from tenantry.core.errors import BadRequestError
from tenantry.core.keyring import Keyring
from tenantry.core.routing import Decision
from tenantry.core.tenant import Tenant


class Api(Enum):
    """The model routes, by OpenAI's paths."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    EMBEDDINGS = "/v1/embeddings"
    RESPONSES = "/v1/responses"


REFUSED_MEMBERS = {
    "previous_response_id": "stored responses are shared by all tenants of an engine",
    "conversation": "stored conversations are shared by all tenants of an engine",
    "background": "a background response outlives its request and can be read by id",
    "kv_transfer_params": "KV transfer reaches other requests' cache blocks",
    "ec_transfer_params": "encoder-cache transfer reaches other requests' cache blocks",
}
"""Members that reach state which an engine shares among tenants, and why each is refused."""

REMOVED_MEMBERS = ("request_id", "session_id", "priority", "cache_salt", "vllm_xargs", "store")
"""Members that name or rank a request inside the engine: whatever a client sends is dropped."""

_OWN_NAMES = frozenset({"model", *REMOVED_MEMBERS, *REFUSED_MEMBERS})

MAX_MODEL_NAME_CHARACTERS = 512
MAX_MEMBERS = 1000
"""OpenAI's and vLLM's requests have fewer than a hundred; walking a million holds everybody else up for seconds."""

_SMALL_BODY_BYTES = 64 * 1024
_members = msgspec.json.Decoder(dict[str, Raw])
_anything = msgspec.json.Decoder()
_string = msgspec.json.Decoder(str)
_encode = msgspec.json.Encoder().encode
_FALSE, _EMPTY = Raw(b"false"), (b"null", b"false")
_assistant = re.compile(rb'"role"\s*:\s*"assistant"')
_white = re.compile(rb"[ \t\n\r]*")


class ChatBody(Struct, frozen=True, kw_only=True):
    """A body that was understood: the model it names, and its members as they were sent."""

    model: str
    members: dict[str, Raw]

    @property
    def streams(self) -> bool:
        """Whether the answer is asked for as a stream, whose headers come at once."""
        return bytes(self.members.get("stream", _FALSE)) == b"true"

    @property
    def has_past(self) -> bool:
        """Whether the conversation has earlier answers, looked for in its first 64 KiB.

        A client can spell it so that it is not seen, or write it where it means nothing; the guard then takes one
        unit's cold cache for a slow version, or waits for its next visit.
        """
        return any(
            _assistant.search(bytes(self.members[name])[:_SMALL_BODY_BYTES]) is not None
            for name in ("messages", "input")
            if name in self.members
        )


def read(body: bytes) -> ChatBody:
    """Decode a request body one level deep; raise BadRequestError for anything not understood whole."""
    try:
        body.decode()  # Raw members are not checked by the decoder, and an engine may guess an encoding
        members: dict[str, Raw] = (_members if len(body) <= _SMALL_BODY_BYTES else _counting_decoder()).decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequestError("invalid_json", "The body is not a JSON object.") from None
    if len(members) > MAX_MEMBERS:
        raise _too_many_members()
    _refuse_ambiguous_keys(body, members)
    _refuse_disguised_names(members)
    _refuse_media_keys(members)
    for name, why in REFUSED_MEMBERS.items():
        value = members.get(name)
        if value is not None and bytes(value) not in _EMPTY:
            raise BadRequestError("unsupported_parameter", f"'{name}' is not supported here: {why}.", param=name)
    raw_model = members.get("model")
    if raw_model is None:
        raise BadRequestError("missing_model", "The body names no model.", param="model")
    try:
        model = _string.decode(raw_model)
    except msgspec.MsgspecError:
        raise BadRequestError("invalid_model", "'model' must be a string.", param="model") from None
    if len(model) > MAX_MODEL_NAME_CHARACTERS:
        raise BadRequestError(
            "invalid_model", f"'model' is longer than {MAX_MODEL_NAME_CHARACTERS} characters.", param="model"
        )
    return ChatBody(model=model, members=members)


def stamp(
    body: ChatBody,
    *,
    api: Api,
    tenant: Tenant,
    decision: Decision,
    keyring: Keyring,
    request_id: str,
    asks_usage: bool = False,
) -> bytes:
    """Return the body for the engine: the client's members, with ours in place of what it may not choose.

    `asks_usage`: a stream is to end with its usage, whether the client asked for that or not.
    """
    members = {name: value for name, value in body.members.items() if name not in REFUSED_MEMBERS}
    for name in REMOVED_MEMBERS:
        members.pop(name, None)
    members["model"] = Raw(_encode(decision.served_name))
    members["cache_salt"] = Raw(_encode(keyring.salt_for(tenant.profile.name)))
    if decision.priority_scheduling:
        members["priority"] = Raw(_encode(tenant.profile.priority))
    if api is not Api.EMBEDDINGS:
        members["vllm_xargs"] = Raw(_encode(_engine_arguments(tenant, decision, request_id)))
    if api is Api.RESPONSES:
        members["store"] = _FALSE
    elif asks_usage and body.streams and api is not Api.EMBEDDINGS:
        members["stream_options"] = _with_usage(members.get("stream_options"))
    return _encode(members)


def _with_usage(options: Raw | None) -> Raw:
    try:
        read = {} if options is None else _members.decode(options)
    except msgspec.MsgspecError:
        if options is not None and bytes(options) == b"null":
            read = {}
        else:
            raise BadRequestError(
                "invalid_stream_options", "'stream_options' must be an object.", param="stream_options"
            ) from None
    return Raw(_encode(read | {"include_usage": Raw(b"true")}))


def engine_request_id(tenant: Tenant, request_id: str) -> str:
    """Return the id under which the engine's scheduler knows a request: `TENANT:REQUEST_ID`.

    Sent as `x-request-id`, in place of the client's own, which could collide with another tenant's
    request in flight. A tenant's name has no colon and the id is 32 hexadecimal digits, so both
    can be read back from whatever an engine puts around them (tenantry_vllm.stamp).
    """
    return f"{tenant.profile.name}:{request_id}"


def _engine_arguments(tenant: Tenant, decision: Decision, request_id: str) -> dict[str, str]:
    arguments = {"tenant": tenant.profile.name, "version": decision.version, "request_id": request_id}
    if decision.adapter is not None:
        arguments["adapter"] = decision.adapter
    return arguments


class _Key(str):
    """A member's name; a type of its own makes the decoder ask the hook about each."""

    __slots__ = ()


def _counting_decoder() -> msgspec.json.Decoder[Any]:
    """Return a decoder that stops at the first member too many.

    A body of 10 MiB holds 1.2 million members: decoding them first and counting then held every
    tenant up for 0.6 s and 300 MB (measured). Made anew for each large body, since it counts.
    """
    count = 0

    def hook(_type: type, name: str) -> _Key:
        nonlocal count
        count += 1
        if count > MAX_MEMBERS:
            raise _too_many_members()
        return _Key(name)

    return msgspec.json.Decoder(dict[_Key, Raw], dec_hook=hook)


def _too_many_members() -> BadRequestError:
    return BadRequestError("too_many_members", f"The body has more than {MAX_MEMBERS} members.")


def _refuse_disguised_names(members: Mapping[str, Raw]) -> None:
    """Refuse `Cache_Salt`, `vllm-xargs`, `"priority "`: some JSON readers take them for the name they resemble."""
    for name in members:
        plain = name.strip().casefold().replace("-", "_")
        if plain != name and plain in _OWN_NAMES:
            raise BadRequestError("ambiguous_keys", f"A key of the body resembles '{plain}'.", param=plain)


def _refuse_media_keys(members: Mapping[str, Raw]) -> None:
    """Refuse a `uuid` on a media part: vLLM keys its media caches by it alone, for all tenants.

    With another tenant's uuid and no image, the engine answers about that tenant's image
    (vllm/multimodal, get_mm_hashes; the cache salt enters only the prefix cache).
    """
    for name in ("messages", "input"):
        raw = members.get(name)
        text = b"" if raw is None else bytes(raw)
        # A key may be spelled with escapes; writers that escape leave ASCII letters alone otherwise.
        if b'"uuid"' not in text and not any(letter in text for letter in (b"\\u0075", b"\\u0069", b"\\u0064")):
            continue
        try:
            waiting = [_anything.decode(text)]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise BadRequestError("invalid_json", f"'{name}' is not valid JSON.", param=name) from None
        while waiting:
            part = waiting.pop()
            if isinstance(part, dict):
                if part.get("uuid") is not None:
                    raise BadRequestError("unsupported_parameter", "'uuid' is not supported here.", param=name)
                waiting.extend(part.values())
            elif isinstance(part, list):
                waiting.extend(part)


def _refuse_ambiguous_keys(body: bytes, members: dict[str, Raw]) -> None:
    r"""Walk `body` beside its decoded members; whatever the walk does not meet in order is refused.

    A decoded dict keeps a duplicate key's first place and last value, so at the first duplicate
    the bytes and the members part. Keys written with escapes are refused too: `"\u006dodel"` is
    `model` for one reader and not for a careless one. Costs one comparison of the body with itself.
    """
    cursor = body.find(b"{") + 1
    for name, value in members.items():
        key = b'"' + name.encode() + b'"'
        start = _skip_white(body, cursor)
        colon = _skip_white(body, start + len(key))
        if not body.startswith(key, start) or body[colon : colon + 1] != b":":
            raise BadRequestError("ambiguous_keys", "A key of the body is duplicated or written with escapes.")
        begin = _skip_white(body, colon + 1)
        text = bytes(value)
        if not body.startswith(text, begin):
            raise BadRequestError("ambiguous_keys", f"The key '{name}' stands in the body more than once.", param=name)
        # Past the value: the comma before the next key, or the closing brace.
        cursor = _skip_white(body, begin + len(text)) + 1
    end = cursor if members else _skip_white(body, cursor) + 1
    if body[end - 1 : end] != b"}":
        raise BadRequestError("ambiguous_keys", "A key of the body is duplicated.")


def _skip_white(body: bytes, cursor: int) -> int:
    found = _white.match(body, cursor)
    return found.end() if found else cursor
