"""`tenantry tenant purge` on real engines: one tenant's vectors go, its neighbour's stay, and a count says so."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
import pytest_asyncio
from tenantry.adapters.milvus_admin import MilvusAdmin
from tenantry.adapters.store_purge import MilvusHoldings, found, purged
from tenantry.core.rules_stores import Collection, Store
from tenantry.core.vector import provision, scope
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.calls import Need
from tenantry.core.vector.operator import ask, collections, databases, load

from stores.behind import DIMENSION, PROBE, VARCHAR
from tools.milvus_engines import Engine

pytestmark = pytest.mark.asyncio(loop_scope="module")

LAYOUTS = {"collection": "lite25", "keyprefix": "lite25", "partition": "m23", "database": "m23"}
TENANTS = ("acme", "globex")
SHARED = "purged"
ROWS = 40


class Layout:
    """A store of one isolation in which both tenants have rows."""

    def __init__(self, isolation: str, engine: Engine) -> None:
        shared = {}
        if isolation in ("partition", "keyprefix"):
            shared = {SHARED: Collection(primary_field="id" if isolation == "keyprefix" else None, spread=2)}
        self.store = Store(
            kind="milvus", endpoints=(engine.address,), isolation=isolation, collections=shared  # type: ignore[arg-type]
        )  # fmt: skip

    async def perform(self, steps: Any) -> Any:
        async with aclosing(MilvusAdmin(self.store, None)) as admin:
            return await admin.perform(steps)

    async def fill(self) -> None:
        if self.store.collections:
            for name in scope.spread_names(SHARED, 2):
                await self.make(name)
        for tenant in TENANTS:
            if self.store.isolation == "database":
                await self.perform(provision.provide(Need(database=scope.database_of(tenant))))
                wanted = self.wanted("notes")
                request = pb.CreateCollectionRequest(
                    db_name=scope.database_of(tenant), collection_name="notes", shards_num=1,
                    schema=provision.shared_schema(wanted).SerializeToString(),
                )  # fmt: skip
                await self.perform(ask("CreateCollection", request, pb.Status))
            elif self.store.isolation == "collection":
                for name in ("notes", "more"):
                    await self.make(scope.collection_of(tenant, name))
                    await self.insert(tenant, scope.collection_of(tenant, name))
            else:
                # Also in the collection where it should have nothing: `spread` was raised once.
                for name in scope.spread_names(SHARED, 2):
                    partition = ""
                    if self.store.isolation == "partition":
                        partition = scope.partition_of(tenant)
                        await self.perform(provision.provide(Need(collection=name, partition=partition)))
                    await self.insert(tenant, name, partition)

    def wanted(self, name: str) -> provision.SharedCollection:
        return provision.SharedCollection(name=name, dim=DIMENSION, max_length=128, metric="L2")

    async def make(self, name: str) -> None:
        await self.perform(provision.make_shared(self.wanted(name)))
        await self.perform(load(name))

    async def insert(self, tenant: str, collection: str, partition: str = "") -> None:
        request = pb.InsertRequest(collection_name=collection, partition_name=partition, num_rows=ROWS)
        for field, texts in (
            ("id", [f"{scope.key_prefix_of(tenant)}{number}" for number in range(ROWS)]),
            ("tenant_id", [tenant] * ROWS),
        ):
            request.fields_data.add(field_name=field, type=VARCHAR).scalars.string_data.data.extend(texts)
        vectors = request.fields_data.add(field_name="vector", type=101).vectors
        vectors.dim = DIMENSION
        vectors.float_vector.data.extend(PROBE * ROWS)
        members = request.fields_data.add(field_name="$meta", type=23, is_dynamic=True)
        members.scalars.json_data.data.extend([b"{}"] * ROWS)
        await self.perform(ask("Insert", request, pb.MutationResult))

    def holdings(self, tenant: str) -> MilvusHoldings:
        return MilvusHoldings(self.store, tenant, None)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=LAYOUTS)
async def layout(request: pytest.FixtureRequest) -> AsyncIterator[Layout]:
    made = Layout(request.param, request.getfixturevalue(LAYOUTS[request.param]))
    await made.fill()
    yield made


async def test_one_tenants_vectors_go_and_its_neighbours_stay(layout: Layout) -> None:
    mine, theirs = [await found(layout.holdings(tenant)) for tenant in TENANTS]
    assert len(mine) == len(theirs) == (1 if layout.store.isolation == "database" else 2)
    if layout.store.isolation == "keyprefix":
        assert mine == [f"{ROWS} rows of {name}" for name in scope.spread_names(SHARED, 2)]

    assert set(await purged(layout.holdings("acme"))) == set(mine)

    assert await found(layout.holdings("acme")) == []
    assert await found(layout.holdings("globex")) == theirs
    if layout.store.isolation == "database":
        assert scope.database_of("acme") not in await layout.perform(databases())
        assert await layout.perform(collections(scope.database_of("globex"))) == ["notes"]
    assert await purged(layout.holdings("acme")) == []  # once more: nothing is left to do
