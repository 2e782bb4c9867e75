"""Who reaches ext_proc and the access log can forge tenants and bills: so loopback, or mutual TLS and a name."""

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tenantry.adapters.bind import Address, BindError, Tls, parse_address
from tenantry.adapters.process import ServeOptions, serving
from tenantry.core.usage import UsageRecord
from tenantry_envoy.clusters import clusters
from tenantry_envoy.options import SidecarTls
from tenantry_vllm.shipper import Shipper
from tenantry_vllm.sidecar_http import token_from
from tenantry_vllm.sidecar_tls import TlsFiles

from dataplane.harness import KEYS, Files, envoy, rules, until
from dataplane.pki import Authority
from dataplane.processes import tenantry
from dataplane.upstream import Upstream
from dataplane.wire import ask, chat, request

ENVOY_SAN, SIDECAR_SAN = "spiffe://prod/envoy", "sidecar.test"
MISSING = Path("missing.pem")


def files_of(folder: Path) -> Files:
    files = Files(folder=folder)
    version = {"endpoints": ["127.0.0.1:1"]}
    files.save(rules(Upstream()) | {"models": {"m": {"stable": "1", "versions": {"1": version}}}, "tenants": {}})
    return files


async def test_serve_says_why_it_does_not_listen(tmp_path: Path) -> None:
    files = files_of(tmp_path)
    half = ("--tls-cert", MISSING, "--tls-key", MISSING)
    whole = (*half, "--tls-client-ca", MISSING, "--allow-client-san", ENVOY_SAN)
    listen, admin = ("--listen", f"unix:{tmp_path}/s"), ("--admin", "127.0.0.1:0")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = f"127.0.0.1:{taken.getsockname()[1]}"
        wrong: dict[str, tuple[str | Path, ...]] = {
            "ext_proc would listen on 0.0.0.0:0, which other hosts can reach": ("--listen", "0.0.0.0:0", *admin),
            "the admin listener would listen on 0.0.0.0:0, which other hosts": (*listen, "--admin", "0.0.0.0:0"),
            "mutual TLS needs --tls-cert, --tls-key, --tls-client-ca and --allow-client-san": (*listen, *admin, *half),
            "the admin listener cannot listen on 127.0.0.1:0: [Errno 2] No such file": (*listen, *admin, *whole),
            f"ext_proc cannot listen on {port}: the address is in use": ("--listen", port, *admin),
            f"the admin listener cannot listen on {port}: [Errno 98]": (*listen, "--admin", port),
            "outcomes file /nowhere/o: No such file": (*listen, *admin, "--outcomes", "/nowhere/o"),
        }
        gate = asyncio.Semaphore(2)

        async def lines(number: int, options: tuple[str | Path, ...]) -> list[str]:
            serve = ("serve", files.rules, "--secrets", files.secrets, *options)
            async with gate, tenantry(tmp_path, *serve, name=f"serve{number}") as process:
                assert await process.exit(60) == 1
                return process.log.read_text().splitlines()

        found = await asyncio.gather(*(lines(number, options) for number, options in enumerate(wrong.values())))
    for text, log in zip(wrong, found, strict=True):
        assert log[-1].startswith(f"error: {text}")
        assert not any("Traceback" in line for line in log)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "sidecar.example:0", "127.0.0.1.example:0"])
async def test_no_address_that_others_reach_is_bound_without_mutual_tls(tmp_path: Path, address: str) -> None:
    """Neither without TLS nor with TLS that lets any client of the authority in; neither of the two listeners."""
    files = files_of(tmp_path)
    anybody = Tls(certificate=MISSING, key=MISSING, client_ca=MISSING, allowed_sans=frozenset())
    here, there = Address(path=str(tmp_path / "s")), parse_address(address)
    for listen, admin in ((there, here), (here, there)):
        for tls in (None, anybody):
            options = ServeOptions(
                rules=files.rules, secrets=files.secrets, listen=listen, admin=admin, tls=tls, state=files.state
            )
            with pytest.raises(BindError, match="which other hosts can reach"):
                async with serving(options, clusters):
                    pass
    assert not (tmp_path / "s").exists()


