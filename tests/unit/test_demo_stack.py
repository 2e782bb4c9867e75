"""What the demo builds on: its rules document, and the recorder that stands before engines without a record."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from tenantry.adapters.rules_file import read_file, read_rules
from tenantry.core.apikeys import digest_text
from tenantry.core.errors import RulesError
from tenantry.core.rulebook import RuleBook
from tenantry.core.rules import not_acted_on
from tenantry.core.rules_billing import Quota
from tenantry_testing.documents import decision

from demo import rules_document, scenario
from demo.observe import EngineRecord
from demo.quota_story import spend
from demo.recorder import RECORD_PATH, recording
from demo.run import CrowdCall
from demo.scenario import MODEL, Scenario

ENDPOINTS = {"1.4.0": "127.0.0.1:1111", "1.5.0": "127.0.0.1:2222"}


def filled(folder: Path) -> Path:
    path = folder / "rules.yaml"
    rules_document.fill(path, ENDPOINTS, {"acme": digest_text("tk_acme")})
    return path


def edit(path: Path, play: Scenario) -> None:
    """The operator's edit, midway in a play."""
    changes = [
        rules_document.add_tenant(plan.name, tier=plan.tier, digest=digest_text("tk_umbrella"), version=plan.expected)
        for plan in play.joining
    ]
    if play.new_version is not None:
        changes.append(rules_document.add_version(play.new_version, "127.0.0.1:3333"))
    rules_document.edit(path, *changes)


def served(path: Path, tenant: str) -> str:
    """The version that tenantry's own routing gives a tenant."""
    book = RuleBook(read_rules(read_file(path)))
    profile = book.profile(tenant)
    assert profile is not None
    return decision(profile, MODEL, book.rules).version


def test_the_template_is_valid_and_acted_on_whole() -> None:
    assert not_acted_on(read_rules(read_file(rules_document.TEMPLATE))) == []


def test_filling_in_changes_endpoints_and_keys_and_keeps_every_comment(tmp_path: Path) -> None:
    path = filled(tmp_path)
    rules = read_rules(read_file(path))

    assert {name: version.endpoints for name, version in rules.models[MODEL].versions.items()} == {
        "1.4.0": ("127.0.0.1:1111",),
        "1.5.0": ("127.0.0.1:2222",),
    }
    assert rules.tenants["acme"].keys == (digest_text("tk_acme"),)
    comments = [
        line.strip() for line in rules_document.TEMPLATE.read_text().splitlines() if line.strip().startswith("#")
    ]
    assert [line.strip() for line in path.read_text().splitlines() if line.strip().startswith("#")] == comments


@pytest.mark.parametrize("play", [scenario.stand_in(), scenario.vllm()], ids=["stand-in", "vllm"])
def test_the_play_expects_what_its_rules_say_before_and_after_the_edit(play: Scenario, tmp_path: Path) -> None:
    path = filled(tmp_path)
    assert list(read_rules(read_file(path)).tenants) == [plan.name for plan in play.founding]
    assert {plan.name: served(path, plan.name) for plan in play.founding} == {
        plan.name: plan.expected for plan in play.founding
    }

    edit(path, play)

    rules = read_rules(read_file(path))
    assert {plan.name: served(path, plan.name) for plan in play.tenants} == {
        plan.name: plan.expected for plan in play.tenants
    }
    assert {name: rules.tiers[tenant.tier].priority for name, tenant in rules.tenants.items() if tenant.tier} == {
        plan.name: plan.priority for plan in play.tenants
    }
    model = rules.models[MODEL]
    assert model.rollout is not None
    assert model.rollout.candidate == play.candidate
    assert set(model.versions) == {engine.version for engine in play.engines}


def with_rollouts(folder: Path) -> Path:
    """The first document of the play with stand-in engines."""
    play = scenario.stand_in()
    names = [*(plan.name for plan in play.founding), *play.crowd]
    digests = {name: digest_text(f"tk_{name}") for name in names}
    ports = iter(range(4000, 5000))
    changes = [
        rules_document.add_rollout(
            plan, {engine.version: f"127.0.0.1:{next(ports)}" for engine in plan.engines}, digests
        )
        for plan in play.rollouts
    ]
    assert play.quota is not None
    changes.append(rules_document.add_quota(play.quota, digests[play.quota.tenant]))
    path = folder / "rules.yaml"
    rules_document.fill(path, ENDPOINTS, {plan.name: digests[plan.name] for plan in play.founding}, *changes)
    return path


def test_one_tenant_has_a_quota_of_its_own_and_every_tier_and_model_has_a_price(tmp_path: Path) -> None:
    rules = read_rules(read_file(with_rollouts(tmp_path)))

    limits = {name: tenant.quota for name, tenant in rules.tenants.items() if tenant.quota is not None}
    assert limits == {"vandelay": Quota(compute_units_per_minute=2)}
    assert {name: float(tier.price.compute_unit) > 0 for name, tier in rules.tiers.items()} == dict.fromkeys(
        ("gold", "silver", "bronze"), True
    )
    assert {name: model.profile.gigaflops_per_token for name, model in rules.models.items()} == {
        "chat-8b": 15.01,
        "summary-1b": 2.47,
        "extract-3b": 6.43,
    }


