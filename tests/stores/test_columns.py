"""Columns that are not what the schema says: some engines end at them, for all tenants. They do not get there."""

import os
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio
from dataplane.harness import Stack
from tenantry.core.vector._pb import milvus_pb2 as pb

from stores.behind import VARCHAR, RefusedError, Tenant, behind, insertion, rows, store
from tools.milvus_engines import Engine

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(lite25: Engine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    docs = store("milvus", lite25.address, "collection")
    async with behind(tmp_path_factory.mktemp("columns"), {"docs": docs}) as running:
        yield running


async def test_a_column_of_another_type_does_not_reach_the_engine(stack: Stack, lite25: Engine) -> None:
    """Milvus Lite 2.5.1 ends at once at a column of numbers that is sent as text."""
    async with Tenant(stack.address, "acme") as acme, Tenant(stack.address, "globex") as globex:
        for tenant in (acme, globex):
            await tenant.make("typed")
            await tenant.insert("typed", rows(tenant.name, [1, 2, 3]))
        forged = insertion(pb.InsertRequest, "typed", rows("acme", [4]))
        (key,) = (column for column in forged.fields_data if column.field_name == "id")
        key.type = VARCHAR
        key.scalars.string_data.data.append("4")
        with pytest.raises(RefusedError, match="do not fit the collection") as refused:
            await acme.call("Insert", forged)
        assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
        os.kill(lite25.pid, 0)  # it is alive
        for tenant in (acme, globex):
            assert await tenant.count("typed") == 3


async def test_the_schema_is_the_one_of_now(stack: Stack) -> None:
    """A collection that was made anew with another schema is not held against the old one."""
    async with Tenant(stack.address, "acme") as acme:
        await acme.make("changing")
        await acme.insert("changing", rows("acme", [1]))
        await acme.call("DropCollection", pb.CollectionRequest(collection_name="changing"))
        await acme.make("changing")
        await acme.insert("changing", rows("acme", [1, 2]))
        with pytest.raises(RefusedError, match="do not fit the collection"):
            await acme.insert("changing", rows("acme", ["k1"]))
