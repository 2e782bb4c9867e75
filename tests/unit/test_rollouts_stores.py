"""The rollouts of a sidecar over stores that fail, hang, forget, or hold what nobody meant to write."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tenantry.adapters import rollout_stores, rollouts
from tenantry.adapters.metrics import Metrics
from tenantry.adapters.rollout_history import MAX_WAITING, History
from tenantry.adapters.rollout_routes import Word
from tenantry.adapters.rollouts import Rollouts
from tenantry.adapters.state import StateStore, StateUnavailableError
from tenantry.adapters.state.sqlite import SqliteState
from tenantry.adapters.state.store import Merge
from tenantry.core.identity import Presented, authenticate
from tenantry.core.rollout import shared as shared_state
from tenantry.core.rollout.conduct import Conduct, Entry
from tenantry.core.rollout.guard import Guard
from tenantry.core.rollout.join import Told
from tenantry.core.rollout.shared import Shared
from tenantry.core.rollout.signals import Observation, Sample
from tenantry.core.rollout.standing import FLEET, Event, Standing, State
from tenantry.core.rollout.visits import Arrival, Visit, Visits
from tenantry.core.tenant import Tenant
from tenantry_testing import documents
from tenantry_testing.documents import KEYS, NOW

CHAT, EMBED = "chat-8b", "embed"
TWO = {
    "models/embed": {
        "stable": "1",
        "versions": {"1": {"endpoints": ["127.0.0.1:8003"]}, "2": {"endpoints": ["127.0.0.1:8004"]}},
        "rollout": {"candidate": "2"},
    },
    "betaSelfService": True,
}
NOBODY = {
    f"models/{CHAT}/rollout": ...,
    "betaSelfService": True,
}


class Store:
    """A store in memory. `lost` fails at once; `hangs` never answers."""

    def __init__(self) -> None:
        self.lost = self.hangs = False
        self.documents: dict[str, bytes] = {}
        self.log: dict[str, bytes] = {}
        self.counts: dict[str, Visits] = {}
        self.updates: list[str] = []
        self.forgotten: list[str] = []

    async def _look(self) -> None:
        await asyncio.sleep(0)
        if self.hangs:
            await asyncio.Event().wait()
        if self.lost:
            raise StateUnavailableError("lost")

    async def update(self, key: str, merge: Merge) -> bytes:
        self.updates.append(key)
        await self._look()
        self.documents[key] = merge(self.documents.get(key))
        return self.documents[key]

    async def visits(self, key: str, arrivals: Sequence[Arrival], *, ttl_s: float) -> list[Visit]:
        await self._look()
        counts = self.counts.setdefault(key, Visits(1_000))
        return [counts.arrive(arrival) for arrival in arrivals]

    async def forget(self, key: str) -> None:
        await self._look()
        self.forgotten.append(key)

    async def append(self, key: str, entry_id: str, entry: bytes) -> bool:
        await self._look()
        if "\n" in entry_id:
            raise ValueError("no key")
        if entry_id in self.log:
            return False
        self.log[entry_id] = entry
        return True

    async def entries(self, key: str, limit: int) -> list[bytes]:
        await self._look()
        return list(self.log.values())[-limit:]

    async def close(self) -> None:
        pass


class Process:
    """A sidecar's rollouts, with what it told the webhook."""

    def __init__(self, local: StateStore, fleet: StateStore | None = None, *, writer: str = "one") -> None:
        self.metrics, self.told = Metrics(), list[Entry]()
        self.now_s, self.uptime_s = NOW, 100.0
        self.rollouts = Rollouts(
            local=local, shared=fleet, metrics=self.metrics.rollouts, writer=writer, notify=self.told.append,
            clock=lambda: self.now_s, monotonic=lambda: self.uptime_s,
        )  # fmt: skip
        self.rules(TWO)

    def rules(self, changes: dict[str, object]) -> None:
        self.book = documents.book(changes)
        self.metrics.rules_live(self.book, generation=1)
        self.rollouts.rules_live(self.book)

    def tenant(self, name: str) -> Tenant:
        return authenticate(self.book, Presented(authorization=(f"Bearer {KEYS[name]}".encode(),)), NOW)

    def conduct(self, model: str = CHAT) -> Conduct:
        return self.rollouts._conducts[model]

    def gauge(self, name: str, **labels: str) -> list[float]:
        self.rollouts.show()
        families = text_string_to_metric_families(self.metrics.exposition()[0].decode())
        return [
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == f"tenantry_rollout_{name}" and labels.items() <= sample.labels.items()
        ]

    async def say(self, event: Event, scope: str = FLEET, model: str = CHAT) -> list[Entry]:
        return await self.rollouts.command(model, scope, event, who="me", why="I say so")


