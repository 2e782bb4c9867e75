"""Envoy's clusters from the sidecar's side: written as a CDS file, and asked for before use.

A version is routed to only once every Envoy has its cluster; otherwise its first requests would
meet 503 "no cluster". So a reload writes the union of old and new clusters, waits until each Envoy
reports the new ones as active, goes live, and takes the old ones out a while later.
"""

import asyncio
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import aiohttp

from tenantry.core.errors import TenantryError
from tenantry.core.routing import cluster_names
from tenantry.core.rules import Rules

ADMIN_TIMEOUT = aiohttp.ClientTimeout(total=2)
POLL_SECONDS = 0.05


class ClustersNotReadyError(TenantryError):
    """An Envoy did not report the clusters of a new document in time."""


class EnvoyClusters:
    """Publishes clusters to a CDS file and asks Envoys' admin ports (`http://host:port`) for them.

    `render` turns rules documents into a CDS DiscoveryResponse (tenantry_envoy.clusters). Without a
    file nothing is published (the mesh brings the clusters); without admin ports nothing is awaited.
    """

    def __init__(self, cds: Path | None, admins: Iterable[str], render: Callable[..., dict[str, Any]]) -> None:
        self._cds = cds
        self._admins = tuple(admins)
        self._render = render

    def publish(self, *documents: Rules) -> None:
        """Write the clusters of all these documents; atomic, as Envoy watches for the rename."""
        if self._cds is None:
            return
        text = json.dumps(self._render(*documents), indent=1)
        temporary = self._cds.with_name(f".{self._cds.name}.{os.getpid()}")
        temporary.write_text(text)
        temporary.replace(self._cds)

    async def wait_for(self, rules: Rules, timeout_seconds: float) -> None:
        """Return once every Envoy has every cluster of `rules`; raise ClustersNotReadyError otherwise."""
        wanted = cluster_names(rules)
        missing, admin = wanted, ""
        try:
            async with asyncio.timeout(timeout_seconds), aiohttp.ClientSession(timeout=ADMIN_TIMEOUT) as http:
                for admin in self._admins:
                    while missing := wanted - await _active(http, admin):
                        await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            names = ", ".join(sorted(missing)[:5])
            raise ClustersNotReadyError(
                f"Envoy at {admin} has no cluster {names} after {timeout_seconds:g} s; see its log for a refused update"
            ) from None


async def _active(http: aiohttp.ClientSession, admin: str) -> set[str]:
    """Return the names of an Envoy's active dynamic clusters; empty while it cannot be reached."""
    try:
        async with http.get(
            f"{admin}/config_dump", params={"resource": "dynamic_active_clusters", "mask": "cluster.name"}
        ) as response:
            document = await response.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return set()
    return {entry["cluster"]["name"] for entry in document.get("configs", []) if "cluster" in entry}
