"""The history of rollouts, read from the state stores beside the page: nobody waits for a store that hangs."""

import asyncio
from collections.abc import Callable, Sequence

from tenantry.adapters.console.versions import MAX_ENTRIES, MAX_MODELS
from tenantry.adapters.rollout_stores import STORE_ERRORS
from tenantry.adapters.rollouts import Rollouts
from tenantry.core.errors import RulesError
from tenantry.core.rollout.conduct import Entry

EVERY_SECONDS = 1.0
READ_SECONDS = 5.0


class Verdicts:
    """What was last read, by model. One reading at a time, and only while somebody looks."""

    def __init__(self, rollouts: Rollouts, monotonic: Callable[[], float]) -> None:
        self._rollouts, self._monotonic = rollouts, monotonic
        self._read: dict[str, Sequence[Entry]] = {}
        self._task: asyncio.Task[None] | None = None
        self._next_s = 0.0
        self.up = True

    def look(self, models: Sequence[str]) -> dict[str, Sequence[Entry]]:
        """Return what is known, and see to it that it is soon read again."""
        now_s = self._monotonic()
        if (self._task is None or self._task.done()) and now_s >= self._next_s:
            self._next_s = now_s + EVERY_SECONDS
            self._task = asyncio.create_task(self._all(models[:MAX_MODELS]))
        return self._read

    async def stop(self) -> None:
        """End a reading that is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _all(self, models: Sequence[str]) -> None:
        read: dict[str, Sequence[Entry]] = {}
        try:
            async with asyncio.timeout(READ_SECONDS):
                for model in models:
                    read[model] = await self._rollouts.history(model, MAX_ENTRIES)
        except (*STORE_ERRORS, TimeoutError):
            self.up = False
        except RulesError:  # they changed meanwhile; the next reading asks for what there is then
            return
        else:
            self._read, self.up = read, True
