"""The history of rollouts in the stores, and who tells the webhook of a new entry.

An entry waits until each store has it, for each store by itself: while the shared one is lost, the local file gets it,
and the shared one what it missed when it is back. The webhook is told in the first round, once for all processes as far
as the stores can tell: by whoever appended the entry first to the shared store, while that is lost to the local file,
and by everybody when there is neither (a receiver knows a repetition by the id).
"""

import contextlib
from collections import deque
from collections.abc import Callable

import msgspec

from tenantry.adapters import logs
from tenantry.adapters.rollout_stores import Silent
from tenantry.adapters.state import StateStore, StateUnavailableError
from tenantry.core.rollout.conduct import Entry

MAX_WAITING = 1_000
HISTORY = "history"


class _Waiting:
    __slots__ = ("entry", "missing", "told")

    def __init__(self, entry: Entry, missing: list[StateStore]) -> None:
        self.entry, self.missing = entry, missing
        self.told = entry.kind not in ("reverted", "alarm")


class History:
    """Not thread-safe, and `write` is not to be called while it runs."""

    def __init__(self, local: StateStore, fleet: StateStore | None, notify: Callable[[Entry], None]) -> None:
        self._stores = [local] if fleet is None else [local, fleet]
        self._notify = notify
        self._waiting: deque[_Waiting] = deque(maxlen=MAX_WAITING)

    def add(self, entry: Entry) -> None:
        """Let an entry be written in the next round; of too many that wait the oldest falls out."""
        self._waiting.append(_Waiting(entry, list(self._stores)))

    async def write(self, silent: Silent) -> None:
        """Append what waits, in order; raise StateUnavailableError at the end if a store did not take all of it."""
        failed: StateUnavailableError | None = None
        for waiting in tuple(self._waiting):
            firsts: list[bool] = []
            for store in tuple(waiting.missing):
                try:
                    firsts += await _append(store, waiting.entry, silent)
                except StateUnavailableError as error:
                    failed = failed or error
                else:
                    waiting.missing.remove(store)
            if not waiting.told:
                waiting.told = True
                if not firsts or firsts[-1]:
                    self._notify(waiting.entry)
        while self._waiting and not self._waiting[0].missing:
            self._waiting.popleft()
        if failed is not None:
            raise failed

    async def read(self, rollout: str, limit: int) -> list[Entry]:
        """Return a rollout's last entries, oldest first; what one store forgot is in the other."""
        found: dict[str, Entry] = {}
        for store in self._stores:
            for raw in await store.entries(f"{HISTORY}/{rollout}", limit):
                with contextlib.suppress(ValueError, RecursionError):  # another release's, or damaged
                    entry = msgspec.json.decode(raw, type=Entry)
                    found[entry.id] = entry
        return sorted(found.values(), key=lambda entry: entry.at_s)[-limit:]


async def _append(store: StateStore, entry: Entry, silent: Silent) -> list[bool]:
    """Return whether the entry was new to the store, nothing if the store cannot ever have it."""
    if store in silent:
        raise StateUnavailableError("a state store failed a moment ago")
    try:
        return [await store.append(f"{HISTORY}/{entry.rollout}", entry.id, msgspec.json.encode(entry))]
    except StateUnavailableError:
        silent.add(store)
        raise
    except (ValueError, OverflowError) as error:
        # It would be refused every time, and what is behind it would never be written.
        logs.get().error("a history entry cannot be stored", model=entry.model, kind=entry.kind, exc_info=error)
        return []
