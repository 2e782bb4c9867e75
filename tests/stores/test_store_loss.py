"""The sidecar is killed again and again while tenants read and write: nothing reaches the engine without its guard.

Between Envoy and the engine stands a recorder, so what is judged is what the engine was asked, not what clients saw.
Each restart must serve within a second of the start of its process. That is asserted of the wall clock when the machine
was not busy with other things before; of the CPU that a start costs, always. Figures: out/test/stores_loss.json.
"""

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median

import grpc
import psutil
import pytest
from dataplane.harness import Files, envoy, rules
from dataplane.processes import sockets, tenantry
from dataplane.upstream import Upstream
from google.protobuf.message import Message
from msgspec import Struct
from tenantry.core.vector import canaries
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.scope import collection_of
from tenantry_testing.milvus_recorder import SERVICE, Call, Recorder, recording

from stores.behind import RefusedError, Row, Tenant, rows, store
from tools.milvus_engines import ROOT, Engine

DEEP = os.environ.get("DEEP") == "1"
KILLS = 100 if DEEP else 30
READY_SECONDS = 1.0
FIGURES = ROOT / "out" / "test" / "stores_loss.json"
SEED = 20_261_125
PAUSE_SECONDS = 0.02
"""Of each client between two questions: enough load for a kill to hit some, too little to slow what is measured."""

TENANTS = ("acme", "globex")
TEXTS = ("text != ''", "id in [1, 2, 3]", "text like 'acme%' or text like 'globex%'")
PLACES = {collection_of(tenant, "notes"): tenant for tenant in TENANTS}

GUARDED: dict[str, type[Message]] = {
    "Search": pb.SearchRequest,
    "Query": pb.QueryRequest,
    "Insert": pb.InsertRequest,
    "Delete": pb.DeleteRequest,
}
"""What reads or writes rows, among what these clients send."""


def unguarded(call: Call) -> bool:
    """Whether a call could reach rows of somebody else: not in a tenant's collection, or without its guard or stamp."""
    kind = GUARDED.get(call.method.removeprefix(SERVICE))
    if kind is None:
        return False
    request = kind.FromString(call.request)
    assert isinstance(request, pb.SearchRequest | pb.QueryRequest | pb.InsertRequest | pb.DeleteRequest)
    if canaries.PREFIX in request.collection_name:  # the sidecar's own proof of the engine
        return False
    tenant = PLACES.get(request.collection_name)
    if tenant is None:
        return True
    if isinstance(request, pb.InsertRequest):
        stamps = [column for column in request.fields_data if column.field_name == "tenant_id"]
        return [list(stamp.scalars.string_data.data) for stamp in stamps] != [[tenant] * request.num_rows]
    expr = request.dsl if isinstance(request, pb.SearchRequest) else request.expr
    guard = f'tenant_id == "{tenant}"'
    before = f"({guard}) and ("
    return expr != guard and not (expr.startswith(before) and closes_last(expr.removeprefix(before)))


def closes_last(rest: str) -> bool:
    """Whether a parenthesis that was opened before is closed by the last character. No client's text has any."""
    depth = 1
    for index, character in enumerate(rest):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth == 0:
            return index == len(rest) - 1
    return False


class Answer(Struct, frozen=True, kw_only=True):
    """A good one; moments are of the monotonic clock."""

    asked: float
    came: float


class Load:
    """Clients that never stop; `good` are the answers that came, `bad` how often each error did."""

    def __init__(self) -> None:
        self.good: list[Answer] = []
        self.bad: Counter[str] = Counter()
        self.foreign: list[Row] = []

    async def run(self, tenant: Tenant, act: Callable[[], Awaitable[list[Row]]]) -> None:
        while True:
            asked = time.monotonic()
            try:
                found = await act()
            except RefusedError as refused:
                self.bad[f"{refused.code.name} {refused.status}"] += 1
            else:
                self.good.append(Answer(asked=asked, came=time.monotonic()))
                self.foreign += [row for row in found if not row.text.startswith(tenant.name)]
            await asyncio.sleep(PAUSE_SECONDS)

    async def answered(self, since: float, seconds: float = 20) -> Answer:
        """The first good answer to a question asked after a moment."""
        async with asyncio.timeout(seconds):
            while not self.good or self.good[-1].asked < since:
                await asyncio.sleep(0.002)
        return min((answer for answer in self.good[-100:] if answer.asked >= since), key=lambda answer: answer.came)


@asynccontextmanager
async def under_load(address: str) -> AsyncIterator[Load]:
    load = Load()
    async with AsyncExitStack() as exits:
        tasks = []
        for name in TENANTS:
            tenant = await exits.enter_async_context(Tenant(address, name))
            acts = (*(reading(tenant, expr) for expr in TEXTS), writing(tenant))
            tasks += [asyncio.create_task(load.run(tenant, act)) for act in acts]
        try:
            yield load
        finally:
            for task in tasks:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(one, asyncio.CancelledError) for one in done), done


def reading(tenant: Tenant, expr: str) -> Callable[[], Awaitable[list[Row]]]:
    async def act() -> list[Row]:
        return [*await tenant.search("notes", expr=expr), *await tenant.query("notes", expr)]

    return act


