"""Filters by the hundred thousand through the grammar, against an oracle: no process but this one.

Two tenants' rows in a small table. A filter of tenant `acme` that is let through has to select, behind the guard, just
those rows of acme's that it selects by itself; the rewritten text is read again as an engine would read it.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice

from msgspec import Struct
from tenantry.core.errors import RequestRefusedError
from tenantry.core.vector.expr import parse, scoped

from bench.vector_expressions import hostile, legitimate
from bench.vector_oracle import Row, evaluate

FIELD, OURS, THEIRS = "tenant_id", "acme", "globex"
Scope = Callable[[str], str]


def rows() -> tuple[Row, ...]:
    """Return a table in which each row of one tenant has its like at the other."""
    return tuple(
        {
            "id": number, "tenant_id": tenant, "price": number * 1.5, "category": "abc"[number % 3],
            "text": ("red shoes", "it's", "blue shoes", "")[number % 4], "tags": ["x", "y"][: number % 3],
            "meta": {"a": number, "b": {"c": "x"}, "list": [1, number]}, "$meta": {"color": "red", "size": number},
        }
        for number in range(8)
        for tenant in (OURS, THEIRS)
    )  # fmt: skip


class Tally(Struct, kw_only=True):
    """What became of some filters. Lists hold the filters at fault; `unreadable`: we would not read what we print."""

    filters: int = 0
    passed: int = 0
    leaks: list[str] = []
    differences: list[str] = []
    unreadable: list[str] = []

    def add(self, other: "Tally") -> None:
        """Add another tally to this one."""
        self.filters += other.filters
        self.passed += other.passed
        self.leaks += other.leaks
        self.differences += other.differences
        self.unreadable += other.unreadable


def guarded(text: str) -> str:
    """Return the filter as tenantry sends it."""
    return scoped(text, field=FIELD, tenant=OURS)


def judge(texts: Iterator[str], scope: Scope = guarded) -> Tally:
    """Put each filter into scope, and ask the oracle which rows it selects."""
    table, tally = rows(), Tally()
    for text in texts:
        tally.filters += 1
        try:
            sent = scope(text)
        except RequestRefusedError:
            continue
        tally.passed += 1
        try:
            read = parse(sent)
        except RequestRefusedError:
            tally.unreadable.append(text)
            continue
        selected = [row for row in table if evaluate(read, row) is True]
        if any(row[FIELD] != OURS for row in selected):
            tally.leaks.append(text)
        elif selected != _meant(text, table):
            tally.differences.append(text)
    return tally


def _meant(text: str, table: tuple[Row, ...]) -> list[Row] | None:
    """Return the tenant's rows that its filter selects by itself, None for text that should not have been passed."""
    try:
        client = parse(text) if text.strip(" \t\r\n") else None
    except RequestRefusedError:
        return None
    return [row for row in table if row[FIELD] == OURS and (client is None or evaluate(client, row) is True)]


def _part(seed: int, count: int) -> Tally:
    tally = judge(islice(legitimate(seed), count // 2))
    tally.add(judge(islice(hostile(seed, THEIRS), count - count // 2)))
    return tally


def run(seed: int, count: int, processes: int = 2, parts: int = 50) -> Tally:
    """Judge `count` filters made from `seed`, half of them legitimate."""
    total = Tally()
    with ProcessPoolExecutor(processes) as pool:
        for tally in pool.map(_part, range(seed, seed + parts), [count // parts] * parts):
            total.add(tally)
    return total
