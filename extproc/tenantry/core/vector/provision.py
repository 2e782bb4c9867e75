"""What a tenant needs in a Milvus before its first request, made as the operator; and collections that tenants share.

Milvus has room for 64 databases (rootCoord.maxDatabaseNum), 65,536 collections (quotaAndLimits.limits.maxCollectionNum)
and 1,024 partitions in a collection (rootCoord.maxPartitionNum), the default one included.
"""

from itertools import islice

from msgspec import Struct

from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.calls import Need
from tenantry.core.vector.columns import misfits
from tenantry.core.vector.milvus_rows import VARCHAR
from tenantry.core.vector.milvus_schemas import TENANT_CHARACTERS
from tenantry.core.vector.milvus_writes import DYNAMIC
from tenantry.core.vector.operator import (
    LOAD_PAUSE_SECONDS,
    MAX_LOAD_PAUSES,
    Pause,
    Steps,
    StoreCallError,
    ask,
    databases,
    describe,
    load,
)

MAX_DATABASES = 64
MAX_PARTITIONS = 1024

INT64, FLOAT_VECTOR = 5, 101
LOADING, LOADED = 2, 3
"""`LoadState` (common.proto)."""

VECTOR_FIELD = "vector"
PRIMARY_FIELD = "id"


class StoreFullError(StoreCallError):
    """The engine has no room for another database or partition; the text names the limit for the operator."""


class NotSupportedError(StoreCallError):
    """The engine has no databases, or no partitions."""


MAX_MISFITS = 3


def check_columns(need: Need) -> Steps[str]:
    """Return what is wrong with the columns of a write, "" if nothing; a collection that is not there is no matter."""
    answer = yield from describe(need.collection, need.database)
    if answer is None or not answer.schema.fields:
        return ""
    return "; ".join(islice(misfits(answer.schema, need.columns, DYNAMIC), MAX_MISFITS))


def provide(need: Need) -> Steps[str]:
    """Make the database or partition unless it is there; return what was made: `database`, `partition` or "".

    Raises StoreFullError at the engine's limit, NotSupportedError where it has no such thing.
    """
    if need.database:
        return (yield from _database(need.database))
    if need.partition:
        return (yield from _partition(need.collection, need.partition))
    return ""


def _database(name: str) -> Steps[str]:
    try:
        yield from ask("CreateDatabase", pb.DatabaseRequest(db_name=name), pb.Status)
    except StoreCallError as error:
        if error.failure == "unimplemented":
            raise NotSupportedError("CreateDatabase", "unimplemented", "the engine has no databases") from None
        if error.failure == "unreachable":
            raise
        # Which code says that it is there already differs from engine to engine; whether it is there does not.
        known = yield from databases()
        if name in known:
            return ""
        if len(known) >= MAX_DATABASES or _at_limit(error):
            raise StoreFullError(
                "CreateDatabase", "refused",
                f"the engine has {len(known)} databases, and says: {error.reason}; Milvus's limit is {MAX_DATABASES} "
                "(rootCoord.maxDatabaseNum): raise it, or keep tenants apart by collection, partition or keyprefix",
            ) from None  # fmt: skip
        raise
    return "database"


def _partition(collection: str, name: str) -> Steps[str]:
    request = pb.PartitionRequest(collection_name=collection, partition_name=name)
    made = ""
    try:
        # Asked first: 2.3.5 answers that it made a partition which was there.
        if not (yield from ask("HasPartition", request, pb.BoolResponse)).value:
            made = "partition"
            yield from ask("CreatePartition", request, pb.Status)
    except StoreCallError as error:
        if error.failure == "unimplemented":
            raise NotSupportedError("CreatePartition", "unimplemented", "the engine has no partitions") from None
        if error.failure == "unreachable" or not made:
            raise
        known = yield from partitions(collection)
        if name not in known:  # else another replica was faster
            if len(known) >= MAX_PARTITIONS or _at_limit(error):
                raise StoreFullError(
                    "CreatePartition",
                    "refused",
                    f"{collection} has {len(known)} partitions, and the engine says: {error.reason}; Milvus's limit is "
                    f"{MAX_PARTITIONS} (rootCoord.maxPartitionNum): raise it. `spread` gives tenants more collections, "
                    "but moves those that are there: choose it before they have rows",
                ) from None
            raise
        made = ""
    yield from _load_partition(collection, name)
    return made


