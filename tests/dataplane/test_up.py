"""`tenantry up`: from a rules file to a request, and nothing left behind."""

import asyncio
import contextlib
import os
import re
import shlex
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from dataplane.harness import KEYS, Files, digest, rules, until
from dataplane.processes import Process, tenantry
from dataplane.upstream import Upstream
from dataplane.wire import ask, chat, request

FREE = tuple(word for flag in ("--listen", "--admin", "--envoy-admin", "--ledger") for word in (flag, "127.0.0.1:0"))


def arguments(files: Files, *more: str | Path) -> tuple[str | Path, ...]:
    """Of a `tenantry up` on free ports; what comes later in `more` wins."""
    flags = dict(zip((both := (*FREE, "--state", files.folder / "state", *more))[::2], both[1::2], strict=True))
    return ("up", files.rules, *(part for flag in flags.items() for part in flag))


@contextlib.asynccontextmanager
async def up(files: Files, *more: str | Path) -> AsyncIterator[Process]:
    """Run it with a folder of its own for temporary files."""
    temporary = files.folder / "t"
    temporary.mkdir(exist_ok=True)
    async with tenantry(files.folder, *arguments(files, *more), env={"TMPDIR": str(temporary)}) as process:
        yield process


def envoys(process: Process) -> list[psutil.Process]:
    return psutil.Process(process.process.pid).children(recursive=True)


async def told(process: Process) -> str:
    """What it prints once it is up."""
    await until(lambda: "-d '" in process.out.read_text() or process.process.returncode is not None, 30)
    assert "tenantry is up" in process.out.read_text(), process.log.read_text()
    return process.out.read_text()


def left_behind(files: Files, was: list[psutil.Process]) -> tuple[list[psutil.Process], list[Path]]:
    return [process for process in was if process.is_running()], list((files.folder / "t").iterdir())


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
async def test_up_tells_what_to_curl_reloads_and_stops_whole(tmp_path: Path, sign: signal.Signals) -> None:
    files = Files(folder=tmp_path)
    async with Upstream().running() as upstream:
        document = rules(upstream)
        files.save(document)
        async with up(files, "--outcomes", files.outcomes) as process:
            words = shlex.split((await told(process)).partition("curl ")[2])
            address, _, path = next(word for word in words if word.startswith("http://"))[7:].partition("/")
            headers = [tuple(words[i + 1].split(": ")) for i, word in enumerate(words) if word == "-H"]
            assert [name for name, _ in headers] == ["Authorization", "content-type"]
            body = words[words.index("-d") + 1].encode()
            filled = [(name, value.replace("$KEY", KEYS["acme"])) for name, value in headers]
            answer = await ask(address, request(f"/{path}", headers=filled, body=body))
            assert (answer.status, len(upstream.seen)) == (200, 1)
            await until(lambda: answer.request_id in files.outcomes.read_text())

            (ledger,) = re.findall(r"ledger +(127\.0\.0\.1:\d+)", process.out.read_text())
            assert (await ask(ledger, b"GET /readyz HTTP/1.1\r\nhost: ledger\r\n\r\n")).status == 200
            assert (files.folder / "state" / "ledger.db").exists()

            document["tenants"]["acme"]["keys"].append(digest("saved later"))
            files.save(document)
            async with asyncio.timeout(5):
                while (await ask(address, chat("saved later"))).status != 200:
                    await asyncio.sleep(0.02)

            children = envoys(process)
            assert [child.name() for child in children] == ["envoy"]
            process.signal(sign)
            assert await process.exit(15) == 0
            await until(lambda: left_behind(files, children) == ([], []), 5)
            assert "Traceback" not in process.log.read_text() + process.out.read_text()
            with pytest.raises(ConnectionRefusedError):
                await ask(address, chat(KEYS["acme"]))


async def test_up_ends_when_envoy_does(tmp_path: Path) -> None:
    files = Files(folder=tmp_path)
    files.save(rules(await closed()))
    async with up(files) as process:
        await told(process)
        (envoy,) = envoys(process)
        envoy.kill()
        assert await process.exit(15) == 1
        assert "error: Envoy ended with code -9" in process.log.read_text()
        assert left_behind(files, [envoy]) == ([], [])


async def closed() -> Upstream:
    """An upstream that nobody asks."""
    async with Upstream().running() as upstream:
        return upstream


async def failure(files: Files, *more: str | Path) -> str:
    """The message of an `up` that cannot start; fails on a trace, another code, or anything left behind."""
    async with up(files, *more) as process:
        assert await process.exit(30) == 1
        message = process.log.read_text()
    # Log lines of the sidecar, which was up for a moment, are JSON.
    text = "\n".join(line for line in message.splitlines() if not line.startswith("{"))
    assert text.startswith("error: ")
    assert "Traceback" not in text
    assert list((files.folder / "t").iterdir()) == []
    assert "tenantry is up" not in process.out.read_text()
    return text


async def test_what_cannot_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = f"127.0.0.1:{taken.getsockname()[1]}"
        somewhere = tmp_path / "not-envoy"
        somewhere.write_text("")
        cases: dict[str, tuple[str | Path, ...]] = {
            "listen": ("--listen", port),
            "envoy-admin": ("--envoy-admin", port),
            "admin": ("--admin", port),
            "ledger": ("--ledger", port),
            "no Envoy there": ("--envoy", tmp_path / "nowhere"),
            "no Envoy that": ("--envoy", somewhere),
            "open admin": ("--envoy-admin", "0.0.0.0:0"),
            "no address": ("--listen", "10000"),
        }
        folders = {what: tmp_path / str(index) for index, what in enumerate(cases)}
        upstream = await closed()
        for folder in folders.values():
            Files(folder=folder).save(rules(upstream))
        gate = asyncio.Semaphore(2)

        async def one(what: str) -> str:
            async with gate:
                return await failure(Files(folder=folders[what]), *cases[what])

        text = dict(zip(cases, await asyncio.gather(*map(one, cases)), strict=True))
    for what in ("listen", "envoy-admin", "admin", "ledger"):
        assert port in text[what], text[what]
        assert "in use" in text[what]
    assert str(tmp_path / "nowhere") in text["no Envoy there"]
    assert re.search("not executable", text["no Envoy that"])
    assert "0.0.0.0:0" in text["open admin"]
    assert "HOST:PORT" in text["no address"]


async def test_broken_rules_are_explained(tmp_path: Path) -> None:
    files = Files(folder=tmp_path)
    document = rules(await closed())
    document["tenants"]["acme"]["tier"] = "glod"
    document["tenant"] = {}
    files.save(document)
    text = await failure(files)
    assert 'error: tenant: unknown key; did you mean "tenants"?' in text
    files.save({name: value for name, value in document.items() if name != "tenant"})
    assert 'error: tenants.acme.tier: no tier is called "glod"; did you mean "gold"?' in await failure(files)
    files.rules.unlink()
    assert f"{files.rules}: No such file" in await failure(files)
    assert os.listdir(tmp_path / "t") == []
