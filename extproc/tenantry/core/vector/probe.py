"""The proof that a layout keeps two tenants apart on an engine, with rows to lose.

Tenants share primary keys as soon as they number their documents. The filter that guards reads and deletes does not
guard those: an engine that finds a row by its primary key alone lets tenant A overwrite, or delete, a row of B (flat
layouts on every engine, named partitions on milvus-lite 3.2.2: measured). So two canary tenants do to one another what
tenants can, with the same keys, on scratch collections of equal schema. After each step the operator looks at the
engine's own rows: those of B are what B wrote, all of them and nothing else; those of A are what A's step should have
made of them, bear A's stamp and are where the layout says. A layout that fails is refused, with the step that failed.

What is shown is the engine together with the code that serves: every step of a canary goes through `MilvusCall`.
"""

from collections.abc import Callable

from msgspec import Struct

from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.canaries import Canary, Scratch
from tenantry.core.vector.canary_rows import known
from tenantry.core.vector.duel import Duel, UnsafeError, plain
from tenantry.core.vector.fit import Shared
from tenantry.core.vector.milvus_rows import VARCHAR
from tenantry.core.vector.operator import (
    LOAD_PAUSE_SECONDS,
    LOADED_PERCENT,
    MAX_LOAD_PAUSES,
    Pause,
    Steps,
    StoreCallError,
    ask,
    collections,
    load,
)
from tenantry.core.vector.provision import INT64, VECTOR_FIELD, NotSupportedError

FALLBACK_INDEXES = {100: "BIN_FLAT", 104: "SPARSE_INVERTED_INDEX"}
FALLBACK_METRICS = {100: "HAMMING", 104: "IP"}

INSTEAD = {
    "database": "Use collection, or keyprefix with a VARCHAR primary key.",
    "partition": "Use collection, or keyprefix with a VARCHAR primary key.",
    "keyprefix": "Use collection.",
    "collection": "Use another engine, or a store for each tenant.",
}
"""What is nearest to a layout and was safe on every engine that it was measured on."""


class Verdict(Struct, frozen=True, kw_only=True):
    """Whether tenants are kept apart; `reason` says why not, in words for the operator. `about` is the collection."""

    about: str
    safe: bool
    reason: str = ""


def own_schema(kind: int) -> pb.CollectionSchema:
    """Return the small schema that canaries use where tenants make collections of their own; `kind` of its key."""
    schema = pb.CollectionSchema(enable_dynamic_field=True)
    primary = schema.fields.add(name="id", is_primary_key=True, data_type=kind)
    if kind == VARCHAR:
        primary.type_params.add(key="max_length", value="64")
    schema.fields.add(name="content", data_type=VARCHAR).type_params.add(key="max_length", value="64")
    schema.fields.add(name=VECTOR_FIELD, data_type=101).type_params.add(key="dim", value="8")
    return schema


OWN_KINDS = {"INT64": INT64, "VARCHAR": VARCHAR}


def prove_own(scratch: Scratch, kind: str, engine: str) -> Steps[Verdict]:
    """Prove `database` or `collection` for collections with primary keys of this kind (`OWN_KINDS`)."""
    schema = own_schema(OWN_KINDS[kind])
    return (yield from _proven(f"own collections with {kind} keys", scratch, engine, lambda: _own(scratch, schema)))


def prove_shared(scratch: Scratch, shared: Shared, engine: str) -> Steps[Verdict]:
    """Prove `partition` or `keyprefix` on a copy of a collection that tenants share."""
    return (yield from _proven(shared.physical, scratch, engine, lambda: _copied(scratch, shared)))


def _proven(about: str, scratch: Scratch, engine: str, proof: Callable[[], Steps[None]]) -> Steps[Verdict]:
    isolation = scratch.store.isolation
    try:
        yield from proof()
    except (UnsafeError, NotSupportedError) as error:
        text = error.reason if isinstance(error, NotSupportedError) else str(error)
        reason = f"{isolation} is not safe on {engine}: {text}. {INSTEAD[isolation]}"
        return Verdict(about=about, safe=False, reason=reason)
    return Verdict(about=about, safe=True)


def _own(scratch: Scratch, schema: pb.CollectionSchema) -> Steps[None]:
    a, b = (Canary(scratch, tenant) for tenant in scratch.tenants)
    for canary in (a, b):
        yield from _make_own(canary, schema)
    yield from _kept_apart_by_name(a, b)
    duel = Duel(a, b, schema)
    yield from duel.fight()
    yield from a.asks("DropCollection", pb.CollectionRequest(collection_name=a.collection), pb.Status)
    yield from duel.untouched("dropped its collection of the same name")


