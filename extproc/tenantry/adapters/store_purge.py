"""A tenant's vectors found and dropped in one store, by the store's own credential."""

import asyncio
import ssl
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import msgspec

from tenantry.adapters.milvus_admin import MilvusAdmin
from tenantry.adapters.rules_file import read_secrets
from tenantry.adapters.unreachable import why
from tenantry.core.errors import TenantryError
from tenantry.core.keyring import STORE
from tenantry.core.rules_stores import Store
from tenantry.core.vector import purge as steps
from tenantry.core.vector.purge import Holding
from tenantry.core.vector.scope import own_namespace

ROUNDS = 5
"""How often what is still there is dropped again: rows appear once their partition is gone, counts may lag."""

PAUSE_SECONDS = 1.0
TIMEOUT = aiohttp.ClientTimeout(total=30)


class Holdings(Protocol):
    """A store as one tenant's holdings."""

    async def find(self) -> Sequence[object]:
        """Return what is there, each with a text; raise TenantryError when that cannot be told."""

    async def drop(self, holding: Any) -> None:
        """Drop one of them."""

    async def aclose(self) -> None:
        """End."""


async def found(holdings: Holdings) -> list[str]:
    """Return what a store holds, in words."""
    async with aclosing(holdings):
        return [str(each) for each in await holdings.find()]


async def purged(holdings: Holdings) -> list[str]:
    """Drop until nothing is found any more; return what was dropped. Raises TenantryError if any is left."""
    dropped: dict[str, None] = {}
    async with aclosing(holdings):
        for number in range(ROUNDS):
            there = await holdings.find()
            if not there:
                return list(dropped)
            if number:
                await asyncio.sleep(PAUSE_SECONDS)
            for each in there:
                await holdings.drop(each)
                dropped[str(each)] = None
        left = await holdings.find()
        if left:
            raise TenantryError(f"still there: {', '.join(map(str, left))}")
        return list(dropped)


def open_holdings(name: str, store: Store, tenant: str, secrets: Path) -> Holdings:
    """Return a tenant's holdings in a store of the rules."""
    secret = read_secrets(secrets).get(f"{STORE}.{name}", b"").strip().decode("ascii", "replace") or None
    if store.kind == "pinecone":
        return PineconeHoldings(store, tenant, secret)
    return MilvusHoldings(store, tenant, secret)


class MilvusHoldings:
    """In a Milvus."""

    def __init__(self, store: Store, tenant: str, secret: str | None) -> None:
        self._store, self._tenant = store, tenant
        self._admin = MilvusAdmin(store, secret)

    async def find(self) -> list[Holding]:
        """See Holdings."""
        return await self._admin.perform(steps.held(self._store, self._tenant))

    async def drop(self, holding: Holding) -> None:
        """See Holdings."""
        await self._admin.perform(steps.drop(holding))

    async def aclose(self) -> None:
        """See Holdings."""
        await self._admin.aclose()


class PineconeHoldings:
    """In a Pinecone index: namespaces."""

    def __init__(self, store: Store, tenant: str, secret: str | None) -> None:
        self._tenant = tenant
        self._base = f"{'https' if store.tls else 'http'}://{store.endpoints[0]}"
        self._ca_file = store.tls.ca_file if store.tls else None
        self._headers = {"content-type": "application/json"} | ({"api-key": secret} if secret else {})

    async def find(self) -> list[str]:
        """See Holdings; namespaces that are empty count as gone."""
        told = await self._ask("/describe_index_stats", {})
        namespaces = told.get("namespaces")
        if not isinstance(namespaces, dict):
            raise TenantryError("the index tells no namespaces")
        return [
            name for name, each in namespaces.items()
            if own_namespace(self._tenant, name) is not None and each.get("vectorCount", 0)
        ]  # fmt: skip

    async def drop(self, holding: str) -> None:
        """See Holdings."""
        await self._ask("/vectors/delete", {"namespace": holding, "deleteAll": True})

    async def aclose(self) -> None:
        """See Holdings."""

    async def _ask(self, path: str, body: object) -> dict[str, Any]:
        context = ssl.create_default_context(cafile=self._ca_file) if self._ca_file else None
        connector = aiohttp.TCPConnector(ssl=context) if context else None
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=TIMEOUT) as http,
                http.post(self._base + path, data=msgspec.json.encode(body), headers=self._headers) as response,
            ):
                raw = await response.read()
                if response.status != 200:
                    raise TenantryError(f"{path}: the store answered {response.status}")
                return msgspec.json.decode(raw, type=dict[str, Any])
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise TenantryError(f"{self._base} does not answer ({why(error)})") from None
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise TenantryError(f"{path}: the store answered what is no JSON") from None
