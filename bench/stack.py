"""`tenantry up` and raw gRPC clients, for benches and attacks: real processes, real sockets."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
from tenantry.core.apikeys import digest_text, new_key
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.grpc_frame import PREFIX_BYTES, write_message
from tenantry.core.vector.milvus import SERVICE

from tools.milvus_engines import free_ports

ROOT = Path(__file__).resolve().parent.parent
MAX_BYTES = 64 * 1024 * 1024
KEYS = {name: new_key(name.encode().ljust(32, b"-")) for name in ("acme", "globex")}


@contextlib.contextmanager
def tenantry(folder: Path, store: Mapping[str, Any], mutant: str = "") -> Iterator[str]:
    """Run `tenantry up` with one store and two tenants, in processes of its own; yield the address for clients.

    `mutant` is Python to run before: how a test breaks tenantry, to see that attacks find it.
    """
    ports = free_ports(3)
    document = {
        "version": 1,
        "models": {},
        "tiers": {"gold": {}},
        "tenants": {name: {"tier": "gold", "keys": [digest_text(key)]} for name, key in KEYS.items()},
        "stores": {"docs": dict(store)},
        "limits": {"maxBodyBytes": MAX_BYTES},
    }
    folder.mkdir(parents=True, exist_ok=True)
    rules = folder / "rules.json"
    rules.write_text(json.dumps(document))
    address = f"127.0.0.1:{ports[0]}"
    program = f"{mutant}\nfrom tenantry.cli import main; main()"
    command = [sys.executable, "-c", program, "up", str(rules), "--listen", address,
               "--admin", f"127.0.0.1:{ports[1]}", "--envoy-admin", f"127.0.0.1:{ports[2]}",
               "--state", str(folder / "state")]  # fmt: skip
    with (folder / "up.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
        try:
            yield address
        finally:
            process.terminate()
            process.wait(30)


class Client:
    """One gRPC connection that sends messages as the bytes they are."""

    def __init__(self, address: str, *, key: str | None = None) -> None:
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.insecure_channel(address, options=options)
        self._metadata = [("authorization", f"Bearer {key}")] if key else []

    def call(
        self,
        method: str,
        body: bytes,
        *,
        patient: bool = False,
        metadata: tuple[tuple[str, str], ...] = (),
        compression: grpc.Compression | None = None,
    ) -> bytes:
        """Send a framed message, return the answer's message."""
        answer: bytes = self._channel.unary_unary(SERVICE + method)(
            body[PREFIX_BYTES:], metadata=[*self._metadata, *metadata], timeout=60, wait_for_ready=patient,
            compression=compression,
        )  # fmt: skip
        return answer


def when_ready(client: Client, seconds: float = 90) -> None:
    """Wait until the store was shown to keep tenants apart."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            client.call("Connect", write_message(b""), patient=True)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def checked(answer: bytes) -> None:
    """Fail unless the store did what it was asked."""
    status = pb.Status.FromString(answer)
    if status.error_code or status.code:
        raise RuntimeError(f"the engine refused: {status.reason}")
