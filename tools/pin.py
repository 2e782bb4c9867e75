"""Resolve the development environment anew and write constraints/dev.txt: exact pins, no addresses.

    python3 tools/pin.py

Installs pyproject's `dev` extra (and what it names) into a throw-away environment and freezes it.
constraints/vllm.txt is not made here: vLLM's CPU wheel pins nearly all of it itself.
"""

import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = (
    "# Every package of the development environment, pinned; installed with --no-deps. `make pins` writes it anew.\n"
)


def requirements() -> list[str]:
    """Return the requirements of the base and of every extra, apart from references to ourselves."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [name for group in project["optional-dependencies"].values() for name in group]
    return [name for name in [*project["dependencies"], *extras] if not name.startswith("tenantry[")]


def main() -> int:
    """Write the file; exit with pip's code when it fails."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        pip = [f"{folder}/bin/python", "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--quiet", *requirements()], check=True)
        subprocess.run([*pip, "check"], check=True)
        frozen = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout
    (ROOT / "constraints" / "dev.txt").write_text(HEADER + frozen)
    print(f"constraints/dev.txt: {len(frozen.splitlines())} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
