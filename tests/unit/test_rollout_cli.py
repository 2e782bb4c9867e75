"""`tenantry rollout` and `tenantry explain` as a shell runs them, against a real admin listener."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml
from aiohttp import web
from tenantry import cli, rollout_cli
from tenantry.adapters.admin import Admin
from tenantry.adapters.bind import Address
from tenantry.adapters.ports import free_port
from tenantry.adapters.sidecar import Sidecar
from tenantry.core.identity import Presented, authenticate
from tenantry.core.session import Snapshot
from tenantry.core.split import throw
from tenantry_testing.documents import KEYS, NOW, document, keyring, secret_files
from tenantry_testing.rollouts import MODEL, SPLIT, House, MemoryStore, quickly, rollout_of, until

Result = TypeVar("Result")
Run = Callable[..., tuple[int, str, str]]


class Elsewhere:
    """An event loop in a thread of its own, as the command line runs one itself."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def do(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def end(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    made = Elsewhere()
    yield made
    made.end()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `tenantry` with arguments; return its exit code, what it printed, and its errors."""

    def tenantry(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr("sys.argv", ["tenantry", *arguments])
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return tenantry


class Desk:
    """A sidecar's admin listener elsewhere, and the command line pointed at it."""

    def __init__(self, elsewhere: Elsewhere, folder: Path, run: Run) -> None:
        self.elsewhere, self._run, self.store = elsewhere, run, MemoryStore()
        self.secrets = folder / "secrets"
        self.secrets.mkdir()
        for name, content in secret_files().items():
            (self.secrets / name).write_bytes(content)
        self.rules = folder / "rules.yaml"
        self.write()
        self.house = House(local=self.store)
        elsewhere.do(self._open())

    def write(self, changes: dict[str, object] | None = None) -> None:
        self.rules.write_text(yaml.safe_dump(document({**SPLIT, **(changes or {})})))

    async def _open(self) -> None:
        self.book = self.house.rules()
        sidecar = Sidecar(Snapshot(book=self.book, keyring=keyring()), self.house.metrics, rollouts=self.house.rollouts)
        self._admin = Admin(sidecar, None)  # type: ignore[arg-type]
        self.address = str(await self._admin.start(Address(host="127.0.0.1", port=0), None))
        self._running = self.house.running()
        await self._running.__aenter__()

    async def _close(self) -> None:
        await self._running.__aexit__(None, None, None)
        await self._admin.stop()

    def close(self) -> None:
        self.elsewhere.do(self._close())

    def __call__(self, *arguments: str, admin: str | None = None, secrets: Path | None = None) -> tuple[int, str, str]:
        return self._run(*arguments, "--admin", admin or self.address, "--secrets", str(secrets or self.secrets))

    def traffic(self, units: int, *, bad: bool = True) -> None:
        async def send() -> None:
            before = self.house.rollouts.status_of(MODEL).progress.all_units
            self.house.send(units, bad=bad)
            await until(lambda: self.house.rollouts.status_of(MODEL).progress.all_units == before + units)

        self.elsewhere.do(send())


