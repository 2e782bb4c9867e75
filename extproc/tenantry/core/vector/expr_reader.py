"""Reading tokens in their order, and what is made of them alone: fields with paths, constants, lists, templates."""

from typing import Never

from tenantry.core.vector.expr_nodes import Literal, Ref, Scalar, Values
from tenantry.core.vector.expr_templates import Templates
from tenantry.core.vector.expr_tokens import (
    DECIMAL,
    FUNCTIONS,
    INTEGERS,
    MAX_DEPTH,
    META,
    NAME,
    WORDS,
    FilterError,
    kind_of,
    number_of,
    position_of,
    quoted,
    string_of,
    tokens_of,
)

TRUE, FALSE = frozenset({"true", "True", "TRUE"}), frozenset({"false", "False", "FALSE"})
MAX_KEY_CHARACTERS = 512
MAX_INDEX_DIGITS = 9
_KEY_SIGNS = frozenset("\"'[]\\")


class Reader:
    """A text, how far it was read, the names that it may not use (case-folded), and the values of its templates."""

    __slots__ = ("_forbidden", "_index", "_templates", "_text", "_tokens")

    def __init__(self, text: str, forbidden: frozenset[str], templates: Templates) -> None:
        self._text = text
        self._tokens = tokens_of(text)
        self._index = 0
        self._forbidden = forbidden
        self._templates = templates

    def _fail(self, expected: str, index: int | None = None) -> Never:
        at = self._index if index is None else index
        found = kind_of(self._tokens[at])
        raise FilterError(f"found {found}, expected {expected}.", position=position_of(self._text, at))

    def _refuse(self, why: str, index: int) -> Never:
        raise FilterError(why, position=position_of(self._text, index))

    def _sign(self, sign: str, expected: str) -> None:
        if self._tokens[self._index] != sign:
            self._fail(expected)
        self._index += 1

    def _accept(self, word: str) -> bool:
        found = self._tokens[self._index] in {word, word.upper()}
        self._index += found
        return found

    def _word(self, word: str, expected: str) -> None:
        if not self._accept(word):
            self._fail(expected)

    def _ref(self) -> Ref:
        name, at = self._tokens[self._index], self._index
        if name != META and (NAME.fullmatch(name) is None or name.lower() in WORDS or name.lower() in FUNCTIONS):
            self._fail("a field")
        self._allow(name, at)
        self._index += 1
        if self._tokens[self._index] != "[":
            if name == META:
                self._fail('`[` and a key after `$meta`, such as `$meta["color"]`')
            return Ref(name)
        path: list[str | int] = []
        while self._tokens[self._index] == "[":
            self._index += 1
            path.append(self._step(first_of_meta=name == META and not path))
            self._sign("]", "`]`")
            if len(path) > MAX_DEPTH:
                self._refuse(f"a path has more than {MAX_DEPTH} steps.", at)
        return Ref(name, tuple(path))

    def _step(self, *, first_of_meta: bool) -> str | int:
        found, at = self._tokens[self._index], self._index
        if found[:1] in {'"', "'"}:
            key = self._string("a key")
            if not key or len(key) > MAX_KEY_CHARACTERS or not _KEY_SIGNS.isdisjoint(key):
                self._refuse(
                    f"a key has 1 to {MAX_KEY_CHARACTERS} characters, and no quote, bracket or backslash: engines do"
                    " not take these apart alike.",
                    at,
                )
            if first_of_meta:
                self._allow(key, at)
            return key
        if first_of_meta or DECIMAL.fullmatch(found) is None or len(found) > MAX_INDEX_DIGITS:
            self._fail("a key in quotes" if first_of_meta else "a key in quotes, or an index from 0")
        self._index += 1
        return int(found)

    def _allow(self, name: str, index: int) -> None:
        if name.casefold() in self._forbidden:
            self._refuse("found a reserved field: a filter cannot name it, in whatever letters.", index)

    def _string(self, what: str) -> str:
        found, at = self._tokens[self._index], self._index
        if found[:1] not in {'"', "'"}:
            self._fail(f"{what} in quotes")
        self._index += 1
        try:
            value = string_of(found)
            quoted(value)
        except ValueError as error:
            self._refuse(f"found a string that cannot be passed on: {error}.", at)
        return value

    def _constant(self, expected: str) -> Literal:
        found, at = self._tokens[self._index], self._index
        if found[:1] in {'"', "'"}:
            return Literal(self._string("a constant"))
        if kind_of(found) != "a number":
            self._fail(expected)
        self._index += 1
        try:
            return Literal(number_of(found))
        except ValueError as error:
            self._refuse(f"found a number that cannot be passed on: {error}.", at)

    def _item(self) -> Scalar:
        """Read one constant of a list, or the only argument that a function compares with."""
        found, at = self._tokens[self._index], self._index
        if found in TRUE or found in FALSE:
            self._index += 1
            return found in TRUE
        if found == "{":
            return self._template().value
        if found not in {"-", "+"}:
            return self._constant("a constant").value
        self._index += 1
        number = self._constant("a number").value
        if isinstance(number, str):
            self._refuse("expected a number behind the sign, found a string.", at)
        return -number if found == "-" else number

    def _list(self) -> Values:
        found, at = self._tokens[self._index], self._index
        if found == "{":
            values = self._template_or_list()
            return values if isinstance(values, Values) else self._refuse("expected a list as this template.", at)
        self._sign("[", "a list, such as `[1, 2]`")
        integers = self._integers()
        if integers is not None:
            return Values(integers)
        items: list[Scalar] = []
        while self._tokens[self._index] != "]":
            items.append(self._item())
            if self._tokens[self._index] != ",":
                break
            self._index += 1
        self._sign("]", "`,` or `]`")
        return Values(tuple(items))

    def _integers(self) -> tuple[int, ...] | None:
        """Read a list of plain integers at once, four times as fast as one by one; None for any other list."""
        tokens, start = self._tokens, self._index
        if not tokens[start].isdigit():
            return None
        try:
            end = tokens.index("]", start)
        except ValueError:
            return None
        commas, items = tokens[start + 1 : end : 2], tokens[start:end:2]
        if commas.count(",") != len(commas) or INTEGERS.fullmatch(",".join(items)) is None:
            return None
        self._index = end + 1
        return tuple(map(int, items))

    def _template(self) -> Literal:
        """Read a template that stands for one constant."""
        at = self._index
        value = self._template_or_list()
        if isinstance(value, Values):
            self._refuse("found a template that is a list, expected one that is a single constant.", at)
        return value

    def _template_or_list(self) -> Literal | Values:
        at = self._index
        self._index += 1
        name = self._tokens[self._index]
        if NAME.fullmatch(name) is None:
            self._fail("a template's name")
        self._index += 1
        self._sign("}", "`}`")
        try:
            return self._templates.take(name)
        except ValueError as error:
            self._refuse(f"{error}.", at)
