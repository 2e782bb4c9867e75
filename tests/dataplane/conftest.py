"""One stack for the whole run, for every test that needs no stack of its own."""

import asyncio
import contextlib
import io
import resource
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from tenantry.adapters import logs

from dataplane import pki
from dataplane.harness import KEYS, Json, Stack, rules, stack
from dataplane.upstream import Upstream, sse
from dataplane.wire import Response, chat

HERE = Path(__file__).parent
MAX_BODY_BYTES = 64 * 1024
"""The shared stack's bound on bodies."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # One event loop for all, since the shared stack lives in it.
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest.fixture(scope="session", autouse=True)
def sidecar_log() -> Iterator[io.StringIO]:
    """What sidecars in this process log."""
    stream = io.StringIO()
    logs.configure(stream)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield stream
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="session")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> pki.Issuer:
    """An identity provider with a JWKS file."""
    return pki.Issuer(tmp_path_factory.mktemp("idp"))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared(tmp_path_factory: pytest.TempPathFactory, issuer: pki.Issuer) -> AsyncIterator[Stack]:
    """API keys and JWT, bodies up to 64 KiB. Tests do not change its rules."""

    def build(upstream: Upstream) -> Json:
        identity = {"jwt": issuer.rules}
        return rules(upstream, identity=identity, limits={"maxBodyBytes": MAX_BODY_BYTES})

    async with stack(tmp_path_factory.mktemp("shared"), build) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def long_stream(shared: Stack) -> AsyncIterator[asyncio.Task[Response]]:
    """A stream of 20 s, an event each second, that runs while other tests do."""
    shared.upstream.scripts["20 s"] = lambda _seen: sse((b"data: %d\n\n" % number for number in range(20)), 1.0)
    task = asyncio.create_task(shared.ask(chat(KEYS["acme"], script="20 s"), timeout=120))
    yield task
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.fixture(scope="session", autouse=True)
def begin_early(request: pytest.FixtureRequest, sidecar_log: io.StringIO) -> None:
    """Start what takes long before the first test, if a test that is to run asks for it."""
    if any("long_stream" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("long_stream")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stack_to_change(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with stack(tmp_path_factory.mktemp("reload")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def live(stack_to_change: Stack) -> AsyncIterator[Stack]:
    """A stack whose document a test may change; it is put back afterwards."""
    base = rules(stack_to_change.upstream)
    if stack_to_change.document != base or (await stack_to_change.status())["state"] != "live":
        await stack_to_change.live(base)
    yield stack_to_change
