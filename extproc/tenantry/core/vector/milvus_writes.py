"""Insert and Upsert: every row is stamped with its tenant, and goes to the tenant's partition.

What a client says of the tenant column is dropped. The dynamic field is JSON in which a row could name the tenant
again, or its primary key: milvus-lite 3.2.2 lets a member win over a column that stands before it. It is read and
written anew, so that its members are those that were looked at.
"""

import re
from collections.abc import Callable, Iterable

import msgspec

from tenantry.core.errors import BadRequestError
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.columns import columns_of
from tenantry.core.vector.milvus_rows import has_rows, take_prefix_of_ids, tenant_column
from tenantry.core.vector.milvus_scope import Scoped
from tenantry.core.vector.strictjson import MAX_INTEGER, MIN_INTEGER

DYNAMIC = "$meta"
MAX_COLUMNS = 1024
MAX_ROWS = 131_072
"""Of one request. A row may take one byte here, and gets a tenant of up to 65: ten million made 760 MB of 10."""

COLUMN = re.compile(r"\$meta|[A-Za-z_][A-Za-z0-9_]{0,254}")

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encode = msgspec.json.Encoder().encode
_whole: Callable[[bytes], object] = msgspec.json.Decoder().decode
_LONG = re.compile(rb"[0-9]{19}")


def scope_write(work: Scoped, request: pb.InsertRequest | pb.UpsertRequest) -> None:
    """Stamp the rows of an insert or upsert."""
    work.enter(request)
    place, rows = work.place, request.num_rows
    request.partition_name = work.layout.partition_to_write(request.partition_name)
    request.ClearField("hash_keys")  # the store's own, as in a delete
    _check_columns(work, request.fields_data, rows)
    if rows > MAX_ROWS:
        raise BadRequestError("too_many_rows", f"More than {MAX_ROWS} rows in one request.", param="num_rows")
    for index in reversed(range(len(request.fields_data))):
        if request.fields_data[index].field_name == place.tenant_field:
            del request.fields_data[index]
    for column in request.fields_data:
        column.ClearField("field_id")  # the store goes by names; an id would be a second way to say which column
        if column.field_name in ("", DYNAMIC):
            _rewrite_dynamic(work, column)
    if place.primary_field is not None:
        _prefix_keys(work, request.fields_data)
    work.columns = columns_of(request.fields_data)
    request.fields_data.append(tenant_column(place.tenant_field, work.layout.tenant, rows))


def check_write(work: Scoped, answer: pb.MutationResult) -> int:
    """Give primary keys back as the client wrote them; an answer to a write or delete holds no rows."""
    if work.place.primary_field is not None:
        take_prefix_of_ids(answer.ids, work.layout.key_prefix)
    return 0


def _check_columns(work: Scoped, columns: Iterable[pb.FieldData], rows: int) -> None:
    """Check that each column is there once and has `rows` rows.

    `num_rows` is the client's word: without this it decides how much memory the tenant column takes here.
    """
    seen: set[str] = set()
    for index, column in enumerate(columns):
        name = column.field_name or DYNAMIC
        if column.is_dynamic and name != DYNAMIC:
            # Milvus would take it for the dynamic field whatever its name, and so for a second one.
            raise BadRequestError(
                "invalid_column", f"fields_data[{index}] is dynamic, but not {DYNAMIC}.", param="fields_data"
            )
        if index >= MAX_COLUMNS:
            raise BadRequestError("too_many_columns", f"More than {MAX_COLUMNS} columns.", param="fields_data")
        if COLUMN.fullmatch(name) is None:
            raise BadRequestError(
                "invalid_column", f"fields_data[{index}] does not have the name of a field.", param="fields_data"
            )
        if name in seen:
            raise BadRequestError("duplicate_column", f"fields_data[{index}] is there twice.", param="fields_data")
        seen.add(name)
        if name != work.place.tenant_field:
            work.refuse_tenant_field(name, "fields_data")
        if not has_rows(column, rows):
            raise BadRequestError(
                "invalid_column", f"fields_data[{index}] does not have num_rows ({rows}) rows.", param="fields_data"
            )
    if not seen - {work.place.tenant_field}:
        raise BadRequestError("invalid_column", "There is no column.", param="fields_data")


def _rewrite_dynamic(work: Scoped, column: pb.FieldData) -> None:
    if column.scalars.WhichOneof("data") != "json_data":
        raise BadRequestError("invalid_column", "The dynamic field is not JSON.", param="fields_data")
    place = work.place
    reserved = {name.casefold() for name in (place.tenant_field, place.primary_field, DYNAMIC) if name is not None}
    values = column.scalars.json_data.data
    for row, value in enumerate(values):
        try:
            members = _members.decode(value or b"{}")
            values[row] = _encode(members)
            whole = _whole(values[row])  # Raw members were not checked
        except RecursionError:
            raise BadRequestError(
                "invalid_json", f"The dynamic field of row {row} is nested too deep.", param="fields_data"
            ) from None
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise BadRequestError(
                "invalid_json", f"The dynamic field of row {row} is not a JSON object.", param="fields_data"
            ) from None
        if _LONG.search(values[row]) is not None and not _fits(whole):
            raise BadRequestError("invalid_json", f"Row {row} has an integer beyond 64 bits.", param="fields_data")
        if any(name.casefold() in reserved for name in members):
            raise BadRequestError(
                "reserved_field", f"Row {row} has a member that is reserved: leave it out.", param="fields_data"
            )


def _fits(value: object) -> bool:
    """Return whether all integers are of 64 bits with a sign.

    One that is not, in a shared collection, failed the filters of all tenants on Milvus Lite 3.2.2.
    """
    rest = [value]
    while rest:
        one = rest.pop()
        if isinstance(one, dict):
            rest.extend(one.values())
        elif isinstance(one, list):
            rest.extend(one)
        elif isinstance(one, int) and not MIN_INTEGER <= one <= MAX_INTEGER:
            return False
    return True


def _prefix_keys(work: Scoped, columns: Iterable[pb.FieldData]) -> None:
    keys = [column for column in columns if column.field_name == work.place.primary_field]
    if len(keys) != 1 or keys[0].scalars.WhichOneof("data") != "string_data" or not all(keys[0].valid_data):
        raise BadRequestError(
            "invalid_primary_key",
            f'"{work.place.primary_field}" is the primary key: send it, as text, for each row.',
            param="fields_data",
        )
    data = keys[0].scalars.string_data.data
    data[:] = [work.layout.key_prefix + key for key in data]
