"""A gateway on a real Envoy: rendered by the chart, composed by a stand-in for the mesh, the real sidecar behind it."""

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataplane.harness import Files, rules
from dataplane.processes import sockets
from dataplane.test_backstop import MutableTransport
from dataplane.upstream import Upstream
from tenantry.adapters import envoy_process
from tenantry.adapters.bind import Address
from tenantry.adapters.metrics import Metrics
from tenantry.adapters.rules_file import Source
from tenantry.adapters.sidecar import Sidecar
from tenantry_envoy.binary import find_envoy

from helm.helm import DEPLOYMENT, VALUES, merged, render

STORES = {"docs": {"kind": "milvus", "endpoints": ["10.0.0.9:19530"], "isolation": "database"}}

Compose = Callable[[str, dict[str, dict[str, Any]]], dict[str, Any]]
"""From the sidecar's socket and the resources by kind to a bootstrap."""


def rendered(attachment: dict[str, Any], document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The chart's resources by kind; of the mesh's there is one of each."""
    values = merged(merged(VALUES, DEPLOYMENT), {"sidecar": {"replicas": 1}})
    return {each["kind"]: each for each in render({**values, "attachment": attachment, "rules": document})}


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """A gateway that runs, and the sidecar's transport, whose answers a test may spoil."""

    address: str
    transport: MutableTransport
    upstream: Upstream
    config: dict[str, Any]


@contextlib.asynccontextmanager
async def running(folder: Path, attachment: dict[str, Any], compose: Compose, **edit: Any) -> AsyncIterator[Gateway]:
    files = Files(folder=folder)
    async with Upstream().running() as upstream, contextlib.AsyncExitStack() as exits:
        document = rules(upstream, **edit)
        files.save(document)
        path = str(exits.enter_context(sockets()) / "s")
        source = Source(files.rules, files.secrets)
        transport = MutableTransport(Sidecar(source.build(*source.read()), Metrics()))
        await transport.start(Address(path=path), None)
        exits.push_async_callback(transport.drain, 1.0)
        config = compose(path, rendered(attachment, document))
        (folder / "envoy").mkdir()
        process = await exits.enter_async_context(envoy_process.running(find_envoy(None), config, folder / "envoy", 1))
        yield Gateway(address=await process.listener(), transport=transport, upstream=upstream, config=config)
