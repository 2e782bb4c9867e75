"""The trace that a client's request belongs to, as `traceparent` says it (W3C Trace Context, level 1, section 3.2).

What a client writes there joins our spans to its own and decides nothing else. A header that is not exactly of the
form is as good as none, as the recommendation asks.
"""

import re
from collections.abc import Iterable

from msgspec import Struct

from tenantry.core.events import Header

_FORM = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_SAMPLED = 0x01
_FORBIDDEN_VERSION = b"ff"


class TraceContext(Struct, frozen=True, kw_only=True):
    """A trace and the span of it that we are a child of. Neither id is 0."""

    trace_id: int
    span_id: int
    sampled: bool


def trace_context(headers: Iterable[Header]) -> TraceContext | None:
    """Return what a request's headers say; None for none, for several and for what is malformed."""
    values = [value for name, value in headers if name == "traceparent"]
    if len(values) != 1 or (found := _FORM.fullmatch(values[0])) is None:
        return None
    version, trace, span, flags, more = found.groups()
    if version == _FORBIDDEN_VERSION or (version == b"00" and more is not None):
        return None
    context = TraceContext(trace_id=int(trace, 16), span_id=int(span, 16), sampled=bool(int(flags, 16) & _SAMPLED))
    return context if context.trace_id and context.span_id else None
