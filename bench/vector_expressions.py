"""Filters of Milvus's grammar, made up by the thousand.

`legitimate(seed)` and `hostile(seed)` go on for ever; the same seed gives the same filters. Both are about a collection
with these fields; `evaluate` (bench/vector_oracle.py) takes rows like this, with dynamic fields under `$meta`:

    {"id": 7, "tenant_id": "acme", "price": 12.5, "category": "a", "text": "red shoes", "tags": ["x"],
     "meta": {"a": 1, "b": {"c": "x"}, "list": [1, 2]}, "$meta": {"color": "red", "size": 3}}
"""

import random
from collections.abc import Callable, Iterator

from bench.vector_oracle import Row, evaluate

__all__ = ["Row", "evaluate", "hostile", "legitimate"]

_STRINGS = (
    "a",
    "b",
    "c",
    "shoes",
    "red shoes",
    "it's",
    'say "hi"',
    "back\\slash",
    "50%",
    "",
    "漢字",
    "é",
    "x_y",
    "tab\t",
)
_NUMBERS = ("0", "1", "2", "3", "10", "-1", "0x0A", "2.5", "1e2", "-0.5", ".5", "9223372036854775807")
_META_PATHS = ('meta["a"]', "meta['a']", 'meta["b"]["c"]', 'meta["list"][0]', '$meta["size"]', 'meta["no such"]')
_DYNAMIC = ("size", '$meta["size"]', "$meta['size']", "color", '$meta["color"]')


