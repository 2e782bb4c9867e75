"""One real Milvus with two tenants' look-alike rows behind tenantry, and the operator's own view of it.

Each tenant has the same primary keys; every text of globex's holds its name, so that a leak can be told from the bytes
of an answer. Under `keyprefix` and `partition` the operator has made a shared collection `notes`; under `collection`
and `database` each tenant makes its own. `solo` is the operator's: it holds acme's rows alone, as they would be without
tenantry, for filters to be compared with.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
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
INT64, VARCHAR, JSON, DOUBLE, FLOAT_VECTOR = 5, 21, 23, 11, 101
SHARED = ("keyprefix", "partition")
EVENTUALLY, STRONG = 3, 0


class Engine:
    """A running engine, tenantry before it, and clients of both."""

    def __init__(self, engine: milvus_engines.Engine, isolation: str, address: str) -> None:
        self.kind, self.version, self.isolation = engine.kind, engine.version, isolation
        self.operator = Client(engine.address)
        self._address = address
        self._clients = threading.local()

    def client(self, tenant: str = OURS) -> Client:
        """Return a client of this tenant, one for each thread."""
        name = f"of_{tenant}"
        if not hasattr(self._clients, name):
            setattr(self._clients, name, Client(self._address, key=KEYS[tenant]))
        found: Client = getattr(self._clients, name)
        return found

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
        texts = [f"{tenant} {('red shoes', 'its', 'blue shoes')[n % 3]} {n}" for n in numbers]
        add(type=VARCHAR, field_name="text").scalars.string_data.data.extend(texts)
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

    def theirs(self, name: str = NOTES) -> list[Any]:
        """Return the primary keys and texts of globex's rows, as the operator reads them from the engine."""
        database = scope.database_of(THEIRS) if self.isolation == "database" else ""
        physical = scope.collection_of(THEIRS, name) if self.isolation == "collection" else name
        request = self.query(f'tenant_id == "{THEIRS}"', name=physical, level=STRONG, fields=("id", "text"))
        request.db_name, request.guarantee_timestamp = database, 0
        results = pb.QueryResults.FromString(self.send("Query", request, None))
        columns = {column.field_name: column.scalars for column in results.fields_data}
        if results.status.code or "text" not in columns:
            raise RuntimeError(f"the operator cannot read {physical}: {results.status.reason}")
        keys = columns["id"].string_data.data if self.text_keys else columns["id"].long_data.data
        return sorted(zip(keys, columns["text"].string_data.data, strict=True))

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
        self.make(SOLO, None)
        solo = self.rows(OURS, "Insert", SOLO, range(ROWS))
        owner = solo.fields_data.add(type=VARCHAR, field_name="tenant_id")
        owner.scalars.string_data.data.extend([OURS] * ROWS)
        self.send("Insert", solo, None)
        self._until_seen()

    def _until_seen(self, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        every = "price >= 0"
        while True:
            seen = (
                self.keys(self.send("Query", self.query(every))),
                self.keys(self.send("Query", self.query(every), THEIRS)),
                self.keys(self.send("Query", self.query(every, name=SOLO), None)),
            )
            if all(keys is not None and len(keys) == ROWS for keys in seen):
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.kind}, {self.isolation}: not all rows are to be seen: {seen}")
            time.sleep(0.2)


@contextlib.contextmanager
def running(kind: milvus_engines.Kind, isolation: str, folder: Path) -> Iterator[Engine]:
    """Run an engine with tenantry before it, rows inside."""
    with contextlib.ExitStack() as exits:
        engine = exits.enter_context(milvus_engines.start(kind, folder / "engine"))
        store: dict[str, Any] = {"kind": "milvus", "endpoints": [engine.address], "isolation": isolation}
        if isolation in SHARED:
            collection = {"primaryField": "id"} if isolation == "keyprefix" else {}
            store["collections"] = {NOTES: collection, SCRATCH: collection}
            for name in (NOTES, SCRATCH):
                Engine(engine, isolation, "").make(name, None)
        made = Engine(engine, isolation, exits.enter_context(tenantry(folder / "tenantry", store)))
        when_ready(made.client())
        made.fill()
        yield made


def refused(error: grpc.RpcError) -> str | None:
    """Return the status by which tenantry refused; None for anything else."""
    name: str = error.code().name
    return name if name in ("INVALID_ARGUMENT", "PERMISSION_DENIED", "UNAUTHENTICATED") else None
