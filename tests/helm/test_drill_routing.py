"""Routing is changed with the real Helm and seen through the pod that the chart renders: real sidecar, real Envoy.

The cluster is a stand-in, see `toy_cluster`.
"""

import asyncio
import copy
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from dataplane.harness import KEYS, Files, Json, Stack, rules
from dataplane.upstream import Upstream
from dataplane.wire import chat

from helm.drills import RELEASE, Release
from helm.helm import VERSIONS
from helm.toy_cluster.cluster import Pod, cluster

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIVE_SECONDS = 1.0
"""From the mounted file's change to the first request that goes the new way."""


def edited(document: Json, edit: str, value: Any) -> Json:
    """A copy with one member changed; `edit` is its path, parts divided by a slash."""
    copied = copy.deepcopy(document)
    *path, last = edit.split("/")
    at = copied
    for part in path:
        at = at[part]
    at[last] = value
    return copied


PIN, PERCENT = "tenants/initech/pins/chat-8b", "models/chat-8b/rollout/percent"


@dataclass(kw_only=True)
class Drill:
    """A release of `document`, and its pod."""

    release: Release
    here: Stack
    pod: Pod
    document: Json

    async def history(self) -> list[Json]:
        """What `helm history` tells, the oldest first."""
        told: list[Json] = (await self.release.run("history", RELEASE, "-o", "json")).json
        return told


@pytest_asyncio.fixture(params=VERSIONS, scope="module", loop_scope="module")
async def drill(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Drill]:
    """One for each Helm; a test leaves the document live that it found."""
    files = Files(folder=tmp_path_factory.mktemp("release"))
    async with cluster() as here, Upstream().running() as upstream:
        release = Release(cluster=here, helm=request.param, files=files)
        document = edited(rules(upstream), PERCENT, 0)
        release.done(await release.install(document))
        async with release.running(upstream, document) as (stack, pod):
            yield Drill(release=release, here=stack, pod=pod, document=document)


async def version_of(here: Stack, tenant: str) -> str:
    """The version that serves a tenant's request, by what the upstream saw."""
    assert (await here.ask(chat(KEYS[tenant]))).status == 200
    return here.upstream.seen[-1].header("x-tenantry-version")[0].decode()


async def live_after(here: Stack, pod: Pod, tenant: str, version: str) -> float:
    """Seconds from the change of the mounted rules until a tenant is served by a version."""
    async with asyncio.timeout(10):
        while await version_of(here, tenant) != version:
            await asyncio.sleep(0.01)
    return time.monotonic() - pod.volumes.changed["rules"]


async def test_an_upgrade_moves_traffic_within_a_second_and_a_rollback_moves_it_back(
    drill: Drill, figure: dict[str, Any]
) -> None:
    """A pin, then a percentage, then `helm rollback`; the pod goes on, and so do its processes."""
    release, here, pod = drill.release, drill.here, drill.pod
    revision, generation = (await drill.history())[-1]["revision"], (await here.status())["generation"]
    assert (await version_of(here, "initech"), await version_of(here, "acme")) == ("1.4.0", "1.4.0")
    seconds = []

    pinned = edited(drill.document, PIN, "1.5.0")
    release.done(await release.upgrade(pinned))
    seconds.append(await live_after(here, pod, "initech", "1.5.0"))
    assert await version_of(here, "acme") == "1.4.0"

    release.done(await release.upgrade(edited(pinned, PERCENT, 100)))
    seconds.append(await live_after(here, pod, "acme", "1.5.0"))

    release.done(await release.run("rollback", RELEASE, str(revision)))
    seconds.append(await live_after(here, pod, "acme", "1.4.0"))
    assert await version_of(here, "initech") == "1.4.0"

    assert all(process.returncode is None for name, process in pod.processes.items() if name != "bootstrap")
    assert (await here.status())["generation"] == generation + 3
    assert max(seconds) < LIVE_SECONDS
    figure[f"{release.helm}_live_after_ms"] = [round(1e3 * each) for each in seconds]


async def test_what_the_sidecar_would_refuse_never_rolls_out(drill: Drill) -> None:
    """The hook says what `tenantry check` says; neither the ConfigMap nor the pod sees any of it."""
    release, here, pod = drill.release, drill.here, drill.pod
    rules_before, mounted_before = release.rules, pod.volumes.changed["rules"]
    (key,) = drill.document["tenants"]["acme"]["keys"]
    refused = await release.upgrade(edited(drill.document, "tenants/globex/keys", [key]))
    assert refused.code == 1
    assert "pre-upgrade hooks failed" in refused.err
    assert "tenants.globex.keys" in release.checked
    assert (release.rules, pod.volumes.changed["rules"]) == (rules_before, mounted_before)
    assert (await here.status())["state"] == "live"
    assert [entry["status"] for entry in await drill.history()][-2:] == ["deployed", "failed"]

    release.done(await release.upgrade(edited(drill.document, PIN, "1.5.0")))
    await live_after(here, pod, "initech", "1.5.0")
    release.done(await release.upgrade(drill.document))
    await live_after(here, pod, "initech", "1.4.0")


async def test_a_wrong_percentage_does_not_reach_the_cluster(drill: Drill) -> None:
    before = await drill.history()
    refused = await drill.release.upgrade(edited(drill.document, PERCENT, 101))
    assert refused.code == 1
    assert PERCENT in refused.err.replace(".", "/")
    assert "100" in refused.err
    assert await drill.history() == before
