"""How much of an output repeats itself: the sign of a model that is stuck.

A token *repeats* if it is the same as the one before it; or if it and the three before it are each the same as the one
that stood D places earlier, D at most 128. D is kept while it holds; the token that breaks it sets it anew, to where it
had stood most recently. So a word, a line or a paragraph said again and again counts from its second time on (but for a
few tokens), and a phrase that a text uses twice far apart does not. Tables and code repeat themselves, too, but as much
in one version of a model as in another.

The cost is about 0.2 us a token, as they are looked at 64 at a time; 200 tokens at most are kept.
"""

from collections.abc import Sequence

WINDOW = 128
RUN = 4

_BATCH = 64


class Repetition:
    """The share of an output's tokens that repeat what stood just before them, as it grows."""

    __slots__ = ("_distance", "_history", "_pending", "_repeated", "_run", "_tokens")

    def __init__(self) -> None:
        self._history: list[int] = []
        self._pending: list[int] = []
        self._distance = 0
        self._run = 0
        self._tokens = 0
        self._repeated = 0

    def add(self, tokens: Sequence[int]) -> None:
        """Take in the next tokens, by their ids."""
        self._pending += tokens
        if len(self._pending) >= _BATCH:
            self._look()

    def share(self) -> float | None:
        """Return the share, 0 to 1; None without tokens."""
        self._look()
        return self._repeated / self._tokens if self._tokens else None

    def _look(self) -> None:
        text = self._history + self._pending
        begin = len(self._history)
        last = {token: index for index, token in enumerate(self._history)}
        distance, run, repeated = self._distance, self._run, 0
        previous = text[begin - 1] if begin else None
        for index in range(begin, len(text)):
            token = text[index]
            if distance and text[index - distance] == token:
                run += 1
            else:
                distance = index - last.get(token, index)
                if distance > WINDOW:
                    distance = 0
                run = 1 if distance else 0
            if token == previous or run >= RUN:
                repeated += 1
            last[token] = index
            previous = token
        self._distance, self._run = distance, run
        self._repeated += repeated
        self._tokens += len(self._pending)
        self._history = text[-WINDOW:]
        self._pending = []
