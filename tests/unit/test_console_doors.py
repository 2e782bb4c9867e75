"""The console's doors: who may come in, for how long, from which pages, and what goes with every answer."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
import yaml
from aiohttp import web
from msgspec.structs import replace
from tenantry.adapters import logs
from tenantry.adapters.admin import Admin
from tenantry.adapters.bind import Address
from tenantry.adapters.console import doors
from tenantry.adapters.console.document import Sources
from tenantry.adapters.console.page import Console
from tenantry.adapters.console.traffic import Traffic
from tenantry.adapters.console.usage import LedgerUsage
from tenantry.adapters.quotas.accounts import Accounts
from tenantry.adapters.quotas.desk import Quotas
from tenantry.adapters.reload import Reloader
from tenantry.adapters.rules_file import Source
from tenantry.adapters.sidecar import Sidecar
from tenantry.adapters.state import open_state
from tenantry.core.errors import TenantryError
from tenantry_testing.documents import KEYS, document, secret_files, snapshot
from tenantry_testing.rollouts import SPLIT, House

ADMIN, USAGE = (secret_files()[name].decode() for name in ("admin-token", "usage-token"))


class Door:
    """An admin listener with a console; `now_s` is its clock, `log` what it logs."""

    def __init__(self, log: io.StringIO) -> None:
        self.now_s, self.log = 1_000.0, log
        self.url = ""
        self.sidecar: Sidecar | None = None

    async def ask(
        self, path: str = "/console/data", *, method: str = "GET", body: object = None, raw: bytes = b"", **headers: Any
    ) -> tuple[int, Any, aiohttp.ClientResponse]:
        """Ask; `sec_fetch_site` is a header's name. Every answer of the console has its headers, and no secret."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent_body: dict[str, Any] = {"data": raw} if raw else {"json": body}
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http,
            http.request(method, self.url + path, headers=sent, **sent_body) as response,
        ):
            text = await response.text()
            for name, value in doors.HEADERS.items():
                assert response.headers[name] == value
            for secret in (ADMIN, USAGE, *KEYS.values()):
                assert secret not in text + self.log.getvalue()
            return response.status, json.loads(text) if text.startswith("{") else text, response

    async def log_in(self, token: str = ADMIN, **headers: Any) -> tuple[int, Any, aiohttp.ClientResponse]:
        return await self.ask("/console/login", method="POST", body={"token": token}, **{"origin": self.url, **headers})

    async def cookie(self) -> str:
        status, _, response = await self.log_in()
        assert status == 204
        return f"{doors.COOKIE}={response.cookies[doors.COOKIE].value}"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    logs.configure(stream)
    yield stream
    structlog.reset_defaults()


@asynccontextmanager
async def opened(folder: Path, log: io.StringIO, ledger: str | None = None) -> AsyncIterator[Door]:
    door, house = Door(log), House()
    sidecar = Sidecar(snapshot(SPLIT), house.metrics, rollouts=house.rollouts)
    (folder / "rules.yaml").write_text(yaml.safe_dump(document()))
    reloader = Reloader(Source(folder / "rules.yaml", folder), sidecar, None, "")  # type: ignore[arg-type]
    store = open_state(str(folder / "quotas.db"))
    quotas = Quotas(Accounts(store, owner="test", metrics=house.metrics.quotas), house.metrics.quotas)
    usage = None if ledger is None else LedgerUsage(ledger, ADMIN.encode, monotonic=lambda: door.now_s)
    console = Console(
        Sources(
            sidecar=sidecar, reloader=reloader, rollouts=house.rollouts, quotas=quotas, traffic=Traffic(),
            stores=list, usage=usage, monotonic=lambda: door.now_s,
        )
    )  # fmt: skip
    admin = Admin(sidecar, reloader, quotas, console)
    address = await admin.start(Address(host="127.0.0.1", port=0), None)
    door.url, door.sidecar = f"http://{address}", sidecar
    try:
        async with house.running():
            yield door
    finally:
        await admin.stop()
        await console.stop()
        await store.close()


@pytest.fixture
async def door(tmp_path: Path, log: io.StringIO) -> AsyncIterator[Door]:
    async with opened(tmp_path, log) as made:
        yield made


# --- who may look ------------------------------------------------------------------------------------------------


async def test_the_page_itself_is_for_everybody_and_has_nothing_of_the_platform(door: Door) -> None:
    for path, kind in (("", "text/html"), ("/console.css", "text/css"), ("/console.js", "text/javascript")):
        status, text, response = await door.ask(f"/console{path}")
        assert (status, response.content_type) == (200, kind)
        assert "acme" not in text
    _, html, _ = await door.ask("/console")
    assert "://" not in html.replace("http://www.w3.org", "")  # nothing comes from elsewhere
    assert "style=" not in html


