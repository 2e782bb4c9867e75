"""Real vLLM on CPU as the demo's engines: one `vllm serve` per version, each behind a recorder."""

import asyncio
import subprocess
from collections.abc import Mapping
from contextlib import AsyncExitStack

import aiohttp
from tenantry.adapters.ports import free_port

from demo.recorder import RECORD_PATH, recording
from demo.scenario import MODEL, EnginePlan, Scenario
from demo.stack import ROOT, Engine, Lives, Say, StackError, Starting
from tools.vllm_server import VllmError, VllmOptions, interpreter, plugin_path, vllm_server, write_tiny_model

FLAGS = ("--scheduling-policy", "priority", "--enable-prompt-tokens-details")
WARM_UP_REQUESTS = 2

THREADS = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
"""By default every server of a machine binds its worker to the same cores: beside a busy one, another made
0.6 tokens/s."""


async def start(
    stack: AsyncExitStack, lives: Lives, scenario: Scenario, how: Starting, say: Say
) -> tuple[tuple[Engine, ...], str, Mapping[str, str]]:
    """Start a server per version; return the engines, who records what they see, and their software's version.

    Raises StackError when there is no vLLM here or a server does not become ready.
    """
    secret, state = how.secret_file.read_text().strip(), how.state
    say("looking for the vLLM environment (2.5 GB, installed once)")
    try:
        python = await asyncio.to_thread(interpreter, ROOT)
        model = await asyncio.to_thread(write_tiny_model, python, ROOT, state.resolve() / "tiny-model")
    except subprocess.CalledProcessError as error:
        raise StackError(f"{error.cmd[1]} failed with code {error.returncode}: what it printed says why") from None
    # vLLM finds the plugin by its entry points, which then meters whichever scheduler vLLM chooses.
    metering = {
        "PYTHONPATH": plugin_path(ROOT, state.resolve() / "plugin"),
        "TENANTRY_MODEL": MODEL,
        "TENANTRY_SIDECAR_URLS": f"http://{how.admin}",
        "TENANTRY_LEDGER_URL": f"http://{how.ledger}",
        "TENANTRY_USAGE_TOKEN_FILE": str(how.usage_token_file.resolve()),
    }
    say(f"starting {len(scenario.engines)} vLLM servers, which takes one to three minutes")

    async def server(plan: EnginePlan) -> str:
        options = VllmOptions(
            python=python, model=model, port=free_port(), served_name=MODEL, log=state / f"engine-{plan.version}.log",
            flags=(*FLAGS, "--max-num-seqs", str(plan.max_running)),
            environment={
                "VLLM_API_KEY": secret, **THREADS, **metering,
                "TENANTRY_VERSION": plan.version, "TENANTRY_SPOOL_DIR": str(how.spool(MODEL, plan.version)),
            },
        )  # fmt: skip
        life = vllm_server(options, lambda text: say(f"{plan.version}: {text}"))
        return await lives.new().enter_async_context(life)

    try:
        async with asyncio.TaskGroup() as group:
            starting = {plan.version: group.create_task(server(plan)) for plan in scenario.engines}
    except* VllmError as errors:
        raise StackError("\n".join(map(str, errors.exceptions))) from None
    engines, software = [], ""
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {secret}"}) as http:
        for version, started in starting.items():
            software = await _warm_up(http, started.result())
            url = await stack.enter_async_context(recording(started.result()))
            engines.append(
                Engine(version=version, endpoint=url.removeprefix("http://"), record_url=f"{url}{RECORD_PATH}")
            )
    source = "a recording pass-through in front of each vLLM, as vLLM keeps no record of its requests"
    return tuple(engines), source, {"vllm": software}


async def _warm_up(http: aiohttp.ClientSession, url: str) -> str:
    """Send the first requests, which are slow, past the recorder; return vLLM's version."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 16}
    for _ in range(WARM_UP_REQUESTS):
        async with http.post(f"{url}/v1/chat/completions", json=body) as response:
            response.raise_for_status()
            await response.read()
    async with http.get(f"{url}/version") as response:
        return str((await response.json())["version"])
