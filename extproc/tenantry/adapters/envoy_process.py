"""Envoy as a child process of `tenantry up`."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from tenantry.core.errors import TenantryError

READY_SECONDS = 20.0
LOG_TAIL_BYTES = 4000


class EnvoyError(TenantryError):
    """Envoy did not start, or ended; the message holds the end of its log."""


class EnvoyProcess:
    """A running Envoy: its process, and the addresses that it really bound."""

    def __init__(self, process: asyncio.subprocess.Process, admin: str, log: Path) -> None:
        self.process = process
        self.admin = admin
        self.log = log

    async def listener(self) -> str:
        """Return `host:port` of the client listener."""
        async with aiohttp.ClientSession() as http, http.get(f"{self.admin}/listeners?format=json") as response:
            statuses = (await response.json(content_type=None))["listener_statuses"]
        # The others are internal: no socket.
        (address,) = (status["local_address"]["socket_address"] for status in statuses if status["name"] == "clients")
        return f"{address['address']}:{address['port_value']}"

    async def ended(self) -> EnvoyError:
        """Return, when Envoy has ended by itself, an error that tells why."""
        code = await self.process.wait()
        return EnvoyError(f"Envoy ended with code {code}; the end of {self.log}:\n{_tail(self.log)}")


@contextlib.asynccontextmanager
async def running(
    binary: Path, bootstrap: dict[str, Any], state: Path, concurrency: int
) -> AsyncIterator[EnvoyProcess]:
    """Run Envoy with this bootstrap inside the `async with` block; its files go to the folder `state`."""
    config, log, admin_path = state / "envoy.json", state / "envoy.log", state / "envoy-admin"
    config.write_text(json.dumps(bootstrap, indent=1))
    admin_path.unlink(missing_ok=True)
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            binary, "-c", config, "--concurrency", str(concurrency), "--disable-hot-restart",
            "--admin-address-path", admin_path, "--log-level", "warning",
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    envoy = EnvoyProcess(process, "", log)
    try:
        envoy.admin = await _ready(envoy, admin_path)
        yield envoy
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()
                await process.wait()


async def _ready(envoy: EnvoyProcess, admin_path: Path) -> str:
    """Return the admin URL once Envoy serves; raise EnvoyError with its log when it does not."""
    deadline = asyncio.get_running_loop().time() + READY_SECONDS
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as http:
        while envoy.process.returncode is None:
            if admin_path.exists() and (text := admin_path.read_text().strip()):
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with http.get(f"http://{text}/ready") as response:
                        if response.status == 200:
                            return f"http://{text}"
            if asyncio.get_running_loop().time() > deadline:
                raise EnvoyError(
                    f"Envoy was not ready after {READY_SECONDS:g} s; the end of {envoy.log}:\n{_tail(envoy.log)}"
                )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(envoy.process.wait()), 0.05)
    raise await envoy.ended()


def _tail(log: Path) -> str:
    text = log.read_bytes()[-LOG_TAIL_BYTES:].decode("utf-8", "replace")
    taken = re.search(r"cannot bind '([^']+)'", text)
    hint = f"\n{taken[1]} is in use: stop what listens there, or choose another address." if taken else ""
    return text + hint
