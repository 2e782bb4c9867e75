"""OpenAI's request bodies, read as vLLM reads them; no I/O."""

from enum import Enum
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw, Struct

MAX_EMBEDDING_INPUTS = 2048
DEFAULT_DIMENSIONS = 64

_Tokens = Annotated[int, Meta(ge=1)]
_Parts = Annotated[list[Raw], Meta(min_length=1)]


class Api(Enum):
    """The routes that reach the model."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    EMBEDDINGS = "/v1/embeddings"
    RESPONSES = "/v1/responses"


class ApiError(Exception):
    """An answer other than 200, in OpenAI's error shape."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message

    def body(self) -> dict[str, Any]:
        """Return the JSON body."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": None, "code": self.status}}


class _StreamOptions(Struct, frozen=True):
    include_usage: bool | None = False


class _Body(Struct, frozen=True, kw_only=True):
    """The members that are honoured; any other is ignored."""

    model: str
    messages: _Parts | None = None
    prompt: str | _Parts | None = None
    input: str | _Parts | None = None
    instructions: str | None = None
    stream: bool | None = False
    stream_options: _StreamOptions | None = None
    n: Literal[1] | None = 1
    max_tokens: _Tokens | None = None
    max_completion_tokens: _Tokens | None = None
    max_output_tokens: _Tokens | None = None
    cache_salt: Annotated[str, Meta(min_length=1)] | None = None
    priority: int | None = 0
    vllm_xargs: dict[str, Any] | None = None
    dimensions: Annotated[int, Meta(ge=1, le=4096)] | None = None
    encoding_format: Literal["float", "base64"] | None = None


class Call(Struct, frozen=True, kw_only=True):
    """A request that was understood. `inputs` holds one text, or several for embeddings."""

    api: Api
    model: str
    inputs: tuple[bytes, ...]
    stream: bool
    include_usage: bool
    max_tokens: int | None
    cache_salt: str
    priority: int
    arguments: dict[str, Any]
    dimensions: int
    as_base64: bool


def read(api: Api, body: bytes) -> Call:
    """Read a body; raise ApiError 400 saying which member is wrong."""
    try:
        body.decode()  # Raw members come past the decoder unchecked
        read = msgspec.json.decode(body, type=_Body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"The body was not understood: {error}") from None
    return Call(
        api=api,
        model=read.model,
        inputs=_inputs(api, read),
        stream=bool(read.stream) and api is not Api.EMBEDDINGS,
        include_usage=bool(read.stream_options and read.stream_options.include_usage),
        max_tokens=read.max_completion_tokens or read.max_output_tokens or read.max_tokens,
        cache_salt=read.cache_salt or "",
        priority=read.priority or 0,
        arguments=read.vllm_xargs or {},
        dimensions=read.dimensions or DEFAULT_DIMENSIONS,
        as_base64=read.encoding_format == "base64",
    )


def _inputs(api: Api, body: _Body) -> tuple[bytes, ...]:
    name = {Api.CHAT: "messages", Api.COMPLETIONS: "prompt"}.get(api, "input")
    value: str | list[Raw] | None = getattr(body, name)
    if value is None:
        raise ApiError(400, f"The body has no '{name}'.")
    if isinstance(value, str):
        return (((body.instructions or "") + value).encode(),)
    parts = [bytes(part) for part in value]
    # For embeddings, a list of token numbers is one input; a list of strings or of such lists is many.
    if api is Api.EMBEDDINGS and parts[0][:1] in (b'"', b"["):
        if len(parts) > MAX_EMBEDDING_INPUTS:
            raise ApiError(400, f"At most {MAX_EMBEDDING_INPUTS} inputs in one request, not {len(parts)}.")
        return tuple(parts)
    return ((body.instructions or "").encode() + b"".join(parts),)
