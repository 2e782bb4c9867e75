"""Retrieval while the demo runs: two tenants ask, one of them attacks, and the operator counts before and after."""

import asyncio
import contextlib
import json
import os
import random
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TypeVar

from tenantry.adapters.sidecar import Sidecar
from tenantry.adapters.stores import Stores
from tenantry.core.vector.scope import collection_of

from demo.observe import SidecarMetrics
from demo.retrieval_run import AskedCall, AttackCall, RetrievalRun, Verdict
from demo.retrieval_stack import ROOT, end
from demo.retrieval_story import ATTACKER, COLLECTION, DOCUMENTS, QUESTIONS, STORE, TENANT, TENANTS, TOP
from demo.retrieval_wire import (
    Ask,
    Asked,
    Attack,
    Attacked,
    Connect,
    Failed,
    Fill,
    Look,
    Looked,
    Ready,
    Reply,
    Request,
    Row,
    Stored,
    encode,
    read_reply,
)
from demo.scenario import SEED
from demo.stack import Stack, StoreStack

PAUSE_SECONDS = 0.5
"""Between two questions of one tenant, and between two attacks; drawn from 0 to twice as much."""

SAFE_SECONDS = 20.0
REPLY_SECONDS = 30.0
POLL_SECONDS = 0.05
MAX_LINE = 16 * 1024 * 1024

T = TypeVar("T", bound=Reply)


class RetrievalError(Exception):
    """A client or the model did not do what it was told; the message says which, and why."""


class Retrieval:
    """Retrieval under way: what was recorded so far."""

    def __init__(self, stack: Stack, metrics: SidecarMetrics) -> None:
        self._stack, self._store, self._metrics = stack, stack.store, metrics
        self._asked: list[AskedCall] = []
        self._attacks: list[AttackCall] = []
        self._known: list[str] = []
        self._verdict: Verdict | None = None
        self._sdk = self._error = ""
        self._before: list[Stored] = []
        self._after: list[Stored] = []

    async def record(self) -> RetrievalRun:
        """Return what was recorded; the sidecar's own count is asked for now."""
        if isinstance(self._store, str):
            return RetrievalRun(not_run=self._store)
        return RetrievalRun(
            error=self._error,
            engine=f"Milvus Lite {self._store.engine.version}",
            sdk=f"pymilvus {self._sdk}" if self._sdk else "",
            verdict=self._verdict,
            asked=tuple(self._asked),
            attacks=tuple(self._attacks),
            attacks_known=len(self._known),
            before=tuple(self._before),
            after=tuple(self._after),
            verified=await self._metrics.verified(STORE),
        )

    async def run(self, until_s: float) -> None:
        """Play it; no question is asked after the Unix time `until_s`. What goes wrong is recorded."""
        if isinstance(self._store, str):
            return
        try:
            await self._play(self._store, until_s)
        except* (RetrievalError, OSError) as errors:
            self._error = "; ".join(str(error) for error in _leaves(errors))

    async def _play(self, store: StoreStack, until_s: float) -> None:
        documents = [document.text for tenant in TENANTS for document in DOCUMENTS[tenant]]
        vectors = await _vectors(store, [*documents, *(question.text for question in QUESTIONS)])
        questions = vectors[len(documents) :]
        by_text = dict(zip(documents, vectors[: len(documents)], strict=True))
        self._verdict = await _verdict(self._stack.up.sidecar.sidecar)
        async with contextlib.AsyncExitStack() as stack:
            clients = {name: await stack.enter_async_context(self._client(store, name)) for name in (*TENANTS, "")}
            operator = clients.pop("")
            ready = await asyncio.gather(*(client.ready() for client in (*clients.values(), operator)))
            self._sdk, self._known = ready[0].version, ready[0].attacks
            for name, client in clients.items():
                rows = [
                    Row(id=document.id, title=document.title, text=document.text, vector=by_text[document.text])
                    for document in DOCUMENTS[name]
                ]
                await client.ask(Fill(rows=rows), Ready)
            self._before = (await operator.ask(Look(), Looked)).rows
            async with asyncio.TaskGroup() as group:
                for name, client in clients.items():
                    group.create_task(self._work(name, client, questions, until_s))
            self._after = (await operator.ask(Look(), Looked)).rows

    async def _work(self, name: str, client: "_Client", questions: Sequence[list[float]], until_s: float) -> None:
        """Ask the questions in turn, as long as there is time; the attacker tries something after each.

        On a slow machine it hurries: each attack is tried, and each question asked.
        """
        rng = random.Random(f"{SEED} retrieval {name}")
        attacks = list(self._known) if name == ATTACKER else []
        turn = 0
        while (left_s := until_s - time.time()) > 0 or turn < max(len(attacks), len(questions)):
            index = turn % len(questions)
            answer = await client.ask(Ask(vector=questions[index], limit=TOP), Asked)
            self._asked.append(AskedCall(tenant=name, question=index, answer=answer))
            if turn < len(attacks):
                reply = await client.any(Attack(name=attacks[turn]))
                if isinstance(reply, Attacked | Failed):
                    self._attacks.append(AttackCall(name=attacks[turn], answer=reply))
            turn += 1
            pause_s = min(PAUSE_SECONDS, max(0.0, left_s) / max(1, len(attacks) - turn))
            await asyncio.sleep(rng.uniform(0, 2 * pause_s))

    @contextlib.asynccontextmanager
    async def _client(self, store: StoreStack, tenant: str) -> AsyncIterator["_Client"]:
        """Run a tenant's client through Envoy; "" is the operator's, which asks the engine itself."""
        name = tenant or "operator"
        connect = Connect(uri=store.engine.uri, collection=COLLECTION)
        if tenant:
            connect = Connect(
                uri=self._stack.base_url, key=self._stack.keys[tenant], collection=COLLECTION,
                other=collection_of(TENANT, COLLECTION),
            )  # fmt: skip
        log = store.folder / f"retrieval-{name}.log"
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                store.environments.clients, "-m", "demo.retrieval_client", cwd=ROOT, env=_environment(),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=errors, limit=MAX_LINE,
                start_new_session=True,  # Ctrl-C reaches the demo alone
            )  # fmt: skip
        try:
            client = _Client(name, process, log)
            client.send(connect)
            yield client
        finally:
            await end(process)


