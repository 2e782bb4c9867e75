"""Reload drill: rules swapped as the kubelet swaps a mounted ConfigMap, under load, through a real Envoy and sidecar.

    python -m bench.reload [--upgrades 100] [--tenants 10000] [--large-upgrades 6]

Phases A B A B of the same length: A sends 200 requests a second, B the same while the mounted folder changes. Each
upgrade moves one tenant's pin to the other version, and the load is that tenant's, so that the first answer of the
other version says when it was live. Latency counts from when a request was due, so a stall that delays sending is in
it. Then the same with a document of 10,000 tenants that have a key each, in parts (a ConfigMap holds 1 MiB).

`failures` is whatever got no whole 200 (must be 0); `p99_ms.upgrading - p99_ms.quiet` must stay under 5. Both figures
are the medians over the phases of their kind. `live_after_ms` is from the moment before the folder is written to the
first answer of the new version, of which a round trip and 5 ms between requests are part. Prints one JSON object.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from tenantry.adapters.ports import free_port
from tenantry.core.apikeys import digest_text, new_key
from tenantry_envoy.binary import find_envoy

from bench.reload_load import Answered, Load, engine
from tools.mounted_volume import write_volume

SEED = 20_261_130
ROOT = Path(__file__).resolve().parent.parent
RATE = 200.0
FEW_TENANTS = 20
PART_TENANTS = 5_000
VERSIONS = ("1.4.0", "1.5.0")
KEY = new_key(SEED.to_bytes(32, "big"))

Files = Mapping[str, bytes]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is done. `pause_s`: between an upgrade that is live and the next."""

    upgrades: int
    pause_s: float


def documents(endpoints: Mapping[str, str], tenants: int) -> tuple[Files, Files]:
    """Return the parts of two documents that differ in one tenant's pin; `tenants` more have a key each."""
    models = {
        "chat-8b": {
            "stable": VERSIONS[0],
            "versions": {version: {"endpoints": [address]} for version, address in endpoints.items()},
        }
    }
    others = {
        f"tenant-{number:05}": {"tier": "gold", "keys": [digest_text(new_key(number.to_bytes(32, "big")))]}
        for number in range(tenants)
    }
    names = list(others)
    parts = {
        f"tenants-{start // PART_TENANTS}.yaml": _yaml(
            {"tenants": {name: others[name] for name in names[start : start + PART_TENANTS]}}
        )
        for start in range(0, tenants, PART_TENANTS)
    }

    def pinned(version: str) -> Files:
        acme = {"tier": "gold", "keys": [digest_text(KEY)], "pins": {"chat-8b": version}}
        rules = {"version": 1, "tiers": {"gold": {}}, "models": models, "tenants": {"acme": acme}}
        return {"rules.yaml": _yaml(rules), **parts}

    return pinned(VERSIONS[0]), pinned(VERSIONS[1])


def _yaml(document: object) -> bytes:
    return yaml.dump(document, Dumper=yaml.CSafeDumper).encode()


@contextlib.asynccontextmanager
async def stack(folder: Path) -> AsyncIterator[str]:
    """Run `tenantry up` on the rules in FOLDER/rules, in processes of its own; yield where clients connect."""
    address, admin, envoy = (f"127.0.0.1:{free_port()}" for _ in range(3))
    command = [sys.executable, "-c", "from tenantry.cli import main; main()", "up", str(folder / "rules"),
               "--listen", address, "--admin", admin, "--envoy-admin", envoy, "--ledger", "off",
               "--state", str(folder / "state")]  # fmt: skip
    log = folder / "up.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output, cwd=ROOT)
    try:
        async with asyncio.timeout(60), aiohttp.ClientSession() as http:
            while True:
                if process.returncode is not None:
                    raise RuntimeError(log.read_text())
                with contextlib.suppress(aiohttp.ClientError):
                    async with http.get(f"http://{address}/v1/models") as answer:
                        if answer.status == 401:
                            break
                await asyncio.sleep(0.05)
        yield address
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@dataclass(frozen=True, kw_only=True)
class Phases:
    """What phases A B A B came to. `live_after_s`: of each upgrade."""

    answered: tuple[Sequence[Answered], ...]
    live_after_s: Sequence[float]

    @property
    def failures(self) -> int:
        """Requests without a whole answer of status 200."""
        return sum(not answer.version for phase in self.answered for answer in phase)

    @property
    def p99_ms(self) -> dict[str, float]:
        """The median over the quiet phases, and over those with upgrades."""
        quiet, upgrading = self.answered[::2], self.answered[1::2]
        return {"quiet": _p99_ms(quiet), "upgrading": _p99_ms(upgrading)}


