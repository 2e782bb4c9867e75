"""Rollouts from end to end: two nodes with an Envoy and a sidecar each, Redis, engines that post usage records.

Everything is real but the engines, which are the stand-in's: what they do badly is set, and when. Each test prints what
it measured and leaves it in out/test/rollout.json. Bounds are wide, since cores are shared: the figures say more.
"""

import asyncio
import json
import math
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tenantry.core.rollout.standing import FLEET

from dataplane.fleet import BETA, CANDIDATE, EARLY, MUTE, PINNED, STABLE, TENANTS, Fleet, Sent, fleet
from dataplane.harness import Json, until
from dataplane.wire import ask, request

REPORT = Path(__file__).parents[2] / "out" / "test" / "rollout.json"
GOOD = {"error_rate": 0, "hang_rate": 0, "die_after_first_byte_rate": 0}

CALM: Json = {"margins": {"ttftRatio": 1000, "timePerTokenRatio": 1000}}
"""A guard that does not judge latency, for tests whose candidate is well: two shared cores are not."""

BLIND: Json = {"alpha": 1.5e-200, "margins": {"errorOdds": 1000}}
"""A guard that no evidence of a test convinces, so that rescue is seen alone.

Margins alone would not do: of a candidate that only fails there are no readings, and of that the other tests make
evidence too (its units are missing among those whose length was read)."""

QUICK: Json = {"streamSeconds": 0.5, "answerSeconds": 0.5}
"""After so long a candidate is taken for hung. Stable answers take 0.02 s."""

PATIENT: Json = {"streamSeconds": 1.5, "answerSeconds": 1.5}
"""For traffic that does not wait for answers: the limit holds for the rescue too, and two busy cores may miss it."""

MODELS: dict[str, Json] = {
    "bad-8b": {"percent": 50},
    "worse-8b": {"percent": 20},
    "back-8b": {"percent": 50},
    "well-8b": {"percent": 50, "guard": CALM},
    "down-8b": {"percent": 5, "guard": BLIND, "rescue": QUICK},
    "hung-8b": {"percent": 5, "guard": BLIND, "rescue": QUICK},
    "gone-8b": {"percent": 5, "rescue": PATIENT},
    "stuck-8b": {"percent": 20, "rescue": PATIENT},
    "all-8b": {"percent": 100, "guard": BLIND},
    "dies-8b": {"percent": 50},
    "copy-8b": {"mirrorPercent": 30, "guard": CALM},
    "mute-8b": {"candidate": MUTE, "mirrorPercent": 50, "guard": CALM, "records": {"seconds": 1, "mirrorSeconds": 1}},
    "word-8b": {"percent": 20, "guard": CALM},
    "crowd-8b": {"percent": 20, "guard": CALM},
}


class Figures(dict[str, Any]):
    """What was measured, by test; written at once, so that a failure leaves what came before it."""

    def tell(self, name: str, **figures: Any) -> Json:
        self[name] = {key: round(value, 3) if isinstance(value, float) else value for key, value in figures.items()}
        print(f"{name}: {self[name]}")
        REPORT.parent.mkdir(parents=True, exist_ok=True)
        REPORT.write_text(json.dumps(self, indent=1) + "\n")
        return dict(self[name])


@pytest.fixture(scope="module")
def figures() -> Figures:
    return Figures()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def whole(tmp_path_factory: pytest.TempPathFactory, redis_program: None) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path_factory.mktemp("fleet"), MODELS) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def plane(whole: Fleet) -> AsyncIterator[Fleet]:
    """The fleet, whose engines are well again afterwards."""
    yield whole
    await asyncio.gather(*(engine.behave(**GOOD) for engine in (whole.stable, whole.candidate)))


def unwell(sent: list[Sent]) -> list[Sent]:
    return [each for each in sent if not each.well]


# --- the candidate is taken back (a) ---


