"""Follow the Containerfiles without a container engine: a folder for each stage, a fresh environment for each image.

    python -m tools.images

Copies what COPY copies and runs what RUN runs, so that a missing file, a pin that does not resolve, or a package that
needs a compiler shows here. For the base image of Python stands an empty virtual environment of this Python, for vLLM's
one that has msgspec. Prints JSON; exit 1 where a step fails.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMPORTS = "import tenantry.adapters.process, tenantry.ledger_cli, psycopg, pyarrow, redis, opentelemetry.sdk"
PROOFS = {
    "Containerfile": [
        ["tenantry", "check", "demo/rules.yaml"],
        ["tenantry", "envoy", "demo/rules.yaml"],
        ["python", "-c", IMPORTS],
    ],
    "plugins/Containerfile": [["python", "-c", "import tenantry_vllm"]],
}
"""What must work in the last stage."""

Step = tuple[str, str]


class FailedStepError(Exception):
    """A step that did not work, with what it said."""


def steps(recipe: str) -> Iterator[Step]:
    """Yield (instruction, rest) of a recipe's text."""
    for line in recipe.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            instruction, _, rest = line.partition(" ")
            yield instruction, rest.strip()


@dataclass
class Build:
    """Stages by name, each a folder that stands for `/`. `base` makes an image's folder."""

    folder: Path
    base: Callable[[str, Path], None]
    stages: dict[str, Path] = field(default_factory=dict)
    here: Path = Path()
    before: set[str] = field(default_factory=set)
    workdir: str = "/"

    def follow(self, recipe: str) -> Path:
        """Do every step; return the last stage's folder."""
        for instruction, rest in steps(recipe):
            match instruction:
                case "FROM":
                    self._begin(*re.match(r"(\S+)(?: AS (\S+))?", rest).groups())  # type: ignore[union-attr]  # always one
                case "WORKDIR":
                    self.workdir = rest
                case "COPY":
                    self._copy(shlex.split(rest))
                case "RUN":
                    self._run(rest)
        return self.here

    def _begin(self, image: str, name: str | None) -> None:
        self.here = self.stages[name or "last"] = self.folder / (name or "last")
        self.workdir = "/"
        self.base(image, self.here)
        self.before = packages(self.here / "python/bin/python")

    def _path(self, path: str) -> Path:
        return self.here / (Path(self.workdir) / path).as_posix().lstrip("/")

    def _copy(self, words: list[str]) -> None:
        source = self.stages[words.pop(0).partition("=")[2]] if words[0].startswith("--from=") else ROOT
        *names, target = words
        for name in names:
            found = source / name.lstrip("/")
            into = self._path(target) / (found.name if target.endswith("/") else "")
            into.parent.mkdir(parents=True, exist_ok=True)
            if found.is_dir():
                shutil.copytree(found, into, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(found, into)

    def _run(self, command: str) -> None:
        here = re.sub(r"(?<![\w.*])/(?=build|opt|wheels)", f"{self.here}/", command)
        cwd = self._path(".")
        cwd.mkdir(parents=True, exist_ok=True)
        environment = {"PATH": f"{self.here}/python/bin:/usr/bin:/bin", "HOME": str(self.here)}
        done = subprocess.run(here, shell=True, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise FailedStepError(f"RUN {command}\n{done.stdout[-500:]}{done.stderr[-2000:]}")


def fresh(image: str, folder: Path) -> None:
    """Make what stands for a base image."""
    venv.create(folder / "python", with_pip=True, symlinks=True)
    if "VLLM" in image:
        pin = next(
            line for line in (ROOT / "constraints/dev.txt").read_text().splitlines() if line.startswith("msgspec==")
        )
        subprocess.run([folder / "python/bin/pip", "install", "--quiet", pin], check=True)


def packages(python: Path) -> set[str]:
    """Return an environment's packages as NAME==VERSION."""
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {f"{each['name']}=={each['version']}" for each in json.loads(listed.stdout)}


def built(recipe: str, folder: Path) -> dict[str, int]:
    """Follow a recipe and try what it made; raise FailedStepError where something does not work."""
    began = time.monotonic()
    build = Build(folder=folder, base=fresh)
    last = build.follow((ROOT / recipe).read_text())
    programs = last / ("opt/tenantry/bin" if recipe == "Containerfile" else "python/bin")
    for program, *arguments in PROOFS[recipe]:
        said = subprocess.run(
            [programs / program, *arguments], capture_output=True, text=True, check=False, cwd=ROOT,
            env={"PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        if said.returncode != 0:
            raise FailedStepError(f"{program} {' '.join(arguments)}\n{said.stderr[-2000:]}")
    found = packages(programs / "python")
    moved = {each.partition("==")[0] for each in found - build.before} - {"tenantry"}
    if recipe.startswith("plugins") and moved:
        raise FailedStepError(f"packages of the base image moved: {', '.join(sorted(moved))}")
    return {"seconds": round(time.monotonic() - began), "packages": len(found)}


def main() -> int:
    """Follow both recipes; print what came of it."""
    results = {}
    for recipe in PROOFS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                results[recipe] = built(recipe, Path(folder))
            except FailedStepError as error:
                sys.stderr.write(f"{recipe}: {error}\n")
                return 1
    sys.stdout.write(f"{json.dumps(results)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
