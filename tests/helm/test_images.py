"""The recipes of images, as far as no engine is needed: what they copy is there, and what they install is what was tested."""

import re
from pathlib import Path

import pytest
import yaml

from helm.helm import ROOT

RECIPES = ("Containerfile", "plugins/Containerfile")


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_copied_is_in_the_tree(recipe: str) -> None:
    copied = re.findall(r"^COPY (?!--from)(.+)$", (ROOT / recipe).read_text(), re.MULTILINE)
    assert copied
    for line in copied:
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), f"{recipe}: {source}"


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_install_takes_what_was_not_pinned(recipe: str) -> None:
    installs = re.findall(r"pip install ([^&\n]+)", (ROOT / recipe).read_text())
    assert installs
    for arguments in installs:
        words = [word for word in arguments.split() if not word.startswith("-")]
        assert "--no-deps" in arguments or all("==" in word for word in words), f"{recipe}: pip install {arguments}"


def test_the_image_runs_as_the_user_of_the_chart() -> None:
    assert "USER 65532:65532" in (ROOT / "Containerfile").read_text()
    assert "runAsUser: 65532" in (ROOT / "helm/tenantry/templates/_helpers.tpl").read_text()


def test_the_plugins_fragment_names_variables_that_the_plugin_reads() -> None:
    fragment = yaml.safe_load((ROOT / "helm/vllm-values.yaml").read_text())
    (container,) = fragment["containers"]
    read = (ROOT / "plugins/tenantry_vllm/config.py").read_text()
    named = [variable["name"] for variable in container["env"]]
    assert "TENANTRY_MODEL" in named
    for name in named:
        assert f"`{name}`" in read, name
    mounts = {mount["name"]: Path(mount["mountPath"]) for mount in container["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in fragment["volumes"]}
    for variable in container["env"]:
        if variable["value"].startswith("/"):
            assert any(Path(variable["value"]).is_relative_to(path) for path in mounts.values()), variable
