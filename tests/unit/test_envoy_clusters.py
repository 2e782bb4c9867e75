"""Clusters from the sidecar's side: a file that Envoy watches, and the question whether Envoy has them."""

import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tenantry.adapters.envoy_clusters import ClustersNotReadyError, EnvoyClusters
from tenantry.core.rules import Rules
from tenantry_testing.documents import rules

WANTED = ["chat-8b@1.4.0", "chat-8b@1.5.0", "chat-8b@1.5.0@1.4.0", "embed@1"]
Serve = Callable[[list[Any]], Any]


def render(*documents: Rules) -> dict[str, Any]:
    return {"models": [sorted(each.models) for each in documents]}


def has(*names: str) -> dict[str, Any]:
    """Envoy's answer, as its admin port gives it with a mask."""
    return {"configs": [{"cluster": {"name": name}} for name in names] + [{"version_info": "1"}]}


@pytest.fixture
async def envoy() -> AsyncIterator[Serve]:
    """An admin port that gives the answers it was handed, one after the other, and the last one for ever."""
    runners = []

    async def serve(answers: list[Any]) -> str:
        async def config_dump(request: web.Request) -> web.Response:
            # A cluster that still warms is not there yet; and of the others only the name is asked for.
            assert dict(request.query) == {"resource": "dynamic_active_clusters", "mask": "cluster.name"}
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            return web.Response(text=answer) if isinstance(answer, str) else web.json_response(answer)

        app = web.Application()
        app.router.add_get("/config_dump", config_dump)
        runner = web.AppRunner(app)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    yield serve
    for runner in runners:
        await runner.cleanup()


def test_the_file_holds_the_clusters_of_all_documents(tmp_path: Path) -> None:
    path = tmp_path / "cds.json"
    clusters = EnvoyClusters(path, (), render)
    clusters.publish(rules(), rules({"models.embed": ..., "tenants": {}}))
    assert json.loads(path.read_text()) == {"models": [["chat-8b", "embed"], ["chat-8b"]]}
    inode = path.stat().st_ino
    clusters.publish(rules())
    assert path.stat().st_ino != inode  # a rename: Envoy never reads half a file
    assert os.listdir(tmp_path) == ["cds.json"]


async def test_where_the_mesh_brings_the_clusters_there_is_nothing_to_do() -> None:
    clusters = EnvoyClusters(None, (), render)
    clusters.publish(rules())
    await clusters.wait_for(rules(), 0.01)


async def test_it_waits_until_every_envoy_has_every_cluster(envoy: Serve) -> None:
    late = [has(), has(*WANTED[:2]), "not JSON", has(*WANTED, "other")]
    at_once = [has(*WANTED)]
    admins = [await envoy(at_once), await envoy(late)]
    await EnvoyClusters(None, admins, render).wait_for(rules(), 5)
    assert len(late) == 1


async def test_an_envoy_that_never_has_them_is_named_with_what_it_lacks(envoy: Serve) -> None:
    good, bad = await envoy([has(*WANTED)]), await envoy([has(WANTED[0])])
    with pytest.raises(ClustersNotReadyError) as caught:
        await EnvoyClusters(None, (good, bad), render).wait_for(rules(), 0.3)
    assert str(caught.value).startswith(f"Envoy at {bad} has no cluster {', '.join(WANTED[1:])} after 0.3 s")


async def test_an_envoy_that_does_not_answer_has_none() -> None:
    with pytest.raises(ClustersNotReadyError, match=f"has no cluster {', '.join(WANTED)}"):
        await EnvoyClusters(None, ("http://127.0.0.1:1",), render).wait_for(rules(), 0.2)
    # Not even the first question is answered in time.
    with pytest.raises(ClustersNotReadyError, match=r"Envoy at http://127\.0\.0\.1:1 has no cluster chat-8b@"):
        await EnvoyClusters(None, ("http://127.0.0.1:1",), render).wait_for(rules(), 0)
