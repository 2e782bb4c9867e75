"""Collections, indexes and partitions: what a tenant may make, and what it is shown.

A tenant's own collection (`database`, `collection`) gets the tenant column when it is made, so that filter, stamp and
check work there as everywhere. No tenant is shown that column: the SDKs compare rows with the schema before they send
them, and a plain one would miss it.
"""

import re
from typing import Any

from tenantry.core.errors import BadRequestError, NotFoundError
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.calls import UnreadableResponseError
from tenantry.core.vector.layout import PARTITION_NAME
from tenantry.core.vector.milvus_rows import VARCHAR
from tenantry.core.vector.milvus_scope import Scoped, strip_base
from tenantry.core.vector.milvus_types import check_index_parameters, check_type_parameters
from tenantry.core.vector.milvus_wire import parse
from tenantry.core.vector.scope import TOKEN_CHARACTERS

TENANT_CHARACTERS = 64
"""A tenant's name has at most 63."""

BM25 = 1
"""`FunctionType`: computed inside the store. Others (text embedding, rerank) call services of the operator."""

MAX_FIELDS, MAX_FUNCTIONS, MAX_PROPERTIES = 256, 16, 32
MAX_SHARDS, MAX_PARTITIONS = 16, 1024

_PROPERTY = re.compile(r"(collection\.(ttl\.seconds|description|autocompaction\.enabled)|mmap\.enabled|timezone"
                       r"|partitionkey\.isolation|dynamicfield\.enabled|lazyload\.enabled)")  # fmt: skip
_KEY_PREFIX_CHARACTERS = TOKEN_CHARACTERS + 1


def scope_create(work: Scoped, request: pb.CreateCollectionRequest) -> None:
    """Add the tenant column to the schema of a new collection."""
    work.layout.require_own("Making a collection")
    work.enter(request)
    schema = parse(pb.CollectionSchema, request.schema)
    if len(schema.fields) > MAX_FIELDS or len(schema.functions) > MAX_FUNCTIONS:
        raise BadRequestError("invalid_schema", f"More than {MAX_FIELDS} fields or {MAX_FUNCTIONS} functions.")
    for field in schema.fields:
        work.refuse_tenant_field(field.name, "schema")
        field.ClearField("fieldID")
        field.ClearField("index_params")
        check_type_parameters(field)
    for function in schema.functions:
        if function.type != BM25:
            raise BadRequestError("invalid_schema", "A function other than BM25 is not allowed here.", param="schema")
        for name in (*function.input_field_names, *function.output_field_names):
            work.refuse_tenant_field(name, "schema")
        function.ClearField("input_field_ids")  # the store sets ids, by the names
        function.ClearField("output_field_ids")
    _properties(request.properties)
    _properties(schema.properties)
    if request.shards_num > MAX_SHARDS or request.num_partitions > MAX_PARTITIONS:
        raise BadRequestError("invalid_schema", f"More than {MAX_SHARDS} shards or {MAX_PARTITIONS} partitions.")
    schema.name = work.place.physical
    column = schema.fields.add(name=work.place.tenant_field, data_type=VARCHAR, description="the row's tenant")
    column.type_params.add(key="max_length", value=str(TENANT_CHARACTERS))
    request.schema = schema.SerializeToString()


def check_describe(work: Scoped, answer: pb.DescribeCollectionResponse) -> int:
    """Show the collection as if it were the tenant's own and had no tenant column."""
    place, schema = work.place, answer.schema
    if not schema.fields:  # there is no such collection; 2.3.5 sends an empty schema then
        status = pb.Status.FromString(answer.status.SerializeToString())
        answer.Clear()
        answer.status.CopyFrom(status)
        return 0
    if all(field.name != place.tenant_field for field in schema.fields):
        raise UnreadableResponseError("the collection has no tenant column")
    for index in reversed(range(len(schema.fields))):
        field = schema.fields[index]
        if field.name == place.tenant_field:
            del schema.fields[index]
        elif field.name == place.primary_field:
            _shorten(field)
    schema.name = answer.collection_name = place.name
    answer.collectionID = work.layout.public_id(place.name)
    if not work.layout.own:
        answer.num_partitions = 1
        schema.description = ""
        answer.ClearField("properties")
        schema.ClearField("properties")
    work.show_database(answer)
    return 0


