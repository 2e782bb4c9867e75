"""How rollouts ask stores that may hang or fail: for a bounded time, and in one round no more once one has failed."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from tenantry.adapters.state import StateStore, StateUnavailableError
from tenantry.adapters.state.store import Merge
from tenantry.core.rollout.shared import DamagedStateError

ANSWER_SECONDS = 5.0
"""How long an operator or a tenant waits for stores that hang."""

STORE_ERRORS = (StateUnavailableError, DamagedStateError)

Silent = set[StateStore]
"""Stores that failed in this round."""


async def update(store: StateStore, key: str, merge: Merge, silent: Silent) -> bytes:
    """Update a document, unless the store failed a moment ago; one that fails now joins the silent ones."""
    if store in silent:
        raise StateUnavailableError("a state store failed a moment ago")
    try:
        return await store.update(key, merge)
    except StateUnavailableError:
        silent.add(store)
        raise


@contextlib.asynccontextmanager
async def turn(lock: asyncio.Lock) -> AsyncIterator[None]:
    """Have what the lock guards to oneself; raise StateUnavailableError after ANSWER_SECONDS."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS), lock:
            yield
    except TimeoutError:
        raise StateUnavailableError(f"the state stores did not answer within {ANSWER_SECONDS:g} s") from None
