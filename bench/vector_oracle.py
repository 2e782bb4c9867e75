"""An oracle for Milvus's filters: which rows a condition selects.

It follows SQL: a missing key, a null and a comparison of unlike types are None, neither true nor false. Engines differ
from each other there; what they select is compared with what they themselves select, not with this.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from tenantry.core.vector.expr_nodes import (
    And,
    Arithmetic,
    Comparison,
    Contains,
    Exists,
    Length,
    Like,
    Literal,
    Membership,
    Negative,
    Node,
    Not,
    Null,
    Or,
    PhraseMatch,
    Ref,
    TextMatch,
    Values,
)

COLUMNS = frozenset({"id", "tenant_id", "price", "category", "text", "tags", "meta"})
Row = Mapping[str, Any]


def evaluate(node: Node, row: Row) -> bool | None:
    """Return whether a condition holds for a row; None is unknown, and such a row is not selected."""
    result = _EVALUATE[type(node)](node, row)
    return result if isinstance(result, bool) else None


def _fetch(ref: Ref, row: Row) -> Any:
    value: Any = row.get("$meta", {}) if ref.name == "$meta" or ref.name not in COLUMNS else row.get(ref.name)
    steps = ref.path if ref.name == "$meta" or ref.name in COLUMNS else (ref.name, *ref.path)
    for step in steps:
        inside = (isinstance(step, str) and isinstance(value, dict) and step in value) or (
            isinstance(step, int) and isinstance(value, list) and step < len(value)
        )
        if not inside:
            return None
        value = value[step]
    return value


def _value(node: Node, row: Row) -> Any:
    return _EVALUATE[type(node)](node, row)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _negative(node: Negative, row: Row) -> Any:
    value = _value(node.value, row)
    return -value if _is_number(value) else None


def _arithmetic(node: Arithmetic, row: Row) -> Any:
    left, right = _value(node.left, row), _value(node.right, row)
    if not _is_number(left) or not _is_number(right):
        return None
    if node.operator == "**" and (abs(left) > 1e6 or abs(right) > 8):
        return None
    try:
        result = _CALCULATE[node.operator](left, right)
    except (ZeroDivisionError, OverflowError, ValueError):
        return None
    return result if _is_number(result) else None


_CALCULATE: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "/": lambda left, right: left / right,
    "%": math.fmod,
    "**": lambda left, right: left**right,
}
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda left, right: left == right,
    "!=": lambda left, right: left != right,
    "<": lambda left, right: left < right,
    "<=": lambda left, right: left <= right,
    ">": lambda left, right: left > right,
    ">=": lambda left, right: left >= right,
}


def _alike(left: Any, right: Any) -> bool:
    return (_is_number(left) and _is_number(right)) or (type(left) is type(right) and isinstance(left, str | bool))


def _comparison(node: Comparison, row: Row) -> bool | None:
    left, right = _value(node.left, row), _value(node.right, row)
    return _COMPARE[node.operator](left, right) if _alike(left, right) else None


def _same(left: Any, right: Any) -> bool:
    return _alike(left, right) and bool(left == right)


def _membership(node: Membership, row: Row) -> bool | None:
    value = _fetch(node.ref, row)
    return None if value is None else any(_same(value, item) for item in node.values.values) != node.negated


def _like(node: Like, row: Row) -> bool | None:
    value = _fetch(node.ref, row)
    return _matches(value, node.pattern) if isinstance(value, str) else None


def _matches(text: str, pattern: str) -> bool:
    """Match % and _ greedily, going back to the last % only: no pattern takes long."""
    parts = re.findall(r"\\.|[\s\S]", pattern)
    at = index = 0
    back: tuple[int, int] | None = None
    while at < len(text):
        part = parts[index] if index < len(parts) else None
        if part == "%":
            back, index = (index, at), index + 1
        elif part is not None and (part == "_" or part[-1:] == text[at]):
            at, index = at + 1, index + 1
        elif back is None:
            return False
        else:
            back = (back[0], back[1] + 1)
            index, at = back[0] + 1, back[1]
    return all(part == "%" for part in parts[index:])


def _contains(node: Contains, row: Row) -> bool | None:
    value = _fetch(node.ref, row)
    if not isinstance(value, list):
        return None
    if isinstance(node.argument, Literal):
        return any(_same(item, node.argument.value) for item in value)
    hits = [any(_same(item, wanted) for item in value) for wanted in node.argument.values]
    if node.function.endswith("_all"):
        return all(hits)
    return any(hits) if node.function.endswith("_any") else any(list(node.argument.values) == item for item in value)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _text_match(node: TextMatch, row: Row) -> bool | None:
    value = _fetch(node.field, row)
    if not isinstance(value, str):
        return None
    return len(set(_words(node.words)) & set(_words(value))) >= max(1, node.at_least or 1)


def _phrase_match(node: PhraseMatch, row: Row) -> bool | None:
    value = _fetch(node.field, row)
    if not isinstance(value, str):
        return None
    words, phrase = _words(value), _words(node.phrase)
    return any(words[at : at + len(phrase)] == phrase for at in range(len(words))) if phrase else False


def _and(node: And, row: Row) -> bool | None:
    terms = [evaluate(term, row) for term in node.terms]
    return False if False in terms else (None if None in terms else True)


def _or(node: Or, row: Row) -> bool | None:
    terms = [evaluate(term, row) for term in node.terms]
    return True if True in terms else (None if None in terms else False)


def _not(node: Not, row: Row) -> bool | None:
    term = evaluate(node.term, row)
    return None if term is None else not term


def _length(node: Length, row: Row) -> int | None:
    value = _fetch(node.ref, row)
    return len(value) if isinstance(value, list) else None


_EVALUATE: dict[type, Callable[[Any, Row], Any]] = {
    Literal: lambda node, _row: node.value,
    Values: lambda node, _row: list(node.values),
    Ref: _fetch,
    Negative: _negative,
    Arithmetic: _arithmetic,
    Length: _length,
    Comparison: _comparison,
    Membership: _membership,
    Like: _like,
    Null: lambda node, row: (_fetch(node.ref, row) is None) != node.negated,
    Exists: lambda node, row: _fetch(node.ref, row) is not None,
    Contains: _contains,
    TextMatch: _text_match,
    PhraseMatch: _phrase_match,
    Not: _not,
    And: _and,
    Or: _or,
}
