"""Several stores behind one address: told apart by host, added and closed by a reload while the others are in use."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from dataplane.harness import Json, Stack
from tenantry.core.vector.scope import collection_of

from stores.behind import Operator, RefusedError, Row, Tenant, behind, opened, rows, store
from tools.milvus_engines import Engine

DOCS, NOTES = "docs.example", "notes.example"
"""The hosts by which clients reach two stores."""

OPEN_SECONDS = 30


def stores(lite3: Engine, lite25: Engine) -> dict[str, Json]:
    return {
        "docs": store("milvus", lite3.address, "collection", hosts=[DOCS]),
        "notes": store("milvus", lite25.address, "collection", hosts=[NOTES]),
    }


def only(kept: Json, *names: str) -> Json:
    return {name: kept[name] for name in names}


async def filled(tenant: Tenant, collection: str, marker: str) -> list[Row]:
    """Make a collection with three rows."""
    await tenant.make(collection)
    await tenant.insert(collection, new := rows(marker, [1, 2, 3]))
    return new


@contextlib.asynccontextmanager
async def used(tenant: Tenant, collection: str, wanted: list[Row]) -> AsyncIterator[list[int]]:
    """Search and query all the time; every answer is right. Yields a list with an entry for each."""
    answers: list[int] = []

    async def use() -> None:
        while True:
            assert await tenant.search(collection) == await tenant.query(collection, "id > 0") == wanted
            answers.append(1)
            await asyncio.sleep(0.005)

    task = asyncio.create_task(use())
    try:
        yield answers
        before = len(answers)
        async with asyncio.timeout(5):
            while len(answers) < before + 5 and not task.done():
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task  # an assertion or a refusal is raised here


async def refusal(tenant: Tenant, collection: str) -> RefusedError:
    with pytest.raises(RefusedError) as refused:
        await tenant.search(collection)
    return refused.value


async def standing(stack: Stack, name: str, wanted: str) -> None:
    """Wait until a store stands so."""
    assert stack.sidecar is not None
    gate: Any = stack.sidecar.stores
    async with asyncio.timeout(OPEN_SECONDS):
        while {each.store: each.standing for each in gate.status()}.get(name) != wanted:
            await asyncio.sleep(0.01)


async def test_stores_are_told_apart_by_host(lite3: Engine, lite25: Engine, tmp_path: Path) -> None:
    """The same collection with the same keys, of two tenants in two stores: four sets of rows."""
    async with behind(tmp_path, stores(lite3, lite25)) as stack, contextlib.AsyncExitStack() as exits:
        clients = {
            (name, host): await exits.enter_async_context(Tenant(stack.address, name, host=host))
            for name in ("acme", "globex")
            for host in (DOCS, NOTES)
        }
        mine = {
            (name, host): await filled(client, "apart", f"{name} at {host}") for (name, host), client in clients.items()
        }
        for place, client in clients.items():
            assert await client.search("apart") == await client.query("apart", "id > 0") == mine[place]
            assert await client.count("apart") == 3
        for engine, host in ((lite3, DOCS), (lite25, NOTES)):
            for name in ("acme", "globex"):
                texts = {text for _, _, text in await Operator(engine.address).rows(collection_of(name, "apart"))}
                assert texts == {row.text for row in mine[name, host]}

        # A port and capitals make no other host; another name is no store's, and no store is chosen for it.
        ported = await exits.enter_async_context(Tenant(stack.address, "acme", host=f"{DOCS.upper()}:19530"))
        assert await ported.search("apart") == mine["acme", DOCS]
        for elsewhere in ("", "other.example", f"{DOCS}.other.example", f"x{DOCS}"):
            stray = await exits.enter_async_context(Tenant(stack.address, "acme", host=elsewhere))
            assert (await refusal(stray, "apart")).code is grpc.StatusCode.PERMISSION_DENIED, elsewhere


async def test_a_store_is_added_while_another_is_in_use(lite3: Engine, lite25: Engine, tmp_path: Path) -> None:
    both = stores(lite3, lite25)
    async with (
        behind(tmp_path, only(both, "docs")) as stack,
        Tenant(stack.address, "acme", host=DOCS) as docs,
        Tenant(stack.address, "acme", host=NOTES) as notes,
    ):
        wanted = await filled(docs, "added", "acme in docs")
        async with used(docs, "added", wanted) as answers:
            assert (await refusal(notes, "added")).code is grpc.StatusCode.PERMISSION_DENIED
            await stack.live(stack.document | {"stores": both})
            await opened(stack, OPEN_SECONDS)
            added = await filled(notes, "added", "acme in notes")
            assert await notes.search("added") == added

            await stack.live(stack.document | {"stores": only(both, "docs")})
            assert (await refusal(notes, "added")).code is grpc.StatusCode.PERMISSION_DENIED
        assert len(answers) > 10


async def test_an_unsafe_layout_closes_its_store_alone(lite3: Engine, lite25: Engine, tmp_path: Path) -> None:
    both = stores(lite3, lite25)
    shared = store("milvus", lite25.address, "partition", hosts=[NOTES], collections={"closing": {}})
    async with (
        behind(tmp_path, both) as stack,
        Tenant(stack.address, "acme", host=DOCS) as docs,
        Tenant(stack.address, "acme", host=NOTES) as notes,
    ):
        wanted = await filled(docs, "closing", "acme in docs")
        kept = await filled(notes, "closing", "acme in notes")
        async with used(docs, "closing", wanted):
            await stack.live(stack.document | {"stores": both | {"notes": shared}})
            # From the first moment: what was proven was another layout.
            assert (await refusal(notes, "closing")).code in {
                grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.PERMISSION_DENIED,
            }  # fmt: skip
            await standing(stack, "notes", "unsafe")
            refused = await refusal(notes, "closing")
            assert refused.code is grpc.StatusCode.PERMISSION_DENIED
            assert refused.details == 'The store "notes" is closed: its operator has to set it up anew.'
            assert await stack.total("tenantry_store_safe", store="notes") == 0
            assert await stack.total("tenantry_store_safe", store="docs") == 1

            await stack.live(stack.document | {"stores": both})
            await opened(stack, OPEN_SECONDS)
            assert await notes.search("closing") == kept