@pytest.fixture
def desk(elsewhere: Elsewhere, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    quickly(monkeypatch)
    made = Desk(elsewhere, tmp_path, run)
    yield made
    made.close()


# --- rollout -----------------------------------------------------------------------------------------------------


def test_status_is_a_line_for_each_rollout_and_what_to_look_at(desk: Desk) -> None:
    desk.traffic(20, bad=False)
    code, out, _ = desk("rollout", "status")
    heading, line, *notes = out.splitlines()
    assert code == 0
    assert heading.split() == [
        "model", "candidate", "stable", "state", "percent", "realised", "units", "mirror", "pairs", "suspicion",
    ]  # fmt: skip
    assert line.split()[:10] == [MODEL, "1.5.0", "1.4.0", "splitting", "50", "%", "50.00%", "10", "0", "%"]
    assert [note.strip() for note in notes] == ["beta: globex"]
    assert desk("rollout", "status", MODEL)[1] == out


def test_each_word_is_said_done_and_shown(desk: Desk) -> None:
    said = [("pause", "splitting -> paused"), ("promote", "paused -> promoted"), ("revert", "promoted -> reverted"),
            ("resume", "reverted -> splitting")]  # fmt: skip
    for word, moved in said:
        code, out, err = desk("rollout", word, MODEL, "--all", "--why", f"to {word}", "--who", "me")
        assert (code, err) == (0, "")
        assert f"chat-8b 1.5.0  fleet: {moved}" in out
        assert f"    to {word}\n" in out
    for whom in (("--tier", "gold"), ("--tenant", "acme")):
        assert (
            f"{whom[0][2:]}:{whom[1]}: splitting -> paused" in desk("rollout", "pause", MODEL, *whom, "--why", "x")[1]
        )
    assert "it was so already" in desk("rollout", "pause", MODEL, "--tier", "gold", "--why", "x")[1]
    code, out, _ = desk("rollout", "history", MODEL)
    assert [line.rpartition("(")[2] for line in out.splitlines()[:8:2]] == [
        "paused, me)", "promoted, me)", "reverted, me)", "resumed, me)",
    ]  # fmt: skip
    assert len(desk("rollout", "history", MODEL, "--limit", "2")[1].splitlines()) == 4
    notes = desk("rollout", "status")[1]
    assert "tier:gold: paused" in notes
    assert "tenant:acme: paused" in notes


def test_a_history_of_nothing_says_so(desk: Desk) -> None:
    assert desk("rollout", "history", MODEL)[:2] == (0, "Nothing has happened to this rollout yet.\n")


def test_words_are_shown_as_they_were_said(desk: Desk) -> None:
    """What looks like rich's markup is none: `[/]` once ended the command with a traceback."""
    said = "[/red] :smile: [bold]x"
    code, out, err = desk("rollout", "pause", MODEL, "--all", "--why", said, "--who", said)
    assert (code, err) == (0, "")
    assert out.count(said) == 2


def test_explain_shows_the_evidence_and_its_course(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.traffic(6)
    desk.house.now_s += 10
    desk.traffic(54)
    desk.house.now_s += 60
    code, out, _ = desk("rollout", "explain", MODEL)
    assert code == 0
    assert out.startswith("chat-8b: candidate 1.5.0 against stable 1.4.0, reverted\n")
    (row,) = [line for line in out.splitlines() if line.startswith("all") and "errors" in line.split()]
    assert row.split()[:4] == ["all", "errors", "1", row.split()[3]]
    assert "█" * 20 in row
    assert "over the last" in out
    (course,) = [line for line in out.splitlines() if line.startswith("  errors ")]
    assert course.endswith("█")
    of_acme = desk("rollout", "explain", MODEL, "--tenant", "acme")[1]
    assert "over the last" not in of_acme
    assert {line.split()[0] for line in of_acme.splitlines() if "errors" in line.split()} == {"acme"}


def test_a_chart_goes_from_nothing_to_a_verdict() -> None:
    course = [{"at_s": 60.0 * minute, "suspicion": {"errors": minute / 8}} for minute in range(-1, 10)]
    heading, line = rollout_cli._chart(course)
    assert heading == "\nover the last 10.0 minutes (full height: a verdict)"
    assert line == f"  {'errors':<16}  ▁▂▃▄▅▆▇██"
    assert list(rollout_cli._chart(course[:1])) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["status", "chat-8"], 'models.chat-8: no rollout of this model; did you mean "chat-8b"?'),
        (["explain", "embed"], "models.embed: no rollout of this model"),
        (["history", MODEL, "--limit", "0"], "limit is '0': 1 to 1000"),
        (["revert", MODEL, "--why", "x"], "name whom: exactly one of --all, --tier NAME and --tenant NAME"),
        (["revert", MODEL, "--all", "--tier", "gold", "--why", "x"], "name whom: exactly one of"),
        (["revert", MODEL, "--tier", "gold", "--tenant", "acme", "--why", "x"], "name whom: exactly one of"),
        (["revert", MODEL, "--tier", "golf", "--why", "x"], 'tiers.golf: no such tier; did you mean "gold"?'),
        (["revert", MODEL, "--tenant", "a b", "--why", "x"], "which no tenant can be called"),
        (["resume", MODEL, "--all", "--why", "x"], "it is splitting already"),
        (["pause", MODEL, "--all", "--why", ""], "`$.why`"),
    ],
)
def test_what_is_wrong_is_said_without_a_trace(desk: Desk, arguments: list[str], message: str) -> None:
    code, out, err = desk("rollout", *arguments)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert message in err
    assert desk.house.states == {}


