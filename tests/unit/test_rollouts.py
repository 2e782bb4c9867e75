"""The rollouts of a process: stores that fail, hang and forget; replicas; reloads; an operator's word; beta flags."""

import asyncio
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from tenantry.adapters import logs
from tenantry.adapters import rollouts as adapter
from tenantry.adapters.state import StateUnavailableError, open_state
from tenantry.core.errors import RulesError
from tenantry.core.identity import Presented, authenticate
from tenantry.core.rollout import conduct as conducts
from tenantry.core.rollout.guard import Guard
from tenantry.core.rollout.standing import FLEET, Event, State, TransitionError
from tenantry.core.tenant import Tenant
from tenantry_testing.documents import KEYS, NOW, book
from tenantry_testing.rollouts import MODEL, TENANTS, House, MemoryStore, outcome, quickly, record, rollout_of, until

REVERTED = {"fleet": "reverted"}
OPS = {"who": "ops", "why": "a test"}


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    quickly(monkeypatch)


@pytest.fixture(autouse=True)
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    logs.configure(stream)
    yield stream
    structlog.reset_defaults()


def events(log: io.StringIO) -> list[str]:
    return [json.loads(line)["event"] for line in log.getvalue().splitlines()]


def lines(log: io.StringIO, event: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, log.getvalue().splitlines()) if line["event"] == event]


def house(**given: Any) -> House:
    made = House(**given)
    made.rules()
    return made


def verified(name: str = "globex") -> Tenant:
    return authenticate(book(), Presented(authorization=(f"Bearer {KEYS[name]}".encode(),)), NOW)


# --- from outcomes to a revert -----------------------------------------------------------------------------------


async def test_a_candidate_that_fails_is_reverted(log: io.StringIO) -> None:
    made = house()
    async with made.running():
        assert made.states == {}
        made.send(60)
        await until(lambda: made.states == REVERTED)
        await until(lambda: made.told)
    (entry,) = made.told
    assert (entry.kind, entry.scope, entry.who, entry.model) == ("reverted", "fleet", "guard", MODEL)
    assert "errors" in entry.why
    assert entry.evidence
    assert await made.rollouts.history(MODEL, 10) == [entry]
    assert made.metric("rollout_transitions_total", model=MODEL, kind="reverted") == 1
    assert lines(log, "rollout reverted")[0]["level"] == "error"
    # The rules pin nobody to the candidate, so nobody is told of.
    assert "tenants stay pinned to the reverted version" not in events(log)


async def test_a_healthy_candidate_stays() -> None:
    made = house()
    async with made.running():
        made.send(200, bad=False)
        await until(lambda: made.rollouts.status_of(MODEL).progress.units == 100)
    assert (made.states, made.told) == ({}, [])
    assert made.rollouts.status_of(MODEL).progress.all_units == 200


async def test_a_revert_counts_before_any_store_has_it() -> None:
    """Invariant: a revert must not wait for a network."""
    store = MemoryStore()
    made = house(local=store)
    async with made.running():
        store.failing = {"update", "append"}
        made.send(60)
        await until(lambda: made.states == REVERTED)
        await until(lambda: made.told)  # a webhook waits for no store either
        store.failing = set()
        await until(lambda: store.documents.get(f"rollout/{rollout_of(made.rules().rules)}", b"").count(b'"reverts":1'))
    assert b'"reverts":1' in store.documents[f"rollout/{rollout_of(made.rules().rules)}"]


async def test_tenants_pinned_to_what_is_reverted_are_told_of(log: io.StringIO) -> None:
    made = house()
    made.rules({"tenants.acme.pins": {MODEL: "1.5.0"}})
    async with made.running():
        await made.rollouts.command(MODEL, FLEET, Event.OPERATOR_REVERT, **OPS)
    (line,) = lines(log, "tenants stay pinned to the reverted version")
    assert line["tenants"] == ["acme"]
    status = made.rollouts.status_of(MODEL)
    assert status.pinned == ("acme",)
    assert status.problems == ("pinned to the reverted 1.5.0 all the same: acme",)


async def test_an_engine_that_runs_another_version_is_told_of_and_not_counted(log: io.StringIO) -> None:
    made = house()
    async with made.running():
        made.rollouts.outcome(outcome("r1", "acme", "candidate", failed=False))
        made.rollouts.record(record("r1", "acme", "stable"))
        await asyncio.sleep(0.03)
    assert made.metric("rollout_version_mismatches_total", model=MODEL) == 1
    assert lines(log, "an engine runs another version than its endpoints are listed under")[0]["version"] == "1.5.0"
    assert made.rollouts.status_of(MODEL).progress.units == 0


