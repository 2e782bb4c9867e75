"""The attack can fail: with a guard that is broken on purpose it finds leaks, and with the real one none.

Each mutant is a mistake that somebody could make in `core/vector/expr.py`.
"""

from itertools import islice

import pytest
from tenantry.core.vector import scope
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.expr import parse
from tenantry.core.vector.expr_nodes import Or, render
from tenantry.core.vector.grpc_frame import write_message

from bench import attack_core, attack_rest
from bench.attack_core import OURS, THEIRS, Scope, guarded, judge
from bench.attack_seen import count, load
from bench.attack_wire import Answer, Attack, bomb, leaks
from bench.vector_expressions import hostile, legitimate

GUARD = f'tenant_id == "{OURS}"'
SEED = 20_261_125


def spliced(text: str) -> str:
    return f"({GUARD}) and ({text})" if text.strip() else GUARD


def without_parentheses(text: str) -> str:
    guarded(text)  # what is refused stays refused
    return f"{GUARD} and {text}"


def guard_last(text: str) -> str:
    guarded(text)
    return f"{text} and {GUARD}"


def either(text: str) -> str:
    return render(Or((parse(GUARD), parse(text))))


def none(text: str) -> str:
    return render(parse(text))


def inside_a_not(text: str) -> str:
    guarded(text)
    return f"not ({GUARD} and ({text}))"


@pytest.mark.parametrize("mutant", [spliced, without_parentheses, guard_last, either, none, inside_a_not])
def test_a_broken_guard_is_seen(mutant: Scope) -> None:
    texts = [*islice(legitimate(SEED), 300), *islice(hostile(SEED, THEIRS), 300)]
    found = judge(iter(texts), mutant)
    assert found.filters == 600
    assert found.leaks


def test_a_guard_that_selects_too_little_is_seen() -> None:
    found = judge(islice(legitimate(SEED), 300), lambda text: f'({guarded(text)}) and category == "a"')
    assert not found.leaks
    assert found.differences


def test_the_real_guard_leaks_nothing() -> None:
    found = attack_core.run(SEED, 2_000, processes=1, parts=2)
    assert (found.filters, found.leaks, found.differences, found.unreadable) == (2_000, [], [], [])
    assert found.passed > 800


QUERY = Attack(id="x", method="Query", body=b"", expect="rewrite")


def counting(number: int) -> Answer:
    results = pb.QueryResults()
    results.fields_data.add(type=5, field_name="count(*)").scalars.long_data.data.append(number)
    return Answer("0", b"", write_message(results.SerializeToString()))


@pytest.mark.parametrize(
    ("answer", "leaked"),
    [
        (Answer("0", b"", write_message(b"")), False),
        (counting(12), False),
        (counting(13), True),
        (Answer("7", b"grpc-message: The store's answer was withheld.", b""), True),
        (Answer("3", b"grpc-message: the filter cannot be read", b""), False),
        (Answer("0", b"", write_message(pb.QueryResults(collection_name="of globex").SerializeToString())), True),
        (Answer("3", f"no collection {scope.token_of(THEIRS)}_notes".encode(), b""), True),
    ],
)
def test_what_counts_as_a_leak(answer: Answer, leaked: bool) -> None:
    assert leaks(QUERY, answer) is leaked


@pytest.mark.parametrize("word", [THEIRS, scope.token_of(THEIRS)])
def test_what_the_client_sent_may_come_back_but_no_row(word: str) -> None:
    sent = Attack(id="x", method="Query", body=word.encode(), expect="rewrite")
    assert not leaks(sent, Answer("3", b"grpc-message: no field " + word.encode(), b""))
    assert leaks(sent, Answer("3", b"grpc-message: row of globex shoes", b""))


def test_every_known_attack_is_of_an_api_that_is_attacked() -> None:
    assert sum(len(load(api)) for api in ("milvus.grpc", "milvus.rest", "pinecone.rest")) == count() == 84


def test_rest_is_refused_or_guarded_in_every_layout() -> None:
    seen = attack_rest.run()
    assert (seen.cases, seen.leaks, seen.deviations) == (9, [], {})
    assert seen.denied == 28


def test_a_bomb_is_small() -> None:
    packed = bomb(64)
    assert len(packed) < 64 * 1024 * 1024 / 900
