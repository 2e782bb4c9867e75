"""One account as a story, what a request is reserved at, and what clients are told."""

import json
from typing import Any

import pytest
from tenantry.core import chat
from tenantry.core.chat import Api
from tenantry.core.errors import QuotaExhaustedError, RateLimitedError
from tenantry.core.quota.account import (
    MINUTE_MS,
    Account,
    Change,
    GiveBack,
    Limits,
    Reserve,
    Seen,
    Settle,
    Standing,
    apply,
    limits_of,
    month_begin_ms,
    month_of,
)
from tenantry.core.quota.answer import duration, figures, refusal
from tenantry.core.quota.claim import Claim, Size, claim, size_of
from tenantry.core.rules_billing import ModelProfile, Quota
from tenantry_testing import documents

NOW_MS = 1_800_000_000_000
LEASE_MS = 30_000


class Till:
    """An account in a notation for tests: each call is a change, and answers with what it came to."""

    def __init__(self, **limits: Any) -> None:
        self.limits = Limits(**limits)
        self.account = Account()
        self.now_ms = NOW_MS
        self.seen: Seen | None = None

    def wait(self, seconds: float) -> None:
        self.now_ms += round(seconds * 1e3)

    def reserve(self, name: str, amount: int, owner: str = "a") -> bool:
        return self._do(Reserve(owner=owner, lease_ms=LEASE_MS, id=name, amount=amount, seen=self.seen)).granted

    def settle(self, name: str, actual: int) -> Standing:
        return self._do(Settle(owner="a", lease_ms=LEASE_MS, id=name, actual=actual))

    def give_back(self, name: str) -> Standing:
        return self._do(GiveBack(owner="a", lease_ms=LEASE_MS, id=name))

    def _do(self, change: Change) -> Standing:
        self.account, standing = apply(self.account, self.limits, change, self.now_ms)
        return standing


def test_requests_that_come_at_once_cannot_all_pass() -> None:
    till = Till(period=10_000)
    assert [till.reserve(f"r{number}", 3_000) for number in range(5)] == [True, True, True, False, False]
    # The first cost less than was held for it, the second failed: there is room again.
    assert till.settle("r0", 500).used == 500
    assert till.give_back("r1").reserved == 3_000
    assert [till.reserve(f"s{number}", 3_000) for number in range(3)] == [True, True, False]


def test_the_minutes_bucket_drains_a_sixtieth_each_second() -> None:
    till = Till(minute=6_000)
    assert till.reserve("r0", 6_000)
    assert not till.reserve("r1", 100)
    till.wait(0.999)
    assert not till.reserve("r1", 100)
    till.wait(0.001)
    assert till.reserve("r1", 100)
    till.wait(3_600)
    assert [till.reserve(f"s{number}", 3_000) for number in range(3)] == [True, True, False]


def test_what_was_held_too_much_comes_back_with_the_settlement() -> None:
    till = Till(minute=6_000)
    assert till.reserve("r0", 6_000)
    assert till.settle("r0", 1_000).content == 1_000 * MINUTE_MS
    assert till.reserve("r1", 5_000)
    # A settlement beyond what was held counts in full, and those that follow wait for it.
    till.settle("r1", 9_000)
    till.wait(40)
    assert not till.reserve("r2", 1)
    till.wait(1)
    assert till.reserve("r2", 1)


def test_a_request_beyond_the_whole_limit_passes_alone() -> None:
    till = Till(minute=6_000)
    assert till.reserve("small", 1)
    assert not till.reserve("huge", 60_000)
    till.wait(1)
    assert till.reserve("huge", 60_000)
    assert till.settle("huge", 60_000).content == 60_000 * MINUTE_MS


def test_a_month_begins_with_nothing_used_and_what_is_under_way_ends_in_it() -> None:
    till = Till(period=10_000, alert_at=(0.5, 1.0))
    assert till.settle("r0", 9_000).crossed == (0.5,)
    assert till.reserve("r1", 1_000)
    till.now_ms = month_begin_ms(month_of(NOW_MS) + 1)
    assert till.reserve("r2", 9_000)
    standing = till.settle("r1", 5_000)
    assert (standing.used, standing.crossed) == (5_000, (0.5,))
    # A clock that is set back gives nobody the old month's budget, nor the new one's again.
    till.now_ms = NOW_MS
    assert not till.reserve("r3", 1_000)


