"""What the ledger's service goes by: the rules, for weights and keys, and its two tokens. Read anew when they change.

Of the secrets folder only `admin-token` and `usage-token` are read: a ledger needs no key that decides about requests.
A document that is refused changes nothing (invariant 9).
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct
from watchfiles import awatch

from tenantry.adapters import logs
from tenantry.adapters.rules_aside import book_of
from tenantry.adapters.rules_file import Source, rules_of
from tenantry.core.errors import RulesError, TenantryError
from tenantry.core.keyring import ADMIN_TOKEN, USAGE_TOKEN, required
from tenantry.core.rulebook import RuleBook

RECHECK_MILLISECONDS = 5_000
"""Some file systems send no events; the bytes are compared this often anyway."""


class Live(Struct, frozen=True, kw_only=True):
    """One good state of rules and tokens. Its repr shows neither token."""

    book: RuleBook
    admin_token: bytes
    usage_token: bytes

    def __repr__(self) -> str:
        return "Live(...)"


class LiveRules:
    """Keeps `live` on the newest good document; `told` hears of each, and of a refusal as None.

    Raises RulesError or SecretsError when there is none to begin with.
    """

    def __init__(self, rules: Path, secrets: Path, told: Callable[[Live | None], None]) -> None:
        self._source = Source(rules, secrets)
        self._told = told
        raw, files = self._source.read()
        self._digest = self._source.digest(raw, files)
        self.live = _live(RuleBook(rules_of(raw)), files)
        told(self.live)

    async def run(self) -> None:
        """Watch until cancelled."""
        folders = (self._source.watched(), self._source.secrets.resolve())
        async for _ in awatch(
            *folders, debounce=50, step=20, recursive=False, yield_on_timeout=True, rust_timeout=RECHECK_MILLISECONDS
        ):
            await self.check()

    async def check(self) -> None:
        """Read anew when the bytes changed since the last look."""
        digest = "unreadable"
        try:
            raw, files = await asyncio.to_thread(self._source.read)
            digest = self._source.digest(raw, files)
            if digest == self._digest:
                return
            self.live = _live(await book_of(raw), files)
        except Exception as error:  # noqa: BLE001  # whatever it is, the last good document stays and the watch goes on
            if digest != self._digest:
                self._digest = digest
                self._told(None)
                logs.get().error(
                    "rules refused; the ledger keeps to the last good document", digest=digest,
                    problems=_problems(error), exc_info=error,
                )  # fmt: skip
            return
        self._digest = digest
        self._told(self.live)
        logs.get().info("rules live in the ledger", digest=digest, models=len(self.live.book.rules.models))


def _live(book: RuleBook, files: dict[str, bytes]) -> Live:
    return Live(
        book=book, admin_token=required(files, ADMIN_TOKEN),
        usage_token=required(files, USAGE_TOKEN),
    )  # fmt: skip


def _problems(error: Exception) -> tuple[str, ...]:
    if isinstance(error, RulesError):
        return tuple(map(str, error.problems))
    return (str(error) if isinstance(error, TenantryError | OSError) else f"internal error: {type(error).__name__}",)
