"""The listener for kubelet and Prometheus: three pages, for whoever reaches it, and no door to anything else."""

import aiohttp
import pytest
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
        assert await get(address, "/metrics") == (200, "asked for a/b")


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
