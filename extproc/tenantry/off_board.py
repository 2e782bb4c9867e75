"""The steps of `tenantry tenant purge`. Each can be done again, and says whether anything was left to do."""

import asyncio
import time
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from msgspec import Struct

from tenantry.adapters import store_purge
from tenantry.adapters.admin_client import AdminClient
from tenantry.adapters.rules_edit import close_tenant, is_only_closed
from tenantry.adapters.rules_file import load
from tenantry.core.errors import TenantryError
from tenantry.core.rules import TenantRules

POLL_SECONDS = 0.5
SETTLE_SECONDS = 5.0
"""Requests that were let in before the tenant was closed may still be on their way to a store."""

Result = Literal["would do", "done", "already done", "kept", "failed", "not begun"]


class Step(Struct, frozen=True, kw_only=True):
    """What became of one step of a purge."""

    what: str
    result: Result
    note: str = ""


class Purge:
    """The steps, in their order: closed before anything is dropped, so that nothing is written behind it."""

    def __init__(self, name: str, rules: Path, admin: tuple[str, ...], secrets: Path) -> None:
        self._name, self._document, self._rules, self._secrets = name, load(rules), rules, secrets
        self._entry = self._document.tenants.get(name, TenantRules())
        self._admins = {each: AdminClient(each, secrets) for each in admin}

    async def plan(self) -> list[Step]:
        """Look at what there is, change nothing."""
        is_closed = is_only_closed(self._document.tenants.get(self._name))
        steps = [Step(what="close", result="already done" if is_closed else "would do", note=self._closes())]
        for address, client in self._admins.items():
            steps.append(await self._looked(f"wait for {address}", client))
        for store in self._document.stores:
            try:
                there = await store_purge.found(self._holdings(store))
            except TenantryError as error:
                steps.append(Step(what=f"drop from {store}", result="failed", note=str(error)))
            else:
                steps.append(
                    Step(what=f"drop from {store}", result="would do" if there else "already done", note=_listed(there))
                )
        steps += [Step(what=f"forget at {address}", result="would do", note=_FORGOTTEN) for address in self._admins]
        return [*steps, *self._kept()]

    async def run(self, wait_seconds: float) -> list[Step]:
        """Do it."""
        closes = self._closes()
        changed = close_tenant(self._rules, self._name)
        steps = [Step(what="close", result="done" if changed else "already done", note=closes)]
        waits = await asyncio.gather(
            *(self._live(address, client, wait_seconds) for address, client in self._admins.items())
        )
        steps += waits
        rest = [f"drop from {store}" for store in self._document.stores]
        rest += [f"forget at {address}" for address in self._admins]
        if any(step.result == "failed" for step in waits):
            return [*steps, *(Step(what=what, result="not begun") for what in rest), *self._kept()]
        if any(step.result == "done" for step in waits):
            await asyncio.sleep(SETTLE_SECONDS)
        for store in self._document.stores:
            steps.append(await self._dropped(store))
        for address, client in self._admins.items():
            steps.append(await self._forgotten(address, client))
        return [*steps, *self._kept()]

    def _closes(self) -> str:
        keys = len(self._entry.keys)
        parts = [f"{keys} keys revoked"] if keys else []
        if self._entry.adapters:
            names = ", ".join(sorted(set(self._entry.adapters.values())))
            parts.append(f"adapters {names} taken from the rules (engines that loaded them keep them until told)")
        return "; ".join((*parts, f"tenants.{self._name}.closed: true in {self._rules}"))

    async def _looked(self, what: str, client: AdminClient) -> Step:
        try:
            live = await self._is_live(client)
        except TenantryError as error:
            return Step(what=what, result="failed", note=str(error))
        return Step(what=what, result="already done" if live else "would do")

    async def _live(self, address: str, client: AdminClient, wait_seconds: float) -> Step:
        what, until = f"wait for {address}", time.monotonic() + wait_seconds
        try:
            if await self._is_live(client):
                return Step(what=what, result="already done", note="it refuses the tenant")
            while time.monotonic() < until:
                await asyncio.sleep(POLL_SECONDS)
                if await self._is_live(client):
                    return Step(what=what, result="done", note="it refuses the tenant")
        except TenantryError as error:
            return Step(what=what, result="failed", note=str(error))
        note = f"it does not have the document after {wait_seconds:g} s; deploy {self._rules}"
        return Step(what=what, result="failed", note=note)

    async def _is_live(self, client: AdminClient) -> bool:
        document = await client.ask("GET", "/rules/document")
        return bool(document.get("tenants", {}).get(self._name, {}).get("closed"))

    def _holdings(self, store: str) -> store_purge.Holdings:
        return store_purge.open_holdings(store, self._document.stores[store], self._name, self._secrets)

    async def _dropped(self, store: str) -> Step:
        what = f"drop from {store}"
        try:
            dropped = await store_purge.purged(self._holdings(store))
        except TenantryError as error:
            return Step(what=what, result="failed", note=str(error))
        note = _listed(dropped) + "; a count afterwards found nothing" if dropped else _listed(dropped)
        return Step(what=what, result="done" if dropped else "already done", note=note)

    async def _forgotten(self, address: str, client: AdminClient) -> Step:
        what = f"forget at {address}"
        try:
            await client.ask("DELETE", f"/tenants/{quote(self._name, safe='')}")
        except TenantryError as error:
            return Step(what=what, result="failed", note=str(error))
        return Step(what=what, result="done", note=_FORGOTTEN)

    def _kept(self) -> list[Step]:
        steps = [Step(what="bills", result="kept", note="the ledger is not touched; tier and quota stay for invoices")]
        if not self._admins:
            note = "no --admin was given: these stay, and nobody made sure that sidecars refuse the tenant already"
            steps.append(Step(what="beta flag and quota", result="kept", note=note))
        return steps


_FORGOTTEN = "beta flag and quota"


def _listed(things: list[str]) -> str:
    shown = ", ".join(things[:8]) + (f" and {len(things) - 8:,} more" if len(things) > 8 else "")
    return shown or "nothing of it is there"