@pytest.mark.parametrize(("model", "error_rate", "bound_s"), [("bad-8b", 1.0, 6.0), ("worse-8b", 0.2, 20.0)])
async def test_from_the_first_bad_answer_to_no_candidate_traffic_in_either_sidecar(
    plane: Fleet, figures: Figures, model: str, error_rate: float, bound_s: float
) -> None:
    async with plane.steady(model, 150) as sent:
        await asyncio.sleep(1.5)
        before = Counter((each.node, each.version) for each in sent)
        assert set(await plane.state(model)) == {"splitting"}
        await plane.candidate.behave(error_rate=error_rate)
        await plane.both(model, "reverted", seconds=bound_s)
        await asyncio.sleep(1.0)
        quiet_from = await plane.candidate.count()
        await asyncio.sleep(1.0)
        quiet = await plane.candidate.count() - quiet_from
    bad = [record for record in plane.ear.of(model) if record["finish_reason"] == "error"]
    first_bad_s = min(record["ended_s"] for record in bad)
    node_of = {each.user: each.node for each in sent}
    last_s = dict.fromkeys((0, 1), 0.0)
    for seen in await plane.candidate.seen(model):
        node = node_of[seen["body"]["user"]]
        last_s[node] = max(last_s[node], seen["time_s"])
    told = figures.tell(
        f"revert at error rate {error_rate:g}, {MODELS[model]['percent']} %",
        seconds_to_none_in_either=max(last_s.values()) - first_bad_s,
        seconds_by_sidecar=[round(last_s[node] - first_bad_s, 3) for node in (0, 1)],
        bad_answers=len(bad), requests=len(sent), requests_a_second=150, client_errors=len(unwell(sent)),
        candidate_requests_in_the_second_after=quiet,
    )  # fmt: skip
    assert all(before[node, version] > 5 for node in (0, 1) for version in (STABLE, CANDIDATE)), before
    assert (told["client_errors"], quiet) == (0, 0), told
    assert 0 < told["seconds_to_none_in_either"] < bound_s, told


# --- and stays so (b) ---


async def test_nothing_that_is_lost_brings_a_reverted_candidate_back(plane: Fleet, figures: Figures) -> None:
    """One after the other, and all at once. `well-8b` shows that a candidate whose rollout is open gets traffic."""
    model, (one, other) = "back-8b", plane.nodes
    came: dict[str, int] = {}

    async def none_after(what: str) -> None:
        await plane.serving(model)
        came[what] = await plane.to_candidate(model)

    def percent(value: float) -> None:
        plane.document["models"][model]["rollout"]["percent"] = value

    await plane.candidate.behave(error_rate=1.0)
    async with plane.steady(model, 150):
        await plane.both(model, "reverted")
    await plane.candidate.behave(error_rate=0.0)
    await none_after("the revert")
    assert await plane.to_candidate("well-8b") > 5

    await one.restart()
    await none_after("kill -9 of one sidecar")
    await other.restart()
    await none_after("kill -9 of the other")

    await plane.redis.kill()
    came["Redis is down"] = await plane.to_candidate(model)
    await plane.redis.start()
    came["at once after Redis came back empty"] = await plane.to_candidate(model)
    await asyncio.sleep(1.2)
    await none_after("Redis came back empty")

    await plane.rules(lambda _document: percent(90))
    await none_after("rules with 90 %")

    await plane.redis.kill()
    await asyncio.gather(one.kill(), other.kill())
    percent(100)
    one.files.save(plane.document)
    await plane.redis.start()
    await asyncio.gather(one.start(), other.start())
    await none_after("all three at once")

    told_by = [await node.page(f"/rollouts/history?model={model}") for node in plane.nodes]
    remembered = {(entry["kind"], entry["who"]) for entries in told_by for entry in entries}

    # A sidecar on a new machine has no file of its own: Redis tells it. (Written back there by those who knew.)
    await asyncio.sleep(1.2)
    await other.kill()
    for path in other.files.folder.glob("state.db*"):
        path.unlink()
    await other.start()
    await none_after("a new machine")

    # Restarted while the store is down: what nobody can read, nobody gets, whatever it was.
    assert await plane.to_candidate("well-8b") > 5
    await plane.redis.kill()
    still = await plane.to_candidate("well-8b")
    await asyncio.gather(one.restart(), other.restart())
    await plane.serving(model)
    unreadable = await plane.to_candidate("well-8b")
    came["restarted while Redis is down"] = await plane.to_candidate(model)
    readable = {str(status["readable"]) for status in [await node.rollout("well-8b") for node in plane.nodes]}
    await plane.redis.start()
    async with asyncio.timeout(15):
        while not all([(await node.rollout("well-8b"))["readable"] for node in plane.nodes]):
            await asyncio.sleep(0.05)
    again = await plane.to_candidate("well-8b")
    await none_after("Redis is readable again")
    told = figures.tell(
        "a reverted candidate stays away", candidate_requests_of_60_after=came,
        open_rollout={
            "Redis down, sidecars as they were": still, "restarted while Redis is down": unreadable,
            "Redis back": again,
        },
    )  # fmt: skip
    assert set(came.values()) == {0}, told
    assert ("reverted", "guard") in remembered, "Redis lost its data, the nodes did not"
    assert (unreadable, readable) == (0, {"False"}), told
    assert min(still, again) > 5, told


