"""Billing periods: calendar months in UTC, written `2026-11`, which sort as they follow one another."""

import re
from datetime import UTC, datetime

from tenantry.core.billing.tallies import PERIOD_PATTERN, Period

HOUR_S = 3_600
_PERIOD = re.compile(PERIOD_PATTERN)


def period_of(unix_s: float) -> Period:
    """Return the period in which a moment lies."""
    moment = datetime.fromtimestamp(
        unix_s // 1, UTC
    )  # `fromtimestamp` rounds: the last half microsecond is no new month
    return f"{moment.year:04}-{moment.month:02}"


def hour_of(unix_s: float) -> int:
    """Return Unix time of the beginning of a moment's hour."""
    return int(unix_s // HOUR_S) * HOUR_S


def following(period: Period) -> Period:
    """Return the period after this one."""
    year, month = map(int, period.split("-"))
    return f"{year + month // 12:04}-{month % 12 + 1:02}"


def begins_s(period: Period) -> int:
    """Return Unix time of the period's first moment."""
    year, month = map(int, period.split("-"))
    return int(datetime(year, month, 1, tzinfo=UTC).timestamp())


def ends_s(period: Period) -> int:
    """Return Unix time of the first moment after the period."""
    return begins_s(following(period))


def checked_period(text: str) -> Period:
    """Return the text when it names a period; raise ValueError otherwise."""
    # By fullmatch: `$` lets a line's end pass.
    if not _PERIOD.fullmatch(text) or not "1970-01" <= text <= "9998-12":
        raise ValueError(f"{text[:20]!r} is no period: write a year and a month, like 2026-11")
    return text


def booked_in(period: Period, closed: Period | None) -> tuple[Period, str]:
    """Return where usage of a period is booked while all up to `closed` are closed, and which period that corrects."""
    if closed is None or period > closed:
        return period, ""
    return following(closed), period
