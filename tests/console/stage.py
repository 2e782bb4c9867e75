"""What stands behind the console here: Envoy, sidecar, ledger and two stand-in engines, each for real; a browser."""

import asyncio
import contextlib
import json
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
from msgspec import Struct
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Request, async_playwright
from prometheus_client.parser import text_string_to_metric_families
from tenantry.adapters.bind import Address
from tenantry.adapters.ports import free_port
from tenantry.adapters.secrets_folder import write_missing
from tenantry.core.apikeys import digest_text
from tenantry.up import Up, UpOptions, running

from tools.services import PROGRAMS

MODEL, STABLE, CANDIDATE = "chat-8b", "1.4.0", "1.5.0"
KEYS = {name: f"tk_{name}-{'k' * 40}" for name in ("acme", "globex", "initech")}
ENGINE_SECRET = "engine-secret-of-a-test"
ANY = Address(host="127.0.0.1", port=0)
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-sync",
    "--no-first-run",
]


class Stage(Struct, frozen=True, kw_only=True):
    """A running stack."""

    up: Up
    rules: Path
    document: dict[str, Any]
    token: str

    @property
    def admin(self) -> str:
        return f"http://{self.up.sidecar.admin}"

    @property
    def ledger(self) -> str:
        assert self.up.ledger is not None
        return f"http://{self.up.ledger.listen}"

    async def get(self, url: str) -> Any:
        headers = {"authorization": f"Bearer {self.token}"}
        async with aiohttp.ClientSession() as http, http.get(url, headers=headers) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels."""
        async with aiohttp.ClientSession() as http, http.get(f"{self.admin}/metrics") as response:
            families = list(text_string_to_metric_families(await response.text()))
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    async def chat(self, key: str, user: str, *, model: str = MODEL) -> int:
        body = {"model": model, "user": user, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
        headers = {"authorization": f"Bearer {key}"}
        async with (
            aiohttp.ClientSession() as http,
            http.post(f"{self.up.base_url}/v1/chat/completions", json=body, headers=headers) as response,
        ):
            await response.read()
            return response.status

    async def word(self, action: str, *, why: str, who: str = "ops") -> None:
        """Say an operator's word, as `tenantry rollout` does."""
        body = {"model": MODEL, "action": action, "all": True, "who": who, "why": why}
        headers = {"authorization": f"Bearer {self.token}"}
        async with (
            aiohttp.ClientSession() as http,
            http.post(f"{self.admin}/rollouts", json=body, headers=headers) as response,
        ):
            assert response.status == 200, await response.text()


def rules(endpoints: dict[str, str]) -> dict[str, Any]:
    return {
        "version": 1,
        "tiers": {"gold": {"priority": 0}, "bronze": {"priority": 20, "quota": {"computeUnitsPerPeriod": 1_000_000}}},
        "models": {
            MODEL: {
                "stable": STABLE,
                "versions": {version: {"endpoints": [endpoint]} for version, endpoint in endpoints.items()},
                "rollout": {"candidate": CANDIDATE, "percent": 40},
            }
        },
        "tenants": {
            "acme": {"tier": "gold", "keys": [digest_text(KEYS["acme"])], "pins": {MODEL: STABLE}},
            "globex": {"tier": "bronze", "keys": [digest_text(KEYS["globex"])]},
            "initech": {"tier": "bronze", "keys": [digest_text(KEYS["initech"])], "beta": True},
        },
    }


@contextlib.asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[Stage]:
    secrets = folder / "secrets"
    write_missing(secrets)
    (secrets / "engine").write_text(ENGINE_SECRET + "\n")
    # Engines post usage records to the admin listener and the ledger: their ports are chosen before they start.
    admin, ledger = (Address(host="127.0.0.1", port=free_port()) for _ in range(2))
    async with contextlib.AsyncExitStack() as exits:
        started = [
            await exits.enter_async_context(_engine(folder, version, admin, ledger)) for version in (STABLE, CANDIDATE)
        ]
        endpoints = {version: await _listening(log) for version, log in started}
        document = rules(endpoints)
        path = folder / "rules" / "rules.yaml"
        path.parent.mkdir()
        path.write_text(json.dumps(document))
        options = UpOptions(
            rules=path, listen=ANY, admin=admin, envoy_admin=ANY, ledger=ledger, state=folder / "state", secrets=secrets
        )
        up = await exits.enter_async_context(running(options))
        token = (secrets / "admin-token").read_text().strip()
        yield Stage(up=up, rules=path, document=document, token=token)


@contextlib.asynccontextmanager
async def _engine(folder: Path, version: str, admin: Address, ledger: Address) -> AsyncIterator[tuple[str, Path]]:
    log = folder / f"engine-{version}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tenantry_standin", "--model", MODEL, "--version", version, "--listen", "127.0.0.1:0",
            "--api-key-file", folder / "secrets" / "engine", "--speed", "20", "--cold-start-s", "1", "--drain-s", "0.2",
            "--ship-to", f"http://{admin}", "--ship-token-file", folder / "secrets" / "usage-token",
            "--ledger-url", f"http://{ledger}", "--spool-dir", folder / f"spool-{version}",
            stdout=output, stderr=output,
        )  # fmt: skip
    try:
        yield version, log
    finally:
        process.terminate()
        await process.wait()


async def _listening(log: Path) -> str:
    async with asyncio.timeout(20):
        while not (found := re.search(r'"url": ?"http://([^"]+)"', log.read_text())):
            await asyncio.sleep(0.05)
    return found[1]


class Reader:
    """A person's browser at the console. `errors` and `asked` are what the page complained of and asked for."""

    def __init__(self, context: BrowserContext, page: Page, stage: Stage) -> None:
        self.context, self.page, self.stage = context, page, stage
        self.errors: list[str] = []
        self.asked: list[str] = []
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._asks)

    def _said(self, message: ConsoleMessage) -> None:
        # Chromium itself notes each 401: of the data before the login, and of a wrong token.
        if message.type in ("error", "warning") and "401 (Unauthorized)" not in message.text:
            self.errors.append(message.text)

    def _asks(self, request: Request) -> None:
        self.asked.append(request.url)

    async def log_in(self, token: str | None = None) -> None:
        await self.page.goto(f"{self.stage.admin}/console")
        await self.page.get_by_label("Admin token").fill(token or self.stage.token)
        await self.page.keyboard.press("Enter")

    async def in_(self) -> "Reader":
        await self.log_in()
        await self.page.get_by_role("heading", name="Rollouts").wait_for()
        return self

    async def row(self, table: str, name: str) -> list[str]:
        """The texts of the row of a table that begins with this name."""
        head = self.page.locator(f"#{table} tbody tr").filter(
            has=self.page.get_by_role("rowheader", name=name, exact=True)
        )
        cells: list[str] = await head.first.locator("th, td").all_inner_texts()
        return cells


@contextlib.asynccontextmanager
async def reading(browser: Browser, where: Stage, **options: Any) -> AsyncIterator[Reader]:
    context = await browser.new_context(**options)
    context.set_default_timeout(5_000)
    try:
        yield Reader(context, await context.new_page(), where)
    finally:
        await context.close()


@contextlib.asynccontextmanager
async def chromium(program: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=CHROMIUM_FLAGS)
        try:
            yield browser
        finally:
            await browser.close()


PROGRAM = PROGRAMS["chromium"]
