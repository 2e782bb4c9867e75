"""What a wheel of tenantry holds, and that its base needs msgspec alone."""

import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import msgspec
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def test_one_distribution_holds_the_import_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    packages = {name.split("/")[0] for name in names if not name.split("/")[0].endswith(".dist-info")}
    assert packages == {"tenantry", "tenantry_vllm", "tenantry_standin", "tenantry_envoy"}
    assert all(f"{package}/py.typed" in names for package in packages)
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]


def test_the_base_depends_on_msgspec_alone(wheel: Path) -> None:
    required = metadata(wheel).get_all("Requires-Dist") or []
    assert [name for name in required if "extra ==" not in name] == ["msgspec>=0.19"]
    assert not [name for name in required if name.startswith("vllm")], "pip must not replace an image's own vLLM"


def test_the_base_works_with_msgspec_alone(wheel: Path, tmp_path: Path) -> None:
    """What the vLLM plugin needs inside an engine's image: core, stamp and delivery, on msgspec and the stdlib."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    (tmp_path / "msgspec").symlink_to(Path(msgspec.__file__).parent)
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from tenantry.core import chat, identity, routing, rules, session\n"
        "from tenantry_vllm.stamp import read_stamp\n"
        "from tenantry_vllm.delivery import Delivery\n"
        "foreign = [n for n in ('yaml', 'grpc', 'google.protobuf', 'aiohttp', 'vllm') if n in sys.modules]\n"
        "assert not foreign, foreign\n"
        "print(rules.__file__)"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.startswith(str(tmp_path))
