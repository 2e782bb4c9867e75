"""Real Milvus engines as child processes, without containers: started, awaited, stopped whole.

| kind   | engine                      | answers after | what it lacks                      |
|--------|-----------------------------|---------------|------------------------------------|
| lite3  | Milvus Lite 3.2.2 (Python)  | 1.0 s         | partition_name on Delete is ignored |
| lite25 | Milvus Lite 2.5.1 (C++)     | 0.1 s         | databases, partitions (ignored!), aliases |
| m23    | Milvus 2.3.5 (Go)           | 2 s           | hybrid search, nullable fields     |

All ports are free ones of the moment, so any number of engines run side by side. The two of Milvus Lite listen on
loopback only. Milvus 2.3.5 knows no such setting: its gRPC ports are open on every interface.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import grpc
from msgspec import Struct
from tenantry.adapters.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Kind = Literal["lite3", "lite25", "m23"]

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS: Final[Mapping[Kind, str]] = {"lite3": "milvus30", "lite25": "milvus26", "m23": "milvus23"}
VERSIONS: Final[Mapping[Kind, str]] = {"lite3": "3.2.2", "lite25": "2.5.1", "m23": "2.3.5"}
KINDS: Final[tuple[Kind, ...]] = ("lite3", "lite25", "m23")

READY_SECONDS = 60.0
# The one method that all three implement and that needs nothing but a living engine.
_PROBE = "/milvus.proto.milvus.MilvusService/ShowCollections"
_READY = b"\n\x00"
"""A response whose status is empty, so: success. Milvus 2.3.5 answers with an error until its parts have met."""


class Engine(Struct, frozen=True, kw_only=True):
    """A running engine; `pid` is also its process group."""

    kind: Kind
    version: str
    address: str
    pid: int
    log: Path

    @property
    def uri(self) -> str:
        """What the SDKs take: http://host:port."""
        return f"http://{self.address}"


class EngineError(Exception):
    """An engine ended or did not answer in time; the message holds the end of its log."""


class _Launch(Struct, frozen=True, kw_only=True):
    command: tuple[str, ...]
    environment: Mapping[str, str] = {}


def interpreter(environment: str) -> str:
    """Return the interpreter of an environment of tools/env.py, setting it up when it is missing (half a minute)."""
    command = ["python3", str(ROOT / "tools" / "env.py"), environment]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


@contextlib.contextmanager
def start(kind: Kind, data_dir: Path, port: int | None = None) -> Iterator[Engine]:
    """Run an engine inside the `with` block, with its data and log in `data_dir`; it answers when the block begins.

    An engine started again on the same folder finds its data. Raises EngineError, or CalledProcessError when its
    environment cannot be set up.
    """
    folder = Path(interpreter(ENVIRONMENTS[kind])).parent.parent
    data_dir = data_dir.resolve()
    data_dir.mkdir(parents=True, exist_ok=True)
    address = f"127.0.0.1:{port or free_ports(1)[0]}"
    launch = _LAUNCHES[kind](folder, data_dir, address)
    log = data_dir / "engine.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            launch.command, cwd=data_dir, env={**os.environ, **launch.environment}, stdin=subprocess.DEVNULL,
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        _await(process, address, kind, log)
        yield Engine(kind=kind, version=VERSIONS[kind], address=address, pid=process.pid, log=log)
    finally:
        _stop(process)


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nobody listens on, all different."""
    return [free_port() for _ in range(count)]


def _await(process: subprocess.Popen[bytes], address: str, kind: Kind, log: Path) -> None:
    until = time.monotonic() + READY_SECONDS
    # Milvus 2.3.5 refuses connections for a second or two: without this, gRPC would back off for longer than that.
    options = [("grpc.min_reconnect_backoff_ms", 50), ("grpc.initial_reconnect_backoff_ms", 50)]
    options += [("grpc.max_reconnect_backoff_ms", 200)]
    with grpc.insecure_channel(address, options=options) as channel:
        probe = channel.unary_unary(_PROBE)
        while True:
            with contextlib.suppress(grpc.RpcError):
                if probe(b"", timeout=2).startswith(_READY):
                    return
            if process.poll() is not None or time.monotonic() > until:
                state = f"did not answer within {READY_SECONDS:.0f} s"
                if process.returncode is not None:
                    state = f"ended with {process.returncode}"
                tail = log.read_bytes()[-2000:].decode("utf-8", "replace")
                raise EngineError(f"engine {kind} at {address} {state}; the end of {log}:\n{tail}")
            time.sleep(0.05)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the whole process group; ask first, since an engine that is killed may lose what it has not flushed."""
    for number, seconds in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _lite3(folder: Path, data_dir: Path, address: str) -> _Launch:
    host, _, port = address.rpartition(":")
    command = (str(folder / "bin" / "milvus-lite"), "server", "--data-dir", str(data_dir / "lite3"), "--host", host)
    return _Launch(command=(*command, "--port", port))