def _make_own(canary: Canary, schema: pb.CollectionSchema) -> Steps[None]:
    name = canary.collection
    schema.name = name
    request = pb.CreateCollectionRequest(collection_name=name, schema=schema.SerializeToString(), shards_num=1)
    yield from plain(canary, "CreateCollection", request, pb.Status)
    index = pb.CreateIndexRequest(collection_name=name, field_name=VECTOR_FIELD)
    for key, value in (("index_type", "FLAT"), ("metric_type", "L2"), ("params", "{}")):
        index.extra_params.add(key=key, value=value)
    yield from plain(canary, "CreateIndex", index, pb.Status)
    loading = pb.LoadCollectionRequest(collection_name=name, replica_number=1)
    yield from plain(canary, "LoadCollection", loading, pb.Status)
    for _ in range(MAX_LOAD_PAUSES):
        progress = pb.LoadStateRequest(collection_name=name)
        answer = yield from plain(canary, "GetLoadingProgress", progress, pb.LoadingProgressResponse)
        if answer.progress >= LOADED_PERCENT:
            return
        yield Pause(seconds=LOAD_PAUSE_SECONDS)


def _kept_apart_by_name(a: Canary, b: Canary) -> Steps[None]:
    """Check that both have a collection of their own, where the layout says."""
    for canary in (a, b):
        physical, database = canary.place.physical, canary.layout.database
        if physical not in (yield from collections(database)):
            raise UnsafeError("a tenant's new collection is not where it belongs")
        if database and physical in (yield from collections()):
            raise UnsafeError("the engine ignores databases: a tenant's new collection is in the default one")
        shown = yield from plain(canary, "ShowCollections", pb.ShowCollectionsRequest(), pb.ShowCollectionsResponse)
        if list(shown.collection_names) != [canary.collection]:
            raise UnsafeError("a tenant is not shown its own collection alone")


def _copied(scratch: Scratch, shared: Shared) -> Steps[None]:
    schema = scratch_schema(pb.CollectionSchema.FromString(shared.schema), scratch.collection)
    kinds = {field.name: field.data_type for field in schema.fields}
    request = pb.CreateCollectionRequest(
        collection_name=scratch.collection, schema=schema.SerializeToString(), shards_num=1
    )
    yield from ask("CreateCollection", request, pb.Status)
    copied = {}
    for data in shared.indexes:
        found = pb.IndexDescription.FromString(data)
        if found.field_name in kinds:
            copied[found.field_name] = {pair.key: pair.value for pair in found.params}
    for field, kind in kinds.items():
        if kind >= min(FALLBACK_INDEXES):
            yield from _index(scratch.collection, field, kind, copied.get(field))
    yield from load(scratch.collection)
    a, b = (Canary(scratch, tenant) for tenant in scratch.tenants)
    yield from Duel(a, b, schema).fight()


def _index(collection: str, field: str, kind: int, wanted: dict[str, str] | None) -> Steps[None]:
    """Make the index that the real collection has, or one that needs nothing where it has none or it is refused."""
    plain = {
        "index_type": FALLBACK_INDEXES.get(kind, "FLAT"),
        "metric_type": (wanted or {}).get("metric_type", FALLBACK_METRICS.get(kind, "L2")),
        "params": "{}",
    }
    for parameters in (wanted, plain):
        if parameters is None:
            continue
        request = pb.CreateIndexRequest(collection_name=collection, field_name=field)
        for key, value in parameters.items():
            request.extra_params.add(key=key, value=value)
        try:
            yield from ask("CreateIndex", request, pb.Status)
        except StoreCallError as error:
            if error.failure == "unreachable" or parameters is plain:
                raise
        else:
            return


def scratch_schema(real: pb.CollectionSchema, name: str) -> pb.CollectionSchema:
    """Return a schema as the real one, without the ids in it and without fields that no row can be made for."""
    schema = pb.CollectionSchema(name=name, autoID=real.autoID, enable_dynamic_field=real.enable_dynamic_field)
    schema.functions.extend(real.functions)
    for function in schema.functions:
        function.ClearField("id")
        function.ClearField("input_field_ids")
        function.ClearField("output_field_ids")
    for field in real.fields:
        if known(field) and not field.is_dynamic:
            copy = schema.fields.add()
            copy.CopyFrom(field)
            copy.ClearField("fieldID")
            copy.ClearField("state")
    return schema
