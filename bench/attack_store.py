"""One real Milvus with two tenants' look-alike rows behind tenantry, and the operator's own view of it.

Each tenant has the same primary keys; every text of a row says whose it is, so that a leak can be told from an answer's
bytes. Under `keyprefix` and `partition` the operator has made a shared collection `notes`; under `collection` and
`database` each tenant makes its own. `solo` (bench/attack_alone.py) holds acme's rows alone, without tenantry.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
from tenantry.core.vector import scope
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.grpc_frame import write_message

from bench.stack import KEYS, Client, checked, tenantry, when_ready
from tools import milvus_engines

OURS, THEIRS = "acme", "globex"
NOTES, SCRATCH, SOLO = "notes", "scratch", "solo"
ROWS = 12
INT64, VARCHAR, ARRAY, JSON, DOUBLE, FLOAT_VECTOR = 5, 21, 22, 23, 11, 101
SHARED = ("keyprefix", "partition")
EVENTUALLY, STRONG = 3, 0
ALL = "price >= 0"
MARK = "row of "
"""In front of the tenant's name in every text of its rows; no client sends that."""

NO_HITS = "search result is empty"
"""Milvus Lite 2.5.1 says this, and that all is well."""


class Engine:
    """A running engine, tenantry before it, and clients of both."""

    def __init__(self, engine: milvus_engines.Engine, isolation: str, address: str) -> None:
        self.kind, self.version, self.isolation = engine.kind, engine.version, isolation
        self.operator = Client(engine.address)
        self.address = address
        self._clients = threading.local()

    def client(self, tenant: str = OURS) -> Client:
        """Return a client of this tenant, one for each thread."""
        name = f"of_{tenant}"
        if not hasattr(self._clients, name):
            setattr(self._clients, name, Client(self.address, key=KEYS[tenant]))
        found: Client = getattr(self._clients, name)
        return found

    @property
    def own(self) -> bool:
        """Whether collections are the tenants' own."""
        return self.isolation not in SHARED

    @property
    def text_keys(self) -> bool:
        """Whether primary keys are texts."""
        return self.isolation == "keyprefix"

    def key(self, number: int) -> Any:
        """Return a primary key as a client writes it."""
        return f"k{number}" if self.text_keys else number

    def send(self, method: str, request: Any, tenant: str | None = OURS) -> bytes:
        """Send a message as a tenant, or as the operator (None)."""
        who = self.operator if tenant is None else self.client(tenant)
        return who.call(method, write_message(request.SerializeToString()))

    def insert(self, tenant: str, *, method: str = "Insert", name: str = NOTES, rows: range | None = None) -> bytes:
        """Write rows of a tenant."""
        return self.send(method, self.rows(tenant, method, name, rows or range(ROWS)), tenant)

    def rows(self, tenant: str, method: str, name: str, numbers: range) -> Any:
        """Return an Insert or Upsert of rows as a client sends it."""
        request = (pb.InsertRequest if method == "Insert" else pb.UpsertRequest)(collection_name=name)
        request.num_rows = len(numbers)
        add = request.fields_data.add
        if self.text_keys:
            add(type=VARCHAR, field_name="id").scalars.string_data.data.extend(self.key(n) for n in numbers)
        else:
            add(type=INT64, field_name="id").scalars.long_data.data.extend(numbers)
        add(type=DOUBLE, field_name="price").scalars.double_data.data.extend(n * 1.5 for n in numbers)
        add(type=VARCHAR, field_name="category").scalars.string_data.data.extend("abc"[n % 3] for n in numbers)
        texts = [f"{MARK}{tenant} {('red shoes', 'its', 'blue shoes')[n % 3]} {n}" for n in numbers]
        add(type=VARCHAR, field_name="text").scalars.string_data.data.extend(texts)
        tags = add(type=ARRAY, field_name="tags").scalars.array_data
        tags.element_type = VARCHAR
        for n in numbers:
            tags.data.add().string_data.data.extend(["x", "y"][: n % 3])
        documents = [b'{"a": %d, "b": {"c": "x"}, "list": [1, %d]}' % (n, n) for n in numbers]
        add(type=JSON, field_name="meta").scalars.json_data.data.extend(documents)
        vectors = add(type=FLOAT_VECTOR, field_name="vec").vectors
        vectors.dim = 4
        vectors.float_vector.data.extend(value for n in numbers for value in (n, 1.0, 0.0, 0.5))
        dynamic = add(type=JSON, field_name="$meta", is_dynamic=True)
        dynamic.scalars.json_data.data.extend(b'{"color": "red", "size": %d}' % n for n in numbers)
        return request

    def query(
        self, text: str, *, name: str = NOTES, level: int = EVENTUALLY, fields: tuple[str, ...] = ("text",)
    ) -> Any:
        """Return a Query as a client sends it."""
        request = pb.QueryRequest(
            collection_name=name, expr=text, output_fields=fields, consistency_level=level, guarantee_timestamp=1
        )
        request.query_params.add(key="limit", value="100")
        return request

    def keys(self, answer: bytes) -> list[Any] | None:
        """Return the primary keys of a Query's answer, in order; None when the engine refused."""
        results = pb.QueryResults.FromString(answer)
        if results.status.code or results.status.error_code:
            return None
        for column in results.fields_data:
            if column.field_name == "id":
                data = column.scalars.string_data.data if self.text_keys else column.scalars.long_data.data
                return sorted(data)
        return []

    def search(self, text: str, *, name: str = NOTES, **more: Any) -> Any:
        """Return a Search for all rows, nearest first, as a client sends it."""
        vector = pb.PlaceholderValue(tag="$0", type=FLOAT_VECTOR, values=[b"\x00\x00\x80?" * 4])
        fields: dict[str, Any] = {
            "dsl": text, "dsl_type": 1, "nq": 1, "output_fields": ["text"], "consistency_level": EVENTUALLY,
            "placeholder_group": pb.PlaceholderGroup(placeholders=[vector]).SerializeToString(),
            "guarantee_timestamp": 1,
        }  # fmt: skip
        request = pb.SearchRequest(collection_name=name, **fields | more)
        parameters = {"anns_field": "vec", "topk": "100", "params": "{}", "metric_type": "L2", "round_decimal": "-1"}
        for key, value in parameters.items():
            request.search_params.add(key=key, value=value)
        return request

    def found(self, answer: bytes) -> list[Any] | None:
        """Return the primary keys of a Search's answer, in order; None when the engine refused."""
        made = pb.SearchResults.FromString(answer)
        ids = made.results.ids
        if made.status.reason.startswith(NO_HITS):
            return []
        if made.status.code or made.status.error_code:
            return None
        return sorted(ids.str_id.data if self.text_keys else ids.int_id.data)

    def theirs(self, name: str = NOTES) -> list[Any]:
        """Return the primary keys and texts of globex's rows, as the operator reads them from the engine."""
        return self.rows_of(THEIRS, name)

    def rows_of(self, tenant: str, name: str = NOTES) -> list[Any]:
        """Return the primary keys and texts of a tenant's rows, as the operator reads them from the engine."""
        database = scope.database_of(tenant) if self.isolation == "database" else ""
        physical = scope.collection_of(tenant, name) if self.isolation == "collection" else name
        request = self.query(f'tenant_id == "{tenant}"', name=physical, level=STRONG, fields=("id", "text"))
        request.db_name, request.guarantee_timestamp = database, 0
        results = pb.QueryResults.FromString(self.send("Query", request, None))
        if results.status.code or results.status.error_code:
            raise RuntimeError(f"the operator cannot read {physical}: {results.status.reason}")
        columns = {column.field_name: column.scalars for column in results.fields_data}
        if "id" not in columns or "text" not in columns:
            return []
        keys = columns["id"].string_data.data if self.text_keys else columns["id"].long_data.data
        return sorted(zip(keys, columns["text"].string_data.data, strict=True))

    def their_collection(self) -> int:
        """Return the engine's own id of the collection that holds globex's rows."""
        physical = scope.collection_of(THEIRS, NOTES) if self.isolation == "collection" else NOTES
        database = scope.database_of(THEIRS) if self.isolation == "database" else ""
        request = pb.DescribeCollectionRequest(db_name=database, collection_name=physical)
        return pb.DescribeCollectionResponse.FromString(self.send("DescribeCollection", request, None)).collectionID

    def make(self, name: str, tenant: str | None) -> None:
        """Make a collection, indexed and loaded; as the operator with the tenant field in it."""
        schema = pb.CollectionSchema(name=name, enable_dynamic_field=True)
        primary = schema.fields.add(name="id", data_type=VARCHAR if self.text_keys else INT64, is_primary_key=True)
        texts = [primary] if self.text_keys else []
        schema.fields.add(name="price", data_type=DOUBLE)
        names = ("category", "text") if tenant else ("category", "text", "tenant_id")
        texts += [schema.fields.add(name=field, data_type=VARCHAR) for field in names]
        for field in texts:
            field.type_params.add(key="max_length", value="256")
        tags = schema.fields.add(name="tags", data_type=ARRAY, element_type=VARCHAR)
        tags.type_params.add(key="max_capacity", value="4")
        tags.type_params.add(key="max_length", value="16")
        schema.fields.add(name="meta", data_type=JSON)
        schema.fields.add(name="vec", data_type=FLOAT_VECTOR).type_params.add(key="dim", value="4")
        create = pb.CreateCollectionRequest(collection_name=name, schema=schema.SerializeToString(), shards_num=1)
        index = pb.CreateIndexRequest(collection_name=name, field_name="vec", index_name="vec")
        index.extra_params.add(key="index_type", value="FLAT")
        index.extra_params.add(key="metric_type", value="L2")
        checked(self.send("CreateCollection", create, tenant))
        checked(self.send("CreateIndex", index, tenant))
        checked(self.send("LoadCollection", pb.LoadCollectionRequest(collection_name=name), tenant))

    def fill(self) -> None:
        """Make what is not there yet, and write the rows of both tenants."""
        for name in (NOTES, SCRATCH):
            for tenant in (OURS, THEIRS):
                if self.isolation not in SHARED:
                    self.make(name, tenant)
                self.insert(tenant, name=name)
        self.until(lambda: all(len(self.rows_of(who)) == ROWS for who in KEYS))

    def until(self, holds: Callable[[], bool], seconds: float = 60) -> None:
        """Wait until it holds."""
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.kind}, {self.isolation}: not all rows are to be seen after {seconds} s")
            time.sleep(0.1)