@dataclass(kw_only=True)
class Guarded:
    """A sidecar with mutual TLS on all addresses: host:port of both listeners as seen from here."""

    files: Files
    upstream: Upstream
    authority: Authority
    sidecar: str
    admin: str

    @contextlib.asynccontextmanager
    async def envoy(self, pair: tuple[Path, Path] | None, server_san: str = SIDECAR_SAN) -> AsyncIterator[str]:
        """An Envoy that presents this certificate, or speaks plain text without one."""
        tls = None
        if pair is not None:
            certificate, key = map(str, pair)
            ca = str(self.authority.certificate)
            tls = SidecarTls(ca_file=ca, cert_file=certificate, key_file=key, server_san=server_san)
        async with envoy(self.files, (self.sidecar,), sidecar_tls=tls) as (address, _admin):
            yield address

    async def unattributed(self) -> float:
        """How many access-log entries the sidecar took that it could not attribute."""
        tls: dict[str, Any] = {
            "ssl": self.authority.client(self.authority.leaf("scraper", ENVOY_SAN)),
            "server_hostname": SIDECAR_SAN,
        }
        metrics = await ask(self.admin, request("/metrics", method="GET"), **tls)
        (count,) = re.findall(rb"^tenantry_access_log_unattributed_total (\S+)", metrics.body, re.MULTILINE)
        return float(count)

    async def admin_status(self, pair: tuple[Path, Path] | None, path: str = "/healthz") -> int:
        tls: dict[str, Any] = {"ssl": self.authority.client(pair), "server_hostname": SIDECAR_SAN}
        return (await ask(self.admin, request(path, method="GET"), **tls)).status


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    folder = tmp_path_factory.mktemp("binding")
    authority, files = Authority(folder / "pki"), Files(folder=folder)
    certificate, key = authority.leaf("sidecar", SIDECAR_SAN)
    async with Upstream().running() as upstream:
        files.save(rules(upstream))
        serve: tuple[Any, ...] = (
            "serve", files.rules, "--secrets", files.secrets, "--listen", "0.0.0.0:0", "--admin", "0.0.0.0:0",
            "--tls-cert", certificate, "--tls-key", key, "--tls-client-ca", authority.certificate,
            "--allow-client-san", ENVOY_SAN, "another.test", "--outcomes", files.outcomes,
        )  # fmt: skip
        async with tenantry(folder, *serve) as process:
            ready = await process.line("sidecar ready")
            here = {name: ready[name].replace("0.0.0.0", "127.0.0.1") for name in ("address", "admin")}
            yield Guarded(
                files=files, upstream=upstream, authority=authority, sidecar=here["address"], admin=here["admin"]
            )


async def test_an_allowed_name_connects(guarded: Guarded) -> None:
    pair = guarded.authority.leaf("envoy", ENVOY_SAN)
    async with guarded.envoy(pair) as address:
        assert (await ask(address, chat(KEYS["acme"], mark="allowed"))).status == 200
        assert (await ask(address, chat("tk_unknown"))).status == 401
    assert len(guarded.upstream.marked("allowed")) == 1
    assert await guarded.admin_status(pair) == 200
    assert await guarded.admin_status(guarded.authority.leaf("dns", "another.test", ENVOY_SAN + "x")) == 200


