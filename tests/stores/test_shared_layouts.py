"""Layouts in which tenants share a collection: made by the operator's command, used with equal primary keys by two."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from dataplane.harness import KEYS
from google.protobuf.message import Message
from tenantry.core.vector import scope
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry_testing import sdk

from stores.behind import DIMENSION, Key, Operator, RefusedError, Row, Tenant, behind, creation, rows, store
from tools.milvus_engines import Engine

pytestmark = pytest.mark.asyncio(loop_scope="module")

LAYOUTS: dict[str, tuple[str, dict[str, Any], list[Key]]] = {
    "partition": ("m23", {"notes": {}}, [1, 2, 3, 4]),
    "keyprefix": ("lite25", {"notes": {"primaryField": "id"}}, ["1", "2", "3", "4"]),
}
"""By isolation: the engine, the store's `collections`, primary keys."""

CLIENTS = {"partition": "pymilvus30", "keyprefix": "pymilvus26"}


async def provision(folder: Path, document: dict[str, Any]) -> str:
    """Make the shared collection as an operator does, with the command; return what it said."""
    path = folder / "operator.json"
    path.write_text(json.dumps(document))
    command = ("stores", "provision", path, "--store", "docs", "--create", "notes", "--dim", str(DIMENSION),
               "--metric", "L2", "--secrets", folder)  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from tenantry.cli import main; main()", *map(str, command),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, output.decode()
    return output.decode()


class Shared:
    """Two tenants of one shared collection."""

    def __init__(
        self, address: str, isolation: str, acme: Tenant, globex: Tenant, engine: Engine, keys: list[Key]
    ) -> None:
        self.address = address
        self.isolation = isolation
        self.acme = acme
        self.globex = globex
        self.operator = Operator(engine.address)
        self.keys = keys


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=LAYOUTS)
async def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shared]:
    folder = tmp_path_factory.mktemp(request.param)
    kind, collections, keys = LAYOUTS[request.param]
    engine: Engine = request.getfixturevalue(kind)
    docs = store("milvus", engine.address, request.param, collections=collections)
    said = await provision(folder, {"version": 1, "models": {}, "tiers": {"gold": {}}, "stores": {"docs": docs}})
    assert "notes: made, indexed and loaded" in said
    async with AsyncExitStack() as exits:
        stack = await exits.enter_async_context(behind(folder, {"docs": docs}))
        acme, globex = [
            await exits.enter_async_context(Tenant(stack.address, name, dynamic=True)) for name in ("acme", "globex")
        ]
        yield Shared(stack.address, request.param, acme, globex, engine, keys)


async def test_neither_loses_a_row_to_the_other(shared: Shared) -> None:
    acme, globex, keys = shared.acme, shared.globex, shared.keys
    both = (acme, globex)
    own = {tenant.name: rows(tenant.name, keys) for tenant in both}

    await asyncio.gather(*(tenant.insert("notes", own[tenant.name]) for tenant in both))
    for tenant in both:
        assert await tenant.query("notes", "text != ''") == own[tenant.name]
        assert await tenant.search("notes") == own[tenant.name]
        assert await tenant.search("notes", expr=f"id in {json.dumps(keys[:2])}") == own[tenant.name][:2]
        assert await tenant.count("notes") == len(keys)

    await acme.upsert("notes", changed := rows("acme", keys[:2], " (second)"))
    own["acme"][:2] = changed
    for tenant in both:
        assert await tenant.query("notes", "text != ''") == own[tenant.name]

    await globex.delete("notes", f"id in {json.dumps(keys[1:3])}")
    own["globex"][1:3] = []
    for tenant in both:
        assert await tenant.query("notes", "text != ''") == own[tenant.name]
        assert await tenant.search("notes") == own[tenant.name]
        assert await tenant.count("notes") == len(own[tenant.name])

    # The other's name, key or real key in a filter is a text like any other.
    token = scope.token_of("globex")
    assert await acme.query("notes", "text like 'globex%'") == []
    assert await acme.query("notes", f"text != '' or text == '{token}'") == own["acme"]

    # As the engine has them: each row stamped as its tenant's.
    stamped = [(name, stored(shared, name, row.id), row.text) for name in own for row in own[name]]
    if shared.isolation == "partition":
        found = [
            one
            for tenant in own
            for one in await shared.operator.rows("notes", partitions=[scope.partition_of(tenant)])
        ]
    else:
        found = await shared.operator.rows("notes")
    assert sorted(found) == sorted(stamped)


