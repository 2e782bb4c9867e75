"""How often each sticky unit came, in bounded memory.

Two generations: when the young one is full it becomes the old one and the old one is forgotten. A unit is forgotten
only after at least `max_units` others came since its last visit; it may then be counted once more.
"""


class Visits:
    """Counts visits by key. At most `2 x max_units` keys are kept."""

    __slots__ = ("_max_units", "_old", "_young")

    def __init__(self, max_units: int) -> None:
        self._max_units = max_units
        self._young: dict[int, int] = {}
        self._old: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def arrive(self, key: int) -> tuple[int, bool]:
        """Count a visit; return its number, from 1, and whether the visit before was put off."""
        young = self._young
        before = young.get(key)
        if before is None:
            before = self._old.pop(key, 0)
            if len(young) >= self._max_units:
                self._old = young
                self._young = young = {}
        number = before + 1 if before >= 0 else 1 - before
        young[key] = number
        return number, before < 0

    def put_off(self, key: int) -> None:
        """Remember that the visit just counted left something to be read at the next one."""
        self._young[key] = -abs(self._young[key])
