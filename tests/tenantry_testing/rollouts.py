"""Rollouts without a fleet: stores that fail, hang and forget on demand, a clock that is set, and traffic."""

import asyncio
import contextlib
import copy
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tenantry.adapters import rollouts as adapter
from tenantry.adapters.metrics import Metrics
from tenantry.adapters.rollouts import Rollouts
from tenantry.adapters.state import StateStore, StateUnavailableError
from tenantry.adapters.state.store import Merge
from tenantry.core.outcome import Outcome
from tenantry.core.rollout.conduct import Entry, identity
from tenantry.core.rollout.trial import Arm, Trial
from tenantry.core.rollout.visits import Arrival, Visit, Visits
from tenantry.core.rulebook import RuleBook
from tenantry.core.rules import Rules
from tenantry.core.usage import UsageRecord

from tenantry_testing.documents import NOW, book, rules

MODEL = "chat-8b"
SPLIT: dict[str, object] = {"models/chat-8b/rollout": {"candidate": "1.5.0", "percent": 50}}
TENANTS = ("acme", "globex", "initech")


class MemoryStore:
    """A store in memory. `down`: every call fails; `hang_s`: it does so after so long. `calls` counts by method."""

    def __init__(self) -> None:
        self.down = False
        self.hang_s = 0.0
        self.calls: Counter[str] = Counter()
        self.failing: set[str] = set()
        self.before: Callable[[str, str], None] = lambda _method, _key: None
        self.lose()

    def lose(self) -> None:
        """Lose all data."""
        self.documents: dict[str, bytes] = {}
        self.counts: dict[str, Visits] = {}
        self.logs: dict[str, dict[str, bytes]] = {}

    async def forget(self, key: str) -> None:
        await self._look("forget", key)
        self.counts.pop(key, None)

    async def _look(self, method: str, key: str) -> None:
        self.calls[method] += 1
        await asyncio.sleep(self.hang_s)
        self.before(method, key)
        if self.down or method in self.failing:
            raise StateUnavailableError("the store of this test is down")

    async def update(self, key: str, merge: Merge) -> bytes:
        await self._look("update", key)
        self.documents[key] = merge(self.documents.get(key))
        return self.documents[key]

    async def visits(self, key: str, arrivals: Sequence[Arrival], *, ttl_s: float) -> list[Visit]:
        await self._look("visits", key)
        counts = self.counts.setdefault(key, Visits(10_000))
        return [counts.arrive(arrival) for arrival in arrivals]

    async def append(self, key: str, entry_id: str, entry: bytes) -> bool:
        await self._look("append", key)
        log = self.logs.setdefault(key, {})
        return log.setdefault(entry_id, entry) is entry

    async def entries(self, key: str, limit: int) -> list[bytes]:
        await self._look("entries", key)
        return list(self.logs.get(key, {}).values())[-limit:]

    async def close(self) -> None:
        self.down = True


@dataclass(kw_only=True)
class House:
    """One replica's Rollouts. `told` is what its webhook was told, `now_s` its clock."""

    local: StateStore = field(default_factory=MemoryStore)
    shared: StateStore | None = None
    writer: str = "one"
    now_s: float = NOW
    metrics: Metrics = field(default_factory=Metrics)
    told: list[Entry] = field(default_factory=list)
    number: int = 0

    def __post_init__(self) -> None:
        self.rollouts = Rollouts(
            local=self.local, shared=self.shared, metrics=self.metrics.rollouts, writer=self.writer,
            notify=self.told.append, clock=lambda: self.now_s,
        )  # fmt: skip

    def rules(self, changes: Mapping[str, object] | None = None) -> RuleBook:
        """Let rules with a rollout at 50 % go live, with these changes."""
        made = book({**copy.deepcopy(SPLIT), **(changes or {})})
        self.metrics.rules_live(made, 1)
        self.rollouts.rules_live(made)
        return made

    def send(self, count: int, *, bad: bool = True, mirror: bool = False, unit: str = "u") -> None:
        """Let so many units come to an end, every other the candidate's, which fails them all when it is `bad`."""
        for _ in range(count):
            self.number += 1
            arm: Arm = "candidate" if self.number % 2 else "stable"
            tenant = TENANTS[self.number // 2 % 3]
            self.rollouts.outcome(
                outcome(f"{unit}{self.number}", tenant, arm, failed=bad and arm == "candidate", mirror=mirror)
            )
            self.rollouts.record(record(f"{unit}{self.number}", tenant, arm))

    @property
    def states(self) -> dict[str, str] | None:
        """What routing sees of the rollout; None: nobody gets the candidate."""
        view = self.rollouts.live.rollouts.get(MODEL)
        return None if view is None else {scope: state.value for scope, state in view.states.items()}

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"tenantry_{name}", labels)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start, and let it work."""
        await self.rollouts.start()
        task = asyncio.create_task(self.rollouts.run())
        try:
            yield
            assert not task.done(), task
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def rollout_of(made: Rules) -> str:
    return identity(MODEL, made.models[MODEL])


def outcome(
    request_id: str, tenant: str, arm: Arm, *, failed: bool, mirror: bool = False, share: float = 0.5
) -> Outcome:
    trial = Trial(
        rollout=rollout_of(rules(SPLIT)), candidate="1.5.0", arm=arm, share=share, unit=request_id, mirror=mirror
    )
    return Outcome(
        tenant=tenant, tier="gold", model=MODEL, version="1.5.0" if arm == "candidate" else "1.4.0",
        request_id=request_id, reason="split", code=503 if failed else 200, ended="failed" if failed else "completed",
        flags=(), attempts=1, ttfb_ms=20.0, duration_ms=100.0, cluster="", trial=trial,
    )  # fmt: skip


def record(request_id: str, tenant: str, arm: Arm, *, mirror: bool = False, **more: object) -> UsageRecord:
    made: dict[str, object] = {
        "request_id": request_id, "engine": "e1", "mirror": mirror, "tenant": tenant, "model": MODEL,
        "version": "1.5.0" if arm == "candidate" else "1.4.0", "ended_s": NOW, "finish_reason": "stop",
        "output_tokens": 20, "ttft_ms": 50.0, "time_per_token_ms": 10.0,
    }  # fmt: skip
    return UsageRecord(**{**made, **more})  # type: ignore[arg-type]


async def until(condition: Callable[[], object], *, seconds: float = 5.0) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


def quickly(monkeypatch: object) -> None:
    """Let every replica look a hundred times as often."""
    monkeypatch.setattr(adapter, "FLUSH_SECONDS", 0.004)  # type: ignore[attr-defined]
    monkeypatch.setattr(adapter, "SYNC_SECONDS", 0.008)  # type: ignore[attr-defined]
