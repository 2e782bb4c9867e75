"""Whatever the sidecar fails to do, nothing passes undecided (invariants 1, 4, 5).

Envoy takes a clean end of the ext_proc stream for consent, `failure_mode_allow: false` or not, and in
grpcio a bare `return` is a clean end. So every answer of the real server is turned into a bare return
here, and each request is sent through three Envoys:

    generated    the configuration as it is
    backstop     every route leads to a version's cluster, whatever the sidecar said: RBAC alone must hold
    neither      the same without RBAC: the control, which shows what would have passed
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tenantry.adapters._pb import wire_pb2
from tenantry.adapters.bind import Address
from tenantry.adapters.grpcio_transport import GrpcioTransport
from tenantry.adapters.metrics import Metrics
from tenantry.adapters.rules_file import Source
from tenantry.adapters.sidecar import Sidecar
from tenantry.core.errors import ConversationError
from tenantry.core.session import Session

from dataplane.harness import KEYS, Edit, Files, Json, connection_manager, envoy, rules, without_backstop
from dataplane.processes import sockets
from dataplane.upstream import Upstream
from dataplane.wire import ask, chat, chat_body, request

Process = Callable[[Any, Any], Awaitable[None]]
Mutant = Callable[[Process, Any, Any], Awaitable[None]]


class MutableTransport(GrpcioTransport):
    """The real transport; `mutant` may stand between it and Envoy."""

    mutant: Mutant | None = None

    async def _process(self, _requests: Any, context: Any) -> None:
        if self.mutant is None:
            await super()._process(_requests, context)
        else:
            await self.mutant(super()._process, _requests, context)


class BareReturn(BaseException):
    """Thrown where the mutated server says `return`; a BaseException, so that its own handlers do not catch it."""


class Striking:
    """A ServicerContext whose n-th call of a method is a bare return of the server instead."""

    def __init__(self, context: Any, method: str, nth: int) -> None:
        self._context, self._method, self._count = context, method, itertools.count(1)
        self._nth = nth

    def __getattr__(self, name: str) -> Any:
        if name == self._method and next(self._count) == self._nth:
            raise BareReturn
        return getattr(self._context, name)


def return_instead_of(method: str, nth: int = 1) -> Mutant:
    """The real server with `return` in place of its n-th `await context.METHOD(...)`."""

    async def mutant(process: Process, requests: Any, context: Any) -> None:
        with contextlib.suppress(BareReturn):
            await process(requests, Striking(context, method, nth))

    return mutant


def server(*replies: Callable[[], bytes] | None) -> Mutant:
    """A server made by hand: one reply for each message it reads, then a bare return."""

    async def mutant(_process: Process, _requests: Any, context: Any) -> None:
        for reply in replies:
            await context.read()
            if reply is not None:
                await context.write(reply())

    return mutant


def reply(kind: str, **tenantry: str) -> Callable[[], bytes]:
    """A CONTINUE for this kind of event, with this metadata."""

    def build() -> bytes:
        response = wire_pb2.ProcessingResponse()
        if kind:
            getattr(response, kind).SetInParent()
        if tenantry:
            response.dynamic_metadata.update({"tenantry": tenantry})
        return response.SerializeToString()

    return build


HEADERS, BODY = reply("request_headers"), reply("request_body")

GOOD = chat(KEYS["acme"])
UNKNOWN_KEY = chat("tk_unknown")
UNKNOWN_MODEL = chat(KEYS["acme"], model="nope")
MODELS = request("/v1/models", method="GET", key=KEYS["acme"])
SLEEP = request("/sleep", body=chat_body(), headers=[("Content-Type", "application/json")], key=KEYS["acme"])


@dataclass(frozen=True, kw_only=True)
class Case:
    """`passes`: whether the request would reach the upstream without the backstop. `bug`: event that raises."""

    mutant: Mutant
    data: bytes = GOOD
    passes: bool = True
    bug: tuple[int, Exception] | None = None


BUG, DISORDER = RuntimeError("bug"), ConversationError("order")

CASES = {
    # Each answer of the real server turned into a bare return.
    "read: return at open": Case(mutant=return_instead_of("read")),
    "read: return after the headers' answer": Case(mutant=return_instead_of("read", 2)),
    "write: headers' answer": Case(mutant=return_instead_of("write", 1)),
    "write: body's answer": Case(mutant=return_instead_of("write", 2)),
    "write: refusal of an unknown key": Case(mutant=return_instead_of("write", 1), data=UNKNOWN_KEY),
    "write: refusal of a route": Case(mutant=return_instead_of("write", 1), data=SLEEP),
    "write: refusal of an unknown model": Case(mutant=return_instead_of("write", 2), data=UNKNOWN_MODEL),
    "write: answer without a body": Case(mutant=return_instead_of("write", 1), data=MODELS),
    "abort: bug at headers": Case(mutant=return_instead_of("abort"), bug=(1, BUG)),
    "abort: bug at body": Case(mutant=return_instead_of("abort"), bug=(2, BUG)),
    "abort: disorder at headers": Case(mutant=return_instead_of("abort"), bug=(1, DISORDER)),
    "abort: disorder at body": Case(mutant=return_instead_of("abort"), bug=(2, DISORDER)),
    # Servers that answer, but not what the sidecar does.
    "return without reading": Case(mutant=server()),
    "read headers and body, answer neither": Case(mutant=server(None, None), passes=False),
    "no metadata": Case(mutant=server(HEADERS, BODY)),
    "enforced: no": Case(mutant=server(HEADERS, reply("request_body", enforced="no"))),
    "enforced: YES": Case(mutant=server(HEADERS, reply("request_body", enforced="YES"))),
    "a tenant, but not enforced": Case(mutant=server(HEADERS, reply("request_body", tenant="acme"))),
    "no metadata, no body": Case(mutant=server(HEADERS), data=MODELS),
    "an empty answer": Case(mutant=server(reply("", enforced="yes")), passes=False),
    "an answer to another event": Case(mutant=server(reply("response_headers", enforced="yes")), passes=False),
    "no protobuf": Case(mutant=server(lambda: b"\xff\xff\xff"), passes=False),
}


@dataclass(kw_only=True)
class Seam:
    """The mutable server, the upstream, and the addresses of the three Envoys."""

    transport: MutableTransport
    upstream: Upstream
    envoys: dict[str, str]

    async def reached(self, data: bytes) -> dict[str, tuple[int, bool]]:
        """Status, and whether the upstream was reached, through each Envoy."""
        seen = len(self.upstream.seen)

        async def through(name: str) -> tuple[int, bool]:
            agent = f"through {name}".encode()
            marked = data.replace(b"Host: tenantry.test", b"Host: tenantry.test\r\nUser-Agent: " + agent)
            response = await ask(self.envoys[name], marked)
            arrived = [entry for entry in self.upstream.seen[seen:] if entry.header("user-agent") == [agent]]
            return response.status, bool(arrived)

        return dict(zip(self.envoys, await asyncio.gather(*map(through, self.envoys)), strict=True))


def as_it_is(_config: Json) -> None:
    """Leave the configuration alone."""


def lead_anywhere(config: Json) -> None:
    """Let every route, the refused paths' too, lead to a version's cluster."""
    routes = connection_manager(config)["route_config"]
    routes["validate_clusters"] = False  # they come by CDS
    for route in routes["virtual_hosts"][0]["routes"]:
        route.pop("direct_response", None)
        route["route"] = {"cluster": "chat-8b@1.4.0"}


def lead_anywhere_unguarded(config: Json) -> None:
    lead_anywhere(config)
    without_backstop(config)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def seam(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Seam]:
    async with seams(tmp_path_factory.mktemp("seam")) as running:
        yield running


@contextlib.asynccontextmanager
async def seams(
    folder: Path, given: Callable[[Files, str], Edit] = lambda _files, _socket: as_it_is
) -> AsyncIterator[Seam]:
    """Run the mutable server and three Envoys; `given` may put another configuration in the generator's place."""
    files = Files(folder=folder)
    edits = {"generated": as_it_is, "backstop": lead_anywhere, "neither": lead_anywhere_unguarded}
    async with Upstream().running() as upstream, contextlib.AsyncExitStack() as exits:
        files.save(rules(upstream))
        path = str(exits.enter_context(sockets()) / "s")
        source = Source(files.rules, files.secrets)
        transport = MutableTransport(Sidecar(source.build(*source.read()), Metrics()))
        await transport.start(Address(path=path), None)
        exits.push_async_callback(transport.drain, 1.0)
        envoys = {}
        put = given(files, path)
        for name, edit in edits.items():

            def both(config: Json, edit: Edit = edit) -> None:
                put(config)
                edit(config)

            envoys[name], _admin = await exits.enter_async_context(
                envoy(files, (path,), edit=both, state=name, message_timeout_seconds=1.0)
            )
        yield Seam(transport=transport, upstream=upstream, envoys=envoys)


