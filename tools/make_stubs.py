"""Compile every .proto of extproc/ into its _pb2.py and _pb2.pyi.

The stubs are checked in: they change about as often as the field numbers of Envoy, Milvus and
Pinecone, and an installed package needs no compiler. `make check` runs this with --check and fails
when they are stale. Files are named by their path from extproc/, since the descriptor pool of a
process has one `milvus.proto`, and that may be pymilvus's.
"""

import argparse
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent / "extproc"


def compile_to(folder: Path) -> dict[str, str]:
    """Return the generated files by their path from extproc/."""
    sources = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("tenantry/**/_pb/*.proto"))
    includes = [f"--proto_path={ROOT}", f"--proto_path={files('grpc_tools') / '_proto'}"]
    if protoc.main(["protoc", *includes, f"--python_out={folder}", f"--pyi_out={folder}", *sources]) != 0:
        raise SystemExit(f"protoc refused one of {', '.join(sources)}")
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.glob("**/*_pb2.py*"))}


def main() -> int:
    """Write the stubs, or with --check say whether they are current."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a stub is stale")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        generated = compile_to(Path(folder))
    stale = [
        name for name, text in generated.items() if not (ROOT / name).exists() or (ROOT / name).read_text() != text
    ]
    if not check:
        for name in stale:
            (ROOT / name).write_text(generated[name])
    for name in stale:
        print(f"{name}: {'stale; run `make stubs`' if check else 'written'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
