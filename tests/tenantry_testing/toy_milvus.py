"""A Milvus of two hundred lines, whole or with one of the flaws that real engines have or might have."""

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tenantry.core.vector import expr_nodes as nodes
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.canary_rows import rows_of
from tenantry.core.vector.expr import parse
from tenantry.core.vector.operator import Pause, Send, Steps, StoreCallError

T = TypeVar("T")
Row = dict[str, pb.FieldData]

VARCHAR, FLOAT_VECTOR = 21, 101
FULL = 64


@dataclass
class Collection:
    schema: pb.CollectionSchema
    partitions: dict[str, list[Row]] = field(default_factory=lambda: {"_default": []})
    loaded: bool = False

    @property
    def primary(self) -> pb.FieldSchema:
        return next(each for each in self.schema.fields if each.is_primary_key)


class ToyMilvus:
    """`flaws` are words of the table below; `calls` are the methods that were called."""

    FLAWS = frozenset(
        {
            "an insert replaces the key in every partition",
            "an upsert replaces the key in every partition",
            "a delete ignores its partition",
            "a delete does nothing",
            "a partition is not dropped",
            "an upsert does nothing",
            "reads ignore partitions",
            "writes ignore partitions",
            "reads ignore filters",
            "counts ignore filters",
            "searches ignore filters",
            "databases are ignored",
            "there are no databases",
            "there are no partitions",
            "keys are cut to 27 characters",
            "a drop takes all collections",
            "an upsert keeps the row that is there",
            "writes go to the default partition too",
            "searches find nothing",
            "a query misses a row",
            "collections are not listed",
        }
    )

    def __init__(self, *flaws: str, version: str = "toy-1") -> None:
        assert set(flaws) <= self.FLAWS
        self.flaws = set(flaws)
        self.version = version
        self.databases: dict[str, dict[str, Collection]] = {"default": {}}
        self.calls: list[str] = []
        self.next_id = 1000

    def run(self, steps: Steps[T]) -> T:
        """Perform steps at once."""
        try:
            step = next(steps)
            while True:
                try:
                    answer = b"" if isinstance(step, Pause) else self.call(step)
                except StoreCallError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result

    def call(self, step: Send) -> bytes:
        self.calls.append(step.method)
        try:
            answer = getattr(self, f"_{step.method}")(step.message)
        except LookupError as error:
            raise StoreCallError(step.method, "refused", f"not found: {error}", 100) from None
        data: bytes = answer.SerializeToString()
        return data

    def names(self) -> list[str]:
        """Every collection, in every database."""
        return [name for collections in self.databases.values() for name in collections]

    def _collections(self, database: str) -> dict[str, Collection]:
        if "databases are ignored" in self.flaws:
            database = ""
        return self.databases[database or "default"]

    def _collection(self, request: Any) -> Collection:
        return self._collections(request.db_name)[request.collection_name]

    def _unimplemented(self, method: str, flaw: str) -> None:
        if flaw in self.flaws:
            raise StoreCallError(method, "unimplemented", "UNIMPLEMENTED")

    def _GetVersion(self, _message: bytes) -> Any:
        return pb.VersionResponse(version=self.version)

    def _CreateDatabase(self, message: bytes) -> Any:
        self._unimplemented("CreateDatabase", "there are no databases")
        name = pb.DatabaseRequest.FromString(message).db_name
        if "databases are ignored" in self.flaws:
            return pb.Status()
        if name in self.databases or len(self.databases) >= FULL:
            return pb.Status(code=1, reason="it exists, or there are too many")
        self.databases[name] = {}
        return pb.Status()

    def _DropDatabase(self, message: bytes) -> Any:
        name = pb.DatabaseRequest.FromString(message).db_name
        if self.databases.get(name):
            return pb.Status(code=1, reason="not empty")
        self.databases.pop(name, None)
        return pb.Status()

    def _ListDatabases(self, _message: bytes) -> Any:
        self._unimplemented("ListDatabases", "there are no databases")
        return pb.ListDatabasesResponse(db_names=list(self.databases))

    def _ShowCollections(self, message: bytes) -> Any:
        request = pb.ShowCollectionsRequest.FromString(message)
        names = [] if "collections are not listed" in self.flaws else list(self._collections(request.db_name))
        return pb.ShowCollectionsResponse(collection_names=names)

    def _CreateCollection(self, message: bytes) -> Any:
        request = pb.CreateCollectionRequest.FromString(message)
        schema = pb.CollectionSchema.FromString(request.schema)
        self._collections(request.db_name)[request.collection_name] = Collection(schema=schema)
        return pb.Status()

    def _DropCollection(self, message: bytes) -> Any:
        request = pb.CollectionRequest.FromString(message)
        if "a drop takes all collections" in self.flaws:
            self._collections(request.db_name).clear()
        self._collections(request.db_name).pop(request.collection_name, None)
        return pb.Status()

    def _DescribeCollection(self, message: bytes) -> Any:
        request = pb.DescribeCollectionRequest.FromString(message)
        return pb.DescribeCollectionResponse(schema=self._collection(request).schema)

    def _CreateIndex(self, _message: bytes) -> Any:
        return pb.Status()

    def _DescribeIndex(self, _message: bytes) -> Any:
        return pb.DescribeIndexResponse()

    def _LoadCollection(self, message: bytes) -> Any:
        self._collection(pb.LoadCollectionRequest.FromString(message)).loaded = True
        return pb.Status()

    def _GetLoadingProgress(self, _message: bytes) -> Any:
        return pb.LoadingProgressResponse(progress=100)

    def _GetLoadState(self, message: bytes) -> Any:
        loaded = self._collection(pb.LoadStateRequest.FromString(message)).loaded
        return pb.LoadStateResponse(state=3 if loaded else 1)

    def _CreatePartition(self, message: bytes) -> Any:
        self._unimplemented("CreatePartition", "there are no partitions")
        request = pb.PartitionRequest.FromString(message)
        partitions = self._collection(request).partitions
        if request.partition_name in partitions:
            return pb.Status(code=1, reason="it exists")
        if len(partitions) >= FULL:
            return pb.Status(code=1, reason="the number of partitions exceeds the limit")
        partitions[request.partition_name] = []
        return pb.Status()

    def _ReleasePartitions(self, _message: bytes) -> Any:
        return pb.Status()

    def _DropPartition(self, message: bytes) -> Any:
        request = pb.PartitionRequest.FromString(message)
        if "a partition is not dropped" not in self.flaws:
            self._collection(request).partitions.pop(request.partition_name, None)
        return pb.Status()

    def _HasPartition(self, message: bytes) -> Any:
        request = pb.PartitionRequest.FromString(message)
        return pb.BoolResponse(value=request.partition_name in self._collection(request).partitions)

    def _ShowPartitions(self, message: bytes) -> Any:
        request = pb.ShowPartitionsRequest.FromString(message)
        return pb.ShowPartitionsResponse(partition_names=list(self._collection(request).partitions))

    def _Flush(self, _message: bytes) -> Any:
        return pb.FlushResponse()

    def _Insert(self, message: bytes) -> Any:
        request = pb.InsertRequest.FromString(message)
        if "an insert replaces the key in every partition" in self.flaws:
            self._remove(self._collection(request), self._keys(request), "")
        return self._add(request)

    def _Upsert(self, message: bytes) -> Any:
        request = pb.UpsertRequest.FromString(message)
        collection = self._collection(request)
        if collection.primary.autoID:
            return pb.MutationResult(status=pb.Status(code=1, reason="no upsert of rows whose key is made here"))
        if "an upsert does nothing" in self.flaws:
            return pb.MutationResult()
        if "an upsert keeps the row that is there" in self.flaws:
            there = {
                _value(row[collection.primary.name])
                for row in collection.partitions[request.partition_name or "_default"]
            }
            return self._add(request, leave_out=there)
        everywhere = "an upsert replaces the key in every partition" in self.flaws
        self._remove(collection, self._keys(request), "" if everywhere else request.partition_name or "_default")
        return self._add(request)

    def _keys(self, request: Any) -> set[object]:
        primary = self._collection(request).primary.name
        return {
            _value(_cell(column, place))
            for column in request.fields_data
            if column.field_name == primary
            for place in range(request.num_rows)
        }

    def _add(self, request: Any, leave_out: Container[object] = ()) -> Any:
        collection = self._collection(request)
        primary = collection.primary
        partition = "" if "writes ignore partitions" in self.flaws else request.partition_name
        columns = list(request.fields_data)
        if primary.autoID and any(column.field_name == primary.name for column in columns):
            return pb.MutationResult(status=pb.Status(code=1, reason="the key is made here"))
        answer = pb.MutationResult(insert_cnt=request.num_rows)
        for place in range(request.num_rows):
            row = {column.field_name: _cell(column, place) for column in columns}
            if primary.autoID:
                self.next_id += 1
                row[primary.name] = pb.FieldData(type=5, field_name=primary.name)
                row[primary.name].scalars.long_data.data.append(self.next_id)
                answer.ids.int_id.data.append(self.next_id)
            if "keys are cut to 27 characters" in self.flaws and primary.data_type == VARCHAR:
                data = row[primary.name].scalars.string_data.data
                data[0] = data[0][:27]
            if _value(row[primary.name]) in leave_out:
                continue
            collection.partitions[partition or "_default"].append(row)
            if "writes go to the default partition too" in self.flaws:
                collection.partitions["_default"].append(row)
        return answer

    def _remove(self, collection: Collection, keys: set[object], partition: str) -> None:
        for name, rows in collection.partitions.items():
            if partition in ("", name):
                rows[:] = [row for row in rows if _value(row[collection.primary.name]) not in keys]

    def _Delete(self, message: bytes) -> Any:
        request = pb.DeleteRequest.FromString(message)
        collection = self._collection(request)
        condition = parse(request.expr)
        partition = "" if "a delete ignores its partition" in self.flaws else request.partition_name
        named = {name: rows for name, rows in collection.partitions.items() if partition in ("", name)}
        for rows in {} if "a delete does nothing" in self.flaws else named:
            named[rows][:] = [row for row in named[rows] if not _holds(condition, row)]
        return pb.MutationResult()

    def _found(self, request: Any, text: str, flaw: str) -> list[Row]:
        collection = self._collection(request)
        wanted = [] if "reads ignore partitions" in self.flaws else list(request.partition_names)
        rows = [row for name in wanted or collection.partitions for row in collection.partitions[name]]
        return [row for row in rows if not text or flaw in self.flaws or _holds(parse(text), row)]

    def _Query(self, message: bytes) -> Any:
        request = pb.QueryRequest.FromString(message)
        answer = pb.QueryResults()
        if list(request.output_fields) == ["count(*)"]:
            column = answer.fields_data.add(type=5, field_name="count(*)")
            column.scalars.long_data.data.append(len(self._found(request, request.expr, "counts ignore filters")))
            return answer
        found = self._found(request, request.expr, "reads ignore filters")
        if "a query misses a row" in self.flaws and request.expr:
            found = found[1:]
        primary = self._collection(request).primary.name
        seen: dict[object, Row] = {_value(row[primary]): row for row in found}  # engines show a key once
        answer.fields_data.extend(_columns(seen.values()))
        assert rows_of(answer.fields_data, primary) is not None
        return answer

    def _Search(self, message: bytes) -> Any:
        request = pb.SearchRequest.FromString(message)
        found = self._found(request, request.dsl, "searches ignore filters")
        if "searches find nothing" in self.flaws:
            found = []
        answer = pb.SearchResults()
        answer.results.topks.append(len(found))
        answer.results.fields_data.extend(
            column for column in _columns(found) if column.field_name in request.output_fields
        )
        for row in found:
            key = _value(row[self._collection(request).primary.name])
            if isinstance(key, str):
                answer.results.ids.str_id.data.append(key)
            else:
                answer.results.ids.int_id.data.append(key)  # type: ignore[arg-type]
        return answer


