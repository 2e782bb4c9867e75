"""Evidence that waits: bounded, in lines, and gone only once somebody took the next batch."""

import pytest
from tenantry.adapters.rollout_queue import Seen, Waiting
from tenantry.core.rollout.signals import Observation, Pair, Sample

SAMPLE = Sample(failed=False)


def seen(unit: str, share: float = 0.5) -> Observation:
    return Observation(tenant="acme", unit=unit, arm="stable", share=share, sample=SAMPLE)


def pair(unit: str) -> Pair:
    return Pair(tenant="acme", unit=unit, stable=SAMPLE, candidate=SAMPLE)


def units(waiting: Waiting, size: int = 2) -> list[list[str]]:
    return [[each.unit for each in batch] for batch in waiting.batches(("r", "split"), size)]


def full(*all_of_them: Seen, limit: int = 100) -> Waiting:
    waiting = Waiting(limit)
    for each in all_of_them:
        waiting.add("r", each)
    return waiting


def test_each_count_has_a_line_of_its_own() -> None:
    waiting = full(seen("a"), pair("b"), seen("c", share=0.0), seen("d", share=1.0), seen("e"))
    waiting.add("other", seen("f"))
    assert waiting.lines() == (("r", "split"), ("r", "pairs"), ("r", "none"), ("other", "split"))
    assert units(waiting) == [["a", "e"]]
    assert waiting.lines() == (("r", "pairs"), ("r", "none"), ("other", "split"))
    assert len(waiting) == 4


def test_what_finds_no_room_is_lost_and_the_rest_stays() -> None:
    waiting = full(seen("a"), seen("b"), limit=2)
    assert not waiting.add("another", seen("c"))
    assert units(waiting) == [["a", "b"]]
    assert waiting.add("another", seen("c"))


def test_a_batch_at_which_something_went_wrong_stays() -> None:
    waiting = full(*map(seen, "abcde"))
    for batch in waiting.batches(("r", "split"), 2):
        if batch[0].unit == "c":
            break
    assert len(waiting) == 3
    assert units(waiting) == [["c", "d"], ["e"]]
    assert (len(waiting), waiting.lines()) == (0, ())


def test_a_batch_can_be_dropped() -> None:
    waiting = full(*map(seen, "abc"))
    batch = next(waiting.batches(("r", "split"), 2))
    waiting.drop(("r", "split"), batch)
    assert units(waiting) == [["c"]]


def test_what_comes_meanwhile_waits_for_the_next_time() -> None:
    """A flush has an end, however fast requests come."""
    waiting = full(*map(seen, "ab"))
    found = []
    for batch in waiting.batches(("r", "split"), 1):
        found += [each.unit for each in batch]
        waiting.add("r", seen("later"))
    assert found == ["a", "b"]
    assert units(waiting) == [["later", "later"]]


@pytest.mark.parametrize("fresh", [0, 2])
def test_what_is_forgotten_while_a_batch_is_at_hand_takes_nothing_else_along(fresh: int) -> None:
    waiting = full(*map(seen, "abcd"))
    batches = waiting.batches(("r", "split"), 2)
    next(batches)
    assert waiting.forget("r") == 4
    for number in range(fresh):
        waiting.add("r", seen(f"fresh{number}"))
    found = [each.unit for batch in batches for each in batch]
    assert found == [f"fresh{number}" for number in range(fresh)]
    assert (len(waiting), waiting.forget("r")) == (0, 0)
