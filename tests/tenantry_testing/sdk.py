"""Runs a client script of tests/sdk_clients in the environment of its SDK: a job goes in, what it saw comes out.

The SDKs disagree about their packages, and none of them belongs into the environment of the sidecar; so each is a
process of its own, as a tenant's application is.
"""

import asyncio
import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec

from tools.milvus_engines import interpreter

SCRIPTS: Final = Path(__file__).resolve().parents[1] / "sdk_clients"

ENVIRONMENTS: Final[Mapping[str, str]] = {
    "pymilvus30": "milvus30",
    "pymilvus26": "milvus26",
    "pymilvus23": "milvus23",
    "langchain": "milvus30",
    "llamaindex": "milvus26",
    "pinecone": "milvus30",
}
"""The environment of tools/env.py that holds each SDK."""

_python = cache(interpreter)


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One call of the script: what it saw, or the SDK's error as text with its number or gRPC status."""

    op: str
    ms: float
    saw: Any = None
    error: str | None = None
    code: int | str | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a script saw, in order."""

    sdk: dict[str, str]
    steps: list[Step]

    def __getitem__(self, op: str) -> Step:
        """Return the step; KeyError names those that ran."""
        for step in self.steps:
            if step.op == op:
                return step
        raise KeyError(f"no step {op!r}; there are {[step.op for step in self.steps]}")

    @property
    def errors(self) -> dict[str, str]:
        return {step.op: step.error for step in self.steps if step.error is not None}


class SdkError(Exception):
    """The script itself failed; the message holds the end of what it wrote to stderr."""


async def run(sdk: str, script: str, job: Mapping[str, Any], *, timeout: float = 120) -> Report:
    """Run `script` (a name in tests/sdk_clients, without .py) with the SDK; the job is its stdin, as JSON."""
    python = await asyncio.to_thread(_python, ENVIRONMENTS[sdk])
    process = await asyncio.create_subprocess_exec(
        python, str(SCRIPTS / f"{script}.py"), env=_environment(), stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        output, errors = await asyncio.wait_for(process.communicate(json.dumps(job).encode()), timeout)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise SdkError(f"{script} with {sdk} did not end within {timeout:.0f} s") from None
    # Some SDKs print notices of their own: the report is the last line.
    last = output.strip().rpartition(b"\n")[2]
    if process.returncode != 0 or not last:
        tail = errors[-3000:].decode("utf-8", "replace")
        raise SdkError(f"{script} with {sdk} ended with {process.returncode}:\n{tail}")
    return msgspec.json.decode(last, type=Report)


def _environment() -> dict[str, str]:
    """Return ours without what would lead a client elsewhere: proxies, and the path of the tests' own packages."""
    inherited = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    inherited.pop("PYTHONPATH", None)
    # langchain's and llama-index's: no telemetry, no downloads.
    return {**inherited, "ANONYMIZED_TELEMETRY": "false", "LANGSMITH_TRACING": "false", "PYTHONDONTWRITEBYTECODE": "1"}
