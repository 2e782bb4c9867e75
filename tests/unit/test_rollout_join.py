"""Two stories of one request become one observation: `end` is the access log's, `told` the engine's record.

Time stands in the notation: `at(3.0)` is three seconds after the first event. Each call says what was joined by it.
"""

from collections.abc import Iterable

import pytest
from msgspec import structs
from tenantry.core.outcome import Ended, Outcome
from tenantry.core.rollout import join as module
from tenantry.core.rollout.join import Joined, Joiner, Mismatch, Patience, Told
from tenantry.core.rollout.signals import Observation, Pair, Sample
from tenantry.core.rollout.trial import Arm, Trial
from tenantry.core.usage import UsageRecord

PATIENCE = Patience(record_s=5.0, mirror_s=60.0)
KEEP_S = 30.0
FAILED = Sample(failed=True)
GOOD = Sample(
    failed=False,
    ttft_ms=80.0,
    time_per_token_ms=9.0,
    output_tokens=200,
    finished=True,
    repetitive=False,
    mean_log_probability=-0.5,
)
"""What `told()` says of an answer."""


def trial(arm: Arm = "candidate", *, mirror: bool = False, has_past: bool = False, limit_s: float = 10.0) -> Trial:
    return Trial(
        rollout="r1", candidate="1.5.0", arm=arm, share=0.05, unit="u1", mirror=mirror, has_past=has_past,
        limit_s=limit_s,
    )  # fmt: skip


def ended(
    of: Trial | None = None,
    *,
    request: str = "q1",
    code: int = 200,
    how: Ended = "completed",
    ttfb_ms: float | None = 7.0,
    duration_ms: float = 2_000.0,
    rescued: bool = False,
) -> Outcome:
    return Outcome(
        tenant="acme",
        tier="gold",
        model="chat-8b",
        version="1.5.0" if of is None or of.arm == "candidate" else "1.4.0",
        request_id=request,
        reason="split",
        code=code,
        ended=how,
        flags=(),
        attempts=2 if rescued else 1,
        ttfb_ms=ttfb_ms,
        duration_ms=duration_ms,
        cluster="chat-8b@1.4.0" if rescued else "chat-8b@1.5.0",
        trial=of,
        rescued=rescued,
    )


def told(version: str = "1.5.0", *, request: str = "q1", **more: object) -> UsageRecord:
    fields: dict[str, object] = {
        "request_id": request,
        "engine": "pod-1",
        "tenant": "acme",
        "model": "chat-8b",
        "version": version,
        "ended_s": 1_800_000_000.0,
        "finish_reason": "stop",
        "output_tokens": 200,
        "ttft_ms": 80.0,
        "time_per_token_ms": 9.0,
        "repetition": 0.1,
        "mean_log_probability": -0.5,
    }
    return UsageRecord(**(fields | more))  # type: ignore[arg-type]


class Story:
    """A Joiner whose clock is set by `at`."""

    def __init__(self) -> None:
        self.joiner, self.now_s = Joiner(), 0.0

    def at(self, now_s: float) -> "Story":
        self.now_s = now_s
        return self

    def end(self, outcome: Outcome, patience: Patience = PATIENCE) -> list[Told]:
        return list(self.joiner.outcome(outcome, patience, self.now_s))

    def told(self, record: UsageRecord) -> list[Told]:
        return list(self.joiner.record(record, self.now_s))

    def due(self) -> list[Told]:
        return list(self.joiner.due(self.now_s, KEEP_S))


def seen(sample: Sample, arm: Arm = "candidate", *, turns: int = 0, without_record: bool = False) -> list[Told]:
    found = Observation(tenant="acme", unit="u1", arm=arm, share=0.05, sample=sample, earlier_turns=turns)
    return [Joined(rollout="r1", seen=found, without_record=without_record)]


def pair(stable: Sample, candidate: Sample, *, turns: int = 0, without_record: bool = False) -> list[Told]:
    found = Pair(tenant="acme", unit="u1", stable=stable, candidate=candidate, earlier_turns=turns)
    return [Joined(rollout="r1", seen=found, without_record=without_record)]


# --- requests of the split ---------------------------------------------------------------------------------------


