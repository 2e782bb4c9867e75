"""One run of the demo under a real Prometheus for the whole session, and promtool beside it."""

import asyncio
import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from tenantry_testing.promtool import Scenarios, playing
from tenantry_testing.scraped_demo import Scraped, played


@pytest.fixture(scope="session")
def scenarios() -> Iterator[Scenarios]:
    """Give the scenarios of rules that promtool plays meanwhile."""
    if shutil.which("promtool") is None:
        pytest.skip("no promtool: `python3 tools/services.py prometheus` says why")
    with playing() as started:
        yield started


@pytest.fixture(scope="session")
def scraped(
    scenarios: Scenarios, tmp_path_factory: pytest.TempPathFactory, figure: dict[str, Any]
) -> Iterator[Scraped]:
    """Give what Prometheus has of a run; the scenarios of promtool have begun before it."""
    if shutil.which("prometheus") is None:
        pytest.skip("no Prometheus: `python3 tools/services.py prometheus` says why")
    folder = tmp_path_factory.mktemp("demo")
    with contextlib.ExitStack() as stack:
        result = asyncio.run(played(folder, stack))
        figure["versions.prometheus"] = result.prometheus.version()
        figure["run_seconds"] = round(result.end_s - result.begin_s)
        yield result
