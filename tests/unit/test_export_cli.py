"""`tenantry ledger export`: what a person sees and decides."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from tenantry.cli import main
from tenantry.core.billing.export_settings import DestinationName
from tenantry_testing.billing_standins import BillingStandIn
from tenantry_testing.exports import NOW, Clock, Direct, EntryList, Rig, settings_for

Say = Callable[..., str]


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Run a command on the ledger; return what it prints."""

    def run(*arguments: str, db: str | None = f"sqlite:{tmp_path / 'ledger.db'}") -> str:
        monkeypatch.setattr("sys.argv", ["tenantry", "ledger", "export", *arguments, *(("--db", db) if db else ())])
        with contextlib.suppress(SystemExit):
            main()
        told = capsys.readouterr()
        return told.out + told.err

    return run


def export(folder: Path, standin: BillingStandIn, ledger: EntryList, *names: DestinationName) -> None:
    """Let an exporter work for three hours."""

    async def work() -> None:
        clock = Clock(standin.now())
        standin.now = clock
        rig = Rig(folder, settings_for(folder, *names), Direct(standin), clock, ledger=ledger)
        await rig.pass_time(3 * 3_600, *names)
        await rig.exporter.outbox.release()
        await rig.tables.close()

    asyncio.run(work())


def test_events_that_were_refused(tmp_path: Path, say: Say) -> None:
    standin, ledger = BillingStandIn(now=lambda: NOW, refused={"evil"}), EntryList()
    for number in range(5):
        ledger.add(tenant="evil" if number > 2 else "acme")
    export(tmp_path, standin, ledger, "lago")
    assert [row.split() for row in say("status").splitlines()][:2] == [
        ["destination", "pending", "in", "doubt", "oldest", "parked", "done", "discarded"],
        ["lago", "0", "0", "2", "3", "0"],
    ]  # fmt: skip
    shown = say("parked", "lago")
    assert "lago r4\n  evil: 1.500000 compute units of 2026-11-18 11:06:40Z\n" in shown
    assert 'refused: {"external_subscription_id":["subscription_not_found"]}' in shown

    assert "name ids, or --all, and not both" in say("retry", "lago", "--why", "mended")
    assert "name ids, or --all, and not both" in say("retry", "lago", "r4", "--all", "--why", "mended")
    assert 'the event "r9" of lago is not there' in say("retry", "lago", "r9", "--why", "mended")
    assert 'the event "r1" of lago is done, not parked' in say("discard", "lago", "r1", "--why", "spam")
    assert "1 discarded" in say("discard", "lago", "r4", "--why", "spam")
    standin.refused = set()
    assert "1 to be sent anew" in say("retry", "lago", "--all", "--why", "a plan was made", "--who", "ada")
    export(tmp_path, standin, ledger, "lago")
    assert "Nothing is parked." in say("parked")
    assert sorted(standin.counted) == ["r1", "r2", "r3", "r5"]


def test_a_sum_in_doubt_is_shown_beside_what_stripe_should_have(tmp_path: Path, say: Say) -> None:
    standin, ledger = BillingStandIn(now=lambda: NOW), EntryList()
    ledger.add(micro=5_000_000)
    export(tmp_path, standin, ledger, "stripe")
    ledger.add(micro=2_000_000)
    standin.weather = lambda _path: "hang+"
    for _ in range(9):
        export(tmp_path, standin, ledger, "stripe")
    shown = say("parked")
    assert "acme: 2,000 units in the hour of 2026-11-18 11:00:00Z" in shown
    assert "may have been counted: its fate is unknown" in shown
    assert "Stripe's own sum of that hour is 5,000 if it was not counted, 7,000 if it was" in shown
    # Stripe says 7,000: it was counted.
    (event_id,) = (line.split()[1] for line in shown.splitlines() if line.startswith("stripe "))
    assert "1 discarded" in say("discard", "stripe", event_id, "--why", "it is in Stripe's sum")
    assert standin.total == {"cus_acme": 7_000}


def test_a_ledger_that_is_not_there(tmp_path: Path, say: Say) -> None:
    assert "there is none; start `tenantry ledger serve` first" in say("status")
    assert not (tmp_path / "ledger.db").exists()
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE another (x)")
    assert "is no ledger; name the file of" in say("status", db=f"sqlite:{tmp_path / 'other.db'}")
    assert "expected sqlite:PATH" in say("status", db="ledger.db")
    assert "is no postgresql:// URL" in say("status", db="postgresql://h:port/x?nonsense")


def test_settings_are_checked(tmp_path: Path, say: Say) -> None:
    path = tmp_path / "export.yaml"
    head = "version: 1\nsource: prod\n"
    path.write_text(head + 'since: "2026-11-01T00:00:00Z"\nlago: {url: "https://l.example", code: c}\n')
    assert "good; exports to lago what ended at 2026-11-01T00:00:00Z or later" in say("check", str(path), db=None)
    path.write_text(head + "since: 2026-11-01T00:00:00Z\nlago: {url: here}\n")
    said = say("check", str(path), db=None)
    assert "error: since: expected `str`" in said
    assert "error: lago.code: missing" in said
    assert "error: lago.url: " in said
