"""Asks a sidecar's admin listener, as the command line does."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from tenantry.adapters.bind import Address, parse_address
from tenantry.adapters.unreachable import why
from tenantry.core.errors import TenantryError
from tenantry.core.keyring import ADMIN_TOKEN

TIMEOUT = aiohttp.ClientTimeout(total=15)


class AdminError(TenantryError):
    """The admin listener could not be reached, or refused; the message says which and why."""


class AdminClient:
    """One sidecar's admin listener. `admin` is HOST:PORT or unix:/PATH, `secrets` the folder with the admin token."""

    def __init__(self, admin: str, secrets: Path) -> None:
        self._address: Address = parse_address(admin.removeprefix("http://").rstrip("/"))
        self._token_file = secrets / ADMIN_TOKEN

    async def ask(
        self, method: str, path: str, *, params: Mapping[str, str] | None = None, body: object | None = None
    ) -> Any:
        """Return the decoded answer; raise AdminError for anything but 200."""
        connector = aiohttp.UnixConnector(self._address.path) if self._address.path else None
        base = "http://sidecar" if self._address.path else f"http://{self._address}"
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=TIMEOUT) as http,
                http.request(
                    method,
                    base + path,
                    params=params,
                    data=None if body is None else msgspec.json.encode(body),
                    headers={"authorization": f"Bearer {self._token()}"},
                ) as response,
            ):
                text = await response.read()
                if response.status == 200:
                    return msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise AdminError(f"what answers at {self._address} is no sidecar's admin listener; give --admin") from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise AdminError(
                f"no sidecar's admin listener answers at {self._address} ({why(error)}); give --admin"
            ) from None
        if response.status == 401:
            raise AdminError(f"{self._address} does not know the admin token in {self._token_file}; give --secrets")
        raise AdminError(_reason(text) or f"{self._address} answered {response.status}")

    def _token(self) -> str:
        try:
            token = self._token_file.read_text(encoding="ascii").strip()
        except OSError as error:
            raise AdminError(f"admin token {self._token_file}: {error.strerror or error}; give --secrets") from None
        except UnicodeDecodeError:
            token = ""
        if not token.isprintable() or not token:
            raise AdminError(f"admin token {self._token_file}: is no line of text; give --secrets")
        return token


def _reason(text: bytes) -> str:
    try:
        answer = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    return str(answer.get("error", "")) if isinstance(answer, dict) else ""