def test_who_dies_gives_back_what_it_held() -> None:
    till = Till(minute=10_000, period=10_000)
    assert till.reserve("r0", 6_000, owner="dying")
    assert not till.reserve("r1", 6_000)
    till.wait(29)
    assert not till.reserve("r1", 6_000)
    till.wait(1)
    assert till.reserve("r1", 6_000)
    # What comes of the dead one's request all the same counts in full.
    assert till.settle("r0", 4_000).used == 4_000


def test_a_store_that_forgot_is_told_what_was_used() -> None:
    till = Till(period=10_000)
    till.seen = till.settle("r0", 9_000).seen
    till.account = Account()
    assert not till.reserve("r1", 2_000)
    assert till.account.used == 9_000
    till.seen = Seen(month=month_of(NOW_MS) - 1, used=10_000)  # another month's says nothing
    assert till.reserve("r1", 1_000)


def test_each_share_is_told_of_once() -> None:
    till = Till(period=1_000, alert_at=(1.0, 0.333, 0.8))
    assert [till.settle("r", amount).crossed for amount in (332, 1, 0, 500, 500)] == [
        (), (0.333,), (), (0.8,), (1.0,),
    ]  # fmt: skip


def test_limits_are_the_tenants_own_or_its_tiers() -> None:
    book = documents.book(
        {
            "tiers.bronze.quota": {"computeUnitsPerMinute": 5},
            "tenants.globex.quota": {"computeUnitsPerPeriod": 7, "alertAt": []},
        }
    )

    def limits(name: str) -> Limits | None:
        profile = book.profile(name, None)
        assert profile is not None
        return profile.limits

    assert limits("acme") is None
    assert limits("initech") == Limits(minute=5_000, alert_at=(0.5, 0.8, 1.0))
    assert limits("globex") == Limits(period=7_000)
    assert limits_of(Quota()) is None


def size(api: Api = Api.CHAT, body_bytes: int = 300, **members: Any) -> tuple[int, int, int]:
    """Input tokens, output tokens, sequences."""
    body = chat.read(json.dumps({"model": "chat-8b", **members}).encode())
    found = size_of(body, api, body_bytes)
    return found.input_tokens, found.output_tokens, found.sequences


@pytest.mark.parametrize(
    ("members", "output_tokens", "sequences"),
    [
        ({}, 1_024, 1),
        ({"max_tokens": 10}, 10, 1),
        ({"max_completion_tokens": 7, "max_tokens": 10, "n": 4}, 40, 4),
        ({"max_tokens": "many", "n": None}, 1_024, 1),
        ({"max_tokens": 10**30}, 131_072, 1),
        ({"max_tokens": "5000", "n": 2.0}, 10_000, 2),
        ({"max_tokens": "nan"}, 1_024, 1),
        ({"max_tokens": 10**9, "n": 10**9}, 131_072, 131_072),
        ({"max_tokens": -5}, 1_024, 1),
        ({"max_tokens": 10, "n": 2, "best_of": 5}, 50, 0),
    ],
)
def test_output_is_reserved_as_the_body_allows_it(members: dict[str, Any], output_tokens: int, sequences: int) -> None:
    assert size(**members) == (100, output_tokens, sequences)


def test_a_bound_that_the_route_passes_over_is_no_bound() -> None:
    for api, name in ((Api.COMPLETIONS, "max_completion_tokens"), (Api.RESPONSES, "max_tokens")):
        found = size_of(chat.read(json.dumps({"model": "chat-8b", name: 1}).encode()), api, 100)
        # What usage is estimated at is cut to `most_tokens`: believed, 1 would make every answer cost one token.
        assert (found.output_tokens, found.most_tokens) == (1_024, 131_072)