def test_the_outcome_comes_first() -> None:
    story = Story()
    assert story.end(ended(trial())) == []
    assert story.at(0.4).told(told()) == seen(GOOD)
    assert story.at(99.0).due() == []
    assert len(story.joiner) == 0


def test_the_record_comes_first() -> None:
    story = Story()
    assert story.told(told()) == []
    assert story.at(0.4).end(ended(trial())) == seen(GOOD)
    assert len(story.joiner) == 0


def test_either_arm_and_whether_the_conversation_has_a_past() -> None:
    story = Story()
    story.end(ended(trial("stable", has_past=True)))
    assert story.told(told("1.4.0")) == seen(GOOD, "stable", turns=1)


def test_without_a_record_the_status_is_all_that_counts_and_not_before_its_time() -> None:
    """`Records.seconds` of the rules."""
    story = Story()
    story.end(ended(trial()))
    assert story.at(4.9).due() == []
    assert story.at(5.0).due() == seen(Sample(failed=False), without_record=True)
    assert story.at(5.1).told(told()) == []  # it came too late, and is not observed a second time
    assert story.at(36.0).due() == []
    assert len(story.joiner) == 0


@pytest.mark.parametrize(
    ("outcome", "failed"),
    [
        (ended(trial(), code=500), True),
        (ended(trial(), code=429), True),
        (ended(trial(), code=400), False),
        (ended(trial(), code=200, how="failed"), True),  # cut short
        (ended(trial(), code=0, how="failed", ttfb_ms=None), True),
        (ended(trial(), code=0, how="aborted", ttfb_ms=None), None),
    ],
)
def test_what_the_status_alone_says(outcome: Outcome, failed: bool | None) -> None:
    """A failure at once; what may yet be told by a record, when that has not come in time."""
    story = Story()
    at_once = story.end(outcome)
    assert bool(at_once) is bool(failed)
    assert at_once + story.at(5.0).due() == seen(Sample(failed=failed), without_record=True)


def test_an_exchange_that_is_nothing_to_a_rollout_is_not_kept() -> None:
    story = Story()
    assert story.end(ended(None)) == []
    assert len(story.joiner) == 0


def test_an_error_inside_a_stream_is_a_failure_of_a_200() -> None:
    story = Story()
    story.end(ended(trial()))
    assert story.told(told(finish_reason="error")) == seen(FAILED)


def test_a_failure_says_nothing_else() -> None:
    """The length and latency of an answer that failed are not those of an answer."""
    story = Story()
    assert story.end(ended(trial(), code=500)) == seen(FAILED, without_record=True)
    assert story.told(told()) == []


def test_a_client_that_leaves_before_the_first_token_had_waited_in_vain() -> None:
    """Leaving these out would hide the slowest: TTFT is at least the time that it waited."""
    story = Story()
    story.end(ended(trial(), how="aborted", duration_ms=9_000.0))
    assert story.told(told(finish_reason="abort", ttft_ms=None, output_tokens=0, time_per_token_ms=None)) == seen(
        Sample(ttft_ms=9_000.0)
    )


def test_a_client_that_leaves_later_cut_the_answer_short_itself() -> None:
    story = Story()
    story.end(ended(trial(), how="aborted"))
    assert story.told(told(finish_reason="abort", output_tokens=20)) == seen(
        Sample(ttft_ms=80.0, time_per_token_ms=9.0)
    )


@pytest.mark.parametrize(
    ("more", "sample"),
    [
        ({"finish_reason": "length"}, {"finished": False}),
        ({"finish_reason": "tool_calls"}, {"finished": True}),
        ({"repetition": 0.5}, {"repetitive": True}),
        ({"repetition": 0.49}, {"repetitive": False}),
        ({"repetition": None, "mean_log_probability": None}, {"repetitive": None, "mean_log_probability": None}),
        (
            {"output_tokens": 0, "ttft_ms": None, "time_per_token_ms": None},  # embeddings
            dict.fromkeys(
                (
                    "ttft_ms",
                    "time_per_token_ms",
                    "output_tokens",
                    "finished",
                    "repetitive",
                    "mean_log_probability",
                )
            ),
        ),
    ],
)
def test_what_is_read_from_a_record(more: dict[str, object], sample: dict[str, object]) -> None:
    story = Story()
    story.end(ended(trial()))
    good = {name: getattr(GOOD, name) for name in Sample.__struct_fields__}
    assert story.told(told(**more)) == seen(Sample(**(good | sample)))  # type: ignore[arg-type]