def _cell(column: pb.FieldData, place: int) -> pb.FieldData:
    """One row of a column, as a column of one row."""
    cell = pb.FieldData(type=column.type, field_name=column.field_name)
    if column.WhichOneof("field") == "vectors":
        dim = column.vectors.dim
        cell.vectors.dim = dim
        cell.vectors.float_vector.data.extend(column.vectors.float_vector.data[place * dim : (place + 1) * dim])
        return cell
    member = column.scalars.WhichOneof("data")
    assert member is not None
    getattr(cell.scalars, member).data.append(getattr(column.scalars, member).data[place])
    return cell


def _columns(rows: Iterable[Row]) -> Iterator[pb.FieldData]:
    joined: dict[str, pb.FieldData] = {}
    for row in rows:
        for name, cell in row.items():
            if name in joined:
                joined[name].MergeFrom(cell)
            else:
                joined[name] = pb.FieldData()
                joined[name].CopyFrom(cell)
    yield from joined.values()


def _value(cell: pb.FieldData) -> object:
    member = cell.scalars.WhichOneof("data")
    assert member is not None
    return getattr(cell.scalars, member).data[0]


def _holds(node: Any, row: Row) -> bool:
    if isinstance(node, nodes.And):
        return all(_holds(term, row) for term in node.terms)
    if isinstance(node, nodes.Comparison):
        assert node.operator in ("==", "!=")
        assert isinstance(node.left, nodes.Ref)
        assert isinstance(node.right, nodes.Literal)
        return (_value(row[node.left.name]) == node.right.value) is (node.operator == "==")
    assert isinstance(node, nodes.Membership)
    assert isinstance(node.values, nodes.Values)
    return _value(row[node.ref.name]) in node.values.values
