"""traceparent as W3C Trace Context has it: what is not exactly that joins no trace."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tenantry.core.trace_context import TraceContext, trace_context

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def of(*values: str) -> TraceContext | None:
    return trace_context([("traceparent", value.encode()) for value in values])


def test_a_sampled_trace_and_one_that_is_not() -> None:
    known = TraceContext(trace_id=int(TRACE, 16), span_id=int(SPAN, 16), sampled=True)
    assert of(f"00-{TRACE}-{SPAN}-01") == known
    assert of(f"00-{TRACE}-{SPAN}-00") == TraceContext(trace_id=known.trace_id, span_id=known.span_id, sampled=False)


def test_a_later_version_may_say_more() -> None:
    found = of(f"01-{TRACE}-{SPAN}-01-what-comes-then")
    assert found is not None
    assert found.sampled
    assert of(f"00-{TRACE}-{SPAN}-01-more") is None, "version 00 says no more"


@pytest.mark.parametrize(
    "value",
    [
        "", "00", f"00-{TRACE}-{SPAN}", f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE.upper()}-{SPAN}-01",
        f" 00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01\n", f"00-{TRACE}-{SPAN}-0g",
    ],
)  # fmt: skip
def test_what_is_malformed_is_none(value: str) -> None:
    assert of(value) is None


def test_two_headers_are_none() -> None:
    assert of(f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01") is None
    assert of() is None


@given(st.binary(max_size=80))
def test_no_bytes_break_it(value: bytes) -> None:
    found = trace_context([("traceparent", value)])
    assert found is None or (found.trace_id and found.span_id)