# --- rescue (c, d, e) ---


async def rescued(plane: Fleet, figures: Figures, model: str, name: str, sent: list[Sent]) -> Json:
    """Assert that nobody saw the candidate's failures, and that each was counted."""
    await plane.ended(model, len(sent))
    assigned = await plane.total("tenantry_rollout_requests_total", model=model, arm="candidate")
    told = figures.tell(
        name, requests=len(sent), client_errors=len(unwell(sent)), candidate_requests=int(assigned),
        rescued=int(await plane.total("tenantry_rollout_rescued_total", model=model)),
        answered_by=dict(Counter(each.version for each in sent)), state=(await plane.state(model))[0],
        slowest_s=max(each.took_s for each in sent), median_s=statistics.median(each.took_s for each in sent),
    )  # fmt: skip
    assert told["client_errors"] == 0, (told, unwell(sent)[:3])
    assert told["answered_by"] == {STABLE: len(sent)}, told
    assert told["rescued"] == told["candidate_requests"] > 0, told
    return told


async def test_a_candidate_that_is_down_costs_no_client_an_answer(plane: Fleet, figures: Figures) -> None:
    await plane.candidate.stop()
    try:
        sent = await plane.drive("down-8b", 1000)
        told = await rescued(plane, figures, "down-8b", "candidate down, 5 % of 1,000, the guard blind", sent)
        assert told["state"] == "splitting", told
        assert 15 < told["candidate_requests"] < 110, told
    finally:
        await plane.candidate.start()


async def test_a_candidate_that_hangs_costs_no_client_an_answer(plane: Fleet, figures: Figures) -> None:
    plane.candidate.freeze()
    try:
        sent = await plane.drive("hung-8b", 1000)
        told = await rescued(plane, figures, "hung-8b", "candidate hung, 5 % of 1,000, the guard blind", sent)
        assert told["state"] == "splitting", told
        assert 15 < told["candidate_requests"] < 110, told
    finally:
        await plane.candidate.thaw()


@pytest.mark.parametrize("how", ["down", "hung"])
async def test_the_guard_takes_a_silent_candidate_back(plane: Fleet, figures: Figures, how: str) -> None:
    """By the access log alone: an engine that is down or stopped posts nothing."""
    model = {"down": "gone-8b", "hung": "stuck-8b"}[how]
    if how == "down":
        await plane.candidate.stop()
    else:
        plane.candidate.freeze()
    try:
        begin = time.monotonic()
        async with plane.steady(model, 100) as sent:
            await plane.both(model, "reverted", seconds=20)
            seconds = time.monotonic() - begin
        told = await rescued(
            plane, figures, model, f"candidate {how}, {MODELS[model]['percent']} %, the guard as it is", sent
        )
        (entry, *_) = [
            entry for entry in await plane.nodes[0].page(f"/rollouts/history?model={model}") if entry["scope"] == FLEET
        ]
        figures.tell(
            f"revert of a candidate that is {how}", seconds=seconds, rescued=told["rescued"], why=entry["why"]
        )  # fmt: skip
        assert entry["kind"] == "reverted"
        if how == "down":
            assert "the candidate's errors" in entry["why"], "at once, not when waiting for records is over"
    finally:
        await (plane.candidate.start() if how == "down" else plane.candidate.thaw())


async def test_200_requests_at_once_on_a_failing_candidate(plane: Fleet, figures: Figures) -> None:
    await plane.candidate.behave(error_rate=1.0)
    before = await plane.candidate.count()
    sent = await plane.drive("all-8b", 200, node=0, at_once=200)
    told = await rescued(plane, figures, "all-8b", "200 at once, 100 %, every answer a 500", sent)
    assert (told["rescued"], await plane.candidate.count() - before) == (200, 200), told


