"""Shipping over mutual TLS: whom the shipper trusts, what it shows, and files that are missing, wrong or rotated."""

import asyncio
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from dataplane.pki import Authority
from msgspec.structs import replace
from tenantry.adapters.bind import Tls
from tenantry.core.usage import UsageRecord
from tenantry_testing.sidecars import TOKEN, StubSidecar
from tenantry_vllm.outbox import Limits
from tenantry_vllm.shipper import Shipper
from tenantry_vllm.sidecar_http import SidecarConnection, parse_url
from tenantry_vllm.sidecar_tls import TlsError, TlsFiles

NAME, ENGINE = "sidecars.test", "spiffe://prod/engine"
QUICK = Limits(flush_s=0.02, first_retry_s=0.05, longest_retry_s=0.1)


def record(number: int) -> UsageRecord:
    return UsageRecord(
        request_id=f"{number:032x}",
        engine="e",
        tenant="acme",
        model="m",
        version="1",
        ended_s=1.0,
        finish_reason="stop",
    )


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


@pytest.fixture
def foreign(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "foreign", "foreign")


def files(authority: Authority, name: str = "engine") -> TlsFiles:
    certificate, key = authority.leaf(name, ENGINE)
    return TlsFiles(ca=authority.certificate, certificate=certificate, key=key)


def server(authority: Authority, *sans: str, client_ca: Authority | None = None) -> ssl.SSLContext:
    """The context of a sidecar's own listener."""
    certificate, key = authority.leaf("-".join(sans).replace(":", ""), *sans)
    ca = (client_ca or authority).certificate
    return Tls(certificate=certificate, key=key, client_ca=ca, allowed_sans=frozenset()).ssl_context()


@asynccontextmanager
async def posting(
    url: str, tls: TlsFiles, *addresses: str, timeout_s: float = 30.0
) -> AsyncIterator[tuple[Shipper, list[str]]]:
    """A shipper, and what it logs; by default so patient that a slow machine is no trouble of its own."""
    logged: list[str] = []
    shipper = Shipper(
        [url], lambda: TOKEN, log=logged.append, tls=tls, limits=QUICK,
        resolve=lambda endpoint: frozenset(addresses or {endpoint.host}),
        connect=partial(SidecarConnection, timeout_s=timeout_s),
    )  # fmt: skip
    shipper.start()
    try:
        yield shipper, logged
    finally:
        await asyncio.to_thread(shipper.stop, 0.5)


@asynccontextmanager
async def running(*stubs: StubSidecar) -> AsyncIterator[None]:
    for stub in stubs:
        await stub.start()
    try:
        yield
    finally:
        for stub in stubs:
            await stub.stop()


async def told(logged: list[str], text: str) -> None:
    """Wait for one line that says so, and see that several tries later there still is but one."""
    async with asyncio.timeout(10):
        while not logged:
            await asyncio.sleep(0.005)
    await asyncio.sleep(0.4)
    (line,) = logged
    assert text in line
    assert line.endswith("Serving goes on; its rollout guard sees less.")


async def test_each_address_is_verified_under_the_name(ours: Authority) -> None:
    asked: list[str] = []
    context = server(ours, NAME)
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    one = StubSidecar(context)
    async with running(one):
        two = StubSidecar(context, host="127.0.0.2")
        two.port = one.port
        async with running(two), posting(f"https://{NAME}.:{one.port}", files(ours), one.host, two.host) as (made, log):
            made.ship(record(1))
            await one.until(1)
            await two.until(1)
            made.ship(record(2))
            await one.until(2)
            assert log == []
    assert asked == [NAME, NAME], "one connection each, kept alive"


async def test_an_address_in_the_url_is_verified_as_one(ours: Authority) -> None:
    stub = StubSidecar(server(ours, "127.0.0.1"))
    async with running(stub), posting(stub.url, files(ours)) as (shipper, _):
        shipper.ship(record(1))
        await stub.until(1)


async def test_tls_before_1_2_is_not_spoken(ours: Authority) -> None:
    assert files(ours).context().minimum_version is ssl.TLSVersion.TLSv1_2
    context = server(ours, NAME)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    stub = StubSidecar(context)
    async with running(stub), posting(f"https://{NAME}:{stub.port}", files(ours), stub.host) as (shipper, _):
        shipper.ship(record(1))
        await stub.until(1)