async def test_what_is_no_rollouts_business_is_left_alone() -> None:
    made = House()
    made.rollouts.rules_live(book({"models/chat-8b/rollout": ...}))
    made.send(4)
    async with made.running():
        await asyncio.sleep(0.02)
    assert made.rollouts.status() == []
    assert made.metric("rollout_observations_total", model=MODEL, kind="split", record="yes") is None


async def test_a_bug_of_the_guard_ends_nothing_and_costs_its_batch_alone(
    log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = house()
    right, broken = Guard.observe, True

    def observe(self: Guard, *given: Any) -> Any:
        if broken:
            raise ZeroDivisionError("CANARY")
        return right(self, *given)

    monkeypatch.setattr(Guard, "observe", observe)
    async with made.running():
        made.send(6)
        await until(lambda: made.metric("rollout_observations_dropped_total") == 6)
        broken = False
        made.send(60)
        await until(lambda: made.states == REVERTED)
    assert len(lines(log, "outcomes not shown to the guard")) == 1
    assert "CANARY" not in log.getvalue()


async def test_a_bug_of_the_guard_does_not_keep_other_replicas_reverts_away(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = MemoryStore()
    one, two = house(shared=shared), house(shared=shared, writer="two")
    async with one.running(), two.running():
        monkeypatch.setattr(one.rollouts._joiner, "due", lambda *_: 1 / 0)
        await two.rollouts.command(MODEL, FLEET, Event.OPERATOR_REVERT, **OPS)
        await until(lambda: one.states == REVERTED)


async def test_one_rollouts_bug_is_not_anothers(monkeypatch: pytest.MonkeyPatch, log: io.StringIO) -> None:
    two_models = {
        "models.embed.versions": {"1": {"endpoints": ["h:1"]}, "2": {"endpoints": ["h:2"]}},
        "models.embed.rollout": {"candidate": "2"},
    }
    made = House()
    right = conducts.Conduct.merge

    def merge(self: conducts.Conduct, *given: Any) -> Any:
        return right(self, *given) if self.name == "embed" else 1 / 0

    made.rollouts.rules_live(book(two_models))
    monkeypatch.setattr(conducts.Conduct, "merge", merge)
    async with made.running():
        assert set(made.rollouts.live.rollouts) == {"embed"}
    assert "rollout state not exchanged" in events(log)


# --- stores that cannot be read ----------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["local", "shared"])
async def test_nobody_gets_the_candidate_before_the_stores_were_read(which: str, log: io.StringIO) -> None:
    stores = {"local": MemoryStore(), "shared": MemoryStore()}
    stores[which].down = True
    made = house(**stores)
    async with made.running():
        await asyncio.sleep(0.03)
        assert made.states is None
        status = made.rollouts.status_of(MODEL)
        assert not status.readable
        assert status.problems[0].startswith("the state store was not read since this process started")
        assert made.metric("state_store_up") == 0
        stores[which].down = False
        await until(lambda: made.states == {})
        assert made.rollouts.status_of(MODEL).readable
        assert made.metric("state_store_up") == 1
    assert events(log) == ["a state store failed; the last known state counts", "the state stores answer again"]


@pytest.mark.parametrize("key", ["rollout", "beta"])
async def test_a_damaged_document_is_a_store_that_cannot_be_read(key: str, log: io.StringIO) -> None:
    """Without its flags a tenant that said no would get the candidate."""
    store = MemoryStore()
    made = house(local=store)
    store.documents[key if key == "beta" else f"rollout/{rollout_of(made.rules().rules)}"] = b"\xff"
    async with made.running():
        await asyncio.sleep(0.05)
        assert made.states is None
    # Said once, however often it is read.
    assert events(log) == ["a state store failed; the last known state counts"]


async def test_a_store_that_fails_later_takes_nothing_back_and_loses_no_evidence() -> None:
    shared = MemoryStore()
    made = house(shared=shared)
    async with made.running():
        await made.rollouts.command(MODEL, "tenant:acme", Event.OPERATOR_PROMOTE, **OPS)
        shared.down = True
        made.send(60)
        await asyncio.sleep(0.05)
        assert made.states == {"tenant:acme": "promoted"}
        assert made.rollouts.status_of(MODEL).progress.units == 0
        shared.down = False
        await until(lambda: made.states == {"tenant:acme": "promoted", **REVERTED})
    assert made.metric("rollout_observations_dropped_total") == 0


async def test_the_queue_is_bounded_and_what_is_lost_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "MAX_QUEUE", 10)
    store = MemoryStore()
    made = house(local=store)
    async with made.running():
        store.failing = {"visits"}
        made.send(30, bad=False)
        await asyncio.sleep(0.03)
        assert made.metric("rollout_observations_dropped_total") == 20
        assert made.metric("state_store_up") == 0
        store.failing = set()
        await until(lambda: made.rollouts.status_of(MODEL).progress.all_units == 10)
        assert made.metric("state_store_up") == 1


async def test_a_store_that_fails_between_two_counts_loses_neither() -> None:
    """Visits once were counted of requests of which the guard heard only after their second visit: never."""
    store = MemoryStore()
    made = house(local=store)

    def fail_pairs(method: str, key: str) -> None:
        if key.endswith("/pairs"):
            raise StateUnavailableError("in the middle")

    async with made.running():
        store.before = fail_pairs
        for number in range(4):
            made.rollouts.outcome(outcome(f"m{number}", "acme", "stable", failed=False, mirror=True))
            made.rollouts.record(record(f"m{number}", "acme", "stable"))
            made.rollouts.record(record(f"m{number}", "acme", "candidate", mirror=True))
        await until(lambda: made.rollouts.status_of(MODEL).progress.all_units == 4)
        assert made.rollouts.status_of(MODEL).progress.pairs == 0
        store.before = lambda _method, _key: None
        await until(lambda: made.rollouts.status_of(MODEL).progress.pairs == 4)
    assert made.rollouts.status_of(MODEL).progress.all_units == 4


async def test_a_cancellation_in_the_middle_loses_nothing() -> None:
    store = MemoryStore()
    made = house(local=store)
    await made.rollouts.start()
    made.send(8, bad=False)
    store.hang_s = 10.0
    for work in (made.rollouts._flush, made.rollouts._sync):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await work()
    store.hang_s = 0.0
    async with made.running():
        await until(lambda: made.rollouts.status_of(MODEL).progress.all_units == 8)


async def test_a_store_that_hangs_delays_no_revert_and_blocks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenantry.adapters.rollout_stores.ANSWER_SECONDS", 0.2)
    shared = MemoryStore()
    made = house(shared=shared)
    async with made.running():
        shared.hang_s, shared.down = 0.6, True
        await until(made.rollouts._lock.locked)
        begin = time.monotonic()
        word = asyncio.create_task(made.rollouts.command(MODEL, FLEET, Event.OPERATOR_REVERT, **OPS))
        await asyncio.sleep(0)
        assert made.states == REVERTED
        with pytest.raises(StateUnavailableError, match=r"it is done here, .* did not answer within 0\.2 s"):
            await word
        with pytest.raises(StateUnavailableError, match="nothing was done"):
            await made.rollouts.command(MODEL, FLEET, Event.OPERATOR_RESUME, **OPS)
        with pytest.raises(StateUnavailableError, match="did not answer"):
            await made.rollouts.set_beta(verified(), beta=True)
        assert made.rollouts.live.beta == {"globex": True}
        assert time.monotonic() - begin < 0.7
        shared.hang_s, shared.down = 0.0, False
        await until(lambda: made.told)
    assert made.states == REVERTED


async def test_a_round_asks_a_store_that_failed_no_more() -> None:
    """Ten rollouts would else wait ten times for its timeout."""
    models = {
        f"m{number}": {
            "stable": "1", "rollout": {"candidate": "2"},
            "versions": {"1": {"endpoints": ["h:1"]}, "2": {"endpoints": ["h:2"]}},
        }
        for number in range(10)
    }  # fmt: skip
    local, shared = MemoryStore(), MemoryStore()
    made = House(local=local, shared=shared)
    made.rollouts.rules_live(book(models=models, tenants={}))
    shared.down = True
    await made.rollouts.start()
    assert shared.calls == {"update": 1}
    assert len(local.documents) == 11  # they and the flags


# --- replicas and restarts ---------------------------------------------------------------------------------------


async def test_a_revert_of_one_replica_reaches_the_other() -> None:
    shared = MemoryStore()
    one, two = house(shared=shared), house(shared=shared, writer="two")
    async with one.running(), two.running():
        one.send(60)
        await until(lambda: two.states == REVERTED)
        await until(lambda: one.told)
    assert two.told == []
    assert await two.rollouts.history(MODEL, 10) == one.told


async def test_replicas_add_up_their_evidence_and_tell_of_a_verdict_once() -> None:
    shared = MemoryStore()
    houses = [house(shared=shared, writer=name) for name in ("one", "two")]
    async with houses[0].running(), houses[1].running():
        for _ in range(15):
            for made in houses:
                made.send(2, unit=f"{made.writer}-")
        await until(lambda: all(made.states == REVERTED for made in houses))
        await until(lambda: any(made.told for made in houses))
        await asyncio.sleep(0.05)
    (log_,) = shared.logs.values()
    assert [json.loads(entry)["kind"] for entry in log_.values()].count("reverted") >= 1
    assert sum(len(made.told) for made in houses) == len(log_)


async def test_a_unit_that_two_replicas_see_counts_once() -> None:
    shared = MemoryStore()
    one, two = house(shared=shared), house(shared=shared, writer="two")
    async with one.running(), two.running():
        one.send(20, bad=False)
        two.send(20, bad=False)
        await asyncio.sleep(0.05)
        await until(lambda: one.rollouts.status_of(MODEL).progress.all_units == 20)
        await until(lambda: two.rollouts.status_of(MODEL).progress.all_units == 20)


async def test_a_shared_store_that_forgot_hears_of_the_revert_again(log: io.StringIO) -> None:
    shared = MemoryStore()
    made = house(shared=shared)
    async with made.running():
        made.send(10, bad=False)
        await made.rollouts.command(MODEL, "tenant:acme", Event.OPERATOR_REVERT, **OPS)
        await until(lambda: made.rollouts.status_of(MODEL).progress.units == 5)
        shared.lose()
        await until(lambda: made.rollouts.status_of(MODEL).chapter == 2)
        await until(lambda: b'"chapter":2' in shared.documents.get(f"rollout/{rollout_of(made.rules().rules)}", b""))
    assert made.states == {"tenant:acme": "reverted"}
    assert made.rollouts.status_of(MODEL).progress.units == 0
    assert len(lines(log, "the shared store forgot; evidence begins anew")) == 1
    newcomer = house(shared=shared, writer="two")
    await newcomer.rollouts.start()
    assert newcomer.states == {"tenant:acme": "reverted"}


async def test_a_revert_outlives_the_process_in_the_file_alone(tmp_path: Path) -> None:
    file = str(tmp_path / "state.db")
    for number in range(3):
        store = open_state(file)
        made = house(local=store, writer=f"start {number}")
        async with made.running():
            if number == 0:
                made.send(60)
            await until(lambda: made.states == REVERTED)  # noqa: B023
            if number == 0:
                await until(lambda: made.told)  # noqa: B023
        await made.rollouts.stop()
        assert [entry.kind for entry in await made.rollouts.history(MODEL, 10)] == ["reverted"]
        await store.close()


async def test_the_last_of_the_evidence_is_kept_at_the_end(tmp_path: Path) -> None:
    store = open_state(str(tmp_path / "state.db"))
    made = house(local=store)
    await made.rollouts.start()
    made.send(20, bad=False)
    await made.rollouts.stop()
    after = house(local=store, writer="two")
    await after.rollouts.start()
    assert after.rollouts.status_of(MODEL).progress.all_units == 20
    await store.close()


async def test_a_store_that_hangs_does_not_keep_the_process_from_ending(
    monkeypatch: pytest.MonkeyPatch, log: io.StringIO
) -> None:
    monkeypatch.setattr(adapter, "STOP_SECONDS", 0.05)
    local, shared = MemoryStore(), MemoryStore()
    made = house(local=local, shared=shared)
    await made.rollouts.start()
    made.send(20, bad=False)
    await made.rollouts._flush()
    made.send(20, bad=False)
    shared.hang_s = 30.0
    begin = time.monotonic()
    await made.rollouts.stop()
    assert time.monotonic() - begin < 1.0
    assert set(events(log)) == {"the state stores did not take the last of the evidence"}
    after = house(local=local, writer="two")
    await after.rollouts.start()
    assert after.rollouts.status_of(MODEL).progress.all_units == 20


async def test_a_resume_elsewhere_that_knew_nothing_of_a_revert_does_not_clear_it() -> None:
    """Reverts are numbered: the first one here and the first one there look alike once the store is back."""
    shared = MemoryStore()
    one, two = house(shared=shared), house(shared=shared, writer="two")
    await one.rollouts.start()
    await two.rollouts.start()
    shared.down = True
    with pytest.raises(StateUnavailableError):
        await one.rollouts.command(MODEL, FLEET, Event.OPERATOR_REVERT, who="one", why="it smokes")
    shared.down = False
    await two.rollouts.command(MODEL, FLEET, Event.OPERATOR_REVERT, **OPS)
    await two.rollouts.command(MODEL, FLEET, Event.OPERATOR_RESUME, **OPS)
    async with one.running(), two.running():
        await until(lambda: two.states == REVERTED)
        assert one.states == REVERTED
        await until(lambda: len(one.told) == 2)
        first, again = one.told
        assert first.who == again.who == "one"
        assert "it smokes (reverted again" in again.why
        # And one who knows may resume.
        await two.rollouts.command(MODEL, FLEET, Event.OPERATOR_RESUME, **OPS)
        await until(lambda: one.states == {})
        await asyncio.sleep(0.05)
        assert (one.states, two.states) == ({}, {})


# --- reloads of the rules ----------------------------------------------------------------------------------------


async def test_a_rollout_that_is_removed_and_added_again_keeps_its_revert_and_evidence() -> None:
    made = house()
    async with made.running():
        made.send(20, bad=False)
        await until(lambda: made.rollouts.status_of(MODEL).progress.all_units == 20)
        await made.rollouts.command(MODEL, FLEET, Event.OPERATOR_REVERT, **OPS)
        made.now_s += 60
        made.rollouts.rules_live(book({"models/chat-8b/rollout": ...}))
        assert made.states is None
        made.send(4)  # of requests that had begun before
        made.now_s += 60
        made.rules()
        assert made.states is None  # others may have moved it meanwhile
        await until(lambda: made.states == REVERTED)
        assert made.rollouts.status_of(MODEL).progress.all_units == 20
        made.send(20, bad=False)
        await until(lambda: made.rollouts.status_of(MODEL).progress.all_units == 40)


async def test_a_rollout_that_comes_back_is_read_again_before_anybody_gets_it() -> None:
    shared = MemoryStore()
    one, two = house(shared=shared), house(shared=shared, writer="two")
    async with one.running(), two.running():
        one.rollouts.rules_live(book({"models/chat-8b/rollout": ...}))
        await two.rollouts.command(MODEL, FLEET, Event.OPERATOR_REVERT, **OPS)
        shared.down = True
        one.now_s += 1
        one.rules()
        await asyncio.sleep(0.03)
        assert one.states is None
        shared.down = False
        await until(lambda: one.states == REVERTED)


@pytest.mark.parametrize(
    "change",
    [
        {"models/chat-8b/versions/1.5.0/image": "repo/chat@sha256:fixed"},
        {
            "models/chat-8b/versions/1.6.0": {"endpoints": ["h:6"], "servedName": "chat-served"},
            "models/chat-8b/rollout/candidate": "1.6.0",
        },
    ],
    ids=["image", "candidate"],
)
async def test_another_image_or_candidate_is_another_rollout(change: dict[str, object]) -> None:
    made = house()
    async with made.running():
        await made.rollouts.command(MODEL, FLEET, Event.OPERATOR_REVERT, **OPS)
        made.rules(change)
        assert made.states is None
        await until(lambda: made.states == {})
        assert await made.rollouts.history(MODEL, 10) == []
        made.now_s += 1
        made.rules()
        await until(lambda: made.states == REVERTED)


async def test_other_margins_begin_with_evidence_of_their_own() -> None:
    made = house()
    async with made.running():
        made.send(20, bad=False)
        await until(lambda: made.rollouts.status_of(MODEL).progress.all_units == 20)
        made.now_s += 1
        made.rules({"models/chat-8b/rollout/guard": {"margins": {"ttftRatio": 3}}})
        assert made.states == {}  # no moment without
        assert made.rollouts.status_of(MODEL).progress.all_units == 0
        made.now_s += 1
        made.rules()
        assert made.rollouts.status_of(MODEL).progress.all_units == 20


async def test_what_is_remembered_of_former_rollouts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "MAX_KNOWN", 3)
    made = house(shared=MemoryStore())
    async with made.running():
        for number in range(10):
            made.now_s += 1
            made.rules({"models/chat-8b/versions/1.5.0/image": f"i{number}"})
            await until(lambda: made.states == {})
        rollouts = made.rollouts
        assert len(rollouts._known) == 3
        assert (len(rollouts._readable), len(rollouts._fleet_knew)) == (1, 1)
        assert set(list(rollouts._known)[-1:]) != {rollouts.status_of(MODEL).rollout}


