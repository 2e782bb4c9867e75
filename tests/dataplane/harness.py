"""Envoy, sidecar and upstream put together for a test.

`stack` runs the sidecar in this process, as `tenantry up` does; `processes.beside` runs it as a process of its own.
"""

import asyncio
import contextlib
import copy
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from tenantry.adapters import envoy_process
from tenantry.adapters.bind import Address
from tenantry.adapters.rules_file import read_file, read_rules
from tenantry.adapters.secrets_folder import write_missing
from tenantry.adapters.sidecar import Sidecar
from tenantry.up import UpOptions, running
from tenantry_envoy.binary import find_envoy
from tenantry_envoy.bootstrap import bootstrap
from tenantry_envoy.clusters import clusters
from tenantry_envoy.options import EnvoyOptions

from dataplane.upstream import Upstream
from dataplane.wire import Response, ask, request

ENGINE_SECRET = "engine-secret-7c1f"
KEYS = {name: f"tk_{name}-{'k' * 40}" for name in ("acme", "globex", "initech", "late")}
"""One API key a tenant; `late`'s has expired."""

Edit = Callable[[dict[str, Any]], None]
Json = dict[str, Any]


def digest(key: str) -> str:
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def rules(upstream: Upstream, **members: Any) -> Json:
    """A rules document: acme is stable, globex beta, initech pinned; `members` replace its top-level keys."""
    here: Json = {"endpoints": [upstream.endpoint]}
    document = {
        "version": 1,
        "tiers": {"gold": {"priority": 0}, "bronze": {"priority": 20}},
        "models": {
            "chat-8b": {
                "stable": "1.4.0",
                "versions": {"1.4.0": here | {"scheduling": "priority"}, "1.5.0": here},
                "rollout": {"candidate": "1.5.0"},
            },
            "private-8b": {"stable": "1", "versions": {"1": here}},
        },
        "tenants": {
            "acme": {"tier": "gold", "keys": [digest(KEYS["acme"])]},
            "globex": {"tier": "bronze", "beta": True, "models": ["chat-8b"], "keys": [digest(KEYS["globex"])]},
            "initech": {"tier": "bronze", "pins": {"chat-8b": "1.4.0"}, "keys": [digest(KEYS["initech"])]},
            "late": {"tier": "gold", "keys": [{"digest": digest(KEYS["late"]), "notAfter": "2020-01-01T00:00:00Z"}]},
        },
    }
    return document | members


def changed(document: Json, **tenants: Json) -> Json:
    """A copy of a document with more tenants."""
    copied = copy.deepcopy(document)
    copied["tenants"].update(tenants)
    return copied


def write(path: Path, text: str | bytes) -> None:
    """Replace a file in one step, as an editor or the kubelet does."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(text if isinstance(text, bytes) else text.encode())
    temporary.replace(path)


async def until(condition: Callable[[], object], seconds: float = 10.0, what: str = "") -> float:
    """Wait for a condition; return how long it took, fail after `seconds`."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() < begin + seconds, f"not within {seconds:g} s: {what or condition}"
        await asyncio.sleep(0.01)
    return time.monotonic() - begin


@dataclass(kw_only=True)
class Files:
    """The files of one stack: rules, secrets, outcomes."""

    folder: Path
    rules: Path = field(init=False)
    secrets: Path = field(init=False)
    outcomes: Path = field(init=False)
    cds: Path = field(init=False)
    state: Path = field(init=False)

    def __post_init__(self) -> None:
        self.rules = self.folder / "rules" / "rules.yaml"
        self.secrets = self.folder / "secrets"
        self.outcomes = self.folder / "outcomes.jsonl"
        self.cds = self.folder / "clusters" / "cds.json"
        self.state = self.folder / "state.db"
        for folder in (self.rules.parent, self.cds.parent):
            folder.mkdir(parents=True, exist_ok=True)
        write_missing(self.secrets)
        (self.secrets / "engine").write_text(ENGINE_SECRET + "\n")

    def save(self, document: Json) -> None:
        """Write the rules document (JSON is YAML)."""
        write(self.rules, json.dumps(document))


