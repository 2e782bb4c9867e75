"""Write generated/ anew from cases/: `python -m tenantry_envoy [FOLDER]`, the folder that holds both."""

import sys
from pathlib import Path

from tenantry_envoy.cases import load, render


def main(arguments: list[str]) -> int:
    """Regenerate; return the exit code."""
    folder = Path(arguments[0]) if arguments else Path(__file__).parents[1]
    cases = sorted((folder / "cases").glob("*.yaml"))
    if not cases:
        sys.stderr.write(f"{folder} holds no cases/*.yaml; name the folder that does\n")
        return 2
    files = {name: text for case in cases for name, text in render(load(case)).items()}
    output = folder / "generated"
    output.mkdir(exist_ok=True)
    for stale in set(output.glob("*.yaml")) - {output / name for name in files}:
        stale.unlink()
    for name, text in files.items():
        (output / name).write_text(text)
    sys.stdout.write(f"{len(files)} files in {output}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
