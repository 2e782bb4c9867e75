"""Texts as the pieces of words that a BERT vocabulary has (uncased, as all-MiniLM-L6-v2 was trained)."""

import unicodedata
from collections.abc import Iterator, Mapping

MAX_WORD = 100
"""A longer word is unknown."""


def words(text: str) -> Iterator[str]:
    """Yield lower-case words without accents; each mark of punctuation is a word."""
    word = ""
    for character in unicodedata.normalize("NFD", text.lower()):
        if unicodedata.category(character) == "Mn":
            continue
        if character.isalnum():
            word += character
            continue
        if word:
            yield word
        word = ""
        if not character.isspace():
            yield character
    if word:
        yield word


def word_pieces(word: str, known: Mapping[str, int]) -> list[str]:
    """Return a word as the longest pieces that the vocabulary has, from the left; those inside it begin with ##."""
    pieces: list[str] = []
    begin = 0
    while begin < len(word) <= MAX_WORD:
        for end in range(len(word), begin, -1):
            piece = word[begin:end] if begin == 0 else f"##{word[begin:end]}"
            if piece in known:
                break
        else:
            return ["[UNK]"]
        pieces.append(piece)
        begin = end
    return pieces or ["[UNK]"]
