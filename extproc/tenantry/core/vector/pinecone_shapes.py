"""The parts that Pinecone's JSON bodies are made of: checked on the way there, picked out on the way back.

Requests: each function takes a member and its path and returns it rebuilt, as `strictjson.require` wants it. Responses:
`pick` takes the members that are known and drops all others, so that what a later Pinecone adds is not let through
before somebody decides about it.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw

from tenantry.core.errors import BadRequestError
from tenantry.core.vector.calls import StoreResponse, UnreadableResponseError, Verified
from tenantry.core.vector.pinecone_scope import MAX_ID_CHARACTERS, MAX_IDS, MAX_TOKEN_CHARACTERS, MAX_TOP_K
from tenantry.core.vector.strictjson import dumps, expect, loads_response, require

MAX_ERROR_CHARACTERS = 1_000
_Index = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Pick = Callable[[Any], Any]

JSON_CONTENT = (("content-type", "application/json"),)


def numbers(value: Any, path: str) -> Any:
    """Return a vector; one that was kept as text stays so."""
    return value if type(value) is Raw else _converted(value, list[float], path, "an array of numbers")


def indices(value: Any, path: str) -> Any:
    """Return the places of a sparse vector's values."""
    return _converted(value, list[_Index], path, "an array of integers from 0 to 4294967295")


def names(value: Any, path: str) -> list[str]:
    """Return an array of strings."""
    found: list[str] = _converted(value, list[str], path, "an array of strings")
    return found


def ids(value: Any, path: str) -> list[str]:
    """Return the ids that a request names, each once or more, at least one."""
    found = names(value, path)
    if not 1 <= len(found) <= MAX_IDS:
        raise BadRequestError("invalid_body", f"{path} must name 1 to {MAX_IDS} rows.", param=path)
    return [row_id(one, path) for one in found]


def row_id(value: Any, path: str) -> str:
    """Return the id of a row."""
    found: str = expect(value, path, str)
    if not 1 <= len(found) <= MAX_ID_CHARACTERS:
        raise BadRequestError("invalid_body", f"{path} must have 1 to {MAX_ID_CHARACTERS} characters.", param=path)
    return found


def sparse(value: Any, path: str) -> dict[str, Any]:
    """Return a sparse vector."""
    return require(value, path, {"indices": indices, "values": numbers})


def metadata(value: Any, path: str) -> dict[str, Any]:
    """Return metadata as the client wrote it."""
    found: dict[str, Any] = expect(value, path, dict)
    return found


def page_token(value: Any, path: str) -> str:
    """Return a pagination token, which is Pinecone's own."""
    found: str = expect(value, path, str)
    if len(found) > MAX_TOKEN_CHARACTERS:
        raise BadRequestError("invalid_body", f"{path} has more than {MAX_TOKEN_CHARACTERS} characters.", param=path)
    return found


def count_to(most: int) -> Callable[[Any, str], int]:
    """Return a check for an integer from 1 to `most`."""

    def check(value: Any, path: str) -> int:
        # JavaScript and protobuf write 3.0 for 3.
        found = int(value) if type(value) is float and value.is_integer() else expect(value, path, int)
        if not 1 <= found <= most:
            raise BadRequestError("invalid_body", f"{path} must be from 1 to {most}.", param=path)
        return found

    return check


top_k = count_to(MAX_TOP_K)


def rows(row: Callable[[Any, str], dict[str, Any]], most: int) -> Callable[[Any, str], list[dict[str, Any]]]:
    """Return a check for an array of 1 to `most` rows."""

    def check(value: Any, path: str) -> list[dict[str, Any]]:
        found: list[Any] = expect(value, path, list)
        if not 1 <= len(found) <= most:
            raise BadRequestError("invalid_body", f"{path} must have 1 to {most} members.", param=path)
        return [row(one, f"{path}[{index}]") for index, one in enumerate(found)]

    return check


def exactly_one(body: Mapping[str, Any], *members: str) -> None:
    """Refuse a body that has none, or several, of these: what the store does with them is not ours to guess."""
    if sum(name in body for name in members) != 1:
        raise BadRequestError("invalid_body", f"Give exactly one of {', '.join(members)}.")


def pick(value: Any, known: Mapping[str, Pick]) -> dict[str, Any]:
    """Return an object's known members, each picked in turn; raise UnreadableResponseError for what is no object."""
    if not isinstance(value, dict):
        raise UnreadableResponseError("an object is not one")
    # Written in our order, so that a member means the same wherever the store put it.
    return {name: take(value[name]) for name, take in known.items() if value.get(name) is not None}


def pick_list(take: Pick) -> Pick:
    """Return a pick for each member of an array."""

    def each(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise UnreadableResponseError("an array is not one")
        return [take(one) for one in value]

    return each


def pick_map(take: Pick) -> Pick:
    """Return a pick for each value of an object whose keys are ids."""

    def each(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise UnreadableResponseError("an object is not one")
        return {key: take(one) for key, one in value.items()}

    return each


def text(value: Any) -> str:
    """Pick a string."""
    if type(value) is not str:
        raise UnreadableResponseError("a string is not one")
    return value


def number(value: Any) -> int | float:
    """Pick a number."""
    if type(value) is not int and type(value) is not float:
        raise UnreadableResponseError("a number is not one")
    return value


def vector(value: Any) -> Any:
    """Pick a vector."""
    try:
        return msgspec.convert(value, list[float])
    except msgspec.ValidationError:
        raise UnreadableResponseError("a vector is not an array of numbers") from None


def sparse_vector(value: Any) -> dict[str, Any]:
    """Pick a sparse vector."""
    return pick(value, {"indices": vector_of_indices, "values": vector})


def vector_of_indices(value: Any) -> Any:
    """Pick the places of a sparse vector's values."""
    try:
        return msgspec.convert(value, list[_Index])
    except msgspec.ValidationError:
        raise UnreadableResponseError("indices are not an array of integers") from None


def usage(value: Any) -> dict[str, Any]:
    """Pick what a call cost, in both of Pinecone's spellings."""
    return pick(value, dict.fromkeys(_USAGE, number))


_USAGE = ("readUnits", "writeUnits", "egressBytes", "read_units", "embed_total_tokens", "rerank_units", "egress_bytes")


def pagination(value: Any) -> dict[str, Any]:
    """Pick the token of the next page."""
    return pick(value, {"next": text})


def refusal(response: StoreResponse) -> Verified:
    """Return what the client is told when the store refused: its code and its sentence, nothing else."""
    try:
        found = loads_response(response.body)
    except UnreadableResponseError:
        found = {}
    nested = found.get("error")
    source = nested if isinstance(nested, dict) else found
    message = source.get("message")
    code = source.get("code")
    told: dict[str, Any] = {
        "code": code if type(code) in (int, str) else 2,
        "message": message[:MAX_ERROR_CHARACTERS] if type(message) is str else "The store refused the request.",
        "details": [],
    }
    # Pinecone nests an error under "error", with "status", in its newer APIs.
    body = {"error": told, "status": response.status} if source is nested else told
    return Verified(body=dumps(body), headers=JSON_CONTENT)


def _converted(value: Any, kind: Any, path: str, right: str) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        raise BadRequestError("invalid_body", f"{path} must be {right}.", param=path) from None
