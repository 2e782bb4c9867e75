"""What replicas exchange: log-wealth that adds up, and a merge that cannot go wrong.

Each start of a process (a *writer*, with an id of its own) publishes the running total of its own bets with a sequence
number; the pair (writer, sequence) is the id of the batch. Merging keeps, per writer, the highest sequence, and
evidence is the sum over writers. So merging is commutative, associative and idempotent (a join semilattice): a batch
that comes twice, late, or out of order changes nothing, a store that forgot is filled again by whoever still
remembers, and no replica ever starts from another's total (N replicas that re-seed multiply what they count; LiteLLM's
spend counters did, issues #27639 and #28247). Log-wealth adds because replicas bet on different units: the product of
their payoffs is again a fair game.

A higher chapter replaces a lower one whole: its bets begin anew at 1.

Bounds: WRITERS_MAX writers (the lowest sequences fall out first, which keeps the merge a semilattice), one tally per
group and visit class each.
"""

from collections.abc import Iterable
from math import exp, isfinite, log

from msgspec import Struct

from tenantry.core.rollout.budget import VISIT_SHARES
from tenantry.core.rollout.signals import SIGNALS, Signal

WRITERS_MAX = 64

_MAX_COUNT = 2**53
_MAX_LOG_WEALTH = 1e6

SHARE_RATIOS = (0.4, 2.5)
"""Bets on the realised share of candidate units, or of readings, being other than the split's."""

SHARE_PRIORS = (0.5, 0.5)
SHARE = "share"


def coverage(signal: Signal) -> str:
    """Return the name of the bets on a signal's readings coming from the candidate as often as its units do."""
    return f"coverage:{signal.name}"


def _layout() -> dict[str, tuple[int, int]]:
    places, at = {}, 0
    for signal in SIGNALS:
        places[signal.name] = (at, at + len(signal.tilts))
        at += len(signal.tilts)
    for name in (SHARE, *(coverage(signal) for signal in SIGNALS if signal.kind == "shift")):
        places[name] = (at, at + len(SHARE_RATIOS))
        at += len(SHARE_RATIOS)
    return places


LAYOUT = _layout()
"""Where each signal's log-wealth, one number per tilt, stands in a tally."""

COMPONENTS = max(end for _, end in LAYOUT.values())


class Tally(Struct, frozen=True, kw_only=True, order=True):
    """One writer's bets on one group in one visit class.

    `group` is a tenant, or `~0` to `~7` for the tenants beyond the places. `units` counts the split's candidate units,
    `all_units` both arms', `pairs` mirrored units. `since_s` is when the group was first counted. `log_wealth` has
    COMPONENTS numbers, `counted` the candidate units (or pairs) of which each of SIGNALS had a reading.
    """

    group: str
    visit: int
    units: int
    all_units: int
    pairs: int = 0
    counted: tuple[int, ...]
    since_s: float
    log_wealth: tuple[float, ...]


class Ledger(Struct, frozen=True, kw_only=True, order=True):
    """A writer's running totals; (`writer`, `sequence`) is the batch's id."""

    sequence: int
    writer: str
    tallies: tuple[Tally, ...]


class Evidence(Struct, frozen=True, kw_only=True):
    """All that is known of a rollout in its newest chapter, which began at `started_s` on the shared clock."""

    started_s: float
    chapter: int = 1
    ledgers: tuple[Ledger, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.chapter <= _MAX_COUNT or not isfinite(self.started_s):
            raise ValueError(f"evidence has chapter {self.chapter}, begun at {self.started_s}: chapters count from 1")
        for ledger in self.ledgers:
            for tally in ledger.tallies:
                _check(ledger, tally)


def merge(one: Evidence, other: Evidence) -> Evidence:
    """Return what both know together."""
    if one.chapter != other.chapter:
        return max(one, other, key=lambda evidence: evidence.chapter)
    newest: dict[str, Ledger] = {}
    for ledger in (*one.ledgers, *other.ledgers):
        known = newest.get(ledger.writer)
        # The whole ledger decides, not its number alone: two different ones under one id must not depend on the order.
        if known is None or ledger > known:
            newest[ledger.writer] = ledger
    kept = sorted(newest.values(), reverse=True)[:WRITERS_MAX]
    return Evidence(
        chapter=one.chapter,
        started_s=min(one.started_s, other.started_s),
        ledgers=tuple(sorted(kept, key=lambda ledger: ledger.writer)),
    )


def log_mix(log_wealth: Iterable[float], priors: tuple[float, ...]) -> float:
    """Return the log of the mixture of wealths: the log e-value of a signal."""
    logs = tuple(log_wealth)
    top = max(logs)
    return top + log(sum(prior * exp(value - top) for prior, value in zip(priors, logs, strict=True)))


def _check(ledger: Ledger, tally: Tally) -> None:
    where = f"batch {ledger.sequence} of writer {ledger.writer!r}, group {tally.group!r}"
    if len(tally.log_wealth) != COMPONENTS:
        raise ValueError(
            f"{where}: {len(tally.log_wealth)} components where this release has {COMPONENTS}; "
            "the writer runs another release, or the record is damaged"
        )
    if len(tally.counted) != len(SIGNALS):
        raise ValueError(f"{where}: counts of {len(tally.counted)} signals where this release has {len(SIGNALS)}")
    if not all(isfinite(value) and abs(value) <= _MAX_LOG_WEALTH for value in tally.log_wealth):
        raise ValueError(f"{where}: log-wealth is not finite, or more than anybody can win; the record is damaged")
    if tally.visit not in VISIT_SHARES:
        raise ValueError(f"{where}: visit class {tally.visit}, where this release has {tuple(VISIT_SHARES)}")
    counts = (ledger.sequence, tally.units, tally.all_units, tally.pairs, *tally.counted)
    if not all(0 <= count <= _MAX_COUNT for count in counts) or tally.units > tally.all_units:
        raise ValueError(f"{where}: counts that do not fit one another; the record is damaged")
    if not 1 <= len(tally.group) <= 64 or not isfinite(tally.since_s):
        raise ValueError(f"{where}: no group's name, or no moment; the record is damaged")
