"""Insert and upsert over REST: every row is stamped with its tenant, and goes to the tenant's partition.

What a client says of the tenant field is overwritten. A key that differs from it in case alone is refused, and so is
one that begins with `$`: Milvus keeps the dynamic field under such a name. `partialUpdate` and `fieldOps` (2.6), which
leave the rest of a row as somebody else may have written it, are not let through.
"""

from typing import Any

from tenantry.core.errors import BadRequestError
from tenantry.core.vector.calls import UnreadableResponseError
from tenantry.core.vector.milvus_rest_scope import COLLECTION, Members, RestScope, partition_name
from tenantry.core.vector.milvus_rows import take_prefix
from tenantry.core.vector.strictjson import expect

MAX_COLUMNS = 1024


def _rows(value: Any, path: str) -> list[Members]:
    found = expect(value, path, list)
    if not found:
        raise BadRequestError("invalid_body", f"{path} has no row.", param=path)
    for place, row in enumerate(found):
        if len(expect(row, f"{path}[{place}]", dict)) > MAX_COLUMNS:
            raise BadRequestError("too_many_columns", f"{path}[{place}] has over {MAX_COLUMNS} members.", param=path)
    return found  # type: ignore[no-any-return]  # a list of dictionaries, as was just seen


WRITE: dict[str, Any] = COLLECTION | {"partitionName": partition_name, "data": _rows}


def scope_write(work: RestScope, members: Members) -> Members:
    """Stamp the rows of an insert or upsert."""
    if "data" not in members:
        raise BadRequestError("invalid_body", "data is missing.", param="data")
    return (
        work.enter(members)
        | work.partition_to_write(members)
        | {"data": [_stamped(work, row, f"data[{place}]") for place, row in enumerate(members["data"])]}
    )


def _stamped(work: RestScope, row: Members, path: str) -> Members:
    place = work.place
    stamped = {}
    for name, value in row.items():
        if name.startswith("$"):
            raise BadRequestError("reserved_field", f"A key of {path} begins with $.", param=path)
        if name != place.tenant_field:
            work.refuse_tenant_field(name, path)
            stamped[name] = value
    if (primary := place.primary_field) is not None:
        key = stamped.get(primary)
        if not isinstance(key, str):
            raise BadRequestError(
                "invalid_primary_key", f'"{primary}" is the primary key: send it, as text, in {path}.', param=path
            )
        stamped[primary] = work.layout.key_prefix + key
    return stamped | {place.tenant_field: work.layout.tenant}


def check_write(work: RestScope, data: Any) -> tuple[Members, int]:
    """Return how many rows were written, and their primary keys as the client wrote them."""
    if not isinstance(data, dict):
        raise UnreadableResponseError("an answer to a write that is no object")
    shown: Members = {}
    for name in ("insertCount", "upsertCount", "deleteCount"):
        if name in data:
            if type(data[name]) is not int:
                raise UnreadableResponseError("a count that is no integer")
            shown[name] = data[name]
    for name in ("insertIds", "upsertIds"):
        if data.get(name) is not None:
            shown[name] = _keys(work, data[name])
    return shown, 0


def _keys(work: RestScope, keys: Any) -> list[int | str]:
    if not isinstance(keys, list) or not all(type(key) in (int, str) for key in keys):
        raise UnreadableResponseError("primary keys that are neither integers nor strings")
    if work.place.primary_field is None:
        return keys
    if not all(isinstance(key, str) for key in keys):
        raise UnreadableResponseError("primary keys that are not strings")
    return list(take_prefix(keys, work.layout.key_prefix))
