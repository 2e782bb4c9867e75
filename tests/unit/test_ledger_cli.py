"""`tenantry ledger` as a shell runs it, against a real service."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
import yaml
from dataplane.pki import Authority
from tenantry import cli
from tenantry.adapters.bind import Address, Tls
from tenantry.adapters.ledger.service import LedgerOptions, LedgerRunning, ledger_serving
from tenantry_testing.documents import document, secret_files
from tenantry_testing.ledger_world import book, request

OPERATOR = "spiffe://prod/operator"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `tenantry ledger` with arguments; return its exit code, what it printed, and its errors."""

    def tenantry(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr("sys.argv", ["tenantry", "ledger", *arguments])
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return tenantry


@pytest.fixture
def options(tmp_path: Path) -> LedgerOptions:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for name, content in secret_files().items():
        (secrets / name).write_bytes(content)
    rules = tmp_path / "rules.yaml"
    rules.write_text(yaml.safe_dump(document()))
    listen = Address(host="127.0.0.1", port=0)
    return LedgerOptions(rules=rules, secrets=secrets, db=f"sqlite:{tmp_path / 'ledger.db'}", listen=listen)


@pytest_asyncio.fixture
async def ledger(options: LedgerOptions) -> AsyncIterator[LedgerRunning]:
    async with ledger_serving(options) as running:
        yield running


async def test_periods_are_closed_and_listed(ledger: LedgerRunning, options: LedgerOptions, run: Run) -> None:
    async def shell(*arguments: str) -> tuple[int, str, str]:
        where = ("--ledger", str(ledger.listen), "--token-file", str(options.secrets / "admin-token"))
        return await asyncio.to_thread(run, *arguments, *where)

    assert await shell("periods") == (0, "No period was closed yet.\n", "")
    await book(ledger.service.ledger, [request("r1"), request("r2")])
    ledger.service.now = lambda: 1_800_000_000.0
    assert await shell("close", "2026-10") == (0, "2026-10: closed with 2 records\n", "")
    code, printed, _ = await shell("periods")
    assert (code, printed.split()) == (
        0, ["period", "closed", "records", "2026-10", "2027-01-15", "08:00:00Z", "2"]
    )  # fmt: skip
    code, _, errors = await shell("close", "2026-10")
    assert (code, "2026-10 is closed already; what comes late is booked in 2026-11" in errors) == (1, True)
    code, _, errors = await shell("close", "October")
    assert (code, "'October' is no period" in errors) == (1, True) or "str" in errors


def test_no_ledger_there(run: Run, options: LedgerOptions) -> None:
    code, _, errors = run("periods", "--ledger", "127.0.0.1:1", "--token-file", str(options.secrets / "admin-token"))
    assert (code, errors) == (1, "error: no ledger answers at 127.0.0.1:1 (Connection refused); give --ledger\n")


async def test_periods_of_a_ledger_on_another_host_are_closed_over_mutual_tls(
    options: LedgerOptions, run: Run, tmp_path: Path
) -> None:
    authority = Authority(tmp_path, "ca")
    certificate, key = authority.leaf("server", "127.0.0.1")
    mine = authority.leaf("operator", OPERATOR)
    tls = Tls(certificate=certificate, key=key, client_ca=tmp_path / "ca.pem", allowed_sans=frozenset({OPERATOR}))
    async with ledger_serving(msgspec.structs.replace(options, tls=tls)) as running:
        running.service.now = lambda: 1_800_000_000.0
        where = (
            "--ledger", f"https://{running.listen}", "--token-file", str(options.secrets / "admin-token"),
            "--ledger-ca", str(tmp_path / "ca.pem"), "--ledger-cert", str(mine[0]), "--ledger-key", str(mine[1]),
        )  # fmt: skip
        closed = await asyncio.to_thread(run, "close", "2026-10", *where)
        assert closed == (0, "2026-10: closed with 0 records\n", "")
        code, _, errors = await asyncio.to_thread(run, "periods", *where[:4])
        assert (code, "its certificate does not pass" in errors) == (1, True), errors


def test_a_credential_goes_to_another_host_over_tls_alone(run: Run, options: LedgerOptions) -> None:
    code, _, errors = run("periods", "--ledger", "ledger:9400", "--token-file", str(options.secrets / "admin-token"))
    assert (code, "over TLS alone; give --ledger https://ledger:9400, and" in errors) == (1, True), errors


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (("--db", "nowhere"), "--db: expected sqlite:PATH, postgresql://HOST/NAME, or @FILE with such a URL"),
        (("--db", "@nowhere"), "--db @nowhere: [Errno 2] No such file or directory"),
        (("--listen", "0.0.0.0:9400"), "the ledger would listen on 0.0.0.0:9400, which other hosts can reach"),
        (("--tls-cert", "x"), "mutual TLS needs --tls-cert, --tls-key, --tls-client-ca and --allow-client-san"),
    ],
)
def test_what_it_does_not_start_with(run: Run, options: LedgerOptions, changes: tuple[str, str], reason: str) -> None:
    arguments = {"--secrets": str(options.secrets), "--db": options.db} | {changes[0]: changes[1]}
    code, _, errors = run("serve", str(options.rules), *(word for pair in arguments.items() for word in pair))
    assert (code, reason in errors) == (1, True), errors