def seen(unit: str) -> Observation:
    return Observation(
        tenant="acme", unit=unit, arm="candidate", share=0.5, sample=Sample(failed=False), earlier_turns=0
    )


# --- what is stored and cannot be right ---------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [b"{", b"[" * 100_000, b"\xff", b'{"standings":' + b'{"a":' * 5_000])
async def test_a_damaged_document_closes_its_rollout_and_no_other(bad: bytes) -> None:
    store = Store()
    first = Process(store)
    store.documents[f"rollout/{first.conduct(CHAT).id}"] = bad
    await first.rollouts.start()
    assert set(first.rollouts.live.rollouts) == {EMBED}
    assert not first.rollouts.status_of(CHAT).readable
    assert sum(first.gauge("state", model=CHAT)) == 0, "a state that is not known is none"
    assert first.gauge("state", model=EMBED, state="splitting") == [1]


@pytest.mark.parametrize("surprise", [KeyError, ValueError, RecursionError, OverflowError])
async def test_whatever_one_rollout_raises_the_others_are_exchanged(
    surprise: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    merge = Conduct.merge

    def fail(conduct: Conduct, known: Shared, now_s: float) -> list[Entry]:
        if conduct.name == CHAT:
            raise surprise("a text that nobody may log")
        return merge(conduct, known, now_s)

    monkeypatch.setattr(Conduct, "merge", fail)
    process = Process(Store())
    await process.rollouts.start()
    assert set(process.rollouts.live.rollouts) == {EMBED}


@pytest.mark.parametrize("refusal", [KeyError, ValueError, OverflowError])
async def test_standings_count_beside_evidence_that_the_guard_refuses(
    refusal: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store()
    first = Process(store)
    await first.rollouts.start()
    conduct = first.conduct()
    conduct.arrivals([seen("u1")], NOW)
    conduct.observe([seen("u1")], [Visit(number=1, was_put_off=False)], NOW)
    await first.say(Event.OPERATOR_REVERT)

    merge = Guard.merge

    def refuse(guard: Guard, evidence: object, now_s: float) -> object:
        raise refusal("bad")

    monkeypatch.setattr(Guard, "merge", refuse)
    second = Process(store, writer="two")
    await second.rollouts.start()
    assert second.rollouts.live.rollouts[CHAT].states == {FLEET: State.REVERTED}
    assert any("cannot be right" in problem for problem in second.rollouts.status_of(CHAT).problems)
    guard = second.conduct().guard
    await second.rollouts.start()
    assert second.conduct().guard is guard, "what was refused is not tried again and again"
    monkeypatch.setattr(Guard, "merge", merge)
    await second.say(Event.OPERATOR_RESUME)
    assert second.rollouts.status_of(CHAT).chapter == 2
    assert second.rollouts.status_of(CHAT).problems == (), "a new chapter replaces the evidence everywhere"


async def test_rules_go_live_whatever_evidence_of_their_plan_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(Store())
    await process.rollouts.start()
    await process.say(Event.OPERATOR_REVERT)
    rows = Guard.rows

    def fail(guard: Guard) -> object:
        monkeypatch.setattr(Guard, "rows", rows)  # the next guard begins anew
        raise KeyError(7)

    process.rules(NOBODY)
    monkeypatch.setattr(Guard, "rows", fail)
    process.rules(TWO)
    assert process.conduct().state(FLEET) is State.REVERTED
    assert process.conduct().refuses_evidence


# --- an operator's word -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["acme\n", "a b", "", "-acme", "a" * 64, "ü"])
def test_a_word_names_what_can_be_called_so(name: str) -> None:
    for what in ("tenant", "tier"):
        raw = msgspec.json.encode({"model": CHAT, "action": "revert", "who": "me", "why": "so", what: name})
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(raw, type=Word)


async def test_a_revert_is_said_again_when_a_resume_that_knew_nothing_of_it_was_merged() -> None:
    store = Store()
    process = Process(store, Store())
    await process.rollouts.start()
    await process.say(Event.OPERATOR_REVERT)
    # Elsewhere it was resumed, which this process hears of only now.
    key = f"rollout/{process.conduct().id}"
    store.documents[key] = shared_state.encode(
        shared_state.with_standing(shared_state.decode(store.documents[key]), FLEET, Standing(reverts=1, cleared=1))
    )
    entries = await process.say(Event.OPERATOR_REVERT)
    assert [entry.kind for entry in entries] == ["reverted"]
    assert process.rollouts.live.rollouts[CHAT].states == {FLEET: State.REVERTED}
    assert shared_state.decode(store.documents[key]).standings[FLEET].state is State.REVERTED


async def test_a_revert_counts_before_a_lock_is_had() -> None:
    process = Process(Store())
    await process.rollouts.start()
    async with process.rollouts._lock:
        task = asyncio.create_task(process.say(Event.OPERATOR_REVERT))
        await asyncio.sleep(0)
        assert process.rollouts.live.rollouts[CHAT].states == {FLEET: State.REVERTED}
    await task


# --- the history and the webhook ----------------------------------------------------------------------------------


async def test_the_webhook_is_told_while_the_shared_store_is_lost_and_not_again_after(tmp_path: Path) -> None:
    local, fleet = SqliteState(tmp_path / "state.db"), Store()
    process = Process(local, fleet)
    await process.rollouts.start()
    fleet.lost = True
    with pytest.raises(StateUnavailableError, match="done here"):
        await process.say(Event.OPERATOR_REVERT)
    assert [entry.kind for entry in process.told] == ["reverted"]
    assert fleet.log == {}
    fleet.lost = False
    await process.rollouts.start()
    assert list(fleet.log) == [process.told[0].id]
    assert len(process.told) == 1
    await local.close()


async def test_of_two_processes_on_a_machine_one_tells_the_webhook(tmp_path: Path) -> None:
    entry = (await Process(Store()).say(Event.OPERATOR_REVERT))[0]
    local, told = Store(), list[str]()
    one, two = (History(local, None, lambda _, name=name: told.append(name)) for name in ("one", "two"))  # type: ignore[misc]
    for history in (one, two):
        history.add(entry)
        await history.write(set())
    assert told == ["one"]


async def test_without_any_store_the_webhook_is_told_all_the_same() -> None:
    entry = (await Process(Store()).say(Event.OPERATOR_REVERT))[0]
    store, told = Store(), list[Entry]()
    history = History(store, None, told.append)
    history.add(entry)
    store.lost = True
    for _ in range(2):
        with pytest.raises(StateUnavailableError):
            await history.write(set())
    assert told == [entry]


async def test_an_entry_that_no_store_can_have_blocks_none_behind_it() -> None:
    entry = (await Process(Store()).say(Event.OPERATOR_REVERT))[0]
    store = Store()
    history = History(store, None, lambda _entry: None)
    history.add(msgspec.structs.replace(entry, id="line\n"))
    history.add(entry)
    await history.write(set())
    assert list(store.log) == [entry.id]
    for number in range(MAX_WAITING + 5):
        history.add(msgspec.structs.replace(entry, id=f"id-{number}"))
    await history.write(set())
    assert len(store.log) == 1 + MAX_WAITING


# --- beta flags ---------------------------------------------------------------------------------------------------


async def test_a_flag_set_while_the_shared_store_is_lost_is_in_the_file() -> None:
    local, fleet = Store(), Store()
    process = Process(local, fleet)
    await process.rollouts.start()
    fleet.lost = True
    with pytest.raises(StateUnavailableError):
        await process.rollouts.set_beta(process.tenant("globex"), beta=False)
    assert shared_state.decode_flags(local.documents["beta"])["globex"].off


async def test_of_many_words_of_a_tenant_the_last_is_exchanged() -> None:
    store = Store()
    process = Process(store)
    await process.rollouts.start()
    store.updates.clear()
    acme = process.tenant("acme")
    async with process.rollouts._lock:  # an operator's business is not waited for
        await asyncio.gather(*(process.rollouts.set_beta(acme, beta=number % 2 == 0) for number in range(21)))
    assert process.rollouts.live.beta == {"acme": True}
    assert len(store.updates) <= 2


async def test_a_store_that_hangs_keeps_no_tenant_from_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout_stores, "ANSWER_SECONDS", 0.05)
    store = Store()
    process = Process(store)
    await process.rollouts.start()
    store.hangs = True
    with pytest.raises(StateUnavailableError, match="did not answer"):
        await process.rollouts.set_beta(process.tenant("globex"), beta=False)
    assert process.rollouts.live.beta == {"globex": False}


async def test_only_flags_that_count_are_shown() -> None:
    process = Process(Store())
    await process.rollouts.start()
    for name in ("acme", "initech"):
        await process.rollouts.set_beta(process.tenant(name), beta=True)
    assert process.rollouts.status_of(CHAT).beta == ("acme", "globex", "initech")
    process.rules({**TWO, "tenants/initech": ...})
    assert process.rollouts.status_of(CHAT).beta == ("acme", "globex")
    process.rules({**TWO, "betaSelfService": False})
    assert process.rollouts.status_of(CHAT).beta == ("globex",)


# --- rules, chapters, clocks --------------------------------------------------------------------------------------


async def test_a_rollout_that_comes_back_is_read_again() -> None:
    store = Store()
    process = Process(store, Store())
    await process.rollouts.start()
    assert CHAT in process.rollouts.live.rollouts
    process.rules(NOBODY)
    process.rules(TWO)
    assert CHAT not in process.rollouts.live.rollouts
    assert not process.rollouts._fleet_knew & {process.conduct().id}
    await process.rollouts.start()
    assert CHAT in process.rollouts.live.rollouts


async def test_counts_that_a_store_forgot_meanwhile_begin_a_new_chapter() -> None:
    local, fleet = Store(), Store()
    process = Process(local, fleet)
    await process.rollouts.start()
    conduct = process.conduct()
    conduct.arrivals([seen("u1")], NOW)
    conduct.observe([seen("u1")], [Visit(number=1, was_put_off=False)], NOW)
    process.rules(NOBODY)
    fleet.documents.clear()
    process.now_s += 1
    process.rules(TWO)
    await process.rollouts.start()
    assert [process.rollouts.status_of(model).chapter for model in (CHAT, EMBED)] == [2, 1]


async def test_what_is_remembered_is_bounded_by_rollouts_that_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollouts, "MAX_KNOWN", 2)
    process = Process(Store())
    await process.rollouts.start()
    await process.say(Event.OPERATOR_REVERT)
    for _ in range(3):
        process.rules(NOBODY)
        process.rules(TWO)
        assert process.conduct().state(FLEET) is State.REVERTED


