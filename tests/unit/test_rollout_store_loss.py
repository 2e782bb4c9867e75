"""The shared store is lost, a revert is said, the process dies: this machine's file remembers."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from tenantry.adapters.metrics import Metrics
from tenantry.adapters.rollouts import Rollouts
from tenantry.adapters.state import StateUnavailableError
from tenantry.adapters.state.sqlite import SqliteState
from tenantry.adapters.state.store import Merge
from tenantry.core.errors import RulesError
from tenantry.core.rollout.standing import FLEET, Event, State
from tenantry.core.rollout.visits import Arrival, Visit
from tenantry_testing import documents


class Shared:
    """A shared store that can be lost."""

    def __init__(self) -> None:
        self.lost = False
        self.documents: dict[str, bytes] = {}
        self.log: dict[str, bytes] = {}
        self.forgotten: list[str] = []

    def _look(self) -> None:
        if self.lost:
            raise StateUnavailableError("lost")

    async def update(self, key: str, merge: Merge) -> bytes:
        self._look()
        self.documents[key] = merge(self.documents.get(key))
        return self.documents[key]

    async def visits(self, key: str, arrivals: Sequence[Arrival], *, ttl_s: float) -> list[Visit]:
        raise NotImplementedError

    async def forget(self, key: str) -> None:
        self._look()
        self.forgotten.append(key)

    async def append(self, key: str, entry_id: str, entry: bytes) -> bool:
        self._look()
        return self.log.setdefault(entry_id, entry) is entry

    async def entries(self, key: str, limit: int) -> list[bytes]:
        self._look()
        return list(self.log.values())[-limit:]

    async def close(self) -> None:
        pass


async def started(file: Path, shared: Shared) -> Rollouts:
    snapshot = documents.snapshot()
    rollouts = Rollouts(
        local=SqliteState(file), shared=shared, metrics=Metrics().rollouts, writer=f"writer-{id(file)}-{shared.lost}"
    )
    rollouts.rules_live(snapshot.book)
    await rollouts.start()
    return rollouts


async def test_a_revert_while_the_shared_store_is_lost_outlives_the_process(tmp_path: Path) -> None:
    file, shared = tmp_path / "state.db", Shared()
    before = await started(file, shared)
    assert before.status_of("chat-8b").state is State.SPLITTING
    shared.lost = True
    with pytest.raises(StateUnavailableError):
        await before.command("chat-8b", FLEET, Event.OPERATOR_REVERT, who="me", why="it smokes")
    assert before.live.rollouts["chat-8b"].states == {FLEET: State.REVERTED}

    shared.lost = False  # with what it knew before, and before the dying process could tell it
    after = await started(file, shared)
    assert after.status_of("chat-8b").state is State.REVERTED


async def test_history_has_what_the_shared_store_forgot(tmp_path: Path) -> None:
    shared = Shared()
    rollouts = await started(tmp_path / "state.db", shared)
    await rollouts.command("chat-8b", FLEET, Event.OPERATOR_PAUSE, who="me", why="lunch")
    shared.log.clear()
    await rollouts.command("chat-8b", FLEET, Event.OPERATOR_RESUME, who="me", why="coffee")
    assert [entry.why for entry in await rollouts.history("chat-8b", 50)] == ["lunch", "coffee"]


async def test_a_tenant_who_is_nobody_is_refused(tmp_path: Path) -> None:
    rollouts = await started(tmp_path / "state.db", Shared())
    with pytest.raises(RulesError, match="did you mean"):
        await rollouts.command("chat-8b", "tenant:globx", Event.OPERATOR_PAUSE, who="me", why="a slip")


async def test_a_promotion_that_a_pin_outdoes_is_told(tmp_path: Path) -> None:
    rollouts = await started(tmp_path / "state.db", Shared())
    await rollouts.command("chat-8b", "tenant:acme", Event.OPERATOR_PROMOTE, who="me", why="asked for it")
    assert rollouts.status_of("chat-8b").problems == (
        "tenant:acme is promoted and stays on 1.4.0 all the same, to which the rules pin it",
    )
