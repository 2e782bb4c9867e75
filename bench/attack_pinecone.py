"""Attacks on Pinecone through Envoy, against an in-memory stand-in that tells what was touched.

The known attacks are sent over REST as they stand, and once more with the other tenant's real namespace in place of
`B`. Then the real SDK does all that it can, over REST and gRPC, as both tenants: each alone, and both at once with the
same names. An answer that differs then, or a namespace in the stand-in's journal that is not the tenant's, is a leak.
"""

import http.client
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tenantry.core.vector.scope import namespace_of, own_namespace

from bench.attack_seen import Seen, load
from bench.attack_store import OURS, THEIRS
from bench.stack import KEYS, ROOT, tenantry
from tools import milvus_engines

ROWS = 3
SDK_VERSION = "10.2"
SDK_ENVIRONMENT = "milvus30"
SCRIPT = ROOT / "tests" / "sdk_clients" / "pinecone_roundtrip.py"
RECORDS = '{"query":{"inputs":{"text":"shoes"},"top_k":3}}'
"""A search that the store would answer, where the case has `{}`."""

TRANSPORTS = ("rest", "grpc")


class Stack:
    """tenantry before a stand-in."""

    def __init__(self, address: str, stand_in: str) -> None:
        self.address, self._stand_in = address, stand_in
        self._after = 0

    def ask(self, method: str, path: str, body: bytes, tenant: str = OURS) -> tuple[int, bytes]:
        """Send one request through tenantry; return status and body."""
        return _ask(self.address, method, path, body, {"api-key": KEYS[tenant]})

    def touched(self) -> list[str]:
        """Return the namespaces that requests named since this was last asked; statistics name none, of all."""
        path = f"/stand-in/journal?after={self._after}"
        entries = json.loads(_ask(self._stand_in, "GET", path, b"", {})[1])
        self._after = max([self._after, *(entry["number"] for entry in entries)])
        return [entry["namespace"] for entry in entries if entry["operation"] != "stats"]

    def theirs(self) -> Any:
        """Return globex's rows as the stand-in has them; what was touched until now is forgotten."""
        ids = "&".join(f"ids=b{n}" for n in range(1, ROWS + 1))
        path = f"/vectors/fetch?{ids}&namespace={namespace_of(THEIRS)}"
        rows = json.loads(_ask(self._stand_in, "GET", path, b"", {})[1])["vectors"]
        self.touched()
        return rows

    def fill(self, tenant: str) -> None:
        """Write a tenant's rows, with the ids that the other's have."""
        rows = [{"id": f"b{n}", "values": [n, 1.0], "metadata": {"text": f"{tenant} {n}"}} for n in range(1, ROWS + 1)]
        status, answer = self.ask("POST", "/vectors/upsert", json.dumps({"vectors": rows}).encode(), tenant)
        if status != 200:
            raise RuntimeError(f"rows of {tenant} could not be written: {status} {answer[:200]!r}")

    def when_ready(self, attempts: int = 600) -> None:
        """Wait until tenantry answers."""
        for _ in range(attempts):
            try:
                if self.ask("GET", "/describe_index_stats", b"")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise RuntimeError("tenantry did not come up before the stand-in")


def _ask(address: str, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address, timeout=20)
    connection.request(method, path, body or None, {"content-type": "application/json"} | headers)
    response = connection.getresponse()
    answer = response.status, response.read()
    connection.close()
    return answer


