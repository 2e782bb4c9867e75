"""What a store of shared state can do.

Every call may raise StateUnavailableError. Then nothing was changed, with one exception: when the answer of a Redis got
lost on its way, what was asked may have been done. So every call can be repeated: a merge is idempotent, an entry
is appended once, and a visit that is counted without anybody hearing of it is a visit of which nothing is known.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from tenantry.core.errors import TenantryError
from tenantry.core.quota.account import Change, Limits, Standing
from tenantry.core.rollout.visits import Arrival, Visit

Merge = Callable[[bytes | None], bytes]
"""What is stored (None: nothing) in, what shall be stored out. Pure: it may be called more than once, in any thread."""

MAX_ENTRIES = 10_000
"""A log keeps its last entries, and knows the ids of those alone."""

MAX_UNITS = 50_000
"""At least so many units are remembered under a key, at most twice as many (see `core.rollout.visits.Visits`).

Twice as many take 11 MB in a Redis, at 110 bytes each."""


class StateUnavailableError(TenantryError):
    """The store cannot be reached, read or written; the message says which and why, without a credential."""


class StateStore(Protocol):
    """Documents, visits and an append-only log, by key. Keys are printable text without spaces.

    Nothing is opened before the first call, and a store that failed is tried anew by the next one.
    """

    async def update(self, key: str, merge: Merge) -> bytes:
        """Replace the document at `key` by `merge` of it, atomically among all processes; return the new document.

        Nothing is written when the document does not change. What `merge` raises comes through, and changes nothing.
        """

    async def visits(self, key: str, arrivals: Sequence[Arrival], *, ttl_s: float) -> list[Visit]:
        """Count arrivals in order, as `core.rollout.visits.Visits` does, each atomically among all processes.

        The counts under `key` are forgotten `ttl_s` seconds after the last arrival.
        """

    async def forget(self, key: str) -> None:
        """Forget the counts of visits under `key`."""

    async def append(self, key: str, entry_id: str, entry: bytes) -> bool:
        """Append an entry to the log at `key`, unless its id stands there already; return whether it was appended.

        Ids are as keys are. The log keeps its last MAX_ENTRIES entries.
        """

    async def entries(self, key: str, limit: int) -> list[bytes]:
        """Return the last `limit` entries of the log at `key`, oldest first."""

    async def close(self) -> None:
        """Let go of files and connections. Calls that follow raise StateUnavailableError."""


class AccountStore(Protocol):
    """Accounts of quotas, by key as above."""

    async def account(self, key: str, limits: Limits, change: Change) -> Standing:
        """Change a quota's account, as `core.quota.account.apply` does, atomically among all processes.

        Time is the store's own. Owners are named as keys are.
        """

    async def forget_account(self, key: str) -> None:
        """Forget an account, with what is reserved in it."""

    async def entries(self, key: str, limit: int) -> list[bytes]:
        """See StateStore; here it serves to ask whether the store is there."""


class Store(StateStore, AccountStore, Protocol):
    """All of it."""


def checked(name: str) -> str:
    """Return a key or an id. Raises ValueError, the caller's fault, for one that is not printable or has spaces."""
    if not name or " " in name or not name.isprintable():
        raise ValueError(f"{name!r} is no key: keys and ids are printable text without spaces")
    return name