@contextlib.contextmanager
def running(kind: milvus_engines.Kind, isolation: str, folder: Path, mutant: str = "") -> Iterator[Engine]:
    """Run an engine with tenantry before it, rows inside."""
    with contextlib.ExitStack() as exits:
        engine = exits.enter_context(milvus_engines.start(kind, folder / "engine"))
        store: dict[str, Any] = {"kind": "milvus", "endpoints": [engine.address], "isolation": isolation}
        if isolation in SHARED:
            collection = {"primaryField": "id"} if isolation == "keyprefix" else {}
            store["collections"] = {NOTES: collection, SCRATCH: collection}
            for name in (NOTES, SCRATCH):
                Engine(engine, isolation, "").make(name, None)
        made = Engine(engine, isolation, exits.enter_context(tenantry(folder / "tenantry", store, mutant)))
        when_ready(made.client())
        made.fill()
        yield made


def foreign(answer: bytes, sent: bytes) -> bool:
    """Return whether an answer holds what is globex's: a row's text, or its name or token that were not sent.

    Engines repeat a filter that they refuse, so that a client's own words come back. Tokens are no secret.
    """
    names = (THEIRS.encode(), scope.token_of(THEIRS).encode())
    return f"{MARK}{THEIRS}".encode() in answer or any(name in answer and name not in sent for name in names)


def refused(error: grpc.RpcError) -> str | None:
    """Return the status by which tenantry refused; None for anything else, a withheld answer included."""
    name: str = error.code().name
    return (
        name if name in ("INVALID_ARGUMENT", "PERMISSION_DENIED", "UNAUTHENTICATED") and not withheld(error) else None
    )


def withheld(error: grpc.RpcError) -> bool:
    """Return whether an answer was withheld: the third lock held, so the first two did not."""
    return "withheld" in (error.details() or "")
