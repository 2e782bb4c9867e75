"""The operators of Milvus's filter language, on top of `expr_reader`; the grammar is in `expr`."""

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
    TextMatch,
    Value,
    Values,
)
from tenantry.core.vector.expr_reader import FALSE, TRUE, Reader
from tenantry.core.vector.expr_templates import Templates
from tenantry.core.vector.expr_tokens import FUNCTIONS, MAX_DEPTH, MAX_TERMS, META, WORDS

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
_VALUES = (Literal, Ref, Negative, Arithmetic, Length)
_NO_CONDITIONS = (Values, Negative, Arithmetic, Length)
MAX_OPTION = 1_000_000
"""Of `minimum_should_match` and a phrase's slop."""

MAX_NESTING = 2 * MAX_DEPTH + 4
"""Of expressions while reading: what is printed has a pair of parentheses more for each level."""

TEXT_FUNCTIONS = frozenset({"text_match", "phrase_match"})


def _compared(operator: str, left: Value, right: Value) -> Comparison:
    """Put a constant on the right: milvus-lite 2.5.1 answers `3 == n` with the rows where it is not."""
    if isinstance(left, Literal) and not isinstance(right, Literal):
        return Comparison(_MIRRORED[operator], right, left)
    return Comparison(operator, left, right)


def _divides_safely(operator: str, divisor: Value) -> bool:
    """Return whether no engine ends: milvus-lite 2.5.1 does, for all, at x / 0, x % 0.5 and the least integer / -1."""
    if not isinstance(divisor, Literal):
        return isinstance(divisor, Ref | Length)  # `1 - 1` is computed there
    value = divisor.value
    return not isinstance(value, str) and (int(value) if operator == "%" else value) not in (0, -1)


class Parser(Reader):
    """One reading of one text: precedence climbing, a few frames of Python for each level of parentheses."""

    __slots__ = ("_depth", "_height")

    def __init__(self, text: str, forbidden: frozenset[str], templates: Templates) -> None:
        super().__init__(text, forbidden, templates)
        self._depth = 0
        self._height = 0
        """Of the node that was read last. Chains of arithmetic grow it without recursion."""

    def condition(self) -> Condition:
        """Read all of the text."""
        node = self._as_condition(self._expression(_OR), 0)
        if self._tokens[self._index]:
            self._fail("the end, or `and` or `or` before what follows")
        return node

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
        divisor = self._as_number(right, begin)
        if operator in {"/", "%"} and not _divides_safely(operator, divisor):
            self._refuse("divide by a field, or by a constant other than 0 and -1.", begin)
        return Arithmetic(operator, self._as_number(left, start), divisor)

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

    def _operand(self) -> Node:  # noqa: PLR0911 - one for each way to begin
        found = self._tokens[self._index]
        self._height = 0
        if found[:1].isalpha() or found[:1] == "_":
            return self._named(found)
        if found == "(":
            self._index += 1
            node = self._expression(_OR)
            self._sign(")", "`)`, or an operator")
            return node
        if found in {"-", "+"}:
            return self._signed(found)
        if found == "!":
            return self._not()
        if found == META:
            return self._ref()
        if found == "{":
            return self._template()
        return self._constant("a field, a constant, `not` or `(`")

    def _named(self, found: str) -> Node:
        word = found.lower()
        if word in WORDS:
            if found in TRUE or found in FALSE:
                self._index += 1
                return Literal(found in TRUE)
            if word == "not" and found in _BINDING:
                return self._not()
            if found in {"exists", "EXISTS"}:
                self._index += 1
                enclosed = self._tokens[self._index] == "("
                self._index += enclosed
                node = Exists(self._ref())
                if enclosed:
                    self._sign(")", "`)`")
                return node
            self._fail("a field or a constant; keywords are written all small or all large, and name no field")
        if self._tokens[self._index + 1] == "(" or word in FUNCTIONS:
            return self._function(found)
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

    def _function(self, found: str) -> Node:
        name = found.lower()
        if name not in FUNCTIONS or found not in {name, name.upper()}:
            self._refuse(
                f"found a function that is not supported; these are: {', '.join(sorted(FUNCTIONS))}.", self._index
            )
        self._index += 1
        self._sign("(", "`(` after a function's name")
        at = self._index
        ref = self._ref()
        if name in TEXT_FUNCTIONS and (ref.path or ref.name == META):
            self._refuse("this function takes the name of a field, without a path.", at)
        node: Node
        if name in TEXT_FUNCTIONS and (ref.path or ref.name == META):
            self._refuse("this function takes the name of a field, without a path.", at)
        if name == "array_length":
            node = Length(ref)
        else:
            self._sign(",", "`,`")
            node = self._text_function(name, ref) if name in TEXT_FUNCTIONS else self._contains(name, ref)
        self._sign(")", "`)`")
        return node

    def _contains(self, name: str, ref: Ref) -> Contains:
        found, at = self._tokens[self._index], self._index
        lists = {"{": self._template_or_list, "[": self._list}.get(found)
        argument = Literal(self._item()) if lists is None else lists()
        if isinstance(argument, Literal) and name.endswith(("_all", "_any")):
            self._refuse("this function takes a list.", at)
        return Contains(name, ref, argument)

    def _text_function(self, name: str, ref: Ref) -> TextMatch | PhraseMatch:
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
        words = self._template().value if self._tokens[at] == "{" else self._string("words")
        return words if isinstance(words, str) else self._refuse("expected a template that is a string.", at)
