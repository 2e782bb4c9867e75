"""Routing is changed with the real Helm and seen through the pod that the chart renders: real sidecar, real Envoy.

The cluster is a stand-in, see `toy_cluster`.
"""

import asyncio
import copy
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from dataplane.harness import KEYS, Files, Json, Stack, rules
from dataplane.upstream import Upstream
from dataplane.wire import chat

from helm.drills import RELEASE, Release
from helm.helm import VERSIONS
from helm.toy_cluster.cluster import Pod, cluster

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


@pytest_asyncio.fixture(params=VERSIONS)
async def release(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Release]:
    async with cluster() as here:
        yield Release(cluster=here, helm=request.param, files=Files(folder=tmp_path))


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
    release: Release, figure: dict[str, Any]
) -> None:
    """A pin, then a percentage, then `helm rollback`; no pod is replaced, and a process sees no restart."""
    async with Upstream().running() as upstream:
        document = edited(rules(upstream), PERCENT, 0)
        release.done(await release.install(document))
        async with release.running(upstream, document) as (here, pod):
            assert (await version_of(here, "initech"), await version_of(here, "acme")) == ("1.4.0", "1.4.0")
            seconds = []

            pinned = edited(document, PIN, "1.5.0")
            release.done(await release.upgrade(pinned))
            seconds.append(await live_after(here, pod, "initech", "1.5.0"))
            assert await version_of(here, "acme") == "1.4.0"

            release.done(await release.upgrade(edited(pinned, PERCENT, 100)))
            seconds.append(await live_after(here, pod, "acme", "1.5.0"))

            release.done(await release.run("rollback", RELEASE, "1"))
            seconds.append(await live_after(here, pod, "acme", "1.4.0"))
            assert await version_of(here, "initech") == "1.4.0"

            assert all(process.returncode in (None, 0) for process in pod.processes.values())
            assert (await here.status())["generation"] == 4
            assert max(seconds) < LIVE_SECONDS
            figure[f"{release.helm}_live_after_ms"] = [round(1e3 * each) for each in seconds]


async def test_what_the_sidecar_would_refuse_never_rolls_out(release: Release) -> None:
    """The hook says what `tenantry check` says; neither the ConfigMap nor the pod sees any of it."""
    async with Upstream().running() as upstream:
        document = rules(upstream)
        release.done(await release.install(document))
        before = release.rules
        async with release.running(upstream, document) as (here, pod):
            mounted = pod.volumes.changed["rules"]
            key = document["tenants"]["acme"]["keys"][0]
            refused = await release.upgrade(edited(document, "tenants/globex/keys", [key]))
            assert refused.code == 1
            assert "pre-upgrade hooks failed" in refused.err
            assert "tenants.globex.keys" in release.checked
            assert release.rules == before
            assert pod.volumes.changed["rules"] == mounted
            assert (await here.status())["state"] == "live"
            history = (await release.run("history", RELEASE, "-o", "json")).json
            assert [entry["status"] for entry in history] == ["deployed", "failed"]

            release.done(await release.upgrade(edited(document, PIN, "1.5.0")))
            await live_after(here, pod, "initech", "1.5.0")


async def test_a_wrong_percentage_does_not_reach_the_cluster(release: Release) -> None:
    async with Upstream().running() as upstream:
        document = rules(upstream)
        refused = await release.install(edited(document, PERCENT, 101))
        assert refused.code == 1
        assert PERCENT in refused.err.replace(".", "/")
        assert "100" in refused.err
        assert [kind for kind in ("ConfigMap", "Deployment") if release.cluster.objects.list(kind)] == []
