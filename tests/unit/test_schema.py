"""What a person is told about a document that does not fit its schema."""

from typing import Annotated

import msgspec
import pytest
from tenantry.core import schema
from tenantry.core.errors import Problem, RulesError

Small = Annotated[int, msgspec.Meta(ge=0, le=9)]
Name = Annotated[str, msgspec.Meta(pattern="^[a-z]+$")]


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    size_mm: Small = 0
    tags: Annotated[tuple[Name, ...], msgspec.Meta(max_length=2)] = ()


class Outer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: Name
    inner: Inner | None = None
    either: str | Inner = ""
    maybe: tuple[Name, ...] | None = None
    by_name: Annotated[dict[Name, Inner], msgspec.Meta(max_length=2)] = {}
    numbers: Annotated[tuple[Small, ...], msgspec.Meta(min_length=1)] = (1,)


def problems(document: object) -> list[str]:
    with pytest.raises(RulesError) as caught:
        schema.parse(document, Outer)
    assert str(caught.value) == "\n".join(map(str, caught.value.problems))
    return [str(problem) for problem in caught.value.problems]


def test_a_document_that_fits() -> None:
    document = {"name": "a", "inner": {"sizeMm": 3}, "either": {"tags": ["x"]}, "by_name": {"b": {}}, "numbers": [1]}
    assert schema.parse(document, Outer) == Outer(
        name="a", inner=Inner(size_mm=3), either=Inner(tags=("x",)), by_name={"b": Inner()}, numbers=(1,)
    )


def test_a_pattern_is_explained_in_words_where_it_has_some() -> None:
    class Priced(msgspec.Struct):
        price: Annotated[str, msgspec.Meta(pattern=r"^[0-9]+$", description="digits in quotes")]

    with pytest.raises(RulesError) as caught:
        schema.parse({"price": "1,50"}, Priced)
    assert str(caught.value) == "price: expected `str` matching regex '^[0-9]+$'; digits in quotes"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"nmae": 1}, 'nmae: unknown key; did you mean "name"? (known: by_name, either, inner, maybe, name, numbers)'),
        ({"x.y": 1}, '["x.y"]: unknown key; (known: by_name, either, inner, maybe, name, numbers)'),
        ({5: 1}, "5: unknown key; (known: by_name, either, inner, maybe, name, numbers)"),
        ({"name": 1}, 'name: expected `str`, got `int`; YAML reads 1 as a number: write it in quotes, "1"'),
        ({"name": True}, 'name: expected `str`, got `bool`; YAML reads True as a boolean: write it in quotes, "True"'),
        (
            {"name": 0.000012},
            'name: expected `str`, got `float`; YAML reads 0.000012 as a number: write it in quotes, "0.000012"',
        ),
        ({"name": 1.5}, 'name: expected `str`, got `float`; YAML reads 1.5 as a number: write it in quotes, "1.5"'),
        ({"name": 1 << 20_000}, "name: expected `str`, got `int`"),  # too long to be shown
        ({"name": None}, "name: expected `str`, got `null`"),
        ({"name": ["a"]}, "name: expected `str`, got `array`"),
        ({"name": "A"}, "name: expected `str` matching regex '^[a-z]+$'"),
        ({"inner": 1}, "inner: expected `object | null`, got `int`"),
        ({"inner": {"sizeMM": 1}}, 'inner.sizeMM: unknown key; did you mean "sizeMm"? (known: sizeMm, tags)'),
        ({"inner": {"sizeMm": 10}}, "inner.sizeMm: expected `int` <= 9"),
        ({"either": {"sizeMm": -1}}, "either.sizeMm: expected `int` >= 0"),
        (
            {"either": 7},
            'either: expected `str | object`, got `int`; YAML reads 7 as a number: write it in quotes, "7"',
        ),
        ({"maybe": ["a", 7]}, 'maybe[1]: expected `str`, got `int`; YAML reads 7 as a number: write it in quotes, "7"'),
        ({"maybe": {}}, "maybe: expected `array | null`, got `object`"),
        ({"either": []}, "either: expected `str | object`, got `array`"),
        ({"by_name": []}, "by_name: expected a mapping, got list"),
        ({"by_name": {"A": {}}}, "by_name.A: expected `str` matching regex '^[a-z]+$'"),
        ({"by_name": {"a": {"tags": ["x", "Y"]}}}, "by_name.a.tags[1]: expected `str` matching regex '^[a-z]+$'"),
        ({"by_name": {"a": {"tags": ["x", "y", "z"]}}}, "by_name.a.tags: expected `array` of length <= 2"),
        ({"by_name": {"a": None}}, "by_name.a: expected a mapping, got nothing"),
        ({"by_name": {"a": {}, "b": {}, "c": {}}}, "by_name: expected `object` of length <= 2"),
        ({"numbers": 3}, "numbers: expected `array`, got `int`"),
        ({"numbers": []}, "numbers: expected `array` of length >= 1"),
        ({"numbers": [0, "x", 1]}, "numbers[1]: expected `int`, got `str`"),
    ],
)
def test_one_thing_wrong_is_named_with_its_place(changes: dict[object, object], complaint: str) -> None:
    assert problems({"name": "a", **changes}) == [complaint]


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ({}, "name: missing; it has no default"),
        (None, "(document): expected a mapping, got nothing"),
        ([], "(document): expected a mapping, got list"),
        ("text", "(document): expected a mapping, got string"),
        (1.5, "(document): expected a mapping, got number"),
        (True, "(document): expected a mapping, got boolean"),
        (b"", "(document): expected a mapping, got bytes"),
    ],
)
def test_a_document_of_another_kind(document: object, complaint: str) -> None:
    assert problems(document) == [complaint]


