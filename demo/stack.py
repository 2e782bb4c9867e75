"""Everything that the demo starts: engines, Envoy, the sidecar. Everything is stopped again, however it ends."""

import asyncio
import json
import platform
import secrets
import shutil
import sys
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from pathlib import Path

import aiohttp
from msgspec import Struct
from tenantry.adapters import logs
from tenantry.adapters.bind import Address
from tenantry.adapters.ports import free_port
from tenantry.adapters.secrets_folder import write_missing
from tenantry.core.apikeys import RANDOM_BYTES, digest_text, new_key
from tenantry.core.keyring import ENGINE, USAGE_TOKEN
from tenantry.up import Up, UpOptions
from tenantry.up import running as up_running

from demo import retrieval_stack, rules_document
from demo.retrieval_story import TENANTS, TIERS
from demo.scenario import MODEL, EnginePlan, Scenario
from tools.milvus_engines import Engine as Milvus
from tools.milvus_engines import EngineError

ROOT = Path(__file__).resolve().parent.parent
ANY_PORT = Address(host="127.0.0.1", port=0)
START_SECONDS = 20.0
DRAIN_SECONDS = 4.0
STOP_SECONDS = 10.0

Say = Callable[[str], None]


class StackError(Exception):
    """Something did not start; the message says what, and where its log is."""


class Engine(Struct, frozen=True, kw_only=True):
    """A running engine: where Envoy finds it, and where its record of requests is read."""

    model: str = MODEL
    version: str
    endpoint: str
    record_url: str


class StoreStack(Struct, frozen=True, kw_only=True):
    """What retrieval runs on. `folder` is for logs."""

    environments: retrieval_stack.Environments
    engine: Milvus
    folder: Path


class Stack(Struct, frozen=True, kw_only=True):
    """What runs. `keys` are the API keys of all tenants, those yet to join included.

    `engines` are those of MODEL, `rollout_engines` those of the rollouts' models. `record_source` says who recorded
    what the engines saw. `store` is what retrieval runs on, or says why it does not run. `stop_engines` ends the
    engines' lives in order: then the ledger has all of their time.
    """

    up: Up
    rules: Path
    outcomes: Path
    secrets: Path
    keys: Mapping[str, str]
    engine_secret: str
    engines: tuple[Engine, ...]
    rollout_engines: tuple[Engine, ...]
    record_source: str
    versions: Mapping[str, str]
    store: StoreStack | str
    stop_engines: Callable[[], Awaitable[None]]

    @property
    def base_url(self) -> str:
        """Where clients connect, without `/v1`."""
        return self.up.base_url

    @property
    def admin(self) -> str:
        """The sidecar's admin address, HOST:PORT."""
        return str(self.up.sidecar.admin)

    @property
    def ledger(self) -> str:
        """The ledger's address, HOST:PORT."""
        if self.up.ledger is None:
            raise StackError("no ledger runs")
        return str(self.up.ledger.listen)

    def engine(self, version: str) -> Engine:
        """Return the engine of a version."""
        return next(engine for engine in self.engines if engine.version == version)


@asynccontextmanager
async def running(
    scenario: Scenario, out: Path, say: Say, retrieval: retrieval_stack.Environments | str
) -> AsyncIterator[Stack]:
    """Run the whole stack inside the `async with` block; its files go to the folder `out`.

    `retrieval` is what it runs on, or says why there is none.
    """
    # The sidecar watches the folder that the rules are in: what is written all the time goes elsewhere.
    state = out / "state"
    state.mkdir(parents=True, exist_ok=True)
    outcomes = state / "outcomes.jsonl"
    outcomes.unlink(missing_ok=True)
    # A candidate that the last play reverted would stay reverted, and what it used would be billed again.
    for kept in (path for name in ("state", "ledger", "quotas", "outbox") for path in state.glob(f"{name}.db*")):
        kept.unlink()
    shutil.rmtree(state / "spool", ignore_errors=True)
    (state / "stores.json").unlink(missing_ok=True)  # the store shall be proven before everybody's eyes
    names = [*(plan.name for plan in scenario.tenants), *scenario.crowd, *TENANTS]
    keys = {name: new_key(secrets.token_bytes(RANDOM_BYTES)) for name in names}
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
        # Engines post usage records to the admin listener and the ledger: their ports are chosen before they start.
        admin, ledger = (Address(host=ANY_PORT.host, port=free_port()) for _ in range(2))
        starting = Starting(
            secret_file=secret_file, usage_token_file=folder / USAGE_TOKEN, admin=admin, ledger=ledger, state=state
        )
        lives = Lives()
        stack.push_async_callback(lives.end)
        engines, source, engine_versions = await _engines(stack, lives, scenario, starting, say)
        ours = tuple(engine for engine in engines if engine.model == MODEL)
        others = tuple(engine for engine in engines if engine.model != MODEL)
        store = await _store(stack, retrieval, state, say)
        _fill(rules, scenario, engines, keys, store)
        say("starting Envoy, the sidecar and the ledger")
        options = UpOptions(
            rules=rules, listen=ANY_PORT, admin=admin, envoy_admin=ANY_PORT, ledger=ledger,
            state=state, secrets=folder, outcomes=outcomes,
        )  # fmt: skip
        up = await stack.enter_async_context(up_running(options))
        yield Stack(
            up=up,
            rules=rules,
            outcomes=outcomes,
            secrets=folder,
            keys=keys,
            engine_secret=engine_secret,
            engines=ours,
            rollout_engines=others,
            record_source=source,
            versions={**await _versions(up.envoy.admin), **engine_versions},
            store=store,
            stop_engines=lives.end,
        )


