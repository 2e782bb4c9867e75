"""The data of the stand-in Pinecone: vectors in namespaces, metadata filters, and a journal of what was touched.

Written from Pinecone's documentation and for nothing but tests: exact search over a dictionary, all in memory. Its
reading of filters is its own and not tenantry's, so that a filter built wrongly does not pass by agreement.
"""

import base64
import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct, structs

MAX_JOURNAL = 10_000
PAGE = 100
_EMBEDDING = 8

Metadata = dict[str, Any]


class IndexError400(Exception):  # noqa: N818 - named for the status that it becomes
    """A request that Pinecone refuses as an invalid argument."""


class Row(Struct, frozen=True, kw_only=True):
    """A vector as it is stored. `sparse` maps places to values."""

    id: str
    values: tuple[float, ...] = ()
    sparse: dict[int, float] = {}
    metadata: Metadata = {}


class Entry(Struct, frozen=True, kw_only=True):
    """What one request did: the namespace that it named, and the ids of rows in it that it read, wrote or deleted."""

    number: int
    transport: str
    operation: str
    namespace: str
    ids: tuple[str, ...]
    api_key: str


class Index:
    """One index: rows by namespace and id."""

    def __init__(self) -> None:
        self.namespaces: dict[str, dict[str, Row]] = {}
        self.journal: deque[Entry] = deque(maxlen=MAX_JOURNAL)
        self._number = 0

    def note(self, transport: str, operation: str, namespace: str, ids: Sequence[str], api_key: str) -> None:
        """Write what a request did into the journal."""
        self._number += 1
        self.journal.append(
            Entry(
                number=self._number,
                transport=transport,
                operation=operation,
                namespace=plain(namespace),
                ids=tuple(ids),
                api_key=api_key,
            )
        )

    def rows(self, namespace: str) -> dict[str, Row]:
        """Return a namespace's rows to read; one that was never written to is empty."""
        return self.namespaces.get(plain(namespace), {})

    def upsert(self, namespace: str, rows: Sequence[Row]) -> None:
        """Write rows whole."""
        stored = self.namespaces.setdefault(plain(namespace), {})
        for row in rows:
            if not row.id:
                raise IndexError400("a vector has no id")
            stored[row.id] = row

    def query(
        self, namespace: str, top_k: int, wanted: Callable[[Metadata], bool], *, like: Row
    ) -> list[tuple[float, Row]]:
        """Return the rows most similar to one, best first."""
        if top_k < 1:
            raise IndexError400("topK must be at least 1")
        rows = self.rows(namespace)
        if like.id:
            if like.id not in rows:
                return []
            like = rows[like.id]
        found = [(_score(like, row), row) for row in rows.values() if wanted(row.metadata)]
        return sorted(found, key=lambda scored: (-scored[0], scored[1].id))[:top_k]

    def update(self, namespace: str, ids: Sequence[str], changes: Row, *, values: bool, sparse: bool) -> list[str]:
        """Change what is given of rows that exist; return the ids of those."""
        stored = self.rows(namespace)
        found = [one for one in ids if one in stored]
        for one in found:
            row = structs.replace(stored[one], metadata={**stored[one].metadata, **changes.metadata})
            row = structs.replace(row, values=changes.values) if values else row
            stored[one] = structs.replace(row, sparse=changes.sparse) if sparse else row
        return found

    def matching(self, namespace: str, wanted: Callable[[Metadata], bool]) -> list[str]:
        """Return the ids of the rows that a filter matches."""
        return sorted(one for one, row in self.rows(namespace).items() if wanted(row.metadata))

    def delete(self, namespace: str, ids: Sequence[str]) -> None:
        """Delete rows; a namespace without any is gone."""
        stored = self.rows(namespace)
        for one in ids:
            stored.pop(one, None)
        if not stored:
            self.namespaces.pop(plain(namespace), None)


def plain(namespace: str) -> str:
    """Return a namespace by its one name."""
    return "" if namespace == "__default__" else namespace


def page(ids: Sequence[str], token: str, limit: int) -> tuple[list[str], str]:
    """Return the ids after a token, and the token of the next page, "" at the end."""
    try:
        after = base64.urlsafe_b64decode(token).decode()
    except ValueError:
        raise IndexError400("invalid pagination token") from None
    rest = [one for one in sorted(ids) if one > after]
    chosen = rest[: limit or PAGE]
    return chosen, base64.urlsafe_b64encode(chosen[-1].encode()).decode() if len(chosen) < len(rest) else ""


def embedded(texts: Sequence[str]) -> tuple[float, ...]:
    """Return what stands for an embedding: equal for equal texts, and meaningless."""
    return tuple(byte / 255 - 0.5 for byte in hashlib.sha256("\n".join(texts).encode()).digest()[:_EMBEDDING])


def wanted(client: Mapping[str, Any] | None) -> Callable[[Metadata], bool]:
    """Return the test that a filter is; raise IndexError400 for an operator that Pinecone does not have."""
    if not client:
        return lambda _metadata: True
    tests = list(_tests(client))
    return lambda metadata: all(test(metadata) for test in tests)


def _tests(client: Mapping[str, Any]) -> Iterator[Callable[[Metadata], bool]]:
    for key, value in client.items():
        if key in ("$and", "$or"):
            parts = [wanted(part) for part in value]
            every = all if key == "$and" else any
            yield lambda metadata, parts=parts, every=every: every(part(metadata) for part in parts)  # type: ignore[misc]
        elif key.startswith("$"):
            raise IndexError400(f"unknown operator {key}")
        else:
            operators = value if isinstance(value, dict) else {"$eq": value}
            for operator, operand in operators.items():
                compare = _COMPARE.get(operator)
                if compare is None:
                    raise IndexError400(f"unknown operator {operator}")
                yield lambda metadata, key=key, compare=compare, operand=operand: compare(metadata.get(key), operand)  # type: ignore[misc]


def _equal(value: Any, operand: Any) -> bool:
    if isinstance(value, list):
        return operand in value
    return isinstance(value, bool) == isinstance(operand, bool) and bool(value == operand)


def _ordered(compare: Callable[[float, float], bool]) -> Callable[[Any, Any], bool]:
    return lambda value, operand: (
        isinstance(value, int | float) and not isinstance(value, bool) and compare(value, operand)
    )


_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "$eq": _equal,
    "$ne": lambda value, operand: not _equal(value, operand),
    "$gt": _ordered(lambda value, operand: value > operand),
    "$gte": _ordered(lambda value, operand: value >= operand),
    "$lt": _ordered(lambda value, operand: value < operand),
    "$lte": _ordered(lambda value, operand: value <= operand),
    "$in": lambda value, operand: any(_equal(value, one) for one in operand),
    "$nin": lambda value, operand: not any(_equal(value, one) for one in operand),
    "$exists": lambda value, operand: (value is not None) == operand,
}


def _score(one: Row, other: Row) -> float:
    """Cosine of the dense parts plus the product of the sparse ones."""
    size = math.hypot(*one.values) * math.hypot(*other.values)
    dense = sum(a * b for a, b in zip(one.values, other.values, strict=False)) / size if size else 0.0
    return dense + sum(value * other.sparse.get(place, 0.0) for place, value in one.sparse.items())
