"""vLLM servers for the meter's benchmark, and what they tell: usage records by POST, steps by the probe's file."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import aiohttp
import msgspec
from aiohttp import web
from msgspec import Struct
from tenantry.adapters.ports import free_port
from tenantry.core.usage import EngineSpan, Record, UsageRecord, read_batch

from bench.meter_fairness import Piece, Step
from bench.meter_load import MODEL, VERSION
from tools.vllm_server import VllmOptions, plugin_path, vllm_server

ROOT = Path(__file__).resolve().parent.parent
TOKEN = "usage-token-of-the-bench"
Kind = Literal["plain", "metered", "probed"]
KV_BLOCKS = 80
"""Of 32 tokens: six requests at a time do not always fit, so some are preempted."""

_ENGINE_KEY = re.compile(r"^(?:cmpl|chatcmpl)-(?P<id>.+?)(?:-\d+)?-[0-9a-f]{8}$")


def request_id(key: str) -> str:
    """Return the request's own id from vLLM's, which decorates it: `cmpl-ID-INDEX-RANDOM`, `chatcmpl-ID-RANDOM`."""
    found = _ENGINE_KEY.match(key)
    return found["id"] if found else key


class Sink:
    """A sidecar's POST /usage, and nothing else of it: keeps the records by id, as the ledger does."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.url = ""

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["Sink"]:
        """Listen inside the `async with` block."""
        app = web.Application(client_max_size=4 * 1024 * 1024)
        app.router.add_post("/usage", self._take)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        self.url = f"http://127.0.0.1:{port}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        self.records.update((record.id, record) for record in read_batch(await request.read()))
        return web.Response(status=204)

    def charges(self) -> dict[str, int]:
        """Return nanoseconds charged by request, all parts and attempts added up."""
        total: dict[str, int] = {}
        for record in self.records.values():
            if isinstance(record, UsageRecord):
                total[record.request_id] = total.get(record.request_id, 0) + record.charge.gpu_ns
        return total

    def requests(self) -> Iterator[UsageRecord]:
        """Yield the last record of each request."""
        for record in self.records.values():
            if isinstance(record, UsageRecord) and record.final:
                yield record

    def spans(self) -> list[EngineSpan]:
        """Return how the engines spent their time."""
        return [record for record in self.records.values() if isinstance(record, EngineSpan)]


class Seen(Struct, frozen=True):
    """A step as the probe saw it, with what tenantry's hooks took since the step before, and how often they ran."""

    step: Step
    hook_ns: int
    hook_calls: int


class Log(Struct, frozen=True, kw_only=True):
    """What the probe wrote down. Keys of pieces are the requests' own ids."""

    seen: list[Seen]
    preempted: list[str]
    probe_ns_per_call: float

    @property
    def steps(self) -> list[Step]:
        """All steps, in order."""
        return [each.step for each in self.seen]

    @property
    def busy_ns(self) -> int:
        """How long all steps took, by the probe's clock."""
        return sum(each.step.ns for each in self.seen)

    def of(self, phase: str) -> "Log":
        """Return the part about a phase: ids of its requests begin with it."""
        prefix = f"{phase}."
        return Log(
            seen=[each for each in self.seen if any(piece.key.startswith(prefix) for piece in each.step.pieces)],
            preempted=[key for key in self.preempted if key.startswith(prefix)],
            probe_ns_per_call=self.probe_ns_per_call,
        )

    def by_request(self) -> dict[str, list[Step]]:
        """Return by request the steps that it was in."""
        found: dict[str, list[Step]] = {}
        for step in self.steps:
            for piece in step.pieces:
                found.setdefault(piece.key, []).append(step)
        return found


