"""What sidecar and Envoy of one pod take, as the chart runs them: CPU for a request, memory with few and many tenants.

    python -m bench.footprint [--requests 3000] [--tenants 10 10000]

Real processes with the chart's arguments (a unix socket, file CDS, one Envoy worker); clients and a server that answers
at once are in this process. CPU time is the kernel's count for each process, so other work on the machine does not
matter much. Prints JSON; the resource requests in helm/tenantry/values.yaml come from it.
"""

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from aiohttp import web
from tenantry.adapters.ports import free_port
from tenantry.core.apikeys import digest_text, new_key
from tenantry_envoy.binary import find_envoy

AT_ONCE = 32
PROMPT = json.dumps({"model": "chat-8b", "messages": [{"role": "user", "content": "word " * 200}]}).encode()
MIB = 1024 * 1024


def rules(tenants: int, upstream: int, key: str) -> dict[str, Any]:
    """Return a document with one model and so many tenants, each with a key."""
    named = {f"t-{index:05}": {"tier": "gold", "keys": [digest_text(f"tk_{index}")]} for index in range(tenants - 1)}
    return {
        "version": 1,
        "tiers": {"gold": {}},
        "models": {"chat-8b": {"stable": "1", "versions": {"1": {"endpoints": [f"127.0.0.1:{upstream}"]}}}},
        "tenants": {**named, "acme": {"tier": "gold", "keys": [digest_text(key)]}},
    }


@contextlib.contextmanager
def process(*command: str | Path) -> Iterator[psutil.Process]:
    """Run a program; stop it at the end."""
    child = psutil.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield child
    finally:
        child.terminate()
        child.wait(30)


def until(url: str) -> None:
    """Wait until an address answers with 200."""
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1) as answer:
            if answer.status == 200:
                return
        if time.monotonic() > deadline:
            raise TimeoutError(url)
        time.sleep(0.05)


def cpu_seconds(program: psutil.Process) -> float:
    """CPU time of a process and of those that it made."""
    family = [program, *program.children(recursive=True)]
    return float(sum(each.cpu_times().user + each.cpu_times().system for each in family))


async def ask(url: str, key: str, requests: int) -> None:
    """Send requests, so many at once; every one must be answered."""
    left = iter(range(requests))

    async def client(session: aiohttp.ClientSession) -> None:
        for _ in left:
            async with session.post(url, data=PROMPT, headers=headers) as answer:
                assert answer.status == 200, await answer.text()
                await answer.read()

    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(client(session) for _ in range(AT_ONCE)))


async def measured(tenants: int, requests: int, folder: Path) -> dict[str, float]:
    """Run one pod's processes and measure them."""
    upstream, listen, telemetry, envoy_admin, admin = (free_port() for _ in range(5))
    answering = web.AppRunner(_upstream())
    await answering.setup()
    await web.TCPSite(answering, "127.0.0.1", upstream).start()
    key = new_key(b"-" * 32)
    (document := folder / "rules.yaml").write_text(json.dumps(rules(tenants, upstream, key)))
    tenantry: list[str | Path] = [sys.executable, "-c", "from tenantry.cli import main; main()"]
    cds, socket = folder / "clusters" / "cds.json", f"unix:{folder}/s"
    generate = [*tenantry, "envoy", document, f"--listen=127.0.0.1:{listen}", f"--sidecar={socket}", f"--cds={cds}",
                f"--envoy-admin=127.0.0.1:{envoy_admin}", f"--to={folder}/envoy.json"]  # fmt: skip
    for command in ([*tenantry, "secrets", "new", folder / "secrets"], generate):
        await asyncio.to_thread(subprocess.run, command, check=True, stdout=subprocess.DEVNULL)
    serve = [*tenantry, "serve", document, f"--secrets={folder}/secrets", f"--listen={socket}", f"--cds={cds}",
             f"--admin=127.0.0.1:{admin}", f"--telemetry=127.0.0.1:{telemetry}", f"--state={folder}/state.db",
             "--envoy-admin", f"http://127.0.0.1:{envoy_admin}"]  # fmt: skip
    with process(*serve) as sidecar:
        await asyncio.to_thread(until, f"http://127.0.0.1:{telemetry}/readyz")
        with process(find_envoy(None), "-c", f"{folder}/envoy.json", "--concurrency", "1", "--disable-hot-restart",
                     "--log-level", "error") as envoy:  # fmt: skip
            await asyncio.to_thread(until, f"http://127.0.0.1:{envoy_admin}/ready")
            url = f"http://127.0.0.1:{listen}/v1/chat/completions"
            await ask(url, key, requests // 10)
            idle = [cpu_seconds(sidecar), cpu_seconds(envoy)]
            await ask(url, key, requests)
            used = [after - before for after, before in zip(map(cpu_seconds, (sidecar, envoy)), idle, strict=True)]
            found = {
                "sidecar_cpu_ms_per_request": round(1e3 * used[0] / requests, 3),
                "envoy_cpu_ms_per_request": round(1e3 * used[1] / requests, 3),
                "sidecar_memory_mib": round(sidecar.memory_info().rss / MIB),
                "envoy_memory_mib": round(envoy.memory_info().rss / MIB),
            }
    await answering.cleanup()
    return found


def _upstream() -> web.Application:
    async def answer(_request: web.Request) -> web.Response:
        return web.json_response({"id": "1", "choices": [], "usage": {"prompt_tokens": 200, "completion_tokens": 1}})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    return app


def main() -> None:
    """Measure with each number of tenants."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--tenants", type=int, nargs="+", default=[10, 10_000])
    options = parser.parse_args()
    found = {}
    for tenants in options.tenants:
        with tempfile.TemporaryDirectory(prefix="fp") as folder:
            found[f"{tenants}_tenants"] = asyncio.run(measured(tenants, options.requests, Path(folder)))
    sys.stdout.write(f"{json.dumps({'requests': options.requests, **found}, indent=1)}\n")


if __name__ == "__main__":
    main()