def writing(tenant: Tenant) -> Callable[[], Awaitable[list[Row]]]:
    async def act() -> list[Row]:
        await tenant.insert("notes", rows(tenant.name, [101, 102]))
        await tenant.delete("notes", "id > 100")
        return []

    return act


@asynccontextmanager
async def before(engine: Engine, folder: Path) -> AsyncIterator[tuple[Recorder, str, tuple[str | Path, ...]]]:
    """Envoy before a sidecar that does not run yet, and the recorder before the engine.

    Envoy's clusters are in a file already, as in a mesh that brings them: a sidecar that has to write them starts later
    by the time that it takes to import Envoy's types.

    Yields the recorder, Envoy's address, and the arguments of the `tenantry` that is the sidecar.
    """
    files = Files(folder=folder)
    async with AsyncExitStack() as exits:
        recorder = exits.enter_context(recording(engine.address))
        upstream = await exits.enter_async_context(Upstream().running())
        files.save(rules(upstream, stores={"docs": store("milvus", recorder.address, "collection")}))
        socket = str(exits.enter_context(sockets()) / "s")
        address, _ = await exits.enter_async_context(envoy(files, (socket,)))
        yield recorder, address, (
            "serve", files.rules, "--secrets", files.secrets, "--listen", f"unix:{socket}", "--admin", "127.0.0.1:0",
            "--state", files.state,
        )  # fmt: skip


async def settle(address: str) -> None:
    """Make both tenants' collections, with the same keys; wait for the sidecar and its proof of the engine."""
    for name in TENANTS:
        async with Tenant(address, name) as tenant, asyncio.timeout(30):
            while True:
                try:
                    await tenant.make("notes")
                    break
                except RefusedError as refused:
                    if refused.code is not grpc.StatusCode.UNAVAILABLE:
                        raise
                    await asyncio.sleep(0.05)
            await tenant.insert("notes", rows(name, range(1, 21)))


def cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


@pytest.mark.timeout(600)
async def test_nothing_unguarded_reaches_the_engine_however_often_the_sidecar_is_killed(
    lite3: Engine, tmp_path: Path
) -> None:
    idle = os.getloadavg()[0] < (os.cpu_count() or 1) / 2
    chance = random.Random(SEED)
    wall, cpu = [], []
    async with before(lite3, tmp_path) as (recorder, address, serve):
        async with tenantry(tmp_path, *serve, name="first"):
            await settle(address)
        async with under_load(address) as load:
            for number in range(KILLS):
                begin = time.monotonic()
                async with tenantry(tmp_path, *serve, name=f"sidecar{number}") as sidecar:
                    answer = await load.answered(begin)
                    wall.append(answer.came - begin)
                    cpu.append(cpu_seconds(sidecar.process.pid))
                    await asyncio.sleep(chance.uniform(0.05, 0.4))
                # The end of the block is a SIGKILL.
    reached = Counter(call.method.removeprefix(SERVICE) for call in recorder.calls)
    bare = [call for call in recorder.calls if unguarded(call)]
    figures = {
        "kills": KILLS,
        "ready_seconds": {"median": round(median(wall), 3), "worst": round(max(wall), 3)},
        "ready_cpu_seconds": {"median": round(median(cpu), 3), "worst": round(max(cpu), 3)},
        "reached": {method: reached[method] for method in GUARDED},
        "unguarded": len(bare),
        "good_answers": len(load.good),
        "errors": dict(load.bad),
        "idle_before": idle,
    }
    FIGURES.parent.mkdir(parents=True, exist_ok=True)
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))

    assert bare == []
    assert load.foreign == []
    assert all(reached[method] > KILLS for method in GUARDED)
    # CPU time too is longer beside the other half of these tests, and on a slower day of a shared machine: the second
    # itself holds where it is idle, and elsewhere a start that computes for three is seen.
    assert median(cpu) < 3 * READY_SECONDS
    if idle:
        assert median(cpu) < READY_SECONDS
        assert median(wall) < READY_SECONDS


async def test_the_judge_sees_a_sidecar_that_guards_nothing(lite25: Engine, tmp_path: Path) -> None:
    """The control: with the filter's lock taken out, the recorder has what the judge calls unguarded.

    For acme alone: a sidecar that does not guard the canaries of its proof never opens the store.
    """
    broken = (
        "import tenantry.core.vector.milvus_reads as reads\n"
        "guarded = reads._guarded\n"
        "def broken(work, text, templates):\n"
        "    return text if work.layout.tenant == 'acme' else guarded(work, text, templates)\n"
        "reads._guarded = broken"
    )
    async with before(lite25, tmp_path) as (recorder, address, serve), tenantry(tmp_path, *serve, prelude=broken):
        await settle(address)
        async with Tenant(address, "acme") as tenant:
            await tenant.query("notes", TEXTS[0])
            await tenant.search("notes", expr=f"{TEXTS[1]} or {TEXTS[0]}")
    bare = Counter(call.method.removeprefix(SERVICE) for call in recorder.calls if unguarded(call))
    assert bare == {"Query": 1, "Search": 1}