# --- rescued, or late --------------------------------------------------------------------------------------------


def test_a_rescued_request_is_a_failure_of_the_candidate_at_once() -> None:
    """However good the stable version's answer was; no record is needed to know it."""
    story = Story()
    assert story.end(ended(trial(), rescued=True)) == seen(FAILED)
    assert len(story.joiner) == 0
    assert story.told(told(finish_reason="abort")) == []


def test_where_the_candidate_has_no_host_the_first_attempt_is_the_stable_versions_and_no_mismatch() -> None:
    """Envoy passes over an empty cluster in the first attempt. Nobody runs a version that it should not."""
    story = Story()
    assert story.told(told("1.4.0")) == []
    assert story.end(ended(trial(), rescued=True)) == seen(FAILED)
    other = Story()
    other.end(ended(trial(), rescued=True))
    assert other.told(told("1.4.0")) == []


def test_only_the_first_attempt_is_the_assigned_versions() -> None:
    """The second is its rescue, whatever it says."""
    story = Story()
    story.end(ended(trial()))
    assert story.told(told("1.4.0", attempt=2)) == []
    assert story.told(told()) == seen(GOOD)
    assert story.told(told(attempt=2, request="q2")) == []
    assert len(story.joiner) == 0


@pytest.mark.parametrize(("arm", "version"), [("candidate", "1.5.0"), ("stable", "1.4.0")])
def test_a_first_byte_that_is_late_counts_against_either_version(arm: Arm, version: str) -> None:
    """The candidate's would have been rescued then: the stable version must not look better for having nobody."""
    for ttfb_ms, sample in ((10_000.0, GOOD), (10_000.1, FAILED)):
        story = Story()
        found = story.end(ended(trial(arm, limit_s=10.0), ttfb_ms=ttfb_ms, duration_ms=20_000.0))
        assert found + story.told(told(version)) == seen(sample, arm, without_record=sample is FAILED)


@pytest.mark.parametrize(("arm", "version"), [("candidate", "1.5.0"), ("stable", "1.4.0")])
def test_a_client_that_gives_up_after_the_limit_waited_for_a_version_that_was_late(arm: Arm, version: str) -> None:
    """A candidate's request is a rescued one by then, and counts as failed; so does the stable version's."""
    for duration_ms, sample in ((10_000.0, Sample(ttft_ms=10_000.0)), (10_000.1, FAILED)):
        story = Story()
        found = story.end(ended(trial(arm), code=0, how="aborted", ttfb_ms=None, duration_ms=duration_ms))
        record = told(version, finish_reason="abort", ttft_ms=None, output_tokens=0, time_per_token_ms=None)
        assert found + story.told(record) == seen(sample, arm, without_record=sample is FAILED)


def test_the_time_that_a_client_takes_to_send_its_request_is_its_own() -> None:
    """Nine seconds of uploading, two of waiting: neither version was late."""
    story = Story()
    slow = structs.replace(ended(trial(limit_s=10.0), ttfb_ms=11_000.0, duration_ms=12_000.0), sent_ms=9_000.0)
    assert story.end(slow) == []
    assert story.told(told()) == seen(GOOD)


def test_a_client_that_does_not_read_is_no_failure_of_whoever_had_said_all() -> None:
    outcome = structs.replace(ended(trial(), how="failed"), flags=("stream_idle_timeout",))
    story = Story()
    assert story.end(outcome) == []  # the record will tell whose silence it was
    assert story.told(told()) == seen(structs.replace(GOOD, failed=None))
    hung = Story()
    hung.end(outcome)
    assert hung.told(told(finish_reason="abort")) == seen(FAILED)


# --- mirrored ----------------------------------------------------------------------------------------------------

COPIED = trial("stable", mirror=True, has_past=True)