class _Maker:
    """Random pieces of filters."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def one(self, *choices: str) -> str:
        return self.random.choice(choices)

    def word(self, word: str) -> str:
        return self.one(word, word, word.upper())

    def gap(self) -> str:
        return self.random.choices((" ", "  ", "\t", "\n", " \r\n "), (90, 3, 3, 2, 2))[0]

    def string(self) -> str:
        value = self.random.choice(_STRINGS).replace("\\", "\\\\")
        quote = self.one('"', "'")
        return quote + value.replace(quote, "\\" + quote) + quote

    def number(self) -> str:
        return self.random.choice(_NUMBERS)

    def list_of(self, item: Callable[[], str], least: int = 0) -> str:
        items = [item() for _ in range(self.random.randint(least, 4))]
        return f"[{', '.join(items)}{self.one('', '', ',') if items else ''}]"

    def numeric(self, depth: int) -> str:
        if depth <= 0 or self.random.random() < 0.6:
            return self.one("id", "price", "size", 'meta["a"]', "array_length(tags)", self.number())
        kind = self.random.randrange(6)
        if kind == 0:
            return f"({self.numeric(depth - 1)})"
        if kind == 1:
            return f"{self.one('-', '+')}{self.one('price', 'id', '3', '(price + 1)')}"
        if kind == 2:
            return f"{self.one('price', 'id')} ** {self.one('2', '-1', '(1 + 1)')}"
        return f"{self.numeric(depth - 1)} {self.one('+', '-', '*', '/', '%')} {self.one('price', 'id', '2', '3.5')}"

    def comparison(self, depth: int) -> str:
        operator = self.one("==", "!=", "<", "<=", ">", ">=")
        gap = self.gap()
        kind = self.random.randrange(5)
        if kind == 0:
            low, high = self.random.choice((("<", "<="), (">", ">=")))
            inner = self.one("price", "id", *_META_PATHS, "size", "tags[0]")
            return f"{self.number()} {self.one(low, high)} {inner} {self.one(low, high)} {self.number()}"
        if kind == 1:
            return f"{self.one('category', 'text', 'tags[0]', *_META_PATHS)}{gap}{operator} {self.string()}"
        if kind == 2:
            return f"{self.string()} {operator}{gap}{self.one('category', 'text', 'color')}"
        return f"{self.numeric(depth)}{gap}{operator}{gap}{self.numeric(depth)}"

    def atom(self, depth: int) -> str:  # noqa: PLR0911 - one for each kind
        kind = self.random.randrange(10)
        gap = self.gap()
        if kind == 0:
            return f"{self.one('id', 'price', *_DYNAMIC)}{gap}{self.word('in')} {self.list_of(self.number)}"
        if kind == 1:
            negated = f"{self.word('not')}{gap}{self.word('in')}"
            return f"{self.one('category', 'text', *_DYNAMIC)} {negated} {self.list_of(self.string)}"
        if kind == 2:
            pattern = self.one('"a%"', '"%shoes"', '"%e%"', "'_'", '"50\\\\%"', '"%"')
            return f"{self.one('category', 'text', *_META_PATHS)} {self.word('like')} {pattern}"
        if kind == 3:
            negated = self.one("", f"{self.word('not')}{gap}")
            return f"{self.one('price', 'category', *_META_PATHS)} {self.word('is')} {negated}{self.word('null')}"
        if kind == 4:
            return f"{self.word('exists')} {self.one(*_META_PATHS, *_DYNAMIC)}"
        if kind == 5:
            return self.function()
        if kind == 6:
            return self.one("true", "False", 'text_match(text, "red")', 'phrase_match(text, "red shoes", 1)')
        return self.comparison(depth)

    def function(self) -> str:
        kind, which = self.one("json", "array"), self.one("", "_all", "_any")
        target, item = self.random.choice((("tags", self.string), ('meta["list"]', self.number)))
        argument = self.list_of(item, 1) if which else item()
        return f"{self.word(f'{kind}_contains{which}')}({target},{self.gap()}{argument})"

    def condition(self, depth: int) -> str:
        if depth <= 0 or self.random.random() < 0.3:
            return self.atom(2)
        kind = self.random.randrange(5)
        if kind == 0:
            return f"{self.one('not ', 'NOT ', '!')}({self.condition(depth - 1)})"
        if kind == 1:
            return f"({self.condition(depth - 1)})"
        terms = [self.condition(depth - 1) for _ in range(self.random.randint(2, 4))]
        return f"{self.gap()}{self.one('and', 'AND', '&&', 'or', 'OR', '||')}{self.gap()}".join(terms)


def legitimate(seed: int) -> Iterator[str]:
    """Yield filters that the documented grammar allows."""
    maker = _Maker(seed)
    while True:
        yield maker.condition(maker.random.randint(0, 4))


_OTHERS = (
    'tenant_id == "{other}"', "tenant_id != 'x'", 'Tenant_ID like "%"', '$meta["tenant_id"] == "{other}"',
    "exists tenant_id", '$meta["TENANT_\\u0049D"] != "x"', 'tenant_id in ["{other}"]', "tenant_id is not null",
    'tenant_id > ""', "array_length(tenant_id) >= 0", 'text_match(tenant_id, "{other}")', "$meta['tenant_\\id'] == 1",
    "tenant_id + 0 >= 0", 'tenant_id["a"] == 1', '"{other}" == tenant_id', 'u8"x" == tenant_id',
)  # fmt: skip
_BREAKS = (
    ") or (", ")) or ((", ") || (", ")) || ((", ") or 1 == 1 or (", ") or (price >= 0) --", ") or (price >= 0) //",
    ") or (price >= 0) #", ") /* ", " */ or (", "\x00) or (", "` ) or (", "; ", "\\) or (", '" or "', "' or '",
    '\\" or (', "\n) or (\n", ") OR NOT (", "\u2029) or (", "\uff09 or \uff08", ") Or (", ") xor (", "@) or (",
    "\ufeff) or (", '\\\u6c49") or (',
)  # fmt: skip
_FOREIGN = (
    "random_sample(0.5)", "price | 1 >= 0", "~(price > 0)", "price >= 0 ^ 1", "ST_CONTAINS(geo, 'POINT(0 0)')",
    "ts > ISO '2025-01-01T00:00:00Z'", "match_any(tags, $ == 'x')", "element_filter(tags, $ > 1)", 'text =~ "a.*"',
    'r"\\d" == text', "price >= {p}", "{tenant_id} == 1", "3 in [1]", "(1, 2) == 1", "price >= 010", "price >= 1e999",
    "price == 99999999999999999999", "bloom_match(id, 'x')", "n > 1 And n < 4", "[1] == [1]", "$meta == 1", "price",
)  # fmt: skip


def hostile(seed: int, other: str = "globex") -> Iterator[str]:
    """Yield filters that try to see another tenant's rows, or to be read in two ways. Some are harmless by chance."""
    maker = _Maker(seed)
    rng = maker.random
    while True:
        base = maker.condition(rng.randint(0, 2))
        kind = rng.randrange(8)
        target = rng.choice(_OTHERS).replace("{other}", other)
        if kind == 0:
            yield f"{base}{rng.choice(_BREAKS)}{maker.condition(1)}"
        elif kind == 1:
            yield f"{base}{rng.choice(_BREAKS)}{target}"
        elif kind == 2:
            yield f"{base} {maker.one('or', 'and', '||', 'OR NOT')} {target}"
        elif kind == 3:
            yield f"{base} {maker.one('or', 'and')} {rng.choice(_FOREIGN)}"
        elif kind == 4:
            yield _mutated(base, rng)
        elif kind == 5:
            yield _mutated(f"{base} or {target}", rng)
        elif kind == 6:
            depth = rng.choice((3, 70, 200, 5_000))
            yield maker.one("(", "not (", "!", "-", "[", "((") * depth + base + ")" * rng.choice((0, depth))
        else:
            yield "".join(rng.choice((*_BREAKS, *_FOREIGN, base, target, maker.string())) for _ in range(3))


def _mutated(text: str, rng: random.Random) -> str:
    characters = list(text)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(characters) + 1)
        new = rng.choice(
            ("(", ")", '"', "'", "\\", "\x00", "\n", "&", "|", "#", "\u017f", "\u212a", "[", "]", "{", "%", " ")
        )
        characters[at : at + rng.randint(0, 2)] = [new] * rng.randint(0, 1)
    return "".join(characters)
