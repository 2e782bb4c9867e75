"""OpenAI's answers, written as vLLM writes them; no I/O.

A writer turns the words of an answer into SSE events while they come (`opening`, `words`..., then
`closing` or `failure`), or into one JSON body at the end (`whole`). Each generating route has its own.
"""

import base64
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from struct import pack
from typing import Any

import msgspec

from tenantry_standin.batching import Finished
from tenantry_standin.bodies import Api, ApiError, Call
from tenantry_standin.text import vector

FINGERPRINT = "tenantry-stand-in"

_DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.encode


class Writer(ABC):
    """Writes one answer."""

    def opening(self) -> bytes:
        """Return what follows the response headers at once, before any token."""
        return b""

    @abstractmethod
    def words(self, words: Sequence[str]) -> bytes:
        """Return one event per word."""

    @abstractmethod
    def closing(self, text: str, finished: Finished) -> bytes:
        """Return the events that end a good answer; `text` is all of its words."""

    @abstractmethod
    def failure(self, error: ApiError) -> bytes:
        """Return the events that end an answer which went wrong after its status 200."""

    @abstractmethod
    def whole(self, text: str, finished: Finished) -> bytes:
        """Return the answer as one JSON body."""


def writer(call: Call, request_id: str, created_s: int) -> Writer:
    """Return the writer of a generating route; `created_s` is Unix time."""
    kinds: dict[Api, Callable[[Call, str, int], Writer]] = {
        Api.CHAT: _ChatWriter,
        Api.COMPLETIONS: _CompletionsWriter,
        Api.RESPONSES: _ResponsesWriter,
    }
    return kinds[call.api](call, request_id, created_s)


def embeddings(call: Call, finished: Finished) -> bytes:
    """Return the answer of the embeddings route."""
    data = []
    for index, text in enumerate(call.inputs):
        numbers = vector(text, call.dimensions)
        packed = base64.b64encode(pack(f"<{len(numbers)}f", *numbers)).decode() if call.as_base64 else numbers
        data.append({"object": "embedding", "index": index, "embedding": packed})
    return _encode({"object": "list", "model": call.model, "data": data, "usage": _usage(finished)})


class _CompletionsWriter(Writer):
    """`POST /v1/completions`; the chat route differs in the names of things."""

    id_prefix, whole_object, chunk_object = "cmpl", "text_completion", "text_completion"

    def __init__(self, call: Call, request_id: str, created_s: int) -> None:
        self._include_usage = call.include_usage
        self._head = {
            "id": f"{self.id_prefix}-{request_id}",
            "created": created_s,
            "model": call.model,
            "system_fingerprint": FINGERPRINT,
        }

    def words(self, words: Sequence[str]) -> bytes:
        return b"".join(self._chunk([_choice(None, **self._delta(word))]) for word in words)

    def closing(self, text: str, finished: Finished) -> bytes:  # noqa: ARG002 - only the Responses route repeats it
        last = self._chunk([_choice(finished.finish_reason, **self._delta(""))])
        return last + (self._chunk([], usage=_usage(finished)) if self._include_usage else b"") + _DONE

    def failure(self, error: ApiError) -> bytes:
        return _event(error.body()) + _DONE

    def whole(self, text: str, finished: Finished) -> bytes:
        choices = [_choice(finished.finish_reason, **self._message(text))]
        return _encode({**self._head, "object": self.whole_object, "choices": choices, "usage": _usage(finished)})

    def _delta(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def _message(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        return _event({**self._head, "object": self.chunk_object, "choices": choices, **more})


class _ChatWriter(_CompletionsWriter):
    """`POST /v1/chat/completions`."""

    id_prefix, whole_object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"
    _role_sent = False

    def words(self, words: Sequence[str]) -> bytes:
        # The role comes with the first token, not with the headers: as in vLLM, TTFB is not TTFT.
        role = b"" if self._role_sent else self._chunk([_choice(None, delta={"role": "assistant", "content": ""})])
        self._role_sent = True
        return role + super().words(words)

    def _delta(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text} if text else {}}

    def _message(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text}}


class _ResponsesWriter(Writer):
    """`POST /v1/responses`: typed, numbered events, and no `[DONE]`."""

    def __init__(self, call: Call, request_id: str, created_s: int) -> None:
        self._head = {
            "id": f"resp_{request_id}",
            "object": "response",
            "created_at": created_s,
            "model": call.model,
            "system_fingerprint": FINGERPRINT,
            "parallel_tool_calls": False,
            "tool_choice": "none",
            "tools": [],
        }
        self._item_id = f"msg_{request_id}"
        self._next_number = 0

    def opening(self) -> bytes:
        started = {**self._head, "status": "in_progress", "output": []}
        return (
            self._typed("response.created", response=started)
            + self._typed("response.in_progress", response=started)
            + self._typed("response.output_item.added", output_index=0, item=self._item("in_progress"))
            + self._part_event("response.content_part.added", part=_part(""))
        )

    def words(self, words: Sequence[str]) -> bytes:
        return b"".join(self._part_event("response.output_text.delta", delta=word, logprobs=[]) for word in words)

    def closing(self, text: str, finished: Finished) -> bytes:
        response = self._response(text, finished)
        return (
            self._part_event("response.output_text.done", text=text, logprobs=[])
            + self._part_event("response.content_part.done", part=_part(text))
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
            "output": [self._item(status, _part(text))],
            "usage": {
                "input_tokens": finished.prompt_tokens,
                "input_tokens_details": {"cached_tokens": finished.cached_tokens},
                "output_tokens": finished.output_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": finished.prompt_tokens + finished.output_tokens,
            },
        }

    def _item(self, status: str, *parts: dict[str, Any]) -> dict[str, Any]:
        return {"id": self._item_id, "type": "message", "role": "assistant", "status": status, "content": parts}

    def _part_event(self, kind: str, **fields: Any) -> bytes:
        return self._typed(kind, item_id=self._item_id, output_index=0, content_index=0, **fields)

    def _typed(self, kind: str, **fields: Any) -> bytes:
        number = self._next_number
        self._next_number += 1
        return b"event: " + kind.encode() + b"\n" + _event({"type": kind, "sequence_number": number, **fields})


def _usage(finished: Finished) -> dict[str, Any]:
    return {
        "prompt_tokens": finished.prompt_tokens,
        "completion_tokens": finished.output_tokens,
        "total_tokens": finished.prompt_tokens + finished.output_tokens,
        "prompt_tokens_details": {"cached_tokens": finished.cached_tokens},
    }


def _choice(finish_reason: str | None, **content: Any) -> dict[str, Any]:
    return {"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + _encode(data) + b"\n\n"