async def test_a_candidate_that_dies_after_its_first_byte_is_seen_by_clients_and_by_the_guard(
    plane: Fleet, figures: Figures
) -> None:
    model = "dies-8b"

    async def evidence() -> float:
        rows = (await plane.nodes[0].rollout(model))["evidence"]
        return max((row["log_e"] for row in rows if row["group"] is None and row["signal"] == "errors"), default=0.0)

    await plane.drive(model, 60)
    healthy = await evidence()
    before = await plane.candidate.count()
    await plane.candidate.behave(die_after_first_byte_rate=1.0)
    async with plane.steady(model, 150) as sent:
        await plane.both(model, "reverted")
    cut = unwell(sent)
    after = await plane.drive(model, 60)
    told = figures.tell(
        "dies after the first byte", requests=len(sent), cut=len(cut),
        candidate_requests=await plane.candidate.count() - before,
        rescued=int(await plane.total("tenantry_rollout_rescued_total", model=model)),
        log_e_before=healthy, log_e_at_the_revert=await evidence(), cut_after_the_revert=len(unwell(after)),
    )  # fmt: skip
    assert {(each.response.status, each.response.complete, each.version) for each in cut} == {(200, False, CANDIDATE)}
    assert (told["rescued"], told["cut_after_the_revert"]) == (0, 0), told
    assert told["cut"] == told["candidate_requests"] > 0, told
    assert told["log_e_at_the_revert"] > healthy, told


# --- mirror (f) ---


async def test_copies_are_a_share_and_nobodys_requests(plane: Fleet, figures: Figures) -> None:
    model, count = "copy-8b", 600
    forged = (("x-tenantry-mirror", "1"), ("x-tenantry-mirror-cluster", f"{model}@{CANDIDATE}"))
    before = await plane.candidate.count()
    sent = await plane.drive(model, count, headers=forged)
    others = await plane.drive(model, 40, tenant=PINNED, headers=forged)
    await plane.ended(model, count + len(others))
    await until(lambda: len(plane.ear.of(model, STABLE)) == count + len(others), what="the originals' records")
    came = await plane.candidate.count() - before
    await until(lambda: len(plane.ear.of(model)) >= came, what="the copies' records")
    copies, originals = plane.ear.of(model), plane.ear.of(model, STABLE)
    async with asyncio.timeout(10):
        while await plane.total("tenantry_rollout_observations_total", model=model, kind="pair") < came:
            await asyncio.sleep(0.05)
    told = figures.tell(
        "mirror at 30 %", requests=count, copies=came, share=came / count,
        records_of_copies_marked=sum(record["mirror"] for record in copies),
        records_of_originals_marked=sum(record["mirror"] for record in originals),
        pairs=int(await plane.total("tenantry_rollout_observations_total", model=model, kind="pair")),
        requests_counted=int(await plane.total("tenantry_requests_total", model=model)),
        attempts_counted=int(await plane.total("tenantry_upstream_attempts_total", model=model)),
        client_errors=len(unwell(sent)),
    )  # fmt: skip
    assert abs(came / count - 0.3) < 5 * math.sqrt(0.3 * 0.7 / count), told
    assert {each.version for each in [*sent, *others]} == {STABLE}, told
    assert told["client_errors"] == 0, told
    assert (told["records_of_copies_marked"], told["records_of_originals_marked"]) == (len(copies), 0), told
    assert len(copies) == came == told["pairs"], told
    assert told["requests_counted"] == told["attempts_counted"] == count + len(others), told
    ids = {record["request_id"] for record in originals}
    assert {record["request_id"] for record in copies} < ids
    assert PINNED not in {record["tenant"] for record in copies}, "pinned requests are not copied"
    marks = Counter(name for seen in await plane.stable.seen(model) for name, _ in seen["headers"])
    assert not any(name.startswith("x-tenantry-mirror") for name in marks), marks


async def test_requests_to_a_store_are_not_copied(plane: Fleet) -> None:
    """What stands there was never shown to keep tenants apart; forged headers do not get a copy out either."""
    forged = [("x-tenantry-mirror-cluster", f"copy-8b@{CANDIDATE}"), ("x-tenantry-route", "mirror")]
    before = await plane.candidate.count()
    for target, refusal in (
        ("/v2/vectordb/entities/search", (503, "store_not_proven")),
        ("/vectors/upsert", (404, "unknown_route")),  # the rules have no Pinecone
    ):
        body = b'{"model": "copy-8b", "collectionName": "c", "data": [[0.1]]}'
        headers = [("content-type", "application/json"), *forged]
        key = f"tk_{TENANTS[0]}-{'k' * 40}"
        response = await ask(plane.nodes[0].address, request(target, headers=headers, body=body, key=key))
        assert (response.status, response.json["error"]["code"]) == refusal
    await asyncio.sleep(0.3)
    # The sidecar itself asks what stands there, in vain.
    seen = [each for each in plane.store.seen if b"tk_" in repr(each).encode() or "VectorService" in repr(each)]
    assert (await plane.candidate.count(), seen) == (before, [])


