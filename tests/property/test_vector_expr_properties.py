"""Any text is understood whole or refused, what is printed reads the same, no row of another tenant is selected."""

import re
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tenantry.core.vector.expr import FilterError, KeyRewrite, Node, parse, render, scoped
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
    Not,
    Null,
    Or,
    PhraseMatch,
    Ref,
    TextMatch,
    Values,
)

from bench.vector_expressions import hostile, legitimate
from bench.vector_oracle import evaluate

GUARD = Comparison("==", Ref("tenant_id"), Literal("acme"))

# Trees as `parse` makes them: a constant is on the right of a comparison, and has its sign itself.
names = st.sampled_from(["id", "price", "category", "text", "tags", "meta", "color", "iso", "u8", "L", "_x", "select"])
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.just("\t"), max_size=8)
keys = texts.filter(lambda key: key and not set(key) & set("\"'[]\\") and key.casefold() != "tenant_id")
integers = st.integers(-(2**63) + 1, 2**63 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
numbers = st.builds(Literal, integers | floats)
scalars = st.booleans() | integers | floats | texts
literals = st.builds(Literal, scalars)
lists = st.builds(Values, st.lists(scalars, max_size=4).map(tuple))
paths = st.lists(keys | st.integers(0, 999_999_999), max_size=3).map(tuple)
refs = st.builds(Ref, names, paths) | st.builds(lambda key, path: Ref("$meta", (key, *path)), keys, paths)
divisors = st.integers(1, 2**63 - 1).map(Literal) | refs | st.builds(Length, refs)
operands = st.recursive(
    numbers | refs | st.builds(Length, refs),
    lambda inner: (
        st.builds(Negative, inner.filter(lambda node: not isinstance(node, Literal)))
        | st.builds(Arithmetic, st.sampled_from(["+", "-", "*", "**"]), inner, inner)
        | st.builds(Arithmetic, st.sampled_from(["/", "%"]), inner, divisors)
    ),
    max_leaves=5,
)
comparisons = st.builds(
    Comparison,
    st.sampled_from(["==", "!=", "<", "<=", ">", ">="]),
    operands.filter(lambda node: not isinstance(node, Literal)),
    operands | literals,
)
contains = st.builds(
    Contains, st.sampled_from(["json_contains", "array_contains"]), refs, literals | lists
) | st.builds(
    Contains,
    st.sampled_from(["json_contains_all", "json_contains_any", "array_contains_all", "array_contains_any"]),
    refs,
    lists,
)
options = st.none() | st.integers(0, 1000)
matches = st.builds(TextMatch, st.builds(Ref, names), texts, options) | st.builds(
    PhraseMatch, st.builds(Ref, names), texts, options
)
conditions = st.recursive(
    comparisons
    | st.builds(Membership, refs, lists, st.booleans())
    | st.builds(Like, refs, texts)
    | st.builds(Null, refs, st.booleans())
    | st.builds(Exists, refs)
    | contains
    | matches
    | refs
    | st.builds(Literal, st.booleans()),
    lambda inner: (
        st.builds(Not, inner)
        | st.builds(And, st.lists(inner, min_size=2, max_size=4).map(tuple))
        | st.builds(Or, st.lists(inner, min_size=2, max_size=4).map(tuple))
    ),
    max_leaves=12,
)

WORDS = [
    "and", "or", "not", "in", "like", "is", "null", "exists", "true", "(", ")", "[", "]", ",", "==", "<", "-", "**",
    "%", "price", "id", "tenant_id", "$meta", '"a"', "'b'", '"', "'", "\\", "1", "2.5", "0x1", "{x}", "json_contains(",
    "&&", "||", "!", "=", "#", "\x00", "`", "\n", " ", "1 < price < 2",
]  # fmt: skip
almost = st.lists(st.sampled_from(WORDS) | st.text(max_size=2), max_size=20).map(" ".join)

json_values = st.integers(0, 3) | st.sampled_from(["a", "x"]) | st.lists(st.integers(0, 3), max_size=2) | st.booleans()
rows = st.fixed_dictionaries(
    {
        "id": st.integers(0, 3),
        "tenant_id": st.sampled_from(["acme", "globex"]),
        "price": st.none() | st.integers(0, 3) | st.just(2.5),
        "category": st.none() | st.sampled_from(["a", "b", "c", 'say "hi"', "back\\slash"]),
        "text": st.sampled_from(["red shoes", "shoes", "it's"]),
        "tags": st.lists(st.sampled_from(["a", "b", "it's"]), max_size=3),
        "meta": st.dictionaries(st.sampled_from(["a", "list"]), json_values),
        "$meta": st.dictionaries(st.sampled_from(["size", "color", "labels"]), json_values),
    }
)


def sides(printed: str) -> list[str]:
    """Split `(...) and (...)` with a scanner of its own, which knows no more than quotes and parentheses."""
    depth, start, found = 0, 0, []
    for match in re.finditer(r'"(?:[^"\\]|\\.)*"|[()]', printed):
        if match.group() == "(":
            depth += 1
            start = match.end() if depth == 1 else start
        elif match.group() == ")":
            depth -= 1
            assert depth >= 0
            if depth == 0:
                found.append(printed[start : match.start()])
    assert depth == 0
    assert printed == " and ".join(f"({side})" for side in found)
    return found


def check_scoped(client: str) -> str | None:
    """Scope a client's text and look at the result from outside; None if it was refused."""
    try:
        printed = scoped(client, field="tenant_id", tenant="acme")
    except FilterError as error:
        check_refusal(error, client)
        return None
    if not client.strip(" \t\r\n"):
        assert printed == 'tenant_id == "acme"'
        return printed
    guard, inside = sides(printed)
    assert guard == 'tenant_id == "acme"'
    assert parse(printed) == And((GUARD, parse(inside)))
    unquoted = re.sub(r'"(?:[^"\\]|\\.)*"', '""', inside)
    assert unquoted.isascii()
    assert re.search(r"\btenant_id\b", unquoted, re.IGNORECASE) is None
    assert re.search(r'\$meta\["tenant_id"', inside, re.IGNORECASE) is None
    return printed


def check_refusal(error: FilterError, client: str) -> None:
    assert error.position is None or 0 <= error.position <= len(client)
    assert error.message.isascii()
    assert error.message.isprintable()


@given(conditions)
def test_what_is_printed_reads_the_same(node: Node) -> None:
    printed = render(node)
    assert parse(printed) == node
    assert repr(parse(printed)) == repr(node)  # tells 1 from 1.0 and True
    assert render(parse(printed)) == printed


@given(st.text() | almost)
@example("(" * 300)
@example('"\\' * 300)
@example("a == '\ud800'")
@example("a == 1 " + "\u0661")
def test_any_text_is_understood_whole_or_refused(client: str) -> None:
    check_scoped(client)


@pytest.mark.parametrize("maker", [legitimate, hostile])
@given(seed=st.integers(0, 2**32))
def test_made_up_filters(maker: Callable[[int], Any], seed: int) -> None:
    for client in islice(maker(seed), 10):
        printed = check_scoped(client)
        assert printed is not None or maker is hostile, client


@given(conditions | almost | st.integers(0, 2**32).map(lambda seed: next(legitimate(seed))), st.lists(rows, max_size=6))
def test_the_rows_are_those_of_the_tenant_that_the_client_asked_for(client: Node | str, table: list[Any]) -> None:
    text = client if isinstance(client, str) else render(client)
    try:
        printed = scoped(text, field="tenant_id", tenant="acme")
    except FilterError:
        return
    asked = parse(text) if text.strip(" \t\r\n") else Literal(True)
    whole = parse(printed)
    for row in table:
        mine = row["tenant_id"] == "acme"
        assert (evaluate(whole, row) is True) == (mine and evaluate(asked, row) is True)


@given(
    st.sampled_from(["==", "!=", "<", "<=", ">", ">="]),
    texts,
    st.lists(st.tuples(st.sampled_from(["t1:", "t2:", "t12:"]), texts), max_size=6),
    st.sampled_from(["compare", "in", "not in", "like"]),
)
def test_keys_behind_a_prefix_are_found_as_if_there_were_none(
    operator: str, key: str, stored: list[tuple[str, str]], how: str
) -> None:
    quoted = render(Literal(key))
    client = {
        "compare": f"id {operator} {quoted}",
        "in": f"id in [{quoted}]",
        "not in": f"id not in [{quoted}]",
        "like": f"id like {quoted}",
    }[how]
    printed = scoped(client, field="tenant_id", tenant="t1:", keys=KeyRewrite(field="id", prefix="t1:"))
    for prefix, own in stored:
        selected = evaluate(parse(printed), {"id": prefix + own, "tenant_id": prefix}) is True
        assert selected == (prefix == "t1:" and evaluate(parse(client), {"id": own}) is True)
