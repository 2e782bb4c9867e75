"""Pinecone's metadata filters: read against the documented grammar, rebuilt, and joined with the tenant's.

    filter     {} of entries, all of which must hold
    entry      "$and" or "$or": [filter, ...]     |    FIELD: value     |    FIELD: {operator: operand, ...}
    operator   $eq $ne: string, number, boolean   $gt $gte $lt $lte: number   $in $nin: [value, ...]   $exists: boolean
               documents only, and only to read: $match_phrase $match_all $match_any: string

docs.pinecone.io, "Metadata filter expressions". What is not in this grammar is refused, not passed on, and so is the
tenant field: a filter that names it can only ask about other tenants. A filter is a tree, so joining it with the
tenant's by `$and` has no brackets to escape from, unlike a filter that is text.
"""

import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

from tenantry.core.errors import BadRequestError

MAX_DEPTH = 16
"""Filters within filters."""

MAX_PARTS = 12_000
"""Entries, operators and values in all: Pinecone takes 10,000 values in one `$in`."""

TENANT_FIELD_REFUSED = "the tenant field is set by the gateway, and cannot be named"

_SCALARS = (str, bool, int, float)
_NUMBERS = (int, float)


def guarded(client: object, *, field: str, tenant: str, text_match: bool = False) -> dict[str, Any]:
    """Return the filter that matches the tenant's own rows, and of these what the client's filter matches.

    `client` None or {} is no filter. Raises BadRequestError("invalid_filter") for what is not in the grammar.
    """
    guard = {field: {"$eq": tenant}}
    if client is None or client == {}:
        return guard
    return {"$and": [guard, rebuilt(client, field=field, text_match=text_match)]}


def rebuilt(client: object, *, field: str, text_match: bool = False) -> dict[str, Any]:
    """Return a client's filter rebuilt from what was understood of it."""
    operators = {**_OPERATORS, **_TEXT_OPERATORS} if text_match else _OPERATORS
    return _Reader(field, operators).filter(client, "filter", 1)


def resembles(name: str, field: str) -> bool:
    """Return whether a name is the tenant field, or one that a reader might take for it (`Tenant_ID`, `tenant-id `)."""
    return name == field or _plain(name) == _plain(field)


def _plain(name: str) -> str:
    plain = name if name.isascii() else unicodedata.normalize("NFKC", name)
    return plain.strip().casefold().replace("-", "_")


class _Reader:
    """One reading of one filter; counts its parts."""

    def __init__(self, field: str, operators: Mapping[str, Callable[[Any], bool]]) -> None:
        self._field = field
        self._operators = operators
        self._parts = 0

    def filter(self, value: object, path: str, depth: int) -> dict[str, Any]:
        if not isinstance(value, dict) or not value:
            raise _invalid(path, "must be an object with at least one condition")
        if depth > MAX_DEPTH:
            raise _invalid("filter", f"is nested more than {MAX_DEPTH} deep")
        self._count(len(value))
        entries: dict[str, Any] = {}
        for place, (key, member) in enumerate(value.items(), 1):
            if key in ("$and", "$or"):
                entries[key] = self._filters(member, f"{path}.{key}", depth)
            elif key.startswith("$"):
                raise _invalid(f"{path}, entry {place},", "is an operator that is not known here")
            elif not key or resembles(key, self._field):
                raise _invalid(f"{path}, entry {place}:", TENANT_FIELD_REFUSED if key else "names no field")
            else:
                entries[key] = self._condition(member, f"{path}, entry {place},")
        return entries

    def _filters(self, value: object, path: str, depth: int) -> list[Any]:
        if not isinstance(value, list) or not value:
            raise _invalid(path, "must be an array of at least one filter")
        return [self.filter(member, f"{path}[{index}]", depth + 1) for index, member in enumerate(value)]

    def _condition(self, value: object, path: str) -> Any:
        if type(value) in _SCALARS:
            return value
        if not isinstance(value, dict) or not value:
            raise _invalid(path, "must be a string, number or boolean, or an object of operators")
        self._count(len(value))
        operands = {}
        for operator, operand in value.items():
            fits = self._operators.get(operator)
            if fits is None:
                raise _invalid(path, f"uses an operator other than {', '.join(self._operators)}")
            if isinstance(operand, list):
                self._count(len(operand))
            if not fits(operand):
                raise _invalid(path, f"has an operand of {operator} that does not fit it")
            operands[operator] = operand
        return operands

    def _count(self, parts: int) -> None:
        self._parts += parts
        if self._parts > MAX_PARTS:
            raise _invalid("filter", f"has more than {MAX_PARTS} parts")


def _scalar(operand: Any) -> bool:
    return type(operand) in _SCALARS


def _number(operand: Any) -> bool:
    return type(operand) in _NUMBERS


def _scalars(operand: Any) -> bool:
    return isinstance(operand, list) and all(type(value) in _SCALARS for value in operand)


def _boolean(operand: Any) -> bool:
    return type(operand) is bool


def _text(operand: Any) -> bool:
    return type(operand) is str


_OPERATORS: Mapping[str, Callable[[Any], bool]] = {
    "$eq": _scalar,
    "$ne": _scalar,
    "$gt": _number,
    "$gte": _number,
    "$lt": _number,
    "$lte": _number,
    "$in": _scalars,
    "$nin": _scalars,
    "$exists": _boolean,
}
_TEXT_OPERATORS: Mapping[str, Callable[[Any], bool]] = {
    "$match_phrase": _text,
    "$match_all": _text,
    "$match_any": _text,
}


def _invalid(path: str, problem: str) -> BadRequestError:
    return BadRequestError("invalid_filter", f"{path} {problem}.", param="filter")