class Starting(Struct, frozen=True, kw_only=True):
    """What an engine is started with: its API key, where its usage records go, and the folder of log and spool."""

    secret_file: Path
    usage_token_file: Path
    admin: Address
    ledger: Address
    state: Path

    def spool(self, model: str, version: str) -> Path:
        """Return the folder of the records that the ledger does not have yet."""
        return self.state.resolve() / "spool" / f"{model}-{version}"


class Lives:
    """The engines' lives, which end all at once: one after another would take too long."""

    def __init__(self) -> None:
        self._stacks: list[AsyncExitStack] = []
        self._ending: asyncio.Future[list[None]] | None = None

    def new(self) -> AsyncExitStack:
        """Return what an engine is started in."""
        self._stacks.append(AsyncExitStack())
        return self._stacks[-1]

    async def end(self) -> None:
        """Stop them, once; whoever is cancelled while it waits leaves nothing half stopped."""
        if self._ending is None:
            self._ending = asyncio.gather(*(stack.aclose() for stack in self._stacks))
        await asyncio.shield(self._ending)


async def _store(
    stack: AsyncExitStack, retrieval: retrieval_stack.Environments | str, state: Path, say: Say
) -> StoreStack | str:
    if isinstance(retrieval, str):
        return retrieval
    say("starting Milvus Lite")
    try:
        engine = await stack.enter_async_context(retrieval_stack.milvus(state / "milvus"))
    except EngineError as error:
        return str(error)
    return StoreStack(environments=retrieval, engine=engine, folder=state)


def _fill(
    rules: Path, scenario: Scenario, engines: tuple[Engine, ...], keys: Mapping[str, str], store: StoreStack | str
) -> None:
    """Write the first rules document: without what joins by the edit."""
    digests = {name: digest_text(key) for name, key in keys.items()}
    endpoints = {(engine.model, engine.version): engine.endpoint for engine in engines}
    known = {
        version: endpoint
        for (model, version), endpoint in endpoints.items()
        if model == MODEL and version != scenario.new_version
    }
    changes = [
        rules_document.add_rollout(
            plan, {engine.version: endpoints[plan.model, engine.version] for engine in plan.engines}, digests
        )
        for plan in scenario.rollouts
    ]
    if scenario.quota is not None:
        changes.append(rules_document.add_quota(scenario.quota, digests[scenario.quota.tenant]))
    if isinstance(store, str):
        changes.append(rules_document.without_stores())
    else:
        tenants = {name: (TIERS[name], digests[name]) for name in TENANTS}
        changes.append(rules_document.set_store(store.engine.address, tenants))
    rules_document.fill(rules, known, {plan.name: digests[plan.name] for plan in scenario.founding}, *changes)


async def _engines(
    stack: AsyncExitStack, lives: Lives, scenario: Scenario, how: Starting, say: Say
) -> tuple[tuple[Engine, ...], str, Mapping[str, str]]:
    if scenario.engine == "vllm":
        from demo.vllm_engines import start  # noqa: PLC0415  # needed by this choice only

        return await start(stack, lives, scenario, how, say)
    plans = [*scenario.engines, *(engine for rollout in scenario.rollouts for engine in rollout.engines)]
    say(f"starting {len(plans)} stand-in engines")
    starting = [(plan, await lives.new().enter_async_context(_stand_in(plan, how))) for plan in plans]
    engines = []
    for plan, (process, log) in starting:
        url = await _listening(process, log)
        engines.append(
            Engine(
                model=plan.model,
                version=plan.version,
                endpoint=url.removeprefix("http://"),
                record_url=f"{url}/stand-in/seen",
            )
        )
    return tuple(engines), "the stand-in engines' own record (/stand-in/seen)", {}


@asynccontextmanager
async def _stand_in(plan: EnginePlan, how: Starting) -> AsyncIterator[tuple[asyncio.subprocess.Process, Path]]:
    log = how.state / f"engine-{plan.model}-{plan.version}.log"
    behaviour = json.dumps({"speed": plan.speed, "ttft_factor": plan.ttft_factor})
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tenantry_standin", "--model", plan.model, "--version", plan.version,
            "--listen", "127.0.0.1:0", "--api-key-file", how.secret_file, "--behaviour", behaviour,
            "--max-running", str(plan.max_running), "--cold-start-s", str(plan.cold_start_s),
            "--drain-s", str(DRAIN_SECONDS),
            "--ship-to", f"http://{how.admin}", "--ship-token-file", how.usage_token_file,
            "--ledger-url", f"http://{how.ledger}", "--spool-dir", how.spool(plan.model, plan.version),
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
