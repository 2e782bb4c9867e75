"""What becomes of reservations, as transcripts: what was admitted, ended and recorded, and what is done about it."""

from typing import Any

from tenantry.core.quota import settling
from tenantry.core.quota.account import Limits
from tenantry.core.quota.claim import Claim
from tenantry.core.quota.settling import Settlement, Settling
from tenantry.core.rules_billing import ModelProfile, UsageSource
from tenantry.core.usage import UsageRecord


class House:
    """A Settling with a clock; `said` is what it has told, as (request, milliunits, result)."""

    def __init__(self) -> None:
        self.settling = Settling()
        self.now_s = 0.0

    def admitted(self, name: str, *, sequences: int = 1, usage: UsageSource = "plugin") -> list[tuple[Any, ...]]:
        claim = Claim(
            tenant="acme", limits=Limits(minute=1), amount=5_000, profile=ModelProfile(), usage=usage,
            sequences=sequences,
        )  # fmt: skip
        return said(list(self.settling.admitted(name, claim)))

    def ended(self, name: str) -> list[tuple[Any, ...]]:
        return said(list(self.settling.ended(name, self.now_s)))

    def record(self, name: str, output_tokens: int, **members: Any) -> list[tuple[Any, ...]]:
        return said(list(self.settling.record(record(name, output_tokens, **members))))

    def wait(self, seconds: float) -> list[tuple[Any, ...]]:
        self.now_s += seconds
        return said(list(self.settling.due(self.now_s)))


def said(settlements: list[Settlement]) -> list[tuple[Any, ...]]:
    return [(each.request_id, each.actual, each.result) for each in settlements]


def record(name: str, output_tokens: int, **members: Any) -> UsageRecord:
    figures: dict[str, Any] = {"finish_reason": "stop", "output_tokens": output_tokens} | members
    return UsageRecord(request_id=name, engine="e", tenant="acme", model="chat-8b", version="1", ended_s=0.0, **figures)


def test_a_record_waits_for_the_end_and_the_end_for_a_record() -> None:
    house = House()
    house.admitted("early")
    assert house.record("early", 10) == []
    assert house.ended("early") == [("early", 30, "record")]
    house.admitted("late")
    assert house.ended("late") == []
    assert house.record("late", 10, input_tokens=100, cached_tokens=40) == [("late", 60 + 4 + 30, "record")]
    assert len(house.settling) == 0
    assert house.record("late", 10) == []


def test_what_is_nobodys_here_is_forgotten() -> None:
    house = House()
    assert house.record("another replica's", 10) == []
    assert house.ended("another replica's") == []
    assert len(house.settling) == 0


def test_without_a_record_all_is_given_back_once_and_a_late_one_counts_once() -> None:
    house = House()
    house.admitted("r")
    house.ended("r")
    assert house.wait(4.9) == []
    assert house.wait(0.1) == [("r", None, "returned")]
    assert house.wait(1) == []
    assert house.settling.held() == {}
    assert house.record("r", 10) == [("r", 30, "late")]
    assert house.record("r", 10) == []
    assert house.wait(60) == []
    assert len(house.settling) == 0


def test_all_sequences_count_together_or_what_came_of_them_in_time() -> None:
    house = House()
    house.admitted("two", sequences=2)
    house.ended("two")
    assert house.record("two", 10, sequence=0) == []
    assert house.record("two", 10, sequence=0) == []  # the same once more
    assert house.record("two", 1, sequence=1) == [("two", 33, "record")]
    house.admitted("unknown", sequences=0)
    house.ended("unknown")
    assert house.record("unknown", 10) == []
    assert house.wait(5) == [("unknown", 30, "record")]


def test_a_long_list_of_prompts_counts_in_full() -> None:
    house = House()
    house.admitted("list", sequences=0)
    for sequence in range(settling.MAX_SEQUENCES + 500):
        house.record("list", 1, sequence=sequence)
    house.record("list", 1, sequence=0)  # the same once more
    house.ended("list")
    assert house.wait(5) == [("list", 3 * (settling.MAX_SEQUENCES + 500), "record")]


def test_copies_failures_and_parts_do_not_count() -> None:
    house = House()
    house.admitted("r")
    house.ended("r")
    assert house.record("r", 10, mirror=True) == []
    assert house.record("r", 10, finish_reason="error") == []
    assert house.record("r", 10, finish_reason=None) == []
    assert house.wait(5) == [("r", None, "returned")]


def test_of_a_rescue_the_attempt_that_finished_counts() -> None:
    house = House()
    house.admitted("r")
    house.record("r", 500, attempt=1, finish_reason="abort")
    assert house.ended("r") == []  # the second attempt's is still to come
    assert house.record("r", 10, attempt=2) == [("r", 30, "record")]


def test_of_a_hedge_the_attempt_that_lost_does_not_count() -> None:
    house = House()
    house.admitted("r")
    house.record("r", 10, attempt=1)
    house.record("r", 500, attempt=2, finish_reason="abort")
    assert house.ended("r") == [("r", 30, "record")]


def test_an_aborted_request_counts_for_what_was_generated() -> None:
    house = House()
    house.admitted("r")
    house.record("r", 7, finish_reason="abort")
    house.ended("r")
    assert house.wait(5) == [("r", 21, "record")]


def test_a_model_without_a_plugin_is_settled_by_what_is_told_or_by_the_estimate() -> None:
    house = House()
    house.admitted("logged", usage="estimate")
    assert said(list(house.settling.told("logged", 123, "estimate"))) == [("logged", 123, "estimate")]
    assert house.ended("logged") == []
    house.admitted("silent", usage="response")
    house.ended("silent")
    assert house.wait(5) == [("silent", 5_000, "estimate")]


def test_memory_is_bounded() -> None:
    house = House()
    limit, settling.MAX_OPEN = settling.MAX_OPEN, 3
    try:
        told = [house.admitted(f"r{number}") for number in range(5)]
    finally:
        settling.MAX_OPEN = limit
    assert told == [[], [], [], [("r0", None, "returned")], [("r1", None, "returned")]]
    assert len(house.settling) == 3
