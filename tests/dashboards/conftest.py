"""A real Prometheus beside a real run of the demo: what it scraped is what dashboards, rules and alerts are asked of.

Everything runs: sidecar, ledger, Envoy, seven stand-in engines with the plugin's delivery, two rollouts of which one is
taken back, an edit of the rules, a quota that is spent, and retrieval where its environments can be had. Prometheus
goes on when the run has ended; queries are about the time before.
"""

import asyncio
import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from msgspec import Struct
from tenantry_testing.prometheus_server import Job, Prometheus, prometheus

from demo.play import Play
from demo.retrieval_stack import Environments, NoEnvironmentError, environments
from demo.scenario import stand_in
from demo.stack import Stack, running

ROOT = Path(__file__).resolve().parents[2]
RULES = [path for name in ("rules.yaml", "alerts.yaml") if (path := ROOT / "dashboards" / name).exists()]
CLUSTER = "demo"
PLAY_S = 45.0


class Scraped(Struct, frozen=True, kw_only=True):
    """What was scraped from `begin_s` to `end_s` (Unix seconds). `no_retrieval` says why it did not run, if so."""

    prometheus: Prometheus
    begin_s: float
    end_s: float
    no_retrieval: str


@pytest.fixture(scope="session")
def scraped(tmp_path_factory: pytest.TempPathFactory, figure: dict[str, Any]) -> Iterator[Scraped]:
    if shutil.which("prometheus") is None:
        pytest.skip("no Prometheus: `python3 tools/services.py prometheus` says why")
    folder = tmp_path_factory.mktemp("demo")
    with contextlib.ExitStack() as stack:
        result = asyncio.run(_played(folder, stack))
        figure["versions.prometheus"] = result.prometheus.version()
        figure["run_seconds"] = round(result.end_s - result.begin_s)
        yield result


async def _played(folder: Path, lives: contextlib.ExitStack) -> Scraped:
    """Play the demo under a Prometheus that outlives it."""
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
        begin_s = time.time()
        end_s = begin_s + PLAY_S
        await Play(scenario, stack, http).run(end_s, lambda _: None)
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
