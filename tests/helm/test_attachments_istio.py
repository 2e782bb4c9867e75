"""Istio: what the chart renders, put into a gateway as Istio would, on a real Envoy in front of the real sidecar."""

import contextlib
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from dataplane.harness import KEYS, Files, rules
from dataplane.processes import sockets
from dataplane.test_backstop import MutableTransport, Mutant, return_instead_of
from dataplane.upstream import Upstream
from dataplane.wire import ask, chat, request
from tenantry.adapters import envoy_process
from tenantry.adapters.bind import Address
from tenantry.adapters.metrics import Metrics
from tenantry.adapters.rules_file import Source
from tenantry.adapters.sidecar import Sidecar
from tenantry_envoy.binary import find_envoy

from helm import meshes

CHART = Path(__file__).resolve().parents[2] / "helm" / "tenantry"
PORT = 8080
CLUSTER = "outbound|50051||tenantry.default.svc.cluster.local"
ATTACHMENT = {
    "kind": "istio",
    "hosts": ["tenantry.test"],
    "sidecar": {"service": "tenantry", "port": 50051},
    "istio": {
        "namespace": "istio-ingress", "selector": {"istio": "ingressgateway"},
        "port": PORT, "credentialName": "tenantry-envoy",
    },
}  # fmt: skip
STORES = {"docs": {"kind": "milvus", "endpoints": ["10.0.0.9:19530"], "isolation": "database"}}


def rendered(folder: Path, document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The resources by kind; the chart holds the attachments alone."""
    chart = folder / "chart"
    if not chart.exists():
        (chart / "templates").mkdir(parents=True)
        (chart / "Chart.yaml").write_text("apiVersion: v2\nname: attachments\nversion: 0.0.1\n")
        shutil.copytree(CHART / "files", chart / "files")
        for path in CHART.glob("templates/*attach*"):
            shutil.copy(path, chart / "templates")
    env = subprocess.run(
        ["python3", str(CHART.parents[1] / "tools" / "env.py"), "helm"], check=True, capture_output=True, text=True
    ).stdout.strip()
    values = json.dumps({"attachment": ATTACHMENT, "rules": document})
    command = [str(Path(env).parent / "helm4"), "template", "r", str(chart), "--values", "-"]
    text = subprocess.run(command, input=values, check=True, capture_output=True, text=True).stdout
    return {resource["kind"]: resource for resource in yaml.safe_load_all(text)}


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """A gateway that runs, and the sidecar's transport, whose answers a test may spoil."""

    address: str
    transport: MutableTransport
    upstream: Upstream
    config: dict[str, Any]


@contextlib.asynccontextmanager
async def running(folder: Path, **edit: Any) -> AsyncIterator[Gateway]:
    files = Files(folder=folder)
    async with Upstream().running() as upstream, contextlib.AsyncExitStack() as exits:
        document = rules(upstream, **edit)
        files.save(document)
        path = str(exits.enter_context(sockets()) / "s")
        source = Source(files.rules, files.secrets)
        transport = MutableTransport(Sidecar(source.build(*source.read()), Metrics()))
        await transport.start(Address(path=path), None)
        exits.push_async_callback(transport.drain, 1.0)
        config = meshes.istio(meshes.gateway(CLUSTER, path), rendered(folder, document)["EnvoyFilter"], PORT)
        (folder / "envoy").mkdir()
        process = await exits.enter_async_context(envoy_process.running(find_envoy(None), config, folder / "envoy", 1))
        yield Gateway(address=await process.listener(), transport=transport, upstream=upstream, config=config)


@pytest.mark.parametrize("edit", [{}, {"stores": STORES}], ids=["models", "stores"])
async def test_filters_stand_in_order_and_envoy_takes_them(tmp_path: Path, edit: dict[str, Any]) -> None:
    async with running(tmp_path, **edit) as gateway:
        manager = gateway.config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
        names = [entry["name"].removeprefix("envoy.filters.http.") for entry in manager["http_filters"]]
        guard = ["tenantry.store_unmark", "custom_response"] if edit else []
        assert names == ["cors", *guard, "ext_proc", "rbac", "router"]
        assert (await ask(gateway.address, chat(KEYS["acme"]))).status == 200


async def test_it_decides_and_strips_what_clients_forge(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        forged = [("x-tenantry-tenant", "globex"), ("x-vllm-priority", "0"), ("x-request-id", "mine")]
        answer = await ask(gateway.address, chat(KEYS["acme"], headers=forged))
        assert (answer.status, answer.request_id != "mine") == (200, True)
        (seen,) = gateway.upstream.seen
        assert ("x-tenantry-tenant", "globex") not in seen.headers
        assert {"x-vllm-priority", "x-tenantry-cluster", "x-tenantry-route"}.isdisjoint(dict(seen.headers))
        assert (await ask(gateway.address, chat("tk_unknown"))).status == 401
        assert (
            await ask(gateway.address, request("/v1%2fchat/completions", key=KEYS["acme"], body=b"{}"))
        ).status == 400
        assert (await ask(gateway.address, chat(KEYS["acme"], headers=[]), 20)).status == 200


@pytest.mark.parametrize(
    "mutant", [return_instead_of("read"), return_instead_of("write"), return_instead_of("write", 2)]
)
async def test_a_stream_that_ends_cleanly_passes_nothing(tmp_path: Path, mutant: Mutant) -> None:
    async with running(tmp_path) as gateway:
        gateway.transport.mutant = mutant
        assert (await ask(gateway.address, chat(KEYS["acme"]))).status == 403
        assert not gateway.upstream.seen


async def test_without_the_sidecar_nothing_passes(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        await gateway.transport.drain(0.1)
        assert (await ask(gateway.address, chat(KEYS["acme"]))).status == 503
        assert not gateway.upstream.seen
