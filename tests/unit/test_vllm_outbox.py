"""The records that wait for one sidecar: transcripts on a clock of their own, then any order of events."""

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace
from tenantry.core.usage import MAX_BATCH, MAX_BATCH_BYTES, UsageRecord, read_batch
from tenantry_vllm.outbox import Item, Limits, Outbox, Verdict, batch_body, verdict

SMALL = Limits(batch_records=3, batch_bytes=200, waiting_records=6, max_age_s=10.0)


def items(count: int, at_s: float = 0.0, size: int = 10) -> list[Item]:
    return [Item(b"%0*d" % (size, index), at_s) for index in range(count)]


def filled(new: list[Item], limits: Limits = SMALL) -> Outbox:
    outbox = Outbox(limits)
    for item in new:
        outbox.add(item)
    return outbox


def test_a_batch_is_due_a_moment_after_its_oldest_record() -> None:
    outbox = Outbox(SMALL)
    assert outbox.due_s is None
    first, second = Item(b"1", 5.0), Item(b"2", 5.05)
    assert outbox.add(first)  # a sleeping sender must learn of it
    assert not outbox.add(second)
    assert outbox.due_s == pytest.approx(5.1)
    assert outbox.take(5.1) == (first, second)
    assert outbox.due_s is None
    outbox.taken()
    assert (outbox.counts["shipped"], len(outbox)) == (2, 0)


def test_a_full_batch_is_due_at_once() -> None:
    by_count = filled(items(2))
    assert by_count.due_s == pytest.approx(0.1)
    assert by_count.add(Item(b"3", 0.0))
    assert by_count.due_s == float("-inf")
    by_bytes = filled(items(2, size=99))
    assert by_bytes.due_s == float("-inf")


def test_what_comes_during_a_post_waits_for_its_end() -> None:
    outbox = filled(items(1))
    outbox.take(0.1)
    late = Item(b"late", 0.2)
    assert not outbox.add(late)
    outbox.taken()
    assert outbox.due_s == pytest.approx(0.3)
    with pytest.raises(RuntimeError, match="in flight"):
        (outbox.take(0.3), outbox.take(0.3))


def test_a_sidecar_that_is_down_is_tried_less_and_less_often() -> None:
    outbox = filled(items(3))
    now_s, waits = 0.0, []
    for _ in range(6):
        batch = outbox.take(now_s)
        assert batch == tuple(items(3))  # the same again, in order
        outbox.later(now_s)
        assert outbox.due_s is not None
        waits.append(outbox.due_s - now_s)
        now_s = outbox.due_s
    assert waits == [0.25, 0.5, 1.0, 2.0, 2.0, 2.0]
    outbox.take(now_s)
    outbox.taken()
    outbox.add(Item(b"x", now_s))
    assert outbox.due_s == pytest.approx(now_s + 0.1)
    outbox.take(now_s)
    outbox.later(now_s)
    assert outbox.due_s == pytest.approx(now_s + 0.25)  # and patience begins anew


def test_a_full_batch_does_not_break_the_back_off() -> None:
    outbox = filled(items(3))
    outbox.take(0.0)
    outbox.later(0.0)
    outbox.add(Item(b"4", 0.0))
    assert outbox.due_s == 0.25


def test_beyond_the_bound_the_oldest_go() -> None:
    outbox = filled(items(8))
    assert (len(outbox), outbox.counts["full"]) == (6, 2)
    assert outbox.take(1.0) == tuple(items(8)[2:5])
    for item in items(5):  # 3 wait already, 3 are in flight
        outbox.add(item)
    outbox.later(1.0)
    assert (len(outbox), outbox.counts["full"]) == (6, 2 + 5)


def test_what_is_too_old_is_dropped_when_its_turn_comes() -> None:
    outbox = filled([*items(2, at_s=0.0), *items(1, at_s=6.0)])
    assert outbox.take(10.5) == tuple(items(1, at_s=6.0))
    assert outbox.counts["too_old"] == 2
    outbox.later(10.5)
    assert outbox.take(17.0) == ()
    assert (outbox.counts["too_old"], outbox.due_s, len(outbox)) == (3, None, 0)


def test_a_refused_batch_is_dropped_and_the_next_not_delayed() -> None:
    outbox = filled(items(4))
    outbox.take(0.1)
    outbox.never()
    assert outbox.counts["refused"] == 3
    assert outbox.due_s == pytest.approx(0.1)


