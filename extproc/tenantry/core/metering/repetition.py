"""How much of an output repeats itself: the sign of a model that is stuck.

A token *repeats* if it is the same as the one before it; or if it and the three before it are each the same as the one
that stood D places earlier, D at most 128. D is kept while it holds; the token that breaks it sets it anew, to where it
had stood most recently. So a word, a line or a paragraph said again and again counts from its second time on (but for a
few tokens), and a phrase that a text uses twice far apart does not. Tables and code repeat themselves, too, but as much
in one version of a model as in another.

A token costs 0.4 us; at most 384 are kept. Looking at many at once would be no cheaper, and the requests of a batch
would all do it in the same step.
"""

from collections.abc import Sequence

WINDOW = 128
RUN = 4

_KEPT = 3 * WINDOW


class Repetition:
    """The share of an output's tokens that repeat what stood just before them, as it grows."""

    __slots__ = ("_last", "_repeated", "_run", "_source", "_text", "_tokens")

    def __init__(self) -> None:
        self._text: list[int] = []
        self._last: dict[int, int] = {}  # where in the text each token stands last
        self._source = -1  # what the next token would repeat, an index; negative: nothing
        self._run = 0  # how many in a row have
        self._tokens = 0
        self._repeated = 0

    def add(self, tokens: Sequence[int]) -> None:
        """Take in the next tokens, by their ids."""
        text, last, source = self._text, self._last, self._source
        index = len(text)
        for token in tokens:
            if source >= 0 and text[source] == token:
                source += 1
                self._run += 1
                if self._run >= RUN or text[-1] == token:
                    self._repeated += 1
            else:
                stood = last.get(token, -1)
                if stood >= 0 and index - stood <= WINDOW:
                    source = stood + 1
                    self._run = 1
                    if source == index:
                        self._repeated += 1
                else:
                    source = -1
            last[token] = index
            text.append(token)
            index += 1
        self._source = source
        self._tokens += len(tokens)
        if index >= _KEPT:
            self._cut(index - WINDOW)

    def share(self) -> float | None:
        """Return the share, 0 to 1; None without tokens."""
        return self._repeated / self._tokens if self._tokens else None

    def _cut(self, tokens: int) -> None:
        self._text = self._text[tokens:]
        self._last = {token: index for index, token in enumerate(self._text)}
        self._source -= tokens  # at most WINDOW before the end, so still in the text
