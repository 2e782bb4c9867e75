"""What tenant A can do to tenant B's rows, step by step, and what is looked at after each step (see `probe`)."""

from collections.abc import Iterable, Sequence

from google.protobuf.message import Message

from tenantry.core.errors import RequestRefusedError, TenantryError
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.calls import ForeignRowError, UnreadableResponseError
from tenantry.core.vector.canaries import Canary
from tenantry.core.vector.canary_rows import Key, Rows, columns, keys_of, rows_of
from tenantry.core.vector.canary_search import search_request, searchable
from tenantry.core.vector.milvus_rows import COUNT, VARCHAR
from tenantry.core.vector.operator import STRONG, M, Steps, StoreCallError, ask

ROWS = 5
MAX_ROWS = 100
DEFAULT_PARTITION = "_default"


class UnsafeError(TenantryError):
    """What one tenant could do to another."""


def plain(canary: Canary, method: str, request: Message, kind: type[M]) -> Steps[M]:
    """Let a canary ask; what the third lock withholds is what the first two let through."""
    try:
        return (yield from canary.asks(method, request, kind))
    except ForeignRowError:
        raise UnsafeError(f"{method} answered a tenant with a row of another") from None
    except UnreadableResponseError as error:
        raise UnsafeError(f"what {method} answers cannot be verified ({error})") from None
    except RequestRefusedError as error:
        raise UnsafeError(f"{method} on such a collection is refused here ({error.message})") from None


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
        nothing = '"-"' if self._primary.data_type == VARCHAR else "-1"
        yield from self._delete(f"{self._primary.name} != {nothing}")
        yield from self._settled("deleted whatever its filter finds", ())
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

    def _settled(self, did: str, expected: Iterable[Key] | None, changed: Sequence[Key] = ()) -> Steps[None]:
        """Check both tenants' rows after A did something; `expected` are A's keys, None if those are not known."""
        yield from self.untouched(did)
        now = yield from self._rows(self._a, f"tenant A {did}")
        if expected is not None and set(now) != set(self._stored(self._a, expected)):
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
        try:
            found = yield from self._raw(place.physical, layout.database, partitions)
        except StoreCallError as error:
            if error.failure == "unreachable":
                raise
            raise UnsafeError(
                f"after {when}, the engine does not give out the rows any more ({error.reason})"
            ) from None
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
        answer = yield from plain(canary, method, request, pb.MutationResult)
        return keys_of(answer.ids) if self._auto else list(keys)

    def _delete(self, text: str) -> Steps[None]:
        request = pb.DeleteRequest(collection_name=self._a.collection, expr=text)
        yield from plain(self._a, "Delete", request, pb.MutationResult)

    def _flush(self) -> Steps[None]:
        """Let the engine put rows away; where it will not (Milvus limits how often), what was shown so far stands."""
        for canary in (self._a, self._b):
            request = pb.FlushRequest(db_name=canary.layout.database, collection_names=[canary.place.physical])
            try:
                yield from ask("Flush", request, pb.FlushResponse)
            except StoreCallError as error:
                if error.failure == "unreachable":
                    raise

    def _reads(self, canary: Canary, keys: Iterable[Key]) -> Steps[None]:
        """Check that a tenant sees these rows, and no others, in every way of reading."""
        expected = set(keys)
        name = canary.collection
        everything = pb.QueryRequest(collection_name=name, output_fields=["*"], consistency_level=STRONG)
        everything.query_params.add(key="limit", value=str(MAX_ROWS))
        seen = yield from plain(canary, "Query", everything, pb.QueryResults)
        if set(rows_of(seen.fields_data, self._primary.name) or ()) != expected:
            raise UnsafeError("a tenant's query does not find its own rows, all of them and nothing else")
        counted = pb.QueryRequest(collection_name=name, output_fields=[COUNT], consistency_level=STRONG)
        count = yield from plain(canary, "Query", counted, pb.QueryResults)
        if [value for column in count.fields_data for value in column.scalars.long_data.data] != [len(expected)]:
            raise UnsafeError("a tenant's count is not that of its own rows")
        for field in searchable(self._schema):
            found = yield from plain(canary, "Search", search_request(name, field, MAX_ROWS), pb.SearchResults)
            hits = set(keys_of(found.results.ids))
            if not hits <= expected or (expected and not hits and not field.is_function_output):
                raise UnsafeError("a tenant's search does not find its own rows, and nothing else")

    def _stored(self, canary: Canary, keys: Iterable[Key]) -> list[Key]:
        prefix = canary.layout.key_prefix
        return [f"{prefix}{key}" for key in keys] if prefix else list(keys)

    def _in(self, keys: Sequence[Key]) -> str:
        shown = ", ".join(f'"{key}"' if isinstance(key, str) else str(key) for key in keys)
        return f"{self._primary.name} in [{shown}]"
