"""Rules and secrets change while traffic flows: no request fails, and a bad document changes nothing (invariant 9)."""

import asyncio
import copy
import io
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tenantry.adapters import reload
from tenantry.core.keyring import CACHE_SALT, ENGINE

from dataplane.harness import (
    ENGINE_SECRET,
    KEYS,
    Files,
    Json,
    Stack,
    digest,
    load,
    rules,
    stack,
    tenantry,
    until,
    write,
)  # fmt: skip
from dataplane.upstream import LAST_CHUNK, SSE_HEAD, Upstream, chunk
from dataplane.wire import ask, chat, request

ACME = KEYS["acme"]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def module_stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with stack(tmp_path_factory.mktemp("reload")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def live(module_stack: Stack) -> AsyncIterator[Stack]:
    """A stack whose document a test may change; it is put back afterwards."""
    base = rules(module_stack.upstream)
    if module_stack.document != base or (await module_stack.status())["state"] != "live":
        await module_stack.live(base)
    yield module_stack


def changed(document: Json, **tenants: Json) -> Json:
    """A copy of a document with more tenants."""
    copied = copy.deepcopy(document)
    copied["tenants"].update(tenants)
    return copied


async def clusters(here: Stack) -> set[str]:
    """Envoy's own word for the clusters that it has."""
    dump = (await ask(here.envoy_admin, request("/clusters?format=json", method="GET"))).json
    return {entry["name"] for entry in dump["cluster_statuses"]}


async def test_50_reloads_at_200_requests_a_second(live: Stack) -> None:
    generation = (await live.status())["generation"]
    begin = time.monotonic()
    async with load(live.address, 200, lambda _number: chat(ACME)) as responses:
        for number in range(50):
            await live.live(changed(live.document, new={"tier": "gold", "keys": [digest(f"key {number}")]}))
    seconds = time.monotonic() - begin
    assert {response.status for response in responses} == {200}
    assert len(responses) > 150 * seconds
    assert (await live.status())["generation"] == generation + 50
    assert (await live.ask(chat("key 49"))).status == 200
    assert (await live.ask(chat("key 48"))).status == 401


async def test_a_version_comes_and_goes_under_load(live: Stack) -> None:
    """A tenant is moved to it the moment it exists, and off it the moment it goes; a stream on it goes on."""
    gate = asyncio.Event()
    async with (
        Upstream().running() as newer,
        load(live.address, 200, lambda n: chat(KEYS[("acme", "initech")[n % 2]])) as load_,
    ):
        newer.scripts["gated"] = lambda _seen: [
            SSE_HEAD,
            chunk(b"data: 1\n\n"),
            gate,
            chunk(b"data: 2\n\n"),
            LAST_CHUNK,
        ]
        document = copy.deepcopy(live.document)
        document["models"]["chat-8b"]["versions"]["1.6.0"] = {"endpoints": [newer.endpoint]}
        document["tenants"]["initech"]["pins"]["chat-8b"] = "1.6.0"
        await live.live(document)
        stream = asyncio.create_task(live.ask(chat(KEYS["initech"], script="gated", mark="gated")))
        await until(lambda: newer.marked("gated") and len(newer.seen) > 20)
        assert {seen.header("x-tenantry-tenant")[0] for seen in newer.seen} == {b"initech"}

        await live.live(rules(live.upstream))
        served = len(newer.seen)
        async with asyncio.timeout(15):
            while "chat-8b@1.6.0" in await clusters(live):
                await asyncio.sleep(0.1)
        assert len(newer.seen) - served < 5  # those that were decided before
        assert not stream.done()
        gate.set()
        answer = await stream
        assert (answer.body, answer.complete) == (b"data: 1\n\ndata: 2\n\n", True)
    assert {response.status for response in load_} == {200}
    assert len(load_) > 500


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


async def refused(here: Stack, before: Json) -> Json:
    """Wait for the refusal; fails when anything of it went live."""
    async with asyncio.timeout(10):
        while (status := await here.status())["state"] != "refused" or status["digest"] == before["digest"]:
            await asyncio.sleep(0.02)
    assert (status["generation"], status["models"]) == (before["generation"], before["models"])
    assert status["problems"]
    return status


async def test_a_bad_document_keeps_the_last_good_one(live: Stack, sidecar_log: io.StringIO) -> None:
    before = await live.status()
    count = await live.total("tenantry_rules_reloads_total", result="refused")
    logged = sidecar_log.getvalue().count("rules refused")
    async with load(live.address, 100, lambda _number: chat(ACME)) as responses:
        for number, (_what, bad) in enumerate(BAD.items(), 1):
            write(live.files.rules, bad(live.document))
            status = await refused(live, before)
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
    await refused(live, before)
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


async def test_the_last_of_many_quick_saves_is_the_one_that_serves(live: Stack) -> None:
    for number in range(30):
        live.files.save(changed(live.document, new={"tier": "gold", "keys": [digest(f"quick {number}")]}))
        await asyncio.sleep(0.005)
    async with asyncio.timeout(5):
        while (await live.ask(chat("quick 29"))).status != 200:
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.3)
    assert [(await live.ask(chat(f"quick {number}"))).status for number in (28, 29)] == [401, 200]


