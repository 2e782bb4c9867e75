"""Search, HybridSearch and Query in the tenant's scope.

Each gets the guarded filter, the tenant's partitions and database, and the tenant column among its output fields.
Parameters are taken from lists of what was reviewed: Milvus reads some of them as other requests (a grouping, an
aggregation, another collection by its id).
"""

import re
from collections.abc import Mapping, MutableSequence
from typing import Any

import msgspec

from tenantry.core.errors import BadRequestError
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.calls import UnreadableResponseError
from tenantry.core.vector.expr import KeyRewrite, TemplateValue, scoped
from tenantry.core.vector.milvus_rows import (
    COUNT,
    length,
    take_prefix_of_column,
    take_prefix_of_ids,
    take_tenant_column,
)
from tenantry.core.vector.milvus_scope import Scoped
from tenantry.core.vector.milvus_wire import MAX_PARAMETERS, MAX_VALUE_CHARACTERS, parse

BOOL_EXPR_V1 = 1
"""`DslType` of a filter in the expression language (common.proto); 0 is a JSON language that Milvus 1 had."""

MAX_OUTPUT_FIELDS = 1024
MAX_SUB_SEARCHES = 1024
MAX_FILTERS_CHARACTERS = 2 * 4 * 65_536
"""Of all filters of a hybrid search, as sent and as printed: 10 MiB of them took 6 s."""

MAX_ROWS = 16_384
"""Milvus's bound of rows to find and to skip (quotaAndLimits.limits.topK)."""

_COUNTS = frozenset({"topk", "limit", "offset", "group_size", "search_iter_batch_size"})
"""Parameters that count rows. Milvus Lite 2.5.1 ends at -1, 3.2.2 makes room for as many as are asked for."""

_COUNT = re.compile(r"[0-9]{1,5}")
FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
OUTPUT_FIELD = re.compile(r"\*|\$meta|[A-Za-z_][A-Za-z0-9_]{0,254}")

SEARCH_PARAMETERS = frozenset(
    {
        "anns_field",
        "topk",
        "limit",
        "offset",
        "params",
        "metric_type",
        "round_decimal",
        "ignore_growing",
        "group_by_field",
        "group_size",
        "strict_group_size",
        "iterator",
        "search_iter_v2",
        "search_iter_batch_size",
        "search_iter_last_bound",
        "search_iter_id",
        "collection_id",
        "radius",
        "range_filter",
        "analyzer_name",
        "rank_group_scorer",
    }
)
QUERY_PARAMETERS = frozenset({"limit", "offset", "iterator", "collection_id", "reduce_stop_for_best", "ignore_growing"})
RANK_PARAMETERS = frozenset(
    {
        "strategy",
        "params",
        "limit",
        "offset",
        "round_decimal",
        "group_by_field",
        "group_size",
        "strict_group_size",
        "rank_group_scorer",
    }
)

INDEX_PARAMETERS = frozenset(
    {
        "nprobe",
        "ef",
        "search_k",
        "search_list",
        "reorder_k",
        "refine_k",
        "level",
        "radius",
        "range_filter",
        "drop_ratio_search",
        "dim_max_score_ratio",
        "max_empty_result_buckets",
        "itopk_size",
        "search_width",
        "min_iterations",
        "max_iterations",
        "team_size",
        "with_raw_data",
        "page_retain_order",
        "hints",
        "metric_type",
        "k",
        "weights",
        "norm_score",
        "mh_search_with_jaccard",
        "mh_lsh_band",
    }
)
"""Members of the JSON in `params`: how an index searches and how a ranker weighs. None of them selects rows."""

_ENCODER = msgspec.json.Encoder()
_JSON = msgspec.json.Decoder(dict[str, bool | int | float | str | list[float] | None])


def scope_search(work: Scoped, request: pb.SearchRequest) -> None:
    """Put a search into the tenant's scope."""
    work.enter(request)
    _output_fields(work, request.output_fields, counts=False)
    _search(work, request)


def _search(work: Scoped, request: pb.SearchRequest) -> None:
    if request.dsl_type != BOOL_EXPR_V1:
        raise BadRequestError("field_not_allowed", "SearchRequest.dsl_type is not BoolExprV1, which alone is allowed.")
    group = parse(pb.PlaceholderGroup, request.placeholder_group)
    if request.nq not in (0, sum(len(part.values) for part in group.placeholders)):
        # Milvus 2.3.5 ends at one below 0.
        raise BadRequestError("invalid_parameter", "nq is not how many vectors there are.", param="nq")
    request.placeholder_group = group.SerializeToString()
    request.dsl = _guarded(work, request.dsl, request.expr_template_values)
    request.partition_names[:] = work.layout.partitions(list(request.partition_names))
    request.ClearField("expr_template_values")
    _parameters(work, request.search_params, SEARCH_PARAMETERS, "search_params")


