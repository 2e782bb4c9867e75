"""Asks a ledger's service, as the command line and training jobs do."""

import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import aiohttp
import msgspec
from msgspec import Struct

from tenantry.adapters.bind import Address, parse_address
from tenantry.adapters.ledger.store import ClosedPeriod
from tenantry.adapters.unreachable import why
from tenantry.core.billing.operator import Bills
from tenantry.core.billing.tallies import Tally
from tenantry.core.errors import TenantryError
from tenantry.core.usage import Batch, Record

TIMEOUT = aiohttp.ClientTimeout(total=60)
MAX_TOKEN_BYTES = 4_096

Answer = TypeVar("Answer")


class LedgerClientError(TenantryError):
    """The ledger could not be reached, or refused; the message says which and why."""


class LedgerAwayError(LedgerClientError):
    """The ledger did not answer, or not now: the same request may succeed later."""


class UsageAnswer(Struct, frozen=True, kw_only=True):
    """What `GET /usage` answers."""

    tallies: tuple[Tally, ...]


class PeriodsAnswer(Struct, frozen=True, kw_only=True):
    """What `GET /periods` answers."""

    periods: tuple[ClosedPeriod, ...]


class BookedAnswer(Struct, frozen=True, kw_only=True):
    """What `POST /records` answers: how many records were new, and how many the ledger had already."""

    new: int = 0
    known: int = 0


class LedgerTls(Struct, frozen=True, kw_only=True):
    """For a ledger on another host: the CA that its certificate is from, and our own certificate."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


class LedgerClient:
    """One ledger. `ledger` is HOST:PORT, unix:/PATH or an http(s) URL; `token_file` holds the credential.

    The credential is the admin token, the usage token, or a tenant's own API key: each opens what it is for.
    """

    def __init__(self, ledger: str, token_file: Path, tls: LedgerTls | None = None) -> None:
        self._named, self._token_file = ledger, token_file
        self._base, self._socket = _base(ledger)
        self._tls = tls or LedgerTls()

    async def usage(self, params: Mapping[str, str]) -> list[Tally]:
        """Return the tallies of a query."""
        return list(_decoded(await self._ask("GET", "/usage", params=params), UsageAnswer, self._named).tallies)

    async def bills(self, params: Mapping[str, str]) -> Bills:
        """Return the invoices of a period, and the operator's statement if the credential is the operator's."""
        return _decoded(await self._ask("GET", "/invoice", params=params), Bills, self._named)

    async def periods(self) -> tuple[ClosedPeriod, ...]:
        """Return the periods that were closed."""
        return _decoded(await self._ask("GET", "/periods"), PeriodsAnswer, self._named).periods

    async def close(self, period: str) -> ClosedPeriod:
        """Close a period, for good."""
        body = msgspec.json.encode({"period": period})
        return _decoded(await self._ask("POST", "/periods/close", body=body), ClosedPeriod, self._named)

    async def book(self, records: Sequence[Record]) -> BookedAnswer:
        """Post records; when it returns they are on the ledger's disk. Raises LedgerAwayError to be tried again."""
        body = msgspec.json.encode(Batch(records=tuple(records)))
        return _decoded(await self._ask("POST", "/records", body=body), BookedAnswer, self._named)

    async def _ask(
        self, method: str, path: str, *, params: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> bytes:
        headers = {"authorization": f"Bearer {self._token()}"}
        if body is not None:
            headers["content-type"] = "application/json"
        try:
            async with (
                aiohttp.ClientSession(connector=self._connector(), timeout=TIMEOUT) as http,
                http.request(method, self._base + path, params=params, data=body, headers=headers) as response,
            ):
                answer = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise LedgerAwayError(f"no ledger answers at {self._named} ({why(error)}); give --ledger") from None
        if response.status == 200:
            return answer
        said = _reason(answer)
        if response.status == 401:
            raise LedgerClientError(
                f"the ledger at {self._named} does not take the credential in {self._token_file}; give --token-file"
            )
        kind = LedgerAwayError if response.status >= 500 or response.status == 429 else LedgerClientError
        raise kind(said or f"what answers at {self._named} is no ledger ({response.status}); give --ledger")

    def _connector(self) -> aiohttp.BaseConnector:
        if self._socket:
            return aiohttp.UnixConnector(self._socket)
        tls = self._tls
        if not self._base.startswith("https:"):
            return aiohttp.TCPConnector()
        try:
            context = ssl.create_default_context(cafile=str(tls.ca) if tls.ca else None)
            if tls.certificate is not None:
                context.load_cert_chain(tls.certificate, tls.key)
        except OSError as error:  # ssl.SSLError is one
            raise LedgerClientError(f"the files for TLS to the ledger cannot be used: {error}") from None
        return aiohttp.TCPConnector(ssl=context)

    def _token(self) -> str:
        try:
            with self._token_file.open("rb") as file:
                token = file.read(MAX_TOKEN_BYTES).decode("ascii").strip()
        except OSError as error:
            raise LedgerClientError(
                f"credential {self._token_file}: {error.strerror or error}; give --token-file"
            ) from None
        except UnicodeDecodeError:
            token = ""
        if not token or not token.isprintable() or " " in token:
            raise LedgerClientError(f"credential {self._token_file}: is no line of text; give --token-file")
        return token


def _base(ledger: str) -> tuple[str, str]:
    """Return the URL to ask, and the path of the socket behind it if it is one."""
    if ledger.startswith("https://"):
        return ledger.rstrip("/"), ""
    address: Address = parse_address(ledger.removeprefix("http://").rstrip("/"))
    if not address.is_local:
        raise LedgerClientError(
            f"{ledger}: a credential goes to another host over TLS alone; give --ledger https://{address}, "
            "and what it asks for of --ledger-ca, --ledger-cert, --ledger-key"
        )
    return ("http://ledger", address.path) if address.path else (f"http://{address}", "")


def _decoded(answer: bytes, shape: type[Answer], named: str) -> Answer:
    try:
        return msgspec.json.decode(answer, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise LedgerClientError(f"what answers at {named} is no ledger of this release; give --ledger") from None


def _reason(answer: bytes) -> str:
    try:
        said = msgspec.json.decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    reason = said.get("error") if isinstance(said, dict) else None
    return reason if isinstance(reason, str) else ""