def test_everything_wrong_is_told_at_once() -> None:
    assert problems({"nam": "a", "numbers": [-1, 10], "by_name": {"b": {"tags": [1]}, "C": 1}}) == [
        'nam: unknown key; did you mean "name"? (known: by_name, either, inner, maybe, name, numbers)',
        "name: missing; it has no default",
        'by_name.b.tags[0]: expected `str`, got `int`; YAML reads 1 as a number: write it in quotes, "1"',
        "by_name.C: expected `str` matching regex '^[a-z]+$'",
        "by_name.C: expected a mapping, got number",
        "numbers[0]: expected `int` >= 0",
        "numbers[1]: expected `int` <= 9",
    ]


@pytest.mark.parametrize(("wrong", "listed"), [(49, 49), (50, 50), (51, 51), (5000, 51)])
def test_but_not_more_than_a_person_reads(wrong: int, listed: int) -> None:
    found = problems({"name": "a", "numbers": [99] * wrong})
    assert len(found) == listed
    if wrong > schema.MAX_PROBLEMS:
        assert found[-1] == "(document): and more: only the first 50 problems are listed"
        assert found[-2] == "numbers[49]: expected `int` <= 9"


def test_what_the_walk_does_not_see_stays_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 9: msgspec decides, the walk explains."""
    monkeypatch.setattr(schema, "walk", lambda *_: iter(()))
    assert problems({"name": "a", "numbers": [99]}) == ["(document): Expected `int` <= 9 - at `$.numbers[0]`"]


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("glod", ["gold", "bronze"], 'did you mean "gold"? (known: bronze, gold)'),
        ("GOLD", ["Gold"], 'did you mean "Gold"? (known: Gold)'),
        ("platinum", ["gold"], "(known: gold)"),
        ("x", [], "(none is defined)"),
        ("x", "hgfedcba", "(known: a, b, c, d, e, f, g, h)"),
        ("x", "ihgfedcba", "(known: a, b, c, d, e, f, g, h, ...)"),
    ],
)
def test_the_nearest_name(name: str, known: list[str], hint: str) -> None:
    assert schema.nearest(name, known) == hint


@pytest.mark.parametrize(
    ("path", "key", "joined"),
    [
        ("", "a", "a"),
        ("a", "b", "a.b"),
        ("a", "1.4", 'a["1.4"]'),
        ("", "1.4", '["1.4"]'),
        ("a", "", 'a[""]'),
        ("a", 7, "a.7"),
    ],
)
def test_paths_can_be_told_apart(path: str, key: object, joined: str) -> None:
    assert schema.join(path, key) == joined


@pytest.mark.parametrize("text", ["a\n", "\n", "a\0", "a\x7f", "a\u2028", "\ud800", "a\tb", "\u202ea"])
def test_unprintable_text_is_found_wherever_it_is(text: str) -> None:
    document = {"a": [{"ok": "fine", text: 1}], "b": ("fine", text), "c": {text}, "d": "\u00e9 \u65e5\u672c"}
    found = list(schema.unprintable(document, ""))
    assert [problem.path for problem in found] == [schema.join("a[0]", text), "b[1]", "c[0]"]
    assert found[0] == Problem(
        path=found[0].path, message="a line break or another unprintable character", hint="remove it"
    )