def test_a_word_needs_a_why(desk: Desk) -> None:
    code, out, err = desk("rollout", "revert", MODEL, "--all")
    assert code == 2
    assert "--why" in out + err
    assert desk.house.states == {}


def test_a_store_that_is_down_is_told(desk: Desk) -> None:
    desk.store.down = True
    code, _, err = desk("rollout", "revert", MODEL, "--all", "--why", "it smokes")
    assert code == 1
    assert err.startswith("error: it is done here, but other replicas may not know of it: ")
    assert desk.house.states == {"fleet": "reverted"}


def test_nobody_there_or_somebody_else(desk: Desk, elsewhere: Elsewhere) -> None:
    port = free_port()
    code, _, err = desk("rollout", "status", admin=f"127.0.0.1:{port}")
    assert (code, err) == (
        1, f"error: no sidecar's admin listener answers at 127.0.0.1:{port} (Connection refused); give --admin\n",
    )  # fmt: skip
    assert "expected unix:/PATH, HOST:PORT" in desk("rollout", "status", admin="here")[2]
    assert "no sidecar's admin listener answers at unix:/n" in desk("rollout", "status", admin="unix:/n")[2]

    async def hello(_: web.Request) -> web.Response:
        return web.Response(text="<html>hello")

    async def stranger() -> tuple[web.AppRunner, str]:
        app = web.Application()
        app.add_routes([web.get("/rollouts", hello)])
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner, f"127.0.0.1:{runner.addresses[0][1]}"

    runner, address = elsewhere.do(stranger())
    assert desk("rollout", "status", admin=address)[2] == (
        f"error: what answers at {address} is no sidecar's admin listener; give --admin\n"
    )
    assert "answered 404" in desk("rollout", "history", MODEL, admin=address)[2]
    elsewhere.do(runner.cleanup())


def test_secrets_that_are_wrong(desk: Desk, tmp_path: Path) -> None:
    other = tmp_path / "other"
    code, _, err = desk("rollout", "status", secrets=other)
    assert (code, err) == (1, f"error: admin token {other}/admin-token: No such file or directory; give --secrets\n")
    other.mkdir()
    for content in (b"\xff\xfe", b"", b"two\nlines"):
        (other / "admin-token").write_bytes(content)
        assert "is no line of text; give --secrets" in desk("rollout", "status", secrets=other)[2]
    (other / "admin-token").write_bytes(b"x" * 32)
    assert desk("rollout", "status", secrets=other)[2] == (
        f"error: {desk.address} does not know the admin token in {other}/admin-token; give --secrets\n"
    )


def test_rules_without_a_rollout(desk: Desk) -> None:
    async def without() -> None:
        desk.house.rules({"models/chat-8b/rollout": ...})

    desk.elsewhere.do(without())
    assert desk("rollout", "status")[1] == "No model of the live rules has a rollout.\n"


# --- explain -----------------------------------------------------------------------------------------------------


def tells(run: Run, desk: Desk, tenant: str, *arguments: str) -> str:
    code, out, err = run(
        "explain", str(desk.rules), "--tenant", tenant, "--model", MODEL, "--secrets", str(desk.secrets), *arguments
    )
    assert (code, err) == (0, "")
    return out


def test_explain_goes_by_the_rules_alone(run: Run, desk: Desk) -> None:
    assert "chat-8b -> 1.4.0\n      because  pin: tenant acme is pinned to 1.4.0" in tells(run, desk, "acme")
    assert "chat-8b -> 1.5.0\n      because  beta: tenant globex has the beta flag" in tells(run, desk, "globex")
    assert "because  split: 50 % of its units go to 1.5.0, the rest here" in tells(run, desk, "initech")