def read_log(file: Path) -> Log:
    """Read the probe's file."""
    seen, preempted, probe_ns = list[Seen](), list[str](), 0.0
    for line in file.read_bytes().splitlines():
        told: Any = msgspec.json.decode(line)
        if isinstance(told, dict):
            preempted += [request_id(told["preempted"])] if "preempted" in told else []
            probe_ns = told.get("probe_ns_per_call", probe_ns)
            continue
        ns, hook_ns, hook_calls, pieces = told
        step = Step(ns, tuple(Piece(request_id(key), *rest) for key, *rest in pieces))
        seen.append(Seen(step, hook_ns, hook_calls))
    return Log(seen=seen, preempted=preempted, probe_ns_per_call=probe_ns)


class Engines(Struct, frozen=True, kw_only=True):
    """What all servers of a run share. `sink` is where records go, `folder` has their logs."""

    python: str
    model: Path
    adapters: dict[str, Path]
    folder: Path
    sink: Sink

    def steps_file(self, name: str) -> Path:
        """Return the probe's file of a server."""
        return self.folder / f"{name}.steps.jsonl"

    def server(self, name: str, kind: Kind, say: Callable[[str], None]) -> contextlib.AbstractAsyncContextManager[str]:
        """Run a server: vLLM as it comes (`plain`), with the plugin (`metered`), or that with the probe (`probed`)."""
        modules = [f"{adapter}={folder}" for adapter, folder in self.adapters.items()]
        flags = [
            "--enable-lora", "--max-loras", "3", "--max-lora-rank", "8", "--lora-modules", *modules,
            "--block-size", "32", "--num-gpu-blocks-override", str(KV_BLOCKS), "--max-num-seqs", "32",
            "--max-num-batched-tokens", "1024", "--no-enable-prefix-caching",
        ]  # fmt: skip
        # One thread for the model: left alone, two servers on two cores bind to the same one.
        environment = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        if kind != "plain":
            token = self.folder / "token"
            token.write_text(TOKEN)
            environment |= {
                "PYTHONPATH": f"{plugin_path(ROOT, self.folder / 'site')}:{ROOT}",
                "TENANTRY_MODEL": MODEL,
                "TENANTRY_VERSION": VERSION,
                "TENANTRY_SIDECAR_URLS": self.sink.url,
                "TENANTRY_USAGE_TOKEN_FILE": str(token),
                # Nobody is there: the spool keeps what it has, as it does when the ledger is away.
                "TENANTRY_LEDGER_URL": f"http://127.0.0.1:{free_port()}",
                "TENANTRY_SPOOL_DIR": str(self.folder / f"{name}.spool"),
            }
        if kind == "probed":
            flags += ["--scheduler-cls", "bench.meter_probe.ProbedScheduler"]
            environment["TENANTRY_BENCH_STEPS"] = str(self.steps_file(name))
        options = VllmOptions(
            python=self.python, model=self.model, port=free_port(), served_name=MODEL,
            log=self.folder / f"{name}.log", flags=tuple(flags), environment=environment,
        )  # fmt: skip
        return vllm_server(options, say)


@contextlib.asynccontextmanager
async def sessions(limit: int = 64) -> AsyncIterator[aiohttp.ClientSession]:
    """Yield a client whose connections are kept, with room for all requests of a load."""
    connector = aiohttp.TCPConnector(limit=limit)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=300)) as http:
        yield http


async def settled(sink: Sink, requests: set[str], seconds: float = 30.0) -> set[str]:
    """Wait until the last record of each request has come, then for two more spans of their engine, or `seconds`.

    Return the ids of requests whose last record never came. A span in which a step ended is over after 5 s, an idle
    one after a minute: by then all that was done before is told.
    """

    async def until(done: Callable[[], bool]) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not done():
                    await asyncio.sleep(0.1)

    def missing() -> set[str]:
        return requests - {record.request_id for record in sink.requests()}

    await until(lambda: not missing())
    engines = {record.engine for record in sink.requests() if record.request_id in requests}
    enough = sum(span.engine in engines for span in sink.spans()) + 2 * len(engines)
    await until(lambda: sum(span.engine in engines for span in sink.spans()) >= enough)
    return missing()