def test_what_a_client_did_not_wait_for_is_known_of_neither_version() -> None:
    """The copy has no client and runs to its end; compared whole, whoever stops early would make it look slow."""
    story = Story()
    story.end(ended(COPIED, how="aborted", duration_ms=300.0))
    story.told(told("1.4.0", finish_reason="abort", ttft_ms=None, output_tokens=0, time_per_token_ms=None))
    (joined,) = [each for each in story.told(told(mirror=True, ttft_ms=2_000.0)) if isinstance(each, Joined)]
    assert isinstance(joined.seen, Pair)
    assert (joined.seen.stable.ttft_ms, joined.seen.candidate.ttft_ms) == (300.0, 300.0)
    assert (joined.seen.stable.output_tokens, joined.seen.candidate.output_tokens) == (None, None)


def test_an_original_and_its_copy_are_a_pair_whatever_the_order() -> None:
    outcome, own, copy = ended(COPIED), told("1.4.0"), told("1.5.0", mirror=True, ttft_ms=160.0)
    slower = Sample(**{name: getattr(GOOD, name) for name in Sample.__struct_fields__} | {"ttft_ms": 160.0})
    whole = seen(GOOD, "stable", turns=1) + pair(GOOD, slower, turns=1)
    for order in ((outcome, own, copy), (own, copy, outcome), (copy, outcome, own), (outcome, copy, own)):
        story, found = Story(), list[Told]()
        for event in order:
            found += story.end(event) if isinstance(event, Outcome) else story.told(event)
        assert found == whole
        assert len(story.joiner) == 0


def test_the_original_is_observed_before_its_copy_has_ended() -> None:
    story = Story()
    story.end(ended(COPIED))
    assert story.told(told("1.4.0")) == seen(GOOD, "stable", turns=1)
    assert story.at(30.0).due() == []
    assert story.at(50.0).told(told(mirror=True)) == pair(GOOD, GOOD, turns=1)


def test_a_copy_of_which_nothing_is_heard_has_failed() -> None:
    """A candidate too broken to write a record has nothing else to show."""
    story = Story()
    story.end(ended(COPIED))
    story.told(told("1.4.0"))
    assert story.at(59.9).due() == []
    assert story.at(60.0).due() == pair(GOOD, FAILED, turns=1, without_record=True)
    assert story.due() == []
    assert len(story.joiner) == 0


def test_where_the_originals_record_is_missing_too_nothing_is_said_of_the_candidate() -> None:
    """Then it is the way of the records that is broken."""
    story = Story()
    story.end(ended(COPIED))
    assert story.at(5.0).due() == seen(Sample(failed=False), "stable", turns=1, without_record=True)
    assert story.at(60.0).due() == []
    assert len(story.joiner) == 0
    lone_copy = Story()
    lone_copy.end(ended(COPIED))
    assert lone_copy.told(told(mirror=True)) == []
    lone_copy.at(5.0).due()
    assert lone_copy.at(60.0).due() == []


def test_an_original_whose_record_is_late_still_makes_a_pair() -> None:
    story = Story()
    story.end(ended(COPIED))
    assert story.at(5.0).due() == seen(Sample(failed=False), "stable", turns=1, without_record=True)
    assert story.at(8.0).told(told(mirror=True)) == []
    assert story.at(9.0).told(told("1.4.0")) == pair(GOOD, GOOD, turns=1)


def test_how_a_copy_ended() -> None:
    for more, sample in (
        ({"finish_reason": "error"}, FAILED),
        ({"finish_reason": "abort"}, Sample(ttft_ms=80.0, time_per_token_ms=9.0)),  # nobody's wish: Envoy let it go
    ):
        story = Story()
        story.end(ended(COPIED))
        story.told(told("1.4.0"))
        assert story.told(told(mirror=True, **more)) == pair(GOOD, sample, turns=1)


def test_a_copy_of_a_request_that_was_not_mirrored_is_nothing() -> None:
    story = Story()
    story.end(ended(trial("stable")))
    assert story.told(told(mirror=True)) == []
    assert story.told(told("1.4.0")) == seen(GOOD, "stable")


# --- what is wrong, comes twice, or is too much --------------------------------------------------------------------


