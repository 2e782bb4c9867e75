"""promtool's own tests of the rules, played beside something else: they take one core, a run of the demo another."""

import contextlib
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

SCENARIOS = sorted((Path(__file__).resolve().parents[2] / "dashboards" / "tests").glob("*.yaml"))
Scenarios = dict[Path, Future[subprocess.CompletedProcess[str]]]


@contextlib.contextmanager
def playing() -> Iterator[Scenarios]:
    """Begin to play all scenarios, one after another."""
    with ThreadPoolExecutor(1) as pool:
        yield {path: pool.submit(_play, path) for path in SCENARIOS}


def _play(path: Path) -> subprocess.CompletedProcess[str]:
    command = ["promtool", "test", "rules", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
