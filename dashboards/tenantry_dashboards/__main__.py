"""Write the dashboards: `python -m tenantry_dashboards [--check]`, to generated/ beside this package."""

import argparse
import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from tenantry_dashboards import (
    drift,
    noisy_neighbour,
    overview,
    retrieval,
    rollout,
    sidecar,
    tenant,
    unit_economics,
)

FOLDER = Path(__file__).resolve().parents[1] / "generated"
MODULES = (overview, tenant, noisy_neighbour, rollout, retrieval, unit_economics, drift, sidecar)


def rendered() -> dict[str, str]:
    """Return each file's text by its name, which is the dashboard's uid."""
    return {f"{dashboard.uid}.json": _text(dashboard) for dashboard in (module.build() for module in MODULES)}


def _text(dashboard: Dashboard) -> str:
    document = dashboard.to_json()
    del document["style"]  # dark or light is for who looks
    return json.dumps(document, cls=JSONEncoder, indent=1, ensure_ascii=False) + "\n"


def main(arguments: list[str], folder: Path = FOLDER) -> int:
    """Write the files, or with --check say which are not as they would be written; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a file is stale")
    check = parser.parse_args(arguments).check
    folder.mkdir(exist_ok=True)
    wanted = rendered()
    present = {path.name: path.read_text() for path in folder.glob("*.json")}
    stale = sorted(name for name in wanted | present if wanted.get(name) != present.get(name))
    for name in stale:
        if not check and name in wanted:
            (folder / name).write_text(wanted[name])
        elif not check:
            (folder / name).unlink()
        sys.stdout.write(f"{name}: {'stale; run `make stubs`' if check else 'written'}\n")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