# --- an operator's word ------------------------------------------------------------------------------------------


async def test_with_a_store_down_a_revert_is_done_here_and_a_promotion_nowhere() -> None:
    shared = MemoryStore()
    made = house(shared=shared)
    async with made.running():
        shared.down = True
        with pytest.raises(StateUnavailableError, match="nothing was done: the store of this test is down"):
            await made.rollouts.command(MODEL, FLEET, Event.OPERATOR_PROMOTE, **OPS)
        assert made.states == {}
        with pytest.raises(StateUnavailableError, match="done here, but other replicas may not know of it: the store"):
            await made.rollouts.command(MODEL, FLEET, Event.OPERATOR_REVERT, **OPS)
        assert made.states == REVERTED
        await until(lambda: made.told)  # by whose local file got it first
        shared.down = False
        await until(lambda: shared.logs)
    assert [entry.kind for entry in await made.rollouts.history(MODEL, 10)] == ["reverted"]


async def test_a_word_goes_by_what_the_store_knows() -> None:
    shared = MemoryStore()
    one, two = house(shared=shared), house(shared=shared, writer="two")
    await one.rollouts.start()
    await two.rollouts.start()
    await one.rollouts.command(MODEL, FLEET, Event.OPERATOR_REVERT, **OPS)
    with pytest.raises(TransitionError, match="resume it first: a revert is never undone by anything else"):
        await two.rollouts.command(MODEL, FLEET, Event.OPERATOR_PROMOTE, **OPS)
    assert two.states == REVERTED


