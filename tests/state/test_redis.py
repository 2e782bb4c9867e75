"""Redis as it fails: gone, silent, full, read-only, locked, another program's; and what is never in a message."""

import asyncio
import contextlib
import random
import shutil
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import pytest
from dataplane.pki import Authority
from tenantry.adapters.ports import free_port
from tenantry.adapters.state import StateUnavailableError
from tenantry.adapters.state.redis import RedisState
from tenantry.core.rollout.visits import Arrival
from tenantry_testing.redis_server import RedisServer, redis_server

PASSWORD = "p:a/s?s#w@o%rd-never-shown"
ENCODED = "p%3Aa%2Fs%3Fs%23w%40o%25rd-never-shown"


def one_more(document: bytes | None) -> bytes:
    return b"%d" % (int(document or 0) + 1)


Call = Callable[[RedisState], Awaitable[object]]
CALLS: list[Call] = [
    lambda store: store.update("key", one_more),
    lambda store: store.visits("key", [Arrival(unit="s1", warming=False, has_past=False)], ttl_s=60),
    lambda store: store.append("key", "id", b"entry"),
    lambda store: store.entries("key", 1),
    lambda store: store.forget("key"),
]


async def failures(store: RedisState, within_s: float, calls: Sequence[Call] = CALLS) -> str:
    """Every call fails in time; returns what one of them says, whole, as a log would show it."""
    text = ""
    for call in calls:
        begin = time.monotonic()
        with pytest.raises(StateUnavailableError) as caught:
            await call(store)
        assert time.monotonic() - begin < within_s
        assert caught.value.__context__ is None, "a cause may repeat the password"
        text = "".join(traceback.format_exception(caught.value))
    return text


@contextlib.asynccontextmanager
async def talking(answer: Callable[[bytes], bytes]) -> AsyncIterator[str]:
    """A server that answers each chunk it gets with what `answer` says; yields its address."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65_536):
                writer.write(answer(chunk))
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_nobody_listens() -> None:
    store = RedisState(f"redis://127.0.0.1:{free_port()}/0")
    text = await failures(store, within_s=2.5)
    assert "state at redis://127.0.0.1:" in text
    assert "Connect call failed" in text or "refused" in text
    await store.close()


async def test_a_server_that_accepts_and_never_answers() -> None:
    async with talking(lambda _: b"") as address:
        store = RedisState(f"redis://{address}", timeout_s=0.3)
        assert "imeout" in await failures(store, within_s=1.0)
        begin = time.monotonic()
        done = await asyncio.gather(*(CALLS[0](store) for _ in range(20)), return_exceptions=True)
        assert all(isinstance(error, StateUnavailableError) for error in done)
        assert time.monotonic() - begin < 1.5, "tasks that wait for one another do not add up their waits"
        await store.close()


async def test_a_server_that_speaks_something_else() -> None:
    async with talking(lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n") as address:
        store = RedisState(f"redis://{address}", timeout_s=0.3)
        await failures(store, within_s=1.0)
        await store.close()


async def test_a_frozen_server_and_its_return(own_redis: RedisServer) -> None:
    store = RedisState(own_redis.url, timeout_s=0.3)
    await store.update("key", one_more)
    own_redis.freeze()
    await failures(store, within_s=1.0)
    own_redis.thaw()
    # What was asked of the frozen server may have been done: the writes were on their way.
    assert int(await store.update("key", one_more)) >= 2
    await store.close()


async def test_answers_that_come_too_late_are_never_taken_for_others(own_redis: RedisServer) -> None:
    """A call cancelled before its answer came must not leave the answer to the connection's next user."""
    dice = random.Random(7)

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, late: bool) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65_536):
                await asyncio.sleep(dice.choice((0, 0, 0, 0.02, 0.12)) if late else 0)
                writer.write(chunk)
                await writer.drain()
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", own_redis.port)
        await asyncio.gather(pass_on(reader, far_writer, late=False), pass_on(far_reader, writer, late=True))

    done: Counter[bool] = Counter()

    async def work(store: RedisState, key: str) -> None:
        def merge(document: bytes | None) -> bytes:
            assert (document or key.encode()).startswith(key.encode())
            return key.encode() + b"%d" % dice.randrange(10**6)

        for number in range(30):
            try:
                async with asyncio.timeout(dice.choice((0.005, 0.03, 1.0))):
                    match number % 3:
                        case 0:
                            assert (await store.update(key, merge)).startswith(key.encode())
                        case 1:
                            assert await store.append(key, f"{key}{number}", key.encode()) is True
                        case _:
                            assert set(await store.entries(key, 100)) <= {key.encode()}
                done[True] += 1
            except (StateUnavailableError, TimeoutError):
                done[False] += 1

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        stores = [RedisState(f"redis://127.0.0.1:{port}/1", timeout_s=0.1) for _ in range(6)]
        await asyncio.gather(
            *(work(store, f"{letter}{place}-") for place, store in enumerate(stores) for letter in "abc")
        )
        await asyncio.gather(*(store.close() for store in stores))
    assert min(done[True], done[False]) > 20, f"both happen: {done}"


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_a_restart_that_lost_everything(own_redis: RedisServer, end: str) -> None:
    store = RedisState(own_redis.url)
    for call in CALLS:
        await call(store)
    await getattr(own_redis, end)()
    await failures(store, within_s=2.5)
    await own_redis.start()
    # Documents, counts, log and the Lua scripts too are gone; the first calls after it succeed.
    assert await store.update("key", one_more) == b"1"
    assert (await store.visits("key", [Arrival(unit="s1", warming=False, has_past=False)], ttl_s=60))[0].number == 1
    assert await store.entries("key", 10) == []
    assert await store.append("key", "id", b"entry")
    await store.close()


