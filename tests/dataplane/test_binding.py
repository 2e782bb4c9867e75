"""Who reaches ext_proc and the access log could forge tenants and bills: loopback, or mutual TLS with an allowed name."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from dataplane.harness import KEYS, Files, Process, envoy, rules, tenantry
from dataplane.pki import Authority
from dataplane.upstream import Upstream
from dataplane.wire import ask, chat, request
from tenantry_envoy.options import SidecarTls

ENVOY_SAN, SIDECAR_SAN = "spiffe://prod/envoy", "sidecar.test"
MISSING = Path("missing.pem")


@pytest.mark.parametrize("flag", ["--listen", "--admin"])
@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "sidecar.example:0"])
@pytest.mark.parametrize("tls", [(), ("--tls-cert", MISSING, "--tls-key", MISSING, "--tls-client-ca", MISSING)])
async def test_an_open_port_without_mutual_tls_is_refused(
    tmp_path: Path, flag: str, address: str, tls: tuple[str | Path, ...]
) -> None:
    """Neither without TLS nor with TLS that would let any client of the authority in."""
    files = Files(folder=tmp_path)
    files.save(rules(Upstream()) | {"models": {"m": {"stable": "1", "versions": {"1": {"endpoints": ["h:1"]}}}}, "tenants": {}})
    other = ("--admin", "127.0.0.1:0") if flag == "--listen" else ("--listen", f"unix:{tmp_path}/s")
    async with tenantry(tmp_path, "serve", files.rules, "--secrets", files.secrets, flag, address, *other, *tls) as process:
        assert await process.exit() == 1
        message = process.log.read_text()
    what = "ext_proc" if flag == "--listen" else "the admin listener"
    assert message.startswith(f"error: {what} would listen on {address}, which other hosts can reach")
    assert "--allow-client-san" in message
    assert "Traceback" not in message


@pytest.mark.parametrize("given", [("--tls-cert",), ("--tls-cert", "--tls-key"), ("--tls-client-ca",)])
async def test_half_of_the_tls_options_is_an_error_not_plain_text(tmp_path: Path, given: tuple[str, ...]) -> None:
    options = [part for name in given for part in (name, MISSING)]
    async with tenantry(tmp_path, "serve", tmp_path / "r", "--secrets", tmp_path, *options) as process:
        assert await process.exit() == 1
        assert "--tls-client-ca" in process.log.read_text()


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

    async def admin_status(self, pair: tuple[Path, Path] | None, path: str = "/healthz") -> int:
        tls = {"ssl": self.authority.client(pair), "server_hostname": SIDECAR_SAN}
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
    seen = len(guarded.upstream.seen)

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
    text = (await ask(guarded.admin, request("/metrics", method="GET"), ssl=guarded.authority.client(
        guarded.authority.leaf("scraper", ENVOY_SAN)), server_hostname=SIDECAR_SAN)).body.decode()  # fmt: skip
    assert "tenantry_access_log_unattributed_total 0.0" in text or "tenantry_access_log_unattributed_total 1.0" in text


async def test_envoy_too_wants_to_know_whom_it_asks(guarded: Guarded) -> None:
    """A sidecar with another name, be it of the same authority, decides nothing."""
    seen = len(guarded.upstream.seen)
    async with guarded.envoy(guarded.authority.leaf("envoy", ENVOY_SAN), server_san="other.test") as address:
        assert (await ask(address, chat(KEYS["acme"]))).status == 503
    assert len(guarded.upstream.seen) == seen


async def test_plain_text_to_the_admin_port_is_no_way_in(guarded: Guarded) -> None:
    assert (await ask(guarded.admin, request("/metrics", method="GET"))).status == 0


def unused(process: Process) -> None:
    del process
