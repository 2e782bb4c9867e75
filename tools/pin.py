"""Resolve environments anew and write constraints/NAME.txt: exact pins, no addresses.

    python3 tools/pin.py                          # dev
    python3 tools/pin.py milvus30 milvus26 milvus23

Installs pyproject's `dev` extra (and what it names), or what STORES lists, into a throw-away environment and freezes
it. constraints/vllm.txt is not made here: vLLM's CPU wheel pins nearly all of it itself.
"""

import argparse
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Collection
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STORES = {
    "milvus30": ("milvus-lite==3.2.2", "pymilvus==3.0.2", "langchain-milvus==0.4.0", "pinecone==10.2.0"),
    "milvus26": ("milvus-lite==2.5.1", "pymilvus==2.6.17", "llama-index-vector-stores-milvus==1.2.0"),
    # pymilvus 2.3 imports pkg_resources, and environs 9 reads a field that marshmallow 4 dropped.
    "milvus23": ("milvus==2.3.5", "pymilvus==2.3.7", "marshmallow<4", "setuptools<81"),
}
"""Each engine with the clients that agree with its packages: langchain wants pymilvus 3, llama-index 2.6."""

WHAT = {
    "dev": "Every package of the development environment",
    "milvus30": "Milvus Lite 3.2.2 and the newest clients (pymilvus 3.0, langchain-milvus, pinecone)",
    "milvus26": "Milvus Lite 2.5.1, pymilvus 2.6 and llama-index",
    "milvus23": "Milvus 2.3.5 and pymilvus 2.3",
}


def requirements(extras: Collection[str] | None = None) -> list[str]:
    """Return the requirements of the base and of these extras (None: of all), apart from references to ourselves."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = project["optional-dependencies"]
    named = [name for group in (groups if extras is None else extras) for name in groups[group]]
    return [name for name in [*project["dependencies"], *named] if not name.startswith("tenantry[")]


def main() -> int:
    """Write the files; exit with pip's code when it fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", metavar="NAME", nargs="*", choices=sorted(WHAT), default="dev", help=", ".join(WHAT))
    names = parser.parse_args().names
    for name in [names] if isinstance(names, str) else names:
        _pin(name)
    return 0


def _pin(name: str) -> None:
    wanted = requirements() if name == "dev" else STORES[name]
    tools = {"pip"} if any(one.startswith("setuptools") for one in wanted) else {"pip", "setuptools"}
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        pip = [f"{folder}/bin/python", "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--quiet", *wanted], check=True)
        subprocess.run([*pip, "check"], check=True)
        frozen = subprocess.run([*pip, "freeze", "--all"], check=True, capture_output=True, text=True).stdout
    pins = [line for line in frozen.splitlines() if line.partition("==")[0] not in tools]
    command = "make pins" if name == "dev" else f"python3 tools/pin.py {name}"
    header = f"# {WHAT[name]}, pinned; installed with --no-deps. `{command}` writes it anew."
    (ROOT / "constraints" / f"{name}.txt").write_text("\n".join([header, *pins]) + "\n")
    print(f"constraints/{name}.txt: {len(pins)} packages")


if __name__ == "__main__":
    sys.exit(main())