@pytest.fixture
def mutate(seam: Seam, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Case], None]]:
    def plant(case: Case) -> None:
        seam.transport.mutant = case.mutant
        if case.bug is not None:
            event, error = case.bug
            on_event = Session.on_event

            def fails(self: Session, *arguments: Any) -> Any:
                if self.events + 1 == event:
                    raise error
                return on_event(self, *arguments)

            monkeypatch.setattr(Session, "on_event", fails)

    yield plant
    seam.transport.mutant = None


async def test_unmutated_all_three_pass_what_should_pass(seam: Seam) -> None:
    assert await seam.reached(GOOD) == {"generated": (200, True), "backstop": (200, True), "neither": (200, True)}
    for data, status in ((UNKNOWN_KEY, 401), (UNKNOWN_MODEL, 404), (SLEEP, 404)):
        assert await seam.reached(data) == dict.fromkeys(seam.envoys, (status, False))


@pytest.mark.parametrize("what", CASES)
async def test_nothing_passes_a_server_that_fails_to_answer(
    seam: Seam, mutate: Callable[[Case], None], what: str
) -> None:
    case = CASES[what]
    mutate(case)
    found = await seam.reached(case.data)
    assert {name: reached for name, (_status, reached) in found.items()} == {
        "generated": False, "backstop": False, "neither": case.passes
    }  # fmt: skip
    assert found["generated"][0] in (403, 503)


async def test_metadata_with_the_headers_reply_is_enough_for_the_backstop(
    seam: Seam, mutate: Callable[[Case], None]
) -> None:
    """So the sidecar writes it with its last reply only. The generated routes still lead nowhere without a cluster."""
    mutate(Case(mutant=server(reply("request_headers", enforced="yes"))))
    found = await seam.reached(GOOD)
    assert found == {"generated": (503, False), "backstop": (200, True), "neither": (200, True)}


async def test_a_server_that_never_answers_is_given_up(seam: Seam, mutate: Callable[[Case], None]) -> None:
    async def hangs_at_body(_process: Process, _requests: Any, context: Any) -> None:
        await context.read()
        await context.write(HEADERS())
        await asyncio.sleep(60)

    mutate(Case(mutant=hangs_at_body))
    begin = time.monotonic()
    assert await seam.reached(GOOD) == dict.fromkeys(seam.envoys, (503, False))
    assert 0.9 < time.monotonic() - begin < 3
