"""The recipes of images, as far as no engine is needed: what they copy is there, what they install was tested."""

import re
from pathlib import Path

import pytest
import yaml
from tenantry_vllm.config import _NAMES

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
    """`make images-check` runs them."""
    installs = re.findall(r"pip (?:install|wheel) (.+)", (ROOT / recipe).read_text())
    assert len(installs) > 2
    for arguments in installs:
        assert "--no-deps" in arguments or "-c constraints/dev.txt" in arguments, f"{recipe}: pip {arguments}"


def test_the_image_runs_as_the_user_of_the_chart() -> None:
    assert "USER 65532:65532" in (ROOT / "Containerfile").read_text()
    assert "runAsUser: 65532" in (ROOT / "helm/tenantry/templates/_helpers.tpl").read_text()


def test_the_plugins_fragment_names_variables_that_the_plugin_reads() -> None:
    fragment = yaml.safe_load((ROOT / "helm/vllm-values.yaml").read_text())
    (container,) = fragment["containers"]
    named = [variable["name"] for variable in container["env"]]
    assert "TENANTRY_MODEL" in named
    for name in named:
        assert name in _NAMES, name
    mounts = {mount["name"]: Path(mount["mountPath"]) for mount in container["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in fragment["volumes"]}
    for variable in container["env"]:
        if variable["value"].startswith("/"):
            assert any(Path(variable["value"]).is_relative_to(path) for path in mounts.values()), variable