async def test_a_word_said_twice_is_entered_once() -> None:
    made = house()
    await made.rollouts.start()
    first = await made.rollouts.command(MODEL, "tier:gold", Event.OPERATOR_PAUSE, **OPS)
    assert [(entry.scope, entry.before, entry.after) for entry in first] == [
        ("tier:gold", State.SPLITTING, State.PAUSED)
    ]
    assert await made.rollouts.command(MODEL, "tier:gold", Event.OPERATOR_PAUSE, **OPS) == []
    assert len(await made.rollouts.history(MODEL, 10)) == 1
    assert made.told == []  # reverts and alarms alone


async def test_words_at_once_are_done_one_after_the_other() -> None:
    made = house()
    async with made.running():
        await asyncio.gather(
            made.rollouts.command(MODEL, FLEET, Event.OPERATOR_PROMOTE, **OPS),
            made.rollouts.command(MODEL, FLEET, Event.OPERATOR_REVERT, **OPS),
            return_exceptions=True,
        )
        assert made.states == REVERTED


@pytest.mark.parametrize(
    ("model", "scope", "message"),
    [
        ("chat-8c", FLEET, 'did you mean "chat-8b"'),
        (MODEL, "tier:golf", "no such tier"),
        ("embed", FLEET, "no rollout"),
    ],
)
async def test_who_or_what_is_not_known_is_named(model: str, scope: str, message: str) -> None:
    made = house()
    await made.rollouts.start()
    with pytest.raises(RulesError, match=message):
        await made.rollouts.command(model, scope, Event.OPERATOR_REVERT, **OPS)


