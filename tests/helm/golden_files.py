"""Pairs of values and what the chart makes of them, checked in: its changes can be read as changes of manifests.

make golden     # writes golden/*.yaml anew from golden/*.values.yaml (Helm 4)
"""

from pathlib import Path

import yaml

from helm.helm import Manifest, Values, render

FOLDER = Path(__file__).resolve().parent / "golden"
NAMES = sorted(path.name.removesuffix(".values.yaml") for path in FOLDER.glob("*.values.yaml"))


def values_of(name: str) -> Values:
    """Return a case's values."""
    loaded: Values = yaml.safe_load((FOLDER / f"{name}.values.yaml").read_text())
    return loaded


def expected(name: str) -> list[Manifest]:
    """Return a case's manifests as they are checked in."""
    return list(yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text()))


def main() -> None:
    """Write all of them anew."""
    for name in NAMES:
        manifests = render(values_of(name))
        (FOLDER / f"{name}.yaml").write_text(yaml.safe_dump_all(manifests, sort_keys=False, width=120))


if __name__ == "__main__":
    main()