async def test_data_are_for_the_admin_token_and_for_no_other(door: Door) -> None:
    for token in (USAGE, KEYS["acme"], "", "wrong", ADMIN[:-1]):
        status, answer, _ = await door.ask(authorization=f"Bearer {token}")
        assert (status, set(answer)) == (401, {"error"})
    assert (await door.ask())[0] == 401
    assert (await door.ask(cookie=f"{doors.COOKIE}={ADMIN}"))[0] == 401, "a cookie holds no token"
    status, shown, _ = await door.ask(authorization=f"Bearer {ADMIN}")
    assert status == 200
    assert [row["name"] for row in shown["tenants"]["rows"]] == ["acme", "globex", "initech"]
    assert shown["usage"]["state"] == "none"


async def test_a_session_begins_with_the_token_and_ends_at_logout_with_time_and_with_a_new_token(door: Door) -> None:
    status, _, response = await door.log_in()
    assert status == 204
    cookie = response.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "Path=/console" in cookie
    assert "Secure" not in cookie, "over plain HTTP a browser would drop it"
    session = f"{doors.COOKIE}={response.cookies[doors.COOKIE].value}"
    assert (await door.ask(cookie=session))[0] == 200
    assert (await door.ask("/console/logout", method="POST", body={}, origin=door.url, cookie=session))[0] == 204
    assert (await door.ask(cookie=session))[0] == 401

    session = await door.cookie()
    door.now_s += doors.SESSION_SECONDS - 1
    assert (await door.ask(cookie=session))[0] == 200
    door.now_s += 1
    assert (await door.ask(cookie=session))[0] == 401

    session = await door.cookie()
    assert door.sidecar is not None
    before = door.sidecar.snapshot
    door.sidecar.snapshot = replace(before, keyring=replace(before.keyring, admin_token=b"n" * 43))
    assert (await door.ask(cookie=session))[0] == 401
    door.sidecar.snapshot = before
    assert (await door.ask(cookie=session))[0] == 401, "the old token does not bring its sessions back"


async def test_sessions_are_bounded_and_the_oldest_makes_room(door: Door) -> None:
    first = await door.cookie()
    second = await door.cookie()
    for _ in range(doors.MAX_SESSIONS - 1):
        await door.cookie()
    assert (await door.ask(cookie=first))[0] == 401
    assert (await door.ask(cookie=second))[0] == 200


async def test_wrong_tokens_are_slowed_down_and_bearers_are_not(door: Door) -> None:
    for _ in range(doors.ATTEMPTS_AT_ONCE):
        assert (await door.log_in("wrong"))[0] == 401
    for token in ("wrong", ADMIN):
        status, answer, response = await door.log_in(token)
        assert status == 429
        assert 1 <= int(response.headers["retry-after"]) <= doors.SECONDS_PER_ATTEMPT + 1
        assert "try again in" in answer["error"]
    assert (await door.ask(authorization=f"Bearer {ADMIN}"))[0] == 200
    door.now_s += doors.SECONDS_PER_ATTEMPT
    assert (await door.log_in())[0] == 204
    assert (await door.log_in())[0] == 204, "right ones cost nothing"
    assert (await door.log_in("wrong"))[0] == 401
    assert (await door.log_in("wrong"))[0] == 429


@pytest.mark.parametrize(
    "raw", [b"", b"null", b"{", b'{"token": 1}', b'{"token": "x", "more": 1}', b"\xff", b"token=x"]
)
async def test_a_login_that_is_not_understood_is_refused(door: Door, raw: bytes) -> None:
    headers: dict[str, Any] = {"origin": door.url, "content_type": "application/json"}
    status, answer, _ = await door.ask("/console/login", method="POST", raw=raw or b" ", **headers)
    assert (status, set(answer)) == (400, {"error"})
    status, _, _ = await door.ask("/console/login", method="POST", raw=b" " * 5_000, **headers)
    assert status == 413


# --- from which pages --------------------------------------------------------------------------------------------


async def test_another_page_can_neither_log_in_nor_out_nor_read(door: Door) -> None:
    for origin in ("http://evil.example", "null", door.url.replace("http:", "https:"), door.url + "0"):
        status, answer, response = await door.log_in(origin=origin)
        assert (status, "another page" in answer["error"]) == (403, True)
        assert "set-cookie" not in response.headers
    form: dict[str, Any] = {"origin": door.url, "content_type": "application/x-www-form-urlencoded"}
    status, answer, _ = await door.ask("/console/login", method="POST", raw=b"token=x", **form)
    assert (status, answer["error"]) == (403, "send JSON")
    session = await door.cookie()
    assert (await door.ask("/console/logout", method="POST", body={}, origin="http://evil.example", cookie=session))[
        0
    ] == 403
    assert (await door.ask(cookie=session, sec_fetch_site="cross-site"))[0] == 401
    assert (await door.ask(cookie=session, sec_fetch_site="same-site"))[0] == 401
    assert (await door.ask(cookie=session, sec_fetch_site="same-origin"))[0] == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8080", 200), ("127.0.0.1", 200), ("10.1.2.3:9300", 200), ("[::1]:9300", 200), ("[::1]", 200),
        ("evil.example", 421), ("evil.example:9300", 421), ("127.0.0.1.evil.example", 421), ("localhost.evil", 421),
        ("", 421), ("@", 421),
    ],
)  # fmt: skip
async def test_a_name_that_was_made_to_lead_here_opens_nothing(door: Door, host: str, status: int) -> None:
    for path in ("/console", "/console/data"):
        assert (await door.ask(path, host=host, authorization=f"Bearer {ADMIN}"))[0] == status


