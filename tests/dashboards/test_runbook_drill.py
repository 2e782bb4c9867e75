"""Runbooks tried: alerts are provoked on a running stack, a real Prometheus fires them, and the first command of each
one's page shows the cause.

The windows of the rules are shortened to seconds, as nobody waits an hour here; all else is as it ships.
"""

import asyncio
import contextlib
import os
import re
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import structlog
from dataplane.harness import KEYS, Files, Json, rules
from dataplane.upstream import Upstream
from dataplane.wire import ask, chat
from tenantry.adapters import logs
from tenantry.adapters.bind import Address
from tenantry.adapters.ports import free_port
from tenantry.core.usage import Batch, EngineSpan
from tenantry.up import Up, UpOptions, running
from tenantry_testing.prometheus_server import Job, Prometheus, prometheus

ROOT = Path(__file__).resolve().parents[2]
WINDOW = "8s"
FIRES_S = 30.0
HERE = Address(host="127.0.0.1", port=0)

NOT_PROVOKED = {
    "TenantryStateStoreDown", "TenantryQuotaNotShared", "TenantryQuotaNearlySpent",  # need a store that breaks
    "TenantryForeignRow", "TenantryStoreUnsafe", "TenantryStoreRefusals",  # need a vector store, as tests/stores have
    "TenantrySpoolBehind", "TenantrySpoolDiskTrouble", "TenantryUsageLost", "TenantryMeteringFaults",  # need an engine
    "TenantryUsageNotDelivered", "TenantryExportStuck", "TenantryRolloutHeld",  # need minutes
}  # fmt: skip
"""Played by promtool alone."""

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="no Prometheus: `python3 tools/services.py prometheus` says why"
)


@dataclass(kw_only=True)
class Drill:
    """The stack, Prometheus, and the variables that runbooks name."""

    up: Up
    files: Files
    upstream: Upstream
    document: Json
    prometheus: Prometheus
    variables: dict[str, str]

    async def fires(self, alert: str) -> None:
        """Wait until an alert fires."""
        deadline_s = time.monotonic() + FIRES_S
        while time.monotonic() < deadline_s:
            found = await asyncio.to_thread(
                self.prometheus.instant, f'ALERTS{{alertname="{alert}",alertstate="firing"}}', time.time()
            )
            if found:
                return
            await asyncio.sleep(0.5)
        pytest.fail(f"{alert} does not fire")

    async def first_command(self, alert: str) -> str:
        """Run the first command of an alert's runbook; return what it prints."""
        name = re.sub(r"(?<!^)(?=[A-Z])", "-", alert).lower()
        page = (ROOT / "docs" / "runbooks" / f"{name}.md").read_text()
        command = next(line.strip() for line in page.splitlines() if line.startswith("    "))
        environment = {**os.environ, **self.variables, "PATH": f"{ROOT / '.venv/bin'}:{os.environ['PATH']}"}
        process = await asyncio.create_subprocess_exec(
            "bash", "-c", command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=environment
        )
        async with asyncio.timeout(20):
            output, _ = await process.communicate()
        return output.decode()

    async def command(self, *arguments: str) -> None:
        """Run a `tenantry` command."""
        process = await asyncio.create_subprocess_exec(str(ROOT / ".venv/bin/tenantry"), *arguments)
        assert await process.wait() == 0

    async def requests(self, count: int, **body: Any) -> list[int]:
        """Send chat requests of acme; return their statuses."""
        address = self.up.base_url.partition("://")[2]
        return [(await ask(address, chat(KEYS["acme"], **body))).status for _ in range(count)]

    async def spans(self, version: str) -> None:
        """Post what an engine says of itself."""
        assert self.up.ledger is not None
        now_s = time.time()
        records = (
            EngineSpan(
                engine=f"gpu-{version}", model="chat-8b", version=version, gpus=2, part=int(now_s * 10) % 10**9,
                ended_s=now_s, wall_ns=10**9, busy_gpu_ns=10**9,
            ),
        )  # fmt: skip
        token = (self.files.secrets / "usage-token").read_text().strip()
        async with (
            aiohttp.ClientSession() as http,
            http.post(
                f"http://{self.up.ledger.listen}/records", data=msgspec.json.encode(Batch(records=records)),
                headers={"authorization": f"Bearer {token}"},
            ) as response,
        ):  # fmt: skip
            assert response.status == 200


def shortened(text: str) -> str:
    """Return rules whose windows are seconds and that fire at once; thresholds and labels stay."""
    text = re.sub(r"\[\d+[mhd]\]", f"[{WINDOW}]", text)
    text = re.sub(r"offset \d+[mhd]", f"offset {WINDOW}", text)
    return re.sub(r"for: \d+[mhd]", "for: 0s", text)


def document(upstream: Upstream) -> Json:
    """Rules in which three of four tenants may have a label, gold was promised something, and 1.3.0 is for nobody."""
    made = rules(upstream, metrics={"maxTenants": 4})
    made["tiers"]["gold"]["sla"] = {"availability": 0.999}
    made["models"]["chat-8b"]["versions"]["1.3.0"] = {"endpoints": [upstream.endpoint]}
    made["models"]["chat-8b"]["rollout"] |= {"percent": 50, "records": {"seconds": 0.2}}
    return made