async def test_a_revoked_key_is_refused_within_a_second(live: Stack, tmp_path: Path) -> None:
    async with tenantry(tmp_path, "key", "rotate", "--tenant", "acme", "--rules", live.files.rules) as command:
        assert await command.exit() == 0
        key = command.out.read_text().split("once): ")[1].split()[0]
    async with asyncio.timeout(1):
        while (await live.ask(chat(key))).status != 200:
            await asyncio.sleep(0.01)
    assert (await live.ask(chat(ACME))).status == 200  # the old one overlaps

    async with tenantry(
        tmp_path, "key", "revoke", digest(ACME), "--tenant", "acme", "--rules", live.files.rules
    ) as command:
        assert await command.exit() == 0
    async with asyncio.timeout(1):
        while (response := await live.ask(chat(ACME))).status == 200:
            await asyncio.sleep(0.01)
    assert (response.status, response.error_code) == (401, "invalid_api_key")
    assert (await live.ask(chat(key))).status == 200
    live.document = {}  # the file is the commands' now


async def test_secrets_rotate_under_load(live: Stack) -> None:
    """The engines' token and the cache salt; a secret that is too weak is refused like a bad document."""
    salt = live.files.secrets / CACHE_SALT
    seen = live.upstream.seen
    start = len(seen)
    async with load(live.address, 100, lambda _number: chat(ACME)) as responses:
        await until(lambda: len(seen) > start + 10)
        write(live.files.secrets / ENGINE, "rotated-secret\n")
        write(salt, "x" * 40)
        await until(lambda: seen[-1].header("authorization") == [b"Bearer rotated-secret"], 5)
        await until(lambda: seen[-1].json["cache_salt"] != seen[start].json["cache_salt"], 5)
        before = await live.status()
        write(salt, "too short")
        status = await refused(live, before)
        assert "cache-salt" in status["problems"][0]
        (live.files.secrets / CACHE_SALT).unlink()
        await refused(live, status)
    assert {response.status for response in responses} == {200}
    tokens = {entry.header("authorization")[0] for entry in seen[start:]}
    assert tokens == {f"Bearer {ENGINE_SECRET}".encode(), b"Bearer rotated-secret"}
    write(salt, "y" * 40)


async def test_a_mounted_config_map_is_swapped(tmp_path: Path) -> None:
    """The kubelet writes a new folder and renames the symlink `..data`; the files' own links never change."""
    numbers = itertools.count()
    files = Files(folder=tmp_path)

    def swap(folder: Path, contents: dict[str, str]) -> None:
        target = folder / f"..{next(numbers)}"
        target.mkdir()
        for name, text in contents.items():
            (target / name).write_text(text)
            if not (folder / name).is_symlink():
                (folder / name).unlink(missing_ok=True)
                (folder / name).symlink_to(Path("..data") / name)
        (folder / "..new").symlink_to(target.name)
        (folder / "..new").replace(folder / "..data")

    secrets = {path.name: path.read_text() for path in files.secrets.iterdir()}
    swap(files.secrets, secrets)
    async with stack(tmp_path) as here:
        swap(
            files.rules.parent,
            {files.rules.name: json.dumps(changed(here.document, new={"tier": "gold", "keys": [digest("a")]}))},
        )
        await here.generation(2, 5)
        assert (await here.ask(chat("a"))).status == 200
        swap(files.rules.parent, {files.rules.name: json.dumps(here.document)})
        await here.generation(3, 5)
        assert (await here.ask(chat("a"))).status == 401
        swap(files.secrets, secrets | {ENGINE: "swapped-secret"})
        await here.generation(4, 5)
        assert (await here.ask(chat(ACME))).status == 200
        assert here.upstream.seen[-1].header("authorization") == [b"Bearer swapped-secret"]


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
        status = await refused(here, before)
        assert "chat-8b@refused" in status["problems"][0]
        assert "chat-8b@refused" in sidecar_log.getvalue()
        await here.live(changed(here.document, new={"tier": "gold", "keys": [digest("good")]}))
        assert (await here.ask(chat("good"))).status == 200
    assert {response.status for response in responses} == {200}
    assert {seen.header("x-tenantry-version")[0] for seen in here.upstream.seen} == {b"1.4.0"}