@pytest.mark.parametrize(("statuses", "expected"), [((200, 429, 200), 429), ((200, 200, 200), 200)])
async def test_a_tenant_spends_its_quota_by_two_large_requests_and_a_small_one(
    statuses: tuple[int, ...], expected: int
) -> None:
    quota = scenario.stand_in().quota
    assert quota is not None
    asked: list[int] = []

    async def answer(request: web.Request) -> web.Response:
        assert request.headers["authorization"] == "Bearer tk_vandelay"
        asked.append(len((await request.json())["messages"][0]["content"]))
        status = statuses[len(asked) - 1]
        body = {"error": {"message": "Rate limit reached: 2 compute units a minute."}} if status == 429 else {}
        return web.json_response(body, status=status, headers={"x-tenantry-request-id": str(len(asked))})

    app = web.Application()
    app.add_routes([web.post("/v1/chat/completions", answer)])
    runner = web.AppRunner(app)
    await runner.setup()
    passed: list[CrowdCall] = []
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        refused = await spend(quota, url, "tk_vandelay", passed.append)
    finally:
        await runner.cleanup()

    assert asked == [1872, 1872, 52]
    assert [call.request_id for call in passed] == ["1", "3"]
    assert (refused.expected, refused.status) == (429, expected)
    told = "Rate limit reached: 2 compute units a minute." if expected == 429 else "was answered"
    assert refused.message == told


def test_the_rollouts_are_in_the_rules_as_the_play_has_them(tmp_path: Path) -> None:
    play, rules = scenario.stand_in(), read_rules(read_file(with_rollouts(tmp_path)))

    assert not_acted_on(rules) == []
    assert set(rules.models) == play.models
    for plan in play.rollouts:
        model = rules.models[plan.model]
        assert model.rollout is not None
        assert (model.stable, model.rollout.candidate) == (plan.stable.version, plan.candidate.version)
        assert (model.rollout.percent, model.rollout.mirror_percent) == (plan.percent, plan.mirror_percent)
        for sender in plan.crowd:
            tenant = rules.tenants[sender.name]
            assert (tenant.tier, tenant.beta) == (sender.tier, False)
            assert tenant.pins.get(plan.model) == (plan.stable.version if sender.pinned else None)
    assert set(rules.tenants) == {plan.name for plan in play.founding} | set(play.crowd)


def test_a_play_can_revert_the_fleet_no_tenant_of_the_split_stands_alone() -> None:
    for plan in scenario.stand_in().rollouts:
        assert sum(not sender.pinned for sender in plan.crowd) >= 3
        assert any(sender.pinned for sender in plan.crowd)
    assert {plan.expected for plan in scenario.stand_in().rollouts} == {"splitting", "reverted"}


def test_the_play_with_vllm_has_no_rollout_as_its_engines_post_no_records() -> None:
    assert scenario.vllm().rollouts == ()
    assert scenario.vllm().models == {MODEL}


def test_the_edit_leaves_the_rollouts_as_they_are(tmp_path: Path) -> None:
    path = with_rollouts(tmp_path)
    before = read_rules(read_file(path)).models

    edit(path, scenario.stand_in())

    after = read_rules(read_file(path)).models
    assert {name: model.rollout for name, model in after.items()} == {
        name: model.rollout for name, model in before.items()
    }


VERSION = """\
      "1.6.0":
        image: "registry.example/chat-8b:1.6.0"
        endpoints: ["127.0.0.1:3333"]
        scheduling: priority
"""
TENANT = f"""\
  umbrella:
    tier: gold
    keys: ["{digest_text("tk_umbrella")}"]
    pins:
      chat-8b: "1.6.0"
"""


def test_the_edit_adds_lines_and_leaves_every_comment_above_what_it_speaks_of(tmp_path: Path) -> None:
    path = filled(tmp_path)
    before = path.read_text()

    edit(path, scenario.stand_in())

    expected = before.replace("    versions:\n", "    versions:\n" + VERSION)
    assert path.read_text() == expected.replace("\ntenants:\n", "\ntenants:\n" + TENANT)


def test_an_edit_that_would_be_refused_is_not_written(tmp_path: Path) -> None:
    path = filled(tmp_path)
    before = path.read_bytes()

    with pytest.raises(RulesError, match="endpoints"):
        rules_document.edit(path, rules_document.add_version("1.6.0", "no port"))

    assert path.read_bytes() == before


EVENTS = (b"data: one\n\n", b"data: tw", b"o\n\ndata: [DONE]\n\n")


@asynccontextmanager
async def engine() -> AsyncIterator[str]:
    """An engine that streams, and tells two of the headers that it was given."""

    async def answer(request: web.Request) -> web.StreamResponse:
        twice = ",".join(request.headers.getall("x-twice"))
        response = web.StreamResponse(headers={"x-key": request.headers["authorization"], "x-twice": twice})
        await response.prepare(request)
        for event in EVENTS:
            await response.write(event)
        return response

    app = web.Application()
    app.add_routes([web.post("/v1/chat/completions", answer)])
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_the_recorder_passes_everything_on_and_notes_it_without_the_prompt() -> None:
    async with engine() as upstream, recording(upstream) as url, aiohttp.ClientSession() as http:
        record = EngineRecord("1.4.0", f"{url}{RECORD_PATH}")
        body = {"model": MODEL, "priority": 10, "messages": [{"role": "user", "content": "a secret"}]}
        headers = [("authorization", "Bearer engine"), ("x-twice", "1"), ("x-twice", "2")]
        async with http.post(f"{url}/v1/chat/completions", json=body, headers=headers) as response:
            assert await response.read() == b"".join(EVENTS)
            assert (response.headers["x-key"], response.headers["x-twice"]) == ("Bearer engine", "1,2")

        (arrival,) = await record.new(http)
        assert (arrival.version, arrival.number, arrival.path) == ("1.4.0", 1, "/v1/chat/completions")
        assert arrival.header("x-twice") == "1,2"
        assert arrival.body["priority"] == 10
        assert "a secret" not in str(arrival)
        assert await record.new(http) == []