async def test_rules_that_change_while_a_word_is_said() -> None:
    store = MemoryStore()
    made = house(local=store)
    await made.rollouts.start()

    def reload(method: str, key: str) -> None:
        store.before = lambda _method, _key: None
        made.rollouts.rules_live(book({"models/chat-8b/rollout": ...}))

    store.before = reload
    with pytest.raises(TransitionError, match="the rules of chat-8b changed meanwhile"):
        await made.rollouts.command(MODEL, FLEET, Event.OPERATOR_PROMOTE, **OPS)


async def test_a_pause_that_ends_costs_no_evidence() -> None:
    store = MemoryStore()
    made = house(local=store)
    async with made.running():
        store.failing = {"visits"}
        made.send(20, bad=False)
        for event in (Event.OPERATOR_PAUSE, Event.OPERATOR_RESUME):
            await made.rollouts.command(MODEL, FLEET, event, **OPS)
        store.failing = set()
        await until(lambda: made.rollouts.status_of(MODEL).progress.all_units == 20)


async def test_what_needs_no_count_waits_for_no_store() -> None:
    store = MemoryStore()
    made = house(local=store)
    async with made.running():
        store.failing = {"visits"}
        made.send(4, bad=False)
        for number in range(4):
            made.rollouts.outcome(outcome(f"b{number}", "acme", "candidate", failed=False, share=1.0))
            made.rollouts.record(record(f"b{number}", "acme", "candidate"))
        await until(lambda: made.rollouts.status_of(MODEL).progress.last_candidate_s)
        assert len(made.rollouts._queue) == 4


