"""A bad document, bad secrets, clusters that Envoy refuses: nothing changes but what is said of it (invariant 9)."""

import asyncio
import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tenantry.adapters import reload

from dataplane.harness import KEYS, Json, Stack, changed, digest, stack, write
from dataplane.wire import chat, load

ACME = KEYS["acme"]


def without(document: Json, *path: str) -> str:
    """The document without one of its members."""
    copied = copy.deepcopy(document)
    here = copied
    for name in path[:-1]:
        here = here[name]
    del here[path[-1]]
    return json.dumps(copied)


def with_(document: Json, value: Any, *path: str) -> str:
    """The document with a member set."""
    copied = copy.deepcopy(document)
    here = copied
    for name in path[:-1]:
        here = here[name]
    here[path[-1]] = value
    return json.dumps(copied)


VERSIONS = ("models", "chat-8b", "versions")

BAD: dict[str, Callable[[Json], str | bytes]] = {
    "not YAML": lambda _d: "models: [",
    "half a document": lambda d: json.dumps(d)[:-40],
    "empty": lambda _d: "",
    "binary": lambda _d: b"\x00\xff\xfe",
    "an unknown key": lambda d: with_(d, {}, "tenant"),
    "no tiers": lambda d: without(d, "tiers"),
    "a tier that is not there": lambda d: with_(d, "platinum", "tenants", "acme", "tier"),
    "a pin to nowhere": lambda d: with_(d, {"chat-8b": "9"}, "tenants", "acme", "pins"),
    "one key, two tenants": lambda d: with_(d, [digest(KEYS["globex"])], "tenants", "acme", "keys"),
    "a key in the clear": lambda d: with_(d, [ACME], "tenants", "acme", "keys"),
    "a key twice in the text": lambda d: json.dumps(d)[:-1] + ', "tenants": {}}',
    "an endpoint that Envoy cannot use": lambda d: with_(d, {"endpoints": ["[:::]:80"]}, *VERSIONS, "1.4.0"),
    "a newer version of the schema": lambda d: with_(d, 2, "version"),
}  # fmt: skip


async def test_a_bad_document_keeps_the_last_good_one(live: Stack, sidecar_log: io.StringIO) -> None:
    before = await live.status()
    count = await live.total("tenantry_rules_reloads_total", result="refused")
    logged = sidecar_log.getvalue().count("rules refused")
    async with load(live.address, 100, lambda _number: chat(ACME)) as responses:
        for number, (_what, bad) in enumerate(BAD.items(), 1):
            write(live.files.rules, bad(live.document))
            status = await live.refused(before)
            before["digest"] = status["digest"]
            assert await live.total("tenantry_rules_reloads_total", result="refused") == count + number
            assert await live.total("tenantry_rules_last_reload_ok") == 0
            assert sidecar_log.getvalue().count("rules refused") == logged + number
    assert {response.status for response in responses} == {200}
    assert ACME not in sidecar_log.getvalue()

    await live.live()
    assert await live.total("tenantry_rules_last_reload_ok") == 1
    assert (await live.status())["problems"] == []


async def test_a_document_that_is_gone_keeps_the_last_good_one(live: Stack) -> None:
    before = await live.status()
    live.files.rules.unlink()
    await live.refused(before)
    assert (await live.ask(chat(ACME))).status == 200
    await live.live()


async def test_an_editor_that_truncates_and_writes_in_pieces(live: Stack) -> None:
    """A half-written document is a bad one; the whole one follows."""
    text = json.dumps(changed(live.document, new={"tier": "gold", "keys": [digest("in pieces")]}))
    async with load(live.address, 100, lambda _number: chat(ACME)) as responses:
        with live.files.rules.open("w") as file:
            for start in range(0, len(text), 100):
                file.write(text[start : start + 100])
                file.flush()
                await asyncio.sleep(0.01)
        async with asyncio.timeout(5):
            while (await live.ask(chat("in pieces"))).status != 200:
                await asyncio.sleep(0.02)
    assert {response.status for response in responses} == {200}


async def test_clusters_that_envoy_refuses_keep_the_old_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sidecar_log: io.StringIO
) -> None:
    """A version is routed to only once Envoy has its cluster; without it the whole document waits."""
    from tenantry import up  # noqa: PLC0415

    render = up.render_clusters

    def one_broken(*documents: Any) -> Json:
        response = render(*documents)
        for cluster in response["resources"]:
            if cluster["name"] == "chat-8b@refused":
                cluster["connect_timeout"] = "-1s"
        return response

    monkeypatch.setattr(up, "render_clusters", one_broken)
    monkeypatch.setattr(reload, "CLUSTER_TIMEOUT_SECONDS", 1.0)
    async with stack(tmp_path) as here, load(here.address, 50, lambda _number: chat(KEYS["initech"])) as responses:
        document = copy.deepcopy(here.document)
        document["models"]["chat-8b"]["versions"]["refused"] = {"endpoints": [here.upstream.endpoint]}
        document["tenants"]["initech"]["pins"]["chat-8b"] = "refused"
        before = await here.status()
        here.files.save(document)
        status = await here.refused(before)
        assert "chat-8b@refused" in status["problems"][0]
        assert "chat-8b@refused" in sidecar_log.getvalue()
        await here.live(changed(here.document, new={"tier": "gold", "keys": [digest("good")]}))
        assert (await here.ask(chat("good"))).status == 200
    assert {response.status for response in responses} == {200}
    assert {seen.header("x-tenantry-version")[0] for seen in here.upstream.seen} == {b"1.4.0"}
