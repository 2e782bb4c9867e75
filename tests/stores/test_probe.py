"""The proof on the three real Milvus engines: which layouts keep tenants apart on which, and the gate over them.

|            | lite 3.2.2 | lite 2.5.1   | 2.3.5 |
|------------|------------|--------------|-------|
| database   | safe       | none there   | safe  |
| collection | safe       | safe         | safe  |
| partition  | **unsafe** | none there   | safe  |
| keyprefix  | safe       | safe         | safe  |
"""

import asyncio
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, aclosing
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from tenantry.adapters import store_proofs
from tenantry.adapters.milvus_admin import MilvusAdmin
from tenantry.adapters.store_metrics import StoreMetrics
from tenantry.adapters.stores import Stores
from tenantry.core.errors import RequestRefusedError
from tenantry.core.keyring import keyring
from tenantry.core.rulebook import RuleBook
from tenantry.core.rules import Rules, Tier
from tenantry.core.rules_stores import Collection, Store
from tenantry.core.session import Snapshot
from tenantry.core.vector import canaries, operator, provision
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.calls import Need, StoreOf

from tools.milvus_engines import KINDS, Engine, Kind, free_ports, start

SECRETS = dict.fromkeys(("cache-salt", "split", "admin-token", "usage-token"), b"x" * 32)
INSTEAD = "Use collection, or keyprefix with a VARCHAR primary key."
B_LOST = "after tenant A inserted rows with primary keys of tenant B, B lost 4 rows"

EXPECTED = {
    ("lite3", "database"): "",
    ("lite3", "collection"): "",
    ("lite3", "partition"): f"partition is not safe on milvus_lite-3.2.2: {B_LOST}. {INSTEAD}",
    ("lite3", "keyprefix"): "",
    ("lite25", "database"): "database is not safe on this engine (it tells no version): "
    f"the engine has no databases. {INSTEAD}",
    ("lite25", "collection"): "",
    ("lite25", "partition"): "partition is not safe on this engine (it tells no version): "
    f"the engine has no partitions. {INSTEAD}",
    ("lite25", "keyprefix"): "",
    ("m23", "database"): "",
    ("m23", "collection"): "",
    ("m23", "partition"): "",
    ("m23", "keyprefix"): "",
}
"""Why a layout is refused on an engine; "" where it is safe."""


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Kind], Engine]]:
    """Engines that are started when they are first asked for."""
    running: dict[Kind, Engine] = {}
    with ExitStack() as stack:

        def engine(kind: Kind) -> Engine:
            if kind not in running:
                try:
                    running[kind] = stack.enter_context(start(kind, tmp_path_factory.mktemp(kind)))
                except subprocess.CalledProcessError:
                    pytest.skip(f"no environment for the engine {kind}: `python3 tools/env.py` says why")
            return running[kind]

        yield engine


def store_of(engine: Engine, isolation: str, name: str = "docs") -> Store:
    shared = {name: Collection(primary_field="id" if isolation == "keyprefix" else None)}
    return Store(
        kind="milvus",
        endpoints=(engine.address,),
        isolation=isolation,  # type: ignore[arg-type]
        collections=shared if isolation in ("partition", "keyprefix") else {},
    )


def shared(name: str, isolation: str) -> provision.SharedCollection:
    return provision.SharedCollection(name=name, dim=8, max_length=64 if isolation == "keyprefix" else None)


async def left(admin: MilvusAdmin) -> list[str]:
    databases = await admin.perform(operator.databases())
    names = [
        name
        for database in databases or [""]
        for name in await admin.perform(operator.collections(database))
        if canaries.PREFIX in name
    ]
    return names + [name for name in databases if name in canaries.canary_databases()]


@pytest.mark.parametrize("kind", KINDS)
async def test_the_verdict_on_each_layout(engines: Callable[[Kind], Engine], kind: Kind) -> None:
    """At once on 2.3.5, where a proof mostly waits. Milvus Lite 2.5.1 loses sight of collections made at once."""
    engine = engines(kind)
    layouts = [isolation for each, isolation in EXPECTED if each == kind]
    if kind == "m23":
        reasons = await asyncio.gather(*(verdict_on(engine, isolation) for isolation in layouts))
    else:
        reasons = [await verdict_on(engine, isolation) for isolation in layouts]
    assert dict(zip(layouts, reasons, strict=True)) == {isolation: EXPECTED[kind, isolation] for isolation in layouts}
    async with aclosing(MilvusAdmin(store_of(engine, "collection"), None)) as admin:
        assert await left(admin) == []


async def verdict_on(engine: Engine, isolation: str) -> str:
    """Why a layout is refused; "" where it is safe."""
    store = store_of(engine, isolation, f"docs_{isolation}")
    async with aclosing(MilvusAdmin(store, None)) as admin:
        for name in store.collections:
            await admin.perform(provision.make_shared(shared(name, isolation)))
        found = await store_proofs.find(admin, "docs", store)
        verdicts = await store_proofs.prove(admin, "docs", store, found)
    assert all(verdict.safe == (not verdict.reason) for verdict in verdicts)
    (reason,) = {verdict.reason for verdict in verdicts}
    return reason