async def test_what_came_before_a_resume_is_no_evidence_after_it() -> None:
    store = MemoryStore()
    made = house(local=store)
    async with made.running():
        await made.rollouts.command(MODEL, FLEET, Event.OPERATOR_REVERT, **OPS)
        store.failing = {"visits"}
        made.send(60)
        await asyncio.sleep(0.02)
        await made.rollouts.command(MODEL, FLEET, Event.OPERATOR_RESUME, **OPS)
        store.failing = set()
        await asyncio.sleep(0.05)
        assert made.states == {}
        assert made.rollouts.status_of(MODEL).progress.units == 0


async def test_entries_that_wait_for_a_store_are_bounded_and_written_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenantry.adapters.rollout_history.MAX_WAITING", 3)
    store = MemoryStore()
    made = house(local=store)
    async with made.running():
        store.failing = {"append"}
        for event in (Event.OPERATOR_PAUSE, Event.OPERATOR_RESUME, Event.OPERATOR_PROMOTE, Event.OPERATOR_REVERT):
            with pytest.raises(StateUnavailableError, match="done here"):
                await made.rollouts.command(MODEL, FLEET, event, **OPS)
        store.failing = set()
        await until(lambda: any(len(log) == 3 for log in store.logs.values()))
    kept = [entry.kind for entry in await made.rollouts.history(MODEL, 10)]
    assert kept == ["resumed", "promoted", "reverted"]