def scope_show_collections(work: Scoped, request: pb.ShowCollectionsRequest) -> None:
    """List the collections that the tenant may use."""
    work.enter_database(request)
    request.collection_names[:] = work.layout.physical(request.collection_names)


def check_show_collections(work: Scoped, answer: pb.ShowCollectionsResponse) -> int:
    """Leave those that are the tenant's, under the names that its clients use."""
    names = [work.layout.name_of(physical) for physical in answer.collection_names]
    kept = [index for index, name in enumerate(names) if name is not None]
    columns: tuple[Any, ...] = (
        answer.created_timestamps,
        answer.created_utc_timestamps,
        answer.inMemory_percentages,
        answer.query_service_available,
        answer.shards_num,
    )
    for column in columns:
        # Lists that an engine leaves out are empty; a list of another length cannot be told apart.
        column[:] = [column[index] for index in kept] if len(column) == len(names) else []
    answer.collection_names[:] = [name for name in names if name is not None]
    answer.collection_ids[:] = [work.layout.public_id(name) for name in answer.collection_names]
    return 0


def scope_named(work: Scoped, request: Any) -> None:
    """Put a request that names a collection into the tenant's scope."""
    work.enter(request)


def scope_perhaps(work: Scoped, request: Any) -> None:
    """As `scope_named`, for a request that asks whether there is such a collection."""
    if isinstance(request, pb.DescribeCollectionRequest):
        if not request.collection_name:
            raise NotFoundError("collection_not_found", "Name the collection: its id is not enough.")
        request.ClearField("collectionID")
    work.enter(request, perhaps=True)


def scope_own(work: Scoped, request: Any) -> None:
    """As `scope_named`, for what changes a collection or costs others: only on the tenant's own."""
    work.layout.require_own("Changing a collection")
    work.enter(request)


def scope_load(work: Scoped, request: pb.LoadCollectionRequest) -> None:
    """Load a collection. One that is shared is loaded plainly, which does nothing to one that is loaded already.

    langchain-milvus asks for it whenever it opens a collection; how often a shared one is held in memory, and which
    fields of it, is for the operator.
    """
    work.enter(request)
    _load_tenant_field(work, request)
    if not work.layout.own and not work.layout.store.load_and_flush:
        request.ClearField("replica_number")
        request.ClearField("refresh")
        request.ClearField("load_fields")
        request.ClearField("skip_load_dynamic_field")


def _load_tenant_field(work: Scoped, request: pb.LoadCollectionRequest | pb.LoadPartitionsRequest) -> None:
    """Load the tenant column besides the fields that are named; none of them is all."""
    for name in request.load_fields:
        work.refuse_tenant_field(name, "load_fields")
    if request.load_fields:
        request.load_fields.append(work.place.tenant_field)


def scope_load_state(work: Scoped, request: pb.LoadStateRequest) -> None:
    """Ask for the state of the collection, or of the partitions that the tenant has in it."""
    work.enter(request)
    request.partition_names[:] = work.layout.partitions(list(request.partition_names))


def scope_flush(work: Scoped, request: pb.FlushRequest) -> None:
    """Flush collections that the tenant names, each of them; none would be all of the database."""
    if not work.layout.store.load_and_flush:
        work.layout.require_own("Flushing")
    work.enter_database(request)
    if not request.collection_names:
        raise BadRequestError("invalid_request", "Name the collections to flush.", param="collection_names")
    request.collection_names[:] = work.layout.physical(request.collection_names)


def check_flush(work: Scoped, answer: pb.FlushResponse) -> int:
    """Name the collections as the client did."""
    for segments in (answer.coll_segIDs, answer.flush_coll_segIDs):
        entries = {name: list(segments[name].data) for name in segments}
        segments.clear()
        for physical, ids in entries.items():
            if (name := work.layout.name_of(physical)) is not None:
                segments[name].data[:] = ids
    for times in (answer.coll_seal_times, answer.coll_flush_ts):
        moments = dict(times)
        times.clear()
        for physical, moment in moments.items():
            if (name := work.layout.name_of(physical)) is not None:
                times[name] = moment
    work.show_database(answer)
    return 0


