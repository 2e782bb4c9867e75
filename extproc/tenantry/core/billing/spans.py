"""Which stretch of time a person means: a period or two moments, read from text with errors that say what is right."""

from datetime import UTC, datetime

from msgspec import Struct

from tenantry.core.billing.periods import HOUR_S, begins_s, checked_period, period_of
from tenantry.core.errors import TenantryError


class SpanError(TenantryError):
    """A period or moment that cannot be read, or in which nothing can have happened yet."""


class Span(Struct, frozen=True, kw_only=True):
    """A billing period, or the time between two whole hours (Unix seconds; `to_s` is no part of it).

    As text it follows a noun: "usage in 2026-11", "usage from 2026-11-25 13:00Z".
    """

    period: str | None = None
    from_s: int | None = None
    to_s: int | None = None

    def __str__(self) -> str:
        if self.period is not None:
            return f"in {self.period}"
        begins, ends = (
            datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%MZ") if moment is not None else ""
            for moment in (self.from_s, self.to_s)
        )
        return " ".join(part for part in (begins and f"from {begins}", ends and f"to {ends}") if part)


def period_from(text: str | None, now_s: float) -> str:
    """Return the period that a text names (None: the present one); raise SpanError."""
    if text is None:
        return period_of(now_s)
    try:
        period = checked_period(text)
    except ValueError as error:
        raise SpanError(str(error)) from None
    if begins_s(period) > now_s:
        raise SpanError(f"{period} has not begun; the present period is {period_of(now_s)}")
    return period


def span_from(period: str | None, begin: str | None, end: str | None, now_s: float) -> Span:
    """Return the span that a period or two moments name; None of them: the present period. Raises SpanError."""
    if begin is None and end is None:
        return Span(period=period_from(period, now_s))
    if period is not None:
        raise SpanError("name a period, or from and to, not both")
    from_s = None if begin is None else _hour(begin, "from")
    to_s = None if end is None else _hour(end, "to")
    if from_s is not None and from_s > now_s:
        raise SpanError(f"from {begin} lies in the future")
    if from_s is not None and to_s is not None and from_s >= to_s:
        raise SpanError(f"from {begin} to {end} is no time at all; `to` is the first hour that does not count")
    return Span(from_s=from_s, to_s=to_s)


def _hour(text: str, name: str) -> int:
    """Return Unix time of a moment in ISO 8601 that begins an hour; without a time zone it is UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SpanError(f"{name} {text[:30]!r}: write a day or an hour, like 2026-11-25 or 2026-11-25T13:00") from None
    unix_s = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if unix_s % HOUR_S or unix_s < 0:
        raise SpanError(f"{name} {text[:30]!r}: usage is kept by the hour (UTC); give a whole one")
    return int(unix_s)
