"""The count of visits, held in one number per unit, against a model that remembers everything."""

from hypothesis import given
from hypothesis import strategies as st
from tenantry.core.rollout.budget import VISIT_SHARES
from tenantry.core.rollout.visits import Arrival, Visit, Visits, next_visit


class Diary:
    """Writes down every visit of a unit, and reads the rule off the pages.

    The latency of a unit's first visit is to be read once: then, unless the unit is cold; else at the first later visit
    that is not cold itself. A visit that counts by itself (4th, 16th) takes what is left over with it.
    """

    def __init__(self) -> None:
        self.pages: list[Arrival] = []

    def arrive(self, arrival: Arrival) -> Visit:
        due = self.is_due()
        self.pages.append(arrival)
        return Visit(number=len(self.pages), was_put_off=due)

    def is_due(self) -> bool:
        """Whether the first latency is still to be read after all these pages."""
        if not self.pages or not (self.pages[0].warming or self.pages[0].has_past):
            return False
        return all(page.warming and number not in VISIT_SHARES for number, page in enumerate(self.pages[1:], 2))


arrivals = st.lists(st.tuples(st.sampled_from("ab"), st.booleans(), st.booleans()), max_size=40)


@given(arrivals)
def test_one_number_per_unit_is_enough(came: list[tuple[str, bool, bool]]) -> None:
    diaries, numbers = {unit: Diary() for unit in "ab"}, dict.fromkeys("ab", 0)
    visits = Visits(10)
    for unit, warming, has_past in came:
        arrival = Arrival(unit=unit, warming=warming, has_past=has_past)
        expected = diaries[unit].arrive(arrival)
        numbers[unit], visit = next_visit(numbers[unit], arrival)
        assert visit == visits.arrive(arrival) == expected
        assert numbers[unit] == (-1 if diaries[unit].is_due() else 1) * expected.number


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.booleans())
def test_the_latency_that_was_put_off_is_read_at_most_once(warming: list[bool], has_past: bool) -> None:
    """As the guard reads it: at a first visit that is warm, or at a later, warm one to which it was put off."""
    before, read = 0, 0
    for number, cold in enumerate(warming, 1):
        before, visit = next_visit(before, Arrival(unit="u", warming=cold, has_past=has_past))
        if number == 1:
            read += not (cold or has_past)
        elif visit.was_put_off and number not in VISIT_SHARES:
            read += not cold
    assert read <= 1
