"""The known attacks (`tests/data/attacks.json`), and what became of those that were tried."""

import json
from pathlib import Path
from typing import Any

from msgspec import Struct

CASES = Path(__file__).resolve().parent.parent / "tests" / "data" / "attacks.json"


class Seen(Struct, kw_only=True):
    """What became of cases. `leaks` are ids of cases; `deviations` say what became of those that went otherwise."""

    cases: int = 0
    denied: int = 0
    rows_lost: int = 0
    leaks: list[str] = []
    deviations: dict[str, str] = {}


def load(api: str) -> list[dict[str, Any]]:
    """Return the cases of one API."""
    return [case for case in json.loads(CASES.read_text()) if case["api"] == api]


def count() -> int:
    """Return how many known attacks there are, on all APIs."""
    return len(json.loads(CASES.read_text()))