def test_inputs_of_each_route() -> None:
    assert size(Api.EMBEDDINGS, input="text") == (100, 0, 1)
    assert size(Api.RESPONSES, max_output_tokens=5) == (100, 5, 1)
    # Three prompts, each of which is answered; how many records come is not certain, as a text may hold quotes.
    assert size(Api.COMPLETIONS, prompt=["a", "b", "c"], max_tokens=2, n=2) == (100, 12, 0)
    # Token numbers are denser than text.
    assert size(Api.COMPLETIONS, prompt=[1, 2, 3], max_tokens=2) == (150, 2, 1)
    assert size(Api.COMPLETIONS, prompt=[[1], [2]], max_tokens=2) == (150, 4, 0)
    assert size(body_bytes=10_000_000) == (131_072, 1_024, 1)


def asked(limits: Limits, amount: int) -> Claim:
    model = documents.book().rules.models["chat-8b"]
    return Claim(tenant="acme", limits=limits, amount=amount, profile=ModelProfile(), usage=model.usage, sequences=1)


def test_a_claim_is_weighed_by_the_models_profile() -> None:
    model = documents.book({"models/chat-8b/profile": {"gigaflopsPerToken": 16, "outputWeight": 2}}).rules.models
    made = claim("acme", Limits(minute=1), model["chat-8b"], Size(input_tokens=10, output_tokens=5, sequences=1))
    assert made.amount == 16 * (10 + 2 * 5)


def standing(**members: Any) -> Standing:
    figures: dict[str, Any] = {"content": 0, "used": 0, "reserved": 0} | members
    return Standing(granted=False, month=month_of(NOW_MS), now_ms=NOW_MS, **figures)


def test_a_refusal_by_the_minute_says_when_to_come_again() -> None:
    limits = Limits(minute=60_000, period=10**9)
    window, refused = refusal(asked(limits, 9_000), standing(content=57_500 * MINUTE_MS))
    assert (window, type(refused), refused.code) == ("minute", RateLimitedError, "rate_limit_exceeded")
    assert refused.message == (
        "Rate limit reached: 60 compute units a minute, and the request may need 9 (a smaller max_tokens needs less). "
        "Try again in 6.5s."
    )
    assert refused.headers == (
        ("retry-after", "7"),
        ("x-ratelimit-limit-compute-units", "60"),
        ("x-ratelimit-remaining-compute-units", "2"),
        ("x-ratelimit-reset-compute-units", "57.5s"),
    )


def test_a_refusal_by_a_spent_period_is_not_worth_trying_again() -> None:
    limits = Limits(minute=60_000, period=100_000)
    window, refused = refusal(asked(limits, 9_000), standing(used=95_000))
    assert (window, type(refused), refused.kind) == ("period", QuotaExhaustedError, "insufficient_quota")
    assert "95 of 100 compute units" in refused.message
    headers = dict(refused.headers)
    assert (headers["x-should-retry"], headers["x-ratelimit-remaining-compute-units"]) == ("false", "5")
    assert int(headers["retry-after"]) == (month_begin_ms(month_of(NOW_MS) + 1) - NOW_MS) / 1e3


def test_a_period_that_only_requests_under_way_fill_may_have_room_soon() -> None:
    window, refused = refusal(asked(Limits(period=100_000), 9_000), standing(used=50_000, reserved=45_000))
    assert (window, refused.code, dict(refused.headers)["retry-after"]) == ("period_held", "rate_limit_exceeded", "2")


def test_figures_speak_of_the_minute_where_it_is_limited() -> None:
    both, month = Limits(minute=60_000, period=100_000), Limits(period=100_000)
    stands = standing(content=30_000 * MINUTE_MS, used=90_000, reserved=1_500)
    assert figures(both, stands) == {"limit": "60", "remaining": "30", "reset": "30s"}
    assert figures(month, stands) == {"limit": "100", "remaining": "8", "reset": "400h0m0s"}
    # What was settled beyond the limit is not a negative rest.
    assert figures(month, standing(used=100_001))["remaining"] == "0"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"), (0.0001, "1ms"), (0.12, "120ms"), (1, "1s"), (6.5, "6.5s"), (6.51, "6.6s"), (59.99, "60s"),
        (60, "1m0s"), (90.2, "1m31s"), (3_600, "1h0m0s"), (176_410, "49h0m10s"),
    ],
)  # fmt: skip
def test_durations_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