def rich_schema(name: str) -> pb.CollectionSchema:
    schema = provision.shared_schema(shared(name, "partition"))
    schema.fields[0].autoID = True
    for kind, column in ((1, "flag"), (2, "tiny"), (5, "long"), (10, "real"), (11, "double"), (23, "json")):
        schema.fields.add(name=column, data_type=kind)
    schema.fields.add(name="text", data_type=21).type_params.add(key="max_length", value="3")
    array = schema.fields.add(name="array", data_type=22, element_type=5)
    array.type_params.add(key="max_capacity", value="4")
    return schema


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("m23", ""),
        ("lite3", "after tenant A sent a row with a primary key of tenant B to Insert, B lost a row"),
    ],
)
async def test_keys_that_the_engine_makes_and_fields_of_many_types(
    engines: Callable[[Kind], Engine], kind: Kind, reason: str
) -> None:
    """Milvus Lite 3.2.2 takes a client's key also where it makes keys itself."""
    store = store_of(engines(kind), "partition", "rich")
    async with aclosing(MilvusAdmin(store, None)) as admin:
        request = pb.CreateCollectionRequest(
            collection_name="rich", schema=rich_schema("rich").SerializeToString(), shards_num=1
        )
        await admin.perform(operator.ask("CreateCollection", request, pb.Status))
        found = await store_proofs.find(admin, "docs", store)
        (verdict,) = await store_proofs.prove(admin, "docs", store, found)
        assert verdict.safe == (not reason)
        assert reason in verdict.reason
        assert await left(admin) == []


async def test_a_partition_in_a_collection_loaded_by_partitions_is_loaded(engines: Callable[[Kind], Engine]) -> None:
    store = store_of(engines("m23"), "partition", "by_parts")
    async with aclosing(MilvusAdmin(store, None)) as admin:
        await admin.perform(provision.make_shared(shared("by_parts", "partition")))
        whole = pb.CollectionRequest(collection_name="by_parts")
        await admin.perform(operator.ask("ReleaseCollection", whole, pb.Status))
        default = pb.LoadPartitionsRequest(collection_name="by_parts", partition_names=["_default"], replica_number=1)
        await admin.perform(operator.ask("LoadPartitions", default, pb.Status))
        need = Need(collection="by_parts", partition="tacme")
        assert await admin.perform(provision.provide(need)) == "partition"
        query = pb.QueryRequest(collection_name="by_parts", partition_names=["tacme"], expr="id > 0")
        await admin.perform(operator.ask("Query", query, pb.QueryResults))
        assert await admin.perform(provision.provide(need)) == ""


def gate(folder: Path) -> Stores:
    return Stores(StoreMetrics(CollectorRegistry()), folder / "stores.json", recheck_seconds=60)


def live(stores: Stores, store: Store) -> None:
    rules = Rules(version=1, models={}, tiers={"gold": Tier()}, stores={"docs": store})
    stores.rules_live(Snapshot(book=RuleBook(rules), keyring=keyring(SECRETS)))


def is_open(stores: Stores, store: Store) -> bool:
    try:
        stores.check(StoreOf(tenant="acme", name="docs", store=store))
    except RequestRefusedError:
        return False
    return True


async def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.005)


async def test_a_second_start_is_open_within_a_second(engines: Callable[[Kind], Engine], tmp_path: Path) -> None:
    store = store_of(engines("m23"), "database")
    for limit in (60, 1):
        stores = gate(tmp_path)
        try:
            begin = time.monotonic()
            live(stores, store)
            await until(lambda stores=stores: is_open(stores, store), limit)  # type: ignore[misc]
            print(f"open after {time.monotonic() - begin:.3f} s")
            about = StoreOf(tenant="acme", name="docs", store=store)
            await stores.provide(about, Need(database="tacme"))
            await stores.provide(about, Need(database="tacme"))
            assert stores.provided(about, Need(database="tacme"))
        finally:
            await stores.stop()


@pytest.mark.parametrize(("first", "second"), [("lite3", "lite25"), ("lite25", "lite3"), ("lite25", "lite25")])
async def test_another_engine_at_the_same_address_is_proven_before_anybody_passes(
    engines: Callable[[Kind], Engine], tmp_path: Path, first: Kind, second: Kind
) -> None:
    for kind in (first, second):
        engines(kind)  # its environment is there, or this is skipped
    (port,) = free_ports(1)
    stores = gate(tmp_path)
    try:
        with start(first, tmp_path / "first", port) as engine:
            store = store_of(engine, "collection")
            live(stores, store)
            await until(lambda: is_open(stores, store))
            version = stores.status()[0].version
        await until(lambda: not is_open(stores, store), 5)
        with start(second, tmp_path / "second", port):
            await until(lambda: is_open(stores, store))
            assert (stores.status()[0].version == version) == (first == second)
    finally:
        await stores.stop()
