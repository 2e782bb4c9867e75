"""The known attacks on Pinecone over REST, through Envoy, against an in-memory stand-in that tells what was touched."""

import http.client
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tenantry.core.vector.scope import own_namespace

from bench.attack_seen import Seen, load
from bench.attack_store import OURS, THEIRS
from bench.stack import KEYS, ROOT, tenantry

ROWS = 3
SDK_VERSION = "10.2"


def ask(address: str, method: str, path: str, body: bytes, tenant: str | None = None) -> tuple[int, bytes]:
    """Send one request; return status and body."""
    connection = http.client.HTTPConnection(address, timeout=20)
    headers = {"content-type": "application/json"} | ({"api-key": KEYS[tenant]} if tenant else {})
    connection.request(method, path, body or None, headers)
    response = connection.getresponse()
    answer = response.status, response.read()
    connection.close()
    return answer


def run() -> Seen:
    """Try every case as acme, with rows of globex's beside."""
    command = [sys.executable, "-m", "tenantry_standin.pinecone"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as stand_in:
        try:
            ports = json.loads(stand_in.stdout.readline() if stand_in.stdout else "")
            store = {
                "kind": "pinecone", "isolation": "namespace", "endpoints": [f"127.0.0.1:{ports['rest_port']}"],
                "grpcEndpoints": [f"127.0.0.1:{ports['grpc_port']}"],
            }  # fmt: skip
            with tenantry(Path(tempfile.mkdtemp(prefix="tenantry-attack-")), store) as address:
                return _cases(address, f"127.0.0.1:{ports['rest_port']}")
        finally:
            stand_in.terminate()


def _fill(address: str) -> None:
    for tenant in (OURS, THEIRS):
        vectors = [
            {"id": f"b{n}", "values": [n, 1.0], "metadata": {"text": f"{tenant} {n}"}} for n in range(1, ROWS + 1)
        ]
        for _ in range(100):
            status, answer = ask(address, "POST", "/vectors/upsert", json.dumps({"vectors": vectors}).encode(), tenant)
            if status == 200:
                break
        else:
            raise RuntimeError(f"rows of {tenant} could not be written: {status} {answer[:200]!r}")


def _cases(address: str, stand_in: str) -> Seen:
    _wait(address)
    _fill(address)
    seen = Seen()
    after = _journal(stand_in, 0)[-1]["number"]
    for case in load("pinecone.rest"):
        seen.cases += 1
        method, _, path = case["request"]["http"].partition(" ")
        status, answer = ask(address, method, path, case["request"]["body"].encode(), OURS)
        seen.denied += 400 <= status < 500
        touched = _journal(stand_in, after)
        after = max([after, *(entry["number"] for entry in touched)])
        foreign = [entry for entry in touched if own_namespace(OURS, entry["namespace"]) is None]
        if foreign or THEIRS.encode() in answer:
            seen.leaks.append(case["id"])
    fetch = "&".join(f"ids=b{n}" for n in range(1, ROWS + 1))
    _, answer = ask(address, "GET", f"/vectors/fetch?{fetch}", b"", THEIRS)
    seen.rows_lost = ROWS - len(json.loads(answer)["vectors"])
    return seen


def _journal(stand_in: str, after: int) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(ask(stand_in, "GET", f"/stand-in/journal?after={after}", b"")[1])
    return entries


def _wait(address: str, attempts: int = 600) -> None:
    for _ in range(attempts):
        try:
            if ask(address, "GET", "/describe_index_stats", b"", OURS)[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise RuntimeError("tenantry did not come up before the stand-in")
