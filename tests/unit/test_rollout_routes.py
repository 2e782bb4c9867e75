"""The admin listener's doors: three credentials, each opens its own and no other; and what it says to what is wrong."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
import yaml
from multidict import CIMultiDict
from tenantry.adapters import logs
from tenantry.adapters.admin import Admin
from tenantry.adapters.bind import Address
from tenantry.adapters.reload import Reloader
from tenantry.adapters.rules_file import Source
from tenantry.adapters.sidecar import Sidecar
from tenantry.core.usage import MAX_BATCH, MAX_BATCH_BYTES
from tenantry_testing.documents import KEYS, document, secret_files, snapshot
from tenantry_testing.rollouts import MODEL, SPLIT, House, MemoryStore, outcome, quickly, until

ADMIN, USAGE = (secret_files()[name].decode() for name in ("admin-token", "usage-token"))
OTHER_SECRETS = [secret_files()[name].decode() for name in ("cache-salt", "split")]
SELF_SERVICE = {"tenants.globex.betaSelfService": True, "tenants.acme.betaSelfService": False}
WORD = {"model": MODEL, "action": "revert", "all": True, "who": "ops", "why": "a test"}


class Door:
    """A running admin listener."""

    def __init__(self, house: House, sidecar: Sidecar, url: str, log: io.StringIO) -> None:
        self.house, self.sidecar, self.url, self.log = house, sidecar, url, log

    async def ask(self, method: str, path: str, token: str | None, body: object = None) -> tuple[int, Any]:
        """Ask with a Bearer token; return the status and the decoded answer."""
        sent = CIMultiDict({} if token is None else {"authorization": f"Bearer {token}"})
        return await self.send(method, path, sent, body)

    async def send(self, method: str, path: str, headers: CIMultiDict[str], body: object = None) -> tuple[int, Any]:
        data = None if body is None else io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
        async with (
            aiohttp.ClientSession() as http,
            http.request(method, self.url + path, data=data, headers=headers) as response,
        ):
            text = await response.text()
            for secret in (ADMIN, USAGE, *OTHER_SECRETS, *KEYS.values()):
                assert secret not in text + self.log.getvalue()
            return response.status, json.loads(text)


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    logs.configure(stream)
    yield stream
    structlog.reset_defaults()


@asynccontextmanager
async def opened(folder: Path, log: io.StringIO, store: MemoryStore) -> AsyncIterator[Door]:
    house = House(local=store)
    made = snapshot({**SPLIT, **SELF_SERVICE})
    sidecar = Sidecar(made, house.metrics, rollouts=house.rollouts)
    (folder / "rules.yaml").write_text(yaml.safe_dump(document()))
    reloader = Reloader(Source(folder / "rules.yaml", folder), sidecar, None, "")  # type: ignore[arg-type]
    admin = Admin(sidecar, reloader)
    address = await admin.start(Address(host="127.0.0.1", port=0), None)
    try:
        async with house.running():
            yield Door(house, sidecar, f"http://{address}", log)
    finally:
        await admin.stop()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def door(
    tmp_path: Path, log: io.StringIO, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Door]:
    quickly(monkeypatch)
    async with opened(tmp_path, log, store) as made:
        yield made


# --- who may what ------------------------------------------------------------------------------------------------

DOORS: dict[str, list[tuple[str, str, object]]] = {
    "admin": [
        ("GET", "/rules", None),
        ("GET", "/rules/document", None),
        ("GET", "/rollouts", None),
        ("POST", "/rollouts", WORD),
        ("GET", f"/rollouts/history?model={MODEL}", None),
    ],
    "usage": [("POST", "/usage", {"records": []})],
    "tenant": [("GET", "/beta", None), ("PUT", "/beta", {"beta": True})],
}
TOKENS = {"admin": ADMIN, "usage": USAGE, "tenant": KEYS["globex"]}


@pytest.mark.parametrize("bearer", [*TOKENS, "split", "cache-salt", "nobody", "nothing", "empty"])
async def test_each_credential_opens_its_own_doors_and_no_other(door: Door, bearer: str) -> None:
    token = {
        **TOKENS, "split": OTHER_SECRETS[1], "cache-salt": OTHER_SECRETS[0], "nobody": KEYS["nobody"], "nothing": None,
        "empty": "",
    }[bearer]  # fmt: skip
    for owner, requests in DOORS.items():
        for method, path, body in requests:
            status, answer = await door.ask(method, path, token, body)
            assert status == (200 if owner == bearer else 401), (owner, path, answer)
            assert (status == 200) or set(answer) == {"error"}
    if bearer != "admin":
        assert door.house.states == {}
    if bearer != "tenant":
        assert door.house.rollouts.live.beta == {}


@pytest.mark.parametrize(
    "values",
    [
        (f"Bearer {ADMIN}", f"Bearer {ADMIN}"),
        (ADMIN,),
        (f"Basic {ADMIN}",),
        (f"Bearer {ADMIN[:-1]}",),
        (f"Bearer {ADMIN}x",),
        ("Bearer",),
        ("Bearer ü",),
    ],
)
async def test_what_is_not_one_bearer_token_opens_nothing(door: Door, values: tuple[str, ...]) -> None:
    headers: CIMultiDict[str] = CIMultiDict([("authorization", value) for value in values])
    assert (await door.send("GET", "/rollouts", headers))[0] == 401


async def test_what_is_not_secret_asks_for_no_credential(door: Door) -> None:
    async with aiohttp.ClientSession() as http:
        for path in ("/healthz", "/metrics"):
            async with http.get(door.url + path) as response:
                assert response.status == 200
        async with http.get(door.url + "/metrics") as response:
            text = await response.text()
    assert f'tenantry_rollout_state{{candidate="1.5.0",model="{MODEL}",state="splitting"}} 1.0' in text


async def test_a_process_without_rollouts_says_so(tmp_path: Path, log: io.StringIO) -> None:
    sidecar = Sidecar(snapshot(), House().metrics)
    admin = Admin(sidecar, None)  # type: ignore[arg-type]
    address = await admin.start(Address(host="127.0.0.1", port=0), None)
    door = Door(House(), sidecar, f"http://{address}", log)
    assert (await door.ask("GET", "/rollouts", None))[0] == 401
    assert await door.ask("GET", "/rollouts", ADMIN) == (404, {"error": "this process has no rollouts"})
    await admin.stop()


# --- an operator's word ------------------------------------------------------------------------------------------


async def test_a_word_is_done_and_answered_with_what_followed(door: Door) -> None:
    status, answer = await door.ask("POST", "/rollouts", ADMIN, {**WORD, "all": False, "tenant": "acme"})
    assert status == 200
    (entry,) = answer["entries"]
    assert (entry["scope"], entry["before"], entry["after"], entry["who"], entry["why"]) == (
        "tenant:acme", "splitting", "reverted", "ops", "a test",
    )  # fmt: skip
    assert answer["status"]["scopes"] == {"tenant:acme": "reverted"}
    assert door.house.states == {"tenant:acme": "reverted"}
    assert (await door.ask("POST", "/rollouts", ADMIN, {**WORD, "all": False, "tenant": "acme"}))[1]["entries"] == []
    assert (await door.ask("GET", f"/rollouts/history?model={MODEL}", ADMIN)) == (200, [entry])
    (listed,) = (await door.ask("GET", "/rollouts", ADMIN))[1]
    assert (await door.ask("GET", f"/rollouts?model={MODEL}", ADMIN))[1] == [listed] == [answer["status"]]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "Input data was truncated"),
        (b"{", "Input data was truncated"),
        (b"\xff", "JSON is malformed"),
        ([], "Expected `object`"),
        ({}, "missing required field `model`"),
        ({**WORD, "action": "explode"}, "`$.action`"),
        ({**WORD, "why": ""}, "length >= 1 - at `$.why`"),
        ({**WORD, "why": "x" * 501}, "length <= 500 - at `$.why`"),
        ({**WORD, "who": 7}, "Expected `str`, got `int` - at `$.who`"),
        ({**WORD, "al": True}, "unknown field `al`"),
        ({**WORD, "all": False}, "exactly one of all, tier and tenant"),
        ({**WORD, "tier": "gold"}, "exactly one of all, tier and tenant"),
        ({**WORD, "all": False, "tier": "gold", "tenant": "acme"}, "exactly one of all, tier and tenant"),
        # A name with a space once became part of a history id that no store takes: no line was written after it.
        ({**WORD, "all": False, "tenant": "a b"}, "which no tenant can be called"),
    ],
)
async def test_a_word_that_is_not_understood_does_nothing(door: Door, body: object, message: str) -> None:
    status, answer = await door.ask("POST", "/rollouts", ADMIN, body)
    assert status == 400
    assert message in answer["error"]
    assert door.house.states == {}


@pytest.mark.parametrize(
    ("changed", "status", "message"),
    [
        ({"model": "chat-8"}, 404, 'models.chat-8: no rollout of this model; did you mean "chat-8b"?'),
        ({"model": "a b\n"}, 404, "no rollout of this model"),
        ({"all": False, "tier": "golf"}, 404, 'tiers.golf: no such tier; did you mean "gold"?'),
        ({"all": False, "tenant": "acne"}, 404, 'tenants.acne: no such tenant; did you mean "acme"?'),
        ({"action": "resume"}, 409, "fleet: operator_resume has no place while the rollout is splitting"),
    ],
)
async def test_a_word_that_does_not_fit_does_nothing(
    door: Door, changed: dict[str, object], status: int, message: str
) -> None:
    found, answer = await door.ask("POST", "/rollouts", ADMIN, {**WORD, **changed})
    assert found == status
    assert message in answer["error"]
    assert door.house.states == {}


async def test_a_store_that_is_down_is_503_and_says_what_was_done(door: Door, store: MemoryStore) -> None:
    store.down = True
    status, answer = await door.ask("POST", "/rollouts", ADMIN, {**WORD, "action": "promote"})
    assert (status, answer["error"].partition(":")[0]) == (503, "nothing was done")
    status, answer = await door.ask("POST", "/rollouts", ADMIN, WORD)
    assert (status, answer["error"].partition(":")[0]) == (
        503, "it is done here, but other replicas may not know of it",
    )  # fmt: skip
    assert door.house.states == {"fleet": "reverted"}
    assert (await door.ask("GET", f"/rollouts/history?model={MODEL}", ADMIN))[0] == 503
    assert (await door.ask("GET", "/rollouts", ADMIN))[0] == 200


async def test_a_client_that_goes_away_leaves_no_word_half_done(door: Door, store: MemoryStore) -> None:
    store.hang_s = 0.05
    asking = asyncio.create_task(door.ask("POST", "/rollouts", ADMIN, {**WORD, "action": "pause"}))
    await asyncio.sleep(0.03)
    asking.cancel()
    await until(lambda: door.house.states == {"fleet": "paused"})
    store.hang_s = 0.0
    await until(lambda: store.logs)


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "x", "", "1_0", "٣", "9" * 5000])
async def test_the_limit_of_a_history_is_bounded(door: Door, limit: str) -> None:
    status, answer = await door.ask("GET", f"/rollouts/history?model={MODEL}&limit={limit}", ADMIN)
    assert status == 400
    assert answer["error"].startswith("limit is ")
    assert len(answer["error"]) < 100


async def test_a_history_is_of_a_model_and_no_longer_than_asked(door: Door) -> None:
    for action in ("pause", "resume", "pause"):
        assert (await door.ask("POST", "/rollouts", ADMIN, {**WORD, "action": action}))[0] == 200
    _, entries = await door.ask("GET", f"/rollouts/history?model={MODEL}&limit=2", ADMIN)
    assert [entry["kind"] for entry in entries] == ["resumed", "paused"]
    assert (await door.ask("GET", "/rollouts/history", ADMIN)) == (400, {"error": "name a model: ?model=NAME"})
    assert (await door.ask("GET", "/rollouts/history?model=chat", ADMIN))[0] == 404
    assert (await door.ask("GET", "/rollouts?model=chat", ADMIN))[0] == 404


async def test_a_bug_is_500_and_quotes_nothing(
    door: Door, log: io.StringIO, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("CANARY")

    monkeypatch.setattr(door.house.rollouts, "status", broken)
    assert await door.ask("GET", "/rollouts", ADMIN) == (500, {"error": "internal error; see the log"})
    assert json.loads(log.getvalue().splitlines()[-1])["error"] == "KeyError"
    assert "CANARY" not in log.getvalue() + capsys.readouterr().err


# --- usage records -----------------------------------------------------------------------------------------------


def sent(number: int, **more: object) -> dict[str, object]:
    return {
        "kind": "request", "request_id": f"r{number}", "engine": "e1", "tenant": "acme", "model": MODEL,
        "version": "1.5.0", "ended_s": 1.0, "finish_reason": "stop", **more,
    }  # fmt: skip


def results(door: Door) -> dict[str, float]:
    return {result: door.house.metric("usage_records_total", result=result) or 0 for result in ("accepted", "refused")}


async def test_records_are_taken_counted_and_joined(door: Door) -> None:
    assert await door.ask("POST", "/usage", USAGE, {"records": [sent(1), sent(2)]}) == (200, {"accepted": 2})
    assert await door.ask("POST", "/usage", USAGE, {"records": []}) == (200, {"accepted": 0})
    assert results(door) == {"accepted": 2, "refused": 0}
    door.house.rollouts.outcome(outcome("r1", "acme", "candidate", failed=False))
    await until(lambda: door.house.rollouts.status_of(MODEL).progress.units == 1)
    assert door.house.metric("rollout_observations_total", model=MODEL, kind="split", record="yes") == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"records": [sent(1), sent(2), sent(3, attempt=0)]}, ">= 1 - at `$.records[2].attempt`"),
        ({"records": [sent(1), {}]}, "missing required field `kind` - at `$.records[1]`"),
        ({"records": [sent(1), {"kind": "request"}]}, "missing required field `request_id` - at `$.records[1]`"),
        ({"records": [sent(1, prompt="CANARY")]}, "unknown field `prompt` - at `$.records[0]`"),
        ({"records": [sent(1, request_id="x" * 129)]}, "length <= 128 - at `$.records[0].request_id`"),
        ({"records": [sent(1, schema=2)]}, "`$.records[0].schema`"),
        ({"records": [sent(1, output_tokens="many")]}, "`$.records[0].output_tokens`"),
        ({"records": [sent(0)] * (MAX_BATCH + 1)}, f"length <= {MAX_BATCH} - at `$.records`"),
        ({}, "missing required field `records`"),
        (b'{"records": []}{}', "JSON is malformed"),
        (b"\xff\xfe", "JSON is malformed"),
        (b'{"records": [{"request_id": "\xff"}]}', ""),
        (b'{"records": [' + json.dumps(sent(1, ttft_ms=0)).replace(": 0", ": NaN").encode() + b"]}", "malformed"),
    ],
)
async def test_one_bad_record_refuses_its_batch_and_is_named(door: Door, body: object, message: str) -> None:
    status, answer = await door.ask("POST", "/usage", USAGE, body)
    assert status == 400
    assert message in answer["error"]
    assert "CANARY" not in answer["error"]
    assert results(door) == {"accepted": 0, "refused": 1}


async def test_bodies_are_bounded(door: Door) -> None:
    large = b" " * (MAX_BATCH_BYTES + 1)
    for method, path, token in (
        ("POST", "/usage", USAGE),
        ("POST", "/rollouts", ADMIN),
        ("PUT", "/beta", KEYS["globex"]),
    ):
        status, answer = await door.ask(method, path, token, large)
        assert (status, answer) == (413, {"error": f"the body is larger than {MAX_BATCH_BYTES} bytes"})
    assert results(door) == {"accepted": 0, "refused": 1}


async def test_a_full_batch_fits(door: Door) -> None:
    full = [json.loads(json.dumps(sent(number, request_id=f"{number:0128}"))) for number in range(MAX_BATCH)]
    assert await door.ask("POST", "/usage", USAGE, {"records": full}) == (200, {"accepted": MAX_BATCH})


async def test_a_refused_credential_is_counted(door: Door) -> None:
    assert (await door.ask("POST", "/usage", ADMIN, {"records": [sent(1)]}))[0] == 401
    assert results(door) == {"accepted": 0, "refused": 1}


# --- a tenant's own flag -----------------------------------------------------------------------------------------


async def test_a_tenant_sees_and_sets_its_own_flag(door: Door, store: MemoryStore) -> None:
    key = KEYS["globex"]
    shown = {"tenant": "globex", "beta": True, "may_change": True}
    assert await door.ask("GET", "/beta", key) == (200, shown)
    assert await door.ask("PUT", "/beta", key, {"beta": False}) == (200, {**shown, "beta": False})
    assert await door.ask("GET", "/beta", key) == (200, {**shown, "beta": False})
    assert json.loads(store.documents["beta"]).keys() == {"globex"}
    assert await door.ask("GET", "/beta", KEYS["acme"]) == (
        200, {"tenant": "acme", "beta": False, "may_change": False},
    )  # fmt: skip


async def test_a_tenant_that_may_not_is_told_so(door: Door) -> None:
    status, answer = await door.ask("PUT", "/beta", KEYS["acme"], {"beta": True})
    assert status == 403
    assert "betaSelfService" in answer["error"]
    assert door.house.rollouts.live.beta == {}


@pytest.mark.parametrize("body", [b"", {}, {"beta": "yes"}, {"beta": 1}, {"beta": True, "tenant": "acme"}, [True]])
async def test_a_flag_is_true_or_false_and_says_nothing_of_others(door: Door, body: object) -> None:
    assert (await door.ask("PUT", "/beta", KEYS["globex"], body))[0] == 400
    assert door.house.rollouts.live.beta == {}


async def test_a_key_that_has_expired_or_is_sent_twice_is_401(door: Door) -> None:
    key = KEYS["globex"]
    doubled: CIMultiDict[str] = CIMultiDict([("authorization", f"Bearer {key}"), ("authorization", f"Bearer {key}")])
    assert (await door.send("PUT", "/beta", doubled, {"beta": True}))[0] == 401
    digest = document()["tenants"]["globex"]["keys"][0]
    expired = [{"digest": digest, "notAfter": "2020-01-01T00:00:00Z"}]
    door.sidecar.activate(snapshot({**SPLIT, **SELF_SERVICE, "tenants.globex.keys": expired}))
    assert await door.ask("PUT", "/beta", key, {"beta": True}) == (401, {"error": "The API key has expired."})
    assert door.house.rollouts.live.beta == {}


async def test_what_is_kept_of_a_closed_tenant_is_forgotten(door: Door) -> None:
    """Only of a closed one, and only for the admin token."""
    assert (await door.ask("PUT", "/beta", KEYS["globex"], {"beta": True}))[0] == 200
    assert await door.ask("DELETE", "/tenants/globex", ADMIN) == (
        409, {"error": "the live rules do not close this tenant (tenants.globex.closed: true)"},
    )  # fmt: skip
    door.sidecar.activate(snapshot({**SPLIT, **SELF_SERVICE, "tenants.globex.closed": True}))
    assert (await door.ask("GET", "/beta", KEYS["globex"])) == (
        403, {"error": "This tenant is closed. Ask the platform's operator."},
    )  # fmt: skip
    for token in (USAGE, KEYS["globex"], KEYS["acme"], None):
        assert (await door.ask("DELETE", "/tenants/globex", token))[0] == 401
    assert door.house.rollouts.live.beta == {"globex": True}
    for _ in range(2):
        assert (await door.ask("DELETE", "/tenants/globex", ADMIN))[0] == 200
    assert door.house.rollouts.live.beta == {"globex": False}


async def test_a_store_that_is_down_is_no_business_of_a_tenants(door: Door, store: MemoryStore) -> None:
    store.down = True
    status, answer = await door.ask("PUT", "/beta", KEYS["globex"], {"beta": False})
    assert status == 503
    assert "the store of this test" not in answer["error"]
    assert (await door.ask("GET", "/beta", KEYS["globex"]))[1]["beta"] is False


async def test_stores_that_hang_are_answered_for(
    door: Door, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenantry.adapters.rollout_stores.ANSWER_SECONDS", 0.05)
    store.hang_s = 0.4
    async with asyncio.timeout(0.4):
        for method, path, token, body in (
            ("POST", "/rollouts", ADMIN, WORD), ("PUT", "/beta", KEYS["globex"], {"beta": False}),
        ):  # fmt: skip
            assert (await door.ask(method, path, token, body))[0] == 503
        assert (await door.ask("GET", "/rollouts", ADMIN))[0] == 200
    assert door.house.states == {"fleet": "reverted"}
    store.hang_s = 0.0
