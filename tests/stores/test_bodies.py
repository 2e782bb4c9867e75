"""Bodies through Envoy and a sidecar in a process of its own: what passes, and what refusing costs."""

import gzip
import io
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from dataplane.harness import KEYS, Files, envoy, rules
from dataplane.processes import sockets, tenantry
from dataplane.upstream import Upstream
from dataplane.wire import ask, request
from dataplane.wire_h2 import ask_h2
from google.protobuf.message import Message
from msgspec import Struct
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.milvus import SERVICE

from stores.behind import FLOAT_VECTOR, INT64, RefusedError, Tenant, insertion, query, rows, search, store
from tools.milvus_engines import Engine

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1024 * 1024
MAX_BYTES = 64 * MIB
WIDE = 4096
"""Floats in a row, so that a large Insert has few rows."""

CPU_SECONDS = 0.05
GROWTH_BYTES = 64 * MIB
TIMES, ROUNDS = 5, 3


class Refusal(Struct, frozen=True, kw_only=True):
    """What was said, the CPU of one refusal, and by how much the first made the process larger, and the others."""

    said: str
    cpu_seconds: float
    growth_bytes: int
    further_bytes: int

    def is_cheap(self, what: str) -> None:
        growth, further = self.growth_bytes / MIB, self.further_bytes / MIB
        print(f"{what}: {self.cpu_seconds * 1e3:.0f} ms CPU, {growth:.1f} MiB, {further:.1f} MiB for all others")
        assert self.cpu_seconds < CPU_SECONDS
        assert self.growth_bytes < GROWTH_BYTES
        assert self.further_bytes < GROWTH_BYTES


class Sidecar:
    """The process; `refuses` measures it."""

    def __init__(self, address: str, pid: int) -> None:
        self.address = address
        self._process = psutil.Process(pid)

    async def refuses(self, act: Callable[[], Awaitable[str]]) -> Refusal:
        """Let an act be refused a few times; it returns what was said.

        CPU is the least of a few rounds after the first refusal: what else the machine did in one is not of the code.
        """
        before = self._process.memory_info().rss
        said = await act()
        first, seconds = self._highest(), []
        for _ in range(ROUNDS):
            begin = self._cpu()
            for _ in range(TIMES):
                assert await act() == said
            seconds.append((self._cpu() - begin) / TIMES)
        return Refusal(
            said=said, cpu_seconds=min(seconds), growth_bytes=first - before, further_bytes=self._highest() - first
        )  # fmt: skip

    def _highest(self) -> int:
        """The most bytes of memory that the process has had."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def _cpu(self) -> float:
        times = self._process.cpu_times()
        return times.user + times.system


@asynccontextmanager
async def running(engine: Engine, folder: Path) -> AsyncIterator[Sidecar]:
    files = Files(folder=folder)
    async with AsyncExitStack() as exits:
        upstream = await exits.enter_async_context(Upstream().running())
        docs = store("milvus", engine.address, "collection")
        files.save(rules(upstream, stores={"docs": docs}, limits={"maxBodyBytes": MAX_BYTES}))
        socket = str(exits.enter_context(sockets()) / "s")
        serve = ("serve", files.rules, "--secrets", files.secrets, "--listen", f"unix:{socket}",
                 "--admin", "127.0.0.1:0", "--state", files.state)  # fmt: skip
        process = await exits.enter_async_context(tenantry(folder, *serve))
        await process.line("a store keeps tenants apart", 60)
        address, _ = await exits.enter_async_context(envoy(files, (socket,)))
        yield Sidecar(address, process.process.pid)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sidecar(lite3: Engine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sidecar]:
    async with running(lite3, tmp_path_factory.mktemp("bodies")) as one:
        yield one


@pytest_asyncio.fixture(loop_scope="module")
async def fresh(lite3: Engine, tmp_path: Path) -> AsyncIterator[Sidecar]:
    """A process that has had no large body yet: memory that it kept of one would hide what the next one takes."""
    async with running(lite3, tmp_path) as one:
        yield one


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


def bomb(inflated_mib: int = 10 * 1024) -> bytes:
    """A gzip stream that inflates to so much, and is a thousandth of it: one piece of zeros, repeated."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    head = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    piece = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + piece * (inflated_mib - 1) + packer.flush()


