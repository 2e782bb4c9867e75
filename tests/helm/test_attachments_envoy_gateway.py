"""Envoy Gateway: what the chart renders, composed as it would, on a real Envoy in front of the real sidecar."""

from pathlib import Path
from typing import Any

import pytest
from dataplane.harness import KEYS
from dataplane.test_backstop import Mutant, return_instead_of
from dataplane.wire import ask, chat, request

from helm import meshes
from helm.attached import STORES, running

CLUSTER = "envoyextensionpolicy/default/t-tenantry/extproc/0"
LISTENER = "default/eg/tenantry"
ATTACHMENT = {
    "kind": "envoyGateway",
    "hosts": ["tenantry.test"],
    "sidecar": {"service": "tenantry", "port": 50051},
    "envoyGateway": {
        "gateway": "eg", "section": "tenantry", "xdsListener": LISTENER, "xdsRoutes": LISTENER,
        "caConfigMap": "tenantry-ca",
    },
}  # fmt: skip


def compose(socket: str, resources: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return meshes.envoy_gateway(meshes.gateway(CLUSTER, socket), resources, CLUSTER, LISTENER)


@pytest.mark.parametrize("edit", [{}, {"stores": STORES}], ids=["models", "stores"])
async def test_filters_stand_in_order_and_envoy_takes_them(tmp_path: Path, edit: dict[str, Any]) -> None:
    async with running(tmp_path, ATTACHMENT, compose, **edit) as gateway:
        manager = gateway.config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
        names = [entry["name"].removeprefix("envoy.filters.http.") for entry in manager["http_filters"]]
        guard = ["tenantry.store_unmark", "custom_response"] if edit else []
        names = [name.partition("/")[0] for name in names]
        assert names == ["cors", *guard, "ext_proc", "rbac", "router"]
        assert (await ask(gateway.address, chat(KEYS["acme"]))).status == 200


async def test_it_decides_and_strips_what_clients_forge(tmp_path: Path) -> None:
    async with running(tmp_path, ATTACHMENT, compose) as gateway:
        forged = [("x-tenantry-tenant", "globex"), ("x-vllm-priority", "0"), ("x-request-id", "mine")]
        answer = await ask(gateway.address, chat(KEYS["acme"], headers=forged))
        assert (answer.status, answer.request_id != "mine") == (200, True)
        (seen,) = gateway.upstream.seen
        headers = {name.decode().lower(): value.decode() for name, value in seen.headers}
        assert headers["x-tenantry-tenant"] == "acme"
        assert headers["x-request-id"] == f"acme:{answer.request_id}"
        assert {"x-vllm-priority", "x-tenantry-cluster", "x-tenantry-route"}.isdisjoint(headers)
        assert (await ask(gateway.address, chat("tk_unknown"))).status == 401
        assert (
            await ask(gateway.address, request("/v1%2fchat/completions", key=KEYS["acme"], body=b"{}"))
        ).status == 400


@pytest.mark.parametrize(
    "mutant", [return_instead_of("read"), return_instead_of("write"), return_instead_of("write", 2)]
)
async def test_a_stream_that_ends_cleanly_passes_nothing(tmp_path: Path, mutant: Mutant) -> None:
    async with running(tmp_path, ATTACHMENT, compose) as gateway:
        gateway.transport.mutant = mutant
        assert (await ask(gateway.address, chat(KEYS["acme"]))).status == 403
        assert not gateway.upstream.seen


async def test_without_the_sidecar_nothing_passes(tmp_path: Path) -> None:
    async with running(tmp_path, ATTACHMENT, compose) as gateway:
        await gateway.transport.drain(0.1)
        assert (await ask(gateway.address, chat(KEYS["acme"]))).status == 503
        assert not gateway.upstream.seen