def _lite25(folder: Path, data_dir: Path, address: str) -> _Launch:
    (library,) = folder.glob("lib/python*/site-packages/milvus_lite/lib")
    # The package's own Python wrapper offers no address for the server, so the program is called directly.
    return _Launch(
        command=(str(library / "milvus"), str(data_dir / "lite25.db"), address, "ERROR"),
        environment={"LD_LIBRARY_PATH": str(library)},
    )


def _m23(folder: Path, data_dir: Path, address: str) -> _Launch:
    """Milvus standalone with its etcd inside; without its package's wrapper, which takes ports as they come.

    tools/env.py has unpacked the program. `ETCD_CONFIG_PATH` is the only way to move the ports of the etcd inside.
    """
    (packed,) = folder.glob("lib/python*/site-packages/milvus/data")
    program = folder / "milvus"
    configs = data_dir / "configs"
    for name in ("configs", "logs", "data", "rocksmq"):
        (data_dir / name).mkdir(exist_ok=True)
    client, peer, metrics, *others = free_ports(16)
    given = {
        "proxy_port": address.rpartition(":")[2],
        "etcd_port": str(client),
        "etcd_log_level": "error",
        "etcd_log_path": str(data_dir / "logs" / "etcd.log"),
        "system_log_path": "",
        "etcd_data_dir": str(data_dir / "etcd"),
        "local_storage_dir": str(data_dir / "data"),
        "rocksmq_data_dir": str(data_dir / "rocksmq"),
    }
    (configs / "milvus.yaml").write_text(_filled((packed / "config.yaml.template").read_text(), given, others))
    (configs / "glog.conf").write_text((packed / "glog.conf").read_text())
    (data_dir / "etcd.yaml").write_text(
        f"data-dir: {data_dir / 'etcd'}\n"
        f"listen-client-urls: http://127.0.0.1:{client}\n"
        f"advertise-client-urls: http://127.0.0.1:{client}\n"
        f"listen-peer-urls: http://127.0.0.1:{peer}\n"
        f"initial-advertise-peer-urls: http://127.0.0.1:{peer}\n"
        f"initial-cluster: default=http://127.0.0.1:{peer}\n"
        "log-level: error\n"
    )
    return _Launch(
        command=(str(program / "milvus"), "run", "standalone"),
        environment={
            "DEPLOY_MODE": "STANDALONE",
            "ETCD_CONFIG_PATH": str(data_dir / "etcd.yaml"),
            "LD_LIBRARY_PATH": str(program),
            "METRICS_PORT": str(metrics),
            "MILVUS_RUN_DIR": str(data_dir / "run"),
        },
    )


def _filled(template: str, given: Mapping[str, str], ports: list[int]) -> str:
    """Fill the template's `{{ name(type): default }}`: as given, any other port from `ports`, else its default."""
    spare = iter(ports)

    def value(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"] or ""
        if name in given:
            return given[name]
        return str(next(spare)) if name.endswith("_port") else default

    text = re.sub(r"\{\{ *(?P<name>\w+)(?:\(\w+\))?(?:: *(?P<default>.*?))? *\}\}", value, template)
    text = re.sub(r"(?m)^  ip:.*$", "  ip: 127.0.0.1", text)
    # An engine started again waits until the leases of the one before have run out.
    text = re.sub(r"(?m)^    ttl: 30\b", "    ttl: 5", text)
    return re.sub(r"(?m)^(log:\n(?: *#.*\n)*  level:).*$", r"\1 warn", text)


_LAUNCHES = {"lite3": _lite3, "lite25": _lite25, "m23": _m23}
