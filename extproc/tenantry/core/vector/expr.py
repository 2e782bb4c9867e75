"""Milvus's filters: parsed to a tree, checked, and printed again behind the tenant's guard.

The grammar, loosest first. Keywords and functions are written all small or all large, strings with either quote.

    condition   = condition ("or" | "||") condition
                | condition ("and" | "&&") condition
                | ("not" | "!") condition
                | value ("==" | "!=" | "<" | "<=" | ">" | ">=") value
                | value ("<" | "<=") field ("<" | "<=") value       (and with > and >=)
                | field ["not"] "in" list
                | field "like" string
                | field "is" ["not"] "null"
                | "exists" field
                | ("json_contains" | "array_contains") "(" field "," (constant | list) ")"
                | ("json_contains_all" | "json_contains_any" | "array_contains_all" | "array_contains_any")
                      "(" field "," list ")"
                | "text_match" "(" name "," string ["," "minimum_should_match" "=" integer] ")"
                | "phrase_match" "(" name "," string ["," integer] ")"
                | field | "true" | "false" | "(" condition ")"
    value       = value ("+" | "-") value | value ("*" | "/" | "%") value
                | ("-" | "+") value | value "**" value
                | "array_length" "(" field ")" | field | constant | "(" value ")"
    field       = name path* | "$meta" "[" string "]" path*
    path        = "[" (string | index) "]"
    list        = "[" [constant ("," constant)* [","]] "]" | template
    constant    = integer | float | string | "true" | "True" | "TRUE" | "false" | ... | template
    template    = "{" name "}"

Source: internal/parser/planparserv2/Plan.g4 of Milvus, of which this is a part. Differences, all towards less:

- What is not in the grammar is refused, above all what decides about more than its own row or was not shown to be safe:
  `random_sample` (engines take it out of the condition and sample before or after the rest), `element_filter` and
  `match_*`, operators on bits, geometry, timestamps, raw and prefixed strings, functions that we do not know.
- A chained range is read as two comparisons (`1 < a < 5` as `a > 1 and a < 5`): milvus-lite 3.2.2 reads it as `(1 < a) <
  5`. Powers do not chain without parentheses, comparisons not at all. A constant is printed on the right.
- `not` is looser than comparisons, as Milvus's documentation and milvus-lite 3.2.2 have it. Milvus's own grammar binds it
  tighter and then refuses `not a == 1`. We print parentheses, which all read alike.

Why the guard always holds. The result is `(field == "tenant") and (client)`, printed from nodes: each parenthesis is ours
and closed, each string has the one form that all lexers end at the same quote (`expr_tokens`), each word is a keyword
that we wrote or an ASCII name. So every engine reads a conjunction at the top, the guard one of its two sides. A row
passes a conjunction only if each side is true for it: with `null` the client's part can make the whole null or false,
never true where the guard is not; `not` reaches no further than its own parentheses; a constant folds to the guard or to
nothing; rewriting a conjunction (Milvus merges conditions on one field) needs the same field twice, and the client cannot
name the guard's: not as it is, not in other letters, not as a key of `$meta` under which it might be found. Every other
operator that we let through is decided row by row. A word that a newer engine takes for a keyword of its own makes that
engine refuse the filter.
"""

from collections.abc import Mapping
from typing import Never

