"""OpenAI's bodies, read and written as vLLM does; no I/O.

`read` turns a body into a `Call`. A writer turns the words of an answer into SSE bytes while they
come, or into one JSON body at the end. Each of the generating routes has its writer.
"""

import base64
from collections.abc import Sequence
from enum import Enum
from struct import pack
from typing import Annotated, Any, Literal, Protocol

import msgspec
from msgspec import Meta, Raw, Struct

from tenantry_standin.batching import Finished
from tenantry_standin.text import vector

FINGERPRINT = "tenantry-stand-in"
MAX_EMBEDDING_INPUTS = 2048

_encode = msgspec.json.encode
_Tokens = Annotated[int, Meta(ge=1)]
_Listed = Annotated[list[Raw], Meta(min_length=1)]


class Api(Enum):
    """The routes that reach the model."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    EMBEDDINGS = "/v1/embeddings"
    RESPONSES = "/v1/responses"


class ApiError(Exception):
    """An answer other than 200, in OpenAI's error shape."""

    def __init__(self, status: int, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code

    def body(self) -> dict[str, Any]:
        """Return the JSON body."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": None, "code": self.code or self.status}}


class _StreamOptions(Struct, frozen=True):
    include_usage: bool | None = False


class _Body(Struct, frozen=True, kw_only=True):
    model: str
    stream: bool | None = False
    stream_options: _StreamOptions | None = None
    n: Literal[1] | None = 1
    max_tokens: _Tokens | None = None
    max_completion_tokens: _Tokens | None = None
    max_output_tokens: _Tokens | None = None
    cache_salt: Annotated[str, Meta(min_length=1)] | None = None
    priority: int | None = 0
    vllm_xargs: dict[str, Any] | None = None

    def inputs(self) -> list[bytes]:
        raise NotImplementedError


class _ChatBody(_Body, frozen=True, kw_only=True):
    messages: _Listed

    def inputs(self) -> list[bytes]:
        return [b"".join(bytes(message) for message in self.messages)]


class _CompletionsBody(_Body, frozen=True, kw_only=True):
    prompt: str | _Listed

    def inputs(self) -> list[bytes]:
        return [_flat(self.prompt)]


class _ResponsesBody(_Body, frozen=True, kw_only=True):
    input: str | _Listed
    instructions: str | None = None

    def inputs(self) -> list[bytes]:
        return [(self.instructions or "").encode() + _flat(self.input)]


class _EmbeddingsBody(_Body, frozen=True, kw_only=True):
    input: str | _Listed
    dimensions: Annotated[int, Meta(ge=1, le=4096)] | None = None
    encoding_format: Literal["float", "base64"] | None = None

    def inputs(self) -> list[bytes]:
        # A list of token numbers is one input; a list of strings or of such lists is many.
        if isinstance(self.input, str) or bytes(self.input[0])[:1] not in (b'"', b"["):
            return [_flat(self.input)]
        return [bytes(item) for item in self.input]


_BODIES: dict[Api, type[_Body]] = {
    Api.CHAT: _ChatBody,
    Api.COMPLETIONS: _CompletionsBody,
    Api.EMBEDDINGS: _EmbeddingsBody,
    Api.RESPONSES: _ResponsesBody,
}


class Call(Struct, frozen=True, kw_only=True):
    """A request that was understood. `inputs` holds one text, or several for embeddings."""

    api: Api
    model: str
    inputs: list[bytes]
    stream: bool
    include_usage: bool
    max_tokens: int | None
    cache_salt: str
    priority: int
    arguments: dict[str, Any]
    dimensions: int
    base64: bool


def read(api: Api, body: bytes) -> Call:
    """Read a body; raise ApiError 400 saying which member is wrong. Members not named here are ignored."""
    try:
        read = msgspec.json.decode(body, type=_BODIES[api])
        inputs = read.inputs()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"The body was not understood: {error}") from None
    if len(inputs) > MAX_EMBEDDING_INPUTS:
        raise ApiError(400, f"At most {MAX_EMBEDDING_INPUTS} inputs in one request, not {len(inputs)}.")
    return Call(
        api=api,
        model=read.model,
        inputs=inputs,
        stream=bool(read.stream) and api is not Api.EMBEDDINGS,
        include_usage=bool(read.stream_options and read.stream_options.include_usage),
        max_tokens=read.max_completion_tokens or read.max_output_tokens or read.max_tokens,
        cache_salt=read.cache_salt or "",
        priority=read.priority or 0,
        arguments=read.vllm_xargs or {},
        dimensions=(read.dimensions if isinstance(read, _EmbeddingsBody) else None) or 64,
        base64=isinstance(read, _EmbeddingsBody) and read.encoding_format == "base64",
    )


def _flat(value: str | list[Raw]) -> bytes:
    return value.encode() if isinstance(value, str) else b"".join(bytes(item) for item in value)


def usage(finished: Finished) -> dict[str, Any]:
    """Return `usage` of the chat, completions and embeddings routes."""
    return {
        "prompt_tokens": finished.prompt_tokens,
        "completion_tokens": finished.output_tokens,
        "total_tokens": finished.prompt_tokens + finished.output_tokens,
        "prompt_tokens_details": {"cached_tokens": finished.cached_tokens},
    }


def embeddings_answer(call: Call, finished: Finished) -> bytes:
    """Return the whole answer of the embeddings route."""
    data = []
    for index, text in enumerate(call.inputs):
        numbers = vector(text, call.dimensions)
        packed = base64.b64encode(pack(f"<{len(numbers)}f", *numbers)).decode() if call.base64 else numbers
        data.append({"object": "embedding", "index": index, "embedding": packed})
    return _encode({"object": "list", "model": call.model, "data": data, "usage": usage(finished)})


class Writer(Protocol):
    """Writes one answer: either `opening`, `words`..., then `closing` or `failure`; or `whole`."""

    def opening(self) -> bytes:
        """Return what follows the response headers at once."""

    def words(self, words: Sequence[str]) -> bytes:
        """Return one event per word."""

    def closing(self, text: str, finished: Finished) -> bytes:
        """Return the events that end a good answer."""

    def failure(self, error: ApiError) -> bytes:
        """Return the events that end a stream whose status 200 has gone out already."""

    def whole(self, text: str, finished: Finished) -> bytes:
        """Return the answer as one JSON body."""


def writer(call: Call, request_id: str, created_s: int) -> Writer:
    """Return the writer of a generating route."""
    kinds = {Api.CHAT: ChatWriter, Api.COMPLETIONS: CompletionsWriter, Api.RESPONSES: ResponsesWriter}
    return kinds[call.api](call, request_id, created_s)


class CompletionsWriter:
    """`POST /v1/completions`; the chat route differs in the names of things."""

    prefix, whole_object, chunk_object = "cmpl", "text_completion", "text_completion"

    def __init__(self, call: Call, request_id: str, created_s: int) -> None:
        self._call = call
        self._head = {
            "id": f"{self.prefix}-{request_id}",
            "created": created_s,
            "model": call.model,
            "system_fingerprint": FINGERPRINT,
        }

    def opening(self) -> bytes:
        return b""

    def words(self, words: Sequence[str]) -> bytes:
        return b"".join(self._chunk(self._choice_delta(word)) for word in words)

    def closing(self, text: str, finished: Finished) -> bytes:  # noqa: ARG002 - the Responses writer repeats the text
        events = self._chunk(self._choice_delta("", finished.finish_reason))
        if self._call.include_usage:
            events += _event({**self._head, "object": self.chunk_object, "choices": [], "usage": usage(finished)})
        return events + b"data: [DONE]\n\n"

    def failure(self, error: ApiError) -> bytes:
        return _event(error.body()) + b"data: [DONE]\n\n"

    def whole(self, text: str, finished: Finished) -> bytes:
        choice = self._choice(text, finished.finish_reason)
        return _encode({**self._head, "object": self.whole_object, "choices": [choice], "usage": usage(finished)})

    def _choice(self, text: str, finish_reason: str) -> dict[str, Any]:
        return self._choice_delta(text, finish_reason)

    def _choice_delta(self, text: str, finish_reason: str | None = None) -> dict[str, Any]:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        return _event({**self._head, "object": self.chunk_object, "choices": [choice]})


class ChatWriter(CompletionsWriter):
    """`POST /v1/chat/completions`."""

    prefix, whole_object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"
    _role_sent = False

    def words(self, words: Sequence[str]) -> bytes:
        # The role comes with the first token, not with the headers: as in vLLM, TTFB is not TTFT.
        role = b"" if self._role_sent else self._chunk({**self._choice_delta(""), "delta": {"role": "assistant"}})
        self._role_sent = True
        return role + super().words(words)

    def _choice(self, text: str, finish_reason: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": text}
        return {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}

    def _choice_delta(self, text: str, finish_reason: str | None = None) -> dict[str, Any]:
        delta = {"content": text} if text else {}
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


class ResponsesWriter:
    """`POST /v1/responses`: typed, numbered events, and no `[DONE]`."""

    def __init__(self, call: Call, request_id: str, created_s: int) -> None:
        self._head = {
            "id": f"resp_{request_id}",
            "object": "response",
            "created_at": created_s,
            "model": call.model,
            "system_fingerprint": FINGERPRINT,
            "error": None,
            "incomplete_details": None,
            "parallel_tool_calls": False,
            "tool_choice": "none",
            "tools": [],
        }
        self._place = {"item_id": f"msg_{request_id}", "output_index": 0, "content_index": 0}
        self._sequence_number = 0

    def opening(self) -> bytes:
        started = {**self._head, "status": "in_progress", "output": []}
        item = {**self._item("", "in_progress"), "content": []}
        return (
            self._typed("response.created", response=started)
            + self._typed("response.in_progress", response=started)
            + self._typed("response.output_item.added", output_index=0, item=item)
            + self._typed("response.content_part.added", **self._place, part=_part(""))
        )

    def words(self, words: Sequence[str]) -> bytes:
        return b"".join(
            self._typed("response.output_text.delta", **self._place, delta=word, logprobs=[]) for word in words
        )

    def closing(self, text: str, finished: Finished) -> bytes:
        response = self._response(text, finished)
        return (
            self._typed("response.output_text.done", **self._place, text=text, logprobs=[])
            + self._typed("response.content_part.done", **self._place, part=_part(text))
            + self._typed("response.output_item.done", output_index=0, item=response["output"][0])
            + self._typed(f"response.{response['status']}", response=response)
        )

    def failure(self, error: ApiError) -> bytes:
        return self._typed("error", message=error.message, code=str(error.status), param=None)

    def whole(self, text: str, finished: Finished) -> bytes:
        return _encode(self._response(text, finished))

    def _response(self, text: str, finished: Finished) -> dict[str, Any]:
        cut = finished.finish_reason == "length"
        status = "incomplete" if cut else "completed"
        return {
            **self._head,
            "status": status,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": [self._item(text, status)],
            "usage": {
                "input_tokens": finished.prompt_tokens,
                "input_tokens_details": {"cached_tokens": finished.cached_tokens},
                "output_tokens": finished.output_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": finished.prompt_tokens + finished.output_tokens,
            },
        }

    def _item(self, text: str, status: str) -> dict[str, Any]:
        item_id = self._place["item_id"]
        return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": [_part(text)]}

    def _typed(self, kind: str, **fields: Any) -> bytes:
        event = {"type": kind, "sequence_number": self._sequence_number, **fields}
        self._sequence_number += 1
        return b"event: " + kind.encode() + b"\n" + _event(event)


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + _encode(data) + b"\n\n"
