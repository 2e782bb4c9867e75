"""What counts as a token that repeats what stood just before it."""

import random

import pytest
from tenantry.core.metering.repetition import WINDOW, Repetition


def share(tokens: list[int], at_once: int = 1) -> float | None:
    repetition = Repetition()
    for begin in range(0, len(tokens), at_once):
        repetition.add(tokens[begin : begin + at_once])
    return repetition.share()


def test_no_tokens_no_share() -> None:
    assert share([]) is None


@pytest.mark.parametrize(
    ("tokens", "repeated"),
    [
        ([1], 0),
        ([1, 1], 1),
        ([1, 2, 1], 0),
        ([5] * 10, 9),
        ([1, 2, 1, 2, 1, 2, 1, 2], 3),  # the fourth of the second pass on
        ([1, 2, 3, 4, 5, 6] * 2, 3),
        ([1, 2, 3, 4, 9, 1, 2, 3, 8], 0),  # three in a row are a phrase
        ([*range(WINDOW), *range(WINDOW)], WINDOW - 3),
        ([*range(WINDOW + 1), *range(WINDOW + 1)], 0),  # too far apart
    ],
)
def test_what_repeats(tokens: list[int], repeated: int) -> None:
    assert share(tokens) == repeated / len(tokens)


def test_a_paragraph_said_again_and_again_is_repetitive_and_a_text_is_not() -> None:
    rng = random.Random(3)
    text = [rng.randrange(30_000) if rng.random() < 0.6 else rng.randrange(40) for _ in range(2_000)]
    assert (share(text) or 0) < 0.05
    assert (share(text[:60] * 10) or 0) > 0.85


def test_it_does_not_matter_how_the_tokens_come() -> None:
    rng = random.Random(4)
    tokens = [rng.randrange(4) for _ in range(700)]
    assert share(tokens, 1) == share(tokens, 7) == share(tokens, 700)


def test_memory_is_bounded() -> None:
    repetition = Repetition()
    for token in range(10_000):
        repetition.add((token,))
    assert len(repetition._text) < 400
    assert len(repetition._last) < 400