async def test_an_entry_that_falls_out_while_it_is_written_takes_no_other_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tenantry.adapters.rollout_history.MAX_WAITING", 2)
    store = MemoryStore()
    made = house(local=store)
    await made.rollouts.start()
    store.failing = {"append"}
    for event in (Event.OPERATOR_PAUSE, Event.OPERATOR_RESUME):
        with pytest.raises(StateUnavailableError):
            await made.rollouts.command(MODEL, FLEET, event, **OPS)
    store.failing = set()

    def revert(method: str, _key: str) -> None:
        if method == "append":
            store.before = lambda _method, _key: None
            made.rollouts._move(made.rollouts._find(MODEL), FLEET, Event.OPERATOR_REVERT, **OPS)

    store.before = revert
    for _ in range(2):  # what comes while it is written is written in the next round
        await made.rollouts._sync()
    assert [entry.kind for entry in await made.rollouts.history(MODEL, 10)] == ["paused", "resumed", "reverted"]


async def test_history_of_another_release_is_left_out() -> None:
    store = MemoryStore()
    made = house(local=store)
    await made.rollouts.start()
    await made.rollouts.command(MODEL, FLEET, Event.OPERATOR_PAUSE, **OPS)
    (written,) = store.logs.values()
    written["later"] = b'{"kind": "applauded"}'
    assert [entry.kind for entry in await made.rollouts.history(MODEL, 10)] == ["paused"]


# --- what operators are told -------------------------------------------------------------------------------------


async def test_a_promotion_that_the_rules_do_not_know_of_is_a_problem() -> None:
    made = house()
    await made.rollouts.start()
    await made.rollouts.command(MODEL, FLEET, Event.OPERATOR_PROMOTE, **OPS)
    (problem,) = made.rollouts.status_of(MODEL).problems
    assert problem == (
        "1.5.0 is promoted to all, and the rules still say stable 1.4.0: "
        'set models.chat-8b.stable to "1.5.0" and remove the rollout'
    )


async def test_a_verdict_that_is_held_back_is_a_problem_and_a_gauge(log: io.StringIO) -> None:
    """Both versions fail after a while: no way back onto a sick version."""
    made = house()
    async with made.running():
        for number in range(120):
            tenant = TENANTS[number % 3]
            made.rollouts.outcome(outcome(f"s{number}", tenant, "stable", failed=number > 20, share=0.0))
            made.rollouts.record(record(f"s{number}", tenant, "stable"))
        await asyncio.sleep(0.02)
        made.send(80)
        await until(lambda: made.rollouts.status_of(MODEL).progress.alarms)
        problems = made.rollouts.status_of(MODEL).problems
        assert any("held back, as the stable version 1.4.0 fails too" in problem for problem in problems)
        await until(lambda: made.told)
    assert made.told[0].kind == "alarm"
    assert made.states == {}
    made.rollouts.show()
    assert (made.metric("rollout_held_verdicts", model=MODEL) or 0) >= 1


