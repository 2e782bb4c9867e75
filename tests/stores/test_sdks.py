"""Unmodified clients of two tenants at once, through Envoy and the sidecar, with equal names and equal keys.

A third tenant has the same collection with the same keys and does nothing: its rows must be as they were, as the engine
itself shows them. Where a client works without tenantry it works with it, but for what is refused on purpose.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from dataplane.harness import KEYS
from tenantry.core.vector.scope import collection_of, database_of, namespace_of
from tenantry_standin import pinecone
from tenantry_testing import sdk

from stores.behind import Operator, Tenant, behind, rows, store
from tools.milvus_engines import Engine, Kind, interpreter

TENANTS = ("acme", "globex")
WITNESS = "initech"

NO_HYBRID = {"client.hybrid_search", "orm.hybrid_search"}
NO_PARTITIONS = {"client.create_partition", "client.list_partitions"}
ABSENT: dict[Kind, set[str]] = {
    "lite3": set(),
    "lite25": NO_PARTITIONS | {"orm.create_index"},
    "m23": NO_HYBRID,
}  # fmt: skip
"""What the engine itself does not have (tests/stores/test_engines_alone.py)."""

REFUSED = {
    "client.list_databases", "client.create_database", "client.drop_database",  # the tenant's place, not its choice
    "orm.create_alias", "orm.drop_alias",  # a second name is a second way to a collection
}  # fmt: skip
"""What tenants may not do. Searching in a collection that was dropped fails everywhere."""

SOME = {
    "client.search_offset": 2, "client.hybrid_search": 3, "client.search_iterator": 5,
    "orm.hybrid_search": 3, "orm.search_iterator": 5,
}  # fmt: skip
"""How many different rows come back where the order is the engine's."""

MILVUS: dict[Kind, dict[str, str]] = {
    "lite3": {"collection": "pymilvus30"},
    "lite25": {"collection": "pymilvus26"},
    "m23": {"collection": "pymilvus23", "database": "pymilvus30"},
}
"""By engine and layout, the client. Layouts in which tenants share a collection: test_shared_layouts.py."""


async def both(name: str, script: str, address: str, **job: Any) -> dict[str, sdk.Report]:
    """Run a client for each tenant at the same time."""
    job = {"uri": f"http://{address}", "collection": "notes", **job}
    reports = await asyncio.gather(
        *(
            sdk.run(
                name, script,
                {**job, "token": KEYS[tenant], "tenant_marker": tenant},
            )
            for tenant in TENANTS
        )
    )  # fmt: skip
    for tenant, other, report in zip(TENANTS, reversed(TENANTS), reports, strict=True):
        seen = msgspec.json.encode(report).decode()
        assert tenant in seen
        assert other not in seen
        assert WITNESS not in seen
        assert "tenant_id" not in seen
    return dict(zip(TENANTS, reports, strict=True))


def seen_alone(tenant: str) -> dict[str, list[Any]]:
    """What a client with the collection to itself sees of six rows: counts, and rows or their keys, sorted."""
    texts = [f"{tenant}: {word}" for word in ("ant", "bee", "cat", "dog", "elk", "fox")]
    numbered = [[key, text] for key, text in enumerate(texts, 1)]
    # The ORM's rows were written as four and two.
    named = [[f"k{key}", text] for key, text in enumerate([*texts[:4], *texts[:2]], 1)]
    return {
        "client.count": [{"count(*)": 6}],
        "client.count_filter": [{"count(*)": 4}],
        "client.query": numbered[2:],
        "client.get": numbered[:2],
        "client.query_iterator": numbered,
        "orm.count": [{"count(*)": 6}],
        "orm.query_iterator": named,
    }


def rows_of(step: sdk.Step) -> list[Any]:
    """The rows of an answer, or of an iterator's pages; those that have keys sorted."""
    found = [row for page in step.saw for row in page] if step.op.endswith("_iterator") else list(step.saw)
    return found if isinstance(found[0], dict) else sorted(found)


class Witness:
    """A tenant that has the same collection and does nothing while others work."""

    def __init__(self, engine: Engine, isolation: str, collection: str) -> None:
        own = isolation == "collection"
        self.place = collection_of(WITNESS, collection) if own else collection
        self.database = "" if own else database_of(WITNESS)
        self.collection = collection
        self.operator = Operator(engine.address)

    async def settle(self, address: str) -> None:
        async with Tenant(address, WITNESS) as tenant:
            await tenant.make(self.collection)
            await tenant.insert(self.collection, rows(WITNESS, range(1, 7)))
        await self.is_untouched()

    async def is_untouched(self) -> None:
        kept = await self.operator.rows(self.place, self.database)
        assert kept == [(WITNESS, key, f"{WITNESS}: {key}") for key in range(1, 7)]


@pytest.mark.parametrize("kind", MILVUS)
async def test_two_tenants_live_the_life_of_a_collection_at_once(
    request: pytest.FixtureRequest, sdks: None, tmp_path: Path, kind: Kind
) -> None:
    """In each layout of the engine at once, too: it is time that 2.3.5 takes, not work."""
    engine: Engine = request.getfixturevalue(kind)
    await asyncio.gather(
        *(live(engine, isolation, client, tmp_path / isolation) for isolation, client in MILVUS[kind].items())
    )