def scope_flush_state(work: Scoped, request: pb.GetFlushStateRequest) -> None:
    """Ask whether segments are on disk: a yes or no about numbers."""
    if not work.layout.store.load_and_flush:
        work.layout.require_own("Flushing")
    work.layout.check_database(request.db_name)
    request.db_name = work.layout.database
    if request.collection_name:
        request.collection_name = work.layout.place(request.collection_name).physical


def scope_partition(work: Scoped, request: Any) -> None:
    """Put a request about one partition of the tenant's own collection into its scope."""
    scope_own(work, request)
    if PARTITION_NAME.fullmatch(request.partition_name) is None:
        raise BadRequestError("invalid_partition_name", "This is not a partition's name.", param="partition_name")


def scope_partitions(work: Scoped, request: Any) -> None:
    """Put a request about some partitions of the tenant's own collection into its scope."""
    scope_own(work, request)
    request.partition_names[:] = work.layout.partitions(list(request.partition_names))
    if isinstance(request, pb.ShowPartitionsRequest):
        request.ClearField("collectionID")
    if isinstance(request, pb.LoadPartitionsRequest):
        _load_tenant_field(work, request)


def scope_index(work: Scoped, request: Any) -> None:
    """Put a request about an index into the tenant's scope."""
    work.enter(request)
    work.refuse_tenant_field(request.field_name, "field_name")


def scope_own_index(work: Scoped, request: Any) -> None:
    """Put a change of an index into the tenant's scope."""
    scope_own(work, request)
    work.refuse_tenant_field(request.field_name, "field_name")
    if isinstance(request, pb.CreateIndexRequest):
        check_index_parameters(request.extra_params)


def check_indexes(work: Scoped, answer: pb.DescribeIndexResponse) -> int:
    """Show the indexes but that of the tenant column; how many rows others have is not shown."""
    for index in reversed(range(len(answer.index_descriptions))):
        found = answer.index_descriptions[index]
        if found.field_name == work.place.tenant_field:
            del answer.index_descriptions[index]
        elif not work.layout.own:
            found.indexed_rows = found.total_rows = found.pending_index_rows = 0
        found.index_state_fail_reason = work.layout.shown(found.index_state_fail_reason)
    return 0


def check_index_state(work: Scoped, answer: pb.IndexStateResponse) -> int:
    """Show the state, and why building failed in the client's names."""
    answer.fail_reason = work.layout.shown(answer.fail_reason)
    return 0


def check_index_progress(work: Scoped, answer: pb.IndexProgressResponse) -> int:
    """Show the progress; of a shared collection only whether it is done."""
    if not work.layout.own:
        done = answer.indexed_rows >= answer.total_rows
        answer.indexed_rows, answer.total_rows = (1, 1) if done else (0, 1)
    return 0


def scope_connect(_work: Scoped, request: pb.ConnectRequest) -> None:
    """Let a client say hello; whom it calls itself does not go further."""
    strip_base(request)
    request.client_info.ClearField("user")
    request.client_info.ClearField("host")
    request.client_info.ClearField("reserved")


def scope_base(_work: Scoped, request: Any) -> None:
    """Pass a request that names nothing but its own kind: pymilvus asks for the store's time when it makes an index."""
    strip_base(request)


def scope_nothing(_work: Scoped, _request: Any) -> None:
    """Pass a request that names nothing."""


def check_nothing(_work: Scoped, _answer: Any) -> int:
    """Pass an answer that holds no rows and no names."""
    return 0


def _properties(pairs: Any) -> None:
    if len(pairs) > MAX_PROPERTIES:
        raise BadRequestError("invalid_schema", f"More than {MAX_PROPERTIES} properties.", param="properties")
    for index, pair in enumerate(pairs):
        if _PROPERTY.fullmatch(pair.key) is None:
            raise BadRequestError(
                "parameter_not_allowed", f"properties[{index}] is not one of those allowed.", param="properties"
            )


def _shorten(field: pb.FieldSchema) -> None:
    """Show how long a primary key may be without the prefix that is put before it."""
    for pair in field.type_params:
        if pair.key == "max_length" and pair.value.isdecimal():
            pair.value = str(max(0, int(pair.value) - _KEY_PREFIX_CHARACTERS))
