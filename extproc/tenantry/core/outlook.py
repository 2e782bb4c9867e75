"""What a tenant gets before any request is there: the decision that most of its units meet, and what the split says.

`tenantry explain` shows it, and `rules_diff` compares it under two documents.
"""

from math import nextafter

from msgspec import Struct

from tenantry.core.routing import Decision, Live, decide, percent_of
from tenantry.core.rules import Model
from tenantry.core.split import Dice
from tenantry.core.tenant import Profile

_MOST_UNITS = Dice(split=nextafter(100.0, 0.0), mirror=100.0, tag="")
"""The highest bucket: what most units get."""


class Outlook(Struct, frozen=True, kw_only=True):
    """The decision for most units, in words `because`; `copied` tells of the mirror, "" without one."""

    decision: Decision
    because: str
    copied: str = ""


def outlook(profile: Profile, name: str, model: Model, live: Live) -> Outlook:
    """Return what a tenant's requests for a model (known to clients as `name`) meet."""
    decision = decide(profile, name, model, live, lambda _rollout: _MOST_UNITS)
    rollout, view = model.rollout, live.view(name, model)
    if rollout is None or view is None or decision.trial is None or decision.trial.share >= 1.0:
        return Outlook(decision=decision, because=f"{decision.reason}: {decision.why}")
    percent = percent_of(profile, rollout, view)
    copied = f"{rollout.mirror_percent:g} % of the rest are copied to it" if rollout.mirror_percent else ""
    because = f"split: {percent:g} % of its units go to {rollout.candidate}, the rest here"
    return Outlook(decision=decision, because=because, copied=copied)
