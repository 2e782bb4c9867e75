"""Filler: words and vectors that look like answers and are a function of the prompt alone.

Two versions give the same answer to the same prompt unless their behaviour differs, so the paired
differences of mirrored requests show that behaviour and nothing else.
"""

import random
from collections.abc import Iterator
from hashlib import blake2b, shake_128
from math import sqrt
from struct import unpack
from zlib import crc32

FIRST_WORD = "[stand-in]"

_WORD_LIST = """
amber anchor autumn basin beacon birch bridge canyon cedar chalk cloud clover copper coral creek delta ember
falcon fern field flint forest garden glacier granite harbor hazel heron hollow island ivory juniper lagoon
lantern lichen maple marble meadow mineral mirror mist moss mountain nectar north oak ocean olive orchard
pebble pine prairie quartz raven reef ridge river saffron sage sand shore silver slate spring stone summit
thistle timber tundra valley velvet violet walnut willow winter yarrow
"""
WORDS = tuple(_WORD_LIST.split())


def words(prompt: bytes, repetition: float) -> Iterator[str]:
    """Yield one word per token, without end; the first says what this is, the others follow from the prompt."""
    rng = random.Random(blake2b(prompt, digest_size=8).digest())  # noqa: S311 - filler, not a secret
    word = " " + rng.choice(WORDS)
    yield FIRST_WORD
    while True:
        yield word
        fresh, repeated = rng.choice(WORDS), rng.random() < repetition
        if not repeated:
            word = " " + fresh


def token_id(word: str) -> int:
    """Return the id of a word's token: equal words have equal ids."""
    return crc32(word.encode())


def vector(text: bytes, dimensions: int) -> list[float]:
    """Return an embedding of length 1; equal texts have equal vectors, and nothing more is meant by it."""
    raw = unpack(f"<{dimensions}h", shake_128(text).digest(2 * dimensions))
    length = sqrt(sum(value * value for value in raw)) or 1.0
    return [value / length for value in raw]
