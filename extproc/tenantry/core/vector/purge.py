"""What a Milvus holds of one tenant, and how it is dropped; after which the same look must find nothing.

    isolation    what is found and dropped
    database     the tenant's database with its collections
    collection   the collections whose names begin with its token
    partition    its partition in each shared collection, also in those of `spread` where it should have none; and rows
                 of other partitions that are stamped as its own
    keyprefix    the rows of each shared collection that are stamped as its own

Rows are counted by the engine at strong consistency, by the tenant column alone. What it kept under a layout that the
rules no longer name is not looked for.
"""

from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

from tenantry.core.rules_stores import Store
from tenantry.core.vector import scope
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.operator import (
    STRONG,
    Steps,
    StoreCallError,
    ask,
    collections,
    databases,
    describe,
    drop_collection,
    drop_database,
)
from tenantry.core.vector.provision import partitions

COUNT = "count(*)"


class Holding(Struct, frozen=True, kw_only=True):
    """Something of the tenant's in a store. `rows` counts those of a shared collection; `match` is their filter."""

    kind: Literal["database", "collection", "partition", "rows"]
    name: str
    partition: str = ""
    match: str = ""
    rows: int = 0

    def __str__(self) -> str:
        if self.kind == "partition":
            return f"partition {self.partition} of {self.name}"
        return f"{self.rows:,} rows of {self.name}" if self.kind == "rows" else f"{self.kind} {self.name}"


def held(store: Store, tenant: str) -> Steps[list[Holding]]:
    """Return what a store holds of a tenant; raise StoreCallError when that cannot be told."""
    if store.isolation == "database":
        name = scope.database_of(tenant)
        return [Holding(kind="database", name=name)] if name in (yield from databases()) else []
    if store.isolation == "collection":
        found = yield from collections()
        return [Holding(kind="collection", name=each) for each in found if scope.own_collection(tenant, each)]
    holdings: list[Holding] = []
    for name, field in _shared(store):
        if (yield from describe(name)) is not None:
            holdings += yield from _in_shared(store, tenant, name, f'{field} == "{tenant}"')
    return holdings


def _shared(store: Store) -> Iterator[tuple[str, str]]:
    for name, shared in store.collections.items():
        for physical in scope.spread_names(name, shared.spread):
            yield physical, shared.tenant_field


def _in_shared(store: Store, tenant: str, collection: str, match: str) -> Steps[list[Holding]]:
    partition = scope.partition_of(tenant)
    if store.isolation == "partition" and partition in (yield from partitions(collection)):
        return [Holding(kind="partition", name=collection, partition=partition)]
    rows = yield from _count(collection, match)
    return [Holding(kind="rows", name=collection, match=match, rows=rows)] if rows else []


def _count(collection: str, match: str) -> Steps[int]:
    request = pb.QueryRequest(collection_name=collection, expr=match, output_fields=[COUNT], consistency_level=STRONG)
    answer = yield from ask("Query", request, pb.QueryResults)
    counts = [n for column in answer.fields_data for n in column.scalars.long_data.data]
    if len(counts) != 1:
        raise StoreCallError("Query", "refused", f"{collection}: the engine answered {len(counts)} counts")
    return counts[0]


def drop(holding: Holding) -> Steps[None]:
    """Drop it; what could not be dropped is still there when one looks again."""
    if holding.kind == "database":
        yield from drop_database(holding.name)
    elif holding.kind == "collection":
        yield from drop_collection(holding.name)
    elif holding.kind == "rows":
        request = pb.DeleteRequest(collection_name=holding.name, expr=holding.match)
        yield from ask("Delete", request, pb.MutationResult)
    else:
        yield from _drop_partition(holding)


def _drop_partition(holding: Holding) -> Steps[None]:
    try:  # a loaded partition is not dropped; one that is not loaded need not be released
        release = pb.ReleasePartitionsRequest(collection_name=holding.name, partition_names=[holding.partition])
        yield from ask("ReleasePartitions", release, pb.Status)
    except StoreCallError as error:
        if error.failure == "unreachable":
            raise
    request = pb.PartitionRequest(collection_name=holding.name, partition_name=holding.partition)
    yield from ask("DropPartition", request, pb.Status)