@dataclass(kw_only=True)
class Stack:
    """A running stack. `address` is Envoy's client listener, `admin` the sidecar's, both `host:port`."""

    address: str
    admin: str
    envoy_admin: str
    upstream: Upstream
    files: Files
    document: Json
    sidecar: Sidecar | None = None
    """The sidecar itself, where it runs in this process."""

    async def ask(self, data: bytes, timeout: float = 20.0) -> Response:
        return await ask(self.address, data, timeout)

    async def serves(self, seconds: float = 20.0) -> None:
        """Wait until Envoy listens."""
        async with asyncio.timeout(seconds):
            while True:
                with contextlib.suppress(OSError):
                    if (await self.ask(request("/v1/models", method="GET"))).status == 401:
                        return
                await asyncio.sleep(0.02)

    async def open_exchanges(self) -> int:
        """How many exchanges the sidecar has open, wherever it runs."""
        if self.sidecar is not None:
            return self.sidecar.open_exchanges
        return int(await self.total("tenantry_ext_proc_open_exchanges"))

    async def metrics(self) -> dict[str, float]:
        """Samples of /metrics by `name{label="value",...}`, labels sorted."""
        text = (await ask(self.admin, request("/metrics", method="GET"))).body.decode()
        return {
            sample.name + "{" + ",".join(f'{k}="{v}"' for k, v in sorted(sample.labels.items())) + "}": sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    async def total(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        samples = (await self.metrics()).items()
        return sum(value for key, value in samples if key.startswith(name + "{") and all(w in key for w in wanted))

    async def status(self) -> Json:
        """What /rules says: state, digest, problems, generation, models."""
        token = (self.files.secrets / "admin-token").read_text().strip()
        document: Json = (await ask(self.admin, request("/rules", method="GET", key=token))).json
        return document

    async def live(self, document: Json | None = None, seconds: float = 20.0) -> None:
        """Save a document and wait until it serves."""
        before = (await self.status())["generation"]
        self.document = document or self.document
        self.files.save(self.document)
        await self.generation(before + 1, seconds)

    async def generation(self, at_least: int, seconds: float = 20.0) -> None:
        async with asyncio.timeout(seconds):
            while (await self.status())["generation"] < at_least:
                await asyncio.sleep(0.02)

    async def refused(self, before: Json) -> Json:
        """Wait for the refusal of a document after the status `before`; fails when anything of it went live."""
        async with asyncio.timeout(10):
            while (status := await self.status())["state"] != "refused" or status["digest"] == before["digest"]:
                await asyncio.sleep(0.02)
        assert (status["generation"], status["models"]) == (before["generation"], before["models"])
        assert status["problems"]
        return status

    def outcomes(self) -> list[Json]:
        """Every line of the outcomes file."""
        text = self.files.outcomes.read_text() if self.files.outcomes.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    async def outcome(self, request_id: str) -> Json:
        """The outcome of one exchange; waits for the access log, which Envoy flushes every 50 ms."""

        def found() -> list[Json]:
            return [outcome for outcome in self.outcomes() if outcome["request_id"] == request_id]

        await until(found, what=f"outcome of {request_id}")
        (outcome,) = found()
        return outcome


@contextlib.asynccontextmanager
async def stack(folder: Path, build: Callable[[Upstream], Json] = rules, **options: Any) -> AsyncIterator[Stack]:
    """Run upstream, sidecar and Envoy as `tenantry up` does; `build` makes the rules, `options` are UpOptions'."""
    files = Files(folder=folder)
    async with Upstream().running() as upstream:
        files.save(document := build(upstream))
        here = Address(host="127.0.0.1", port=0)
        up_options = UpOptions(
            rules=files.rules, listen=here, admin=here, envoy_admin=here, state=folder / "state",
            secrets=files.secrets, outcomes=files.outcomes, **options,
        )  # fmt: skip
        async with running(up_options) as up:
            yield Stack(
                address=up.base_url.partition("://")[2],
                admin=str(up.sidecar.admin),
                envoy_admin=up.envoy.admin.removeprefix("http://"),
                upstream=upstream,
                files=files,
                document=document,
                sidecar=up.sidecar.sidecar,
            )


@contextlib.asynccontextmanager
async def envoy(
    files: Files, sidecars: tuple[str, ...], *, edit: Edit = lambda _config: None, state: str = "state", **options: Any
) -> AsyncIterator[tuple[str, str]]:
    """Run Envoy for the rules; yield its client and admin addresses. `edit` may change the bootstrap first."""
    document = read_rules(read_file(files.rules))
    if not files.cds.exists():
        write(files.cds, json.dumps(clusters(document)))
    options = {"listen_port": 0, "admin_port": 0} | options
    config = bootstrap(document, EnvoyOptions(cds_path=str(files.cds), sidecars=sidecars, **options))
    edit(config)
    (files.folder / state).mkdir(exist_ok=True)
    async with envoy_process.running(find_envoy(None), config, files.folder / state, 1) as process:
        yield await process.listener(), process.admin.removeprefix("http://")


def connection_manager(config: Json) -> Json:
    """The HTTP connection manager of a generated bootstrap."""
    manager: Json = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    return manager


def without_backstop(config: Json) -> None:
    """Take the RBAC filter out of a bootstrap: for controls that show that it is what holds."""
    manager = connection_manager(config)
    kept = [entry for entry in manager["http_filters"] if entry["name"] != "envoy.filters.http.rbac"]
    assert len(kept) == len(manager["http_filters"]) - 1
    manager["http_filters"] = kept