async def test_counts_of_a_chapter_that_ended_are_let_go() -> None:
    store = Store()
    process = Process(store)
    await process.rollouts.start()
    conduct = process.conduct()
    before = conduct.visits_key
    conduct.turn(NOW + 1)
    await process.rollouts.start()
    await process.rollouts.start()
    assert store.forgotten == [f"{before}/split", f"{before}/pairs"]
    conduct.turn(NOW + 2)
    store.lost = True
    await process.rollouts.start()
    assert conduct.guard.chapter == 3


async def test_counts_of_another_plan_stay_for_an_operator_who_goes_back_to_it() -> None:
    store = Store()
    process = Process(store)
    await process.rollouts.start()
    process.rules({**TWO, f"models/{CHAT}/rollout/guard/alpha": 0.02})
    await process.rollouts.start()
    assert store.forgotten == []


async def test_a_slow_count_leaves_the_exchange_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollouts, "MAX_BATCH", 1)
    store = Store()
    process = Process(store)
    await process.rollouts.start()
    for model in (CHAT, EMBED):
        for number in range(3):
            process.rollouts._queue.add(process.conduct(model).id, seen(f"u{number}"))

    async def count(key: str, arrivals: Sequence[Arrival], *, ttl_s: float) -> list[Visit]:
        process.uptime_s += 0.3
        return [Visit(number=1, was_put_off=False) for _ in arrivals]

    store.visits = count  # type: ignore[method-assign]
    left = []
    for _ in range(3):
        await process.rollouts._flush(0.5)
        left.append((len(process.rollouts._queue), process.rollouts._queue.lines()[:1]))
    chat, embed = (process.conduct(model).id for model in (CHAT, EMBED))
    assert left == [(4, ((embed, "split"),)), (2, ((chat, "split"),)), (0, ())]


async def test_a_clock_that_is_set_makes_nobody_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(Store())
    times = list[float]()

    def due(now_s: float, keep_records_s: float) -> Iterator[Told]:
        times.append(now_s)
        return iter(())

    monkeypatch.setattr(process.rollouts._joiner, "due", due)
    process.now_s -= 86_400
    await process.rollouts._flush(1.0)
    assert times == [100.0]


async def test_what_the_joiner_dropped_is_counted_once() -> None:
    process = Process(Store())
    process.rollouts._joiner.dropped = 3
    for _ in range(2):
        await process.rollouts._flush(1.0)
    assert process.gauge("joins_dropped_total") == [3]
