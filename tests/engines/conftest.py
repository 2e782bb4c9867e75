"""One Envoy and sidecar in front of two real vLLM servers on CPU, both metered, for the whole session."""

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from tenantry.adapters.bind import Address
from tenantry.adapters.ports import free_port
from tenantry.adapters.secrets_folder import write_missing
from tenantry.core.apikeys import digest_text
from tenantry.up import UpOptions, running
from tenantry_testing.metered_engine import MeteredEngine
from tenantry_testing.usage_sink import TOKEN, UsageSink

from tools.vllm_server import (
    VllmOptions,
    interpreter,
    plugin_path,
    vllm_server,
    write_adapters,
    write_tiny_model,
)

ROOT = Path(__file__).resolve().parents[2]
ENGINE_SECRET = "engine-secret-of-the-pool"
PART_S = 1
"""How often the chat engine sends parts and spans."""
KEYS = {"acme": "tk_acme-gold", "globex": "tk_globex-bronze"}


@dataclass(frozen=True)
class VllmStack:
    """Where clients connect, the engines behind, and what their schedulers saw."""

    base_url: str
    chat_url: str
    outcomes: Path
    record: Path
    clients: dict[str, AsyncOpenAI]
    chat: MeteredEngine
    embed_sink: UsageSink
    interface: Path

    def scheduled(self) -> list[dict[str, Any]]:
        """Every request that a scheduler was given, in order."""
        return [json.loads(line) for line in self.record.read_text().splitlines()]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: "kills_the_engine" in item.keywords)


@pytest.fixture(scope="session")
def vllm_python() -> str:
    try:
        return interpreter(ROOT)
    except subprocess.CalledProcessError:
        pytest.skip("no vLLM environment: `python3 tools/env.py vllm` says why")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def vllm(vllm_python: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[VllmStack]:
    folder = tmp_path_factory.mktemp("vllm")
    model = write_tiny_model(vllm_python, ROOT, folder / "model")
    record = folder / "scheduled.jsonl"
    record.touch()
    environment = {
        # Two servers on two cores: left alone, both bind to the first core.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(
            (plugin_path(ROOT, folder / "site"), str(Path(__file__).parent / "vllm_recorder"))
        ),
        "TENANTRY_VERSION": "1.4.0",
        "TENANTRY_USAGE_TOKEN_FILE": str(folder / "token"),
        "TENANTRY_PART_SECONDS": str(PART_S),
        "TENANTRY_RECORD": str(record),
        "VLLM_API_KEY": ENGINE_SECRET,
    }
    common = ("--scheduling-policy", "priority", "--scheduler-cls", "tenantry_recorder.RecordingScheduler")

    def options(name: str, *flags: str, **metering: str) -> VllmOptions:
        return VllmOptions(
            python=vllm_python, model=model, port=free_port(), served_name=name, log=folder / f"{name}.log",
            flags=(*common, *flags), environment=environment | metering,
        )  # fmt: skip

    (folder / "token").write_text(TOKEN)
    sinks = UsageSink(), UsageSink()
    adapters = write_adapters(vllm_python, ROOT, model)
    # Four sequences at a time, so that a queue forms and the scheduler has something to order. Room for 19 blocks of
    # 128 tokens, so that four long ones do not fit. Nobody is at the ledger's port: what the spool has, it keeps.
    chat = options(
        "tiny-llama", "--enable-prompt-tokens-details", "--max-num-seqs", "4", "--num-gpu-blocks-override", "20",
        "--enable-lora", "--max-loras", "2", "--lora-modules", *(f"{name}={path}" for name, path in adapters.items()),
        TENANTRY_MODEL="chat-8b", TENANTRY_SIDECAR_URLS=sinks[0].url,
        TENANTRY_INTERFACE=str(folder / "interface.json"),
        TENANTRY_LEDGER_URL=f"http://127.0.0.1:{free_port()}", TENANTRY_SPOOL_DIR=str(folder / "spool"),
    )  # fmt: skip
    embed = options(
        "tiny-embed", "--runner", "pooling", "--convert", "embed",
        TENANTRY_MODEL="embed-1", TENANTRY_SIDECAR_URLS=sinks[1].url,
    )  # fmt: skip
    write_missing(folder / "secrets")
    (folder / "secrets" / "engine").write_text(ENGINE_SECRET)
    (folder / "rules.yaml").write_text(json.dumps(_rules(chat, embed)))
    up = UpOptions(
        rules=folder / "rules.yaml", listen=Address(host="127.0.0.1"), admin=Address(host="127.0.0.1"),
        envoy_admin=Address(host="127.0.0.1"), state=folder / "state", secrets=folder / "secrets",
        outcomes=folder / "outcomes.jsonl",
    )  # fmt: skip
    async with contextlib.AsyncExitStack() as stack:
        for sink in sinks:
            await sink.start()
            stack.push_async_callback(sink.stop)
        chat_url, _ = await asyncio.gather(
            stack.enter_async_context(vllm_server(chat)), stack.enter_async_context(vllm_server(embed))
        )
        pair = await stack.enter_async_context(running(up))
        base_url = f"{pair.base_url}/v1"
        clients = {
            tenant: await stack.enter_async_context(
                AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=60)
            )
            for tenant, key in KEYS.items()
        }
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)))
        yield VllmStack(
            base_url=pair.base_url,
            chat_url=chat_url,
            outcomes=folder / "outcomes.jsonl",
            record=record,
            clients=clients,
            chat=MeteredEngine(
                url=chat_url, secret=ENGINE_SECRET, sink=sinks[0], spool=folder / "spool", log=chat.log, http=http
            ),
            embed_sink=sinks[1],
            interface=folder / "interface.json",
        )


def _rules(chat: VllmOptions, embed: VllmOptions) -> dict[str, Any]:
    def model(server: VllmOptions) -> dict[str, Any]:
        version = {
            "endpoints": [f"127.0.0.1:{server.port}"],
            "servedName": server.served_name,
            "scheduling": "priority",
        }
        return {"stable": "1.4.0", "versions": {"1.4.0": version}}

    return {
        "version": 1,
        "tiers": {"gold": {"priority": -5}, "bronze": {"priority": 20}},
        "models": {"chat-8b": model(chat), "embed-1": model(embed)},
        "tenants": {
            "acme": {"tier": "gold", "keys": [digest_text(KEYS["acme"])]},
            "globex": {"tier": "bronze", "keys": [digest_text(KEYS["globex"])]},
        },
    }
