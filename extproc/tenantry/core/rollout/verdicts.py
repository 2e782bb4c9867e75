"""What the guard is told beforehand, and what it says: plans, verdicts, and the evidence as a reader sees it."""

from typing import Literal

from msgspec import Struct

from tenantry.core.rollout.budget import Budget
from tenantry.core.rollout.signals import Margins


class Plan(Struct, frozen=True, kw_only=True):
    """What a rollout is judged by. Units, requests and seconds are in the names.

    Evidence may be added up only under one plan: another plan makes another rollout.
    """

    margins: Margins = Margins()
    budget: Budget = Budget()
    warmup_requests: int = 30
    chapter_units: int = 2_000
    chapter_s: float = 24 * 3600.0
    chapter_min_units: int = 500
    chapter_max_s: float = 7 * 24 * 3600.0


class Verdict(Struct, frozen=True, kw_only=True):
    """What to do. `tenant` None: the fleet. `alarm`: an operator must look, and nothing is moved.

    An alarm about the realised share (`signal` "share") may name a group of the rest, `~0` to `~7`, as its tenant.

    `log_e` and `log_threshold` are natural logarithms; `units` counts the candidate units that the signal could read.
    """

    action: Literal["revert", "alarm"]
    tenant: str | None
    signal: str
    visit: int
    chapter: int
    log_e: float
    log_threshold: float
    units: int
    at_s: float
    why: str


class Row(Struct, frozen=True, kw_only=True):
    """One line of the evidence, for `tenantry rollout explain` and for metrics. `group` None: the fleet.

    Not `covered`: readings of one version are missing more often than of the other, so no verdict comes of it.
    """

    group: str | None
    signal: str
    visit: int
    units: int
    log_e: float
    log_threshold: float
    covered: bool = True


class Progress(Struct, frozen=True, kw_only=True):
    """What automatic steps look at. Times on the caller's clock, None: never.

    `units` are the candidate's of this chapter's split, `all_units` both versions': their ratio is the realised share.
    `pairs` are mirrored units.
    `suspicion` is the fleet's largest log e-value over its threshold: 1 at a verdict, below 0 when bets lose. `alarms`
    counts the verdicts that are held back. `spread_units` are candidate units that generated an answer, those of the
    tenant with most of them counted only as often as all others' together.
    """

    units: int
    all_units: int
    pairs: int
    last_candidate_s: float | None
    last_stable_s: float | None
    suspicion: float
    alarms: int
    spread_units: int = 0
