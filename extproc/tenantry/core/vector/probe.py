"""The proof that a layout keeps two tenants apart on an engine, with rows to lose.

Tenants share primary keys as soon as they number their documents. The filter that guards reads and deletes does not
guard those: an engine that finds a row by its primary key alone lets tenant A overwrite, or delete, a row of B (flat
layouts on every engine, named partitions on milvus-lite 3.2.2: measured). So two canary tenants do to one another what
tenants can, with the same keys, on scratch collections of equal schema. After each step the operator looks at the
engine's own rows: those of B are what B wrote, all of them and nothing else; those of A are what A's step should have
made of them, bear A's stamp and are where the layout says. A layout that fails is refused, with the step that failed.

What is shown is the engine together with the code that serves: every step of a canary goes through `MilvusCall`.
"""

from collections.abc import Callable, Sequence

from google.protobuf.message import Message
from msgspec import Struct

from tenantry.core.errors import RequestRefusedError, TenantryError
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.calls import ForeignRowError, UnreadableResponseError
from tenantry.core.vector.canaries import Canary, Scratch
from tenantry.core.vector.canary_rows import Key, Rows, columns, keys_of, known, rows_of
from tenantry.core.vector.canary_search import search_request, searchable
from tenantry.core.vector.fit import Shared
from tenantry.core.vector.milvus_rows import COUNT, VARCHAR
from tenantry.core.vector.operator import LOAD_PAUSE_SECONDS, LOADED_PERCENT, MAX_LOAD_PAUSES, STRONG, M, Pause, Steps
from tenantry.core.vector.operator import StoreCallError, ask, collections, load
from tenantry.core.vector.provision import INT64, VECTOR_FIELD, NotSupportedError

ROWS = 5
MAX_ROWS = 100
FALLBACK_INDEXES = {100: "BIN_FLAT", 104: "SPARSE_INVERTED_INDEX"}
FALLBACK_METRICS = {100: "HAMMING", 104: "IP"}
DEFAULT_PARTITION = "_default"

INSTEAD = {
    "database": "Use collection, or keyprefix with a VARCHAR primary key.",
    "partition": "Use collection, or keyprefix with a VARCHAR primary key.",
    "keyprefix": "Use collection.",
    "collection": "Use another engine, or a store for each tenant.",
}
"""What is nearest to a layout and was safe on every engine that it was measured on."""


class UnsafeError(TenantryError):
    """What one tenant could do to another."""


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
    yield from _plain(canary, "CreateCollection", request, pb.Status)
    index = pb.CreateIndexRequest(collection_name=name, field_name=VECTOR_FIELD)
    for key, value in (("index_type", "FLAT"), ("metric_type", "L2"), ("params", "{}")):
        index.extra_params.add(key=key, value=value)
    yield from _plain(canary, "CreateIndex", index, pb.Status)
    loading = pb.LoadCollectionRequest(collection_name=name, replica_number=1)
    yield from _plain(canary, "LoadCollection", loading, pb.Status)
    for _ in range(MAX_LOAD_PAUSES):
        progress = pb.LoadStateRequest(collection_name=name)
        answer = yield from _plain(canary, "GetLoadingProgress", progress, pb.LoadingProgressResponse)
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
        shown = yield from _plain(canary, "ShowCollections", pb.ShowCollectionsRequest(), pb.ShowCollectionsResponse)
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
    duel = Duel(*(Canary(scratch, tenant) for tenant in scratch.tenants), schema)
    yield from duel.fight()


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


