"""The demo played under a real Prometheus that scrapes every part of it and outlives it.

Everything runs: sidecar, ledger, Envoy, seven stand-in engines with the plugin's delivery, two rollouts of which one is
taken back, an edit of the rules, a quota that is spent, and retrieval where its environments can be had.
"""

import asyncio
import contextlib
import time
from pathlib import Path

import aiohttp
from msgspec import Struct
from msgspec.structs import replace

from demo.play import Play
from demo.retrieval_stack import Environments, NoEnvironmentError, environments
from demo.scenario import stand_in
from demo.stack import Stack, running
from tenantry_testing.prometheus_server import Job, Prometheus, prometheus

ROOT = Path(__file__).resolve().parents[2]
RULES = [path for name in ("rules.yaml", "alerts.yaml") if (path := ROOT / "dashboards" / name).exists()]
CLUSTER = "demo"
PLAY_S = 45.0
LAST_SCRAPES_S = 2.5


class Scraped(Struct, frozen=True, kw_only=True):
    """What was scraped from `begin_s` to `end_s` (Unix seconds). `no_retrieval` says why it did not run, if so."""

    prometheus: Prometheus
    begin_s: float
    end_s: float
    no_retrieval: str


async def played(folder: Path, lives: contextlib.ExitStack) -> Scraped:
    """Play the demo under a Prometheus, which runs until `lives` is closed; files go to `folder`."""
    retrieval: Environments | str
    try:
        retrieval = await environments()
    except NoEnvironmentError as error:
        retrieval = str(error)
    scenario = stand_in()
    async with running(scenario, folder, lambda _: None, retrieval) as stack, aiohttp.ClientSession() as http:
        server = await asyncio.to_thread(
            lives.enter_context, prometheus(folder / "prometheus", _jobs(stack), RULES, cluster=CLUSTER)
        )
        begin_s = end_s = time.time()

        async def stop_engines() -> None:
            """Let what came last be scraped: on a busy machine attacks on the store go on after the play's end."""
            nonlocal end_s
            await asyncio.sleep(LAST_SCRAPES_S)
            end_s = time.time()
            await stack.stop_engines()

        play = Play(scenario, replace(stack, stop_engines=stop_engines), http)
        await play.run(begin_s + PLAY_S, lambda _: None)
    no_retrieval = retrieval if isinstance(retrieval, str) else ""
    return Scraped(prometheus=server, begin_s=begin_s, end_s=end_s, no_retrieval=no_retrieval)


def _jobs(stack: Stack) -> dict[str, Job]:
    """Name the jobs as the chart's monitors do."""
    engines = tuple(engine.endpoint for engine in (*stack.engines, *stack.rollout_engines))
    return {
        "tenantry-sidecar": Job(targets=(stack.admin,)),
        "tenantry-ledger": Job(targets=(stack.ledger,)),
        "tenantry-engine": Job(targets=engines),
        "tenantry-envoy": Job(targets=(stack.up.envoy.admin.removeprefix("http://"),), path="/stats/prometheus"),
    }