class _Client:
    """A client process: a line to it, a line from it."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self._name, self._process, self._log = name, process, log

    def send(self, request: Request) -> None:
        if self._process.stdin is not None:
            self._process.stdin.write(encode(request) + b"\n")

    async def ready(self) -> Ready:
        return self._expect(await self._read(), Ready)

    async def any(self, request: Request) -> Reply:
        self.send(request)
        return await self._read()

    async def ask(self, request: Request, kind: type[T]) -> T:
        return self._expect(await self.any(request), kind)

    async def _read(self) -> Reply:
        if self._process.stdout is None:
            raise RetrievalError(f"{self._name} has no output")
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), REPLY_SECONDS)
        except TimeoutError:
            raise RetrievalError(f"{self._name} did not answer within {REPLY_SECONDS:g} s") from None
        if not line:
            raise RetrievalError(f"{self._name} ended: {self._log.read_text(errors='replace')[-500:]}")
        return read_reply(line)

    def _expect(self, reply: Reply, kind: type[T]) -> T:
        if isinstance(reply, kind):
            return reply
        told = reply.error if isinstance(reply, Failed) else type(reply).__name__
        raise RetrievalError(f"{self._name}: {told}")


async def _vectors(store: StoreStack, texts: list[str]) -> list[list[float]]:
    process = await asyncio.create_subprocess_exec(
        store.environments.embedder, "-m", "demo.embedder", cwd=ROOT, env=_environment(),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    try:
        output, errors = await process.communicate(json.dumps(texts).encode())
    finally:
        await end(process)
    if process.returncode != 0:
        raise RetrievalError(f"the model of sentences: {errors.decode(errors='replace')[-500:]}")
    vectors: list[list[float]] = json.loads(output)
    return vectors


async def _verdict(sidecar: Sidecar) -> Verdict:
    """Wait until the store is proven, one way or the other."""
    if not isinstance(sidecar.stores, Stores):
        raise RetrievalError("this sidecar proves no stores")
    begin = time.monotonic()
    while True:
        status = next(status for status in sidecar.stores.status() if status.store == STORE)
        if status.standing != "unproven" or time.monotonic() - begin > SAFE_SECONDS:
            verdict = Verdict(standing=status.standing, version=status.version, reasons=status.reasons)
            break
        await asyncio.sleep(POLL_SECONDS)
    if verdict.standing != "safe":
        raise RetrievalError(f"the store is {verdict.standing}: {'; '.join(verdict.reasons)}")
    return verdict


def _environment() -> dict[str, str]:
    """Return ours without what would lead a client elsewhere: proxies, and the path of other packages."""
    inherited = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    inherited.pop("PYTHONPATH", None)
    return inherited


def _leaves(errors: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in errors.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
