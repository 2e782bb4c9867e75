"""Prometheus reaches Envoy's statistics, and nobody reaches the rest of Envoy's admin page with them."""

import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families
from tenantry.adapters.ports import free_port

from dataplane.harness import Files, envoy, rules
from dataplane.upstream import Upstream
from dataplane.wire import Connection, ask, request

STATS = "/stats/prometheus"


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """One Envoy's listeners, each `host:port`."""

    stats: str
    admin: str


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def addresses(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Addresses]:
    files = Files(folder=tmp_path_factory.mktemp("stats"))
    stats, admin = free_port(), free_port()
    async with Upstream().running() as upstream:
        files.save(rules(upstream))
        options = {"stats_host": "127.0.0.1", "stats_port": stats, "admin_port": admin}
        async with envoy(files, ("127.0.0.1:1",), **options) as (_clients, found):
            yield Addresses(stats=f"127.0.0.1:{stats}", admin=found)


async def test_prometheus_can_read_it(addresses: Addresses) -> None:
    answer = await ask(addresses.stats, request(STATS, method="GET"))
    assert answer.status == 200
    families = {family.name for family in text_string_to_metric_families(answer.body.decode())}
    assert {"envoy_server_live", "envoy_http_downstream_rq", "envoy_cluster_upstream_rq"} <= families


FORBIDDEN = (
    *("/", "/quitquitquit", "/config_dump", "/certs", "/clusters", "/logging", "/stats", "/stats?format=prometheus"),
    *("/reset_counters", "/ready", "/server_info", "/healthcheck/fail", "/drain_listeners"),
)
"""Pages of the admin listener, the worst among them."""

TRICKS = (
    *("/stats/prometheus/", "//stats/prometheus", "/./stats/prometheus", "/stats/../stats/prometheus"),
    *("/stats/prometheus/../../config_dump", "/stats/prometheus/..%2f..%2fconfig_dump", "/stats/%70rometheus"),
    *("/stats%2fprometheus", "/STATS/prometheus", "/stats/prometheus?usedonly", "/stats/prometheus;/config_dump"),
    *("/stats/prometheus?/../../quitquitquit", "/stats/prometheus%00", "/stats/prometheus#/config_dump"),
    "/config_dump?x=/stats/prometheus",
)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("target", [*FORBIDDEN, *TRICKS])
async def test_nothing_else_is_there(addresses: Addresses, target: str, method: str) -> None:
    answer = await ask(addresses.stats, request(target, method=method, body=b"" if method == "POST" else None))
    assert (answer.status, answer.body) == (400 if "#" in target else 404, b""), "a fragment is no HTTP"


@pytest.mark.parametrize("method", ["POST", "HEAD", "PUT", "DELETE", "OPTIONS", "get"])
async def test_and_only_get(addresses: Addresses, method: str) -> None:
    answer = await ask(addresses.stats, request(STATS, method=method, body=b""))
    assert answer.status in (404, 400), "no method that Envoy's parser knows is 404"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GET http://127.0.0.1/config_dump HTTP/1.1\r\nHost: x\r\n\r\n", id="absolute form"),
        pytest.param(b"CONNECT 127.0.0.1:9901 HTTP/1.1\r\nHost: 127.0.0.1:9901\r\n\r\n", id="CONNECT"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2"),
        pytest.param(
            b"GET /stats/prometheus HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            id="upgrade",
        ),
        pytest.param(
            b"GET /quitquitquit HTTP/1.1\r\nHost: x\r\nx-envoy-original-path: /stats/prometheus\r\n\r\n",
            id="original path",
        ),
        pytest.param(
            b"GET /config_dump HTTP/1.1\r\nHost: x\r\nx-original-url: /stats/prometheus\r\n\r\n", id="original url"
        ),
    ],
)  # fmt: skip
async def test_nor_in_another_form(addresses: Addresses, data: bytes) -> None:
    async with await Connection.open(addresses.stats) as connection:
        await connection.send(data)
        answer = await connection.response()
    assert answer.status in (400, 403, 404, 426, 0)
    assert b"envoy_" not in answer.body
    assert b"configs" not in answer.body


async def test_a_second_request_hidden_in_a_body_is_no_way_in(addresses: Addresses) -> None:
    """GET with a body: what follows the body is a request of its own, judged like any other."""
    hidden = b"GET /config_dump HTTP/1.1\r\nHost: x\r\n\r\n"
    async with await Connection.open(addresses.stats) as connection:
        first = await connection.ask(request(STATS, method="GET", body=hidden))
        assert b"configs" not in first.body
        second = await connection.ask(request(STATS, method="GET"))
        assert b"configs" not in second.body
    assert {first.status, second.status} == {200}


async def test_envoy_lives_and_its_admin_page_was_asked_for_statistics_alone(addresses: Addresses) -> None:
    """The control: on the admin listener itself the same page exists."""
    assert (await ask(addresses.admin, request("/config_dump", method="GET"))).status == 200
    text = (await ask(addresses.admin, request(STATS, method="GET"))).body.decode()
    samples = [
        sample
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("envoy_cluster_name") == "tenantry_stats"
    ]
    (asked,) = (sample.value for sample in samples if sample.name == "envoy_cluster_upstream_rq_completed_total")
    codes = {s.labels["envoy_response_code"]: s.value for s in samples if "envoy_response_code" in s.labels}
    assert codes == {"200": asked}, "no question got another answer than the statistics"


async def test_who_holds_connections_meets_a_bound(addresses: Addresses) -> None:
    async with contextlib.AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(await Connection.open(addresses.stats)) for _ in range(20)]
        for connection in opened:
            with contextlib.suppress(ConnectionError):
                await connection.send(request(STATS, method="GET"))
        statuses = []
        for connection in opened:
            try:
                statuses.append((await connection.response()).status)
            except ConnectionError:
                statuses.append(0)
    assert statuses.count(0) == 4, "16 connections; more are closed"


async def test_the_command_writes_such_a_bootstrap(tmp_path: Path) -> None:
    path = tmp_path / "rules.json"
    models = {"m": {"stable": "1", "versions": {"1": {"endpoints": ["127.0.0.1:1"]}}}}
    path.write_text(json.dumps({"version": 1, "tiers": {"t": {}}, "defaultTier": "t", "models": models}))

    def listeners(*options: str) -> list[str]:
        command = [str(Path(sys.executable).parent / "tenantry"), "envoy", str(path), *options]
        document = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        return [entry["name"] for entry in document["static_resources"]["listeners"]]

    assert listeners() == ["clients", "tenantry_mirror"]
    assert listeners("--stats", "0.0.0.0:9902") == ["clients", "tenantry_mirror", "tenantry_stats"]