class Duel:
    """Two canaries, one schema, the same primary keys."""

    def __init__(self, a: Canary, b: Canary, schema: pb.CollectionSchema) -> None:
        self._a, self._b = a, b
        self._schema = schema
        self._primary = next(field for field in schema.fields if field.is_primary_key)
        self._auto = self._primary.autoID or schema.autoID
        self._primary.autoID = self._auto
        text = self._primary.data_type == VARCHAR
        self._keys: list[Key] = [f"k{number}" if text else number for number in range(1, ROWS + 1)]
        self._of_b: Rows = {}
        self._of_a: Rows = {}

    def fight(self) -> Steps[None]:
        """Do to B what A can; raise UnsafeError at the first thing that B, or A's own rows, should not see."""
        written = yield from self._write(self._b, "Insert", self._keys, range(1, ROWS + 1))
        self._of_b = yield from self._rows(self._b, "a tenant inserted rows")
        if set(self._of_b) != set(self._stored(self._b, written)):
            raise UnsafeError("rows that a tenant inserted are not where they belong")
        if self._auto:
            yield from self._fight_for_ids(written)
        else:
            yield from self._fight_for_keys()
        yield from self._reads(self._b, written)
        yield from self._delete("")
        yield from self._settled("deleted without a filter", ())
        yield from self._reads(self._a, ())

    def _fight_for_keys(self) -> Steps[None]:
        first, second, *_, last = keys = self._keys
        mine = keys[:-1]
        yield from self._write(self._a, "Insert", mine, range(11, 11 + len(mine)))
        yield from self._settled("inserted rows with primary keys of tenant B", mine)
        yield from self._reads(self._a, mine)
        yield from self._write(self._a, "Upsert", [first, last], (21, 25))
        yield from self._settled("upserted rows with primary keys of tenant B", keys, changed=[first])
        yield from self._delete(self._in([first, last]))
        yield from self._settled("deleted rows by primary keys of tenant B", keys[1:-1])
        # Once more, on rows that the engine has put away: some look for keys in another way there.
        yield from self._flush()
        yield from self._write(self._a, "Insert", [first], (31,))
        yield from self._settled("inserted a row with a primary key of tenant B, after a flush", mine)
        yield from self._write(self._a, "Upsert", [second, last], (32, 35))
        yield from self._settled(
            "upserted rows with primary keys of tenant B, after a flush", keys, changed=[second]
        )  # fmt: skip
        yield from self._delete(self._in([second, last]))
        yield from self._settled(
            "deleted rows by primary keys of tenant B, after a flush", [first, *keys[2:-1]]
        )  # fmt: skip
        yield from self._reads(self._a, [first, *keys[2:-1]])

    def _fight_for_ids(self, theirs: Sequence[Key]) -> Steps[None]:
        """As `_fight_for_keys`, where the engine makes the keys: A can only have learnt those of B."""
        mine = yield from self._write(self._a, "Insert", (), range(11, 10 + ROWS))
        yield from self._settled("inserted rows", mine)
        yield from self._reads(self._a, mine)
        for flushed in ("", ", after a flush"):
            for method, mark in (("Insert", 21), ("Upsert", 22)):
                try:
                    yield from self._write(self._a, method, theirs[:1], (mark,), named=True)
                except StoreCallError as error:
                    if error.failure == "unreachable":
                        raise
                yield from self._settled(f"sent a row with a primary key of tenant B to {method}{flushed}", None)
            yield from self._delete(self._in(theirs))
            yield from self._settled(f"deleted rows by primary keys of tenant B{flushed}", None)
            kept = [key for key in mine if key in self._of_a]
            yield from self._delete(self._in(kept[:1]))
            yield from self._settled(f"deleted a row of its own{flushed}", set(self._of_a) - set(kept[:1]))
            if not flushed:
                yield from self._flush()

    def untouched(self, did: str) -> Steps[None]:
        """Check that every row of B is as B wrote it, after A did this."""
        now = yield from self._rows(self._b, f"tenant A {did}")
        if now == self._of_b:
            return
        lost = len(set(self._of_b) - set(now))
        gained = len(set(now) - set(self._of_b))
        if lost:
            what = "a row" if lost == 1 else f"{lost} rows"
            raise UnsafeError(f"after tenant A {did}, B lost {what}")
        raise UnsafeError(f"after tenant A {did}, {'rows were added to' if gained else 'the content changed of'} B's")

    def _settled(self, did: str, expected: object, changed: Sequence[Key] = ()) -> Steps[None]:
        """Check both tenants' rows after A did something; `expected` are A's keys, None if those are not known."""
        yield from self.untouched(did)
        now = yield from self._rows(self._a, f"tenant A {did}")
        if expected is not None and set(now) != set(self._stored(self._a, expected)):  # type: ignore[arg-type]
            raise UnsafeError(f"after tenant A {did}, its own rows are not what it asked for")
        for key in self._stored(self._a, changed):
            if now[key] == self._of_a.get(key):
                raise UnsafeError(f"after tenant A {did}, its own row has not changed")
        self._of_a = now
        yield from self._nothing_elsewhere(did)

    def _rows(self, canary: Canary, when: str) -> Steps[Rows]:
        """Return the canary's rows as the operator finds them in the engine."""
        layout, place = canary.layout, canary.place
        partitions = [layout.partition] if layout.partition is not None else []
        found = yield from self._raw(place.physical, layout.database, partitions)
        if found is None:
            raise UnsafeError(f"after {when}, rows cannot be told apart")
        if layout.key_prefix:
            found = {key: row for key, row in found.items() if str(key).startswith(layout.key_prefix)}
        for row in found.values():
            if dict(row).get(place.tenant_field) != canary.tenant:
                raise UnsafeError(
                    f"after {when}, a row of another tenant was among those of {canary.tenant[-1].upper()}"
                )
        return found

    def _nothing_elsewhere(self, did: str) -> Steps[None]:
        """Check that no row of theirs is outside of what the layout gives them."""
        layout, place = self._a.layout, self._a.place
        if layout.partition is not None:
            stray = yield from self._raw(place.physical, "", [DEFAULT_PARTITION])
        elif layout.key_prefix:
            stray = yield from self._raw(place.physical, "", [])
            if stray is not None:
                stray = {key: row for key, row in stray.items() if key not in self._of_a and key not in self._of_b}
        else:
            return
        if stray is None or stray:
            raise UnsafeError(f"after tenant A {did}, rows were where no tenant's belong")

    def _raw(self, physical: str, database: str, partitions: Sequence[str]) -> Steps[Rows | None]:
        request = pb.QueryRequest(
            db_name=database, collection_name=physical, partition_names=partitions, output_fields=["*"],
            consistency_level=STRONG,
        )  # fmt: skip
        request.query_params.add(key="limit", value=str(MAX_ROWS))
        answer = yield from ask("Query", request, pb.QueryResults)
        return rows_of(answer.fields_data, self._primary.name)

    def _write(
        self, canary: Canary, method: str, keys: Sequence[Key], marks: Sequence[int], *, named: bool = False
    ) -> Steps[list[Key]]:
        """Insert or upsert rows as a plain client; return their keys as that client knows them."""
        schema = self._schema
        if named:
            schema = pb.CollectionSchema()
            schema.CopyFrom(self._schema)
            next(field for field in schema.fields if field.is_primary_key).autoID = False
        kind = pb.InsertRequest if method == "Insert" else pb.UpsertRequest
        request = kind(collection_name=canary.collection, num_rows=len(marks))
        request.fields_data.extend(columns(schema, canary.place.tenant_field, keys, marks))
        answer = yield from _plain(canary, method, request, pb.MutationResult)
        return keys_of(answer.ids) if self._auto else list(keys)

    def _delete(self, text: str) -> Steps[None]:
        request = pb.DeleteRequest(collection_name=self._a.collection, expr=text)
        yield from _plain(self._a, "Delete", request, pb.MutationResult)

    def _flush(self) -> Steps[None]:
        """Let the engine put rows away; where it will not (Milvus limits how often), what was shown so far stands."""
        for canary in (self._a, self._b):
            request = pb.FlushRequest(db_name=canary.layout.database, collection_names=[canary.place.physical])
            try:
                yield from ask("Flush", request, pb.FlushResponse)
            except StoreCallError as error:
                if error.failure == "unreachable":
                    raise

    def _reads(self, canary: Canary, keys: object) -> Steps[None]:
        """Check that a tenant sees these rows, and no others, in every way of reading."""
        expected = set(keys)  # type: ignore[call-overload]
        name = canary.collection
        everything = pb.QueryRequest(collection_name=name, output_fields=["*"], consistency_level=STRONG)
        everything.query_params.add(key="limit", value=str(MAX_ROWS))
        seen = yield from _plain(canary, "Query", everything, pb.QueryResults)
        if set(rows_of(seen.fields_data, self._primary.name) or ()) != expected:
            raise UnsafeError("a tenant's query does not find its own rows, all of them and nothing else")
        counted = pb.QueryRequest(collection_name=name, output_fields=[COUNT], consistency_level=STRONG)
        count = yield from _plain(canary, "Query", counted, pb.QueryResults)
        if [value for column in count.fields_data for value in column.scalars.long_data.data] != [len(expected)]:
            raise UnsafeError("a tenant's count is not that of its own rows")
        for field in searchable(self._schema):
            found = yield from _plain(canary, "Search", search_request(name, field, MAX_ROWS), pb.SearchResults)
            hits = set(keys_of(found.results.ids))
            if not hits <= expected or (expected and not hits and not field.is_function_output):
                raise UnsafeError("a tenant's search does not find its own rows, and nothing else")

    def _stored(self, canary: Canary, keys: Sequence[Key]) -> list[Key]:
        prefix = canary.layout.key_prefix
        return [f"{prefix}{key}" for key in keys] if prefix else list(keys)

    def _in(self, keys: Sequence[Key]) -> str:
        shown = ", ".join(f'"{key}"' if isinstance(key, str) else str(key) for key in keys)
        return f"{self._primary.name} in [{shown}]"


def _plain(canary: Canary, method: str, request: Message, kind: type[M]) -> Steps[M]:
    """Let a canary ask; what the third lock withholds is what the first two let through."""
    try:
        return (yield from canary.asks(method, request, kind))
    except ForeignRowError:
        raise UnsafeError(f"{method} answered a tenant with a row of another") from None
    except UnreadableResponseError as error:
        raise UnsafeError(f"what {method} answers cannot be verified ({error})") from None
    except RequestRefusedError as error:
        raise UnsafeError(f"{method} on such a collection is refused here ({error.message})") from None
