"""Bodies through Envoy and a sidecar in a process of its own: what passes, and what refusing costs."""

import gzip
import io
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from dataplane.harness import KEYS, Files, envoy, rules
from dataplane.processes import sockets, tenantry
from dataplane.upstream import Upstream
from dataplane.wire import Response, ask, request
from dataplane.wire_h2 import ask_h2
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.milvus import SERVICE

from stores.behind import FLOAT_VECTOR, INT64, Tenant, query, store
from tools.milvus_engines import Engine

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1024 * 1024
MAX_BYTES = 64 * MIB
WIDE = 4096
"""Floats in a row, so that a large Insert has few rows."""

CPU_SECONDS = 0.05
GROWTH_BYTES = 64 * MIB
TIMES, ROUNDS = 5, 3


class Sidecar:
    """The process; `costs` measures it."""

    def __init__(self, address: str, pid: int) -> None:
        self.address = address
        self._process = psutil.Process(pid)

    async def costs(self, act: Callable[[], Awaitable[Response]]) -> tuple[Response, float, int]:
        """The last answer of a few, CPU seconds of one, and the most bytes by which one made the process larger.

        The least of a few rounds, of seconds: what else the machine did in one is not of the code.
        """
        answer = await act()
        least, growth = float("inf"), 0
        for _ in range(ROUNDS):
            answer, seconds, grown = await self._round(act)
            least, growth = min(least, seconds), max(growth, grown)
        return answer, least, growth

    async def _round(self, act: Callable[[], Awaitable[Response]]) -> tuple[Response, float, int]:
        cpu, growth = self._cpu(), 0
        for _ in range(TIMES):
            before = self._process.memory_info().rss
            Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")  # the high-water mark begins anew
            answer = await act()
            status = Path(f"/proc/{self._process.pid}/status").read_text()
            growth = max(growth, int(status.partition("VmHWM:")[2].split()[0]) * 1024 - before)
        return answer, (self._cpu() - cpu) / TIMES, growth

    def _cpu(self) -> float:
        times = self._process.cpu_times()
        return times.user + times.system


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sidecar(lite3: Engine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sidecar]:
    folder = tmp_path_factory.mktemp("bodies")
    files = Files(folder=folder)
    async with AsyncExitStack() as exits:
        upstream = await exits.enter_async_context(Upstream().running())
        docs = store("milvus", lite3.address, "collection")
        files.save(rules(upstream, stores={"docs": docs}, limits={"maxBodyBytes": MAX_BYTES}))
        socket = str(exits.enter_context(sockets()) / "s")
        serve = ("serve", files.rules, "--secrets", files.secrets, "--listen", f"unix:{socket}",
                 "--admin", "127.0.0.1:0", "--state", files.state)  # fmt: skip
        process = await exits.enter_async_context(tenantry(folder, *serve))
        await process.line("a store keeps tenants apart", 60)
        address, _ = await exits.enter_async_context(envoy(files, (socket,)))
        yield Sidecar(address, process.process.pid)


@pytest.mark.parametrize("mib", [1, 16, 60])
async def test_large_inserts_arrive_whole(sidecar: Sidecar, mib: int) -> None:
    name, count = f"wide_{mib}", mib * MIB // (4 * WIDE + 64)
    async with Tenant(sidecar.address, "acme") as acme:
        await acme.call("CreateCollection", wide(name))
        index = pb.CreateIndexRequest(collection_name=name, field_name="vector", index_name="vector")
        for key, value in (("index_type", "FLAT"), ("metric_type", "L2")):
            index.extra_params.add(key=key, value=value)
        await acme.call("CreateIndex", index)
        await acme.call("LoadCollection", pb.LoadCollectionRequest(collection_name=name))
        insert = pb.InsertRequest(collection_name=name, num_rows=count)
        insert.fields_data.add(type=INT64, field_name="id").scalars.long_data.data.extend(range(count))
        vectors = insert.fields_data.add(type=FLOAT_VECTOR, field_name="vector").vectors
        vectors.dim = WIDE
        vectors.float_vector.data.extend([0.5] * (WIDE * count))
        assert insert.ByteSize() > 0.95 * mib * MIB
        assert (await acme.call("Insert", insert, timeout=60)).insert_cnt == count
        counted = await acme.call("Query", query(name, "", fields=["count(*)"]))
        assert counted.fields_data[0].scalars.long_data.data == [count]
        await acme.call("DropCollection", pb.CollectionRequest(collection_name=name))


def wide(name: str) -> pb.CreateCollectionRequest:
    schema = pb.CollectionSchema(name=name)
    schema.fields.add(name="id", data_type=INT64, is_primary_key=True)
    schema.fields.add(name="vector", data_type=FLOAT_VECTOR).type_params.add(key="dim", value=str(WIDE))
    return pb.CreateCollectionRequest(collection_name=name, schema=schema.SerializeToString(), shards_num=1)


def bomb(packed_bytes: int = 10 * MIB) -> bytes:
    """A gzip stream of about so many bytes that inflates to a thousand times as many: one piece of zeros repeated."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    head = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    piece = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + piece * (packed_bytes // len(piece)) + packer.flush()


async def test_a_gzip_bomb_is_refused_early(sidecar: Sidecar) -> None:
    packed = bomb()
    assert 9 * MIB < len(packed) < 11 * MIB
    with gzip.open(io.BytesIO(packed)) as inflated:  # it is one, as far as anybody wants to look
        assert inflated.read(16 * MIB) == bytes(16 * MIB)
    body = b"\x01" + len(packed).to_bytes(4) + packed
    headers = [("content-type", "application/grpc"), ("te", "trailers"), ("grpc-encoding", "gzip")]

    async def send() -> Response:
        return await ask_h2(
            sidecar.address, headers=headers, body=body, target=f"{SERVICE}Query", key=KEYS["acme"], timeout=30
        )

    answer, cpu, growth = await sidecar.costs(send)
    print(f"bomb: {cpu * 1e3:.0f} ms CPU, {growth / MIB:.0f} MiB")
    assert "too large when inflated" in str(answer.header("grpc-message"))
    assert cpu < CPU_SECONDS
    assert growth < GROWTH_BYTES


async def test_json_nested_deeply_is_refused_early(sidecar: Sidecar) -> None:
    nested = b"[" * 10_000 + b"]" * 10_000
    body = b'{"collectionName": "notes", "filter": "", "data": ' + nested + b"}"
    data = request(
        "/v2/vectordb/entities/search", headers=[("content-type", "application/json")], body=body, key=KEYS["acme"]
    )
    answer, cpu, growth = await sidecar.costs(lambda: ask(sidecar.address, data))
    print(f"nested: {cpu * 1e3:.0f} ms CPU, {growth / MIB:.0f} MiB")
    assert answer.status == 400
    assert cpu < CPU_SECONDS
    assert growth < GROWTH_BYTES