def scope_hybrid_search(work: Scoped, request: pb.HybridSearchRequest) -> None:
    """Put a hybrid search into the tenant's scope: the whole and every search in it."""
    work.enter(request)
    _output_fields(work, request.output_fields, counts=False)
    if len(request.requests) > MAX_SUB_SEARCHES:
        raise BadRequestError("too_many_searches", f"More than {MAX_SUB_SEARCHES} searches in one request.")
    name = work.place.name
    characters = 0
    for part in request.requests:
        if part.collection_name not in ("", name):
            raise BadRequestError("field_not_allowed", "A search inside a hybrid search names another collection.")
        part.collection_name = name
        part.ClearField("output_fields")  # those of the whole count
        work.enter(part)
        characters += len(part.dsl)
        _search(work, part)
        characters += len(part.dsl)
        check_filters(characters)
    request.partition_names[:] = work.layout.partitions(list(request.partition_names))
    _parameters(work, request.rank_params, RANK_PARAMETERS, "rank_params")


def check_filters(characters: int) -> None:
    """Refuse sub-searches whose filters take too long to read; `characters` are of those as sent and as printed."""
    if characters > MAX_FILTERS_CHARACTERS:
        raise BadRequestError(
            "invalid_filter",
            f"The filters of one hybrid search have over {MAX_FILTERS_CHARACTERS // 2} characters in all.",
            param="filter",
        )


def scope_query(work: Scoped, request: pb.QueryRequest) -> None:
    """Put a query into the tenant's scope."""
    work.enter(request)
    _output_fields(work, request.output_fields, counts=True)
    request.expr = _guarded(work, request.expr, request.expr_template_values)
    request.partition_names[:] = work.layout.partitions(list(request.partition_names))
    request.ClearField("expr_template_values")
    _parameters(work, request.query_params, QUERY_PARAMETERS, "query_params")


def scope_delete(work: Scoped, request: pb.DeleteRequest) -> None:
    """Put a delete into the tenant's scope. `hash_keys` are the store's own: it computes them when they are absent.

    Milvus refuses a delete without a filter; with the guard alone it would delete all that the tenant has.
    """
    work.enter(request)
    if not request.expr.strip():
        raise BadRequestError("invalid_filter", "A delete needs a filter.", param="filter")
    request.expr = _guarded(work, request.expr, request.expr_template_values)
    request.partition_name = work.layout.partition_to_write(request.partition_name)
    request.ClearField("expr_template_values")
    request.ClearField("hash_keys")


def check_search(work: Scoped, answer: pb.SearchResults) -> int:
    """Verify a search's rows, take out what the client did not ask for; return how many rows there were."""
    results, place = answer.results, work.place
    keys = results.ids.WhichOneof("id_field")
    rows = len(getattr(results.ids, keys).data) if keys else 0
    if sum(results.topks) != rows or max(len(results.scores), len(results.distances), len(results.recalls)) > rows:
        raise UnreadableResponseError("as many hits as there are primary keys were not found")
    kept = take_tenant_column(results.fields_data, place.tenant_field, work.layout.tenant, rows)
    _replace(results.fields_data, kept, work)
    if results.HasField("group_by_field_value"):
        _check_group(work, results, rows)
    if place.primary_field is not None:
        take_prefix_of_ids(results.ids, work.layout.key_prefix)
    if not work.layout.own:
        results.ClearField("all_search_count")  # how many rows were searched, of all tenants
    _forget(results.output_fields, place.tenant_field)
    answer.collection_name = work.place.name
    return rows


def _check_group(work: Scoped, results: pb.SearchResultData, rows: int) -> None:
    """Check the values that rows were grouped by: they are a column as any other."""
    group, place = results.group_by_field_value, work.place
    if group.field_name == place.tenant_field:
        results.ClearField("group_by_field_value")
        return
    values = length(group)
    if values is None or values > rows:
        raise UnreadableResponseError("more groups than rows")
    if place.primary_field is not None and group.field_name == place.primary_field:
        take_prefix_of_column(group, work.layout.key_prefix)


def check_query(work: Scoped, answer: pb.QueryResults) -> int:
    """Verify a query's rows, take out what the client did not ask for; return how many rows there were."""
    place = work.place
    answer.collection_name = work.place.name
    if work.counts:
        _check_count(answer)
        return 0
    rows = max(
        (
            len(column.scalars.string_data.data)
            for column in answer.fields_data
            if column.field_name == place.tenant_field
        ),
        default=0,
    )
    kept = take_tenant_column(answer.fields_data, place.tenant_field, work.layout.tenant, rows)
    _replace(answer.fields_data, kept, work)
    _forget(answer.output_fields, place.tenant_field)
    return rows


def _check_count(answer: pb.QueryResults) -> None:
    columns = answer.fields_data
    if len(columns) > 1 or any(column.field_name != COUNT or length(column) != 1 for column in columns):
        raise UnreadableResponseError("a count that is not one number")


