"""A fleet in small: two nodes, each an Envoy with a `tenantry serve`, one Redis, and engines that post usage records.

The nodes share what nodes on two machines share (rules, secrets, Redis) and nothing else: each has a state file of its
own. The engines are the stand-in's, as processes; they know all requests by their stamps and post a record of each
attempt to both nodes, and to an `Ear` in the test. A model of the rules is a rollout of its own, so that many tests can
use one fleet.
"""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families
from tenantry.adapters.ports import free_port
from tenantry.core.rollout.standing import FLEET
from tenantry_testing.redis_server import RedisServer, redis_server

from dataplane.harness import Files, Json, digest, envoy
from dataplane.processes import Process, sockets, tenantry
from dataplane.upstream import Upstream
from dataplane.wire import Connection, Response, ask, chat, request

STABLE, CANDIDATE, MUTE = "1.4.0", "1.5.0", "1.6.0"
"""The versions. MUTE's engine posts no records."""

TENANTS = tuple(f"t{number}" for number in range(8))
"""Tenants of the split, the even ones gold, the odd ones bronze."""

PINNED, EARLY, BETA = "initech", "early", "globex"
"""Pinned to the stable version; pinned to the candidate (bronze both); may set its beta flag (gold)."""

SPEED = 50.0
"""So many times as fast as vLLM on two CPU cores: a request costs the two test cores more than it simulates."""


def key(tenant: str) -> str:
    return f"tk_{tenant}-{'k' * 40}"


@dataclass(kw_only=True)
class Engine:
    """A stand-in engine as a process, on one port through all its starts."""

    folder: Path
    version: str
    models: tuple[str, ...]
    ship_to: tuple[str, ...]
    token: Path
    port: int = field(default_factory=free_port)
    process: asyncio.subprocess.Process | None = None
    starts: int = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        self.starts += 1
        first, *others = self.models
        command = ["-m", "tenantry_standin", "--model", first, "--version", self.version, "--listen", self.address]
        command += ["--speed", str(SPEED), "--drain-s", "0", "--max-waiting", "5000"]
        command += [word for name in others for word in ("--served-name", name)]
        command += [word for url in self.ship_to for word in ("--ship-to", url)]
        command += ["--ship-token-file", str(self.token)] if self.ship_to else []
        with (self.folder / f"engine-{self.version}-{self.starts}.log").open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=log, stderr=log)
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(OSError):
                    if (await ask(self.address, request("/health", method="GET"))).status == 200:
                        return
                await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """End the process: who connects is refused."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    def freeze(self) -> None:
        """Let it hang: the kernel accepts, and nothing answers."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    async def thaw(self) -> None:
        """Let it go on; return when it has read what was sent to it meanwhile."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)
        before = -1
        while (now := await self.count()) != before:
            before = now
            await asyncio.sleep(0.1)

    async def behave(self, **changes: float) -> None:
        body = json.dumps(changes).encode()
        response = await ask(self.address, request("/stand-in/behaviour", body=body))
        assert response.status == 200, response

    async def seen(self, model: str = "") -> list[Json]:
        """The last 1,000 requests, those for one model."""
        response = await ask(self.address, request("/stand-in/seen?after=0", method="GET"))
        return [seen for seen in response.json["requests"] if (seen["body"] or {}).get("model") == model or not model]

    async def count(self) -> int:
        """How many requests have come, by the engine's own counter."""
        response = await ask(self.address, request("/stand-in/seen?after=999999999", method="GET"))
        return int(response.json["last"])


