"""Write generated/ anew from cases/, and the Helm chart's parts: `python -m tenantry_envoy [FOLDER]`.

FOLDER holds both; the chart is beside it, in helm/tenantry.
"""

import sys
from pathlib import Path

from tenantry_envoy.cases import load, render
from tenantry_envoy.fragments import fragments


def main(arguments: list[str]) -> int:
    """Regenerate; return the exit code."""
    folder = Path(arguments[0]) if arguments else Path(__file__).parents[1]
    cases = sorted((folder / "cases").glob("*.yaml"))
    if not cases:
        sys.stderr.write(f"{folder} holds no cases/*.yaml; name the folder that does\n")
        return 2
    files = {name: text for case in cases for name, text in render(load(case)).items()}
    _write(folder / "generated", files)
    _write(folder.parent / "helm" / "tenantry" / "files" / "envoy", fragments())
    return 0


def _write(output: Path, files: dict[str, str]) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for stale in {path for path in output.iterdir() if path.is_file()} - {output / name for name in files}:
        stale.unlink()
    for name, text in files.items():
        (output / name).write_text(text)
    sys.stdout.write(f"{len(files)} files in {output}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
