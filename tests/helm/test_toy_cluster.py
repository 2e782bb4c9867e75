"""The stand-in cluster that the drills run in: what the real Helm finds there, and what its kubelet does."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from helm.helm import VERSIONS, program
from helm.toy_cluster.cluster import Cluster, cluster
from helm.toy_cluster.patches import apply, json_merge, strategic_merge
from tools.mounted_volume import write_volume

TINY = Path(__file__).parent / "toy_cluster" / "tiny"


@pytest_asyncio.fixture
async def here() -> AsyncIterator[Cluster]:
    async with cluster() as running:
        yield running


def text(here: Cluster) -> object:
    return here.objects.find("ConfigMap", "tenantry", "t-text")["data"]


def containers(here: Cluster) -> list[str]:
    spec = here.objects.find("Deployment", "tenantry", "t")["spec"]["template"]["spec"]
    return [container["name"] for container in spec["containers"]]


@pytest.mark.parametrize("name", VERSIONS)
async def test_a_release_is_installed_upgraded_rolled_back_and_removed(here: Cluster, name: str) -> None:
    """What an upgrade adds, the rollback takes away: members of a map, items of a list."""
    helm = program(name)
    assert (await here.helm(helm, "install", "t", TINY, "--wait", values={"text": "one"})).code == 0
    assert (text(here), containers(here)) == ({"text": "one"}, ["main"])

    more = {"text": "two", "more": "there", "beside": True}
    assert (await here.helm(helm, "upgrade", "t", TINY, values=more)).code == 0
    assert (text(here), containers(here)) == ({"text": "two", "more": "there"}, ["main", "beside"])
    assert here.log("tenantry", "check-0") == "checked two\n"

    assert (await here.helm(helm, "rollback", "t", "1")).code == 0
    assert (text(here), containers(here)) == ({"text": "one"}, ["main"])

    refused = await here.helm(helm, "upgrade", "t", TINY, values={"text": "bad"})
    assert refused.code == 1
    assert "pre-upgrade hooks failed" in refused.err
    assert here.log("tenantry", "check-0") == "checked bad\n"
    assert text(here) == {"text": "one"}

    history = (await here.helm(helm, "history", "t", "-o", "json")).json
    assert [entry["status"] for entry in history] == ["superseded", "superseded", "deployed", "failed"]
    assert (await here.helm(helm, "get", "values", "t", "--revision", "2", "-o", "json")).json == more
    assert (await here.helm(helm, "uninstall", "t")).code == 0
    assert here.objects.list("ConfigMap") == here.objects.list("Deployment") == here.objects.list("Secret") == []


async def test_helm_4_shows_the_log_of_a_hook_that_failed(here: Cluster) -> None:
    helm = program("helm4")
    await here.helm(helm, "install", "t", TINY, values={"text": "one"})
    assert "checked bad" in (await here.helm(helm, "upgrade", "t", TINY, values={"text": "bad"})).err


@pytest.mark.parametrize("name", VERSIONS)
async def test_what_a_real_server_refuses_is_refused(here: Cluster, name: str) -> None:
    """A member that no Deployment has; a ConfigMap beyond 1 MiB."""
    helm = program(name)
    unknown = await here.helm(helm, "install", "t", TINY, values={"text": "one", "unknown": "member"})
    assert unknown.code == 1
    assert "'unknown' was unexpected" in unknown.err
    await here.helm(helm, "uninstall", "t")
    large = await here.helm(helm, "install", "t", TINY, values={"text": "x" * (1024 * 1024 + 1)})
    assert large.code == 1
    assert "Too long" in large.err


async def test_a_pod_runs_its_own_command_on_its_own_volumes(here: Cluster) -> None:
    """The init container ends first; what a mount shows follows its ConfigMap."""
    helm = program("helm4")
    await here.helm(helm, "install", "t", TINY, values={"text": "one"})
    spec = here.objects.find("Deployment", "tenantry", "t")["spec"]["template"]["spec"]
    async with here.pod(spec) as pod:
        async with asyncio.timeout(5):
            while "one" not in pod.log.read_text():
                await asyncio.sleep(0.01)
        assert pod.log.read_text() == f"at 127.0.0.1:{pod.ports[8080]}\none"
        mounted = pod.volumes.folder / "text" / "text"
        await here.helm(helm, "upgrade", "t", TINY, values={"text": "two"})
        assert mounted.read_text() == "two"
        assert (pod.volumes.folder / "work" / "seen").read_text() == "one"
    assert pod.processes["main"].returncode is not None


def test_a_volume_changes_by_one_rename(tmp_path: Path) -> None:
    """The file's own path is never written: it is a link through `..data`."""
    assert write_volume(tmp_path, {"a": b"1", "b": b"1"})
    link, first = (tmp_path / "a").readlink(), (tmp_path / "..data").readlink()
    assert link == Path("..data/a")
    assert not write_volume(tmp_path, {"a": b"1", "b": b"1"})
    assert write_volume(tmp_path, {"a": b"2", "c": b"2"})
    assert (tmp_path / "a").readlink() == link
    assert (tmp_path / "..data").readlink() != first
    now = (tmp_path / "..data").readlink().name
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([now, "..data", "a", "c"])


def test_apply_removes_what_is_applied_no_longer_and_leaves_what_others_set() -> None:
    before = {"spec": {"a": 1, "containers": [{"name": "x", "image": "1"}, {"name": "y"}]}}
    live = {"spec": {"a": 1, "theirs": 2, "containers": [{"name": "x", "image": "1"}, {"name": "y"}, {"name": "z"}]}}
    now = {"spec": {"b": 1, "containers": [{"name": "x", "image": "2"}]}}
    assert apply(before, now, live) == {
        "spec": {"b": 1, "theirs": 2, "containers": [{"name": "x", "image": "2"}, {"name": "z"}]}
    }


def test_patches_delete_by_null_and_by_directive() -> None:
    live = {"a": {"b": 1, "c": 2}, "env": [{"name": "x", "value": "1"}, {"name": "y", "value": "1"}]}
    assert json_merge({"a": {"b": None, "d": 3}, "env": []}, live) == {"a": {"c": 2, "d": 3}, "env": []}
    patch = {
        "$setElementOrder/env": [{"name": "z"}, {"name": "y"}],
        "env": [{"name": "z", "value": "1"}, {"name": "x", "$patch": "delete"}, {"name": "y", "value": "2"}],
    }
    assert strategic_merge(patch, live)["env"] == [{"name": "z", "value": "1"}, {"name": "y", "value": "2"}]
