"""Which stretch of time a person means, and what they are told when it cannot be."""

import math
from datetime import UTC, datetime

import pytest
from tenantry.core.billing.periods import hour_of, period_of
from tenantry.core.billing.spans import Span, SpanError, period_from, span_from

NOW = datetime(2026, 11, 25, 12, 30, tzinfo=UTC).timestamp()
DAY = int(datetime(2026, 11, 20, tzinfo=UTC).timestamp())


def test_without_a_word_it_is_the_present_period() -> None:
    assert span_from(None, None, None, NOW) == Span(period="2026-11")
    assert period_from("2026-10", NOW) == "2026-10"


def test_days_and_hours_are_utc_unless_they_say_otherwise() -> None:
    span = span_from(None, "2026-11-20", "2026-11-20T13:00", NOW)
    assert (span.from_s, span.to_s) == (DAY, DAY + 13 * 3600)
    assert span_from(None, "2026-11-20T02:00+02:00", None, NOW).from_s == DAY


def test_the_last_moment_of_a_month_is_in_the_month_of_its_hour() -> None:
    midnight = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
    last = math.nextafter(midnight, 0)  # a quarter of a microsecond before; rounded, it would be December
    assert (period_of(last), hour_of(last)) == ("2026-11", midnight - 3600)
    assert (period_of(midnight), hour_of(midnight)) == ("2026-12", midnight)


def test_a_span_reads_well_behind_a_noun() -> None:
    assert str(Span(period="2026-11")) == "in 2026-11"
    assert str(Span(from_s=DAY, to_s=DAY + 3600)) == "from 2026-11-20 00:00Z to 2026-11-20 01:00Z"
    assert str(Span(to_s=DAY)) == "to 2026-11-20 00:00Z"


@pytest.mark.parametrize("text", ["nov", "2026-13", "2026-1", "2026", "2026-11\n", "2026-11-01", "", "٢٠٢٦-11"])
def test_what_is_no_period_is_shown_one(text: str) -> None:
    with pytest.raises(SpanError, match="is no period: write a year and a month, like 2026-11"):
        period_from(text, NOW)


def test_a_period_that_has_not_begun_is_refused_with_the_present_one() -> None:
    with pytest.raises(SpanError, match="2026-12 has not begun; the present period is 2026-11"):
        period_from("2026-12", NOW)


@pytest.mark.parametrize(
    ("period", "begin", "end", "message"),
    [
        ("2026-11", "2026-11-01", None, "not both"),
        (None, "yesterday", None, "from 'yesterday': write a day or an hour, like 2026-11-25"),
        (None, None, "2026-11-20T13:30", "to '2026-11-20T13:30': usage is kept by the hour"),
        (None, "2026-11-25T13:00", None, "lies in the future"),
        (None, "2026-11-21", "2026-11-20", "is no time at all"),
        (None, "2026-11-20", "2026-11-20", "is no time at all"),
        (None, "1960-01-01", None, "give a whole one"),
    ],
)
def test_other_mistakes_are_named(period: str | None, begin: str | None, end: str | None, message: str) -> None:
    with pytest.raises(SpanError, match=message):
        span_from(period, begin, end, NOW)