def _at_limit(error: StoreCallError) -> bool:
    """Return whether the engine names a limit of its own, which its operator may have set lower."""
    return "exceed" in error.reason.lower()


def _load_partition(collection: str, name: str) -> Steps[None]:
    """Load a partition whose collection is loaded, and wait; in one that nobody loaded it stays as it is.

    A collection that was loaded whole loads new partitions by itself, one that was loaded by partitions does not.
    """
    whole = pb.LoadStateRequest(collection_name=collection)
    part = pb.LoadStateRequest(collection_name=collection, partition_names=[name])
    if (yield from ask("GetLoadState", whole, pb.LoadStateResponse)).state not in (LOADING, LOADED):
        return
    asked = False
    for _ in range(MAX_LOAD_PAUSES):
        state = (yield from ask("GetLoadState", part, pb.LoadStateResponse)).state
        if state == LOADED:
            return
        if state != LOADING and not asked:
            request = pb.LoadPartitionsRequest(collection_name=collection, partition_names=[name], replica_number=1)
            yield from ask("LoadPartitions", request, pb.Status)
            asked = True
        yield Pause(seconds=LOAD_PAUSE_SECONDS)
    raise StoreCallError("LoadPartitions", "unreachable", "the partition is not loaded after 30 s")


def partitions(collection: str) -> Steps[list[str]]:
    """Return the names of a collection's partitions."""
    request = pb.ShowPartitionsRequest(collection_name=collection)
    answer = yield from ask("ShowPartitions", request, pb.ShowPartitionsResponse)
    return list(answer.partition_names)


class SharedCollection(Struct, frozen=True, kw_only=True):
    """A collection for tenants to share: `dim` is of its float vector; a `max_length` makes the primary key VARCHAR."""

    name: str
    dim: int
    tenant_field: str = "tenant_id"
    primary_field: str = PRIMARY_FIELD
    max_length: int | None = None
    metric: str = "COSINE"


def shared_schema(wanted: SharedCollection) -> pb.CollectionSchema:
    """Return the schema: primary key, tenant field, vector, and whatever else rows bring as dynamic fields."""
    schema = pb.CollectionSchema(name=wanted.name, enable_dynamic_field=True)
    primary = schema.fields.add(name=wanted.primary_field, is_primary_key=True, data_type=INT64)
    if wanted.max_length is not None:
        primary.data_type = VARCHAR
        primary.type_params.add(key="max_length", value=str(wanted.max_length))
    tenant = schema.fields.add(name=wanted.tenant_field, data_type=VARCHAR, description="the row's tenant")
    tenant.type_params.add(key="max_length", value=str(TENANT_CHARACTERS))
    vector = schema.fields.add(name=VECTOR_FIELD, data_type=FLOAT_VECTOR)
    vector.type_params.add(key="dim", value=str(wanted.dim))
    return schema


def make_shared(wanted: SharedCollection) -> Steps[None]:
    """Make the collection with an index on its vector, and load it."""
    schema = shared_schema(wanted)
    request = pb.CreateCollectionRequest(
        collection_name=wanted.name, schema=schema.SerializeToString(), shards_num=1, consistency_level=2
    )
    yield from ask("CreateCollection", request, pb.Status)
    index = pb.CreateIndexRequest(collection_name=wanted.name, field_name=VECTOR_FIELD)
    for key, value in (("index_type", "AUTOINDEX"), ("metric_type", wanted.metric), ("params", "{}")):
        index.extra_params.add(key=key, value=value)
    yield from ask("CreateIndex", index, pb.Status)
    yield from load(wanted.name)
