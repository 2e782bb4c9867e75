"""How often each sticky unit came: a unit counts once in each visit class, whichever replica sees it.

The number of the last visit is kept per unit, negative while the latency of an earlier visit is still to be read (it
was cold then). `next_visit` is the whole rule; stores run it atomically where units are shared (the Redis adapter has
it in Lua), `Visits` is the bounded memory of a single process.
"""

from msgspec import Struct

from tenantry.core.rollout.budget import VISIT_SHARES


class Arrival(Struct, frozen=True, kw_only=True):
    """A unit's request that ended. `unit` is unique across tenants.

    `warming`: the candidate is still cold as a whole. `has_past`: the request brought a conversation with it, whose
    prefix one version alone may have cached.
    """

    unit: str
    warming: bool
    has_past: bool


class Visit(Struct, frozen=True, kw_only=True):
    """The number of this visit, from 1, and whether the latency of an earlier one was put off until now."""

    number: int
    was_put_off: bool


def next_visit(before: int, arrival: Arrival) -> tuple[int, Visit]:
    """Return what to remember of the unit, given what was (0: nothing), and the visit."""
    number, was_put_off = abs(before) + 1, before < 0
    cold = arrival.warming or (number == 1 and arrival.has_past)
    puts_off = cold and (number == 1 or (was_put_off and number not in VISIT_SHARES))
    return -number if puts_off else number, Visit(number=number, was_put_off=was_put_off)


class Visits:
    """Counts visits by unit in bounded memory: at most `2 x max_units` units are kept.

    Two generations: when the young one is full it becomes the old one and the old one is forgotten. A unit is
    forgotten only after at least `max_units` others came since its last visit; it may then be counted once more.
    """

    __slots__ = ("_max_units", "_old", "_young")

    def __init__(self, max_units: int) -> None:
        self._max_units = max_units
        self._young: dict[str, int] = {}
        self._old: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def arrive(self, arrival: Arrival) -> Visit:
        """Count a visit."""
        unit, young = arrival.unit, self._young
        before = young.get(unit)
        if before is None:
            before = self._old.pop(unit, 0)
            if len(young) >= self._max_units:
                self._old = young
                self._young = young = {}
        young[unit], visit = next_visit(before, arrival)
        return visit
