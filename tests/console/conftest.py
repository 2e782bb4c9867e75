"""One stack and one browser for all tests of the console."""

import io
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser
from tenantry.adapters import logs

from console.stage import PROGRAM, Reader, Stage, chromium, reading, stage

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # One event loop for all, since stack and browser live in it.
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest.fixture(scope="session")
def program() -> str:
    """Skip, and say so at the end, where there is no Chromium to start."""
    found = shutil.which(PROGRAM)
    if found is None:
        pytest.skip("no chromium: `python3 tools/services.py chromium` says why")
    return found


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def where(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    logs.configure(io.StringIO())
    async with stage(tmp_path_factory.mktemp("console")) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(program: str) -> AsyncIterator[Browser]:
    async with chromium(program) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="session")
async def reader(browser: Browser, where: Stage) -> AsyncIterator[Reader]:
    """A desktop's window, before the login; the page may complain of nothing and ask nobody else."""
    async with reading(browser, where, viewport={"width": 1200, "height": 900}) as made:
        yield made
        assert made.errors == []
        assert [url for url in made.asked if not url.startswith((f"{where.admin}/", "data:"))] == []
