"""Filters by the thousand against a real engine, with two oracles.

The engine's own parser has to take what ours prints: in Milvus 2.3.5 that is Milvus's ANTLR grammar. And a filter that
tenantry rewrote, on the collection that tenants share, has to find what the client's own filter finds on a collection
that holds the tenant's rows alone.
"""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
from msgspec import Struct
from tenantry.core.errors import RequestRefusedError
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.expr import parse, render

from bench.attack_store import ROWS, SCRATCH, SOLO, THEIRS, Engine, refused
from bench.vector_expressions import hostile, legitimate

LEGITIMATE = Path(__file__).resolve().parent.parent / "tests" / "data" / "legitimate_filters.txt"
THREADS = 4
DELETE_EVERY = 25


class Found(Struct, kw_only=True):
    """What became of filters at one engine; lists hold the filters at fault.

    `misread`: the engine finds other rows by the client's own text than by the same filter as we print it.
    """

    filters: int = 0
    refused: int = 0
    compared: int = 0
    misread: int = 0
    engine_refused: int = 0
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


def run_corpus(engine: Engine) -> Found:
    """Ask for each legitimate filter that fits the primary key."""
    wanted = ("any", "str") if engine.text_keys else ("any", "int")
    return _all(engine, [text for _, key, text in corpus() if key in wanted], legitimate_ones=True)


def run(engine: Engine, seed: int, count: int) -> Found:
    """Ask for `count` made-up filters, and delete by some of them on rows of their own."""
    half = count // 2
    found = _all(engine, list(islice(legitimate(seed), half)))
    found.add(_all(engine, list(islice(hostile(seed, THEIRS), count - half))))
    return found


def run_deletes(engine: Engine, seed: int, count: int) -> int:
    """Delete acme's scratch rows by made-up filters; return how many of globex's are lost."""
    before = engine.theirs(SCRATCH)
    texts = [*islice(legitimate(seed + 1), count // 2), *islice(hostile(seed + 1, THEIRS), count // 2)]
    for number, text in enumerate(texts):
        try:
            engine.send("Delete", pb.DeleteRequest(collection_name=SCRATCH, expr=text))
        except grpc.RpcError as error:
            if refused(error) is None:
                raise
        if number % DELETE_EVERY == 0:
            engine.insert("acme", name=SCRATCH)
    return len(set(before) - set(engine.theirs(SCRATCH)))


def _all(engine: Engine, texts: list[str], *, legitimate_ones: bool = False) -> Found:
    found = Found()
    with ThreadPoolExecutor(THREADS) as pool:
        for number, part in enumerate(pool.map(lambda text: _one(engine, text, legitimate_ones), texts)):
            found.add(part)
            if number % 1000 == 999:
                print(f"{engine.kind} {engine.isolation}: {number + 1} of {len(texts)} filters", file=sys.stderr)
    return found


def _one(engine: Engine, text: str, legitimate_one: bool) -> Found:  # noqa: FBT001  # a private helper of _all
    found = Found(filters=1)
    try:
        answer = engine.send("Query", engine.query(text))
    except grpc.RpcError as error:
        if refused(error) is None:
            raise
        found.refused = 1
        if legitimate_one:
            found.false_refusals.append(text)
        return found
    if THEIRS.encode() in answer or len(engine.keys(answer) or []) > ROWS:
        found.leaks.append(text)
    if _is_filter(text):
        _compare(engine, text, answer, found)
    return found


def _compare(engine: Engine, text: str, answer: bytes, found: Found) -> None:
    """Compare what was found with what the client's own filter finds on the tenant's rows alone."""
    ours = engine.keys(answer)
    # Milvus Lite 2.5.1 ends itself on some filters (`3 in [1]`): raw ones are for the others.
    alone = render(parse(text)) if engine.kind == "lite25" else text
    meant = engine.keys(engine.send("Query", engine.query(alone, name=SOLO), None))
    if ours is None:
        found.engine_refused = 1
        if meant is not None and "cannot parse expression" in _reason(answer):
            found.grammar_rejections.append(text)
    elif meant is not None:
        found.compared = 1
        if ours != meant:
            # An engine may read the client's text wrongly, and the same filter as we print it rightly.
            printed = engine.send("Query", engine.query(render(parse(text)), name=SOLO), None)
            if engine.keys(printed) == ours:
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
    results: Any = pb.QueryResults.FromString(answer)
    reason: str = results.status.reason
    return reason
