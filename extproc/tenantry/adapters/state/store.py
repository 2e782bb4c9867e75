"""What a store of shared state can do. Every call may raise StateUnavailableError, and then nothing was changed."""

from collections.abc import Callable, Sequence
from typing import Protocol

from tenantry.core.errors import TenantryError
from tenantry.core.rollout.visits import Arrival, Visit

Merge = Callable[[bytes | None], bytes]
"""What is stored (None: nothing) in, what shall be stored out. Pure: it may be called more than once."""


class StateUnavailableError(TenantryError):
    """The store cannot be reached, read or written; the message says which and why, without a credential."""


class StateStore(Protocol):
    """Documents, visits and an append-only log, by key. Keys are printable text without spaces."""

    async def update(self, key: str, merge: Merge) -> bytes:
        """Replace the document at `key` by `merge` of it, atomically among all processes; return the new document.

        Nothing is written when the document does not change. What `merge` raises comes through, and changes nothing.
        """

    async def visits(self, key: str, arrivals: Sequence[Arrival], *, ttl_s: float) -> list[Visit]:
        """Count arrivals in order, as `core.rollout.visits.next_visit` says, each atomically among all processes.

        The counts under `key` are forgotten `ttl_s` seconds after the last arrival.
        """

    async def append(self, key: str, entry_id: str, entry: bytes) -> bool:
        """Append an entry to the log at `key`, unless its id stands there already; return whether it was appended."""

    async def entries(self, key: str, limit: int) -> list[bytes]:
        """Return the last `limit` entries of the log at `key`, oldest first."""

    async def close(self) -> None:
        """Let go of files and connections."""
