"""Compile extproc/tenantry/adapters/_pb/wire.proto into wire_pb2.py and wire_pb2.pyi.

The stubs are checked in: they change about as often as Envoy's field numbers, and an installed
package needs no compiler. `make check` runs this with --check and fails when they are stale.
"""

import argparse
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

PB = Path(__file__).resolve().parent.parent / "extproc" / "tenantry" / "adapters" / "_pb"


def compile_to(folder: Path) -> dict[str, str]:
    """Return the generated files by name."""
    includes = [f"--proto_path={PB}", f"--proto_path={files('grpc_tools') / '_proto'}"]
    if protoc.main(["protoc", *includes, f"--python_out={folder}", f"--pyi_out={folder}", "wire.proto"]) != 0:
        raise SystemExit("protoc refused wire.proto")
    return {path.name: path.read_text() for path in sorted(folder.glob("wire_pb2.py*"))}


def main() -> int:
    """Write the stubs, or with --check say whether they are current."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a stub is stale")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        generated = compile_to(Path(folder))
    stale = [name for name, text in generated.items() if not (PB / name).exists() or (PB / name).read_text() != text]
    if not check:
        for name in stale:
            (PB / name).write_text(generated[name])
    for name in stale:
        print(f"{name}: {'stale; run `make stubs`' if check else 'written'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