def _replace(columns: Any, kept: list[pb.FieldData], work: Scoped) -> None:
    """Make `columns` those that were kept, with primary keys as the client wrote them."""
    primary = work.place.primary_field
    if primary is not None:
        for column in kept:
            if column.field_name == primary:
                take_prefix_of_column(column, work.layout.key_prefix)
    if len(kept) != len(columns):
        for index in reversed(range(len(columns))):
            if columns[index].field_name == work.place.tenant_field:
                del columns[index]


def _forget(names: MutableSequence[str], field: str) -> None:
    while field in names:
        names.remove(field)


def _output_fields(work: Scoped, names: MutableSequence[str], *, counts: bool) -> None:
    """Ask for the tenant column besides what the client asked for."""
    if len(names) > MAX_OUTPUT_FIELDS:
        raise BadRequestError("too_many_fields", f"More than {MAX_OUTPUT_FIELDS} output fields.", param="output_fields")
    if counts and list(names) == [COUNT]:
        work.counts = True
        return
    for name in names:
        if OUTPUT_FIELD.fullmatch(name) is None:
            raise BadRequestError(
                "invalid_output_field",
                f"An output field is the name of a field, or *; {COUNT} stands alone in a query, other aggregates "
                "are not allowed.",
                param="output_fields",
            )
        work.refuse_tenant_field(name, "output_fields")
    names.append(work.place.tenant_field)


def _guarded(work: Scoped, text: str, templates: Mapping[str, pb.TemplateValue]) -> str:
    place = work.place
    return scoped(
        text,
        field=place.tenant_field,
        tenant=work.layout.tenant,
        templates={name: _value(value) for name, value in templates.items()} if templates else {},
        keys=KeyRewrite(field=place.primary_field, prefix=work.layout.key_prefix)
        if place.primary_field is not None
        else None,
    )


def _value(value: pb.TemplateValue) -> TemplateValue:
    kind = value.WhichOneof("val")
    if kind == "array_val":
        inner = value.array_val.WhichOneof("data")
        return tuple(getattr(value.array_val, inner).data) if inner else ()
    if kind is None:
        raise BadRequestError("invalid_template", "A value for a name in the filter is empty.", param="filter")
    found: bool | int | float | str = getattr(value, kind)
    return found


def _parameters(work: Scoped, pairs: MutableSequence[pb.KeyValuePair], allowed: frozenset[str], param: str) -> None:
    """Check parameters against those that were reviewed, each of them once."""
    if len(pairs) > MAX_PARAMETERS:
        raise BadRequestError("too_many_parameters", f"More than {MAX_PARAMETERS} of {param}.", param=param)
    seen: set[str] = set()
    collection_at = None
    for index, pair in enumerate(pairs):
        key, value = pair.key, pair.value
        if key not in allowed:
            raise BadRequestError(
                "parameter_not_allowed", f"{param}[{index}] is not one of those allowed.", param=param
            )
        if key in seen or len(value) > MAX_VALUE_CHARACTERS:
            raise BadRequestError(
                "invalid_parameter", f'"{key}" is there twice, or its value is too long.', param=param
            )
        seen.add(key)
        if key == "params" and value:
            pair.value = _index_parameters(value, param)
        else:
            _check_value(work, key, value, param)
        if key == "collection_id":
            collection_at = index
    if collection_at is not None:
        _iterated_collection(work, pairs[collection_at].value, param)
        # Without it the store takes the collection by its name, which is ours. Its own id for it is not known here.
        del pairs[collection_at]


def _check_value(work: Scoped, key: str, value: str, param: str) -> None:
    if key in ("group_by_field", "anns_field") and value:
        if FIELD.fullmatch(value) is None:
            raise BadRequestError("invalid_parameter", f'"{key}" is not the name of a field.', param=param)
        work.refuse_tenant_field(value, param)
    elif key in _COUNTS and (_COUNT.fullmatch(value) is None or int(value) > MAX_ROWS):
        raise BadRequestError("invalid_parameter", f'"{key}" is not 0 to {MAX_ROWS}.', param=param)


def _iterated_collection(work: Scoped, value: str, param: str) -> None:
    if value not in ("", "0", str(work.layout.public_id(work.place.name))):
        raise BadRequestError(
            "invalid_parameter", '"collection_id" is not what describing the collection says.', param=param
        )


def _index_parameters(value: str, param: str) -> str:
    """Return the JSON object written anew: of a name that was there twice, engines might have read the other."""
    try:
        members = _JSON.decode(value)
    except (msgspec.DecodeError, RecursionError):
        raise BadRequestError(
            "invalid_parameter", '"params" is not a JSON object of numbers, texts and flags.', param=param
        ) from None
    if unknown := [name for name in members if name not in INDEX_PARAMETERS]:
        raise BadRequestError(
            "parameter_not_allowed", f'{len(unknown)} of the members of "params" are not allowed.', param=param
        )
    return _ENCODER.encode(members).decode()