async def test_a_gzip_bomb_is_refused_early(fresh: Sidecar) -> None:
    packed = bomb()
    assert 10 * MIB < len(packed) < 11 * MIB
    with gzip.open(io.BytesIO(packed)) as inflated:  # it is one, as far as anybody wants to look
        assert inflated.read(16 * MIB) == bytes(16 * MIB)
    body = b"\x01" + len(packed).to_bytes(4) + packed
    headers = [("content-type", "application/grpc"), ("te", "trailers"), ("grpc-encoding", "gzip")]

    async def send() -> str:
        answer = await ask_h2(
            fresh.address, headers=headers, body=body, target=f"{SERVICE}Query", key=KEYS["acme"], timeout=30
        )
        return str(answer.header("grpc-message"))

    refusal = await fresh.refuses(send)
    assert "too large when inflated" in refusal.said
    refusal.is_cheap("bomb")


DEPTH = 10_000


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


NESTED_BODIES = {
    "entities/search": '{"collectionName": "deep", "filter": "", "data": %s}',
    "entities/query": '{"collectionName": "deep", "filter": "", "x": {"y": %s}}',
    "entities/insert": '{"collectionName": "deep", "data": [{"id": 1, "vector": [], "note": %s}]}',
}
"""By REST path, what is nested 10,000 deep in it."""


@pytest.mark.parametrize("path", NESTED_BODIES)
async def test_a_body_nested_deeply_is_refused_early(fresh: Sidecar, path: str) -> None:
    body = (NESTED_BODIES[path] % nested(DEPTH)).encode()
    headers = [("content-type", "application/json")]
    data = request(f"/v2/vectordb/{path}", headers=headers, body=body, key=KEYS["acme"])

    async def send() -> str:
        answer = await ask(fresh.address, data)
        return f"{answer.status} {answer.body.decode()}"

    refusal = await fresh.refuses(send)
    assert refusal.said.startswith("400 ")
    assert "nested more than 32 deep" in refusal.said
    refusal.is_cheap(f"nested {path}")


def nested_members(depth: int) -> pb.InsertRequest:
    insert = insertion(pb.InsertRequest, "deep", rows("acme", [1]), dynamic=True)
    (members,) = (column for column in insert.fields_data if column.is_dynamic)
    members.scalars.json_data.data[0] = b'{"text": %s}' % nested(depth).encode()
    return insert


def nested_parameters(depth: int) -> pb.SearchRequest:
    parameters = search("deep", 3)
    (pair,) = (pair for pair in parameters.search_params if pair.key == "params")
    pair.value = f'{{"ef": {nested(depth)}}}'
    return parameters


@pytest.mark.parametrize(
    ("method", "build", "reason"),
    [
        ("Insert", nested_members, "The dynamic field of row 0 is nested too deep."),
        ("Search", nested_parameters, '"params" is there twice, or its value is too long.'),
    ],
)
async def test_json_nested_deeply_in_a_message_is_refused_early(
    fresh: Sidecar, method: str, build: Callable[[int], Message], reason: str
) -> None:
    async with Tenant(fresh.address, "acme", dynamic=True) as acme:

        async def send(depth: int = DEPTH) -> str:
            with pytest.raises(RefusedError) as refused:
                await acme.call(method, build(depth))
            return f"{refused.value.code.name}: {refused.value.details}"

        refusal = await fresh.refuses(send)
        assert refusal.said.startswith(f"INVALID_ARGUMENT: {reason}")
        # A few levels are no fault; there just is no such collection.
        assert reason not in await send(3)
    refusal.is_cheap(f"nested in {method}")