def run(*, sdk: bool = True) -> Seen:
    """Try every case as acme, with rows of globex's beside; then the SDK as both."""
    command = [sys.executable, "-m", "tenantry_standin.pinecone"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as stand_in:
        try:
            ports = json.loads(stand_in.stdout.readline() if stand_in.stdout else "")
            rest, grpc = (f"127.0.0.1:{ports[f'{transport}_port']}" for transport in TRANSPORTS)
            store = {"kind": "pinecone", "isolation": "namespace", "endpoints": [rest], "grpcEndpoints": [grpc]}
            with tenantry(Path(tempfile.mkdtemp(prefix="tenantry-attack-")), store) as address:
                stack = Stack(address, rest)
                stack.when_ready()
                seen = _cases(stack)
                if sdk:
                    _sdk(stack, seen)
                return seen
        finally:
            stand_in.terminate()


def _cases(stack: Stack) -> Seen:
    for tenant in (OURS, THEIRS):
        stack.fill(tenant)
    before, seen = stack.theirs(), Seen()
    if len(before) != ROWS:
        raise RuntimeError(f"{len(before)} rows of {THEIRS} are there, not {ROWS}")
    for case in load("pinecone.rest"):
        seen.cases += 1
        for method, path, body in _requests(case["request"]):
            status, answer = stack.ask(method, path, body)
            denied = 400 <= status < 500
            seen.denied += denied
            foreign = any(own_namespace(OURS, namespace) is None for namespace in stack.touched())
            if foreign or THEIRS.encode() in answer or namespace_of(THEIRS).encode() in answer:
                seen.leaks.append(case["id"])
            elif denied != (case["expect"] == "deny"):
                seen.deviations[case["id"]] = f"{'refused' if denied else 'answered'} ({status})"
        stack.fill(OURS)
        after = stack.theirs()
        seen.rows_lost += sum(after.get(name) != row for name, row in before.items())
    return seen


def _requests(request: dict[str, Any]) -> Iterator[tuple[str, str, bytes]]:
    method, _, path = request["http"].partition(" ")
    other, body = namespace_of(THEIRS), request["body"] if "/records/" not in path else RECORDS
    yield method, path, body.encode()
    named = (path.replace("=B", f"={other}").replace("/B/", f"/{other}/"), body.replace('"B"', f'"{other}"'))
    if named != (path, body):
        yield method, named[0], named[1].encode()


def _sdk(stack: Stack, seen: Seen) -> None:
    """Add what the real SDK sees to `seen`."""
    python = milvus_engines.interpreter(SDK_ENVIRONMENT)

    def roundtrip(tenant: str, transport: str) -> Any:
        # Equal namespaces; ids begin differently, so that a list of ids shows whose they are.
        job = {"host": f"http://{stack.address}", "transport": transport, "api_key": KEYS[tenant],
               "namespace": transport, "prefix": f"{tenant}-"}  # fmt: skip
        done = subprocess.run(
            [python, str(SCRIPT)], input=json.dumps(job), capture_output=True, text=True, check=True, timeout=120
        )
        found = json.loads(done.stdout.strip().rpartition("\n")[2])
        return {name: {key: value for key, value in step.items() if key != "ms"} for name, step in found.items()}

    before, alone = stack.theirs(), {}
    for tenant in (OURS, THEIRS):
        for transport in TRANSPORTS:
            seen.cases += 1
            alone[tenant, transport] = roundtrip(tenant, transport)
            if any(own_namespace(tenant, namespace) is None for namespace in stack.touched()):
                seen.leaks.append(f"sdk over {transport}, {tenant}: another namespace was touched")
    with ThreadPoolExecutor(len(TRANSPORTS) * 2) as pool:
        for job, found in zip(alone, pool.map(lambda job: roundtrip(*job), alone), strict=True):
            seen.cases += 1
            # The count of all namespaces is of the moment: the other transport's are there or not.
            other = [name for name in found if name != "stats" and found[name] != alone[job][name]]
            if other:
                seen.leaks.append(f"sdk over {job[1]}, {job[0]}, both at once: {', '.join(other)}")
            if failed := [name for name, step in found.items() if "error" in step]:
                seen.deviations[f"sdk over {job[1]}, {job[0]}"] = f"failed: {', '.join(failed)}"
    seen.rows_lost += sum(stack.theirs().get(name) != row for name, row in before.items())