async def test_a_restart_between_two_calls_is_not_noticed(own_redis: RedisServer) -> None:
    store = RedisState(own_redis.url)
    await store.update("key", one_more)
    await own_redis.kill()
    await own_redis.start()
    assert await store.update("key", one_more) == b"1"
    await store.close()


async def test_full_memory_changes_nothing(own_redis: RedisServer) -> None:
    store = RedisState(own_redis.url)
    await store.append("key", "first", b"1")
    await store.visits("key", [Arrival(unit="s1", warming=False, has_past=False)], ttl_s=60)
    await own_redis.command("CONFIG", "SET", "maxmemory", "1")
    for call in CALLS[:3]:
        with pytest.raises(StateUnavailableError, match=r"maxmemory.*give it more memory"):
            await call(store)
    assert await store.entries("key", 10) == [b"1"]
    await own_redis.command("CONFIG", "SET", "maxmemory", "0")
    assert await store.append("key", "id", b"2"), "its id was not taken by the attempt that failed"
    assert (await store.visits("key", [Arrival(unit="s1", warming=False, has_past=False)], ttl_s=60))[0].number == 2
    assert await store.update("key", one_more) == b"1"
    await store.close()


async def test_a_replica_may_not_be_written(own_redis: RedisServer) -> None:
    store = RedisState(own_redis.url)
    await own_redis.command("REPLICAOF", "127.0.0.1", str(free_port()))
    for call in CALLS[:3]:
        with pytest.raises(StateUnavailableError, match="name the primary"):
            await call(store)
    await own_redis.command("REPLICAOF", "NO", "ONE")
    assert await store.update("key", one_more) == b"1"
    await store.close()


async def test_keys_of_another_program(own_redis: RedisServer) -> None:
    store = RedisState(own_redis.url)
    for name in ("document:{key}", "visits:{key}", "log:{key}"):
        await own_redis.command("LPUSH" if name.startswith(("d", "v")) else "SET", f"tenantry:{name}", "foreign")
    assert "a database of its own" in await failures(store, within_s=1.0, calls=CALLS[:4])
    await store.close()


async def test_a_key_in_steady_change_is_given_up_on(own_redis: RedisServer) -> None:
    store, other = RedisState(own_redis.url, timeout_s=0.5), RedisState(own_redis.url)

    async def change() -> None:
        await other.update("key", one_more)

    loop = asyncio.get_running_loop()

    def merge(document: bytes | None) -> bytes:
        asyncio.run_coroutine_threadsafe(change(), loop).result(2)
        return b"mine"

    with pytest.raises(StateUnavailableError, match=r"changed by others 200 times|nor a turn within 1 s"):
        await store.update("key", merge)
    await store.close()
    await other.close()


@pytest.fixture(scope="module")
def locked_folder(redis_program: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("locked")


async def test_passwords_are_used_and_never_shown(locked_folder: Path) -> None:
    async with redis_server(locked_folder, password=PASSWORD) as server:
        address = f"127.0.0.1:{server.port}"
        good = RedisState(f"redis://:{ENCODED}@{address}/3")
        assert await good.update("key", one_more) == b"1"
        await good.close()
        wrong = RedisState(f"redis://:{ENCODED}-and-more@{address}")
        text = await failures(wrong, within_s=1.0)
        assert "user or password is wrong" in text
        await wrong.close()
        none = RedisState(f"redis://{address}")
        assert "names no password" in await failures(none, within_s=1.0)
        await none.close()
        assert "never-shown" not in text


async def test_a_server_that_repeats_the_password() -> None:
    def unknown(chunk: bytes) -> bytes:
        return b"-ERR unknown command 'AUTH', with args beginning with: '" + PASSWORD.encode() + b"'\r\n"

    async with talking(unknown) as address:
        store = RedisState(f"redis://:{ENCODED}@{address}", timeout_s=0.3)
        text = await failures(store, within_s=1.0)
        assert "never-shown" not in text
        assert "***" in text
        await store.close()


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """With a path short enough for a unix socket."""
    folder = Path(tempfile.mkdtemp(prefix="tn-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


async def test_a_unix_socket(redis_program: None, short_folder: Path) -> None:
    path = short_folder / "redis.sock"
    async with redis_server(short_folder, "--unixsocket", str(path), password=PASSWORD) as server:
        store = RedisState(f"unix://:{ENCODED}@{path}?db=2")
        assert await store.update("key", one_more) == b"1"
        await server.kill()
        path.unlink()
        assert f"state at unix://{path}" in await failures(store, within_s=1.0)
        await store.close()


async def test_tls_verifies_the_server(redis_program: None, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, private_key = authority.leaf("redis", "127.0.0.1")
    port = free_port()
    options = (
        "--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(private_key),
        "--tls-auth-clients", "no",
    )  # fmt: skip
    async with redis_server(tmp_path / "redis", *options, password=PASSWORD) as server:
        url = f"rediss://:{ENCODED}@127.0.0.1:{port}/0"
        store = RedisState(f"{url}?ssl_ca_certs={authority.certificate}")
        assert await store.update("key", one_more) == b"1"
        await store.close()
        stranger = RedisState(url)
        assert "CERTIFICATE_VERIFY_FAILED" in await failures(stranger, within_s=1.5)
        await stranger.close()
        missing = RedisState(f"{url}?ssl_ca_certs={tmp_path}/none.pem")
        await failures(missing, within_s=1.0)
        await missing.close()
        plain = RedisState(f"rediss://:{ENCODED}@127.0.0.1:{server.port}/0", timeout_s=0.3)
        await failures(plain, within_s=1.0)
        await plain.close()
