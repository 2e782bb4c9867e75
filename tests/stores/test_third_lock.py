"""When the engine errs: answers in which rows are not the tenant's, by a proxy that alters what a real engine says.

The first two locks, place and filter, have passed the request on by then; the third looks at every row of the answer.
"""

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from dataplane.harness import Stack
from google.protobuf.message import Message
from tenantry.adapters import logs
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.scope import collection_of
from tenantry_testing import milvus_recorder
from tenantry_testing.milvus_recorder import SERVICE

from stores.behind import RefusedError, Tenant, behind, rows, store
from tools.milvus_engines import Engine

SECRET = "globex: of-somebody-else"
Alteration = Callable[[Any], None]
READS: dict[str, type[Message]] = {"Search": pb.SearchResults, "Query": pb.QueryResults}


class Alterer:
    """Changes the answers to reads of acme's collection, while `by` is set; `altered` counts them."""

    def __init__(self) -> None:
        self.by: Alteration | None = None
        self.altered = 0

    def __call__(self, method: str, request: bytes, response: bytes) -> bytes:
        kind = READS.get(method.removeprefix(SERVICE))
        place = collection_of("acme", "notes").encode()
        if kind is None or self.by is None or place not in request:
            return response
        answer = kind.FromString(response)
        self.by(answer)
        self.altered += 1
        return answer.SerializeToString()


def columns(answer: Any) -> Any:
    return answer.results.fields_data if isinstance(answer, pb.SearchResults) else answer.fields_data


def column(answer: Any, name: str) -> Any:
    """The values of a column."""
    (found,) = [each for each in columns(answer) if each.field_name == name]
    kind = found.scalars.WhichOneof("data")
    return getattr(found.scalars, kind).data


def foreign_row(answer: Any) -> None:
    """Another tenant's row in the place of the last one, stamped as the other's."""
    column(answer, "text")[-1] = SECRET
    column(answer, "tenant_id")[-1] = "globex"


def one_more_row(answer: Any) -> None:
    """Another tenant's row after the others, in every column."""
    column(answer, "text").append(SECRET)
    column(answer, "tenant_id").append("globex")
    if isinstance(answer, pb.SearchResults):
        answer.results.ids.int_id.data.append(999)
        answer.results.scores.append(0.5)
        answer.results.topks[0] += 1
    else:
        column(answer, "id").append(999)


def empty_stamp(answer: Any) -> None:
    """A row that is nobody's: written past tenantry."""
    column(answer, "text")[0] = SECRET
    column(answer, "tenant_id")[0] = ""


def no_tenant_column(answer: Any) -> None:
    """The rows without what says whose they are."""
    column(answer, "text")[0] = SECRET
    (at,) = [index for index, each in enumerate(columns(answer)) if each.field_name == "tenant_id"]
    del columns(answer)[at]


def row_without_stamp(answer: Any) -> None:
    """One more row than there are stamps."""
    column(answer, "text").append(SECRET)
    if isinstance(answer, pb.SearchResults):
        answer.results.ids.int_id.data.append(999)
        answer.results.scores.append(0.5)
        answer.results.topks[0] += 1
    else:
        column(answer, "id").append(999)


def two_tenant_columns(answer: Any) -> None:
    """The stamps twice, and not equally."""
    column(answer, "text")[0] = SECRET
    columns(answer).add(type=21, field_name="tenant_id").scalars.string_data.data.extend(
        ["globex"] * len(column(answer, "text"))
    )


FOREIGN: list[Alteration] = [foreign_row, one_more_row, empty_stamp]
UNREADABLE: list[Alteration] = [no_tenant_column, row_without_stamp, two_tenant_columns]


class Scene:
    """acme before an engine whose answers are altered."""

    def __init__(self, stack: Stack, acme: Tenant, alterer: Alterer, log: io.StringIO) -> None:
        self.stack = stack
        self.acme = acme
        self.alterer = alterer
        self.log = log

    async def withheld(self, method: str) -> tuple[grpc.StatusCode, str, str]:
        """Read; return gRPC's code, its message, and all that came to the client."""
        with pytest.raises(RefusedError) as refused:
            await (self.acme.search("notes") if method == "Search" else self.acme.query("notes", "id > 0"))
        return refused.value.code, refused.value.details, refused.value.everything

    async def counts(self, name: str, wanted: float, **labels: str) -> None:
        """Wait until a metric of acme's has this value: an exchange is counted after the client has its answer."""
        async with asyncio.timeout(5):
            while (found := await self.stack.total(name, tenant="acme", store="docs", **labels)) < wanted:
                await asyncio.sleep(0.01)
        assert found == wanted


@pytest.fixture
def log() -> io.StringIO:
    stream = io.StringIO()
    logs.configure(stream)
    return stream


@pytest.fixture
async def scene(lite25: Engine, tmp_path: Path, log: io.StringIO) -> AsyncIterator[Scene]:
    alterer = Alterer()
    async with AsyncExitStack() as exits:
        recorder = exits.enter_context(milvus_recorder.recording(lite25.address, alter=alterer))
        stack = await exits.enter_async_context(
            behind(tmp_path, {"docs": store("milvus", recorder.address, "collection")})
        )
        acme = await exits.enter_async_context(Tenant(stack.address, "acme"))
        with contextlib.suppress(RefusedError):  # the engine is the module's
            await acme.make("notes")
            await acme.insert("notes", rows("acme", [1, 2, 3]))
        assert await acme.query("notes", "id > 0") == await acme.search("notes") == rows("acme", [1, 2, 3])
        yield Scene(stack, acme, alterer, log)


@pytest.mark.parametrize("method", READS)
async def test_a_foreign_row_raises_the_alarm_and_nothing_of_it_is_seen(scene: Scene, method: str) -> None:
    for number, alteration in enumerate(FOREIGN, 1):
        scene.alterer.by = alteration
        code, said, everything = await scene.withheld(method)
        assert (code, said) == (grpc.StatusCode.PERMISSION_DENIED, "The store's answer was withheld.")
        assert "globex" not in everything
        assert "somebody" not in everything
        await scene.counts("tenantry_store_foreign_rows_total", number)
    assert scene.alterer.altered == len(FOREIGN)
    await scene.counts("tenantry_store_requests_total", len(FOREIGN), result="withheld")
    critical = [line for line in scene.log.getvalue().splitlines() if '"critical"' in line]
    assert len(critical) == len(FOREIGN)
    assert all('"a store answered with a row of another tenant"' in line for line in critical)
    assert all('"tenant": "acme"' in line and f'"operation": "{method}"' in line for line in critical)
    assert "somebody" not in scene.log.getvalue()


@pytest.mark.parametrize("method", READS)
async def test_rows_that_do_not_say_whose_they_are_are_withheld(scene: Scene, method: str) -> None:
    for alteration in UNREADABLE:
        scene.alterer.by = alteration
        code, said, everything = await scene.withheld(method)
        assert (code, said) == (grpc.StatusCode.PERMISSION_DENIED, "The store's answer was withheld.")
        assert "somebody" not in everything
    assert scene.alterer.altered == len(UNREADABLE)
    await scene.counts("tenantry_store_requests_total", len(UNREADABLE), result="withheld")
    scene.alterer.by = None
    assert await scene.acme.search("notes") == rows("acme", [1, 2, 3])
