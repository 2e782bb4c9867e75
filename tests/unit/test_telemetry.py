"""The listener for kubelet and Prometheus: three pages, for whoever reaches it, and no door to anything else."""

import asyncio
import contextlib

import aiohttp
import pytest
from tenantry.adapters import telemetry as listener
from tenantry.adapters.bind import Address, BindError
from tenantry.adapters.telemetry import telemetry

ANY = Address(host="127.0.0.1", port=0)


async def ready() -> str | None:
    return None


async def draining() -> str | None:
    return "draining"


async def exposition(accept: str) -> tuple[bytes, str]:
    return f"asked for {accept}".encode(), "text/plain"


async def get(address: Address, path: str, method: str = "GET") -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as http,
        http.request(method, f"http://{address}{path}", headers={"accept": "a/b"}) as response,
    ):
        return response.status, await response.text()


async def test_alive_ready_and_what_is_counted() -> None:
    async with telemetry(ANY, ready, exposition) as address:
        assert await get(address, "/healthz") == (200, "ok\n")
        assert await get(address, "/readyz") == (200, "ready\n")
        assert await get(address, "/metrics") == (200, "asked for ")


async def test_a_drain_is_seen_and_the_process_is_alive_all_the_same() -> None:
    async with telemetry(ANY, draining, exposition) as address:
        assert await get(address, "/readyz") == (503, "draining\n")
        assert (await get(address, "/healthz"))[0] == 200


@pytest.mark.parametrize("path", ["/", "/rules", "/rollouts", "/usage", "/quota", "/console", "/metrics/../rules"])
async def test_nothing_else_is_there(path: str) -> None:
    async with telemetry(ANY, ready, exposition) as address:
        assert (await get(address, path))[0] == 404
        assert (await get(address, path, "POST"))[0] in (404, 405)


async def test_a_port_that_is_taken_is_said() -> None:
    async with telemetry(ANY, ready, exposition) as address:
        with pytest.raises(BindError, match="telemetry listener cannot listen on"):
            async with telemetry(address, ready, exposition):
                pass


async def raw(address: Address, sent: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(sent)
    return reader, writer


async def answer(reader: asyncio.StreamReader) -> bytes:
    """Read to the end; a connection that was cut has none."""
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionError):
            return await reader.read()
    return b""


async def test_a_connection_has_one_request() -> None:
    async with telemetry(ANY, ready, exposition) as address:
        reader, writer = await raw(address, b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n" * 3)
        assert (await answer(reader)).count(b"HTTP/1.1 200") == 1
        writer.close()


async def test_who_sends_no_request_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "CONNECTION_SECONDS", 0.05)
    async with telemetry(ANY, ready, exposition) as address:
        reader, writer = await raw(address, b"GET /healthz HTTP/1.1\r\nhost: ")
        assert await answer(reader) == b""
        writer.close()


async def test_who_sends_too_much_is_cut_off() -> None:
    fits = b"GET /healthz HTTP/1.1\r\nhost: a\r\n" + b"x: y\r\n" * 90 + b"\r\n"
    async with telemetry(ANY, ready, exposition) as address:
        reader, writer = await raw(address, fits)
        assert b" 200 " in await answer(reader)
        writer.close()
        reader, writer = await raw(address, b"x" * 7_000 + fits * 3)
        assert await answer(reader) == b""
        writer.close()
        assert (await get(address, "/healthz"))[0] == 200


async def test_clients_that_hold_every_connection_keep_no_probe_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "MAX_CONNECTIONS", 4)
    async with telemetry(ANY, ready, exposition) as address:
        held = [await raw(address, b"GET /healthz HTTP/1.1\r\n") for _ in range(4)]
        assert await get(address, "/healthz") == (200, "ok\n")
        assert await answer(held[0][0]) == b"", "the one that waited longest made room"
        held[3][1].write(b"host: a\r\n\r\n")
        assert b" 200 " in await answer(held[3][0]), "the others stay"
        for _, writer in held:
            writer.close()


async def test_a_crowd_of_scrapers_has_it_rendered_once() -> None:
    asked: list[str] = []

    async def slow(accept: str) -> tuple[bytes, str]:
        asked.append(accept)
        await asyncio.sleep(0.05)
        return b"counted", "text/plain"

    async with telemetry(ANY, ready, slow) as address:
        await asyncio.gather(*(get(address, "/metrics") for _ in range(20)))
        assert asked == [""]


async def test_what_is_counted_is_a_second_old_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "FRESH_SECONDS", 0.0)
    rounds = iter(range(9))

    async def count(_accept: str) -> tuple[bytes, str]:
        return str(next(rounds)).encode(), "text/plain"

    async with telemetry(ANY, ready, count) as address:
        assert [(await get(address, "/metrics"))[1] for _ in range(3)] == ["0", "1", "2"]