async def test_two_clients_at_once_share_a_collection(shared: Shared, sdks: None) -> None:
    """By pymilvus as it is. A third tenant's rows have the same keys and stay; the collection is not a client's."""
    async with Tenant(shared.address, "initech", dynamic=True) as witness:
        await witness.insert("notes", kept := rows("initech", shared.keys))
        for tenant in (shared.acme, shared.globex):
            await tenant.delete("notes", "text != ''")
        reports = await asyncio.gather(
            *(
                sdk.run(
                    CLIENTS[shared.isolation],
                    "milvus_shared",
                    {
                        "uri": f"http://{shared.address}", "token": KEYS[name], "collection": "notes",
                        "tenant_marker": name, "keys": shared.keys,
                    },
                )
                for name in ("acme", "globex")
            )
        )  # fmt: skip
        for name, report in zip(("acme", "globex"), reports, strict=True):
            _is_a_life_of_its_own(report, name, shared)
        assert await witness.query("notes", "text != ''") == kept
        await witness.delete("notes", "text != ''")


def _is_a_life_of_its_own(report: sdk.Report, name: str, shared: Shared) -> None:
    """What a client sees that has the collection to itself, but for the collection itself, which it may not change."""
    absent = {"hybrid_search"} if shared.isolation == "partition" else set()  # Milvus 2.3.5 has none
    assert set(report.errors) == {"create_collection", "drop_collection"} | absent, report.errors
    for op in ("create_collection", "drop_collection"):
        assert "is for the platform's operator: this store's collections are shared." in report.errors[op]
    saw = {step.op: step.saw for step in report.steps}
    one, two, three, four = own = [[row.id, row.text] for row in words(name, shared.keys)]
    assert saw["list_collections"] == ["notes"]
    assert saw["describe_collection"] == ["id", "vector"]
    assert saw["count"] == [{"count(*)": len(own)}]
    assert sorted(saw["query"]) == sorted(saw["search"]) == own
    assert saw["search"][0] == three
    assert sorted(saw["get"]) == [one, two]
    if not absent:
        assert len(saw["hybrid_search"]) == 3
        assert all(hit in own for hit in saw["hybrid_search"])
    for op in ("query_iterator", "search_iterator"):
        assert sorted(row for page in saw[op] for row in page) == own, op
    left = [[key, f"{text} (second)"] for key, text in (one, two)] + [four]
    assert sorted(saw["query_after"]) == sorted(saw["query_at_the_end"]) == left


def words(name: str, keys: list[Key]) -> list[Row]:
    """The rows of tests/sdk_clients."""
    return [Row(id=key, text=f"{name}: {word}") for key, word in zip(keys, ("ant", "bee", "cat", "dog"), strict=True)]


def stored(shared: Shared, tenant: str, key: Key) -> Key:
    return f"{scope.key_prefix_of(tenant)}{key}" if shared.isolation == "keyprefix" else key


async def test_what_all_share_is_not_a_tenants_to_change(shared: Shared) -> None:
    refused: list[tuple[str, Message]] = [
        ("CreateCollection", creation("mine")),
        ("CreateCollection", creation("notes")),
        ("DropCollection", pb.CollectionRequest(collection_name="notes")),
        ("ReleaseCollection", pb.CollectionRequest(collection_name="notes")),
        ("CreatePartition", pb.PartitionRequest(collection_name="notes", partition_name="mine")),
        ("DropPartition", pb.PartitionRequest(collection_name="notes", partition_name=scope.partition_of("globex"))),
        ("DropIndex", pb.IndexRequest(collection_name="notes", field_name="vector")),
        ("Flush", pb.FlushRequest(collection_names=["notes"])),
    ]
    await shared.globex.delete("notes", "text != ''")
    await shared.globex.insert("notes", kept := [Row(id=key, text="globex: kept") for key in shared.keys])
    for method, message in refused:
        with pytest.raises(RefusedError, match=r"shared|operator") as error:
            await shared.acme.call(method, message)
        assert error.value.code is grpc.StatusCode.PERMISSION_DENIED, (method, error.value)
    # A collection that is not of the rules is not there.
    with pytest.raises(RefusedError):
        await shared.acme.insert("mine", rows("acme", shared.keys))
    assert await shared.globex.query("notes", "text != ''") == kept
