"""When an event may be sent, and how fast a destination is tried. Pure: times and chance are arguments.

    pending --> sending --taken--> done
       ^          |  |
       +--not taken  +--refused----------------------> parked --a person: retry--> pending
       +--unknown, while the destination remembers     parked --a person: discard--> discarded
       +--unknown, for longer than it remembers -----> parked

An event is *in doubt* from the moment of the first send whose fate is unknown; that moment is on disk before a byte
goes out. It may be sent again while the destination is sure to recognise it, and no longer: then nobody but a person
can say whether it was counted. While in doubt the very same bytes are sent, whatever has become of the settings.
"""

from typing import Literal

from msgspec import Struct

from tenantry.core.billing.answers import Verdict
from tenantry.core.billing.export_settings import MARGIN_HOURS

State = Literal["pending", "sending", "parked", "done", "discarded"]

MAX_PAUSE_S = 300.0
FIRST_PAUSE_S = 1.0
MAX_RETRY_AFTER_S = 3600.0
"""A destination that asks for more is asked again all the same."""


class After(Struct, frozen=True, kw_only=True):
    """What an event's row becomes. `doubtful_since_s` is None when no send of it can have been counted."""

    state: State
    doubtful_since_s: float | None = None
    reason: str = ""


def overdue(doubtful_since_s: float | None, remembers_hours: float | None, now_s: float) -> bool:
    """Return whether an event in doubt is beyond what the destination remembers (None: everything).

    A clock that was set back counts as much as one that went on: how much time passed is not known then.
    """
    if doubtful_since_s is None or remembers_hours is None:
        return False
    return abs(now_s - doubtful_since_s) >= (remembers_hours - MARGIN_HOURS) * 3600


def after(verdict: Verdict, words: str, *, doubtful_before_s: float | None, sent_s: float) -> After:
    """Return what follows from a verdict on a send; None: the event was not in doubt before it."""
    if verdict == "taken":
        return After(state="done")
    if verdict == "unknown":
        return After(state="pending", doubtful_since_s=doubtful_before_s if doubtful_before_s is not None else sent_s)
    if verdict == "refused":
        doubt = "" if doubtful_before_s is None else "; an earlier send of it may have been counted"
        return After(state="parked", doubtful_since_s=doubtful_before_s, reason=f"refused: {words}{doubt}")
    return After(state="pending", doubtful_since_s=doubtful_before_s)


class Pace(Struct, frozen=True, kw_only=True):
    """How a destination is tried: events a batch, not before when, and how often it failed in a row.

    After a failure one event at a time is tried, and the batch doubles with each success: what breaks a destination
    every time keeps others waiting for a pause or two, not for ever.
    """

    size: int
    most: int
    failures: int = 0
    not_before_s: float = 0.0

    @property
    def fresh(self) -> bool:
        """Whether to try an event that was not tried before.

        While a destination is down each send puts an event in doubt, so probes take one that is in doubt already. Only
        the 1st, 2nd, 4th, 8th ... takes a new one, lest the old one be what breaks it.
        """
        return self.failures & (self.failures - 1) == 0

    def succeeded(self) -> "Pace":
        """Return the pace after an answer that makes sense."""
        return Pace(size=min(self.size * 2, self.most), most=self.most)

    def failed(self, now_s: float, *, retry_after_s: float | None, chance: float) -> "Pace":
        """Return the pace after a failure; `chance`, 0 to 1, is this try's share of the pause's second half."""
        pause_s = min(FIRST_PAUSE_S * 2 ** min(self.failures, 20), MAX_PAUSE_S) * (0.5 + chance / 2)
        if retry_after_s is not None:
            pause_s = max(pause_s, min(retry_after_s, MAX_RETRY_AFTER_S))
        return Pace(size=1, most=self.most, failures=self.failures + 1, not_before_s=now_s + pause_s)

    def due(self, now_s: float) -> bool:
        """Return whether the destination may be tried; a clock that was set back does not hold it up for longer."""
        return now_s >= self.not_before_s or now_s < self.not_before_s - MAX_RETRY_AFTER_S