@dataclass(kw_only=True)
class Node:
    """An Envoy and its sidecar. The sidecar can be killed and started again; Envoy stays."""

    name: str
    files: Files
    socket: Path
    redis: str
    admin: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    envoy_admin_port: int = field(default_factory=free_port)
    address: str = ""
    sidecar: Process | None = None
    starts: int = 0
    _stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    _idle: list[Connection] = field(default_factory=list)

    async def start(self) -> None:
        self.starts += 1
        files = self.files
        serve = tenantry(
            files.folder, "serve", files.rules, "--secrets", files.secrets, "--listen", f"unix:{self.socket}",
            "--admin", self.admin, "--state", files.state, "--redis", self.redis, "--cds", files.cds,
            "--envoy-admin", f"http://127.0.0.1:{self.envoy_admin_port}", "--outcomes", files.outcomes,
            name=f"sidecar{self.starts}",
        )  # fmt: skip
        self.sidecar = await self._stack.enter_async_context(serve)
        await self.sidecar.line("sidecar ready", 30.0)

    async def kill(self) -> None:
        """`kill -9`."""
        if self.sidecar is not None:
            self.sidecar.signal(signal.SIGKILL)
            await self.sidecar.exit()

    async def restart(self) -> None:
        await self.kill()
        await self.start()

    async def close(self) -> None:
        for connection in self._idle:
            connection.abort()
        await self._stack.aclose()

    async def ask(self, data: bytes) -> Response:
        """Send a request to Envoy on a connection that is kept."""
        connection = self._idle.pop() if self._idle else await Connection.open(self.address)
        response = await connection.ask(data)
        if response.complete and response.header("connection") != "close":
            self._idle.append(connection)
        else:
            connection.abort()
        return response

    async def samples(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """The sidecar's metrics by name and labels."""
        text = (await ask(self.admin, request("/metrics", method="GET"))).body.decode()
        families = text_string_to_metric_families(text)
        return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}

    async def page(self, target: str) -> Any:
        token = (self.files.secrets / "admin-token").read_text().strip()
        return (await ask(self.admin, request(target, method="GET", key=token))).json

    async def rollout(self, model: str) -> Json:
        (status,) = await self.page(f"/rollouts?model={model}")
        return dict(status)

    async def set_beta(self, *, beta: bool) -> Response:
        body = json.dumps({"beta": beta}).encode()
        return await ask(self.admin, request("/beta", method="PUT", body=body, key=key(BETA)))


@dataclass(frozen=True, kw_only=True)
class Sent:
    """One request and its answer. `version` is the one that answered, by the engine's own header."""

    node: int
    tenant: str
    user: str
    took_s: float
    response: Response

    @property
    def version(self) -> str:
        return self.response.header("x-stand-in-version") or ""

    @property
    def well(self) -> bool:
        """Whether the client got a whole answer."""
        body = self.response.body
        whole = body.rstrip().endswith(b"data: [DONE]") if body.startswith(b"data:") else b'"choices"' in body
        return self.response.status == 200 and self.response.complete and whole


