"""Write the chart's generated files, or with --check say which are out of date.

python -m tools.chart [--check]
"""

import sys
from pathlib import Path

from tools.chart.readme import readme
from tools.chart.schema import schema_text

CHART = Path(__file__).resolve().parents[2] / "helm" / "tenantry"


def main() -> int:
    """Write or check; exit 1 when a check finds a difference."""
    check, stale = "--check" in sys.argv[1:], []
    values = (CHART / "values.yaml").read_text()
    for name, text in (("values.schema.json", schema_text(values)), ("README.md", readme(values))):
        path = CHART / name
        if path.exists() and path.read_text() == text:
            continue
        if check:
            stale.append(name)
        else:
            path.write_text(text)
            print(f"helm/tenantry/{name}: written")
    for name in stale:
        print(f"helm/tenantry/{name} is out of date: `make stubs` writes it anew", file=sys.stderr)
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
