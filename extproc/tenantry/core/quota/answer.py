"""What a client is told of its quota: the headers of an answer, and the refusal.

The headers are those that OpenAI's API has for tokens, with compute units in the place of tokens. They speak of the
minute where that is limited, of the period where only that is; a refusal speaks of the window that refused.
"""

from typing import Literal

from tenantry.core.errors import QuotaExhaustedError, RateLimitedError
from tenantry.core.quota.account import MILLI, MINUTE_MS, Limits, Standing, month_begin_ms
from tenantry.core.quota.claim import Claim

Window = Literal["minute", "period", "period_held"]
"""`period_held`: requests under way hold what is left of the period; there may be room when they end."""

HELD_RETRY_S = 2.0
"""When to come again where only requests under way are in the way: nobody knows when they end."""

NAMES = ("limit", "remaining", "reset")


def header(name: str) -> str:
    """Return the response header of one of NAMES."""
    return f"x-ratelimit-{name}-compute-units"


def metadata_key(name: str) -> str:
    """Return the key under which the sidecar's metadata has it, for Envoy to write the header from."""
    return f"quota_{name}"


def figures(limits: Limits, standing: Standing, window: Window | None = None) -> dict[str, str]:
    """Return the values of NAMES."""
    if limits.minute is not None and window in (None, "minute"):
        room = limits.minute * MINUTE_MS - standing.content
        return _figures(limits.minute, room // MINUTE_MS, minute_reset_s(limits, standing))
    period = limits.period or 0
    return _figures(period, period - standing.used - standing.reserved, _until_next_month_s(standing))


def minute_reset_s(limits: Limits, standing: Standing) -> float:
    """Return in how many seconds the minute's bucket will be empty."""
    return standing.content / (limits.minute or 1) / 1e3


def refusal(claim: Claim, standing: Standing) -> tuple[Window, RateLimitedError | QuotaExhaustedError]:
    """Return which window refused a request, and what to answer."""
    limits, amount = claim.limits, claim.amount
    if limits.period is not None and standing.used + amount > limits.period:
        wait_s = _until_next_month_s(standing)
        message = (
            f"The quota of this month is spent: {units(standing.used)} of {units(limits.period)} compute units, and "
            f"the request may need {units(amount)} (a smaller max_tokens needs less). It begins anew in "
            f"{duration(wait_s)}."
        )
        # It would be of no use to the client's library to try again.
        headers = (*_headers(limits, standing, "period", wait_s), ("x-should-retry", "false"))
        return "period", QuotaExhaustedError("insufficient_quota", message, headers=headers)
    if limits.period is not None and standing.used + standing.reserved + amount > limits.period:
        message = (
            f"Requests under way hold what is left of this month's quota: {units(standing.reserved)} compute units; "
            f"the request may need {units(amount)}. Try again when they have ended."
        )
        headers = _headers(limits, standing, "period", HELD_RETRY_S)
        return "period_held", RateLimitedError("rate_limit_exceeded", message, headers=headers)
    minute = limits.minute or 1
    over = standing.content - (minute - min(amount, minute)) * MINUTE_MS
    wait_s = max(over, 0) / minute / 1e3
    message = (
        f"Rate limit reached: {units(minute)} compute units a minute, and the request may need {units(amount)} (a "
        f"smaller max_tokens needs less). Try again in {duration(wait_s)}."
    )
    headers = _headers(limits, standing, "minute", wait_s)
    return "minute", RateLimitedError("rate_limit_exceeded", message, headers=headers)


def duration(seconds: float) -> str:
    """Return a span of time as OpenAI's API writes it: 120ms, 6.5s, 1m30s, 49h0m10s; rounded up."""
    millis = -int(-seconds * 1e3 // 1)
    if millis < 1_000:
        return f"{millis}ms"
    if millis < MINUTE_MS:
        tenths = -(-millis // 100)
        return f"{tenths / 10:g}s"
    minutes, rest = divmod(-(-millis // 1_000), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"


def units(milliunits: int) -> str:
    """Return an amount in compute units, for people."""
    return f"{milliunits / MILLI:.10g}"


def _figures(limit: int, remaining: int, reset_s: float) -> dict[str, str]:
    return {
        "limit": str(limit // MILLI),
        "remaining": str(max(0, remaining) // MILLI),
        "reset": duration(reset_s),
    }


def _headers(limits: Limits, standing: Standing, window: Window, wait_s: float) -> tuple[tuple[str, str], ...]:
    told = figures(limits, standing, window)
    # Whole seconds, and never 0: clients take that for "no word".
    return (("retry-after", str(max(1, -int(-wait_s // 1)))), *((header(name), told[name]) for name in NAMES))


def _until_next_month_s(standing: Standing) -> float:
    return max(0.0, (month_begin_ms(standing.month + 1) - standing.now_ms) / 1e3)