@pytest.mark.parametrize("record_first", [False, True])
def test_an_engine_that_runs_another_version_is_named_and_its_record_not_read(record_first: bool) -> None:
    story, found = Story(), list[Told]()
    if record_first:
        found += story.told(told("1.3.0"))
        found += story.end(ended(trial()))
    else:
        found += story.end(ended(trial()))
        found += story.told(told("1.3.0"))
    assert found == [Mismatch(rollout="r1", model="chat-8b", assigned="1.5.0", engine_runs="1.3.0", engine="pod-1")]
    assert story.at(5.0).due() == seen(Sample(failed=False), without_record=True)


def test_a_copy_that_another_version_took_is_no_copy() -> None:
    story = Story()
    story.end(ended(COPIED))
    story.told(told("1.4.0"))
    (mismatch,) = story.told(told("1.4.0", mirror=True))
    assert isinstance(mismatch, Mismatch)
    assert (mismatch.assigned, mismatch.engine_runs) == ("1.5.0", "1.4.0")


def test_records_come_twice() -> None:
    """Shippers deliver at least once."""
    story = Story()
    assert story.told(told()) == []
    assert story.told(told()) == []
    assert story.end(ended(trial())) == seen(GOOD)
    assert story.told(told()) == []
    copied = Story()
    copied.end(ended(COPIED))
    found = [told("1.4.0"), told("1.4.0"), told(mirror=True), told(mirror=True)]
    assert [len(copied.told(record)) for record in found] == [1, 0, 1, 0]


def test_the_first_of_two_records_counts() -> None:
    story = Story()
    story.told(told())
    story.told(told(finish_reason="error"))
    assert story.end(ended(trial())) == seen(GOOD)


def test_an_outcome_comes_twice() -> None:
    story = Story()
    assert story.end(ended(trial())) == []
    assert story.at(1.0).end(ended(trial(), code=500)) == []
    assert story.at(5.0).due() == seen(Sample(failed=False), without_record=True)


def test_every_record_comes_to_every_sidecar_and_those_of_others_requests_are_forgotten() -> None:
    story = Story()
    for number in range(10):
        assert story.at(float(number)).told(told(request=f"theirs {number}")) == []
    assert story.at(KEEP_S + 4.0).due() == []
    assert len(story.joiner) == 5
    story.at(KEEP_S + 99.0).due()
    assert len(story.joiner) == 0
    assert story.joiner.dropped == 0


def test_a_record_that_comes_again_is_not_kept_longer_for_it() -> None:
    story = Story()
    story.told(told())
    story.at(29.0).told(told())
    story.at(30.0).due()
    assert len(story.joiner) == 0


@pytest.fixture
def room_for_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)


def units(found: Iterable[Told]) -> list[tuple[type, bool]]:
    return [(type(each.seen), each.without_record) for each in found if isinstance(each, Joined)]


@pytest.mark.usefixtures("room_for_three")
def test_of_more_requests_than_can_wait_the_oldest_counts_by_its_status() -> None:
    story = Story()
    for number in range(3):
        assert story.end(ended(trial(), request=f"q{number}")) == []
    assert story.end(ended(trial(), request="q3")) == seen(Sample(failed=False), without_record=True)
    assert (len(story.joiner), story.joiner.dropped) == (3, 1)
    assert story.told(told(request="q1")) == seen(GOOD)


@pytest.mark.usefixtures("room_for_three")
def test_a_copy_that_was_not_waited_for_has_not_failed() -> None:
    """A busy hour must not look like a broken candidate."""
    story = Story()
    story.end(ended(COPIED, request="q0"))
    story.told(told("1.4.0", request="q0"))
    for number in range(1, 4):
        found = story.end(ended(trial(), request=f"q{number}"))
    assert found == []
    assert story.joiner.dropped == 1


@pytest.mark.usefixtures("room_for_three")
def test_of_more_records_than_can_be_kept_the_oldest_go() -> None:
    story = Story()
    for number in range(9):
        story.told(told(request=f"q{number}"))
    assert (len(story.joiner), story.joiner.dropped) == (3, 6)
    assert story.end(ended(trial(), request="q8")) == seen(GOOD)
    assert story.end(ended(trial(), request="q0")) == []