def test_closing_flushes_at_once_and_once() -> None:
    outbox = filled(items(4))
    outbox.take(0.1)
    outbox.later(0.1)
    outbox.close()
    assert outbox.due_s == float("-inf")
    assert len(outbox.take(0.1)) == 3
    outbox.taken()
    outbox.add(Item(b"late", 0.2))
    assert len(outbox.take(0.1)) == 1
    outbox.later(0.1)
    assert outbox.due_s is None
    assert outbox.counts == {"shipped": 3, "stopped": 2}


def test_bodies_are_batches_within_the_contracts_bounds() -> None:
    outbox = Outbox(Limits())
    for item in items(2500, size=300):
        outbox.add(item)
    batch = outbox.take(1.0)
    assert len(batch) == MAX_BATCH
    outbox.taken()
    big = Outbox(Limits())
    for item in items(900, size=2000):
        big.add(item)
    body = batch_body(big.take(1.0))
    assert MAX_BATCH_BYTES - 2003 < len(body) <= MAX_BATCH_BYTES
    assert read_batch(batch_body(())) == ()


def test_a_body_is_read_back() -> None:
    record = UsageRecord(
        request_id="r1", engine="e", tenant="acme", model="m", version="1", ended_s=1.0, finish_reason="stop"
    )
    records = (record, replace(record, attempt=2), replace(record, mirror=True))
    assert read_batch(batch_body(tuple(Item(msgspec.json.encode(one), 0.0) for one in records))) == records


@pytest.mark.parametrize(
    ("status", "what"),
    [
        (200, Verdict.TAKEN),
        (204, Verdict.TAKEN),
        (302, Verdict.LATER),
        (400, Verdict.NEVER),
        (401, Verdict.LATER),
        (404, Verdict.LATER),
        (413, Verdict.NEVER),
        (429, Verdict.LATER),
        (503, Verdict.LATER),
    ],
)
def test_verdicts(status: int, what: Verdict) -> None:
    assert verdict(status) is what


class AnyOrderOfEvents(RuleBasedStateMachine):
    """Nothing is lost without being counted, nothing is sent twice after it was taken, and the order stays."""

    def __init__(self) -> None:
        super().__init__()
        self.outbox = Outbox(SMALL)
        self.now_s = 0.0
        self.added = 0
        self.flying: tuple[Item, ...] = ()
        self.last_shipped = -1

    @rule(count=st.integers(1, 5), size=st.integers(4, 120))
    def add(self, count: int, size: int) -> None:
        for _ in range(count):
            before = self.outbox.due_s
            woke = self.outbox.add(Item(b"%0*d" % (size, self.added), self.now_s))
            assert woke == (self.outbox.due_s != before)
            self.added += 1

    @rule(seconds=st.sampled_from([0.05, 0.3, 4.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @precondition(lambda self: not self.flying)
    @rule()
    def take(self) -> None:
        due_s = self.outbox.due_s
        if due_s is not None and due_s <= self.now_s:
            self.flying = self.outbox.take(self.now_s)
            assert len(self.flying) <= SMALL.batch_records
            assert len(self.flying) <= 1 or len(batch_body(self.flying)) <= SMALL.batch_bytes
            assert all(item.added_s >= self.now_s - SMALL.max_age_s for item in self.flying)

    @precondition(lambda self: self.flying)
    @rule(how=st.sampled_from(["taken", "never", "later"]))
    def settle(self, how: str) -> None:
        numbers = [int(item.data) for item in self.flying]
        assert numbers == sorted(numbers)
        assert numbers[0] > self.last_shipped
        if how == "later":
            self.outbox.later(self.now_s)
            assert self.outbox.closed or self.outbox.due_s is None or self.outbox.due_s >= self.now_s + 0.25
        else:
            self.last_shipped = numbers[-1]
            self.outbox.taken() if how == "taken" else self.outbox.never()
        self.flying = ()

    @precondition(lambda self: self.added > 20)
    @rule()
    def close(self) -> None:
        self.outbox.close()

    @invariant()
    def every_record_is_accounted_for(self) -> None:
        assert sum(self.outbox.counts.values()) + len(self.outbox) == self.added
        assert len(self.outbox) <= SMALL.waiting_records + SMALL.batch_records


TestAnyOrderOfEvents = AnyOrderOfEvents.TestCase
