"""One Redis and one PostgreSQL for the whole run; where one is missing, what needs it is listed as not run."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tenantry.adapters.state import Store, open_state
from tenantry_testing.postgres_server import PostgresServer, postgres_server
from tenantry_testing.redis_server import RedisServer, redis_server

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # One event loop for all, since the shared server's fixture lives in it.
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def redis(redis_program: None, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisServer]:
    """A server that no test stops or fills."""
    async with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="session")
async def own_redis(redis_program: None, tmp_path: Path) -> AsyncIterator[RedisServer]:
    """A server of the test's own."""
    async with redis_server(tmp_path) as server:
        yield server


@pytest.fixture(scope="session", params=["sqlite", "redis"])
def where(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A place for state, in each kind of store; tests use keys of their own."""
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis")
        return server.url
    return str(tmp_path_factory.mktemp("sqlite") / "state.db")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def store(where: str) -> AsyncIterator[Store]:
    opened = open_state(where)
    yield opened
    await opened.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def postgres(postgres_program: None) -> AsyncIterator[PostgresServer]:
    """A server that no test stops; tests make databases of their own."""
    async with postgres_server() as server:
        yield server


@pytest_asyncio.fixture(loop_scope="session")
async def own_postgres(postgres_program: None) -> AsyncIterator[PostgresServer]:
    """A server of the test's own."""
    async with postgres_server() as server:
        yield server