from tenantry.core.vector.expr_keys import KeyRewrite
from tenantry.core.vector.expr_nodes import (
    And,
    Arithmetic,
    Comparison,
    Condition,
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
    Scalar,
    TextMatch,
    Value,
    Values,
    render,
)
from tenantry.core.vector.expr_templates import Templates, TemplateValue
from tenantry.core.vector.expr_tokens import (
    DECIMAL,
    FUNCTIONS,
    INTEGERS,
    MAX_DEPTH,
    MAX_TERMS,
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

__all__ = ["FilterError", "KeyRewrite", "Node", "TemplateValue", "parse", "render", "scoped"]

_OR, _AND, _NOT, _COMPARE, _ADD, _MULTIPLY, _SIGN, _POWER = range(1, 9)
"""How tightly operators bind."""

_BINDING = {
    **dict.fromkeys(("or", "OR", "||"), _OR),
    **dict.fromkeys(("and", "AND", "&&"), _AND),
    **dict.fromkeys(("==", "!=", "<", "<=", ">", ">="), _COMPARE),
    **dict.fromkeys(("in", "IN", "not", "NOT", "like", "LIKE", "is", "IS"), _COMPARE),
    **dict.fromkeys(("+", "-"), _ADD),
    **dict.fromkeys(("*", "/", "%"), _MULTIPLY),
    "**": _POWER,
}
_RANGES = ({"<", "<="}, {">", ">="})
_MIRRORED = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_TRUE, _FALSE = frozenset({"true", "True", "TRUE"}), frozenset({"false", "False", "FALSE"})
_VALUES = (Literal, Ref, Negative, Arithmetic, Length)
_NO_CONDITIONS = (Values, Negative, Arithmetic, Length)
_KEY_SIGNS = frozenset("\"'[]\\")
MAX_KEY_CHARACTERS = 512
MAX_OPTION = 1_000_000
"""Of `minimum_should_match` and a phrase's slop."""

MAX_NESTING = 2 * MAX_DEPTH + 4
"""Of expressions while reading: what is printed has a pair of parentheses more for each level."""

TEXT_FUNCTIONS = frozenset({"text_match", "phrase_match"})


def parse(text: str) -> Node:
    """Return the condition that a filter is; raise FilterError for anything else. Text without a condition is refused."""
    return _Parser(text, frozenset(), Templates({})).condition()


def scoped(
    client: str,
    *,
    field: str,
    tenant: str,
    reserved: frozenset[str] = frozenset(),
    templates: Mapping[str, TemplateValue] = {},
    keys: KeyRewrite | None = None,
) -> str:
    """Return the filter that selects what the client's selects, of the tenant's rows alone.

    `field` holds the tenant in each row. The client may name neither it nor one of `reserved`. Names are compared without
    case (`str.casefold`, after escapes are decoded): engines do not ignore case today, but readers of JSON do, Go's among
    them, which also takes `ſ` for s and the Kelvin sign for k.
    """
    if NAME.fullmatch(field) is None:
        raise ValueError("the tenant's field is not an ASCII identifier")
    try:
        quoted(tenant)
    except ValueError as error:
        raise FilterError(f"the tenant's name cannot be written in a filter: {error}.") from None
    guard = Comparison("==", Ref(field), Literal(tenant))
    values = Templates(templates)
    if not client.strip(" \t\r\n"):
        values.check_all_used()
        return render(guard)
    forbidden = frozenset(name.casefold() for name in (field, *reserved))
    condition = _Parser(client, forbidden, values).condition()
    values.check_all_used()
    if keys is not None:
        condition = keys.rewritten(condition)
    return render(And((guard, condition)))


def _compared(operator: str, left: Value, right: Value) -> Comparison:
    """Put a constant on the right: milvus-lite 2.5.1 answers `3 == n` with the rows where it is not."""
    if isinstance(left, Literal) and not isinstance(right, Literal):
        return Comparison(_MIRRORED[operator], right, left)
    return Comparison(operator, left, right)


class _Parser:
    """One reading of one text: precedence climbing, two frames of Python for each level of parentheses."""

    __slots__ = ("_depth", "_forbidden", "_height", "_index", "_templates", "_text", "_tokens")

    def __init__(self, text: str, forbidden: frozenset[str], templates: Templates) -> None:
        self._text = text
        self._tokens = tokens_of(text)
        self._index = 0
        self._forbidden = forbidden
        self._templates = templates
        self._depth = 0
        self._height = 0
        """Of the node that was read last. Chains of arithmetic grow it without recursion."""

    def condition(self) -> Condition:
        """Read all of the text."""
        node = self._as_condition(self._expression(_OR), 0)
        if self._tokens[self._index]:
            self._fail("the end, or `and` or `or` before what follows")
        return node

    # Refusals

    def _fail(self, expected: str, index: int | None = None) -> Never:
        at = self._index if index is None else index
        found = kind_of(self._tokens[at])
        raise FilterError(f"found {found}, expected {expected}.", position=position_of(self._text, at))

    def _refuse(self, why: str, index: int) -> Never:
        raise FilterError(why, position=position_of(self._text, index))

    def _as_condition(self, node: Node, index: int) -> Condition:
        if isinstance(node, _NO_CONDITIONS) or (isinstance(node, Literal) and not isinstance(node.value, bool)):
            self._refuse("expected a condition from here, such as `price > 10`, found a value.", index)
        return node

    def _as_value(self, node: Node, index: int) -> Value:
        if not isinstance(node, _VALUES):
            self._refuse("expected a field, a constant or arithmetic from here, found a condition or a list.", index)
        return node

    def _as_number(self, node: Node, index: int) -> Value:
        value = self._as_value(node, index)
        if isinstance(value, Literal) and isinstance(value.value, bool | str):
            self._refuse("arithmetic needs numbers or fields from here.", index)
        return value

    def _as_ref(self, node: Node, index: int) -> Ref:
        if not isinstance(node, Ref):
            self._refuse("expected a field from here, before `in`, `like` or `is`.", index)
        return node

    def _grow(self, left: int) -> None:
        self._height = max(self._height, left) + 1
        if self._height > MAX_DEPTH:
            self._refuse(f"it is nested more than {MAX_DEPTH} levels deep.", self._index)

    # Expressions

    def _expression(self, least: int) -> Node:
        """Read an operand and the operators behind it that bind at least this tightly."""
        self._depth += 1
        if self._depth > MAX_NESTING:
            self._refuse(f"it is nested more than {MAX_DEPTH} levels deep.", self._index)
        start = self._index
        node = self._operand()
        while (binding := _BINDING.get(self._tokens[self._index], 0)) >= least:
            height = self._height
            if binding <= _AND:
                node = self._chain(node, binding, start)
            elif binding == _COMPARE:
                node = self._comparison(node, start)
            else:
                node = self._arithmetic(node, binding, start)
            self._grow(height)
        self._depth -= 1
        return node

    def _chain(self, first: Node, binding: int, start: int) -> And | Or:
        terms = [self._as_condition(first, start)]
        height = 0
        while _BINDING.get(self._tokens[self._index]) == binding:
            if len(terms) == MAX_TERMS:
                self._refuse(f"it joins more than {MAX_TERMS} conditions; `in` takes a list.", self._index)
            self._index += 1
            begin = self._index
            terms.append(self._as_condition(self._expression(binding + 1), begin))
            height = max(height, self._height)
        self._height = height
        return And(tuple(terms)) if binding == _AND else Or(tuple(terms))

    def _arithmetic(self, left: Node, binding: int, start: int) -> Arithmetic:
        operator = self._tokens[self._index]
        self._index += 1
        begin = self._index
        right = self._expression(binding + 1)
        if binding == _POWER and self._tokens[self._index] == "**":
            self._fail("parentheses: powers of powers are read from the left by some and from the right by others")
        return Arithmetic(operator, self._as_number(left, start), self._as_number(right, begin))

    def _comparison(self, left: Node, start: int) -> Condition:
        operator = self._tokens[self._index]
        at = self._index
        self._index += 1
        word = operator.lower()
        if word == "in":
            return Membership(self._as_ref(left, start), self._list())
        if word == "not":
            self._word("in", "`in`; write `not (a like ...)` for the opposite of the others")
            return Membership(self._as_ref(left, start), self._list(), negated=True)
        if word == "like":
            return Like(self._as_ref(left, start), self._string("a pattern"))
        if word == "is":
            negated = self._accept("not")
            self._word("null", "`null` or `not null`")
            return Null(self._as_ref(left, start), negated)
        low, middle = self._as_value(left, start), self._side()
        following = self._tokens[self._index]
        if _BINDING.get(following) != _COMPARE:
            return _compared(operator, low, middle)
        if not any(operator in signs and following in signs for signs in _RANGES) or not isinstance(middle, Ref):
            self._refuse("comparisons chain only as ranges: `1 < field <= 5`, or `5 > field >= 1`.", at)
        self._index += 1
        high = self._side()
        self._grow(0)
        return And((_compared(operator, low, middle), _compared(following, middle, high)))

    def _side(self) -> Value:
        begin = self._index
        return self._as_value(self._expression(_ADD), begin)

    # Operands

    def _operand(self) -> Node:
        token = self._tokens[self._index]
        self._height = 0
        if token[:1].isalpha() or token[:1] == "_":
            return self._named(token)
        if token == "(":
            self._index += 1
            node = self._expression(_OR)
            self._sign(")", "`)`, or an operator")
            return node
        if token in {"-", "+"}:
            return self._signed(token)
        if token == "!":
            return self._not()
        if token == META:
            return self._ref()
        if token == "{":
            return self._template()
        return self._constant("a field, a constant, `not` or `(`")

    def _named(self, token: str) -> Node:
        word = token.lower()
        if word in WORDS:
            if token in _TRUE or token in _FALSE:
                self._index += 1
                return Literal(token in _TRUE)
            if word == "not" and token in _BINDING:
                return self._not()
            if token in {"exists", "EXISTS"}:
                self._index += 1
                enclosed = self._tokens[self._index] == "("
                self._index += enclosed
                node = Exists(self._ref())
                if enclosed:
                    self._sign(")", "`)`")
                return node
            self._fail("a field or a constant; keywords are written all small or all large, and name no field")
        if self._tokens[self._index + 1] == "(" or word in FUNCTIONS:
            return self._function(token)
        return self._ref()

    def _not(self) -> Not:
        self._index += 1
        begin = self._index
        term = self._as_condition(self._expression(_NOT), begin)
        self._grow(0)
        return Not(term)

    def _signed(self, sign: str) -> Value:
        self._index += 1
        begin = self._index
        value = self._as_number(self._expression(_SIGN), begin)
        if sign == "+":
            return value
        if isinstance(value, Literal) and not isinstance(value.value, str):
            return Literal(-value.value)
        self._grow(0)
        return Negative(value)

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
        token, at = self._tokens[self._index], self._index
        if token[:1] in {'"', "'"}:
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
        if first_of_meta or DECIMAL.fullmatch(token) is None or len(token) > 9:
            self._fail("a key in quotes" if first_of_meta else "a key in quotes, or an index from 0")
        self._index += 1
        return int(token)

    def _allow(self, name: str, index: int) -> None:
        if name.casefold() in self._forbidden:
            self._refuse("found a reserved field: a filter cannot name it, in whatever letters.", index)

    def _string(self, what: str) -> str:
        token, at = self._tokens[self._index], self._index
        if token[:1] not in {'"', "'"}:
            self._fail(f"{what} in quotes")
        self._index += 1
        try:
            value = string_of(token)
            quoted(value)
        except ValueError as error:
            self._refuse(f"found a string that cannot be passed on: {error}.", at)
        return value

    def _constant(self, expected: str) -> Literal:
        token, at = self._tokens[self._index], self._index
        if token[:1] in {'"', "'"}:
            return Literal(self._string("a constant"))
        if kind_of(token) != "a number":
            self._fail(expected)
        self._index += 1
        try:
            return Literal(number_of(token))
        except ValueError as error:
            self._refuse(f"found a number that cannot be passed on: {error}.", at)

    def _item(self) -> Scalar:
        """Read one constant of a list, or the only argument that a function compares with."""
        token, at = self._tokens[self._index], self._index
        if token in _TRUE or token in _FALSE:
            self._index += 1
            return token in _TRUE
        if token == "{":
            template = self._template()
            return template.value if isinstance(template, Literal) else self._refuse("found a list in a list.", at)
        if token not in {"-", "+"}:
            return self._constant("a constant").value
        self._index += 1
        number = self._constant("a number").value
        if isinstance(number, str):
            self._refuse("expected a number behind the sign, found a string.", at)
        return -number if token == "-" else number

    def _list(self) -> Values:
        token, at = self._tokens[self._index], self._index
        if token == "{":
            values = self._template(lists=True)
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

    def _template(self, *, lists: bool = False) -> Literal | Values:
        at = self._index
        self._index += 1
        name = self._tokens[self._index]
        if NAME.fullmatch(name) is None:
            self._fail("a template's name")
        self._index += 1
        self._sign("}", "`}`")
        try:
            value = self._templates.take(name)
        except ValueError as error:
            self._refuse(f"{error}.", at)
        if isinstance(value, Values) and not lists:
            self._refuse("found a template that is a list, expected one that is a single constant.", at)
        return value

    # Functions

    def _function(self, token: str) -> Node:
        name = token.lower()
        if name not in FUNCTIONS or token not in {name, name.upper()}:
            self._refuse(
                f"found a function that is not supported; these are: {', '.join(sorted(FUNCTIONS))}.", self._index
            )
        self._index += 1
        self._sign("(", "`(` after a function's name")
        ref = self._ref()
        node: Node
        if name == "array_length":
            node = Length(ref)
        else:
            self._sign(",", "`,`")
            node = self._text_function(name, ref) if name in TEXT_FUNCTIONS else self._contains(name, ref)
        self._sign(")", "`)`")
        return node

    def _contains(self, name: str, ref: Ref) -> Contains:
        token, at = self._tokens[self._index], self._index
        if token == "{":
            argument = self._template(lists=True)
        else:
            argument = self._list() if token == "[" else Literal(self._item())
        if isinstance(argument, Literal) and name.endswith(("_all", "_any")):
            self._refuse("this function takes a list.", at)
        return Contains(name, ref, argument)

    def _text_function(self, name: str, ref: Ref) -> TextMatch | PhraseMatch:
        if ref.path or ref.name == META:
            self._refuse("this function takes the name of a field, without a path.", self._index)
        words = self._words()
        option: int | None = None
        if self._tokens[self._index] == ",":
            self._index += 1
            if name == "text_match":
                self._word("minimum_should_match", "`minimum_should_match`")
                self._sign("=", "`=`")
            at = self._index
            number = self._item()
            if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= MAX_OPTION:
                self._refuse(f"expected an integer from 0 to {MAX_OPTION}.", at)
            option = number
        return TextMatch(ref, words, option) if name == "text_match" else PhraseMatch(ref, words, option)

    def _words(self) -> str:
        at = self._index
        if self._tokens[at] != "{":
            return self._string("words")
        template = self._template()
        if isinstance(template, Literal) and isinstance(template.value, str):
            return template.value
        self._refuse("expected a template that is a string.", at)

    # Single tokens

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
