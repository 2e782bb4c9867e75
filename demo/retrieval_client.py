"""A retrieval client of the demo: plain pymilvus. `python -m demo.retrieval_client`, in the SDK's own environment.

It does what it is told line by line (`retrieval_wire`), as a tenant's application would, and knows nothing of
tenancy: an address, its key, the name of its collection. The operator runs the same program against the engine itself.
"""

import sys
import time
import warnings

import pymilvus
from pymilvus import DataType, MilvusClient

from demo.retrieval_attacks import ATTACKS, Attacker
from demo.retrieval_wire import (
    Ask,
    Asked,
    Attack,
    Attacked,
    Connect,
    Failed,
    Fill,
    Hit,
    Look,
    Looked,
    Ready,
    Reply,
    Request,
    Row,
    Stored,
    encode,
    read_request,
)

FIELDS = ["title", "text"]
TIMEOUT_SECONDS = 15.0
MAX_CHARACTERS = 512
MAX_ROWS = 1000


def main() -> None:
    """Serve stdin until it ends."""
    warnings.filterwarnings("ignore")
    lines = iter(sys.stdin.buffer)
    connect = read_request(next(lines))
    if not isinstance(connect, Connect):
        raise SystemExit("the first line says where to connect")
    try:
        client = _Client(connect)
        _answer(Ready(attacks=list(ATTACKS), version=pymilvus.__version__))
    except Exception as error:  # noqa: BLE001  # whatever it is, the demo tells it
        _answer(Failed(error=_told(error)))
        return
    for line in lines:
        try:
            _answer(client.do(read_request(line)))
        except Exception as error:  # noqa: BLE001  # as above
            _answer(Failed(error=_told(error)))


class _Client:
    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._name = connect.collection
        self._milvus = MilvusClient(uri=connect.uri, token=connect.key, timeout=TIMEOUT_SECONDS)
        self._rows: list[Row] = []

    def do(self, request: Request) -> Reply:
        if isinstance(request, Ask):
            return self._ask(request)
        if isinstance(request, Fill):
            return self._fill(request.rows)
        if isinstance(request, Attack):
            return self._attack(request.name)
        if isinstance(request, Look):
            return self._look()
        return Failed(error="already connected")

    def _fill(self, rows: list[Row]) -> Ready:
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=True)
        schema.add_field("id", DataType.INT64, is_primary=True)
        for field in FIELDS:
            schema.add_field(field, DataType.VARCHAR, max_length=MAX_CHARACTERS)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=len(rows[0].vector))
        index = MilvusClient.prepare_index_params()
        index.add_index("vector", index_type="AUTOINDEX", metric_type="COSINE")
        self._milvus.create_collection(self._name, schema=schema, index_params=index)
        self._rows = rows
        self._milvus.insert(self._name, [_plain(row) for row in rows])
        self._milvus.load_collection(self._name)
        return Ready()

    def _ask(self, ask: Ask) -> Asked:
        begin = time.perf_counter()
        try:
            found = self._milvus.search(self._name, data=[ask.vector], limit=ask.limit, output_fields=FIELDS)
            hits = [Hit(id=hit["id"], **{field: hit["entity"][field] for field in FIELDS}) for hit in found[0]]
        except Exception as error:  # noqa: BLE001  # a failed question shall be seen
            return Asked(error=_told(error))
        return Asked(hits=hits, ms=round((time.perf_counter() - begin) * 1e3, 2))

    def _attack(self, name: str) -> Attacked:
        attacker = Attacker(self._milvus, self._connect, [_plain(row) for row in self._rows])
        try:
            return attacker.attempt(name)
        finally:
            attacker.close()

    def _look(self) -> Looked:
        rows = []
        for name in self._milvus.list_collections():
            self._milvus.load_collection(name)
            fields = [field["name"] for field in self._milvus.describe_collection(name)["fields"]]
            column = next((field for field in fields if field == "tenant_id"), "")
            wanted = [field for field in ("id", "text", column) if field in fields]
            rows += [
                Stored(collection=name, tenant=row.get(column, ""), id=row.get("id", 0), text=row.get("text", ""))
                for row in self._milvus.query(
                    name, filter="", limit=MAX_ROWS, output_fields=wanted, consistency_level="Strong"
                )
            ]
        return Looked(rows=rows)


def _plain(row: Row) -> dict[str, object]:
    return {"id": row.id, "title": row.title, "text": row.text, "vector": row.vector}


def _answer(reply: Reply) -> None:
    sys.stdout.buffer.write(encode(reply) + b"\n")
    sys.stdout.buffer.flush()


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:600]


if __name__ == "__main__":
    main()
