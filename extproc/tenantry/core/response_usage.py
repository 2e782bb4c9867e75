"""Reads the `usage` that an engine writes into its responses, for models with `usage: response`.

A whole answer is a JSON object with a member `usage`. A stream has it in its last event, if it was asked for
(`stream_options.include_usage`, which `chat.stamp` sets); the Responses API puts it into `response` of its last event.
What cannot be read (compressed, larger than MAX_BYTES, cut off) is estimated by its size, and the record says so.

This sees every byte of a response, but keeps no more of it than an unfinished event or a whole answer.
"""

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from tenantry.core import estimates
from tenantry.core.events import ResponseBody, ResponseHeaders
from tenantry.core.outcome import Ended, Measure, Outcome
from tenantry.core.usage import Charge, UsageRecord

ENGINE = "response"
MAX_BYTES = 4 * 1024 * 1024


class _Details(Struct, frozen=True):
    cached_tokens: int | None = None


class _Usage(Struct, frozen=True):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _Details | None = None


class _Within(Struct, frozen=True):
    usage: _Usage | None = None


class _Event(Struct, frozen=True):
    usage: _Usage | None = None
    response: _Within | None = None


_events = msgspec.json.Decoder(_Event)


class ResponseUsage:
    """One response. `about` says whose it is: an outcome of which code, bytes and times are not known yet."""

    def __init__(self, about: Outcome, measure: Measure, begun_s: float) -> None:
        self._about, self._measure, self._begun_s = about, measure, begun_s
        self._kept = b""
        self._readable = True
        self._events = False
        self._status: int | None = None
        self._bytes = 0
        self._first_s: float | None = None
        self._usage: _Usage | None = None
        self._whole = False

    @property
    def seen(self) -> bool:
        """Whether Envoy has shown anything of the response."""
        return self._status is not None

    def headers(self, event: ResponseHeaders) -> None:
        """Take in the headers."""
        values = dict(event.headers)
        status = values.get(":status", b"0")
        self._status = int(status) if status.isdigit() else 0
        self._readable = values.get("content-encoding", b"identity") == b"identity"
        self._events = values.get("content-type", b"").startswith(b"text/event-stream")
        self._whole = event.end_stream

    def body(self, event: ResponseBody, now_s: float) -> None:
        """Take in a piece of the body."""
        if event.body and self._first_s is None:
            self._first_s = now_s
        self._bytes += len(event.body)
        if self._readable:
            self._kept += event.body
            if self._events:
                *lines, self._kept = self._kept.split(b"\n")
                for line in lines:
                    self._line(line)
            elif event.end_stream:
                self._read(self._kept)
            if len(self._kept) > MAX_BYTES:
                self._readable, self._kept = False, b""
        self._whole = self._whole or event.end_stream

    def record(self, now_s: float) -> UsageRecord:
        """Return the record of the response, as far as it came by now."""
        ended: Ended = "completed" if self._whole else "aborted"
        about = replace(
            self._about, code=self._status or 0, ended=ended, response_bytes=self._bytes,
            duration_ms=max(0.0, now_s - self._begun_s) * 1e3,
        )  # fmt: skip
        usage = self._usage
        if usage is None:
            return replace(estimates.of_bytes(about, self._measure, now_s), engine=ENGINE)
        details = usage.prompt_tokens_details or usage.input_tokens_details or _Details()
        input_tokens = _count(usage.prompt_tokens, usage.input_tokens)
        cached_tokens = min(_count(details.cached_tokens), input_tokens)
        output_tokens = _count(usage.completion_tokens, usage.output_tokens)
        made = estimates.record(about, estimates.finish_reason(about), input_tokens, output_tokens, now_s)
        ttft_ms = None if self._first_s is None or not self._events else (self._first_s - self._begun_s) * 1e3
        return replace(
            made, engine=ENGINE, measured="response", cached_tokens=cached_tokens, ttft_ms=ttft_ms,
            charge=Charge(
                input_tokens=input_tokens - cached_tokens, cached_tokens=cached_tokens, output_tokens=output_tokens
            ),
        )  # fmt: skip

    def _line(self, line: bytes) -> None:
        # Most events have no usage, or none yet ("usage":null): to decode each would cost more than all the rest.
        if line.startswith(b"data:") and b'"usage"' in line and b'"usage":null' not in line:
            self._read(line[5:])

    def _read(self, data: bytes) -> None:
        try:
            event = _events.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return
        self._usage = event.usage or (event.response.usage if event.response else None) or self._usage


def _count(*values: int | None) -> int:
    return next((min(max(value, 0), 10**12) for value in values if value is not None), 0)
