"""Filters by the thousand against a real engine, with two oracles.

The engine's own parser has to take what ours prints: in Milvus 2.3.5 that is Milvus's ANTLR grammar. And a filter that
tenantry rewrote, on the collection that tenants share, has to find what the client's own text finds on an engine that
holds the tenant's rows alone (bench/attack_alone.py). Engines read some texts wrongly: what they find by the same
filter as we print it then decides (`misread`).
"""

import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
from msgspec import Struct
from tenantry.core.errors import RequestRefusedError
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.expr import parse, render

from bench.attack_alone import Alone, Lost
from bench.attack_store import OURS, ROWS, SCRATCH, SOLO, THEIRS, Engine, foreign, refused, withheld
from bench.vector_expressions import hostile, legitimate

LEGITIMATE = Path(__file__).resolve().parent.parent / "tests" / "data" / "legitimate_filters.txt"
THREADS = 4
SEARCH_EVERY = 8
REFILL_EVERY = 25
SYNTAX_ERROR = re.compile(r"error: (line [0-9]+:[0-9]+ |invalid expression)")
"""How Milvus 2.3.5 says that its grammar does not have a filter; that types do not fit, it says in other words."""
KEY_FILTERS = (
    'id == "k3"', 'id in ["k1", "k4", "k99"]', 'id not in ["k2"]', 'id like "k1%"', 'id > "k3"', '"k2" <= id < "k7"',
    'id != "k5"', "id == 'k7'",
)  # fmt: skip
"""For layouts whose keys are texts: the made-up filters compare `id` with numbers, which is refused there."""


class Found(Struct, kw_only=True):
    """What became of filters at one engine; lists hold the filters at fault.

    `misread`: the engine finds other rows by the client's own text than by the same filter as we print it.
    `lost_alone`: texts at which the engine without tenantry ended.
    """

    filters: int = 0
    refused: int = 0
    compared: int = 0
    misread: int = 0
    engine_refused: int = 0
    lost_alone: int = 0
    leaks: list[str] = []
    differences: list[str] = []
    grammar_rejections: list[str] = []
    false_refusals: list[str] = []

    def add(self, other: "Found") -> None:
        """Add what another part found."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


def corpus() -> Iterator[tuple[frozenset[str], str, str]]:
    """Yield engines that refuse it, kind of the primary key, and text of each legitimate filter."""
    for line in LEGITIMATE.read_text().splitlines():
        if line and not line.startswith("#"):
            engines, key, text = line.split("\t", 2)
            yield frozenset(engines.split(",")), key, text


def run_corpus(engine: Engine, alone: Alone) -> Found:
    """Ask for each legitimate filter that fits the primary key; a refusal by tenantry is a false one."""
    wanted = ("any", "str") if engine.text_keys else ("any", "int")
    return _all(engine, alone, [text for _, key, text in corpus() if key in wanted], refusals=True)


def run(engine: Engine, alone: Alone, seed: int, count: int) -> Found:
    """Ask for `count` made-up filters, half of them hostile; some as a Search, all others as a Query."""
    half = count // 2
    texts = [*islice(legitimate(seed), half), *islice(hostile(seed, THEIRS), count - half)]
    if engine.text_keys:
        texts = [_about_keys(number, text) for number, text in enumerate(texts)]
    return _all(engine, alone, texts)


def _about_keys(number: int, text: str) -> str:
    """Join every fourth filter with one about keys that are texts."""
    key = KEY_FILTERS[number // 4 % len(KEY_FILTERS)]
    return (f"({text}) and {key}", f"{key} or ({text})")[number // 4 % 2] if number % 4 == 0 else text


def run_deletes(engine: Engine, seed: int, count: int) -> int:
    """Delete acme's scratch rows by made-up filters; return how many of globex's are lost or changed."""
    before = engine.theirs(SCRATCH)
    texts = [*islice(legitimate(seed + 1), count // 2), *islice(hostile(seed + 1, THEIRS), count // 2)]
    with ThreadPoolExecutor(THREADS) as pool:  # Milvus 2.3.5 takes a fifth of a second for one
        for _ in pool.map(partial(_delete, engine), range(len(texts)), texts):
            pass
    return len(set(before) ^ set(engine.theirs(SCRATCH)))


def _delete(engine: Engine, number: int, text: str) -> None:
    if number % REFILL_EVERY == 0:
        engine.insert(OURS, name=SCRATCH)
    try:
        engine.send("Delete", pb.DeleteRequest(collection_name=SCRATCH, expr=text))
    except grpc.RpcError as error:
        if refused(error) is None:
            raise


def _all(engine: Engine, alone: Alone, texts: list[str], *, refusals: bool = False) -> Found:
    found = Found()
    with ThreadPoolExecutor(THREADS) as pool:
        for number, part in enumerate(pool.map(partial(_one, engine, alone), range(len(texts)), texts)):
            if refusals and part.refused:
                part.false_refusals.append(texts[number])
            found.add(part)
            if number % 1000 == 999:
                print(f"{engine.kind} {engine.isolation}: {number + 1} of {len(texts)} filters", file=sys.stderr)
    return found


class _Kind(Struct, frozen=True):
    """A Query or a Search: its request, and how to read its answer."""

    method: str
    ask: Callable[..., Any]
    read: Callable[[bytes], list[Any] | None]


def _one(engine: Engine, alone: Alone, number: int, text: str) -> Found:
    found = Found(filters=1)
    kind = _Kind("Query", engine.query, engine.keys)
    if number % SEARCH_EVERY == 0:
        kind = _Kind("Search", engine.search, engine.found)
    try:
        answer = engine.send(kind.method, kind.ask(text))
    except grpc.RpcError as error:
        if withheld(error):
            found.leaks.append(text)
        elif refused(error) is None:
            raise
        found.refused = 1
        return found
    if foreign(answer, text.encode()) or len(kind.read(answer) or ()) > ROWS:
        found.leaks.append(text)
    if _is_filter(text):
        try:
            _compare(kind, alone, text, answer, found)
        except Lost:
            found.lost_alone = 1
    return found


def _compare(kind: _Kind, alone: Alone, text: str, answer: bytes, found: Found) -> None:
    """Compare what was found with what the client's own text finds on the tenant's rows alone."""
    ours = kind.read(answer)
    meant = alone.keys(kind.method, kind.ask(text, name=SOLO))
    if ours is None:
        found.engine_refused = 1
        if meant is not None and SYNTAX_ERROR.search(_reason(answer)):
            found.grammar_rejections.append(text)
    elif meant is not None:
        found.compared = 1
        if ours == meant:
            return
        # An engine may read the client's text wrongly (`3 == price`), and the same filter as we print it rightly.
        if alone.keys(kind.method, kind.ask(render(parse(text)), name=SOLO)) == ours:
            found.misread = 1
        else:
            found.differences.append(text)


def _is_filter(text: str) -> bool:
    """Return whether the client's own text is one that our grammar has: what others mean is for the engine alone."""
    try:
        parse(text)
    except RequestRefusedError:
        return False
    return True


def _reason(answer: bytes) -> str:
    results: Any = pb.QueryResults.FromString(answer)  # the status is field 1 of every answer
    reason: str = results.status.reason
    return reason