def _p99_ms(phases: Sequence[Sequence[Answered]]) -> float:
    each = [statistics.quantiles([answer.seconds for answer in phase], n=100)[98] for phase in phases]
    return round(1e3 * statistics.median(each), 2)


async def play(folder: Path, endpoints: Mapping[str, str], tenants: int, plan: Plan) -> Phases:
    """Run the stack on a document with that many tenants, and play A B A B."""
    both = documents(endpoints, tenants)
    rules = folder / "rules"
    folder.mkdir(parents=True, exist_ok=True)
    write_volume(rules, both[0])
    gc.collect()
    gc.freeze()  # what rendered the documents is not looked at again while answers are timed
    live_after, phases = [], []
    async with stack(folder) as address, Load(address=address, key=KEY, rate=RATE).running() as load:
        await load.served_by(VERSIONS[0], 0.0, 60)
        await asyncio.sleep(1.0)  # connections and caches are warm
        turn = 0
        for upgrades in (plan.upgrades // 2, plan.upgrades - plan.upgrades // 2):
            begin = len(load.answered)
            # A quiet phase is as long as one with upgrades that are live at once.
            await asyncio.sleep(max(1.0, upgrades * plan.pause_s))
            phases.append(load.answered[begin:])
            begin = len(load.answered)
            for _ in range(upgrades):
                turn = 1 - turn
                before = time.monotonic()
                await asyncio.to_thread(write_volume, rules, both[turn])
                live_after.append(await load.served_by(VERSIONS[turn], before, 60) - before)
                await asyncio.sleep(plan.pause_s)
            phases.append(load.answered[begin:])
    # Those that the end of the load cut off or found waiting count as well.
    phases[-1] = load.answered[begin:]
    return Phases(answered=tuple(phases), live_after_s=live_after)


async def measure(small: Plan, large: Plan, tenants: int) -> dict[str, Any]:
    """Return the figures of both documents."""
    async with contextlib.AsyncExitStack() as exits:
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="tn-")))
        endpoints = {version: await exits.enter_async_context(engine(version)) for version in VERSIONS}
        few = await play(folder / "few", endpoints, FEW_TENANTS, small)
        many = await play(folder / "many", endpoints, tenants, large)
    live_ms = [1e3 * seconds for seconds in few.live_after_s]
    return {
        "seed": SEED, "requests_per_s": RATE, "upgrades": small.upgrades,
        "requests": sum(map(len, few.answered)) + sum(map(len, many.answered)),
        "failures": few.failures + many.failures, "tenants": FEW_TENANTS, "p99_ms": few.p99_ms,
        "live_after_ms": {"p50": round(statistics.median(live_ms), 1), "max": round(max(live_ms), 1)},
        "large": {
            "tenants": tenants, "upgrades": large.upgrades, "failures": many.failures, "p99_ms": many.p99_ms,
            "reload_seconds": {
                "p50": round(statistics.median(many.live_after_s), 3), "max": round(max(many.live_after_s), 3)
            },
        },
        "cpus": os.cpu_count(), "load": round(os.getloadavg()[0], 1), "versions": versions(),
    }  # fmt: skip


def versions() -> dict[str, str]:
    """Of what was measured."""
    envoy = subprocess.run([find_envoy(None), "--version"], capture_output=True, text=True, check=True).stdout
    return {"envoy": envoy.split("version:")[1].split("/")[1], "python": platform.python_version()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upgrades", type=int, default=100)
    parser.add_argument("--tenants", type=int, default=10_000)
    parser.add_argument("--large-upgrades", type=int, default=6)
    given = parser.parse_args()
    small = Plan(upgrades=given.upgrades, pause_s=0.2)
    large = Plan(upgrades=given.large_upgrades, pause_s=2.0)
    figures = asyncio.run(measure(small, large, given.tenants))
    print(json.dumps(figures))
    sys.exit(1 if figures["failures"] else 0)


if __name__ == "__main__":
    main()
