"""PromQL cut into tokens, as far as tests need it: which series an expression selects, and what it compares."""

import re
from collections.abc import Iterator
from itertools import pairwise

from msgspec import Struct

_TOKEN = re.compile(
    r"""(?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`)|(?P<comment>\#[^\n]*)|(?P<space>\s+)
    |(?P<duration>(?:\d+(?:ms|[smhdwy]))+)|(?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)
    |(?P<name>[a-zA-Z_][a-zA-Z0-9_:]*)|(?P<op>>=|<=|==|!=|=~|!~|[-+*/%^=<>(){}\[\],@:])""",
    re.VERBOSE,
)
_COMPARISONS = {">", "<", ">=", "<=", "==", "!="}
_OF_LABELS = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_RESERVED = {"and", "or", "unless", "bool", "offset", "inf", "nan", "atan2", *_OF_LABELS}
_AFTER_CALLS = {"(", "by", "without"}
"""What stands behind a function or an aggregation, and never behind a metric."""


class _Token(Struct, frozen=True):
    kind: str
    text: str


def selectors(expr: str) -> list[str]:
    """Return what an expression selects, each once: `NAME{MATCHERS}` without range, offset or time."""
    tokens = [token for token in _tokens(expr) if token.kind not in {"space", "comment"}]
    found: dict[str, None] = {}
    place = 0
    while place < len(tokens):
        token = tokens[place]
        following = tokens[place + 1].text if place + 1 < len(tokens) else ""
        if token.text in _OF_LABELS and following == "(":
            place = _closed(tokens, place + 1, ")")
        elif token.text == "{" or (token.kind == "name" and following == "{"):
            end = _closed(tokens, place, "}")
            found["".join(one.text for one in tokens[place:end])] = None
            place = end
        else:
            if token.kind == "name" and following not in _AFTER_CALLS and token.text.lower() not in _RESERVED:
                found[token.text] = None
            place += 1
    return list(found)


class Selection(Struct, frozen=True, kw_only=True):
    """One place where an expression selects series. `window` is its range, `call` the function that it is handed to."""

    metric: str
    labels: tuple[str, ...]
    text: str
    window: str
    at_end: bool
    call: str


def selections(expr: str) -> list[Selection]:
    """Return each place where an expression selects a metric by name."""
    tokens = [token for token in _tokens(expr) if token.kind not in {"space", "comment"}]
    texts = [token.text for token in tokens] + [""] * 5
    found: list[Selection] = []
    place = 0
    while place < len(tokens):
        token, following = tokens[place], texts[place + 1]
        if token.text in _OF_LABELS and following == "(":
            place = _closed(tokens, place + 1, ")")
            continue
        names = token.kind == "name" and following not in _AFTER_CALLS and token.text.lower() not in _RESERVED
        if not names:
            place += 1
            continue
        end = _closed(tokens, place, "}") if following == "{" else place + 1
        labels = tuple(texts[at] for at in range(place, end) if tokens[at].kind == "name" and at > place)
        windowed = texts[end] == "["
        behind = end + 3 if windowed else end
        found.append(
            Selection(
                metric=token.text, labels=labels, text="".join(texts[place:end]),
                window=texts[end + 1] if windowed else "", at_end=texts[behind : behind + 2] == ["@", "end"],
                call=texts[place - 2] if place > 1 and texts[place - 1] == "(" else "",
            )
        )  # fmt: skip
        place = end
    return found


def grouped_by(expr: str) -> set[str]:
    """Return the labels that `by`, `on` and the like name."""
    tokens = [token for token in _tokens(expr) if token.kind not in {"space", "comment"}]
    found: set[str] = set()
    for place, token in enumerate(tokens[:-1]):
        if token.text in _OF_LABELS and tokens[place + 1].text == "(":
            inner = tokens[place + 2 : _closed(tokens, place + 1, ")")]
            found |= {one.text for one in inner if one.kind == "name"}
    return found


def called(expr: str) -> set[str]:
    """Return the functions and aggregations that an expression calls."""
    tokens = [token for token in _tokens(expr) if token.kind not in {"space", "comment"}]
    return {
        token.text
        for token, after in pairwise(tokens)
        if token.kind == "name" and after.text in _AFTER_CALLS and token.text not in _RESERVED
    }


def balanced(expr: str) -> bool:
    """Whether each bracket is closed by its like."""
    pairs = {")": "(", "]": "[", "}": "{"}
    opened: list[str] = []
    for token in _tokens(expr):
        if token.text in pairs.values():
            opened.append(token.text)
        elif token.text in pairs and (not opened or opened.pop() != pairs[token.text]):
            return False
    return not opened


def uncompared(expr: str) -> str:
    """Return an expression that has data whenever the parts of this one fit each other, whatever their values.

    Comparisons become 0 or 1 (`bool`) instead of a filter, `unless` becomes `and`, what asks for an absence counts
    presences, and the past (`offset`) is now. So both sides of an operator must be there, with labels that match.
    """
    replaced = {"unless": "and", "absent": "count", "absent_over_time": "present_over_time"}
    tokens = [token for token in _tokens(expr) if token.kind != "comment"]
    written: list[str] = []
    braces, skip = 0, False
    for place, token in enumerate(tokens):
        braces += (token.text == "{") - (token.text == "}")
        rest = [one.text for one in tokens[place + 1 :] if one.kind != "space"]
        if skip:  # until the duration that was the offset
            skip = token.kind != "duration"
        elif braces or token.kind == "string":
            written.append(token.text)
        elif token.text == "offset":
            skip = True
        elif token.text in _COMPARISONS and rest[:1] != ["bool"]:
            written.append(f"{token.text} bool")
        else:
            written.append(replaced.get(token.text, token.text))
    return "".join(written)


def _tokens(expr: str) -> Iterator[_Token]:
    place = 0
    while place < len(expr):
        match = _TOKEN.match(expr, place)
        if match is None:
            raise ValueError(f"no PromQL at {expr[place : place + 20]!r} in {expr!r}")
        yield _Token(str(match.lastgroup), match[0])
        place = match.end()


def _closed(tokens: list[_Token], place: int, bracket: str) -> int:
    while tokens[place].text != bracket:
        place += 1
    return place + 1