async def test_a_candidate_that_never_posts_a_record_of_its_copies_is_taken_back(
    plane: Fleet, figures: Figures
) -> None:
    model = "mute-8b"
    begin = time.monotonic()
    async with plane.steady(model, 120) as sent:
        await plane.both(model, "reverted", seconds=20)
        seconds = time.monotonic() - begin
        await asyncio.sleep(0.3)
        quiet_from = await plane.mute.count()
        await asyncio.sleep(0.7)
        quiet = await plane.mute.count() - quiet_from
    told = figures.tell(
        "copies without a record", seconds_to_the_revert=seconds, copies=quiet_from, copies_after_it=quiet,
        requests=len(sent), client_errors=len(unwell(sent)), answered_by=dict(Counter(each.version for each in sent)),
    )  # fmt: skip
    assert (quiet, told["client_errors"], told["answered_by"]) == (0, 0, {STABLE: len(sent)}), told
    assert seconds >= 1.0, "before mirrorSeconds are over nothing is known"


# --- who gets what (g) ---


async def test_pins_beta_and_an_operators_word(plane: Fleet, figures: Figures) -> None:
    model, gold, bronze = "word-8b", TENANTS[0], TENANTS[1]
    why = ("--why", "trying", "--who", "ada")

    async def pinned_stay() -> None:
        assert set(await plane.versions(model, PINNED, 12)) == {STABLE}
        assert set(await plane.versions(model, EARLY, 12)) == {CANDIDATE}

    async def each(**expected: set[str]) -> None:
        found = {tenant: set(await plane.versions(model, tenant, 40)) for tenant in expected}
        assert found == expected
        await pinned_stay()

    split = {STABLE, CANDIDATE}
    await each(**{gold: split, bronze: split, BETA: split})

    assert (await plane.nodes[0].set_beta(beta=True)).status == 200
    first = await plane.ask(model, node=0, tenant=BETA)
    assert first.version == CANDIDATE, "at once where it was said"
    begin = time.monotonic()
    async with asyncio.timeout(10):
        while {(await plane.ask(model, node=1, tenant=BETA)).version for _ in range(12)} != {CANDIDATE}:
            await asyncio.sleep(0.02)
    beta_s = time.monotonic() - begin
    await each(**{BETA: {CANDIDATE}, gold: split})
    assert (await plane.nodes[1].set_beta(beta=False)).status == 200
    await asyncio.sleep(1.2)
    await each(**{BETA: split})
    assert (await plane.nodes[0].set_beta(beta=True)).status == 200

    assert "exactly one of" in await plane.command("promote", model, *why, fails=True)
    promote = {f"tenant:{gold}": ("--tenant", gold), "tier:bronze": ("--tier", "bronze"), FLEET: ("--all",)}
    spread: dict[str, float] = {}
    for scope, whom in promote.items():
        await plane.command("promote", model, *whom, *why)
        spread[scope] = await plane.both(model, "promoted", scope)
        later = TENANTS[2]  # gold, and nobody named it
        await each(**{
            gold: {CANDIDATE},
            bronze: {CANDIDATE} if scope != f"tenant:{gold}" else split,
            later: {CANDIDATE} if scope == FLEET else split,
        })  # fmt: skip
    await plane.command("revert", model, "--all", *why)
    spread["revert"] = await plane.both(model, "reverted")
    await each(**{gold: {STABLE}, bronze: {STABLE}, BETA: {STABLE}})
    await plane.command("resume", model, "--all", *why)
    await plane.both(model, "splitting")
    await each(**{gold: {CANDIDATE}, bronze: {CANDIDATE}, TENANTS[2]: split, BETA: {CANDIDATE}})

    history = await plane.nodes[1].page(f"/rollouts/history?model={model}")
    listed = await plane.command("history", model)
    told = figures.tell(
        "an operator's word", seconds_until_both_know=spread, beta_seconds_on_the_other=beta_s,
        history=[f"{entry['scope']} {entry['kind']} {entry['who']}" for entry in history],
    )  # fmt: skip
    assert told["history"] == [
        f"tenant:{gold} promoted ada", "tier:bronze promoted ada", f"{FLEET} promoted ada", f"{FLEET} reverted ada",
        f"{FLEET} resumed ada",
    ], told  # fmt: skip
    for entry in history:
        assert f"{entry['scope']}: {entry['before']} -> {entry['after']}" in listed, listed