# --- what is answered --------------------------------------------------------------------------------------------


async def test_what_did_not_change_is_not_sent_again(door: Door) -> None:
    bearer: dict[str, Any] = {"authorization": f"Bearer {ADMIN}"}
    _, _, first = await door.ask(**bearer)
    tag = first.headers["etag"]
    door.now_s += 1
    await door.ask(**bearer)  # the history of the rollout is read beside the first answers
    status, text, again = await door.ask(**bearer, if_none_match=tag)
    assert (status, text, again.headers["etag"]) == (304, "", tag)
    status, shown, _ = await door.ask("/console/data?tenants_word=globex", **bearer, if_none_match=tag)
    assert (status, shown["tenants"]["found"], shown["tenants"]["of"]) == (200, 1, 3)
    status, answer, _ = await door.ask("/console/data?what=all", **bearer)
    assert (status, "no parameter is called 'what'" in answer["error"]) == (400, True)
    assert (await door.ask("/console/data?usage_page=x", **bearer))[0] == 400


# --- the ledger --------------------------------------------------------------------------------------------------


class StubLedger:
    """A ledger that answers, refuses, redirects or hangs; `asked` are the tokens and questions that came."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.status, self.hang = 200, asyncio.Event()
        self.hang.set()
        self.body: object = {"tallies": [{"period": "2026-11", "owner": "tenant", "tenant": "acme", "requests": 3}]}

    async def usage(self, request: web.Request) -> web.Response:
        self.asked.append((request.headers["authorization"], dict(request.query)))
        await self.hang.wait()
        return web.json_response(self.body, status=self.status, headers={"location": "http://127.0.0.1:1/"})


@pytest.fixture
async def ledger() -> AsyncIterator[tuple[StubLedger, str]]:
    stub, app = StubLedger(), web.Application()
    app.add_routes([web.get("/usage", stub.usage)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield stub, f"http://127.0.0.1:{runner.addresses[0][1]}"
    stub.hang.set()
    await runner.cleanup()


async def until(door: Door, met: Callable[[Any], bool]) -> Any:
    async with asyncio.timeout(5):
        while not met(usage := (await door.ask(authorization=f"Bearer {ADMIN}"))[1]["usage"]):
            await asyncio.sleep(0.01)
    return usage


async def test_usage_is_asked_once_for_many_and_kept_for_a_while(
    tmp_path: Path, log: io.StringIO, ledger: tuple[StubLedger, str]
) -> None:
    stub, url = ledger
    stub.hang.clear()
    async with opened(tmp_path, log, url) as door:
        for _ in range(5):
            assert (await door.ask(authorization=f"Bearer {ADMIN}"))[1]["usage"]["state"] == "waiting"
        stub.hang.set()
        usage = await until(door, lambda usage: usage["state"] == "ok")
        assert usage["table"]["rows"][0]["requests"] == usage["total"]["requests"] == 3
        assert len(stub.asked) == 1
        assert stub.asked[0][0] == f"Bearer {ADMIN}"
        assert stub.asked[0][1]["group_by"] == "tenant,model"
        door.now_s += 2
        stub.status = 503
        usage = await until(door, lambda usage: usage["state"] == "away")
        assert usage["reason"] == "the ledger answered 503"
        assert usage["total"]["requests"] == 3, "what was heard stays, with its age"
        assert len(stub.asked) == 2


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (401, {}, "the ledger answered 401"),
        (302, {}, "the ledger answered 302"),
        (200, {"tallies": [{"tenant": 1}]}, "what answers is no ledger of this release"),
        (200, {"tallies": ["x" * (17 << 20)]}, "the ledger's answer is larger than 16 MiB"),
    ],
)
async def test_a_ledger_that_does_not_answer_well_is_said_and_the_rest_works(
    tmp_path: Path, log: io.StringIO, ledger: tuple[StubLedger, str], status: int, body: object, reason: str
) -> None:
    stub, url = ledger
    stub.status, stub.body = status, body
    async with opened(tmp_path, log, url) as door:
        usage = await until(door, lambda usage: usage["state"] == "away")
        assert (usage["reason"], usage["table"]) == (reason, None)


async def test_nobody_listens(tmp_path: Path, log: io.StringIO) -> None:
    async with opened(tmp_path, log, "http://127.0.0.1:1") as door:
        usage = await until(door, lambda usage: usage["state"] == "away")
        assert usage["reason"] == "the ledger does not answer: Connection refused"


def test_the_admin_token_goes_to_another_host_over_tls_alone() -> None:
    with pytest.raises(TenantryError, match="https://HOST:PORT, or http of this machine alone"):
        LedgerUsage("http://ledger.example:9400", lambda: b"")