async def live(engine: Engine, isolation: str, client: str, folder: Path) -> None:
    witness = Witness(engine, isolation, "notes")
    async with behind(folder, {"docs": store("milvus", engine.address, isolation)}) as stack:
        await witness.settle(stack.address)
        reports = await both(client, "milvus_roundtrip", stack.address)
    for tenant, report in reports.items():
        ran = {step.op for step in report.steps}
        assert set(report.errors) == (ABSENT[engine.kind] | REFUSED | {"client.search_unknown"}) & ran, report.errors
        assert report["client.search_unknown"].code == 100
        assert report["client.list_collections"].saw == []
        assert report["client.describe_collection"].saw == ["id", "text", "price", "vector"]
        assert report["client.search"].saw[0] == [3, f"{tenant}: cat"]
        assert len(report["client.search_filter"].saw) == 3
        answered = ran - report.errors.keys()
        alone = seen_alone(tenant)
        for op in alone.keys() & answered:
            assert rows_of(report[op]) == alone[op], op
        for op in SOME.keys() & answered:
            keys = {hit[0] if isinstance(hit, list) else hit for hit in rows_of(report[op])}
            assert len(rows_of(report[op])) == len(keys) == SOME[op], op
        second = [[1, f"{tenant}: ant (second)"], [2, f"{tenant}: bee (second)"]]
        assert sorted(report["client.query_after_upsert"].saw) == second
        assert sorted(report["client.query_after_delete"].saw) == [*second, [4, f"{tenant}: dog"]]
        assert sorted(report["orm.query_after_delete"].saw) == [
            ["k1", f"{tenant}: ant (second)"], ["k5", f"{tenant}: ant"], ["k6", f"{tenant}: bee"],
            ["k9", f"{tenant}: bee (second)"],
        ]  # fmt: skip
    await witness.is_untouched()
    if isolation == "collection":
        assert await witness.operator.collections() == [witness.place]


@pytest.mark.parametrize("name", ["langchain", "llamaindex"])
async def test_two_tenants_of_a_framework_at_once(lite3: Engine, sdks: None, tmp_path: Path, name: str) -> None:
    witness = Witness(lite3, "collection", f"notes_{name}")
    async with behind(tmp_path, {"docs": store("milvus", lite3.address, "collection")}) as stack:
        await witness.settle(stack.address)
        reports = await both(name, f"{name}_roundtrip", stack.address, collection=witness.collection + "_own")
    for tenant, report in reports.items():
        assert report.errors == {}
        left = json.dumps(report["store.left"].saw)
        assert f"{tenant}: cat" in left
        assert f"{tenant}: ant" not in left
    await witness.is_untouched()


@pytest.fixture
async def standin() -> AsyncIterator[pinecone.RunningPinecone]:
    running = await pinecone.start()
    yield running
    await running.stop()


PINECONE = {
    "query": ["own-0", "own-1", "own-2"],
    "query_filter": ["own-2"],
    "fetch_by_metadata": ["own-1"],
    "list": ["own-0", "own-1", "own-2"],
    "stats": {"docs": 3},
    "list_after_delete": ["own-0", "own-2"],
    "list_at_the_end": [],
}
"""What a client with the index to itself sees."""


@pytest.mark.parametrize("transport", ["rest", "grpc"])
async def test_two_tenants_of_pinecone_at_once(
    standin: pinecone.RunningPinecone, sdks: None, tmp_path: Path, transport: str
) -> None:
    index = {"kind": "pinecone", "isolation": "namespace", "endpoints": [f"127.0.0.1:{standin.rest_port}"],
             "grpcEndpoints": [f"127.0.0.1:{standin.grpc_port}"]}  # fmt: skip
    async with behind(tmp_path, {"docs": index}) as stack:
        host = f"http://{stack.address}" if transport == "rest" else stack.address
        job = {"host": host, "transport": transport, "namespace": "docs"}
        await run_pinecone(WITNESS, {**job, "only": ["upsert"]})
        space = namespace_of(WITNESS, "docs")
        before = dict(standin.index.rows(space))
        assert list(before) == ["own-0", "own-1", "own-2"]
        reports = await asyncio.gather(*(run_pinecone(tenant, job) for tenant in TENANTS))
        assert standin.index.rows(space) == before
        # Nobody asked for the witness's rows, not even in vain.
        assert sum(entry.namespace == space for entry in standin.index.journal) == 1
    for tenant, report in zip(TENANTS, reports, strict=True):
        assert {name: step for name, step in report.items() if "error" in step} == {}
        seen = {name: report[name]["answer"] for name in PINECONE}
        assert {name: sorted(one) if isinstance(one, list) else one for name, one in seen.items()} == PINECONE
        assert report["fetch_updated"]["answer"] == {"genre": "noir", "year": 2000, "marker": tenant}
        assert [row["metadata"]["marker"] for row in report["query_all"]["answer"].values()] == [tenant] * 3
        assert "tenant_id" not in json.dumps(report)


async def run_pinecone(tenant: str, job: dict[str, Any]) -> dict[str, Any]:
    job = {**job, "api_key": KEYS[tenant], "prefix": "own-", "marker": tenant}
    python = await asyncio.to_thread(interpreter, sdk.ENVIRONMENTS["pinecone"])
    script = sdk.SCRIPTS / "pinecone_roundtrip.py"
    process = await asyncio.create_subprocess_exec(
        python, str(script), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(process.communicate(json.dumps(job).encode()), 60)
    report: dict[str, Any] = json.loads(output)
    return report