@pytest.fixture(scope="module")
def short_rules(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("rules")
    for name in ("rules.yaml", "alerts.yaml"):
        (folder / name).write_text(shortened((ROOT / "dashboards" / name).read_text()))
    return [folder / "rules.yaml", folder / "alerts.yaml"]


@contextlib.asynccontextmanager
async def logged(path: Path) -> AsyncIterator[None]:
    """Log to a file inside the block: the demo, played before in this process, logged to one that is closed now."""
    with path.open("w") as file:
        logs.configure(file)
        try:
            yield
        finally:
            structlog.reset_defaults()


@contextlib.asynccontextmanager
async def drill(folder: Path, short_rules: list[Path]) -> AsyncIterator[Drill]:
    files, gone = Files(folder=folder), f"127.0.0.1:{free_port()}"
    async with Upstream().running() as upstream, logged(folder / "sidecar.log"):
        files.save(made := document(upstream))
        options = UpOptions(
            rules=files.rules, listen=HERE, admin=HERE, envoy_admin=HERE, ledger=HERE, state=folder / "state",
            secrets=files.secrets,
        )  # fmt: skip
        async with running(options) as up:
            assert up.ledger is not None
            admin, ledger, envoy = str(up.sidecar.admin), str(up.ledger.listen), up.envoy.admin.removeprefix("http://")
            jobs = {
                # Of each there is another one that has gone.
                "tenantry-sidecar": Job(targets=(admin, gone)),
                "tenantry-ledger": Job(targets=(ledger, gone)),
                "tenantry-envoy": Job(targets=(envoy,), path="/stats/prometheus"),
            }
            with prometheus(folder / "prometheus", jobs, short_rules, cluster="drill") as server:
                variables = {
                    "PROMETHEUS": server._url, "SIDECAR": admin, "TELEMETRY": admin, "LEDGER": ledger, "ENVOY": envoy,
                    "SECRETS": str(files.secrets), "RULES": str(files.rules), "MODEL": "chat-8b", "TENANT": "acme",
                }  # fmt: skip
                yield Drill(
                    up=up, files=files, upstream=upstream, document=made, prometheus=server, variables=variables
                )


@contextlib.asynccontextmanager
async def engines(here: Drill) -> AsyncIterator[None]:
    """Two engines tell each second that they are busy, one of a version that nobody gets, one of none that is written
    down. And acme goes on asking.
    """

    async def tell() -> None:
        while True:
            await asyncio.gather(here.spans("1.3.0"), here.spans("9.9.9"), here.requests(5), asyncio.sleep(1))

    telling = asyncio.create_task(tell())
    try:
        yield
    finally:
        telling.cancel()


async def test_each_runbooks_first_command_shows_the_cause(tmp_path: Path, short_rules: list[Path]) -> None:
    async with drill(tmp_path, short_rules) as here, engines(here):
        told: set[str] = set()

        async def shows(alert: str, *causes: str) -> None:
            await here.fires(alert)
            output = await here.first_command(alert)
            for cause in causes:
                assert cause in output, f"{alert}: {output}"
            told.add(alert)

        # A replica and a ledger have gone, and four tenants are as many as may have a label.
        healthy = await here.first_command("TenantryRulesRefused")
        assert '"state": "live"' in healthy
        here.variables["TELEMETRY"] = here.variables["GONE"] = "127.0.0.1:1"
        await shows("TenantrySidecarDown", "exit 7")
        here.variables["TELEMETRY"] = here.variables["SIDECAR"]
        ledger, here.variables["LEDGER"] = here.variables["LEDGER"], "127.0.0.1:1"
        await shows("TenantryLedgerAway", "exit 7")
        here.variables["LEDGER"] = ledger
        await shows("TenantryCardinalityNearBound", 'label="tenant"', "=> 1 ")

        # Requests of a rollout whose engines post no records, while a version fails.
        assert set(await here.requests(40)) == {200}
        await shows("TenantryGuardBlind", 'record="no"')
        here.upstream.scripts["broken"] = lambda _seen: [b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n"]
        assert set(await here.requests(40, script="broken")) == {500}
        await asyncio.gather(shows("TenantrySlaFastBurn", 'code="500"'), here.requests(40, script="broken"))
        told.add("TenantrySlaSlowBurn")
        await here.fires("TenantrySlaSlowBurn")

        # Engines that run what nobody wants, or what nobody wrote down; and whose busy time is in no request's charge.
        await shows("TenantryVersionUnused", 'version="1.3.0"', "=> 2 ")
        await shows("TenantryVersionDrift", 'version="9.9.9"')
        await shows("TenantryLedgerDrift", '"attributed_gpu_ns":0', '"version":"1.3.0"')

        # An operator's word, and rules that nobody can serve by.
        reach = ("--admin", here.variables["SIDECAR"], "--secrets", here.variables["SECRETS"])
        await here.command("rollout", "revert", "chat-8b", "--all", "--why", "the drill", *reach)
        await shows("TenantryRolloutReverted", "reverted", "the drill")
        here.files.save({**here.document, "defaultTier": "platinum"})
        await shows("TenantryRulesRefused", "refused", "no tier is called", "platinum")

        # A bug in the sidecar: streams end with an error, and Envoy refuses the requests.
        await failing_closed(here, shows)
        assert told | NOT_PROVOKED == alerts()


async def failing_closed(here: Drill, shows: Callable[..., Awaitable[None]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tenantry.adapters.sidecar.Exchange.answer", _bug)
        statuses = await here.requests(60)
        assert set(statuses) == {503}
        await asyncio.gather(shows("TenantryFailingClosed", "streams_failed"), here.requests(60))
    await shows("TenantryInternalErrors", 'kind="bug"')


def _bug(*_arguments: object) -> bytes:
    raise RuntimeError("the drill")


def alerts() -> set[str]:
    return set(re.findall(r"alert: (\w+)", (ROOT / "dashboards" / "alerts.yaml").read_text()))
