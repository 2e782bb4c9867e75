"""Everything that the demo starts: engines, Envoy, the sidecar. Everything is stopped again, however it ends."""

import asyncio
import json
import platform
import secrets
import sys
import tomllib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from pathlib import Path

import aiohttp
from msgspec import Struct
from tenantry.adapters import logs
from tenantry.adapters.bind import Address
from tenantry.adapters.secrets_folder import write_missing
from tenantry.core.apikeys import RANDOM_BYTES, digest_text, new_key
from tenantry.core.keyring import ENGINE
from tenantry.up import Up, UpOptions
from tenantry.up import running as up_running

from demo import rules_document
from demo.scenario import MODEL, EnginePlan, Scenario

ROOT = Path(__file__).resolve().parent.parent
ANY_PORT = Address(host="127.0.0.1", port=0)
START_SECONDS = 20.0
STOP_SECONDS = 10.0

Say = Callable[[str], None]


class StackError(Exception):
    """Something did not start; the message says what, and where its log is."""


class Engine(Struct, frozen=True, kw_only=True):
    """A running engine: where Envoy finds it, and where its record of requests is read."""

    version: str
    endpoint: str
    record_url: str


class Stack(Struct, frozen=True, kw_only=True):
    """What runs. `keys` are the API keys of all tenants, those yet to join included.

    `record_source` says who recorded what the engines saw.
    """

    up: Up
    rules: Path
    outcomes: Path
    keys: Mapping[str, str]
    engine_secret: str
    engines: tuple[Engine, ...]
    record_source: str
    versions: Mapping[str, str]

    @property
    def base_url(self) -> str:
        """Where clients connect, without `/v1`."""
        return self.up.base_url

    @property
    def admin(self) -> str:
        """The sidecar's admin address, HOST:PORT."""
        return str(self.up.sidecar.admin)

    def engine(self, version: str) -> Engine:
        """Return the engine of a version."""
        return next(engine for engine in self.engines if engine.version == version)


@asynccontextmanager
async def running(scenario: Scenario, out: Path, say: Say) -> AsyncIterator[Stack]:
    """Run the whole stack inside the `async with` block; its files go to the folder `out`."""
    # The sidecar watches the folder that the rules are in: what is written all the time goes elsewhere.
    state = out / "state"
    state.mkdir(parents=True, exist_ok=True)
    outcomes = state / "outcomes.jsonl"
    outcomes.unlink(missing_ok=True)
    keys = {plan.name: new_key(secrets.token_bytes(RANDOM_BYTES)) for plan in scenario.tenants}
    folder = out / "secrets"
    write_missing(folder)
    secret_file = folder / ENGINE
    secret_file.touch(mode=0o600)
    engine_secret = secrets.token_urlsafe(32)
    secret_file.write_text(engine_secret + "\n")
    rules = out / "rules.yaml"
    async with AsyncExitStack() as stack:
        log = stack.enter_context((state / "sidecar.log").open("w"))
        logs.configure(log)
        engines, source, engine_versions = await _engines(stack, scenario, secret_file, state, say)
        known = {engine.version: engine.endpoint for engine in engines if engine.version != scenario.new_version}
        rules_document.fill(rules, known, {plan.name: digest_text(keys[plan.name]) for plan in scenario.founding})
        say("starting Envoy and the sidecar")
        options = UpOptions(
            rules=rules, listen=ANY_PORT, admin=ANY_PORT, envoy_admin=ANY_PORT,
            state=state, secrets=folder, outcomes=outcomes,
        )  # fmt: skip
        up = await stack.enter_async_context(up_running(options))
        yield Stack(
            up=up,
            rules=rules,
            outcomes=outcomes,
            keys=keys,
            engine_secret=engine_secret,
            engines=engines,
            record_source=source,
            versions={**await _versions(up.envoy.admin), **engine_versions},
        )


async def _engines(
    stack: AsyncExitStack, scenario: Scenario, secret_file: Path, state: Path, say: Say
) -> tuple[tuple[Engine, ...], str, Mapping[str, str]]:
    if scenario.engine == "vllm":
        from demo.vllm_engines import start  # noqa: PLC0415  # needed by this choice only

        return await start(stack, scenario, secret_file, state, say)
    say(f"starting {len(scenario.engines)} stand-in engines")
    starting = [
        (plan, await stack.enter_async_context(_stand_in(plan, secret_file, state / f"engine-{plan.version}.log")))
        for plan in scenario.engines
    ]
    engines = []
    for plan, (process, log) in starting:
        url = await _listening(process, log)
        engines.append(
            Engine(version=plan.version, endpoint=url.removeprefix("http://"), record_url=f"{url}/stand-in/seen")
        )
    return tuple(engines), "the stand-in engines' own record (/stand-in/seen)", {}


@asynccontextmanager
async def _stand_in(
    plan: EnginePlan, secret_file: Path, log: Path
) -> AsyncIterator[tuple[asyncio.subprocess.Process, Path]]:
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tenantry_standin", "--model", MODEL, "--version", plan.version,
            "--listen", "127.0.0.1:0", "--api-key-file", secret_file, "--speed", str(plan.speed),
            "--max-running", str(plan.max_running), "--drain-s", "1",
            stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,  # Ctrl-C reaches the demo alone, which then stops its children in order
        )  # fmt: skip
    try:
        yield process, log
    finally:
        await _stop(process)


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _listening(process: asyncio.subprocess.Process, log: Path) -> str:
    """Return an engine's URL from its log."""
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    while process.returncode is None and asyncio.get_running_loop().time() < deadline:
        for line in log.read_text().splitlines():
            if line.startswith("{") and (entry := json.loads(line)).get("event") == "listening":
                return str(entry["url"])
        await asyncio.sleep(0.05)
    raise StackError(f"a stand-in engine did not start (code {process.returncode}); the end of {log}:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


async def _versions(envoy_admin: str) -> dict[str, str]:
    async with aiohttp.ClientSession() as http, http.get(f"{envoy_admin}/server_info") as response:
        envoy = (await response.json(content_type=None))["version"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {
        "tenantry": project["version"],
        "envoy": envoy.split("/")[1],
        "python": platform.python_version(),
        "grpcio": version("grpcio"),
        "openai": version("openai"),
    }
