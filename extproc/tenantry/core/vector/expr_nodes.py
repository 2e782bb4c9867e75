"""What a filter is once it was understood, and how it is written again.

Nodes hold values, never text of the client. Of two nodes one is a part of the other as the field says; none holds more
than `expr_tokens.MAX_DEPTH` levels when it comes from `expr.parse`.
"""

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from tenantry.core.vector.expr_tokens import quoted

Scalar = bool | int | float | str


class Literal(Struct, frozen=True):
    """A constant. As a condition by itself only `true` and `false`."""

    value: Scalar


class Values(Struct, frozen=True):
    """A list of constants."""

    values: tuple[Scalar, ...]


class Ref(Struct, frozen=True):
    """A field, or what is at a path of keys and indices in it; `$meta` (dynamic fields) has a key first."""

    name: str
    path: tuple[str | int, ...] = ()


class Negative(Struct, frozen=True):
    """A value with its sign turned. Constants have their own sign."""

    value: "Value"


class Arithmetic(Struct, frozen=True):
    """Two values and one of + - * / % **."""

    operator: str
    left: "Value"
    right: "Value"


class Length(Struct, frozen=True):
    """How many elements an array has."""

    ref: Ref


class Comparison(Struct, frozen=True):
    """Two values and one of == != < <= > >=."""

    operator: str
    left: "Value"
    right: "Value"


class Membership(Struct, frozen=True):
    """Whether a field has one of the values, or none of them."""

    ref: Ref
    values: Values
    negated: bool = False


class Like(Struct, frozen=True):
    """Whether a text matches a pattern with % and _."""

    ref: Ref
    pattern: str


class Null(Struct, frozen=True):
    """Whether a field has no value, or has one."""

    ref: Ref
    negated: bool = False


class Exists(Struct, frozen=True):
    """Whether a JSON document has a key."""

    ref: Ref


class Contains(Struct, frozen=True):
    """One of json_contains, array_contains, and both with _all and _any; those two take a list."""

    function: str
    ref: Ref
    argument: Literal | Values


class TextMatch(Struct, frozen=True):
    """Whether a text has one of these words, or `at_least` of them."""

    field: Ref
    words: str
    at_least: int | None = None


class PhraseMatch(Struct, frozen=True):
    """Whether a text has these words in this order, with at most `slop` others between them."""

    field: Ref
    phrase: str
    slop: int | None = None


class Not(Struct, frozen=True):
    """The opposite of a condition."""

    term: "Condition"


class And(Struct, frozen=True):
    """All of two or more conditions."""

    terms: tuple["Condition", ...]


class Or(Struct, frozen=True):
    """One of two or more conditions."""

    terms: tuple["Condition", ...]


Value = Literal | Ref | Negative | Arithmetic | Length
Condition = (
    And | Or | Not | Comparison | Membership | Like | Null | Exists | Contains | TextMatch | PhraseMatch | Ref | Literal
)
Node = Value | Condition | Values


def render(node: Node) -> str:
    """Return the node as text in which nothing is left to precedence; `parse` gives the same node for it.

    Raises ValueError for a string that engines would read differently: `parse` lets none through.
    """
    return _WRITERS[type(node)](node)


def scalar_text(value: Scalar) -> str:
    """Return a constant as text."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)


def _values(node: Values) -> str:
    return f"[{', '.join(map(scalar_text, node.values))}]"


def _ref(node: Ref) -> str:
    # Without blanks: for Milvus a field with its path is one token.
    return node.name + "".join(f"[{scalar_text(step)}]" for step in node.path) if node.path else node.name


def _operand(node: Value) -> str:
    """Write a value beside an operator of arithmetic."""
    text = render(node)
    simple = isinstance(node, Ref | Length) or (isinstance(node, Literal) and not text.startswith("-"))
    return text if simple else f"({text})"


def _side(node: Value) -> str:
    """Write a value beside a comparison."""
    return f"({render(node)})" if isinstance(node, Arithmetic | Negative) else render(node)


def _chain(word: str, terms: tuple[Condition, ...]) -> str:
    return word.join([f"({render(term)})" for term in terms])


def _optional(value: int | None, name: str = "") -> str:
    return "" if value is None else f", {name}{value}"


_WRITERS: dict[type, Callable[[Any], str]] = {
    Literal: lambda node: scalar_text(node.value),
    Values: _values,
    Ref: _ref,
    Negative: lambda node: f"-{_operand(node.value)}",
    Arithmetic: lambda node: f"{_operand(node.left)} {node.operator} {_operand(node.right)}",
    Length: lambda node: f"array_length({_ref(node.ref)})",
    Comparison: lambda node: f"{_side(node.left)} {node.operator} {_side(node.right)}",
    Membership: lambda node: f"{_ref(node.ref)} {'not in' if node.negated else 'in'} {_values(node.values)}",
    Like: lambda node: f"{_ref(node.ref)} like {quoted(node.pattern)}",
    Null: lambda node: f"{_ref(node.ref)} is {'not null' if node.negated else 'null'}",
    Exists: lambda node: f"exists {_ref(node.ref)}",
    Contains: lambda node: f"{node.function}({_ref(node.ref)}, {render(node.argument)})",
    TextMatch: lambda node: (
        f"text_match({node.field.name}, {quoted(node.words)}{_optional(node.at_least, 'minimum_should_match=')})"
    ),
    PhraseMatch: lambda node: f"phrase_match({node.field.name}, {quoted(node.phrase)}{_optional(node.slop)})",
    Not: lambda node: f"not ({render(node.term)})",
    And: lambda node: _chain(" and ", node.terms),
    Or: lambda node: _chain(" or ", node.terms),
}
