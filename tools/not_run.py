"""Say what did not run and why: the last words of `make test`.

    python tools/not_run.py FOLDER

Each tier writes a JSON file there (`pytest --not-run FILE`, tests/conftest.py): how many tests
passed, and a reason for each that did not run. A tier without a file did not run at all.
"""

import json
import sys
from pathlib import Path

TIERS = ("fast", "state", "helm", "dashboards", "console", "dataplane", "stores", "engines")


def main(folder: Path) -> int:
    """Print the summary; exit 1 when a tier left no file."""
    passed, reasons = 0, []
    for tier in TIERS:
        path = folder / f"{tier}.json"
        if not path.exists():
            print(f"error: tier {tier} left no report")
            return 1
        report = json.loads(path.read_text())
        passed += report["passed"]
        reasons += [
            f"{tier}: {reason} ({count} test{'s' if count > 1 else ''})" for reason, count in report["not_run"].items()
        ]
    print("\nDid not run:" if reasons else "\nDid not run: nothing, every test ran.")
    for reason in reasons:
        print(f"  - {reason}")
    print(f"{passed} passed, 0 failed")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
