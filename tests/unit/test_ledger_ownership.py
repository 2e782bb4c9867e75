"""Who pays for an attempt: rescued, hedged, aborted, failed, copied and unfinished ones, each as a short story."""

import itertools

import pytest
from tenantry.core.billing.booking import Entry, plan
from tenantry.core.billing.ownership import owner_alone, owners
from tenantry.core.usage import UsageRecord
from tenantry_testing.ledger_world import request


def story(*records: UsageRecord) -> list[str]:
    """The owner of each record, the same in any order."""
    found = [owners(order) for order in itertools.permutations(records)]
    assert all(each == found[0] for each in found)
    return [found[0][record.id] for record in records]


def attempt(number: int, reason: str | None, **changes: object) -> UsageRecord:
    return request("r1", attempt=number, engine=f"e{number}", finish_reason=reason, **changes)


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls"])
def test_a_request_that_was_served_is_its_tenants(reason: str) -> None:
    assert story(attempt(1, reason)) == ["tenant"]


def test_an_error_is_the_operators() -> None:
    assert story(attempt(1, "error")) == ["failed"]


def test_an_aborted_stream_is_billed_for_what_was_generated() -> None:
    assert story(attempt(1, None, part=1), attempt(1, "abort", part=2)) == ["tenant", "tenant"]


def test_parts_have_no_owner_before_the_end_is_there() -> None:
    first, second, last = (attempt(1, reason, part=part) for part, reason in ((1, None), (2, None), (3, "stop")))
    assert story(first, second) == ["unfinished", "unfinished"]
    assert story(first, second, last) == ["tenant", "tenant", "tenant"]


def test_a_failed_attempt_and_its_rescue() -> None:
    assert story(attempt(1, "error"), attempt(2, "stop")) == ["failed", "tenant"]


def test_an_attempt_that_was_given_up_and_its_rescue() -> None:
    assert story(attempt(1, "abort"), attempt(2, "stop")) == ["failed", "tenant"]


def test_of_two_that_served_the_earliest_is_paid_for() -> None:
    assert story(attempt(1, "stop"), attempt(2, "stop")) == ["tenant", "failed"]
    assert story(attempt(1, "stop"), attempt(2, "abort")) == ["tenant", "failed"]


@pytest.mark.parametrize("source", ["access-log", "response"])
@pytest.mark.parametrize("engine", ["a-engine", "vllm-1"])
def test_an_engines_record_is_paid_for_and_not_the_sidecars_guess_of_the_same_request(source: str, engine: str) -> None:
    def measured(reason: str) -> UsageRecord:
        return request("r1", engine=engine, finish_reason=reason)

    def reckoned(reason: str) -> UsageRecord:
        return request("r1", engine=source, finish_reason=reason, measured="estimate")

    assert story(reckoned("stop")) == ["tenant"]
    assert story(measured("stop"), reckoned("stop")) == ["tenant", "failed"]
    assert story(measured("abort"), reckoned("abort")) == ["tenant", "failed"]
    # The candidate's engine failed and reported; the stable version, which has no plugin, answered.
    assert story(measured("error"), reckoned("stop")) == ["failed", "tenant"]


def test_a_client_that_left_pays_for_the_last_attempt() -> None:
    assert story(attempt(1, "abort"), attempt(2, "abort")) == ["failed", "tenant"]
    assert story(attempt(1, "error"), attempt(2, "abort")) == ["failed", "tenant"]


def test_an_attempt_that_was_given_up_before_one_that_failed_is_nobodys() -> None:
    # The client did not leave: it got an error.
    assert story(attempt(1, "abort"), attempt(2, "error")) == ["failed", "failed"]


def test_an_attempt_that_was_given_up_stays_so_when_the_engine_of_the_next_one_crashes() -> None:
    assert story(attempt(1, "abort"), attempt(2, None)) == ["failed", "unfinished"]


def test_an_engine_that_crashed_and_the_attempt_that_served() -> None:
    assert story(attempt(1, None), attempt(2, "stop")) == ["unfinished", "tenant"]


def test_the_sequences_of_an_attempt_fail_together() -> None:
    first, second = attempt(1, "stop", sequence=0), attempt(1, "length", sequence=1)
    assert story(first, second) == ["tenant", "tenant"]
    assert story(first, attempt(1, "error", sequence=1)) == ["failed", "failed"]
    assert story(first, attempt(1, "abort", sequence=1)) == ["tenant", "tenant"]
    assert story(first, attempt(1, "abort", sequence=1), attempt(2, "stop")) == ["failed", "failed", "tenant"]


def test_the_sequences_of_an_attempt_do_not_wait_for_each_other() -> None:
    ended, running = attempt(1, "stop", sequence=0), attempt(1, None, sequence=1)
    assert story(ended, running) == ["tenant", "unfinished"]
    assert story(ended, running, attempt(2, "stop")) == ["failed", "unfinished", "tenant"]
    assert story(ended, running, attempt(2, None)) == ["failed", "unfinished", "unfinished"]


def test_the_ranks_of_a_data_parallel_engine_share_an_attempt() -> None:
    # vLLM spreads the sequences of one request: each rank is an engine process, all bear the request's one number.
    ranks = [request(engine=f"rank{n % 2}", sequence=n, finish_reason="stop") for n in range(4)]
    assert story(*ranks) == ["tenant"] * 4
    failed = request(engine="rank0", sequence=2, finish_reason="error")
    assert story(ranks[0], ranks[1], failed, ranks[3]) == ["failed"] * 4
    assert story(*ranks[:2], request(engine="another", finish_reason="stop")) == ["failed", "tenant", "tenant"]


def test_a_copy_is_the_operators_and_has_no_say_in_the_original() -> None:
    assert story(attempt(1, "stop"), attempt(2, "stop", mirror=True)) == ["tenant", "mirror"]
    assert story(attempt(1, "abort"), attempt(2, "error", mirror=True)) == ["tenant", "mirror"]


def test_what_came_past_the_sidecar_is_the_operators() -> None:
    assert story(attempt(1, "stop", tenant="")) == ["unstamped"]
    assert story(attempt(1, "stop", tenant="", mirror=True)) == ["mirror"]


def test_two_engines_that_give_one_number_are_two_attempts() -> None:
    one, other = (request(engine=engine, finish_reason="stop") for engine in ("e1", "e2"))
    assert story(one, other) == ["tenant", "failed"]


def test_no_request_id_moves_a_bill_from_one_tenant_to_another() -> None:
    assert story(attempt(1, "stop", tenant="acme"), attempt(2, "stop", tenant="globex")) == ["tenant", "tenant"]


def test_a_record_alone_has_the_owner_that_it_has_among_others() -> None:
    for reason, tenant, mirror in itertools.product(
        ("stop", "length", "tool_calls", "abort", "error", None), ("acme", ""), (False, True)
    ):
        record = attempt(1, reason, tenant=tenant, mirror=mirror)
        assert [owner_alone(record)] == story(record)


def test_a_list_of_prompts_that_run_one_after_another_moves_each_record_once() -> None:
    entries: list[Entry] = []
    for number in range(50):
        for part, reason in ((1, None), (2, "stop")):
            record = request(sequence=number, part=part, finish_reason=reason)
            planned = plan([record], [0], known=(), held=entries, closed=None, now_s=0.0)
            entries += planned.entries
    # Two records a prompt, and what takes the first from nobody and gives it to the tenant.
    assert len(entries) == 50 * 4