def test_explain_says_which_way_a_unit_and_a_request_go(run: Run, desk: Desk) -> None:
    rollout, key = rollout_of(desk.book.rules), secret_files()["split"]
    for number in range(6):
        for flag, given, unit in (
            ("--unit", f"body.user=u{number}", f"body.user\0u{number}".encode()),
            ("--request-id", f"id{number}", f"request\0id{number}".encode()),
        ):
            bucket = throw(key, rollout, "initech", unit).split
            version = "1.5.0" if bucket < 50 else "1.4.0"
            out = tells(run, desk, "initech", flag, given)
            assert f"chat-8b -> {version}\n" in out
            assert f"bucket {bucket:.2f} of 100" in out
    assert "header.x-user is no sticky source here" in tells(run, desk, "initech", "--unit", "header.x-user=u1")
    code, _, err = run(
        "explain", str(desk.rules), "--tenant", "initech", "--unit", "alice", "--secrets", str(desk.secrets)
    )
    assert (code, err) == (1, "error: --unit alice: SOURCE=VALUE, for example body.user=alice\n")


def test_explain_with_a_sidecar_goes_by_what_is_so(run: Run, desk: Desk) -> None:
    live = ("--admin", desk.address)
    assert "split: 50 %" in tells(run, desk, "initech", *live)
    desk("rollout", "promote", MODEL, "--tier", "bronze", "--why", "x")
    assert "promoted for tier bronze" in tells(run, desk, "initech", *live)
    desk("rollout", "revert", MODEL, "--all", "--why", "x")
    for tenant in ("globex", "initech"):
        assert "the rollout of 1.5.0 is reverted for all" in tells(run, desk, tenant, *live)
    # Rules that the sidecar does not have are another rollout's, of which it can say nothing.
    desk.write({"models/chat-8b/versions/1.5.0/image": "another"})
    assert "cannot be read, so nobody gets it" in tells(run, desk, "initech", *live)


def test_explain_with_a_sidecar_knows_a_tenants_own_flag(run: Run, desk: Desk) -> None:
    flags: dict[str, object] = {"betaSelfService": True}
    desk.write(flags)

    async def say() -> None:
        desk.house.rules(flags)
        for name, beta in (("globex", False), ("initech", True)):
            presented = Presented(authorization=(f"Bearer {KEYS[name]}".encode(),))
            await desk.house.rollouts.set_beta(authenticate(desk.book, presented, NOW), beta=beta)

    desk.elsewhere.do(say())
    live = ("--admin", desk.address)
    assert "split: 50 %" in tells(run, desk, "globex", *live)
    assert "beta: tenant initech has the beta flag" in tells(run, desk, "initech", *live)
    assert "beta: tenant globex has the beta flag" in tells(run, desk, "globex")


# --- help --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["up", "serve"])
def test_help_names_what_there_is(run: Run, command: str) -> None:
    code, out, _ = run(command, "--help")
    text = " ".join(out.replace("│", " ").split())
    assert code == 0
    for said in (
        "/healthz, /readyz, /metrics, /rules, /rollouts, /usage, /quota, /beta",
        "--state",
        "--redis",
        "@FILE",
    ):
        assert said in text


def test_help_of_rollout_names_its_words(run: Run) -> None:
    code, out, _ = run("rollout", "--help")
    assert code == 0
    assert all(word in out for word in ("status", "explain", "history", "revert", "resume", "pause", "promote"))
    assert "--no-all" not in run("rollout", "revert", "--help")[1]


def test_the_secrets_that_are_written_are_the_ones_that_are_named(run: Run, tmp_path: Path) -> None:
    _, out, _ = run("secrets", "new", str(tmp_path / "s"))
    named = run("secrets", "new", "--help")[1]
    for name in sorted(path.name for path in (tmp_path / "s").iterdir()):
        assert name in out
        assert name in named