# --- a crowd of 2,000 (h, i) ---

UNITS = 2_000
Buckets = dict[float, float]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def crowd(whole: Fleet, figures: Figures) -> tuple[list[Sent], Buckets]:
    """A request of each unit, through alternating nodes, and how late its record came."""
    before = await delays(whole)
    sent = await whole.drive("crowd-8b", UNITS)
    await whole.ended("crowd-8b", UNITS)
    await asyncio.sleep(1.0)
    after = await delays(whole)
    return sent, {bound: after[bound] - before[bound] for bound in after}


async def delays(plane: Fleet) -> Buckets:
    """Usage records that came within so many seconds, of both nodes."""
    found: Buckets = defaultdict(float)
    for node in plane.nodes:
        for (name, labels), value in (await node.samples()).items():
            if name == "tenantry_usage_record_delay_seconds_bucket":
                found[float(dict(labels)["le"])] += value
    return dict(found)


def percentile(buckets: Buckets, share: float) -> float:
    """The upper bound of the bucket that holds the percentile."""
    total = buckets[math.inf]
    return min(bound for bound, count in buckets.items() if count >= share * total)


async def test_records_come_within_2_s(crowd: tuple[list[Sent], Buckets], figures: Figures) -> None:
    _, late = crowd
    told = figures.tell(
        "usage record delay", records=int(late[math.inf]), p50_at_most_s=percentile(late, 0.5),
        p99_at_most_s=percentile(late, 0.99), within_2_s=late[2.0] / late[math.inf],
    )  # fmt: skip
    assert told["records"] >= 2 * UNITS, told
    assert told["p99_at_most_s"] <= 2.0, told


async def test_the_realised_share_is_the_splits(
    plane: Fleet, crowd: tuple[list[Sent], Buckets], figures: Figures
) -> None:
    sent, _ = crowd
    share = sum(each.version == CANDIDATE for each in sent) / UNITS
    by_node = [sum(each.version == CANDIDATE for each in sent if each.node == node) / (UNITS / 2) for node in range(2)]
    async with asyncio.timeout(15):
        while True:
            gauges = [(await node.rollout("crowd-8b"))["progress"] for node in plane.nodes]
            if all(gauge["all_units"] == UNITS for gauge in gauges):
                break
            await asyncio.sleep(0.1)
    told = figures.tell(
        "split at 20 % of 2,000 units", share=share, share_by_sidecar=by_node,
        share_as_the_guards_see_it=[round(gauge["units"] / gauge["all_units"], 4) for gauge in gauges],
    )  # fmt: skip
    assert not unwell(sent)
    assert abs(share - 0.2) < 5 * math.sqrt(0.2 * 0.8 / UNITS), told
    assert set(told["share_as_the_guards_see_it"]) == {round(share, 4)}, told


async def test_a_unit_keeps_its_version(plane: Fleet, crowd: tuple[list[Sent], Buckets], figures: Figures) -> None:
    """On the other node, and after a restart of both."""
    sent, _ = crowd

    async def differ(asked: list[Sent], *, other: bool) -> int:
        version_of = {(each.tenant, each.user): each.version for each in asked}
        again = await plane.many(
            partial(
                plane.ask, "crowd-8b", node=1 - each.node if other else each.node, tenant=each.tenant, user=each.user
            )
            for each in asked
        )
        return sum(each.version != version_of[each.tenant, each.user] for each in again)

    on_the_other = await differ(sent[:500], other=True)
    await asyncio.gather(*(node.restart() for node in plane.nodes))
    await plane.serving("crowd-8b")
    restarted = await differ(sent[500:1000], other=True)
    told = figures.tell("sticky", asked=[500, 500], changed_on_the_other=on_the_other, changed_by_restart=restarted)
    assert (on_the_other, restarted) == (0, 0), told