async def test_nobody_else_does(guarded: Guarded, tmp_path: Path) -> None:
    """Envoy answers 503 then, and nothing reaches the upstream; its access log is not taken either (invariant 5)."""
    strangers = {
        "no certificate": None,
        "another name": guarded.authority.leaf("other", "spiffe://prod/other", "other.test"),
        "a longer name": guarded.authority.leaf("longer", f"{ENVOY_SAN}/x", f"x{SIDECAR_SAN}"),
        "no names": guarded.authority.leaf("nameless"),
        "the name as common name only": guarded.authority.leaf("another.test"),
        "another authority": Authority(tmp_path).leaf("foreign", ENVOY_SAN),
    }
    lines = guarded.files.outcomes.read_text() if guarded.files.outcomes.exists() else ""
    seen, unattributed = len(guarded.upstream.seen), await guarded.unattributed()

    async def status(pair: tuple[Path, Path] | None) -> tuple[int, int]:
        async with guarded.envoy(pair) as address:
            through = (await ask(address, chat(KEYS["acme"]))).status
            await asyncio.sleep(0.1)  # for the access log, which Envoy flushes every 50 ms
        return through, await guarded.admin_status(pair)

    found = {what: await status(pair) for what, pair in strangers.items()}
    assert found == {
        "no certificate": (503, 0),
        "another name": (503, 403),
        "a longer name": (503, 403),
        "no names": (503, 403),
        "the name as common name only": (503, 403),
        "another authority": (503, 0),
    }
    assert len(guarded.upstream.seen) == seen
    assert (guarded.files.outcomes.read_text() if guarded.files.outcomes.exists() else "") == lines
    assert await guarded.unattributed() == unattributed


async def test_envoy_too_wants_to_know_whom_it_asks(guarded: Guarded) -> None:
    """A sidecar with another name, be it of the same authority, decides nothing."""
    seen = len(guarded.upstream.seen)
    async with guarded.envoy(guarded.authority.leaf("envoy", ENVOY_SAN), server_san="other.test") as address:
        assert (await ask(address, chat(KEYS["acme"]))).status == 503
    assert len(guarded.upstream.seen) == seen


async def test_plain_text_to_the_admin_port_is_no_way_in(guarded: Guarded) -> None:
    assert (await ask(guarded.admin, request("/metrics", method="GET"))).status == 0


async def test_an_engine_elsewhere_ships_its_records(guarded: Guarded, tmp_path: Path) -> None:
    """By its certificate's name and its token; neither does without the other. No Envoy has a part in it."""
    port, token = guarded.admin.rpartition(":")[2], guarded.files.secrets / "usage-token"
    record = UsageRecord(
        request_id="1" * 32, engine="e-1", tenant="acme", model="chat-8b", version="1.4.0", ended_s=time.time(),
        finish_reason="stop",
    )  # fmt: skip
    logged: list[str] = []

    def shipper(pair: tuple[Path, Path], name: str = SIDECAR_SAN, token: Path = token) -> Shipper:
        files = TlsFiles(ca=guarded.authority.certificate, certificate=pair[0], key=pair[1])
        made = Shipper(
            [f"https://{name}:{port}"], token_from(token), tls=files, log=logged.append,
            resolve=lambda _: frozenset({"127.0.0.1"}),
        )  # fmt: skip
        made.start()
        made.ship(record)
        return made

    allowed = guarded.authority.leaf("engine", "another.test")
    (tmp_path / "token").write_text("another-token")
    wrong = {
        "refuses the token with 401": shipper(allowed, token=tmp_path / "token"),
        "refuses this engine with 403, is it among its --allow-client-san? It says '": shipper(
            guarded.authority.leaf("stranger", "spiffe://prod/stranger")
        ),
        "was not reached: it hung up on": shipper(Authority(tmp_path).leaf("foreign", "another.test")),
        "was not reached: its certificate does not pass as one for other.test": shipper(allowed, name="other.test"),
    }
    right = shipper(allowed)
    await until(lambda: right.counts()["shipped"] == 1 and len(logged) == len(wrong), what="shipping")
    for text, made in wrong.items():
        assert len([line for line in logged if text in line]) == 1, logged
        await asyncio.to_thread(made.stop, 0.5)
        assert made.counts()["stopped"] == 1
    await asyncio.to_thread(right.stop)
