"""`tenantry check --against`: whom a change moves, against a file and against what a sidecar serves by."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from tenantry import compared as module
from tenantry.adapters.admin import Admin
from tenantry.adapters.bind import Address
from tenantry.adapters.metrics import Metrics
from tenantry.adapters.reload import Reloader
from tenantry.adapters.rules_file import Source
from tenantry.adapters.sidecar import Sidecar
from tenantry.cli import app
from tenantry.core.errors import RulesError, TenantryError
from tenantry.core.rules import parse
from tenantry.core.rules_diff import moved
from tenantry.explained import live_by
from tenantry_testing.documents import JWT, document, secret_files

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def check(*words: str, **changes: object) -> str:
        named = {name.replace("__", "."): value for name, value in changes.items()}
        (tmp_path / "new.yaml").write_text(yaml.safe_dump(document(named)))
        (tmp_path / "old.yaml").write_text(yaml.safe_dump(document()))
        against = () if "--against" in words else ("--against", str(tmp_path / "old.yaml"))
        app(["check", str(tmp_path / "new.yaml"), *against, *words], result_action="return_value")
        return capsys.readouterr().out

    return check


def test_an_equal_document_moves_nobody(run: Run) -> None:
    assert run().splitlines()[-1] == "Nobody is moved."


def test_each_kind_of_change_is_told(run: Run) -> None:
    shown = run(
        tenants__acme__tier="bronze",
        tenants__acme__pins={"chat-8b": "1.5.0"},
        tenants__globex__keys=["sha256:" + "a" * 64],
        tenants__globex__adapters={"embed": "lora"},
        tenants__initech={"closed": True},
        tiers__bronze__quota={"computeUnitsPerMinute": 5},
    ).splitlines()
    text = "\n".join(shown)
    for line in (
        "acme\n    tier: gold -> bronze\n    priority: 0 -> 20\n    quota: none -> 5 a minute\n    model chat",
        "    key sha256:aaaaaaaaaaaa: none -> accepted",
        "    adapter embed: none -> lora",
        "initech\n    access: open -> closed",
        "3 moved: ",
    ):
        assert line in text


def test_tenants_that_only_a_token_names_are_told_by_tier(run: Run) -> None:
    shown = run(identity={"jwt": JWT})
    assert "any other tenant of tier gold (known by a verified token or certificate)\n    access: none -> open" in shown
    assert "any other tenant of tier bronze" in shown


def test_what_is_shown_is_bounded_and_json_is_not(run: Run) -> None:
    many = {f"t{number:03}": {"tier": "gold", "keys": [f"sha256:{number:064x}"]} for number in range(60)}
    shown = run(tenants=document()["tenants"] | many).splitlines()
    assert [f"t{number:03}" in shown for number in (0, 49, 50)] == [True, True, False]
    assert shown[-2] == "... and 10 more; --json lists all"
    assert shown[-1].startswith("60 moved: ")
    found = json.loads(run("--json", tenants=document()["tenants"] | many))
    assert [each["tenant"] for each in found] == list(many)
    assert {"kind": "access", "name": "", "before": "none", "after": "open"} in found[0]["changes"]


def test_a_document_that_is_refused_is_not_compared(run: Run) -> None:
    with pytest.raises(RulesError, match="no tier is called"):
        run(tenants__acme__tier="golf")


def test_json_alone_means_nothing(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(document()))
    with pytest.raises(TenantryError, match="--json needs --against"):
        app(["check", str(tmp_path / "r.yaml"), "--json"], result_action="return_value")


@contextmanager
def sidecar(folder: Path) -> Iterator[str]:
    """A sidecar's admin listener over a document, in a thread of its own; without rollouts."""
    for name, content in secret_files().items():
        (folder / name).write_bytes(content)
    (folder / "live.yaml").write_text(yaml.safe_dump(document({"models.chat-8b.rollout": ...})))
    source = Source(folder / "live.yaml", folder)
    started: list[str] = []
    ready, loop = threading.Event(), asyncio.new_event_loop()

    async def serve() -> None:
        parts, files = source.read()
        made = Sidecar(source.build(parts, files), Metrics())
        admin = Admin(made, Reloader(source, made, None, ""))  # type: ignore[arg-type]
        started.append(str(await admin.start(Address(host="127.0.0.1", port=0), None)))
        ready.set()
        await stopped.wait()
        await admin.stop()

    stopped = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    ready.wait(10)
    try:
        yield started[0]
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join()
        loop.close()


def test_against_what_a_sidecar_serves_by(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "told", lambda *_: {})  # this one has no rollouts; their routes have tests of their own
    with sidecar(tmp_path) as admin:
        words = ("--against", "live", "--admin", admin, "--secrets", str(tmp_path))
        rollout = {"candidate": "1.5.0", "percent": 5}
        shown = run(*words, **{"models__chat-8b__rollout": rollout})
        assert (
            "    model chat-8b: 1.4.0 (stable: 1.4.0 is the stable version of chat-8b) -> "
            "1.4.0 (split: 5 % of its units go to 1.5.0, the rest here)"
        ) in shown
        assert "acme" not in shown.splitlines()  # pinned
        (tmp_path / "admin-token").write_text("x" * 40)
        with pytest.raises(TenantryError, match="does not know the admin token"):
            run(*words)


def test_a_state_that_the_sidecar_tells_counts_on_both_sides() -> None:
    before = parse(document({"models.chat-8b.rollout.percent": 5}))
    statuses = {
        identity: {"readable": True, "scopes": {"fleet": "reverted"}, "percents": {"all": 5}, "beta": ["globex"]}
        for identity in (live_by(before, None).rollouts["chat-8b"].id,)
    }
    after = parse(document({"models.chat-8b.rollout.percent": 50}))
    live = module._coming(before, after, statuses)
    assert live.rollouts["chat-8b"].states
    found = moved(module._side(before, live_by(before, statuses)), module._side(after, live))
    assert list(found) == []  # a reverted candidate gets nothing, whatever the percent
    other = parse(document({"tenants.globex.beta": False, "betaSelfService": True}))
    assert "globex" not in module._coming(before, other, statuses).beta
