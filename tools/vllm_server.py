"""Real vLLM on a CPU as a child process: started, awaited, stopped whole.

What it needs here (measured, vLLM 0.32): no network, no usage statistics, a bound on the KV cache, eager mode; then it
is ready in 25 to 35 s on an idle machine, up to 90 s on a busy one, with 2.7 GB of memory.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
import tomllib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import aiohttp
from msgspec import Struct

READY_SECONDS = 240.0
ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}


class VllmOptions(Struct, frozen=True, kw_only=True):
    """One vLLM server: the environment's interpreter, the model's folder, where it listens, extra flags."""

    python: str
    model: Path
    port: int
    served_name: str
    log: Path
    flags: tuple[str, ...] = ()
    environment: Mapping[str, str] = {}


class VllmError(Exception):
    """vLLM ended or was not ready in time; the message holds the end of its log."""


def interpreter(root: Path) -> str:
    """Return the vllm environment's interpreter, setting it up when it is missing (minutes, once)."""
    command = ["python3", str(root / "tools" / "env.py"), "vllm"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def write_tiny_model(python: str, root: Path, folder: Path) -> Path:
    """Return the folder of the tiny model, writing it unless it is there."""
    if not (folder / "model.safetensors").exists():
        subprocess.run([python, str(root / "tools" / "tiny_model.py"), str(folder)], check=True)
    return folder


def write_adapters(python: str, root: Path, folder: Path) -> dict[str, Path]:
    """Return the tiny model's three LoRA adapters by name, writing them beside the model in `folder` if need be."""
    adapters = folder.with_name(f"{folder.name}-adapters")
    if not adapters.exists():
        subprocess.run(
            [python, str(root / "tools" / "tiny_model.py"), str(folder), "--adapters", str(adapters)], check=True
        )
    return {adapter.name: adapter for adapter in sorted(adapters.iterdir())}


def plugin_path(root: Path, folder: Path) -> str:
    """Return a PYTHONPATH by which vLLM finds this tree's plugin, by its entry points, as if it were installed."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    info = folder / f"tenantry-{project['version']}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tenantry\nVersion: {project['version']}\n")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return os.pathsep.join(str(path) for path in (folder, root / "extproc", root / "plugins"))


@contextlib.asynccontextmanager
async def vllm_server(options: VllmOptions, say: Callable[[str], None] = lambda _: None) -> AsyncIterator[str]:
    """Run `vllm serve` inside the `async with` block; yields its base URL once it is healthy."""
    url = f"http://127.0.0.1:{options.port}"
    command = [
        options.python, "-m", "vllm.entrypoints.cli.main", "serve", str(options.model),
        "--served-model-name", options.served_name, "--host", "127.0.0.1", "--port", str(options.port),
        "--enforce-eager", "--max-model-len", "2048", *options.flags,
    ]  # fmt: skip
    with options.log.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=log, stderr=log, env={**os.environ, **ENVIRONMENT, **options.environment},
            start_new_session=True,
        )  # fmt: skip
    try:
        await _healthy(process, url, options, say)
        yield url
    finally:
        await _stop(process)


async def _healthy(
    process: asyncio.subprocess.Process, url: str, options: VllmOptions, say: Callable[[str], None]
) -> None:
    begin = last = time.monotonic()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as http:
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with http.get(f"{url}/health") as response:
                    if response.status == 200:
                        return
            now = time.monotonic()
            if process.returncode is not None or now - begin > READY_SECONDS:
                tail = options.log.read_bytes()[-4000:].decode("utf-8", "replace")
                state = "not ready in time" if process.returncode is None else f"ended with {process.returncode}"
                raise VllmError(f"vLLM {state}; the end of {options.log}:\n{tail}")
            if now - last > 10:
                last = now
                say(f"vLLM ({options.served_name}) is loading, {now - begin:.0f} s")
            await asyncio.sleep(0.5)


async def _stop(process: asyncio.subprocess.Process) -> None:
    """End the server and its EngineCore: both are in the process group that was made for them."""
    for number, seconds in ((signal.SIGTERM, 15), (signal.SIGKILL, 5)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), seconds)
            break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
