"""Rules and secrets change while traffic flows, and no request fails."""

import asyncio
import copy
import itertools
import json
import time
from pathlib import Path

from tenantry.core.keyring import CACHE_SALT, ENGINE

from dataplane.harness import ENGINE_SECRET, KEYS, Files, Stack, changed, digest, rules, stack, until, write
from dataplane.processes import tenantry
from dataplane.upstream import LAST_CHUNK, SSE_HEAD, Upstream, chunk
from dataplane.wire import ask, chat, load, request

ACME = KEYS["acme"]


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
        status = await live.refused(before)
        assert "cache-salt" in status["problems"][0]
        (live.files.secrets / CACHE_SALT).unlink()
        await live.refused(status)
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
