"""Run a folder of tests and print what they came to as one JSON object, the last line of stdout.

    python -m tools.checked tests/helm --not-run out/test/helm.json

`checked` counts tests that passed or failed, `failed` those that failed, `seed` is hypothesis' (0: derandomised). What
tests put into the fixture `figure` (tests/conftest.py) is in the object too; names `versions.NAME` go under `versions`.
"""

import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest


class Results:
    """A pytest plugin that counts reports."""

    def __init__(self) -> None:
        self.passed = self.failed = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test once: by its call, or by a set-up or an end that failed."""
        if report.failed:
            self.failed += 1
        elif report.when == "call" and report.passed:
            self.passed += 1


def main(arguments: list[str]) -> int:
    """Run pytest with these arguments; return its exit code."""
    results = Results()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figures.json"
        code = pytest.main(["-q", *arguments, "--figures", str(path)], plugins=[results])
        recorded: dict[str, Any] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            recorded |= json.loads(line)
    prefix = "versions."
    versions = {name.removeprefix(prefix): value for name, value in recorded.items() if name.startswith(prefix)}
    figures = {name: value for name, value in recorded.items() if not name.startswith(prefix)}
    versions |= {"pytest": pytest.__version__, "python": platform.python_version()}
    checked = results.passed + results.failed
    print(json.dumps({"checked": checked, "failed": results.failed, "seed": 0, **figures, "versions": versions}))
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