@pytest.mark.parametrize("case", ["another authority", "another name", "the address alone"])
async def test_a_sidecar_that_proves_nothing_gets_nothing(case: str, ours: Authority, foreign: Authority) -> None:
    contexts = {
        "another authority": lambda: server(foreign, NAME, client_ca=ours),
        "another name": lambda: server(ours, "other.test", f"x.{NAME}"),
        "the address alone": lambda: server(ours, "127.0.0.1"),
    }
    stub = StubSidecar(context := contexts[case]())
    async with running(stub):
        url = f"https://{NAME}:{stub.port}"
        async with posting(url, files(ours), stub.host) as (shipper, logged):
            shipper.ship(record(1))
            await told(
                logged, f"was not reached: its certificate does not pass as one for {NAME} of {ours.certificate}"
            )
            assert stub.posts == 0
            # In place: while a stub restarts nobody listens, which would be another trouble, told of as well.
            context.load_cert_chain(*ours.leaf("mended", NAME))
            await stub.until(1)
            async with asyncio.timeout(10):
                while "takes usage records again" not in logged[-1]:
                    await asyncio.sleep(0.005)
    assert len(logged) == 2


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_client_certificate_that_is_refused_is_said_once_and_tried_again(
    newest: ssl.TLSVersion, ours: Authority, foreign: Authority, tmp_path: Path
) -> None:
    """And a rotated one is taken without a restart."""
    good, bad = files(ours), files(foreign)
    mine = TlsFiles(ca=ours.certificate, certificate=tmp_path / "engine.pem", key=tmp_path / "engine.key")
    shutil.copy(bad.certificate, mine.certificate)
    shutil.copy(bad.key, mine.key)
    context = server(ours, NAME)
    context.maximum_version = newest
    stub = StubSidecar(context)
    async with running(stub), posting(f"https://{NAME}:{stub.port}", mine, stub.host) as (shipper, logged):
        shipper.ship(record(1))
        await told(logged, str(mine.certificate))
        assert stub.posts == 0
        shutil.copy(good.key, mine.key)
        shutil.copy(good.certificate, mine.certificate)
        await stub.until(1)
        # What is open stays; what is opened next shows the file's newest content.
        shutil.copy(bad.key, mine.key)
        shutil.copy(bad.certificate, mine.certificate)
        shipper.ship(record(2))
        await stub.until(2)
        await stub.stop()
        await stub.start()
        shipper.ship(record(3))
        await asyncio.sleep(0.3)
        assert len(stub.records) == 2
        shutil.copy(good.key, mine.key)
        shutil.copy(good.certificate, mine.certificate)
        await stub.until(3)


async def test_a_rotated_authority_is_read_again(ours: Authority, foreign: Authority, tmp_path: Path) -> None:
    mine = replace(files(ours), ca=tmp_path / "ca.pem")
    shutil.copy(foreign.certificate, mine.ca)
    stub = StubSidecar(server(ours, NAME))
    async with running(stub), posting(f"https://{NAME}:{stub.port}", mine, stub.host) as (shipper, logged):
        shipper.ship(record(1))
        await told(logged, "does not pass")
        mine.ca.write_bytes(foreign.certificate.read_bytes() + ours.certificate.read_bytes())
        await stub.until(1)


async def test_files_that_come_late_are_waited_for(ours: Authority, tmp_path: Path) -> None:
    good = files(ours)
    mine = replace(good, key=tmp_path / "late.key")
    stub = StubSidecar(server(ours, NAME))
    async with running(stub), posting(f"https://{NAME}:{stub.port}", mine, stub.host) as (shipper, logged):
        shipper.ship(record(1))
        await told(logged, f"was not reached: {mine.key} cannot be read: No such file or directory.")
        shutil.copy(good.key, mine.key)
        await stub.until(1)


async def test_a_hung_handshake_and_a_plain_port_are_troubles_like_others(ours: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hung:  # accepted by the kernel, and by nobody else
        port = hung.getsockname()[1]
        async with posting(f"https://{NAME}:{port}", files(ours), "127.0.0.1", timeout_s=0.3) as (shipper, logged):
            shipper.ship(record(1))
            await told(logged, "timed out")
    plain = StubSidecar()
    async with running(plain), posting(f"https://{NAME}:{plain.port}", files(ours), plain.host) as (shipper, logged):
        shipper.ship(record(1))
        await told(logged, "was not reached: no TLS there")
        assert plain.posts == 0


@pytest.mark.parametrize("kept_alive", [False, True])
@pytest.mark.parametrize("secure", [False, True])
async def test_abort_wakes_a_post_for_good(secure: bool, kept_alive: bool, ours: Authority) -> None:
    """A connection that was kept alive looks closed by the other side then: it is not opened again."""
    stub = StubSidecar(server(ours, "127.0.0.1") if secure else None)
    async with running(stub):
        connection = SidecarConnection(
            parse_url(stub.url), stub.host, lambda: TOKEN, files(ours) if secure else None, timeout_s=60.0
        )

        async def post() -> int:
            return (await asyncio.to_thread(connection.post, b'{"records":[]}')).status

        if kept_alive:
            assert await post() == 200
        already, stub.status = stub.posts, 0
        waiting = asyncio.create_task(post())
        await stub.until_posts(already + 1)
        connection.abort()
        async with asyncio.timeout(30):
            for posted in (waiting, post()):
                with pytest.raises(ConnectionAbortedError, match="given up at the end"):
                    await posted
        assert stub.posts == already + 1


def test_files_that_are_no_good_are_named(ours: Authority, foreign: Authority, tmp_path: Path) -> None:
    good = files(ours)
    empty, locked = tmp_path / "empty", tmp_path / "locked.key"
    empty.touch()
    key = serialization.load_pem_private_key(good.key.read_bytes(), None)
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"pw")
        )
    )
    wrong = {
        f"{tmp_path} cannot be read: Is a directory": replace(good, ca=tmp_path),
        f"{tmp_path}/none cannot be read: No such file": replace(good, certificate=tmp_path / "none"),
        f"{empty} holds no PEM certificates of authorities": replace(good, ca=empty),
        f"{good.key} holds no PEM certificates of authorities": replace(good, ca=good.key),
        f"{empty} and {good.key} are no certificate with its key": replace(good, certificate=empty),
        f"{good.certificate} and {empty} are no certificate": replace(good, key=empty),
        "KEY_VALUES_MISMATCH": replace(good, key=files(foreign).key),
        f"{locked} is encrypted": replace(good, key=locked),
    }
    for text, bad in wrong.items():
        with pytest.raises(TlsError) as caught:
            bad.context()
        assert text in str(caught.value)
