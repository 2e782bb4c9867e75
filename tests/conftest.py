"""Shared by all tiers: hypothesis profiles, and the list of what did not run."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from tenantry_testing.postgres_server import find_postgres

DEEP = os.environ.get("DEEP") == "1"

hypothesis.settings.register_profile(
    "fast", deadline=None, max_examples=100, suppress_health_check=[hypothesis.HealthCheck.too_slow], derandomize=True
)
hypothesis.settings.register_profile(
    "deep", parent=hypothesis.settings.get_profile("fast"), max_examples=5_000, derandomize=False
)
hypothesis.settings.load_profile("deep" if DEEP else "fast")


@pytest.fixture(scope="session")
def redis_program() -> None:
    """Skip, and say so at the end, where there is no Redis to start."""
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server: `python3 tools/services.py redis` says why")


@pytest.fixture(scope="session")
def postgres_program() -> None:
    """Skip, and say so at the end, where there is no PostgreSQL to start."""
    if find_postgres() is None:
        pytest.skip("no PostgreSQL: `python3 tools/services.py postgresql` says why")


FIGURES = pytest.StashKey[dict[str, Any]]()


@pytest.fixture(scope="session")
def figure(pytestconfig: pytest.Config) -> dict[str, Any]:
    """Return where tests put figures for tools/checked.py; versions of what was measured as `versions.NAME`."""
    return pytestconfig.stash.setdefault(FIGURES, {})


def pytest_sessionfinish(session: pytest.Session) -> None:
    if (path := session.config.getoption("--figures")) is not None:
        with Path(path).open("a") as lines:  # one of each process, with pytest -n
            lines.write(json.dumps(session.config.stash.get(FIGURES, {})) + "\n")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--figures", metavar="FILE", help="write what tests put into the fixture `figure`, as JSON")
    parser.addoption("--not-run", metavar="FILE", help="write a JSON report of what did not run and why")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    path = config.getoption("--not-run")
    if path is None:
        return
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[reason.removeprefix("Skipped: ")] += 1
    if not DEEP:
        reasons["deeper runs are behind DEEP=1"] += 0
    passed = len(terminalreporter.stats.get("passed", []))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps({"passed": passed, "not_run": {k: v for k, v in reasons.items() if v}}, indent=1))
