"""What is joined of one request, and when."""

import pytest
from tenantry.core.outcome import Ended, Outcome
from tenantry.core.rollout.join import Joined, Joiner, Mismatch, Patience, Told
from tenantry.core.rollout.signals import Observation, Pair, Sample
from tenantry.core.rollout.trial import Arm, Trial
from tenantry.core.usage import FinishReason, UsageRecord

PATIENCE = Patience(record_s=5.0, mirror_s=60.0)


def outcome(
    arm: Arm, *, code: int = 200, ended: Ended = "completed", rescued: bool = False, ttfb_ms: float = 10.0,
    mirror: bool = False,
) -> Outcome:  # fmt: skip
    trial = Trial(rollout="r", candidate="2", arm=arm, share=0.5, unit="u", mirror=mirror, limit_s=1.0)
    return Outcome(
        tenant="acme", tier="gold", model="m", version="2" if arm == "candidate" else "1", request_id="q",
        reason="split", code=code, ended=ended, flags=(), attempts=1 + rescued, ttfb_ms=ttfb_ms, duration_ms=20.0,
        cluster="m@1", trial=trial, rescued=rescued,
    )  # fmt: skip


def record(version: str, *, mirror: bool = False, attempt: int = 1, reason: FinishReason = "stop") -> UsageRecord:
    return UsageRecord(
        request_id="q", engine="e", attempt=attempt, mirror=mirror, tenant="acme", model="m", version=version,
        ended_s=0.0, finish_reason=reason, input_tokens=1, output_tokens=7, queue_ms=0.0, ttft_ms=5.0, duration_ms=9.0,
    )  # fmt: skip


def samples(told: list[Told]) -> list[Sample]:
    assert all(isinstance(each, Joined) and isinstance(each.seen, Observation) for each in told), told
    return [each.seen.sample for each in told if isinstance(each, Joined) and isinstance(each.seen, Observation)]


@pytest.mark.parametrize("arm", ["stable", "candidate"])
def test_an_answer_waits_for_its_record_and_then_counts_by_its_status(arm: Arm) -> None:
    joiner = Joiner()
    assert not list(joiner.outcome(outcome(arm), PATIENCE, 0.0))
    assert not list(joiner.due(4.9, 30.0))
    assert samples(list(joiner.due(5.0, 30.0))) == [Sample(failed=False)]
    assert not len(joiner)


@pytest.mark.parametrize("first", ["outcome", "record"])
def test_either_may_come_first(first: str) -> None:
    joiner, told = Joiner(), list[Told]()
    for turn in (first, "record" if first == "outcome" else "outcome"):
        one = record("2") if turn == "record" else outcome("candidate")
        if isinstance(one, Outcome):
            told += joiner.outcome(one, PATIENCE, 0.0)
        else:
            told += joiner.record(one, 0.0)
    (sample,) = samples(told)
    assert (sample.failed, sample.ttft_ms, sample.output_tokens) == (False, 5.0, 7)


FAILED = {
    f"{how}, {arm}": outcome(arm, **known)  # type: ignore[arg-type]  # by name
    for how, known in {"status": {"code": 503}, "cut": {"ended": "failed"}, "late": {"ttfb_ms": 1_001.0}}.items()
    for arm in ("stable", "candidate")
} | {"rescued": outcome("candidate", rescued=True)}


@pytest.mark.parametrize("failed", FAILED.values(), ids=FAILED)
def test_a_failure_that_the_access_log_knows_of_is_reported_at_once_for_either_version(failed: Outcome) -> None:
    """An engine that is down writes no record; to wait for one delayed each such revert by `record_s` (measured)."""
    joiner = Joiner()
    assert samples(list(joiner.outcome(failed, PATIENCE, 0.0))) == [Sample(failed=True)]
    assert not list(joiner.record(record(failed.version, reason="error"), 0.1))
    assert not list(joiner.due(100.0, 30.0)), "once"
    assert not len(joiner)


def test_a_failed_original_is_reported_at_once_and_its_pair_when_both_records_are_there() -> None:
    joiner = Joiner()
    assert samples(list(joiner.outcome(outcome("stable", code=500, mirror=True), PATIENCE, 0.0))) == [
        Sample(failed=True)
    ]
    assert not list(joiner.record(record("1", reason="error"), 0.1))
    (told,) = joiner.record(record("2", mirror=True), 0.2)
    assert isinstance(told, Joined)
    assert isinstance(told.seen, Pair)
    assert (told.seen.stable.failed, told.seen.candidate.failed) == (True, False)
    assert not len(joiner)


def test_a_copy_without_a_record_failed_unless_its_original_has_none_either() -> None:
    for own in (True, False):
        joiner = Joiner()
        told = list(joiner.outcome(outcome("stable", mirror=True), PATIENCE, 0.0))
        told += joiner.record(record("1"), 0.1) if own else []
        told += joiner.due(61.0, 30.0)
        pairs = [each.seen for each in told if isinstance(each, Joined) and isinstance(each.seen, Pair)]
        assert [pair.candidate for pair in pairs] == ([Sample(failed=True)] if own else [])


def test_a_rescues_record_is_nobodys_and_another_versions_is_said() -> None:
    joiner = Joiner()
    assert not list(joiner.outcome(outcome("candidate"), PATIENCE, 0.0))
    assert not list(joiner.record(record("1", attempt=2), 0.1))
    (told,) = joiner.record(record("3"), 0.2)
    assert isinstance(told, Mismatch)
    assert (told.assigned, told.engine_runs) == ("2", "3")