async def test_gauges_are_set_for_whoever_scrapes() -> None:
    made = house()
    made.rules({"tenants.acme.pins": {MODEL: "1.5.0"}})
    async with made.running():
        made.send(20, bad=False)
        await until(lambda: made.rollouts.status_of(MODEL).progress.all_units == 20)
        await made.rollouts.command(MODEL, "tier:gold", Event.OPERATOR_PAUSE, **OPS)
        made.rollouts.show()
        of = {"model": MODEL, "candidate": "1.5.0"}
        assert made.metric("rollout_state", **of, state="splitting") == 1
        assert made.metric("rollout_state", **of, state="reverted") == 0
        assert made.metric("rollout_scopes", model=MODEL, state="paused") == 1
        assert made.metric("rollout_percent", model=MODEL) == 50
        assert made.metric("rollout_realised_share", model=MODEL) == 0.5
        assert made.metric("rollout_pinned_to_reverted", model=MODEL) == 0
        assert (made.metric("rollout_suspicion", model=MODEL) or 0) < 1
        await made.rollouts.command(MODEL, FLEET, Event.OPERATOR_REVERT, **OPS)
        made.rollouts.show()
        assert made.metric("rollout_state", **of, state="reverted") == 1
        assert made.metric("rollout_pinned_to_reverted", model=MODEL) == 1
        made.rollouts.rules_live(book({"models/chat-8b/rollout": ...}))
        made.rollouts.show()
        assert made.metric("rollout_state", **of, state="reverted") is None


async def test_no_automatic_step_while_a_store_cannot_be_read() -> None:
    store = MemoryStore()
    made = House(local=store)
    steps = {"percents": [5, 50], "minUnits": 1, "minSeconds": 1}
    made.rollouts.rules_live(book({"models/chat-8b/rollout": {"candidate": "1.5.0", "steps": steps}}))
    async with made.running():
        assert made.rollouts.status_of(MODEL).percents["all"] == 5
        made.now_s += 100
        made.send(20, bad=False)
        store.failing = {"update"}
        await until(lambda: made.rollouts.status_of(MODEL).next_step == "the evidence cannot be read")
        assert made.rollouts.status_of(MODEL).percents["all"] == 5
        store.failing = set()
        await until(lambda: made.rollouts.status_of(MODEL).percents["all"] == 50)


# --- beta flags --------------------------------------------------------------------------------------------------


async def test_a_tenants_own_flag_is_shared_and_outlives_the_process(tmp_path: Path) -> None:
    shared, file = MemoryStore(), open_state(str(tmp_path / "state.db"))
    one, two = house(shared=shared, local=file), house(shared=shared, writer="two")
    async with one.running(), two.running():
        await one.rollouts.set_beta(verified(), beta=False)
        assert one.rollouts.live.beta == {"globex": False}
        await until(lambda: two.rollouts.live.beta == {"globex": False})
    after = house(local=file, writer="three")
    await after.rollouts.start()
    assert after.rollouts.live.beta == {"globex": False}
    await file.close()


async def test_the_last_word_on_a_flag_counts_whoever_heard_it() -> None:
    shared = MemoryStore()
    one, two = house(shared=shared), house(shared=shared, writer="two")
    await one.rollouts.start()
    await two.rollouts.start()
    for beta in (True, False, True):
        await one.rollouts.set_beta(verified(), beta=beta)
    await two.rollouts.set_beta(verified(), beta=False)
    assert two.rollouts.live.beta == {"globex": False}
    await one.rollouts._sync()
    assert one.rollouts.live.beta == {"globex": False}


async def test_a_flag_that_is_set_while_flags_are_exchanged_is_not_lost() -> None:
    store = MemoryStore()
    made = house(local=store)
    await made.rollouts.start()
    store.hang_s = 0.02
    exchange = asyncio.create_task(made.rollouts._sync())
    await asyncio.sleep(0.03)
    await asyncio.gather(exchange, made.rollouts.set_beta(verified(), beta=True))
    assert made.rollouts.live.beta == {"globex": True}
    assert b"globex" in store.documents["beta"]


async def test_status_names_who_has_the_flag_by_rules_or_by_its_own_word() -> None:
    made = house()
    made.rules({"tenants.acme.betaSelfService": True, "tenants.initech.betaSelfService": False})
    await made.rollouts.start()
    assert made.rollouts.status_of(MODEL).beta == ("globex",)
    for name in ("acme", "globex", "initech"):
        await made.rollouts.set_beta(verified(name), beta=name != "globex")
    # Only acme may; what others said while they might does not count.
    assert made.rollouts.status_of(MODEL).beta == ("acme", "globex")
