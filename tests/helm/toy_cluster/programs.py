"""The two Helms of `python3 tools/env.py helm`."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HELMS = ("helm4", "helm3")


@cache
def _folder() -> Path | str:
    found = subprocess.run(
        [sys.executable, ROOT / "tools" / "env.py", "helm"], capture_output=True, text=True, check=False
    )
    if found.returncode:
        return found.stderr.strip().splitlines()[-1]
    return Path(found.stdout.split()[-1]).parent


def helm_program(name: str) -> Path:
    """Where `helm4` or `helm3` is; skip, and say so at the end, where there is none."""
    folder = _folder()
    if isinstance(folder, str):
        pytest.skip(f"no Helm: {folder}")
    return folder / name
