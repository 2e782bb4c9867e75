"""What a version of the stand-in may be told to do badly, and what its answers are made of."""

import random
from itertools import islice, pairwise

import msgspec
import pytest
from tenantry_standin.behaviour import Behaviour, Fate
from tenantry_standin.bodies import Api, ApiError, read
from tenantry_standin.seen import MAX_REQUESTS, SeenLog, without_content
from tenantry_standin.text import FIRST_WORD, vector, words


def test_fates_come_in_the_shares_that_were_asked_for() -> None:
    behaviour = Behaviour(error_rate=0.2, hang_rate=0.1, stream_error_rate=0.3, die_after_first_byte_rate=0.15)
    rng = random.Random(0)
    drawn = [behaviour.draw_fate(rng) for _ in range(20_000)]
    shares = {fate: drawn.count(fate) / len(drawn) for fate in Fate}
    assert shares == pytest.approx(
        {
            Fate.ERROR: 0.2,
            Fate.HANG: 0.1,
            Fate.STREAM_ERROR: 0.3,
            Fate.DIE_AFTER_FIRST_BYTE: 0.15,
            Fate.SERVED: 0.25,
        },
        abs=0.01,
    )


def test_a_seed_replays_the_same_fates() -> None:
    def run() -> list[Fate]:
        rng = random.Random(42)
        return [Behaviour(error_rate=0.5).draw_fate(rng) for _ in range(50)]

    assert run() == run()


@pytest.mark.parametrize(
    ("wanted", "factor", "tokens"),
    [(None, 1.0, 64), (None, 0.5, 32), (None, 2.0, 128), (10, 1.0, 10), (10, 0.5, 5), (10, 2.0, 10), (1, 0.1, 1)],
)
def test_length_factor_works_within_what_the_client_asked_for(wanted: int | None, factor: float, tokens: int) -> None:
    assert Behaviour(length_factor=factor).output_tokens(wanted, default=64) == tokens


def test_changes_replace_single_fields() -> None:
    assert Behaviour(speed=2.0).changed({"error_rate": 0.1}) == Behaviour(speed=2.0, error_rate=0.1)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"eror_rate": 0.1}, "unknown field `eror_rate`"),
        ({"error_rate": 1.5}, "error_rate must be from 0 to 1, not 1.5"),
        ({"error_rate": "much"}, "Expected `float`, got `str`"),
        ({"speed": 0}, "speed must be from 0.001"),
        ({"speed": float("nan")}, "speed must be"),
        ({"ttft_factor": 0.5}, "ttft_factor must be from 1"),
        ({"error_rate": 0.6, "hang_rate": 0.5}, "their sum must not exceed 1, but it is 1.1"),
    ],
)
def test_nonsense_is_refused_by_name(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=complaint):
        Behaviour().changed(changes)


def test_repetition_is_the_share_of_words_that_repeat_the_one_before() -> None:
    def repeated(share: float) -> float:
        text = list(islice(words(b"prompt", share), 5000))[1:]
        return sum(a == b for a, b in pairwise(text)) / len(text)

    assert repeated(0.0) < 0.03  # two equal words in a row by chance
    assert repeated(0.6) == pytest.approx(0.6, abs=0.03)


def test_an_answer_names_itself_and_follows_from_the_prompt_alone() -> None:
    answer = list(islice(words(b"prompt", 0.0), 30))
    assert answer[0] == FIRST_WORD == "[stand-in]"
    assert answer == list(islice(words(b"prompt", 0.0), 30))
    assert answer != list(islice(words(b"another", 0.0), 30))


def test_vectors_have_length_one() -> None:
    assert sum(value * value for value in vector(b"text", 8)) == pytest.approx(1.0)
    assert vector(b"text", 8) != vector(b"texts", 8)


def test_embeddings_take_one_text_or_several_or_token_numbers() -> None:
    def inputs(value: object) -> int:
        return len(read(Api.EMBEDDINGS, msgspec.json.encode({"model": "m", "input": value})).inputs)

    assert [inputs(value) for value in ("one", ["one", "two"], [1, 2, 3], [[1, 2], [3]])] == [1, 2, 1, 2]


@pytest.mark.parametrize(
    ("api", "body", "complaint"),
    [
        (Api.CHAT, b"{", "truncated"),
        (Api.CHAT, b'{"model": "m\xff", "messages": [1]}', "utf-8"),
        (Api.CHAT, b'{"messages": [1]}', "missing required field `model`"),
        (Api.CHAT, b'{"model": "m"}', "has no 'messages'"),
        (Api.CHAT, b'{"model": "m", "messages": []}', "messages"),
        (Api.CHAT, b'{"model": "m", "messages": [1], "n": 2}', r"\$.n"),
        (Api.CHAT, b'{"model": "m", "messages": [1], "max_tokens": 0}', r"\$.max_tokens"),
        (Api.CHAT, b'{"model": "m", "messages": [1], "cache_salt": ""}', r"\$.cache_salt"),
        (Api.CHAT, b'{"model": "m", "messages": ' + b"[" * 100_000, "recursion"),
        (Api.EMBEDDINGS, b'{"model": "m", "input": ' + msgspec.json.encode(["x"] * 2049) + b"}", "At most 2048 inputs"),
    ],
)
def test_a_body_that_is_not_understood_gets_a_400_that_says_why(api: Api, body: bytes, complaint: str) -> None:
    with pytest.raises(ApiError, match=f"(?i){complaint}") as caught:
        read(api, body)
    assert caught.value.status == 400


def test_seen_keeps_parameters_and_drops_content() -> None:
    body = b'{"model": "m", "messages": [{"content": "secret"}], "priority": 3, "user": "%s"}' % (b"u" * 5000)
    assert without_content(body) == {"model": "m", "messages": 23, "priority": 3, "user": 5002}
    assert without_content(b"not json") is None
    assert without_content(b'{"user": "\xff"}') is None


def test_seen_is_bounded_and_numbers_on() -> None:
    log = SeenLog()
    for _ in range(MAX_REQUESTS + 5):
        log.add("GET", "/", [(b"X-Name", b"\xff\x01")], b"", time_s=1.0)
    assert [seen.number for seen in log.after(0)] == list(range(6, MAX_REQUESTS + 6))
    assert [seen.number for seen in log.after(MAX_REQUESTS + 3)] == [MAX_REQUESTS + 4, MAX_REQUESTS + 5]
    assert log.after(0)[0].headers == [("X-Name", "\xff\x01")]