class Ear:
    """Takes usage records as a sidecar does, and keeps them."""

    def __init__(self) -> None:
        self.records: list[Json] = []

    def of(self, model: str, version: str = CANDIDATE) -> list[Json]:
        """The records of attempts that ended."""
        return [
            record
            for record in self.records
            if (record["model"], record["version"]) == (model, version) and record.get("finish_reason")
        ]

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Yield the URL."""

        async def take(posted: web.Request) -> web.Response:
            self.records += (await posted.json())["records"]
            return web.Response()

        app = web.Application()
        app.router.add_post("/usage", take)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port := free_port()).start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            await runner.cleanup()


@dataclass(kw_only=True)
class Fleet:
    """The whole. `numbers` make the names of users, so that no two requests are one unit unless they shall be."""

    folder: Path
    nodes: tuple[Node, Node]
    redis: RedisServer
    stable: Engine
    candidate: Engine
    mute: Engine
    ear: Ear
    store: Upstream
    document: Json
    numbers: Iterable[int] = field(default_factory=itertools.count)

    async def ask(
        self, model: str, *, node: int | None = None, tenant: str | None = None, user: str | None = None,
        stream: bool = False, headers: Iterable[tuple[str, str]] = (),
    ) -> Sent:  # fmt: skip
        """Send one request; what is not given changes from one to the next."""
        number = next(iter(self.numbers))
        node = number % 2 if node is None else node
        tenant = tenant or TENANTS[number // 2 % len(TENANTS)]
        user = user or f"user-{number}"
        members: Json = {"stream": True} if stream else {}
        data = chat(key(tenant), headers=tuple(headers), model=model, user=user, max_tokens=2, **members)
        begin = time.monotonic()
        response = await self.nodes[node].ask(data)
        return Sent(node=node, tenant=tenant, user=user, took_s=time.monotonic() - begin, response=response)

    async def many(
        self, asks: Iterable[Callable[[], Awaitable[Sent]]], *, at_once: int = 16, enough: Callable[[], bool] = bool
    ) -> list[Sent]:
        """Do so many asks at once until there are no more, or it is enough."""
        waiting, sent = iter(asks), list[Sent]()

        async def work() -> None:
            for one in waiting:
                sent.append(await one())
                if enough():
                    return

        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(work())
        return sent

    async def drive(self, model: str, count: int, **options: Any) -> list[Sent]:
        """Send `count` requests, a unit each, every other one a stream, from all tenants through both nodes."""
        at_once = options.pop("at_once", 16)
        return await self.many(
            (partial(self.ask, model, **{"stream": turn // 2 % 2 == 0} | options) for turn in range(count)),
            at_once=at_once,
        )

    @contextlib.asynccontextmanager
    async def steady(self, model: str, rate: float, **options: Any) -> AsyncIterator[list[Sent]]:
        """Send `rate` requests a second inside the block, whether answers come or not; all have come at its end."""
        sent: list[Sent] = []
        tasks: set[asyncio.Task[None]] = set()

        async def one(turn: int) -> None:
            sent.append(await self.ask(model, **{"stream": turn // 2 % 2 == 0} | options))

        async def tick() -> None:
            begin = time.monotonic()
            for turn in itertools.count():
                await asyncio.sleep(max(0.0, begin + turn / rate - time.monotonic()))
                tasks.add(asyncio.create_task(one(turn)))

        ticking = asyncio.create_task(tick())
        try:
            yield sent
        finally:
            ticking.cancel()
            await asyncio.gather(*tasks)

    async def state(self, model: str, scope: str = FLEET) -> tuple[str, ...]:
        """A scope's state as each node knows it."""
        statuses = await asyncio.gather(*(node.rollout(model) for node in self.nodes))
        return tuple(str(status["scopes"].get(scope, "splitting")) for status in statuses)

    async def both(self, model: str, state: str, scope: str = FLEET, seconds: float = 15.0) -> float:
        """Wait until both nodes know a state; return how long it took."""
        begin = time.monotonic()
        async with asyncio.timeout(seconds):
            while set(await self.state(model, scope)) != {state}:
                await asyncio.sleep(0.05)
        return time.monotonic() - begin

    async def total(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels, over both nodes."""
        wanted = frozenset(labels.items())
        samples = await asyncio.gather(*(node.samples() for node in self.nodes))
        return sum(value for each in samples for (key, has), value in each.items() if key == name and wanted <= has)

    async def ended(self, model: str, count: int) -> None:
        """Wait until the access logs have told of so many requests of a model."""
        async with asyncio.timeout(15):
            while await self.total("tenantry_requests_total", model=model) < count:
                await asyncio.sleep(0.05)

    async def rules(self, edit: Callable[[Json], None]) -> None:
        """Change the rules; return when they are live on both nodes."""
        before = [(await node.page("/rules"))["generation"] for node in self.nodes]
        edit(self.document)
        self.nodes[0].files.save(self.document)
        async with asyncio.timeout(20):
            for node, generation in zip(self.nodes, before, strict=True):
                while (await node.page("/rules"))["generation"] <= generation:
                    await asyncio.sleep(0.05)

    async def serving(self, model: str) -> None:
        """Wait until both nodes answer, as after a restart of their sidecars."""
        async with asyncio.timeout(20):
            for number in range(2):
                while (await self.ask(model, node=number)).response.status != 200:
                    await asyncio.sleep(0.05)

    async def to_candidate(self, model: str, count: int = 60, **options: Any) -> int:
        """Send requests; return how many of them reached the candidate, by its own counter."""
        before = await self.candidate.count()
        sent = await self.drive(model, count, **options)
        assert all(each.well for each in sent), [each for each in sent if not each.well][:3]
        return await self.candidate.count() - before

    async def versions(self, model: str, tenant: str, count: int = 24) -> Counter[str]:
        """Which versions answer a tenant's new units."""
        return Counter(each.version for each in await self.drive(model, count, tenant=tenant))

    async def command(self, *words: str, fails: bool = False) -> str:
        """Run `tenantry rollout WORDS` against the first node; return what it says."""
        node = self.nodes[0]
        name = f"cli-{next(iter(self.numbers))}"
        where = ("--admin", node.admin, "--secrets", node.files.secrets)
        async with tenantry(self.folder, "rollout", *words, *where, name=name) as process:
            code = await process.exit()
            said = process.out.read_text() + process.log.read_text()
            assert (code != 0) == fails, said
            return said


def document(models: Mapping[str, Json], stable: Engine, candidate: Engine, mute: Engine, store: Upstream) -> Json:
    """Rules with a rollout for each of `models`: its rules, `candidate` apart where it is CANDIDATE."""
    engines = {STABLE: stable, CANDIDATE: candidate, MUTE: mute}

    def model(rollout: Json) -> Json:
        chosen = {"candidate": CANDIDATE} | rollout
        versions = {version: {"endpoints": [engines[version].address]} for version in (STABLE, chosen["candidate"])}
        return {"stable": STABLE, "versions": versions, "rollout": chosen}

    tenants: Json = {
        name: {"tier": "bronze" if number % 2 else "gold", "keys": [digest(key(name))]}
        for number, name in enumerate(TENANTS)
    }
    regular = [name for name, rollout in models.items() if "candidate" not in rollout]
    for name, version in ((PINNED, STABLE), (EARLY, CANDIDATE)):
        tenants[name] = {"tier": "bronze", "keys": [digest(key(name))], "pins": dict.fromkeys(regular, version)}
    tenants[BETA] = {"tier": "gold", "keys": [digest(key(BETA))], "betaSelfService": True}
    return {
        "version": 1,
        "tiers": {"gold": {"priority": 0}, "bronze": {"priority": 20}},
        "models": {name: model(rollout) for name, rollout in models.items()},
        "stores": {"vectors": {"kind": "milvus", "endpoints": [store.endpoint], "isolation": "database"}},
        "tenants": tenants,
    }


@contextlib.asynccontextmanager
async def fleet(folder: Path, models: Mapping[str, Json]) -> AsyncIterator[Fleet]:
    """Run a fleet whose rules have these rollouts."""
    ear, shared = Ear(), Files(folder=folder)
    async with contextlib.AsyncExitStack() as exits:
        where = exits.enter_context(sockets())
        store = await exits.enter_async_context(Upstream().running())
        redis = await exits.enter_async_context(redis_server(folder / "redis"))
        heard_at = await exits.enter_async_context(ear.listening())
        nodes = tuple(
            Node(name=name, files=Files(folder=folder / name), socket=where / f"{name}.sock", redis=redis.url)
            for name in ("a", "b")
        )
        urls = (*(f"http://{node.admin}" for node in nodes), heard_at)

        def engine(version: str, ship_to: tuple[str, ...]) -> Engine:
            token = shared.secrets / "usage-token"
            return Engine(folder=folder, version=version, models=tuple(models), ship_to=ship_to, token=token)

        engines = engine(STABLE, urls), engine(CANDIDATE, urls), engine(MUTE, ())
        rules = document(models, *engines, store)
        shared.save(rules)
        for node in nodes:
            node.files.rules, node.files.secrets = shared.rules, shared.secrets
            exits.push_async_callback(node.close)
        for each in engines:
            exits.push_async_callback(each.stop)
        await asyncio.gather(*(each.start() for each in engines), *(node.start() for node in nodes))
        for node in nodes:
            started = envoy(node.files, (str(node.socket),), admin_port=node.envoy_admin_port)
            node.address, _ = await exits.enter_async_context(started)
        running = Fleet(
            folder=folder, nodes=(nodes[0], nodes[1]), redis=redis, stable=engines[0], candidate=engines[1],
            mute=engines[2], ear=ear, store=store, document=rules,
        )  # fmt: skip
        await asyncio.gather(*(until_ready(node) for node in nodes))
        yield running


async def until_ready(node: Node) -> None:
    """Wait until the sidecar says that it is ready: Envoy has its clusters."""
    async with asyncio.timeout(20):
        while (await ask(node.admin, request("/readyz", method="GET"))).status != 200:
            await asyncio.sleep(0.05)
